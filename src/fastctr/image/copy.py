"""`docker cp`: files and trees into a container's root and out of it, and tar streams.

The root is a descriptor: of /proc/<pid>/root for a running container, of a mounted overlay for one that is
not. What lies in it may be hostile: no link and no ".." leads out, and nothing is opened twice by name.
"""

from __future__ import annotations

import os
import posixpath

from ..errors import ImageError
from .copy_paths import Root, means_content, reopen
from .copy_tree import Copier

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    Ranges = Sequence[tuple[int, int, int]]
    Path = str | os.PathLike[str]

__all__ = ["Copied", "copy_in", "copy_out"]


class Copied:
    """files: entries copied; size: bytes of content."""

    __slots__ = ("files", "size")

    def __init__(self, files: int, size: int) -> None:
        self.files = files
        self.size = size


def _outside(ranges: Ranges, inside: int) -> int:
    """The id on the host of an id in the container. Raises ImageError if it has none there."""
    if not ranges:
        return inside
    for first, start, count in ranges:
        if first <= inside < first + count:
            return start + inside - first
    raise ImageError(str(inside), "is an id the container's user namespace does not have")


def _inside(ranges: Ranges, outside: int) -> int:
    for first, start, count in ranges:
        if start <= outside < start + count:
            return first + outside - start
    return outside if not ranges else 65534


def _container_path(path: Path) -> str:
    """Paths in a container begin at its root, whether they say so or not."""
    text = os.fspath(path)
    return text if text.startswith("/") else "/" + text


def copy_in(
    root: int,
    source: Path | Any,
    target: Path,
    *,
    archive: bool = False,
    follow: bool = False,
    owner: tuple[int, int] = (0, 0),
    uid_map: Ranges = (),
    gid_map: Ranges = (),
) -> Copied:
    """Copy from the host into a container's root.

    root     the root's descriptor
    source   a path; "dir/." means the directory's content; "-" or a binary file object: a tar, which is
             unpacked into the directory `target` (owners as in the tar)
    target   a path in the container: an existing directory gets the source in it; else its last part is the
             copy's name, in a directory that must be there
    archive  keep owners (by number); else everything belongs to `owner`
    follow   copy what a source that is a link points to, instead of the link
    uid_map, gid_map  (inside, outside, count) of the container's user namespace
    Raises ImageError: where the rules of docker cp forbid it, or the kernel does.
    """
    where = _container_path(target)
    if not isinstance(source, str | os.PathLike) or source == "-":
        return _stream_in(root, source, where, uid_map, gid_map)
    text = os.fspath(source)

    def owner_of(info: os.stat_result) -> tuple[int, int]:
        uid, gid = (info.st_uid, info.st_gid) if archive else owner
        return _outside(uid_map, uid), _outside(gid_map, gid)

    with Root(None) as host, Root(root, "container:") as inside, host.node(text, follow) as node:
        name = posixpath.basename(os.path.abspath(text))
        copier = Copier(owner_of, True, lambda path: f"{text.rstrip('/')}/{path}" if path else text)
        with inside.target(where, name, node.is_dir, means_content(text)) as place:
            _run(copier, node, place)
    return Copied(copier.files, copier.size)


def copy_out(
    root: int,
    source: Path,
    target: Path | Any,
    *,
    archive: bool = False,
    follow: bool = False,
    uid_map: Ranges = (),
    gid_map: Ranges = (),
) -> Copied:
    """Copy from a container's root to the host.

    source   a path in the container; "dir/." means the directory's content
    target   a path on the host, by the same rules as in copy_in(); "-" or a binary file object: a tar
    archive  keep owners, set-id bits and attributes, and copy devices; else the copies are the caller's
    The rest is as in copy_in(). Raises ImageError.
    """
    where = _container_path(source)
    with Root(root, "container:") as inside, inside.node(where, follow) as node:
        name = posixpath.basename(posixpath.normpath(where))
        if not isinstance(target, str | os.PathLike) or target == "-":
            return _stream_out(node, name, means_content(where), target, uid_map, gid_map)

        def owner_of(info: os.stat_result) -> tuple[int, int] | None:
            return (_inside(uid_map, info.st_uid), _inside(gid_map, info.st_gid)) if archive else None

        base = "container:" + where.rstrip("/")
        copier = Copier(owner_of, archive, lambda path: f"{base}/{path}" if path else base or "/")
        with Root(None) as host:
            place = host.target(os.fspath(target), name, node.is_dir, means_content(where))
            with place:
                _run(copier, node, place)
    return Copied(copier.files, copier.size)


def _run(copier: Copier, node: Any, place: Any) -> None:
    if not place.name and not node.is_dir:
        raise ImageError("target", "is a directory, and the source has no name to get in it")
    copier.run(node, place)


def _stream_out(node: Any, name: str, content: bool, target: Any, uid_map: Ranges, gid_map: Ranges) -> Copied:
    from .pack import pack_open, pack_tree

    out = os.fdopen(os.dup(1), "wb", buffering=0) if target == "-" else target

    def write(data: bytes) -> None:
        view = memoryview(data)
        while view:
            done = out.write(view)
            view = view[len(view) if done is None else done :]

    try:
        if node.is_dir:
            fd = reopen(node, os.O_RDONLY | os.O_DIRECTORY)
            try:
                base = "./" if content or not name else name + "/"
                packed = pack_tree(fd, write, with_root=True, base=base, uid_map=uid_map, gid_map=gid_map)
            finally:
                os.close(fd)
        else:
            packed = pack_open(node.fd, write, as_name=name, uid_map=uid_map, gid_map=gid_map)
    finally:
        if out is not target:
            out.close()
    return Copied(packed.files, packed.size)


def _stream_in(root: int, source: Any, where: str, uid_map: Ranges, gid_map: Ranges) -> Copied:
    from .source import Source
    from .unpack import unpack

    with Root(root, "container:") as inside, inside.node(where, True) as node:
        if not node.is_dir:
            raise ImageError(inside.shown(where), "is not a directory, and a tar is unpacked into one")
        fd = reopen(node, os.O_RDONLY | os.O_DIRECTORY)
        try:
            with Source(source) as opened:
                done = unpack(opened, fd, mode="merge", uid_map=uid_map, gid_map=gid_map, where=opened.name)
        finally:
            os.close(fd)
    return Copied(done.files, done.size)
