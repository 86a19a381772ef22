"""`fastctr export`: a kept container's files as a tar."""

from __future__ import annotations

import sys

from .options import VALUE, Option, UsageError
from .verb import Given, Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

VERB = Verb(
    "export", "CONTAINER", "Write a kept container's files as a tar (for import).",
    (Option("-o --output", VALUE, "output", "FILE", "write to it instead of standard output"),), 1, 1,
)  # fmt: skip


def export(argv: Sequence[str]) -> int:
    return VERB.run(argv, _export)


def _export(given: Given, args: list[str]) -> int:
    from ..image.pack import pack_tree
    from ..image_args import store_root
    from ..kept import find
    from ..kept_root import maps

    path = given.value("output")
    if path is None and sys.stdout.isatty():
        raise UsageError("cowardly refusing to save to a terminal: use -o FILE, or a pipe")
    kept = find(store_root(), args[0])
    with kept.mounted(read_only=True) as root:
        if path is None:
            pack_tree(root, sys.stdout.buffer.write, **maps(kept))
            sys.stdout.buffer.flush()
            return 0
        import os

        new = f"{path}.{os.getpid()}.new"
        try:
            with open(new, "xb") as file:
                pack_tree(root, file.write, **maps(kept))
            os.replace(new, path)
        except BaseException:
            if os.path.exists(new):
                os.unlink(new)
            raise
    return 0
