"""`fastctr image mount`: look at an image's files, by a command or until told to stop."""

from __future__ import annotations

import sys

from .options import VALUE, Option
from .verb import Given, Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

VERB = Verb(
    "image mount", "IMAGE [COMMAND...]",
    "Mount an image's files read-only and run a command there (default: a shell); then it is unmounted.\n"
    "FASTCTR_MOUNT tells the command the directory, which is also its working directory.",
    (Option("--platform", VALUE, "platform", "PLATFORM", "which of an image's platforms"),), 1, None, mixed=False,
)  # fmt: skip


def mount(argv: Sequence[str]) -> int:
    return VERB.run(argv, _mount)


def _mount(given: Given, args: list[str]) -> int:
    import os
    import subprocess

    from ..images import get

    command = args[1:] or [os.environ.get("SHELL") or "/bin/sh"]
    with get(args[0], platform=given.value("platform")).mount() as path:
        try:
            done = subprocess.run(command, cwd=path, env={**os.environ, "FASTCTR_MOUNT": path}, check=False)
        except FileNotFoundError:
            print(f'fastctr: "{command[0]}" is not found', file=sys.stderr)
            return 127
    return done.returncode if done.returncode >= 0 else 128 - done.returncode
