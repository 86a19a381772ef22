"""Bring an image to a registry: its blobs side by side, then its manifests, the reference's own last.

A blob that is there already costs one HEAD. One that came from another repository of the same registry is
mounted from it (origins.py). An index goes as it is if all of it is here or there; if only one platform of
it is, that one's manifest is pushed in its place, with a warning, as Docker does.
"""

from __future__ import annotations

from ..errors import ImageError, ImageNotFound, shown
from . import oci
from .oci import Descriptor
from .progress import emit, short
from .pull import JOBS, open_registry, serialised
from .reference import Reference, parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .distribution import Repository
    from .http import Settings
    from .platform import Platform
    from .progress import Progress
    from .store import Store

__all__ = ["push"]

_DEPTH = 3
_SOURCES = 4  # repositories a blob is mounted from, at most, and that are asked for in a token


def push(
    store: Store,
    reference: str | Reference,
    *,
    platform: str | Platform | None = None,
    progress: Progress | None = None,
    auth: object = None,
    jobs: int = JOBS,
    insecure: bool | None = None,
    chunk: int = 0,
    settings: Settings | None = None,
) -> Descriptor:
    """Push what the store has under a reference; the descriptor of what the registry has under it now.

    platform   of an index, push this platform's manifest alone
    chunk      bytes sent with one request; 0: a blob at once, in pieces only where that fails

    Raises ImageNotFound (nothing of that name here, or a part is missing), AuthError, RegistryError,
    DigestMismatch, ImageError, SpecError; NetworkError where no answer came.
    """
    wanted = parse(reference)
    target = store.refs.get(wanted)
    if target is None:
        raise ImageNotFound(str(wanted), "is not in the store", f"fastctr tag IMAGE {wanted.familiar}")
    with store.lease() as lease:
        lease.blob(target.digest)
        return _Push(store, wanted, serialised(progress), max(1, jobs), chunk).run(
            target, platform, auth, insecure, settings
        )


class _Push:
    def __init__(self, store: Store, reference: Reference, progress: Progress | None, jobs: int, chunk: int) -> None:
        self.store, self.reference, self.progress = store, reference, progress
        self.jobs, self.chunk = jobs, chunk
        self.name = str(reference)
        self.blobs: dict[str, Descriptor] = {}
        self.manifests: dict[str, tuple[Descriptor, bytes]] = {}  # those below others come first
        self.missing: list[Descriptor] = []
        self.sources: dict[str, list[str]] = {}

    def run(
        self,
        target: Descriptor,
        platform: str | Platform | None,
        auth: object,
        insecure: bool | None,
        settings: Settings | None,
    ) -> Descriptor:
        from .auth import pull_scope, push_scope
        from .origins import note, sources

        if platform is not None:
            target = self._only(platform)
        self._collect(target, 0)
        domain, path = self.reference.domain, self.reference.path
        for digest in self.blobs:
            found = sources(self.store, domain, digest, path)
            if found:
                self.sources[digest] = found[:_SOURCES]
        others = list(dict.fromkeys(each for found in self.sources.values() for each in found))[:_SOURCES]
        with open_registry(
            self.reference,
            auth=auth,
            insecure=insecure,
            settings=settings,
            scopes=(push_scope(path), *map(pull_scope, others)),
            only_upstream=True,
        ) as (_, (repository,)):
            emit(self.progress, "resolving", self.name, text=repository.host)
            if self.missing and not all(repository.has_manifest(each.digest) for each in self.missing):
                target = self._instead(target)
            self._send_blobs(repository)
            note(self.store, self.reference.name, self.blobs)
            for digest, (each, data) in self.manifests.items():
                if digest != target.digest:  # without a tag of their own
                    repository.put_manifest(digest, data, each.media_type)
            each, data = self.manifests[target.digest]
            repository.put_manifest(self.reference.tag or target.digest, data, each.media_type)
        emit(self.progress, "done", self.name, target.size, target.size, target.digest)
        return target

    # ---- what there is to push

    def _only(self, platform: str | Platform) -> Descriptor:
        return self.store.resolve(self.reference.key, platform).manifest_descriptor

    def _collect(self, each: Descriptor, depth: int) -> None:
        """Everything below an index or manifest, and which manifests of an index are not here."""
        if each.digest in self.manifests:
            return
        if depth > _DEPTH:
            raise ImageError(self.name, "is an index of indexes without end")
        if not self.store.has_blob(each.digest):
            if depth:
                self.missing.append(each)
                return
            raise ImageNotFound(self.name, f"is here only in part: {each.digest} is missing", "pull it again")
        data = self.store.read_blob(each.digest)
        if each.is_index:
            for entry in oci.parse_index(data, each.media_type, each.digest)["manifests"]:
                self._collect(Descriptor.from_json(entry), depth + 1)
        else:
            manifest = oci.parse_manifest(data, each.media_type, each.digest)
            parts = [Descriptor.from_json(part) for part in (manifest["config"], *manifest["layers"])]
            for part in parts:
                if oci.is_foreign(part.media_type):
                    raise ImageError(self.name, f"has a layer that may not be given out: {shown(part.media_type)}")
                if not self.store.has_blob(part.digest, part.size):
                    if depth:
                        self.missing.append(each)
                        return
                    raise ImageNotFound(self.name, f"is here only in part: {part.digest} is missing", "pull it again")
            self.blobs.update((part.digest, part) for part in parts)
        self.manifests[each.digest] = each, data

    def _instead(self, target: Descriptor) -> Descriptor:
        """The one manifest of an index that is here; ImageNotFound if it is not exactly one."""
        here = [each for each, _ in self.manifests.values() if each.is_manifest]
        if len(here) != 1:
            lost = ", ".join(str(each.platform or short(each.digest)) for each in self.missing)
            raise ImageNotFound(
                self.name, f"is here only in part: not for {lost}", "pull those platforms too, or push one of them"
            )
        emit(
            self.progress, "warning", self.name, text=f"only {here[0].platform or 'one platform'} of the index is here"
        )
        self.manifests = {here[0].digest: self.manifests[here[0].digest]}
        return here[0]

    # ---- blobs

    def _send_blobs(self, repository: Repository) -> None:
        from .parallel import Crew

        crew = Crew(repository.http.abort)
        queue = sorted(self.blobs.values(), key=lambda each: each.size)  # the largest first

        def work() -> None:
            while True:
                with crew.changed:
                    if not queue:
                        return
                    each = queue.pop()
                crew.check()
                self._send_one(repository, each)

        crew.start(min(self.jobs, len(queue)), work)
        crew.join()

    def _send_one(self, repository: Repository, blob: Descriptor) -> None:
        from .progress import Meter
        from .upload import start, upload

        name, location = short(blob.digest), None
        sources = self.sources.get(blob.digest, [])
        if not sources and repository.has_blob(blob.digest):
            emit(self.progress, "exists", name, blob.size, blob.size)
            return
        for source in sources:
            location = start(repository, blob.digest, source)
            if location is None:
                emit(self.progress, "mounted", name, blob.size, blob.size, source)
                return
        if sources and repository.has_blob(blob.digest):
            emit(self.progress, "exists", name, blob.size, blob.size)
            return
        if location is None:
            location = start(repository)
            assert location is not None
        meter = Meter(self.progress, "pushing", name, blob.size)

        def count(offset: int) -> None:
            meter.add(offset - meter.current)

        with self.store.open_blob(blob.digest) as file:
            upload(repository, blob.digest, blob.size, file.fileno(), location, count=count, chunk=self.chunk)
        emit(self.progress, "done", name, blob.size, blob.size)
