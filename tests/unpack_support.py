"""For the tests of unpacking: what a tree is, what umoci makes of the same layers, overlays of layers."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
import subprocess
import tarfile
from pathlib import Path

import image_support

DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
ENDS = bytes(1024)


def describe(top, *, times=True, top_too=True):
    """{path: what it is}: type, mode, owner, mtime in ns, size or device, content's hash or link's text,
    attributes, and which other names it has."""
    found, names = {}, {}
    paths = [top] if top_too else []
    for folder, folders, files in os.walk(top):
        paths += [os.path.join(folder, name) for name in [*folders, *files]]
    for path in paths:
        info = os.lstat(path)
        name = os.path.relpath(path, top)
        kind = stat.S_IFMT(info.st_mode)
        body = None
        if stat.S_ISLNK(info.st_mode):
            body = os.readlink(path)
        elif stat.S_ISREG(info.st_mode):
            with open(path, "rb") as file:
                body = hashlib.file_digest(file, "sha256").hexdigest()
        size = info.st_size if stat.S_ISREG(info.st_mode) else info.st_rdev
        xattrs = {n: os.getxattr(path, n, follow_symlinks=False) for n in os.listxattr(path, follow_symlinks=False)}
        if not stat.S_ISDIR(info.st_mode) and info.st_nlink > 1:
            names.setdefault(info.st_ino, []).append(name)
        found[name] = {
            "kind": kind, "mode": None if stat.S_ISLNK(info.st_mode) else oct(stat.S_IMODE(info.st_mode)),
            "owner": (info.st_uid, info.st_gid), "mtime": info.st_mtime_ns if times else None, "size": size,
            "body": body, "xattrs": xattrs, "ino": info.st_ino, "also": None,
        }  # fmt: skip
    for each in found.values():
        each["also"] = sorted(names.get(each["ino"], ()))
        del each["ino"]
    return found


def differences(ours, theirs, ignore=()):
    """Lines that say what differs between two descriptions; ignore: (path, field) pairs."""
    lines = [f"only ours: {name!r}" for name in sorted(ours.keys() - theirs.keys())]
    lines += [f"missing: {name!r}" for name in sorted(theirs.keys() - ours.keys())]
    for name in sorted(ours.keys() & theirs.keys()):
        for field, value in ours[name].items():
            if value != theirs[name][field] and (name, field) not in ignore:
                lines.append(f"{name!r}: {field} is {value!r}, theirs {theirs[name][field]!r}")
    return lines


def umoci(layers, where):
    """The tree that `umoci unpack` makes of these layers (bytes)."""
    layout, bundle = where / "layout", where / "bundle"
    image_support.make_image(layout, layers, name="x")
    subprocess.run(["umoci", "unpack", "--image", f"{layout}:x", str(bundle)], check=True, capture_output=True)
    return bundle / "rootfs"


@contextlib.contextmanager
def opened(path):
    fd = os.open(path, DIR)
    try:
        yield fd
    finally:
        os.close(fd)


def unpack_to(path, data, **options):
    """unpack() of bytes or a file into a directory, made if need be."""
    from fastctr.image.unpack import unpack

    os.makedirs(path, exist_ok=True)
    with opened(path) as fd:
        if isinstance(data, bytes):
            import io

            return unpack(io.BytesIO(data), fd, where="test", **options)
        return unpack(data, fd, **options)


def merged(layers, where, **options):
    """Layers unpacked over each other."""
    where.mkdir(exist_ok=True)
    for data in layers:
        unpack_to(where, data, mode="merge", **options)
    return where


def stack(layers, where, settled=True, **options):
    """Each layer in a directory of its own, settled upon those below; topmost first."""
    from fastctr.image.settle import settle

    made = []
    for n, data in enumerate(layers):
        path = where / f"layer{n}"
        result = unpack_to(path, data, **options)
        if settled:
            with opened(path) as fd:
                settle(fd, result, [str(each) for each in made], userxattr=options.get("userxattr", False))
        made.insert(0, path)
    return made


@contextlib.contextmanager
def overlay(layers, where):
    """A read-only overlay of layer directories, topmost first."""
    where.mkdir()
    if len(layers) == 1:
        empty = where.with_name(where.name + "-empty")
        empty.mkdir()
        layers = [*layers, empty]
    subprocess.run(
        ["mount", "-t", "overlay", "overlay", "-o", "lowerdir=" + ":".join(map(str, layers)), str(where)], check=True
    )
    try:
        yield where
    finally:
        subprocess.run(["umount", str(where)], check=True)


# ---- archives by hand, where no writer would make them


def header(name=b"", size=0, kind=b"0", link=b"", mode=0o644, magic=b"ustar\x0000", uid=0, gid=0, mtime=1, prefix=b"",
           numbers=None, checksum=None, extra=None):  # fmt: skip
    """One header block. numbers: {offset: raw bytes}, set before the checksum; extra the same, for other fields."""
    block = bytearray(512)
    block[0 : len(name[:100])] = name[:100]
    for at, width, value in ((100, 8, mode), (108, 8, uid), (116, 8, gid), (124, 12, size), (136, 12, mtime)):
        block[at : at + width] = b"%0*o\0" % (width - 1, value)
    block[156:157] = kind
    block[157 : 157 + len(link[:100])] = link[:100]
    block[257 : 257 + len(magic)] = magic
    block[345 : 345 + len(prefix)] = prefix
    for at, raw in {**(numbers or {}), **(extra or {})}.items():
        block[at : at + len(raw)] = raw
    block[148:156] = b" " * 8
    total = sum(block) if checksum is None else checksum
    block[148:156] = b"%06o\0 " % total
    return bytes(block)


def padded(data):
    return data + bytes(-len(data) % 512)


def pax_record(key, value):
    key, value = (each.encode() if isinstance(each, str) else each for each in (key, value))
    body = b" " + key + b"=" + value + b"\n"
    size = len(body) + 1
    while len(str(size)) + len(body) != size:
        size = len(str(size)) + len(body)
    return str(size).encode() + body


def pax(records, kind=b"x"):
    """An extended header and its records: pairs, or raw bytes."""
    data = records if isinstance(records, bytes) else b"".join(pax_record(*each) for each in records)
    return header(b"PaxHeaders/x", len(data), kind) + padded(data)


def file(name, data=b"", **options):
    return header(name, len(data), **options) + padded(data)


def source_tree(top: Path):
    """Files of all kinds, for tar programs to pack."""
    top.mkdir()
    (top / "bin").mkdir(mode=0o755)
    (top / "bin/tool").write_bytes(os.urandom(70_000))
    (top / "bin/tool").chmod(0o4755)
    (top / "bin/shared").write_text("two names")
    os.link(top / "bin/shared", top / "bin/again")
    (top / "empty").write_bytes(b"")
    (top / "secret").write_text("x")
    (top / "secret").chmod(0o600)
    (top / "sgid").mkdir()
    (top / "sgid").chmod(0o2775)
    (top / "sgid/inner").mkdir()
    (top / "sgid/file").write_text("of the group root")
    (top / "tmp").mkdir()
    (top / "tmp").chmod(0o1777)
    (top / "closed").mkdir()
    (top / "closed/below").write_text("b")
    (top / "closed").chmod(0o500)
    os.symlink("../bin/tool", top / "tmp/relative")
    os.symlink("/nowhere/at/all", top / "tmp/absolute")
    os.symlink("x" * 200, top / "tmp/long")
    os.mkfifo(top / "pipe", 0o640)
    os.mknod(top / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(top / "disk", stat.S_IFBLK | 0o660, os.makedev(259, 70000))
    long = top / ("d" * 90) / ("e" * 90) / ("f" * 90)
    long.mkdir(parents=True)
    (long / ("g" * 200)).write_text("far down")
    os.link(long / ("g" * 200), top / "near")
    (top / "grün und  ⚙\n").write_text("names")
    (top / os.fsdecode(b"bytes\xff\xfe")).write_text("not utf-8")
    with open(top / "holes", "wb") as out:
        out.truncate(5 << 20)
        for at in (0, 1 << 20, (3 << 20) + 4096):
            out.seek(at)
            out.write(b"data" * 2000)
    with open(top / "hole", "wb") as out:
        out.truncate(1 << 20)
    (top / "old").write_text("1960")
    for n, path in enumerate(sorted(top.rglob("*"))):
        os.chown(path, 1000 + n % 3 if n % 2 else 0, 100 if n % 3 == 0 else 0, follow_symlinks=False)
    (top / "bin/tool").chmod(0o4755)
    (top / "sgid").chmod(0o2775)
    os.setxattr(top / "bin/shared", "user.note", b"with \0 zero\nand lines=")
    os.setxattr(top / "bin", "user.dir", b"1")
    os.setxattr(top / "empty", "trusted.mine", b"2")
    os.setxattr(top / "bin/tool", "security.capability", bytes.fromhex("0100000200200000000000000000000000000000"))
    for n, path in enumerate(sorted(top.rglob("*"), reverse=True)):
        when = 1_600_000_000_123_456_789 + n * 1_000_000_007
        os.utime(path, ns=(when, when), follow_symlinks=False)
    os.utime(top / "old", (-300_000_000, -300_000_000))
    os.utime(top, ns=(1_500_000_000_000_000_000,) * 2)
    return top


def members(data):
    import io

    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return tar.getmembers()


def remove(path):
    shutil.rmtree(path, ignore_errors=True)
