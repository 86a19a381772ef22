"""Reading the outer tar of an image archive: few entries, most of them big. Never makes files.

V7, ustar, pax and GNU headers (pax(1), tar(5)); what a header claims is bounded before it is believed.
"""

from __future__ import annotations

from ..errors import ArchiveError, shown
from .tar_write import BLOCK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Feed", "Member", "clean_name", "members"]

EXTRA_MAX = 1 << 20
"""Bytes of a pax header or long name."""
ENTRIES_MAX = 200_000
_CHUNK = 1 << 18


class Member:
    """name: cleaned, without slashes at its ends; kind: tar's type flag; offset: of its content."""

    __slots__ = ("kind", "link", "name", "offset", "size")

    def __init__(self, name: str, kind: bytes, size: int, link: str, offset: int) -> None:
        self.name = name
        self.kind = kind
        self.size = size
        self.link = link
        self.offset = offset

    @property
    def is_file(self) -> bool:
        return self.kind in (b"0", b"\0", b"7")


class Feed:
    """Exact reads on top of a read() that gives what it has. Raises ArchiveError if there is less."""

    def __init__(self, name: str, read: Callable[[int], bytes], skip: Callable[[int], None] | None = None) -> None:
        self.name = name
        self.at = 0
        self._read = read
        self._skip = skip
        self._rest = b""

    def some(self, most: int) -> bytes:
        """Up to `most` bytes, b"" at the end."""
        if self._rest:
            data, self._rest = self._rest[:most], self._rest[most:]
        else:
            data = self._read(most)
        self.at += len(data)
        return data

    def exact(self, size: int) -> bytes:
        """Exactly `size` bytes."""
        data = self.some(size)
        if len(data) == size:
            return data
        parts, have = [data], len(data)
        while have < size:
            data = self.some(size - have)
            if not data:
                raise ArchiveError(self.name, "ends too early", "it was cut, or is not an image archive")
            parts.append(data)
            have += len(data)
        return b"".join(parts)

    def pieces(self, size: int) -> Iterator[bytes]:
        """Exactly `size` bytes in pieces."""
        while size:
            data = self.some(min(size, _CHUNK))
            if not data:
                raise ArchiveError(self.name, "ends too early", "it was cut, or is not an image archive")
            size -= len(data)
            yield data

    def skip(self, size: int) -> None:
        if self._skip is not None and not self._rest:
            self._skip(size)
            self.at += size
            return
        for _ in self.pieces(size):
            pass


def clean_name(name: str, where: str) -> str:
    """A name in the archive without "." parts and slashes at its ends. Raises ArchiveError for one that
    leads out of it."""
    if name.startswith("/"):
        raise ArchiveError(where, f"has an entry with an absolute name: {shown(name)}")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts or "\0" in name:
        raise ArchiveError(where, f"has an entry whose name leads out of it: {shown(name)}")
    return "/".join(parts)


def _number(field: bytes) -> int:
    if field[0] & 0x80:  # GNU's base 256
        value = int.from_bytes(bytes((field[0] & 0x7F,)) + field[1:], "big")
        if field[0] & 0x40:
            raise ValueError("negative")
        return value
    text = field.strip(b" \0")
    return int(text, 8) if text else 0


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _pax(data: bytes) -> dict[str, str]:
    found: dict[str, str] = {}
    at = 0
    while at < len(data) and data[at : at + 1] != b"\0":
        blank = data.index(b" ", at, at + 12)
        length = int(data[at:blank])
        if length < 5 or at + length > len(data) or data[at + length - 1 : at + length] != b"\n":
            raise ValueError("record")
        key, equals, value = data[blank + 1 : at + length - 1].partition(b"=")
        if not equals:
            raise ValueError("record")
        found[key.decode("utf-8", "surrogateescape")] = value.decode("utf-8", "surrogateescape")
        at += length
    return found


def members(feed: Feed) -> Iterator[Member]:
    """The entries in turn. Before the next is asked for, all of an entry's content must have been read, or
    none of it. Raises ArchiveError: damaged, cut, names that lead out of the archive, too many entries."""
    count = 0
    extra: dict[str, str] = {}
    general: dict[str, str] = {}
    long_name = long_link = ""
    while True:
        head = feed.some(BLOCK)
        while 0 < len(head) < BLOCK:
            more = feed.some(BLOCK - len(head))
            if not more:
                raise ArchiveError(feed.name, "ends too early", "it was cut, or is not an image archive")
            head += more
        if not head:
            if not count:
                raise ArchiveError(feed.name, "is empty")
            return  # without the blocks of zeros at the end, as some programs write it
        if not head.strip(b"\0"):
            return
        try:
            wanted = _number(head[148:156])
            size = _number(head[124:136])
        except ValueError:
            wanted = size = -1
        if size < 0 or sum(head[:148]) + 256 + sum(head[156:]) != wanted:
            why = "is damaged: a header's checksum is wrong" if count else "is not a tar archive"
            raise ArchiveError(feed.name, why)
        count += 1
        if count > ENTRIES_MAX:
            raise ArchiveError(feed.name, f"has more than {ENTRIES_MAX} entries")
        kind = head[156:157]
        if kind in (b"x", b"X", b"g", b"L", b"K"):
            if size > EXTRA_MAX:
                raise ArchiveError(feed.name, f"has a header of {size} bytes")
            data = feed.exact(size)
            feed.skip(-size % BLOCK)
            if kind == b"L":
                long_name = _text(data)
            elif kind == b"K":
                long_link = _text(data)
            else:
                try:
                    (general if kind == b"g" else extra).update(_pax(data))
                except ValueError:
                    raise ArchiveError(feed.name, "is damaged: a pax header cannot be read") from None
            continue
        records = {**general, **extra}
        name = _text(head[:100])
        if head[257:263] == b"ustar\0" and head[345:346] != b"\0":
            name = f"{_text(head[345:500])}/{name}"
        name = records.get("path") or long_name or name
        link = records.get("linkpath") or long_link or _text(head[157:257])
        extra, long_name, long_link = {}, "", ""
        if "size" in records:
            text = records["size"]
            if not (text.isascii() and text.isdigit()):
                raise ArchiveError(feed.name, f"has an entry of the size {shown(text)}")
            size = int(text)
        if kind == b"S" or any(key.startswith("GNU.sparse.") for key in records):
            raise ArchiveError(feed.name, f"has a sparse entry, which no image archive needs: {shown(name)}")
        if kind in (b"1", b"2", b"3", b"4", b"5", b"6"):
            size = 0
        start = feed.at
        yield Member(clean_name(name, feed.name), kind, size, link, start)
        if feed.at == start:
            feed.skip(size)
        feed.skip(-size % BLOCK)
