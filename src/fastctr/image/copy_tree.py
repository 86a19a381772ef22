"""Copying files and trees from descriptor to descriptor."""

from __future__ import annotations

import errno
import os
import stat

from ..errors import ImageError
from .copy_paths import Node, Target, child, reopen
from .rootfd import get_xattr, link_path, list_xattrs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Owner = Callable[[os.stat_result], tuple[int, int] | None]

__all__ = ["Copier"]

_SPECIAL_FS = {0x9FA0, 0x62656572, 0x27E0EB, 0x63677270, 0x1CD1, 0x19800202, 0x64626720, 0x74726163, 0xCAFE4A11}
"""proc, sysfs, both cgroups, devpts, mqueue, debugfs, tracefs, bpf: no files to be copied."""
_LEFT_OUT = ("trusted.overlay.", "user.overlay.", "security.selinux", "security.ima", "security.evm", "system.")
_DEPTH_MAX = 400


def _magic(fd: int) -> int:
    import ctypes

    room = (ctypes.c_long * 64)()
    return int(room[0]) if ctypes.CDLL(None).fstatfs(fd, room) == 0 else 0


class Copier:
    """Copies what a Node is to a Target.

    owner    gives the (uid, gid) of a copy by its source's lstat, or None to leave it to who copies
    special  whether set-id bits, attributes and devices are copied
    shown    a path inside the source for messages
    files    how many were copied;  size  bytes of regular files
    """

    def __init__(self, owner: Owner, special: bool, shown: Callable[[str], str]) -> None:
        self._owner = owner
        self._special = special
        self._shown = shown
        self._links: dict[tuple[int, int], tuple[int, str]] = {}
        self._kept: list[int] = []
        self.files = 0
        self.size = 0

    def run(self, source: Node, target: Target) -> None:
        """Raises ImageError, with what was copied before left where it is."""
        try:
            if target.name:
                self._copy(source, target.fd, target.name, "", 0)
            else:
                into = os.open(link_path(target.fd), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    self._content(source, into, "", 0)
                finally:
                    os.close(into)
        except OSError as error:
            raise ImageError(self._shown(""), f"cannot be copied: {error.strerror}") from None
        finally:
            for fd in self._kept:
                os.close(fd)
            self._kept.clear()
            self._links.clear()

    def _fail(self, path: str, error: OSError) -> ImageError:
        return ImageError(self._shown(path), f"cannot be copied: {error.strerror}")

    def _copy(self, source: Node, directory: int, name: str, path: str, depth: int) -> None:
        kind = stat.S_IFMT(source.info.st_mode)
        try:
            there = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            there = None
        if there is not None and stat.S_ISDIR(there.st_mode) != (kind == stat.S_IFDIR):
            what = "a directory" if stat.S_ISDIR(there.st_mode) else "a file"
            mine = "a directory" if kind == stat.S_IFDIR else "not one"
            raise ImageError(self._shown(path), f"cannot be copied over {what}, since it is {mine}")
        try:
            if kind == stat.S_IFDIR:
                self._directory(source, directory, name, path, depth, there is None)
            elif kind == stat.S_IFSOCK:
                return
            elif source.info.st_nlink > 1 and self._link(source, directory, name):
                pass
            elif kind == stat.S_IFREG:
                self._regular(source, directory, name, there)
            elif kind == stat.S_IFLNK:
                text = os.readlink("", dir_fd=source.fd)
                self._replace(directory, name, lambda new: os.symlink(text, new, dir_fd=directory))
                self._finish(source, directory, name)
            else:
                self._node(source, directory, name, path)
        except OSError as error:
            raise self._fail(path, error) from None
        self.files += 1

    # ---- kinds

    def _directory(self, source: Node, directory: int, name: str, path: str, depth: int, new: bool) -> None:
        if depth > _DEPTH_MAX:
            raise ImageError(self._shown(path), f"lies deeper than {_DEPTH_MAX} directories")
        if new:
            os.mkdir(name, 0o700, dir_fd=directory)
        into = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        try:
            self._content(source, into, path, depth)
            if new:
                self._metadata(source, into)
        finally:
            os.close(into)

    def _content(self, source: Node, into: int, path: str, depth: int) -> None:
        opened = reopen(source, os.O_RDONLY | os.O_DIRECTORY)
        try:
            device = source.info.st_dev
            for name in sorted(os.listdir(opened)):
                try:
                    found = child(opened, name)
                except FileNotFoundError:
                    continue
                with found:
                    below = f"{path}/{name}" if path else name
                    if found.is_dir and found.info.st_dev != device and self._is_special(found):
                        self._empty(found, into, name)
                    else:
                        self._copy(found, into, name, below, depth + 1)
        finally:
            os.close(opened)

    def _empty(self, source: Node, into: int, name: str) -> None:
        """The place where something like /proc is mounted, without what is in it."""
        try:
            os.mkdir(name, source.info.st_mode & 0o1777, dir_fd=into)
        except FileExistsError:
            pass

    def _is_special(self, found: Node) -> bool:
        fd = reopen(found, os.O_RDONLY | os.O_DIRECTORY)
        try:
            return _magic(fd) in _SPECIAL_FS
        finally:
            os.close(fd)

    def _link(self, source: Node, directory: int, name: str) -> bool:
        """A further name of something copied before becomes a hard link to the copy."""
        key = (source.info.st_dev, source.info.st_ino)
        first = self._links.get(key)
        if first is None:
            kept = os.dup(directory)
            self._kept.append(kept)
            self._links[key] = (kept, name)
            return False
        old, old_name = first
        try:
            self._replace(
                directory,
                name,
                lambda new: os.link(old_name, new, src_dir_fd=old, dst_dir_fd=directory, follow_symlinks=False),
            )
        except OSError as error:
            if error.errno in (errno.EXDEV, errno.ENOENT, errno.EPERM, errno.EMLINK):
                return False
            raise
        return True

    def _regular(self, source: Node, directory: int, name: str, there: os.stat_result | None) -> None:
        """Written under another name first, so that whoever reads the old file does not see half of it."""
        new = f".{name[:200]}.{os.urandom(4).hex()}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        out = os.open(new, flags, 0o600, dir_fd=directory)
        try:
            self._fill(source, out)
            self._metadata(source, out)
            try:
                os.rename(new, name, src_dir_fd=directory, dst_dir_fd=directory)
                return
            except OSError as error:
                if error.errno != errno.EBUSY or there is None or not stat.S_ISREG(there.st_mode):
                    raise
            # a mount point: the file below stays, and gets the content
            onto = os.open(name, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
            try:
                os.ftruncate(onto, 0)
                self.size -= source.info.st_size
                self._fill(source, onto)
            finally:
                os.close(onto)
            os.unlink(new, dir_fd=directory)
        except BaseException:
            try:
                os.unlink(new, dir_fd=directory)
            except FileNotFoundError:
                pass
            raise
        finally:
            os.close(out)

    def _fill(self, source: Node, out: int) -> None:
        """The content, holes as holes."""
        fd = reopen(source, os.O_RDONLY | os.O_NONBLOCK)
        try:
            size = os.fstat(fd).st_size
            at = 0
            while True:
                try:
                    start = os.lseek(fd, at, os.SEEK_DATA)
                    end = os.lseek(fd, start, os.SEEK_HOLE)
                except OSError as error:
                    if error.errno == errno.ENXIO:
                        break
                    start, end = at, max(size, at + (1 << 62))  # no holes to be asked about: to the end
                at = self._range(fd, out, start, end)
                if at < end:
                    break
            if size > os.fstat(out).st_size:
                os.ftruncate(out, size)
            self.size += size
        finally:
            os.close(fd)

    def _range(self, fd: int, out: int, at: int, end: int) -> int:
        """Copy what lies between two places; returns where it ended, before `end` only at the file's end."""
        os.lseek(out, at, os.SEEK_SET)
        os.lseek(fd, at, os.SEEK_SET)
        by_kernel = True
        while at < end:
            count = min(end - at, 1 << 24 if by_kernel else 1 << 20)
            if by_kernel:
                try:
                    done = os.copy_file_range(fd, out, count)
                except OSError as error:
                    if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
                        raise
                    by_kernel = False
                    continue
                if done == 0:  # also of files in /proc and the like, which read() has something of
                    by_kernel = False
                    continue
                at += done
                continue
            data = os.read(fd, count)
            if not data:
                break
            view = memoryview(data)
            while view:
                view = view[os.write(out, view) :]
            at += len(data)
        return at

    def _node(self, source: Node, directory: int, name: str, path: str) -> None:
        is_fifo = stat.S_ISFIFO(source.info.st_mode)
        if not is_fifo and not self._special:
            raise ImageError(self._shown(path), "is a device, which is copied only with its owner (archive mode)")
        mode, rdev = source.info.st_mode, source.info.st_rdev
        self._replace(directory, name, lambda new: os.mknod(new, mode, rdev, dir_fd=directory))
        self._finish(source, directory, name)

    # ---- metadata

    def _replace(self, directory: int, name: str, make: Callable[[str], None]) -> None:
        """Make something under a name that may be taken by something that is no directory."""
        new = f".{name[:200]}.{os.urandom(4).hex()}"
        make(new)
        try:
            os.rename(new, name, src_dir_fd=directory, dst_dir_fd=directory)
        except BaseException:
            os.unlink(new, dir_fd=directory)
            raise
        try:  # rename(2) does nothing where both are the same inode already
            os.unlink(new, dir_fd=directory)
        except FileNotFoundError:
            pass

    def _mode(self, info: os.stat_result) -> int:
        return info.st_mode & (0o7777 if self._special else 0o1777)

    def _metadata(self, source: Node, fd: int) -> None:
        info = source.info
        owner = self._owner(info)
        if owner is not None:
            os.fchown(fd, *owner)
        os.fchmod(fd, self._mode(info))
        if self._special:
            self._xattrs(source, link_path(fd))
        os.utime(fd, ns=(info.st_atime_ns, info.st_mtime_ns))

    def _finish(self, source: Node, directory: int, name: str) -> None:
        """The metadata of what has no content."""
        info = source.info
        owner = self._owner(info)
        if owner is not None:
            os.chown(name, *owner, dir_fd=directory, follow_symlinks=False)
        if not stat.S_ISLNK(info.st_mode):
            with child(directory, name) as made:
                if stat.S_IFMT(made.info.st_mode) == stat.S_IFMT(info.st_mode):
                    os.chmod(link_path(made.fd), self._mode(info))
        os.utime(name, ns=(info.st_atime_ns, info.st_mtime_ns), dir_fd=directory, follow_symlinks=False)

    def _xattrs(self, source: Node, target: str) -> None:
        path = link_path(source.fd)
        for name in _names(path):
            if name.startswith(_LEFT_OUT):
                continue
            value = _value(path, name)
            if value is None:
                continue
            try:
                os.setxattr(target, name, value)
            except OSError as error:
                if error.errno not in (errno.ENOTSUP, errno.EPERM, errno.EACCES, errno.ERANGE):
                    raise


def _names(path: str) -> list[str]:
    try:
        return os.listxattr(path)
    except OSError:
        return list_xattrs(path)


def _value(path: str, name: str) -> bytes | None:
    try:
        return os.getxattr(path, name)
    except OSError:
        return get_xattr(path, name)
