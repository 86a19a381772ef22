"""Pool: containers of a plan that are ready before they are asked for, and threads to run jobs in them."""

from __future__ import annotations

import threading
import time
import weakref
from functools import partial
from itertools import count

from . import context
from .api import run_plan
from .errors import SpecError
from .plan import given_plan
from .workers import Workers, in_order

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from concurrent.futures import Future
    from typing import Any

    from . import _core
    from .plan import Plan
    from .results import Completed
    from .spec import Spec

_NOTHING: dict[str, Any] = {}
MOST = 1024
"""Prepared containers of one pool at most; each holds up to 16 descriptors and about 0.5 MB of kernel memory."""


def whole(field: str, value: Any, low: int, high: int) -> int:
    """A number of things, checked. Raises SpecError."""
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise SpecError(field, value, f"is not a number from {low} to {high}", "")
    return value


class Counts:
    """Figures raised by many threads. Each is an iterator, whose next is one step of the interpreter and a
    third of the time a lock takes."""

    NAMES = ("begun", "done", "failed", "killed", "errors", "warm")
    __slots__ = (*NAMES, "_lock", "_reads")
    if TYPE_CHECKING:
        begun: Any
        done: Any
        failed: Any
        killed: Any
        errors: Any
        warm: Any

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reads = 0
        for name in self.NAMES:
            setattr(self, name, count().__next__)

    def ended(self, done: Completed) -> None:
        """A job that did not end with 0."""
        (self.killed if done.killed_by else self.failed)()

    def stopped(self, done: Completed | None) -> None:
        """A job that ended in an exception, with what came of it if it ran."""
        if done is None:
            self.errors()
            return
        if done.returncode or done.killed_by:
            self.ended(done)
        else:
            self.done()
        if done.warm:
            self.warm()

    def values(self) -> dict[str, int]:
        """started, warm, direct, running, done, failed, killed, errors: as Pool.metrics() says."""
        with self._lock:
            found = {name: getattr(self, name)() - self._reads for name in reversed(self.NAMES)}
            self._reads += 1
        begun = found.pop("begun")
        ended = found["done"] + found["failed"] + found["killed"]
        return {"started": ended, "warm": found["warm"], "direct": ended - found["warm"],
                "running": max(begun - ended - found["errors"], 0), **found}


class Pool:
    """Containers of one plan kept ready: each has its process already, asleep before the job's exec, is used
    once, and is replaced in the background.

    plan         a Plan; or give what it is made of: spec= and the keywords of Spec and of images, as for Plan
    size         how many are kept ready, 0 to 1024, from now until close(), however long nobody asks
    workers      threads of submit() and map() at most, started when they are needed; `size` if not given
    max_pending  submit() blocks while so many jobs wait for a thread (back-pressure); None: never

    When none is ready a job starts as it would without a pool, and metrics() counts it as direct. Threads
    may share a pool; in the child of a fork it fills anew. Leaving `with Pool(…)` by an exception kills
    what runs. Raises SpecError before anything is made, LaunchError if the plan cannot be had.
    """

    def __init__(self, plan: Plan | None = None, *, size: int = 8, workers: int | None = None,
                 max_pending: int | None = None, spec: Spec | None = None, **spec_fields: Any) -> None:
        self._closed = True  # until it is whole
        self.size = whole("size", size, 0, MOST)
        most = whole("workers", workers, 1, 4096) if workers is not None else max(size, 1)
        if max_pending is not None:
            whole("max_pending", max_pending, 1, 1 << 20)
        self._own = plan is None
        self.plan = given_plan(plan, spec, spec_fields)
        self._held = self.size if self.plan.prepares else 0
        self._call = self.plan.run if self.plan.copies else partial(run_plan, self.plan)
        self._workers = Workers("pool", most, max_pending)
        self._core: _core.Plan | None = None
        self._reset()
        self._hold()
        self._closed = False
        _all.add(self)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._counts = Counts()

    def _hold(self) -> None:
        """Have the core keep `size` ready, of the plan as it is compiled now."""
        core = self.plan.core()
        with self._lock:
            old, self._core = self._core, core
            if old is core:
                return
            if old is not None:
                old.hold(-self._held)
            core.hold(self._held)

    def warmup(self, n: int | None = None, timeout: float | None = None) -> int:
        """Wait until n (by default size) are ready, or `timeout` seconds have passed: how many are.

        Raises what a start would. A plan that cannot be prepared (upper=, mnt="host", or an image's with
        snapshotter "vfs") keeps nothing ready: 0.
        """
        wanted = self.size if n is None else whole("n", n, 0, MOST)
        self._check()
        if not self.plan.prepares:
            return 0
        until = None if timeout is None else time.monotonic() + timeout
        core = self.plan.core()
        more = max(wanted - self.size, 0)
        core.hold(more)
        try:
            while True:
                ready, prepared, target = core.counters()
                if ready >= wanted or (until is not None and time.monotonic() >= until):
                    return ready
                if target < wanted:  # the background has given up: it could not make one
                    core.warm(min(prepared + 1, wanted))
                    core.hold(0)
                time.sleep(0.0005)
        finally:
            core.hold(-more)

    def _check(self) -> None:
        if self._closed:
            raise RuntimeError("the pool is closed")
        if self._core is not self.plan._compiled:  # closed in between, or this is the child of a fork
            self._hold()

    def run(self, argv: Any = None, **launch: Any) -> Completed:
        """Plan.run() in a prepared container, in this thread. Keywords and errors as there; RuntimeError
        once the pool is closed."""
        if self._closed or self._core is not self.plan._compiled:
            self._check()
        return self._run(argv, launch)

    def _run(self, argv: Any, launch: dict[str, Any]) -> Completed:
        counts = self._counts
        counts.begun()
        try:
            done: Completed = self._call(argv, **launch)
        except BaseException as error:
            counts.stopped(getattr(error, "completed", None))
            raise
        if done.returncode:
            counts.ended(done)
        else:
            counts.done()
        if done.warm:
            counts.warm()
        return done

    def _job(self, started: Any, argv: Any, launch: dict[str, Any]) -> Completed:
        launch["_started"] = started
        return self._run(argv, launch)

    def submit(self, argv: Any = None, **launch: Any) -> Future[Completed]:
        """Run it in a thread of the pool: a concurrent.futures.Future of what run() gives or raises.

        cancel() of one that runs kills the container and returns True. Blocks while max_pending jobs wait
        for a thread. Raises RuntimeError once the pool is closed.
        """
        if self._closed or self._core is not self.plan._compiled:
            self._check()
        return self._workers.submit(self._job, (argv, launch), _NOTHING)

    def map(self, argvs: Iterable[Any], *, window: int | None = None, **launch: Any) -> Iterator[Completed]:
        """Run each of the commands: an iterator of what they give, in order.

        argvs may be endless: at most `window` (by default twice the workers) are taken beyond what has been
        fetched. The first error is raised in its place; that, and leaving the loop, cancels the rest.
        """
        ahead = 2 * self._workers.most if window is None else whole("window", window, 1, 1 << 20)
        self._check()
        if isinstance(argvs, (str, bytes)):
            raise SpecError("argvs", argvs, "is one string", 'give commands, as [["echo", "hi"]]')
        return in_order(partial(self.submit, **launch), iter(argvs), ahead)

    def metrics(self) -> dict[str, int]:
        """Counts since it was made, and how it is now.

        started: jobs whose container ran; of them warm (a prepared container was there) and direct (none
        was); done (exit 0), failed (another exit code), killed (timeout, oom, signal, cancel), errors (not
        started, or stopped by an exception of ours), running and pending (submitted, no thread yet) now;
        ready and prepared (all but its process) containers now; size; workers: threads now.
        """
        ready = prepared = 0
        core = self._core
        if not self._closed and core is not None and core is self.plan._compiled:
            ready, prepared, _ = core.counters()
        return {**self._counts.values(), "pending": self._workers.pending, "ready": ready, "prepared": prepared,
                "size": self.size, "workers": self._workers.threads}

    def close(self, cancel: bool = False) -> None:
        """Take no more jobs, wait for those submitted, let go of what is prepared. cancel: kill those that
        run, and start none of those that wait. Harmless if done twice."""
        self._closed = True
        if cancel:
            self._workers.close(wait=False)
            self._workers.cancel_pending()
            self._workers.cancel_running()
        self._workers.close()
        with self._lock:
            core, self._core = self._core, None
        if core is not None:
            core.hold(-self._held)
            if self._own:
                self.plan.close()

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, kind: Any, *exc: object) -> None:
        self.close(cancel=kind is not None)

    def __del__(self) -> None:
        workers = getattr(self, "_workers", None)
        if workers is not None and not self._closed:
            workers.close(wait=False)
            if self._core is not None:
                self._core.hold(-self._held)

    def __repr__(self) -> str:
        return f"<Pool of {self.size}{', closed' if self._closed else ''}: {self.plan!r}>"


_all: weakref.WeakSet[Pool] = weakref.WeakSet()


def _after_fork() -> None:
    for pool in list(_all):  # what was prepared is the parent's, and so are the figures
        pool._core = None
        pool._reset()


context.on_fork(_after_fork)
