"""`fastctr commit`: an image of what a kept container has become."""

from __future__ import annotations

from .options import FLAG, LIST, VALUE, Option
from .verb import Given, Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

VERB = Verb(
    "commit", "CONTAINER [NAME[:TAG]]", "Make an image of a kept container: its image's layers and one of its changes.",
    (
        Option("-a --author", VALUE, "author", "TEXT", "who made it"),
        Option("-c --change", LIST, "changes", "INSTRUCTION", 'as "CMD sh", "ENV A=b", "ENTRYPOINT [\\"/app\\"]"'),
        Option("-m --message", VALUE, "message", "TEXT", "a comment in its history"),
        Option("-p --pause", FLAG, "pause", "", "hold a running container meanwhile (default true)"),
    ),
    1, 2,
)  # fmt: skip


def commit(argv: Sequence[str]) -> int:
    return VERB.run(argv, _commit)


def _commit(given: Given, args: list[str]) -> int:
    from ..image_args import store_root
    from ..kept import find
    from ..kept_root import commit as make

    kept = find(store_root(), args[0])
    pause = "pause" not in given or given.flag("pause")
    made = make(kept, args[1] if len(args) > 1 else None, author=given.value("author") or "",
                message=given.value("message") or "", changes=given.all("changes"), pause=pause)  # fmt: skip
    print(made.id)
    return 0
