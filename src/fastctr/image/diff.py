"""What a container has changed, as `docker diff` lists it: (kind, path) with A added, C changed, D deleted.

Paths are absolute and sorted. A file is C when its kind, mode, owner, size, time or capabilities are others,
a directory when its mode or owner is, or when there is a change below it; what was only copied up is none.
"""

from __future__ import annotations

import errno
import os
import stat

from ..errors import ImageError
from .layers import Layers, is_opaque, is_whiteout
from .rootfd import BENEATH, NO_SYMLINKS, NO_XDEV, as_root, get_xattr, link_path, open_at

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    Root = int | str | os.PathLike[str]

__all__ = ["SYSTEM", "changes", "compare"]

SYSTEM = ("/dev", "/proc", "/sys")
"""Where the container's own file systems are mounted: what is there is no change of the image."""

_WALK = BENEATH | NO_SYMLINKS
_CAPS = "security.capability"


def _exact(paths: Iterable[str]) -> set[str]:
    return {str(path).strip("/") for path in paths}


def _same(now: os.stat_result, before: os.stat_result, owner: tuple[int, int]) -> bool:
    """By what docker goes: sizes and times only of what is no directory. owner: what it was before."""
    if now.st_mode != before.st_mode or (now.st_uid, now.st_gid) != owner or now.st_rdev != before.st_rdev:
        return False
    return stat.S_ISDIR(now.st_mode) or (now.st_mtime_ns == before.st_mtime_ns and now.st_size == before.st_size)


def _same_capabilities(now: str, before: str | None, info: os.stat_result) -> bool:
    return not stat.S_ISREG(info.st_mode) or before is None or get_xattr(now, _CAPS) == get_xattr(before, _CAPS)


class _Found:
    """The list being made; with something all directories above it are in it."""

    def __init__(self) -> None:
        self.kinds: dict[str, str] = {}

    def add(self, kind: str, path: str) -> None:
        if kind != "C":
            self.kinds[path] = kind
        self.kinds.setdefault(path, kind)
        parent = path.rpartition("/")[0]
        while parent and parent not in self.kinds:
            self.kinds[parent] = "C"
            parent = parent.rpartition("/")[0]

    def result(self) -> list[tuple[str, str]]:
        return [(kind, "/" + path) for path, kind in sorted(self.kinds.items(), key=lambda i: os.fsencode(i[0]))]


def _scan(root: int, path: str, resolve: int) -> tuple[int, list[tuple[str, os.stat_result]]] | None:
    """(descriptor, entries) of a directory, or None if there is none any more or it is another mount."""
    try:
        fd = open_at(root, path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, resolve)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EXDEV):
            return None
        raise ImageError("/" + path, f"cannot be read: {error.strerror}") from None
    entries = []
    try:
        with os.scandir(fd) as found:
            for each in found:
                try:
                    entries.append((each.name, each.stat(follow_symlinks=False)))
                except FileNotFoundError:
                    continue
    except BaseException:
        os.close(fd)
        raise
    return fd, entries


def changes(lower_roots: Sequence[Root], upper: Root, *, exclude: Iterable[str] = ()) -> list[tuple[str, str]]:
    """The changes an overlay's upper directory makes to the layers below it (topmost first).

    exclude: absolute paths that are left out with everything below, as mount points.
    """
    lower, found, left_out = Layers(lower_roots), _Found(), _exact(exclude)
    with as_root(upper) as root:
        todo = [""]
        while todo:
            path = todo.pop()
            scanned = _scan(root, path, _WALK)
            if scanned is None:
                continue
            fd, entries = scanned
            try:
                todo += _changes_in(fd, path, entries, lower, found, left_out)
            finally:
                os.close(fd)
    return found.result()


def _changes_in(
    fd: int, path: str, entries: list[tuple[str, os.stat_result]], lower: Layers, found: _Found, left_out: set[str]
) -> list[str]:
    """The changes in one directory of an upper; returns the directories in it."""
    below = []
    hides = bool(path) and is_opaque(fd)
    prefix = path + "/" if path else ""
    here = {name for name, info in entries if not is_whiteout(info)}
    if hides:
        for name in lower.names(path):
            if name not in here and prefix + name not in left_out:
                found.add("D", prefix + name)
    for name, info in entries:
        full = prefix + name
        if full in left_out:
            continue
        place = lower.place(full)
        if is_whiteout(info):
            if place is not None and not hides:
                found.add("D", full)
            continue
        if place is None:
            found.add("A", full)
        else:
            before = os.lstat(place)
            same = _same(info, before, (before.st_uid, before.st_gid))
            if not same or not _same_capabilities(link_path(fd, name), place, info):
                found.add("C", full)
        if stat.S_ISDIR(info.st_mode):
            below.append(full)
    return below


def _shift(ranges: Sequence[tuple[int, int, int]], value: int) -> int:
    for inside, outside, count in ranges:
        if inside <= value < inside + count:
            return outside + value - inside
    return value


class _Comparison:
    def __init__(
        self, lower: Layers, uid_map: Sequence[tuple[int, int, int]], gid_map: Sequence[tuple[int, int, int]]
    ) -> None:
        self.lower = lower
        self.uid_map = uid_map
        self.gid_map = gid_map

    def same(self, fd: int, name: str, path: str, now: os.stat_result, before: os.stat_result) -> bool:
        """Whether an entry is still the lower one. Through an overlay that one's inode is seen, so its
        change time, which nobody can set, tells; else the metadata do."""
        if now.st_ctime_ns == before.st_ctime_ns and now.st_mode == before.st_mode:
            return True
        owner = (_shift(self.uid_map, before.st_uid), _shift(self.gid_map, before.st_gid))
        if not _same(now, before, owner):
            return False
        return _same_capabilities(link_path(fd, name), self.lower.place(path), now)

    def is_mount(self, fd: int, name: str) -> bool:
        try:
            os.close(open_at(fd, name, os.O_PATH | os.O_NOFOLLOW, BENEATH | NO_XDEV))
        except OSError as error:
            return error.errno == errno.EXDEV
        return False


def compare(
    merged: Root,
    lower_roots: Sequence[Root],
    *,
    exclude: Iterable[str] = SYSTEM,
    uid_map: Sequence[tuple[int, int, int]] = (),
    gid_map: Sequence[tuple[int, int, int]] = (),
) -> list[tuple[str, str]]:
    """The changes seen in a root of which the upper directory is out of sight, as that of /proc/<pid>/root.

    merged       the root as the container sees it; other mounts in it are passed over
    lower_roots  the layers below it, topmost first
    exclude      absolute paths left out with everything below
    uid_map, gid_map  (inside, outside, count) of the container's user namespace
    """
    found, left_out = _Found(), _exact(exclude)
    with as_root(merged) as root:
        lower = Layers(lower_roots)
        look = _Comparison(lower, uid_map, gid_map)
        todo = [("", True)]
        while todo:
            path, is_old = todo.pop()
            scanned = _scan(root, path, _WALK | NO_XDEV)
            if scanned is None:
                continue
            fd, entries = scanned
            try:
                prefix = path + "/" if path else ""
                before = lower.names(path) if is_old else {}
                for name, info in entries:
                    full = prefix + name
                    old = before.pop(name, None)
                    if full in left_out:
                        continue
                    is_directory = stat.S_ISDIR(info.st_mode)
                    if old is None:
                        if not look.is_mount(fd, name):
                            found.add("A", full)
                    elif not look.same(fd, name, full, info, old) and not look.is_mount(fd, name):
                        found.add("C", full)
                    if is_directory:
                        todo.append((full, old is not None and stat.S_ISDIR(old.st_mode)))
                for name in before:
                    if prefix + name not in left_out:
                        found.add("D", prefix + name)
            finally:
                os.close(fd)
    return found.result()
