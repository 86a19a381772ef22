"""Layers in overlayfs' form as one tree, looked at from user space: nothing is mounted.

Everything is opened relative to descriptors and without following links; links are followed by hand, inside the
root. Paths are bytes without a leading slash; b"" is the top.
"""

from __future__ import annotations

import os
import stat

__all__ = [
    "OPAQUE",
    "At",
    "Found",
    "Times",
    "View",
    "chown",
    "copy_content",
    "copy_xattrs",
    "is_opaque",
    "lstat",
    "open_dir",
]

OPAQUE = ("trusted.overlay.opaque", "user.overlay.opaque")
DIR_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MAX_LINKS = 40


def open_dir(top: int, path: bytes) -> int:
    """A directory below `top`; no link is followed on the way."""
    fd = os.open(b".", DIR_FLAGS, dir_fd=top)
    for name in path.split(b"/") if path else ():
        try:
            deeper = os.open(name, DIR_FLAGS, dir_fd=fd)
        finally:
            os.close(fd)
        fd = deeper
    return fd


class At:
    """The directory that holds `path`, open, and the last name."""

    def __init__(self, top: int, path: bytes) -> None:
        head, _, self.name = path.rpartition(b"/")
        self.fd = open_dir(top, head)

    def __enter__(self) -> At:
        return self

    def __exit__(self, *exc: object) -> None:
        os.close(self.fd)

    def stat(self) -> os.stat_result | None:
        try:
            return os.stat(self.name, dir_fd=self.fd, follow_symlinks=False)
        except FileNotFoundError:
            return None


def is_whiteout(st: os.stat_result) -> bool:
    return stat.S_ISCHR(st.st_mode) and st.st_rdev == 0


def is_opaque(fd: int) -> bool:
    for name in OPAQUE:
        try:
            if os.getxattr(fd, name) == b"y":
                return True
        except OSError:
            continue
    return False


def copy_xattrs(source: int | str | bytes, target: int | str | bytes, follow: bool = True) -> None:
    try:
        names = os.listxattr(source, follow_symlinks=follow)
    except OSError:
        return
    for name in names:
        if name.startswith(("trusted.overlay.", "user.overlay.", "security.selinux")):
            continue
        try:
            os.setxattr(target, name, os.getxattr(source, name, follow_symlinks=follow), follow_symlinks=follow)
        except PermissionError:
            continue


def copy_content(source: int, target: int, size: int) -> None:
    """The data between the holes."""
    at = 0
    while at < size:
        try:
            at = os.lseek(source, at, os.SEEK_DATA)
        except OSError:
            break
        end = os.lseek(source, at, os.SEEK_HOLE)
        os.lseek(target, at, os.SEEK_SET)
        while at < end:
            done = os.sendfile(target, source, at, min(end - at, 1 << 30))
            if not done:
                break
            at += done
        if at < end:
            break
    os.ftruncate(target, size)


def lstat(name: bytes, fd: int) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=fd, follow_symlinks=False)
    except FileNotFoundError:
        return None


def chown(what: int | bytes, st: os.stat_result, fd: int | None = None) -> None:
    """Give it away, if this user may: an unprivileged layer is its maker's throughout."""
    try:
        os.chown(what, st.st_uid, st.st_gid, dir_fd=fd, follow_symlinks=fd is None)
    except PermissionError:
        if os.geteuid() == 0:
            raise


class Times:
    """A directory keeps the times it had."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.st = os.stat(fd)

    def __enter__(self) -> None:
        return None

    def __exit__(self, *exc: object) -> None:
        os.utime(self.fd, ns=(self.st.st_atime_ns, self.st.st_mtime_ns))


class Found:
    """What a path is in the merged tree.

    places  (layer, path) of each directory that makes it up, or of the one thing that it is
    st      the topmost one's stat
    """

    def __init__(self, places: list[tuple[int, bytes]], st: os.stat_result) -> None:
        self.places = places
        self.st = st
        self.is_dir = stat.S_ISDIR(st.st_mode)


class View:
    """The merged tree of `layers`: descriptors of their directories, topmost first."""

    def __init__(self, layers: list[int]) -> None:
        self.layers = layers

    def child(self, places: list[tuple[int, bytes]], name: bytes, skip_own: bool = False) -> Found | None:
        found: Found | None = None
        for layer, path in places:
            if skip_own and layer == 0:
                continue
            child = path + b"/" + name if path else name
            with At(self.layers[layer], child) as at:
                st = at.stat()
            if st is None:
                continue
            if not stat.S_ISDIR(st.st_mode):
                return found if found or is_whiteout(st) else Found([(layer, child)], st)
            if found is None:
                found = Found([], st)
            found.places.append((layer, child))
            fd = open_dir(self.layers[layer], child)
            try:
                if is_opaque(fd):
                    break
            finally:
                os.close(fd)
        return found

    def root(self) -> Found:
        return Found([(n, b"") for n in range(len(self.layers))], os.stat(self.layers[0]))

    def walk(self, path: bytes) -> tuple[Found | None, bytes]:
        """What a path is, links on the way (not the last) followed inside the root; and its real path."""
        rest = path.split(b"/")
        stack = [self.root()]
        names: list[bytes] = []
        links = 0
        while rest:
            name = rest.pop(0)
            if name in (b"", b"."):
                continue
            if name == b"..":
                if names:
                    names.pop()
                    stack.pop()
                continue
            found = self.child(stack[-1].places, name)
            if found is None:
                for part in (name, *rest):
                    if part == b"..":
                        del names[-1:]
                    elif part not in (b"", b"."):
                        names.append(part)
                return None, b"/".join(names)
            if stat.S_ISLNK(found.st.st_mode) and any(rest):
                links += 1
                if links > _MAX_LINKS:
                    return None, path
                text = self.readlink(found)
                rest = text.split(b"/") + rest
                if text.startswith(b"/"):
                    del names[:]
                    del stack[1:]
                continue
            if not found.is_dir and any(rest):
                return None, path
            names.append(name)
            stack.append(found)
        return stack[-1], b"/".join(names)

    def readlink(self, found: Found) -> bytes:
        layer, path = found.places[0]
        with At(self.layers[layer], path) as at:
            return os.readlink(at.name, dir_fd=at.fd)
