"""Faults of the machine at every stage of a start: a clear error, and nothing of it stays (the leak check of conftest.py
compares descriptors, processes, groups, mounts and files after each)."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import fastctr
import leaks_support
from support import run, running

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
ROOT = pytest.mark.needs_root


def works(rootfs: str) -> None:
    assert run(["sh", "-c", "exit 3"], rootfs=rootfs).returncode == 3


@contextlib.contextmanager
def limit(which: int, soft: int) -> Iterator[None]:
    old = resource.getrlimit(which)
    resource.setrlimit(which, (soft, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(which, old)


# ---- the machine refuses


@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
def test_few_descriptors(rootfs: str, warm: bool) -> None:
    """At each number of free descriptors: it starts, or it says so, and nothing is lost."""
    plan = fastctr.Plan(rootfs=rootfs, memory="64m") if os.geteuid() == 0 else fastctr.Plan(rootfs=rootfs)
    if warm:
        plan.run(["true"])
    outcomes = set()
    for room in [*range(40), 50, 60, 80, 120]:
        if not warm:
            fastctr.shutdown()
        highest = max(int(name) for name in os.listdir("/proc/self/fd"))
        with limit(resource.RLIMIT_NOFILE, highest + room):
            try:
                outcomes.add(plan.run(["sh", "-c", "exit 3"]).returncode)
            except (fastctr.FastctrError, OSError) as error:
                outcomes.add(error.errno)
    assert 3 in outcomes
    assert outcomes <= {3, errno.EMFILE, errno.ENFILE, errno.EBADF}, outcomes
    works(rootfs)


def test_few_descriptors_for_an_exec(rootfs: str) -> None:
    with running(rootfs) as c:
        c.exec(["true"]).close()
        outcomes = set()
        for room in range(30):
            highest = max(int(name) for name in os.listdir("/proc/self/fd"))
            with limit(resource.RLIMIT_NOFILE, min(highest, 100) + room):
                try:
                    command = c.exec(["sh", "-c", "exit 3"])
                    outcomes.add(command.wait(10))
                    command.close()
                except (fastctr.FastctrError, OSError) as error:
                    outcomes.add(error.errno)
        assert outcomes <= {3, errno.EMFILE, errno.EBADF, errno.EINVAL}, outcomes
        command = c.exec(["sh", "-c", "exit 4"])
        assert command.wait(10) == 4
        command.close()


def python(code: str, rootfs: str, *, expect: int | None = 0, **kw: Any) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([HERE, *sys.path]), "ROOTFS": rootfs}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False,
                          env={**env, **kw})  # fmt: skip
    assert expect is None or done.returncode == expect, done.stderr + done.stdout
    return done


@ROOT
@pytest.mark.parametrize("kind", ["mnt", "net", "ipc", "uts", "pid", "user", "cgroup"])
def test_no_namespaces_allowed(rootfs: str, kind: str) -> None:
    """In a user namespace whose limit for that kind is 0; namespaces(7)."""
    if not os.path.exists(f"/proc/sys/user/max_{kind}_namespaces"):
        pytest.skip("needs per-user limits of namespaces")
    code = f"""
import ctypes, os, fastctr
libc = ctypes.CDLL(None, use_errno=True)
fds = len(os.listdir("/proc/self/fd"))
assert libc.unshare(0x10000000 | 0x20000) == 0
open("/proc/self/setgroups", "w").write("deny")
open("/proc/self/uid_map", "w").write("0 0 1")
open("/proc/self/gid_map", "w").write("0 0 1")
open("/proc/sys/user/max_{kind}_namespaces", "w").write("0")
kw = dict(rootfs=os.environ["ROOTFS"], cgroup=False, dev=False, sys=False, groups=[])
if {kind!r} == "user":
    kw.update(userns=True, uid_map=[(0, 0, 1)], gid_map=[(0, 0, 1)])
for _ in range(3):
    try:
        fastctr.run(["true"], **kw)
    except fastctr.LaunchError as error:
        assert error.errno, error
        assert error.hint, error
    else:
        raise SystemExit("it started")
fastctr.shutdown()
assert len(os.listdir("/proc/self/fd")) <= fds, os.listdir("/proc/self/fd")
"""
    python(code, rootfs)


@ROOT
def test_no_mount_more_is_allowed(rootfs: str) -> None:
    """fs.mount-max reached; made smaller than what there is only for a moment would hit others, so this
    asks for more mounts than the kernel gives one namespace."""
    with open("/proc/sys/fs/mount-max") as file:
        most = int(file.read())
    if most > 5000:
        with pytest.raises(fastctr.FastctrError):
            run(["true"], rootfs=rootfs, tmpfs={f"/t/{n}": "" for n in range(3000)})
    works(rootfs)


@ROOT
def test_a_runtime_directory_that_cannot_be_used(rootfs: str, tmp_path: Path) -> None:
    code = """
import os, fastctr
for _ in range(3):
    try:
        fastctr.run(["true"], rootfs=os.environ["ROOTFS"])
    except (fastctr.FastctrError, OSError) as error:
        print(error)
    else:
        raise SystemExit("it started")
"""
    file = tmp_path / "file"
    file.write_text("")
    assert "file" in python(code, rootfs, FASTCTR_RUNTIME_DIR=str(file)).stdout
    for path in ("/proc/fastctr", "/sys/fastctr"):  # nothing can be made there, even by root
        assert path in python(code, rootfs, FASTCTR_RUNTIME_DIR=path).stdout
    loose = tmp_path / "loose"
    loose.mkdir(mode=0o777)
    loose.chmod(0o777)
    assert "FASTCTR_RUNTIME_DIR" in python(code, rootfs, FASTCTR_RUNTIME_DIR=str(loose)).stdout


@ROOT
def test_a_runtime_directory_that_goes_meanwhile(rootfs: str, tmp_path: Path) -> None:
    code = """
import os, shutil, fastctr
run = lambda: fastctr.run(["sh", "-c", "exit 3"], rootfs=os.environ["ROOTFS"]).returncode
assert run() == 3
shutil.rmtree(os.environ["FASTCTR_RUNTIME_DIR"])
assert run() == 3
fastctr.gc()
fastctr.shutdown()
"""
    python(code, rootfs, FASTCTR_RUNTIME_DIR=str(tmp_path / "runtime"))


@ROOT
@pytest.mark.needs_v1
def test_a_parent_group_that_cannot_be_made(rootfs: str) -> None:
    """With every mounted hierarchy read-only, in a mount namespace of its own."""
    code = """
import ctypes, os, fastctr
import leaks_support
libc = ctypes.CDLL(None, use_errno=True)
assert libc.unshare(0x20000) == 0 and libc.mount(b"none", b"/", None, 0x4000 | 1 << 18, None) == 0
for path in leaks_support.cgroup_mounts():
    assert libc.mount(b"none", path.encode(), None, 32 | 4096 | 1, None) == 0
for kw in ({}, {"memory": "64m"}, {"cgroup_parent": "/some/where"}):
    try:
        fastctr.run(["true"], rootfs=os.environ["ROOTFS"], **kw)
    except fastctr.LaunchError as error:
        assert error.errno and len(str(error)) > 20, error
        print(error)
    else:
        raise SystemExit("it started")
assert fastctr.run(["true"], rootfs=os.environ["ROOTFS"], cgroup=False).returncode == 0
"""
    python(code, rootfs)


@ROOT
def test_a_full_scratch(rootfs: str, tmp_path: Path) -> None:
    assert run(["sh", "-c", "dd if=/dev/zero of=/x bs=1M count=8"], rootfs=rootfs, scratch_size="4m").returncode != 0
    assert run(["sh", "-c", "cat /x"], rootfs=rootfs, scratch_size="4m").returncode != 0
    full = tmp_path / "full"
    full.mkdir()
    libc_mount(b"tmpfs", str(full), b"tmpfs", b"nr_inodes=4,size=64k")
    try:
        for _ in range(3):
            with contextlib.suppress(fastctr.FastctrError, OSError):
                run(["true"], rootfs=rootfs, writable="disk", scratch_dir=str(full))
        fastctr.shutdown()
        assert os.listdir(full) == []
    finally:
        libc_umount(str(full))
    works(rootfs)


def libc_mount(source: bytes, target: str, kind: bytes, options: bytes) -> None:
    import ctypes

    if ctypes.CDLL(None, use_errno=True).mount(source, target.encode(), kind, 0, options) != 0:
        pytest.skip("needs to mount a tmpfs")


def libc_umount(target: str) -> None:
    import ctypes

    assert ctypes.CDLL(None, use_errno=True).umount2(target.encode(), 2) == 0


def test_the_stub_is_missing(rootfs: str, tmp_path: Path) -> None:
    package = Path(fastctr.__file__).parent
    copy = tmp_path / "fastctr"
    shutil.copytree(package, copy, ignore=shutil.ignore_patterns("fctr-stub", "__pycache__"))
    code = """
import os, fastctr
for kw in ({"init": True}, {"pid": "host"}):
    try:
        fastctr.run(["true"], rootfs=os.environ["ROOTFS"], **kw)
    except fastctr.FastctrError as error:
        assert "fctr-stub" in str(error), error
    else:
        raise SystemExit("it started")
assert fastctr.run(["true"], rootfs=os.environ["ROOTFS"]).returncode == 0
with fastctr.Container(["sleep", "60"], rootfs=os.environ["ROOTFS"]) as c:
    try:
        c.exec(["true"])
    except fastctr.FastctrError as error:
        assert "fctr-stub" in str(error), error
    else:
        raise SystemExit("exec without a stub")
"""
    python(code, rootfs, PYTHONPATH=str(tmp_path))


# ---- others interfere


@ROOT
def test_killed_while_it_starts(rootfs: str) -> None:
    """Somebody kills our children as they come, at whatever point they are. In a process of its own: one
    that is killed within a step may leave a descriptor of that step in the table it shares with us."""
    mine = os.getpid()
    if not os.path.exists(f"/proc/{mine}/task/{mine}/children"):
        pytest.skip("needs /proc/<pid>/task/<tid>/children (CONFIG_PROC_CHILDREN)")
    python(
        """
import contextlib, os, signal, threading
import fastctr
stop, mine, rootfs = threading.Event(), os.getpid(), os.environ["ROOTFS"]
def killer():
    while not stop.is_set():
        with contextlib.suppress(OSError):
            for pid in open(f"/proc/{mine}/task/{mine}/children").read().split():
                os.kill(int(pid), signal.SIGKILL)
thread = threading.Thread(target=killer)
thread.start()
outcomes = {}
maps = dict(uid_map=[(0, 100000, 65536)], gid_map=[(0, 100000, 65536)])
kinds = [{}, {"init": True}, {"pid": "host"}, {"userns": True, **maps}]
for n in range(240):
    try:
        done = fastctr.run(["sh", "-c", "exit 3"], rootfs=rootfs, timeout=20, **kinds[n % 4])
        what = done.returncode
    except fastctr.FastctrError as error:
        what = type(error).__name__
    outcomes[what] = outcomes.get(what, 0) + 1
stop.set()
thread.join()
assert set(outcomes) <= {3, -9, 137, 255, "LaunchError", "CgroupError"}, outcomes
for kind in kinds:
    for _ in range(5):
        assert fastctr.run(["sh", "-c", "exit 3"], rootfs=rootfs, timeout=20, **kind).returncode == 3
fastctr.shutdown()
try:
    while os.waitpid(-1, os.WNOHANG | 0x40000000)[0]:   # __WALL
        print("a child was not waited for")
except ChildProcessError:
    pass
""",
        rootfs,
    )


@ROOT
def test_its_group_is_removed_meanwhile(rootfs: str) -> None:
    """By a well-meaning administrator: it is an error or it is not noticed, never a hang."""
    plan = fastctr.Plan(rootfs=rootfs, memory="64m")
    for _ in range(4):
        plan.run(["true"])
    tag = leaks_support.runtime_tag(os.environ["FASTCTR_RUNTIME_DIR"])
    for path in sorted(leaks_support.groups(tag), key=len, reverse=True):
        with contextlib.suppress(OSError):
            os.rmdir(path)
    for _ in range(12):
        with contextlib.suppress(fastctr.LaunchError):
            plan.run(["true"], timeout=10)
    fastctr.shutdown()
    assert plan.run(["true"], timeout=10).returncode == 0


@ROOT
def test_a_process_of_ours_is_moved_to_another_group(rootfs: str) -> None:
    with running(rootfs) as c:
        for mount in leaks_support.cgroup_mounts():
            with contextlib.suppress(OSError):
                Path(f"{mount}/cgroup.procs").write_text(str(c.pid))
        c.kill()
        assert c.wait(10) == -9


@ROOT
def test_a_job_that_leaves_groups_of_its_own(rootfs: str) -> None:
    with running(rootfs, pids=20) as c:
        for path in c.cgroups.values():
            inner = Path(path, "inner")
            inner.mkdir()
            with contextlib.suppress(OSError):
                (inner / "cgroup.procs").write_text(str(c.pid))
    fastctr.shutdown()
    time.sleep(0.05)
    works(rootfs)


FEW = """
import errno, fcntl, os, resource, sys
import fastctr

soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
how = {"rootfs": sys.argv[1], "init": True}
assert fastctr.run(["true"], **how).returncode == 0
fastctr.shutdown()
runtime = os.environ["FASTCTR_RUNTIME_DIR"]
before = sorted(os.listdir(runtime))
for room in range(70):
    resource.setrlimit(resource.RLIMIT_NOFILE, (4 + room, hard))
    for _ in range(2):
        try:
            code = fastctr.run(["sh", "-c", "exit 3"], **how).returncode
        except (fastctr.FastctrError, OSError) as error:
            assert error.errno == errno.EMFILE, (room, error)
        else:
            assert code == 3, (room, code)
    fastctr.shutdown()
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert sorted(os.listdir(runtime)) == before, room
"""


def test_few_descriptors_from_nothing(rootfs: str, tmp_path: Path) -> None:
    """In a process with none but its stdio: opening the context itself runs out, at each place."""
    tmp_path.chmod(0o700)
    done = subprocess.run(
        [sys.executable, "-c", FEW, rootfs],
        env={**os.environ, "FASTCTR_RUNTIME_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
