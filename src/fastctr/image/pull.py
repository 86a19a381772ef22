"""Bring an image from a registry: manifests, then its blobs side by side, unpacked while others still come.

The way of a pull: the tag is asked for with a GET (no question whether there is a registry, no HEAD), an
index gives the manifest of one platform, the configuration and the layers go to a few threads, and as soon
as a layer and those below it have come it is unpacked. A lease keeps all of it from gc. The reference is set
last, when everything is here.
"""

from __future__ import annotations

from ..errors import AuthError, ImageError, ImageNotFound, RegistryError, shown
from . import oci
from .oci import Descriptor
from .progress import emit
from .reference import Reference, parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from .distribution import Repository
    from .http import Http, Settings
    from .leases import Lease
    from .platform import Platform
    from .progress import Progress
    from .registries import Registries
    from .resolved import Resolved
    from .snapshot.base import Snapshotter
    from .snapshot.stack import Stack
    from .store import Store

__all__ = ["pull", "remote"]

JOBS = 3
_INDEX_DEPTH = 3


def pull(
    store: Store,
    reference: str | Reference,
    *,
    platform: str | Platform | None = None,
    progress: Progress | None = None,
    jobs: int = JOBS,
    unpack: bool = True,
    snapshotter: str | None = None,
    auth: object = None,
    insecure: bool | None = None,
    mirrors: Sequence[str] | None = None,
    all_tags: bool = False,
    settings: Settings | None = None,
) -> Resolved | list[Resolved]:
    """Pull an image into the store and give what it resolves to; with all_tags a list, of every tag.

    platform   "linux/arm64"; default: this machine's
    progress   called with each progress.Event, from several threads but never from two at once
    jobs       downloads at the same time
    unpack     also make the layers ready to run, in `snapshotter` (default: the store's choice)
    auth       (user, password), a mapping, or Credentials; default: Docker's configuration
    insecure   True: any certificate, or plain http; mirrors: hosts to ask first, instead of those configured
    settings   time limits and retries (http.Settings); default: the configured ones

    Raises ImageNotFound, AuthError, RegistryError (NetworkError where no answer came), DigestMismatch,
    ImageError (an image that is not one, or not for this platform), StoreError, SpecError (bad reference).
    """
    wanted = parse(reference)
    with open_registry(wanted, auth=auth, insecure=insecure, mirrors=mirrors, settings=settings) as (http, sources):
        tell = serialised(progress)

        def one(ref: Reference) -> Resolved:
            found = _Pull(store, ref, http, sources, platform, tell, jobs, unpack, snapshotter).run()
            if unpack:
                from .facts import foresee, spellings

                typed = [reference] if isinstance(reference, str) and not all_tags else []
                foresee(store, [*spellings(str(ref)), *typed], snapshotter, platform)
            return found

        if not all_tags:
            return one(wanted)
        if wanted.digest:
            raise ImageError(str(wanted), "cannot be pulled with all tags", "leave the digest out")
        return [one(wanted.with_tag(tag)) for tag in _first(sources, lambda source: source.tags())[0]]


def remote(
    reference: str | Reference,
    *,
    auth: object = None,
    insecure: bool | None = None,
    settings: Settings | None = None,
) -> tuple[bytes, Descriptor]:
    """The manifest or index of a reference as its registry has it now, and its descriptor; nothing is kept."""
    wanted = parse(reference)
    with open_registry(wanted, auth=auth, insecure=insecure, settings=settings) as (_, sources):
        which = wanted.digest or wanted.tag or "latest"
        found: tuple[bytes, Descriptor] = _first(sources, lambda source: source.manifest(which))[0]
        return found


class open_registry:
    """with open_registry(reference, …) as (http, sources): the servers that have it, mirrors first."""

    def __init__(
        self,
        reference: Reference,
        *,
        auth: object = None,
        insecure: bool | None = None,
        mirrors: Sequence[str] | None = None,
        settings: Settings | None = None,
        scopes: tuple[str, ...] = (),
        only_upstream: bool = False,
    ) -> None:
        from .registries import load, mirror_host

        self.registries: Registries = load()
        if insecure:
            self.registries.insecure.append(reference.domain)
        if mirrors is not None:
            extra = self.registries.insecure
            self.registries.mirrors[reference.domain] = [mirror_host("mirrors", each, extra) for each in mirrors]
        self._reference, self._auth, self._settings = reference, auth, settings
        self._scopes, self._only_upstream = scopes, only_upstream

    def __enter__(self) -> tuple[Http, list[Repository]]:
        from .credentials import find, parse_auth
        from .distribution import Repository
        from .http import Http

        given, reference = parse_auth(self._auth), self._reference
        self._http = Http(self._settings or self.registries.settings(), self.registries.is_insecure)
        hosts = self.registries.hosts(reference.domain)
        upstream = hosts[-1]
        sources = []
        for host in hosts[-1:] if self._only_upstream else hosts:
            name = reference.domain if host == upstream else host

            def look(name: str = name) -> Any:
                if given is not None and name == reference.domain:
                    return given, ""
                return find(name, reference.path)

            sources.append(Repository(self._http, host, reference.path, look, self._scopes, name))
        return self._http, sources

    def __exit__(self, *_: object) -> None:
        self._http.close()


def serialised(progress: Progress | None) -> Progress | None:
    """The same, never called by two threads at once."""
    if progress is None:
        return None
    import threading

    lock = threading.Lock()

    def tell(event: Any) -> None:
        with lock:
            progress(event)

    return tell


def _first(sources: list[Repository], ask: Callable[[Repository], Any]) -> tuple[Any, Repository]:
    """The answer of the first source that has one, and that source; the last one's error."""
    for source in sources[:-1]:
        try:
            return ask(source), source
        except (RegistryError, ImageNotFound, AuthError):
            continue
    return ask(sources[-1]), sources[-1]


class _Pull:
    """One reference on its way into the store."""

    def __init__(
        self,
        store: Store,
        reference: Reference,
        http: Http,
        sources: list[Repository],
        platform: str | Platform | None,
        progress: Progress | None,
        jobs: int,
        unpack: bool,
        snapshotter: str | None,
    ) -> None:
        from .platform import Platform

        self.store, self.reference, self.http, self.sources = store, reference, http, sources
        self.platform = Platform.parse(platform) if platform is not None else None
        self.progress, self.jobs = progress, max(1, jobs)
        self.made: Snapshotter | None = None
        if unpack:
            from .snapshot import get

            self.made = get(store, snapshotter)
        self.name = str(reference)
        self.fetched = 0
        self.lease: Lease

    def run(self) -> Resolved:
        from .origins import note

        emit(self.progress, "resolving", self.name)
        before = self.store.refs.get(self.reference)
        with self.store.lease() as lease:
            self.lease = lease
            target, data = self._target()
            lease.blob(target.digest)
            manifest = self._manifest(target, data, 0)
            config, layers = self._parts(manifest)
            lease.blob(config.digest, *(layer.digest for layer in layers))
            self._bring(config, layers)
            self.store.refs.set(self.reference, target)
            note(self.store, self.reference.name, [config.digest, *(layer.digest for layer in layers)])
            found = self.store.resolve(self.reference.key, self.platform)
        same = before is not None and before.digest == target.digest and not self.fetched
        emit(self.progress, "exists" if same else "done", self.name, text=target.digest)
        return found

    # ---- documents

    def _target(self) -> tuple[Descriptor, bytes]:
        """What the reference stands for, from the store if it names a digest that is here."""
        digest = self.reference.digest
        known = self.store.refs.get(self.reference)
        which = digest or self.reference.tag or "latest"
        here = known is not None and self.store.has_blob(known.digest, known.size)
        if known and here and (digest or known.digest == _first(self.sources, lambda each: each.digest(which))[0]):
            return known, self.store.read_blob(known.digest)
        (data, target), source = _first(self.sources, lambda each: each.manifest(which))
        if len(self.sources) > 1:  # who had the manifest is asked for the blobs first
            self.sources = [source, *(each for each in self.sources if each is not source)]
        return target, data

    def _manifest(self, each: Descriptor, data: bytes, depth: int) -> dict[str, Any]:
        """The manifest for our platform below an index or manifest; what is passed on the way is kept."""
        where = f"{self.name}@{each.digest}" if depth else self.name
        if not each.is_index:
            manifest = oci.parse_manifest(data, each.media_type, where)
            self.store.add_bytes(data)
            return manifest
        if depth > _INDEX_DEPTH:
            raise ImageError(self.name, "is an index of indexes without end")
        index = oci.parse_index(data, each.media_type, where)
        chosen = oci.choose(index, self.platform, where)
        self.store.add_bytes(data)
        if self.store.has_blob(chosen.digest, chosen.size):
            below = self.store.read_blob(chosen.digest)
        else:
            below = _first(self.sources, lambda source: source.manifest(chosen.digest, chosen)[0])[0]
        return self._manifest(chosen, below, depth + 1)

    def _parts(self, manifest: dict[str, Any]) -> tuple[Descriptor, list[Descriptor]]:
        """Configuration and layers, of kinds that can be run; ImageError says what is not."""
        config = Descriptor.from_json(manifest["config"])
        layers = [Descriptor.from_json(layer) for layer in manifest["layers"]]
        if config.media_type not in oci.CONFIG_TYPES:
            raise ImageError(
                self.name, f"is not an image: its configuration is {shown(config.media_type)}", "it is an artifact"
            )
        if config.size > oci.CONFIG_MAX:
            raise ImageError(self.name, f"has a configuration of {config.size} bytes, over {oci.CONFIG_MAX}")
        for layer in layers:
            if oci.is_foreign(layer.media_type):
                raise ImageError(
                    self.name,
                    f"has a layer that its registry may not give out: {layer.media_type}",
                    "such layers are of Windows images, or need their owner's leave",
                )
            if layer.media_type not in oci.COMPRESSION:
                raise ImageError(self.name, f"has a layer of a kind that cannot be unpacked: {shown(layer.media_type)}")
        return config, layers

    def _check_config(self, digest: str, layers: list[Descriptor]) -> list[str]:
        """The diff_ids of a configuration that has come; refuses what is not for the platform asked for."""
        config = oci.parse_config(self.store.read_blob(digest, oci.CONFIG_MAX), digest)
        ids: list[str] = config["rootfs"]["diff_ids"]
        if len(ids) != len(layers):
            raise ImageError(self.name, f"has {len(layers)} layers and {len(ids)} diff_ids")
        have = oci.Platform.from_json(config)
        want = self.platform or oci.host_platform()
        if have.architecture and want.rank(have) is None:
            if self.platform is not None:
                raise ImageNotFound(self.name, f"has nothing for {want}", f"there is: {have}")
            emit(self.progress, "warning", self.name, text=f"it is for {have}, and this machine is {want}")
        return ids

    # ---- blobs

    def _bring(self, config: Descriptor, layers: list[Descriptor]) -> None:
        """Fetch what is missing and unpack it, side by side."""
        from .fetch import fetch
        from .parallel import Crew

        crew = Crew(self.http.abort)
        queue = list({each.digest: each for each in (config, *layers)}.values())
        queue.reverse()
        here: set[str] = set()
        diff_ids: list[str] = []

        def download() -> None:
            while True:
                with crew.changed:
                    if not queue:
                        return
                    each = queue.pop()
                crew.check()
                new = fetch(self.store, self.sources, each, progress=self.progress, check=crew.check)
                ids = self._check_config(each.digest, layers) if each is config else None
                with crew.changed:
                    self.fetched += new
                    here.add(each.digest)
                    if ids is not None:
                        diff_ids.extend(ids)
                    crew.changed.notify_all()

        position = iter(range(len(layers)))

        def unpack() -> None:
            """Layers in their order, each as soon as it is here: one that waits for those below it finds them begun."""
            while True:
                with crew.changed:
                    place = next(position, None)
                    if place is None:
                        return
                    # all below it, too: what waits for a layer that fails to come would wait in vain
                    while not (diff_ids and here.issuperset(each.digest for each in layers[: place + 1])):
                        crew.check()
                        crew.changed.wait()
                    crew.check()
                self._unpack_one(stack, layers, diff_ids, place)

        crew.start(min(self.jobs, len(queue)), download)
        if self.made is None:
            crew.join()
            return
        from .snapshot.stack import Stack, workers

        with Stack(self.made, self.progress, crew.check) as stack:
            crew.start(workers(len(layers)), unpack)
            crew.join()

    def _unpack_one(self, stack: Stack, layers: list[Descriptor], diff_ids: list[str], place: int) -> None:
        from .snapshot.base import Layer

        chains, layer = oci.chain_ids(diff_ids[: place + 1]), layers[place]
        self.lease.layer(stack.snapshotter.name, chains[-1])
        stack.make(Layer(layer.digest, layer.media_type, diff_ids[place], chains[-1], chains[:-1]))
