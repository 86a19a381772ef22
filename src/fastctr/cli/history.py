"""`fastctr history`: how an image was made."""

from __future__ import annotations

from .options import FLAG, VALUE, Option
from .verb import Given, Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

VERB = Verb(
    "history", "IMAGE", "How an image was made, newest step first.",
    (
        Option("--format", VALUE, "format", "TEMPLATE", "json, table or a Go template, as '{{.CreatedBy}}'"),
        Option("-H --human", FLAG, "human", "", "sizes and dates for people (default true)"),
        Option("--no-trunc", FLAG, "no_trunc", "", "in full"),
        Option("-q --quiet", FLAG, "quiet", "", "ids only"),
    ),
    1, 1,
)  # fmt: skip


def history(argv: Sequence[str]) -> int:
    return VERB.run(argv, _history)


def _history(given: Given, args: list[str]) -> int:
    from ..images import get
    from .table import ago, iso, show, size

    whole, human = given.flag("no_trunc"), "human" not in given or given.flag("human")
    rows = []
    for step in get(args[0]).history():
        made_by = " ".join(step.created_by.split("\t"))
        rows.append({
            "ID": (step.id if whole else step.id[7:19]) if step.id else "<missing>",
            "CreatedSince": ago(step.created) if human else iso(step.created),
            "CreatedAt": iso(step.created),
            "CreatedBy": made_by if whole or len(made_by) <= 45 else made_by[:44] + "…",
            "Size": size(step.size) if human else str(step.size),
            "Comment": step.comment,
        })  # fmt: skip
    if given.flag("quiet"):
        print(*(row["ID"] for row in rows), sep="\n")
        return 0
    names = {"ID": "IMAGE", "CreatedSince": "CREATED"}
    default = ("ID", "CreatedSince", "CreatedBy", "Size", "Comment")
    print(*show(given.value("format"), rows, default, names), sep="\n")
    return 0
