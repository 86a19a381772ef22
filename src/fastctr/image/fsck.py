"""Checking a store: every blob against its digest, every name's parts, every layer's papers, and leftovers.

Repair removes what is broken, so that the next pull fetches it again; nothing is ever mended in place.
"""

from __future__ import annotations

import os
from functools import partial

from ..errors import FastctrError, ImageError
from . import digest as digests
from . import gc, oci
from .ingest import store_error
from .leases import listdir, living
from .locks import FileLock
from .oci import Descriptor
from .workplace import remove_tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .index import Entries
    from .store import Store


class Finding:
    """One thing that is not as it should be.

    kind      "blob", "reference", "layer", "container", "leftover", "layout"
    where     the digest, name or path
    why       what is wrong
    repaired  whether it was removed
    """

    __slots__ = ("_repair", "kind", "repaired", "where", "why")

    def __init__(self, kind: str, where: str, why: str, repair: Callable[[], bool] | None = None) -> None:
        self.kind = kind
        self.where = where
        self.why = why
        self.repaired = False
        self._repair = repair

    def repair(self) -> bool:
        if self._repair is not None and not self.repaired:
            self.repaired = self._repair()
        return self.repaired

    def __str__(self) -> str:
        return f"{self.kind} {self.where}: {self.why}" + (" (removed)" if self.repaired else "")

    def __repr__(self) -> str:
        return f"Finding({str(self)!r})"


def check(store: Store, repair: bool = False) -> list[Finding]:
    """See Store.fsck. Reading takes as long as the store is big; others may add to it meanwhile, and gc waits.
    For a repair the store is locked, and each finding looked at once more."""
    if not os.path.isdir(f"{store.root}/leases"):
        return []
    try:
        with FileLock(f"{store.root}/lock", shared=True):
            found = list(_all(store))
        if not (repair and found):
            return found
        with FileLock(f"{store.root}/lock"):
            for each in found:
                each.repair()
            if any(each.kind == "blob" and each.repaired for each in found):
                for each in _references(store, store.refs.entries()):  # what a removed blob leaves incomplete
                    if not any((f.kind, f.where, f.why) == (each.kind, each.where, each.why) for f in found):
                        each.repair()
                        found.append(each)
    except OSError as error:
        raise store_error(error, error.filename or store.root) from None
    store.gc(older_than=0.0)
    return found


def _all(store: Store) -> Iterator[Finding]:
    yield from _layout(store)
    yield from _blobs(store)
    yield from _containers(store)
    try:
        entries = store.refs.entries()
        if not store.refs.stamp()[0] and any(gc.blobs(store)):
            raise ImageError(store.refs.path, "is missing")
    except FastctrError as error:
        yield Finding("layout", store.refs.path, str(error), partial(_rewrite_index, store))
    else:
        yield from _references(store, entries)
        yield from _layers(store)
    yield from _leftovers(store)


def _layout(store: Store) -> Iterator[Finding]:
    path = f"{store.root}/oci-layout"
    value = gc.read_json(path)
    if value is None or value.get("imageLayoutVersion") != "1.0.0":

        def write() -> bool:
            with open(f"{path}.new", "w") as file:
                file.write('{"imageLayoutVersion":"1.0.0"}')
            os.rename(f"{path}.new", path)
            return True

        yield Finding("layout", path, "does not say that this is an OCI image layout 1.0.0", write)


def _rewrite_index(store: Store) -> bool:
    """The names are lost; the images are not: each becomes a dangling one."""
    found: dict[str, Descriptor] = {}
    below: set[str] = set()
    for digest, path, size in gc.blobs(store):
        value = gc.read_json(path) if digest and size <= oci.DOCUMENT_MAX else None
        if not value or value.get("schemaVersion") != 2:
            continue
        kind = oci.document_type(value)
        if kind in oci.INDEX_TYPES + oci.MANIFEST_TYPES:
            found[digest] = Descriptor(kind, digest, size)
            below |= gc.closure(store, digest).blobs - {digest}
    if os.path.exists(store.refs.path):
        os.replace(store.refs.path, f"{store.refs.path}.broken")
    store.refs.change(lambda _: [(None, each) for digest, each in found.items() if digest not in below])
    return True


def _unlink(path: str) -> bool:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    return True


def _hash(path: str, algorithm: str) -> str:
    import hashlib

    with open(path, "rb") as file:
        return f"{algorithm}:{hashlib.file_digest(file, lambda: digests.hasher(algorithm)).hexdigest()}"


def _blobs(store: Store) -> Iterator[Finding]:
    for digest, path, _ in list(gc.blobs(store)):
        if not digest:
            yield Finding("blob", path, "has a name that is no digest", partial(remove_tree, path))
            continue
        try:
            good = _hash(path, digest.partition(":")[0]) == digest
        except FileNotFoundError:
            continue
        except OSError as error:  # a bad sector
            yield Finding("blob", digest, f"cannot be read: {error.strerror}", partial(_unlink, path))
            continue
        if not good:
            yield Finding("blob", digest, "is not what its digest says", partial(_unlink, path))


def _references(store: Store, entries: Entries) -> Iterator[Finding]:
    for name, target in entries:
        shown = name or f"<none>@{target.digest}"
        drop = partial(_drop, store, name, target)
        try:
            manifests = _manifests(store, target)
        except FastctrError as error:
            yield Finding("reference", shown, str(error), drop)
            continue
        bad = [(each, why) for each in manifests if (why := _manifest(store, each))]
        if not manifests:
            yield Finding("reference", shown, "none of its platforms' manifests is here", drop)
        elif len(bad) == len(manifests):
            yield Finding("reference", shown, bad[0][1], drop)
        else:  # only that platform goes
            for each, why in bad:
                path = store.blob_path(each.digest)
                yield Finding("reference", f"{shown} ({each.platform or each.digest})", why, partial(_unlink, path))


def _manifests(store: Store, target: Descriptor, depth: int = 0) -> list[Descriptor]:
    """The manifests below a target that are here. Raises for what is damaged."""
    if not target.is_index or depth > 3:
        return [target]
    data = store.read_blob(target.digest)
    if len(data) != target.size:
        raise ImageError(target.digest, f"has {len(data)} bytes and should have {target.size}")
    found: list[Descriptor] = []
    for each in oci.parse_index(data, target.media_type, target.digest)["manifests"]:
        entry = Descriptor.from_json(each)
        if store.has_blob(entry.digest):
            found += _manifests(store, entry, depth + 1)
    return found


def _manifest(store: Store, target: Descriptor) -> str:
    """What is wrong with a manifest or what it names, or ""."""
    try:
        data = store.read_blob(target.digest)
        if len(data) != target.size:
            return f"{target.digest} has {len(data)} bytes and should have {target.size}"
        manifest = oci.parse_manifest(data, target.media_type, target.digest)
        parts = [Descriptor.from_json(p) for p in (manifest["config"], *manifest["layers"])]
        for each in parts:
            if not store.has_blob(each.digest):
                return f"{each.digest} is missing"
            if not store.has_blob(each.digest, each.size):
                return f"{each.digest} has another size than the manifest says"
        if parts[0].media_type in oci.CONFIG_TYPES:
            config = oci.parse_config(store.read_blob(parts[0].digest, oci.CONFIG_MAX), parts[0].digest)
            if len(config["rootfs"]["diff_ids"]) != len(parts) - 1:
                return "its configuration has another number of layers"
    except FastctrError as error:
        return str(error)
    return ""


def _drop(store: Store, name: str | None, target: Descriptor) -> bool:
    store.refs.change(lambda old: [e for e in old if e != (name, target)])
    return True


def _layers(store: Store) -> Iterator[Finding]:
    known: dict[str, tuple[str, str | None, set[str]]] = {}
    for image in store.images():
        parent = None
        for chain, diff_id, layer in zip(image.chain_ids, image.diff_ids, image.layers, strict=True):
            known.setdefault(chain, (diff_id, parent, set()))[2].add(layer.digest)
            parent = chain
    for snapshotter, chain, path in list(gc.layers(store)):
        why = _layer(store, snapshotter, chain, path, known)
        if why:
            yield Finding(
                "layer",
                f"{snapshotter}/{chain or os.path.basename(path)}",
                why,
                partial(_drop_layer, store, snapshotter, chain, path),
            )


def _layer(
    store: Store, snapshotter: str, chain: str, path: str, known: dict[str, tuple[str, str | None, set[str]]]
) -> str:
    """What is wrong with a layer's directory, or ""."""
    if not chain:
        return "has a name that is no chain id"
    value = gc.read_json(f"{path}/layer.json")
    if value is None:
        return "has no layer.json that can be read"
    if value.get("chain") != chain:
        return f"its layer.json is of {value.get('chain')}"
    parent, diff_id = value.get("parent") or None, value.get("diff_id")
    if not digests.valid(diff_id) or (parent is not None and not digests.valid(parent)):
        return "its layer.json has no diff_id or parent that can be"
    made = digests.sha256(f"{parent} {diff_id}".encode()) if parent else diff_id
    if made != chain:
        return "its parent and diff_id do not make its chain id"
    if parent and not os.path.isdir(f"{store.root}/layers/{snapshotter}/{parent.partition(':')[2]}"):
        return f"the layer below it, {parent}, is missing"
    if len(os.listdir(path)) < 2:
        return "has nothing in it"
    image = known.get(chain)
    if image is not None and (diff_id, parent) != image[:2]:
        return "does not agree with the image it belongs to"
    return ""


def _drop_layer(store: Store, snapshotter: str, chain: str, path: str) -> bool:
    """Not from under a living process."""
    marks = gc.Marks(store)
    for name, each in living(store.root)[1]:
        marks.layer(name, each)
    if (snapshotter, chain) in marks.layers:
        return False
    try:
        gc.set_aside(store, path)
    except FileNotFoundError:
        pass
    return True


def _containers(store: Store) -> Iterator[Finding]:
    for name in listdir(f"{store.root}/containers"):
        path = f"{store.root}/containers/{name}"
        if os.path.isdir(path) and gc.read_json(f"{path}/container.json") is None:
            yield Finding("container", name, "has no container.json that can be read")


def _leftovers(store: Store) -> Iterator[Finding]:
    for path, size in gc.leftovers(store, 0.0):
        yield Finding(
            "leftover", path, f"left by a process that died ({size} bytes)" if size else "left by a process that died",
            partial(remove_tree, path),
        )  # fmt: skip
    dead = living(store.root)[2]
    if dead:

        def sweep() -> bool:
            living(store.root, sweep=True)
            return True

        yield Finding("leftover", f"{store.root}/leases", f"{dead} leases of dead processes", sweep)
    for name in listdir(store.root):
        if name.startswith("oci-layout.") or name == "index.json.broken":
            path = f"{store.root}/{name}"
            yield Finding("leftover", path, "left behind", partial(_unlink, path))


def verify(store: Store, digest: str) -> None:
    """Hash one blob. Raises DigestMismatch, ImageNotFound or ImageError."""
    path = store.blob_path(digest)
    try:
        found = _hash(path, digest.partition(":")[0])
    except OSError as error:
        raise ImageError(digest, error.strerror or str(error)) from None
    if found != digest:
        from ..errors import DigestMismatch

        raise DigestMismatch(digest, f"is {found} in the store")
