"""`fastctr images`: list the images of the store."""

from __future__ import annotations

from .options import FLAG, LIST, VALUE, Option, UsageError
from .verb import Given, Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from ..images import Image

VERB = Verb(
    "images", "[NAME[:TAG]]", "List images.",
    (
        Option("-a --all", FLAG, "all", "", "accepted: there are no intermediate images"),
        Option("--digests", FLAG, "digests", "", "show digests"),
        Option("-f --filter", LIST, "filter", "NAME=VALUE", "dangling=true|false, reference=, label=, before=, since="),
        Option("--format", VALUE, "format", "TEMPLATE", "json, table or a Go template, as '{{.Repository}}:{{.Tag}}'"),
        Option("--no-trunc", FLAG, "no_trunc", "", "ids in full"),
        Option("-q --quiet", FLAG, "quiet", "", "ids only"),
    ),
    0, 1,
)  # fmt: skip
FILTERS = ("dangling", "reference", "label", "before", "since")


def images(argv: Sequence[str]) -> int:
    return VERB.run(argv, _images)


def _images(given: Given, args: list[str]) -> int:
    from ..images import list as all_images
    from .table import filters, show

    wanted = filters(given.all("filter"), FILTERS)
    found = [image for image in all_images(args[0] if args else None) if _passes(image, wanted)]
    whole = given.flag("no_trunc")
    rows = [row for image in found for row in _rows(image, given.flag("digests"), whole, args, wanted)]
    if given.flag("quiet"):
        ids = dict.fromkeys(row["ID"] for row in rows)
        for each in ids:
            print(each)
        return 0
    default = ["Repository", "Tag", *(["Digest"] if given.flag("digests") else []), "ID", "CreatedSince", "Size"]
    for line in show(given.value("format"), rows, default):
        print(line)
    return 0


def _passes(image: Image, wanted: dict[str, list[str]]) -> bool:
    from ..images import get, matches

    for text in wanted.get("dangling", ())[-1:]:
        if text.lower() not in ("true", "false", "1", "0"):
            raise UsageError(f'--filter: dangling="{text}"; use true or false')
        if bool(image.tags) == (text.lower() in ("true", "1")):
            return False
    if "reference" in wanted and not any(matches(image, pattern) for pattern in wanted["reference"]):
        return False
    for text in wanted.get("label", ()):
        name, equals, value = text.partition("=")
        if name not in image.labels or (equals and image.labels[name] != value):
            return False
    for text in wanted.get("before", ()):
        if not (image.created or 0) < (get(text).created or 0):
            return False
    return all((image.created or 0) > (get(text).created or 0) for text in wanted.get("since", ()))


def _rows(
    image: Image, digests: bool, whole: bool, args: list[str], wanted: dict[str, list[str]]
) -> list[dict[str, Any]]:
    """A line for each name, as docker has it; one with <none> for an image without."""
    from ..image.reference import parse
    from ..images import name_matches
    from .table import ago, moment, size

    patterns = [*args, *wanted.get("reference", ())]
    names = []
    for name in image.names:
        reference = parse(name)
        if not patterns or any(name_matches(name, pattern) for pattern in patterns):
            names.append((reference.familiar_name, reference.tag or "<none>", reference.digest))
    bytes_, made = image.size, image.created
    common = {
        "ID": image.id if whole else image.id[7:19],
        "CreatedSince": ago(made),
        "CreatedAt": moment(made),
        "Size": size(bytes_),
        "Containers": "N/A",
        "SharedSize": "N/A",
        "UniqueSize": "N/A",
        "VirtualSize": size(bytes_),
        "Platform": image.platform,
    }
    if not names:
        return [{"Repository": "<none>", "Tag": "<none>", "Digest": image.digest if digests else "<none>", **common}]
    return [
        {"Repository": repository, "Tag": tag, "Digest": digest or (image.digest if digests else "<none>"), **common}
        for repository, tag, digest in names
    ]
