"""Layers from directories: the tar an overlay's upper directory or a plain tree is shipped as.

What goes into an entry follows the OCI image specification (layer.md) and pax(1): whiteouts are
".wh." files, opaque directories hold ".wh..wh..opq", extended attributes are SCHILY.xattr records,
times keep their nanoseconds. Holes are written out as zeros, since the specification advises against
sparse entries; they compress to nothing. Sockets are left out, as Docker and tar do.

The walk is by descriptors: nothing a container does to its tree meanwhile leads out of it. Within a
directory the order is by name, first what is not a directory, so that the same tree gives the same bytes.
"""

from __future__ import annotations

import os
import stat

from ..errors import ImageError
from .pack_walk import Walk
from .rootfd import as_root, link_path
from .tar_write import TarWriter, shown_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

    from .tar_write import Write

    Tree = int | str | os.PathLike[str]

__all__ = ["Packed", "pack_open", "pack_tree", "pack_upper"]


class Packed:
    """files: entries written; size: bytes of the tar; skipped: sockets left out."""

    __slots__ = ("files", "size", "skipped")

    def __init__(self, files: int, size: int, skipped: int) -> None:
        self.files = files
        self.size = size
        self.skipped = skipped


def _pack(tree: Tree, write: Write, upper: bool, with_root: bool, end: bool, options: dict[str, Any]) -> Packed:
    out = TarWriter(write)
    with as_root(tree) as fd:
        walk = Walk(fd, out, options, upper)
        walk.run(with_root)
    if end:
        out.close()
    else:
        out.flush()
    return Packed(out.entries, out.size, walk.sockets)


def pack_tree(
    tree: Tree,
    write: Write,
    *,
    with_root: bool = False,
    exclude: Iterable[str] = (),
    exclude_paths: Iterable[str] = (),
    uid_map: Sequence[tuple[int, int, int]] = (),
    gid_map: Sequence[tuple[int, int, int]] = (),
    owner: tuple[int, int] | None = None,
    mtime: int | None = None,
    xattrs: bool = True,
    one_mount: bool = True,
    base: str = "",
    end: bool = True,
) -> Packed:
    """The tree as a tar, into `write`, called with bytes.

    tree           a path or a descriptor, such as that of /proc/<pid>/root
    with_root      an entry "./" for the directory itself
    exclude        shell patterns: with a slash about the path, without one about names anywhere
    exclude_paths  exact paths from the root, left out with all below them
    uid_map, gid_map  (inside, outside, count): owners on disk are `outside`, the archive gets `inside`
    owner          this uid and gid for all
    mtime          this time (nanoseconds) for all, for bytes that do not depend on when files were made
    one_mount      where something is mounted in the tree, its mount point is written without content
    base           in front of every name, as "dir/"; the directory itself gets it as its name
    end            the end-of-archive blocks too
    Raises ImageError, naming the path, for what cannot be read or held by an archive.
    """
    options = {
        "exclude": exclude,
        "exclude_paths": exclude_paths,
        "uid_map": uid_map,
        "gid_map": gid_map,
        "owner": owner,
        "mtime": mtime,
        "xattrs": xattrs,
        "one_mount": one_mount,
        "base": os.fsencode(base),
    }
    return _pack(tree, write, False, with_root, end, options)


def pack_open(
    node: int,
    write: Write,
    *,
    as_name: str,
    uid_map: Sequence[tuple[int, int, int]] = (),
    gid_map: Sequence[tuple[int, int, int]] = (),
) -> Packed:
    """What is open as `node` (O_PATH, not a directory) as a tar of one entry. Raises ImageError."""
    out = TarWriter(write)
    walk = Walk(node, out, {"uid_map": uid_map, "gid_map": gid_map}, False)
    info = os.fstat(node)
    name = os.fsencode(as_name)
    if stat.S_ISREG(info.st_mode):
        try:
            file = os.open(link_path(node), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise ImageError(shown_name(name), f"cannot be read: {error.strerror}") from None
        try:
            walk.opened(name, file, False)
        finally:
            os.close(file)
    else:
        walk.special(b"", name, "", node, info)
    out.close()
    return Packed(out.entries, out.size, walk.sockets)


def pack_upper(
    upper: Tree,
    write: Write,
    *,
    lower: Callable[[str], os.stat_result | None] | None = None,
    with_root: bool = False,
    exclude_paths: Iterable[str] = (),
    uid_map: Sequence[tuple[int, int, int]] = (),
    gid_map: Sequence[tuple[int, int, int]] = (),
    mtime: int | None = None,
    end: bool = True,
) -> Packed:
    """An overlay's upper directory as a layer, into `write`.

    lower: what a path (relative) is below this layer, or None for nothing there: then a directory the
    overlay marked opaque only because it is new gets no mark in the layer. The rest is as in pack_tree().
    Raises ImageError for names that start with ".wh.", and for uppers made with redirect_dir or metacopy.
    """
    options = {
        "lower": lower,
        "exclude_paths": exclude_paths,
        "uid_map": uid_map,
        "gid_map": gid_map,
        "mtime": mtime,
    }
    return _pack(upper, write, True, with_root, end, options)
