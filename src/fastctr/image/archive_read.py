"""What lies in an image archive, by name: a tar that can be read at any place, one that only flows by, or a
directory. Whatever is asked for as a blob is in the store afterwards, verified.
"""

from __future__ import annotations

import errno
import os
import posixpath
from abc import ABC, abstractmethod

from ..errors import ArchiveError, DigestMismatch, shown
from .archive_blobs import CHUNK, Stored, blob_name, copy_in, mismatch, named_digest, take_layer
from .oci import CONFIG_MAX
from .progress import emit, short
from .rootfd import BENEATH, open_at
from .tar_read import Feed, Member, clean_name, members

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .progress import Progress
    from .source import Source
    from .store import Store

__all__ = ["Bundle", "FileBundle", "FolderBundle", "StreamBundle"]

_DOCUMENTS = ("manifest.json", "index.json", "oci-layout", "repositories", "VERSION", "json")
_DOCUMENTS_MAX = 64 << 20
_LINKS_MAX = 16
_HEX = 64


class Bundle(ABC):
    """name: for messages. The methods raise ArchiveError for names that are not there."""

    def __init__(self, store: Store, name: str, progress: Progress | None) -> None:
        self.store = store
        self.name = name
        self.progress = progress
        self.links: dict[str, str] = {}

    # what each kind of bundle has in its own way

    @abstractmethod
    def holds(self, name: str) -> bool: ...

    @abstractmethod
    def size_of(self, name: str) -> int: ...

    @abstractmethod
    def pieces(self, name: str) -> Iterator[bytes]: ...

    # ---- names

    def link(self, member: Member) -> None:
        """Remember a symbolic or hard link, which must stay within the archive."""
        if member.kind == b"1":
            self.links[member.name] = clean_name(member.link, self.name)
            return
        if member.link.startswith("/"):
            raise ArchiveError(self.name, f"{shown(member.name)} is a link to {shown(member.link)}, out of it")
        target = posixpath.normpath(posixpath.join(posixpath.dirname(member.name), member.link))
        if target == ".." or target.startswith("../"):
            raise ArchiveError(self.name, f"{shown(member.name)} is a link to {shown(member.link)}, out of it")
        self.links[member.name] = target

    def real(self, name: str) -> str:
        """The name with links followed."""
        name = clean_name(name, self.name)
        for _ in range(_LINKS_MAX):
            if name not in self.links:
                return name
            name = self.links[name]
        raise ArchiveError(self.name, f"{shown(name)} is a link in a circle")

    def has(self, name: str) -> bool:
        return self.holds(self.real(name))

    def _existing(self, name: str) -> str:
        real = self.real(name)
        if not self.holds(real):
            raise ArchiveError(self.name, f"{shown(name)} is not in it", "it is incomplete")
        return real

    # ---- content

    def read(self, name: str, limit: int = CONFIG_MAX) -> bytes:
        """A document. Raises ArchiveError if it is longer than `limit` bytes."""
        real = self._existing(name)
        size = self.size_of(real)
        if size > limit:
            raise ArchiveError(self.name, f"{shown(name)} has {size} bytes, more than the {limit} it may have")
        return b"".join(self.pieces(real))

    def blob(self, digest: str, size: int) -> None:
        """Have the blob of an OCI layout in the store. Raises DigestMismatch, ArchiveError (not there)."""
        if self.store.has_blob(digest, size):
            self.store.note_blob(digest)
            if self.store.has_blob(digest, size):
                emit(self.progress, "exists", short(digest), size, size)
                return
        name = self._existing(blob_name(digest))
        if self.size_of(name) != size:
            raise DigestMismatch(digest, f"has {self.size_of(name)} bytes in {self.name}, and should have {size}")
        self.copy(name, digest, size)

    def copy(self, name: str, digest: str, size: int) -> None:
        copy_in(self.store, self.pieces(name), digest, size, self.progress)

    def layer(self, name: str, diff_id: str) -> Stored:
        """Have a layer of a docker archive in the store, whatever it is packed with. Raises DigestMismatch
        if it is not packed and another one; for others that is still to be seen."""
        stored = self.store_layer(self._existing(name), diff_id)
        if stored.kind == "none" and stored.digest != diff_id:
            raise mismatch(name, diff_id, stored.digest)
        return stored

    def store_layer(self, name: str, diff_id: str | None) -> Stored:
        size = self.size_of(name)
        pieces = self.pieces(name)
        head = next(pieces, b"")
        return take_layer(self.store, head, pieces, size, diff_id, self.progress)


class FileBundle(Bundle):
    """An unpacked tar in a file: its entries are listed first, then read where they lie."""

    def __init__(self, store: Store, source: Source, progress: Progress | None) -> None:
        super().__init__(store, source.name, progress)
        self._fd = source.file.fileno()
        self._start = source.file.tell()
        self._members: dict[str, Member] = {}
        place = self._start
        total = source.total

        def read(size: int) -> bytes:
            nonlocal place
            data = os.pread(self._fd, min(size, 1 << 16), place)
            place += len(data)
            return data

        def skip(size: int) -> None:
            nonlocal place
            place += size
            if place - self._start > total:
                raise ArchiveError(self.name, "ends too early", "it was cut, or is not an image archive")

        for member in members(Feed(source.name, read, skip)):
            if member.is_file:
                self._members[member.name] = member
                self.links.pop(member.name, None)
            elif member.kind in (b"1", b"2"):
                self.link(member)
                self._members.pop(member.name, None)

    def holds(self, name: str) -> bool:
        return name in self._members

    def size_of(self, name: str) -> int:
        return self._members[name].size

    def pieces(self, name: str) -> Iterator[bytes]:
        member = self._members[name]
        at, end = self._start + member.offset, self._start + member.offset + member.size
        while at < end:
            data = os.pread(self._fd, min(CHUNK, end - at), at)
            if not data:
                raise ArchiveError(self.name, "ends too early", "it was cut")
            at += len(data)
            yield data


class FolderBundle(Bundle):
    """An OCI layout as a directory; links in it may not lead out of it."""

    def __init__(self, store: Store, fd: int, name: str, progress: Progress | None) -> None:
        super().__init__(store, name, progress)
        self._fd = fd

    def _open(self, name: str) -> int:
        try:
            return open_at(self._fd, name, os.O_RDONLY | os.O_NONBLOCK, BENEATH)
        except OSError as error:
            if error.errno == errno.EXDEV:
                raise ArchiveError(self.name, f"{shown(name)} is a link that leads out of it") from None
            raise

    def holds(self, name: str) -> bool:
        try:
            os.close(self._open(name))
        except OSError:
            return False
        return True

    def size_of(self, name: str) -> int:
        fd = self._open(name)
        try:
            return os.fstat(fd).st_size
        finally:
            os.close(fd)

    def pieces(self, name: str) -> Iterator[bytes]:
        fd = self._open(name)
        try:
            while data := os.read(fd, CHUNK):
                yield data
        except OSError as error:
            raise ArchiveError(self.name, f"{shown(name)} cannot be read: {error.strerror}") from None
        finally:
            os.close(fd)


class StreamBundle(Bundle):
    """A tar that flows by once: documents are kept, what may be a blob goes into the store at once."""

    def __init__(self, store: Store, name: str, read: Callable[[int], bytes], progress: Progress | None) -> None:
        super().__init__(store, name, progress)
        self._documents: dict[str, bytes] = {}
        self._blobs: dict[str, Stored] = {}
        self._passed: set[str] = set()
        kept = 0
        feed = Feed(name, read)
        for member in members(feed):
            if member.kind in (b"1", b"2"):
                self.link(member)
                self._documents.pop(member.name, None)
                self._blobs.pop(member.name, None)
            elif member.is_file:
                self.links.pop(member.name, None)
                kept += self._take(member, feed)
                if kept > _DOCUMENTS_MAX:
                    raise ArchiveError(name, f"has documents of more than {_DOCUMENTS_MAX} bytes")
        while feed.some(CHUNK):  # whoever writes into the pipe may finish
            pass

    def _take(self, member: Member, feed: Feed) -> int:
        """Keep an entry; returns the bytes that takes of memory."""
        name = member.name
        digest = named_digest(name)
        if digest is not None:
            with self.store.ingest(digest, member.size) as blob:
                fresh = not blob.done
                if fresh:
                    if blob.offset:
                        blob.restart()
                    for piece in feed.pieces(member.size):
                        blob.write(piece)
                        emit(self.progress, "loading", short(digest), blob.offset, member.size)
                    blob.commit()
            self._blobs[name] = Stored(digest, member.size, "", None, fresh)
            return 0
        last = name.rpartition("/")[2]
        if last in _DOCUMENTS or last.endswith(".json"):
            if member.size > CONFIG_MAX:
                raise ArchiveError(self.name, f"{shown(name)} has {member.size} bytes, which no document has")
            self._documents[name] = feed.exact(member.size)
            return member.size
        if not (".tar" in last or last == "layer" or len(last.removeprefix("sha256:")) == _HEX):
            self._passed.add(name)
            return len(name)
        pieces = feed.pieces(member.size)
        head = next(pieces, b"")
        self._blobs[name] = take_layer(self.store, head, pieces, member.size, None, self.progress)
        return 0

    def _existing(self, name: str) -> str:
        if self.real(name) in self._passed:
            raise ArchiveError(
                self.name, f"{shown(name)} has passed by, not known to be a layer", "load it from a file instead"
            )
        return super()._existing(name)

    def holds(self, name: str) -> bool:
        return name in self._documents or name in self._blobs

    def size_of(self, name: str) -> int:
        found = self._documents.get(name)
        return len(found) if found is not None else self._blobs[name].size

    def pieces(self, name: str) -> Iterator[bytes]:
        found = self._documents.get(name)
        if found is not None:
            yield found
            return
        with self.store.open_blob(self._blobs[name].digest) as file:
            while data := file.read(CHUNK):
                yield data

    def copy(self, name: str, digest: str, size: int) -> None:
        if self._blobs.get(name) is None or self._blobs[name].digest != digest:
            super().copy(name, digest, size)

    def store_layer(self, name: str, diff_id: str | None) -> Stored:
        stored = self._blobs.get(name)
        if stored is None:
            return super().store_layer(name, diff_id)
        if not stored.kind:
            from .compression import detect

            with self.store.open_blob(stored.digest) as file:
                stored.kind = detect(file.read(512))
        return stored
