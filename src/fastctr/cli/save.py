"""`fastctr save`: write images to an archive."""

from __future__ import annotations

import sys

from .options import VALUE, Option
from .verb import Given, Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

VERB = Verb(
    "save", "IMAGE [IMAGE...]", "Write images to an archive, for load, docker load or podman load.",
    (
        Option("-o --output", VALUE, "output", "FILE", "write to it instead of standard output"),
        Option("--format", VALUE, "format", "FORMAT", "docker (default) or oci"),
        Option("--compression", VALUE, "compression", "HOW", "gzip or zstd (default: none, as docker)"),
    ),
    1, None,
)  # fmt: skip


def save(argv: Sequence[str]) -> int:
    return VERB.run(argv, _save)


def _save(given: Given, args: list[str]) -> int:
    from ..image.archive import save as write
    from ..images import store
    from .options import UsageError

    form, packed = given.value("format") or "docker", given.value("compression")
    if form not in ("docker", "oci"):
        raise UsageError(f'--format: "{form}" is not a format; use docker or oci')
    if packed not in (None, "none", "gzip", "zstd"):
        raise UsageError(f'--compression: "{packed}" is not known; use gzip or zstd')
    compression = None if packed == "none" else packed
    where, path = store(), given.value("output")
    if path is None and sys.stdout.isatty():
        raise UsageError("cowardly refusing to save to a terminal: use -o FILE, or a pipe")
    write(where, args, sys.stdout.buffer if path is None else path, format=form, compression=compression)
    return 0
