"""run() and Container: subprocess's shapes for containers. See docs/architecture.md for the way down."""

from __future__ import annotations

import os
import signal as _signal
import threading
import weakref

from . import _core, context
from .errors import SpecError
from .limits import Limits
from .plan import Plan, plan_for
from .spec import FIELDS, LIMITS, Spec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import IO, Any

PIPE = -1
STDOUT = -2
DEVNULL = -3

_LAUNCH_LIMITS = frozenset(LIMITS)


class Usage:
    """What a container used. Times in seconds, sizes in bytes; None where the kernel cannot tell.

    cpu_user, cpu_system, cpu_total, throttled, cpu_pressure, memory_pressure, io_pressure (seconds);
    nr_throttled, oom_kills, pids_current, pids_peak, io_reads, io_writes (counts);
    memory_current, memory_peak, memory_limit, io_read_bytes, io_write_bytes (bytes).
    """

    __slots__ = _core.USAGE_FIELDS
    _TIMES = frozenset(("cpu_user", "cpu_system", "cpu_total", "throttled", "cpu_pressure", "memory_pressure",
                        "io_pressure"))

    def __init__(self, values: tuple[int | None, ...]) -> None:
        for name, value in zip(self.__slots__, values):
            object.__setattr__(self, name, value / 1e6 if value is not None and name in self._TIMES else value)

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...

    def as_dict(self) -> dict[str, float | int | None]:
        return {name: getattr(self, name) for name in self.__slots__}

    def __repr__(self) -> str:
        known = ((name, value) for name, value in self.as_dict().items() if value is not None)
        return f"Usage({', '.join(f'{name}={value!r}' for name, value in known)})"


class Timings:
    """Where a start's time went, in µs: acquire (the prepared container), spawn (clone to exec),
    run, collect, total; stages: [(stage, µs)] of the child in order."""

    __slots__ = ("acquire", "collect", "run", "spawn", "stages", "total")

    def __init__(self, values: tuple[float, float, float, float, list[tuple[str, float]]]) -> None:
        self.acquire, self.spawn, self.run, self.collect, self.stages = values
        self.total = self.acquire + self.spawn + self.run + self.collect

    def by_stage(self) -> dict[str, float]:
        """The stages added up by name, the longest first."""
        total: dict[str, float] = {}
        for name, us in self.stages:
            total[name] = total.get(name, 0.0) + us
        return dict(sorted(total.items(), key=lambda item: -item[1]))

    def __repr__(self) -> str:
        return (f"Timings(acquire={self.acquire:.0f}, spawn={self.spawn:.0f}, run={self.run:.0f}, "
                f"collect={self.collect:.0f}, total={self.total:.0f})")


class Completed:
    """As subprocess.CompletedProcess: args, returncode (negative: a signal), stdout, stderr; and
    killed_by (None, "timeout", "oom" or "signal"), usage, timings (when asked for), pid."""

    __slots__ = ("_raw_usage", "args", "killed_by", "pid", "returncode", "stderr", "stdout", "timings")

    def __init__(self, args: Any, returncode: int, stdout: Any, stderr: Any, killed_by: str | None,
                 usage: tuple[int | None, ...], timings: Timings | None, pid: int) -> None:
        self.args = args
        self.returncode = returncode
        self.stdout = stdout
        self.stderr = stderr
        self.killed_by = killed_by
        self._raw_usage = usage
        self.timings = timings
        self.pid = pid

    @property
    def usage(self) -> Usage:
        return Usage(self._raw_usage)

    def check_returncode(self) -> None:
        """Raise CalledProcessError unless returncode is 0."""
        if self.returncode:
            from .errors import CalledProcessError

            error = CalledProcessError(self.returncode, self.args, self.stdout, self.stderr)
            error.completed = self
            raise error

    def __repr__(self) -> str:
        parts = [f"args={self.args!r}", f"returncode={self.returncode!r}"]
        parts += [f"{name}={value!r}" for name in ("stdout", "stderr", "killed_by")
                  if (value := getattr(self, name)) is not None]
        return f"Completed({', '.join(parts)})"


def _argv(argv: Any) -> list[Any]:
    if isinstance(argv, (str, bytes)):
        raise SpecError("argv", argv, "is one string", 'give a list, as ["sh", "-c", "echo hi"]')
    values = [os.fspath(arg) for arg in argv]
    if not values:
        raise SpecError("argv", argv, "is empty", "give the command to run")
    for arg in values:
        if ("\0" if isinstance(arg, str) else b"\0") in arg:
            raise SpecError("argv", arg, "has a null byte in it", "leave it out")
    if not values[0]:
        raise SpecError("argv", argv, "has an empty command", "give the command to run")
    return values


def killed_by(code: int, oom: bool, timed_out: bool) -> str | None:
    if timed_out:
        return "timeout"
    if oom and code != 0:
        return "oom"
    return "signal" if code < 0 else None


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def _inherited(fd: int) -> int:
    """A standard descriptor as an exec would pass it on: where it was closed, its number may be one of
    ours by now, or another file that is not to be inherited."""
    try:
        return fd if os.get_inheritable(fd) else -1
    except OSError:
        return -1


class _Stdio:
    """The three descriptors of a launch, and our ends of the pipes made for it."""

    __slots__ = ("ends", "given", "ours")

    def __init__(self, stdin: Any, stdout: Any, stderr: Any) -> None:
        self.ours: list[int] = []  # to be closed once the job has them
        self.ends = [-1, -1, -1]
        self.given = [-1, -1, -1]
        try:
            for i, (name, value) in enumerate((("stdin", stdin), ("stdout", stdout), ("stderr", stderr))):
                self.given[i] = self._one(i, name, value)
        except BaseException:
            self.close_all()
            raise

    def _one(self, i: int, name: str, value: Any) -> int:
        if value is None:
            return _inherited(i)
        if value == PIPE and isinstance(value, int):
            read, write = os.pipe2(os.O_CLOEXEC)
            theirs, self.ends[i] = (read, write) if i == 0 else (write, read)
            self.ours.append(theirs)
            return theirs
        if value == DEVNULL and isinstance(value, int):
            return -1
        if value == STDOUT and isinstance(value, int):
            if i != 2:
                raise SpecError(name, value, "is for stderr", "use PIPE, DEVNULL, a file or a descriptor")
            return self.given[1]
        if isinstance(value, int) and not isinstance(value, bool):
            if value < 0:
                raise SpecError(name, value, "is not a descriptor", "use PIPE, DEVNULL, a file or a descriptor")
            return value
        if hasattr(value, "fileno"):
            return int(value.fileno())
        raise SpecError(name, value, "cannot be used", "use None, PIPE, DEVNULL, a file or a descriptor")

    def started(self) -> None:
        for fd in self.ours:
            os.close(fd)
        self.ours.clear()

    def close_all(self) -> None:
        self.started()
        for i, fd in enumerate(self.ends):
            if fd >= 0:
                os.close(fd)
                self.ends[i] = -1


def _pass_fds(pass_fds: Any) -> list[tuple[int, int]]:
    """pairs (ours, the job's); a plain number keeps its own."""
    if isinstance(pass_fds, dict):
        pairs = [(int(ours), int(theirs)) for theirs, ours in pass_fds.items()]
    else:
        pairs = [(int(fd), int(fd)) for fd in pass_fds]
    for ours, theirs in pairs:
        if theirs < 3:
            raise SpecError("pass_fds", theirs, "is one of stdin, stdout and stderr", "use numbers from 3 on")
        if not _is_open(ours):
            raise SpecError("pass_fds", ours, "is not an open descriptor", "open it first")
    return pairs


def _limits(limits: Any) -> dict[str, Any] | None:
    if not limits:
        return None
    made = limits if isinstance(limits, Limits) else Limits(**limits)
    return made.to_native()


def _split(kw: dict[str, Any]) -> dict[str, Any]:
    """Take the keywords of a spec out of kw."""
    return {name: kw.pop(name) for name in list(kw) if name in FIELDS or name in LIMITS}


def run(argv: Any, *, plan: Plan | None = None, spec: Spec | None = None, **kw: Any) -> Completed:
    """Run a command in a container of its own and wait for it, as subprocess.run().

    argv: list of str, bytes or paths. Keywords of the container are those of `Spec` (rootfs="host" or a
    directory, memory="64m", cpus=0.5, pids=32, …); those of the launch: stdin, stdout, stderr (None:
    inherited, PIPE, DEVNULL, STDOUT, a file or descriptor), input, capture_output, text, encoding,
    errors, timeout (seconds), check, pass_fds, limits (a Limits or dict, over those of a plan),
    timings=True. env and cwd may be given for either.

    Raises SpecError before anything is made, CommandNotFound, CommandNotExecutable, LaunchError for a
    start that failed (nothing is left of it), TimeoutExpired when the time was up (everything in the
    container is dead then), CalledProcessError with check=True.
    """
    if plan is None:
        given = _split(kw)
        plan = plan_for(spec.replace(**given) if spec is not None and given else spec or Spec(**given))
    return run_plan(plan, argv, **kw)


def run_plan(plan: Plan, argv: Any, *, stdin: Any = None, input: Any = None, stdout: Any = None, stderr: Any = None,  # noqa: A002
             capture_output: bool = False, text: bool | None = None, encoding: str | None = None,
             errors: str | None = None, timeout: float | None = None, check: bool = False, env: Any = None,
             cwd: Any = None, pass_fds: Any = (), limits: Any = None, timings: bool = False,
             **unknown: Any) -> Completed:
    """run() of a compiled plan; see there."""
    if unknown:
        limits = _more_limits(limits, unknown)
    values = _argv(argv)
    if input is not None:
        if stdin is not None:
            raise SpecError("input", "…", "cannot go with stdin", "give one of them")
        stdin = PIPE
    if capture_output:
        if stdout is not None or stderr is not None:
            raise SpecError("capture_output", True, "cannot go with stdout or stderr", "give one of them")
        stdout = stderr = PIPE
    as_text = bool(text or encoding or errors)
    data: bytes | None = None
    if input is not None:
        data = input.encode(encoding or "utf-8", errors or "strict") if isinstance(input, str) else bytes(input)
    if as_text:
        "".encode(encoding or "utf-8", errors or "strict")  # an unknown one: before anything is started
    core = plan.core()
    stdio = _Stdio(stdin, stdout, stderr)
    ends = stdio.ends
    running: _core.Running | None = None
    try:
        launch = _core.Launch(values, plan.env(env), cwd, tuple(stdio.given), _pass_fds(pass_fds) if pass_fds else None,
                              _limits(limits), None, True, timings)
        running = core.launch(launch)
        stdio.started()
        for fd in ends:
            if fd >= 0:
                os.set_blocking(fd, False)
        stdio.ends = [-1, -1, -1]  # finish() closes them
        code, lost, oom, timed_out, out, err, usage, times, pid = running.finish(
            ends[0], ends[1], ends[2], data, -1.0 if timeout is None else max(float(timeout), 0.0), timings)
    except BaseException:  # also Ctrl-C between any two lines
        if running is not None:
            running.release()
        stdio.close_all()
        raise
    if ends[1] < 0 or stdout != PIPE:
        out = None
    if stderr != PIPE:
        err = None
    if as_text:
        if timed_out and errors is None:
            errors = "replace"  # what was read may end within a character
        out, err = (part if part is None else _decode(part, encoding, errors) for part in (out, err))
    done = Completed(argv, 255 if lost else code, out, err, killed_by(code, oom, timed_out), usage,
                     Timings(times) if times else None, pid)
    if timed_out:
        from .errors import TimeoutExpired

        assert timeout is not None
        expired = TimeoutExpired(argv, timeout, out, err)
        expired.completed = done
        raise expired
    if check:
        done.check_returncode()
    return done


def _decode(data: bytes, encoding: str | None, errors: str | None) -> str:
    return data.decode(encoding or "utf-8", errors or "strict").replace("\r\n", "\n").replace("\r", "\n")


def _more_limits(limits: Any, unknown: dict[str, Any]) -> Limits:
    """Limits given as keywords of a launch; anything else there is a mistake."""
    for name in unknown:
        if name in FIELDS:
            raise SpecError(name, unknown[name], "belongs to the plan", "give it to Plan(), or use fastctr.run()")
        if name not in LIMITS:
            from .errors import UnknownField

            raise UnknownField(name, ("stdin", "stdout", "stderr", "input", "capture_output", "text", "encoding",
                                      "errors", "timeout", "check", "env", "cwd", "pass_fds", "limits", "timings",
                                      *FIELDS, *LIMITS), "run")
    base: dict[str, Any] = {} if limits is None else dict(limits) if isinstance(limits, dict) else {}
    if isinstance(limits, Limits):
        raise SpecError("limits", limits, "cannot go with single limits", "give one of them")
    return Limits(**{**base, **unknown})


_live: weakref.WeakSet[Container] = weakref.WeakSet()


def close_live() -> None:
    """Close every container of this process; at its end."""
    for container in list(_live):
        container.close()


def _after_fork() -> None:
    for container in list(_live):
        container._run.forget()
    _live.clear()


context.on_fork(_after_fork)


class Container:
    """A container with a command in it, shaped like subprocess.Popen.

    Keywords as of run(), and tty=True or (rows, columns) for a terminal of the container's own, whose
    master is `.tty` (a binary file). stdin, stdout and stderr are files where PIPE was given. As a context
    manager, leaving it kills everything in the container. Raises as run() does.
    """

    def __init__(self, argv: Any, *, plan: Plan | None = None, spec: Spec | None = None, stdin: Any = None,
                 stdout: Any = None, stderr: Any = None, text: bool | None = None, encoding: str | None = None,
                 errors: str | None = None, bufsize: int = -1, env: Any = None, cwd: Any = None, pass_fds: Any = (),
                 limits: Any = None, tty: Any = None, timings: bool = False, **kw: Any) -> None:
        self.stdin: IO[Any] | None = None
        self.stdout: IO[Any] | None = None
        self.stderr: IO[Any] | None = None
        self.tty: IO[bytes] | None = None
        self.args = argv
        self.returncode: int | None = None
        self._result: tuple[int, bool, bool, tuple[int | None, ...]] | None = None
        self._timed_out = False
        self._lock = threading.Lock()
        self._wait_lock = threading.Lock()
        self._timings = timings
        self._given_env = env
        self._text = (encoding, errors) if text or encoding or errors else None
        if plan is None:
            given = _split(kw)
            plan = plan_for(spec.replace(**given) if spec is not None and given else spec or Spec(**given))
        if kw:
            limits = _more_limits(limits, kw)
        self._plan = plan
        size = _tty_size(tty)
        values = _argv(argv)
        stdio = _Stdio(None, None, None) if size else _Stdio(stdin, stdout, stderr)
        try:
            main = threading.current_thread() is threading.main_thread()
            launch = _core.Launch(values, plan.env(env, size is not None), cwd, tuple(stdio.given),
                                  _pass_fds(pass_fds) if pass_fds else None, _limits(limits), size, main, timings, True)
            self._run = self._start(launch)
        except BaseException:
            stdio.close_all()
            raise
        _live.add(self)
        try:
            self._open(stdio, size, bufsize)
        except BaseException:
            self._run.release()
            self.returncode = 255
            self.close()
            stdio.close_all()
            raise

    def _start(self, launch: _core.Launch) -> _core.Running:
        return self._plan.core().launch(launch)

    def _open(self, stdio: _Stdio, size: Any, bufsize: int) -> None:
        stdio.started()
        self.pid = self._run.pid
        if size:
            self.tty = os.fdopen(os.dup(self._run.master), "r+b", buffering=0)
        for name, fd, mode in zip(("stdin", "stdout", "stderr"), stdio.ends, ("wb", "rb", "rb")):
            if fd < 0:
                continue
            file: Any = os.fdopen(fd, mode, bufsize)
            stdio.ends[("stdin", "stdout", "stderr").index(name)] = -1
            setattr(self, name, file)
            if self._text:
                import io

                file = io.TextIOWrapper(file, encoding=self._text[0], errors=self._text[1], write_through=True)
                setattr(self, name, file)

    @property
    def pidfd(self) -> int:
        """A pidfd of the first process, to poll; pidfd_open(2). Ours to close: dup it to keep it."""
        return self._run.pidfd

    def poll(self) -> int | None:
        """The return code if the container has ended, else None."""
        return self._wait(0.0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; everything in the container is gone then. Raises TimeoutExpired."""
        code = self._wait(-1.0 if timeout is None else max(float(timeout), 0.0))
        if code is None:
            from .errors import TimeoutExpired

            assert timeout is not None
            raise TimeoutExpired(self.args, timeout)
        return code

    def _wait(self, timeout: float) -> int | None:
        if self.returncode is None:
            if timeout == 0:
                if not self._wait_lock.acquire(blocking=False):
                    return self.returncode
            elif not self._wait_lock.acquire(timeout=timeout):
                return self.returncode
            try:
                if self.returncode is None:
                    self._ended(self._run.wait(timeout))
            finally:
                self._wait_lock.release()
        return self.returncode

    def _ended(self, result: Any) -> None:
        if result is not None:
            self._result = result
            self.returncode = 255 if result[1] else result[0]

    def communicate(self, input: Any = None, timeout: float | None = None) -> tuple[Any, Any]:  # noqa: A002
        """Write input, read both outputs to their end, wait: (stdout, stderr). Raises TimeoutExpired;
        call again after that, nothing is lost."""
        from .communicate import communicate

        return communicate(self, input, timeout)

    def send_signal(self, sig: int) -> None:
        """Signal the first process; with init=True it is passed on to the command. kill(2)."""
        if self.returncode is None:
            self._run.signal(int(sig))

    def terminate(self) -> None:
        """SIGTERM to the command.

        It is PID 1 in its namespace, where a signal without a handler does nothing (pid_namespaces(7)):
        for programs that have none use init=True, or kill().
        """
        self.send_signal(_signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL to everything in the container."""
        if self.returncode is None:
            self._run.kill_all()

    def pause(self) -> None:
        """Freeze everything in it. Raises CgroupError without a freezer."""
        self._run.freeze(True)

    def resume(self) -> None:
        """Let it go on after pause()."""
        self._run.freeze(False)

    def stats(self) -> Usage:
        """What it uses now; after its end what it used."""
        if self._result is not None:
            return Usage(self._result[3])
        return Usage(self._run.stats())

    @property
    def usage(self) -> Usage:
        """As stats()."""
        return self.stats()

    @property
    def killed_by(self) -> str | None:
        """None, "timeout", "oom" or "signal", once it has ended."""
        if self._result is None:
            return None
        return killed_by(self._result[0], self._result[2], self._timed_out)

    @property
    def timings(self) -> Timings | None:
        return Timings(self._run.timings()) if self._timings else None

    @property
    def cgroups(self) -> dict[str, str]:
        """{controller: path below the cgroup mount}."""
        return self._run.cgroups()

    def pids(self) -> list[int]:
        """The processes in its control group, as this process sees them."""
        return self._run.pids()

    def update(self, **limits: Any) -> None:
        """Set limits while it runs: memory=, cpus=, pids=, … as in Limits. Raises SpecError, CgroupError."""
        native = _limits(limits)
        if native:
            self._run.update(native)

    def exec(self, argv: Any, **kw: Any) -> Container:
        """Start another command in it, with the same user, rights and environment: a Container, whose
        kill() ends that command alone. Keywords of the launch as for Container."""
        return _Exec(self, argv, **kw)

    def resize(self, rows: int, columns: int) -> None:
        """Set the terminal's size; the foreground process gets SIGWINCH. tty_ioctl(4)."""
        import fcntl
        import struct

        if self.tty is None:
            raise SpecError("tty", None, "was not asked for", "start the container with tty=True")
        fcntl.ioctl(self.tty.fileno(), 0x5414, struct.pack("HHHH", rows, columns, 0, 0))

    def close(self) -> None:
        """Kill what runs, close the pipes, let go."""
        if self.returncode is None:
            try:
                self._run.kill_all()
            finally:
                self._wait(-1.0)
        for file in (self.stdin, self.stdout, self.stderr, self.tty):
            if file is not None:
                try:
                    file.close()
                except BrokenPipeError:
                    pass
        self._run.release()

    def __enter__(self) -> Container:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "running" if self.returncode is None else f"returncode={self.returncode}"
        return f"<Container pid={self.pid} {state} args={self.args!r}>"


class _Exec(Container):
    """A command started in a running container."""

    def __init__(self, target: Container, argv: Any, **kw: Any) -> None:
        self._target = target
        if target._given_env:
            from .process import env as parse

            kw["env"] = {**dict(parse("env", target._given_env)), **dict(parse("env", kw.get("env") or {}))}
        super().__init__(argv, plan=target._plan, **kw)

    def _start(self, launch: _core.Launch) -> _core.Running:
        return self._target._run.exec(self._plan.exec_core(), launch)

    def exec(self, argv: Any, **kw: Any) -> Container:
        return self._target.exec(argv, **kw)


def _tty_size(tty: Any) -> tuple[int, int] | None:
    if tty is None or tty is False:
        return None
    if tty is True:
        return (24, 80)
    rows, columns = tty
    if not all(isinstance(n, int) and 0 <= n < 65536 for n in (rows, columns)):
        raise SpecError("tty", tty, "is not a size", "use True or (rows, columns)")
    return (rows, columns)
