"""What the subcommands have in common: options anywhere, --help, the number of arguments, errors."""

from __future__ import annotations

import sys

from .options import FLAG, Option, UsageError, help_text, parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

FAILED, MISUSED = 1, 125
HELP = Option("--help", FLAG, "help", "", "print this")


class Given:
    """The options of a command line: flags, last values and lists, by key."""

    __slots__ = ("_given",)

    def __init__(self, given: dict[str, list[str | bool]]) -> None:
        self._given = given

    def flag(self, key: str) -> bool:
        return bool(self._given.get(key, [False])[-1])

    def value(self, key: str) -> str | None:
        found = self._given.get(key)
        return str(found[-1]) if found else None

    def all(self, key: str) -> list[str]:
        return [str(value) for value in self._given.get(key, ())]

    def __contains__(self, key: object) -> bool:
        return key in self._given


class Verb:
    """One subcommand: `name ARGS`, what it does, its options, how many arguments it takes."""

    __slots__ = ("args", "high", "low", "mixed", "name", "refused", "table", "text")

    def __init__(
        self,
        name: str,
        args: str,
        text: str,
        table: Sequence[Option] = (),
        low: int = 0,
        high: int | None = 0,
        refused: dict[str, str] | None = None,
        mixed: bool = True,
    ) -> None:
        self.name, self.args, self.text = name, args, text
        self.table = (*table, HELP)
        self.low, self.high = low, high
        self.refused = refused
        self.mixed = mixed

    def usage(self) -> str:
        line = f"Usage: fastctr {self.name} [OPTIONS] {self.args}".rstrip()
        return f"{line}\n\n{self.text}\n\n{help_text(self.table)}"

    def run(self, argv: Sequence[str], do: Callable[[Given, list[str]], int | None]) -> int:
        """Parse, do it, say what went wrong; the exit code."""
        try:
            found, rest = parse(self.table, argv, self.refused, self.mixed)
            given = Given(found)
            if given.flag("help"):
                print(self.usage())
                return 0
            if len(rest) < self.low or (self.high is not None and len(rest) > self.high):
                print(f"fastctr: {self._count()}\nSee 'fastctr {self.name} --help'.", file=sys.stderr)
                return FAILED
            from ..errors import FastctrError, LaunchError, SpecError

            try:
                return do(given, rest) or 0
            except SpecError as error:
                return failed(error.render(self._option(error.where)))
            except LaunchError as error:
                return failed(str(error), error.exit_code)
            except FastctrError as error:
                return failed(str(error))
            except OSError as error:
                if isinstance(error, BrokenPipeError):
                    raise
                return failed(_os_text(error))
        except UsageError as error:
            print(f"fastctr: {error}\nSee 'fastctr {self.name} --help'.", file=sys.stderr)
            return MISUSED

    def _option(self, field: str) -> str:
        for option in self.table:
            if option.key == field or option.long == f"--{field}":
                return option.long
        return field

    def _count(self) -> str:
        if self.low == self.high:
            what = "no arguments" if not self.low else f"exactly {self.low} argument" + "s" * (self.low > 1)
            return f'"fastctr {self.name}" ' + ("accepts " if not self.low else "requires ") + what
        if self.high is None:
            return f'"fastctr {self.name}" requires at least {self.low} argument' + "s" * (self.low > 1)
        if self.low == 0:
            return f'"fastctr {self.name}" accepts at most {self.high} argument' + "s" * (self.high > 1)
        return f'"fastctr {self.name}" requires {self.low} to {self.high} arguments'


def _os_text(error: OSError) -> str:
    return f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)


def failed(text: str, code: int = FAILED) -> int:
    """Say it on standard error; the exit code."""
    print(f"fastctr: {text}", file=sys.stderr)
    return code


def each(items: Sequence[Any], do: Callable[[Any], None]) -> int:
    """Do it to every one of them; those that fail are said, and the others still done."""
    from ..errors import FastctrError

    code = 0
    for item in items:
        try:
            do(item)
        except (FastctrError, OSError) as error:
            if isinstance(error, BrokenPipeError):
                raise
            code = failed(
                _os_text(error) if isinstance(error, OSError) and not isinstance(error, FastctrError) else str(error)
            )
    return code


def confirm(question: str) -> bool:
    """Ask on a terminal; anything but y is no."""
    print(question + " [y/N] ", end="", flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
