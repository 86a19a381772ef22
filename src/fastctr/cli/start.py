"""`fastctr start`: run a kept container again, on what it left."""

from __future__ import annotations

import os

from .options import FLAG, Option, UsageError
from .verb import Given, Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

VERB = Verb(
    "start", "-a CONTAINER", "Run a kept container's command again, on the files it left, and wait for it.",
    (
        Option("-a --attach", FLAG, "attach", "", "stay with it: it runs in the foreground (has to be given)"),
        Option("-i --interactive", FLAG, "interactive", "", "connect standard input"),
    ),
    1, 1,
)  # fmt: skip


def start(argv: Sequence[str]) -> int:
    return VERB.run(argv, _start)


def _start(given: Given, args: list[str]) -> int:
    if not (given.flag("attach") or given.flag("interactive")):
        raise UsageError("without -a is not offered: fastctr runs in the foreground")
    from ..image_args import store_root
    from ..kept import find
    from .run import launch_kept, own_options
    from .run_image import kept_plan, thawed

    kept = find(store_root(), args[0])
    kept.acquire()
    try:
        noted = kept.record
        own = dict(noted.get("own") or {})
        own["_interactive"] = given.flag("interactive")
        options = own_options(own)
        try:
            os.chdir(noted.get("directory") or "/")  # relative paths of its options were from there
        except OSError:
            pass
        fields, found = thawed(kept)
        plan = kept_plan(kept, fields, found)
        return launch_kept(noted["command"] or None, plan, options, kept)
    finally:
        kept.release()
