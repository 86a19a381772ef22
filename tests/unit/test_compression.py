"""Reading what layers are packed with: kinds, members and frames, pieces of bounded size, damage."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import random
import sys

import pytest

zstandard = pytest.importorskip("zstandard")

from fastctr.errors import ArchiveError  # noqa: E402
from fastctr.image import compression as c  # noqa: E402

TEXT = b"".join(b"line %d of a text that packs well\n" % n for n in range(20_000)) + os.urandom(100_000)
ZSTD = zstandard.ZstdCompressor
PACK = {
    "gzip": lambda d: gzip.compress(d, 6),
    "zstd": lambda d: ZSTD(write_checksum=True).compress(d),
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "none": lambda d: d,
}


@pytest.mark.parametrize("kind", PACK)
def test_kinds(kind):
    data = PACK[kind](TEXT)
    assert c.detect(data[:6]) == kind
    for size in (1 << 20, 4096, 777):
        one, out = c.Decompressor(kind), []
        for at in range(0, len(data), size):
            for piece in one.pieces(data[at : at + size]):
                assert 0 < len(piece) <= max(c.PIECE, size)
                out.append(piece)
        assert one.finish() == b"" and b"".join(out) == TEXT


def test_byte_by_byte():
    for kind in PACK:
        data = PACK[kind](TEXT[:3000]) * (1 if kind == "none" else 2)
        one = c.Decompressor(kind)
        out = b"".join(one.feed(data[at : at + 1]) for at in range(len(data)))
        one.finish()
        assert out == TEXT[:3000] * (1 if kind == "none" else 2)


@pytest.mark.parametrize("kind", ["gzip", "zstd", "bzip2", "xz"])
def test_many_members(kind):
    data = b"".join(PACK[kind](b"%d\n" % n) for n in range(500))
    want = b"".join(b"%d\n" % n for n in range(500))
    for size in (1 << 20, 1000, 61):
        one = c.Decompressor(kind)
        assert b"".join(one.feed(data[at : at + size]) for at in range(0, len(data), size)) == want
        one.finish()


def test_zstd_frames_of_all_forms():
    rng, parts, want = random.Random(3), [], []
    for n in range(60):
        plain = rng.choice([b"", b"x" * 500_000, os.urandom(1000), TEXT[:200_000]])
        parts.append(ZSTD(level=1 + n % 5, write_checksum=n % 2 == 0, write_content_size=n % 3 == 0).compress(plain))
        want.append(plain)
        if n % 4 == 0:
            parts.append(bytes([0x50 + n % 16]) + b"\x2a\x4d\x18" + (n * 100).to_bytes(4, "little") + os.urandom(n * 100))
    data = b"".join(parts)
    for size in (1 << 20, 5000, 333):
        one = c.Decompressor("zstd")
        out = [piece for at in range(0, len(data), size) for piece in one.pieces(data[at : at + size])]
        assert b"".join(out) == b"".join(want) and max(map(len, out)) <= c.PIECE
        one.finish()


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_bombs_come_in_pieces(kind):
    data = PACK[kind](bytes(200 << 20))
    one, count = c.Decompressor(kind), 0
    for piece in one.pieces(data):
        assert len(piece) <= c.PIECE
        count += len(piece)
        if count > 50 << 20:
            break


@pytest.mark.parametrize("kind", ["gzip", "zstd", "bzip2", "xz"])
def test_damage(kind):
    data = PACK[kind](TEXT)
    for cut in (10, len(data) // 2, len(data) - 1):
        one = c.Decompressor(kind, "the file")
        one.feed(data[:cut])
        with pytest.raises(ArchiveError, match=f"^the file: is cut off: the {kind} data has no end"):
            one.finish()
    for bad in (data[:2000] + b"\xff" * 200 + data[2200:], data + b"\x01 something else"):
        one = c.Decompressor(kind, "the file")
        with pytest.raises(ArchiveError, match=r"^the file: (is damaged|has something that is no)"):
            one.feed(bad)
            one.finish()


def test_zeros_after_the_end():
    one = c.Decompressor("gzip")
    assert one.feed(gzip.compress(b"x") + bytes(100)) == b"x" and one.feed(bytes(3)) == b""
    one.finish()
    with pytest.raises(ArchiveError, match="after its end"):
        one.feed(b"x")


def test_reader(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(PACK["gzip"](TEXT))
    for what in (str(path), path, io.BytesIO(path.read_bytes())):
        with c.open_decompressed(what) as reader:
            assert reader.kind == "gzip"
            buffer = bytearray(1000)
            assert reader.read(10) == TEXT[:10] and reader.readinto(buffer) == 1000 and buffer == TEXT[10:1010]
            assert reader.read() == TEXT[1010:] and reader.read(5) == b"" and reader.readinto(buffer) == 0
            assert (reader.consumed, reader.produced) == (path.stat().st_size, len(TEXT))
    fd = os.open(path, os.O_RDONLY)
    with c.open_decompressed(fd) as reader:
        assert reader.read() == TEXT
    os.close(fd)  # it was left open
    with c.open_decompressed(io.BytesIO(b"ab")) as reader:
        assert reader.kind == "none" and reader.read() == b"ab"
    with pytest.raises(OSError):
        c.open_decompressed(str(tmp_path / "none"))


def test_without_isal(monkeypatch):
    monkeypatch.setitem(sys.modules, "isal", None)
    data = gzip.compress(TEXT) + gzip.compress(b"more")
    one = c.Decompressor("gzip")
    assert isinstance(one._inner._one, c._Zlib)
    assert b"".join(one.feed(data[at : at + 5000]) for at in range(0, len(data), 5000)) == TEXT + b"more"
    one.finish()
    with pytest.raises(ArchiveError, match="is damaged gzip data"):
        c.Decompressor("gzip").feed(data[:100] + b"\xff" * 5000)
