"""Executor: functions, each in a container of its own, by a zygote."""

from __future__ import annotations

import asyncio
import concurrent.futures as cf
import math
import operator
import os
import time

import pytest

fastctr = pytest.importorskip("fastctr")
from fastctr.executor import Executor  # noqa: E402
from support import until  # noqa: E402
from zygote_support import python_fields  # noqa: E402

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_userns]


@pytest.fixture(scope="module")
def fields():
    pytest.importorskip("cloudpickle", reason="functions of a test are not importable in a container: install cloudpickle")
    return {**python_fields(), "memory": "512m", "pids": 64}


@pytest.fixture
def executor(fields):
    with Executor(**fields, max_workers=3, preload=["json"]) as made:
        yield made


def test_results_and_arguments(executor):
    def inside(a, *, b):
        return a + b, os.getpid()

    assert executor.submit(inside, 1, b=2).result() == (3, 1)
    assert executor.submit(math.factorial, 30).result() == math.factorial(30)
    assert executor.submit(["sh", "-c", "echo both"], capture_output=True).result().stdout == b"both\n"
    assert executor.submit(lambda: __import__("sys").modules.keys() >= {"json"}).result()


def test_exceptions(executor):
    def fails():
        raise LookupError("not here")

    future = executor.submit(fails)
    with pytest.raises(LookupError, match="not here"):
        future.result()
    assert isinstance(future.exception(), LookupError)
    assert executor.submit(len, "abc").result() == 3


def test_each_job_has_a_container_of_its_own(executor):
    def plant():
        os.mkdir("/tmp/planted")
        os.environ["PLANTED"] = "1"
        math.planted = 1
        return os.listdir("/tmp")

    def look():
        return [name for name in os.listdir("/tmp") if "planted" in name], os.environ.get("PLANTED"), hasattr(math, "planted")

    assert "planted" in executor.submit(plant).result()
    assert {str(executor.submit(look).result()) for _ in range(4)} == {str(([], None, False))}


def test_map_and_chunks(executor):
    assert list(executor.map(operator.add, range(7), range(10, 17))) == list(range(10, 24, 2))
    assert list(executor.map(lambda n: (n * n, os.getpid()), range(7), chunksize=3)) == [(n * n, 1) for n in range(7)]
    before = executor._engine.zygote.metrics()["started"]
    assert list(executor.map(lambda a, b: a * b, range(100), iter(range(100)), chunksize=30)) == [n * n for n in range(100)]
    assert executor._engine.zygote.metrics()["started"] - before == 4
    results = executor.map(lambda n: 1 // n, [1, 2, 0, 4], chunksize=1)
    assert [next(results), next(results)] == [1, 0]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert list(executor.map(len, [], chunksize=5)) == []


def test_cancel_and_timeouts_kill(executor):
    running = executor.submit(time.sleep, 1000)
    until(lambda: executor.metrics()["running"] and running._kill)
    assert running.cancel()
    until(lambda: executor.metrics()["running"] == 0)
    late = executor.with_options(timeout=0.3).submit(time.sleep, 1000)
    assert isinstance(late.exception(9), fastctr.TimeoutExpired)
    results = executor.map(time.sleep, [0, 1000], timeout=1)
    assert next(results) is None
    with pytest.raises(TimeoutError):
        next(results)
    until(lambda: executor.metrics()["running"] == 0)
    assert executor.submit(len, "ab").result() == 2


def test_limits_and_environment(executor):
    def grow():
        return len(b"x" * (300 << 20))

    assert executor.submit(grow).result() == 300 << 20
    small = executor.with_options(limits={"memory": "100m"}, env={"A": "b"}, cwd="/usr")
    error = small.submit(grow).exception()
    assert error is not None
    assert isinstance(error, MemoryError) or error.completed.killed_by == "oom"
    assert small.submit(lambda: (os.environ["A"], os.getcwd())).result() == ("b", "/usr")


def test_results_that_are_not_plain(executor):
    class Own:
        def __init__(self, n):
            self.n = n

    assert executor.submit(Own, 3).exception() is not None  # it could run code here
    assert executor.with_options(result="pickle").submit(Own, 3).result().n == 3


def test_as_completed_and_run_in_executor(executor):
    futures = {executor.submit(pow, 2, n): n for n in range(9)}
    assert {futures[f]: f.result() for f in cf.as_completed(futures, 30)} == {n: 2**n for n in range(9)}

    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert await asyncio.gather(*(loop.run_in_executor(executor, abs, -n) for n in range(5))) == list(range(5))

    asyncio.run(main())


def test_a_zygote_of_the_callers_own(fields):
    from fastctr.zygote import Zygote

    with Zygote(**fields, size=1) as zygote:
        with Executor(zygote=zygote, max_workers=2) as executor:
            assert executor.submit(len, "abc").result() == 3
            assert executor.submit(["true"]).result().returncode == 0  # by a pool of its plan
        assert zygote.call(len, "ab") == 2
