"""Tables as docker prints them, sizes and ages for people, and --format."""

from __future__ import annotations

from ..display import size
from .options import UsageError

__all__ = ["age", "ago", "columns", "filters", "iso", "moment", "show", "size"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any


def columns(rows: Iterable[Sequence[str]]) -> str:
    """Lines of cells, each column as wide as its widest cell, at least 10, and 3 spaces between."""
    table = [list(row) for row in rows]
    if not table:
        return ""
    widths = [max(10, *(len(row[i]) + 3 for row in table)) for i in range(len(table[0]))]
    return "\n".join("".join(cell.ljust(width) for cell, width in zip(row[:-1], widths)) + row[-1] for row in table)


def age(seconds: float) -> str:
    """ "3 weeks", as docker's: the largest unit that fits, without "ago"."""
    if seconds < 1:
        return "Less than a second"
    if seconds < 60:
        return "1 second" if seconds < 2 else f"{int(seconds)} seconds"
    minutes = int(seconds / 60)
    if minutes < 60:
        return "About a minute" if minutes == 1 else f"{minutes} minutes"
    hours = round(seconds / 3600)
    if hours < 48:
        return "About an hour" if hours == 1 else f"{hours} hours"
    for days, limit, unit in ((1, 24 * 7 * 2, "days"), (7, 24 * 30 * 2, "weeks"), (30, 24 * 365 * 2, "months")):
        if hours < limit:
            return f"{hours // (24 * days)} {unit}"
    return f"{int(hours / 24 / 365)} years"


def ago(when: float | None) -> str:
    """A time (seconds since 1970) as "2 days ago"; "N/A" if there is none."""
    import time

    return "N/A" if not when or when <= 0 else age(max(0.0, time.time() - when)) + " ago"


def moment(when: float | None) -> str:
    """A time as docker's CreatedAt: 2024-05-01 12:00:00 +0000 UTC."""
    import time

    return time.strftime("%Y-%m-%d %H:%M:%S +0000 UTC", time.gmtime(when or 0))


def iso(when: float | None) -> str:
    """A time as RFC 3339."""
    import time

    if when is None:
        return "0001-01-01T00:00:00Z"
    part = f"{when % 1:.9f}"[1:].rstrip("0").rstrip(".")
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(when)) + part + "Z"


HEADINGS = {
    "ID": "IMAGE ID", "Repository": "REPOSITORY", "Tag": "TAG", "Digest": "DIGEST", "CreatedSince": "CREATED",
    "CreatedAt": "CREATED AT", "Size": "SIZE", "CreatedBy": "CREATED BY", "Comment": "COMMENT", "Names": "NAMES",
    "Image": "IMAGE", "Command": "COMMAND", "RunningFor": "CREATED", "Status": "STATUS", "State": "STATE",
    "Type": "TYPE", "TotalCount": "TOTAL", "Active": "ACTIVE", "Reclaimable": "RECLAIMABLE", "Platform": "PLATFORM",
    "Containers": "CONTAINERS", "SharedSize": "SHARED SIZE", "UniqueSize": "UNIQUE SIZE",
}  # fmt: skip


def show(
    form: str | None,
    rows: list[dict[str, Any]],
    default: Sequence[str],
    headings: dict[str, str] | None = None,
) -> list[str]:
    """The lines of --format (or of the default table of these fields). Raises UsageError."""
    names = {**HEADINGS, **(headings or {})}
    if form in (None, "", "table"):
        return columns([[names[n] for n in default], *([str(row[n]) for n in default] for row in rows)]).split("\n")
    assert form is not None
    from .template import Row, Template, TemplateError, to_json

    if form == "json":
        return [to_json(row) for row in rows]
    as_table = form.startswith("table ")
    if as_table:
        form = form[6:].lstrip()
    form = form.replace("\\t", "\t").replace("\\n", "\n")
    try:
        template = Template(form)
        lines = [template.render(Row(row)) for row in rows]
        if as_table:
            lines.insert(0, template.render(Row(_Headings(names, rows[0] if rows else names))))
            return columns(_rectangle([line.split("\t") for line in lines])).split("\n")
    except TemplateError as error:
        raise UsageError(f"--format: {error}") from None
    return lines


class _Headings(dict["str", "str"]):
    def __init__(self, names: dict[str, str], like: dict[str, Any]) -> None:
        super().__init__({name: names.get(name, name.upper()) for name in like})


def _rectangle(rows: list[list[str]]) -> list[list[str]]:
    width = max(len(row) for row in rows)
    return [row + [""] * (width - len(row)) for row in rows]


def filters(given: Iterable[Any], known: dict[str, Callable[[str], None]] | tuple[str, ...]) -> dict[str, list[str]]:
    """--filter NAME=VALUE options as {name: values}. Raises UsageError."""
    found: dict[str, list[str]] = {}
    for text in given:
        name, equals, value = str(text).partition("=")
        name = name.strip().lower()
        if not equals:
            raise UsageError(f'--filter: "{text}" has no value; use NAME=VALUE')
        if name not in known:
            raise UsageError(f'--filter: "{name}" is not known; use {", ".join(known)}')
        found.setdefault(name, []).append(value.strip())
    return found
