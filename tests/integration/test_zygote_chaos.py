"""Zygotes, their jobs and their owners killed at any moment: every call has one outcome, and nothing is left."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import fastctr
from fastctr import context
from fastctr.zygote import Zygote
from fastctr.zygote_wire import JobEnded, ZygoteError
from zygote_support import python_fields

pytestmark = pytest.mark.needs_userns


def test_zygotes_killed_at_random_moments():
    """Each of the calls gives its own result, or says that it was killed."""
    chance = random.Random(7)
    outcomes = []
    stop = threading.Event()
    with Zygote(**python_fields(), size=2) as zygote:
        def kill() -> None:
            while not stop.wait(chance.uniform(0.02, 0.12)):
                process = zygote._process
                if process is not None and process.container is not None:
                    process.container.send_signal(signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        try:
            for n in range(25):
                try:
                    outcomes.append(zygote.call(lambda n: (n, os.getpid()), n) == (n, 1))
                except (JobEnded, ZygoteError, fastctr.LaunchError) as error:
                    outcomes.append(error)
        finally:
            stop.set()
            killer.join()
        assert len(outcomes) == 25 and all(outcome is True or isinstance(outcome, Exception) for outcome in outcomes)
        for outcome in outcomes:
            if isinstance(outcome, JobEnded):
                assert outcome.completed.killed_by == "signal"
        assert zygote.call(int, "8") == 8


def test_jobs_killed_at_random_moments():
    chance = random.Random(8)
    with Zygote(**python_fields(), size=2) as zygote:
        for _ in range(15):
            job = zygote.start_call(time.sleep, (chance.uniform(0, 0.01),))
            time.sleep(chance.uniform(0, 0.012))
            job.kill()
            try:
                assert job.result() is None
                assert job.completed.killed_by is None
            except JobEnded as error:
                assert error.completed.killed_by == "signal"
        assert zygote.metrics()["zygotes"] == 1


OWNER = """
import sys, time
sys.path[:0] = {path!r}
from fastctr.zygote import Zygote
from zygote_support import python_fields
z = Zygote(**python_fields(), size=2)
z.warmup()
job = z.start_call(time.sleep, (60,))
print(z._process.container.pid, job.pid, flush=True)
time.sleep(60)
"""


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_the_owners_death_is_everybodys():
    here = [str(Path(fastctr.__file__).parents[1]), str(Path(__file__).parents[1])]
    owner = subprocess.Popen([sys.executable, "-c", OWNER.format(path=here)], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    pids = [int(pid) for pid in owner.stdout.readline().split()]
    assert len(pids) == 2 and all(map(alive, pids))
    owner.kill()
    owner.wait()
    owner.stdout.close()
    until = time.monotonic() + 10
    while any(map(alive, pids)) and time.monotonic() < until:
        time.sleep(0.01)
    assert not any(map(alive, pids))
    while any(name.startswith(f"{owner.pid}-") for name in os.listdir(os.environ["FASTCTR_RUNTIME_DIR"])):
        fastctr.gc()  # its control groups: what the next start of anybody would do
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_fork_of_the_caller_has_a_zygote_of_its_own():
    with Zygote(**python_fields(), size=1) as zygote:
        assert zygote.call(int, "1") == 1
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                code = 0 if zygote.call(int, "2") == 2 else 2
                zygote.close()
                fastctr.shutdown()
            finally:
                os._exit(code)
        assert os.waitpid(pid, 0)[1] == 0
        assert zygote.call(int, "3") == 3
        assert zygote.metrics()["zygotes"] == 1


def test_many_jobs_leave_nothing():
    with Zygote(**python_fields(), size=3) as zygote:
        def batch() -> tuple[int, int]:
            jobs = [zygote.start_call(pow, (2, n)) for n in range(30)]
            assert [job.result() for job in jobs] == [2**n for n in range(30)]
            until = time.monotonic() + 5
            while (zygote.metrics()["running"] or zygote.metrics()["ready"] < 3) and time.monotonic() < until:
                time.sleep(0.01)
            context.get().drain()  # what is torn down, and prepared, in the background
            return len(os.listdir("/proc/self/fd")), threading.active_count()

        batch()
        before = batch()
        for _ in range(4):
            after = batch()
        assert after[1] == before[1]
        assert after[0] <= before[0] + 20
