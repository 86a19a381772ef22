"""A pull that is killed: whatever the moment, the next one succeeds and the store is clean."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from fastctr.image.pull import pull
from fastctr.image.store import Store
from image_support import Image, make_layer
from registry_support import ImageServer, assert_whole, private  # noqa: F401

pytestmark = pytest.mark.usefixtures("private")

# Forks a child that pulls and kills it at a random moment, each time into a store that is new once a child
# has come to its end: prints how many were killed, and how many came through.
KILLER = """
import os, random, select, signal, sys, time
from fastctr.image.pull import pull
from fastctr.image.store import Store
from fastctr.image.http import Settings

root, name, unpack, kills = sys.argv[1], sys.argv[2], sys.argv[3] == "unpack", int(sys.argv[4])
rng = random.Random(11)
settings = Settings(read=5, attempts=3, backoff=0.01)
killed = ended = stores = 0
long = 0.0

def clean(store):
    assert all(each.kind == "leftover" for each in store.fsck()), store.fsck()
    store.gc(older_than=0)
    store.fsck(repair=True)
    left = store.fsck()
    assert not left, left

pull(Store(f"{root}/first"), name, unpack=unpack, settings=settings)  # everything imported, before the forks
while killed < kills:
    store = f"{root}/{stores}"
    began = time.monotonic()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            pull(Store(store), name, unpack=unpack, settings=settings)
            code = 0
        finally:
            os._exit(code)
    fd = os.pidfd_open(pid)
    wait = None if not long else rng.uniform(0, long)
    done = select.select([fd], [], [], wait)[0]
    os.close(fd)
    if not done:
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        killed += 1
        continue
    assert status == 0, status
    ended += 1
    long = long or (time.monotonic() - began)
    here = Store(store)
    pull(here, name, unpack=unpack, settings=settings)
    clean(here)
    stores += 1
here = Store(f"{root}/{stores}")
pull(here, name, unpack=unpack, settings=settings)

clean(here)
print(killed, ended, stores)
"""


@pytest.mark.needs_root
def test_killed_at_100_moments(tmp_path):
    rng = random.Random(5)
    layers = [make_layer({f"dir/file{i}": rng.randbytes(20_000), "shared": f"{i}"}) for i in range(4)]
    image = Image(layers)
    with ImageServer(image, rate=3_000_000) as server:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", KILLER, str(tmp_path), f"{server.host}/app:1", "unpack", "100"],
            capture_output=True, text=True, timeout=100, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        killed, ended, stores = map(int, done.stdout.split())
        assert killed == 100 and ended >= 1
        assert_whole(Store(f"{tmp_path}/{stores}"), image)


def test_interrupted(tmp_path):
    image = Image([make_layer({"file": random.Random(1).randbytes(500_000)}) for _ in range(2)])
    code = (
        # where the tests themselves run in the background of a shell, the signal is ignored in all their children
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "from fastctr.image.pull import pull; from fastctr.image.store import Store;"
        "pull(Store(sys.argv[1]), sys.argv[2], unpack=False, progress=lambda e: print(e.action, flush=True))"
    )
    root = str(tmp_path / "store")
    with ImageServer(image, rate=25_000) as server:  # 20 s a layer
        process = subprocess.Popen(
            [sys.executable, "-c", code, root, f"{server.host}/slow:1"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            while process.stdout.readline() != "downloading\n":
                pass
            time.sleep(0.2)
            before = time.monotonic()
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=20)
        finally:
            process.kill()
            process.wait()
        assert time.monotonic() - before < 10
        assert process.returncode == -signal.SIGINT and errors.rstrip().endswith("KeyboardInterrupt"), errors
        assert "Exception ignored" not in errors and errors.count("Traceback") <= 2
        assert not os.listdir(f"{root}/leases") and os.listdir(f"{root}/ingest")
        server.rate = None
        pull(Store(root), f"{server.host}/slow:1", unpack=False)
        assert any("Range" in headers for _, _, headers in server.seen)
    assert_whole(Store(root), image)
