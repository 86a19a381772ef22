"""An image as the store has it: from what the user wrote to manifest, configuration and layers."""

from __future__ import annotations

from ..errors import DigestMismatch, ImageError, ImageNotFound, SpecError, shown
from . import digest as digests
from . import oci
from .oci import Descriptor
from .platform import Platform
from .reference import Reference, parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .index import Entries
    from .store import Store


class Resolved:
    """One image for one platform. Shared between callers: do not change its documents.

    names                 all its references in full, sorted ("docker.io/library/alpine:latest", …); may be empty
    target                the descriptor they stand for: an index, or the manifest itself
    manifest_descriptor   the manifest's
    manifest, config      the two documents, checked
    config_digest, id     the configuration's digest, which is the image's id
    layers                descriptors of the packed layers, bottom first
    diff_ids, chain_ids   digests of the unpacked layers, and of the stacks up to each of them
    """

    __slots__ = (
        "chain_ids",
        "config",
        "config_digest",
        "diff_ids",
        "layers",
        "manifest",
        "manifest_descriptor",
        "names",
        "target",
    )

    def __init__(
        self,
        names: list[str],
        target: Descriptor,
        manifest_descriptor: Descriptor,
        manifest: dict[str, Any],
        config: dict[str, Any],
    ) -> None:
        self.names = names
        self.target = target
        self.manifest_descriptor = manifest_descriptor
        self.manifest = manifest
        self.config = config
        self.config_digest: str = manifest["config"]["digest"]
        self.layers = [Descriptor.from_json(each) for each in manifest["layers"]]
        self.diff_ids: list[str] = config["rootfs"]["diff_ids"]
        self.chain_ids = oci.chain_ids(self.diff_ids)

    @property
    def id(self) -> str:
        return self.config_digest

    @property
    def platform(self) -> Platform:
        return Platform.from_json(self.config)

    @property
    def digests(self) -> list[str]:
        """Digests of everything it is made of: target, manifest, configuration, layers."""
        own = [self.target.digest, self.manifest_descriptor.digest, self.config_digest]
        return list(dict.fromkeys(own + [each.digest for each in self.layers]))

    @property
    def repo_digests(self) -> list[str]:
        """ "name@sha256:…" for each repository it has a name in."""
        return sorted({f"{parse(n).name}@{self.target.digest}" for n in self.names if _is_full(n)})

    def __repr__(self) -> str:
        return f"Resolved({self.names[0] if self.names else None!r}, id={digests.short(self.id)})"


def _is_full(name: str) -> bool:
    try:
        parse(name)
    except SpecError:
        return False
    return True


def read_image(store: Store, target: Descriptor, platform: Platform | None, names: list[str], where: str) -> Resolved:
    """The image below `target` for `platform`; with None this machine's if that is here, else whichever is.
    Raises ImageNotFound if there is none, or a part of it is missing."""
    found = None
    if target.is_index:
        found = _from_index(store, target, platform, where)
    elif target.is_manifest:
        found = target
    else:
        raise ImageError(where, f"is not an image but {shown(target.media_type)}")
    manifest = oci.parse_manifest(_document(store, found, where), found.media_type, found.digest)
    named = Descriptor.from_json(manifest["config"])
    if named.media_type not in oci.CONFIG_TYPES:
        raise ImageError(where, f"is an artifact of the type {shown(named.media_type)}, not an image")
    config = oci.parse_config(_document(store, named, where, oci.CONFIG_MAX), named.digest)
    if len(config["rootfs"]["diff_ids"]) != len(manifest["layers"]):
        raise ImageError(
            where, f"has {len(manifest['layers'])} layers and {len(config['rootfs']['diff_ids'])} diff_ids"
        )
    if platform is not None and not target.is_index:
        have = Platform.from_json(config)
        if have.architecture and platform.rank(have) is None:
            raise ImageNotFound(where, f"is for {have}, not for {platform}", f"pull it with --platform {platform}")
    return Resolved(names, target, found, manifest, config)


def _document(store: Store, each: Descriptor, where: str, limit: int = oci.DOCUMENT_MAX) -> bytes:
    try:
        data = store.read_blob(each.digest, limit)
    except ImageNotFound:
        raise ImageNotFound(where, f"is here only in part: {each.digest} is missing", "pull it again") from None
    if len(data) != each.size:
        raise DigestMismatch(each.digest, f"has {len(data)} bytes, and {where} says {each.size}")
    return data


def _from_index(store: Store, target: Descriptor, platform: Platform | None, where: str, depth: int = 0) -> Descriptor:
    index = oci.parse_index(_document(store, target, where), target.media_type, target.digest)
    here = []
    for each in oci.candidates(index, platform):
        if store.has_blob(each.digest):
            here.append(each)
    if not here and platform is None:
        for entry in index["manifests"]:
            each = Descriptor.from_json(entry)
            if "vnd.docker.reference.type" in each.annotations:
                continue
            if (each.is_manifest or each.is_index) and store.has_blob(each.digest):
                here.append(each)
    if not here:
        oci.choose(index, platform, where)  # says so if the index has nothing for it
        want = platform or oci.host_platform()
        raise ImageNotFound(where, f"is not here for {want}", f"pull it with --platform {want}")
    found = here[0]
    if found.is_index:
        if depth >= 3:
            raise ImageError(where, "is an index of indexes without end")
        return _from_index(store, found, platform, where, depth + 1)
    return found


def find(store: Store, text: str, platform: Platform | None) -> Resolved:
    """See Store.resolve."""
    entries = store.refs.entries()
    wanted = _as_id(text)
    reference: Reference | None = None
    if wanted is None or ":" not in text:
        try:
            reference = parse(text)
        except SpecError:
            if wanted is None and store.refs.get_exact(text) is None:
                raise
    target = store.refs.get_exact(text) or (find_target(entries, reference) if reference is not None else None)
    if target is not None:
        return read_image(store, target, platform, store.refs.names(target.digest), text)
    if wanted is not None:
        return _by_id(store, entries, wanted, platform, text)
    raise ImageNotFound(text, "is not in the store", f"fastctr pull {text}")


def find_target(entries: Entries, reference: Reference) -> Descriptor | None:
    """What the reference stands for: its own entry, or for a digest an image of that digest which has
    another name in the same repository."""
    key = reference.key
    same = f"{reference.name}:"
    found = None
    for name, each in entries:
        if name == key:
            return each
        if name is not None and each.digest == reference.digest and name.startswith(same):
            found = each
    return found


def _as_id(text: str) -> str | None:
    """The digits of an image id or its beginning: "sha256:12ab…" or "12ab…"."""
    value = text.removeprefix("sha256:")
    return value if 0 < len(value) <= 64 and digests.HEX.issuperset(value) else None


def _by_id(store: Store, entries: Entries, wanted: str, platform: Platform | None, text: str) -> Resolved:
    """By the digest of configuration, manifest or index, or a beginning of one that only one image has."""
    start = "sha256:" + wanted
    found: dict[str, Resolved] = {}
    for target in {each.digest: each for _, each in entries}.values():
        names = store.refs.names(target.digest)
        if target.digest.startswith(start):
            found[target.digest] = read_image(store, target, platform, names, text)
            continue
        for image in variants(store, target, names):
            if image.id.startswith(start) or image.manifest_descriptor.digest.startswith(start):
                found.setdefault(image.id, image)
    by_id = {image.id: image for image in found.values()}
    if not by_id:
        raise ImageNotFound(text, "is not in the store")
    if len(by_id) > 1:
        few = ", ".join(digests.short(i) for i in sorted(by_id))
        raise ImageNotFound(text, f"is the beginning of several image ids: {few}", "use more digits of it")
    image = next(iter(by_id.values()))
    if platform is not None and platform.rank(image.platform) is None:
        raise ImageNotFound(text, f"is for {image.platform}, not for {platform}")
    return image


def variants(store: Store, target: Descriptor, names: list[str]) -> list[Resolved]:
    """All images below a target that are here whole enough to be read (one for each platform), this
    machine's first. Damaged ones are left out: fsck names them."""
    found: list[Resolved] = []
    try:
        for each in manifests(store, target):
            data = store.read_blob(each.digest)
            manifest = oci.parse_manifest(data, each.media_type, each.digest)
            named = Descriptor.from_json(manifest["config"])
            if named.media_type not in oci.CONFIG_TYPES or not store.has_blob(named.digest):
                continue
            config = oci.parse_config(store.read_blob(named.digest, oci.CONFIG_MAX), named.digest)
            if len(config["rootfs"]["diff_ids"]) == len(manifest["layers"]):
                found.append(Resolved(names, target, each, manifest, config))
    except (ImageError, OSError):
        pass
    return found


def manifests(store: Store, target: Descriptor, depth: int = 0) -> list[Descriptor]:
    """The image manifests below a target that are here, this machine's first, attestations left out."""
    if target.is_manifest:
        return [target] if store.has_blob(target.digest) else []
    if not target.is_index or depth > 3 or not store.has_blob(target.digest):
        return []
    index = oci.parse_index(store.read_blob(target.digest), target.media_type, target.digest)
    every = [Descriptor.from_json(each) for each in index["manifests"]]
    order = [each.digest for each in oci.candidates(index)]
    every.sort(key=lambda d: order.index(d.digest) if d.digest in order else len(order))
    found: list[Descriptor] = []
    for each in every:
        if "vnd.docker.reference.type" not in each.annotations:
            found += manifests(store, each, depth + 1)
    return found
