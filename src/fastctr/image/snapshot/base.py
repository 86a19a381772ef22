"""What all snapshotters have in common: where layers lie, and how one is made.

A layer is unpacked into a directory of its own in tmp/, at the same time as others, and gets its name when
the one below it has its name. Claims keep two processes from unpacking the same one: who comes second
waits, and finds it done. A claim goes with its process, so nobody waits for the dead.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod

from ...errors import FastctrError, ImageError, StoreError
from ..locks import is_locked, same_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType
    from typing import Any

    from ..progress import Progress
    from ..store import Store
    from ..unpack import Unpacked
    from ..workplace import Workplace

    Names = list[str]

__all__ = ["Layer", "Making", "Snapshotter"]

PATIENCE = 20.0
"""Seconds to wait for a layer below that nobody seems to be working on."""
_failed: dict[str, float] = {}
"""Layers, by path, that this process could not unpack, and when (monotonic): who waits for one need not."""


class Layer:
    """One layer of an image: the packed blob's digest and media type, the digest of the plain archive,
    the chain id of it with all below, and theirs (bottom first). begun: when its unpacking was. verified: whether
    the blob is plain and this process has just seen that its bytes are those of the diff id."""

    __slots__ = ("begun", "blob", "chain", "diff_id", "media_type", "parent_chains", "verified")

    def __init__(self, blob: str, media_type: str, diff_id: str, chain: str, parent_chains: Sequence[str] = ()) -> None:
        self.blob, self.media_type, self.diff_id, self.chain = blob, media_type, diff_id, chain
        self.parent_chains = list(parent_chains)
        self.begun = 0.0
        self.verified = False

    @property
    def parent(self) -> str | None:
        """The chain id of what is below it."""
        return self.parent_chains[-1] if self.parent_chains else None

    def __repr__(self) -> str:
        return f"Layer({self.blob!r}, chain={self.chain!r})"


class Snapshotter(ABC):
    """Unpacked layers in one form, below layers/<name>/ of a store.

    name    as in FASTCTR_SNAPSHOTTER and snapshotter=
    copies  True where a container that writes needs files of its own: see Vfs.prepare
    alone   whether a layer's files can be put in place before the layer below is there
    """

    name = ""
    copies = False
    alone = True

    def __init__(self, store: Store) -> None:
        self.store = store
        self.folder = f"{store.root}/layers/{self.name}"

    def path(self, chain: str) -> str:
        """The directory of a layer, whether it is there or not."""
        return f"{self.folder}/{chain.partition(':')[2]}"

    def has(self, chain: str) -> bool:
        """Whether this layer is unpacked. Layers get their name when they are whole."""
        return os.path.isdir(self.path(chain))

    def list(self) -> list[str]:
        """The chain ids of all unpacked layers."""
        try:
            names = os.listdir(self.folder)
        except FileNotFoundError:
            return []
        return [f"sha256:{name}" for name in sorted(names) if len(name) == 64]

    def info(self, chain: str) -> dict[str, Any]:
        """Its layer.json: chain, parent, diff_id, blob, size, files, made, and what a snapshotter adds."""
        from ..gc import read_json

        found = read_json(f"{self.path(chain)}/layer.json")
        if found is None:
            raise StoreError(self.path(chain), "is no layer that can be read", "fastctr system fsck --repair")
        return found

    def usage(self, chain: str) -> tuple[int, int]:
        """(bytes, number of files) of the layer itself."""
        found = self.info(chain)
        return int(found["size"]), int(found["files"])

    def remove(self, chain: str) -> None:
        """Remove one layer. That nobody needs it any more is for the caller to know: see gc.py."""
        from ..gc import set_aside
        from ..workplace import remove_tree

        try:
            remove_tree(set_aside(self.store, self.path(chain)))
        except FileNotFoundError:
            pass

    @abstractmethod
    def roots(self, chains: Sequence[str]) -> Names:
        """What Spec(rootfs=…) takes for the stack of these chain ids (bottom first): topmost first."""

    # -- making one

    def unpack(self, store: Store, layer: Layer, progress: Progress | None = None) -> None:
        """Have this layer unpacked. Any number of threads and processes may ask for layers of one image in
        any order, if somebody asks for those below it too. Returns when it is there.

        Raises ArchiveError, DigestMismatch, ImageNotFound (the blob is not in the store), StoreError.
        """
        if not self.has(layer.chain):
            Making(self, layer, progress).finish()

    def _fill(self, place: Workplace, layer: Layer, progress: Progress | None) -> Unpacked:
        """Put the layer's own files below place.path: needs nothing of the layers below."""
        return unpack_blob(self.store, layer, f"{place.path}/diff", progress)

    @abstractmethod
    def _finish(self, place: Workplace, layer: Layer, made: Unpacked) -> dict[str, Any]:
        """What needs the layers below. Returns what else goes into layer.json."""

    def wait_for_parent(self, layer: Layer) -> None:
        """Until the layer below is there. Raises StoreError when nobody is unpacking it."""
        if layer.parent is None or self.has(layer.parent):
            return
        import time

        path, since = self.path(layer.parent), layer.begun  # it may have failed while we unpacked
        deadline = _now() + PATIENCE
        while not self.has(layer.parent):
            if any(_claimed(self.store, self.name, chain) for chain in layer.parent_chains):
                deadline = _now() + PATIENCE
            if _failed.get(path, 0.0) > since or _now() > deadline:
                raise StoreError(path, f"is missing, and the layer {layer.chain} goes on top of it")
            time.sleep(0.005)


class Making:
    """One layer on its way: fill() claims it and puts its own files into a directory of tmp/, finish() sets them
    upon those below and gives it its name, close() gives up what is not finished. For one thread at a time.
    Both raise what Snapshotter.unpack does, and have given up then."""

    def __init__(self, made: Snapshotter, layer: Layer, progress: Progress | None = None) -> None:
        self.layer = layer
        self._made, self._progress = made, progress
        self._final = made.path(layer.chain)
        self._claim: _Claim | None = None
        self._place: Workplace | None = None
        self._files: Unpacked | None = None

    def fill(self) -> bool:
        """False if it is there already: somebody else has made it meanwhile."""
        from ..workplace import Workplace

        made, layer = self._made, self.layer
        for lease in list(made.store.open_leases):
            lease.layer(made.name, layer.chain)
        layer.begun = _now()
        try:
            claim = _Claim(made.store, made.name, layer.chain)
            claim.__enter__()
            self._claim = claim
            if made.has(layer.chain):
                self.close()
                return False
            place = Workplace(made.store, made.name)
            self._place = place.__enter__()
            self._files = made._fill(place, layer, self._progress)
        except BaseException as error:
            self._failed(error)
            raise
        return True

    def finish(self) -> None:
        """Waits for the layer below, if need be; filled now if it was not before."""
        if self._files is None and not self.fill():
            return
        place, layer, files = self._place, self.layer, self._files
        assert place is not None and files is not None
        try:
            extra = self._made._finish(place, layer, files)
            write_json(
                f"{place.path}/layer.json",
                {
                    "chain": layer.chain,
                    "parent": layer.parent,
                    "diff_id": layer.diff_id,
                    "blob": layer.blob,
                    "size": files.size,
                    "files": files.files,
                    "made": _when(),
                    **extra,
                },
            )
            place.publish(self._final)
        except BaseException as error:
            self._failed(error)
            raise
        self.close()
        _failed.pop(self._final, None)

    def _failed(self, error: BaseException) -> None:
        self.close()
        _failed[self._final] = _now()
        if isinstance(error, OSError) and not isinstance(error, FastctrError):  # as of a full disk
            from ..ingest import store_error

            raise store_error(error, error.filename or self._final) from None

    def close(self) -> None:
        """Harmless if done twice."""
        place, self._place = self._place, None
        claim, self._claim = self._claim, None
        try:
            if place is not None:
                place.__exit__(None, None, None)
        finally:
            if claim is not None:
                claim.__exit__(None, None, None)


def unpack_blob(
    store: Store,
    layer: Layer,
    directory: str,
    progress: Progress | None,
    mode: str = "layer",
    userxattr: bool | None = None,
) -> Unpacked:
    """Unpack the blob into a new directory (mode "layer") or over an existing one (mode "merge")."""
    from ..oci import is_foreign
    from ..unpack import unpack

    if is_foreign(layer.media_type):
        raise ImageError(layer.blob, "is a layer that may not be passed on, and is not fetched from elsewhere")
    size = store.blob_size(layer.blob)
    if mode == "layer":
        os.mkdir(directory, 0o755)
        os.chmod(directory, 0o755)
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return unpack(
            store.blob_path(layer.blob),
            fd,
            mode=mode,
            diff_id=layer.diff_id,
            verified=layer.verified,
            userxattr=needs_userxattr() if userxattr is None else userxattr,
            where=layer.blob,
            progress=progress,
            total=size,
        )
    finally:
        os.close(fd)


def privileged() -> bool:
    """Whether this process may mount for the whole machine: root of it, with CAP_SYS_ADMIN (capabilities(7))."""
    from ...rights import machine_root, sys_admin

    return machine_root() and sys_admin()


def needs_userxattr() -> bool:
    """Whether overlay's marks have to be user.overlay.*: trusted.* is for root alone (xattr(7))."""
    from ...rights import machine_root

    return not machine_root()


def write_json(path: str, value: dict[str, Any]) -> None:
    import json

    with open(path, "w") as file:
        json.dump(value, file)


def _when() -> str:
    import time

    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _now() -> float:
    import time

    return time.monotonic()


# ---- claims


def _claim_path(store: Store, name: str, chain: str) -> str:
    return f"{store.root}/tmp/claim-{name}-{chain.partition(':')[2]}"


class _Claim:
    """Held by whoever unpacks this layer: with _Claim(store, name, chain): …"""

    def __init__(self, store: Store, name: str, chain: str) -> None:
        store.prepare()
        self.path = _claim_path(store, name, chain)
        self.fd = -1

    def __enter__(self) -> _Claim:
        import fcntl

        from ..ingest import store_error

        while True:
            fd = -1
            try:
                fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                fcntl.flock(fd, fcntl.LOCK_EX)
                if same_file(fd, self.path):
                    self.fd = fd
                    return self
            except OSError as error:
                if fd >= 0:
                    os.close(fd)
                raise store_error(error, self.path) from None
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)  # the one before has removed it meanwhile

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        fd, self.fd = self.fd, -1
        try:
            os.unlink(self.path)
        except OSError:
            pass
        os.close(fd)


def _claimed(store: Store, name: str, chain: str) -> bool:
    """Whether somebody alive is unpacking it."""
    return is_locked(_claim_path(store, name, chain))
