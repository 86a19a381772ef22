"""`fastctr rmi`: remove images."""

from __future__ import annotations

from .options import FLAG, Option
from .verb import Given, Verb, each

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

VERB = Verb(
    "rmi", "IMAGE [IMAGE...]", "Remove images: a name, and with its last name the image.",
    (
        Option("-f --force", FLAG, "force", "", "also by an id with several names, or one a kept container is of"),
        Option("--no-prune", FLAG, "no_prune", "", "leave what nothing needs any more to prune"),
    ),
    1, None,
)  # fmt: skip


def rmi(argv: Sequence[str]) -> int:
    return VERB.run(argv, _rmi)


def _rmi(given: Given, args: list[str]) -> int:
    from ..images import store

    where = store()

    def remove(name: str) -> None:
        for what, which in where.remove(name, given.flag("force")):
            print(f"{what}: {which}")

    return each(args, remove)
