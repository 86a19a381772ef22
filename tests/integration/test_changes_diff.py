"""What diff.py says of changes, by upper directory and by comparison, and that docker says the same."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

import fastctr
from changes_support import overlay
from dockerd_support import dockerd  # noqa: F401 a fixture
from fastctr.errors import ImageError
from fastctr.image.archive import save
from fastctr.image.diff import changes, compare
from fastctr.image.layers import Layers
from fastctr.image.store import Store
from image_support import busybox_image, entry, make_layer

pytestmark = pytest.mark.needs_root

SCRIPT = """
set -e
echo more >> /etc/passwd
rm /etc/group
rm -r /gone
rm -r /opt/app; mkdir /opt/app; echo n > /opt/app/new
mkdir -p /fresh/dir; echo f > /fresh/dir/file
chmod 700 /stay
chmod 600 /touched/file
touch -d '2001-02-03 04:05:06' /touched/time
mv /moved/a /moved/b
rm /swap; mkdir /swap; echo s > /swap/file
rm -r /dir-to-file; echo f > /dir-to-file
ln -s /etc/passwd /new-link
mknod /new-pipe p
echo same > /tmp/x; rm /tmp/x
cat /unread > /dev/null
: >> /deep/only/lower
mkdir /deep/tmp; rmdir /deep/tmp
"""


def tree(root):
    for name in ("etc/passwd", "etc/group", "gone/a/b", "opt/app/data", "stay/x", "touched/file", "touched/time",
                 "moved/a", "swap", "dir-to-file/x", "unread", "deep/only/lower"):  # fmt: skip
        path = os.path.join(root, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as file:
            file.write(name)
    os.makedirs(os.path.join(root, "tmp"), exist_ok=True)


@pytest.fixture
def base(fresh_rootfs):
    tree(fresh_rootfs)
    return fresh_rootfs


WANTED = [
    ("C", "/dir-to-file"),
    ("C", "/etc"),
    ("D", "/etc/group"),
    ("C", "/etc/passwd"),
    ("A", "/fresh"),
    ("A", "/fresh/dir"),
    ("A", "/fresh/dir/file"),
    ("D", "/gone"),
    ("C", "/moved"),
    ("D", "/moved/a"),
    ("A", "/moved/b"),
    ("A", "/new-link"),
    ("A", "/new-pipe"),
    ("C", "/opt"),
    ("C", "/opt/app"),
    ("D", "/opt/app/data"),
    ("A", "/opt/app/new"),
    ("C", "/stay"),
    ("C", "/swap"),
    ("A", "/swap/file"),
    ("C", "/touched"),
    ("C", "/touched/file"),
    ("C", "/touched/time"),
]


def test_changes_of_an_upper_directory(base, tmp_path):
    upper = tmp_path / "upper"
    done = fastctr.run(["sh", "-c", SCRIPT], rootfs=[base], upper=str(upper), capture_output=True)
    assert done.returncode == 0, done.stderr
    found = changes([base], upper, exclude=("/dev", "/proc", "/sys"))
    assert found == WANTED


def test_a_running_container_is_compared(base):
    """Its upper directory is out of sight: only the root as it sees it."""
    with fastctr.Container(["sh", "-c", SCRIPT + "\nmkdir /done; exec sleep 60"], rootfs=[base], init=True) as box:
        root = f"/proc/{box.pid}/root"
        for _ in range(500):
            if os.path.isdir(f"{root}/done"):
                break
            subprocess.run(["sleep", "0.01"], check=True)
        fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            found = compare(fd, [base])
        finally:
            os.close(fd)
        box.kill()
    assert [item for item in found if item != ("A", "/done")] == WANTED


def test_two_layers_and_their_whiteouts(tmp_path):
    top, bottom = tmp_path / "top", tmp_path / "bottom"
    for root, names in ((bottom, ("a/one", "a/two", "b/x", "c/x")), (top, ("a/three", "c/y"))):
        for name in names:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text("")
    os.mknod(top / "b", 0o020000)
    os.mknod(top / "a/two", 0o020000)
    os.setxattr(top / "c", "trusted.overlay.opaque", b"y")
    view = Layers([top, bottom])
    assert set(view.names("")) == {"a", "c"} and set(view.names("a")) == {"one", "three"}
    assert set(view.names("c")) == {"y"} and view.names("b") == {} and view.stat("c/x") is None
    with overlay([top, bottom], tmp_path / "upper", tmp_path / "merged") as merged:
        os.unlink(f"{merged}/a/one")
        with open(f"{merged}/b", "w") as file:
            file.write("anew")
        shutil.rmtree(f"{merged}/c")
        compared = compare(merged, [top, bottom])
    wanted = [("C", "/a"), ("D", "/a/one"), ("A", "/b"), ("D", "/c")]
    assert changes([top, bottom], tmp_path / "upper") == wanted
    assert compared == wanted


def test_comparison_without_an_overlay(base, tmp_path):
    """Of a plain copy: what has the same metadata is the same."""
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-a", base, copy], check=True)
    assert compare(copy, [base]) == []
    (copy / "etc/group").unlink()
    (copy / "new").write_text("")
    (copy / "unread").write_text("other")
    (copy / "gone/a/b").chmod(0o600)
    found = compare(copy, [base])
    assert found == [("C", "/etc"), ("D", "/etc/group"), ("C", "/gone"), ("C", "/gone/a"), ("C", "/gone/a/b"),
                     ("A", "/new"), ("C", "/unread")]  # fmt: skip


def test_mounts_are_no_changes(base, tmp_path):
    with overlay([base], tmp_path / "upper", tmp_path / "merged") as merged:
        subprocess.run(["mount", "-t", "tmpfs", "none", f"{merged}/stay"], check=True)
        subprocess.run(["mount", "--bind", f"{base}/unread", f"{merged}/etc/group"], check=True)
        try:
            with open(f"{merged}/stay/inside", "w") as file:
                file.write("x")
            assert compare(merged, [base]) == []
        finally:
            subprocess.run(["umount", f"{merged}/etc/group", f"{merged}/stay"], check=True)


def test_left_out_paths(base, tmp_path):
    with overlay([base], tmp_path / "upper", tmp_path / "merged") as merged:
        for name in ("vol/x", "keep/x"):
            os.makedirs(f"{merged}/{name}")
        os.unlink(f"{merged}/unread")
        assert compare(merged, [base], exclude=["/vol", "/unread"]) == [("A", "/keep"), ("A", "/keep/x")]
    assert changes([base], tmp_path / "upper", exclude=["/vol/", "unread"]) == [("A", "/keep"), ("A", "/keep/x")]


def test_what_is_no_directory_is_said(tmp_path):
    with pytest.raises(ImageError, match="cannot be opened as a directory"):
        changes([tmp_path], tmp_path / "none")
    with pytest.raises(ImageError, match="is not a directory of a layer"):
        changes([tmp_path / "none"], tmp_path)


def test_docker_says_the_same(dockerd, tmp_path):  # noqa: F811
    """The same script in docker, on an image with the same files."""
    source = tmp_path / "tree"
    tree(str(source))
    entries = []
    for folder, dirs, files in os.walk(source):
        for name in sorted(dirs):
            entries.append(entry(os.path.relpath(f"{folder}/{name}", source) + "/"))
        for name in sorted(files):
            path = os.path.join(folder, name)
            with open(path) as file:
                entries.append(entry(os.path.relpath(path, source), file.read()))
    store = Store(str(tmp_path / "store"))
    busybox_image(store, "fctr-diff:1", more=[make_layer(entries)])
    save(store, "fctr-diff:1", tmp_path / "image.tar")
    dockerd("load", "-i", str(tmp_path / "image.tar"))
    try:
        dockerd("run", "--name", "fctr-diff", "--network", "none", "fctr-diff:1", "sh", "-c", SCRIPT)
        told = [tuple(line.split(" ", 1)) for line in dockerd("diff", "fctr-diff").splitlines()]
    finally:
        dockerd.run("rm", "-f", "fctr-diff")
        dockerd.run("rmi", "fctr-diff:1")
    assert sorted(told, key=lambda line: line[1]) == WANTED
