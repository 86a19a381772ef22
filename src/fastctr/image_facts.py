"""Finding an image for a container, pulling it if need be; what its containers need to know: image/facts.py."""

from __future__ import annotations

import os

from .errors import ImageError, ImageNotFound
from .image_args import is_id

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .image.resolved import Resolved
    from .image.store import Store


def find(
    image: str, where: str, platform: str | None, snapshotter: str | None, pull: str, progress: Any
) -> dict[str, Any]:
    """The facts of an image, which is pulled and unpacked if need be. Raises ImageError and its kinds."""
    from .image import snapshot
    from .image.facts import facts_of
    from .image.store import get

    store = get(where)
    resolved: Resolved | None = None
    if pull != "always" or is_id(image):
        try:
            resolved = store.resolve(image, platform)
        except ImageNotFound as error:
            if pull == "never" or is_id(image):
                raise _not_found(image, error, pull) from None
    with store.lease() as lease:  # until the caller has its own: the image may lose its name meanwhile
        if resolved is None:
            resolved = _pulled(store, image, platform, snapshotter, progress)
        chosen = snapshot.get(store, snapshotter)
        lease.layer(chosen.name, *resolved.chain_ids[-1:])
        roots = snapshot.ensure(store, resolved, chosen.name, progress)
        return facts_of(store, resolved, chosen.name, roots)


def _pulled(store: Store, image: str, platform: str | None, snapshotter: str | None, progress: Any) -> Resolved:
    from .image.pull import pull as fetch

    try:
        found = fetch(store, image, platform=platform, progress=progress, snapshotter=snapshotter)
    except ImageError as error:
        if os.path.isdir(image):
            error.hint = f'"{image}" is also a directory here: give it as ./{image}, or rootfs='
        raise
    assert not isinstance(found, list)
    return found


def _not_found(image: str, error: ImageNotFound, pull: str) -> ImageNotFound:
    hint = error.hint or f"fastctr pull {image}"
    if pull == "never" and not is_id(image):
        hint = f'get it by "fastctr pull {image}", or leave pull="never" away'
    if os.path.isdir(image):
        hint = f'"{image}" is a directory here: give it as ./{image}, or rootfs='
    return ImageNotFound(error.where, error.why, hint)
