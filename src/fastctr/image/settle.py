"""Settle an unpacked layer upon those below it: what its archive left to them.

A layer is unpacked by itself, before or while those below it are. Some of what is in it means something only
upon them (OCI image-spec, layer.md; what umoci and Docker, which unpack into the merged tree, come to):

- a directory without an entry of its own is the one below: it takes that one's owner, mode, times and
  extended attributes; where a symbolic link is below, its content belongs where that link points to;
- a hard link may have its target below: the target is copied up, as a write to it would do;
- a whiteout where there is nothing to hide goes: overlayfs would list it;
- an opaque mark at the very top, where overlayfs does not look for it, becomes a whiteout for each name below.
"""

from __future__ import annotations

import os
import stat

from ..errors import ArchiveError, StoreError, shown
from .merged import (
    DIR_FLAGS,
    OPAQUE,
    At,
    Found,
    Times,
    View,
    chown,
    copy_content,
    copy_xattrs,
    is_opaque,
    is_whiteout,
    lstat,
    open_dir,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from .unpack import Unpacked

__all__ = ["settle"]


def settle(
    directory: int, unpacked: Unpacked, parents: Sequence[int | str], *, userxattr: bool = False, where: str = ""
) -> None:
    """Settle what `unpack(…, mode="layer")` has made in `directory`.

    directory  descriptor of the layer's directory
    unpacked   what unpack returned
    parents    the layers below, topmost first: directories in overlayfs' form, as descriptors or paths
    userxattr  as it was given to unpack
    where      what it is, for messages

    Costs nothing when there is nothing to settle. Raises ArchiveError (a hard link to what is nowhere), StoreError.
    """
    if not (unpacked.implied_dirs or unpacked.missing_links or unpacked.hidden or unpacked.opaque_root):
        return
    opened: list[int] = []
    try:
        fds = [directory]
        for parent in parents:
            if isinstance(parent, int):
                fds.append(parent)
            else:
                opened.append(os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
                fds.append(opened[-1])
        _Settling(fds, OPAQUE[userxattr], where or unpacked.diff_id).run(unpacked)
    except OSError as error:
        name = f'"{os.fsdecode(error.filename)}": ' if error.filename is not None else ""
        raise StoreError(where or unpacked.diff_id, f"cannot be settled: {name}{error.strerror}") from None
    finally:
        for fd in opened:
            os.close(fd)


class _Settling:
    def __init__(self, layers: list[int], opaque: str, where: str) -> None:
        self.layers, self.opaque, self.where = layers, opaque, where
        self.own = layers[0]
        self.view = View(layers)
        self.left: list[bytes] = []
        self.links: list[tuple[bytes, bytes]] = []
        self.hidden: list[bytes] = []

    def run(self, unpacked: Unpacked) -> None:
        self.left = sorted(unpacked.implied_dirs, key=_depth, reverse=True)
        self.links = list(unpacked.missing_links)
        self.hidden = list(unpacked.hidden)
        while self.left:  # parents first
            self._implied(self.left.pop())
        copied: dict[bytes, bytes] = {}
        for path, target in self.links:
            self._link(path, target, copied)
        self._needless()
        if unpacked.opaque_root:
            self._hide_root()

    # ---- directories

    def _implied(self, path: bytes) -> None:
        try:
            fd = open_dir(self.own, path)
        except (FileNotFoundError, NotADirectoryError):
            return  # another link's target took it away
        os.close(fd)
        below = self._below(path)
        if below is None:
            return
        if below.is_dir:
            self._take_over(path, below)
        elif stat.S_ISLNK(below.st.st_mode):
            self._move(path, self.view.readlink(below))

    def _below(self, path: bytes) -> Found | None:
        """What the layers below have in the place of our directory, unless one of its parents hides it."""
        if not path:
            return (
                Found([(n, b"") for n in range(1, len(self.layers))], os.stat(self.layers[1]))
                if (len(self.layers) > 1)
                else None
            )
        above = self.view.root()
        head, _, name = path.rpartition(b"/")
        for part in head.split(b"/") if head else ():
            deeper = self.view.child(above.places, part)
            if deeper is None:
                return None
            above = deeper
        return self.view.child(above.places, name, skip_own=True)

    def _take_over(self, path: bytes, below: Found) -> None:
        layer, its_path = below.places[0]
        source = open_dir(self.layers[layer], its_path)
        target = open_dir(self.own, path)
        try:
            st = os.stat(source)
            chown(target, st)
            os.chmod(target, stat.S_IMODE(st.st_mode))
            copy_xattrs(source, target)
            os.utime(target, ns=(st.st_atime_ns, st.st_mtime_ns))
        finally:
            os.close(source)
            os.close(target)

    def _make_dirs(self, path: bytes) -> int:
        """Our directory at the real path `path`, made with all above it where it is missing."""
        fd = open_dir(self.own, b"")
        names = path.split(b"/") if path else []
        for n, name in enumerate(names):
            deeper = -1
            try:
                st = lstat(name, fd)
                if st is not None and not stat.S_ISDIR(st.st_mode):  # a whiteout: the merged view had a directory
                    raise ArchiveError(
                        self.where, f"{shown(os.fsdecode(path))} is to be a directory, and is something else"
                    )
                if st is None:
                    with Times(fd):
                        os.mkdir(name, 0o755, dir_fd=fd)
                    made = b"/".join(names[: n + 1])
                    deeper = os.open(name, DIR_FLAGS, dir_fd=fd)
                    os.utime(deeper, ns=(0, 0))
                    below = self._below(made)
                    if below is not None and below.is_dir:
                        self._take_over(made, below)
                else:
                    deeper = os.open(name, DIR_FLAGS, dir_fd=fd)
            finally:
                os.close(fd)
            fd = deeper
        return fd

    def _move(self, path: bytes, link: bytes) -> None:
        """Below, `path` is a link: what we have there goes to where it points to."""
        head = path.rpartition(b"/")[0]
        text = link if link.startswith(b"/") else head + b"/" + link
        aside = b".fastctr-settle"
        with At(self.own, path) as at, Times(at.fd):
            os.rename(at.name, aside, src_dir_fd=at.fd, dst_dir_fd=self.own)
        with Times(self.own):
            found, real = self.view.walk(text + b"/.")
            if found is not None and not found.is_dir:
                raise ArchiveError(self.where, f"{shown(os.fsdecode(path))} is below a link to what is no directory")
            target = self._make_dirs(real)
            try:
                with Times(target):
                    source = os.open(aside, DIR_FLAGS, dir_fd=self.own)
                    try:
                        self._merge(source, target)
                    finally:
                        os.close(source)
            finally:
                os.close(target)
            os.rmdir(aside, dir_fd=self.own)

        def moved(each: bytes) -> bytes:
            if not each.startswith(path + b"/"):
                return each
            return real + each[len(path) :] if real else each[len(path) + 1 :]

        self.left = [moved(each) for each in self.left]
        self.hidden = [moved(each) for each in self.hidden]
        self.links = [(moved(each), target) for each, target in self.links]

    def _merge(self, source: int, target: int) -> None:
        """Move everything in one directory into another; what is moved wins, directories are put together."""
        from .._core import remove_tree

        if is_opaque(source):
            os.setxattr(target, self.opaque, b"y")
        for name in os.listdir(source):
            raw = os.fsencode(name)
            mine, there = lstat(raw, source), lstat(raw, target)
            if mine is not None and there is not None and stat.S_ISDIR(mine.st_mode) and stat.S_ISDIR(there.st_mode):
                inner, outer = os.open(raw, DIR_FLAGS, dir_fd=source), os.open(raw, DIR_FLAGS, dir_fd=target)
                try:
                    with Times(outer):
                        self._merge(inner, outer)
                finally:
                    os.close(inner)
                    os.close(outer)
                os.rmdir(raw, dir_fd=source)
                continue
            if there is not None:
                remove_tree(target, raw)
            os.rename(raw, raw, src_dir_fd=source, dst_dir_fd=target)

    # ---- links

    def _link(self, path: bytes, target: bytes, copied: dict[bytes, bytes]) -> None:
        real = copied.get(target)
        if real is None:
            found, real = self.view.walk(target)
            if found is None:
                raise ArchiveError(
                    self.where,
                    f"{shown(os.fsdecode(path))} is a hard link to {shown(os.fsdecode(target))}, which is neither in "
                    "this layer nor in those below",
                )
            if found.is_dir:
                raise ArchiveError(self.where, f"{shown(os.fsdecode(path))} is a hard link to a directory")
            self._copy_up(found, real)
            copied[target] = real
        with At(self.own, path) as at, At(self.own, real) as source, Times(at.fd):
            os.link(source.name, at.name, src_dir_fd=source.fd, dst_dir_fd=at.fd, follow_symlinks=False)

    def _copy_up(self, found: Found, real: bytes) -> None:
        layer, path = found.places[0]
        if layer == 0:
            return
        st = found.st
        os.close(self._make_dirs(real.rpartition(b"/")[0]))
        with At(self.layers[layer], path) as source, At(self.own, real) as target, Times(target.fd):
            their = f"/proc/self/fd/{source.fd}/".encode() + source.name
            our = f"/proc/self/fd/{target.fd}/".encode() + target.name
            if stat.S_ISREG(st.st_mode):
                flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
                out = os.open(target.name, flags, 0o600, dir_fd=target.fd)
                read = os.open(source.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=source.fd)
                try:
                    copy_content(read, out, st.st_size)
                    chown(out, st)
                    os.chmod(out, stat.S_IMODE(st.st_mode))
                finally:
                    os.close(read)
                    os.close(out)
            else:
                if stat.S_ISLNK(st.st_mode):
                    os.symlink(os.readlink(source.name, dir_fd=source.fd), target.name, dir_fd=target.fd)
                else:
                    os.mknod(target.name, st.st_mode, st.st_rdev, dir_fd=target.fd)
                chown(target.name, st, target.fd)
                if not stat.S_ISLNK(st.st_mode):
                    os.chmod(target.name, stat.S_IMODE(st.st_mode), dir_fd=target.fd)
            copy_xattrs(their, our, follow=False)
            os.utime(target.name, ns=(st.st_atime_ns, st.st_mtime_ns), dir_fd=target.fd, follow_symlinks=False)

    # ---- whiteouts

    def _needless(self) -> None:
        """Away with whiteouts in directories that nothing is below of: there overlayfs lists them."""
        merged: dict[bytes, bool] = {}
        for path in self.hidden:
            head = path.rpartition(b"/")[0]
            if head not in merged:
                merged[head] = self._is_merged(head)
            if merged[head]:
                continue
            try:
                with At(self.own, path) as at:
                    st = at.stat()
                    if st is not None and is_whiteout(st):
                        with Times(at.fd):
                            os.unlink(at.name, dir_fd=at.fd)
            except (FileNotFoundError, NotADirectoryError):
                continue  # its directory was replaced

    def _is_merged(self, path: bytes) -> bool:
        """Whether our directory has one below it that it shows."""
        try:
            fd = open_dir(self.own, path)
        except (FileNotFoundError, NotADirectoryError):
            return True
        try:
            if path and is_opaque(fd):
                return False
        finally:
            os.close(fd)
        below = self._below(path)
        return below is not None and below.is_dir

    # ---- the top

    def _hide_root(self) -> None:
        names = {os.fsencode(name) for layer in self.layers[1:] for name in os.listdir(layer)}
        with Times(self.own):
            for name in names:
                below = self.view.child([(n, b"") for n in range(1, len(self.layers))], name)
                if below is None:
                    continue
                st = lstat(name, self.own)
                if st is None:
                    os.mknod(name, stat.S_IFCHR, 0, dir_fd=self.own)
                elif stat.S_ISDIR(st.st_mode) and below.is_dir:
                    fd = os.open(name, DIR_FLAGS, dir_fd=self.own)
                    try:
                        os.setxattr(fd, self.opaque, b"y")
                    finally:
                        os.close(fd)


def _depth(path: bytes) -> int:
    return path.count(b"/") + 1 if path else 0
