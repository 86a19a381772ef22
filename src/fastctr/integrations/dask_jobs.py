"""What travels between a client and the workers: jobs, their results, their output files."""

from __future__ import annotations

import os
import pickle

from ..errors import SpecError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..results import Completed

OUTPUTS_LIMIT = 64 << 20
"""Bytes of output files that come back with one job, unless told otherwise."""
STDIO = ("stdin", "stdout", "stderr")


class OutputData:
    """An output file of a job on a worker: path (in the container), size (bytes) and mode, as OutputFile, and
    its content, unless that was over the job's outputs_limit (then the path is in Completed.truncated)."""

    __slots__ = ("_data", "mode", "path", "size")

    def __init__(self, path: str, size: int, mode: int, data: bytes | None) -> None:
        self.path = path
        self.size = size
        self.mode = mode
        self._data = data

    def read(self, limit: int | None = None) -> bytes:
        """The content, at most `limit` bytes of it. Raises SpecError if it was too large to come back."""
        if self._data is None:
            raise SpecError("outputs", self.path, f"has {self.size} bytes and was left on the worker",
                            "give a larger outputs_limit=")  # fmt: skip
        return self._data if limit is None else self._data[:limit]

    def save(self, to: Any, mode: int | None = None) -> None:
        """Write it to a path of this machine. mode: permission bits, else those it had, less the umask. Raises
        OSError, SpecError as read()."""
        data = self.read()
        with open(os.open(to, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, self.mode & 0o777), "wb") as file:
            if mode is not None:
                os.fchmod(file.fileno(), mode)
            file.write(data)

    def close(self) -> None:
        """Nothing is open; for the sake of OutputFile's interface."""

    def __repr__(self) -> str:
        return f"OutputData({self.path!r}, size={self.size})"


def check_launch(launch: dict[str, Any]) -> None:
    """What cannot go to another machine is refused here. Raises SpecError."""
    for name in STDIO:
        value = launch.get(name)
        if value is not None and not (isinstance(value, int) and value < 0):
            raise SpecError(name, value, "is open on this machine, not on the worker",
                            "use PIPE, DEVNULL, STDOUT, input= or files=")  # fmt: skip
    if launch.get("pass_fds"):
        raise SpecError("pass_fds", launch["pass_fds"], "are open on this machine, not on the worker",
                        "use input= or files=")  # fmt: skip


def portable(done: Completed, limit: int) -> Completed:
    """The result with its output files' content in place of their descriptors, `limit` bytes in all."""
    files = done._files
    if not files:
        return done
    left, left_out = limit, []
    kept: dict[str, Any] = {}
    for path, file in files.items():
        data: bytes | None = file.read(left + 1)
        if len(data or b"") > left:
            data = None
            left_out.append(path)
        else:
            left -= len(data or b"")
        kept[path] = OutputData(path, file.size, file.mode, data)
        file.close()
    done._files = kept
    if left_out:
        done.truncated = (*done.truncated, *left_out)
    return done


# ---- a task's payload: opaque bytes, so that Dask neither looks for dependencies in it nor copies it


def pack_command(argv: Any, launch: dict[str, Any]) -> bytes:
    """One job. Raises whatever pickling it does."""
    return pickle.dumps((argv, launch), protocol=5)


def pack_together(jobs: list[bytes], retries: int | None, topic: str) -> bytes:
    """A payload of jobs by pack_command(). retries: None for one job that is the task's; several are run one after
    another, each up to 1 + retries times, and of one that takes long is told on the topic."""
    return pickle.dumps(("argv", jobs, retries, topic), protocol=5)


def unpack(data: bytes) -> Any:
    from distributed.protocol.pickle import loads

    return loads(data)


def pack_call(func: Any, args: Any, kwargs: Any, options: dict[str, Any]) -> bytes:
    """A call, by cloudpickle where pickle cannot. Raises whatever pickling it does."""
    from distributed.protocol.pickle import dumps

    return dumps(("call", (func, args, kwargs), options, ""))  # type: ignore[no-any-return]


def run_jobs(payload: bytes) -> Any:
    """What tasks of a DaskExecutor name as their function. Their executor knows it and runs the payload in its
    containers; anywhere else nothing is run."""
    raise RuntimeError('a task of DaskExecutor was given to another executor than ContainerPlugin\'s: '
                       'annotate it with dask.annotate(executor="container")')  # fmt: skip
