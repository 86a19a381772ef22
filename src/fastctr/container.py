"""Container: a running one, shaped like subprocess.Popen."""

from __future__ import annotations

import os
import threading
import weakref

from . import _core, context
from .errors import SpecError
from .launch_args import (
    Stdio,
    argv_of,
    fd_pairs,
    launch_files,
    launch_user,
    more_limits,
    native_limits,
    tty_size,
    user_env,
)
from .plan import Plan, plan_of
from .results import Timings, Usage, killed_by

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import IO, Any

    from .from_image import Copied
    from .spec import Spec

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

    _who: tuple[str | None, int, int] | None = None  # its user, in place of the plan's
    _lasting = False  # the thread it is made in lives as long as this process's context: see launch.c

    def __init__(self, argv: Any = None, *, plan: Plan | None = None, spec: Spec | None = None, stdin: Any = None,
                 stdout: Any = None, stderr: Any = None, text: bool | None = None, encoding: str | None = None,
                 errors: str | None = None, bufsize: int = -1, env: Any = None, cwd: Any = None, pass_fds: Any = (),
                 limits: Any = None, tty: Any = None, timings: bool = False, user: Any = None, files: Any = None,
                 **kw: Any) -> None:
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
        if plan is None or isinstance(self, _Exec):  # of a plan they are the launch's; else the container's own
            kw.update((name, value) for name, value in (("user", user), ("files", files)) if value is not None)
            user = files = None
        if plan is None:
            plan = plan_of(kw, spec)
        if kw:
            limits = more_limits(limits, kw)
        self._copied: Copied | None = None
        if plan.copies and not isinstance(self, _Exec):
            from .from_image import Copied

            self._copied = Copied(plan)
            plan = self._copied.plan
        self._plan = plan
        size = tty_size(tty)
        stdio: Stdio | None = None
        try:
            values = self._argv(argv)
            if argv is None:
                self.args = values
            stdio = Stdio(None, None, None) if size else Stdio(stdin, stdout, stderr)
            main = self._lasting or threading.current_thread() is threading.main_thread()
            who = None if user is None else launch_user(user)
            self._who = who or self._who
            tty = size is not None
            pairs = plan.env(env, tty) if self._who is None else user_env(plan, self._who, env, tty)
            launch = _core.Launch(values, pairs, cwd, tuple(stdio.given), fd_pairs(pass_fds) if pass_fds else None,
                                  native_limits(limits), size, main, timings, True, 0, who,
                                  launch_files(files) if files else None)
            self._run = self._start(launch)
        except BaseException:
            if stdio is not None:
                stdio.close_all()
            self._remove_copy()
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

    def _argv(self, argv: Any) -> list[Any]:
        return self._plan.argv(argv)

    def _start(self, launch: _core.Launch) -> _core.Running:
        return self._plan.core().launch(launch)

    def _open(self, stdio: Stdio, size: Any, bufsize: int) -> None:
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
            self._remove_copy()

    def _remove_copy(self) -> None:
        copied, self._copied = self._copied, None
        if copied is not None:
            copied.close()

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
        self.send_signal(15)  # importing signal brings enum along, which takes longer than a start

    def kill(self) -> None:
        """SIGKILL to everything in the container."""
        if self.returncode is None:
            self._run.kill_all()

    def stop(self, timeout: float = 10, signal: int | str | None = None) -> int:
        """Ask it to end, and kill everything in it once `timeout` seconds are over; the return code.

        The signal is the one given, else the image's StopSignal, else SIGTERM; what terminate() says of
        signals without a handler goes for it too.
        """
        if self.poll() is None:
            if signal is not None and not isinstance(signal, int):
                from .image_args import signal_number

                signal = signal_number(signal, "signal")
            self.send_signal(signal or self.stop_signal or 15)
            if self._wait(max(float(timeout), 0.0)) is None:
                self.kill()
        return self.wait()

    @property
    def stop_signal(self) -> int | None:
        """The signal its image wants to be stopped with, or None."""
        image = self._plan.image
        return image.stop_signal if image is not None else None

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
        native = native_limits(limits)
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
        self._remove_copy()

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
        self._who = target._who
        if target._given_env:
            from .process import env as parse

            kw["env"] = {**dict(parse("env", target._given_env)), **dict(parse("env", kw.get("env") or {}))}
        super().__init__(argv, plan=target._plan, **kw)

    def _argv(self, argv: Any) -> list[Any]:
        return argv_of(argv)  # an image's entrypoint is for its containers, not for what joins them

    def _start(self, launch: _core.Launch) -> _core.Running:
        return self._target._run.exec(self._plan.exec_core(), launch)

    def exec(self, argv: Any, **kw: Any) -> Container:
        return self._target.exec(argv, **kw)
