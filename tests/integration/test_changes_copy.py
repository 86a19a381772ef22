"""docker cp: its rules for source and target, what is copied of them, and that nothing leads out of a root."""

from __future__ import annotations

import io
import os
import stat
import subprocess
import tarfile

import pytest

import fastctr
from changes_support import CAP_NET_RAW_V2, describe, differences, make_odd_tree
from dockerd_support import dockerd  # noqa: F401 a fixture
from fastctr.errors import FastctrError, ImageError
from fastctr.image.archive import save
from fastctr.image.copy import copy_in, copy_out
from fastctr.image.store import Store
from image_support import busybox_image, entry, make_layer

pytestmark = pytest.mark.needs_root


class Box:
    """A container's root: a directory, and a descriptor of it."""

    def __init__(self, path):
        self.path = path
        self.fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        os.close(self.fd)


@pytest.fixture
def box(tmp_path):
    root = tmp_path / "box"
    (root / "dir/sub").mkdir(parents=True)
    (root / "file").write_text("in the box")
    (root / "dir/inner").write_text("inner")
    (root / "to-dir").symlink_to("dir")
    (root / "to-file").symlink_to("/file")
    (root / "out").symlink_to("/../../../../../../etc")
    with Box(str(root)) as made:
        yield made


@pytest.fixture
def host(tmp_path):
    root = tmp_path / "host"
    (root / "d/below").mkdir(parents=True)
    (root / "f").write_text("from the host")
    (root / "d/x").write_text("x")
    (root / "d/below/y").write_text("y")
    (root / "link").symlink_to("f")
    (root / "dlink").symlink_to("d")
    return root


def listing(root):
    return sorted(os.path.relpath(os.path.join(f, n), root) for f, ds, ns in os.walk(root) for n in ds + ns)


CASES = [
    # source, target, what is there afterwards; None: refused
    ("f", "/new", ["new"]),
    ("f", "/file", ["file"]),
    ("f", "/dir", ["dir/f"]),
    ("f", "/dir/", ["dir/f"]),
    ("f", "/", ["f"]),
    ("f", "relative", ["relative"]),
    ("f", "/dir/../up", ["up"]),
    ("f", "/none/", None),
    ("f", "/none/f", None),
    ("f", "/file/", None),
    ("f", "/file/below", None),
    ("f", "/to-dir", ["dir/f"]),
    ("f", "/to-file", ["file"]),
    ("f", "/to-dir/n", ["dir/n"]),
    ("d", "/new", ["new/x", "new/below/y"]),
    ("d", "/new/", ["new/x", "new/below/y"]),
    ("d", "/dir", ["dir/d/x", "dir/d/below/y"]),
    ("d/", "/dir", ["dir/d/x"]),
    ("d", "/to-dir", ["dir/d/x"]),
    ("d/.", "/dir", ["dir/x", "dir/below/y"]),
    ("d/.", "/new", ["new/x", "new/below/y"]),
    ("d", "/file", None),
    ("d/.", "/file", None),
    ("d", "/none/new", None),
    ("f/", "/dir", None),
    ("none", "/dir", None),
    ("link", "/dir", ["dir/link"]),
    ("dlink", "/dir", ["dir/dlink"]),
    ("dlink/", "/dir", ["dir/dlink/x"]),
]


@pytest.mark.parametrize(("source", "target", "wanted"), CASES)
def test_into_a_container(box, host, source, target, wanted):
    before = listing(box.path)
    if wanted is None:
        with pytest.raises(ImageError):
            copy_in(box.fd, f"{host}/{source}", target)
        assert listing(box.path) == before
        return
    copy_in(box.fd, f"{host}/{source}", target)
    assert set(wanted) <= set(listing(box.path))
    assert not [name for name in listing(box.path) if "/." in name or name.startswith(".")], "nothing left over"


@pytest.mark.parametrize(("source", "target", "wanted"), [case for case in CASES if "to-" not in case[1]])
def test_out_of_a_container(tmp_path, host, source, target, wanted):
    """The same rules the other way: what was the host is the container now."""
    there = tmp_path / "there"
    (there / "dir").mkdir(parents=True)
    (there / "file").write_text("")
    with Box(str(host)) as box:
        if wanted is None:
            with pytest.raises(ImageError):
                copy_out(box.fd, source, f"{there}/{target}")
            return
        copy_out(box.fd, source, f"{there}/{target}")
    assert set(wanted) <= set(listing(there))


def test_links_are_copied_or_followed(box, host):
    copy_in(box.fd, host / "link", "/dir")
    assert os.readlink(f"{box.path}/dir/link") == "f"
    copy_in(box.fd, host / "link", "/followed", follow=True)
    assert not os.path.islink(f"{box.path}/followed") and open(f"{box.path}/followed").read() == "from the host"
    copy_out(box.fd, "/to-file", host / "as-link")
    assert os.readlink(host / "as-link") == "/file"
    copy_out(box.fd, "/to-file", host / "as-file", follow=True)
    assert (host / "as-file").read_text() == "in the box"
    copy_out(box.fd, "/to-dir", host / "as-dir", follow=True)
    assert (host / "as-dir/inner").read_text() == "inner"


def test_nothing_leads_out(box, host, tmp_path):
    secret = tmp_path / "etc"
    secret.mkdir()
    (secret / "passwd").write_text("secret")
    for path in ("/out/passwd", "/../etc/passwd", "/dir/../../../etc/passwd", f"/abs{secret}/passwd"):
        with pytest.raises(ImageError):
            copy_out(box.fd, path, host / "stolen")
    assert not (host / "stolen").exists()
    os.mkdir(f"{box.path}/etc")
    copy_in(box.fd, host / "f", "/out/passwd")
    assert open(f"{box.path}/etc/passwd").read() == "from the host", "a link is as the container sees it"
    assert (secret / "passwd").read_text() == "secret"
    os.symlink("/proc/self/root/etc", f"{box.path}/magic")
    with pytest.raises(ImageError):
        copy_out(box.fd, "/magic/hostname", host / "stolen")
    os.symlink("a", f"{box.path}/b")
    os.symlink("b", f"{box.path}/a")
    with pytest.raises(ImageError, match="circle"):
        copy_out(box.fd, "/a/x", host / "stolen")


def test_a_tree_that_changes_under_the_copy(box, host, tmp_path):
    """Directories swapped for links out while they are copied: nothing of the outside comes along."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    script = f"""
import os, sys
os.chdir({box.path!r})
os.symlink({str(outside)!r}, "dir/evil")
os.mkdir("dir/real")
print(flush=True)
while True:
    for a, b in (("dir/sub", "dir/evil"), ("dir/real", "dir/evil")):
        try:
            os.rename(a, "dir/t"); os.rename(b, a); os.rename("dir/t", b)
            os.rename(a, "dir/t"); os.rename(b, a); os.rename("dir/t", b)
        except OSError:
            pass
"""
    swapper = subprocess.Popen([os.sys.executable, "-c", script], stdout=subprocess.PIPE)
    try:
        swapper.stdout.readline()
        for i in range(60):
            try:
                copy_out(box.fd, "/dir", host / f"copy{i}")
                copy_in(box.fd, host / "f", "/dir/sub/in")
            except FastctrError:
                pass
    finally:
        swapper.kill()
        swapper.wait()
        swapper.stdout.close()
    assert not [name for name in listing(host) if "secret" in name]
    assert os.listdir(outside) == ["secret"]


# ---- owners and what else there is


def test_owners_in(box, host):
    os.chown(host / "f", 1000, 1001)
    copy_in(box.fd, host / "f", "/a")
    copy_in(box.fd, host / "f", "/b", archive=True)
    copy_in(box.fd, host / "f", "/c", owner=(7, 8))
    copy_in(box.fd, host / "f", "/d", uid_map=[(0, 100000, 65536)], gid_map=[(0, 200000, 65536)])
    copy_in(box.fd, host / "f", "/e", archive=True, uid_map=[(0, 100000, 65536)], gid_map=[(0, 200000, 65536)])
    owners = {n: (os.stat(f"{box.path}/{n}").st_uid, os.stat(f"{box.path}/{n}").st_gid) for n in "abcde"}
    assert owners == {"a": (0, 0), "b": (1000, 1001), "c": (7, 8), "d": (100000, 200000), "e": (101000, 201001)}
    os.chown(host / "f", 70000, 0)
    with pytest.raises(ImageError, match="70000"):
        copy_in(box.fd, host / "f", "/f", archive=True, uid_map=[(0, 100000, 65536)], gid_map=[(0, 200000, 65536)])


def test_owners_out(box, host):
    os.chown(f"{box.path}/file", 101000, 100005)
    os.chmod(f"{box.path}/file", 0o6755)
    os.setxattr(f"{box.path}/file", "security.capability", CAP_NET_RAW_V2)
    copy_out(box.fd, "/file", host / "mine")
    info = os.stat(host / "mine")
    assert (info.st_uid, info.st_gid, stat.S_IMODE(info.st_mode)) == (0, 0, 0o755), "no program set-id to me"
    assert not os.listxattr(host / "mine")
    copy_out(box.fd, "/file", host / "same", archive=True)
    info = os.stat(host / "same")
    assert (info.st_uid, info.st_gid, stat.S_IMODE(info.st_mode)) == (101000, 100005, 0o6755)
    assert os.getxattr(host / "same", "security.capability") == CAP_NET_RAW_V2
    copy_out(box.fd, "/file", host / "back", archive=True, uid_map=[(0, 100000, 65536)], gid_map=[(0, 100000, 65536)])
    assert (os.stat(host / "back").st_uid, os.stat(host / "back").st_gid) == (1000, 5)


def test_everything_is_copied(box, tmp_path):
    odd = make_odd_tree(str(tmp_path / "odd"))
    copied = copy_in(box.fd, odd, "/odd", archive=True)
    os.unlink(f"{odd}/socket")
    before = {p: f for p, f in describe(odd).items() if p != "link"}
    after = {p: f for p, f in describe(f"{box.path}/odd").items() if p != "link"}
    assert not differences(before, after)
    assert copied.files == len(before) + 2
    holes = os.stat(f"{box.path}/odd/sparse")
    assert holes.st_blocks * 512 < 1 << 20
    with pytest.raises(ImageError, match="is a device"):
        copy_out(box.fd, "/odd", tmp_path / "without")
    copy_out(box.fd, "/odd", tmp_path / "with", archive=True)
    assert not differences(after, {p: f for p, f in describe(tmp_path / "with").items() if p != "link"})


def test_directories_that_are_there_keep_what_they_have(box, host):
    os.chmod(f"{box.path}/dir", 0o711)
    os.makedirs(host / "dir/sub")
    (host / "dir/sub/more").write_text("more")
    (host / "dir/inner").write_text("other")
    copy_in(box.fd, host / "dir", "/")
    assert stat.S_IMODE(os.stat(f"{box.path}/dir").st_mode) == 0o711
    assert open(f"{box.path}/dir/inner").read() == "other" and os.path.exists(f"{box.path}/dir/sub/more")
    os.makedirs(host / "clash/file")
    with pytest.raises(ImageError, match="cannot be copied over a file"):
        copy_in(box.fd, f"{host}/clash/.", "/")
    (host / "clash2").mkdir()
    (host / "clash2/dir").write_text("")
    with pytest.raises(ImageError, match="cannot be copied over a directory"):
        copy_in(box.fd, f"{host}/clash2/.", "/")


def test_a_mounted_file_is_written_in_place(box, host, tmp_path):
    (tmp_path / "hosts").write_text("long before")
    subprocess.run(["mount", "--bind", tmp_path / "hosts", f"{box.path}/file"], check=True)
    try:
        copy_in(box.fd, host / "f", "/file")
    finally:
        subprocess.run(["umount", f"{box.path}/file"], check=True)
    assert (tmp_path / "hosts").read_text() == "from the host"
    assert "file" in listing(box.path) and not [n for n in listing(box.path) if n.startswith(".file")]


# ---- streams


def test_a_tar_out(box, tmp_path):
    out = io.BytesIO()
    copy_out(box.fd, "/dir", out)
    with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as tar:
        assert tar.getnames() == ["dir", "dir/inner", "dir/sub"]
    for source, wanted in (("/file", ["file"]), ("/dir/.", [".", "./inner", "./sub"]), ("/to-file", ["to-file"])):
        out = io.BytesIO()
        copy_out(box.fd, source, out)
        with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as tar:
            assert tar.getnames() == wanted
    out = io.BytesIO()
    copy_out(box.fd, "/to-file", out, follow=True)
    with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as tar:
        assert tar.extractfile("to-file").read() == b"in the box"


def test_a_tar_in(box, tmp_path):
    data = make_layer([entry("made/", mode=0o750), entry("made/file", "of a tar", uid=5)], "none")
    copy_in(box.fd, io.BytesIO(data), "/to-dir")
    assert open(f"{box.path}/dir/made/file").read() == "of a tar"
    assert os.stat(f"{box.path}/dir/made/file").st_uid == 5
    reader, writer = os.pipe()
    with subprocess.Popen(["gzip", "-c"], stdin=subprocess.PIPE, stdout=writer) as gzip:
        os.close(writer)
        gzip.stdin.write(data)
        gzip.stdin.close()
        with open(reader, "rb") as stream:
            copy_in(box.fd, stream, "/dir/sub")
    assert os.path.exists(f"{box.path}/dir/sub/made/file")
    for target in ("/file", "/none"):
        with pytest.raises(ImageError):
            copy_in(box.fd, io.BytesIO(data), target)
    hostile = make_layer([entry("../../escaped", "x")], "none")
    with pytest.raises(ImageError):
        copy_in(box.fd, io.BytesIO(hostile), "/dir/sub")
    assert "escaped" not in " ".join(listing(tmp_path))


def test_of_a_running_container(rootfs, host):
    """Through /proc/<pid>/root: the container's own mounts and files."""
    argv = ["sh", "-c", "echo inside > /tmp/made; echo > /tmp/ready; sleep 60"]
    with fastctr.Container(argv, rootfs=[rootfs], init=True) as running:
        root = os.open(f"/proc/{running.pid}/root", os.O_RDONLY | os.O_DIRECTORY)
        try:
            for _ in range(500):
                if os.path.exists(f"/proc/{running.pid}/root/tmp/ready"):
                    break
                subprocess.run(["sleep", "0.01"], check=True)
            copy_out(root, "/tmp/made", host / "made")
            copy_in(root, host / "d", "/srv")
            with running.exec(["cat", "/srv/d/below/y"], stdout=subprocess.PIPE) as shown:
                assert shown.communicate()[0] == b"y"
            with pytest.raises(ImageError):
                copy_out(root, "/proc/self/root/etc/shadow", host / "stolen")
            copied = copy_out(root, "/", host / "whole", archive=True)
        finally:
            os.close(root)
        running.kill()
    assert (host / "made").read_text() == "inside\n"
    assert os.listdir(host / "whole/proc") == [] and copied.files > 100


def test_docker_has_the_same_rules(dockerd, tmp_path, host):  # noqa: F811
    """Where docker cp refuses, so do we; what it makes, we make."""
    store = Store(str(tmp_path / "store"))
    layer = make_layer([entry("dir/"), entry("dir/inner", "i"), entry("file", "f"),
                        entry("to-dir", kind="symlink", link="dir"), entry("to-file", kind="symlink", link="/file")])  # fmt: skip
    busybox_image(store, "fctr-copy:1", more=[layer])
    save(store, "fctr-copy:1", tmp_path / "image.tar")
    dockerd("load", "-i", str(tmp_path / "image.tar"))
    refused = [case for case in CASES if case[2] is None]
    taken = [case for case in CASES if case[:2] in (("f", "/to-file"), ("d", "/new"), ("d", "/to-dir"), ("d/.", "/dir"),
                                                    ("link", "/dir"), ("dlink/", "/dir"))]  # fmt: skip
    unlike = []
    try:
        dockerd("create", "--name", "fctr-copy", "fctr-copy:1")
        for source, target, _ in refused:
            if dockerd.run("cp", f"{host}/{source}", f"fctr-copy:{target}").returncode == 0:
                unlike.append((source, target))
        dockerd("rm", "fctr-copy")
        for source, target, wanted in taken:
            dockerd("create", "--name", "fctr-copy", "fctr-copy:1")
            dockerd("cp", f"{host}/{source}", f"fctr-copy:{target}")
            told = {line[3:] for line in dockerd("diff", "fctr-copy").splitlines()}
            dockerd("rm", "fctr-copy")
            if not set(wanted) <= told:
                unlike.append((source, target, told))
    finally:
        dockerd.run("rm", "-f", "fctr-copy")
        dockerd.run("rmi", "-f", "fctr-copy:1")
    assert not unlike
