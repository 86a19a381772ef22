"""Which repositories a blob was seen in, so that a push to the same registry mounts it instead of sending it.

The file `origins` of the store, with a line "digest repository" each; appended to, and shortened when it has
grown. It is a hint: a wrong line costs one question, a missing one an upload.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from .store import Store

__all__ = ["note", "sources"]

_LONG = 1 << 20  # bytes after which lines of blobs that are gone are dropped


def note(store: Store, repository: str, digests: Iterable[str]) -> None:
    """These blobs are in `repository` ("docker.io/library/alpine")."""
    known = _read(store)
    new = "".join(f"{each} {repository}\n" for each in dict.fromkeys(digests) if (each, repository) not in known)
    if not new:
        return
    path = f"{store.root}/origins"
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            os.write(fd, new.encode())
            long = os.fstat(fd).st_size > _LONG
        finally:
            os.close(fd)
        if long:
            _shorten(store, path)
    except OSError:
        pass  # only a hint


def sources(store: Store, domain: str, digest: str, target: str) -> list[str]:
    """Paths of other repositories than `target` on the registry `domain` that have the blob, newest first."""
    start = domain + "/"
    found = [name[len(start) :] for each, name in _read(store) if each == digest and name.startswith(start)]
    return [path for path in reversed(found) if path != target]


def _read(store: Store) -> dict[tuple[str, str], None]:
    try:
        with open(f"{store.root}/origins", encoding="utf-8", errors="replace") as file:
            lines = file.read().splitlines()
    except OSError:
        return {}
    found: dict[tuple[str, str], None] = {}
    for line in lines:
        digest, blank, name = line.partition(" ")
        if blank:
            found[digest, name] = None
    return found


def _shorten(store: Store, path: str) -> None:
    """Drop what speaks of blobs that are not here; of the rest, the newer half if it is too long still."""
    from ..errors import ImageError

    lines = []
    for digest, name in _read(store):
        try:
            if store.has_blob(digest):
                lines.append(f"{digest} {name}\n")
        except ImageError:
            pass
    if sum(map(len, lines)) > _LONG // 2:
        lines = lines[len(lines) // 2 :]
    new = f"{store.root}/ingest/new-origins-{os.getpid()}"  # swept from there if we die
    with open(new, "w", encoding="utf-8") as file:
        file.writelines(lines)
    os.rename(new, path)
