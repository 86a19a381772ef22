"""How the subcommands show progress: bars on a terminal, lines in a pipe, nothing with -q."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any, TextIO


class Shown:
    """with Shown(quiet) as progress: … where progress is what image functions take. Standard output for
    what was asked for itself (pull, push), standard error beside something else (run)."""

    def __init__(self, quiet: bool = False, stream: TextIO | None = None) -> None:
        from ..display import display

        self._display = display(stream or sys.stdout, quiet)

    def __enter__(self) -> Any:
        return self._display

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._display.close()
