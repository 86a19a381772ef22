"""What layers and archives are packed with: gzip (RFC 1952), zstd (RFC 8878), bzip2, xz, or nothing.

gzip is read by isal, which is twice as fast as zlib and takes its place where it cannot be imported. Files of
several members or frames one after the other are read as one. Output comes in pieces of at most PIECE bytes,
so that a small file that grows beyond all measure is noticed by its reader, not by the memory.
"""

from __future__ import annotations

import os

from ..errors import ArchiveError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

__all__ = ["PIECE", "Decompressor", "Reader", "detect", "open_decompressed"]

PIECE = 1 << 18
"""Bytes of output at a time: they stay in the processor's cache on the way to the next thread."""
_READ = 1 << 18
_XZ_MEMORY = 1 << 30
_MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz"}


def detect(head: bytes) -> str:
    """ "gzip", "zstd", "bzip2", "xz" or "none", by the first bytes of a file (6 are enough)."""
    for magic, kind in _MAGIC.items():
        if head.startswith(magic):
            return kind
    if len(head) >= 4 and head[1:4] == b"\x2a\x4d\x18" and head[0] & 0xF0 == 0x50:
        return "zstd"  # it begins with a skippable frame
    return "none"


class _Zlib:
    """zlib's decompressor with the manners of isal's, bz2's and lzma's."""

    def __init__(self) -> None:
        import zlib

        self._z = zlib.decompressobj(31)
        self._tail = b""

    @property
    def eof(self) -> bool:
        return self._z.eof

    @property
    def unused_data(self) -> bytes:
        return self._z.unused_data

    @property
    def needs_input(self) -> bool:
        return not self._tail

    def decompress(self, data: Any, limit: int) -> bytes:
        out = self._z.decompress(self._tail + data if self._tail else data, limit)
        self._tail = self._z.unconsumed_tail
        return out


def _gzip() -> tuple[Callable[[], Any], tuple[type[Exception], ...]]:
    import zlib

    try:
        from isal import igzip_lib, isal_zlib
    except ImportError:
        return _Zlib, (zlib.error, EOFError)
    flag = igzip_lib.DECOMP_GZIP
    errors: Any = (isal_zlib.error, igzip_lib.error, zlib.error, EOFError)
    return lambda: igzip_lib.IgzipDecompressor(flag=flag), errors


def _bzip2() -> tuple[Callable[[], Any], tuple[type[Exception], ...]]:
    import bz2

    return bz2.BZ2Decompressor, (OSError, EOFError, ValueError)


def _xz() -> tuple[Callable[[], Any], tuple[type[Exception], ...]]:
    import lzma

    return lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, _XZ_MEMORY), (lzma.LZMAError, EOFError)


class _Members:
    """gzip, bzip2, xz: members one after the other, perhaps zeros after the last."""

    def __init__(self, kind: str, where: str) -> None:
        self._new, self._errors = {"gzip": _gzip, "bzip2": _bzip2, "xz": _xz}[kind]()
        self._kind, self._where = kind, where
        self._first = {"gzip": 0x1F, "bzip2": 0x42, "xz": 0xFD}[kind]
        self._one: Any = self._new()
        self._padding = False

    def pieces(self, data: Any) -> Iterator[bytes]:
        view = memoryview(data)
        at, size = 0, len(view)
        step = size
        while at < size:
            if self._one is None:
                if self._padding or view[at] != self._first:  # zeros may follow: tapes, block devices
                    self._padding = True
                    if any(view[at:]):
                        raise ArchiveError(self._where, f"has something that is no {self._kind} after its end")
                    return
                self._one = self._new()
            part = view[at : at + step]
            try:
                piece = self._one.decompress(part, PIECE)
                if piece:
                    yield piece
                while not self._one.eof and not self._one.needs_input:
                    piece = self._one.decompress(b"", PIECE)
                    if piece:
                        yield piece
            except self._errors as error:
                raise ArchiveError(self._where, f"is damaged {self._kind} data: {error}") from None
            at += len(part)
            step *= 2
            if self._one.eof:  # small steps: what is behind a member's end is copied by the decompressor
                at -= len(self._one.unused_data)
                step = 8192
                self._one = None

    def finish(self) -> None:
        if self._one is not None:
            raise ArchiveError(self._where, f"is cut off: the {self._kind} data has no end")


class _Zstd:
    """Frames one after the other. Their blocks' headers are read here too: no more blocks go in at a time than
    make a few PIECEs, whatever is claimed elsewhere; and whether the last frame has ended is known."""

    BLOCKS = 2

    def __init__(self, where: str) -> None:
        import zstandard

        self._where = where
        self._error = zstandard.ZstdError
        self._z = zstandard.ZstdDecompressor().decompressobj(read_across_frames=True)
        self._head = b""  # of a frame or block, the part that has come
        self._skip = 0  # bytes until the next header
        self._block = False  # the next header is a block's, not a frame's
        self._checksum = False

    def _header(self, head: bytes) -> int:
        """How many bytes the header has that begins so; once they are there, what follows is noted."""
        if self._block:
            if len(head) >= 3:
                word = int.from_bytes(head[:3], "little")
                self._skip = 1 if word >> 1 & 3 == 1 else word >> 3
                if word & 1:  # the last one
                    self._block = False
                    self._skip += 4 if self._checksum else 0
            return 3
        if len(head) < 5:
            return 5
        magic = int.from_bytes(head[:4], "little")
        if magic & 0xFFFFFFF0 == 0x184D2A50:
            if len(head) >= 8:
                self._skip = int.from_bytes(head[4:8], "little")
            return 8
        if magic != 0xFD2FB528:
            raise ArchiveError(self._where, "is damaged zstd data: there is no frame where one should begin")
        flags = head[4]
        single = flags >> 5 & 1
        need = 6 - single + (0, 1, 2, 4)[flags & 3] + (single, 2, 4, 8)[flags >> 6]
        if len(head) >= need:
            self._checksum = bool(flags & 4)
            self._block = True
        return need

    def pieces(self, data: Any) -> Iterator[bytes]:
        view = memoryview(data)
        at, begin, blocks, size = 0, 0, 0, len(view)
        while at < size:
            if self._skip:
                step = min(self._skip, size - at)
                self._skip -= step
                at += step
                continue
            if blocks == self.BLOCKS:
                yield from self._feed(view[begin:at])
                begin, blocks = at, 0
            have = len(self._head)
            head = self._head + bytes(view[at : at + 18 - have])
            need = self._header(head)
            if len(head) < need:
                self._head = head
                break
            at += need - have
            self._head = b""
            blocks += 1
        yield from self._feed(view[begin:])

    def _feed(self, part: Any) -> Iterator[bytes]:
        try:
            piece = self._z.decompress(part)
        except self._error as error:
            raise ArchiveError(self._where, f"is damaged zstd data: {error}") from None
        if len(piece) <= PIECE:
            if piece:
                yield piece
            return
        for at in range(0, len(piece), PIECE):
            yield piece[at : at + PIECE]

    def finish(self) -> None:
        if self._block or self._skip or self._head:
            raise ArchiveError(self._where, "is cut off: the zstd data has no end")


class _Plain:
    def pieces(self, data: Any) -> Iterator[bytes]:
        yield bytes(data)

    def finish(self) -> None:
        pass


class Decompressor:
    """Packed bytes in, plain bytes out.

    kind   "gzip", "zstd", "bzip2", "xz" or "none"
    where  what it is, for messages

    Its methods raise ArchiveError for damaged data.
    """

    def __init__(self, kind: str, where: str = "the archive") -> None:
        self.kind = kind
        self._inner: Any
        if kind == "zstd":
            self._inner = _Zstd(where)
        elif kind == "none":
            self._inner = _Plain()
        else:
            self._inner = _Members(kind, where)

    def pieces(self, data: Any) -> Iterator[bytes]:
        """What the next bytes become, in pieces of at most PIECE bytes (for "none": the bytes)."""
        return self._inner.pieces(data)  # type: ignore[no-any-return]

    def feed(self, data: Any) -> bytes:
        """What the next bytes become, whole: a small input may become a big output."""
        return b"".join(self._inner.pieces(data))

    def finish(self) -> bytes:
        """There is no more. Raises ArchiveError when there should be. Returns b"": all has come out before."""
        self._inner.finish()
        return b""


class Reader:
    """A file, decompressed: read(n), readinto(buffer), chunks(); a context manager.

    kind      what it is packed with
    consumed  bytes of the file so far
    produced  bytes of its content so far
    """

    def __init__(self, file: Any, where: str = "", close: bool = False) -> None:
        self._file, self._close = file, close
        self.where = where or str(getattr(file, "name", "the archive"))
        self.consumed = self.produced = 0
        head = b""
        while len(head) < 6:
            more = file.read(6 - len(head))
            if not more:
                break
            head += more
        self._head = head
        self.kind = detect(head)
        self._source: Iterator[bytes] | None = None
        self._rest: memoryview | bytes = b""

    def chunks(self) -> Iterator[bytes]:
        """The content, in pieces of at most PIECE bytes. Raises ArchiveError, OSError."""
        if self.kind == "none":
            data = self._head
            while data:
                self.consumed += len(data)
                self.produced += len(data)
                yield data
                data = self._file.read(PIECE)
            return
        packed = Decompressor(self.kind, self.where)
        data = self._head
        while data:
            self.consumed += len(data)
            for piece in packed.pieces(data):
                self.produced += len(piece)
                yield piece
            data = self._file.read(_READ)
        packed.finish()

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes, as many if there are; all with a negative one."""
        if self._source is None:
            self._source = self.chunks()
        parts: list[Any] = []
        while size:
            if not self._rest:
                self._rest = memoryview(next(self._source, b""))
                if not self._rest:
                    break
            part = self._rest if size < 0 else self._rest[:size]
            self._rest = self._rest[len(part) :]
            parts.append(part)
            size -= len(part) if size > 0 else 0
        return b"".join(parts)

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer as far as there is something; 0 at the end."""
        view = memoryview(buffer).cast("B")
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if self._close:
            self._file.close()

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def open_decompressed(what: Any, where: str = "") -> Reader:
    """A Reader of a path, a descriptor (left open) or a binary file object (left open).

    Raises OSError when the path cannot be opened.
    """
    if isinstance(what, int):
        return Reader(open(what, "rb", buffering=0, closefd=False), where or f"descriptor {what}")
    if isinstance(what, str | bytes | os.PathLike):
        return Reader(open(what, "rb", buffering=0), where or os.fsdecode(what), close=True)
    return Reader(what, where)
