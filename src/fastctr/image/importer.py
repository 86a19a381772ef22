"""Images from file systems: `docker import` of a tar, and an image of a directory."""

from __future__ import annotations

import os

from ..errors import ArchiveError, SpecError
from . import oci
from .assemble import assemble, check_name, now, timestamp
from .instructions import apply, parse
from .layer_write import LayerWriter, NewLayer, layer_type
from .platform import Platform, host_platform
from .progress import emit
from .source import CHUNK, Source, inflated

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    from .instructions import Instruction
    from .progress import Progress
    from .reference import Reference
    from .resolved import Resolved
    from .source import What
    from .store import Store

    Ranges = Sequence[tuple[int, int, int]]

__all__ = ["build_rootfs", "import_rootfs"]


def _is_tar(head: bytes) -> bool:
    """Whether it begins with a tar header, its checksum right, or with the end of an empty archive."""
    if len(head) < 512:
        return False
    if not head[:512].strip(b"\0"):
        return True
    try:
        wanted = int(head[148:156].strip(b"\0 ") or b"0", 8)
    except ValueError:
        return False
    return sum(head[:148]) + 8 * 32 + sum(head[156:512]) == wanted


class _Check:
    """Raises ArchiveError if what passes is not a tar."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._head = b""
        self._done = False

    def __call__(self, data: bytes) -> None:
        if not self._done:
            self._head += data
            if len(self._head) >= 512:
                self.finish()

    def finish(self) -> None:
        if not self._done:
            self._done = True
            if not _is_tar(self._head):
                raise ArchiveError(self._name, "is not a tar archive", "give a root file system's tar, or a directory")
            self._head = b""


def _as_it_is(store: Store, source: Source, check: _Check) -> NewLayer:
    """A packed tar goes in unchanged; it is unpacked only for its diff id."""
    import hashlib

    size, digest = 0, hashlib.sha256()
    plain = inflated(_Tee(source, blob := store.ingest(None)))  # type: ignore[arg-type]
    with blob:
        while data := plain.read(1 << 20):
            check(data)
            digest.update(data)
            size += len(data)
        check.finish()
        while data := source.read(CHUNK):
            blob.write(data)
        found, length = blob.commit()
    return NewLayer(oci.Descriptor(layer_type(source.kind), found, length), f"sha256:{digest.hexdigest()}", size)


class _Tee:
    """A source of which every byte read is written to a blob too."""

    def __init__(self, source: Source, blob: Any) -> None:
        self._source = source
        self._blob = blob
        self.kind = source.kind
        self.name = source.name

    @property
    def count(self) -> int:
        return self._source.count

    def read(self, size: int) -> bytes:
        data = self._source.read(size)
        if data:
            self._blob.write(data)
        return data


def _recompressed(store: Store, source: Source, check: _Check, compression: str, level: int | None) -> NewLayer:
    plain = inflated(source)
    with LayerWriter(store, compression, level=level) as writer:
        while data := plain.read(CHUNK):
            check(data)
            writer.write(data)
        check.finish()
        return writer.finish()


def _document(
    layer: NewLayer | None,
    config: dict[str, Any],
    changes: Iterable[str | Instruction],
    message: str,
    author: str,
    created: str,
    command: str,
    platform: str | Platform | None,
) -> dict[str, Any]:
    where = host_platform() if platform is None else Platform.parse(platform)
    made: dict[str, Any] = {"created": created, **where.to_json()}
    if author:
        made["author"] = author
    made["config"] = apply(config, changes)
    made["rootfs"] = {"type": "layers", "diff_ids": [layer.diff_id] if layer else []}
    history = {"created": created}
    if command:
        history["created_by"] = command
    if author:
        history["author"] = author
    if message:
        history["comment"] = message
    made["history"] = [history]
    return made


def import_rootfs(
    store: Store,
    source: What,
    reference: str | Reference | None = None,
    *,
    changes: Iterable[str | Instruction] = (),
    message: str | None = None,
    author: str = "",
    platform: str | Platform | None = None,
    compression: str | None = None,
    level: int | None = None,
    unpack: bool = True,
    snapshotter: str | None = None,
    progress: Progress | None = None,
) -> Resolved:
    """An image of one layer from a root file system, as `docker import` makes it.

    source       a tar, plain or packed with gzip, zstd, xz or bzip2: a path, "-" for standard input, a
                 descriptor, a binary file object, an http(s) URL; or a directory (see build_rootfs)
    reference    its name; None leaves it without one
    changes      Dockerfile instructions, as in commit()
    message      the history's comment; by default where it came from
    compression  of the layer: "gzip", "zstd", "none"; by default gzip and zstd tars stay as they are
    unpack       unpack it too, so that a damaged or hostile archive is refused now
    Raises SpecError, ArchiveError, RegistryError (URLs), StoreError.
    """
    if isinstance(source, str | os.PathLike) and source != "-" and os.path.isdir(source):
        return build_rootfs(
            store,
            source,
            reference,
            changes=changes,
            message=message or f"Imported from {source}",
            author=author,
            platform=platform,
            compression=compression or "gzip",
            level=level,
        )
    check_name(reference)
    instructions = [parse(each) if isinstance(each, str) else each for each in changes]
    apply({}, instructions)
    if compression is not None:
        layer_type(compression)
    with store.lease(), Source(source) as opened:
        emit(progress, "importing", opened.name, 0, opened.total)
        check = _Check(opened.name)
        if opened.kind in ("gzip", "zstd") and compression in (None, opened.kind):
            layer = _as_it_is(store, opened, check)
        else:
            layer = _recompressed(store, opened, check, compression or "gzip", level)
        name = "-" if source == "-" or not isinstance(source, str | os.PathLike) else os.fspath(source)
        comment = f"Imported from {name}" if message is None else message
        document = _document(layer, {}, instructions, comment, author, now(), "", platform)
        return _finish(store, document, layer, reference, unpack, snapshotter, progress)


def _finish(
    store: Store,
    document: dict[str, Any],
    layer: NewLayer,
    reference: str | Reference | None,
    unpack: bool,
    snapshotter: str | None,
    progress: Progress | None,
) -> Resolved:
    """The image gets its name only when its layer could be unpacked."""
    if not unpack:
        return assemble(store, document, [layer.descriptor], reference)
    from .snapshot import ensure

    image = assemble(store, document, [layer.descriptor], None)
    try:
        ensure(store, image, snapshotter, progress)
    except BaseException:
        store.remove(image.id)
        raise
    emit(progress, "done", image.id)
    return image if reference is None else assemble(store, document, [layer.descriptor], reference)


def build_rootfs(
    store: Store,
    directory: int | str | os.PathLike[str],
    reference: str | Reference | None = None,
    *,
    config: dict[str, Any] | None = None,
    changes: Iterable[str | Instruction] = (),
    message: str = "",
    author: str = "",
    platform: str | Platform | None = None,
    exclude: Iterable[str] = (),
    owner: tuple[int, int] | None = None,
    uid_map: Ranges = (),
    gid_map: Ranges = (),
    reproducible: bool = False,
    mtime: int | None = None,
    compression: str = "gzip",
    level: int | None = None,
) -> Resolved:
    """An image of one layer from a directory, which becomes its root.

    directory    a path or a descriptor; what is mounted in it is left out. Its own owner and mode are not
                 taken: the image's root is root's, 0755
    config       the "config" of the image to begin with, then `changes` are worked in
    exclude      shell patterns of what to leave out: "*.pyc" names anywhere, "/var/cache/*" or "a/b" paths
    owner        (uid, gid) of everything; else owners are kept, or shifted by uid_map and gid_map,
                 (inside, outside, count) each: `outside` on disk is `inside` in the image
    reproducible the same files give the same image: times are `mtime`, also the creation's
    mtime        nanoseconds since the epoch for every file (default when reproducible: SOURCE_DATE_EPOCH, else 0)
    Raises SpecError, ImageError (a file that cannot be read), StoreError.
    """
    from .pack import pack_tree

    check_name(reference)
    instructions = [parse(each) if isinstance(each, str) else each for each in changes]
    apply(config or {}, instructions)
    layer_type(compression)
    if owner is not None and not all(isinstance(i, int) and 0 <= i < 2**32 - 1 for i in owner):
        raise SpecError("owner", owner, "is not a uid and a gid", "use (0, 0)")
    if reproducible and mtime is None:
        text = os.environ.get("SOURCE_DATE_EPOCH", "0")
        if not (text.isascii() and text.isdigit()):
            raise SpecError("SOURCE_DATE_EPOCH", text, "is not a number of seconds")
        mtime = int(text) * 1_000_000_000
    created = timestamp(mtime) if reproducible and mtime is not None else now()
    with store.lease():
        with LayerWriter(store, compression, level=level) as writer:
            pack_tree(
                directory,
                writer.write,
                exclude=exclude,
                owner=owner,
                uid_map=uid_map,
                gid_map=gid_map,
                mtime=mtime,
            )
            layer = writer.finish()
        document = _document(layer, config or {}, instructions, message, author, created, "", platform)
        return assemble(store, document, [layer.descriptor], reference)
