"""ContainerExecutor: what a worker's tasks are run by, each in a container of its own."""

from __future__ import annotations

import concurrent.futures
import contextlib
import logging
import threading
import time
from functools import partial

from dask._task_spec import DataNode, GraphNode, NestedContainer, Task, TaskRef
from dask.sizeof import sizeof
from distributed import Reschedule
from distributed.protocol.pickle import dumps, loads

from ..errors import LaunchError
from ..plan import Plan
from ..pool import Pool
from ..results import Completed
from .dask_jobs import OUTPUTS_LIMIT, portable, run_jobs

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from typing import Any

    from .. import _core
    from ..spec import Spec
    from ..zygote import Zygote

_log = logging.getLogger("distributed.worker.fastctr")


SLOW = 0.25
"""Seconds after which a job that goes with others in one task no longer holds them up."""


class Several:
    """Jobs of one task that are run one after the other."""

    __slots__ = ("key", "most", "results", "since", "topic")

    def __init__(self, key: str, topic: str, most: int) -> None:
        self.key = key
        self.topic = topic
        self.most = most  # how many of them are run here; 0 once it has ended
        self.results: list[tuple[bool, Any]] = []
        self.since = time.monotonic()  # the one that runs


class ContainerExecutor(concurrent.futures.Executor):
    """One worker's executor of one plan. Its name must not have "ThreadPoolExecutor" in it: to those Dask gives
    a closure, to others the task itself (distributed.Worker.execute), which is what is to be run elsewhere."""

    def __init__(self, spec: Spec | None, fields: dict[str, Any], *, slots: int, preload: Any, python: Any, result: str,
                 report: Callable[[dict[str, Any]], None], event: Callable[[str, Any], None],
                 loop: asyncio.AbstractEventLoop) -> None:  # fmt: skip
        self.plan = Plan(spec, **fields)
        self._pool = Pool(self.plan, size=slots)
        self._preload = preload
        self._python = python
        self._result = result
        self._slots = slots
        self._report = report
        self._event = event
        self._loop = loop
        self._zygote: Zygote | None = None
        self._lock = threading.Lock()
        self._zygote_lock = threading.Lock()
        self._running: dict[Any, Callable[[], Any] | None] = {}
        self._killed: set[Any] = set()
        self._closed = False
        self._threads = concurrent.futures.ThreadPoolExecutor(slots, thread_name_prefix="fastctr-dask")

    def warmup(self, n: int) -> None:
        """Prepare n containers. Raises what a start would."""
        self._pool.warmup(n)

    def metrics(self) -> dict[str, int]:
        """As Pool.metrics(), and tasks running here."""
        return {**self._pool.metrics(), "tasks": len(self._running)}

    # ---- Dask's side

    def submit(self, run: Any, /, *args: Any, **kwargs: Any) -> Any:
        """run(task, data, …) as Dask calls it; the task is what goes to a container. Raises RuntimeError."""
        if len(args) < 2 or kwargs or not isinstance(args[0], GraphNode) or not isinstance(args[1], dict):
            raise RuntimeError("this version of distributed hands tasks to executors in a way fastctr does not know")
        task = args[0]
        with self._lock:
            if self._closed:
                raise RuntimeError("the executor is shut down")
            self._running[task.key] = None
        future = self._threads.submit(run, partial(self._contained, task), *args[1:])
        future.add_done_callback(lambda _: self._ended(task.key))
        return future

    def kill(self, key: Any) -> None:
        """End the containers of a running task; it gives no result, and runs again if somebody still wants one."""
        with self._lock:
            if key not in self._running:
                return
            self._killed.add(key)
            stop = self._running[key]
        if stop is not None:
            stop()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self.close()

    def close(self) -> None:
        """Kill everything that runs, and wait until it is gone."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            running = list(self._running)
        for key in running:
            self.kill(key)
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._pool.close(cancel=True)
        if self._zygote is not None:
            self._zygote.close()
        self.plan.close()

    def _ended(self, key: Any) -> None:
        with self._lock:
            self._running.pop(key, None)
            self._killed.discard(key)

    def _attach(self, key: Any, stop: Callable[[], Any]) -> None:
        with self._lock:
            self._running[key] = stop
            late = key in self._killed
        if late:
            stop()

    # ---- in a thread of ours

    def _contained(self, task: Any, data: Any) -> Any:
        if getattr(task, "func", None) is run_jobs:
            return self._jobs(task.key, task.args[0])
        return self._one(task.key, partial(self._call, *_parts(task, data)), {})

    def _jobs(self, key: Any, payload: bytes) -> Any:
        """A call's result; of commands ([(True, result) or (False, exception)], seconds they took). The exception of
        a command that is the whole task is raised: Dask counts its retries."""
        kind, what, launch, topic = loads(payload)
        if kind == "call":
            return self._one(key, partial(self._call, *what), launch)
        began = time.monotonic()
        if launch is None:
            return [(True, self._packed(key, what[0]))], time.monotonic() - began
        several = Several(str(key), topic, len(what))
        if len(what) > 1:
            self._loop.call_soon_threadsafe(self._loop.call_later, SLOW, self._part, several)
        try:
            for job in what:
                with self._lock:
                    if len(several.results) >= several.most:
                        break  # the others have been given back
                    several.since = time.monotonic()
                several.results.append(self._tried(key, job, launch))
        finally:
            with self._lock:
                several.most = 0
        return several.results, time.monotonic() - began

    def _packed(self, key: Any, job: bytes) -> Completed:
        """A command by pack_command()."""
        argv, options = loads(job)
        limit = options.pop("outputs_limit", OUTPUTS_LIMIT)
        return self._one(key, partial(self._command, argv, limit), options)  # type: ignore[no-any-return]

    def _tried(self, key: Any, job: bytes, retries: int) -> tuple[bool, Any]:
        while True:
            try:
                return True, self._packed(key, job)
            except Reschedule:
                raise
            except Exception as error:  # noqa: BLE001 it is this job's result
                if not retries:
                    return False, error
                retries -= 1

    def _part(self, several: Several) -> None:
        """On the worker's loop: while one of several jobs takes long, the results before it are told already, and
        the jobs after it given back."""
        with self._lock:
            now = time.monotonic()
            if not several.most:
                return  # it has ended
            left = several.since + SLOW - now
            if left <= 0:
                done = list(several.results)
                several.most = min(several.most, len(done) + 1)
        if left > 0:
            self._loop.call_later(left, self._part, several)
            return
        self._event(several.topic, {"key": several.key, "kept": len(done) + 1, "done": dumps(done)})

    def _one(self, key: Any, job: Callable[[Any, Any], Any], launch: dict[str, Any]) -> Any:
        result: Any = None
        failure: BaseException | None = None
        try:
            if key not in self._killed:
                result = job(key, launch)
        except BaseException as error:
            failure = error
            if key not in self._killed:
                self._failed(key, error)
                raise
        if key in self._killed:  # nobody waits for it; or somebody does again, then not for what we broke off
            raise Reschedule from failure
        if isinstance(result, Completed) and result.killed_by is not None:
            self._note(key, f"killed by {result.killed_by}", result)
        return result

    def _command(self, argv: Any, limit: int, key: Any, launch: dict[str, Any]) -> Completed:
        try:
            return portable(self._pool.run(argv, _started=partial(self._started, key), **launch), limit)
        except Exception as error:
            if (done := getattr(error, "completed", None)) is not None:
                portable(done, limit)
            raise

    def _started(self, key: Any, running: _core.Running) -> None:
        self._attach(key, partial(_end, running))

    def _call(self, func: Any, args: Any, kwargs: Any, key: Any, launch: dict[str, Any]) -> Any:
        job = self._zygote_of().start_call(func, args, kwargs, **launch)
        self._attach(key, job.kill)
        return job.result()

    def _zygote_of(self) -> Zygote:
        """Made with the first function: not every image has a Python."""
        with self._zygote_lock:
            if self._zygote is None:
                from ..zygote import Zygote

                self._zygote = Zygote(self.plan, preload=self._preload, python=self._python, size=self._slots,
                                      result=self._result)  # fmt: skip
            return self._zygote

    # ---- logs

    def _failed(self, key: Any, error: BaseException) -> None:
        if isinstance(error, LaunchError):
            _log.warning("%s: no container: %s", key, error)
            self._report({"key": str(key), "error": type(error).__name__, "message": str(error)})
        elif (done := getattr(error, "completed", None)) is not None:
            self._note(key, str(error), done)

    def _note(self, key: Any, what: str, done: Completed) -> None:
        _log.warning("%s: %s", key, what)
        self._report({"key": str(key), "error": what, "killed_by": done.killed_by, "returncode": done.returncode})


def _end(running: _core.Running) -> None:
    with contextlib.suppress(ValueError):  # it has ended meanwhile
        running.kill_all()


def _parts(task: Any, data: Any) -> tuple[Any, Any, Any]:
    """(function, args, kwargs) of a task, the results it depends on put in. Nothing of the user's runs here:
    where a task has others in it, it goes to the container whole, which then needs dask in its image."""
    if type(task) is not Task or not all(_is_data(part) for part in (*task.args, *task.kwargs.values())):
        return task, (data,), {}
    args, kwargs = Task(task.key, _arguments, *task.args, **task.kwargs)(data)
    return task.func, args, kwargs


def _arguments(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
    return args, kwargs


def _is_data(part: Any) -> bool:
    if isinstance(part, NestedContainer):
        return all(_is_data(each) for each in (*part.args, *part.kwargs.values()))
    return isinstance(part, (TaskRef, DataNode)) or not isinstance(part, GraphNode)


@sizeof.register(Completed)  # type: ignore[untyped-decorator]
def _size(done: Completed) -> int:
    """Bytes a result takes in the worker's memory, for Dask's account of it."""
    files: dict[str, Any] = done._files or {}
    return 500 + len(done.stdout or ()) + len(done.stderr or ()) + sum(len(f._data or b"") for f in files.values())
