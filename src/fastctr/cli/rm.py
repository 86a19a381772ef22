"""`fastctr rm`: remove kept containers."""

from __future__ import annotations

from .options import FLAG, Option
from .verb import Given, Verb, each

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

VERB = Verb(
    "rm", "CONTAINER [CONTAINER...]", "Remove kept containers with everything they changed.",
    (
        Option("-f --force", FLAG, "force", "", "also running ones, which are killed; a missing one is no failure"),
        Option("-v --volumes", FLAG, "volumes", "", "accepted: there are no volumes apart from containers"),
    ),
    1, None,
)  # fmt: skip


def rm(argv: Sequence[str]) -> int:
    return VERB.run(argv, _rm)


def _rm(given: Given, args: list[str]) -> int:
    from ..errors import StoreError
    from ..image_args import store_root
    from ..kept import find

    force = given.flag("force")

    def remove(name: str) -> None:
        try:
            kept = find(store_root(), name)
        except StoreError as error:
            if force and "no such" in error.why:
                return
            raise
        kept.remove(force)
        print(name)

    return each(args, remove)
