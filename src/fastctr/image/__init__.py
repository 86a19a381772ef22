"""Images: references, registries, the store of blobs and layers, snapshots. Knows nothing of starting containers."""

from __future__ import annotations

import os

# Here, where it costs no module more: a command line that only starts a container need not read any JSON, nor import
# what does. What a container needs to know of its image is noted on disk; see facts.py.

_FORMAT = 2


def facts_path(image: str, root: str, platform: str | None, snapshotter: str | None) -> str:
    """Where the notes are of an image that is asked for in this way, in the store `root`."""
    import _sha256  # type: ignore[import-not-found]  # the built-in one: hashlib loads libssl
    import sys

    text = f"{_FORMAT} {sys.implementation.cache_tag} {image}\0{platform}\0{snapshotter}"
    return f"{root}/cache/{_sha256.sha256(text.encode('utf-8', 'surrogateescape')).hexdigest()[:32]}"


def index_stamp(root: str) -> tuple[int, ...]:
    """Changes with every change of the store's references: index.json is always replaced whole."""
    try:
        found = os.stat(root + "/index.json")
    except OSError:
        return ()
    return found.st_ino, found.st_mtime_ns, found.st_size
