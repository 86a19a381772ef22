"""The progress of a batch, drawn on one line of a terminal."""

from __future__ import annotations

import os
import sys
import threading
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TextIO

EVERY = 0.2
SMOOTH = 5.0
"""Seconds over which the rate is averaged."""


def clock(seconds: float) -> str:
    """ "1:02:03", "2:03"; seconds with a decimal below ten."""
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"


def rate_text(rate: float) -> str:
    return f"{rate:.0f}/s" if rate >= 10 else f"{rate:.1f}/s" if rate >= 0.1 else f"{rate * 60:.1f}/min"


class Bar:
    """update() draws; hidden() gives the line to somebody else's output meanwhile."""

    def __init__(self, stream: TextIO | None = None, total: int | None = None) -> None:
        self._out = stream or sys.stderr
        self.total = total
        self._began = self._last = time.monotonic()
        self._before = 0
        self._rate = 0.0
        self._drawn = False
        self.lock = threading.Lock()

    def update(self, counts: dict[str, int], skipped: int, running: int, word: str = "") -> None:
        """Draw how many have ended, by status."""
        ended = sum(counts.values())
        now = time.monotonic()
        passed = now - self._last
        if passed > 0:
            share = min(passed / SMOOTH, 1.0)
            if now - self._began < SMOOTH:
                self._rate = ended / (now - self._began)
            else:
                self._rate += share * ((ended - self._before) / passed - self._rate)
            self._last, self._before = now, ended
        try:
            width = os.get_terminal_size(self._out.fileno()).columns or 80
        except (OSError, ValueError):
            width = 80
        text = self.text(counts, skipped, running, word, width - 1)
        with self.lock:
            self._write("\r\x1b[K" + text[: max(width - 1, 10)])
            self._drawn = True

    def text(self, counts: dict[str, int], skipped: int, running: int, word: str = "", width: int = 79) -> str:
        """The line; the bar takes what room is left."""
        ended = sum(counts.values())
        done, ok = ended + skipped, counts.get("ok", 0)
        failed = ended - ok - counts.get("cancelled", 0)
        share = min(done / self.total, 1.0) if self.total else 0.0
        parts = [f"{share:4.0%} {done}/{self.total}" if self.total else f"{done} done"]
        parts.append(f"{failed} failed")
        parts.append(f"{running} running")
        parts.append(rate_text(self._rate))
        if self.total and self._rate > 0 and not word:
            parts.append(f"ETA {clock(max(self.total - done, 0) / self._rate)}")
        if word:
            parts.append(word)
        line = "  ".join(parts)
        room = min(width - len(line) - 3, 30)
        if not self.total or room < 5:
            return line
        filled = int(share * room)
        return f"[{'=' * filled}{'>' * (filled < room)}{' ' * (room - 1 - filled)}] {line}"

    def erase(self) -> None:
        """With the lock, or when nobody else draws."""
        if self._drawn:
            self._write("\r\x1b[K")
            self._drawn = False

    def say(self, text: str) -> None:
        """A line above the bar."""
        with self.lock:
            self.erase()
            self._write(text + "\n")

    def _write(self, text: str) -> None:
        try:
            self._out.write(text)
            self._out.flush()
        except (OSError, ValueError):
            pass  # nobody looks


def summary(counts: dict[str, int], skipped: int, seconds: float) -> str:
    """ "1000 jobs in 1.2s (833/s): 998 ok, 2 failed"."""
    ended = sum(counts.values())
    parts = [f"{number} {status}" for status, number in counts.items() if number] or ["nothing to do"]
    text = f"{ended} job{'s' * (ended != 1)} in {clock(seconds)}"
    if ended and seconds > 0:
        text += f" ({rate_text(ended / seconds)})"
    text += f": {', '.join(parts)}"
    return text + (f"; {skipped} had a result already" if skipped else "")
