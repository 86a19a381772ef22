"""Archives that want out of their directory, or to take more than their share, or are damaged: refused, with the
entry's name, and nothing outside is touched."""

from __future__ import annotations

import gzip
import io
import os
import random
import stat

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import image_support
import unpack_support as u
from image_support import entry

pytestmark = pytest.mark.needs_root


def layer(*entries):
    return image_support.make_layer(list(entries), "none")


@pytest.fixture
def guarded(tmp_path):
    """A directory among others, and a check that those stay as they are."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/file").write_text("as it was")
    (tmp_path / "outside/file").chmod(0o600)
    (tmp_path / "in").mkdir()

    def look():
        found = u.describe(tmp_path)
        return {k: v for k, v in found.items() if k != "in" and not k.startswith("in/")}

    before = look()
    yield tmp_path / "in"
    assert u.differences(look(), before) == []


def refused(where, data, why, error="ArchiveError", **options):
    from fastctr import errors

    for mode in ("layer", "merge"):
        room = where / mode
        with pytest.raises(getattr(errors, error), match=why):
            u.unpack_to(room, data, mode=mode, **options)
        u.remove(room)


OUT = "../../outside"
NAMES = {
    "dots": ([entry("../x", "x")], r'"../x": the name leaves the root by ".."'),
    "dots inside": ([entry("a/../../outside/file", "x")], "leaves the root"),
    "absolute dots": ([entry("/../outside/file", "x")], "leaves the root"),
    "directory of dots": ([entry("a/../..", kind="dir")], "leaves the root"),
    "link parent": ([entry("l", kind="symlink", link=OUT), entry("l/file", "x")], '"l/file": a link on the way to it leaves the root'),
    "link parent, twice": ([entry("m", kind="symlink", link=".."), entry("l", kind="symlink", link="m/m"), entry("l/x", "x")], "leaves the root"),
    "link loop": ([entry("l", kind="symlink", link="l"), entry("l/x", "x")], "never end"),
    "link bomb": ([entry("a", kind="symlink", link="b/b/b/b/b/b/b/b/b/b"), entry("b", kind="symlink", link="a/a/a/a/a/a/a/a/a/a"), entry("a/x", "x")], "never end"),
    "hard link out": ([entry("h", kind="link", link=OUT + "/file")], '"h": the hard link\'s target leaves the root'),
    "hard link through a link": ([entry("l", kind="symlink", link=OUT), entry("h", kind="link", link="l/file")], "leaves the root"),
    "hard link to a directory": ([entry("d/"), entry("h", kind="link", link="d")], 'a hard link to the directory "d"'),
    "hard link to the top": ([entry("h", kind="link", link=".")], "a hard link to the root"),
    "hard link over its target's directory": ([entry("d/"), entry("d/f", "x"), entry("d", kind="link", link="d/f")], "in place of the directory"),
    "file as parent": ([entry("f", "x"), entry("f/x", "y")], '"f" is not a directory'),
    "the top a file": ([entry("./x/..", "data")], "the root can only be a directory"),
    "whiteout of dots": ([entry("d/"), entry("d/.wh...")], "a whiteout of nothing"),
    "whiteout of a dot": ([entry("d/.wh..")], "a whiteout of nothing"),
    "whiteout of nothing": ([entry(".wh.")], "a whiteout of nothing"),
    "whiteout through a link": ([entry("l", kind="symlink", link=OUT), entry("l/.wh.file")], "leaves the root"),
    "opaque through a link": ([entry("l", kind="symlink", link=OUT), entry("l/.wh..wh..opq")], "leaves the root"),
    "long component": ([entry("x" * 256, "x")], "the name is too long"),
    "long name": ([entry("x/" * 2100 + "y", "x")], "the name is too long"),
}  # fmt: skip


@pytest.mark.parametrize("case", NAMES)
def test_names(case, guarded):
    entries, why = NAMES[case]
    refused(guarded, layer(*entries), why)


def test_links_stay_inside(guarded):
    """An absolute link is the root's own business, and so is one that nobody goes through."""
    data = layer(entry("abs", kind="symlink", link="/outside"), entry("abs/file", "x"), entry("l", kind="symlink", link=OUT),
                 entry("l", "a file now"), entry("m", kind="symlink", link=OUT), entry("m/"), entry("m/file", "x"))  # fmt: skip
    for mode in ("layer", "merge"):
        u.unpack_to(guarded / mode, data, mode=mode)
        assert (guarded / mode / "outside/file").read_text() == "x"
        assert (guarded / mode / "l").read_text() == "a file now" and not (guarded / mode / "m").is_symlink()


def test_a_link_that_was_there(guarded):
    (guarded / "l").symlink_to("../outside")
    (guarded / "f").symlink_to("../outside/file")
    from fastctr import ArchiveError

    with pytest.raises(ArchiveError, match="leaves the root"):
        u.unpack_to(guarded, layer(entry("l/file", "x")), mode="merge")
    u.unpack_to(guarded, layer(entry("f", "x", mode=0o666), entry("l", kind="dir")), mode="merge")
    assert not (guarded / "f").is_symlink()
    (guarded / "l").rmdir()
    (guarded / "l").symlink_to("../outside")
    u.unpack_to(guarded, layer(entry(".wh.l"), entry(".wh..wh..opq")), mode="merge")
    assert os.listdir(guarded) == []


HEADERS = {
    "checksum": (u.header(b"x", checksum=1) + u.ENDS, "its checksum is wrong"),
    "no tar": (b"this is no archive, " * 100, "its checksum is wrong"),
    "size": (u.header(b"x", numbers={124: b"12345678 9z\0"}) + u.ENDS, '"x": its size is no number'),
    "negative size": (u.header(b"x", numbers={124: b"\xff" * 12}) + u.ENDS, "its size is no number"),
    "huge size": (u.header(b"x", numbers={124: b"\x80" + b"\x7f" * 11}) + u.ENDS, "its size is no number"),
    "uid": (u.header(b"x", numbers={108: b"\xff" * 8}) + u.ENDS, "its user id"),
    "uid of nobody at all": (u.pax([("uid", "4294967295")]) + u.file(b"x") + u.ENDS, "its uid in the extended header"),
    "device numbers": (u.header(b"x", kind=b"3", numbers={329: b"7777777\0"}) + u.ENDS, "a device's numbers"),
    "type": (u.header(b"x", kind=b"Z") + u.ENDS, 'of type "Z" is not understood'),
    "more volumes": (u.header(b"x", kind=b"M") + u.ENDS, 'of type "M" is not understood'),
    "no name": (u.header(b"") + u.ENDS, "an entry has no name"),
    "zero in a name": (u.pax([("path", b"a\0b")]) + u.file(b"x") + u.ENDS, "zero byte"),
    "link to nothing": (u.header(b"x", kind=b"2") + u.ENDS, "a symbolic link to nothing"),
    "pax without an end": (u.pax(b"30 path=abc\n") + u.file(b"x") + u.ENDS, "its extended header is damaged"),
    "pax without a length": (u.pax(b"path=abc\n") + u.file(b"x") + u.ENDS, "its extended header is damaged"),
    "pax with a long length": (u.pax(b"99999999999999999999 path=abc\n") + u.file(b"x") + u.ENDS, "is damaged"),
    "pax without a key": (u.pax(b"6 =ab\n") + u.file(b"x") + u.ENDS, "is damaged"),
    "pax size": (u.pax([("size", "12x")]) + u.file(b"x") + u.ENDS, "its size in the extended header"),
    "pax time": (u.pax([("mtime", "1e9")]) + u.file(b"x") + u.ENDS, "its mtime in the extended header is no time"),
    "pax too big": (u.header(b"p", 5 << 20, b"x") + bytes(5 << 20) + u.ENDS, "is too big"),
    "long name too big": (u.header(b"p", 1 << 30, b"L"), "is too big"),
    "global path": (u.pax([("path", "y")], b"g") + u.file(b"x") + u.ENDS, 'a global header sets "path"'),
    "charset": (u.pax([("hdrcharset", "KOI8")]) + u.file(b"x") + u.ENDS, "is not understood"),
    "attribute too big": (u.pax([("SCHILY.xattr.user.x", b"v" * 70000)]) + u.file(b"x") + u.ENDS, "is too big"),
    "attribute's base 64": (u.pax([("LIBARCHIVE.xattr.user.x", "!!")]) + u.file(b"x") + u.ENDS, "not base 64"),
    "capability": (u.pax([("SCHILY.xattr.security.capability", "x")]) + u.file(b"x") + u.ENDS, "security.capability"),
    "only an extended header": (u.pax([("path", "y")]) + u.ENDS, "cut off after an extended header"),
    "one block of zeros": (u.file(b"x") + bytes(512) + u.file(b"y") + u.ENDS, "an entry follows a block of zeros"),
    "something after the end": (u.file(b"x") + u.ENDS + b"\0" * 700 + b"hidden", "after the archive's end"),
    "an archive after the end": (u.file(b"x") + u.ENDS + u.file(b"y") + u.ENDS, "after the archive's end"),
    "no end": (u.file(b"x"), "its end mark is missing"),
    "half an end": (u.file(b"x") + bytes(512), "its end mark is missing"),
    "cut in a file": (u.header(b"x", 5000) + bytes(2000), '"x": the archive is cut off here'),
    "cut in a header": (u.file(b"x") + u.header(b"y")[:100], "cut off here"),
    "empty": (b"", "its end mark is missing"),
}  # fmt: skip


@pytest.mark.parametrize("case", HEADERS)
def test_damaged(case, guarded):
    data, why = HEADERS[case]
    refused(guarded, data, why)
    if case not in ("no end", "half an end", "empty"):
        refused(guarded, data, why, diff_id=image_support.sha256(data))
    else:  # whole by its digest: some writers forget the end
        u.unpack_to(guarded / "l", data, diff_id=image_support.sha256(data))


def sparse(*records, size=512):
    return u.pax([("GNU.sparse." + key, value) for key, value in records]) + u.header(b"s", size) + bytes(size) + u.ENDS


SPARSE = {
    "longer than the file": sparse(("map", "0,512"), ("size", "100")),
    "backwards": sparse(("map", "1000,256,0,256"), ("size", "5000")),
    "overlapping": sparse(("map", "0,500,499,12"), ("size", "5000")),
    "too little": sparse(("map", "0,100"), ("size", "5000")),
    "too much": sparse(("map", "0,600"), ("size", "5000")),
    "around the world": sparse(("map", f"{2**63 - 1},{2**63 - 1}"), ("size", "5000")),
    "odd": sparse(("map", "0,512,9"), ("size", "5000")),
    "no number": sparse(("map", "a,b"), ("size", "5000")),
    "no size": sparse(("map", "0,512")),
    "half a pair": sparse(("size", "512"), ("offset", "0")),
    "a length first": sparse(("size", "512"), ("numbytes", "512")),
    "version 7": sparse(("major", "7"), ("minor", "0"), ("realsize", "512")),
    "map cut short": sparse(("major", "1"), ("minor", "0"), ("realsize", "512"), size=0),
    "zeros as a map": sparse(("major", "1"), ("minor", "0"), ("realsize", "512")),
    "old, and new too": u.pax([("GNU.sparse.size", "9")]) + u.header(b"s", kind=b"S", numbers={483: b"00000000011\0"}) + u.ENDS,
    "old, no real size": u.header(b"s", kind=b"S", numbers={483: b"xx"}) + u.ENDS,
    "old, extended for ever": u.header(b"s", kind=b"S", numbers={483: b"00000000011\0", 482: b"\1"}) + (b"0" * 24 * 21 + b"\1" + bytes(7)) * 40,
}  # fmt: skip


@pytest.mark.parametrize("case", SPARSE)
def test_sparse_maps(case, guarded):
    refused(guarded, SPARSE[case], "sparse|real size|cut off")


def test_limits(guarded):
    from fastctr.image.unpack import Limits

    data = layer(entry("a", "x" * 600), entry("b", "x" * 600))
    refused(guarded, data, '"b": the archive\'s files are bigger than 1000 bytes; if', limits=Limits(size=1000))
    refused(guarded, data, '"b": the archive has more than 1 entries', limits=Limits(entries=1))
    bomb = gzip.compress(u.header(b"zeros", 64 << 20) + bytes(64 << 20) + u.ENDS)
    refused(guarded, bomb, r"grows from \d+ bytes to more than \d+", limits=Limits(ratio=100, floor=1 << 20))
    huge = u.pax([("GNU.sparse.map", "0,0"), ("GNU.sparse.size", str(1 << 62))]) + u.file(b"s") + u.ENDS
    refused(guarded, huge, '"s": the archive\'s files are bigger')
    refused(guarded, huge, '"s": setting its size to', limits=Limits(size=0))


def test_digest(guarded):
    data = layer(entry("a", "x"))
    refused(guarded, data, "unpacked it is sha256:.* and should be sha256:00", "DigestMismatch", diff_id="sha256:" + "0" * 64)
    assert u.unpack_to(guarded / "x", data, diff_id=image_support.sha256(data)).diff_id == image_support.sha256(data)


def test_packed_data_that_is_damaged(guarded):
    import zstandard

    data = layer(*(entry(f"f{n}", os.urandom(3000)) for n in range(50)))
    for pack in (lambda d: gzip.compress(d, 1), zstandard.ZstdCompressor(write_checksum=True).compress):
        packed = pack(data)
        refused(guarded, packed[:-3], "is cut off: the (gzip|zstd) data has no end")
        refused(guarded, packed[: len(packed) // 2], "is cut off: the (gzip|zstd)")
        refused(guarded, packed + b"junk", "is damaged|after its end")
        broken = bytearray(packed)
        broken[-6] ^= 0xFF
        refused(guarded, bytes(broken), "is damaged (gzip|zstd) data")


def test_the_first_error_is_the_one(guarded):
    data = u.file(b"../first", b"x") + os.urandom(1 << 20)
    packed = gzip.compress(data, 1)[:-40]  # cut off, too, but the entry came before
    refused(guarded, packed, '"../first": the name leaves')


def test_devices(guarded):
    data = layer(entry("null", kind="char", major=1, minor=3), entry("disk", kind="block", major=8, minor=1), entry("f", "x"))
    refused(guarded, data, '"null": a device, which may not be made here; unpack as root', devices="refuse")
    got = u.unpack_to(guarded / "s", data, devices="skip")
    assert got.skipped_devices == 2 and os.listdir(guarded / "s") == ["f"]
    got = u.unpack_to(guarded / "m", data, devices="make")
    assert stat.S_ISBLK(os.lstat(guarded / "m/disk").st_mode) and os.lstat(guarded / "m/disk").st_rdev == os.makedev(8, 1)


def test_a_full_disk(guarded, tmp_path):
    import subprocess

    from fastctr.errors import StoreError

    room = guarded / "small"
    room.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(room)], check=True)
    try:
        with pytest.raises(StoreError, match='"big": writing the file: No space left on device; make room'):
            u.unpack_to(room, layer(entry("big", b"x" * (1 << 20))))
    finally:
        subprocess.run(["umount", str(room)], check=True)


def test_deep_and_many(guarded):
    """Deep ones; more directories than descriptors are kept; and all of it removed again."""
    deep = "d/" * 600
    entries = [entry(deep + "f", "far")]
    entries += [entry(f"n{n}/m{m}/f{k}", "x") for k in range(2) for n in range(12) for m in range(12)]
    got = u.unpack_to(guarded / "deep", layer(*entries))
    assert got.files == 1 + 2 * 144
    from fastctr._core import remove_tree

    with u.opened(guarded) as fd:
        remove_tree(fd, "deep")
    assert os.listdir(guarded) == []


def test_replacing_deep_trees(guarded):
    entries = []
    for n in range(3):
        entries += [entry(f"top/a{n}/" + "d/" * 100 + f"f{k}", "x") for k in range(3)]
    u.unpack_to(guarded / "r", layer(*entries, entry("top", "flat")))
    assert (guarded / "r/top").read_text() == "flat"
    u.unpack_to(guarded / "m", layer(*entries), mode="merge")
    u.unpack_to(guarded / "m", layer(entry("top/a0/" + "d/" * 100 + "new", "n"), entry("top/.wh..wh..opq")), mode="merge")
    assert sum(len(files) for _, _, files in os.walk(guarded / "m")) == 1


# ---- fuzz

SEED = (
    layer(entry("d/", mode=0o700), entry("d/f", "text" * 300, xattrs={"user.a": b"1"}), entry("l", kind="symlink", link="d"),
          entry("l/g", "x"), entry("h", kind="link", link="d/f"), entry("d/.wh.x"), entry("e/.wh..wh..opq"),
          entry("x" * 150, "long"), entry("fifo", kind="fifo"))[:-9000]
    + u.pax([("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0"), ("GNU.sparse.realsize", "9000"), ("mtime", "5.5")])
    + u.header(b"sparse", 1024) + u.padded(b"1\n4096\n512\n") + bytes(512)
    + u.header(b"old", 512, kind=b"S", numbers={386: b"00000001000\0" + b"00000001000\0", 483: b"00000010000\0"}) + b"y" * 512
)  # fmt: skip


def mostly_ok(room, data, mode, chunk):
    """Unpacked or refused, in pieces of any size; nothing else."""
    from fastctr import _core

    os.makedirs(room, exist_ok=True)
    with u.opened(room) as fd:
        untar = _core.Untar(fd, mode, "skip", False, False, True, None, (), (), 1000, 1 << 22)
        try:
            for at in range(0, len(data), chunk):
                untar.feed(data[at : at + chunk])
            untar.finish()
        except _core.UntarFault as fault:
            assert fault.args[0] in ("bad", "limit", "system")
            assert fault.args[0] != "system" or fault.args[1] in (27, 36, 95, 28, 22, 75, 34), fault.args
        finally:
            untar.close()


@pytest.fixture
def room(guarded):
    return guarded


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(st.integers(0, len(SEED) - 1), st.integers(0, 255)), max_size=6), st.booleans(), st.booleans(),
       st.sampled_from([1 << 20, 512, 333]), st.integers(0, len(SEED)))  # fmt: skip
def test_fuzz(room, flips, mend, merge, chunk, cut):
    data = bytearray(SEED + u.ENDS)
    for at, value in flips:
        data[at] = value
    if mend:  # so that it gets past the checksums
        for at in range(0, len(data) - 511, 512):
            if data[at + 257 : at + 262] == b"ustar":
                data[at + 148 : at + 156] = b" " * 8
                data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])
    mostly_ok(room / "z", bytes(data[:cut] if cut % 7 == 0 else data), "merge" if merge else "layer", chunk)
    u.remove(room / "z")


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(st.sampled_from(["0", "0", "1", "2", "5", "3"]),
                          st.lists(st.sampled_from(["a", "b", "..", ".", "", ".wh.a", ".wh..wh..opq", "c"]), min_size=1, max_size=4),
                          st.sampled_from(["a", "..", "/", "../..", "a/b", "b", "/a", "c", "../outside/file", "."])), max_size=12),
       st.booleans())  # fmt: skip
def test_fuzz_names(room, entries, merge):
    data = b"".join(
        u.header("/".join(name).encode() or b"/", 3 if kind == "0" else 0, kind.encode(), link.encode())
        + (u.padded(b"xyz") if kind == "0" else b"")
        for kind, name, link in entries
    )
    for part in range(2):  # and over what the first made
        mostly_ok(room / "z", data + u.ENDS, "merge" if merge else "layer", 1 << 20)
        assert part < 2
    u.remove(room / "z")


def test_fuzz_packed(guarded):
    import zstandard

    from fastctr import errors
    from fastctr.image.compression import Decompressor

    rng = random.Random(5)
    plain = SEED * 20
    packed = {"gzip": gzip.compress(plain), "zstd": zstandard.ZstdCompressor(write_checksum=True).compress(plain) * 2}
    for kind, data in packed.items():
        for _ in range(300):
            broken = bytearray(data)
            for _ in range(rng.randrange(1, 5)):
                broken[rng.randrange(len(broken))] = rng.randrange(256)
            one = Decompressor(kind)
            try:
                out = io.BytesIO()
                for at in range(0, len(broken), 1000):
                    for piece in one.pieces(broken[at : at + 1000]):
                        assert len(piece) <= 1 << 18
                        out.write(piece)
                one.finish()
            except errors.ArchiveError:
                continue
