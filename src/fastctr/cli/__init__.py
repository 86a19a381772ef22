"""The fastctr command: one module for each subcommand, imported only when it is chosen."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

HELP = """Usage: fastctr COMMAND [OPTIONS]

  run       run a command in a new container:  fastctr run host -- echo hello
  info      what this machine offers, and what is missing
  gc        clear up what killed launchers left behind
  version   print the version

`fastctr COMMAND --help` says more. Exit code 125 is fastctr's own failure."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code is returned."""
    args = list(sys.argv[1:] if argv is None else argv)
    name = args[0] if args else ""
    try:
        if name == "run":
            from .run import run

            return run(args[1:])
        if name == "info":
            from .info import info

            return info(args[1:])
        if name == "gc":
            from .gc import gc

            return gc(args[1:])
        if name in ("version", "--version"):
            from .. import __version__

            print(f"fastctr {__version__}")
            return 0
        if name in ("help", "--help", "-h"):
            print(HELP)
            return 0
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return _broken_pipe()
    if not name:
        print(HELP, file=sys.stderr)
        return 125
    from ..errors import nearest

    close = nearest(name, ("run", "info", "gc", "version", "help"))
    print(
        f"fastctr: unknown command: {name}"
        + (f" (did you mean {close}?)" if close else "")
        + "\nSee 'fastctr --help'.",
        file=sys.stderr,
    )
    return 125


def _broken_pipe() -> int:
    """Whoever read our output is gone: end as the signal would have made us, without a traceback."""
    import os

    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return 141
