"""index.json: which names the store has, and what each one is (OCI image layout).

One descriptor for each name, with the name in the annotation org.opencontainers.image.ref.name. An image
that lost its last name stays as a descriptor without one ("dangling") until it is pruned.
"""

from __future__ import annotations

import os
import time

from ..errors import SpecError, StoreError
from .ingest import store_error
from .locks import FileLock
from .oci import INDEX, REF_NAME, Descriptor, dump_json, load_json
from .reference import Reference, parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .store import Store

INDEX_MAX = 64 << 20
Entries = list[tuple[str | None, Descriptor]]
"""(name or None, descriptor without the name's annotation), in the file's order."""
Named = list[tuple[str, Descriptor]]
Wanted = list[tuple["str | Reference | None", Descriptor]]
Descriptors = list[Descriptor]
Names = list[str]


def canonical(name: str | Reference) -> str:
    """The name a reference is filed under: in full, without the tag if there is a digest."""
    return parse(name).key


class References:
    """The names of a store. Reading needs no lock; changes are whole or not there."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.path = f"{store.root}/index.json"
        self._stamp: tuple[int, int, int] | None = None
        self._entries: Entries = []
        self._by_name: dict[str, Descriptor] = {}

    def stamp(self) -> tuple[int, int, int]:
        """Changes with every change of the file: its writers never let its time stand still."""
        try:
            found = os.stat(self.path)
        except FileNotFoundError:
            return 0, 0, 0
        except OSError as error:
            raise store_error(error, self.path) from None
        return found.st_ino, found.st_mtime_ns, found.st_size

    def entries(self) -> Entries:
        """Everything in the index. Do not change the list."""
        stamp = self.stamp()
        if stamp != self._stamp:
            entries = self._read()
            self._by_name = {name: each for name, each in entries if name is not None}
            self._entries, self._stamp = entries, stamp
        return self._entries

    def _read(self) -> Entries:
        try:
            with open(self.path, "rb") as file:
                data = file.read(INDEX_MAX + 1)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise store_error(error, self.path) from None
        value = load_json(data, self.path, INDEX_MAX)
        found: Entries = []
        manifests = value.get("manifests")
        if not isinstance(manifests, list):
            raise StoreError(self.path, "has no list of manifests", "is it an OCI image layout?")
        for i, each in enumerate(manifests):
            entry = Descriptor.from_json(each, f"{self.path}: manifests[{i}]")
            name = entry.annotations.pop(REF_NAME, None)
            if name is not None:
                try:
                    name = canonical(name)
                except SpecError:
                    pass  # written by another tool: kept as it is
            found.append((name, entry))
        return found

    def list(self) -> Named:
        """All names, sorted, with what each is."""
        return sorted(((n, d) for n, d in self.entries() if n is not None), key=lambda e: e[0])

    def dangling(self) -> Descriptors:
        """What has lost its name."""
        return [d for n, d in self.entries() if n is None]

    def get(self, name: str | Reference) -> Descriptor | None:
        """What the name is, or None."""
        self.entries()
        found = self._by_name.get(str(name))
        return found if found is not None else self._by_name.get(canonical(name))

    def get_exact(self, name: str) -> Descriptor | None:
        """What the name is if it stands in the index just so, or None."""
        self.entries()
        return self._by_name.get(name)

    def names(self, digest: str) -> Names:
        """The names of that index or manifest."""
        return sorted(n for n, d in self.entries() if n is not None and d.digest == digest)

    def set(self, name: str | Reference, target: Descriptor) -> None:
        """Give `target` that name; what had it before loses it. Raises StoreError."""
        self.set_all([(name, target)])

    def set_all(self, wanted: Wanted) -> None:
        """Several at once. A name of None keeps the image as a dangling one."""
        keys = [(None if n is None else canonical(n), d) for n, d in wanted]

        def edit(entries: Entries) -> Entries:
            for key, target in keys:
                entries = _set(entries, key, target)
            return entries

        self.change(edit)

    def remove(self, name: str | Reference, keep: bool = False) -> Descriptor | None:
        """Take the name away. With `keep` the image stays as a dangling one if that was its last name.
        Returns what it was, or None."""
        exact = str(name)
        key = exact if exact in self._by_name else canonical(name)
        lost: Descriptors = []

        def edit(entries: Entries) -> Entries:
            lost[:] = [d for n, d in entries if n == key]
            left = [(n, d) for n, d in entries if n != key]
            if keep and lost and not any(d.digest == lost[0].digest for _, d in left):
                left.append((None, lost[0]))
            return left

        self.change(edit)
        return lost[0] if lost else None

    def change(self, edit: Callable[[Entries], Entries]) -> None:
        """Rewrite the index under its lock: a new file, synced, renamed over the old one."""
        self._store.prepare()
        new = f"{self.path}.new"
        try:
            with FileLock(f"{self._store.root}/index.lock"):
                before = self.stamp()
                old = self._read()
                entries = edit(list(old))
                if entries == old and before[0]:  # still, what is below a name may be more than before
                    later = max(time.time_ns(), before[1] + 1)
                    os.utime(self.path, ns=(later, later))
                    return
                write_index(new, entries, before[1])
                os.rename(new, self.path)
                sync_directory(self._store.root)
        except OSError as error:
            raise store_error(error, self.path) from None


def _set(entries: Entries, key: str | None, target: Descriptor) -> Entries:
    old = [d for n, d in entries if key is not None and n == key]
    left: Entries = []
    placed = False
    for n, d in entries:
        if n is not None and n == key:
            if not placed:
                left.append((key, target))
                placed = True
        elif not (n is None and d.digest == target.digest):
            left.append((n, d))
    if not placed and (key is not None or not any(d.digest == target.digest for _, d in left)):
        left.append((key, target))
    for each in old:
        if not any(d.digest == each.digest for _, d in left):
            left.append((None, each))
    return left


def write_index(path: str, entries: Entries, after_ns: int = 0) -> None:
    """Write and sync an index.json whose modification time is later than `after_ns`."""
    manifests: list[dict[str, Any]] = []
    for name, each in entries:
        made = each.to_json()
        if name is not None:
            made["annotations"] = {**made.get("annotations", {}), REF_NAME: name}
        manifests.append(made)
    data = dump_json({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests})
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        now = max(time.time_ns(), after_ns + 1)
        os.utime(fd, ns=(now, now))
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_directory(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
