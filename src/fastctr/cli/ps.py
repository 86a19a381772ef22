"""`fastctr ps`: the kept containers."""

from __future__ import annotations

from .options import FLAG, LIST, VALUE, Option
from .verb import Given, Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from ..kept import Kept

VERB = Verb(
    "ps", "", "List kept containers (those run with a --name): the running ones, or with -a all.\n"
    "Others are gone when their command ends.",
    (
        Option("-a --all", FLAG, "all", "", "also those that do not run"),
        Option("-f --filter", LIST, "filter", "NAME=VALUE", "name=, id=, ancestor=, status=, exited="),
        Option("--format", VALUE, "format", "TEMPLATE", "json, table or a Go template, as '{{.Names}}'"),
        Option("-n --last", VALUE, "last", "N", "the N newest, running or not"),
        Option("-l --latest", FLAG, "latest", "", "the newest, running or not"),
        Option("--no-trunc", FLAG, "no_trunc", "", "in full"),
        Option("-q --quiet", FLAG, "quiet", "", "ids only"),
        Option("-s --size", FLAG, "size", "", "the size of their changes"),
    ),
)  # fmt: skip
FILTERS = ("name", "id", "ancestor", "status", "exited")


def ps(argv: Sequence[str]) -> int:
    return VERB.run(argv, _ps)


def _ps(given: Given, args: list[str]) -> int:
    from ..image_args import store_root
    from ..kept import all_of
    from .options import UsageError
    from .table import filters, show

    wanted = filters(given.all("filter"), FILTERS)
    last = "1" if given.flag("latest") else given.value("last")
    if last is not None and not last.lstrip("-").isdigit():
        raise UsageError(f'--last: "{last}" is not a number')
    every = sorted(all_of(store_root()), key=lambda kept: -kept.record["created"])
    if last is None and not given.flag("all") and "status" not in wanted and "exited" not in wanted:
        every = [kept for kept in every if kept.running]
    every = [kept for kept in every if _passes(kept, wanted)]
    if last is not None and int(last) >= 0:
        every = every[: int(last)]
    whole = given.flag("no_trunc")
    if given.flag("quiet"):
        for kept in every:
            print(kept.id if whole else kept.id[:12])
        return 0
    rows = [row(kept, whole, given.flag("size")) for kept in every]
    default = [
        "ID",
        "Image",
        "Command",
        "RunningFor",
        "Status",
        "Ports",
        "Names",
        *(["Size"] if given.flag("size") else []),
    ]
    names = {"ID": "CONTAINER ID", "Ports": "PORTS"}
    for line in show(given.value("format"), rows, default, names):
        print(line)
    return 0


def _passes(kept: Kept, wanted: dict[str, list[str]]) -> bool:
    record = kept.record
    checks: dict[str, Callable[[str], bool]] = {
        "name": lambda text: text.removeprefix("/") in kept.name,
        "id": kept.id.startswith,
        "ancestor": lambda text: (
            text in (record.get("image"), record.get("image_id"))
            or str(record.get("image_id")).startswith("sha256:" + text.removeprefix("sha256:"))
        ),
        "status": lambda text: text == kept.state,
        "exited": lambda text: kept.state == "exited" and text == str(kept.exit_code),
    }
    return all(any(checks[name](text) for text in texts) for name, texts in wanted.items())


def row(kept: Kept, whole: bool, size: bool) -> dict[str, Any]:
    """One line of the table."""
    from .table import ago, moment
    from .table import size as shown_size

    command = " ".join(str(word) for word in kept.record.get("argv") or ())
    text = f'"{command if whole or len(command) <= 20 else command[:19] + "…"}"'
    found = {
        "ID": kept.id if whole else kept.id[:12],
        "Image": kept.record.get("image") or ",".join(kept.record.get("rootfs") or ()),
        "Command": text,
        "CreatedAt": moment(kept.record["created"]),
        "RunningFor": ago(kept.record["created"]),
        "State": kept.state,
        "Status": status(kept),
        "Ports": "",
        "Names": kept.name,
        "Size": "0B",
    }
    if size:
        from ..image.usage import tree_size

        found["Size"] = shown_size(tree_size(kept.upper))
    return found


def status(kept: Kept) -> str:
    """Created, Up 5 minutes, Exited (0) 2 hours ago."""
    import time

    from .table import age, ago

    state = kept.state
    if state == "created":
        return "Created"
    if state == "running":
        return "Up " + age(max(0.0, time.time() - (kept.record.get("started") or time.time())))
    return f"Exited ({kept.exit_code}) {ago(kept.record.get('finished') or kept.record.get('started'))}"
