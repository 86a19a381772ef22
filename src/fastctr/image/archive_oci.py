"""oci-archive: an OCI image layout (image-layout.md), as a tar or a directory."""

from __future__ import annotations

from functools import partial

from ..errors import ArchiveError, ImageError, SpecError, shown
from . import archive_docker, oci
from .archive_blobs import Stored, blob_name
from .reference import parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .archive import Loaded
    from .archive_read import Bundle

__all__ = ["CONTAINERD_NAME", "load_layout"]

CONTAINERD_NAME = "io.containerd.image.name"
_DEPTH = 3


def load_layout(bundle: Bundle, loaded: Loaded) -> None:
    """All images of index.json; manifest.json beside it, as Docker writes it, may name them too."""
    layout = oci.load_json(bundle.read("oci-layout"), "oci-layout")
    version = layout.get("imageLayoutVersion")
    if not isinstance(version, str) or not version.startswith("1."):
        raise ArchiveError(bundle.name, f"is a layout of the version {shown(version)}", "version 1 can be read")
    more: dict[str, list[str]] = {}
    if bundle.has("manifest.json"):
        for item in archive_docker.items(bundle):
            digest = "sha256:" + item["Config"].rpartition("/")[2].removesuffix(".json")
            more.setdefault(digest, []).extend(archive_docker.tags(bundle, item))
    index = _shaped(bundle, bundle.read("index.json", oci.DOCUMENT_MAX), oci.INDEX, "index.json")
    targets: dict[str, tuple[oci.Descriptor, list[str]]] = {}
    for each in index["manifests"]:
        target = oci.Descriptor.from_json(each)
        if not (target.is_index or target.is_manifest):
            continue  # something else than an image
        names = targets.setdefault(target.digest, (target, []))[1]
        name = _name(bundle, target)
        if name is not None and name not in names:
            names.append(name)
    if not targets:
        raise ArchiveError(bundle.name, "index.json has no image")
    told = {name for _, names in targets.values() for name in names}
    for target, names in targets.values():
        configs = _take(bundle, loaded, target, 0)
        if not configs:
            raise ArchiveError(bundle.name, f"has no image of those {target.digest} names")
        for config in configs:
            names += [name for name in more.get(config, ()) if name not in told and name not in names]
        loaded.add(oci.Descriptor(target.media_type, target.digest, target.size), names)


def _name(bundle: Bundle, target: oci.Descriptor) -> str | None:
    """The full name by the annotations: containerd's, else the reference name if it is more than a tag."""
    given = target.annotations.get(CONTAINERD_NAME)
    if not given:
        given = target.annotations.get(oci.REF_NAME, "")
        if not any(c in given for c in ":/@"):
            return None
    try:
        reference = parse(given)
    except SpecError as error:
        raise ArchiveError(bundle.name, f"index.json names an image {shown(given)}, {error.problem}") from None
    return None if reference.digest is not None else str(reference)


def _shaped(bundle: Bundle, data: bytes, media_type: str, where: str) -> dict[str, Any]:
    try:
        if media_type in oci.INDEX_TYPES:
            return oci.parse_index(data, media_type, where)
        return oci.parse_manifest(data, media_type, where)
    except ImageError as error:
        raise ArchiveError(bundle.name, f"{error.where} {error.why}", error.hint) from None


def _take(bundle: Bundle, loaded: Loaded, target: oci.Descriptor, depth: int) -> list[str]:
    """Have everything below a descriptor in the store. Returns the digests of the configurations of images."""
    if depth > _DEPTH:
        raise ArchiveError(bundle.name, "has an index of indexes without end")
    limit = oci.DOCUMENT_MAX
    if target.size > limit:
        raise ArchiveError(bundle.name, f"{target.digest} has {target.size} bytes, more than the {limit} it may have")
    bundle.blob(target.digest, target.size)
    document = _shaped(bundle, bundle.store.read_blob(target.digest, limit), target.media_type, target.digest)
    found: list[str] = []
    if target.is_index:
        for each in document["manifests"]:
            child = oci.Descriptor.from_json(each)
            if not (child.is_index or child.is_manifest):
                continue
            # other platforms may have been left out, each of them whole
            if bundle.has(blob_name(child.digest)) or bundle.store.has_blob(child.digest, child.size):
                found += _take(bundle, loaded, child, depth + 1)
        return found
    config = oci.Descriptor.from_json(document["config"])
    bundle.blob(config.digest, config.size)
    layers = [oci.Descriptor.from_json(each) for each in document["layers"]]
    for layer in layers:
        if oci.is_foreign(layer.media_type):
            raise ArchiveError(bundle.name, f"{layer.digest} is a layer whose content is kept elsewhere")
    takes = [partial(_layer, bundle, each) for each in layers]
    if config.media_type not in oci.CONFIG_TYPES:  # something else than an image, as an attestation
        for take in takes:
            take()
        return found
    found.append(config.digest)
    try:
        read = oci.parse_config(bundle.store.read_blob(config.digest, oci.CONFIG_MAX), config.digest)
    except ImageError as error:
        raise ArchiveError(bundle.name, f"{error.where} {error.why}", error.hint) from None
    diff_ids = read["rootfs"]["diff_ids"]
    if len(diff_ids) != len(layers):
        raise ArchiveError(bundle.name, f"has {len(layers)} layers for {len(diff_ids)} diff_ids")
    loaded.layers(takes, diff_ids, read, check=False)
    return found


def _layer(bundle: Bundle, layer: oci.Descriptor) -> Stored:
    bundle.blob(layer.digest, layer.size)
    return Stored(layer.digest, layer.size, oci.COMPRESSION.get(layer.media_type, "none"), None)
