"""`fastctr image …`, `fastctr container …`, `fastctr system …`: the same subcommands by docker's longer names."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

IMAGE = {
    "ls": ("images", "images"),
    "list": ("images", "images"),
    "pull": ("pull", "pull"),
    "push": ("push", "push"),
    "rm": ("rmi", "rmi"),
    "remove": ("rmi", "rmi"),
    "inspect": ("inspect", "inspect"),
    "history": ("history", "history"),
    "load": ("load", "load"),
    "save": ("save", "save"),
    "import": ("import_", "import_"),
    "tag": ("tag", "tag"),
    "prune": ("prune", "image_prune"),
    "build-rootfs": ("import_", "build_rootfs"),
    "fsck": ("fsck", "fsck"),
    "mount": ("mount", "mount"),
}
CONTAINER = {
    "run": ("run", "run"),
    "ls": ("ps", "ps"),
    "list": ("ps", "ps"),
    "ps": ("ps", "ps"),
    "rm": ("rm", "rm"),
    "remove": ("rm", "rm"),
    "start": ("start", "start"),
    "inspect": ("inspect", "inspect"),
    "diff": ("diff", "diff"),
    "cp": ("cp", "cp"),
    "commit": ("commit", "commit"),
    "export": ("export", "export"),
    "prune": ("prune", "container_prune"),
}
SYSTEM = {
    "df": ("df", "df"),
    "prune": ("prune", "system_prune"),
    "fsck": ("fsck", "fsck"),
    "info": ("info", "info"),
}


def image(argv: Sequence[str]) -> int:
    """`fastctr image …`."""
    return _group("image", IMAGE, argv)


def container(argv: Sequence[str]) -> int:
    """`fastctr container …`."""
    return _group("container", CONTAINER, argv)


def system(argv: Sequence[str]) -> int:
    """`fastctr system …`."""
    return _group("system", SYSTEM, argv)


def _group(name: str, table: dict[str, tuple[str, str]], argv: Sequence[str]) -> int:
    from . import call, unknown

    text = (
        f"Usage: fastctr {name} COMMAND\n\nCommands: {', '.join(table)}\n\n`fastctr {name} COMMAND --help` says more."
    )
    if not argv:
        print(text, file=sys.stderr)
        return 125
    if argv[0] in ("--help", "-h", "help"):
        print(text)
        return 0
    if argv[0] not in table:
        return unknown(argv[0], tuple(table), name + " ")
    args = list(argv[1:])
    if argv[0] == "inspect" and name in ("image", "container"):
        args = ["--type", name, *args]
    return call(table[argv[0]], args)
