"""What takes how much room in a store (`fastctr system df`)."""

from __future__ import annotations

import os

from . import gc
from .leases import listdir, living
from .resolved import Resolved

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .store import Store


class ImageUsage:
    """One image (one platform of it). Sizes in bytes.

    size    packed blobs and unpacked layers together
    shared  the part other images use too
    unique  what removing it alone would free
    packed, unpacked  the two parts of size
    active  whether a kept container or a living process uses it
    """

    __slots__ = ("active", "image", "packed", "shared", "size", "unique", "unpacked")

    def __init__(self, image: Resolved, active: bool) -> None:
        self.image = image
        self.active = active
        self.size = self.packed = self.unpacked = self.shared = self.unique = 0

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.image.id,
            "names": list(self.image.names),
            **{n: getattr(self, n) for n in ("size", "packed", "unpacked", "shared", "unique", "active")},
        }


class Usage:
    """The whole store. Sizes in bytes.

    images        list of ImageUsage
    blobs         (number, bytes) of packed layers and documents
    layers        {snapshotter: (number, bytes)} of unpacked layers
    containers    (number, bytes) of kept containers' own files
    partial       (number, bytes) of blobs being fetched, or half fetched and left
    unpacking     number of layers being unpacked, or left half unpacked
    unneeded      (blobs, layers, bytes) that no name, lease or container needs: gc removes them
    dead_leases   number
    reclaimable   bytes `prune` of everything would free
    """

    def __init__(self) -> None:
        self.images: list[ImageUsage] = []
        self.blobs = self.containers = self.partial = (0, 0)
        self.layers: dict[str, tuple[int, int]] = {}
        self.unpacking = 0
        self.unneeded = (0, 0, 0)
        self.dead_leases = 0
        self.reclaimable = 0

    @property
    def size(self) -> int:
        """Bytes of all of it."""
        every = [self.blobs, self.containers, self.partial, *self.layers.values()]
        return sum(size for _, size in every)

    def to_json(self) -> dict[str, Any]:
        names = ("blobs", "layers", "containers", "partial", "unpacking", "unneeded", "dead_leases", "reclaimable")
        return {"images": [i.to_json() for i in self.images], **{n: getattr(self, n) for n in names}}


def tree_size(path: str) -> int:
    """Bytes on disk below a directory, hard links once."""
    seen: set[tuple[int, int]] = set()
    total = 0
    todo = [path]
    while todo:
        try:
            with os.scandir(todo.pop()) as entries:
                for entry in entries:
                    found = entry.stat(follow_symlinks=False)
                    key = (found.st_dev, found.st_ino)
                    if found.st_nlink > 1 and key in seen:
                        continue
                    seen.add(key)
                    total += found.st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        todo.append(entry.path)
        except OSError:
            continue
    return total


def usage(store: Store) -> Usage:
    """See Store.df. A snapshot: others may be changing it meanwhile."""
    made = Usage()
    if not os.path.isdir(f"{store.root}/leases"):
        return made
    marks, made.dead_leases = gc.mark(store)
    sizes: dict[object, int] = {}
    unneeded = [0, 0, 0]
    count = total = 0
    for digest, _, size in gc.blobs(store):
        count, total = count + 1, total + size
        sizes[digest] = size
        if digest not in marks.blobs:
            unneeded[0] += 1
            unneeded[2] += size
    made.blobs = (count, total)
    for snapshotter, chain, path in gc.layers(store):
        size = gc.layer_size(path) or tree_size(path)
        sizes[snapshotter, chain] = size
        n, before = made.layers.get(snapshotter, (0, 0))
        made.layers[snapshotter] = (n + 1, before + size)
        if not marks.wanted(snapshotter, chain):
            unneeded[1] += 1
            unneeded[2] += size
    made.unneeded = (unneeded[0], unneeded[1], unneeded[2])
    _images(store, made, sizes)
    for name in listdir(f"{store.root}/containers"):
        made.containers = made.containers[0] + 1, made.containers[1] + tree_size(f"{store.root}/containers/{name}")
    for name in listdir(f"{store.root}/ingest"):
        try:
            size = os.stat(f"{store.root}/ingest/{name}").st_size
        except FileNotFoundError:
            continue
        made.partial = made.partial[0] + 1, made.partial[1] + size
    made.unpacking = len(listdir(f"{store.root}/tmp"))
    return made


def _images(store: Store, made: Usage, sizes: dict[object, int]) -> None:
    """The images' shares, and what pruning all unused ones would free."""
    leased, layers, _ = living(store.root)
    kept = set().union(*gc.container_digests(store.root).values()) | leased
    tops = kept | {chain for _, chain in layers}
    by_id: dict[str, Resolved] = {}
    parts: dict[str, set[object]] = {}
    for image in store.images():
        known = by_id.get(image.id)
        if known is not None:
            image.names = sorted({*known.names, *image.names})
        by_id[image.id] = image
        own: set[object] = parts.setdefault(image.id, set())
        own.update(d for d in image.digests if d in sizes)
        own.update((s, c) for s in made.layers for c in image.chain_ids if (s, c) in sizes)
    users: dict[object, int] = {}
    for own in parts.values():
        for part in own:
            users[part] = users.get(part, 0) + 1
    needed: set[object] = set()
    for image_id, image in by_id.items():
        named = {image.id, image.target.digest, image.manifest_descriptor.digest}
        active = bool(named & kept or (image.chain_ids and image.chain_ids[-1] in tops))
        row = ImageUsage(image, active)
        for part in parts[image_id]:
            size = sizes[part]
            row.size += size
            if isinstance(part, str):
                row.packed += size
            else:
                row.unpacked += size
            if users[part] > 1:
                row.shared += size
            else:
                row.unique += size
        if active:
            needed |= parts[image_id]
        made.images.append(row)
    made.images.sort(key=lambda row: (not row.image.names, row.image.names, row.image.id))
    counted = sum(size for part, size in sizes.items() if part not in needed and part in users)
    made.reclaimable = counted + made.unneeded[2]
