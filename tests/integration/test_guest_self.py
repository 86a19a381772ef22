"""A good guest: nothing of the user's process changes (see test_guest.py for what runs beside us)."""

from __future__ import annotations

import ctypes
import gc
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import fastctr
from fastctr import context
from support import run, running

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def python(code: str, **kw: Any) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([HERE, *sys.path])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=60,
                          check=False, **kw)  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    return done


def kinds() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {"plain": {}, "init": {"init": True}}
    if os.geteuid() == 0:
        found["pid-host"] = {"pid": "host"}
        found["userns"] = {"userns": True, "uid_map": [(0, 100000, 65536)], "gid_map": [(0, 100000, 65536)]}
        found["user"] = {"user": "1000:1000"}
    return found


KINDS = kinds()


# ---- this process


def dumpable() -> int:
    """PR_GET_DUMPABLE, once the background has nothing more to prepare: a process is not to be traced
    while a child of its shares its memory."""
    context.get().drain(True)
    return ctypes.CDLL(None).prctl(3, 0, 0, 0, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_dumpable_stays(rootfs: str, kind: str) -> None:
    assert dumpable() == 1
    for _ in range(5):
        run(["true"], rootfs=rootfs, **KINDS[kind])
        assert dumpable() == 1
    ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)
    try:
        run(["true"], rootfs=rootfs, **KINDS[kind])
        assert dumpable() == 0, "a process that wants no dumps gets none"
    finally:
        ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_dumpable_stays_from_many_threads(rootfs: str, kind: str) -> None:
    plan = fastctr.Plan(rootfs=rootfs, **KINDS[kind])
    threads = [threading.Thread(target=lambda: [plan.run(["true"]) for _ in range(25)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    fastctr.shutdown()
    assert dumpable() == 1


def test_namespaces_of_every_thread_stay(rootfs: str) -> None:
    def seen() -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for task in os.listdir("/proc/self/task"):
            for name in os.listdir(f"/proc/self/task/{task}/ns"):
                found.setdefault(name, set()).add(os.readlink(f"/proc/self/task/{task}/ns/{name}"))
        return found

    before = seen()
    assert all(len(values) == 1 for values in before.values())
    threads = [threading.Thread(target=lambda kind=kind: [run(["true"], rootfs=rootfs, **kind) for _ in range(5)])
               for kind in KINDS.values()]  # fmt: skip
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with running(rootfs) as c:
        c.exec(["true"]).wait()
        assert seen() == before
    assert seen() == before
    assert subprocess.run(["true"], check=False).returncode == 0


def test_umask_and_working_directory_stay(rootfs: str, tmp_path: Path) -> None:
    old, there = os.umask(0o027), os.getcwd()
    try:
        os.chdir(tmp_path)
        run(["true"], rootfs=rootfs, umask=0o77, cwd="/etc", nice=5)
        (tmp_path / "relative").touch()
        assert os.stat("relative").st_mode & 0o777 == 0o640
        assert os.getcwd() == str(tmp_path)
        assert os.nice(0) == 0
        assert os.umask(0o027) == 0o027
    finally:
        os.chdir(there)
        os.umask(old)


def test_a_working_directory_that_is_gone(rootfs: str, tmp_path: Path) -> None:
    there = os.getcwd()
    gone = tmp_path / "gone"
    gone.mkdir()
    try:
        os.chdir(gone)
        gone.rmdir()
        assert run(["pwd"], rootfs=rootfs).stdout == "/\n"
    finally:
        os.chdir(there)


def test_another_group_of_ours(rootfs: str) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to change its own group")
    code = f"""
import ctypes, os, fastctr, fastctr.context
os.setegid(12)
prctl = ctypes.CDLL(None).prctl
prctl(4, 1, 0, 0, 0)
for _ in range(4):
    assert fastctr.run(["true"], rootfs={rootfs!r}).returncode == 0
    fastctr.context.get().drain(True)
    assert prctl(3, 0, 0, 0, 0) == 1
"""
    python(code)


def test_references_are_let_go(rootfs: str) -> None:
    plan = fastctr.Plan(rootfs=rootfs)
    for _ in range(50):
        plan.run(["true"], input=b"x", capture_output=True)
    gc.collect()
    before = len(gc.get_objects())
    for _ in range(200):
        plan.run(["true"], input=b"x", capture_output=True)
        with plan.container(["true"], stdout=fastctr.PIPE) as c:
            c.communicate()
    gc.collect()
    assert len(gc.get_objects()) - before < 300
