"""Files a container leaves: opened in its root at its end, and handed over by descriptor."""

from __future__ import annotations

import os

from . import units
from .errors import SpecError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MOST = 256
"""Paths one launch may ask for."""


class OutputFile:
    """A regular file of a container that has ended, open for reading.

    path   where it was in the container
    fd     its descriptor, ours until close(); -1 afterwards
    size   bytes; mode: permission bits as chmod(2) has them

    It was opened with the job's own user and capabilities, so a link in a directory cannot lead to what
    the job could not have read itself. Its content stays as long as this is open, in memory where the
    container's writable layer was.
    """

    __slots__ = ("fd", "mode", "path", "size")

    def __init__(self, path: str, fd: int) -> None:
        self.path = path
        self.fd = fd
        found = os.fstat(fd)
        self.size = found.st_size
        self.mode = found.st_mode & 0o7777

    def fileno(self) -> int:
        """Its descriptor. Raises ValueError once it is closed."""
        if self.fd < 0:
            raise ValueError(f"{self.path} is closed")
        return self.fd

    def read(self, limit: int | None = None) -> bytes:
        """Its content from the beginning, at most `limit` bytes of it."""
        fd, parts, at = self.fileno(), [], 0
        while limit is None or at < limit:
            part = os.pread(fd, min(1 << 20, self.size + 1 if limit is None else limit - at), at)
            if not part:
                break
            parts.append(part)
            at += len(part)
        return b"".join(parts)

    def save(self, to: Any, mode: int | None = None) -> None:
        """Copy it to a path, which is replaced at once when all of it is there, or into a directory.

        mode: permission bits of the copy; without it the file's own, less the umask and never more than
        0o777. Raises OSError.
        """
        target = os.fspath(to)
        if os.path.isdir(target):
            target = os.path.join(target, type(target)(os.path.basename(self.path)) if isinstance(target, str)
                                  else os.fsencode(os.path.basename(self.path)))
        folder, name = os.path.split(os.fsdecode(target))
        temporary = os.path.join(folder, f".{name[:200]}.{os.urandom(4).hex()}")
        source = self.fileno()
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC,
                     self.mode & 0o777 if mode is None else mode)
        try:
            try:
                if mode is not None:
                    os.fchmod(fd, mode)
                _copy(source, fd)
            finally:
                os.close(fd)
            os.replace(temporary, target)
        except BaseException:
            os.unlink(temporary)
            raise

    def close(self) -> None:
        """Let it go. Harmless if done twice."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> OutputFile:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "fd", -1) >= 0:
            self.close()

    def __reduce__(self) -> Any:
        raise TypeError(f"{self.path} is an open file of this process: send what read() gives")

    def __repr__(self) -> str:
        return f"OutputFile({self.path!r}, size={self.size}, mode={self.mode:#o}, fd={self.fd})"


def _copy(source: int, target: int) -> None:
    at = 0
    while True:
        try:
            done = os.copy_file_range(source, target, 1 << 30, at, at)
        except OSError as error:
            if error.errno not in (22, 18, 38, 95, 1):  # EINVAL, EXDEV, ENOSYS, EOPNOTSUPP, EPERM: by hand
                raise
            break
        if done == 0:
            break  # the end, or a file that says it is empty and is not
        at += done
    while True:
        part = memoryview(os.pread(source, 1 << 20, at))
        if not part:
            return
        while part:
            done = os.pwrite(target, part, at)
            at += done
            part = part[done:]


def paths(outputs: Any) -> list[str]:
    """The paths of outputs=, checked. Raises SpecError."""
    if isinstance(outputs, (str, bytes)) or not hasattr(outputs, "__iter__"):
        raise SpecError("outputs", outputs, "is not a list of paths", 'use ["/out/result.json"]')
    found = [units.inside_path(f"outputs[{i}]", path) for i, path in enumerate(outputs)]
    if len(found) > MOST:
        raise SpecError("outputs", len(found), "paths are too many", f"use {MOST} at most, or a volume")
    return list(dict.fromkeys(found))


def opened(wanted: list[str], fds: list[int]) -> dict[str, OutputFile]:
    """What there is of them, by path; the descriptors are theirs from here on."""
    return {path: OutputFile(path, fd) for path, fd in zip(wanted, fds) if fd >= 0}
