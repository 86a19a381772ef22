"""`fastctr pull`: get an image from a registry."""

from __future__ import annotations

from .options import FLAG, VALUE, Option
from .verb import Given, Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

VERB = Verb(
    "pull", "NAME[:TAG|@DIGEST]", "Get an image from a registry, and unpack it.",
    (
        Option("-a --all-tags", FLAG, "all_tags", "", "every tag of the repository"),
        Option("--platform", VALUE, "platform", "PLATFORM", "as linux/arm64, if the image has several"),
        Option("-q --quiet", FLAG, "quiet", "", "print the image's name only"),
        Option("--snapshotter", VALUE, "snapshotter", "NAME", "how it is unpacked: overlay (default), erofs, vfs"),
        Option("--disable-content-trust", FLAG, "trust", "", "accepted: signatures are not looked at"),
    ),
    1, 1,
)  # fmt: skip


def pull(argv: Sequence[str]) -> int:
    return VERB.run(argv, _pull)


def _pull(given: Given, args: list[str]) -> int:
    from ..image.pull import pull as fetch
    from ..image.reference import parse
    from ..image_args import check_name
    from ..images import store
    from .options import UsageError
    from .progress import Shown

    check_name(args[0])
    reference, every = parse(args[0]), given.flag("all_tags")
    if every and (reference.digest or ":" in args[0].rpartition("/")[2]):
        raise UsageError("tag can't be used with --all-tags/-a")
    where, quiet = store(), given.flag("quiet")
    if not quiet and not every and reference.tag and not args[0].endswith(":" + reference.tag):
        print(f"Using default tag: {reference.tag}")
    before = {name: target.digest for name, target in where.refs.list()}
    with Shown(quiet) as progress:
        found = fetch(
            where, args[0], platform=given.value("platform"), progress=progress, all_tags=every,
            snapshotter=given.value("snapshotter"),
        )  # fmt: skip
    if not quiet and not isinstance(found, list):
        print(f"Digest: {found.target.digest}")
        same = before.get(reference.key) == found.target.digest
        print(f"Status: {'Image is up to date for' if same else 'Downloaded newer image for'} {reference.familiar}")
    print(reference if not every else reference.name)
    return 0
