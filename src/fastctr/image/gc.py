"""What may go: mark from the names, leases and kept containers, sweep the rest.

Sweeping happens under the store's lock alone. Leases are read before the names: who gives an image its name
and then lets go of the lease is seen either way.
"""

from __future__ import annotations

import json
import os
import time

from ..errors import ImageError, StoreError
from . import digest as digests
from .ingest import store_error
from .leases import listdir, living
from .locks import FileLock, same_file, try_lock
from .oci import DOCUMENT_MAX, chain_ids
from .workplace import remove_tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from .store import Store

FRESH = 2.0
"""Seconds during which a directory in tmp/ that is not locked is left alone: it may be about to be."""


class Report:
    """What was removed.

    untagged, deleted   names and image ids (prune only)
    blobs, layers       digests; (snapshotter, chain) pairs
    leftovers           number of directories and half-written blobs of dead processes
    bytes               what that frees, as far as it is known
    """

    def __init__(self) -> None:
        self.untagged: list[str] = []
        self.deleted: list[str] = []
        self.blobs: list[str] = []
        self.layers: list[tuple[str, str]] = []
        self.leftovers = 0
        self.bytes = 0

    def __repr__(self) -> str:
        return f"Report(blobs={len(self.blobs)}, layers={len(self.layers)}, bytes={self.bytes})"


class Marks:
    """What is needed, and why not gone: blobs by digest; chains in any snapshotter, or in one."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.blobs: set[str] = set()
        self.chains: set[str] = set()
        self.layers: set[tuple[str, str]] = set()

    def blob(self, digest: str) -> None:
        """The blob, and if it is a document of an image everything it names. One that is not here or is
        damaged names nothing; one that cannot be read stops the sweep (OSError)."""
        todo = [digest]
        while todo:
            each = todo.pop()
            if each in self.blobs or not digests.valid(each):
                continue
            self.blobs.add(each)
            value = self._document(each)
            if not value:
                continue
            entries = value.get("manifests")
            if isinstance(entries, list):
                todo += _named(entries)
            layers = value.get("layers")
            if isinstance(layers, list):
                todo += _named([*layers, value.get("config")])
            rootfs = value.get("rootfs")
            if isinstance(rootfs, dict) and isinstance(rootfs.get("diff_ids"), list):
                self.chains.update(chain_ids(d for d in rootfs["diff_ids"] if isinstance(d, str)))

    def _document(self, digest: str) -> dict[str, Any] | None:
        try:
            with open(self.store.blob_path(digest), "rb", buffering=0) as file:
                if os.fstat(file.fileno()).st_size > 2 * DOCUMENT_MAX or file.read(1) not in (b"{", b" ", b"\n"):
                    return None
                file.seek(0)
                data = file.readall()
            value = json.loads(data)
        except (FileNotFoundError, ValueError, RecursionError):
            return None
        return value if isinstance(value, dict) else None

    def layer(self, snapshotter: str, chain: str) -> None:
        """The layer and all below it."""
        while (snapshotter, chain) not in self.layers and digests.valid(chain):
            self.layers.add((snapshotter, chain))
            chain = parent_of(f"{self.store.root}/layers/{snapshotter}/{chain.partition(':')[2]}") or ""

    def wanted(self, snapshotter: str, chain: str) -> bool:
        return chain in self.chains or (snapshotter, chain) in self.layers


def _named(entries: list[Any]) -> list[str]:
    found = [each.get("digest") for each in entries if isinstance(each, dict)]
    return [each for each in found if isinstance(each, str)]


def read_json(path: str) -> dict[str, Any] | None:
    """The object in a small file; None if there is none, or it is damaged."""
    try:
        with open(path, "rb") as file:
            value = json.loads(file.read(DOCUMENT_MAX))
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def parent_of(layer: str) -> str | None:
    """The chain below a layer's directory, by its layer.json."""
    parent = (read_json(f"{layer}/layer.json") or {}).get("parent")
    return parent if isinstance(parent, str) and parent else None


def container_digests(root: str) -> dict[str, set[str]]:
    """By each kept container's id, all digests its container.json names: images and chains alike."""
    found = {}
    for name in listdir(f"{root}/containers"):
        value = read_json(f"{root}/containers/{name}/container.json")
        if value is not None:
            found[name] = set(_digests_in(value))
    return found


def _digests_in(value: object) -> Iterator[str]:
    todo = [value]
    while todo:
        each = todo.pop()
        if isinstance(each, dict):
            todo += each.values()
        elif isinstance(each, list):
            todo += each
        elif isinstance(each, str):
            word = each.rpartition("@")[2]
            if digests.valid(word):
                yield word


def mark(store: Store, sweep: bool = False) -> tuple[Marks, int]:
    """(everything that is needed, number of dead leases). With `sweep` those are removed."""
    marks = Marks(store)
    blobs, layers, dead = living(store.root, sweep)
    containers = container_digests(store.root)
    for _, target in store.refs.entries():
        marks.blob(target.digest)
    for digest in blobs:
        marks.blob(digest)
    for snapshotter, chain in layers:
        marks.layer(snapshotter, chain)
    snapshotters = listdir(f"{store.root}/layers")
    for found in containers.values():
        for digest in found:
            marks.blob(digest)
            for snapshotter in snapshotters:
                marks.layer(snapshotter, digest)
    return marks, dead


def blobs(store: Store) -> Iterator[tuple[str, str, int]]:
    """(digest or "", path, bytes) of each file below blobs/; no digest if its name cannot be one."""
    for algorithm in listdir(f"{store.root}/blobs"):
        folder = f"{store.root}/blobs/{algorithm}"
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    digest = f"{algorithm}:{entry.name}"
                    try:
                        size = entry.stat(follow_symlinks=False).st_size
                    except FileNotFoundError:
                        continue
                    yield (digest if digests.valid(digest) else "", entry.path, size)
        except NotADirectoryError:
            yield "", folder, 0


def layers(store: Store) -> Iterator[tuple[str, str, str]]:
    """(snapshotter, chain or "", path) of each directory in layers/."""
    for snapshotter in listdir(f"{store.root}/layers"):
        for name in listdir(f"{store.root}/layers/{snapshotter}"):
            chain = f"sha256:{name}"
            yield snapshotter, chain if digests.valid(chain) else "", f"{store.root}/layers/{snapshotter}/{name}"


def layer_size(path: str) -> int:
    """Bytes, as layer.json says."""
    size = (read_json(f"{path}/layer.json") or {}).get("size")
    return size if isinstance(size, int) and not isinstance(size, bool) and size > 0 else 0


def leftovers(store: Store, older_than: float) -> Iterator[tuple[str, int]]:
    """(path, bytes) of what nobody works on any more in tmp/ and ingest/; half-fetched blobs only when they are
    `older_than` seconds old, because they can be gone on with."""
    now = time.time()
    for folder, age in (("tmp", FRESH), ("ingest", older_than)):
        for name in listdir(f"{store.root}/{folder}"):
            path = f"{store.root}/{folder}/{name}"
            try:
                fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
            except OSError:
                if folder == "tmp" and os.path.lexists(path):
                    yield path, 0
                continue
            try:
                found = os.fstat(fd)
                resumable = not name.startswith("new-")
                old = now - found.st_ctime >= (age if resumable else min(age, FRESH))
                if name.startswith("gone-") or (old and try_lock(fd) and same_file(fd, path)):
                    yield path, found.st_size if folder == "ingest" else 0
            finally:
                os.close(fd)


def collect(store: Store, older_than: float = 86400.0) -> Report:
    """See Store.gc. Raises StoreError."""
    report = Report()
    if not os.path.isdir(f"{store.root}/leases"):
        return report
    doomed: list[str] = []
    try:
        if any(name.startswith("mount-") for name in listdir(f"{store.root}/tmp")):
            from .snapshot.mounted import sweep

            sweep(store)
        with FileLock(f"{store.root}/lock"):
            if not store.refs.stamp()[0] and any(blobs(store)):  # or everything would go
                raise StoreError(store.refs.path, "is missing", "fastctr system fsck --repair makes it anew")
            marks, _ = mark(store, sweep=True)
            for digest, path, size in list(blobs(store)):
                if digest in marks.blobs:
                    continue
                os.unlink(path)
                report.blobs.append(digest)
                report.bytes += size
            for snapshotter, chain, path in list(layers(store)):
                if marks.wanted(snapshotter, chain):
                    continue
                report.bytes += layer_size(path)
                doomed.append(set_aside(store, path))
                report.layers.append((snapshotter, chain))
            drop_half_written_index(store)
            for path, size in list(leftovers(store, older_than)):
                if path in doomed:
                    continue
                report.leftovers += 1
                report.bytes += size
                if path.startswith(f"{store.root}/ingest/"):
                    os.unlink(path)
                else:
                    doomed.append(path)
    except OSError as error:
        raise store_error(error, error.filename or store.root) from None
    finally:
        for path in doomed:  # out of the lock: it takes a while, and nobody looks there
            remove_tree(path)
    return report


def set_aside(store: Store, path: str) -> str:
    """Take a layer out of its place, into tmp/ where nobody looks for it. Returns where it is now."""
    gone = f"{store.root}/tmp/gone-{os.getpid()}-{os.urandom(6).hex()}"
    os.rename(path, gone)
    return gone


def drop_half_written_index(store: Store) -> None:
    """What a process left that died while it wrote the index."""
    path = f"{store.refs.path}.new"
    if os.path.exists(path):
        with FileLock(f"{store.root}/index.lock"):
            try:
                os.unlink(path)
            except FileNotFoundError:
                pass


def closure(store: Store, digest: str) -> Marks:
    """Everything one image or index needs. Raises ImageError if it cannot be read."""
    marks = Marks(store)
    try:
        marks.blob(digest)
    except OSError as error:
        raise ImageError(digest, str(error)) from None
    return marks
