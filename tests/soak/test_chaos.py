"""Processes killed at random moments: the next start works, and nothing is left of them.

FASTCTR_CHAOS_ROUNDS is how many kills in all (a small number here; 200 by `make soak`); FASTCTR_TEST_SEED
gives other moments.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import fastctr
from soak_support import Before, processes_named

ROUNDS = int(os.environ.get("FASTCTR_CHAOS_ROUNDS", "20"))
SEED = int(os.environ.get("FASTCTR_TEST_SEED", "20"))
pytestmark = [pytest.mark.needs_root, pytest.mark.soak, pytest.mark.timeout(120 + 5 * ROUNDS)]
KINDS = ("user", "pool", "aio", "batch", "zygote", "slots")


def start(kind: str, rootfs: str, scratch: Path) -> subprocess.Popen[str]:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    here = Path(__file__).parent / "victims.py"
    return subprocess.Popen([sys.executable, str(here), kind, rootfs, str(scratch)], env=env, text=True,
                            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_the_launching_process_is_killed(kind: str, rootfs: str, tmp_path: Path) -> None:
    chance = random.Random(f"{SEED} {kind}")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    before = Before(scratch)
    rounds = max(ROUNDS // (len(KINDS) + 1), 1)
    for n in range(rounds):
        victim = start(kind, rootfs, scratch)
        with victim:
            assert victim.stdout is not None and victim.stderr is not None
            first = victim.stdout.readline()
            assert first == "ready\n", first + victim.stderr.read()
            time.sleep(chance.random() * 0.15)
            victim.kill()
            assert victim.wait() == -signal.SIGKILL, victim.stderr.read()
        assert fastctr.run(["true"], rootfs=rootfs).returncode == 0  # the next start sweeps
        _nothing_left(before, f"{kind}, kill {n + 1}, seed {SEED}")
    if kind == "batch":
        _no_job_twice(Path(f"{scratch}.results"), rounds)


def _no_job_twice(results: Path, rounds: int) -> None:
    """Resumed after every kill: each finished job has one result, and only the last line may be torn."""
    lines = results.read_text().split("\n")
    ids = [json.loads(line)["id"] for line in lines[:-1] if line]
    assert len(set(ids)) == len(ids) and len(ids) >= rounds - 1


def _nothing_left(before: Before, when: str) -> None:
    left = before.left()
    for _ in range(40):  # a killed one may take a moment to go
        if not left:
            return
        time.sleep(0.1)
        fastctr.gc()
        left = before.left()
    raise AssertionError(f"left after {when}:\n" + "\n".join(left))


def test_a_zygote_is_killed(tmp_path: Path) -> None:
    """Under its user, who goes on: a call may fail with a clear error, and the next ones work."""
    from fastctr.zygote import Zygote

    chance = random.Random(f"{SEED} own zygote")
    before = Before(tmp_path)
    for n in range(max(ROUNDS // (len(KINDS) + 1) // 2, 2)):
        with Zygote(rootfs="host", memory="128m", size=2) as zygote:
            assert zygote.call(os.getpid) == 1
            job = zygote.start_call(time.sleep, (chance.random() * 0.1,))
            found = _seen("fastctr_zygote")  # its forks are called the same, and are younger
            time.sleep(chance.random() * 0.1)
            for pid in found[:1]:
                os.kill(pid, signal.SIGKILL)
            try:
                job.result(timeout=10)
            except fastctr.FastctrError:
                pass
            assert _works(lambda zygote=zygote: zygote.call(os.getpid) == 1)
        _nothing_left(before, f"a zygote's kill {n + 1}, seed {SEED}")


def _seen(name: str) -> list[int]:
    """The pids of what is called that, once there is one: it may be replaced this moment."""
    for _ in range(100):
        found = sorted(processes_named(name))
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"no {name} to be seen")


def _works(call: object) -> bool:
    """Now, or after one more error that tells of the kill."""
    for _ in range(5):
        try:
            return bool(call())  # type: ignore[operator]
        except fastctr.FastctrError:
            time.sleep(0.05)
    return False


def test_a_keeper_of_slots_is_killed(rootfs: str, tmp_path: Path) -> None:
    """Under its user, who goes on with other slots."""
    from fastctr.slots import Slots

    chance = random.Random(f"{SEED} keeper")
    before = Before(tmp_path)
    for n in range(max(ROUNDS // (len(KINDS) + 1) // 2, 2)):
        with Slots(rootfs=rootfs, memory="64m", size=2) as slots:
            assert slots.run(["true"]).returncode == 0
            future = slots.submit(["sleep", str(chance.random() * 0.1)])
            found = _seen("fctr-keep")
            time.sleep(chance.random() * 0.1)
            for pid in found:
                os.kill(pid, signal.SIGKILL)
            future.exception(timeout=10)
            assert _works(lambda slots=slots: slots.run(["true"]).returncode == 0)
        _nothing_left(before, f"a keeper's kill {n + 1}, seed {SEED}")
