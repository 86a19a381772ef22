"""What comes back of a container: Completed, Usage, Timings."""

from __future__ import annotations

from . import _core

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .outputs import OutputFile


STREAMS = ((), ("stdout",), ("stderr",), ("stdout", "stderr"))
"""Completed.truncated, of the core's two bits."""


class Usage:
    """What a container used. Times in seconds, sizes in bytes; None where the kernel cannot tell.

    cpu_user, cpu_system, cpu_total, throttled, cpu_pressure, memory_pressure, io_pressure (seconds);
    nr_throttled, oom_kills, pids_current, pids_peak, io_reads, io_writes (counts);
    memory_current, memory_peak, memory_limit, io_read_bytes, io_write_bytes (bytes; io as the
    control group has it, or if that is more, what its processes had read and written by getrusage(2)).
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
    killed_by (None, "timeout", "oom" or "signal"; as the kernel and our own clock say, never guessed from
    a return code), usage, timings (when asked for), pid, truncated (which of "stdout" and "stderr" had
    more than output_limit), warm (whether its start found a prepared container), and files (path:
    OutputFile, of outputs=)."""

    __slots__ = ("_files", "_raw_usage", "args", "killed_by", "pid", "returncode", "stderr", "stdout", "timings",
                 "truncated", "warm")

    def __init__(self, args: Any, returncode: int, stdout: Any, stderr: Any, killed_by: str | None,
                 usage: tuple[int | None, ...], timings: Timings | None, pid: int,
                 truncated: tuple[str, ...] = (), files: dict[str, OutputFile] | None = None,
                 warm: bool = False) -> None:
        self.args = args
        self.returncode = returncode
        self.stdout = stdout
        self.stderr = stderr
        self.killed_by = killed_by
        self._raw_usage = usage
        self.timings = timings
        self.pid = pid
        self.truncated = truncated
        self._files = files
        self.warm = warm

    @property
    def usage(self) -> Usage:
        return Usage(self._raw_usage)

    @property
    def files(self) -> dict[str, OutputFile]:
        """The files of outputs= that were there, by their paths; ours to close, or they go with this."""
        if self._files is None:
            self._files = {}
        return self._files

    def as_dict(self) -> dict[str, Any]:
        """What json.dumps() takes: args, returncode, killed_by, usage, truncated, pid; no outputs."""
        from os import fsdecode

        return {"args": [fsdecode(arg) for arg in self.args], "returncode": self.returncode,
                "killed_by": self.killed_by, "usage": self.usage.as_dict(), "truncated": list(self.truncated),
                "pid": self.pid}

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
        parts += [f"truncated={self.truncated!r}"] if self.truncated else []
        parts += [f"files={list(self._files)!r}"] if self._files else []
        return f"Completed({', '.join(parts)})"


def killed_by(code: int, oom: bool, timed_out: bool) -> str | None:
    if timed_out:
        return "timeout"
    if oom and code != 0:
        return "oom"
    return "signal" if code < 0 else None


def decode(data: bytes, encoding: str | None, errors: str | None) -> str:
    return data.decode(encoding or "utf-8", errors or "strict").replace("\r\n", "\n").replace("\r", "\n")


def finished(done: Completed, text: tuple[str | None, str | None] | None, timeout: float | None,
             error: Any, check: bool) -> Completed:  # fmt: skip
    """What run() gives of a job that is over: done itself, its outputs as text (encoding, errors) if so asked.

    Raises TimeoutExpired if it was killed for its time, the error of its outputs= if there is one, and
    CalledProcessError with check; each has done as `completed`.
    """
    late = done.killed_by == "timeout"
    if text is not None:
        encoding, errors = text
        if errors is None and (late or done.truncated):
            errors = "replace"  # what was read may end within a character
        if done.stdout is not None:
            done.stdout = decode(done.stdout, encoding, errors)
        if done.stderr is not None:
            done.stderr = decode(done.stderr, encoding, errors)
    if late:
        from .errors import TimeoutExpired

        assert timeout is not None
        error = TimeoutExpired(done.args, timeout, done.stdout, done.stderr)
    if error is not None:
        error.completed = done
        raise error
    if check:
        done.check_returncode()
    return done
