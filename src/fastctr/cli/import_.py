"""`fastctr import` and `fastctr image build-rootfs`: an image of a tar or a directory."""

from __future__ import annotations

import os
import sys

from .options import LIST, VALUE, Option
from .verb import Given, Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

CHANGES = (
    Option(
        "-c --change", LIST, "changes", "INSTRUCTION", 'as "CMD sh", "ENV A=b", "ENTRYPOINT [\\"/app\\"]", "USER x"'
    ),
    Option("--platform", VALUE, "platform", "PLATFORM", "what it is for, as linux/arm64"),
)
IMPORT = Verb(
    "import", "FILE|DIR|- [NAME[:TAG]]",
    "Make an image of a tar of a file system (packed or not; - for standard input), or of a directory.",
    (Option("-m --message", VALUE, "message", "TEXT", "a comment in the image's history"), *CHANGES), 1, 2,
    mixed=True,
)  # fmt: skip
BUILD = Verb(
    "image build-rootfs", "DIR [NAME[:TAG]]",
    "Make an image of a directory, as debootstrap leaves one:\n"
    "  debootstrap --variant=minbase stable /srv/debian\n"
    "  fastctr image build-rootfs -c 'CMD bash' /srv/debian mine/debian",
    (
        Option("-t --tag", VALUE, "tag", "NAME[:TAG]", "its name"),
        Option("--compression", VALUE, "compression", "HOW", "of its layer: gzip (default), zstd or none"),
        Option("--exclude", LIST, "exclude", "PATTERN", 'what to leave out, as "/var/cache/*" or "*.pyc"'),
        *CHANGES,
    ),
    1, 2,
)  # fmt: skip


def import_(argv: Sequence[str]) -> int:
    return IMPORT.run(argv, _import)


def _import(given: Given, args: list[str]) -> int:
    from ..images import import_rootfs
    from .options import UsageError

    source: Any = args[0]
    if source == "-":
        if sys.stdin.isatty():
            raise UsageError("standard input is a terminal: give a FILE, or a pipe")
        source = sys.stdin.buffer
    elif not os.path.exists(args[0]):
        raise FileNotFoundError(2, os.strerror(2), args[0])
    image = import_rootfs(source, args[1] if len(args) > 1 else None, changes=given.all("changes"),
                          message=given.value("message"), platform=given.value("platform"))  # fmt: skip
    print(image.id)
    return 0


def build_rootfs(argv: Sequence[str]) -> int:
    return BUILD.run(argv, _build)


def _build(given: Given, args: list[str]) -> int:
    from ..images import build_rootfs as build
    from .options import UsageError

    name = args[1] if len(args) > 1 else given.value("tag")
    if len(args) > 1 and "tag" in given:
        raise UsageError("the name is given twice: leave --tag away")
    if not os.path.isdir(args[0]):
        raise NotADirectoryError(20, "is not a directory", args[0])
    image = build(args[0], name, changes=given.all("changes"), exclude=given.all("exclude"),
                  compression=given.value("compression") or "gzip", platform=given.value("platform"))  # fmt: skip
    print(image.id)
    return 0
