"""`fastctr load`: read images from an archive."""

from __future__ import annotations

import sys

from .options import FLAG, VALUE, Option
from .verb import Given, Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

VERB = Verb(
    "load", "", "Read images from an archive that save, docker, podman or skopeo wrote (docker or OCI; gzip, zstd …).",
    (
        Option("-i --input", VALUE, "input", "FILE", "read it instead of standard input"),
        Option("-q --quiet", FLAG, "quiet", "", "show no progress"),
    ),
)  # fmt: skip


def load(argv: Sequence[str]) -> int:
    return VERB.run(argv, _load)


def _load(given: Given, args: list[str]) -> int:
    from ..image.archive import load as read
    from ..images import Image, store
    from .options import UsageError
    from .progress import Shown

    source: Any = given.value("input")
    if source is None:
        if sys.stdin.isatty():
            raise UsageError("requested load from stdin, but stdin is empty: give -i FILE or a pipe")
        source = sys.stdin.buffer
    where = store()
    with Shown(given.flag("quiet"), sys.stderr) as progress:
        found = read(where, source, progress=progress)
    for resolved in found:
        image = Image(where, resolved)
        for tag in image.tags or image.digests:
            print(f"Loaded image: {tag}")
        if not image.names:
            print(f"Loaded image ID: {image.id}")
    return 0
