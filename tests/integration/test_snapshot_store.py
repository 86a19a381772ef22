"""Snapshotters: an image's layers unpacked into a store, run, mounted, verified and taken away again."""

from __future__ import annotations

import os
import shutil

import pytest
from image_fixtures import available, store  # noqa: F401
from image_support import Image, busybox_image, entry, make_layer
from snapshot_support import MAP, UserFolder
from snapshot_support import run as run_python
from support import lines, run

import fastctr
from fastctr import SpecError
from fastctr.errors import DigestMismatch, ImageError, ImageNotFound, StoreError
from fastctr.image import snapshot
from fastctr.image.store import Store

NAMES = ("overlay", "erofs", "vfs")
MIDDLE = [
    entry("opq/"), entry("opq/old", "1"), entry("gone", "x"), entry("etc/app/conf", "c"),
    entry("shared", "s", mode=0o4755, uid=7, gid=8), entry("only/", mode=0o700, uid=5, gid=6), entry("only/x", "x"),
]  # fmt: skip
TOP = [
    entry("opq/.wh..wh..opq", ""), entry("opq/new", "2"), entry(".wh.gone", ""), entry("only/y", "y"),
    entry("second", kind="link", link="shared"),
]  # fmt: skip
LOOK = ("ls /opq; test -e /gone || echo no; stat -c '%a %u:%g %h' /shared /second; stat -c '%a %u:%g' /only; ls /only; "
        "cat /etc/app/conf; echo")  # fmt: skip
SEEN = ["new", "no", "4755 7:8 2", "4755 7:8 2", "700 5:6", "x", "y", "c"]
pytestmark = pytest.mark.needs_root


@pytest.fixture
def image(store):
    busybox_image(store, more=(make_layer(MIDDLE), make_layer(TOP, "zstd")))
    return store.resolve("busybox")


@pytest.fixture(params=NAMES)
def name(request, store):
    return available(store, request.param).name


@pytest.fixture
def erofs(store):
    return available(store, "erofs")


def test_an_image_runs(store, image, name):
    roots = snapshot.ensure(store, image, name)
    for how in ({}, {"read_only": True}, {"uid_map": MAP}):
        assert lines(LOOK, rootfs=roots, **how) == SEEN, how
    assert lines("echo mine > /opq/mine; rm /only/x; ls /opq /only", rootfs=roots) == ["/only:", "y", "", "/opq:", "mine", "new"]
    assert lines(LOOK, rootfs=roots) == SEEN
    assert os.listdir(f"{store.root}/tmp") == []


def test_what_is_there_is_not_made_again(store, image, name):
    made = snapshot.get(store, name)
    roots = snapshot.ensure(store, image, name)
    before = [os.stat(made.path(chain)).st_ino for chain in image.chain_ids]
    assert snapshot.ensure(store, image, name) == roots
    other = Store(store.root)
    assert snapshot.ensure(other, image, name) == roots
    other.release_holds()
    assert [os.stat(made.path(chain)).st_ino for chain in image.chain_ids] == before
    assert made.list() == sorted(image.chain_ids)
    assert store.fsck() == []


def test_layers_are_shared_by_their_chain(store, image, name):
    made = snapshot.get(store, name)
    snapshot.ensure(store, image, name)
    busybox_image(store, "other", more=(make_layer(MIDDLE), make_layer({"else": "1"})))
    other = store.resolve("other")
    assert other.chain_ids[:2] == image.chain_ids[:2]
    snapshot.ensure(store, other, name)
    assert len(made.list()) == 4


def test_any_order_of_layers(store, image, name):
    """As a pull asks for them: each in a thread of its own, those on top first."""
    import threading

    made = snapshot.get(store, name)
    layers = snapshot.layers_of(image)
    threads = [threading.Thread(target=made.unpack, args=(store, layer)) for layer in reversed(layers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert lines(LOOK, rootfs=made.roots(image.chain_ids)) == SEEN


def test_a_layer_without_the_one_below(store, image, name, monkeypatch):
    monkeypatch.setattr("fastctr.image.snapshot.base.PATIENCE", 0.2)
    with pytest.raises(StoreError, match="is missing"):
        snapshot.get(store, name).unpack(store, snapshot.layers_of(image)[-1])
    assert os.listdir(f"{store.root}/tmp") == []
    assert snapshot.ensure(store, image, name)


def test_figures_and_removal(store, image, name):
    made = snapshot.get(store, name)
    snapshot.ensure(store, image, name)
    size, files = made.usage(image.chain_ids[1])
    assert size > 0
    assert files == 7
    info = made.info(image.chain_ids[1])
    assert (info["chain"], info["parent"]) == (image.chain_ids[1], image.chain_ids[0])
    assert (info["diff_id"], info["blob"]) == (image.diff_ids[1], image.layers[1].digest)
    made.remove(image.chain_ids[2])
    assert not made.has(image.chain_ids[2])
    made.remove(image.chain_ids[2])
    assert lines(LOOK, rootfs=snapshot.ensure(store, image, name)) == SEEN  # unpacked once more


def test_gc_leaves_what_is_held(store, image, name):
    snapshot.ensure(store, image, name)
    store.remove("busybox")
    store.gc()
    made = snapshot.get(store, name)
    assert made.has(image.chain_ids[-1])
    assert lines(LOOK, rootfs=made.roots(image.chain_ids)) == SEEN
    store.release_holds()
    store.gc()
    assert made.list() == []


def test_mounted_for_reading(store, image, name, tmp_path):
    with snapshot.mount(store, image, snapshotter=name) as path:
        assert sorted(os.listdir(f"{path}/opq")) == ["new"]
        assert not os.path.lexists(f"{path}/gone")
        assert os.stat(f"{path}/shared").st_uid == 7
        with pytest.raises(OSError, match="Read-only"):
            open(f"{path}/new", "w")
        (tmp_path / "here").mkdir()
        with snapshot.mount(store, image, str(tmp_path / "here"), name) as other:
            assert other == str(tmp_path / "here")
            assert os.listdir(f"{other}/opq") == ["new"]
            flags = os.statvfs(other).f_flag
            assert flags & os.ST_RDONLY and flags & os.ST_NOSUID and flags & os.ST_NODEV
    assert not os.path.exists(path)
    assert os.listdir(tmp_path / "here") == []
    with pytest.raises(StoreError, match="is not a directory"), snapshot.mount(store, image, str(tmp_path / "none"), name):
        pass


def test_the_mount_of_a_process_that_was_killed(store, image):
    code = """
    import os, signal, sys
    from fastctr.image import snapshot
    from fastctr.image.store import Store
    store = Store(sys.argv[1])
    print(snapshot.mount(store, store.resolve("busybox")).__enter__(), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
    """
    from snapshot_support import start

    out, err = start(code, store.root).communicate(timeout=60)
    path = out.strip()
    assert path, err
    assert os.path.ismount(path)
    store.gc()
    assert not os.path.exists(path)
    assert os.listdir(f"{store.root}/tmp") == []


def test_choosing(store, image, monkeypatch):
    assert snapshot.get(store).name == "overlay"
    monkeypatch.setenv("FASTCTR_SNAPSHOTTER", "vfs")
    assert snapshot.get(store).name == "vfs"
    assert snapshot.ensure(store, image)[0].startswith(f"{store.root}/layers/vfs/")
    monkeypatch.setenv("FASTCTR_SNAPSHOTTER", "btrfs")
    with pytest.raises(SpecError, match="overlay, erofs, vfs"):
        snapshot.get(store)


def test_no_overlay_no_default(store, monkeypatch):
    monkeypatch.setattr("fastctr.image.snapshot.mounted.overlay_works", lambda store: False)
    assert snapshot.get(store).name == "vfs"


def test_what_cannot_be_unpacked(store, image, name):
    made = snapshot.get(store, name)
    busybox_image(store, "wrong", more=(make_layer({"a": "b"}),))
    wrong = store.resolve("wrong")
    foreign = snapshot.layers_of(wrong)[1]
    foreign.media_type = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
    snapshot.ensure(store, image, name)
    with pytest.raises(ImageError, match="may not be passed on"):
        made.unpack(store, foreign)
    other = snapshot.layers_of(wrong)[1]
    other.diff_id = "sha256:" + "1" * 64
    with pytest.raises(DigestMismatch):
        made.unpack(store, other)
    os.unlink(store.blob_path(other.blob))
    with pytest.raises(ImageNotFound, match="pull"):
        snapshot.ensure(store, wrong, name)
    Image([]).put(store, "nothing")
    with pytest.raises(ImageError, match="no layers"):
        snapshot.ensure(store, store.resolve("nothing"), name)
    assert os.listdir(f"{store.root}/tmp") == []


# ---- erofs: verified


def test_an_erofs_image_that_was_changed(store, image, erofs):
    roots = snapshot.ensure(store, image, "erofs")
    path = roots[0].removeprefix("erofs:")
    assert erofs.verify(image.chain_ids[-1], whole=True) is None
    if erofs.info(image.chain_ids[-1])["verity"] is not None:
        with pytest.raises(PermissionError):
            open(path, "r+b")
        return
    with open(path, "r+b") as file:
        file.seek(2000)
        byte = file.read(1)
        file.seek(2000)
        file.write(bytes([byte[0] ^ 1]))
    with pytest.raises(DigestMismatch, match="when it was made"):
        erofs.verify(image.chain_ids[-1])
    with pytest.raises(DigestMismatch):
        type(erofs)(store).roots(image.chain_ids)  # as another process does


def test_an_erofs_image_that_was_moved_is_hashed_once(store, image, erofs, tmp_path):
    roots = snapshot.ensure(store, image, "erofs")
    path, chain = roots[0].removeprefix("erofs:"), image.chain_ids[-1]
    before = erofs.info(chain)
    shutil.copyfile(path, tmp_path / "copy")
    os.replace(tmp_path / "copy", path)
    erofs.verify(chain)
    after = erofs.info(chain)
    assert after["seen"] != before["seen"]
    assert after["sha256"] == before["sha256"]


def test_erofs_keeps_users_homes(store, erofs):
    busybox_image(store, "app", config={"User": "user"})
    roots = snapshot.ensure(store, store.resolve("app"), "erofs")
    assert run(["sh", "-c", "echo $HOME"], rootfs=roots, user="user").stdout == "/tmp\n"


# ---- vfs: copies


def test_a_copy_of_ones_own(store, image):
    made = snapshot.get(store, "vfs")
    roots = snapshot.ensure(store, image, "vfs")
    with made.prepare(image.chain_ids[-1]) as one, made.prepare(image.chain_ids[-1]) as two:
        assert lines(LOOK + "; echo x > /opq/x; rm -r /only", rootfs=one, writable="direct") == SEEN
        assert lines(LOOK, rootfs=two, writable="direct") == SEEN
        assert os.stat(f"{one}/shared").st_ino == os.stat(f"{one}/second").st_ino
    assert not os.path.exists(one)
    assert lines(LOOK, rootfs=roots, read_only=True) == SEEN
    assert os.listdir(f"{store.root}/tmp") == []


def test_the_copy_of_a_process_that_was_killed(store, image):
    code = """
    import os, signal, sys
    from fastctr.image import snapshot
    from fastctr.image.store import Store
    store = Store(sys.argv[1])
    image = store.resolve("busybox")
    snapshot.ensure(store, image, "vfs")
    print(snapshot.get(store, "vfs").prepare(image.chain_ids[-1]).path, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
    """
    from snapshot_support import start

    out, err = start(code, store.root).communicate(timeout=60)
    assert os.path.exists(out.strip()), err
    snapshot.get(store, "vfs").prepare(image.chain_ids[-1]).close()
    assert os.listdir(f"{store.root}/tmp") == []


def test_everything_is_copied(store, tmp_path):
    """Sparse files, attributes, times, devices, links with odd names."""
    from fastctr.image.snapshot.tree import copy_tree
    from image_support import tree

    top = tmp_path / "from"
    (top / "deep/er").mkdir(parents=True)
    with open(top / "sparse", "wb") as file:
        file.truncate(1 << 20)
        file.seek(1 << 19)
        file.write(b"x" * 4096)
    (top / "file").write_bytes(os.urandom(100_000))
    os.chown(top / "file", 3, 4)
    os.chmod(top / "file", 0o6755)
    os.setxattr(top / "file", "user.note", b"n")
    os.setxattr(top / "file", "security.capability", bytes.fromhex("0100000200040000000000000000000000000000"))
    os.link(top / "file", os.fsencode(top) + b"/deep/er/\xff\xfe")
    os.symlink("../nowhere", top / "deep/link")
    os.mknod(top / "null", 0o020666, os.makedev(1, 3))
    os.mkfifo(top / "pipe", 0o600)
    for path in ("sparse", "file", "deep/er", "deep", "null"):
        os.utime(top / path, (1_500_000_000, 1_500_000_000))
    size = copy_tree(str(top), str(tmp_path / "to"))
    assert tree(tmp_path / "to") == tree(top)
    assert os.stat(tmp_path / "to/file").st_nlink == 2
    assert os.stat(tmp_path / "to/sparse").st_blocks <= 32
    assert size == (1 << 20) + 100_000


# ---- as an unprivileged user


AS_USER = """
import os, sys
import fastctr
from fastctr.errors import StoreError
from fastctr.image import snapshot
from fastctr.image.store import Store
from image_support import busybox_image, make_layer
from test_snapshot_store import LOOK, MIDDLE, TOP
store = Store(sys.argv[1])
busybox_image(store, more=(make_layer(MIDDLE, "gzip"), make_layer(TOP, "none")))
image = store.resolve("busybox")
print(snapshot.get(store).name)
for name in ("overlay", "vfs"):
    roots = snapshot.ensure(store, image, name)
    done = fastctr.run(["sh", "-c", LOOK], rootfs=roots, capture_output=True, text=True)
    print(done.stdout.split(chr(10)), done.stderr)
    with snapshot.mount(store, image, snapshotter=name) as path:
        print(path.startswith("/proc/"), os.listdir(path + "/opq"), os.path.exists(path + "/gone"))
    try:
        snapshot.mount(store, image, store.root, name).__enter__()
    except StoreError as error:
        print(error)
try:
    snapshot.get(store, "erofs")
except StoreError as error:
    print(error)
with snapshot.get(store, "vfs").prepare(image.chain_ids[-1]) as own:
    print(fastctr.run(["sh", "-c", "echo x > /x; cat /x"], rootfs=own, writable="direct", capture_output=True, text=True).stdout)
store.release_holds()
print(store.fsck(), os.listdir(store.root + "/tmp"))
"""


@pytest.mark.needs_userns
def test_a_store_of_a_user():
    with UserFolder() as folder:
        out = run_python("import sys; sys.path.append(sys.argv[2])\n" + AS_USER, f"{folder}/store",
                         os.path.dirname(os.path.abspath(__file__)), user=True)
    seen = ["new", "no", "4755 0:0 2", "4755 0:0 2", "700 0:0", "x", "y", "c", ""]
    refused = "cannot be mounted at by an unprivileged user"
    assert out[0] == "overlay"
    assert [out[1].strip(), out[2]] == [str(seen), "True ['new'] False"]
    assert refused in out[3]
    assert [out[4].strip(), out[5]] == [str(seen), "True ['new'] False"]
    assert refused in out[6]
    assert out[7].startswith("erofs: can be mounted by root alone")
    assert out[8:] == ["x", "", "[] []"]


def test_marks_of_somebody_else(store, image, monkeypatch):
    layers = snapshot.layers_of(image)
    made = snapshot.get(store, "overlay")
    monkeypatch.setattr("fastctr.image.snapshot.overlay.needs_userxattr", lambda: True)
    made.unpack(store, layers[0])
    monkeypatch.undo()
    with pytest.raises(StoreError, match="unpacked by an unprivileged user"):
        made.unpack(store, layers[1])


def test_fastctr_is_not_slowed_down(store, image):
    """The second time it costs a look at one directory."""
    import time

    snapshot.ensure(store, image)
    start = time.perf_counter()
    for _ in range(1000):
        snapshot.ensure(store, image)
    assert time.perf_counter() - start < 0.5  # some microseconds each, even on a busy machine
    assert fastctr.run(["true"], rootfs=snapshot.ensure(store, image)).returncode == 0
