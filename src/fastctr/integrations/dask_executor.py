"""The client's side: DaskExecutor, fastctr.Executor's interface over a Dask cluster."""

from __future__ import annotations

import concurrent.futures
import os
import time
from itertools import islice

from ..errors import SpecError, UnknownField
from ..executor import _BOTH, _CALL, _launch_keywords, _results
from ..pool import whole
from ..workers import JobFuture
from .dask_client import Link, Task
from .dask_jobs import check_launch, pack_call, pack_command
from .dask_plugin import ContainerPlugin

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from distributed import Client

    from ..plan import Plan
    from ..spec import Spec

_DASK = ("retries", "priority", "workers", "allow_other_workers")
"""Options that are Client.map()'s; the others are those of a launch or a call."""
_FOR_CALLS = (*_BOTH, *_CALL)


class DaskExecutor(concurrent.futures.Executor):
    """A concurrent.futures.Executor whose jobs are containers on the workers of a Dask cluster.

    client: a distributed.Client (not an asynchronous one). The container is a plan without an image, a spec, or
    keywords as of fastctr.run(): image=, rootfs=, memory=, …; a ContainerPlugin is registered for it with a name
    of its own, and taken away by shutdown(). executor="container" uses one that is registered already instead.
    slots, warm, preload, python, result: as of ContainerPlugin. timeout (seconds), limits, output_limit: of
    every job that does not give its own. retries: how often Dask runs a job again that raised. priority, workers,
    allow_other_workers: as of Client.map(). together: so many commands are sent as one task of Dask's at most, while
    many wait and each takes less than 50 ms; they run one after the other, and where one takes long the others go
    elsewhere. 1 keeps each by itself.

    Jobs run at least once: again if their worker dies, and if a result is lost before it came here. Each future
    gets one result. distributed.KilledWorker comes if too many workers died with a job
    (distributed.scheduler.allowed-failures).

    Raises SpecError and UnknownField; ImageNotFound, LaunchError, … from the workers that are there already.
    """

    def __init__(self, client: Client, plan: Plan | None = None, *, executor: str | None = None,
                 slots: int | None = None, warm: int | None = None, preload: Any = (), python: Any = "python3",
                 result: str = "data", timeout: float | None = None, limits: Any = None, output_limit: Any = None,
                 retries: int = 0, priority: int = 0, workers: Any = None, allow_other_workers: bool = False,
                 together: int = 16, spec: Spec | None = None, **spec_fields: Any) -> None:  # fmt: skip
        whole("together", together, 1, 1000)
        if client.asynchronous:
            raise SpecError("client", client, "is asynchronous", "give a Client(…, asynchronous=False)")
        if plan is not None:
            if spec is not None or spec_fields:
                raise SpecError("plan", plan, "cannot go with a spec or its fields", "give one of them")
            if plan.image is not None:
                raise SpecError("plan", plan, "has the layers of an image of this machine",
                                "give image= and the other fields instead")  # fmt: skip
            spec = plan.spec
        plugin: ContainerPlugin | None = None
        if executor is not None and (spec is not None or spec_fields):
            raise SpecError("executor", executor, "names a plug-in with a container of its own", "give one of them")
        if executor is None:
            executor = f"container-{os.urandom(4).hex()}"
            plugin = ContainerPlugin(name=executor, slots=slots, warm=warm, preload=preload, python=python,
                                     result=result, spec=spec, **spec_fields)  # fmt: skip
        self._view = False
        self._closed = False
        self._mine: set[JobFuture] = set()
        self._launch: dict[str, Any] = {}
        self._call: dict[str, Any] = {}
        self._tasks: dict[str, Any] = {}
        given = {"timeout": timeout, "limits": limits, "output_limit": output_limit, "workers": workers}
        self._take({"retries": retries, "priority": priority, "allow_other_workers": allow_other_workers,
                    **{name: value for name, value in given.items() if value is not None}})  # fmt: skip
        self._link = Link(client, executor, plugin, together)

    def _take(self, options: dict[str, Any]) -> None:
        launch, call, tasks = dict(self._launch), dict(self._call), dict(self._tasks)
        for name, value in options.items():
            if name in _DASK:
                tasks[name] = value
                continue
            if name in _FOR_CALLS:
                call[name] = value
            if name not in _CALL:
                launch[name] = value
        self._launch, self._call, self._tasks = self._checked(launch), call, tasks

    def _checked(self, launch: dict[str, Any]) -> dict[str, Any]:
        known = (*_launch_keywords(), "outputs_limit")
        for name in launch:
            if name not in known:
                raise UnknownField(name, (*known, *_CALL, *_DASK), "DaskExecutor")
        check_launch(launch)
        return launch

    def with_options(self, **options: Any) -> DaskExecutor:
        """A view of the same workers whose jobs have other options: timeout, limits, env, cwd for both kinds,
        result for functions, for commands every keyword of Plan.run() and outputs_limit (bytes of output files
        that come back with a job), and retries, priority, workers. shutdown() of a view waits for its own jobs,
        and leaves the rest open. Raises SpecError for what cannot go to another machine, UnknownField."""
        view: DaskExecutor = object.__new__(type(self))
        view.__dict__.update(self.__dict__)
        view._view = True
        view._mine = set()
        view._take(options)
        return view

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> JobFuture:
        """Schedule a function with its arguments, or a command (a list or tuple) with keywords of the launch: its
        future gives what the function returned, or the command's Completed.

        cancel() of the future also ends a job that runs. Raises RuntimeError after shutdown(), SpecError and
        UnknownField, TypeError for anything else, whatever pickling the arguments does.
        """
        if callable(fn):
            return self._add(pack_call(fn, args, kwargs, self._call), True)
        if not isinstance(fn, (list, tuple)):
            raise TypeError(f"{fn!r} is neither a function nor a command (a list)")
        if args:
            raise TypeError(f"a command takes keywords only, not {args[0]!r}")
        launch = self._checked({**self._launch, **kwargs}) if kwargs else self._launch
        return self._add(pack_command(list(fn), launch), False)

    def _add(self, job: bytes, call: bool) -> JobFuture:
        future = JobFuture()
        self._send([future], [job], call=call)
        return future

    def _send(self, futures: list[JobFuture], jobs: list[bytes], *, call: bool = False, chunk: bool = False) -> None:
        if self._closed:
            raise RuntimeError("cannot schedule new futures after shutdown")
        self._link.add(Task([*futures], jobs, self._tasks, call=call, chunk=chunk))
        if self._view:
            self._mine.update(futures)
            for future in futures:
                future.add_done_callback(self._mine.discard)

    def map(self, fn: Any, *iterables: Any, timeout: float | None = None, chunksize: int = 1) -> Iterator[Any]:
        """As of concurrent.futures: fn over the iterables, in order; TimeoutError when `timeout` seconds after the
        call a result is not there. fn may be commands instead (an iterable of lists): their Completed.

        chunksize: how many are one task of Dask's. Calls of a function are then one job, in one container. Commands
        run one after the other, each in a container of its own and with a result of its own; cancelled when all of
        the chunk are. An error, and leaving the loop, cancels what is left. Raises as submit().
        """
        whole("chunksize", chunksize, 1, 1 << 30)
        until = None if timeout is None else time.monotonic() + timeout
        if not callable(fn):
            if iterables:
                raise TypeError("commands go without further iterables")
            if isinstance(fn, (str, bytes)):
                raise SpecError("argvs", fn, "is one string", 'give commands, as [["echo", "hi"]]')
            if chunksize == 1:
                return _results([self.submit(argv) for argv in fn], until, False)
            return _results(self._chunks(iter(fn), chunksize), until, False)
        if chunksize == 1:
            return _results([self.submit(fn, *args) for args in zip(*iterables)], until, False)
        rows = zip(*iterables)
        jobs: list[concurrent.futures.Future[Any]] = []
        while part := list(islice(rows, chunksize)):
            jobs.append(self.submit(list, map(fn, *map(list, zip(*part)))))
        return _results(jobs, until, True)

    def _chunks(self, argvs: Iterator[Any], size: int) -> list[concurrent.futures.Future[Any]]:
        found: list[concurrent.futures.Future[Any]] = []
        while part := [pack_command(list(argv), self._launch) for argv in islice(argvs, size)]:
            futures = [JobFuture() for _ in part]
            self._send(futures, part, chunk=True)
            found += futures
        return found

    def metrics(self) -> dict[str, int]:
        """pending: jobs without a result; workers that have the plug-in; and what Pool.metrics() says, added up over
        them. Asks every worker."""
        return self._link.metrics()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """As of concurrent.futures: no more jobs; wait for those there are, then the plug-in is taken away.
        cancel_futures: all are cancelled, also those that run, whose containers are killed: from here nobody can
        tell which do."""
        self._closed = True
        if not self._view:
            self._link.close(wait, cancel_futures)
            return
        mine = list(self._mine)
        if cancel_futures:
            for future in mine:
                future.cancel()
        if wait:
            concurrent.futures.wait(mine)

    def __exit__(self, kind: Any, *exc: object) -> None:
        self.shutdown(wait=True, cancel_futures=kind is not None and not issubclass(kind, Exception))  # Ctrl-C
