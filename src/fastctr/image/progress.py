"""What a pull, push or load tells of its progress: a stream of events. Drawing them is the caller's."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Event", "Meter", "Progress", "emit", "short"]


class Event:
    """One thing that happened.

    action   "resolving", "downloading", "verifying", "unpacking", "unpacked", "done", "exists", "retrying", "pushing",
             "mounted", "warning"
    id       what it is about: the first 12 digits of a digest, or a reference
    current  bytes so far
    total    bytes in all, 0 where it is not known
    text     a word for people, or ""
    """

    __slots__ = ("action", "current", "id", "text", "total")

    def __init__(self, action: str, id: str, current: int = 0, total: int = 0, text: str = "") -> None:  # noqa: A002
        self.action, self.id = action, id
        self.current, self.total, self.text = current, total, text

    def __repr__(self) -> str:
        return f"Event({self.action!r}, {self.id!r}, {self.current}, {self.total}, {self.text!r})"


if TYPE_CHECKING:
    Progress = Callable[[Event], None]
else:
    Progress = object


def short(digest: str) -> str:
    """ "sha256:0123456789abcdef…" -> "0123456789ab"."""
    return digest.partition(":")[2][:12] or digest


def emit(
    progress: Progress | None,
    action: str,
    id: str,  # noqa: A002
    current: int = 0,
    total: int = 0,
    text: str = "",
) -> None:
    """Tell `progress`, if there is anybody to tell."""
    if progress is not None:
        progress(Event(action, id, current, total, text))


class Meter:
    """Counts bytes and tells of them about fifty times in all, so that telling costs nothing."""

    __slots__ = ("_action", "_next", "_step", "current", "id", "progress", "total")

    def __init__(self, progress: Progress | None, action: str, id: str, total: int, current: int = 0) -> None:  # noqa: A002
        self.progress, self._action, self.id = progress, action, id
        self.current, self.total = current, total
        self._step = max(1 << 18, total // 50)
        self._next = current + self._step
        emit(progress, action, id, current, total)

    def add(self, count: int) -> None:
        """`count` more bytes have gone by."""
        self.current += count
        if self.current >= self._next:
            self._next = self.current + self._step
            emit(self.progress, self._action, self.id, self.current, self.total)
