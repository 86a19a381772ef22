"""`fastctr tag`: give an image another name."""

from __future__ import annotations

from .verb import Given, Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

VERB = Verb("tag", "IMAGE NAME[:TAG]", "Give an image another name.", (), 2, 2)


def tag(argv: Sequence[str]) -> int:
    return VERB.run(argv, _tag)


def _tag(given: Given, args: list[str]) -> int:
    from ..images import tag as name

    name(args[0], args[1])
    return 0
