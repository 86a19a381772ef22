"""Loading, committing and saving when the disk is full, and killed at any moment: whole or not there."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time

import pytest

from fastctr.errors import StoreError
from fastctr.image import snapshot
from fastctr.image.archive import load, save
from fastctr.image.commit import commit
from fastctr.image.importer import build_rootfs
from fastctr.image.store import Store
from image_support import Image, make_layer

pytestmark = pytest.mark.needs_root


def noise(size):
    return random.Random(size).randbytes(size)


def image(layers=4, size=400_000):
    return Image([make_layer({f"d{n}/f{m}": noise(size // 20 + m) for m in range(20)}, "none") for n in range(layers)])


@contextlib.contextmanager
def small_disk(path, size):
    os.makedirs(path)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", path], check=True)
    try:
        yield str(path)
    finally:
        subprocess.run(["umount", path], check=True)


def grow(path, size):
    subprocess.run(["mount", "-o", f"remount,size={size}", path], check=True)


def test_a_full_disk(tmp_path):
    source = Store(str(tmp_path / "source"))
    made = image().put(source, "full:1")
    save(source, "full:1", tmp_path / "a.tar")
    (tmp_path / "upper").mkdir()
    (tmp_path / "upper/big").write_bytes(noise(4 << 20))
    with small_disk(tmp_path / "disk", "2500k") as disk:
        store = Store(f"{disk}/store")
        for _ in range(2):
            with pytest.raises(StoreError, match="make room"):
                load(store, tmp_path / "a.tar")
            assert store.images() == [] and store.fsck() == []
        with pytest.raises(OSError, match="No space left"):
            save(source, "full:1", f"{disk}/b.tar")
        assert os.listdir(disk) == ["store"]
        store.gc(0)
        grow(disk, "40m")
        (found,) = load(store, tmp_path / "a.tar")
        assert found.id == made.config_digest and store.fsck() == []
        grow(disk, f"{(os.statvfs(disk).f_blocks - os.statvfs(disk).f_bavail) * 4 + 1024}k")
        before = store.refs.list()
        with pytest.raises(StoreError, match="make room"):
            commit(store, found, tmp_path / "upper", "new:1", compression="none")
        with pytest.raises(StoreError, match="make room"):
            build_rootfs(store, tmp_path / "upper", "new:2")
        assert store.refs.list() == before and store.fsck() == [] and os.listdir(f"{store.root}/ingest") == []
        grow(disk, "60m")
        assert len(commit(store, found, tmp_path / "upper", "new:1").layers) == 5
        store.release_holds()


def test_killed_at_any_moment(tmp_path):
    """kill -9 while loading, twenty times: then it loads, and the store is sound."""
    source = Store(str(tmp_path / "source"))
    made = image(6, 2_000_000).put(source, "killed:1")
    save(source, "killed:1", tmp_path / "a.tar")
    root = str(tmp_path / "store")
    began = time.monotonic()
    warm = Store(str(tmp_path / "warm"))
    load(warm, tmp_path / "a.tar")
    warm.release_holds()
    whole = time.monotonic() - began
    dice = random.Random(3)
    for _ in range(20):
        child = os.fork()
        if child == 0:
            try:
                load(Store(root), tmp_path / "a.tar")
            finally:
                os._exit(0)
        time.sleep(dice.random() * whole * 1.1)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    store = Store(root)
    (found,) = load(store, tmp_path / "a.tar")
    store.gc(0)  # and what the dead held is let go of
    assert found.id == made.config_digest and store.fsck() == []
    assert all(snapshot.get(store).has(chain) for chain in found.chain_ids)
    with snapshot.mount(store, found) as path:
        assert sorted(os.listdir(path)) == [f"d{n}" for n in range(6)]
    store.release_holds()
    assert os.listdir(f"{root}/ingest") == [] and os.listdir(f"{root}/leases") == []
