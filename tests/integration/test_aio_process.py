"""aio.create_container_exec() and aio.Pool."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

import fastctr
from aio_support import On, alive, on
from fastctr import aio

pytestmark = pytest.mark.needs_root
__all__ = ["on"]


def test_streams(on: On, rootfs: str) -> None:
    async def main() -> None:
        process = await aio.create_container_exec(["cat"], rootfs=rootfs, stdin=aio.PIPE, stdout=aio.PIPE, limit=4096)
        assert process.stdin is not None and process.stdout is not None and process.stderr is None
        for n in range(20):
            process.stdin.write(b"line %d\n" % n)
            await process.stdin.drain()
            assert await process.stdout.readline() == b"line %d\n" % n
        assert process.returncode is None
        process.stdin.close()
        await process.stdin.wait_closed()
        assert await process.wait() == process.returncode == 0
        assert await process.stdout.read() == b""
        assert process.usage.cpu_total is not None

    on(main())


def test_communicate(on: On, rootfs: str) -> None:
    async def main() -> None:
        process = await aio.create_container_exec(["sh", "-c", "cat; echo e >&2; exit 5"], rootfs=rootfs,
                                                  stdin=aio.PIPE, stdout=aio.PIPE, stderr=aio.PIPE)
        big = os.urandom(500_000)
        assert await process.communicate(big) == (big, b"e\n")
        assert process.returncode == 5
        process.kill()  # harmless by now
        process.terminate()
        process = await aio.create_container_exec(["true"], rootfs=rootfs, stdin=aio.PIPE)
        assert await process.communicate(big) == (None, None)

    on(main())


def test_waiting_may_be_given_up(on: On, rootfs: str) -> None:
    """As with asyncio's own: it goes on, until it is killed."""

    async def main() -> None:
        process = await aio.create_container_exec(["sh", "-c", "echo x; sleep 61 & sleep 62"], rootfs=rootfs, stdout=aio.PIPE)
        for wait in (process.wait, process.communicate):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(wait(), 0.1)
        assert process.returncode is None and alive() == 2
        process.kill()
        assert await process.wait() == -9 and process.killed_by == "signal"
        assert alive() == 0

    on(main())


def test_signals_figures_and_limits(on: On, rootfs: str) -> None:
    async def main() -> None:
        script = "trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done"
        async with await aio.create_container_exec(["sh", "-c", script], rootfs=rootfs, memory="64m", stdout=aio.PIPE,
                                                   timings=True) as process:
            assert await process.stdout.readline() == b"ready\n"
            await process.pause()
            before = process.stats().cpu_total
            await asyncio.sleep(0.1)
            assert process.stats().cpu_total - before < 0.02
            await process.resume()
            await process.update(memory="32m")
            assert process.stats().memory_limit == 32 << 20
            assert process.pid in process.pids() and process.cgroups
            assert process.timings.total > 0
            process.terminate()
            assert await process.wait() == 9
            assert process.timings.total > 0
        stopped = await aio.create_container_exec(["sleep", "61"], rootfs=rootfs)
        assert await stopped.stop(timeout=0.1) == -9

    on(main())


def test_exec(on: On, rootfs: str) -> None:
    async def main() -> None:
        async with await aio.create_container_exec(["sleep", "61"], rootfs=rootfs, env={"A": "b"}) as process:
            command = await process.exec(["sh", "-c", "cat; echo $A; exit 6"], stdin=aio.PIPE, stdout=aio.PIPE)
            assert await command.communicate(b"in\n") == (b"in\nb\n", None)
            assert command.returncode == 6 and process.returncode is None
            with pytest.raises(fastctr.CommandNotFound):
                await process.exec(["no-such"])
            held = await process.exec(["sleep", "62"])
        assert await held.wait() == -9 and process.returncode == -9
        assert alive() == 0

    on(main())


def test_terminal(on: On, rootfs: str) -> None:
    async def main() -> None:
        process = await aio.create_container_exec(["sh", "-c", "stty size; read x; echo got $x"], rootfs=rootfs, tty=(30, 90))
        assert await process.stdout.readline() == b"30 90\r\n"
        await process.resize(31, 91)
        process.stdin.write(b"word\n")
        assert b"got word" in await process.stdout.read()
        assert await process.wait() == 0
        process.stdin.close()

    on(main())
    gc.collect()


def test_context_manager_kills_also_when_cancelled(on: On, rootfs: str) -> None:
    async def main() -> None:
        async def body() -> None:
            async with await aio.create_container_exec(["sleep", "61"], rootfs=rootfs, stdout=aio.PIPE):
                await asyncio.sleep(60)

        task = asyncio.create_task(body())
        await asyncio.sleep(0.15)
        assert alive() == 1
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert alive() == 0

    on(main())


# ---- the pool


def test_pool_runs(on: On, rootfs: str) -> None:
    async def main() -> None:
        async with aio.Pool(rootfs=rootfs, size=3, max_running=4) as pool:
            assert pool.metrics()["ready"] >= 3
            done = await pool.run(["echo", "x"], capture_output=True, text=True)
            assert done.stdout == "x\n"
            task = pool.submit(["sh", "-c", "exit 3"])
            assert isinstance(task, asyncio.Task) and (await task).returncode == 3
            running = pool.submit(["sleep", "61"])
            await asyncio.sleep(0.1)
            assert pool.metrics()["running"] == 1 and alive() == 1
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            assert alive() == 0
            with pytest.raises(fastctr.TimeoutExpired):
                await pool.run(["sleep", "61"], timeout=0.1)
            kept = pool.submit(["sh", "-c", "sleep 0.1; exit 4"])
        assert kept.result().returncode == 4
        counts = pool.metrics()
        found = {name: counts[name] for name in ("started", "done", "failed", "killed", "errors", "running", "pending")}
        assert found == {"started": 4, "done": 1, "failed": 2, "killed": 1, "errors": 1, "running": 0, "pending": 0}
        assert counts["warm"] + counts["direct"] == 4
        with pytest.raises(RuntimeError):
            pool.submit(["true"])

    on(main())


def test_pool_map(on: On, rootfs: str) -> None:
    taken: list[int] = []

    async def source() -> AsyncIterator[list[str]]:
        for n in range(40):
            taken.append(n)
            yield ["sh", "-c", f"echo {n}"]
            await asyncio.sleep(0)

    async def main() -> None:
        async with aio.Pool(rootfs=rootfs, size=4, max_running=4) as pool:
            got = []
            async for done in pool.map(source(), window=6, capture_output=True, text=True):
                got.append(int(done.stdout))
                assert len(taken) <= len(got) + 7  # lazily taken
            assert got == list(range(40))
            codes = [done.returncode async for done in pool.map([["sh", "-c", f"exit {n}"] for n in range(5)])]
            assert codes == [0, 1, 2, 3, 4]
            with pytest.raises(fastctr.CommandNotFound):
                async for _ in pool.map([["true"], ["no-such"], ["sleep", "61"]]):
                    pass
            assert alive() == 0
            mixed = [done async for done in pool.map([["true"], ["no-such"], ["true"]], return_exceptions=True)]
            assert isinstance(mixed[1], fastctr.CommandNotFound) and mixed[2].returncode == 0
            async with contextlib.aclosing(pool.map(["sleep", "61"] for _ in range(1000))) as endless:
                pending = asyncio.ensure_future(anext(endless))
                await asyncio.sleep(0.1)
                pending.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await pending
            assert alive() == 0

    on(main())


def test_pool_back_pressure(rootfs: str) -> None:
    async def main() -> None:
        async with aio.Pool(rootfs=rootfs, size=2, max_running=2, max_pending=3) as pool:
            tasks = []
            with pytest.raises(asyncio.QueueFull):
                for _ in range(10):
                    tasks.append(pool.submit(["sleep", "0.1"]))
            assert 3 <= len(tasks) <= 5
            for _ in range(8):
                await pool.room()
                tasks.append(pool.submit(["true"]))
            for n in range(60):  # also when some are cancelled at once
                await pool.room()
                extra = pool.submit(["true"])
                if n % 3 == 0:
                    extra.cancel()
            results = await asyncio.gather(*tasks, *(pool.run(["true"]) for _ in range(12)))
            assert all(done.returncode == 0 for done in results)
            assert pool.metrics()["running"] == 0
        assert pool.metrics()["pending"] == 0

    asyncio.run(main())


def test_pool_left_by_an_error(rootfs: str) -> None:
    async def main() -> None:
        began = time.monotonic()
        with pytest.raises(ZeroDivisionError):
            async with aio.Pool(rootfs=rootfs, max_running=2) as pool:
                tasks = [pool.submit(["sleep", "61"]) for _ in range(6)]
                await asyncio.sleep(0.2)
                raise ZeroDivisionError
        assert time.monotonic() - began < 5 and alive() == 0
        assert all(task.cancelled() for task in tasks)

    asyncio.run(main())


@pytest.mark.parametrize("bad", [{"size": -1}, {"max_running": 0}, {"max_pending": 0}, {"size": "8"}, {"plan": fastctr.Plan(rootfs="host")}], ids=str)
def test_pool_arguments(rootfs: str, bad: dict[str, Any]) -> None:
    async def main() -> None:
        with pytest.raises(ValueError):
            aio.Pool(rootfs=rootfs, **bad)

    asyncio.run(main())


def test_pool_of_a_plan_that_cannot_be_prepared(rootfs: str, tmp_path: Any) -> None:
    async def main() -> None:
        async with aio.Pool(rootfs="host", mnt="host", size=2) as pool:
            assert not (await pool.run(["true"])).warm
        async with aio.Pool(rootfs=rootfs, upper=str(tmp_path / "upper"), size=2, max_running=1) as pool:
            assert (await pool.run(["touch", "/x"])).returncode == 0
            assert (await pool.run(["test", "-e", "/x"])).returncode == 0
            assert pool.metrics()["direct"] == 2

    asyncio.run(main())
