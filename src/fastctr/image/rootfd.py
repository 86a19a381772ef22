"""Paths below a directory descriptor that can never lead out of it: openat2(2), by libc's syscall().

A container's root may be changed by the container while we read it, so every path is resolved by the
kernel below the root's descriptor and used through a descriptor from then on.
"""

from __future__ import annotations

import errno
import os

from ..errors import ImageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = [
    "BENEATH",
    "IN_ROOT",
    "NO_MAGICLINKS",
    "NO_SYMLINKS",
    "NO_XDEV",
    "as_root",
    "get_xattr",
    "link_path",
    "list_xattrs",
    "open_at",
]

NO_XDEV = 0x01
NO_MAGICLINKS = 0x02
NO_SYMLINKS = 0x04
BENEATH = 0x08
IN_ROOT = 0x10

_SYS_OPENAT2 = 437  # one number on every architecture (since Linux 5.6)
_call: Any = None


def _prepare() -> Any:
    global _call
    import ctypes

    syscall = ctypes.CDLL(None, use_errno=True).syscall
    syscall.restype = ctypes.c_long
    how_type = ctypes.c_uint64 * 3

    def call(dirfd: int, path: bytes, flags: int, mode: int, resolve: int) -> int:
        how = how_type(flags, mode, resolve)
        while True:
            fd: int = syscall(
                ctypes.c_long(_SYS_OPENAT2),
                ctypes.c_int(dirfd),
                ctypes.c_char_p(path),
                ctypes.byref(how),
                ctypes.c_size_t(ctypes.sizeof(how)),
            )
            if fd >= 0:
                return fd
            code = ctypes.get_errno()
            if code not in (errno.EINTR, errno.EAGAIN):  # EAGAIN: something was renamed meanwhile
                raise OSError(code, os.strerror(code), os.fsdecode(path))

    _call = call
    return call


def open_at(dirfd: int, path: str | bytes, flags: int, resolve: int = IN_ROOT | NO_MAGICLINKS, mode: int = 0) -> int:
    """openat2(2): a descriptor (close-on-exec) of `path` below `dirfd`. Raises OSError as the kernel does."""
    call = _call or _prepare()
    got: int = call(dirfd, os.fsencode(path) or b".", flags | os.O_CLOEXEC, mode, resolve)
    return got


def link_path(fd: int, name: str = "") -> str:
    """A path by which calls without a dirfd reach what is open as `fd`, or `name` in it."""
    return f"/proc/self/fd/{fd}/{name}" if name else f"/proc/self/fd/{fd}"


def list_xattrs(target: int | str) -> list[str]:
    """Names of the extended attributes of a descriptor or (links not followed) a path; none if it has no such."""
    try:
        return os.listxattr(target) if isinstance(target, int) else os.listxattr(target, follow_symlinks=False)
    except OSError as error:
        if error.errno in (errno.ENOTSUP, errno.ENODATA, errno.EPERM, errno.EACCES):
            return []
        raise


def get_xattr(target: int | str, name: str) -> bytes | None:
    """One attribute's value, or None where it is not there or not for us."""
    try:
        if isinstance(target, int):
            return os.getxattr(target, name)
        return os.getxattr(target, name, follow_symlinks=False)
    except OSError as error:
        if error.errno in (errno.ENOTSUP, errno.ENODATA, errno.EPERM, errno.EACCES, errno.ERANGE):
            return None
        raise


class as_root:
    """`with as_root(directory) as fd`: a descriptor of a directory given by path or descriptor, ours to close."""

    def __init__(self, directory: int | str | os.PathLike[str]) -> None:
        self._directory = directory
        self._fd = -1

    def __enter__(self) -> int:
        where = self._directory
        try:
            if isinstance(where, int):
                self._fd = os.open(link_path(where) + "/.", os.O_RDONLY | os.O_DIRECTORY)
            else:
                self._fd = os.open(where, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise ImageError(str(where), f"cannot be opened as a directory: {error.strerror}") from None
        return self._fd

    def __exit__(self, *exc: object) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
