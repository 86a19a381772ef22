"""Unpacking what other programs pack, in every format they have, compared with the source and with umoci."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile

import pytest

import image_support
import unpack_support as u

pytestmark = pytest.mark.needs_root

GNU = ["tar", "--sort=name", "--numeric-owner", "-C"]
ALL = ["tar", "--xattrs", "--xattrs-include=*", "--sort=name", "--numeric-owner", "-C"]
WRITERS = {
    "gnu-gnu": [*GNU, "{tree}", "--format=gnu", "-cf", "-", "."],
    "gnu-pax": [*ALL, "{tree}", "--format=posix", "-cf", "-", "."],
    "gnu-gnu-sparse": [*GNU, "{tree}", "--format=gnu", "-S", "-cf", "-", "."],
    "gnu-sparse-0.0": [*ALL, "{tree}", "--format=posix", "-S", "--sparse-version=0.0", "-cf", "-", "."],
    "gnu-sparse-0.1": [*ALL, "{tree}", "--format=posix", "-S", "--sparse-version=0.1", "-cf", "-", "."],
    "gnu-sparse-1.0": [*ALL, "{tree}", "--format=posix", "-S", "--sparse-version=1.0", "-cf", "-", "."],
    "gnu-absolute": [*ALL, "/", "-P", "--transform=s,^{tree},,", "--format=posix", "-cf", "-", "{tree}"],
    "bsd-pax": ["bsdtar", "--format=pax", "--xattrs", "-cf", "-", "-C", "{tree}", "."],
    "bsd-gnutar": ["bsdtar", "--format=gnutar", "-cf", "-", "-C", "{tree}", "."],
}
EXACT = {"gnu-pax", "gnu-sparse-0.0", "gnu-sparse-0.1", "gnu-sparse-1.0", "gnu-absolute", "bsd-pax"}
SPARSE = {"gnu-gnu-sparse", "gnu-sparse-0.0", "gnu-sparse-0.1", "gnu-sparse-1.0", "bsd-pax"}


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    top = u.source_tree(tmp_path_factory.mktemp("source") / "tree")
    yield top


def pack(writer, tree):
    command = [each.replace("{tree}", str(tree)) for each in WRITERS[writer]]
    env = {**os.environ, "LC_ALL": "C.UTF-8"}
    done = subprocess.run(command, capture_output=True, check=False, env=env)
    assert done.stdout, done.stderr
    return done.stdout


@pytest.mark.parametrize("writer", WRITERS)
def test_what_tar_programs_write(writer, tree, tmp_path):
    if shutil.which(WRITERS[writer][0]) is None:
        pytest.skip(f"needs {WRITERS[writer][0]}: install libarchive-tools")
    data = pack(writer, tree)
    result = u.unpack_to(tmp_path / "out", data)
    ours, source = u.describe(tmp_path / "out"), u.describe(tree)
    assert result.missing_links == [] and result.implied_dirs == []
    if writer not in EXACT:  # whole seconds, no attributes
        for each in (*ours.values(), *source.values()):
            each["mtime"] //= 10**9
            each["xattrs"] = {}
    ignore = {("old", "mtime")} if writer == "bsd-gnutar" else ()  # it writes no times before 1970
    assert u.differences(ours, source, ignore) == []
    if writer in SPARSE:
        for name, most in (("holes", 100 << 10), ("hole", 8 << 10)):
            assert os.stat(tmp_path / "out" / name).st_blocks * 512 <= most
    assert result.files == len(source)


@pytest.mark.needs_peer("umoci")
@pytest.mark.parametrize("writer", ["gnu-gnu", "gnu-pax", "gnu-sparse-1.0", "bsd-pax", "bsd-gnutar"])
def test_as_umoci_does(writer, tree, tmp_path):
    if shutil.which(WRITERS[writer][0]) is None:
        pytest.skip(f"needs {WRITERS[writer][0]}: install libarchive-tools")
    data = pack(writer, tree)
    theirs = u.describe(u.umoci([image_support.compress(data, "gzip")], tmp_path))
    u.unpack_to(tmp_path / "layer", data)
    assert u.differences(u.describe(tmp_path / "layer"), theirs) == []
    u.unpack_to(tmp_path / "merge", data, mode="merge")
    assert u.differences(u.describe(tmp_path / "merge"), theirs) == []


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_python_tarfile(format, tmp_path, tree):  # noqa: A002
    import io

    out = io.BytesIO()
    skip = ("grün", "bytes", "tmp/long") if format == tarfile.USTAR_FORMAT else ("no such",)
    with tarfile.open(fileobj=out, mode="w", format=format, encoding="utf-8", errors="surrogateescape") as tar:
        for path in [tree, *sorted(tree.rglob("*"))]:
            name = str(path.relative_to(tree))
            if name.startswith(skip) or (format == tarfile.USTAR_FORMAT and (len(name) > 200 or name in ("near", "old"))):
                continue
            tar.add(path, name, recursive=False)
    u.unpack_to(tmp_path / "out", out.getvalue())
    ours, source = u.describe(tmp_path / "out"), u.describe(tree)
    for each in (*ours.values(), *source.values()):
        each["xattrs"] = {}
        each["mtime"] = each["mtime"] // 10**9 if format != tarfile.PAX_FORMAT else each["mtime"] // 1000
        if format == tarfile.USTAR_FORMAT:
            each["also"] = None
    lines = [line for line in u.differences(ours, source) if not line.startswith("missing") or format != 0]
    if format == tarfile.PAX_FORMAT:  # it keeps times as floating point numbers
        lines = [line for line in lines if ": mtime is" not in line]
    assert lines == []


def test_packed_in_all_ways(tree, tmp_path):
    import bz2
    import gzip
    import lzma

    import zstandard

    data = pack("gnu-pax", tree)
    half = len(data) // 2 + 77
    ways = {
        "gzip": gzip.compress(data, 1),
        "gzip of two members, and zeros": gzip.compress(data[:half]) + gzip.compress(data[half:]) + bytes(512),
        "zstd": zstandard.ZstdCompressor().compress(data),
        "zstd of frames": b"\x50\x2a\x4d\x18\x03\0\0\0abc"
        + zstandard.ZstdCompressor(write_checksum=True).compress(data[:half])
        + b"\x5f\x2a\x4d\x18\0\0\0\0"
        + zstandard.ZstdCompressor(write_content_size=False).compress(data[half:]),
        "bzip2": bz2.compress(data[:half]) + bz2.compress(data[half:]),
        "xz": lzma.compress(data),
    }
    wanted = None
    for n, packed in enumerate(ways.values()):
        result = u.unpack_to(tmp_path / str(n), packed)
        assert result.diff_id == image_support.sha256(data)
        wanted = wanted or u.describe(tmp_path / str(n))
        assert u.describe(tmp_path / str(n)) == wanted
        u.remove(tmp_path / str(n))


def test_times_and_numbers(tmp_path):
    entries = [
        u.pax([("mtime", "-1.25"), ("atime", "12.000000001")]) + u.file(b"before"),
        u.pax([("mtime", "1.9999999999")]) + u.file(b"cut"),
        u.header(b"negative", numbers={136: b"\xff" * 11 + b"\xfe"}),
        u.header(b"base256", numbers={108: b"\x80" + (3_000_000_000).to_bytes(7, "big"), 124: b"\x80" + bytes(11)}),
        u.header(b"spaces", numbers={100: b"   644 \0", 108: b"        ", 136: b"        17 \0"[:12]}),
        u.pax([("uid", "4000000000"), ("gid", "70000"), ("comment", "no matter"), ("VENDOR.x", "y")]) + u.file(b"ids"),
        u.pax([("uid", "")]) + u.file(b"taken back", uid=5),
        u.header(b"signed sum \xff", checksum=None),
    ]
    u.unpack_to(tmp_path / "o", b"".join(entries) + u.ENDS)
    at = {name: os.stat(tmp_path / "o" / name) for name in os.listdir(tmp_path / "o")}
    assert at["before"].st_mtime_ns == -1_250_000_000 and at["before"].st_atime_ns == 12_000_000_001
    assert at["cut"].st_mtime_ns == 1_999_999_999
    assert at["negative"].st_mtime == -2
    assert at["base256"].st_uid == 3_000_000_000
    assert (at["spaces"].st_uid, at["spaces"].st_mtime) == (0, 15)
    assert (at["ids"].st_uid, at["ids"].st_gid) == (4_000_000_000, 70_000)
    assert at["taken back"].st_uid == 5


def test_old_and_odd_headers(tmp_path):
    plain = [
        u.file(b"v7/", kind=b"\0", magic=b""),
        u.file(b"v7/file", b"seven", kind=b"\0", magic=b""),
        u.header(b"slash/", 5) + u.padded(b"gone!"),  # a directory, and its content nobody wants
        u.file(b"contiguous", b"c", kind=b"7"),
        u.file(b"deep", b"d", prefix=b"a/b"),
        u.header(b"a volume", kind=b"V"),
        u.header(b"dump/", 3, kind=b"D") + u.padded(b"Yx\0"),
        u.header(b"link with size", 700, kind=b"2", link=b"deep"),
        u.pax([("comment", "of all")], b"g") + u.pax([("mtime", "99")], b"g") + u.file(b"global"),
        u.pax([("mtime", "98"), ("path", "renamed"), ("hdrcharset", "BINARY")]) + u.file(b"was"),
        u.header(b"././@LongLink", 301, kind=b"L", magic=b"ustar  \0") + u.padded(b"l/" * 100 + b"x" * 100 + b"\0")
        + u.file(b"cut", b"long", magic=b"ustar  \0"),
        u.header(b"././@LongLink", 151, kind=b"K", magic=b"ustar  \0") + u.padded(b"t" * 150 + b"\0")
        + u.header(b"to far", kind=b"2", link=b"t" * 99, magic=b"ustar  \0"),
        u.file(b"./x//y/./z/../w", b"clean"),
    ]
    result = u.unpack_to(tmp_path / "o", b"".join(plain) + u.ENDS)
    out = tmp_path / "o"
    assert (out / "v7/file").read_text() == "seven" and (out / "slash").is_dir() and (out / "dump").is_dir()
    assert (out / "contiguous").read_text() == "c" and (out / "a/b/deep").read_text() == "d"
    assert os.readlink(out / "link with size") == "deep" and os.readlink(out / "to far") == "t" * 150
    assert os.stat(out / "global").st_mtime == 99 and os.stat(out / "renamed").st_mtime == 98
    assert (out / ("l/" * 100 + "x" * 100)).read_text() == "long" and (out / "x/y/w").read_text() == "clean"
    assert not (out / "was").exists() and b"a/b" in result.implied_dirs and b"" in result.implied_dirs


@pytest.mark.parametrize("size", [1, 511, 513, 65537])
def test_any_chunking(size, tree, tmp_path):
    from fastctr import _core

    data = pack("gnu-sparse-1.0", tree)
    if size < 100:
        data = u.file(b"small", b"x" * 700) + u.pax([("path", "p/" * 300)]) + u.file(b"q", b"y") + u.ENDS
        (tmp_path / "o").mkdir()
    os.makedirs(tmp_path / "o", exist_ok=True)
    u.unpack_to(tmp_path / "whole", data)
    with u.opened(tmp_path / "o") as fd:
        untar = _core.Untar(fd, "layer", "make", False, False, True, None, (), (), 0, 0)
        for at in range(0, len(data), size):
            untar.feed(data[at : at + size])
        untar.finish()
        untar.close()
    assert u.differences(u.describe(tmp_path / "o"), u.describe(tmp_path / "whole")) == []


def test_umask_does_not_matter(tree, tmp_path):
    data = pack("gnu-pax", tree)
    before = os.umask(0o077)
    try:
        u.unpack_to(tmp_path / "o", data)
        assert os.umask(0o077) == 0o077  # nor is it changed
    finally:
        os.umask(before)
    assert u.differences(u.describe(tmp_path / "o"), u.describe(tree)) == []
