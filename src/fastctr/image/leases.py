"""Leases: what a living process needs, so that gc leaves it alone.

A lease is a file in leases/, locked while its holder lives, with a line for each blob and layer:
    blob sha256:…
    layer overlay sha256:…
A line is written before the thing is looked for, under the store's shared lock; gc has that lock alone
while it looks and removes. So a thing that was found after its line was written stays.
"""

from __future__ import annotations

import _thread
import fcntl
import os

from .locks import FileLock, same_file, try_lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

    from .store import Store


class Lease:
    """Made by Store.lease(). While it is open, everything this process brings into the store is noted in
    it too. Safe to use from several threads."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._guard = _thread.allocate_lock()
        self._lines: set[str] = set()
        self._fd = -1
        self.path = f"{store.root}/leases/{os.getpid()}-{os.urandom(6).hex()}"
        self.pid = os.getpid()
        store.prepare()
        try:
            with FileLock(f"{store.root}/lock", shared=True):
                fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o644)
                self._fd = fd
                fcntl.flock(fd, fcntl.LOCK_EX)
        except OSError as error:
            self.close()
            raise self._error(error) from None
        store.open_leases.append(self)

    def _error(self, error: OSError) -> Exception:
        from .ingest import store_error  # not at the top: a start from an image takes a lease, and needs no more

        return store_error(error, self.path)

    def blob(self, *digests: str) -> None:
        """Keep these blobs, and if one is an index or a manifest everything it names."""
        self._add(f"blob {digest}\n" for digest in digests)

    def layer(self, snapshotter: str, *chains: str) -> None:
        """Keep these unpacked layers, and those below them."""
        self._add(f"layer {snapshotter} {chain}\n" for chain in chains)

    def _add(self, lines: Iterable[str]) -> None:
        new = [line for line in lines if line not in self._lines]
        if not new:
            return
        with self._guard:
            try:
                with FileLock(f"{self._store.root}/lock", shared=True):
                    data = memoryview("".join(new).encode())
                    while data:
                        data = data[os.write(self._fd, data) :]
            except OSError as error:
                raise self._error(error) from None
            self._lines.update(new)

    def close(self) -> None:
        """Let go of everything. Harmless if done twice."""
        with self._guard:
            fd, self._fd = self._fd, -1
            if fd < 0:
                return
            if self in self._store.open_leases:
                self._store.open_leases.remove(self)
            if self.pid == os.getpid():
                try:
                    os.unlink(self.path)
                except OSError:
                    pass  # gc removes it: its lock is free now
            os.close(fd)

    def forget(self) -> None:
        """In the child of a fork: close our copy; the parent's lease goes on."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def living(root: str, sweep: bool = False) -> tuple[set[str], set[tuple[str, str]], int]:
    """(blobs, (snapshotter, chain) pairs, number of dead leases) of all leases whose holder lives. With
    `sweep` the dead ones are removed; the caller has the store's lock exclusively then."""
    blobs: set[str] = set()
    layers: set[tuple[str, str]] = set()
    dead = 0
    for name in listdir(f"{root}/leases"):
        path = f"{root}/leases/{name}"
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            continue
        try:
            if try_lock(fd):
                dead += 1
                if sweep and same_file(fd, path):
                    os.unlink(path)
                continue
            with open(fd, "rb", closefd=False) as file:
                lines = file.read().decode("ascii", "replace").splitlines()
        finally:
            os.close(fd)
        for line in lines:
            words = line.split(" ")
            if len(words) == 2 and words[0] == "blob":
                blobs.add(words[1])
            elif len(words) == 3 and words[0] == "layer":
                layers.add((words[1], words[2]))
    return blobs, layers, dead


def listdir(path: str) -> list[str]:
    """Sorted; empty if there is no such directory."""
    try:
        return sorted(os.listdir(path))
    except FileNotFoundError:
        return []
