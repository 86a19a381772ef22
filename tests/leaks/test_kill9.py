"""200 launching processes killed at random moments: the next start leaves nothing of any."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import fastctr
import leaks_support

pytestmark = [pytest.mark.needs_root, pytest.mark.timeout(300)]
ROUNDS = 200

LOOP = """
import sys
import fastctr
def main(rootfs, scratch, kind):
    plans = [
        lambda: fastctr.Plan(rootfs=rootfs, memory="64m"),
        lambda: fastctr.Plan(rootfs=rootfs, init=True, cap_add=["NET_ADMIN"]),
        lambda: fastctr.Plan(rootfs=rootfs, pid="host", pids=20),
        lambda: fastctr.Plan(rootfs=rootfs, writable="disk", scratch_dir=scratch),
        lambda: fastctr.Plan(rootfs=rootfs, userns=True, uid_map=[(0, 100000, 65536)], gid_map=[(0, 100000, 65536)]),
    ]
    plan = plans[kind]()
    while True:
        plan.run(["sh", "-c", "sleep 71 & :"], capture_output=True)
        with plan.container(["sh", "-c", "(sleep 72 &); sleep 73 & echo x; sleep 74"], stdout=fastctr.PIPE) as c:
            c.stdout.readline()
            c.exec(["true"]).close()
"""


def _start(rootfs: str, scratch: str, kind: int) -> int:
    """A fork of this process, before it has used fastctr: as cheap as a start can be."""
    pid = os.fork()
    if pid == 0:
        try:
            null = os.open("/dev/null", os.O_RDWR)
            for fd in (0, 1, 2):
                os.dup2(null, fd)
            space: dict[str, object] = {}
            exec(LOOP, space)
            space["main"](rootfs, scratch, kind)  # type: ignore[operator]
        finally:
            os._exit(1)
    return pid


def _nothing_left(rootfs: str, scratch: Path) -> str:
    tag = leaks_support.runtime_tag(os.environ["FASTCTR_RUNTIME_DIR"])
    found = [f"group {path}" for path in leaks_support.groups(tag)]
    found += [f"process {pid}: {what}" for pid, what in leaks_support.processes(tag).items()]
    found += [f"lock {name}" for name in os.listdir(os.environ["FASTCTR_RUNTIME_DIR"])]
    found += [f"scratch {name}" for name in os.listdir(scratch)]
    for name in os.listdir("/proc"):  # also those that joined no group, or no longer are in one
        if name.isdigit() and int(name) != os.getpid():
            with contextlib.suppress(OSError):
                for fd in os.listdir(f"/proc/{name}/fd"):  # a copy of ours that nobody ended
                    link = os.readlink(f"/proc/{name}/fd/{fd}")
                    if link.startswith(os.environ["FASTCTR_RUNTIME_DIR"]):
                        found.append(f"process {name} holds {link}")
            try:
                line = Path(f"/proc/{name}/cmdline").read_bytes()
                root = os.readlink(f"/proc/{name}/root")
            except OSError:
                continue
            if re.fullmatch(rb"sleep\0007[1-4]\0", line):
                found.append(f"process {name}: {line!r} {root}")
    return "\n".join(found)


def test_two_hundred_kills(rootfs: str, tmp_path: Path) -> None:
    seed = int(os.environ.get("FASTCTR_TEST_SEED", "20"))
    chance = random.Random(seed)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    fastctr.shutdown()
    assert _nothing_left(rootfs, scratch) == ""
    mounts = len(Path("/proc/self/mountinfo").read_text().splitlines())
    for n in range(ROUNDS):
        pid = _start(rootfs, str(scratch), n % 5)
        time.sleep(chance.random() * 0.06)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        if n % 20 == 19:  # the next start
            assert fastctr.run(["true"], rootfs=rootfs).returncode == 0
            fastctr.shutdown()
            left = _nothing_left(rootfs, scratch)
            for _ in range(20):  # a killed one may take a moment to go
                if not left:
                    break
                time.sleep(0.1)
                fastctr.gc()
                fastctr.shutdown()
                left = _nothing_left(rootfs, scratch)
            assert left == "", f"after {n + 1} kills, seed {seed}:\n{left}"
    assert len(Path("/proc/self/mountinfo").read_text().splitlines()) == mounts


def test_a_living_owner_is_left_alone(rootfs: str, tmp_path: Path) -> None:
    """Starts and sweeps of others, many at once, take nothing from one that lives."""
    code = f"""
import fastctr
for _ in range(3):
    assert fastctr.run(["sh", "-c", "exit 3"], rootfs={rootfs!r}).returncode == 3
    fastctr.gc()
    fastctr.shutdown()
"""
    with fastctr.Container(["sleep", "60"], rootfs=rootfs) as c:
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        for _ in range(3):
            others = [subprocess.Popen([sys.executable, "-c", code], env=env, stderr=subprocess.PIPE, text=True) for _ in range(6)]
            for other in others:
                _, err = other.communicate(timeout=60)
                assert other.returncode == 0, err
            assert c.poll() is None
            assert fastctr.run(["true"], rootfs=rootfs).returncode == 0
