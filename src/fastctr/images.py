"""Images: get them, keep them, make them, give them away.

    import fastctr
    image = fastctr.images.pull("alpine:3.20")
    print(image.id, image.config["Cmd"], image.size)
    with image.mount() as path:                 # its files, read-only
        print(os.listdir(path))
    fastctr.run(["cat", "/etc/os-release"], image="alpine:3.20")

    fastctr.images.build_rootfs("/srv/debian", "mine/debian:12", cmd=["bash"])    # no network needed

Every function takes root=: the directory of the store, by default FASTCTR_ROOT, else /var/lib/fastctr for
root and the user's data folder for others. `Store(root)` has the same functions for one store. Errors are
ImageNotFound, RegistryError, AuthError, ArchiveError, DigestMismatch and StoreError, all ImageErrors; and
SpecError for what is no image's name.
"""

from __future__ import annotations

import os

from .errors import ImageNotFound, SpecError
from .image.image import Image

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

    from .image.fsck import Finding
    from .image.gc import Report
    from .image.progress import Event
    from .image.store import Store as _Store
    from .image.usage import Usage

    Progress = bool | Callable[[Event], None] | None

__all__ = ["Image", "Store", "build_rootfs", "df", "fsck", "gc", "get", "history", "import_", "import_rootfs", "list",
           "load", "login", "logout", "prune", "pull", "push", "remove", "save", "store", "tag"]  # fmt: skip

_list = list


def store(root: Any = None) -> _Store:
    """The store at `root` itself, with its references and blobs."""
    from . import context
    from .image.store import get as get_store
    from .image_args import store_root

    context.hooks()  # what this process holds of it is let go of at its end
    return get_store(store_root(root))


class _Shown:
    """progress=True draws on standard error, None is silent, a function is called with every event."""

    def __init__(self, progress: Progress) -> None:
        self._drawn: Any = None
        self.call: Any = progress
        if progress is True:
            from .display import display

            self._drawn = self.call = display()
        elif progress is False:
            self.call = None
        elif progress is not None and not callable(progress):
            raise SpecError("progress", progress, "is not a function", "give one that takes an event, True or None")

    def __enter__(self) -> Any:
        return self.call

    def __exit__(self, *exc: object) -> None:
        if self._drawn is not None:
            self._drawn.close()


def pull(reference: str, *, progress: Progress = None, platform: str | None = None, policy: str = "always",
         unpack: bool = True, snapshotter: str | None = None, auth: Any = None, insecure: bool | None = None,
         mirrors: Any = None, jobs: int = 3, root: Any = None) -> Image:  # fmt: skip
    """Fetch an image from its registry, and unpack it. Returns the Image.

    policy: "always" asks the registry for what the name stands for now (only what is missing is fetched),
    "missing" takes what is here, "never" only that. platform: "linux/arm64", by default this machine's.
    auth: (user, password), else the credentials of `docker login` and its helpers. insecure: plain HTTP or an
    unknown certificate; allowed for this machine itself by default. jobs: how many downloads at once.
    Raises ImageNotFound, AuthError, RegistryError, DigestMismatch, ArchiveError, StoreError, SpecError.
    """
    from .image_args import POLICIES, check_name

    check_name(reference)
    if policy not in POLICIES:
        raise SpecError("policy", policy, "is not a policy", 'use "missing", "never" or "always"')
    where = store(root)
    if policy != "always":
        try:
            return Image(where, where.resolve(reference, platform))
        except ImageNotFound:
            if policy == "never":
                raise
    from .image.pull import pull as fetch

    with _Shown(progress) as shown:
        found = fetch(where, reference, platform=platform, progress=shown, jobs=jobs, unpack=unpack,
                      snapshotter=snapshotter, auth=auth, insecure=insecure, mirrors=mirrors)  # fmt: skip
    assert not isinstance(found, _list)
    return Image(where, found)


def push(reference: str, *, progress: Progress = None, auth: Any = None, jobs: int = 3, insecure: bool | None = None,
         root: Any = None) -> str:  # fmt: skip
    """Send an image to the registry in its name. Returns the digest it has there. Raises as pull()."""
    from .image.push import push as send

    with _Shown(progress) as shown:
        return send(store(root), reference, progress=shown, auth=auth, jobs=jobs, insecure=insecure).digest


def list(reference: str | None = None, *, root: Any = None) -> _list[Image]:  # noqa: A001
    """The images of the store, newest first; with a reference those it matches ("alpine", "mine/*:1.*")."""
    where = store(root)
    found = [Image(where, each) for each in where.images()]
    if reference is not None:
        found = [image for image in found if matches(image, reference)]
    return sorted(found, key=lambda image: (-(image.created or 0), image.id))


def matches(image: Image, pattern: str) -> bool:
    """Whether one of its names is that; see name_matches()."""
    return any(name_matches(name, pattern) for name in image.names)


def name_matches(name: str, pattern: str) -> bool:
    """Whether a name is what `docker images` takes for it: "alpine" and "docker.io/library/alpine" are every
    tag of it, * and ? stand for what is not "/"."""
    from fnmatch import fnmatchcase

    from .image.reference import parse

    try:
        found = parse(name)
    except SpecError:
        return fnmatchcase(name, pattern)
    texts = {str(found), found.familiar, found.name, found.familiar_name}
    return any(fnmatchcase(text, pattern) and text.count("/") == pattern.count("/") for text in texts)


def get(reference: str, *, platform: str | None = None, root: Any = None) -> Image:
    """An image by name, name@digest, id or a beginning of it. Raises ImageNotFound, SpecError."""
    where = store(root)
    return Image(where, where.resolve(reference, platform))


def load(source: Any, *, progress: Progress = None, root: Any = None) -> _list[Image]:
    """The images of an archive (a path or binary file) that save(), `docker save`, podman or skopeo wrote.
    Raises ArchiveError, DigestMismatch, StoreError."""
    from .image.archive import load as read

    where = store(root)
    with _Shown(progress) as shown:
        return [Image(where, each) for each in read(where, source, progress=shown)]


def save(references: str | Iterable[str], destination: Any, *, format: str = "docker",  # noqa: A002
         compression: str | None = None, progress: Progress = None, root: Any = None) -> None:  # fmt: skip
    """Write images to an archive (a path or binary file), "docker" (for `docker load`) or "oci".
    compression: None, "gzip" or "zstd". Raises ImageNotFound, StoreError."""
    from .image.archive import save as write

    names = [references] if isinstance(references, str) else [str(each) for each in references]
    with _Shown(progress) as shown:
        write(store(root), names, destination, format=format, compression=compression, progress=shown)


def import_rootfs(source: Any, reference: str | None = None, *, changes: Sequence[str] = (), message: str | None = None,
                  platform: str | None = None, progress: Progress = None, root: Any = None) -> Image:  # fmt: skip
    """An image of one layer from a tar of a file system (a path or binary file, packed or not) or a
    directory, as `docker import`. changes: ["CMD …", "ENV A=b", …]. Raises ArchiveError, SpecError."""
    from .image.importer import import_rootfs as make

    where = store(root)
    with _Shown(progress) as shown:
        return Image(where, make(where, source, reference, changes=tuple(changes), message=message, platform=platform,
                                 progress=shown))  # fmt: skip


import_ = import_rootfs


def build_rootfs(directory: Any, reference: str | None = None, *, cmd: Sequence[str] | None = None,
                 entrypoint: Sequence[str] | None = None, env: dict[str, str] | None = None, workdir: str | None = None,
                 user: str | None = None, labels: dict[str, str] | None = None, changes: Sequence[str] = (),
                 exclude: Iterable[str] = (), compression: str = "gzip", platform: str | None = None,
                 root: Any = None) -> Image:  # fmt: skip
    """An image of a directory's content, made here: `debootstrap stable /srv/debian`, then this.

    cmd, entrypoint, env, workdir, user, labels are its config; changes the same as instructions. exclude:
    patterns of what to leave out, as "/var/cache/*". compression: "gzip", "zstd", "none".
    Raises SpecError, ArchiveError, StoreError.
    """
    from .image.importer import build_rootfs as make

    config: dict[str, Any] = {}
    for name, value in (("Cmd", cmd), ("Entrypoint", entrypoint)):
        if value is not None:
            config[name] = [value] if isinstance(value, str) else [str(word) for word in value]
    if env:
        config["Env"] = [f"{name}={value}" for name, value in env.items()]
    for name, text in (("WorkingDir", workdir), ("User", user)):
        if text:
            config[name] = text
    if labels:
        config["Labels"] = dict(labels)
    where = store(root)
    return Image(where, make(where, os.fspath(directory), reference, config=config, changes=tuple(changes),
                             exclude=tuple(exclude), compression=compression, platform=platform))  # fmt: skip


def remove(reference: str, *, force: bool = False, root: Any = None) -> _list[tuple[str, str]]:
    """As `docker rmi`: a name is taken away, and with its last name the image. An id takes all its names
    with force=True. Returns [("Untagged" or "Deleted", what), …]. Raises ImageNotFound, ImageError."""
    return store(root).remove(reference, force)


def tag(source: str, reference: str, *, root: Any = None) -> Image:
    """Give an image another name. Raises ImageNotFound, SpecError."""
    image = get(source, root=root)
    image.tag(reference)
    return image


def history(reference: str, *, root: Any = None) -> _list[Any]:
    """How an image was made, newest step first; see Image.history()."""
    return get(reference, root=root).history()


def login(registry: str = "docker.io", username: str = "", password: str = "", *, insecure: bool | None = None) -> str:
    """Try the credentials at a registry, and keep them in the user's Docker config or its helper.
    Returns a warning to show, or "". Raises AuthError, RegistryError."""
    from .image.credentials import Credentials
    from .image.credentials import store as keep
    from .image.distribution import log_in
    from .image.http import Http
    from .image.registries import load as configured

    host, known = _host(registry), configured()
    if insecure:
        known.insecure.append(host)
    with Http(known.settings(), known.is_insecure) as http:
        return keep(host, log_in(http, host, Credentials(username, password)))


def _host(registry: str) -> str:
    """The host of what people give: "host:5000", "https://host/v2/", or Docker Hub's many names."""
    host = registry.partition("://")[2] or registry
    host = host.partition("/")[0]
    if not host:
        raise SpecError("registry", registry, "is no host", 'use a name as "registry.example.org:5000"')
    return "docker.io" if host in ("index.docker.io", "registry-1.docker.io", "hub.docker.com") else host


def logout(registry: str = "docker.io") -> bool:
    """Forget a registry's credentials. Returns whether there were any."""
    from .image.credentials import erase

    return erase(_host(registry))


def prune(*, everything: bool = False, root: Any = None) -> Report:
    """Remove images without a name, or with everything=True all that no container uses, and whatever
    nothing needs any more. Returns what was removed."""
    return store(root).prune(everything)


def gc(*, root: Any = None) -> Report:
    """Remove blobs and layers that nothing needs, and what killed processes left in the store."""
    return store(root).gc()


def df(*, root: Any = None) -> Usage:
    """What takes how much room."""
    return store(root).df()


def fsck(*, repair: bool = False, root: Any = None) -> _list[Finding]:
    """Check every blob and layer; with repair remove what is broken."""
    return store(root).fsck(repair)


class Store:
    """The functions of this module for one store: Store("/srv/images").pull("alpine")."""

    def __init__(self, root: Any = None) -> None:
        self.root = store(root).root

    def __getattr__(self, name: str) -> Any:
        if name not in __all__ or name in ("Image", "Store", "login", "logout"):
            raise AttributeError(f"Store has no attribute {name!r}")
        from functools import partial

        return partial(globals()[name], root=self.root)

    def __dir__(self) -> _list[str]:
        return sorted({*super().__dir__(), *__all__} - {"Image", "Store", "login", "logout"})

    def __repr__(self) -> str:
        return f"fastctr.images.Store({self.root!r})"
