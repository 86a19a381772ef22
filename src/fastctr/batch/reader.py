"""Where jobs come from: the lines of a file or pipe, read as a stream, or a Python iterable."""

from __future__ import annotations

import os
import stat

from .errors import BatchError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

CHUNK = 1 << 18
LONGEST = 64 << 20
"""Bytes of the longest line that is read."""


class Lines:
    """The lines of a descriptor, one at a time. `wake` may be set to a
    descriptor whose readability ends waiting for a pipe."""

    def __init__(self, fd: int, name: str, end: bytes = b"\n", strip: bool = True) -> None:
        self.fd = fd
        self.name = name
        self._end = end
        self._strip = strip
        self.wake = -1
        self.number = 0
        self._ready: list[bytes] = []  # the last first
        self._rest = b""
        self._ended = False
        self._regular = stat.S_ISREG(os.fstat(fd).st_mode)
        self._poll: Any = None

    def next(self) -> tuple[int, bytes] | None:
        """(its number from 1, the line, without spaces around it if strip), or None at the end. Empty ones are
        left out, and counted."""
        ready, strip = self._ready, self._strip
        while True:
            while ready:
                self.number += 1
                line = ready.pop()
                if strip:
                    line = line.strip()
                if line:
                    return self.number, line
            if self._ended or not self._fill():
                return None

    def rewind(self) -> None:
        """Begin again."""
        os.lseek(self.fd, 0, os.SEEK_SET)
        self.number, self._rest, self._ended = 0, b"", False
        self._ready.clear()

    def ready(self) -> bool:
        """Whether next() has something without reading."""
        return bool(self._ready)

    def _fill(self) -> bool:
        chunks = [self._rest]
        size = len(self._rest)
        self._rest = b""
        while True:
            if not self._regular and not self._wait():
                return False
            chunk = os.read(self.fd, CHUNK)
            if not chunk:
                self._ended = True
                break
            chunks.append(chunk)
            size += len(chunk)
            if self._end in chunk:
                break
            if size > LONGEST:
                raise BatchError(f"{self.name}, line {self.number + 1}: is longer than {LONGEST >> 20} MiB")
        text = b"".join(chunks)
        if self.number == 0:
            text = text.removeprefix(b"\xef\xbb\xbf")
        lines = text.split(self._end)
        self._rest = b"" if self._ended else lines.pop()
        lines.reverse()
        self._ready.extend(lines)
        return True

    def _wait(self) -> bool:
        """Until there is something to read; False when it was woken to stop."""
        if self.wake < 0:
            return True
        if self._poll is None:
            import select

            self._poll = select.poll()
            self._poll.register(self.fd, select.POLLIN)
            self._poll.register(self.wake, select.POLLIN)
        return all(fd != self.wake for fd, _ in self._poll.poll())


class Items:
    """The jobs of a Python iterable, numbered from 1."""

    wake = -1  # what comes out of an iterable is waited for

    def __init__(self, jobs: Iterable[Any], name: str = "jobs") -> None:
        self.name = name
        self._jobs = jobs
        self.rewind()

    def rewind(self) -> None:
        """Begin again, with a list."""
        self.number = 0
        self._next = iter(self._jobs).__next__

    def next(self) -> tuple[int, Any] | None:
        try:
            job = self._next()
        except StopIteration:
            return None
        self.number += 1
        return self.number, job

    def ready(self) -> bool:
        """What comes next is taken when it is needed, and not before."""
        return False


def count_lines(path: str) -> int:
    """How many lines a file has, empty ones among them: for the progress bar only."""
    found, last = 0, b"\n"
    with open(path, "rb", buffering=0) as file:
        while chunk := file.read(1 << 20):
            found += chunk.count(b"\n")
            last = chunk[-1:]
    return found + (last != b"\n")


def spooled(fd: int) -> int:
    """A file without a name that holds all a pipe has to say, so that it can be read twice; ours to close."""
    import tempfile

    with tempfile.TemporaryFile(buffering=0) as copy:
        while chunk := os.read(fd, CHUNK):
            while chunk:
                chunk = chunk[copy.write(chunk) :]
        copy.seek(0)
        return os.dup(copy.fileno())
