"""`fastctr push`: send an image to the registry in its name."""

from __future__ import annotations

from .options import FLAG, Option
from .verb import Given, Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

VERB = Verb(
    "push", "NAME[:TAG]", "Send an image to the registry in its name.",
    (
        Option("-a --all-tags", FLAG, "all_tags", "", "every tag of the repository that is here"),
        Option("-q --quiet", FLAG, "quiet", "", "print the image's name only"),
        Option("--disable-content-trust", FLAG, "trust", "", "accepted: nothing is signed"),
    ),
    1, 1,
)  # fmt: skip


def push(argv: Sequence[str]) -> int:
    return VERB.run(argv, _push)


def _push(given: Given, args: list[str]) -> int:
    from ..errors import ImageNotFound
    from ..image.push import push as send
    from ..image.reference import parse
    from ..images import store
    from .options import UsageError
    from .progress import Shown

    where, quiet, wanted = store(), given.flag("quiet"), parse(args[0])
    names = [args[0]]
    if given.flag("all_tags"):
        if wanted.digest or ":" in args[0].rpartition("/")[2]:
            raise UsageError("tag can't be used with --all-tags/-a")
        names = [name for name, _ in where.refs.list() if name.startswith(wanted.name + ":")]
        if not names:
            raise ImageNotFound(args[0], "has no tag here", "fastctr images lists what is here")
    for name in names:
        if not quiet:
            print(f"The push refers to repository [{wanted.name}]")
        with Shown(quiet) as progress:
            sent = send(where, name, progress=progress)
        reference = parse(name)
        print(
            reference.familiar
            if quiet
            else f"{reference.tag or reference.digest}: digest: {sent.digest} size: {sent.size}"
        )
    return 0
