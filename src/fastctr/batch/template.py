"""`fastctr map`: a command with places for an argument, made into one job for each.

In a command line for a shell, a place becomes a reference to a parameter of the shell ("$1"), quoted as the
quotes around it need it. So what an argument holds is never read as code: spaces, quotes, $(…), newlines.
Without a shell the places are filled in word by word.
"""

from __future__ import annotations

import os
import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .reader import Items, Lines


def _stem(text: str) -> str:
    """Without the ending of its last part; a dot in front begins no ending."""
    head, slash, name = text.rpartition("/")
    base, dot, _ = name.rpartition(".")
    return head + slash + (base if dot and base else name)


PLACES: dict[str, Callable[[str, int], str]] = {
    "{}": lambda text, number: text,
    "{.}": lambda text, number: _stem(text),
    "{/}": lambda text, number: os.path.basename(text),
    "{//}": lambda text, number: os.path.dirname(text) or ".",
    "{/.}": lambda text, number: _stem(os.path.basename(text)),
    "{#}": lambda text, number: str(number),
}
_ANY = re.compile("|".join(re.escape(place) for place in sorted(PLACES, key=len, reverse=True)))


class Words:
    """A command without a shell: places are filled in in each word."""

    def __init__(self, words: list[str]) -> None:
        self._words = words if any(_ANY.search(word) for word in words) else [*words, "{}"]

    def job(self, text: str, number: int) -> dict[str, Any]:
        """The job of one argument, which is its tag."""
        return {"argv": self.argv(text, number), "tag": text}

    def argv(self, text: str, number: int) -> list[str]:
        """Its command."""
        return [_ANY.sub(lambda match: PLACES[match.group()](text, number), word) for word in self._words]


class Line:
    """A command line for /bin/sh."""

    def __init__(self, line: str) -> None:
        self._places: list[str] = []
        self.script = self._script(line)
        if not self._places:
            self._places.append("{}")
            self.script += ' "$1"'

    def job(self, text: str, number: int) -> dict[str, Any]:
        """The job of one argument, which is its tag: the script and its parameters."""
        return {"cmd": self.script, "args": [PLACES[place](text, number) for place in self._places], "tag": text}

    def argv(self, text: str, number: int) -> list[str]:
        """Its command."""
        job = self.job(text, number)
        return ["/bin/sh", "-c", job["cmd"], "sh", *job["args"]]

    def _parameter(self, place: str) -> str:
        if place not in self._places:
            self._places.append(place)
        return f"${{{self._places.index(place) + 1}}}"

    def _script(self, line: str) -> str:
        """The line with references in the places; follows the shell's quoting (POSIX 2.2, 2.6.3)."""
        out: list[str] = []
        inside = [""]  # what we are in, innermost last: "", '"', "'", "(" of $(…), "`"
        at = 0
        while at < len(line):
            quote, char = inside[-1], line[at]
            match = _ANY.match(line, at)
            if match:
                parameter = self._parameter(match.group())
                out.append({"'": f"'\"{parameter}\"'", '"': parameter}.get(quote, f'"{parameter}"'))
                at = match.end()
                continue
            if quote == "'":
                if char == "'":
                    inside.pop()
            elif char == "\\":
                out.append(line[at : at + 2])
                at += 2
                continue
            elif char == quote and quote in ('"', "`"):
                inside.pop()
            elif char == '"' or char == "`" or (char == "'" and quote != '"'):
                inside.append(char)
            elif line.startswith("$(", at):
                inside.append("(")
                out.append("$(")
                at += 2
                continue
            elif char == "(" and quote == "(":
                inside.append("(")
            elif char == ")" and quote == "(":
                inside.pop()
            out.append(char)
            at += 1
        return "".join(out)


class Mapped:
    """A source of jobs: one for each argument of another source, which is its tag. Arguments are numbered
    without the empty ones."""

    def __init__(self, command: Words | Line, arguments: Lines | Items) -> None:
        self.name = "argument"
        self.number = 0
        self._command = command
        self._arguments = arguments

    @property
    def wake(self) -> int:
        return self._arguments.wake

    @wake.setter
    def wake(self, fd: int) -> None:
        self._arguments.wake = fd

    def next(self) -> tuple[int, dict[str, Any]] | None:
        """(number, job), or None at the end."""
        item = self._arguments.next()
        if item is None:
            return None
        self.number += 1
        return self.number, self._command.job(os.fsdecode(item[1]), self.number)

    def ready(self) -> bool:
        """Whether next() has something without reading."""
        return self._arguments.ready()

    def rewind(self) -> None:
        self._arguments.rewind()
        self.number = 0
