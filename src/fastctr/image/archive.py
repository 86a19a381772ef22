"""Image archives in and out: what `docker load` and `docker save`, skopeo and podman read and write.

load() takes docker-archive (docker save, old and new, and before 1.10) and oci-archive (a layout as a tar, or
as a directory), plain or packed with gzip, zstd, xz or bzip2, from a file or a pipe.
"""

from __future__ import annotations

import os

from ..errors import ArchiveError, FastctrError
from . import oci
from .archive_blobs import diff_id_of, mismatch
from .archive_read import FileBundle, FolderBundle, StreamBundle
from .archive_save import save
from .layer_write import layer_type
from .progress import emit
from .resolved import Resolved, read_image
from .rootfd import as_root
from .source import Source, inflated

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from .archive_blobs import Stored
    from .archive_read import Bundle
    from .leases import Lease
    from .progress import Progress
    from .snapshot.stack import Stack
    from .source import What
    from .store import Store

__all__ = ["load", "save"]

_TAKERS = 2


class Loaded:
    """The images found so far. Their names are set when all of them are whole."""

    def __init__(
        self, store: Store, lease: Lease, progress: Progress | None, unpack: bool, snapshotter: str | None
    ) -> None:
        self.store = store
        self.lease = lease
        self.progress = progress
        self.unpack = unpack
        self.snapshotter = snapshotter
        self.found: list[tuple[oci.Descriptor, list[str]]] = []

    def add(self, target: oci.Descriptor, names: list[str]) -> None:
        self.found.append((target, names))

    def layers(
        self, takes: Sequence[Callable[[], Stored]], diff_ids: list[str], config: dict[str, Any], *, check: bool
    ) -> list[Stored]:
        """Have an image's layers in the store, two at a time, and unpack each as soon as it is there.
        check: see that the diff id is right also where nothing is unpacked."""
        from .parallel import Crew
        from .platform import Platform, host_platform
        from .snapshot.stack import Stack, workers

        unpack = self.unpack and bool(takes) and host_platform().rank(Platform.from_json(config)) is not None
        chains = oci.chain_ids(diff_ids)
        stored: list[Stored | None] = [None] * len(takes)
        taking, unpacking = iter(range(len(takes))), iter(range(len(takes)))
        crew = Crew(lambda: None)

        def take() -> None:
            while True:
                with crew.changed:
                    place = next(taking, None)
                if place is None:
                    return
                crew.check()
                got = takes[place]()
                if check and not unpack and diff_id_of(self.store, got) != diff_ids[place]:
                    raise mismatch(got.digest, diff_ids[place], str(got.diff_id))
                with crew.changed:
                    stored[place] = got
                    crew.changed.notify_all()

        def make() -> None:
            while True:
                with crew.changed:
                    place = next(unpacking, None)
                    if place is None:
                        return
                    # all below it, too: what waits for a layer that fails to come would wait in vain
                    while (got := stored[place]) is None or None in stored[:place]:
                        crew.check()
                        crew.changed.wait()
                self._unpack(stack, got, diff_ids[place], chains[: place + 1], check)

        if not unpack:
            crew.start(min(_TAKERS, len(takes)), take)
            crew.join()
            return [each for each in stored if each is not None]
        from .snapshot import get

        with Stack(get(self.store, self.snapshotter), self.progress, crew.check) as stack:
            crew.start(min(_TAKERS, len(takes)), take)
            crew.start(workers(len(takes)), make)
            crew.join()
        return [each for each in stored if each is not None]

    def _unpack(self, stack: Stack, stored: Stored, diff_id: str, chains: list[str], check: bool) -> None:
        from .snapshot.base import Layer

        self.lease.layer(stack.snapshotter.name, chains[-1])
        layer = Layer(stored.digest, layer_type(stored.kind), diff_id, chains[-1], chains[:-1])
        layer.verified = stored.fresh and stored.digest == diff_id
        new = stack.make(layer)
        if not new and check and diff_id_of(self.store, stored) != diff_id:
            raise mismatch(stored.digest, diff_id, str(stored.diff_id))

    def finish(self) -> list[Resolved]:
        from .facts import foresee, spellings

        entries: list[tuple[str | None, oci.Descriptor]] = []
        for target, names in self.found:
            entries += [(name, target) for name in names] or [(None, target)]
        self.store.refs.set_all(list(entries))
        images = []
        for target, names in self.found:
            every = self.store.refs.names(target.digest)
            where = names[0] if names else target.digest
            images.append(read_image(self.store, target, None, every, where))
            emit(self.progress, "done", where, text=target.digest)
        if self.unpack:
            texts = [text for _, names in self.found for name in names for text in spellings(name)]
            foresee(self.store, [*texts, *(each.config_digest for each in images)], self.snapshotter)
        return images


def load(
    store: Store,
    source: What,
    *,
    progress: Progress | None = None,
    unpack: bool = True,
    snapshotter: str | None = None,
) -> list[Resolved]:
    """Load every image of an archive; returns them in its order.

    source   a path, "-" for standard input, a descriptor, a binary file object, an http(s) URL; or the
             directory of an OCI layout
    unpack   also unpack the layers (of images for this machine), with `snapshotter`, ready to be run
    Names come from the archive; an image without one is kept by its id. Either all images are loaded or no
    name is changed. Raises ArchiveError (no image archive, damaged, incomplete, hostile), DigestMismatch,
    StoreError.
    """
    from .pull import serialised

    told = serialised(progress)
    with store.lease() as lease:
        loaded = Loaded(store, lease, told, unpack, snapshotter)
        if isinstance(source, str | os.PathLike) and source != "-" and os.path.isdir(source):
            with as_root(source) as fd:
                _load(FolderBundle(store, fd, os.fspath(source), told), loaded)
        else:
            with Source(source) as opened:
                _load(_bundle(store, opened, told), loaded)
        return loaded.finish()


def _bundle(store: Store, source: Source, progress: Progress | None) -> Bundle:
    if source.seekable and source.kind == "none" and source.has_descriptor:
        return FileBundle(store, source, progress)
    return StreamBundle(store, source.name, inflated(source).read, progress)


def _load(bundle: Bundle, loaded: Loaded) -> None:
    from . import archive_docker, archive_oci

    try:
        if bundle.has("oci-layout") and bundle.has("index.json"):
            archive_oci.load_layout(bundle, loaded)
        elif bundle.has("manifest.json"):
            archive_docker.load_manifest(bundle, loaded)
        elif bundle.has("repositories"):
            archive_docker.load_legacy(bundle, loaded)
        else:
            raise ArchiveError(
                bundle.name,
                "is not an image archive",
                "a root file system's tar becomes an image by import",
            )
    except OSError as error:
        if isinstance(error, FastctrError):
            raise
        raise ArchiveError(bundle.name, f"cannot be read: {error.strerror or error}") from None
