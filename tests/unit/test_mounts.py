"""Mounts as objects, Docker's strings and dicts; and what rootfs="host" brings along."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastctr import hostroot, mount_text, mounts
from fastctr.errors import SpecError
from fastctr.mounts import Bind, File, Mqueue, Symlink, Sysfs, Tmpfs

CSRC = Path(__file__).parents[2] / "csrc"


def test_numbers_are_those_of_the_header():
    text = (CSRC / "fctr.h").read_text()
    kinds = re.search(r"enum fctr_mount_kind \{(.*?)\}", text, re.DOTALL).group(1)
    assert [getattr(mounts, name.strip()[9:]) for name in kinds.split(",")] == list(range(9))
    for name, value in re.findall(r"#define FCTR_MNT_(F_\w+)\s+(\d+)u", text):
        assert getattr(mounts, name, int(value)) == int(value)


def test_bind():
    native = Bind("/etc", "/data/./x//", read_only=True, propagation="rslave", noexec=True).to_native()
    assert native["source"] == "/etc" and native["target"] == "/data/x"
    assert native["attr_set"] == 1 | 2 | 4 | 8 and native["flags"] == mounts.F_RECURSIVE | mounts.F_ATTR_REC
    assert native["propagation"] == 1 << 19 and native["idmap"] is None
    assert Bind("/etc", "/x", idmap=[(0, 100, 5)]).to_native()["idmap"] == [(0, 100, 5)]
    assert Bind("/dev/null", "/x").native["attr_set"] == 2  # a device bound on purpose can be opened
    assert Bind("/etc", "/x") == Bind("/etc", "/x/") and len({Bind("/etc", "/x"), Bind("/etc", "/x")}) == 1


@pytest.mark.parametrize(
    "target",
    [
        "x",
        "",
        "/",
        "//",
        "/a/../b",
        "/..",
        "/proc/1",
        "/proc/cpuinfo",
        "/a\0",
        5,
        "/" + "a" * 256,
        "/a" * 2001,
    ],
)
def test_target_that_cannot_be(target):
    with pytest.raises(SpecError):
        Tmpfs(target)


def test_other_kinds():
    assert Tmpfs("/run", size="64m", mode="755").native["size"] == 64 << 20
    assert File("/x", "ü", mode=0o600).native["data"] == "ü".encode()
    assert Symlink("/x", "../y").native["source"] == "../y"
    assert Sysfs("/sys", read_only=False).native["attr_set"] == 2 | 4 | 8 and Mqueue().target == "/dev/mqueue"
    with pytest.raises(SpecError):
        File("/x", 5)
    with pytest.raises(SpecError):
        Tmpfs("/x", mode="9")
    with pytest.raises(AttributeError):
        Mqueue().kind = 5


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("type=bind,src=/etc,dst=/x", Bind("/etc", "/x")),
        ("type=bind,source=/etc,target=/x,readonly", Bind("/etc", "/x", read_only=True)),
        ("type=bind,source=/etc,destination=/x,ro=false", Bind("/etc", "/x")),
        ("src=/etc,dst=/x,rw", Bind("/etc", "/x")),
        ("type=bind,src=/etc,dst=/x,bind-propagation=shared", Bind("/etc", "/x", propagation="shared")),
        ("type=bind,src=/etc,dst=/x,bind-recursive=disabled", Bind("/etc", "/x", recursive=False)),
        ("type=bind,src=/etc,dst=/x,bind-nonrecursive", Bind("/etc", "/x", recursive=False)),
        ('type=bind,src=/etc,"dst=/x,y"', Bind("/etc", "/x,y")),
        (
            "type=bind,src=/etc,dst=/x,idmap=0:100:1+1:200:1",
            Bind("/etc", "/x", idmap=[(0, 100, 1), (1, 200, 1)]),
        ),
        ("type=tmpfs,dst=/x,tmpfs-size=1m,tmpfs-mode=700", Tmpfs("/x", size="1m", mode=0o700)),
        ("type=mqueue", Mqueue()),
        ("type=sysfs,ro=0", Sysfs(read_only=False)),
    ],
)
def test_mount_option(text, same):
    assert mount_text.mount_list("mounts", [text]) == [same]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "type=bind",
        "type=bind,src=/etc",
        "type=bind,dst=/x",
        "type=nfs,dst=/x",
        "type=bind,src=/nowhere,dst=/x",
        "type=bind,src=/etc,dst=/x,what",
        "type=bind,src=/etc,dst=/x,dst=/y",
        "type=volume,src=data,dst=/x",
        "src=data,dst=/x",
        "type=tmpfs,dst=/x,src=/etc",
        "type=tmpfs,dst=/x,tmpfs-size=lots",
        "type=bind,src=/etc,dst=/x,ro=maybe",
        'type=bind,src=/etc,"dst=/x',
        "type=bind,,src=/etc,dst=/x",
        "type=bind,src=/etc,dst=/x,bind-propagation=x",
    ],
)
def test_no_mount_option(text):
    with pytest.raises(SpecError) as caught:
        mount_text.mount_list("mounts", [text])
    assert caught.value.where == "mounts[0]"


def test_volumes_in_all_forms(tmp_path, monkeypatch):
    same = [Bind("/etc", "/x", read_only=True)]
    assert mount_text.volumes("volumes", ["/etc:/x:ro,z"]) == same
    assert mount_text.volumes("volumes", {"/etc": "/x:ro"}) == same
    assert mount_text.volumes("volumes", {"/etc": {"bind": "/x", "mode": "ro"}}) == same
    assert mount_text.volumes("volumes", "/etc:/x:rslave,noexec") == [
        Bind("/etc", "/x", propagation="rslave", noexec=True)
    ]
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    assert mount_text.volumes("volumes", ["./here:/x"]) == [Bind(tmp_path / "here", "/x")]


@pytest.mark.parametrize(
    "value",
    [
        "/etc",
        "data:/x",
        "/etc:/x:ro:more",
        "/etc:x",
        "/etc:/x:odd",
        "/nowhere:/x",
        5,
        {"/etc": 5},
        {"/etc": {"mode": "ro"}},
        {"/etc": {"bind": "/x", "odd": 1}},
    ],
)
def test_no_volumes(value):
    with pytest.raises(SpecError) as caught:
        mount_text.volumes("volumes", value)
    assert caught.value.field == "volumes"


def test_named_volumes_say_what_to_do():
    with pytest.raises(SpecError, match="named volume"):
        mount_text.volumes("volumes", ["data:/x"])


def test_tmpfs_forms():
    same = [Tmpfs("/run", size="64m", mode=0o1777, noexec=True)]
    assert mount_text.tmpfs("tmpfs", ["/run:size=64m,mode=1777"]) == same
    assert (
        mount_text.tmpfs("tmpfs", {"/run": "size=64m,mode=1777"})
        == same
        == mount_text.tmpfs("tmpfs", "/run:size=64m")
    )
    assert mount_text.tmpfs("tmpfs", ["/run:exec"]) == [Tmpfs("/run")]
    for bad in (["/run:size=x"], ["/run:odd"], ["run"], {"/run": "mode=9"}, 5):
        with pytest.raises(SpecError):
            mount_text.tmpfs("tmpfs", bad)


def test_files():
    assert mount_text.files("files", {"/a": b"x", "/b": ("y", 0o755, 7, 8)}) == [
        File("/a", b"x"),
        File("/b", b"y", 0o755, 7, 8),
    ]
    for bad in ([], {"a": b""}, {"/a": 5}, {"/a": (b"", 9, 9, 9, 9)}, {"/a": ()}):
        with pytest.raises(SpecError) as caught:
            mount_text.files("files", bad)
        assert caught.value.field == "files"


@given(st.text(max_size=30))
def test_text_makes_a_mount_or_a_spec_error(text):
    for parse in (mount_text.mount_list, mount_text.volumes, mount_text.tmpfs):
        try:
            parse("mounts", [text])
        except SpecError as error:
            assert str(error)


@given(
    st.lists(
        st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1).filter(
            str.strip
        ),
        min_size=1,
    )
)
def test_csv_fields_round_trip(fields):
    text = ",".join('"' + field.replace('"', '""') + '"' for field in fields)
    assert mount_text.split_csv("x", text) == fields


# ---- the host's root ----

MOUNTINFO = r"""
1 0 8:1 / / rw - ext4 /dev/sda1 rw
2 1 0:5 / /proc rw - proc proc rw
3 1 8:2 / /srv/a\040b rw shared:3 - xfs /dev/sdb1 rw
4 1 0:9 / /run rw - tmpfs tmpfs rw
5 1 8:3 / /home rw - ext4 /dev/sdc1 rw
6 5 8:4 / /home/deep rw - btrfs /dev/sdd1 rw
7 1 8:5 / /mnt/disk rw - ext4 /dev/sde1 rw
8 1 0:11 / /var/lib/x/merged rw - overlay overlay rw
9 1 8:6 / /data rw - ext4 /dev/sdf1 rw
10 9 8:7 / /data/hidden rw - ext4 /dev/sdg1 rw
11 9 0:12 / /data rw - tmpfs tmpfs rw
12 1 0:13 / /opt/fuse rw - fuse.sshfs x rw
13 1 0:14 / /nfs rw - nfs4 server:/ rw
""".strip()


def test_submounts_of_the_host(tmp_path):
    file = tmp_path / "mountinfo"
    file.write_text(MOUNTINFO)
    assert hostroot.submounts(hostroot.read_mountinfo(str(file))) == [
        "/home",
        "/nfs",
        "/srv/a b",
        "/home/deep",
    ]


def test_own_mountinfo_is_understood():
    entries = hostroot.read_mountinfo()
    assert any(entry.point == "/" for entry in entries)
    assert not any(point.startswith(("/proc", "/sys", "/dev")) for point in hostroot.submounts(entries))


def test_top_entries(tmp_path):
    for name in ("usr", "proc", "lost+found"):
        (tmp_path / name).mkdir()
    (tmp_path / "bin").symlink_to("usr/bin")
    assert hostroot.top_entries(str(tmp_path)) == [("/bin", "usr/bin"), ("/usr", None)]


@given(st.binary(max_size=12).filter(lambda raw: b"\0" not in raw))
def test_unescape_undoes_the_kernels_escapes(raw):
    escaped = b"".join(b"\\%03o" % byte if byte in b" \t\n\\" else bytes([byte]) for byte in raw)
    import os

    assert os.fsencode(hostroot.unescape(os.fsdecode(escaped))) == raw
