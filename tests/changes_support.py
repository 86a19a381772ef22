"""Trees with everything a file system can hold, described so that two can be compared; overlays by mount(8)."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import socket
import stat
import struct
import subprocess
from pathlib import Path

import pytest

CAP_NET_RAW_V2 = struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0)


def describe(root, *, times=True, links=True):
    """{path: facts} of everything below a directory: kind, mode, owner, size, time, device, link, attributes,
    content, and which names are one inode."""
    found, inodes = {}, {}
    for folder, dirs, files in os.walk(root):
        for name in sorted(dirs + files):
            path = os.path.join(folder, name)
            info = os.lstat(path)
            facts = [stat.S_IFMT(info.st_mode), oct(info.st_mode & 0o7777), info.st_uid, info.st_gid]
            if times:
                facts.append(info.st_mtime_ns)
            if stat.S_ISREG(info.st_mode):
                with open(path, "rb") as file:
                    facts += [info.st_size, hashlib.sha256(file.read()).hexdigest()]
            elif stat.S_ISLNK(info.st_mode):
                facts.append(os.readlink(path))
            elif stat.S_ISCHR(info.st_mode) or stat.S_ISBLK(info.st_mode):
                facts.append(info.st_rdev)
            names = [n for n in os.listxattr(path, follow_symlinks=False) if not n.startswith("security.selinux")]
            facts.append({n: os.getxattr(path, n, follow_symlinks=False) for n in sorted(names)})
            below = os.path.relpath(path, root)
            if links and not stat.S_ISDIR(info.st_mode):
                facts.append(inodes.setdefault(info.st_ino, below))
            found[below] = tuple(facts)
    return found


def differences(one, other):
    """Lines about what differs between two describe()s."""
    return [f"{p}: {one.get(p)} != {other.get(p)}" for p in sorted({*one, *other}) if one.get(p) != other.get(p)]


def make_odd_tree(root):
    """Long names, links, devices, attributes, holes, odd owners and times. Needs root."""
    os.makedirs(root, exist_ok=True)

    def path(name):
        return os.path.join(root, name)

    def put(name, data=b"x"):
        with open(path(name), "wb") as file:
            file.write(data)

    os.makedirs(path("dir/deep/er"))
    put("empty", b"")
    put("dir/file", b"content\n" * 100)
    put("dir/" + "n" * 99)
    put("dir/" + "m" * 101)
    put("dir/" + "l" * 255)
    deep = "dir/deep/" + "/".join(["d" * 60] * 5)
    os.makedirs(path(deep))
    put(deep + "/leaf")
    put("umlaut-\xe4\xf6\xfc-\u65e5\u672c")
    os.close(os.open(os.fsencode(path("bytes-")) + b"\xff\xfe", os.O_CREAT | os.O_WRONLY, 0o640))
    put(" leading and trailing ")
    put("new\nline")
    put("-dash")
    put("setuid")
    os.chmod(path("setuid"), 0o6755)
    os.mkdir(path("sticky"))
    os.chmod(path("sticky"), 0o1777)
    put("nothing-allowed")
    os.chmod(path("nothing-allowed"), 0)
    os.symlink("dir/file", path("link"))
    os.symlink("/absolute/" + "s" * 150, path("long-link"))
    os.symlink("../../../outside", path("dir/up"))
    put("one", b"same inode")
    os.link(path("one"), path("dir/two"))
    os.link(path("one"), path("three-" + "t" * 120))
    os.symlink("x", path("sym1"))
    os.link(path("sym1"), path("sym2"), follow_symlinks=False)
    os.mkfifo(path("fifo"), 0o620)
    os.mknod(path("char"), 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    os.mknod(path("block"), 0o660 | stat.S_IFBLK, os.makedev(7, 300))
    with socket.socket(socket.AF_UNIX) as sock, contextlib.chdir(root):
        sock.bind("socket")
    put("owned")
    os.chown(path("owned"), 1000, 2000)
    put("big-owner")
    os.chown(path("big-owner"), 3_000_000_000, 4_000_000_000)
    os.lchown(path("link"), 12, 34)
    put("capable")
    os.setxattr(path("capable"), "security.capability", CAP_NET_RAW_V2)
    put("attributes")
    os.setxattr(path("attributes"), "user.plain", b"value")
    os.setxattr(path("attributes"), "user.binary", bytes(range(256)) + b"\n=\n")
    os.setxattr(path("attributes"), "user.empty", b"")
    os.setxattr(path("dir"), "user.dir", b"d")
    os.setxattr(path("link"), "trusted.on-link", b"l", follow_symlinks=False)
    with open(path("sparse"), "wb") as file:
        file.seek(3 << 20)
        file.write(b"in the middle")
        file.seek(2 << 20, 1)
        file.write(b"end")
        file.truncate(9 << 20)
    with open(path("all-hole"), "wb") as file:
        file.truncate(1 << 20)
    put("exactly-512", b"5" * 512)
    put("one-more-513", b"5" * 513)
    for name, when in (("empty", 0), ("one", 1_600_000_000_123_456_789), ("owned", 253402300799 * 10**9),
                       ("capable", -1_500_000_000), ("dir/deep", 1_234_567_890_000_000_001), ("fifo", 5 * 10**8)):  # fmt: skip
        os.utime(path(name), ns=(when, when))
    os.utime(path("link"), ns=(7, 1_111_111_111_222_222_222), follow_symlinks=False)
    os.utime(path("dir"), ns=(8, 999_999_999_999_999_999))
    return root


@contextlib.contextmanager
def overlay(lowers, upper, target):
    """An overlay mounted by mount(8); lowers topmost first."""
    work = f"{upper}.work"
    for each in (upper, work, target):
        os.makedirs(each, exist_ok=True)
    options = f"lowerdir={':'.join(map(str, lowers))},upperdir={upper},workdir={work}"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, str(target)], check=True)
    try:
        yield str(target)
    finally:
        subprocess.run(["umount", str(target)], check=True)
        shutil.rmtree(work, ignore_errors=True)


def private(*argv, hide=("/run", "/var/lib/containers", "/etc/cni/net.d"), **options):
    """Run a command in a mount namespace of its own, with empty folders over places it would write to."""
    script = "mount --make-rprivate / && for p in " + " ".join(hide)
    script += '; do if [ -d "$p" ]; then mount -t tmpfs none "$p" || exit 97; fi; done; exec "$@"'
    full = ["unshare", "-m", "sh", "-c", script, "sh", *map(str, argv)]
    done = subprocess.run(full, capture_output=True, check=False, timeout=60, **options)
    assert done.returncode == 0, f"{' '.join(map(str, argv))}: {done.stderr.decode(errors='replace')[-1500:]}"
    return done.stdout


SCHEMAS = Path(os.environ.get("FASTCTR_OCI_SCHEMAS") or Path(__file__).resolve().parents[2] / "shared/reference/oci-image")


def _without_ids(value):
    """The schemas refer to each other by file name, and their ids say something else."""
    if isinstance(value, dict):
        return {k: _without_ids(v) for k, v in value.items() if not (k == "id" and isinstance(v, str))}
    return [_without_ids(v) for v in value] if isinstance(value, list) else value


def check_schema(name, data):
    """By the OCI image specification's schema of that name, where the schemas and a validator are."""
    if not SCHEMAS.is_dir():
        return
    jsonschema, referencing = pytest.importorskip("jsonschema"), pytest.importorskip("referencing")
    from referencing.jsonschema import DRAFT4

    documents = {path.name: _without_ids(json.loads(path.read_text())) for path in SCHEMAS.glob("*.json")}
    registry = referencing.Registry().with_resources(
        (file, referencing.Resource(contents=document, specification=DRAFT4)) for file, document in documents.items()
    )
    jsonschema.Draft4Validator(documents[name], registry=registry).validate(json.loads(data))


def valid(store, image):
    """A sound store, and the image's documents by their schemas."""
    assert store.fsck() == []
    check_schema("image-manifest-schema.json", store.read_blob(image.manifest_descriptor.digest))
    check_schema("config-schema.json", store.read_blob(image.config_digest))
    check_schema("image-index-schema.json", Path(store.root, "index.json").read_text())
    check_schema("image-layout-schema.json", Path(store.root, "oci-layout").read_text())
