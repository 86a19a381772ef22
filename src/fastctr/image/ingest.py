"""Writing a blob: a locked file in ingest/, hashed as it grows, renamed into blobs/ once it is verified.

A blob whose digest is known beforehand is written under a name made of it. Who comes second waits for
the lock: it finds the blob done, or, if the first one died, the bytes that one left and goes on from there.
"""

from __future__ import annotations

import errno
import os

from ..errors import DigestMismatch, StoreError
from . import digest as digests
from .locks import same_file, try_lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Any

    from .store import Store

CHUNK = 1 << 20
_FULL = (errno.ENOSPC, errno.EDQUOT)


def store_error(error: OSError, where: str) -> StoreError:
    """What the kernel said about a file of the store, as a StoreError with what would do."""
    hint = ""
    if error.errno in _FULL:
        hint = "make room (fastctr system prune) or use a store elsewhere (--root, FASTCTR_ROOT)"
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        hint = "the store belongs to somebody else: use one of your own (--root, FASTCTR_ROOT)"
    return StoreError(where, os.strerror(error.errno) if error.errno else str(error), hint)


class Ingest:
    """One blob on its way in. Use as a context manager; without commit() a blob with a known digest keeps
    its bytes for the next attempt, any other is removed.

    done    the blob is in the store already: nothing to write, commit() just answers
    offset  bytes that are there from before: go on from here
    stop    called while another writer is waited for; raise in it to give up waiting
    """

    def __init__(
        self,
        store: Store,
        digest: str | None = None,
        size: int | None = None,
        stop: Callable[[], object] | None = None,
    ) -> None:
        self.store = store
        self.digest = digest
        self.size = size
        self.done = False
        self.offset = 0
        self._stop = stop
        self._fd = -1
        self._hash: Any = None
        self._algorithm = "sha256"
        if digest is not None:
            self._algorithm, value = digests.split(digest)
            name = f"{self._algorithm}-{value}"
        else:
            name = f"new-{os.getpid()}-{os.urandom(6).hex()}"
        self.path = f"{store.root}/ingest/{name}"

    def __enter__(self) -> Ingest:
        self.store.prepare()
        if self.digest is not None:
            self.store.note_blob(self.digest)
        try:
            self._open()
        except OSError as error:
            self._close()
            raise store_error(error, self.path) from None
        except BaseException:
            self._close()
            raise
        return self

    def _open(self) -> None:
        import time

        delay = 0.001
        while True:
            if self.digest is not None and self.store.has_blob(self.digest, self.size):
                self.done = True
                return
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
            if try_lock(self._fd):
                if same_file(self._fd, self.path):
                    break
                self._close()  # renamed or removed while we opened it: look again
                continue
            self._close()
            if self._stop is not None:
                self._stop()
            time.sleep(delay)
            delay = min(delay * 2, 0.05)
        if self.digest is not None and self.store.has_blob(self.digest, self.size):
            self._remove()
            self.done = True
            return
        self._hash = digests.hasher(self._algorithm)
        there = os.fstat(self._fd).st_size
        if self.size is not None and there > self.size:
            self.restart()
        elif there:
            self._rehash(there)

    def _rehash(self, length: int) -> None:
        buffer = bytearray(CHUNK)
        view = memoryview(buffer)
        while self.offset < length:
            n = os.preadv(self._fd, [view[: min(CHUNK, length - self.offset)]], self.offset)
            if not n:
                break
            self._hash.update(view[:n])
            self.offset += n
        os.lseek(self._fd, self.offset, os.SEEK_SET)

    def restart(self) -> None:
        """Begin anew: throw away what is there (a server that cannot go on from an offset)."""
        os.ftruncate(self._fd, 0)
        os.lseek(self._fd, 0, os.SEEK_SET)
        self._hash = digests.hasher(self._algorithm)
        self.offset = 0

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Append. Raises DigestMismatch as soon as there is more than `size`, StoreError if the disk is full
        (what was written is removed then, to give its room back)."""
        view = memoryview(data).cast("B")
        if self.size is not None and self.offset + len(view) > self.size:
            self.abort()
            raise DigestMismatch(self.digest or self.path, f"is longer than the {self.size} bytes it should have")
        self._hash.update(view)
        total = len(view)
        while view:
            try:
                n = os.write(self._fd, view)
            except OSError as error:
                full = error.errno in _FULL
                path = self.path
                self.abort() if full else self._close()
                raise store_error(error, path) from None
            self.offset += n
            view = view[n:]
        return total

    def commit(self) -> tuple[str, int]:
        """Verify and give it its name. Returns (digest, size). Raises DigestMismatch, and removes it then."""
        if self.done:
            assert self.digest is not None
            size = self.size if self.size is not None else self.store.blob_size(self.digest)
            return self.digest, size
        found = f"{self._algorithm}:{self._hash.hexdigest()}"
        if self.size is not None and self.offset != self.size:
            if self.digest is None or self.offset > self.size:
                self.abort()
            self._close()  # too short: a download that was cut; the next one goes on from here
            raise DigestMismatch(
                self.digest or self.path, f"has {self.offset} bytes, and should have {self.size}", "try again"
            )
        if self.digest is not None and found != self.digest:
            self.abort()
            raise DigestMismatch(self.digest, f"what came is {found}", "it was damaged on its way")
        if self.digest is None:
            self.store.note_blob(found)
        final = self.store.blob_path(found)
        try:
            os.fchmod(self._fd, 0o644)
            try:
                os.rename(self.path, final)
            except FileNotFoundError:
                os.makedirs(os.path.dirname(final), 0o755, exist_ok=True)
                os.rename(self.path, final)
        except OSError as error:
            self.abort()
            raise store_error(error, final) from None
        self.digest = found
        self.done = True
        self._close()
        return found, self.offset

    def abort(self) -> None:
        """Give up and remove what was written."""
        if self._fd >= 0:
            self._remove()

    def _remove(self) -> None:
        try:
            os.unlink(self.path)
        except FileNotFoundError:
            pass
        self._close()

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.digest is None:
            self.abort()
        else:
            self._close()
