"""`fastctr diff`: what a kept container has changed in its files."""

from __future__ import annotations

from .verb import Given, Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

VERB = Verb("diff", "CONTAINER", "What a kept container has added (A), changed (C) and deleted (D).", (), 1, 1)


def diff(argv: Sequence[str]) -> int:
    return VERB.run(argv, _diff)


def _diff(given: Given, args: list[str]) -> int:
    from ..image_args import store_root
    from ..kept import find
    from ..kept_root import changes

    for kind, path in changes(find(store_root(), args[0])):
        print(f"{kind} {path}")
    return 0
