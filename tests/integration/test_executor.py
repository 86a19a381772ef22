"""Executor: what concurrent.futures promises, of containers."""

from __future__ import annotations

import asyncio
import concurrent.futures as cf
import os
import subprocess
import sys
import textwrap
import threading
import time

import pytest

fastctr = pytest.importorskip("fastctr")
from fastctr.executor import Executor  # noqa: E402
from support import until  # noqa: E402

pytestmark = pytest.mark.needs_root


@pytest.fixture
def executor(rootfs):
    with Executor(rootfs=rootfs, memory="64m", max_workers=3) as made:
        yield made


# ---- commands


def test_it_is_an_executor(executor):
    assert isinstance(executor, cf.Executor)
    future = executor.submit(["sh", "-c", "echo $A; exit 3"], capture_output=True, text=True, env={"A": "b"})
    assert isinstance(future, cf.Future)
    assert (future.result().stdout, future.result().returncode, future.exception()) == ("b\n", 3, None)
    assert executor.submit(("true",)).result().returncode == 0


def test_exceptions_are_the_futures(executor):
    assert isinstance(executor.submit(["no-such-command"]).exception(), fastctr.CommandNotFound)
    assert isinstance(executor.submit(["false"], check=True).exception(), fastctr.CalledProcessError)
    assert isinstance(executor.submit(["true"], nonsense=1).exception(), fastctr.SpecError)
    late = executor.submit(["sleep", "1000"], timeout=0.2)
    with pytest.raises(fastctr.TimeoutExpired):
        late.result()
    assert late.exception().completed.killed_by == "timeout"


def test_what_is_no_job(executor):
    for wrong in (3, None, "echo hi"):
        with pytest.raises(TypeError):
            executor.submit(wrong)
    with pytest.raises(TypeError):
        executor.submit(["echo"], "hi")


def test_wait_as_completed_and_callbacks(executor):
    futures = [executor.submit(["sh", "-c", f"sleep 0.0{n % 3}; exit {n}"]) for n in range(9)]
    told: list[int] = []
    for future in futures:
        future.add_done_callback(lambda f: told.append(f.result().returncode))
    assert {f.result().returncode for f in cf.as_completed(futures, 20)} == set(range(9))
    assert cf.wait(futures, 5).not_done == set()
    until(lambda: sorted(told) == list(range(9)))
    slow = executor.submit(["sleep", "1000"])
    assert cf.wait([slow], 0.05).not_done == {slow}
    slow.cancel()


def test_cancel_kills_and_is_told(executor):
    future = executor.submit(["sleep", "1000"])
    until(lambda: future.running() and executor.metrics().get("running"))
    assert future.cancel()
    assert future.cancelled()
    with pytest.raises(cf.CancelledError):
        future.result()
    until(lambda: executor.metrics()["running"] == 0)
    ended = executor.submit(["true"])
    ended.result()
    assert not ended.cancel()


def test_map_of_commands(executor):
    done = executor.map([["sh", "-c", f"sleep 0.0{5 - n}; exit {n}"] for n in range(5)])
    assert [one.returncode for one in done] == list(range(5))
    done = executor.map([["true"], ["sleep", "1000"], ["sleep", "1000"]], timeout=0.3)
    assert next(done).returncode == 0
    with pytest.raises(TimeoutError):
        next(done)
    until(lambda: executor.metrics()["running"] == 0)  # what was left is killed
    for wrong, error in ((("echo hi",), fastctr.SpecError), (([["true"]], [1]), TypeError)):
        with pytest.raises(error):
            executor.map(*wrong)
    with pytest.raises(fastctr.SpecError, match="chunksize"):
        executor.map([["true"]], chunksize=2)
    with pytest.raises(fastctr.SpecError, match="chunksize"):
        executor.map(len, [""], chunksize=0)


def test_options_and_views(rootfs):
    with Executor(rootfs=rootfs, timeout=0.3, output_limit=4, limits={"memory": "32m"}, max_workers=2) as executor:
        done = executor.submit(["sh", "-c", "echo long enough"], capture_output=True).result()
        assert (done.stdout, done.truncated, done.usage.memory_limit) == (b"long", ("stdout",), 32 << 20)
        assert isinstance(executor.submit(["sleep", "9"]).exception(), fastctr.TimeoutExpired)
        view = executor.with_options(timeout=9, env={"A": "1"}, user=(5, 6), capture_output=True, text=True, output_limit=None)
        script = "sleep .4; echo $A $(id -u) $B"
        assert view.submit(["sh", "-c", script]).result().stdout == "1 5\n"
        assert view.with_options(env={"B": "2"}).submit(["sh", "-c", script]).result().stdout == "5 2\n"
        assert isinstance(executor.submit(["sleep", "9"]).exception(), fastctr.TimeoutExpired)  # as it was
        waiting = view.submit(["sleep", "0.2"])
        view.shutdown()
        assert waiting.done()
        with pytest.raises(RuntimeError):
            view.submit(["true"])
        assert executor.submit(["true"]).result().returncode == 0
        for wrong in ({"timeout": 0}, {"timeout": "soon"}, {"memory": "1g"}, {"nonsense": 1}, {"output_limit": -1}, {"limits": {"memory": "x"}}):
            with pytest.raises(fastctr.SpecError):
                executor.with_options(**wrong)


@pytest.mark.parametrize(
    "kw", [{}, {"rootfs": "/", "max_workers": 0}, {"rootfs": "/", "nonsense": 1}, {"rootfs": "/", "memory": "lots"}, {"rootfs": "/", "timeout": -1},
           {"rootfs": "/", "preload": "json"}, {"rootfs": "/", "limits": {"nonsense": 1}}, {"rootfs": "/", "output_limit": "x"}],
)  # fmt: skip
def test_arguments_are_checked_before_anything_starts(kw):
    threads = threading.active_count()
    with pytest.raises(fastctr.SpecError):
        Executor(**kw)
    assert threading.active_count() == threads


def test_nothing_is_started_before_the_first_job(rootfs):
    fastctr.shutdown()
    from fastctr import context

    with Executor(rootfs=rootfs):
        assert context.current() is None


# ---- the end


def test_shutdown_waits_and_then_refuses(rootfs):
    executor = Executor(rootfs=rootfs, max_workers=2)
    futures = [executor.submit(["sleep", "0.1"]) for _ in range(5)]
    executor.shutdown()
    assert all(future.done() and future.result().returncode == 0 for future in futures)
    executor.shutdown()
    for use in (lambda: executor.submit(["true"]), lambda: executor.map([["true"]]), lambda: executor.with_options(timeout=1)):
        with pytest.raises(RuntimeError, match="after shutdown"):
            use()


def test_shutdown_without_waiting(rootfs):
    executor = Executor(rootfs=rootfs, max_workers=1)
    futures = [executor.submit(["sleep", "0.2"]) for _ in range(2)]
    begun = time.monotonic()
    executor.shutdown(wait=False)
    assert time.monotonic() - begun < 0.15
    with pytest.raises(RuntimeError):
        executor.submit(["true"])
    assert [future.result(9).returncode for future in futures] == [0, 0]
    executor.shutdown()


def test_shutdown_cancels_what_has_not_started(rootfs):
    executor = Executor(rootfs=rootfs, max_workers=1)
    running, *waiting = [executor.submit(["sleep", "0.3"]) for _ in range(5)]
    until(running.running)
    executor.shutdown(cancel_futures=True)
    assert running.result().returncode == 0
    assert all(future.cancelled() for future in waiting)


def test_a_pool_of_the_callers_own(rootfs):
    with fastctr.Plan(rootfs=rootfs) as plan, fastctr.pool.Pool(plan, size=2) as pool:
        pool.warmup()
        with Executor(pool=pool, max_workers=2) as executor:
            assert executor.submit(["true"]).result().warm
            assert executor.metrics()["started"] == pool.metrics()["started"] == 1
        assert pool.run(["true"]).returncode == 0


def test_run_in_executor(executor):
    async def main() -> None:
        loop = asyncio.get_running_loop()
        done = await asyncio.gather(*(loop.run_in_executor(executor, ["sh", "-c", f"exit {n}"]) for n in range(6)))
        assert [one.returncode for one in done] == list(range(6))
        slow = loop.run_in_executor(executor, ["sleep", "1000"])
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(slow, 0.2)
        with pytest.raises(fastctr.CommandNotFound):
            await loop.run_in_executor(executor, ["no-such-command"])

    asyncio.run(main())
    until(lambda: executor.metrics()["running"] == 0)


def test_ctrl_c_within_the_with(rootfs):
    code = """
        import os, signal, sys, threading, time
        from fastctr.executor import Executor
        try:
            with Executor(rootfs=sys.argv[1], max_workers=2) as executor:
                futures = [executor.submit(["sleep", "1000"]) for _ in range(5)]
                threading.Timer(0.4, os.kill, (os.getpid(), signal.SIGINT)).start()
                futures[0].result()
        except KeyboardInterrupt:
            print([future.cancelled() for future in futures], flush=True)
        with Executor(rootfs=sys.argv[1], max_workers=2) as executor:
            pass
        forgotten = Executor(rootfs=sys.argv[1], max_workers=2)
        forgotten.submit(["sh", "-c", "sleep .1; echo last"])
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code), rootfs], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == (f"{[True] * 5}\nlast\n", "")


def test_in_the_child_of_a_fork(executor):
    assert executor.submit(["true"]).result().returncode == 0
    pid = os.fork()
    if pid == 0:
        code = 9
        try:
            code = executor.submit(["sh", "-c", "exit 4"]).result(20).returncode
            executor.shutdown()
            fastctr.shutdown()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 4
    assert executor.submit(["true"]).result().returncode == 0
