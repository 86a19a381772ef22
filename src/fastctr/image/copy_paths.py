"""Where a copy comes from and goes to: a path below a root, resolved to descriptors that stay what they are.

In a container's root nothing leads out of it, neither ".." nor links, even if the container changes them
meanwhile (openat2(2), RESOLVE_IN_ROOT); on the host paths are what they are for everybody.
"""

from __future__ import annotations

import errno
import os
import stat

from ..errors import ImageError
from .rootfd import IN_ROOT, NO_MAGICLINKS, link_path, open_at

__all__ = ["Node", "Root", "Target"]

_LINKS_MAX = 40
_PATH = os.O_PATH | os.O_NOFOLLOW


class Node:
    """Something that is there: `fd` (O_PATH, of the thing itself, ours to close), `info` (its lstat)."""

    __slots__ = ("fd", "info")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.info = os.fstat(fd)

    @property
    def is_dir(self) -> bool:
        return stat.S_ISDIR(self.info.st_mode)

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Node:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Target:
    """Where a copy is to be made: `name` in the open directory `fd` (ours to close). If name is "", the
    directory is the place itself, and a source directory's content goes into it."""

    __slots__ = ("fd", "name", "there")

    def __init__(self, fd: int, name: str, there: bool) -> None:
        self.fd = fd
        self.name = name
        self.there = there

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Target:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def split(path: str) -> tuple[str, str]:
    """(directory, last part) of a path; the last part is "" for what can only be a directory."""
    stripped = path.rstrip("/")
    head, _, last = stripped.rpartition("/")
    if last in ("", ".", ".."):
        return path, ""
    return head or ("/" if path.startswith("/") else "."), last


def means_content(path: str) -> bool:
    """Whether a source means the content of a directory and not the directory: "dir/." or "."."""
    return path == "." or path.rstrip("/").endswith("/.")


class Root:
    """Paths below a descriptor; `where` comes first in messages, as "container:". fd None: the host's paths."""

    def __init__(self, fd: int | None, where: str = "") -> None:
        self.fd = os.open("/", os.O_PATH | os.O_DIRECTORY) if fd is None else fd
        self._owned = fd is None
        self.where = where
        self._resolve = 0 if fd is None else IN_ROOT | NO_MAGICLINKS
        self.inside = fd is not None

    def __enter__(self) -> Root:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._owned:
            os.close(self.fd)

    def shown(self, path: str) -> str:
        return f"{self.where}{path}"

    def _open(self, path: str, flags: int) -> int:
        if not self.inside:
            return os.open(path or ".", flags | os.O_CLOEXEC)
        return open_at(self.fd, path, flags, self._resolve)

    def fail(self, path: str, error: OSError) -> ImageError:
        words = {
            errno.ENOENT: "is not there",
            errno.ENOTDIR: "is not a directory",
            errno.ELOOP: "has a link in a circle",
            errno.EXDEV: "leads out of the container",
        }
        why = words.get(error.errno or 0, f"cannot be opened: {os.strerror(error.errno or 0)}")
        return ImageError(self.shown(path), why)

    def node(self, path: str, follow: bool) -> Node:
        """What is at a path; a last link is only followed if asked for, or if a "/" comes after it."""
        directory = path.endswith(("/", "/.", "/..")) or path in ("", ".", "..")
        flags = os.O_PATH | (os.O_DIRECTORY if directory else 0) | (0 if follow or directory else os.O_NOFOLLOW)
        try:
            return Node(self._open(path, flags))
        except OSError as error:
            raise self.fail(path, error) from None

    def target(self, path: str, source_name: str, source_is_dir: bool, content: bool) -> Target:
        """Where a source goes by the rules of `docker cp`. Raises ImageError where they forbid it."""
        must_be_dir = path.endswith(("/", "/.", "/..")) or path in ("", ".", "..")
        try:
            fd = self._open(path, os.O_PATH | os.O_DIRECTORY)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                raise self.fail(path, error) from None
        else:
            if source_is_dir and (content or not source_name):
                return Target(fd, "", True)
            return Target(fd, source_name, True)
        directory, name = self._last(path)
        try:
            there = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            there = None
        try:
            if there is not None and source_is_dir:
                raise ImageError(self.shown(path), "is a file, and a directory cannot be copied to it")
            if must_be_dir and not source_is_dir:
                why = "is not a directory" if there is not None else "is no directory that is there"
                raise ImageError(self.shown(path), why)
        except BaseException:
            os.close(directory)
            raise
        return Target(directory, name, there is not None)

    def _last(self, path: str) -> tuple[int, str]:
        """(directory, name) of a path that is not a directory, its links followed: it may be missing."""
        asked = path
        for _ in range(_LINKS_MAX):
            head, name = split(path)
            try:
                directory = self._open(head, os.O_PATH | os.O_DIRECTORY)
            except OSError as error:
                raise self.fail(head, error) from None
            if not name:
                os.close(directory)
                raise ImageError(self.shown(asked), "is not there")
            try:
                link = os.readlink(name, dir_fd=directory)
            except OSError:
                return directory, name
            os.close(directory)
            path = link if link.startswith("/") else f"{head.rstrip('/')}/{link}"
        raise ImageError(self.shown(asked), "has a link in a circle")


def child(directory: int, name: str) -> Node:
    """What is called `name` in an open directory, itself."""
    return Node(os.open(name, _PATH | os.O_CLOEXEC, dir_fd=directory))


def reopen(node: Node, flags: int) -> int:
    """An O_PATH descriptor of a file or directory opened for real: the same inode, whatever its name is now."""
    return os.open(link_path(node.fd), flags | os.O_CLOEXEC)
