"""`fastctr system df`: what takes how much room in the store."""

from __future__ import annotations

from .options import FLAG, VALUE, Option
from .verb import Given, Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..image.usage import Usage

VERB = Verb(
    "system df", "", "What takes how much room.",
    (
        Option("--format", VALUE, "format", "TEMPLATE", "json, table or a Go template, as '{{.Type}} {{.Size}}'"),
        Option("-v --verbose", FLAG, "verbose", "", "image by image"),
    ),
)  # fmt: skip


def df(argv: Sequence[str]) -> int:
    return VERB.run(argv, _df)


def _df(given: Given, args: list[str]) -> int:
    from ..image_args import store_root
    from ..images import df as usage_of
    from ..kept import all_of
    from .table import show, size

    found = usage_of()
    if given.flag("verbose"):
        return _verbose(found)
    kept = list(all_of(store_root()))
    running = sum(each.running for each in kept)
    active = [row for row in found.images if row.active]
    image_bytes = found.blobs[1] + sum(total for _, total in found.layers.values())

    def row(kind: str, count: int, used: int, total: int, free: int) -> dict[str, str]:
        part = f" ({100 * free // total}%)" if total else ""
        return {"Type": kind, "TotalCount": str(count), "Active": str(used), "Size": size(total),
                "Reclaimable": size(free) + part}  # fmt: skip

    stopped = found.containers[1] if not running else 0
    partial = found.partial[0] + found.unpacking
    rows = [
        row("Images", len(found.images), len(active), image_bytes, min(found.reclaimable, image_bytes)),
        row("Containers", found.containers[0], running, found.containers[1], stopped),
        row("Unfinished", partial, 0, found.partial[1], found.partial[1]),
    ]
    print(*show(given.value("format"), rows, ("Type", "TotalCount", "Active", "Size", "Reclaimable")), sep="\n")
    return 0


def _verbose(found: Usage) -> int:
    from ..image.reference import parse
    from ..image.usage import tree_size
    from ..image_args import store_root
    from ..kept import all_of
    from .table import columns, size

    print("Images space usage:\n")
    rows = [("REPOSITORY", "TAG", "IMAGE ID", "PACKED", "UNPACKED", "SHARED SIZE", "UNIQUE SIZE", "ACTIVE")]
    for row in found.images:
        for name in row.image.names or [""]:
            try:
                reference = parse(name) if name else None
            except ValueError:
                reference = None
            repository = reference.familiar_name if reference else name or "<none>"
            tag = (reference.tag if reference else None) or "<none>"
            rows.append((repository, tag, row.image.id[7:19], size(row.packed), size(row.unpacked), size(row.shared),
                         size(row.unique), "yes" if row.active else "no"))  # fmt: skip
    print(columns(rows))
    print("\nContainers space usage:\n")
    lines = [("CONTAINER ID", "IMAGE", "SIZE", "STATUS", "NAMES")]
    for kept in all_of(store_root()):
        image = str(kept.record.get("image") or "")
        lines.append((kept.id[:12], image, size(tree_size(kept.path)), kept.state, kept.name))
    print(columns(lines))
    print("\nUnpacked layers:\n")
    kinds = [("SNAPSHOTTER", "LAYERS", "SIZE")]
    kinds += [(name, str(count), size(total)) for name, (count, total) in sorted(found.layers.items())]
    print(columns(kinds))
    blobs, layers, total = found.unneeded
    print(f"\nHalf fetched: {found.partial[0]} blobs, {size(found.partial[1])}; being unpacked: {found.unpacking}")
    print(f"Needed by nothing: {blobs} blobs and {layers} layers, {size(total)}")
    return 0
