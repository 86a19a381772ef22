"""aio.Pool: a plan's containers kept prepared, so many at a time, for one loop."""

from __future__ import annotations

import asyncio
import os
from functools import partial

from .aio_job import run_plan
from .aio_threads import in_thread, whatever
from .plan import Plan, given_plan
from .pool import MOST, whole

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from typing import Any

    from . import _core
    from .results import Completed
    from .spec import Spec


class Pool:
    """Containers of one plan for a loop: `size` kept prepared, `max_running` at a time.

    plan, or the keywords of one. max_running: default the greater of size and 4 for each processor; a
    container takes up to 8 descriptors. max_pending: so many may wait for their turn (submit() raises
    asyncio.QueueFull beyond that, run() waits); None: any number.

    As an async context manager: entering makes the plan and prepares, leaving waits for what was
    submitted, or with an exception cancels it. Raises as fastctr.Plan() and fastctr.run().
    """

    def __init__(self, plan: Plan | None = None, *, size: int = 8, max_running: int | None = None,
                 max_pending: int | None = None, spec: Spec | None = None, **spec_fields: Any) -> None:  # fmt: skip
        self.size = whole("size", size, 0, MOST)
        for name, value in (("max_running", max_running), ("max_pending", max_pending)):
            if value is not None:
                whole(name, value, 1, 1 << 20)
        if plan is not None:
            given_plan(plan, spec, spec_fields)
        self.max_running = max_running or max(size, 4 * (os.cpu_count() or 1))
        self.max_pending = max_pending
        self._given = (spec, spec_fields)
        self._plan = plan
        self._own = plan is None
        self._turns = asyncio.Semaphore(self.max_running)
        self._room = asyncio.Event()
        self._room.set()
        self._tasks: set[asyncio.Task[Completed]] = set()
        self._waiting: set[object] = set()
        self._closed = False
        self._core: _core.Plan | None = None
        self._held = 0
        self._counts = dict.fromkeys(("started", "warm", "direct", "running", "done", "failed", "killed", "errors"), 0)

    @property
    def plan(self) -> Plan:
        """Its plan, once it is entered."""
        if self._plan is None:
            raise ValueError("the pool has no plan before it is entered: use `async with`")
        return self._plan

    # ---- prepared ones

    async def warmup(self, n: int | None = None, timeout: float | None = None) -> int:
        """Wait until n (by default size) are ready, or `timeout` seconds have passed: how many are.

        Raises what a start would. A plan that cannot be prepared (upper=, mnt="host", files to copy)
        keeps nothing ready: 0.
        """
        plan = self._plan
        if plan is None:
            spec, fields = self._given
            if "image" in fields:
                plan = await in_thread(lambda: Plan(spec, **fields))
            else:
                plan = Plan(spec, **fields)
            self._plan = plan
        await in_thread(self._hold)
        wanted = self.size if n is None else whole("n", n, 0, MOST)
        if not plan.prepares or wanted == 0:
            return 0
        loop = asyncio.get_running_loop()
        until = None if timeout is None else loop.time() + timeout
        while True:
            core = plan.core()
            ready, prepared, _ = core.counters()
            if ready >= wanted or (until is not None and loop.time() >= until):
                return ready
            if prepared < wanted:
                await in_thread(partial(core.warm, min(prepared + 4, wanted)))
            else:
                core.hold(0)
                await asyncio.sleep(0.001)

    def _hold(self) -> None:
        """Have the core keep `size` ready, of the plan as it is compiled now."""
        core = self.plan.core()
        old, self._core = self._core, core
        if old is core:
            return
        if old is not None:
            old.hold(-self._held)
        self._held = self.size if self.plan.prepares else 0
        core.hold(self._held)

    # ---- jobs

    async def run(self, argv: Any = None, **launch: Any) -> Completed:
        """As aio.run() of the pool's plan, when its turn has come. Waits first while max_pending wait."""
        await self.room()
        if self._closed:
            raise RuntimeError("the pool is closed")
        return await self._run(argv, launch, self._wait())

    async def _run(self, argv: Any, launch: dict[str, Any], waiting: object) -> Completed:
        try:
            if self._plan is None or self._core is not self._plan._compiled:
                await self.warmup(0)
            await self._turns.acquire()
        finally:
            self._waits_no_more(waiting)
        counts = self._counts
        try:
            counts["running"] += 1
            try:
                done = await run_plan(self.plan, argv, **launch)
            except BaseException as error:
                self._count(getattr(error, "completed", None))
                raise
            self._count(done)
            return done
        finally:
            counts["running"] -= 1
            self._turns.release()

    def _count(self, done: Completed | None) -> None:
        counts = self._counts
        if done is None:
            counts["errors"] += 1
            return
        counts["started"] += 1
        counts["warm" if done.warm else "direct"] += 1
        counts["killed" if done.killed_by else "failed" if done.returncode else "done"] += 1

    def _wait(self) -> object:
        """One job more that waits for its turn."""
        waiting = object()
        self._waiting.add(waiting)
        if self.max_pending is not None and len(self._waiting) >= self.max_pending:
            self._room.clear()
        return waiting

    def _waits_no_more(self, waiting: object) -> None:
        self._waiting.discard(waiting)
        if self.max_pending is None or len(self._waiting) < self.max_pending:
            self._room.set()

    def _task(self, argv: Any, launch: dict[str, Any]) -> asyncio.Task[Completed]:
        waiting = self._wait()
        task = asyncio.get_running_loop().create_task(self._run(argv, launch, waiting))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: self._waits_no_more(waiting))  # cancelled before its first step
        return task

    def submit(self, argv: Any = None, **launch: Any) -> asyncio.Task[Completed]:
        """A task of run(); cancelling it kills everything in its container. Raises asyncio.QueueFull when
        max_pending are waiting: await room() before."""
        if self._closed:
            raise RuntimeError("the pool is closed")
        if self.max_pending is not None and len(self._waiting) >= self.max_pending:
            raise asyncio.QueueFull
        return self._task(argv, launch)

    async def room(self) -> None:
        """Until fewer than max_pending wait: submit() has room then, until the next await."""
        while not self._room.is_set():
            await self._room.wait()

    async def map(self, argvs: Any, *, window: int | None = None, return_exceptions: bool = False,
                  **launch: Any) -> AsyncIterator[Completed]:  # fmt: skip
        """The results of run() for each argv of an iterable or async iterator, in order.

        Lazy on both ends: at most `window` (default twice max_running) are taken from argvs before their
        results are consumed. An error is raised in its turn, and the rest cancelled; with
        return_exceptions it is given as a result. Leaving the loop early cancels what runs: use
        contextlib.aclosing() to have that done at once.
        """
        ahead = max(1, window if window is not None else 2 * self.max_running)
        source = _items(argvs)
        tasks: list[asyncio.Task[Completed]] = []
        at, more = 0, True
        try:
            while True:
                while more and len(tasks) - at < ahead:
                    try:
                        argv = await anext(source)
                    except StopAsyncIteration:
                        more = False
                        break
                    if self._closed:
                        raise RuntimeError("the pool is closed")
                    tasks.append(self._task(argv, launch))
                    if at < len(tasks) - 1 and tasks[at].done():
                        break  # a result to give: the source may take its time
                if at == len(tasks):
                    return
                task = tasks[at]
                at += 1
                if at > 256:
                    del tasks[:at]
                    at = 0
                if return_exceptions:
                    await asyncio.wait([task])
                    if not task.cancelled() and task.exception() is not None:
                        yield task.exception()  # type: ignore[misc]
                        continue
                yield await task
        finally:
            await _cancel(tasks[at:])
            await source.aclose()

    def metrics(self) -> dict[str, int]:
        """Counts since it was made, and how it is now; the same as of fastctr.Pool.

        started: jobs whose container ran; of them warm (a prepared container was there) and direct (none
        was); done (exit 0), failed (another exit code), killed (timeout, oom, signal); errors (not started,
        or cancelled); running and pending (waiting for their turn) now; ready and prepared (all but its
        process) containers now; size.
        """
        ready = prepared = 0
        if self._core is not None and self._core is self.plan._compiled:
            ready, prepared, _ = self._core.counters()
        return {**self._counts, "pending": len(self._waiting), "ready": ready, "prepared": prepared, "size": self.size}

    # ---- its life

    async def close(self, cancel: bool = False) -> None:
        """Take no more jobs, wait for those there are, or cancel them; let go of what is prepared."""
        self._closed = True
        if cancel:
            await _cancel(list(self._tasks))
        while self._tasks:
            await asyncio.wait(list(self._tasks))
        core, self._core = self._core, None
        if core is not None:
            core.hold(-self._held)
        if self._own and self._plan is not None:
            await in_thread(self._plan.close)

    async def __aenter__(self) -> Pool:
        await self.warmup()
        return self

    async def __aexit__(self, kind: Any, *exc: object) -> None:
        await self.close(cancel=kind is not None)

    def __repr__(self) -> str:
        return f"<aio.Pool size={self.size} max_running={self.max_running} {self.metrics()}>"


async def _items(argvs: Any) -> Any:
    if hasattr(argvs, "__aiter__"):
        async for argv in argvs:
            yield argv
    else:
        for argv in argvs:
            yield argv


async def _cancel(tasks: list[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    for task in tasks:
        await whatever(task)
