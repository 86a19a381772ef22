"""`fastctr image fsck`: check the whole store."""

from __future__ import annotations

from .options import FLAG, Option
from .verb import FAILED, Given, Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

VERB = Verb(
    "image fsck", "", "Check every blob and layer of the store. Exit code 1 if something is broken.",
    (
        Option("--repair", FLAG, "repair", "", "remove what is broken"),
        Option("-q --quiet", FLAG, "quiet", "", "say nothing of a clean store"),
    ),
)  # fmt: skip


def fsck(argv: Sequence[str]) -> int:
    return VERB.run(argv, _fsck)


def _fsck(given: Given, args: list[str]) -> int:
    from ..images import fsck as check

    found = check(repair=given.flag("repair"))
    for finding in found:
        print(finding)
    if not found and not given.flag("quiet"):
        print("clean")
    return FAILED if any(not finding.repaired for finding in found) else 0
