"""Writing image archives.

Both formats are an OCI layout in a tar, its blobs as the store has them; docker-archive has a manifest.json
beside, for Docker before 25, podman and skopeo. The same images give the same bytes: times are 0, owners
root, and what a reader needs first comes first, so that it need not go back.
"""

from __future__ import annotations

import os

from ..errors import ImageError, ImageNotFound, SpecError, StoreError
from . import digest as digests
from . import oci
from .archive_blobs import blob_name
from .assemble import as_oci, manifest_bytes
from .layer_write import compressor
from .progress import emit, short
from .reference import Reference, parse
from .tar_write import Entry, TarWriter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any, BinaryIO

    from .platform import Platform
    from .progress import Progress
    from .resolved import Resolved
    from .store import Store

__all__ = ["save"]

_CHUNK = 1 << 20
_CONTAINERD_NAME = "io.containerd.image.name"


class _Part:
    """A file of the archive: its bytes, or a blob of the store, perhaps to be unpacked on its way."""

    __slots__ = ("blob", "data", "size", "unpack")

    def __init__(self, data: bytes | None, blob: str = "", size: int = 0, unpack: str = "") -> None:
        self.data = data
        self.blob = blob
        self.size = len(data) if data is not None else size
        self.unpack = unpack


class _Archive:
    """What is to be written, gathered before anything is."""

    def __init__(self, store: Store, docker: bool) -> None:
        self.store = store
        self.docker = docker
        self.parts: dict[str, _Part] = {}
        self.manifests: list[dict[str, Any]] = []
        self.items: dict[str, dict[str, Any]] = {}

    def put(self, data: bytes) -> str:
        digest = digests.sha256(data)
        self.parts.setdefault(blob_name(digest), _Part(data))
        return digest

    def blob(self, each: oci.Descriptor, where: str) -> None:
        if not self.store.has_blob(each.digest, each.size):
            raise ImageNotFound(where, f"is here only in part: {each.digest} is missing", "pull it again")
        self.parts.setdefault(blob_name(each.digest), _Part(None, each.digest, each.size))

    def add(self, image: Resolved, name: str | None) -> None:
        where = name or image.id
        target = self._whole_index(image) or self._image(image, where)
        described = target.to_json()
        if name is not None:
            described["annotations"] = {oci.REF_NAME: name, _CONTAINERD_NAME: name}
        if described not in self.manifests:
            self.manifests.append(described)
        if self.docker:
            item = self.items[image.id]
            if name is not None and name not in item["RepoTags"]:
                item["RepoTags"].append(name)  # in full: podman takes a short one for its own

    def _whole_index(self, image: Resolved) -> oci.Descriptor | None:
        """The index an image came by, if everything below it is here (OCI only)."""
        if self.docker or image.target.media_type != oci.INDEX:
            return None
        found: list[oci.Descriptor] = []
        if not self._below(image.target, found, 0):
            return None
        for each in found:
            self.blob(each, image.target.digest)
        return oci.Descriptor(image.target.media_type, image.target.digest, image.target.size)

    def _below(self, each: oci.Descriptor, found: list[oci.Descriptor], depth: int) -> bool:
        if depth > 4 or not self.store.has_blob(each.digest, each.size):
            return False
        found.append(each)
        if each.is_index:
            index = oci.parse_index(self.store.read_blob(each.digest), each.media_type, each.digest)
            children = [oci.Descriptor.from_json(child) for child in index["manifests"]]
        elif each.media_type == oci.MANIFEST:
            manifest = oci.parse_manifest(self.store.read_blob(each.digest), each.media_type, each.digest)
            children = [oci.Descriptor.from_json(child) for child in (manifest["config"], *manifest["layers"])]
        else:
            return not each.is_manifest
        return all(self._below(child, found, depth + 1) for child in children)

    def _image(self, image: Resolved, where: str) -> oci.Descriptor:
        config = oci.Descriptor.from_json(image.manifest["config"])
        layers = list(image.layers)
        for layer in layers:
            if oci.is_foreign(layer.media_type):
                raise ImageError(where, f"has a layer whose content is kept elsewhere: {layer.digest}")
        # Docker before 23 cannot read zstd: those layers go into a docker-archive unpacked
        changed = False
        for i, layer in enumerate(layers):
            if self.docker and oci.COMPRESSION.get(layer.media_type) == "zstd":
                layers[i] = self._plain(layer, image.diff_ids[i])
                changed = True
        own = image.manifest_descriptor
        # a layout is OCI's: Docker's manifest becomes one, but stays as it is for Docker
        changed = changed or (not self.docker and own.media_type != oci.MANIFEST)
        if changed:
            config = as_oci(config)
            layers = [as_oci(each) for each in layers]
            data = manifest_bytes(config, layers, False, image.manifest.get("annotations"))
        else:
            data = self.store.read_blob(own.digest)
        target = oci.Descriptor(oci.MANIFEST if changed else own.media_type, self.put(data), len(data))
        self.blob(config, where)
        for layer in layers:
            if blob_name(layer.digest) not in self.parts:
                self.blob(layer, where)
        if self.docker:
            self.items.setdefault(
                image.id,
                {
                    "Config": blob_name(image.config_digest),
                    "RepoTags": [],
                    "Layers": [blob_name(layer.digest) for layer in layers],
                },
            )
        return target

    def _plain(self, layer: oci.Descriptor, diff_id: str) -> oci.Descriptor:
        name = blob_name(diff_id)
        if name not in self.parts:
            size = 0
            for piece in _unpacked(self.store, layer.digest):
                size += len(piece)
            self.parts[name] = _Part(None, layer.digest, size, unpack=diff_id)
        return oci.Descriptor(oci.LAYER, diff_id, self.parts[name].size)

    # ---- writing

    def write(self, out: TarWriter, progress: Progress | None) -> None:
        self._file(out, "oci-layout", _Part(b'{"imageLayoutVersion":"1.0.0"}'), None)
        index = oci.dump_json({"schemaVersion": 2, "mediaType": oci.INDEX, "manifests": self.manifests})
        self._file(out, "index.json", _Part(index), None)
        if self.docker:
            items = [{**item, "RepoTags": item["RepoTags"] or None} for item in self.items.values()]
            self._file(out, "manifest.json", _Part(oci.dump_json(items)), None)
        folders: list[str] = []
        for name in self.parts:
            folder = name.rpartition("/")[0]
            for each in ("blobs", folder):
                if each not in folders:
                    folders.append(each)
                    out.add(Entry(each.encode() + b"/", b"5", mode=0o755))
        small = [name for name, part in self.parts.items() if part.data is not None]
        for name in small + [name for name in self.parts if name not in small]:
            self._file(out, name, self.parts[name], progress)
        out.close()

    def _file(self, out: TarWriter, name: str, part: _Part, progress: Progress | None) -> None:
        if part.data is not None:
            out.add(Entry(name.encode(), mode=0o644), part.data)
            return
        out.start(Entry(name.encode(), mode=0o644, size=part.size))
        label, left = short(part.unpack or part.blob), part.size
        check = digests.hasher("sha256")
        for piece in _unpacked(self.store, part.blob) if part.unpack else _stored(self.store, part.blob):
            left -= len(piece)
            if left < 0:
                break
            check.update(piece)
            out.put(piece)
            emit(progress, "saving", label, part.size - left, part.size)
        if left or f"sha256:{check.hexdigest()}" != (part.unpack or part.blob):
            raise StoreError(part.blob, "is damaged in the store", "fastctr system fsck --repair, then pull it again")
        out.pad(part.size)


def _stored(store: Store, digest: str) -> Iterator[bytes]:
    with store.open_blob(digest) as file:
        while data := file.read(_CHUNK):
            yield data


def _unpacked(store: Store, digest: str) -> Iterator[bytes]:
    from .source import Source, inflated

    with Source(store.blob_path(digest)) as source:
        plain = inflated(source)
        while data := plain.read(_CHUNK):
            yield data


def save(
    store: Store,
    references: str | Reference | Sequence[str | Reference],
    target: str | int | os.PathLike[str] | BinaryIO,
    *,
    format: str = "docker",  # noqa: A002
    compression: str | None = None,
    level: int | None = None,
    platform: str | Platform | None = None,
    progress: Progress | None = None,
) -> int:
    """Write images into an archive; returns its bytes.

    references   names, name@digest or ids, one or many; an id brings no name along
    target       a path (it is there when it is whole, or not at all), "-" for standard output, a descriptor,
                 or a binary file object
    format       "docker": what docker load, podman load and skopeo docker-archive: read, and an OCI layout as
                 well; "oci": an OCI layout, skopeo's oci-archive:
    compression  of the whole: "gzip", "zstd", "xz", "bzip2"; by default none, since layers are packed already
    platform     of images that have several; by default this machine's. An OCI archive has all of them where
                 all are here
    Raises SpecError, ImageNotFound, ImageError, StoreError, and OSError from the target.
    """
    if format not in ("docker", "oci"):
        raise SpecError("format", format, "is not a format of archives", 'use "docker" or "oci"')
    if compression in ("", "none"):
        compression = None
    packer = None if compression is None else compressor(compression, level)
    wanted = [references] if isinstance(references, str | Reference) else list(references)
    if not wanted:
        raise SpecError("references", references, "names no image")
    with store.lease() as lease:
        archive = _Archive(store, format == "docker")
        for each in wanted:
            image = store.resolve(str(each), platform)
            lease.blob(*image.digests)
            archive.add(image, _name_of(store, str(each), image))
        with _Target(target) as out:
            return _write(archive, out.write, packer, progress)


def _name_of(store: Store, text: str, image: Resolved) -> str | None:
    """The name an image was asked for by; ids and digests are none."""
    try:
        reference = parse(text)
    except SpecError:
        return None
    if reference.digest is not None or str(reference) not in image.names:
        return None
    return str(reference)


def _write(archive: _Archive, write: Callable[[bytes], object], packer: Any, progress: Progress | None) -> int:
    count = 0

    def through(data: bytes) -> None:
        nonlocal count
        count += len(data)
        write(data)

    if packer is None:
        archive.write(TarWriter(through), progress)
        return count
    from .layer_write import Stage

    def pack(data: bytes) -> None:
        packed = packer.compress(data)
        if packed:
            through(packed)

    stage = Stage("fastctr-pack", pack)
    try:
        archive.write(TarWriter(stage.put), progress)
    finally:
        stage.join()
    if stage.error is not None:
        raise stage.error
    through(packer.flush())
    return count


class _Target:
    """Where an archive goes: a new file that gets its name when it is whole, or a stream."""

    def __init__(self, target: Any) -> None:
        self._target = target
        self._file: Any = None
        self._new = ""
        self._path = ""

    def __enter__(self) -> _Target:
        target = self._target
        if target == "-":
            target = 1
        if isinstance(target, int):
            self._file = open(target, "wb", buffering=0, closefd=False)
        elif isinstance(target, str | os.PathLike):
            path = os.fspath(target)
            if os.path.exists(path) and not os.path.isfile(path):
                self._file = open(path, "wb", buffering=0)  # a pipe, a device
            else:
                self._path = os.path.realpath(path)
                self._new = f"{self._path}.{os.getpid()}.part"
                self._file = open(self._new, "xb", buffering=0)
        return self

    def write(self, data: bytes) -> None:
        file = self._file if self._file is not None else self._target
        view = memoryview(data)
        while view:
            written = file.write(view)
            view = view[len(view) if written is None else written :]

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if self._file is not None:
            self._file.close()
        if self._new:
            if kind is None:
                os.rename(self._new, self._path)
            else:
                os.unlink(self._new)
