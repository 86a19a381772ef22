"""Directories in tmp/: made under a lock that goes with their maker, renamed into place or removed."""

from __future__ import annotations

import errno
import fcntl
import os
import stat

from .ingest import store_error
from .locks import FileLock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

    from .store import Store


class Workplace:
    """with Workplace(store, "layer") as place: … fill place.path …; place.publish("/…/final").

    path  the directory, mode 0700
    fd    it, open and locked
    """

    def __init__(self, store: Store, prefix: str = "new") -> None:
        self._store = store
        self.path = f"{store.root}/tmp/{prefix}-{os.getpid()}-{os.urandom(6).hex()}"
        self.fd = -1
        self.published = False

    def __enter__(self) -> Workplace:
        self._store.prepare()
        try:
            with FileLock(f"{self._store.root}/lock", shared=True):  # or gc takes it before it is locked
                os.mkdir(self.path, 0o700)
                self.fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                fcntl.flock(self.fd, fcntl.LOCK_EX)
        except OSError as error:
            self._end()
            raise store_error(error, self.path) from None
        return self

    def publish(self, final: str) -> bool:
        """Give the directory its name. False if somebody else was first: ours is removed then."""
        try:
            os.makedirs(os.path.dirname(final), 0o700, exist_ok=True)
            os.rename(self.path, final)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise store_error(error, final) from None
            return False
        self.published = True
        return True

    def _end(self) -> None:
        if not self.published:
            remove_tree(self.path)
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()


DEEP = 64
_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_tree(path: str) -> bool:
    """Remove a directory with all in it, whatever its modes and however deep; links are not followed, other
    file systems not entered. Nothing is raised: returns whether it is gone."""
    parent = -1
    try:
        parent = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        name = os.path.basename(path)
        _remove(parent, name)
        return not os.path.lexists(path)
    except OSError:
        return False
    finally:
        if parent >= 0:
            os.close(parent)


def _remove(parent: int, name: str) -> None:
    fd = _open(parent, name)
    if fd < 0:
        try:
            os.unlink(name, dir_fd=parent)
        except OSError:
            pass
        return
    try:
        device = os.fstat(fd).st_dev
        moved = ["."]
        while moved:  # what was too deep has been moved up to the top
            here = moved.pop()
            _empty(fd if here == "." else _open(fd, here), device, fd, moved, 0, here != ".")
            if here != ".":
                _rmdir(here, fd)
    finally:
        os.close(fd)
    _rmdir(name, parent)


def _open(parent: int, name: str) -> int:
    """The directory, or -1 if it is none or stays closed to us."""
    try:
        return os.open(name, _OPEN, dir_fd=parent)
    except PermissionError:
        pass
    except OSError:
        return -1
    try:
        if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            return -1
        os.chmod(name, 0o700, dir_fd=parent)
        return os.open(name, _OPEN, dir_fd=parent)
    except OSError:
        return -1


def _rmdir(name: str, parent: int) -> None:
    try:
        os.rmdir(name, dir_fd=parent)
    except OSError:
        pass


def _empty(fd: int, device: int, top: int, moved: list[str], depth: int, close: bool) -> None:
    """Remove what is in the directory. Below DEEP levels things are moved to `top` instead: a descriptor is
    open for each level, and names can be deeper than there are descriptors."""
    if fd < 0:
        return
    try:
        found = os.fstat(fd)
        if found.st_dev != device:
            return
        if found.st_mode & 0o700 != 0o700 and os.geteuid() != 0:
            os.fchmod(fd, 0o700)
        with os.scandir(fd) as entries:
            items = [(e.name, e.is_dir(follow_symlinks=False)) for e in entries]
        for name, is_dir in items:
            if not is_dir:
                os.unlink(name, dir_fd=fd)
            elif depth >= DEEP:
                new = f"deep-{os.urandom(8).hex()}"
                os.rename(name, new, src_dir_fd=fd, dst_dir_fd=top)
                moved.append(new)
            else:
                _empty(_open(fd, name), device, top, moved, depth + 1, True)
                _rmdir(name, fd)
    except OSError:
        pass
    finally:
        if close:
            os.close(fd)
