"""Slots: one tenant's jobs, one after another in the same few containers (reuse="tenant").

What a slot keeps between jobs: its mounts, its network, ipc and uts namespaces, its control group. Each job
has a pid namespace with a /proc of its own, so it ends whole with its first process. Before the next one
the slot has to prove that it is as it was before its first (csrc/slot.c): every writable file system, System V
and POSIX queues, semaphores and shared memory, sockets and counters of its network, its control group.
tmpfs are emptied; a slot that was changed elsewhere, or that cannot be proven clean, is torn down and
another is made. docs/security.md says what is shared nevertheless.
"""

from __future__ import annotations

import weakref
from functools import partial
from queue import SimpleQueue

from . import context
from .api import run_plan
from .plan import Plan, compile_spec, given_plan
from .pool import MOST, whole
from .slots_check import check
from .workers import Workers, in_order

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from concurrent.futures import Future
    from typing import Any

    from . import _core
    from .results import Completed
    from .spec import Spec


class _Tenant(Plan):
    """A plan whose containers are used again."""

    __slots__ = ()

    def _compile(self) -> _core.Plan:
        return compile_spec(self.spec, tenant=True)


class Slots:
    """A few containers of a plan, for the jobs of one tenant. Jobs that may not trust each other belong in
    `Pool`, whose containers are used once.

    plan, or spec, or the keywords of Plan: what a container is to be. size: how many there are, and so how
    many jobs run at a time (1 to 1024).

    Raises SpecError, naming the field, for what cannot be kept clean between jobs: namespaces shared with
    others, a user namespace (so as root only), an upper layer that is kept, capabilities that change
    namespaces (CAP_SYS_ADMIN, CAP_NET_ADMIN, …), seccomp="unconfined", a writable /proc/sys. Writable binds
    are shared, as they are among all containers that have them.
    """

    def __init__(self, plan: Plan | None = None, *, size: int = 2, spec: Spec | None = None, **fields: Any) -> None:
        self.size = whole("size", size, 1, MOST)
        plan = given_plan(plan, spec, fields)
        check(plan)
        self.plan = _Tenant(plan.spec, use=plan.image)
        self._workers = Workers("slots", size)
        self._closed = False
        self._reset()
        _all.add(self)

    def _reset(self) -> None:
        self._free: SimpleQueue[int] = SimpleQueue()
        self._counts = dict.fromkeys(("done", "failed", "killed"), 0)
        for n in range(self.size):
            self._free.put(n)

    def warmup(self, n: int | None = None) -> int:
        """Make the slots now, or n of them. Returns how many are ready. Raises LaunchError as a start would."""
        self._open()
        self.plan.warm(min(self.size, self.size if n is None else n))
        return self.metrics()["ready"]

    def run(self, argv: Any = None, **launch: Any) -> Completed:
        """As fastctr.run(), in a slot; waits for a free one first. timeout counts from the start of the job.

        limits of a job's own change its slot, which is torn down after it. Raises what fastctr.run() does.
        """
        self._open()
        return self._run(argv, launch)

    def _run(self, argv: Any, launch: dict[str, Any]) -> Completed:
        check = launch.pop("check", False)
        token = self._free.get()
        try:
            done = run_plan(self.plan, argv, **launch)
        except BaseException:
            self._counts["failed"] += 1
            raise
        finally:
            self._free.put(token)
        self._counts["killed" if done.killed_by else "done"] += 1
        if check:
            done.check_returncode()
        return done

    def submit(self, argv: Any, **launch: Any) -> Future[Completed]:
        """run() in a thread of the slots' own, `size` of them. cancel() of one that runs kills it, and returns True."""
        self._open()
        return self._workers.submit(self._job, (argv, launch), {})

    def _job(self, started: Any, argv: Any, launch: dict[str, Any]) -> Completed:
        launch["_started"] = started
        return self._run(argv, launch)

    def map(self, argvs: Iterable[Any], *, window: int | None = None, **launch: Any) -> Iterator[Completed]:
        """run() of each, results in order; at most `window` (four times the size) are begun and not yet taken.
        The first error is raised in its place; that, and leaving the loop, cancels the rest."""
        ahead = 4 * self.size if window is None else whole("window", window, 1, 1 << 20)
        return in_order(partial(self.submit, **launch), iter(argvs), ahead)

    def metrics(self) -> dict[str, int]:
        """Counts since the beginning: done, failed (not started, timed out), killed; size; and of the containers:
        ready (clean, unused), running, destroyed (not clean after a job)."""
        ready, running, destroyed = self.plan.core().slots()
        return {**self._counts, "size": self.size, "ready": ready, "running": running, "destroyed": destroyed}

    def close(self) -> None:
        """Wait for what runs in submit()'s threads, start none of what waits, and tear the slots down."""
        self._closed = True
        self._workers.close(wait=False)
        self._workers.cancel_pending()
        self._workers.close()
        self.plan.close()

    def _open(self) -> None:
        if self._closed:
            raise ValueError("the slots are closed")

    def __enter__(self) -> Slots:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __del__(self) -> None:
        workers = getattr(self, "_workers", None)
        if workers is not None:
            workers.close(wait=False)

    def __repr__(self) -> str:
        return f"Slots({self.plan.spec!r}, size={self.size})"


_all: weakref.WeakSet[Slots] = weakref.WeakSet()


def _after_fork() -> None:
    for slots in list(_all):  # the containers are the parent's, and so are the jobs in them
        slots._reset()


context.on_fork(_after_fork)
