"""What the writer of layers is told to leave out and to change: patterns, owners, file capabilities."""

from __future__ import annotations

from ..errors import ImageError
from .tar_write import shown_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

__all__ = ["Excludes", "id_table", "plain_caps"]


def id_table(ranges: Sequence[tuple[int, int, int]]) -> Callable[[int, bytes], int]:
    """From the ids on disk to those the archive gets, by (inside, outside, count) ranges."""
    seen: dict[int, int] = {}

    def find(outside: int, name: bytes) -> int:
        got = seen.get(outside)
        if got is not None:
            return got
        for inside, start, count in ranges:
            if start <= outside < start + count:
                seen[outside] = inside + outside - start
                return seen[outside]
        raise ImageError(shown_name(name), f"belongs to id {outside}, which the id map does not have")

    return find


def plain_caps(value: bytes, root: int) -> bytes:
    """File capabilities as every system reads them: version 3, bound to the root of one user namespace,
    becomes version 2 where that root is ours (capabilities(7), "File capability extended attribute")."""
    if len(value) == 24 and value[3] == 3 and int.from_bytes(value[20:24], "little") == root:
        return value[:3] + b"\x02" + value[4:20]
    return value


class Excludes:
    """Shell patterns of what to leave out, with everything below: with a slash at the start or within they
    are about the whole path from the root, without one about a name anywhere."""

    def __init__(self, patterns: Iterable[str]) -> None:
        import fnmatch
        import re

        whole: list[str] = []
        names: list[str] = []
        for pattern in patterns:
            text = pattern.rstrip("/")
            if text.strip("/"):
                (whole if "/" in text else names).append(fnmatch.translate(text.lstrip("/")))
        self._whole = re.compile("|".join(whole)).match if whole else None
        self._names = re.compile("|".join(names)).match if names else None
        self.any = bool(whole or names)

    def __call__(self, path: str, name: str) -> bool:
        return bool((self._whole and self._whole(path)) or (self._names and self._names(name)))
