"""Layers of one image in several threads: nobody waits for the one below, and what fails leaves nothing."""

from __future__ import annotations

import os
import threading
import time
from subprocess import PIPE

import pytest
from image_fixtures import available
from image_support import busybox_image, entry, make_layer
from snapshot_support import start

from fastctr.errors import FastctrError, StoreError
from fastctr.image import snapshot
from fastctr.image.snapshot import stack as stacks
from fastctr.image.snapshot.stack import Stack
from fastctr.image.store import Store

pytestmark = pytest.mark.needs_root
COUNT = 6


@pytest.fixture
def store(tmp_path):
    made = Store(str(tmp_path / "store"))
    busybox_image(made, more=[
        make_layer([entry("d/", mode=0o750), entry("d/0", "x")]),
        *(make_layer([entry(f"d/{n}", "x"), entry(f"link{n}", kind="link", link=f"d/{n - 1}")])
          for n in range(1, COUNT)),
    ])  # fmt: skip
    yield made
    made.release_holds()


@pytest.fixture(params=["overlay", "erofs", "vfs"])
def made(request, store):
    return available(store, request.param)


def layers(store):
    return snapshot.layers_of(store.resolve("busybox"))


def go_on():
    pass


def test_what_is_above_does_not_wait(store, made):
    """One thread makes all the upper layers while nobody has begun with the lowest."""
    lowest, *above = layers(store)
    told = []
    with store.lease(), Stack(made, lambda event: told.append((event.action, event.id)), go_on) as stack:
        for each in above:
            assert stack.make(each)
        assert made.list() == [] and ("unpacking", above[0].blob[7:19]) in told
        assert not any(action == "unpacked" for action, _ in told)
        assert stack.make(lowest)
        assert all(made.has(each.chain) for each in [lowest, *above])
        assert [name for action, name in told if action == "unpacked"] == [e.blob[7:19] for e in [lowest, *above]]
        assert not any(stack.make(each) for each in [lowest, *above])
    assert os.listdir(f"{store.root}/tmp") == [] and store.fsck() == []


def test_the_lowest_by_another_process(store):
    """Parked layers are finished when the one below comes from elsewhere, and their claims keep nobody from it."""
    lowest, *above = layers(store)
    made = snapshot.get(store, "overlay")
    code = """
        import sys
        from fastctr.image import snapshot
        from fastctr.image.store import Store
        store = Store(sys.argv[1])
        print("ready", flush=True)
        sys.stdin.readline()
        snapshot.ensure(store, store.resolve("busybox"), "overlay")
        store.release_holds()
        """
    process = start(code, store.root, stdin=PIPE)
    assert process.stdout.readline() == "ready\n"
    with store.lease(), Stack(made, None, go_on) as stack:
        for each in above:
            stack.make(each)
        process.stdin.write("go\n")
        process.stdin.flush()
        until = time.monotonic() + 20
        while not made.has(lowest.chain):
            assert time.monotonic() < until
            time.sleep(0.01)
        assert not stack.make(lowest)
        assert all(made.has(each.chain) for each in above)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert os.listdir(f"{store.root}/tmp") == [] and store.fsck() == []


def test_the_lowest_fails(store, made):
    """What was parked is given up: no directory and no claim is left, and the next one makes all of it."""
    lowest, *above = layers(store)
    path = store.blob_path(lowest.blob)
    whole = open(path, "rb").read()
    with open(path, "wb") as file:
        file.write(whole[: len(whole) // 2])
    with pytest.raises(FastctrError), Stack(made, None, go_on) as stack:
        for each in above:
            stack.make(each)
        stack.make(lowest)
    assert made.list() == [] and os.listdir(f"{store.root}/tmp") == []
    begin = time.monotonic()
    with pytest.raises(FastctrError):
        snapshot.ensure(store, store.resolve("busybox"), made.name)
    assert time.monotonic() - begin < 10  # nobody waits for a layer that will not come
    assert made.list() == [] and os.listdir(f"{store.root}/tmp") == []
    with open(path, "wb") as file:
        file.write(whole)
    assert snapshot.ensure(store, store.resolve("busybox"), made.name)
    assert os.listdir(f"{store.root}/tmp") == [] and store.fsck() == []


def test_the_one_below_never_comes(store, made):
    _, *above = layers(store)
    with pytest.raises(StoreError, match="is missing"), Stack(made, None, go_on) as stack:
        for each in above:
            stack.make(each)
    assert made.list() == [] and os.listdir(f"{store.root}/tmp") == []


def test_only_so_many_are_parked(store, made, monkeypatch):
    """Each has two open files; whoever would be one too many waits, and gives up when told to."""
    monkeypatch.setattr(stacks, "_PARKED", 2)
    lowest, *above = layers(store)
    over = threading.Event()

    def check():
        if over.is_set():
            raise StoreError("the test", "is over")

    def upper(stack, caught):
        try:
            for each in above:
                stack.make(each)
        except StoreError as error:
            caught.append(str(error))

    for give_up in (True, False):
        over.clear()
        caught: list[str] = []
        with Stack(made, None, check) as stack:
            thread = threading.Thread(target=upper, args=(stack, caught))
            thread.start()
            time.sleep(0.3)
            assert thread.is_alive() and len(os.listdir(f"{store.root}/tmp")) == (4 if made.alone else 0)
            if give_up:
                over.set()
                thread.join(10)
                assert caught == ["the test: is over"]
                stack._parked.pop(lowest.chain).close()
                for left in list(stack._parked.values()):
                    left.close()
                stack._parked.clear()
            else:
                stack.make(lowest)
                thread.join(10)
            assert not thread.is_alive()
    assert caught == [] and all(made.has(each.chain) for each in above)
    assert os.listdir(f"{store.root}/tmp") == [] and store.fsck() == []
