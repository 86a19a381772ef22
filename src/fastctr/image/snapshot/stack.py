"""The layers of one image on their way, in several threads.

Whoever has put a layer's files into place goes on to the next layer, also while the one below is not there yet:
such a layer is parked, and is finished by whoever finishes the one below. So nobody waits within this process. Of
layers that another process makes one thread waits at its claim, as for any; the parked ones above stay claimed.

It never comes to a standstill when layers are asked for bottom first: of those that are not there the lowest is
parked by nobody, and who has claimed it waits for nothing.
"""

from __future__ import annotations

import os
import threading

from ...errors import StoreError
from ..progress import emit, short
from .base import Making

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ..progress import Progress
    from .base import Layer, Snapshotter

__all__ = ["Stack", "workers"]

_PARKED = 48
"""Layers that may be parked: each has two open files."""


def workers(layers: int) -> int:
    """How many threads unpack an image of so many layers. Each has two more behind it (see unpack.py)."""
    cpus = len(os.sched_getaffinity(0))
    return min(layers, max(2, min(4, cpus)))


class Stack:
    """with Stack(snapshotter, progress, check) as stack: … stack.make(layer), of each layer, bottom first …

    At the end of the block no thread may be in make() any more; what is parked then is given up.
    """

    def __init__(self, snapshotter: Snapshotter, progress: Progress | None, check: Callable[[], None]) -> None:
        """check() raises where the work is to be given up."""
        self.snapshotter = snapshotter
        self._progress, self._check = progress, check
        self._changed = threading.Condition()
        self._there: set[str] = set()
        self._parked: dict[str, Making] = {}  # by the chain id of the layer below

    def make(self, layer: Layer) -> bool:
        """Have this layer unpacked, now or when the one below is. False if that had been done before.

        Raises what Snapshotter.unpack raises, also of a layer that was parked.
        """
        made = self.snapshotter
        if made.has(layer.chain):
            self._go_on(layer.chain)
            return False
        size = made.store.blob_size(layer.blob) if self._progress is not None else 0
        emit(self._progress, "unpacking", short(layer.blob), 0, size)
        making = Making(made, layer, self._progress)
        with self._changed:  # the lowest one does not wait
            while len(self._parked) >= _PARKED and not self._has(layer.parent):
                self._check()
                self._changed.wait(0.1)
        if not made.alone or making.fill():
            with self._changed:
                if not self._has(layer.parent):
                    self._parked[str(layer.parent)] = making
                    return True
            making.finish()
        self._told(layer)
        self._go_on(layer.chain)
        return True

    def _has(self, chain: str | None) -> bool:
        return chain is None or chain in self._there or self.snapshotter.has(chain)

    def _go_on(self, chain: str) -> None:
        """A layer is there: finish what is parked upon it, and upon that."""
        while True:
            with self._changed:
                self._there.add(chain)
                making = self._parked.pop(chain, None)
                self._changed.notify_all()
            if making is None:
                return
            making.finish()
            self._told(making.layer)
            chain = making.layer.chain

    def _told(self, layer: Layer) -> None:
        if self._progress is not None:
            size = self.snapshotter.store.blob_size(layer.blob)
            emit(self._progress, "unpacked", short(layer.blob), size, size)

    def __enter__(self) -> Stack:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        left = list(self._parked.values())
        self._parked.clear()
        for making in left:
            making.close()
        if left and error is None:
            layer = left[0].layer
            raise StoreError(
                self.snapshotter.path(str(layer.parent)), f"is missing, and the layer {layer.chain} goes on top of it"
            )
