"""The documents of an image: descriptors, indexes, manifests, configurations (OCI image spec 1.1, Docker v2.2).

Everything that comes from outside is checked for shape and size here, once, so that whoever uses a parsed
document need not.
"""

from __future__ import annotations

import sys

from ..errors import ImageError, ImageNotFound, shown
from . import digest as digests
from .platform import Platform as Platform
from .platform import host_platform as host_platform

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
LAYER_GZIP = LAYER + "+gzip"
LAYER_ZSTD = LAYER + "+zstd"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_LAYER_GZIP = DOCKER_LAYER + ".gzip"
DOCKER_LAYER_ZSTD = DOCKER_LAYER + ".zstd"
SCHEMA1 = (
    "application/vnd.docker.distribution.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
)

INDEX_TYPES = (INDEX, DOCKER_INDEX)
MANIFEST_TYPES = (MANIFEST, DOCKER_MANIFEST)
CONFIG_TYPES = (CONFIG, DOCKER_CONFIG)
ACCEPT = (MANIFEST, DOCKER_MANIFEST, INDEX, DOCKER_INDEX)
"""What to ask a registry for."""
COMPRESSION = {
    LAYER: "none",
    LAYER_GZIP: "gzip",
    LAYER_ZSTD: "zstd",
    DOCKER_LAYER: "none",
    DOCKER_LAYER_GZIP: "gzip",
    DOCKER_LAYER_ZSTD: "zstd",
}
"""Layers' media types, and what they are packed with."""
REF_NAME = "org.opencontainers.image.ref.name"
"""The annotation that names an image in a layout's index.json."""

DOCUMENT_MAX = 4 << 20
"""Bytes of an index or manifest, as registries allow."""
CONFIG_MAX = 8 << 20
LAYERS_MAX = 4096


def is_foreign(media_type: str) -> bool:
    """Whether a layer's content is kept elsewhere than in the registry (Windows base layers)."""
    return ".nondistributable." in media_type or ".foreign." in media_type


class Descriptor:
    """What a document says of another: its kind, digest and size (bytes), and perhaps more."""

    __slots__ = ("annotations", "artifact_type", "digest", "media_type", "platform", "size", "urls")

    def __init__(
        self,
        media_type: str,
        digest: str,
        size: int,
        annotations: dict[str, str] | None = None,
        platform: Platform | None = None,
        urls: Sequence[str] = (),
        artifact_type: str | None = None,
    ) -> None:
        self.media_type = media_type
        self.digest = digest
        self.size = size
        self.annotations = dict(annotations or {})
        self.platform = platform
        self.urls = tuple(urls)
        self.artifact_type = artifact_type

    @classmethod
    def from_json(cls, value: object, where: str = "descriptor") -> Descriptor:
        """Checked. Raises ImageError, naming `where`."""
        if not isinstance(value, dict):
            raise ImageError(where, f"is not a descriptor but {shown(value)}")
        media_type, size, digest = value.get("mediaType"), value.get("size"), value.get("digest")
        if not isinstance(media_type, str) or not 0 < len(media_type) <= 255:
            raise ImageError(where, f"has no media type: {shown(media_type)}")
        if not digests.valid(digest):
            raise ImageError(where, f"has a digest that cannot be verified: {shown(digest)}")
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size < 2**63:
            raise ImageError(where, f"has a size that cannot be: {shown(size)}")
        urls = value.get("urls") or []
        annotations = value.get("annotations") or {}
        if not _strings(urls):
            raise ImageError(where, "has urls that are not a list of strings")
        if not _string_map(annotations):
            raise ImageError(where, "has annotations that are not a map of strings")
        platform, kind = value.get("platform"), value.get("artifactType")
        return cls(
            media_type,
            str(digest),
            size,
            annotations,
            Platform.from_json(platform, where) if platform is not None else None,
            urls,
            kind if isinstance(kind, str) and kind else None,
        )

    def to_json(self) -> dict[str, Any]:
        made: dict[str, Any] = {"mediaType": self.media_type, "digest": self.digest, "size": self.size}
        if self.artifact_type:
            made["artifactType"] = self.artifact_type
        if self.platform is not None:
            made["platform"] = self.platform.to_json()
        if self.urls:
            made["urls"] = list(self.urls)
        if self.annotations:
            made["annotations"] = dict(self.annotations)
        return made

    @property
    def is_index(self) -> bool:
        return self.media_type in INDEX_TYPES

    @property
    def is_manifest(self) -> bool:
        return self.media_type in MANIFEST_TYPES

    def bare(self) -> Descriptor:
        """Without annotations."""
        return Descriptor(self.media_type, self.digest, self.size, None, self.platform, self.urls, self.artifact_type)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Descriptor) and self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash((self.media_type, self.digest, self.size))

    def __repr__(self) -> str:
        return f"Descriptor({self.media_type!r}, {self.digest!r}, {self.size})"


def _strings(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(v, str) for v in value)


def _string_map(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(v, str) for v in value.values())


def _loads(text: str) -> object:
    """json.loads, by its scanner in C alone where nobody imported json yet: that brings re and enum with it,
    which takes longer than a start. Raises ValueError."""
    if "json" not in sys.modules:
        try:
            from _json import make_scanner
        except ImportError:
            pass
        else:
            text = text.strip(" \t\n\r")
            try:
                value, end = make_scanner(_Scanning)(text, 0)  # type: ignore[arg-type]
            except (StopIteration, AttributeError, TypeError):
                pass  # json says what is wrong, or does without the scanner
            else:
                if end == len(text):
                    return value
    import json

    return json.loads(text)


class _Scanning:
    """What the scanner asks its maker for: the defaults of json.JSONDecoder."""

    strict = True
    object_hook = object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}.__getitem__


def load_json(data: bytes, where: str, limit: int = DOCUMENT_MAX) -> dict[str, Any]:
    """A JSON object. Raises ImageError if it is too big, not UTF-8, not JSON, or nested without end."""
    if len(data) > limit:
        raise ImageError(where, f"is {len(data)} bytes, more than the {limit} such a document may have")
    try:
        value = _loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise ImageError(where, f"is not a JSON document: {error}") from None
    if not isinstance(value, dict):
        raise ImageError(where, "is not a JSON object")
    return value


def dump_json(value: object) -> bytes:
    """JSON as we write it: compact, the keys in the order given."""
    import json

    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def document_type(value: dict[str, Any]) -> str:
    """The media type of an index or manifest that came without one: its own, else by its fields."""
    own = value.get("mediaType")
    if isinstance(own, str) and own:
        return own
    if value.get("schemaVersion") == 1:
        return SCHEMA1[0]
    return INDEX if isinstance(value.get("manifests"), list) else MANIFEST


def _document(data: bytes, media_type: str | None, where: str, kinds: tuple[str, ...], what: str) -> dict[str, Any]:
    value = load_json(data, where)
    kind = (media_type or document_type(value)).partition(";")[0].strip()
    version = value.get("schemaVersion")
    if kind in SCHEMA1 or version == 1:
        raise ImageError(
            where,
            "is a manifest of Docker's schema 1, given up by registries long ago",
            "push the image again with a newer Docker",
        )
    if kind not in kinds:
        raise ImageError(where, f"is not {what} but {shown(kind)}")
    if version != 2:
        raise ImageError(where, f"has a schemaVersion that cannot be: {shown(version)}")
    own = value.get("mediaType")
    if own not in (None, "", kind):
        raise ImageError(where, f"says it is {shown(own)}, and came as {shown(kind)}")
    if "manifests" in value and "layers" in value:  # one document with two meanings
        raise ImageError(where, "has both manifests and layers")
    return value


def parse_manifest(data: bytes, media_type: str | None = None, where: str = "manifest") -> dict[str, Any]:
    """A manifest, its "config" and "layers" checked to be descriptors. Raises ImageError."""
    value = _document(data, media_type, where, MANIFEST_TYPES, "a manifest")
    Descriptor.from_json(value.get("config"), f"{where}: config")
    layers = value.get("layers")
    if not isinstance(layers, list) or len(layers) > LAYERS_MAX:
        raise ImageError(where, f"has layers that are not a list of {LAYERS_MAX} at most")
    for i, layer in enumerate(layers):
        Descriptor.from_json(layer, f"{where}: layers[{i}]")
    return value


def parse_index(data: bytes, media_type: str | None = None, where: str = "index") -> dict[str, Any]:
    """An index (or Docker manifest list), its "manifests" checked to be descriptors. Raises ImageError."""
    value = _document(data, media_type, where, INDEX_TYPES, "an index")
    manifests = value.get("manifests")
    if not isinstance(manifests, list) or len(manifests) > LAYERS_MAX:
        raise ImageError(where, f"has manifests that are not a list of {LAYERS_MAX} at most")
    for i, each in enumerate(manifests):
        Descriptor.from_json(each, f"{where}: manifests[{i}]")
    return value


_CONFIG_SHAPES: dict[str, str] = {
    "User": "string", "WorkingDir": "string", "StopSignal": "string",
    "Env": "list", "Entrypoint": "list", "Cmd": "list", "Shell": "list", "OnBuild": "list",
    "Labels": "map", "ExposedPorts": "set", "Volumes": "set",
}  # fmt: skip


def parse_config(data: bytes, where: str = "image configuration") -> dict[str, Any]:
    """An image configuration: rootfs.diff_ids and what a container takes from "config" are checked. Fields
    that are null or absent stay so. Raises ImageError."""
    value = load_json(data, where, CONFIG_MAX)
    for name in ("architecture", "os", "variant", "created", "author"):
        if not isinstance(value.get(name, ""), str | None):
            raise ImageError(where, f"{name} is not a string: {shown(value[name])}")
    rootfs = value.get("rootfs")
    if not isinstance(rootfs, dict) or rootfs.get("type") != "layers":
        raise ImageError(where, f'rootfs is not of type "layers": {shown(rootfs)}')
    ids = rootfs.get("diff_ids")
    if ids is None:
        ids = rootfs["diff_ids"] = []
    if not isinstance(ids, list) or len(ids) > LAYERS_MAX or not all(digests.valid(d) for d in ids):
        raise ImageError(where, "rootfs.diff_ids is not a list of digests")
    history = value.get("history")
    if history is not None and not (isinstance(history, list) and all(isinstance(h, dict) for h in history)):
        raise ImageError(where, "history is not a list of objects")
    config = value.get("config")
    if config is None:
        return value
    if not isinstance(config, dict):
        raise ImageError(where, f"config is not an object: {shown(config)}")
    for name, shape in _CONFIG_SHAPES.items():
        field = config.get(name)
        if field is None:
            continue
        if shape == "list" and isinstance(field, str):  # Docker takes one string for a list of it
            field = config[name] = [field]
        good = {
            "string": isinstance(field, str),
            "list": _strings(field),
            "map": _string_map(field),
            "set": isinstance(field, dict),
        }[shape]
        if not good:
            raise ImageError(where, f"config.{name} is not what it should be: {shown(field)}")
    return value


def chain_ids(diff_ids: Iterable[str]) -> list[str]:
    """The ChainID of each layer, bottom first: that of everything up to and with it (OCI config spec)."""
    chain = ""
    found = []
    for each in diff_ids:
        chain = digests.sha256(f"{chain} {each}".encode()) if chain else each
        found.append(chain)
    return found


def candidates(index: dict[str, Any], platform: Platform | None = None) -> list[Descriptor]:
    """The manifests of a checked index that run on `platform` (default: this machine), best first."""
    want = platform or host_platform()
    found = []
    for place, each in enumerate(index["manifests"]):
        entry = Descriptor.from_json(each)
        if not (entry.is_manifest or entry.is_index) or "vnd.docker.reference.type" in entry.annotations:
            continue
        rank = want.rank(entry.platform) if entry.platform is not None else 1000
        if rank is not None:
            found.append((rank, place, entry))
    return [entry for _, _, entry in sorted(found, key=lambda f: f[:2])]


def choose(index: dict[str, Any], platform: Platform | None = None, where: str = "index") -> Descriptor:
    """The manifest for `platform` (default: this machine). Raises ImageNotFound, naming what there is."""
    found = candidates(index, platform)
    if found:
        return found[0]
    there = sorted(
        {
            str(Platform.from_json(m["platform"]))
            for m in index["manifests"]
            if m.get("platform") and m["platform"].get("os") != "unknown"
        }
    )
    raise ImageNotFound(
        where,
        f"has nothing for {platform or host_platform()}",
        f"there is: {', '.join(there)}" if there else "",
    )
