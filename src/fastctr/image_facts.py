"""Finding an image for a container, pulling it if need be, and what its containers need to know of it."""

from __future__ import annotations

import os

from .errors import ImageError, ImageNotFound
from .image_args import is_id

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .image.resolved import Resolved
    from .image.store import Store

CONFIG = ("Entrypoint", "Cmd", "Env", "WorkingDir", "User", "StopSignal", "Volumes", "ExposedPorts", "Labels", "Shell")
"""What is kept of an image's configuration."""


def find(
    image: str, where: str, platform: str | None, snapshotter: str | None, pull: str, progress: Any
) -> dict[str, Any]:
    """The facts of an image, which is pulled and unpacked if need be. Raises ImageError and its kinds."""
    from .image import snapshot
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


def facts_of(store: Store, resolved: Resolved, snapshotter: str, roots: list[str]) -> dict[str, Any]:
    """What a Use is made of, as plain values."""
    given = resolved.config.get("config") or {}
    config = {name: given.get(name) for name in CONFIG}
    look = _Looker(store, resolved, roots)
    try:
        volumes = {path: look.owner(path) for path in config["Volumes"] or ()}
    finally:
        look.close()
    return {
        "id": resolved.config_digest,
        "manifest": resolved.manifest_descriptor.digest,
        "names": list(resolved.names),
        "architecture": str(resolved.config.get("architecture") or ""),
        "config": config,
        "chains": list(resolved.chain_ids),
        "snapshotter": snapshotter,
        "roots": list(roots),
        "volumes": volumes,
    }


class _Looker:
    """Looks for paths in an image: in its layers' directories, or where they are no directories, mounted."""

    def __init__(self, store: Store, resolved: Resolved, roots: list[str]) -> None:
        self._store, self._resolved, self._roots = store, resolved, roots
        self._mount: Any = None
        self._top: tuple[str, ...] = ()

    def tops(self) -> tuple[str, ...]:
        if not any(root.startswith("erofs:") for root in self._roots):
            return tuple(self._roots)
        if self._mount is None:
            from .image import snapshot

            self._mount = snapshot.mount(self._store, self._resolved)
            self._top = (os.fspath(self._mount.__enter__()),)
        return self._top

    def owner(self, path: str) -> tuple[int, int, int] | None:
        """(mode, uid, gid) of what is at a path, None if nothing is; a link on the way is not followed."""
        parts = [part for part in path.split("/") if part]
        for top in self.tops():
            at = top
            for number, part in enumerate(parts):
                at = f"{at}/{part}"
                try:
                    found = os.lstat(at)
                except OSError:
                    break
                kind = found.st_mode & 0o170000
                if kind == 0o020000 and found.st_rdev == 0:
                    return None  # a whiteout
                if kind == 0o040000 and number < len(parts) - 1:
                    continue
                return (found.st_mode & 0o7777 if kind == 0o040000 else 0o755), found.st_uid, found.st_gid
        return None

    def close(self) -> None:
        if self._mount is not None:
            self._mount.__exit__(None, None, None)
