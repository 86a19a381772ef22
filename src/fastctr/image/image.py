"""Image: one image of a store, for one platform, as programs look at it."""

from __future__ import annotations

import os

from ..errors import ImageNotFound
from . import digest as digests

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from typing import Any

    from .resolved import Resolved
    from .store import Store


class Layer:
    """One layer of an image, bottom first in Image.layers.

    digest    of the blob as it was fetched; "" where only the unpacked layer is known
    size      bytes of that blob
    diff_id   digest of the tar in it
    chain_id  digest that stands for this layer and all below it
    media_type
    """

    __slots__ = ("chain_id", "diff_id", "digest", "media_type", "size")

    def __init__(self, digest: str, size: int, diff_id: str, chain_id: str, media_type: str) -> None:
        self.digest, self.size, self.diff_id, self.chain_id, self.media_type = (
            digest,
            size,
            diff_id,
            chain_id,
            media_type,
        )

    def __repr__(self) -> str:
        return f"<Layer {digests.short(self.digest)} {self.size} bytes>"


class Step:
    """One line of an image's history, newest first in Image.history().

    created      seconds since 1970, or None
    created_by   the instruction
    comment, author
    size         bytes unpacked, 0 for a step that made no layer; of the packed blob where it is not unpacked
    empty        whether it made no layer
    id           the image's id for the newest, else None
    """

    __slots__ = ("author", "comment", "created", "created_by", "empty", "id", "size")

    def __init__(self, created: float | None, created_by: str, comment: str, author: str, size: int, empty: bool,
                 id: str | None) -> None:  # noqa: A002  # fmt: skip
        self.created, self.created_by, self.comment, self.author = created, created_by, comment, author
        self.size, self.empty, self.id = size, empty, id

    def __repr__(self) -> str:
        return f"<Step {self.created_by!r}>"


class Image:
    """An image. Equal by id; what it shows is what the store had when it was looked up.

    id            "sha256:…", the digest of its configuration
    tags          names with tags, short as people write them ("alpine:3.20")
    digests       "name@sha256:…" for each repository it has a name in
    platform      "linux/amd64"
    created       seconds since 1970, or None
    """

    def __init__(self, store: Store, resolved: Resolved) -> None:
        self._store = store
        self._resolved = resolved

    @property
    def id(self) -> str:
        return self._resolved.id

    @property
    def short_id(self) -> str:
        """The first 12 digits of it."""
        return digests.short(self.id)

    @property
    def store(self) -> Store:
        """The store it is in."""
        return self._store

    @property
    def names(self) -> list[str]:
        """All its references in full, sorted: "docker.io/library/alpine:latest"."""
        return list(self._resolved.names)

    @property
    def tags(self) -> list[str]:
        return sorted(_familiar(name) for name in self._resolved.names if "@" not in name)

    @property
    def digests(self) -> list[str]:
        return [_familiar(name) for name in self._resolved.repo_digests]

    @property
    def digest(self) -> str:
        """Of the manifest, or of the index it was pulled by."""
        return self._resolved.target.digest

    @property
    def config(self) -> dict[str, Any]:
        """The image's runtime configuration: "Cmd", "Env", "Labels" … (OCI image specification, config.md)."""
        found = self._resolved.config.get("config")
        return dict(found) if isinstance(found, dict) else {}

    @property
    def document(self) -> dict[str, Any]:
        """The whole configuration document: architecture, os, created, history, rootfs, config …"""
        return dict(self._resolved.config)

    @property
    def manifest(self) -> dict[str, Any]:
        """The manifest as it is in the store."""
        return dict(self._resolved.manifest)

    @property
    def layers(self) -> list[Layer]:
        found = self._resolved
        return [
            Layer(each.digest, each.size, diff_id, chain, each.media_type)
            for each, diff_id, chain in zip(found.layers, found.diff_ids, found.chain_ids)
        ]

    @property
    def size(self) -> int:
        """Bytes of its files, unpacked; of the packed layers as long as they are not unpacked."""
        return sum(self._sizes())

    def _sizes(self) -> list[int]:
        from .gc import layer_size
        from .leases import listdir

        kinds = listdir(f"{self._store.root}/layers")
        sizes = []
        for layer in self.layers:
            name = layer.chain_id.partition(":")[2]
            places = [f"{self._store.root}/layers/{kind}/{name}" for kind in kinds]
            sizes.append(
                next((layer_size(place) for place in places if os.path.exists(f"{place}/layer.json")), layer.size)
            )
        return sizes

    @property
    def created(self) -> float | None:
        return parse_time(self._resolved.config.get("created"))

    @property
    def platform(self) -> str:
        return str(self._resolved.platform)

    @property
    def architecture(self) -> str:
        return self._resolved.platform.architecture

    @property
    def labels(self) -> dict[str, str]:
        return dict(self.config.get("Labels") or {})

    @property
    def entrypoint(self) -> list[str]:
        return list(self.config.get("Entrypoint") or ())

    @property
    def cmd(self) -> list[str]:
        return list(self.config.get("Cmd") or ())

    @property
    def env(self) -> dict[str, str]:
        return dict(entry.partition("=")[::2] for entry in self.config.get("Env") or ())

    @property
    def author(self) -> str:
        return str(self._resolved.config.get("author") or "")

    @property
    def comment(self) -> str:
        history = self._resolved.config.get("history") or [{}]
        return str(history[-1].get("comment") or "")

    def history(self) -> list[Step]:
        """How it was made, newest step first."""
        sizes = iter(self._sizes())
        steps = []
        entries = list(self._resolved.config.get("history") or ())
        if not entries:
            entries = [{"created_by": ""} for _ in self._resolved.layers]
        for entry in entries:
            empty = bool(entry.get("empty_layer"))
            steps.append(
                Step(
                    parse_time(entry.get("created")),
                    str(entry.get("created_by") or ""),
                    str(entry.get("comment") or ""),
                    str(entry.get("author") or ""),
                    0 if empty else next(sizes, 0),
                    empty,
                    None,
                )
            )
        if steps:
            steps[-1].id = self.id
        return steps[::-1]

    def mount(self, target: str | os.PathLike[str] | None = None) -> AbstractContextManager[str]:
        """Its files, read-only, at `target` or a directory made for it: a context manager that gives the
        path. Raises ImageError, LaunchError."""
        from . import snapshot

        return snapshot.mount(self._store, self._resolved, None if target is None else os.fspath(target))

    def save(self, destination: Any, *, format: str = "docker", compression: str | None = None,  # noqa: A002
             progress: Any = None) -> None:  # fmt: skip
        """Write it to a path or binary file as an archive, "docker" or "oci". Its tags go along."""
        from .archive import save

        save(self._store, list(self._resolved.names) or [self.id], destination, format=format, compression=compression,
             progress=progress)  # fmt: skip

    def tag(self, reference: str) -> None:
        """Give it another name. Raises SpecError for what is none."""
        from .reference import parse

        self._store.refs.set(parse(reference), self._resolved.target)
        self.reload()

    def remove(self, force: bool = False) -> list[tuple[str, str]]:
        """Take it away with all its names (force: also if there are several, or containers are kept of it):
        [("Untagged" or "Deleted", what), …]. Its layers go when nothing uses them any more."""
        return self._store.remove(self.id, force)

    def reload(self) -> None:
        """Look its names up again. Raises ImageNotFound."""
        self._resolved = self._store.resolve(self.id)

    def exists(self) -> bool:
        """Whether the store still has it."""
        try:
            self._store.resolve(self.id)
        except ImageNotFound:
            return False
        return True

    def reference_for_run(self) -> tuple[str, str]:
        """What fastctr.run(image=…) goes by: an id, and the store's root."""
        return self._resolved.manifest_descriptor.digest, self._store.root

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Image) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        return f"<Image {', '.join(self.tags) or self.short_id}>"

    def inspect(self) -> dict[str, Any]:
        """The image in the shape of `docker image inspect`."""
        from . import snapshot

        document, found = self._resolved.config, self._resolved
        own = self.config
        shape: dict[str, Any] = {
            "Id": self.id,
            "RepoTags": self.tags,
            "RepoDigests": self.digests,
            "Parent": "",
            "Comment": self.comment,
            "Created": document.get("created") or "0001-01-01T00:00:00Z",
            "DockerVersion": document.get("docker_version") or "",
            "Author": self.author,
            "Architecture": self.architecture,
            "Os": found.platform.os,
            "Size": self.size,
            "GraphDriver": {"Name": snapshot.get(self._store).name, "Data": None},
            "RootFS": {"Type": "layers", "Layers": list(found.diff_ids)},
            "Metadata": {"LastTagTime": "0001-01-01T00:00:00Z"},
            "Descriptor": found.target.to_json(),
            "Config": {
                "Hostname": "", "Domainname": "", "User": "", "AttachStdin": False, "AttachStdout": False,
                "AttachStderr": False, "Tty": False, "OpenStdin": False, "StdinOnce": False, "Env": None, "Cmd": None,
                "Image": "", "Volumes": None, "WorkingDir": "", "Entrypoint": None, "OnBuild": None, "Labels": None,
                **own,
            },
        }  # fmt: skip
        if found.platform.variant:
            shape["Variant"] = found.platform.variant
        return shape


def _familiar(name: str) -> str:
    from ..errors import SpecError
    from .reference import parse

    try:
        return parse(name).familiar
    except SpecError:
        return name  # another tool's


def parse_time(text: Any) -> float | None:
    """Seconds since 1970 of an RFC 3339 time, as "2024-05-01T12:00:00.123456789Z"; None if it is none."""
    if not isinstance(text, str) or len(text) < 20 or text.startswith("0001-01-01T00:00:00"):
        return None
    import calendar
    import time

    try:
        seconds = calendar.timegm(time.strptime(text[:19].replace(" ", "T").replace("t", "T"), "%Y-%m-%dT%H:%M:%S"))
        rest, part = text[19:], 0.0
        if rest.startswith("."):
            digits = rest[1:].rstrip("Zz").partition("+")[0].partition("-")[0]
            part, rest = float("0." + digits), rest[1 + len(digits) :]
        shift = 0
        if rest[:1] in ("+", "-"):
            shift = (int(rest[1:3]) * 3600 + int(rest[4:6]) * 60) * (1 if rest[0] == "+" else -1)
    except ValueError:
        return None
    return seconds + part - shift
