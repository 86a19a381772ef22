"""Unpacking with real processes: several at once, and killed at any moment."""

from __future__ import annotations

import os
import random
import time

import pytest
from image_fixtures import available
from image_support import busybox_image, entry, make_layer
from snapshot_support import run as run_python
from snapshot_support import start
from support import lines

from fastctr.image import snapshot
from fastctr.image.store import Store

pytestmark = pytest.mark.needs_root
COUNT = 8
LOOK = "ls -d /d/* | wc -l; cat /same; echo; stat -c %a /d"
SEEN = [str(COUNT), f"from {COUNT - 1}", "750"]
UNPACK = """
import sys
from fastctr.image import snapshot
from fastctr.image.store import Store
store = Store(sys.argv[1])
image = store.resolve("busybox")
print("ready", flush=True)
sys.stdin.readline()
print(len(snapshot.ensure(store, image, sys.argv[2])))
store.release_holds()
"""


@pytest.fixture
def store(tmp_path):
    """One with an image of some layers that lean on one another: implied directories, links downwards."""
    made = Store(str(tmp_path / "store"))
    more = [
        make_layer([entry("d/", mode=0o750), entry("d/0", "x" * 50_000), entry("same", "from 0")]),
        *(
            make_layer([
                entry(f"d/{n}", os.urandom(60_000)), entry("same", f"from {n}"),
                entry(f"more/{n}/a/b/c", "x"), entry(f"link{n}", kind="link", link=f"d/{n - 1}"),
            ])
            for n in range(1, COUNT)
        ),
    ]  # fmt: skip
    busybox_image(made, more=more)
    yield made
    made.release_holds()


@pytest.fixture(params=["overlay", "erofs", "vfs"])
def name(request, store):
    return available(store, request.param).name


def check(store, name):
    assert lines(LOOK, rootfs=snapshot.ensure(store, store.resolve("busybox"), name)) == SEEN
    assert store.fsck() == []
    assert os.listdir(f"{store.root}/tmp") == []


def test_several_processes_at_once(store, name):
    from subprocess import PIPE

    many = [start(UNPACK, store.root, name, stdin=PIPE) for _ in range(4)]
    for process in many:
        assert process.stdout.readline() == "ready\n"
    for process in many:
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in many:
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out.strip()) == (0, "1" if name == "vfs" else str(COUNT + 1)), err
    check(store, name)
    assert len(snapshot.get(store, name).list()) == COUNT + 1


def test_killed_at_any_moment(store, name):
    """What is there is whole; what the dead were at is found by the next, and cleared away."""
    from subprocess import PIPE

    image = store.resolve("busybox")
    made = snapshot.get(store, name)
    rng = random.Random(7)
    process = start(UNPACK, store.root, name, stdin=PIPE)
    process.stdout.readline()
    begun = time.monotonic()
    process.communicate("go\n", timeout=60)
    whole = time.monotonic() - begun
    for attempt in range(5):
        if attempt % 2 == 0:
            for chain in reversed(image.chain_ids):
                made.remove(chain)
        process = start(UNPACK, store.root, name, stdin=PIPE)
        process.stdout.readline()
        process.stdin.write("go\n")
        process.stdin.flush()
        time.sleep(rng.uniform(0, whole))
        process.kill()
        process.communicate(timeout=60)
        there = [chain for chain in image.chain_ids if made.has(chain)]
        assert there == image.chain_ids[: len(there)]
        for chain in there:
            assert made.info(chain)["chain"] == chain
    assert lines(LOOK, rootfs=snapshot.ensure(store, image, name)) == SEEN
    store.gc()
    time.sleep(2.1)  # what was made just now might have been about to be locked
    store.gc()
    check(store, name)


def test_a_fork_holds_its_layers_itself(store):
    """The child of a process that has unpacked goes on using the layers when the parent is gone."""
    code = """
    import os, sys, time
    from fastctr.image import snapshot
    from fastctr.image.store import Store
    store = Store(sys.argv[1])
    image = store.resolve("busybox")
    snapshot.ensure(store, image)
    if os.fork():
        os._exit(0)
    snapshot.ensure(store, image)
    print("held", flush=True)
    sys.stdin.readline()
    """
    from subprocess import PIPE

    process = start(code, store.root, stdin=PIPE)
    assert process.stdout.readline() == "held\n"
    image = store.resolve("busybox")
    made = snapshot.get(store)
    store.remove("busybox")
    store.gc()
    assert made.has(image.chain_ids[-1])
    process.communicate("go\n", timeout=60)
    for _ in range(50):
        store.gc()
        if not made.has(image.chain_ids[-1]):
            break
        time.sleep(0.05)
    assert made.list() == []


def test_two_stores_do_not_meddle(store, tmp_path):
    other = Store(str(tmp_path / "other"))
    busybox_image(other)
    one, two = snapshot.ensure(store, store.resolve("busybox")), snapshot.ensure(other, other.resolve("busybox"))
    assert one[-1].startswith(store.root)
    assert two[-1].startswith(other.root)
    other.release_holds()


def test_threads_of_one_process(store):
    out = run_python(
        """
        import sys, threading
        from fastctr.image import snapshot
        from fastctr.image.store import Store
        store = Store(sys.argv[1])
        image = store.resolve("busybox")
        found = []
        many = [threading.Thread(target=lambda: found.append(snapshot.ensure(store, image))) for _ in range(6)]
        for each in many: each.start()
        for each in many: each.join()
        print(len(found), len({tuple(each) for each in found}))
        store.release_holds()
        """,
        store.root,
    )
    assert out == ["6 1"]
    check(store, "overlay")
