"""A small option parser, driven by a table: argparse alone costs a fifth of a whole `fastctr run`.

The rules are those of the docker command: `--name value`, `--name=value`, `-n value`, `-nvalue`,
short flags together (`-it`), flags as `--read-only=false`; options end at the first argument that is
none, or at `--`.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

FLAG, VALUE, LIST = "flag", "value", "list"


class Option:
    """One row: names as "-m --memory", what it is (FLAG, VALUE, LIST), what help says."""

    __slots__ = ("help", "key", "kind", "meta", "names")

    def __init__(self, names: str, kind: str, key: str, meta: str, text: str) -> None:
        self.names = names.split()
        self.kind = kind
        self.key = key
        self.meta = meta
        self.help = text

    @property
    def long(self) -> str:
        """The name messages use."""
        return next((name for name in self.names if name.startswith("--")), self.names[0])


class UsageError(Exception):
    """The command line cannot be understood; exit code 125."""


def parse(
    table: Sequence[Option],
    argv: Sequence[str],
    refused: dict[str, str] | None = None,
    mixed: bool = False,
) -> tuple[dict[str, list[str | bool]], list[str]]:
    """({key: what was given, in order}, the arguments after the options). Raises UsageError.

    With mixed, options may follow arguments, up to `--`.
    """
    by_name = {name: option for option in table for name in option.names}
    given: dict[str, list[str | bool]] = {}
    rest: list[str] = []
    place = 0
    while place < len(argv):
        word = argv[place]
        place += 1
        if word == "--":
            break
        if not word.startswith("-") or word == "-":
            if mixed:
                rest.append(word)
                continue
            place -= 1
            break
        if word.startswith("--"):
            name, equals, text = word.partition("=")
            option = _find(by_name, name, refused)
            if option.kind == FLAG:
                value: str | bool = _truth(name, text) if equals else True
            elif equals:
                value = text
            else:
                value, place = _next(argv, place, name)
            given.setdefault(option.key, []).append(value)
            continue
        letters = word[1:]
        while letters:
            name, letters = "-" + letters[0], letters[1:]
            option = _find(by_name, name, refused)
            if option.kind == FLAG:
                if letters.startswith("="):
                    value, letters = _truth(name, letters[1:]), ""
                else:
                    value = True
            elif letters:
                value, letters = letters.removeprefix("="), ""
            else:
                value, place = _next(argv, place, name)
            given.setdefault(option.key, []).append(value)
    return given, rest + list(argv[place:])


def _find(by_name: dict[str, Option], name: str, refused: dict[str, str] | None) -> Option:
    option = by_name.get(name)
    if option is not None:
        return option
    if refused and name in refused:
        raise UsageError(f"{name} {refused[name]}")
    kind = "flag" if name.startswith("--") else "shorthand flag"
    from ..errors import nearest

    close = nearest(name, by_name) if name.startswith("--") else None
    raise UsageError(f"unknown {kind}: {name}" + (f" (did you mean {close}?)" if close else ""))


def _next(argv: Sequence[str], place: int, name: str) -> tuple[str, int]:
    if place >= len(argv):
        raise UsageError(f"{name} needs a value")
    return argv[place], place + 1


def _truth(name: str, text: str) -> bool:
    word = text.lower()
    if word in ("true", "1", "t"):
        return True
    if word in ("false", "0", "f"):
        return False
    raise UsageError(f'{name}: "{text}" is not a truth value; use true or false')


def help_text(table: Iterable[Option]) -> str:
    """The options as `--help` prints them, 2 columns; a row without names is a heading."""
    lines = []
    for option in table:
        if option.kind == "":
            lines += ["", option.help + ":"]
            continue
        short = [name for name in option.names if not name.startswith("--")]
        rest = [name for name in option.names if name.startswith("--")]
        left = (
            "  "
            + (short[0] + ", " if short else "    ")
            + ", ".join(rest)
            + (" " + option.meta if option.meta else "")
        )
        lines.append(f"{left:<33} {option.help}" if len(left) < 33 else f"{left}\n{'':33} {option.help}")
    return "\n".join(lines)


def heading(text: str) -> Option:
    """A row that only parts the help."""
    return Option("", "", "", "", text)
