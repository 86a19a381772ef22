"""Layers written by pack.py: what is in them, compared file by file with what they were made of."""

from __future__ import annotations

import io
import os
import shutil
import stat
import subprocess
import tarfile

import pytest

from changes_support import CAP_NET_RAW_V2, describe, differences, make_odd_tree, overlay
from fastctr.errors import ImageError
from fastctr.image.layers import Layers
from fastctr.image.pack import pack_tree, pack_upper
from fastctr.image.unpack import unpack

pytestmark = pytest.mark.needs_root


def packed(function, *args, **options):
    out = io.BytesIO()
    done = function(*args, out.write, **options)
    return out.getvalue(), done


def names(data):
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {m.name: m for m in tar}


def unpacked(data, target, mode="merge"):
    os.makedirs(target, exist_ok=True)
    fd = os.open(target, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return unpack(io.BytesIO(data), fd, mode=mode)
    finally:
        os.close(fd)


@pytest.fixture
def odd(tmp_path):
    return make_odd_tree(str(tmp_path / "odd"))


def test_everything_comes_back_as_it_was(odd, tmp_path):
    data, done = packed(pack_tree, odd)
    assert done.skipped == 1, "the socket"
    assert done.size == len(data)
    unpacked(data, tmp_path / "again")
    os.unlink(os.path.join(odd, "socket"))
    before, after = describe(odd), describe(tmp_path / "again")
    assert not differences(before, after)


@pytest.mark.parametrize("program", ["tar", "bsdtar"])
def test_other_programs_read_it_the_same(odd, tmp_path, program):
    if shutil.which(program) is None:
        pytest.skip(f"needs {program}: install the packages tar and libarchive-tools")
    data, _ = packed(pack_tree, odd)
    (tmp_path / "t.tar").write_bytes(data)
    target = tmp_path / "by-other"
    target.mkdir()
    options = ["--xattrs", "--xattrs-include=*", "--numeric-owner"] if program == "tar" else ["--numeric-owner"]
    subprocess.run([program, "-xpf", tmp_path / "t.tar", "-C", target, *options], check=True, capture_output=True)
    os.unlink(os.path.join(odd, "socket"))
    before, after = describe(odd), describe(target)
    left = differences(before, after)
    if program == "tar":  # which keeps no attributes of links
        left = [line for line in left if not line.startswith("link:")]
    else:  # nor of none, and it is half a second off before 1970
        left = [line for line in left if not line.startswith(("attributes:", "link:", "capable:"))]
    assert not left


def test_the_same_tree_gives_the_same_bytes(odd, tmp_path):
    data, _ = packed(pack_tree, odd)
    os.unlink(os.path.join(odd, "socket"))
    unpacked(data, tmp_path / "copy")
    again, _ = packed(pack_tree, tmp_path / "copy")
    assert data == again


def test_a_fixed_time_and_owner(odd):
    data, _ = packed(pack_tree, odd, mtime=10**9, owner=(5, 6))
    found = names(data)
    assert {m.mtime for m in found.values()} == {1}
    assert {(m.uid, m.gid) for m in found.values()} == {(5, 6)}
    assert all("uid" not in m.pax_headers for m in found.values())


def test_owners_are_shifted_back(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    for name, uid in (("root", 100000), ("user", 101000)):
        (root / name).write_text("")
        os.chown(root / name, uid, uid + 1)
    maps = {"uid_map": [(0, 100000, 65536)], "gid_map": [(0, 100001, 65536)]}
    found = names(packed(pack_tree, root, **maps)[0])
    assert (found["root"].uid, found["root"].gid, found["user"].uid) == (0, 0, 1000)
    os.chown(root / "user", 7, 100001)
    with pytest.raises(ImageError, match="/user: belongs to id 7"):
        packed(pack_tree, root, **maps)


def test_capabilities_of_a_user_namespace_become_plain_ones(tmp_path):
    from fastctr.image.pack_options import plain_caps

    v3 = CAP_NET_RAW_V2[:3] + b"\x03" + CAP_NET_RAW_V2[4:] + (100000).to_bytes(4, "little")
    assert plain_caps(v3, 100000) == CAP_NET_RAW_V2
    assert plain_caps(v3, 0) == v3
    assert plain_caps(CAP_NET_RAW_V2, 0) == CAP_NET_RAW_V2


def test_patterns_leave_out(tmp_path):
    root = tmp_path / "root"
    for name in ("a/b.pyc", "a/keep", "var/cache/x/y", "var/cachet", "cache/z", "top.pyc"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("")
    found = names(packed(pack_tree, root, exclude=["*.pyc", "/var/cache", "cache/*"], exclude_paths=["/a/none"])[0])
    assert set(found) == {"a", "a/keep", "var", "var/cachet", "cache"}


def test_mounts_are_left_out(tmp_path):
    root = tmp_path / "root"
    (root / "mounted").mkdir(parents=True)
    (root / "file").write_text("below")
    (tmp_path / "secret").write_text("of the host")
    subprocess.run(["mount", "-t", "tmpfs", "none", root / "mounted"], check=True)
    subprocess.run(["mount", "--bind", tmp_path / "secret", root / "file"], check=True)
    try:
        (root / "mounted/inside").write_text("x")
        data, _ = packed(pack_tree, root)
    finally:
        subprocess.run(["umount", root / "file", root / "mounted"], check=True)
    found = names(data)
    assert set(found) == {"mounted", "file"}
    assert found["file"].size == 0


# ---- upper directories


@pytest.fixture
def lower(tmp_path):
    root = tmp_path / "lower"
    for name in ("etc/passwd", "etc/group", "opt/app/data", "opt/app/code", "gone/a/b", "stay/x", "swap/inside"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    return root


def change(root):
    """Everything that overlay has a form of its own for."""
    root = str(root)
    with open(f"{root}/etc/passwd", "a") as file:
        file.write("more")
    os.unlink(f"{root}/etc/group")
    shutil.rmtree(f"{root}/gone")
    shutil.rmtree(f"{root}/opt/app")
    os.mkdir(f"{root}/opt/app")  # opaque
    with open(f"{root}/opt/app/new", "w") as file:
        file.write("new")
    os.makedirs(f"{root}/fresh/dir")
    os.chmod(f"{root}/stay", 0o700)
    shutil.rmtree(f"{root}/swap")
    os.symlink("etc", f"{root}/swap")
    with open(f"{root}/fresh/.hidden", "w") as file:
        file.write("h")


def test_an_upper_directory_becomes_a_layer(lower, tmp_path):
    with overlay([lower], tmp_path / "upper", tmp_path / "merged") as merged:
        change(merged)
        wanted = describe(merged)
    data, _ = packed(pack_upper, tmp_path / "upper", lower=Layers([str(lower)]).stat)
    found = names(data)
    assert {n for n in found if ".wh." in n} == {"etc/.wh.group", ".wh.gone", "opt/app/.wh..wh..opq"}
    assert found["etc/.wh.group"].isfile() and found["etc/.wh.group"].size == 0
    assert found["opt"].isdir() and found["stay"].mode == 0o700 and "stay/x" not in found
    base = tmp_path / "again"
    subprocess.run(["cp", "-a", lower, base], check=True)
    unpacked(data, base)
    assert not differences(wanted, describe(base))
    # and as a layer of its own, in overlay's form
    unpacked(data, tmp_path / "layer", "layer")
    with overlay([tmp_path / "layer", lower], tmp_path / "upper2", tmp_path / "merged2") as merged:
        assert not differences(wanted, describe(merged))


def test_a_new_directory_gets_no_mark_if_the_lower_is_known(lower, tmp_path):
    with overlay([lower], tmp_path / "upper", tmp_path / "merged") as merged:
        change(merged)
    with_lower = names(packed(pack_upper, tmp_path / "upper", lower=Layers([str(lower)]).stat)[0])
    without = names(packed(pack_upper, tmp_path / "upper")[0])
    assert "fresh/.wh..wh..opq" not in with_lower
    assert set(without) >= set(with_lower), "at most more marks, which do no harm"


def test_hard_links_and_capabilities_of_an_upper(lower, tmp_path):
    with overlay([lower], tmp_path / "upper", tmp_path / "merged") as merged:
        os.link(f"{merged}/stay/x", f"{merged}/stay/y")
        os.setxattr(f"{merged}/stay/x", "security.capability", CAP_NET_RAW_V2)
    found = names(packed(pack_upper, tmp_path / "upper")[0])
    assert found["stay/y"].islnk() and found["stay/y"].linkname == "stay/x"
    record = found["stay/x"].pax_headers["SCHILY.xattr.security.capability"]
    assert record.encode("utf-8", "surrogateescape") == CAP_NET_RAW_V2
    assert not [k for m in found.values() for k in m.pax_headers if "overlay" in k]


def test_names_that_would_delete_are_refused(tmp_path):
    (tmp_path / "upper/d").mkdir(parents=True)
    (tmp_path / "upper/d/.wh.x").write_text("")
    with pytest.raises(ImageError, match=r"/d/\.wh\.x: has a name that means a deletion"):
        packed(pack_upper, tmp_path / "upper")
    assert "d/.wh.x" in names(packed(pack_tree, tmp_path / "upper")[0]), "an export may have it"


@pytest.mark.parametrize("name", ["trusted.overlay.redirect", "trusted.overlay.metacopy"])
def test_what_only_refers_to_a_lower_layer_is_refused(tmp_path, name):
    (tmp_path / "upper/d").mkdir(parents=True)
    os.setxattr(tmp_path / "upper/d", name, b"/elsewhere")
    with pytest.raises(ImageError, match="refers to a lower layer"):
        packed(pack_upper, tmp_path / "upper")


def test_left_out_paths_of_an_upper(lower, tmp_path):
    with overlay([lower], tmp_path / "upper", tmp_path / "merged") as merged:
        change(merged)
    found = names(packed(pack_upper, tmp_path / "upper", exclude_paths=["/fresh", "/etc/passwd"])[0])
    assert "etc/passwd" not in found and not [n for n in found if n.startswith("fresh")] and "etc/.wh.group" in found


def test_files_that_change_while_they_are_read(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    (root / "a").write_bytes(b"a" * (1 << 20))
    (root / "b").write_bytes(b"b" * (1 << 20))
    out, shrunk = io.BytesIO(), []

    def write(data):
        out.write(data)
        if not shrunk:
            shrunk.append(1)
            os.truncate(root / "b", 1000)
            os.truncate(root / "a", 500)

    pack_tree(root, write)
    with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as tar:
        assert [m.name for m in tar] == ["a", "b"]
        for member in tar:
            assert len(tar.extractfile(member).read()) == member.size


def test_very_deep_trees(tmp_path):
    at = os.open(tmp_path, os.O_RDONLY)
    for _ in range(300):
        os.mkdir("d", dir_fd=at)
        below = os.open("d", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    os.close(at)
    data, done = packed(pack_tree, tmp_path)
    assert done.files == 300
    assert max(len(n) for n in names(data)) == 599
    assert stat.S_ISDIR(os.lstat(tmp_path).st_mode)
