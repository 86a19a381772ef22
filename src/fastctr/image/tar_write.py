"""Writing tar: ustar headers, with pax records (POSIX.1-2001, pax(1)) for what does not fit in them.

The same entries always give the same bytes. Names are bytes throughout, relative, directories with a
slash at the end. Nothing here touches the file system.
"""

from __future__ import annotations

import stat

from ..errors import ImageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    Write = Callable[[bytes], object]

__all__ = ["BLOCK", "ZEROS", "Entry", "TarWriter", "header", "pax_records"]

BLOCK = 512
ZEROS = bytes(1 << 18)
_FLUSH = 1 << 18
_OCTAL_7 = 0o7777777
_OCTAL_11 = 0o77777777777


def header(
    name: bytes, mode: int, uid: int, gid: int, size: int, mtime: int, kind: bytes, link: bytes, major: int, minor: int
) -> bytes:
    """One ustar header block. Every value must fit its field (name and link: 100 bytes)."""
    device = b"%07o\0%07o\0" % (major, minor) if kind in (b"3", b"4") else b"\0" * 16
    text = (
        name.ljust(100, b"\0")
        + b"%07o\0%07o\0%07o\0%011o\0%011o\0        " % (mode, uid, gid, size, mtime)
        + kind
        + link.ljust(100, b"\0")
        + b"ustar\00000"
        + b"\0" * 64
        + device
    )
    return text[:148] + b"%06o\0 " % sum(text) + text[156:] + b"\0" * (BLOCK - len(text))


def _record(key: bytes, value: bytes) -> bytes:
    rest = len(key) + len(value) + 3  # the blank, "=" and the line's end
    length = rest + len(str(rest))
    while rest + len(str(length)) != length:
        length = rest + len(str(length))
    return b"%d %s=%s\n" % (length, key, value)


def pax_records(records: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The body of a pax header."""
    return b"".join([_record(key, value) for key, value in records])


def pax_time(nanoseconds: int) -> bytes:
    """Nanoseconds since the epoch as pax writes times: a decimal fraction of seconds."""
    sign = b"-" if nanoseconds < 0 else b""
    seconds, rest = divmod(abs(nanoseconds), 1_000_000_000)
    return sign + b"%d" % seconds + (b".%09d" % rest).rstrip(b"0").rstrip(b".")


class Entry:
    """One entry's metadata. mode: the permission bits; mtime in nanoseconds; kind: tar's type flag."""

    __slots__ = ("gid", "kind", "link", "major", "minor", "mode", "mtime", "name", "size", "uid", "xattrs")

    def __init__(
        self,
        name: bytes,
        kind: bytes = b"0",
        *,
        mode: int = 0o644,
        uid: int = 0,
        gid: int = 0,
        size: int = 0,
        mtime: int = 0,
        link: bytes = b"",
        major: int = 0,
        minor: int = 0,
        xattrs: Iterable[tuple[bytes, bytes]] = (),
    ) -> None:
        self.name = name
        self.kind = kind
        self.mode = mode & 0o7777
        self.uid = uid
        self.gid = gid
        self.size = size
        self.mtime = mtime
        self.link = link
        self.major = major
        self.minor = minor
        self.xattrs = xattrs

    def encode(self) -> bytes:
        """The header blocks: a pax header first where one is needed, then the entry's own."""
        records: list[tuple[bytes, bytes]] = []
        name, link, uid, gid, size = self.name, self.link, self.uid, self.gid, self.size
        if len(name) > 100:
            records.append((b"path", name))
            name = name[:100]
        if len(link) > 100:
            records.append((b"linkpath", link))
            link = link[:100]
        if uid > _OCTAL_7:
            records.append((b"uid", b"%d" % uid))
            uid = 0
        if gid > _OCTAL_7:
            records.append((b"gid", b"%d" % gid))
            gid = 0
        if size > _OCTAL_11:
            records.append((b"size", b"%d" % size))
            size = 0
        mtime, part = divmod(self.mtime, 1_000_000_000)
        if part or not 0 <= mtime <= _OCTAL_11:
            records.append((b"mtime", pax_time(self.mtime)))
            mtime = min(max(mtime, 0), _OCTAL_11)
        for key, value in self.xattrs:
            if b"=" in key:
                raise ImageError(shown_name(self.name), f"its attribute {key!r} has a name no archive can hold")
            records.append((b"SCHILY.xattr." + key, value))
        own = header(name, self.mode, uid, gid, size, mtime, self.kind, link, self.major, self.minor)
        if not records:
            return own
        body = pax_records(records)
        base = self.name.rstrip(b"/").rpartition(b"/")[2][:80]
        pax = header(b"PaxHeaders.0/" + base, 0o644, 0, 0, len(body), 0, b"x", b"", 0, 0)
        return pax + body + ZEROS[: -len(body) % BLOCK] + own


def shown_name(name: bytes) -> str:
    """The name for a message."""
    return "/" + name.decode("utf-8", "backslashreplace").lstrip("/")


class TarWriter:
    """A tar stream into `write`, called with pieces of about 256 KiB. size: bytes so far; entries: how many."""

    __slots__ = ("_held", "_pieces", "_write", "entries", "size")

    def __init__(self, write: Write) -> None:
        self._write = write
        self._pieces: list[bytes] = []
        self._held = 0
        self.size = 0
        self.entries = 0

    def put(self, data: bytes) -> None:
        """Raw bytes of the stream."""
        self._pieces.append(data)
        self._held += len(data)
        if self._held >= _FLUSH:
            self.flush()

    def flush(self) -> None:
        if not self._held:
            return
        pieces, held = self._pieces, self._held
        self._pieces = []
        self._held = 0
        self.size += held
        self._write(b"".join(pieces) if len(pieces) > 1 else pieces[0])

    def add(self, entry: Entry, data: bytes = b"") -> None:
        """An entry whose content, if any, is at hand; entry.size is taken from it."""
        entry.size = len(data)
        self.start(entry)
        if data:
            self.put(data)
            self.pad(len(data))

    def start(self, entry: Entry) -> None:
        """An entry's headers; entry.size bytes and pad(entry.size) must follow."""
        self.put(entry.encode())
        self.entries += 1

    def zeros(self, count: int) -> None:
        while count > 0:
            piece = ZEROS if count >= len(ZEROS) else ZEROS[:count]
            self.put(piece)
            count -= len(piece)

    def pad(self, size: int) -> None:
        """Fill up to the block after `size` bytes of content."""
        rest = -size % BLOCK
        if rest:
            self.put(ZEROS[:rest])

    def close(self) -> None:
        """The two empty blocks an archive ends with."""
        self.put(ZEROS[: 2 * BLOCK])
        self.flush()


def kind_of(mode: int) -> bytes | None:
    """tar's type flag for st_mode; None for a socket, which no archive holds."""
    kind = stat.S_IFMT(mode)
    return {
        stat.S_IFREG: b"0",
        stat.S_IFDIR: b"5",
        stat.S_IFLNK: b"2",
        stat.S_IFCHR: b"3",
        stat.S_IFBLK: b"4",
        stat.S_IFIFO: b"6",
    }.get(kind)
