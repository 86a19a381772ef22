"""A new image from a configuration and layers that are in the store: the documents, and its name."""

from __future__ import annotations

from ..errors import SpecError
from . import oci
from .resolved import Resolved, read_image

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from .reference import Reference
    from .store import Store

__all__ = ["assemble", "now", "timestamp"]

_TO_OCI = {
    oci.DOCKER_LAYER: oci.LAYER,
    oci.DOCKER_LAYER_GZIP: oci.LAYER_GZIP,
    oci.DOCKER_LAYER_ZSTD: oci.LAYER_ZSTD,
    oci.DOCKER_CONFIG: oci.CONFIG,
    oci.DOCKER_MANIFEST: oci.MANIFEST,
}


def timestamp(nanoseconds: int) -> str:
    """RFC 3339 in UTC, with a fraction where there is one: what "created" holds."""
    import time

    seconds, part = divmod(nanoseconds, 1_000_000_000)
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return text + (f".{part:09d}".rstrip("0") if part else "") + "Z"


def now() -> str:
    """The time as "created" holds it."""
    import time

    return timestamp(time.time_ns())


def check_name(reference: str | Reference | None) -> str | None:
    """The full name an image is to get. Raises SpecError for one with a digest, which nobody can give."""
    if reference is None:
        return None
    from .reference import parse

    parsed = parse(reference)
    if parsed.digest is not None:
        raise SpecError("reference", str(reference), "has a digest", "use a name and a tag")
    return str(parsed)


def as_oci(descriptor: oci.Descriptor) -> oci.Descriptor:
    """The same blob by OCI's media type instead of Docker's."""
    return oci.Descriptor(
        _TO_OCI.get(descriptor.media_type, descriptor.media_type),
        descriptor.digest,
        descriptor.size,
        descriptor.annotations,
        descriptor.platform,
        descriptor.urls,
        descriptor.artifact_type,
    )


def manifest_bytes(
    config: oci.Descriptor,
    layers: Sequence[oci.Descriptor],
    docker: bool,
    annotations: dict[str, str] | None = None,
) -> bytes:
    """A manifest, OCI's or Docker's, of descriptors that fit it."""
    made: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": oci.DOCKER_MANIFEST if docker else oci.MANIFEST,
        "config": config.to_json(),
        "layers": [each.to_json() for each in layers],
    }
    if annotations and not docker:
        made["annotations"] = annotations
    return oci.dump_json(made)


def assemble(
    store: Store,
    config: dict[str, Any],
    layers: Sequence[oci.Descriptor],
    reference: str | Reference | None = None,
    *,
    docker: bool = False,
) -> Resolved:
    """Write configuration and manifest, and give the image its name (None: it stays without one).

    The layers' blobs must be in the store, under a lease that is still open. Raises SpecError, StoreError.
    """
    name = check_name(reference)
    if not docker:
        layers = [as_oci(each) for each in layers]
    data = oci.dump_json(config)
    oci.parse_config(data)
    kind = oci.DOCKER_CONFIG if docker else oci.CONFIG
    config_descriptor = oci.Descriptor(kind, store.add_bytes(data), len(data))
    document = manifest_bytes(config_descriptor, layers, docker)
    target = oci.Descriptor(oci.DOCKER_MANIFEST if docker else oci.MANIFEST, store.add_bytes(document), len(document))
    store.refs.set_all([(name, target)])
    return read_image(store, target, None, store.refs.names(target.digest), name or target.digest)
