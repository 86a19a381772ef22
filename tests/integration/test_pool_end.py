"""Pool: its end, by every way, and what it lives beside: forks, threads, subprocess, asyncio."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

fastctr = pytest.importorskip("fastctr")
from fastctr.pool import Pool  # noqa: E402
from support import until  # noqa: E402

pytestmark = pytest.mark.needs_root


@pytest.fixture
def pool(rootfs):
    with Pool(rootfs=rootfs, memory="64m", pids=32, size=4) as made:
        yield made


# ---- the end


def test_close_waits_for_what_was_submitted(rootfs):
    pool = Pool(rootfs=rootfs, size=2)
    futures = [pool.submit(["sh", "-c", "sleep 0.1; exit 4"]) for _ in range(6)]
    pool.close()
    assert [future.result(0).returncode for future in futures] == [4] * 6
    pool.close()
    for use in (lambda: pool.run(["true"]), lambda: pool.submit(["true"]), pool.warmup, lambda: pool.map([["true"]])):
        with pytest.raises(RuntimeError):
            use()
    assert pool.metrics()["workers"] == pool.metrics()["ready"] == 0


def test_close_cancel_kills_and_starts_no_more(rootfs):
    pool = Pool(rootfs=rootfs, size=2, workers=2)
    futures = [pool.submit(["sleep", "1000"]) for _ in range(9)]
    until(lambda: pool.metrics()["running"] == 2)
    begun = time.monotonic()
    pool.close(cancel=True)
    assert time.monotonic() - begun < 3
    assert all(future.cancelled() for future in futures)


def test_leaving_by_an_exception_kills(rootfs):
    begun = time.monotonic()
    with pytest.raises(KeyError), Pool(rootfs=rootfs, size=2) as pool:
        pool.submit(["sleep", "1000"])
        raise KeyError
    assert time.monotonic() - begun < 3


def test_a_pool_that_is_forgotten_goes(rootfs):
    import gc

    pool = Pool(rootfs=rootfs, size=2)
    pool.submit(["true"]).result()
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("fastctr-pool")]
    assert len(threads) == 1
    del pool
    gc.collect()
    until(lambda: not any(thread.is_alive() for thread in threads))


def script(text: str, *args: str, **kw) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", textwrap.dedent(text), *args], capture_output=True, text=True,
                          timeout=60, check=False, **kw)


def test_the_end_of_the_interpreter(rootfs):
    """Nobody closed it: what was submitted is done first, and nothing stays."""
    done = script("""
        import sys, fastctr
        from fastctr.pool import Pool
        pool = Pool(rootfs=sys.argv[1], size=2)
        futures = [pool.submit(["sh", "-c", "sleep 0.1; echo done"]) for _ in range(4)]
    """, rootfs)
    assert (done.stdout, done.stderr, done.returncode) == ("done\n" * 4, "", 0)


def test_ctrl_c_in_run_submit_and_map(rootfs):
    done = script("""
        import os, signal, sys, threading, time, fastctr
        from fastctr.pool import Pool
        def later():
            time.sleep(0.4)
            os.kill(os.getpid(), signal.SIGINT)
        with Pool(rootfs=sys.argv[1], size=2, workers=1, max_pending=1) as pool:
            for use in (lambda: pool.run(["sleep", "1000"]), lambda: [pool.submit(["sleep", "1000"]) for _ in range(9)]):
                threading.Thread(target=later).start()
                try:
                    use()
                except KeyboardInterrupt:
                    print("stopped")
                    pool._workers.cancel_pending()
                    for future in list(pool._workers._running):
                        future.cancel()
            print(pool.run(["echo"], capture_output=True).returncode)
        try:
            with Pool(rootfs=sys.argv[1], size=2) as pool:
                threading.Thread(target=later).start()
                for done in pool.map([["sleep", "1000"]] * 5):
                    pass
        except KeyboardInterrupt:
            print("left")
    """, rootfs)
    assert (done.stdout, done.stderr, done.returncode) == ("stopped\nstopped\n0\nleft\n", "", 0)


def test_in_the_child_of_a_fork(pool):
    pool.warmup()
    pool.submit(["true"]).result()
    busy = pool.submit(["sleep", "0.3"])
    pid = os.fork()
    if pid == 0:
        code = 9
        try:
            ok = pool.run(["true"]).returncode == 0 and pool.submit(["sh", "-c", "exit 5"]).result(20).returncode == 5
            ok = ok and pool.metrics()["started"] == 2 and pool.warmup() >= 4
            pool.close()
            fastctr.shutdown()
            code = 0 if ok else 8
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert busy.result().returncode == 0
    assert pool.run(["true"]).returncode == 0


def test_beside_subprocess(pool):
    pool.warmup()
    futures = [pool.submit(["sh", "-c", "exit 3"]) for _ in range(40)]
    codes = [subprocess.run(["sh", "-c", "exit 2"], check=False).returncode for _ in range(20)]
    children = [subprocess.Popen(["sleep", "0.1"]) for _ in range(5)]
    assert codes == [2] * 20
    assert [future.result().returncode for future in futures] == [3] * 40
    assert [child.wait() for child in children] == [0] * 5


def test_beside_asyncio(pool):
    async def main() -> None:
        process = await asyncio.create_subprocess_exec("sleep", "0.2")
        results = await asyncio.gather(*(asyncio.wrap_future(pool.submit(["sh", "-c", f"exit {n}"])) for n in range(9)))
        assert [done.returncode for done in results] == list(range(9))
        assert await process.wait() == 0
        task = asyncio.wrap_future(pool.submit(["sleep", "1000"]))
        until(lambda: pool.metrics()["running"])
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(task, 0.2)
        until(lambda: not pool.metrics()["running"])  # its cancelling killed it

    asyncio.run(main())


def test_with_sigchld_ignored(rootfs):
    done = script("""
        import signal, sys, fastctr
        from fastctr.pool import Pool
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        with Pool(rootfs=sys.argv[1], size=3) as pool:
            pool.warmup()
            print(sum(pool.submit(["true"]).result().returncode == 0 for _ in range(20)))
    """, rootfs)
    assert done.stderr == ""
    assert int(done.stdout) == 20 or os.uname().release < "6.15"  # before, nobody can tell: returncode 255


def test_many_threads_run_and_submit(pool):
    wrong: list[object] = []

    def work(n: int) -> None:
        try:
            for i in range(12):
                done = pool.run(["sh", "-c", f"echo {n}-{i}"], capture_output=True, text=True)
                other = pool.submit(["sh", "-c", f"echo {n}+{i}"], capture_output=True, text=True).result()
                if (done.stdout, other.stdout) != (f"{n}-{i}\n", f"{n}+{i}\n"):
                    wrong.append((done, other))
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    found = pool.metrics()
    assert (found["done"], found["running"], found["warm"] + found["direct"]) == (144, 0, 144)


def parked() -> list[int]:
    """Our parked processes that live."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                name, _, rest = Path("/proc", entry, "stat").read_text().partition("(")[2].rpartition(") ")
            except OSError:
                continue
            if name == "fctr-parked" and int(rest.split()[1]) == os.getpid() and rest[0] not in "ZX":
                found.append(int(entry))
    return found


def test_a_prepared_one_that_is_killed_is_replaced(pool):
    pool.warmup()
    found = parked()
    assert len(found) >= 4
    for pid in found:
        os.kill(pid, signal.SIGKILL)
    until(lambda: not set(found) & set(parked()))  # one that is woken before it dies is a job that was killed
    assert [pool.run(["true"]).returncode for _ in range(6)] == [0] * 6
