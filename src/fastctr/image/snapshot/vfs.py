"""Layers as whole trees, each a copy of the one below with the layer applied: works on any filesystem.

It takes room and time (less where files can share blocks), so it is for places without overlayfs. Containers
that write get a copy of their own.
"""

from __future__ import annotations

import os

from ...errors import ImageError
from .base import Layer, Snapshotter, unpack_blob
from .tree import copy_tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType
    from typing import Any

    from ..progress import Progress
    from ..store import Store
    from ..unpack import Unpacked
    from ..workplace import Workplace

_PREFIX = "copy"


class Vfs(Snapshotter):
    """layers/vfs/<chain>/diff: everything up to and with this layer."""

    name = "vfs"
    copies = True
    alone = False

    def roots(self, chains: Sequence[str]) -> list[str]:
        """The one merged directory; containers may read it, none may write to it."""
        if not chains:
            raise ImageError("image", "has no layers, so there is nothing to run")
        return [f"{self.path(chains[-1])}/diff"]

    def prepare(self, chain: str) -> Copy:
        """A container's own copy: run it with rootfs=copy.path and writable="direct", then close() the copy."""
        sweep(self.store)
        return Copy(self.store, f"{self.path(chain)}/diff")

    def _fill(self, place: Workplace, layer: Layer, progress: Progress | None) -> Unpacked:
        self.wait_for_parent(layer)
        target, size = f"{place.path}/diff", 0
        if layer.parent is not None:
            size = copy_tree(f"{self.path(layer.parent)}/diff", target)
        else:
            os.mkdir(target, 0o755)
            os.chmod(target, 0o755)
        made = unpack_blob(self.store, layer, target, progress, mode="merge")
        made.size += size
        return made

    def _finish(self, place: Workplace, layer: Layer, made: Unpacked) -> dict[str, Any]:
        return {}


class Copy(os.PathLike[str]):
    """A tree of one container's own, at `path`; gone with close() or the end of a `with`. Should this process
    die, the next prepare() or gc removes it."""

    def __init__(self, store: Store, source: str) -> None:
        from ..workplace import Workplace

        self._place = Workplace(store, _PREFIX)
        self._place.__enter__()
        self.path = f"{self._place.path}/root"
        try:
            copy_tree(source, self.path)
        except BaseException:
            self.close()
            raise

    def __fspath__(self) -> str:
        return self.path

    def close(self) -> None:
        """Remove it. Harmless if done twice."""
        if self._place.fd >= 0:
            self._place.__exit__(None, None, None)

    def __enter__(self) -> str:
        return self.path

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def sweep(store: Store) -> int:
    """Remove the copies of processes that died. Returns how many there were."""
    from ..locks import same_file, try_lock
    from ..workplace import remove_tree

    try:
        names = os.listdir(f"{store.root}/tmp")
    except FileNotFoundError:
        return 0
    count = 0
    for name in names:
        pid = name.split("-")
        if not (len(pid) == 3 and pid[0] == _PREFIX and pid[1].isdigit()) or os.path.exists(f"/proc/{pid[1]}"):
            continue  # one that is about to be locked has a living maker
        path = f"{store.root}/tmp/{name}"
        try:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            if try_lock(fd) and same_file(fd, path):
                count += remove_tree(path)
        finally:
            os.close(fd)
    return count
