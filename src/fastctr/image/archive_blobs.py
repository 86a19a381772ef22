"""Blobs of an image archive on their way into the store."""

from __future__ import annotations

from ..errors import DigestMismatch, shown
from . import digest as digests
from .layer_write import LayerWriter
from .progress import emit, short

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from .progress import Progress
    from .store import Store

__all__ = ["Stored", "blob_name", "copy_in", "diff_id_of", "mismatch", "named_digest", "take_layer"]

CHUNK = 1 << 20


class Stored:
    """A blob of the archive in the store. kind: its compression; diff_id: None where not looked at yet; fresh:
    whether it was written just now, so that its digest need not be looked at again."""

    __slots__ = ("diff_id", "digest", "fresh", "kind", "size")

    def __init__(self, digest: str, size: int, kind: str, diff_id: str | None, fresh: bool = False) -> None:
        self.digest = digest
        self.size = size
        self.kind = kind
        self.diff_id = diff_id
        self.fresh = fresh


def diff_id_of(store: Store, stored: Stored) -> str:
    """The digest of what is in the packed blob. Raises ArchiveError if it cannot be unpacked."""
    if stored.diff_id is None:
        if stored.kind == "none":
            stored.diff_id = stored.digest
        else:
            from .source import Source, inflated

            with Source(store.blob_path(stored.digest)) as source:
                plain, digest = inflated(source), digests.hasher("sha256")
                while data := plain.read(CHUNK):
                    digest.update(data)
            stored.diff_id = f"sha256:{digest.hexdigest()}"
    return stored.diff_id


def mismatch(name: str, wanted: str, found: str) -> DigestMismatch:
    return DigestMismatch(wanted, f"the layer {shown(name)} has the digest {found}", "the archive is damaged")


def blob_name(digest: str) -> str:
    """A blob's name in an OCI layout."""
    algorithm, value = digests.split(digest)
    return f"blobs/{algorithm}/{value}"


def named_digest(name: str) -> str | None:
    """The digest a name in an OCI layout stands for."""
    parts = name.split("/")
    if len(parts) == 3 and parts[0] == "blobs" and digests.valid(f"{parts[1]}:{parts[2]}"):
        return f"{parts[1]}:{parts[2]}"
    return None


def copy_in(store: Store, pieces: Iterable[bytes], digest: str, size: int, progress: Progress | None) -> bool:
    """A blob whose digest is known, from its bytes; they are not looked at if it is there: False."""
    with store.ingest(digest, size) as blob:
        if blob.done:
            emit(progress, "exists", short(digest), size, size)
            return False
        if blob.offset:
            blob.restart()
        emit(progress, "loading", short(digest), 0, size)
        for piece in pieces:
            blob.write(piece)
            emit(progress, "loading", short(digest), blob.offset, size)
        blob.commit()
        return True


def take_layer(
    store: Store, head: bytes, rest: Iterable[bytes], size: int, diff_id: str | None, progress: Progress | None
) -> Stored:
    """A layer of a docker archive; diff_id is what it should be, if that is known."""
    from .compression import detect

    kind = detect(head[:512])
    if kind == "none" and diff_id is not None:
        fresh = copy_in(store, _chain(head, rest), diff_id, size, progress)
        return Stored(diff_id, size, kind, diff_id, fresh)
    if kind in ("none", "gzip", "zstd"):
        with store.ingest(None) as blob:
            for piece in _chain(head, rest):
                blob.write(piece)
                emit(progress, "loading", "layer", blob.offset, size)
            digest, size = blob.commit()
        return Stored(digest, size, kind, digest if kind == "none" else None, True)
    return _repack(store, kind, head, rest)


def _chain(head: bytes, rest: Iterable[bytes]) -> Iterator[bytes]:
    if head:
        yield head
    yield from rest


def _repack(store: Store, kind: str, head: bytes, rest: Iterable[bytes]) -> Stored:
    """xz and bzip2, which no layer may have, become gzip."""
    from .compression import Decompressor

    unpacker = Decompressor(kind)
    with LayerWriter(store, "gzip") as writer:
        for piece in _chain(head, rest):
            plain = unpacker.feed(piece)
            if plain:
                writer.write(bytes(plain))
        writer.write(bytes(unpacker.finish() or b""))
        new = writer.finish()
    return Stored(new.descriptor.digest, new.descriptor.size, "gzip", new.diff_id)
