"""Snapshots: an image's layers, unpacked once and shared by all its containers.

One narrow interface, base.Snapshotter, and three forms: overlay (directories; the default), erofs (image files
that the kernel mounts, read-only and verified) and vfs (whole copies, where there is no overlayfs).
"""

from __future__ import annotations

import os

from ...errors import ImageNotFound, SpecError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..progress import Progress
    from ..resolved import Resolved
    from ..store import Store
    from .base import Layer, Snapshotter
    from .mounted import Mounted

__all__ = ["NAMES", "ensure", "get", "layers_of", "mount"]

NAMES = ("overlay", "erofs", "vfs")
_made: dict[tuple[str, str], Snapshotter] = {}
_chosen: dict[str, str] = {}
_ready: dict[tuple[str, str, str], list[str]] = {}
"""(store, snapshotter, topmost chain) of what is unpacked: its roots."""
_READY_MAX = 1024


def get(store: Store, name: str | None = None) -> Snapshotter:
    """The snapshotter of that name; by default FASTCTR_SNAPSHOTTER, else overlay where it works, else vfs.

    Raises SpecError for another name, StoreError for one that cannot work here (it says why).
    """
    name = name or os.environ.get("FASTCTR_SNAPSHOTTER") or _chosen.get(store.root) or _default(store)
    found = _made.get((store.root, name))
    if found is None or found.store is not store:
        found = _made[store.root, name] = _make(store, name)
    return found


def _make(store: Store, name: str) -> Snapshotter:
    if name == "overlay":
        from .overlay import Overlay

        return Overlay(store)
    if name == "vfs":
        from .vfs import Vfs

        return Vfs(store)
    if name == "erofs":
        from .erofs import Erofs

        return Erofs(store)
    raise SpecError("snapshotter", name, "is not a snapshotter", f"use {', '.join(NAMES)}")


def _default(store: Store) -> str:
    """Overlay, if two directories of the store can be mounted as one. Tried once a process, and not at all in a
    store that has such layers already."""
    from .overlay import Overlay

    works = bool(Overlay(store).list())
    if not works:
        from .mounted import overlay_works

        works = overlay_works(store)
    _chosen[store.root] = name = "overlay" if works else "vfs"
    return name


def layers_of(resolved: Resolved) -> list[Layer]:
    """An image's layers as a snapshotter takes them, bottom first."""
    from .base import Layer

    chains = resolved.chain_ids
    return [
        Layer(each.digest, each.media_type, diff_id, chains[n], chains[:n])
        for n, (each, diff_id) in enumerate(zip(resolved.layers, resolved.diff_ids, strict=True))
    ]


def ensure(
    store: Store, resolved: Resolved, snapshotter: str | None = None, progress: Progress | None = None
) -> list[str]:
    """The roots of an image, topmost first, for Spec(rootfs=…); what is not unpacked yet is, some layers at a time.

    This process holds the layers from now on (Store.hold). Raises ImageNotFound when a layer's blob is needed
    and not in the store, and what unpacking raises.
    """
    made = get(store, snapshotter)
    chains = resolved.chain_ids
    if not chains:
        return made.roots(chains)
    top = chains[-1]
    store.hold(made.name, (top,))
    key = (store.root, made.name, top)
    found = _ready.get(key)
    if found is not None and made.has(top):
        return found
    missing = [layer for layer in layers_of(resolved) if not made.has(layer.chain)]
    if missing:
        _unpack(store, made, missing, progress)
    if len(_ready) >= _READY_MAX:
        _ready.clear()
    _ready[key] = roots = made.roots(chains)
    return roots


def _unpack(store: Store, made: Snapshotter, missing: list[Layer], progress: Progress | None) -> None:
    from ..parallel import Crew
    from .stack import Stack, workers

    for layer in missing:
        if not store.has_blob(layer.blob):
            raise ImageNotFound(layer.blob, "is a layer that is not in the store", "pull the image again")
    position = iter(missing)
    crew = Crew(lambda: None)

    def work() -> None:
        while True:
            with crew.changed:
                crew.check()
                layer = next(position, None)
            if layer is None:
                return
            stack.make(layer)

    with Stack(made, progress, crew.check) as stack:
        crew.start(workers(len(missing)), work)
        crew.join()


def mount(store: Store, resolved: Resolved, target: str | None = None, snapshotter: str | None = None) -> Mounted:
    """A context manager: the image's files, read-only, at the path it gives. See mounted.py."""
    from .mounted import Mounted

    return Mounted(store, resolved, target, snapshotter)
