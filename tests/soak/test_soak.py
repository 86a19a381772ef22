"""Jobs of mixed outcomes by every way of starting many: each counted exactly once, and nothing left.

FASTCTR_SOAK_JOBS is how many in all (a small number here; 100,000 by `make soak`).
"""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

import fastctr
from conftest import make_rootfs
from fastctr import aio
from fastctr.pool import Pool
from soak_support import CRASH, Before, Tally, job

JOBS = int(os.environ.get("FASTCTR_SOAK_JOBS", "1500"))
pytestmark = [pytest.mark.needs_root, pytest.mark.soak, pytest.mark.timeout(60 + JOBS // 20)]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, busybox: str, compile_c: Callable[[str, str], str]) -> str:
    made = make_rootfs(tmp_path_factory.mktemp("soak"), busybox)
    shutil.copy(compile_c("crash", CRASH), made / "bin/crash")
    return str(made)


def by_plan(fields: dict[str, Any], numbers: range, tally: Tally) -> None:
    """Plan.run() from two threads."""
    plan = fastctr.Plan(**fields)

    def body(mine: range) -> None:
        for n in mine:
            argv, launch = job(n, tally.write)
            try:
                tally.note(n, plan.run(argv, **launch), None)
            except Exception as error:
                tally.note(n, None, error)

    threads = [threading.Thread(target=body, args=(numbers[i::2],)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    plan.close()


def _by_futures(submit: Callable[..., Future[fastctr.Completed]], numbers: range, tally: Tally, ahead: int) -> None:
    waiting: list[tuple[int, Future[fastctr.Completed]]] = []

    def oldest() -> None:
        n, future = waiting.pop(0)
        error = future.exception()
        tally.note(n, None if error else future.result(), error)

    for n in numbers:
        argv, launch = job(n, tally.write)
        waiting.append((n, submit(argv, **launch)))
        if len(waiting) >= ahead:
            oldest()
    while waiting:
        oldest()


def by_pool(fields: dict[str, Any], numbers: range, tally: Tally) -> None:
    """Pool.submit() from four threads."""
    with Pool(size=8, workers=4, max_pending=16, **fields) as pool:
        _by_futures(pool.submit, numbers, tally, 24)
        counts = pool.metrics()
        assert counts["started"] == len(numbers) and counts["errors"] == 0, counts


def by_slots(fields: dict[str, Any], numbers: range, tally: Tally) -> None:
    """Slots.submit(): one tenant's jobs."""
    from fastctr.slots import Slots

    with Slots(size=2, **fields) as slots:
        _by_futures(slots.submit, numbers, tally, 8)


def by_aio(fields: dict[str, Any], numbers: range, tally: Tally) -> None:
    """aio.Pool.submit() on one loop, 64 at a time."""

    async def one(pool: aio.Pool, n: int) -> None:
        argv, launch = job(n, tally.write)
        try:
            tally.note(n, await pool.run(argv, **launch), None)
        except Exception as error:
            tally.note(n, None, error)

    async def main() -> None:
        numbers_left: Iterator[int] = iter(numbers)
        async with aio.Pool(size=8, max_running=64, **fields) as pool:
            while some := list(islice(numbers_left, 256)):
                await asyncio.gather(*(one(pool, n) for n in some))
            counts = pool.metrics()
            assert counts["started"] == len(numbers) and counts["errors"] == 0, counts

    asyncio.run(main())


WAYS: dict[str, tuple[Callable[[dict[str, Any], range, Tally], None], int, dict[str, Any]]] = {
    # of a hundred jobs, and what their containers are besides the rest
    "plan": (by_plan, 20, {}),
    "disk": (by_plan, 5, {"writable": "disk"}),
    "init": (by_plan, 5, {"init": True}),
    "pool": (by_pool, 40, {}),
    "aio": (by_aio, 30, {}),
    "slots": (by_slots, 20, {}),
}


@pytest.mark.parametrize("way", WAYS)
def test_soak(way: str, root: str, tmp_path: Path) -> None:
    run, share, more = WAYS[way]
    numbers = range(max(JOBS * share // 100, 10))
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    fields = {"rootfs": root, "memory": "64m", "pids": 64, **more}
    if fields.get("writable") == "disk":
        fields["scratch_dir"] = str(scratch)
    _counted(run, fields, range(40))  # allocators and caches get what they need
    before = Before(scratch)
    _counted(run, fields, numbers)
    before.check(len(numbers))


def _counted(run: Callable[[dict[str, Any], range, Tally], None], fields: dict[str, Any], numbers: range) -> None:
    tally = Tally()
    try:
        run(fields, numbers, tally)
    finally:
        tally.close()
    tally.check(numbers)
