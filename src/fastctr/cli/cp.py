"""`fastctr cp`: copy files into and out of a kept container."""

from __future__ import annotations

from .options import FLAG, Option, UsageError
from .verb import Given, Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

VERB = Verb(
    "cp", "CONTAINER:PATH PATH|-  or  PATH|- CONTAINER:PATH",
    "Copy files between this machine and a kept container, running or not. - is a tar on standard input or output.",
    (
        Option("-a --archive", FLAG, "archive", "", "keep owners"),
        Option("-L --follow-link", FLAG, "follow", "", "copy what a symbolic link SOURCE leads to"),
        Option("-q --quiet", FLAG, "quiet", "", "accepted: nothing is said anyway"),
    ),
    2, 2,
)  # fmt: skip


def cp(argv: Sequence[str]) -> int:
    return VERB.run(argv, _cp)


def split(text: str) -> tuple[str, str]:
    """(container or "", path): Docker's rule, under which a path with a colon is written ./a:b or /a:b."""
    if text.startswith(("/", ".")) or ":" not in text:
        return "", text
    name, _, path = text.partition(":")
    return name, path


def _cp(given: Given, args: list[str]) -> int:
    from ..image.copy import copy_in, copy_out
    from ..image_args import store_root
    from ..kept import find
    from ..kept_root import maps

    (source_name, source), (target_name, target) = split(args[0]), split(args[1])
    if bool(source_name) == bool(target_name):
        what = (
            "copying between containers is not offered" if source_name else "must specify at least one container source"
        )
        raise UsageError(f"{what}: write CONTAINER:PATH for one of the two")
    if not (source and target):
        raise UsageError("a path is empty")
    archive, follow = given.flag("archive"), given.flag("follow")
    kept = find(store_root(), source_name or target_name)
    with kept.mounted(read_only=bool(source_name)) as root:
        if source_name:
            copy_out(root, source, target, archive=archive, follow=follow, **maps(kept))
        else:
            copy_in(root, source, target, archive=archive, follow=follow, **maps(kept))
    return 0
