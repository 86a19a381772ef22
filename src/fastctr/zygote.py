"""Zygote: an interpreter with its modules loaded, forked into a fresh container for every job."""

from __future__ import annotations

import array
import heapq
import json
import os
import socket
import struct
import threading
import time
import weakref

from . import context, units
from . import zygote_wire as wire
from .errors import SpecError
from .launch_args import PIPE, Stdio, native_limits
from .plan import given_plan
from .zygote_host import Child
from .zygote_job import ZygoteJob
from .zygote_keeper import Keeper
from .zygote_spec import job_spec, zygote_spec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from .plan import Plan
    from .results import Completed
    from .spec import Spec

HEAD = struct.Struct("<IQ")
_live: weakref.WeakSet[Zygote] = weakref.WeakSet()


def close_live() -> None:
    """Close every zygote of this process; at its end."""
    for zygote in list(_live):
        zygote.close()


def _after_fork() -> None:
    """In a fork's child: the zygote is the parent's, only our copies of its descriptors go."""
    for zygote in list(_live):
        zygote._forget()


context.on_fork(_after_fork)


class Zygote(Keeper):
    """A Python interpreter with modules loaded; each job is a fork of it in a full, fresh container of its own.

    plan, spec, or the keywords of a Spec or an image, as for Plan: what each job's container is (rootfs="host",
    image="python:3.12", memory="256m", pids=64, …). It needs Python 3.8 or later with ctypes in it.
    preload: names of modules to import beforehand. python: the interpreter, a name or path in the container, or a
    list with its options. size: how many jobs are forked ahead, each in its container, and used once.
    result: how results are read, see start_call(). zygote_limits: Limits of the zygote itself as a dict
    (default: the memory limits of the jobs). start_timeout: seconds for its imports, or None. result_limit: the
    longest result ("1g").

    Jobs share, as copies, what the zygote had in memory: load no secrets into it. Jobs run in a user namespace.
    As root of the machine, unless uid_map= is given, its ids are a block nobody else has. Nothing is started
    before the first job or warmup(). Use it in a with statement, or close() it.

    Raises SpecError for what cannot go with a zygote: init, upper, time namespaces, joined pid or mnt.
    """

    def __init__(self, plan: Plan | None = None, *, preload: Iterable[str] = (), python: Any = "python3", size: int = 2,
                 spec: Spec | None = None, result: str = "data", zygote_limits: Any = None,
                 start_timeout: float | None = 120.0, result_limit: Any = "1g", **fields: Any) -> None:
        base = given_plan(plan, spec, fields)
        if base.copies:
            raise SpecError("snapshotter", "vfs", "cannot go with a zygote", 'use "overlay", or read_only=True')
        if isinstance(preload, str):
            raise SpecError("preload", preload, "is one string", "give a list of modules")
        if not isinstance(size, int) or not 0 <= size <= 1024:
            raise SpecError("size", size, "is not a number from 0 to 1024", "use 2")
        self.preload = list(preload)
        self.size = size
        self.plan = base
        self._python = [python] if isinstance(python, (str, bytes, os.PathLike)) else list(python)
        self._result = wire.check_result(result)
        self._limit = units.size("result_limit", result_limit)
        self._start_timeout = start_timeout
        self._jobs = job_spec(base.spec)
        self._own = zygote_spec(self._jobs, zygote_limits)
        self._process = None
        self._reset()
        _live.add(self)

    # ---- jobs

    def call(self, func: Any, /, *args: Any, **kwargs: Any) -> Any:
        """func(*args, **kwargs) in a container of its own: what it returns, or its exception.

        Its output goes where ours goes, its input is empty. Ctrl-C kills it. Raises as start_call() and
        ZygoteJob.result() do. Its container is gone a moment later: close() and .completed wait for that.
        """
        job = self.start_call(func, args, kwargs, _wake=False)
        try:
            return job.result()
        except BaseException:
            if job._outcome is None:
                job.kill()
                self._finished(job)
            raise

    def start_call(self, func: Any, args: Iterable[Any] = (), kwargs: Any = None, *, timeout: float | None = None,
                   limits: Any = None, env: Any = None, cwd: Any = None, stdin: Any = -3, stdout: Any = None,
                   stderr: Any = None, result: str | None = None, _wake: bool = True) -> ZygoteJob:
        """Start a call and return at once. Its function, arguments and result are pickled, by cloudpickle where it is
        installed here (the container gets it from here if it has none).

        timeout: seconds, then everything in its container is killed. limits: a Limits or dict, of this job over
        those of the plan. env, cwd, stdin, stdout, stderr: as for run(), without PIPE.
        result: "data" reads plain values, numpy arrays without objects, and exceptions of Python's own, and refuses
        the rest; "pickle" reads anything, which lets whoever has the container run code here; "json" and "bytes"
        are what they say. The default is the zygote's.

        Raises LaunchError for a start that failed, ZygoteError when the zygote cannot be made, SpecError.
        """
        mode = self._result if result is None else wire.check_result(result)
        for name, given in (("stdin", stdin), ("stdout", stdout), ("stderr", stderr)):
            if isinstance(given, int) and given == PIPE:
                raise SpecError(name, "PIPE", "cannot go with a call", "use a file, or run()")
        process = self._running_process()
        data = wire.dumps(func, tuple(args), kwargs or {}, process.hello)
        options = self._options({"result": mode, "protocol": min(5, process.hello["pickle"])}, env, cwd)
        if timeout is not None and not timeout >= 0:
            raise SpecError("timeout", timeout, "is not a time", "give seconds, or None")
        what = getattr(func, "__qualname__", None) or repr(func)[:80]
        child = self._take(native_limits(limits))
        stdio = None
        try:
            stdio = Stdio(stdin, stdout, stderr)
            job = ZygoteJob(self, child, what, mode, timeout, self._limit)
            with self._lock:
                self._running.add(job)
                if timeout is not None:
                    heapq.heappush(self._deadlines, (time.monotonic() + timeout, id(job), job))
            if timeout is not None and len(data) > 65535:  # it may never read all of it
                self._wake()
            self._send(child, options, data, stdio.given)
        except BaseException:
            with self._lock:
                self._running = {running for running in self._running if running._child is not child}
            self._discard(child)
            raise
        finally:
            if stdio is not None:
                stdio.started()
        if _wake:
            self._wake()
        return job

    def run(self, argv: Any, **launch: Any) -> Completed:
        """A script of the container's, as the command line of Python has it: ["script.py", "arg", …],
        ["-c", "code", …] or ["-m", "module", …]. Keywords and result as of fastctr.run(), but pass_fds, files and
        user; the return code is Python's (1 for an exception, else what sys.exit() was given)."""
        from .zygote_run import run

        return run(self, argv, **launch)

    def warmup(self, n: int | None = None, timeout: float | None = None) -> int:
        """Start the zygote if it is not there, and wait until n jobs (default: size) are forked ahead, or `timeout`
        seconds are over: how many are. Raises as start_call()."""
        want = self.size if n is None else min(n, self.size)
        self._running_process()
        self._trouble = None
        self._wake()
        with self._filled:
            self._filled.wait_for(lambda: len(self._ready) >= want or self._closing or self._trouble is not None,
                                  timeout)
            if self._trouble is not None and len(self._ready) < want:
                raise self._trouble
            return len(self._ready)

    def metrics(self) -> dict[str, int]:
        """started: jobs; parked: of those, found forked ahead; direct: forked when asked for; zygotes: interpreters
        started; failed: forks that failed; ready: forked ahead now; running: calls now."""
        with self._lock:
            return {**self._counts, "ready": len(self._ready), "running": len(self._running)}

    @property
    def version(self) -> tuple[int, ...]:
        """The version of the interpreter, which is started if it is not there."""
        version: tuple[int, ...] = self._running_process().hello["version"]
        return version

    def close(self) -> None:
        """Kill the zygote and everything forked from it, and wait until all of it is gone. Can be used again."""
        with self._start_lock:
            self._closing = True
            self._wake()
            thread, self._thread = self._thread, None
            if self._process is not None:
                self._process.alive = False
                if self._process.container is not None:
                    self._process.container.kill()
            if thread is not None and thread is not threading.current_thread():
                thread.join()
            with self._lock:
                jobs = [*self._running, *self._todo]
                children = list(self._ready)
                self._running.clear()
                self._todo.clear()
                self._ready.clear()
                self._deadlines.clear()
            for job in jobs:
                job._end()
            for child in children:
                self._discard(child)
            if self._process is not None:
                self._process.close()
                self._process = None
            if self._event >= 0:
                os.close(self._event)
                self._event = -1
            self._closing = False

    def __enter__(self) -> Zygote:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Zygote(preload={self.preload!r}, size={self.size}, {self.plan.spec!r})"

    # ---- inside

    def _options(self, options: dict[str, Any], env: Any, cwd: Any) -> dict[str, Any]:
        if env:
            options["env"] = [os.fsdecode(item) for item in self._jobs.environment(env)]
        if cwd is not None:
            options["cwd"] = os.fsdecode(os.fspath(cwd))
        return options

    def _send(self, child: Child, options: dict[str, Any], data: bytes, given: list[int]) -> None:
        about = json.dumps(options).encode()
        head = HEAD.pack(len(about), len(data)) + about
        sock = child.sock
        sock.settimeout(None)
        try:
            fds = array.array("i", [child.process.null if fd < 0 else fd for fd in given])
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)]
            if len(data) < 65536:
                message = head + data
                sent = sock.sendmsg([message], rights)
                if sent < len(message):
                    sock.sendall(message[sent:])
            else:
                sent = sock.sendmsg([head], rights)
                sock.sendall(head[sent:])
                sock.sendall(data)
        except (BrokenPipeError, ConnectionError):
            pass  # it has ended, which is told by what comes back
