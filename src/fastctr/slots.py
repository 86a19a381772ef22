"""Slots: one tenant's jobs, one after another in the same few containers (reuse="tenant").

What a slot keeps between jobs: its mounts, its network, ipc and uts namespaces, its control group. Each job
has a pid namespace with a /proc of its own, so it ends whole with its first process. Before the next one
the slot has to prove that it is as it was before its first (csrc/slot.c): every writable file system, System V
and POSIX queues, semaphores and shared memory, sockets and counters of its network, its control group.
tmpfs are emptied; a slot that was changed elsewhere, or that cannot be proven clean, is torn down and
another is made. docs/security.md says what is shared nevertheless.
"""

from __future__ import annotations

from .api import run_plan
from .errors import SpecError
from .plan import Plan
from .slots_check import check

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from concurrent.futures import Future
    from typing import Any

    from .results import Completed
    from .spec import Spec

SIZE_MAX = 1024


class _Tenant(Plan):
    """A plan whose containers are used again."""

    __slots__ = ()
    tenant = True


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
        from queue import SimpleQueue

        if not isinstance(size, int) or isinstance(size, bool) or not 1 <= size <= SIZE_MAX:
            raise SpecError("size", size, f"is not a number from 1 to {SIZE_MAX}",
                            "give how many jobs are to run at a time")
        if plan is None:
            plan = Plan(spec, **fields)
        elif fields or spec is not None:
            raise SpecError("plan", plan, "cannot go with a spec's fields", "give one of them")
        check(plan)
        self.size = size
        self.plan = _Tenant(plan.spec, use=plan.image)
        self._free: SimpleQueue[int] = SimpleQueue()
        self._threads: Any = None
        self._closed = False
        self._counts = dict.fromkeys(("done", "failed", "killed"), 0)
        for n in range(size):
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
        """run() in a thread of the slots' own, `size` of them."""
        self._open()
        if self._threads is None:
            from concurrent.futures import ThreadPoolExecutor

            self._threads = ThreadPoolExecutor(self.size, "fastctr-slots")
        return self._threads.submit(self.run, argv, **launch)  # type: ignore[no-any-return]

    def map(self, argvs: Iterable[Any], *, window: int | None = None, **launch: Any) -> Iterator[Completed]:
        """run() of each, results in order; at most `window` (four times the size) are begun and not yet taken."""
        from collections import deque

        waiting: deque[Future[Completed]] = deque()
        try:
            for argv in argvs:
                waiting.append(self.submit(argv, **launch))
                if len(waiting) >= (window or 4 * self.size):
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()

    def metrics(self) -> dict[str, int]:
        """Counts since the beginning: done, failed (not started, timed out), killed; size; and of the containers:
        ready (clean, unused), running, destroyed (not clean after a job)."""
        ready, running, destroyed = self.plan.core().slots()
        return {**self._counts, "size": self.size, "ready": ready, "running": running, "destroyed": destroyed}

    def close(self) -> None:
        """Wait for what runs in submit()'s threads, and tear the slots down."""
        self._closed = True
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)
        self.plan.close()

    def _open(self) -> None:
        if self._closed:
            raise ValueError("the slots are closed")

    def __enter__(self) -> Slots:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Slots({self.plan.spec!r}, size={self.size})"
