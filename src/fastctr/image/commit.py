"""An image from a container's changes: the base's layers and one more, made of the upper directory."""

from __future__ import annotations

import os

from . import oci
from .assemble import assemble, check_name, now
from .instructions import apply, parse
from .layer_write import LayerWriter, layer_type
from .layers import Layers
from .pack import pack_upper
from .platform import host_platform
from .rootfd import as_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    from .instructions import Instruction
    from .reference import Reference
    from .resolved import Resolved
    from .store import Store

    Ranges = Sequence[tuple[int, int, int]]

__all__ = ["commit"]


def _root_differs(upper: int, lower: Layers) -> bool:
    before = lower.stat("")
    if before is None:
        return False
    after = os.fstat(upper)
    return (after.st_mode, after.st_uid, after.st_gid) != (before.st_mode, before.st_uid, before.st_gid)


def commit(
    store: Store,
    base: Resolved | None,
    upper: int | str | os.PathLike[str],
    reference: str | Reference | None = None,
    *,
    author: str = "",
    message: str = "",
    changes: Iterable[str | Instruction] = (),
    config: dict[str, Any] | None = None,
    command: Sequence[str] = (),
    exclude: Iterable[str] = (),
    lower: Sequence[str | int] = (),
    uid_map: Ranges = (),
    gid_map: Ranges = (),
    compression: str = "gzip",
    level: int | None = None,
    created: str | None = None,
) -> Resolved:
    """A new image of `base` and what an overlay's upper directory holds; pausing is the caller's.

    reference    its name; None leaves it without one
    author, message   into its history
    changes      Dockerfile instructions: CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, ONBUILD, SHELL,
                 STOPSIGNAL, USER, VOLUME, WORKDIR
    config       the container's configuration in place of the base's, before `changes`
    command      what ran in the container, for the history
    exclude      absolute paths left out with all below them: volumes, mount points
    lower        the layers' directories, topmost first (Snapshotter.roots()): leaves needless marks out
    uid_map, gid_map   (inside, outside, count), if the upper directory has owners shifted for a user namespace
    compression  "gzip", "zstd" or "none"
    An upper directory without changes adds no layer. Raises SpecError, ImageError (see pack_upper), StoreError.
    """
    check_name(reference)
    instructions = [each if not isinstance(each, str) else parse(each) for each in changes]
    layer_type(compression)
    when = created or now()
    document: dict[str, Any] = {"created": when}
    if author:
        document["author"] = author
    if base is not None:
        for key in ("architecture", "variant", "os", "os.version", "os.features"):
            if key in base.config:
                document[key] = base.config[key]
    else:
        document.update(host_platform().to_json())
    old = config if config is not None else (base.config.get("config") or {} if base is not None else {})
    document["config"] = apply(old, instructions)
    docker = base is not None and base.manifest_descriptor.media_type == oci.DOCKER_MANIFEST and compression != "zstd"
    layers = list(base.layers) if base is not None else []
    diff_ids = list(base.diff_ids) if base is not None else []
    history: dict[str, Any] = {"created": when}
    if command:
        history["created_by"] = " ".join(command)
    if author:
        history["author"] = author
    if message:
        history["comment"] = message
    with store.lease() as lease:
        if base is not None:
            lease.blob(*base.digests)
        with as_root(upper) as fd, LayerWriter(store, compression, level=level, docker=docker) as writer:
            below = Layers(lower) if lower else None
            packed = pack_upper(
                fd,
                writer.write,
                lower=below.stat if below is not None else None,
                with_root=below is not None and _root_differs(fd, below),
                exclude_paths=exclude,
                uid_map=uid_map,
                gid_map=gid_map,
            )
            if packed.files:
                new = writer.finish()
                layers.append(new.descriptor)
                diff_ids.append(new.diff_id)
            else:
                history["empty_layer"] = True
        document["rootfs"] = {"type": "layers", "diff_ids": diff_ids}
        document["history"] = [*_history(base), history]
        return assemble(store, document, layers, reference, docker=docker)


def _history(base: Resolved | None) -> list[dict[str, Any]]:
    """The base's history, made as long as its layers where it says nothing of them."""
    if base is None:
        return []
    found = list(base.config.get("history") or ())
    told = sum(1 for each in found if not each.get("empty_layer"))
    return found + [{} for _ in range(len(base.diff_ids) - told)]
