"""A good guest in the user's process: nothing of it changes, and nothing of the user's is in the way."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import fastctr
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


# ---- waiting beside us


@pytest.fixture(autouse=True)
def no_other_children() -> None:
    """A cluster of an earlier test's has left multiprocessing's tracker, which these would wait for."""
    tracker = sys.modules.get("multiprocessing.resource_tracker")
    if tracker is not None:
        tracker._resource_tracker._stop()


class Thief(threading.Thread):
    """Somebody who waits for every child there is."""

    def __init__(self) -> None:
        super().__init__()
        self.stop = threading.Event()
        self.taken = 0

    def run(self) -> None:
        while not self.stop.is_set():
            try:
                os.waitpid(-1, 0)
                self.taken += 1
            except ChildProcessError:
                time.sleep(0.0002)

    def __enter__(self) -> Thief:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop.set()
        self.join()


def _status_survives() -> bool:
    """Whether a pidfd still tells the status of one that somebody else waited for (Linux 6.15)."""
    numbers = os.uname().release.split("-")[0].split(".")
    return (int(numbers[0]), int(numbers[1])) >= (6, 15)


@pytest.mark.parametrize("kind", KINDS)
def test_somebody_waits_for_all_children(rootfs: str, kind: str) -> None:
    expected = _status_survives() or kind == "init"
    with Thief():
        for code in range(40):
            done = run(["sh", "-c", f"exit {code}"], rootfs=rootfs, **KINDS[kind])
            assert done.returncode == code or not expected
        if kind != "pid-host":
            done = run(["sh", "-c", "kill -9 $$"], rootfs=rootfs, **{**KINDS[kind], "init": True})
            assert done.returncode == -9
        with running(rootfs, **KINDS[kind]) as c:
            for code in range(20):
                command = c.exec(["sh", "-c", f"exit {code}"])
                assert command.wait(10) == code or not expected
                command.close()


@pytest.mark.skipif(not _status_survives(), reason="needs Linux 6.15, whose pidfds tell the status afterwards")
@pytest.mark.parametrize("kind", KINDS)
def test_sigchld_ignored(rootfs: str, kind: str) -> None:
    old = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        for code in (0, 9):
            assert run(["sh", "-c", f"exit {code}"], rootfs=rootfs, **KINDS[kind]).returncode == code
        with running(rootfs, **KINDS[kind]) as c:
            assert c.exec(["sh", "-c", "exit 8"]).wait(10) == 8
    finally:
        signal.signal(signal.SIGCHLD, old)


def test_usage_of_one_that_was_stolen_is_not_made_up(rootfs: str) -> None:
    with Thief():
        usage = [run(["true"], rootfs=rootfs, cgroup=False).usage.cpu_user for _ in range(20)]
    assert all(value is None or value >= 0 for value in usage)


def test_subprocess_beside(rootfs: str) -> None:
    wrong: list[Any] = []

    def others() -> None:
        for code in range(30):
            if subprocess.run(["sh", "-c", f"exit {code}"], check=False).returncode != code:
                wrong.append(code)

    threads = [threading.Thread(target=others) for _ in range(2)]
    for thread in threads:
        thread.start()
    for code in range(60):
        assert run(["sh", "-c", f"exit {code}"], rootfs=rootfs).returncode == code
    for thread in threads:
        thread.join()
    assert wrong == []


def test_no_sigchld_handler_and_no_child_of_ours_to_wait_for(rootfs: str) -> None:
    assert signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL
    run(["true"], rootfs=rootfs)
    assert signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL
    fastctr.shutdown()
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_asyncio_beside(rootfs: str) -> None:
    async def main() -> list[int]:
        async def process(code: int) -> int:
            made = await asyncio.create_subprocess_exec("sh", "-c", f"exit {code}")
            return await made.wait()

        async def container(code: int) -> int:
            done = await asyncio.to_thread(fastctr.run, ["sh", "-c", f"exit {code}"], rootfs=rootfs)
            return done.returncode

        return await asyncio.gather(*(job(code) for code in range(15) for job in (process, container)))

    assert asyncio.run(main()) == [code for code in range(15) for _ in range(2)]


# ---- after a fork


def test_in_the_child_of_a_fork(rootfs: str) -> None:
    run(["true"], rootfs=rootfs)
    with running(rootfs) as c:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                done = run(["sh", "-c", "exit 3"], rootfs=rootfs)
                with running(rootfs) as mine:
                    assert mine.exec(["sh", "-c", "exit 4"]).wait() == 4
                for call in (c.pids, c.stats):
                    try:
                        call()
                    except (ValueError, fastctr.FastctrError):
                        continue
                    raise AssertionError("it is the parent's container")
                fastctr.shutdown()
                code = 0 if done.returncode == 3 else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert c.poll() is None, "the child's end is not the container's"
        assert c.exec(["sh", "-c", "exit 5"]).wait(10) == 5
        assert run(["sh", "-c", "exit 6"], rootfs=rootfs).returncode == 6


def test_a_fork_while_threads_launch(rootfs: str) -> None:
    stop = threading.Event()
    wrong: list[Any] = []

    def work() -> None:
        while not stop.is_set():
            if run(["sh", "-c", "exit 7"], rootfs=rootfs).returncode != 7:
                wrong.append(1)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(12):
            pid = os.fork()
            if pid == 0:
                code = 1
                try:
                    code = run(["sh", "-c", "exit 3"], rootfs=rootfs).returncode
                    fastctr.shutdown()
                finally:
                    os._exit(code)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_the_child_holds_no_namespace_of_ours(rootfs: str) -> None:
    plan = fastctr.Plan(rootfs=rootfs)
    for _ in range(3):
        plan.run(["true"])
    plan.warm(2)
    time.sleep(0.1)
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            links = []
            for name in os.listdir("/proc/self/fd"):
                try:
                    links.append(os.readlink(f"/proc/self/fd/{name}"))
                except OSError:
                    continue
            os.write(write, "\n".join(links).encode())
        finally:
            os._exit(0)
    os.close(write)
    os.waitpid(pid, 0)
    with open(read) as file:
        held = file.read().split("\n")
    assert not [link for link in held if link.startswith(("mnt:", "net:", "ipc:", "pid:", "uts:"))]
    assert not [link for link in held if os.environ["FASTCTR_RUNTIME_DIR"] in link], "the owner's lock would live on"


def _job(rootfs: str, code: int) -> int:
    return fastctr.run(["sh", "-c", f"exit {code}"], rootfs=rootfs).returncode


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_multiprocessing(rootfs: str, method: str) -> None:
    run(["true"], rootfs=rootfs)
    code = f"""
import multiprocessing, fastctr
from integration.test_guest import _job
if __name__ == "__main__":
    fastctr.run(["true"], rootfs={rootfs!r})
    with multiprocessing.get_context({method!r}).Pool(3) as pool:
        got = pool.starmap(_job, [({rootfs!r}, n) for n in range(12)])
        pool.close()
        pool.join()
    assert got == list(range(12)), got
    assert multiprocessing is not None
"""
    python(code)
    assert multiprocessing.get_start_method(allow_none=True) in (None, "fork", "spawn", "forkserver")


# ---- threads


def test_eight_threads_and_mixed_plans(rootfs: str) -> None:
    plans = [fastctr.Plan(rootfs=rootfs, hostname=f"p{n}", **kind) for n, kind in enumerate(KINDS.values())]
    if os.geteuid() == 0:
        plans.append(fastctr.Plan(rootfs=rootfs, hostname=f"p{len(plans)}", memory="64m", pids=20))
    wrong: list[Any] = []

    def work(number: int) -> None:
        for n in range(100):
            which = (number + n) % len(plans)
            try:
                done = plans[which].run(["sh", "-c", f"hostname; exit {n}"], capture_output=True, timeout=60)
                if (done.stdout, done.returncode) != (f"p{which}\n".encode(), n):
                    wrong.append((which, n, done))
            except Exception as error:  # noqa: BLE001 whatever it is, it is wrong
                wrong.append((which, n, error))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_one_thread_of_ours_that_ends_with_shutdown(rootfs: str) -> None:
    def ours() -> list[str]:
        names = [Path(f"/proc/self/task/{task}/comm").read_text().strip() for task in os.listdir("/proc/self/task")]
        return [name for name in names if "fastctr" in name]

    before = len(os.listdir("/proc/self/task"))
    for n in range(20):
        run(["true"], rootfs=rootfs, hostname=f"h{n % 4}")
    with running(rootfs):
        assert ours() == ["fastctr"]
        assert len(os.listdir("/proc/self/task")) == before + 1
    fastctr.shutdown()
    assert ours() == []
    assert len(os.listdir("/proc/self/task")) == before


def test_shutdown_while_another_thread_runs_one(rootfs: str) -> None:
    outcome: list[Any] = []

    def work() -> None:
        try:
            outcome.append(run(["sleep", "1"], rootfs=rootfs).returncode)
        except Exception as error:  # noqa: BLE001 a clear error will do, a crash will not
            outcome.append(error)

    for _ in range(3):
        thread = threading.Thread(target=work)
        thread.start()
        time.sleep(0.2)
        fastctr.shutdown()
        assert run(["true"], rootfs=rootfs).returncode == 0
        thread.join()
        fastctr.shutdown()
    assert len(outcome) == 3


def test_at_exit_with_a_thread_still_running_one(rootfs: str) -> None:
    code = f"""
import threading, time, fastctr
fastctr.run(["true"], rootfs={rootfs!r})
threading.Thread(target=lambda: fastctr.run(["sleep", "66"], rootfs={rootfs!r}), daemon=True).start()
kept = fastctr.Container(["sleep", "67"], rootfs={rootfs!r})
time.sleep(0.3)
"""
    python(code)
    run(["true"], rootfs=rootfs)  # sweeps
