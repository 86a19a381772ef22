"""Image archives for the benchmarks, by tarfile: layers; from them a layout, an oci-archive, a docker-archive."""
from __future__ import annotations

import hashlib
import io
import json
import os
import stat
import tarfile
import zlib
from collections.abc import Iterable, Sequence
from typing import Any, BinaryIO

LEVEL = 6           # gzip's own default, and Docker's
BLOCK = 1 << 20
OCI = "application/vnd.oci.image"
TAG = "bench"       # in the OCI layout
NAME = "fctr-bench:latest"
CREATED = "2024-01-01T00:00:00Z"
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class _Packer(io.RawIOBase):
    """What tarfile writes a layer to: the tar as it is and packed, both with their digests."""

    def __init__(self, plain: BinaryIO, packed: BinaryIO) -> None:
        self.plain, self.packed = plain, packed
        self.diff_id, self.digest = hashlib.sha256(), hashlib.sha256()
        self.size = self.packed_size = 0
        self._deflate = zlib.compressobj(LEVEL, zlib.DEFLATED, 31)

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.plain.write(data)
        self.diff_id.update(data)
        self.size += len(data)
        self._out(self._deflate.compress(data))
        return len(data)

    def _out(self, data: bytes) -> None:
        self.packed.write(data)
        self.digest.update(data)
        self.packed_size += len(data)

    def end(self) -> None:
        self._out(self._deflate.flush())


def _info(archive: tarfile.TarFile, tree: str, name: str) -> tarfile.TarInfo:
    info = archive.gettarinfo(os.path.join(tree, name), name)
    info.uname = info.gname = ""
    info.mtime = int(info.mtime)    # pax records for fractions of seconds are not what images have
    return info


def write_layer(folder: str, number: int, tree: str, names: Iterable[str], gone: Sequence[str] = ()) -> dict[str, Any]:
    """A layer of the entries NAMES of TREE (relative, parents first) and whiteouts for GONE, as
    FOLDER/layer-N.tar and .tar.gz. Returns its digests, sizes and number of entries."""
    path = os.path.join(folder, f"layer-{number}.tar")
    entries = 0
    with open(path, "wb") as plain, open(f"{path}.gz", "wb") as packed:
        out = _Packer(plain, packed)
        with tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT, bufsize=BLOCK) as archive:
            for name in names:
                mode = os.lstat(os.path.join(tree, name)).st_mode
                if stat.S_ISSOCK(mode):
                    continue
                info = _info(archive, tree, name)
                entries += 1
                if info.isreg():
                    with open(os.path.join(tree, name), "rb") as file:
                        archive.addfile(info, file)
                else:
                    archive.addfile(info)
            for name in gone:
                info = tarfile.TarInfo(os.path.join(os.path.dirname(name), ".wh." + os.path.basename(name)))
                archive.addfile(info)
                entries += 1
        out.end()
    return {"path": path, "diff_id": f"sha256:{out.diff_id.hexdigest()}", "size": out.size,
            "digest": f"sha256:{out.digest.hexdigest()}", "packed": out.packed_size, "entries": entries}


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def machine_architecture() -> str:
    """This machine's, in the images' word for it."""
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)


def _blob(layout: str, data: bytes) -> str:
    digest = _digest(data)
    with open(os.path.join(layout, "blobs/sha256", digest[7:]), "wb") as file:
        file.write(data)
    return digest


def write_image(folder: str, layers: Sequence[dict[str, Any]]) -> str:
    """FOLDER/oci (a layout), oci.tar and docker.tar of these layers; their files are moved into the layout
    or removed. Returns the image's id."""
    layout = os.path.join(folder, "oci")
    os.makedirs(os.path.join(layout, "blobs/sha256"))
    config = _json({
        "created": CREATED, "architecture": machine_architecture(), "os": "linux",
        "config": {"Env": [PATH], "Cmd": ["/bin/true"], "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": [layer["diff_id"] for layer in layers]},
        "history": [{"created": CREATED, "created_by": f"layer {number}"} for number in range(len(layers))],
    })
    image = _blob(layout, config)
    for layer in layers:
        os.replace(layer["path"] + ".gz", os.path.join(layout, "blobs/sha256", layer["digest"][7:]))
    manifest = _json({
        "schemaVersion": 2, "mediaType": f"{OCI}.manifest.v1+json",
        "config": {"mediaType": f"{OCI}.config.v1+json", "digest": image, "size": len(config)},
        "layers": [{"mediaType": f"{OCI}.layer.v1.tar+gzip", "digest": layer["digest"], "size": layer["packed"]}
                   for layer in layers],
    })
    target = _blob(layout, manifest)
    with open(os.path.join(layout, "oci-layout"), "wb") as file:
        file.write(_json({"imageLayoutVersion": "1.0.0"}))
    with open(os.path.join(layout, "index.json"), "wb") as file:
        file.write(_json({"schemaVersion": 2, "manifests": [{
            "mediaType": f"{OCI}.manifest.v1+json", "digest": target, "size": len(manifest),
            "annotations": {"org.opencontainers.image.ref.name": TAG}}]}))
    with tarfile.open(os.path.join(folder, "oci.tar"), "w") as archive:
        for name in sorted(os.listdir(layout)):
            archive.add(os.path.join(layout, name), name, filter=_plain)
    _docker_archive(os.path.join(folder, "docker.tar"), image, config, layers)
    for layer in layers:
        os.unlink(layer["path"])
    return image


def _plain(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    return info


def _docker_archive(path: str, image: str, config: bytes, layers: Sequence[dict[str, Any]]) -> None:
    """As `docker save` writes it: layers not packed."""
    names = [f"{layer['diff_id'][7:]}.tar" for layer in layers]
    with tarfile.open(path, "w") as archive:
        def add(name: str, data: bytes) -> None:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))

        for name, layer in zip(names, layers, strict=True):
            archive.add(layer["path"], name, filter=_plain)
        add(f"{image[7:]}.json", config)
        add("manifest.json", _json([{"Config": f"{image[7:]}.json", "RepoTags": [NAME], "Layers": names}]))
