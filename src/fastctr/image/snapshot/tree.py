"""A whole tree copied, as `cp -a --reflink=auto` does it: owners, modes, times, attributes, hard links, holes."""

from __future__ import annotations

import os
import stat

from ...errors import StoreError

__all__ = ["copy_tree"]

_FICLONE = 0x40049409
_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NOATIME | os.O_CLOEXEC


def copy_tree(source: str, target: str) -> int:
    """Copy the directory `source` to `target`, which must not exist. Returns the bytes of its files.

    Files share their blocks where the filesystem can (FICLONE, ioctl_ficlone(2)). Raises StoreError.
    """
    copier = _Copier(target)
    try:
        os.mkdir(target, 0o700)
        from_fd = os.open(source, _DIR)
        try:
            to_fd = os.open(target, _DIR)
            try:
                copier.top = to_fd
                copier.directory(from_fd, to_fd, "")
            finally:
                os.close(to_fd)
        finally:
            os.close(from_fd)
    except OSError as error:
        from ..ingest import store_error

        raise store_error(error, target) from None
    return copier.size


class _Copier:
    def __init__(self, target: str) -> None:
        from ..merged import copy_content, copy_xattrs

        self.copy_content, self.copy_xattrs = copy_content, copy_xattrs
        self.target = target
        self.top = -1
        self.size = 0
        self.reflinks = True
        self.links: dict[tuple[int, int], str] = {}

    def directory(self, source: int, target: int, path: str) -> None:
        with os.scandir(source) as entries:
            names = [entry.name for entry in entries]
        for name in names:
            info = os.stat(name, dir_fd=source, follow_symlinks=False)
            below = f"{path}/{name}" if path else name
            if stat.S_ISDIR(info.st_mode):
                os.mkdir(name, 0o700, dir_fd=target)
                inner = os.open(name, _DIR, dir_fd=source)
                try:
                    outer = os.open(name, _DIR, dir_fd=target)
                    try:
                        self.directory(inner, outer, below)
                    finally:
                        os.close(outer)
                finally:
                    os.close(inner)
            elif info.st_nlink == 1 or not self._link(info, target, name, below):
                self._one(source, target, name, info)
        info = os.fstat(source)
        self._meta(source, target, info)

    def _link(self, info: os.stat_result, target: int, name: str, path: str) -> bool:
        """As a hard link of what was copied before."""
        first = self.links.setdefault((info.st_dev, info.st_ino), path)
        if first == path:
            return False
        os.link(first, name, src_dir_fd=self.top, dst_dir_fd=target, follow_symlinks=False)
        return True

    def _one(self, source: int, target: int, name: str, info: os.stat_result) -> None:
        if stat.S_ISREG(info.st_mode):
            self._file(source, target, name, info)
            return
        if stat.S_ISSOCK(info.st_mode):
            return
        if stat.S_ISLNK(info.st_mode):
            os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
        else:
            os.mknod(name, info.st_mode, info.st_rdev, dir_fd=target)
        self._own(name, info, target)
        if not stat.S_ISLNK(info.st_mode):
            os.chmod(name, stat.S_IMODE(info.st_mode), dir_fd=target)
        os.utime(name, ns=(info.st_atime_ns, info.st_mtime_ns), dir_fd=target, follow_symlinks=False)

    def _file(self, source: int, target: int, name: str, info: os.stat_result) -> None:
        try:
            old = os.open(name, _READ, dir_fd=source)
        except PermissionError:  # O_NOATIME is for the owner
            old = os.open(name, _READ & ~os.O_NOATIME, dir_fd=source)
        try:
            new = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=target)
            try:
                if not (self.reflinks and info.st_size and self._reflink(old, new)):
                    self.copy_content(old, new, info.st_size)
                    if os.fstat(new).st_size != info.st_size:
                        raise StoreError(self.target, f"{name!r} could not be read in full")
                self._meta(old, new, info)
                self.size += info.st_size
            finally:
                os.close(new)
        finally:
            os.close(old)

    def _reflink(self, old: int, new: int) -> bool:
        import fcntl

        try:
            fcntl.ioctl(new, _FICLONE, old)
        except OSError:
            self.reflinks = False
        return self.reflinks

    def _meta(self, source: int, target: int, info: os.stat_result) -> None:
        self._own(target, info)
        os.fchmod(target, stat.S_IMODE(info.st_mode))
        self.copy_xattrs(source, target)
        os.utime(target, ns=(info.st_atime_ns, info.st_mtime_ns))

    def _own(self, what: int | str, info: os.stat_result, fd: int | None = None) -> None:
        from ..merged import chown

        chown(what if isinstance(what, int) else os.fsencode(what), info, fd)
