"""An image's files for this machine to look at, read-only: a mount made of the layers, never writable.

As root it is attached at a directory; as an unprivileged user there is no place to attach it, since the
machine's mount namespace is not theirs, and it is reached through its descriptor instead: /proc/<pid>/fd/<n>,
which the same user's other processes can open too, for as long as this one keeps it.
"""

from __future__ import annotations

import os

from ...errors import FastctrError, StoreError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

    from ..resolved import Resolved
    from ..store import Store
    from ..workplace import Workplace

__all__ = ["Mounted", "mount_roots", "overlay_works", "sweep"]

_PREFIX = "mount"


def mount_roots(roots: list[str], upper: str | None = None) -> int:
    """A descriptor of a read-only mount of these roots (Snapshotter.roots()), attached nowhere; with an upper
    directory (`<upper>.work` is beside it) one that can be written.

    It goes when the descriptor is closed. Raises LaunchError for what the kernel refuses.
    """
    from ... import _core
    from .base import privileged

    if privileged():
        return _core.mount_layers(roots, upper=upper)
    if os.geteuid() == 0:  # root of a user namespace
        from ...rights import own_ids

        userns = _core.userns_create(list(own_ids("uid")), list(own_ids("gid")))
    else:
        userns = _core.userns_create([(0, os.geteuid(), 1)], [(0, os.getegid(), 1)])
    try:
        return _core.mount_layers(roots, userns, upper)
    finally:
        os.close(userns)


class Mounted:
    """with Mounted(store, resolved) as path: … read below path …

    target   a directory to mount at (root only); None: one of the store's own
    The layers are unpacked first if need be. Raises what ensure() raises, StoreError for a target that cannot be
    had, LaunchError for a mount that the kernel refuses.
    """

    def __init__(
        self, store: Store, resolved: Resolved, target: str | None = None, snapshotter: str | None = None
    ) -> None:
        self._store, self._resolved, self._snapshotter = store, resolved, snapshotter
        self._target = None if target is None else os.path.abspath(target)
        self._place: Workplace | None = None
        self._fd = -1
        self.path = ""

    def __enter__(self) -> str:
        from . import ensure
        from .base import privileged

        if self.path:
            raise RuntimeError("it is mounted already")
        roots = ensure(self._store, self._resolved, self._snapshotter)
        attach = privileged()
        if self._target is not None:
            _check_target(self._target, attach)
        if attach:
            sweep(self._store)
        fd = mount_roots(roots)
        if not attach:
            self._fd = fd
            self.path = f"/proc/{os.getpid()}/fd/{fd}"
            return self.path
        try:
            self._attach(fd)
        finally:
            os.close(fd)
        return self.path

    def _attach(self, fd: int) -> None:
        from ... import _core

        path = self._target
        if path is None:
            path = self._own_place()
        try:
            _core.mount_attach(fd, path)
        except OSError as error:
            self._drop_place()
            raise StoreError(path, f"cannot be mounted at: {error.strerror}", "give another directory") from None
        self.path = path

    def _own_place(self) -> str:
        """In tmp/, locked while we live: what the dead have left mounted is found by its free lock."""
        from ..workplace import Workplace

        self._place = Workplace(self._store, _PREFIX).__enter__()
        path = f"{self._place.path}/root"
        os.mkdir(path, 0o700)
        return path

    def _drop_place(self) -> None:
        place, self._place = self._place, None
        if place is not None:
            place.__exit__(None, None, None)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        path, self.path = self.path, ""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
        elif path:
            from ... import _core

            try:
                _core.mount_detach(path)
            except OSError:
                pass  # somebody took it off before
            self._drop_place()


def _check_target(target: str, attach: bool) -> None:
    if not attach:
        raise StoreError(
            target,
            "cannot be mounted at by an unprivileged user",
            "leave the target away: the files are then reached through a path below /proc",
        )
    if not os.path.isdir(target):
        raise StoreError(target, "is not a directory", "make it first")


def sweep(store: Store) -> int:
    """Take off what processes that died have left mounted in tmp/. Returns how many there were."""
    from ... import _core
    from ..locks import same_file, try_lock
    from ..workplace import remove_tree

    try:
        names = [name for name in os.listdir(f"{store.root}/tmp") if name.startswith(f"{_PREFIX}-")]
    except FileNotFoundError:
        return 0
    count = 0
    for name in names:
        place = f"{store.root}/tmp/{name}"
        if os.path.exists(f"/proc/{name.split('-')[1]}"):
            continue  # one that is about to be locked has a living maker
        try:
            fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            if try_lock(fd) and same_file(fd, place):
                if os.path.ismount(f"{place}/root"):
                    _core.mount_detach(f"{place}/root")
                count += remove_tree(place)
        except OSError:
            continue
        finally:
            os.close(fd)
    return count


def overlay_works(store: Store) -> bool:
    """Whether two directories of the store can be mounted as one by this user, and overlay's marks are heeded."""
    from ..merged import OPAQUE
    from ..workplace import Workplace
    from .base import needs_userxattr

    with Workplace(store, "probe") as place:
        names = [f"{place.path}/{name}" for name in ("a", "b")]
        for name in names:
            os.makedirs(f"{name}/d", 0o700)
        try:
            os.setxattr(f"{names[0]}/d", OPAQUE[needs_userxattr()], b"y")
            os.mknod(f"{names[0]}/gone", 0o020000, 0)
            for name in ("d/hidden", "gone"):
                os.close(os.open(f"{names[1]}/{name}", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
            fd = mount_roots(names)
        except (FastctrError, OSError):
            return False
        try:
            return not os.listdir(f"/proc/self/fd/{fd}/d") and not os.path.lexists(f"/proc/self/fd/{fd}/gone")
        finally:
            os.close(fd)
