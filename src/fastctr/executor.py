"""Executor: concurrent.futures where every job is a container of its own."""

from __future__ import annotations

import os
import threading
import time
from concurrent import futures

from .errors import SpecError, UnknownField
from .launch_args import argv_of, native_limits
from .plan import given_plan
from .pool import Pool, whole
from .units import size as in_bytes
from .workers import Workers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from .plan import Plan
    from .spec import Spec
    from .zygote import Zygote

_BOTH = ("timeout", "limits", "env", "cwd")
_CALL = ("result",)


class Executor(futures.Executor):
    """A concurrent.futures.Executor whose jobs are containers.

    submit(fn, *args) of a function runs it in a child of a zygote, an interpreter with `preload` imported
    (see Zygote: what can be sent, and what comes back); submit(["cmd", …], **launch) of a command runs it
    by a Pool and gives its Completed, as Plan.run() does. Unlike a thread's or a process's, a job that runs
    can be stopped: cancel() of its future kills it, and so does the timeout.

    plan         a Plan, or what it is made of: spec= and the keywords of Spec and of images, as for Plan
    max_workers  jobs at a time; the processors this process may use if not given
    preload      modules the zygote imports before any job; python: its interpreter, as for Zygote
    zygote, pool some of the caller's own to use; they stay open
    timeout      seconds, limits, output_limit: of every job that does not give its own
    result       what a function's result may be: "data", "pickle", "json" or "bytes", as Zygote.call() has it

    Nothing is started before the first job. Raises SpecError for what cannot work.
    """

    def __init__(self, plan: Plan | None = None, *, max_workers: int | None = None, preload: Iterable[str] = (),
                 python: Any = None, zygote: Zygote | None = None, pool: Pool | None = None,
                 timeout: float | None = None, limits: Any = None, output_limit: Any = None,
                 result: str | None = None, spec: Spec | None = None, **spec_fields: Any) -> None:
        most = len(os.sched_getaffinity(0)) if max_workers is None else whole("max_workers", max_workers, 1, 4096)
        if plan is not None or spec is not None or spec_fields:
            plan = given_plan(plan, spec, spec_fields)
        elif zygote is None and pool is None:
            raise SpecError("plan", None, "is missing", 'say what the containers are made of, as rootfs="host"')
        if isinstance(preload, str):
            raise SpecError("preload", preload, "is one string", 'give a list, as ["numpy"]')
        self._engine: _Engine | None = _Engine(plan, most, tuple(preload), python, zygote, pool)
        self._view = False
        self._mine: set[futures.Future[Any]] = set()
        self._call: dict[str, Any] = {}
        self._launch: dict[str, Any] = {}
        given = {"timeout": timeout, "limits": limits, "output_limit": output_limit, "result": result}
        self._take({name: value for name, value in given.items() if value is not None})

    def _take(self, options: dict[str, Any]) -> None:
        known = _launch_keywords()
        for name, value in options.items():
            if name not in known and name not in _CALL:
                raise UnknownField(name, (*known, *_CALL), "Executor")
            if name == "timeout" and value is not None and (
                    isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0):
                raise SpecError(name, value, "is not a time", "give seconds above 0, or None")
            if name == "limits" and value is not None:
                native_limits(value)
            if name == "output_limit" and value is not None:
                in_bytes(name, value)
            if name in _BOTH or name in _CALL:
                self._call[name] = value
            if name not in _CALL:
                self._launch[name] = value

    def with_options(self, **options: Any) -> Executor:
        """A view of the same workers whose jobs have other options: timeout, limits, env, cwd for both kinds,
        result for functions, and every keyword of Plan.run() for commands. shutdown() of a view waits for
        its own jobs, and leaves the rest open. Raises SpecError."""
        view = Executor.__new__(type(self))
        view._engine = self._open()
        view._view = True
        view._mine = set()
        view._call = dict(self._call)
        view._launch = dict(self._launch)
        view._take(options)
        return view

    def _open(self) -> _Engine:
        engine = self._engine
        if engine is None:
            raise RuntimeError("cannot schedule new futures after shutdown")
        return engine

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> futures.Future[Any]:
        """Schedule a function with its arguments, or a command (a list or tuple) with keywords of the launch.

        Raises RuntimeError after shutdown(), TypeError for anything else; what goes wrong later is the
        future's: SpecError, LaunchError, TimeoutExpired, the function's own exception.
        """
        engine = self._open()
        if callable(fn):
            return self._keep(engine.workers.submit(engine.call, (fn, args, kwargs, self._call), {}))
        if not isinstance(fn, (list, tuple)):
            raise TypeError(f"{fn!r} is neither a function nor a command (a list)")
        if args:
            raise TypeError(f"a command takes keywords only, not {args[0]!r}")
        return self._keep(engine.workers.submit(engine.command, (fn, {**self._launch, **kwargs}), {}))

    def _keep(self, future: futures.Future[Any]) -> futures.Future[Any]:
        if self._view:
            self._mine.add(future)
            future.add_done_callback(self._mine.discard)
        return future

    def map(self, fn: Any, *iterables: Any, timeout: float | None = None, chunksize: int = 1) -> Iterator[Any]:
        """As of concurrent.futures: fn over the iterables, in order; TimeoutError when `timeout` seconds after
        the call a result is not there. Chunks of `chunksize` calls are one job, in one container. fn may be
        commands instead (an iterable of lists): their Completed. An error, and leaving the loop, cancels
        what is left, which kills what runs."""
        whole("chunksize", chunksize, 1, 1 << 30)
        until = None if timeout is None else time.monotonic() + timeout
        if not callable(fn):
            if iterables:
                raise TypeError("commands go without further iterables")
            if isinstance(fn, (str, bytes)):
                raise SpecError("argvs", fn, "is one string", 'give commands, as [["echo", "hi"]]')
            if chunksize != 1:
                raise SpecError("chunksize", chunksize, "is for functions", "every command is a container of its own")
            return _results([self.submit(argv_of(argv)) for argv in fn], until, False)
        if chunksize == 1:
            return _results([self.submit(fn, *args) for args in zip(*iterables)], until, False)
        jobs = []
        rows = list(zip(*iterables))
        for at in range(0, len(rows), chunksize):
            columns = [list(column) for column in zip(*rows[at : at + chunksize])]
            jobs.append(self.submit(list, map(fn, *columns)))  # what is sent names nothing of ours
        return _results(jobs, until, True)

    def metrics(self) -> dict[str, int]:
        """running and pending jobs, threads (workers), and of the commands' pool what Pool.metrics() says."""
        engine = self._open()
        found = engine.pool.metrics() if engine.pool is not None else {}
        workers = engine.workers
        return {**found, "running": workers.running, "pending": workers.pending, "workers": workers.threads}

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """As of concurrent.futures: no more jobs; wait for those there are; with cancel_futures those that
        have not started never will. Those that run are left to end: cancel() their futures to kill them."""
        engine = self._engine
        if self._view:
            self._engine = None
            mine = list(self._mine)
            if cancel_futures:
                for future in mine:
                    if not future.running():
                        future.cancel()
            if wait:
                futures.wait(mine)
            return
        if engine is None:
            return
        engine.workers.close(wait=False, after=engine.close)
        if cancel_futures:
            engine.workers.cancel_pending()
        if wait:
            engine.workers.close()
            self._engine = None

    def __exit__(self, kind: Any, *exc: object) -> None:
        if kind is not None and not issubclass(kind, Exception) and self._engine is not None:  # Ctrl-C: at once
            if self._view:
                for future in list(self._mine):
                    future.cancel()
            else:
                workers = self._engine.workers
                workers.close(wait=False, after=self._engine.close)
                workers.cancel_pending()
                workers.cancel_running()
        self.shutdown(wait=True)

    def __del__(self) -> None:
        engine = getattr(self, "_engine", None)
        if engine is not None and not self._view:
            engine.workers.close(wait=False, after=engine.close)


def _results(jobs: list[futures.Future[Any]], until: float | None, chunks: bool) -> Iterator[Any]:
    jobs.reverse()
    try:
        while jobs:
            left = None if until is None else max(until - time.monotonic(), 0.0)
            result = jobs[-1].result(left)
            jobs.pop()
            if chunks:
                yield from result
            else:
                yield result
            del result
    finally:
        for job in jobs:
            job.cancel()


class _Engine:
    """What an executor and its views share: the threads, and the pool and the zygote once they are needed."""

    def __init__(self, plan: Plan | None, most: int, preload: tuple[str, ...], python: Any,
                 zygote: Zygote | None, pool: Pool | None) -> None:
        self.plan = plan if plan is not None else pool.plan if pool is not None else getattr(zygote, "plan", None)
        self.most = most
        self.preload = preload
        self.python = {} if python is None else {"python": python}
        self.zygote = zygote
        self.pool = pool
        self._own_zygote = zygote is None
        self._own_pool = pool is None
        self._lock = threading.Lock()
        self.workers = Workers("executor", most)

    def command(self, started: Any, argv: Any, launch: dict[str, Any]) -> Any:
        pool = self.pool
        if pool is None:
            with self._lock:
                if self.pool is None:
                    if self.plan is None:
                        raise SpecError("plan", None, "is missing", "commands need one: Executor(plan, …)")
                    self.pool = Pool(self.plan, size=min(self.most, 64), workers=1)
                pool = self.pool
        return pool.run(argv, _started=started, **launch)

    def call(self, started: Any, fn: Callable[..., Any], args: Any, kwargs: Any, options: dict[str, Any]) -> Any:
        zygote = self.zygote
        if zygote is None:
            with self._lock:
                if self.zygote is None:
                    from .zygote import Zygote

                    if self.plan is None:
                        raise SpecError("plan", None, "is missing", "functions need one: Executor(plan, …)")
                    self.zygote = Zygote(self.plan, preload=self.preload, size=min(self.most, 16), **self.python)
                zygote = self.zygote
        job = zygote.start_call(fn, args, kwargs, **options)
        started(job)
        return job.result()

    def close(self) -> None:
        """Once the last job has ended."""
        if self._own_zygote and self.zygote is not None:
            self.zygote.close()
        if self._own_pool and self.pool is not None:
            self.pool.close()


def _launch_keywords() -> tuple[str, ...]:
    from .api import run_plan

    return tuple(name for name in (run_plan.__kwdefaults__ or ()) if not name.startswith("_"))
