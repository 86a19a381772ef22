"""`fastctr gc`: clear up what launchers that were killed left behind."""

from __future__ import annotations

import sys

from .options import FLAG, Option, UsageError, help_text, parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

TABLE = (
    Option("-q --quiet", FLAG, "quiet", "", "print nothing"),
    Option("--help", FLAG, "help", "", "print this"),
)
USAGE = """Usage: fastctr gc [OPTIONS]

Remove control groups, mounts and scratch directories of launchers that are dead, killing what still
runs in them. Those of living processes are left alone. The next start does the same by itself."""


def gc(argv: Sequence[str]) -> int:
    """Sweep once; 0, or 125 if that failed."""
    from ..errors import FastctrError

    try:
        given, rest = parse(TABLE, argv)
        if rest:
            raise UsageError(f'unexpected argument: "{rest[0]}"')
    except UsageError as error:
        print(f"fastctr: {error}\nSee 'fastctr gc --help'.", file=sys.stderr)
        return 125
    if given.get("help"):
        print(USAGE + "\n\n" + help_text(TABLE))
        return 0
    from ..maintenance import gc as sweep

    try:
        count = sweep()
    except (FastctrError, OSError) as error:
        print(f"fastctr: {error}", file=sys.stderr)
        return 125
    if not given.get("quiet"):
        print(f"cleared up after {count} dead {'launcher' if count == 1 else 'launchers'}")
    return 0
