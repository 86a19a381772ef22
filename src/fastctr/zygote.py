"""Zygote: an interpreter with its modules loaded, forked into a fresh container for every job."""

from __future__ import annotations

import array
import heapq
import json
import os
import select
import socket
import struct
import threading
import time
import weakref
from collections import deque

from . import _core, context, units
from . import zygote_wire as wire
from .errors import SpecError, from_native
from .launch_args import PIPE, Stdio, decode, more_limits, native_limits
from .plan import Plan
from .results import Completed, Timings, killed_by
from .zygote_host import Child, Process, job_spec, zygote_spec
from .zygote_job import ANSWER, ZygoteJob, _told

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from .spec import Spec

HEAD = struct.Struct("<IQ")
READY_TIMEOUT = 20.0
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


class Zygote:
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
        if plan is not None and (spec is not None or fields):
            raise SpecError("plan", "…", "cannot go with spec or its fields", "give one of them")
        base = plan if plan is not None else Plan(spec, **fields)
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
        self._process: Process | None = None
        self._reset()
        _live.add(self)

    def _reset(self) -> None:
        self._start_lock = threading.Lock()
        self._lock = threading.Lock()
        self._filled = threading.Condition(self._lock)
        self._ready: deque[Child] = deque()
        self._todo: deque[ZygoteJob] = deque()
        self._running: set[ZygoteJob] = set()
        self._deadlines: list[tuple[float, int, ZygoteJob]] = []
        self._counts = dict.fromkeys(("started", "parked", "direct", "zygotes", "failed"), 0)
        self._thread: threading.Thread | None = None
        self._event = -1
        self._closing = False
        self._trouble: BaseException | None = None

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
        options: dict[str, Any] = {"result": mode}
        process = self._running_process()
        data = wire.dumps(func, tuple(args), kwargs or {}, process.hello)
        options["protocol"] = min(5, process.hello["pickle"])
        self._options(options, env, cwd)
        what = getattr(func, "__qualname__", None) or repr(func)[:80]
        child = self._take(native_limits(limits))
        stdio = None
        try:
            stdio = Stdio(stdin, stdout, stderr)
            job = ZygoteJob(self, child, what, mode, timeout, self._limit)
            self._send(child, options, data, stdio.given)
        except BaseException:
            self._discard(child)
            raise
        finally:
            if stdio is not None:
                stdio.started()
        with self._lock:
            self._running.add(job)
            if timeout is not None and _wake:
                heapq.heappush(self._deadlines, (time.monotonic() + timeout, id(job), job))
        if _wake:
            self._wake()
        return job

    def run(self, argv: Any, *, stdin: Any = None, input: Any = None, stdout: Any = None, stderr: Any = None,  # noqa: A002
            capture_output: bool = False, text: bool | None = None, encoding: str | None = None, errors: str | None = None,
            timeout: float | None = None, check: bool = False, env: Any = None, cwd: Any = None, limits: Any = None,
            timings: bool = False, **unknown: Any) -> Completed:
        """A script of the container's, as the command line of Python has it: ["script.py", "arg", …],
        ["-c", "code", …] or ["-m", "module", …]. Keywords and result as of fastctr.run(); the return code is
        Python's (1 for an exception, what sys.exit() was given)."""
        values = [os.fsdecode(os.fspath(value)) for value in argv]
        if isinstance(argv, (str, bytes)) or not values or (values[0] in ("-c", "-m") and len(values) < 2):
            raise SpecError("argv", argv, "is no command line", 'use ["script.py", "arg"], ["-c", "code"] or ["-m", "module"]')
        if unknown:
            limits = more_limits(limits, unknown)
        if input is not None:
            if stdin is not None:
                raise SpecError("input", "…", "cannot go with stdin", "give one of them")
            stdin = PIPE
        if capture_output:
            if stdout is not None or stderr is not None:
                raise SpecError("capture_output", True, "cannot go with stdout or stderr", "give one of them")
            stdout = stderr = PIPE
        as_text = bool(text or encoding or errors)
        data = input.encode(encoding or "utf-8", errors or "strict") if isinstance(input, str) else input
        options: dict[str, Any] = {"argv": values}
        self._options(options, env, cwd)
        self._running_process()
        child = self._take(native_limits(limits))
        stdio: Stdio | None = None
        try:
            stdio = Stdio(stdin, stdout, stderr)
            pid = child.run.pid
            self._send(child, options, b"", stdio.given)
            stdio.started()
            ends = stdio.ends
            for fd in ends:
                if fd >= 0:
                    os.set_blocking(fd, False)
            stdio.ends = [-1, -1, -1]
            self._wake()
            code, lost, oom, timed_out, out, err, usage, times = child.run.finish(
                ends[0], ends[1], ends[2], None if data is None else bytes(data),
                -1.0 if timeout is None else max(float(timeout), 0.0), timings)[:8]
        except BaseException:
            self._discard(child)
            if stdio is not None:
                stdio.close_all()
            raise
        word = b""
        try:
            child.sock.setblocking(False)
            word = child.sock.recv(64)
        except OSError:
            pass
        child.sock.close()
        self._wake()
        if word[:1] == b"C":
            raise from_native("cwd", -1, int(word[ANSWER.size :] or 0), str(cwd))
        if lost:
            code = -9 if timed_out else _told(child)
        out, err = (None if part is not None and stream != PIPE else part for part, stream in ((out, stdout), (err, stderr)))
        if as_text:
            out, err = (None if part is None else decode(part, encoding, errors or ("replace" if timed_out else None))
                        for part in (out, err))
        done = Completed(argv, code, out, err, killed_by(code, oom, timed_out), usage, Timings(times) if times else None, pid)
        if timed_out:
            from .errors import TimeoutExpired

            assert timeout is not None
            expired = TimeoutExpired(argv, timeout, out, err)
            expired.completed = done
            raise expired
        if check:
            done.check_returncode()
        return done

    def warmup(self, n: int | None = None, timeout: float | None = None) -> int:
        """Start the zygote if it is not there, and wait until n jobs (default: size) are forked ahead, or `timeout`
        seconds are over: how many are. Raises as start_call()."""
        want = self.size if n is None else min(n, self.size)
        self._running_process()
        self._trouble = None
        self._wake()
        with self._filled:
            self._filled.wait_for(lambda: len(self._ready) >= want or self._trouble is not None or self._closing, timeout)
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

    def _options(self, options: dict[str, Any], env: Any, cwd: Any) -> None:
        if env:
            options["env"] = [os.fsdecode(item) for item in self._jobs.environment(env)]
        cwd = cwd if cwd is not None else None
        if cwd is not None:
            options["cwd"] = os.fsdecode(os.fspath(cwd))

    def _running_process(self) -> Process:
        process = self._process
        if process is not None and not process.gone() and not self._closing:
            return process
        with self._start_lock:
            process = self._process
            if process is not None and not process.gone():
                return process
            self._process = None
            if process is not None:
                with self._lock:
                    children = list(self._ready)
                    self._ready.clear()
                if process.container is not None:
                    process.container.kill()
                for child in children:
                    self._discard(child)
                process.close()
            context.hooks()
            self._process = Process(self._jobs, self._own, self.plan.image, self._python, self.preload, self._start_timeout)
            self._counts["zygotes"] += 1
            self._trouble = None
            if self._event < 0:
                self._event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            if self._thread is None:
                self._thread = threading.Thread(target=self._manage, name="fastctr-zygote", daemon=True)
                self._thread.start()
            return self._process

    def _take(self, limits: dict[str, Any] | None) -> Child:
        """A child that is ready and nobody else's."""
        for attempt in range(3):
            process = self._running_process()
            while True:
                try:
                    child = self._ready.popleft()
                except IndexError:
                    break
                poll = select.poll()
                poll.register(child.sock, select.POLLIN)
                if child.process is not process or poll.poll(0):  # it is dead, or speaks out of turn
                    self._discard(child)
                    continue
                try:
                    if limits is not None:
                        child.run.update(limits)
                except BaseException:
                    self._discard(child)
                    raise
                self._counts["started"] += 1
                self._counts["parked"] += 1
                return child
            try:
                child = self._fork(process, limits)
            except BrokenPipeError:
                if attempt == 2:
                    raise wire.ZygoteError("the zygote ended while it was asked for a job") from None
                continue
            self._counts["started"] += 1
            self._counts["direct"] += 1
            return child
        raise AssertionError

    def _fork(self, process: Process, limits: dict[str, Any] | None = None) -> Child:
        child = process.fork(limits)
        try:
            child.sock.settimeout(READY_TIMEOUT)
            try:
                word = child.sock.recv(ANSWER.size)
            except TimeoutError:
                word = b""
            if word[:1] == b"F":
                stage, index, errno = struct.unpack("<iii", child.sock.recv(12))
                raise from_native(_core.stage_name(stage), index, errno, "")
            if word[:1] != b"R":
                if not process.listen():
                    raise BrokenPipeError(32, "the zygote is gone")
                raise from_native("clone", -1, 3, "the job ended before it was ready")
        except BaseException:
            self._counts["failed"] += 1
            self._discard(child)
            raise
        return child

    def _send(self, child: Child, options: dict[str, Any], data: bytes, given: list[int]) -> None:
        about = json.dumps(options).encode()
        head = HEAD.pack(len(about), len(data)) + about
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC) if -1 in given else -1
        sock = child.sock
        sock.settimeout(None)
        try:
            fds = array.array("i", [null if fd < 0 else fd for fd in given])
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
        finally:
            if null >= 0:
                os.close(null)

    def _discard(self, child: Child) -> None:
        child.sock.close()
        child.run.release()

    def _finished(self, job: ZygoteJob) -> None:
        """It has its outcome: what is left of it is cleared away in the background."""
        self._todo.append(job)
        self._wake()

    def _wake(self) -> None:
        if self._event >= 0:
            try:
                os.eventfd_write(self._event, 1)
            except OSError:
                pass

    def _manage(self) -> None:
        """The background: ends finished jobs, kills those whose time is up, forks the next ones ahead."""
        event = self._event
        poll = select.poll()
        poll.register(event, select.POLLIN)
        while not self._closing:
            with self._lock:
                until = self._deadlines[0][0] if self._deadlines else None
            poll.poll(None if until is None else max(0.0, (until - time.monotonic()) * 1000 + 1))
            try:
                os.eventfd_read(event)
            except BlockingIOError:
                pass
            self._tidy()
            process = self._process
            while not self._closing and process is not None and process.alive and len(self._ready) < self.size:
                if self._trouble is not None:
                    break
                try:
                    child = self._fork(process)
                except BaseException as error:  # noqa: BLE001 the next job finds out by itself
                    self._trouble = error
                    with self._filled:
                        self._filled.notify_all()
                    break
                with self._filled:
                    self._ready.append(child)
                    self._filled.notify_all()
                self._tidy()
            if process is not None and process.alive:
                process.listen()

    def _tidy(self) -> None:
        now = time.monotonic()
        while True:
            with self._lock:
                late = heapq.heappop(self._deadlines)[2] if self._deadlines and self._deadlines[0][0] <= now else None
            if late is None:
                break
            if late._outcome is None and late._completed is None:
                late._expire()
        while self._todo and not self._closing:
            try:
                job = self._todo.popleft()
            except IndexError:
                break
            job._end()
            with self._lock:
                self._running.discard(job)

    def _forget(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.control.close()
            if process.userns >= 0:
                os.close(process.userns)
        for child in (*self._ready, *(job._child for job in (*self._running, *self._todo))):
            child.run.forget()
            child.sock.close()
        if self._event >= 0:
            os.close(self._event)
        self._reset()
