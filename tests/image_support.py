"""Images made by the tests themselves: layers from entries, an image of a busybox, layouts on disk."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import stat
import subprocess
import tarfile

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"

APPLETS = (
    "sh cat ls echo true false id env pwd sleep mkdir rm mv cp ln touch chmod chown stat head tail wc sort grep sed "
    "test mount umount ps kill tar find readlink dd df du expr hostname sync tr uname whoami date seq yes printf"
).split()


def sha256(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def entry(name, data=None, *, mode=None, kind=None, link="", uid=0, gid=0, mtime=1_700_000_000, xattrs=None,
          major=0, minor=0, pax=None):  # fmt: skip
    """One thing in a layer. A name ending in "/" is a directory, one with data a file; else kind says:
    "file", "dir", "symlink", "link" (hard), "char", "block", "fifo". xattrs: {name: bytes}."""
    info = tarfile.TarInfo(name.rstrip("/") or ".")
    kind = kind or ("dir" if name.endswith("/") else "file")
    info.type = {
        "file": tarfile.REGTYPE, "dir": tarfile.DIRTYPE, "symlink": tarfile.SYMTYPE, "link": tarfile.LNKTYPE,
        "char": tarfile.CHRTYPE, "block": tarfile.BLKTYPE, "fifo": tarfile.FIFOTYPE,
    }[kind]  # fmt: skip
    body = data.encode() if isinstance(data, str) else (data or b"")
    info.size = len(body) if kind == "file" else 0
    info.mode = mode if mode is not None else (0o755 if kind == "dir" else 0o777 if kind == "symlink" else 0o644)
    info.linkname = link
    info.uid, info.gid, info.mtime = uid, gid, mtime
    info.devmajor, info.devminor = major, minor
    info.pax_headers = dict(pax or {})
    for key, value in (xattrs or {}).items():
        info.pax_headers["SCHILY.xattr." + key] = value.decode("utf-8", "surrogateescape")
    return info, body


def make_layer(entries, compression="gzip", format=tarfile.PAX_FORMAT):  # noqa: A002
    """A layer's bytes. entries: what entry() returns, or {name: text} for plain files.
    compression: "gzip", "zstd", "none". The same entries give the same bytes."""
    if isinstance(entries, dict):
        entries = [entry(name, data) for name, data in entries.items()]
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format, errors="surrogateescape") as tar:
        for info, body in entries:
            tar.addfile(info, io.BytesIO(body))
    return compress(out.getvalue(), compression)


def compress(data, compression):
    if compression == "gzip":
        return gzip.compress(data, 1, mtime=0)
    if compression == "zstd":
        import zstandard

        return zstandard.ZstdCompressor(level=1).compress(data)
    return data


def decompress(data):
    if data[:2] == b"\x1f\x8b":
        return gzip.decompress(data)
    if data[:4] == b"\x28\xb5\x2f\xfd":
        import zstandard

        return zstandard.ZstdDecompressor().decompressobj().decompress(data)
    return data


def layer_type(data):
    return LAYER + ("+gzip" if data[:2] == b"\x1f\x8b" else "+zstd" if data[:4] == b"\x28\xb5\x2f\xfd" else "")


def machine():
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)


class Image:
    """What make_image() made: blobs {digest: bytes}, target (descriptor as a dict), config_digest (the
    image's id), layers [digest], diff_ids, manifest_bytes, config_bytes."""

    def __init__(self, layers, config=None, *, architecture=None, variant=None, history=True, docker=False,
                 created="2024-01-02T03:04:05Z", annotations=None):  # fmt: skip
        self.blobs = {}
        self.layers = [self._add(each) for each in layers]
        self.diff_ids = [sha256(decompress(each)) for each in layers]
        document = {
            "created": created, "architecture": architecture or machine(), "os": "linux",
            "config": dict(config or {}), "rootfs": {"type": "layers", "diff_ids": self.diff_ids},
        }  # fmt: skip
        if variant:
            document["variant"] = variant
        if history:
            document["history"] = [{"created": created, "created_by": f"layer {i}"} for i in range(len(layers))]
        self.config_bytes = json.dumps(document).encode()
        self.config_digest = self._add(self.config_bytes)
        kinds = (MANIFEST, CONFIG)
        if docker:
            kinds = ("application/vnd.docker.distribution.manifest.v2+json",
                     "application/vnd.docker.container.image.v1+json")  # fmt: skip
        manifest = {
            "schemaVersion": 2, "mediaType": kinds[0],
            "config": {"mediaType": kinds[1], "digest": self.config_digest, "size": len(self.config_bytes)},
            "layers": [
                {"mediaType": _docker_type(d) if docker else layer_type(d), "digest": sha256(d), "size": len(d)}
                for d in layers
            ],
        }  # fmt: skip
        if annotations:
            manifest["annotations"] = annotations
        self.manifest_bytes = json.dumps(manifest).encode()
        self.manifest_digest = self._add(self.manifest_bytes)
        self.target = {"mediaType": kinds[0], "digest": self.manifest_digest, "size": len(self.manifest_bytes)}
        self.platform = {"architecture": document["architecture"], "os": "linux"}
        if variant:
            self.platform["variant"] = variant

    def _add(self, data):
        digest = sha256(data)
        self.blobs[digest] = data
        return digest

    def put(self, where, name=None):
        """Into a fastctr Store (with its name set, None: nameless), or into a new OCI layout directory."""
        if not isinstance(where, str | os.PathLike):
            return put_in_store(where, self, name)
        write_layout(os.fspath(where), [(name, self)])
        return self


def _docker_type(data):
    kind = "application/vnd.docker.image.rootfs.diff.tar"
    return kind + {"+gzip": ".gzip", "+zstd": ".zstd", "": ""}[layer_type(data)[len(LAYER) :]]


class Index:
    """A multi-platform image of several Image objects. Same attributes as far as they make sense."""

    def __init__(self, images, docker=False, present=None):
        entries = [{**each.target, "platform": each.platform} for each in images]
        kind = "application/vnd.docker.distribution.manifest.list.v2+json" if docker else INDEX
        self.index_bytes = json.dumps({"schemaVersion": 2, "mediaType": kind, "manifests": entries}).encode()
        self.images = images
        self.blobs = {sha256(self.index_bytes): self.index_bytes}
        for each in images if present is None else present:
            self.blobs.update(each.blobs)
        self.target = {"mediaType": kind, "digest": sha256(self.index_bytes), "size": len(self.index_bytes)}

    put = Image.put


def make_image(where, layers, config=None, name=None, **more):
    """An image of these layers (bytes), put into a Store or an OCI layout directory; returns the Image."""
    return Image(layers, config, **more).put(where, name)


def put_in_store(store, image, name=None):
    from fastctr.image.oci import Descriptor

    for data in image.blobs.values():
        store.add_bytes(data)
    store.refs.set_all([(name, Descriptor.from_json(image.target))])
    return image


def write_layout(directory, named):
    """An OCI image layout with these (name or None, Image or Index)."""
    os.makedirs(f"{directory}/blobs/sha256", exist_ok=True)
    with open(f"{directory}/oci-layout", "w") as file:
        file.write('{"imageLayoutVersion":"1.0.0"}')
    entries = []
    for name, image in named:
        for digest, data in image.blobs.items():
            with open(f"{directory}/blobs/sha256/{digest[7:]}", "wb") as file:
                file.write(data)
        extra = {"annotations": {"org.opencontainers.image.ref.name": name}} if name else {}
        entries.append({**image.target, **extra})
    with open(f"{directory}/index.json", "w") as file:
        json.dump({"schemaVersion": 2, "manifests": entries}, file)


def busybox_path():
    """The static busybox of this machine, or None."""
    for path in ("/bin/busybox", "/usr/bin/busybox"):
        if os.path.exists(path):
            found = subprocess.run(["file", "-L", path], capture_output=True, text=True, check=False).stdout \
                if shutil.which("file") else "static"  # fmt: skip
            if "static" in found:
                return path
    return None


def busybox_entries():
    """A root file system of one busybox with its applets, /etc/passwd, /tmp and so on."""
    path = busybox_path()
    if path is None:
        import pytest

        pytest.skip("needs a static busybox: install the package busybox-static")
    with open(path, "rb") as file:
        program = file.read()
    found = [entry(d) for d in ("bin/", "dev/", "etc/", "proc/", "root/", "sys/", "usr/", "usr/bin/", "var/")]
    found.append(entry("tmp/", mode=0o1777))
    found.append(entry("bin/busybox", program, mode=0o755))
    found += [entry(f"bin/{name}", kind="symlink", link="busybox") for name in APPLETS]
    found.append(entry("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/tmp:/bin/sh\n"))
    found.append(entry("etc/group", "root:x:0:\nuser:x:1000:\nextra:x:2000:user\n"))
    return found


def busybox_image(where=None, name="busybox:latest", more=(), config=None, **options):
    """An image with a busybox in its first layer and `more` layers (bytes) above it. Put into `where`
    (Store or directory) if given."""
    base = {"Cmd": ["sh"], "Env": ["PATH=/bin:/usr/bin"]}
    image = Image([make_layer(busybox_entries()), *more], {**base, **(config or {})}, **options)
    return image.put(where, name) if where is not None else image


def tree(directory, content=True):
    """What is below a directory: {path: (kind, mode, uid, gid, mtime, size or rdev, link or content, xattrs)}."""
    found = {}
    for folder, folders, files in os.walk(directory):
        for name in [*folders, *files]:
            path = os.path.join(folder, name)
            info = os.lstat(path)
            kind = stat.S_IFMT(info.st_mode)
            body = None
            if stat.S_ISLNK(info.st_mode):
                body = os.readlink(path)
            elif stat.S_ISREG(info.st_mode) and content:
                with open(path, "rb") as file:
                    body = hashlib.sha256(file.read()).hexdigest()
            size = info.st_size if stat.S_ISREG(info.st_mode) else info.st_rdev
            xattrs = {n: os.getxattr(path, n, follow_symlinks=False)
                      for n in os.listxattr(path, follow_symlinks=False)}  # fmt: skip
            found[os.path.relpath(path, directory)] = (
                kind, stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid, info.st_mtime, size, body, xattrs,
            )  # fmt: skip
    return found


def extract(archive, directory):
    """All of a tar file we made, owners and devices included. Python has a filter for it from 3.11.4 on."""
    more = {"filter": "fully_trusted"} if hasattr(tarfile, "fully_trusted_filter") else {}
    with tarfile.open(**({"name": archive} if isinstance(archive, (str, os.PathLike)) else {"fileobj": archive})) as tar:
        tar.extractall(directory, **more)
