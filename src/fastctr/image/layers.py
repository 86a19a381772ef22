"""What a stack of overlay layers shows, without mounting it: whiteouts and opaque directories followed.

For few paths, such as those of an upper directory, or for one walk over everything.
"""

from __future__ import annotations

import os
import stat

from ..errors import ImageError
from .rootfd import get_xattr, link_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Layers", "is_opaque", "is_whiteout"]

_OPAQUE = ("trusted.overlay.opaque", "user.overlay.opaque")


def is_whiteout(info: os.stat_result) -> bool:
    """Whether this is overlay's mark of a deletion, a 0/0 character device."""
    return info.st_rdev == 0 and stat.S_ISCHR(info.st_mode)


def is_opaque(target: int | str) -> bool:
    """Whether a directory (descriptor or path) hides what is below it in other layers."""
    return any(get_xattr(target, name) == b"y" for name in _OPAQUE)


class Layers:
    """Directories in overlay's form, topmost first, each a path or a descriptor.

    Raises ImageError for a root that is no directory (an image file has to be mounted first).
    """

    def __init__(self, roots: Sequence[str | int | os.PathLike[str]]) -> None:
        self._roots = [link_path(r) if isinstance(r, int) else os.fspath(r) for r in roots]
        for root in self._roots:
            if not os.path.isdir(root):
                raise ImageError(root, "is not a directory of a layer")
        self._directories: dict[str, tuple[str, ...]] = {"": tuple(self._roots)}

    def _in(self, path: str) -> tuple[str, ...]:
        """The layers in which `path` is a directory that can be seen, topmost first."""
        found = self._directories.get(path)
        if found is not None:
            return found
        made: list[str] = []
        for root in self._in(path.rpartition("/")[0]):
            full = f"{root}/{path}"
            try:
                info = os.lstat(full)
            except (FileNotFoundError, NotADirectoryError):
                continue
            if not stat.S_ISDIR(info.st_mode):
                break
            made.append(root)
            if len(self._roots) > 1 and is_opaque(full):
                break
        self._directories[path] = tuple(made)
        return self._directories[path]

    def place(self, path: str) -> str | None:
        """Where the entry that is seen at `path` (relative, not resolved) lies, or None."""
        if not path:
            return self._roots[0] if self._roots else None
        for root in self._in(path.rpartition("/")[0]):
            full = f"{root}/{path}"
            try:
                info = os.lstat(full)
            except (FileNotFoundError, NotADirectoryError):
                continue
            return None if is_whiteout(info) else full
        return None

    def stat(self, path: str) -> os.stat_result | None:
        """lstat(2) of what is seen at `path`, or None."""
        full = self.place(path)
        return None if full is None else os.lstat(full)

    def names(self, path: str) -> dict[str, os.stat_result]:
        """What is seen in the directory `path`: name -> lstat. Empty if it is none."""
        found: dict[str, os.stat_result] = {}
        hidden: set[str] = set()
        for root in self._in(path):
            with os.scandir(f"{root}/{path}") as entries:
                for each in entries:
                    if each.name in found or each.name in hidden:
                        continue
                    info = each.stat(follow_symlinks=False)
                    if is_whiteout(info):
                        hidden.add(each.name)
                    else:
                        found[each.name] = info
        return found
