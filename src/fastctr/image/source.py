"""Where an archive is read from: a path, "-" for standard input, a descriptor, a file object, a URL."""

from __future__ import annotations

import errno
import os

from ..errors import ArchiveError, ImageError, RegistryError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, BinaryIO

    What = str | int | os.PathLike[str] | BinaryIO

__all__ = ["Source", "inflated"]

CHUNK = 1 << 18
RATIO_FLOOR = 1 << 31
RATIO_MAX = 1100
"""Beyond RATIO_FLOOR bytes an archive may not grow more than this when decompressed: gzip cannot by more
than 1,032, and other formats do only in archives made to fill a disk."""


class Source:
    """Bytes of an archive. Use as a context manager.

    name      for messages
    seekable  whether `file` can be read at any place
    kind      "none", "gzip", "zstd", "xz", "bzip2": what it is packed with
    count     bytes read so far;  total  bytes in all, 0 where unknown
    """

    def __init__(self, what: What) -> None:
        self.what = what
        self.name = "-" if isinstance(what, int) else str(what)
        self.file: Any = None
        self.seekable = False
        self.kind = "none"
        self.count = 0
        self.total = 0
        self._head = b""
        self._owned = False
        self._http: Any = None

    def __enter__(self) -> Source:
        from .compression import detect

        try:
            self._open()
            self._measure()
            self._head = self._some(512)
            self.kind = detect(self._head)
            if self.seekable:
                self.file.seek(self._start)
                self._head = b""
        except OSError as error:
            self.close()
            raise ArchiveError(self.name, f"cannot be read: {error.strerror}") from None
        except BaseException:
            self.close()
            raise
        return self

    def _open(self) -> None:
        what = self.what
        if isinstance(what, int):
            self.file, self._owned = open(what, "rb", buffering=0, closefd=False), True
        elif what == "-":
            self.file, self._owned = open(0, "rb", buffering=0, closefd=False), True
            self.name = "standard input"
        elif isinstance(what, str) and what.startswith(("http://", "https://")):
            self._fetch(what)
        elif isinstance(what, str | os.PathLike):
            self.file, self._owned = open(what, "rb", buffering=0), True
        elif hasattr(what, "read"):
            self.file = what
            self.name = str(getattr(what, "name", "archive"))
        else:
            raise ImageError(str(what), "is neither a path nor something to read from")

    def _fetch(self, url: str) -> None:
        """As anybody's URL: without the credentials registries get."""
        from .http import Http

        self._http = Http()
        answer = self._http.request("GET", url, {"Accept-Encoding": "identity"})
        if answer.status != 200:
            raise RegistryError(url, f"answers with status {answer.status}", status=answer.status)
        self.total = answer.length or 0
        self.file = _Body(answer)

    def _measure(self) -> None:
        self._start = 0
        try:
            if self._http is None and self.file.seekable():
                self._start = self.file.tell()
                self.total = self.file.seek(0, os.SEEK_END) - self._start
                self.file.seek(self._start)
                self.seekable = True
        except (OSError, AttributeError, ValueError) as error:
            if isinstance(error, OSError) and error.errno not in (errno.ESPIPE, errno.EINVAL, None):
                raise

    def _some(self, count: int) -> bytes:
        parts, size = [], 0
        while size < count:
            part = self.file.read(count - size)
            if not part:
                break
            parts.append(part)
            size += len(part)
        return b"".join(parts)

    def read(self, size: int = CHUNK) -> bytes:
        """Some bytes as they are stored, b"" at the end. Raises ArchiveError if reading fails."""
        if self._head:
            data, self._head = self._head[:size], self._head[size:]
        else:
            try:
                data = self.file.read(size) or b""
            except OSError as error:
                raise ArchiveError(self.name, f"cannot be read: {error.strerror}") from None
        self.count += len(data)
        return data

    @property
    def has_descriptor(self) -> bool:
        """Whether it can be read with pread(2)."""
        try:
            return isinstance(self.file.fileno(), int)
        except (OSError, AttributeError, ValueError):
            return False

    def close(self) -> None:
        if self._owned and self.file is not None:
            self.file.close()
        if self._http is not None:
            self._http.close()
        self.file = self._http = None

    def __exit__(self, *exc: object) -> None:
        self.close()


class _Body:
    """An HTTP answer as a file: it must be as long as it said."""

    def __init__(self, answer: Any) -> None:
        self._answer = answer
        self._left = answer.length

    def read(self, size: int = CHUNK) -> bytes:
        data: bytes = self._answer.read1(size)
        if self._left is not None:
            self._left -= len(data)
            if not data and self._left > 0:
                raise ArchiveError(self._answer.url, f"ends {self._left} bytes too early", "try again")
        return data

    def seekable(self) -> bool:
        return False


class inflated:
    """A Source's bytes, decompressed: read(size) gives up to `size` bytes, b"" at the end.

    Raises ArchiveError for damaged data, and for data that grows beyond all measure.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._plain = source.kind == "none"
        self._pieces = iter(()) if self._plain else self._unpack()
        self._ready = b""
        self._at = 0
        self.count = 0

    def _unpack(self) -> Iterator[bytes]:
        from .compression import Decompressor

        source = self._source
        unpacker = Decompressor(source.kind, source.name)
        while packed := source.read(CHUNK):
            for piece in unpacker.pieces(packed):
                self.count += len(piece)
                if self.count > RATIO_FLOOR and self.count > source.count * RATIO_MAX:
                    raise ArchiveError(source.name, f"grows from {source.count} bytes to more than {self.count}")
                yield piece
        unpacker.finish()

    def read(self, size: int = CHUNK) -> bytes:
        if self._plain:
            data = self._source.read(size)
            self.count += len(data)
            return data
        if self._at >= len(self._ready):
            self._ready, self._at = next(self._pieces, b""), 0
        data = self._ready[self._at : self._at + size]
        self._at += len(data)
        return data
