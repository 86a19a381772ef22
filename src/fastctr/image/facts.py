"""What a container needs to know of its image, as plain values; and notes of it on disk.

`<root>/cache/` has a file for each way an image was asked for: the stamp of index.json by which it was found, and
the facts. Who starts a container from it later reads only that (from_image.py). What unpacks an image writes them
at its end, so that already the first start finds them. They are a help and no more: what cannot be written is not.
"""

from __future__ import annotations

import os

from ..errors import FastctrError
from . import facts_path, index_stamp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from .platform import Platform
    from .resolved import Resolved
    from .store import Store

__all__ = ["facts_of", "foresee", "note", "spellings"]

CONFIG = ("Entrypoint", "Cmd", "Env", "WorkingDir", "User", "StopSignal", "Volumes", "ExposedPorts", "Labels", "Shell")
"""What is kept of an image's configuration."""
_FORESEEN = 32
_NOTES = 256


def note(path: str, stamp: tuple[int, ...], facts: dict[str, Any]) -> None:
    """Write it down. stamp: index_stamp() from before the image was looked for."""
    import marshal

    new = f"{path}.{os.getpid()}-{os.urandom(4).hex()}"
    try:
        folder = os.path.dirname(path)
        os.makedirs(folder, 0o700, exist_ok=True)
        noted = os.listdir(folder)
        if len(noted) > _NOTES:  # of images long gone, most of them
            for name in noted:
                os.unlink(f"{folder}/{name}")
        with open(new, "xb") as file:
            file.write(marshal.dumps((stamp, facts)))
        os.replace(new, path)
    except (OSError, ValueError):
        pass


def spellings(name: str) -> list[str]:
    """The ways people write a full name: "docker.io/library/alpine:latest", "alpine:latest", "alpine"."""
    from .reference import parse

    found = parse(name)
    texts = [str(found), found.familiar]
    if found.tag == "latest" and not found.digest:
        texts.append(found.familiar_name)
    return list(dict.fromkeys(texts))


def foresee(
    store: Store, texts: Iterable[str], snapshotter: str | None = None, platform: str | Platform | None = None
) -> None:
    """Note what a start of these images, unpacked by now, will look for. snapshotter, platform: as they were asked
    for, None for the default."""
    from . import snapshot

    asked = snapshotter or os.environ.get("FASTCTR_SNAPSHOTTER")
    stamp = index_stamp(store.root)  # first: if the index changes now, the notes are void
    known: dict[str, dict[str, Any]] = {}
    platforms = dict.fromkeys((None, platform if platform is None else str(platform)))
    try:
        chosen = snapshot.get(store, snapshotter)
        for text in list(dict.fromkeys(texts))[:_FORESEEN]:
            for each in platforms:
                resolved = store.resolve(text, each)
                digest = resolved.manifest_descriptor.digest
                if digest not in known:
                    if not resolved.chain_ids or not chosen.has(resolved.chain_ids[-1]):
                        continue
                    known[digest] = facts_of(store, resolved, chosen.name, chosen.roots(resolved.chain_ids))
                note(facts_path(text, store.root, each, asked), stamp, known[digest])
    except (FastctrError, OSError):
        pass  # whoever starts it is told


def facts_of(store: Store, resolved: Resolved, snapshotter: str, roots: list[str]) -> dict[str, Any]:
    """What a Use is made of, as plain values."""
    given = resolved.config.get("config") or {}
    config = {name: given.get(name) for name in CONFIG}
    look = _Looker(store, resolved, roots)
    try:
        volumes = {path: look.owner(path) for path in config["Volumes"] or ()}
    finally:
        look.close()
    return {
        "id": resolved.config_digest,
        "manifest": resolved.manifest_descriptor.digest,
        "names": list(resolved.names),
        "architecture": str(resolved.config.get("architecture") or ""),
        "config": config,
        "chains": list(resolved.chain_ids),
        "snapshotter": snapshotter,
        "roots": list(roots),
        "volumes": volumes,
    }


class _Looker:
    """Looks for paths in an image: in its layers' directories, or where they are no directories, mounted."""

    def __init__(self, store: Store, resolved: Resolved, roots: list[str]) -> None:
        self._store, self._resolved, self._roots = store, resolved, roots
        self._mount: Any = None
        self._top: tuple[str, ...] = ()

    def tops(self) -> tuple[str, ...]:
        if not any(root.startswith("erofs:") for root in self._roots):
            return tuple(self._roots)
        if self._mount is None:
            from . import snapshot

            self._mount = snapshot.mount(self._store, self._resolved)
            self._top = (os.fspath(self._mount.__enter__()),)
        return self._top

    def owner(self, path: str) -> tuple[int, int, int] | None:
        """(mode, uid, gid) of what is at a path, None if nothing is; a link on the way is not followed."""
        parts = [part for part in path.split("/") if part]
        for top in self.tops():
            at = top
            for number, part in enumerate(parts):
                at = f"{at}/{part}"
                try:
                    found = os.lstat(at)
                except OSError:
                    break
                kind = found.st_mode & 0o170000
                if kind == 0o020000 and found.st_rdev == 0:
                    return None  # a whiteout
                if kind == 0o040000 and number < len(parts) - 1:
                    continue
                return (found.st_mode & 0o7777 if kind == 0o040000 else 0o755), found.st_uid, found.st_gid
        return None

    def close(self) -> None:
        if self._mount is not None:
            self._mount.__exit__(None, None, None)
