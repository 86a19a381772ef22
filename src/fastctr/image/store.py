"""The store: images and layers on disk, by their content, for many processes at once.

Below its root lies an OCI image layout (oci-layout, index.json, blobs/), which skopeo and umoci read as it
is, and beside it unpacked layers, leases and what is on its way in (docs/architecture.md has the list).
Everything gets its name only when it is whole and verified, under a lock that goes with the process.
"""

from __future__ import annotations

import _thread
import os

from ..errors import DigestMismatch, ImageNotFound, StoreError
from . import digest as digests
from .index import References
from .ingest import Ingest, store_error
from .resolved import Resolved, find, variants

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import BinaryIO

    from .fsck import Finding
    from .gc import Report
    from .leases import Lease
    from .platform import Platform
    from .usage import Usage
    from .workplace import Workplace

FOLDERS = (
    ("blobs", 0o755), ("blobs/sha256", 0o755), ("ingest", 0o700), ("layers", 0o700), ("tmp", 0o700),
    ("containers", 0o700), ("leases", 0o700),
)  # fmt: skip
CACHE_MAX = 1024


def default_root() -> str:
    """FASTCTR_ROOT, else /var/lib/fastctr for root, else fastctr in the user's data folder."""
    given = os.environ.get("FASTCTR_ROOT")
    if given:
        return os.path.abspath(given)
    if os.geteuid() == 0:
        return "/var/lib/fastctr"
    base = os.environ.get("XDG_DATA_HOME")
    if not base or not os.path.isabs(base):
        base = os.path.expanduser("~/.local/share")
    return os.path.join(base, "fastctr")


_stores: dict[str, Store] = {}
_guard = _thread.allocate_lock()


def _after_fork() -> None:
    global _guard
    _guard = _thread.allocate_lock()


os.register_at_fork(after_in_child=_after_fork)


def get(root: str | None = None) -> Store:
    """The store at `root` (default: default_root()), the same object each time: it remembers what it read."""
    path = os.path.abspath(root) if root else default_root()
    found = _stores.get(path)
    if found is None:
        found = _stores.setdefault(path, Store(path))
    return found


def release_all() -> None:
    """Let go of the layers that this process holds in any store: it has no containers any more."""
    for each in list(_stores.values()):
        each.release_holds()


class Store:
    """A store. Nothing is made before something is written to it; an absent one is an empty one.

    root    its directory
    refs    its names: list(), get(name), set(name, descriptor), remove(name)
    """

    def __init__(self, root: str | None = None) -> None:
        self.root = os.path.abspath(root) if root else default_root()
        self.refs = References(self)
        self.open_leases: list[Lease] = []
        self._prepared = False
        self._cache: dict[tuple[str, object], Resolved] = {}
        self._cache_stamp: tuple[int, int, int] | None = None
        self._held: set[tuple[str, str]] = set()
        self._hold: Lease | None = None
        self._hold_pid = 0

    def prepare(self) -> None:
        """Make the directories, if they are not there. Raises StoreError."""
        if self._prepared and os.path.isdir(f"{self.root}/leases"):
            return
        try:
            os.makedirs(self.root, 0o700, exist_ok=True)
            for name, mode in FOLDERS:
                path = f"{self.root}/{name}"
                try:
                    os.mkdir(path, mode)
                    os.chmod(path, mode)  # whatever the umask
                except FileExistsError:
                    pass
            if not os.path.exists(f"{self.root}/oci-layout"):
                new = f"{self.root}/oci-layout.{os.getpid()}-{os.urandom(3).hex()}"
                with open(new, "w") as file:
                    file.write('{"imageLayoutVersion":"1.0.0"}')
                os.rename(new, f"{self.root}/oci-layout")
        except OSError as error:
            raise store_error(error, error.filename or self.root) from None
        self._prepared = True
        if not self.refs.stamp()[0]:
            self.refs.change(lambda entries: entries)

    # -- blobs

    def blob_path(self, digest: str) -> str:
        """Where the blob is or would be. Raises ImageError if it is no digest."""
        algorithm, value = digests.split(digest)
        return f"{self.root}/blobs/{algorithm}/{value}"

    def has_blob(self, digest: str, size: int | None = None) -> bool:
        """Whether it is here; with `size`, whether it is that long too."""
        try:
            found = os.stat(self.blob_path(digest))
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise store_error(error, self.blob_path(digest)) from None
        return size is None or found.st_size == size

    def blob_size(self, digest: str) -> int:
        """Bytes. Raises ImageNotFound."""
        try:
            return os.stat(self.blob_path(digest)).st_size
        except FileNotFoundError:
            raise ImageNotFound(digest, "is not in the store") from None

    def open_blob(self, digest: str) -> BinaryIO:
        """For reading, unbuffered. Raises ImageNotFound, StoreError."""
        path = self.blob_path(digest)
        try:
            return open(path, "rb", buffering=0)
        except FileNotFoundError:
            raise ImageNotFound(digest, "is not in the store") from None
        except OSError as error:
            raise store_error(error, path) from None

    def read_blob(self, digest: str, limit: int = 4 << 20) -> bytes:
        """All of it, verified once more. Raises ImageNotFound, DigestMismatch, StoreError (over `limit` bytes)."""
        with self.open_blob(digest) as file:
            size = os.fstat(file.fileno()).st_size
            if size > limit:
                raise StoreError(digest, f"has {size} bytes, more than the {limit} that are read at once")
            parts = []
            while part := file.read(size + 1):
                parts.append(part)
        data = b"".join(parts)
        if not digests.verify(digest, data):
            raise DigestMismatch(digest, "is damaged in the store", "fastctr system fsck --repair, then pull it again")
        return data

    def ingest(
        self, digest: str | None = None, size: int | None = None, stop: Callable[[], object] | None = None
    ) -> Ingest:
        """A blob to be written (with …: write(), commit()). With a digest it is verified against, waits for
        another writer of the same, and goes on where a dead one ended. `stop` is called while waiting."""
        return Ingest(self, digest, size, stop)

    def add_bytes(self, data: bytes) -> str:
        """Put a small blob in. Returns its digest."""
        digest = digests.sha256(data)
        with self.ingest(digest, len(data)) as blob:
            if not blob.done:
                if blob.offset:
                    blob.restart()
                blob.write(data)
                blob.commit()
        return digest

    def note_blob(self, *digest: str) -> None:
        """Note it in every lease this process has open."""
        for lease in list(self.open_leases):
            lease.blob(*digest)

    # -- images

    def resolve(self, text: str, platform: str | Platform | None = None) -> Resolved:
        """The image by a reference, name@digest, id or a beginning of it that only one image has.

        platform: "linux/arm64"; by default this machine's if it is here, else whichever is.
        Raises SpecError (not a reference), ImageNotFound (not here, in part, or not for that platform),
        ImageError (damaged). Remembered until the index changes.
        """
        stamp = self.refs.stamp()
        if stamp != self._cache_stamp or len(self._cache) > CACHE_MAX:
            self._cache = {}
            self._cache_stamp = stamp
        cache = self._cache
        found = cache.get((text, platform))
        if found is None:
            wanted = None
            if platform is not None:
                from .platform import Platform

                wanted = Platform.parse(platform)
            found = cache[text, platform] = find(self, str(text), wanted)
        return found

    def images(self) -> list[Resolved]:
        """All images that can be read, also those without a name; one for each platform that is here."""
        found: list[Resolved] = []
        for target in {each.digest: each for _, each in self.refs.entries()}.values():
            found += variants(self, target, self.refs.names(target.digest))
        return found

    # -- keeping and clearing away

    def workplace(self, prefix: str = "new") -> Workplace:
        """A directory in tmp/ to fill and publish (context manager): path, fd, publish(final)."""
        from .workplace import Workplace

        return Workplace(self, prefix)

    def lease(self) -> Lease:
        """A lease for as long as it is open (context manager): lease.blob(digest), lease.layer(name, chain)."""
        from .leases import Lease

        return Lease(self)

    def hold(self, snapshotter: str, chains: Iterable[str]) -> None:
        """Keep these layers until this process ends, or release_holds(). Call it before looking whether they
        are there. Costs nothing the second time."""
        held = self._held
        new = [c for c in chains if (snapshotter, c) not in held]
        if not new and self._hold_pid == os.getpid():
            return
        with _guard:
            if self._read_only():  # nobody can take anything away either
                self._held = {*self._held, *((snapshotter, c) for c in new)}
                self._hold_pid = os.getpid()
                return
            if self._hold is not None and self._hold.pid != os.getpid():
                self._hold.forget()  # the parent's, which may end before us
                self._hold = None
            if self._hold is None:
                self._hold = self.lease()
                self.open_leases.remove(self._hold)  # for layers in use, not for what comes in
            for name, chain in sorted(self._held):
                self._hold.layer(name, chain)
            self._hold.layer(snapshotter, *new)
            self._held = {*self._held, *((snapshotter, c) for c in new)}
            self._hold_pid = self._hold.pid

    def _read_only(self) -> bool:
        try:
            return bool(os.statvfs(self.root).f_flag & os.ST_RDONLY)
        except OSError:
            return False

    def release_holds(self) -> None:
        """Let go of all layers held by hold()."""
        with _guard:
            hold, self._hold, self._held, self._hold_pid = self._hold, None, set(), 0
            if hold is None:
                return
            if hold.pid != os.getpid():
                hold.forget()
            else:
                hold.close()

    def remove(self, text: str, force: bool = False) -> list[tuple[str, str]]:
        """Take an image away as `docker rmi` does. Returns [("Untagged"|"Deleted", what), …]."""
        from .remove import remove

        return remove(self, text, force)

    def prune(self, everything: bool = False) -> Report:
        """Remove images without a name; with `everything` all that no container uses."""
        from .remove import prune

        return prune(self, everything)

    def gc(self, older_than: float = 86400.0) -> Report:
        """Remove blobs and layers that no name, lease or container needs, and what the dead left behind;
        half-fetched blobs once they are `older_than` seconds old."""
        from .gc import collect

        return collect(self, older_than)

    def df(self) -> Usage:
        """What takes how much room."""
        from .usage import usage

        return usage(self)

    def fsck(self, repair: bool = False) -> list[Finding]:
        """Check everything against its digest; with `repair` remove what is broken."""
        from .fsck import check

        return check(self, repair)
