"""The file of results: one write a line, so that a crash tears at most the last one; and what it tells
a batch that goes on."""

from __future__ import annotations

import json
import os
import stat
import threading

from .errors import BatchError
from .jobs import id_key
from .table import Table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_dumps = json.JSONEncoder(separators=(", ", ": "), check_circular=False, default=repr).encode


def line_of(record: dict[str, Any]) -> bytes:
    return (_dumps(record) + "\n").encode()


class Writer:
    """Writes records to a descriptor; any thread. Raises BatchError when there is no room any more."""

    def __init__(self, fd: int, name: str) -> None:
        self.fd = fd
        self.name = name
        # appending to a file is one step for the kernel; a pipe takes long lines in parts
        self._lock = None if stat.S_ISREG(os.fstat(fd).st_mode) else threading.Lock()
        self._dirty = False

    def put(self, job: Any, record: dict[str, Any]) -> None:
        line = line_of(record)
        if self._lock is None:
            self._write(line)
        else:
            with self._lock:
                self._write(line)
        self._dirty = True

    def _write(self, line: bytes) -> None:
        try:
            done = os.write(self.fd, line)
            while done < len(line):  # a pipe, or a disk that is nearly full
                done += os.write(self.fd, line[done:])
        except BrokenPipeError:
            raise
        except OSError as error:
            raise BatchError(f"{self.name}: results cannot be written: {error.strerror}") from None

    def sync(self) -> None:
        """See that what was written is on the disk."""
        if self._dirty and self._lock is None:
            self._dirty = False
            os.fdatasync(self.fd)


class Recorded:
    """What a file of results says is done. Values of the table: a digest, its lowest bit set for "ok"."""

    def __init__(self) -> None:
        self.table = Table()
        self.torn = 0  # bytes of a last line that was cut off
        self.damaged = 0  # lines that are no results
        self.cancelled = 0

    def load(self, fd: int, name: str, retry_failed: bool) -> None:
        """Read all of it and cut off a torn last line. Raises BatchError."""
        from .reader import Lines

        size = os.fstat(fd).st_size
        os.lseek(fd, 0, os.SEEK_SET)
        lines = Lines(fd, name)
        bad_at_end = False
        while (item := lines.next()) is not None:
            try:
                record = json.loads(item[1])
                key, value, status = _known(record)
            except (ValueError, TypeError, KeyError, AttributeError):
                self.damaged += 1
                bad_at_end = True
                continue
            bad_at_end = False
            if status == "cancelled":
                self.cancelled += 1
            elif not record.get("invalid") and (status == "ok" or not retry_failed):
                self.table.put(key, value)
        self._mend(fd, size, bad_at_end)

    def _mend(self, fd: int, size: int, bad_at_end: bool) -> None:
        """The file ends with a whole line, so that the next one begins on its own."""
        if not size:
            return
        block = min(size, 64 << 20)
        tail = os.pread(fd, block, size - block)
        if tail.endswith(b"\n"):
            return
        if bad_at_end:
            keep = size - block + tail.rfind(b"\n") + 1
            self.torn = size - keep
            self.damaged -= 1
            os.ftruncate(fd, keep)
        else:
            os.write(fd, b"\n")  # all of it but its end was written


def _known(record: dict[str, Any]) -> tuple[int, int, str]:
    status = record["status"]
    name = record["id"]
    value = int(record["digest"], 16) & ~1 | (status == "ok")
    key = record["line"] if name is None else id_key(name)
    if not isinstance(key, int) or key <= 0 or not isinstance(status, str):
        raise ValueError("no result")
    return key, value, status


def open_results(path: str, resume: bool, overwrite: bool) -> int:
    """The descriptor of a file of results, ours alone. Raises BatchError."""
    import fcntl

    try:
        fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise BatchError(f"{path}: results cannot be written there: {error.strerror}") from None
    try:
        if stat.S_ISREG(os.fstat(fd).st_mode):
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise BatchError(f"{path}: another batch is writing its results there") from None
            if os.fstat(fd).st_size and not resume:
                if not overwrite:
                    raise BatchError(f"{path}: has results already; --resume goes on, --overwrite starts anew")
                os.ftruncate(fd, 0)
        elif resume:
            raise BatchError(f"{path}: is not a file, and only a file's results can be gone on with")
    except BaseException:
        os.close(fd)
        raise
    return fd
