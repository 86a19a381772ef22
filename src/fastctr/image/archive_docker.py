"""docker-archive: what `docker save` writes. manifest.json names configuration and layers of each image; before
Docker 1.10 there was only "repositories", and a folder with "json" and "layer.tar" for each layer.
"""

from __future__ import annotations

from functools import partial

from ..errors import ArchiveError, DigestMismatch, ImageError, SpecError, shown
from . import digest as digests
from . import oci
from .archive_blobs import Stored, diff_id_of
from .assemble import manifest_bytes
from .layer_write import layer_type
from .reference import parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .archive import Loaded
    from .archive_read import Bundle

__all__ = ["load_legacy", "load_manifest", "tags"]

_IMAGES_MAX = 4096


def _json(bundle: Bundle, name: str) -> Any:
    import json

    try:
        return json.loads(bundle.read(name, oci.DOCUMENT_MAX).decode())
    except (ValueError, RecursionError) as error:
        raise ArchiveError(bundle.name, f"{name} is not a JSON document: {error}") from None


def tags(bundle: Bundle, item: dict[str, Any]) -> list[str]:
    """The full names an item of manifest.json gives its image. Raises ArchiveError."""
    found = item.get("RepoTags") or []
    if not isinstance(found, list) or not all(isinstance(t, str) for t in found):
        raise ArchiveError(bundle.name, f"manifest.json has RepoTags that are no names: {shown(found)}")
    try:
        return [str(parse(each)) for each in found]
    except SpecError as error:
        raise ArchiveError(bundle.name, f"manifest.json names an image {shown(error.value)}, {error.problem}") from None


def items(bundle: Bundle) -> list[dict[str, Any]]:
    """manifest.json, checked for its shape."""
    found = _json(bundle, "manifest.json")
    if not isinstance(found, list) or not 0 < len(found) <= _IMAGES_MAX:
        raise ArchiveError(bundle.name, "manifest.json is not a list of images")
    for item in found:
        layers = item.get("Layers") if isinstance(item, dict) else None
        if layers is None and isinstance(item, dict):
            layers = item["Layers"] = []
        if not isinstance(item, dict) or not isinstance(item.get("Config"), str):
            raise ArchiveError(bundle.name, "manifest.json has an image without a configuration")
        if not isinstance(layers, list) or not all(isinstance(name, str) for name in layers):
            raise ArchiveError(bundle.name, "manifest.json has an image without a list of layers")
    return found


def load_manifest(bundle: Bundle, loaded: Loaded) -> None:
    """All images of manifest.json."""
    for item in items(bundle):
        data = bundle.read(item["Config"], oci.CONFIG_MAX)
        _check_name(bundle, item["Config"], data)
        try:
            config = oci.parse_config(data, item["Config"])
        except ImageError as error:
            raise ArchiveError(bundle.name, f"{shown(error.where)} {error.why}") from None
        diff_ids = config["rootfs"]["diff_ids"]
        if len(diff_ids) != len(item["Layers"]):
            raise ArchiveError(
                bundle.name,
                f"has {len(item['Layers'])} layers for {len(diff_ids)} diff_ids of {item['Config']}",
            )
        takes = [partial(bundle.layer, name, diff_id) for name, diff_id in zip(item["Layers"], diff_ids)]
        stored = loaded.layers(takes, diff_ids, config, check=True)
        _finish(bundle, loaded, data, stored, tags(bundle, item))


def _check_name(bundle: Bundle, name: str, data: bytes) -> None:
    """A configuration that is named by its digest must have it."""
    last = name.rpartition("/")[2].removesuffix(".json").removeprefix("sha256:")
    if len(last) == 64 and digests.HEX.issuperset(last) and digests.sha256(data) != "sha256:" + last:
        raise DigestMismatch(
            "sha256:" + last, f"the configuration in {bundle.name} has the digest {digests.sha256(data)}"
        )


def _finish(bundle: Bundle, loaded: Loaded, config: bytes, layers: list[Stored], names: list[str]) -> None:
    store = bundle.store
    own = oci.Descriptor(oci.CONFIG, store.add_bytes(config), len(config))
    described = [oci.Descriptor(layer_type(each.kind), each.digest, each.size) for each in layers]
    document = manifest_bytes(own, described, False)
    loaded.add(oci.Descriptor(oci.MANIFEST, store.add_bytes(document), len(document)), names)


# ---- before Docker 1.10


def load_legacy(bundle: Bundle, loaded: Loaded) -> None:
    """All images of "repositories"."""
    found = _json(bundle, "repositories")
    if not isinstance(found, dict) or not found:
        raise ArchiveError(bundle.name, "repositories names no image")
    wanted: dict[str, list[str]] = {}
    for repository, its_tags in found.items():
        if not isinstance(its_tags, dict):
            raise ArchiveError(bundle.name, f"repositories has no tags for {shown(repository)}")
        for tag, top in its_tags.items():
            wanted.setdefault(_legacy_id(bundle, top), []).extend(tags(bundle, {"RepoTags": [f"{repository}:{tag}"]}))
    layers: dict[str, Stored] = {}
    for top, names in wanted.items():
        _legacy_image(bundle, loaded, top, names, layers)


def _legacy_id(bundle: Bundle, value: object) -> str:
    if not isinstance(value, str) or len(value) != 64 or not digests.HEX.issuperset(value):
        raise ArchiveError(bundle.name, f"names a layer {shown(value)}, which is not an id")
    return value


def _legacy_image(bundle: Bundle, loaded: Loaded, top: str, names: list[str], layers: dict[str, Stored]) -> None:
    chain: list[dict[str, Any]] = []
    ids: list[str] = []
    at: str | None = top
    while at is not None:
        if at in ids or len(ids) > 1024:
            raise ArchiveError(bundle.name, f"the layers of {shown(top)} have no end")
        document = _json(bundle, f"{at}/json")
        if not isinstance(document, dict):
            raise ArchiveError(bundle.name, f"{at}/json is not an object")
        ids.append(at)
        chain.append(document)
        parent = document.get("parent")
        at = _legacy_id(bundle, parent) if parent else None
    ids.reverse()
    chain.reverse()
    found = []
    for each in ids:
        if each not in layers:
            layers[each] = _legacy_layer(bundle, f"{each}/layer.tar")
        found.append(layers[each])
    diff_ids = [diff_id_of(bundle.store, each) for each in found]
    history = []
    for document in chain:
        made: dict[str, Any] = {}
        for key in ("created", "author", "comment"):
            if isinstance(document.get(key), str) and document[key]:
                made[key] = document[key]
        command = (document.get("container_config") or {}).get("Cmd")
        if isinstance(command, list) and all(isinstance(word, str) for word in command):
            made["created_by"] = " ".join(command)
        history.append(made)
    left_out = ("id", "parent", "Size", "parent_id", "layer_id", "throwaway")
    config = {key: value for key, value in chain[-1].items() if key not in left_out}
    config.setdefault("os", "linux")
    config.setdefault("architecture", "amd64")
    config["rootfs"] = {"type": "layers", "diff_ids": diff_ids}
    config["history"] = history
    data = oci.dump_json(config)
    try:
        oci.parse_config(data, f"{top}/json")
    except ImageError as error:
        raise ArchiveError(bundle.name, f"{shown(error.where)} {error.why}") from None
    _finish(bundle, loaded, data, found, names)


def _legacy_layer(bundle: Bundle, name: str) -> Stored:
    if not bundle.has(name):
        raise ArchiveError(bundle.name, f"{shown(name)} is not in it", "it is incomplete")
    return bundle.store_layer(bundle.real(name), None)
