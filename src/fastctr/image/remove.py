"""Taking images away, by Docker's rules: `rmi` and `prune`."""

from __future__ import annotations

from ..errors import ImageError, SpecError
from .gc import Report, collect, container_digests
from .leases import living
from .reference import Reference, parse
from .resolved import Resolved, variants

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .index import Entries
    from .store import Store


def _familiar(name: str) -> str:
    try:
        return parse(name).familiar
    except SpecError:
        return name


def _users(store: Store, found: set[str]) -> list[str]:
    """Ids of kept containers that name one of these digests."""
    return sorted(name for name, named in container_digests(store.root).items() if named & found)


def remove(store: Store, text: str, force: bool = False) -> list[tuple[str, str]]:
    """Take a name away, and the image with its last one; by id, all its names.

    Returns [("Untagged", name), …, ("Deleted", digest), …] in Docker's order: the image's id, then its
    layers' chain ids from the top, as far as no other image has them.
    Raises ImageNotFound, and ImageError if without `force` the id has several names or a kept container
    was made from it.
    """
    entries = store.refs.entries()
    by_name = _by_name(store, entries, text)
    if by_name:
        names = by_name
        targets = {d.digest: d for n, d in entries if n in names}
        images = [i for t in targets.values() for i in variants(store, t, [])]
        rest = [n for n, d in entries if n is not None and d.digest in targets and n not in names]
        rest = _only_digests(names, rest)
        names = [n for n, d in entries if n is not None and d.digest in targets and n not in rest]
    else:
        image = store.resolve(text)
        targets = {d.digest: d for _, d in entries if _has(store, d.digest, image.id, entries)}
        images = [i for t in targets.values() for i in variants(store, t, [])] or [image]
        names = [n for n, d in entries if n is not None and d.digest in targets]
        rest = []
        if not force and len(_single(names)) > 1:
            few = ", ".join(_familiar(n) for n in names)
            raise ImageError(
                text,
                "conflict: unable to delete (must be forced): the image is referenced in several places",
                f"remove {few} one by one, or force it (-f)",
            )
    last = not rest
    if last and not force:
        used = _users(store, {d for i in images for d in i.digests} | set(targets))
        if used:
            raise ImageError(
                text,
                f"conflict: unable to remove (must be forced): container {used[0]} uses the image",
                f"remove the container (fastctr rm {used[0]}), or force it (-f)",
            )

    def edit(old: Entries) -> Entries:
        gone = set(names)
        return [(n, d) for n, d in old if n not in gone and not (last and n is None and d.digest in targets)]

    store.refs.change(edit)
    done = [("Untagged", _familiar(n)) for n in names]
    if not last:
        return done
    done += _untagged_digests(names, targets)
    return done + _deleted(collect(store), images)


def _by_name(store: Store, entries: Entries, text: str) -> list[str]:
    """The names in the index that the text means; none if it is an id."""
    if store.refs.get_exact(text) is not None:
        return [text]
    try:
        reference = parse(text)
    except SpecError:
        return []
    if store.refs.get_exact(reference.key) is not None:
        return [reference.key]
    if reference.digest is None:
        return []
    same = f"{reference.name}:"
    return [n for n, d in entries if n is not None and d.digest == reference.digest and n.startswith(same)]


def _only_digests(names: list[str], rest: list[str]) -> list[str]:
    """What is left of `rest` when names by digest go with the last tag of their repository."""
    here = {n.rpartition("@")[0] or n.rpartition(":")[0] for n in names}
    tagged = {n.rpartition(":")[0] for n in rest if "@" not in n}
    return [n for n in rest if not ("@" in n and n.partition("@")[0] in here - tagged)]


def _single(names: list[str]) -> set[str]:
    """The names by tag; if there is none, the repositories. One at most goes without force."""
    tagged = {n for n in names if "@" not in n}
    others = {n.partition("@")[0] for n in names if "@" in n} - {n.rpartition(":")[0] for n in tagged}
    return tagged | others


def _has(store: Store, target: str, image_id: str, entries: Entries) -> bool:
    found = next(d for _, d in entries if d.digest == target)
    return any(i.id == image_id for i in variants(store, found, []))


def _untagged_digests(names: list[str], targets: Mapping[str, object]) -> list[tuple[str, str]]:
    """Docker also tells the names by digest that went."""
    found: list[tuple[str, str]] = []
    for name in names:
        if "@" in name:
            continue
        try:
            repository: Reference = parse(name)
        except SpecError:
            continue
        if len(targets) == 1:
            line = ("Untagged", f"{repository.familiar_name}@{next(iter(targets))}")
            if line not in found and f"{repository.name}@{next(iter(targets))}" not in names:
                found.append(line)
    return found


def _deleted(report: Report, images: list[Resolved]) -> list[tuple[str, str]]:
    gone = set(report.blobs)
    chains = {chain for _, chain in report.layers}
    found: list[str] = []
    for image in images:
        if image.id in gone:
            found += [image.id] + [c for c in reversed(image.chain_ids) if c in chains]
    return [("Deleted", each) for each in dict.fromkeys(found)]


def prune(store: Store, everything: bool = False, wanted: Callable[[Resolved], bool] | None = None) -> Report:
    """Remove dangling images; with `everything` also named ones that no container, kept or running, uses.
    `wanted` says of each which would go whether it should (filters). Then gc."""
    blobs, layers, _ = living(store.root)
    kept = set().union(*container_digests(store.root).values())
    leased = {chain for _, chain in layers}
    untagged: list[str] = []
    deleted: list[str] = []

    def in_use(images: list[Resolved], target: str) -> bool:
        if target in kept or target in blobs:
            return True
        for image in images:
            named = {image.id, image.manifest_descriptor.digest}
            if named & kept or named & blobs or (image.chain_ids and image.chain_ids[-1] in leased | kept):
                return True
        return False

    doomed: set[str] = set()
    entries = store.refs.entries()
    for target in {d.digest: d for _, d in entries}.values():
        names = [n for n, d in entries if n is not None and d.digest == target.digest]
        if names and not everything:
            continue
        images = variants(store, target, names)
        if in_use(images, target.digest) or (wanted is not None and not all(wanted(i) for i in images)):
            continue
        doomed.add(target.digest)
        untagged += [_familiar(n) for n in names]
        deleted += [i.id for i in images] or [target.digest]

    def edit(old: Entries) -> Entries:
        return [e for e in old if e[1].digest not in doomed or e not in entries]

    if doomed:
        store.refs.change(edit)
    report = collect(store)
    report.untagged, report.deleted = untagged, list(dict.fromkeys(deleted))
    return report

