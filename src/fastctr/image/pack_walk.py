"""The walk over a tree that is packed, and the entries it makes (see pack.py)."""

from __future__ import annotations

import errno
import os
import stat

from ..errors import ImageError
from .pack_options import Excludes, id_table, plain_caps
from .rootfd import BENEATH, NO_SYMLINKS, NO_XDEV, get_xattr, link_path, list_xattrs, open_at
from .tar_write import Entry, TarWriter, kind_of, shown_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Walk"]

_READ = 1 << 18
_CAPS = "security.capability"
_SKIPPED = ("trusted.overlay.", "user.overlay.", "security.selinux", "security.ima", "security.evm", "system.nfs4")
_OPAQUE = ("trusted.overlay.opaque", "user.overlay.opaque")
_WHITEOUT = ("trusted.overlay.whiteout", "user.overlay.whiteout")
_BORROWED = ("overlay.redirect", "overlay.metacopy")


class Walk:
    """One tree into one TarWriter."""

    def __init__(self, root: int, out: TarWriter, options: dict[str, Any], upper: bool) -> None:
        self.root = root
        self.out = out
        self.upper = upper
        self.lower = options.get("lower")
        self.exact = {str(path).strip("/") for path in options.get("exclude_paths", ())}
        self.excludes = Excludes(options.get("exclude", ()))
        uid_map, gid_map = options.get("uid_map", ()), options.get("gid_map", ())
        self.uid_of = id_table(uid_map) if uid_map else None
        self.gid_of = id_table(gid_map) if gid_map else None
        self.caps_root = next((out for inside, out, count in uid_map if inside == 0 and count), 0)
        self.owner = options.get("owner")
        self.mtime = options.get("mtime")
        self.xattrs = options.get("xattrs", True)
        self.one_mount = not upper and options.get("one_mount", True)
        self.resolve = BENEATH | NO_SYMLINKS | (NO_XDEV if self.one_mount else 0)
        self.base: bytes = options.get("base", b"")
        self.links: dict[tuple[int, int], bytes] = {}
        self.sockets = 0

    # ---- metadata

    def fill(self, entry: Entry, info: os.stat_result, names: list[str], target: int | str) -> None:
        entry.mode = info.st_mode & 0o7777
        if self.owner is not None:
            entry.uid, entry.gid = self.owner
        else:
            entry.uid = self.uid_of(info.st_uid, entry.name) if self.uid_of else info.st_uid
            entry.gid = self.gid_of(info.st_gid, entry.name) if self.gid_of else info.st_gid
        entry.mtime = info.st_mtime_ns if self.mtime is None else self.mtime
        if names and self.xattrs:
            found = []
            for name in sorted(names):
                if name.startswith(_SKIPPED):
                    continue
                value = get_xattr(target, name)
                if value is not None:
                    if name == _CAPS:
                        value = plain_caps(value, self.caps_root)
                    found.append((os.fsencode(name), value))
            entry.xattrs = found

    def check_borrowed(self, name: bytes, names: list[str]) -> None:
        """Data that lies under another name in the lower layers cannot be packed from here."""
        for each in names:
            if each.endswith(_BORROWED) and each.startswith(("trusted.", "user.")):
                raise ImageError(
                    shown_name(name),
                    f"refers to a lower layer ({each})",
                    "mount the overlay with redirect_dir=off and metacopy=off",
                )

    # ---- the entries

    def run(self, with_root: bool) -> None:
        if with_root:
            self.root_entry()
        todo = [b""]
        while todo:
            path = todo.pop()
            todo += reversed(self.directory(path))

    def root_entry(self) -> None:
        entry = Entry(self.base or b"./", b"5")
        self.fill(entry, os.fstat(self.root), list_xattrs(self.root), self.root)
        self.out.add(entry)

    def directory(self, path: bytes) -> list[bytes]:
        """A directory's own entry (not the root's) and what is in it; returns the directories in it."""
        try:
            fd = open_at(self.root, path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, self.resolve)
        except OSError as error:
            if error.errno == errno.EXDEV:  # something is mounted there: the directory, without what is in it
                self.mount_point(path)
                return []
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                return []  # gone, or another thing by now
            raise ImageError(shown_name(path), f"cannot be read: {error.strerror}") from None
        try:
            opaque_x = False
            if path:
                names = list_xattrs(fd)
                entry = Entry(self.base + path + b"/", b"5")
                self.fill(entry, os.fstat(fd), names, fd)
                self.out.add(entry)
                if self.upper and names:
                    opaque_x = self.opaque(path, fd, names)
            elif self.upper:
                opaque_x = self.opaque(path, fd, list_xattrs(fd))
            return self.contents(path + b"/" if path else b"", fd, opaque_x)
        finally:
            os.close(fd)

    def opaque(self, path: bytes, fd: int, names: list[str]) -> bool:
        """Write the mark of an opaque directory. True if whiteouts in it may be files with an attribute."""
        self.check_borrowed(path, names)
        for name in _OPAQUE:
            if name in names:
                value = get_xattr(fd, name)
                if value == b"x":
                    return True
                if value == b"y" and path and (self.lower is None or self.lower(os.fsdecode(path)) is not None):
                    self.out.add(Entry(path + b"/.wh..wh..opq", mtime=self.mtime or 0))
                    return False
        return False

    def mount_point(self, path: bytes) -> None:
        try:
            parent = open_at(self.root, os.path.dirname(path), os.O_PATH | os.O_DIRECTORY, self.resolve)
        except OSError:
            return
        try:
            info = os.stat(os.path.basename(path), dir_fd=parent, follow_symlinks=False)
        except OSError:
            return
        finally:
            os.close(parent)
        if stat.S_ISDIR(info.st_mode):
            entry = Entry(self.base + path + b"/", b"5")
            self.fill(entry, info, [], "")
            self.out.add(entry)

    def contents(self, prefix: bytes, fd: int, opaque_x: bool) -> list[bytes]:
        below: list[bytes] = []
        with os.scandir(fd) as found:
            entries = sorted(found, key=lambda e: os.fsencode(e.name))
        text = os.fsdecode(prefix)
        for each in entries:
            name = os.fsencode(each.name)
            if (self.excludes.any and self.excludes(text + each.name, each.name)) or (
                self.exact and text + each.name in self.exact
            ):
                continue
            if self.upper and name.startswith(b".wh."):
                raise ImageError(shown_name(prefix + name), "has a name that means a deletion in a layer", "rename it")
            if each.is_dir(follow_symlinks=False):
                below.append(prefix + name)
            elif each.is_file(follow_symlinks=False):
                self.regular(prefix + name, each.name, fd, opaque_x)
            else:
                try:
                    info = each.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                self.special(prefix, name, each.name, fd, info)
        return below

    def whiteout(self, prefix: bytes, name: bytes) -> None:
        self.out.add(Entry(prefix + b".wh." + name, mtime=self.mtime or 0))

    def special(self, prefix: bytes, name: bytes, text: str, fd: int, info: os.stat_result) -> None:
        kind = kind_of(info.st_mode)
        if kind is None:
            self.sockets += 1
            return
        entry = Entry(self.base + prefix + name, kind)
        if kind in (b"3", b"4"):
            if self.upper and kind == b"3" and info.st_rdev == 0:
                self.whiteout(prefix, name)
                return
            entry.major, entry.minor = os.major(info.st_rdev), os.minor(info.st_rdev)
        elif kind == b"2":
            try:
                entry.link = os.fsencode(os.readlink(text, dir_fd=fd))
            except OSError:
                return
        elif kind in (b"0", b"5"):
            return  # became another thing since it was listed
        target = link_path(fd, text)
        if self.linked(entry, info):
            return
        self.fill(entry, info, list_xattrs(target), target)
        self.out.add(entry)

    def linked(self, entry: Entry, info: os.stat_result) -> bool:
        """Write a further name of something written before as a hard link."""
        if info.st_nlink < 2:
            return False
        key = (info.st_dev, info.st_ino)
        first = self.links.setdefault(key, entry.name)
        if first is entry.name:
            return False
        link = Entry(entry.name, b"1", link=first)
        self.fill(link, info, [], "")
        self.out.add(link)
        return True

    def regular(self, path: bytes, text: str, dirfd: int, opaque_x: bool) -> None:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            if self.one_mount:
                file = open_at(dirfd, text, flags, self.resolve)
            else:
                file = os.open(text, flags, dir_fd=dirfd)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENXIO):
                return
            if error.errno == errno.EXDEV:  # a mount's: only the place it is mounted on is ours
                self.out.add(Entry(self.base + path, mode=0o755, mtime=self.mtime or 0))
                return
            raise ImageError(shown_name(path), f"cannot be read: {error.strerror}") from None
        try:
            self.opened(path, file, opaque_x)
        finally:
            os.close(file)

    def opened(self, path: bytes, file: int, opaque_x: bool) -> None:
        """An open regular file, or what became of one."""
        info = os.fstat(file)
        if not stat.S_ISREG(info.st_mode):
            return
        entry = Entry(self.base + path)
        if info.st_nlink > 1 and self.linked(entry, info):
            return
        names = list_xattrs(file)
        if self.upper and names:
            if opaque_x and any(name in names for name in _WHITEOUT):
                directory, _, name = path.rpartition(b"/")
                self.whiteout(directory + b"/" if directory else b"", name)
                return
            self.check_borrowed(path, names)
        self.fill(entry, info, names, file)
        entry.size = info.st_size
        self.out.start(entry)
        if info.st_size:
            self.content(file, info)

    def content(self, file: int, info: os.stat_result) -> None:
        """Exactly st_size bytes, whatever happens to the file meanwhile."""
        size, put = info.st_size, self.out.put
        if size > 65536 and info.st_blocks * 512 < size:
            self.sparse(file, size)
        else:
            left = size
            while left:
                data = os.read(file, left if left < _READ else _READ)
                if not data:
                    self.out.zeros(left)
                    break
                put(data)
                left -= len(data)
        self.out.pad(size)

    def sparse(self, file: int, size: int) -> None:
        at = 0
        while at < size:
            try:
                start = min(os.lseek(file, at, os.SEEK_DATA), size)
                end = min(os.lseek(file, start, os.SEEK_HOLE), size) if start < size else size
            except OSError:  # ENXIO: nothing but a hole from here on
                start = end = size
            self.out.zeros(start - at)
            at = start
            while at < end:
                data = os.pread(file, min(_READ, end - at), at)
                if not data:
                    self.out.zeros(end - at)
                    at = end
                    break
                self.out.put(data)
                at += len(data)
