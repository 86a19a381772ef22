"""`fastctr image prune`, `container prune` and `system prune`."""

from __future__ import annotations

import sys

from .options import FLAG, LIST, Option, UsageError
from .verb import Given, Verb, confirm, failed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from ..image.resolved import Resolved

_FORCE = Option("-f --force", FLAG, "force", "", "do not ask")
_ALL = Option("-a --all", FLAG, "all", "", "all images no container uses, not just those without a name")
_FILTER = Option("--filter", LIST, "filter", "NAME=VALUE", "until=24h (made before), label=, label!=")
IMAGE = Verb("image prune", "", "Remove images without a name.", (_ALL, _FILTER, _FORCE))
CONTAINER = Verb("container prune", "", "Remove all kept containers that do not run.", (_FORCE,))
SYSTEM = Verb(
    "system prune", "", "Remove kept containers that do not run, images without a name, and what nothing needs.",
    (_ALL, _FILTER, _FORCE, Option("--volumes", FLAG, "volumes", "", "accepted: there are no volumes")),
)  # fmt: skip


def image_prune(argv: Sequence[str]) -> int:
    """`fastctr image prune`."""
    return IMAGE.run(argv, _image)


def container_prune(argv: Sequence[str]) -> int:
    """`fastctr container prune`."""
    return CONTAINER.run(argv, _container)


def system_prune(argv: Sequence[str]) -> int:
    """`fastctr system prune`."""
    return SYSTEM.run(argv, _system)


def _sure(given: Given, what: Sequence[str]) -> bool:
    if given.flag("force"):
        return True
    print("WARNING! This will remove:\n" + "\n".join(f"  - {each}" for each in what))
    if not sys.stdin.isatty():
        raise UsageError("standard input is no terminal to ask on: use -f")
    return confirm("Are you sure you want to continue?")


def _images_text(given: Given) -> str:
    return "all images that no container uses" if given.flag("all") else "all images without a name"


def _image(given: Given, args: list[str]) -> int:
    wanted = _wanted(given)
    if not _sure(given, [_images_text(given)]):
        return 0
    print(f"Total reclaimed space: {_size(_prune_images(given, wanted))}")
    return 0


def _container(given: Given, args: list[str]) -> int:
    if not _sure(given, ["all kept containers that do not run"]):
        return 0
    freed, code = _prune_containers()
    print(f"Total reclaimed space: {_size(freed)}")
    return code


def _system(given: Given, args: list[str]) -> int:
    wanted = _wanted(given)
    what = ["all kept containers that do not run", _images_text(given), "blobs and layers that nothing needs"]
    if not _sure(given, what):
        return 0
    freed, code = (0, 0) if "filter" in given else _prune_containers()
    freed += _prune_images(given, wanted)
    print(f"Total reclaimed space: {_size(freed)}")
    return code


def _size(number: float) -> str:
    from .table import size

    return size(number)


def _prune_images(given: Given, wanted: Any) -> int:
    from ..image.remove import prune
    from ..images import store

    report = prune(store(), given.flag("all"), wanted)
    if report.untagged or report.deleted:
        print("Deleted Images:")
        for name in report.untagged:
            print(f"untagged: {name}")
        for digest in report.deleted:
            print(f"deleted: {digest}")
        print()
    return report.bytes


def _prune_containers() -> tuple[int, int]:
    from ..errors import FastctrError
    from ..image.usage import tree_size
    from ..image_args import store_root
    from ..kept import all_of

    freed, removed, code = 0, [], 0
    for kept in list(all_of(store_root())):
        if kept.running:
            continue
        size = tree_size(kept.path)
        try:
            kept.remove()
        except FastctrError as error:
            code = failed(str(error))
            continue
        freed += size
        removed.append(kept.id)
    if removed:
        print("Deleted Containers:", *removed, "", sep="\n")
    return freed, code


def _wanted(given: Given) -> Any:
    """A function that says of an image whether the filters let it go, or None."""
    if "filter" not in given:
        return None
    import time

    from .. import units
    from ..image.image import parse_time
    from .table import filters

    asked = filters(
        [text.replace("label!=", "nolabel=", 1) for text in given.all("filter")], ("until", "label", "nolabel")
    )
    before = [time.time() - units.duration_ns("--filter until", text) / 10**9 for text in asked.get("until", ())]

    def has(labels: dict[str, str], text: str) -> bool:
        name, equals, value = text.partition("=")
        return name in labels and (not equals or labels[name] == value)

    def wanted(image: Resolved) -> bool:
        labels = (image.config.get("config") or {}).get("Labels") or {}
        made = parse_time(image.config.get("created")) or 0
        return (
            all(made < limit for limit in before)
            and all(has(labels, text) for text in asked.get("label", ()))
            and not any(has(labels, text) for text in asked.get("nolabel", ()))
        )

    return wanted
