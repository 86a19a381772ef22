"""Progress of pulls, pushes, loads and builds, drawn: bars on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TextIO

    from .image.progress import Event

WORDS = {
    "resolving": "Resolving", "downloading": "Downloading", "verifying": "Verifying", "unpacking": "Unpacking",
    "unpacked": "Unpacked", "done": "Done", "exists": "Already here", "retrying": "Retrying", "pushing": "Pushing",
    "mounted": "Mounted", "packing": "Packing", "loading": "Loading", "saving": "Saving", "warning": "Warning",
}  # fmt: skip
_ENDS = ("done", "unpacked", "exists", "mounted", "warning")


def size(number: float) -> str:
    """7.05MB: powers of 1000, as docker's."""
    for unit in ("B", "kB", "MB", "GB", "TB", "PB"):
        if number < 1000 or unit == "PB":
            break
        number /= 1000
    text = f"{number:.3g}"
    return (f"{number:.0f}" if "e" in text else text) + unit


def display(stream: TextIO | None = None, quiet: bool = False) -> Lines | Bars | Silent:
    """What to give as progress=; to be closed. Bars if the stream (standard error) is a terminal."""
    out = stream or sys.stderr
    if quiet:
        return Silent()
    try:
        terminal = out.isatty()
    except ValueError:
        return Silent()  # closed
    return Bars(out) if terminal else Lines(out)


class Silent:
    """Says nothing but warnings."""

    def __call__(self, event: Event) -> None:
        if event.action == "warning":
            print(f"fastctr: {event.id}: {event.text}", file=sys.stderr)

    def close(self) -> None:
        pass


class Lines:
    """A line for each thing that begins or ends."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._lock = threading.Lock()
        self._last: dict[str, str] = {}

    def __call__(self, event: Event) -> None:
        with self._lock:
            if self._last.get(event.id) == event.action and event.action not in ("warning", "retrying"):
                return
            self._last[event.id] = event.action
            text = f"{event.id}: {WORDS.get(event.action, event.action.capitalize())}"
            if event.total and event.action not in _ENDS:
                text += f" {size(event.total)}"
            if event.text:
                text += f": {event.text}"
            self._out.write(text + "\n")
            self._out.flush()

    def close(self) -> None:
        pass


class Bars:
    """One bar for each layer, by rich, which is imported with the first event."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._lock = threading.Lock()
        self._progress: Any = None
        self._tasks: dict[str, Any] = {}

    def _start(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

        self._progress = Progress(
            TextColumn("{task.fields[name]}", markup=False), TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None), DownloadColumn(), console=Console(file=self._out), expand=True,
        )  # fmt: skip
        self._progress.start()

    def __call__(self, event: Event) -> None:
        with self._lock:
            if self._progress is None:
                self._start()
            word = WORDS.get(event.action, event.action.capitalize())
            if event.action == "warning":
                self._progress.console.print(f"{event.id}: {event.text}", markup=False, highlight=False)
                return
            task = self._tasks.get(event.id)
            if task is None:
                task = self._tasks[event.id] = self._progress.add_task(word, name=event.id, total=event.total or None)
            changes: dict[str, Any] = {"description": word + (f": {event.text}" if event.text else "")}
            if event.action in _ENDS:
                total = event.total or self._progress.tasks[self._progress.task_ids.index(task)].total or 1
                changes.update(total=total, completed=total)
            elif event.total:
                changes.update(total=event.total, completed=event.current)
            self._progress.update(task, **changes)

    def close(self) -> None:
        with self._lock:
            if self._progress is not None:
                self._progress.stop()
                self._progress = None
