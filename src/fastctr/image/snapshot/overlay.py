"""Layers as directories for overlayfs: whiteouts and opaque marks in its own form, merged by the kernel.

Root's have trusted.overlay.*, an unprivileged user's user.overlay.*, as overlay's mount option userxattr
wants them; which is written down, since neither can be read the other way.
"""

from __future__ import annotations

import os

from ...errors import ImageError, StoreError
from .base import Layer, Snapshotter, needs_userxattr

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from ..unpack import Unpacked
    from ..workplace import Workplace


class Overlay(Snapshotter):
    """layers/overlay/<chain>/diff, one directory a layer. Needs overlayfs for containers that write, and for
    more than one layer."""

    name = "overlay"

    def roots(self, chains: Sequence[str]) -> list[str]:
        """The layers' directories, topmost first. Raises ImageError for an image without layers."""
        if not chains:
            raise ImageError("image", "has no layers, so there is nothing to run")
        return [f"{self.path(chain)}/diff" for chain in reversed(chains)]

    def _finish(self, place: Workplace, layer: Layer, made: Unpacked) -> dict[str, Any]:
        userxattr = needs_userxattr()
        self.wait_for_parent(layer)
        if layer.parent is not None:
            self._same_marks(layer.parent, userxattr)
        below = [f"{self.path(chain)}/diff" for chain in reversed(layer.parent_chains)]
        settle_into(f"{place.path}/diff", made, below, userxattr)
        return {"marks": "user" if userxattr else "trusted"}

    def _same_marks(self, chain: str, userxattr: bool) -> None:
        marks = self.info(chain).get("marks")
        if marks != ("user" if userxattr else "trusted"):
            whose = "an unprivileged user" if marks == "user" else "root"
            hint = "use a store of your own (--root, FASTCTR_ROOT)"
            raise StoreError(self.path(chain), f"was unpacked by {whose}", hint)


def settle_into(directory: str, made: Unpacked, parents: Sequence[str | int], userxattr: bool) -> None:
    """See settle(): what the archive left open is taken from the layers below (topmost first)."""
    from ..settle import settle

    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        settle(fd, made, parents, userxattr=userxattr)
    finally:
        os.close(fd)
