"""The store with real processes: two at once, killed at any moment, a full disk, users who are not root."""

from __future__ import annotations

import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import pytest

from fastctr.image.store import Store
from image_support import Image, make_layer, sha256

TESTS = str(Path(__file__).resolve().parents[1])
HEAD = """
import hashlib, json, os, sys, time
from fastctr.errors import *
from fastctr.image.store import Store
from image_support import Image, make_layer, sha256
store = Store(sys.argv[1])
def say(*what):
    print(*what, flush=True)
def hear():
    sys.stdin.readline()
"""


def start(store, code, *args, prefix=(), **more):
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([TESTS, *(p for p in sys.path if p)])}
    program = HEAD + textwrap.dedent(code)
    return subprocess.Popen([*prefix, sys.executable, "-c", program, store.root, *map(str, args)], env=env, text=True,
                            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more)  # fmt: skip


def end(process, fails=False):
    out, err = process.communicate(timeout=60)
    assert (process.returncode != 0) == fails, out + err
    return out.splitlines()


def kill(process):
    process.kill()
    process.communicate()


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "store"))


WRITE = """
    data = bytes(range(256)) * 4000
    with store.ingest(sha256(data), len(data)) as blob:
        say(blob.offset, blob.done)
        if not blob.done:
            hear()
            for at in range(blob.offset, len(data), 65536):
                blob.write(data[at : at + 65536])
                if len(sys.argv) > 2:
                    say(at); hear()
            blob.commit()
    say("done")
"""
DATA = bytes(range(256)) * 4000


def test_the_second_waits_and_finds_it_done(store):
    first = start(store, WRITE)
    assert first.stdout.readline() == "0 False\n"
    second = start(store, WRITE)
    time.sleep(0.3)
    assert second.poll() is None
    assert len(os.listdir(f"{store.root}/ingest")) == 1
    first.stdin.write("\n")
    first.stdin.flush()
    assert end(second) == ["0 True", "done"]
    assert end(first) == ["done"]
    assert store.read_blob(sha256(DATA)) == DATA


def test_the_second_takes_over_from_a_dead_one(store):
    first = start(store, WRITE, "step")
    assert first.stdout.readline() == "0 False\n"
    first.stdin.write("\n\n\n")
    first.stdin.flush()
    while first.stdout.readline() != "131072\n":
        pass
    second = start(store, WRITE)
    time.sleep(0.2)
    assert second.poll() is None
    kill(first)
    assert second.stdout.readline() == f"{3 * 65536} False\n"
    second.stdin.write("\n")
    assert end(second) == ["done"]
    assert store.read_blob(sha256(DATA)) == DATA and store.fsck() == []


def test_stop_waiting(store):
    class Enough(Exception):
        pass

    def stop():
        raise Enough

    first = start(store, WRITE)
    first.stdout.readline()
    with pytest.raises(Enough), store.ingest(sha256(DATA), len(DATA), stop=stop):
        pass
    kill(first)


def test_threads_of_one_process(store):
    from concurrent.futures import ThreadPoolExecutor

    def write(_):
        with store.ingest(sha256(DATA), len(DATA)) as blob:
            if blob.done:
                return 0
            blob.write(DATA)
            blob.commit()
            return 1

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(write, range(24))) == 1


def test_killed_at_any_moment_of_writing(store):
    """Whole under its name or not there at all, and what was written is gone on with."""
    code = """
        rng = __import__("random").Random(int(sys.argv[2]))
        data = hashlib.shake_128(b"blob").digest(3_000_000)
        while True:
            with store.ingest(sha256(data), len(data)) as blob:
                say(blob.offset)
                if blob.done:
                    break
                while blob.offset < len(data):
                    blob.write(data[blob.offset : blob.offset + rng.randrange(1, 60_000)])
                    time.sleep(0.001)
                blob.commit()
    """
    import hashlib

    data = hashlib.shake_128(b"blob").digest(3_000_000)
    digest, rng, offsets = sha256(data), random.Random(7), []
    for turn in range(14):
        process = start(store, code, turn)
        offsets.append(int(process.stdout.readline()))
        time.sleep(rng.random() * 0.025)
        kill(process)
        if store.has_blob(digest):
            assert store.read_blob(digest) == data
    assert max(offsets) > 0
    process = start(store, code, 99)
    end(process)
    assert store.read_blob(digest) == data
    assert store.fsck() == [] and store.gc(older_than=0).leftovers == 0


def test_killed_at_any_moment_of_everything(store):
    """Adding, naming, leasing, removing, collecting: after each death the store is sound and goes on."""
    code = """
        rng = __import__("random").Random(int(sys.argv[2]))
        base = make_layer({"base": "x" * 100_000})
        say("on")
        for i in range(10**6):
            with store.lease():
                image = Image([base, make_layer({"a": str(rng.random())})]).put(store, f"app:{rng.randrange(6)}")
            with store.workplace() as place:
                os.mkdir(place.path + "/diff")
                chain = store.resolve(image.config_digest).chain_ids[0]
                with open(place.path + "/layer.json", "w") as file:
                    json.dump({"chain": chain, "parent": None, "diff_id": chain, "size": 1}, file)
                place.publish(f"{store.root}/layers/overlay/{chain[7:]}")
            if rng.random() < 0.5:
                store.prune(everything=rng.random() < 0.3)
    """
    Image([make_layer({"keep": "1"})]).put(store, "keep")
    with store.lease() as lease:
        lease.blob(store.refs.get("keep").digest)
        lease.layer("overlay", store.resolve("keep").chain_ids[0])
        rng = random.Random(3)
        for turn in range(12):
            process = start(store, code, turn)
            assert process.stdout.readline() == "on\n"
            time.sleep(rng.random() * 0.15)
            kill(process)
            assert {f.kind for f in store.fsck()} <= {"leftover"}, store.fsck()
            assert store.resolve("keep").names == ["docker.io/library/keep:latest"]
            for image in store.images():
                assert all(map(store.has_blob, image.digests))
    time.sleep(2.1)  # gc.FRESH
    store.gc(older_than=0)
    assert store.fsck() == []
    assert os.listdir(f"{store.root}/tmp") == os.listdir(f"{store.root}/leases") == []
    assert sorted(os.listdir(store.root)) == sorted(
        ["blobs", "containers", "index.json", "index.lock", "ingest", "layers", "leases", "lock", "oci-layout", "tmp"])


def test_collecting_while_others_add(store):
    """What is leased before it is looked for stays; what was named stays."""
    add = """
        say("on")
        hear()
        base = make_layer({"base": "x" * 10_000})
        until = time.monotonic() + 1.2
        n = 0
        while time.monotonic() < until:
            n += 1
            name = f"app{sys.argv[2]}:{n % 3}"
            with store.lease() as lease:
                image = Image([base, make_layer({"a": f"{sys.argv[2]} {n % 5}"})]).put(store, name)
            found = store.resolve(name)
            assert found.id == image.config_digest
            assert all(map(store.has_blob, found.digests)), "collected under our hands"
            if n % 4 == 0:
                store.remove(name)
        say(n)
    """
    collect = """
        say("on")
        hear()
        until = time.monotonic() + 1.2
        n = 0
        while time.monotonic() < until:
            store.gc(older_than=0)
            n += 1
        say(n)
    """
    everyone = [start(store, add, 1), start(store, add, 2), start(store, collect)]
    for each in everyone:
        assert each.stdout.readline() == "on\n"
    for each in everyone:
        each.stdin.write("\n")
        each.stdin.flush()
    for each in everyone:
        assert int(end(each)[-1]) > 3
    store.gc(older_than=0)
    assert store.fsck() == []


def test_names_from_many_processes(store):
    code = """
        from fastctr.image.oci import Descriptor
        hear()
        for i in range(20):
            store.refs.set(f"n{sys.argv[2]}:{i}", store.refs.get("app"))
    """
    Image([make_layer({"a": "1"})]).put(store, "app")
    everyone = [start(store, code, i) for i in range(4)]
    for each in everyone:
        each.stdin.write("\n")
        each.stdin.flush()
    for each in everyone:
        end(each)
    assert len(store.refs.list()) == 81


def test_dead_leases_hold_nothing(store):
    code = """
        lease = store.lease()
        lease.blob(sys.argv[2])
        say("on")
        hear()
    """
    stray = store.add_bytes(b"stray")
    process = start(store, code, stray)
    process.stdout.readline()
    assert store.gc().blobs == [] and store.df().unneeded == (0, 0, 0)
    process.send_signal(signal.SIGSTOP)
    assert store.gc().blobs == []
    kill(process)
    assert store.df().dead_leases == 1
    assert store.gc().blobs == [stray]
    assert os.listdir(f"{store.root}/leases") == []


def test_hold_after_a_fork(store):
    """The child has a lease of its own: the parent's may end before it."""
    code = """
        chain = "sha256:" + "a" * 64
        os.makedirs(f"{store.root}/layers/overlay/{'a' * 64}/diff")
        store.hold("overlay", [chain])
        if os.fork():
            os._exit(0)
        sys.stdin.close()
        store.hold("overlay", [chain])
        say(len(os.listdir(store.root + "/leases")))
        time.sleep(0.3)
        say(len(store.gc().layers))
        store.release_holds()
        say(len(store.gc().layers))
    """
    assert end(start(store, code))[-2:] == ["0", "1"]


def may_unshare():
    command = ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-Urm"]
    done = subprocess.run([*command, "true"], capture_output=True, check=False) if shutil.which("unshare") else None
    if done is None or done.returncode:
        pytest.skip("needs a mount namespace of its own for a small file system (unshare)")
    return command


def test_full_disk(store):
    """Nothing half under a name, the room given back, the error says so, and the old index stays."""
    code = """
        import subprocess
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=755", "none", sys.argv[1]], check=True)
        image = Image([make_layer({"a": "1"})]).put(store, "app")
        data = os.urandom(3 << 20)
        try:
            with store.ingest(sha256(data), len(data)) as blob:
                for at in range(0, len(data), 65536):
                    blob.write(data[at : at + 65536])
                blob.commit()
        except StoreError as error:
            say(error)
        say(os.listdir(store.root + "/ingest"), store.has_blob(sha256(data)))
        with open(store.root + "/filler", "wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                pass
        for call in (lambda: store.refs.set("other", store.refs.get("app")),
                     lambda: [store.refs.set(f"o:{i}", store.refs.get("app")) for i in range(40)],
                     lambda: store.add_bytes(bytes(5000)), store.lease().blob):
            try:
                call()
            except StoreError as error:
                say("StoreError", "No space left" in str(error))
        say(store.resolve("app").id == image.config_digest, Store(store.root).fsck())
        os.unlink(store.root + "/filler")
        store.refs.set("other", store.refs.get("app"))
        say(len(store.refs.list()) >= 2, store.gc().blobs)
        os.chdir("/")
        subprocess.run(["umount", "-l", sys.argv[1]], check=True)
    """
    os.makedirs(store.root)
    out = end(start(store, code, prefix=[*may_unshare(), "--"]))
    assert "No space left on device" in out[0] and "system prune" in out[0]
    assert out[1] == "[] False"
    told = [line for line in out if line.startswith("StoreError")]
    assert told and set(told) == {"StoreError True"}
    assert out[-2] == "True []"
    assert out[-1].startswith("True ")
    assert os.listdir(store.root) == []


def test_read_only_store(store):
    """Baked into a system image, or mounted from elsewhere: good for starting from."""
    code = """
        import subprocess
        subprocess.run(["mount", "--bind", sys.argv[1], sys.argv[1]], check=True)
        subprocess.run(["mount", "-o", "remount,bind,ro", sys.argv[1]], check=True)
        chains = store.resolve("app").chain_ids
        store.hold("overlay", chains)
        store.hold("overlay", chains)
        store.release_holds()
        say(len(store.images()), len(store.df().images), os.listdir(store.root + "/leases"))
        try:
            store.add_bytes(b"x")
        except StoreError as error:
            say(error)
    """
    Image([make_layer({"a": "1"})]).put(store, "app")
    out = end(start(store, code, prefix=[*may_unshare(), "--"]))
    assert out[0] == "1 1 []" and "Read-only file system" in out[1]


def test_somebody_elses_store(store, user_place):
    """Read where modes allow, and a clear error where something is to be written."""
    image = Image([make_layer({"a": "1"})]).put(store, "app")
    if os.geteuid() != 0:
        os.chmod(f"{store.root}/leases", 0o500)
        with pytest.raises(Exception, match="store belongs to somebody else"):
            store.lease()
        os.chmod(f"{store.root}/leases", 0o700)
        return
    shutil.copytree(store.root, f"{user_place}/store")
    os.chmod(f"{user_place}/store", 0o755)
    code = """
            say(store.resolve("app").id, len(store.images()))
            for call in (lambda: store.add_bytes(b"x"), lambda: store.refs.remove("app"), store.lease, store.gc):
                try:
                    call()
                except StoreError as error:
                    say("somebody else" in str(error))
    """
    out = end(start(Store(f"{user_place}/store"), BECOME_USER + textwrap.dedent(code)))
    assert out == [f"{image.config_digest} 1"] + ["True"] * 4


BECOME_USER = """
import hashlib, subprocess, tarfile, threading
from fastctr.image import fsck, gc, leases, remove, usage, workplace
os.setgroups([])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
os.umask(0o077)
"""
"""After everything is imported: that user need not be able to read the sources, nor the interpreter."""


@pytest.fixture
def user_place():
    """A directory that belongs to user 65534 and can be reached by it."""
    path = tempfile.mkdtemp(prefix="fastctr-store-", dir="/tmp")
    os.chown(path, 65534, 65534)
    yield path
    shutil.rmtree(path)


@pytest.mark.needs_root
def test_as_a_user_who_is_not_root(user_place):
    code = """
        image = Image([make_layer({"a": "1"})]).put(store, "app")
        chain = store.resolve("app").chain_ids[0]
        with store.workplace() as place:
            os.makedirs(place.path + "/diff/closed/inner")
            open(place.path + "/diff/closed/file", "w").close()
            os.chmod(place.path + "/diff/closed", 0)
            with open(place.path + "/layer.json", "w") as file:
                json.dump({"chain": chain, "parent": None, "diff_id": chain, "size": 1}, file)
            place.publish(f"{store.root}/layers/overlay/{chain[7:]}")
        say(store.fsck())
        store.hold("overlay", [chain])
        say([kind for kind, _ in store.remove("app")])
        store.release_holds()
        say(len(store.gc().layers), os.listdir(store.root + "/tmp"), store.fsck())
    """
    out = end(start(Store(f"{user_place}/store"), BECOME_USER + textwrap.dedent(code)))
    assert out == ["[]", "['Untagged', 'Untagged', 'Deleted']", "1 [] []"]
    modes = {name: stat.S_IMODE(os.stat(f"{user_place}/store/{name}").st_mode) for name in ("layers", "blobs", "leases")}
    assert modes == {"layers": 0o700, "blobs": 0o755, "leases": 0o700}
