"""Kept containers: those with a name, whose writable layer stays in the store after they have ended.

<root>/containers/<id>/ holds container.json (what it is, how it ended), upper/ and upper.work/ (its
writable layer, overlay's), and lock, which whoever runs it has locked: a free lock means it does not run,
however its runner ended. The image's layers are kept by the store for as long as the container is there.
"""

from __future__ import annotations

import os
import time

from .errors import StoreError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from typing import Any

    from .image.resolved import Resolved

_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")
_HEX = frozenset("0123456789abcdef")


class Kept:
    """One of them. `record` is the content of container.json: id, name, image (as it was asked for),
    image_id, manifest, snapshotter, chains, rootfs (directories, where it is of no image), argv, fields,
    own (options of the command line), directory (where relative paths start), targets (of its mounts),
    maps (of its user namespace's ids, or None), created, started, finished (seconds since 1970, or None),
    exit (code, or None), pid, pid_start."""

    def __init__(self, root: str, record: dict[str, Any]) -> None:
        self.root = root
        self.record = record
        self._lock = -1

    @property
    def id(self) -> str:
        return str(self.record["id"])

    @property
    def name(self) -> str:
        return str(self.record["name"])

    @property
    def path(self) -> str:
        """Its directory."""
        return f"{self.root}/containers/{self.id}"

    @property
    def upper(self) -> str:
        """Its writable layer, an overlay's upperdir."""
        return f"{self.path}/upper"

    # -- running

    def acquire(self) -> None:
        """Be the one who runs it, until release() or this process's end. Raises StoreError if it runs."""
        from .image.locks import same_file, try_lock

        path = f"{self.path}/lock"
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            raise StoreError(self.name, "is gone") from None
        if not try_lock(fd):
            os.close(fd)
            raise StoreError(self.name, "is running already", f"fastctr rm -f {self.name} ends it")
        if not same_file(fd, path):
            os.close(fd)
            raise StoreError(self.name, "is gone")
        self._lock = fd

    def release(self) -> None:
        """It does not run any more."""
        fd, self._lock = self._lock, -1
        if fd >= 0:
            os.close(fd)

    @property
    def running(self) -> bool:
        """Whether somebody runs it now."""
        if self._lock >= 0:
            return True
        from .image.locks import is_locked

        return is_locked(f"{self.path}/lock")

    def note(self, **changes: Any) -> None:
        """Change the record, on disk too."""
        self.record.update(changes)
        _write(f"{self.path}/container.json", self.record)

    def beginning(self) -> None:
        """It is about to be started: should we be killed now, it is known that it may have run."""
        self.note(pid=0, pid_start=0, started=time.time(), finished=None, exit=None)

    def failed(self) -> None:
        """It could not be started."""
        self.note(started=None)

    def began(self, pid: int) -> None:
        """Its first process has started."""
        self.note(pid=pid, pid_start=process_start(pid))

    def ended(self, code: int) -> None:
        """It has ended with that exit code, as a shell sees it."""
        self.note(pid=0, pid_start=0, finished=time.time(), exit=code)

    def pid(self) -> int:
        """The first process, as this machine sees it, or 0."""
        pid = int(self.record.get("pid") or 0)
        return pid if pid and self.running and process_start(pid) == self.record.get("pid_start") else 0

    @property
    def state(self) -> str:
        """ "created", "running" or "exited"."""
        if self.running:
            return "running"
        return "exited" if self.record.get("started") else "created"

    @property
    def exit_code(self) -> int:
        """How it ended; 137 if its runner was killed."""
        code = self.record.get("exit")
        return 137 if code is None and self.record.get("started") else int(code or 0)

    def kill(self) -> None:
        """SIGKILL to everything in it, and wait until its runner has seen that."""
        deadline = time.monotonic() + 10
        while self.running:
            self.record = read(self.path) or self.record
            pid = self.pid()
            if pid:
                try:
                    fd = os.pidfd_open(pid)
                except ProcessLookupError:
                    continue
                try:
                    if process_start(pid) == self.record.get("pid_start"):
                        _kill(fd)
                finally:
                    os.close(fd)
            if time.monotonic() > deadline:
                raise StoreError(self.name, "does not end", "end the process that runs it")
            time.sleep(0.02)

    # -- its files

    def layers(self) -> list[str]:
        """The roots below its writable layer, topmost first. Raises ImageNotFound."""
        if not self.record.get("manifest"):
            return list(self.record["rootfs"])
        from .image import snapshot
        from .image.store import get

        store = get(self.root)
        return list(snapshot.ensure(store, self.resolved(), self.record["snapshotter"]))

    def resolved(self) -> Resolved:
        """The image it was made from. Raises ImageNotFound, StoreError if it was made from a directory."""
        if not self.record.get("manifest"):
            raise StoreError(self.name, "was made from a directory, not from an image", "use export and import")
        from .image.store import get

        return get(self.root).resolve(self.record["manifest"])

    def mounted(self, read_only: bool = False) -> AbstractContextManager[int]:
        """with …: a descriptor of its root directory: that of the running one, or its layers mounted."""
        from .kept_root import mounted

        return mounted(self, read_only)

    def remove(self, force: bool = False) -> None:
        """Remove it with its writable layer. Raises StoreError if it runs, unless force kills it."""
        if self.running:
            if not force:
                raise StoreError(
                    self.name, f"cannot be removed: it is running ({self.id[:12]})", "end it first, or use -f"
                )
            self.kill()
        self.acquire()
        gone = f"{self.root}/tmp/removed-{self.id[:12]}-{os.urandom(4).hex()}"
        try:
            os.makedirs(os.path.dirname(gone), 0o700, exist_ok=True)
            os.rename(self.path, gone)
            remove_tree(gone)
        finally:
            self.release()

    def __repr__(self) -> str:
        return f"<Kept {self.name} {self.id[:12]} {self.state}>"


def _kill(pidfd: int) -> None:
    import signal

    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except ProcessLookupError:
        pass


def process_start(pid: int) -> int:
    """When a process started, in clock ticks since boot (proc_pid_stat(5)); 0 if there is none."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return 0


def remove_tree(path: str) -> None:
    """Remove a directory with everything in it, also where overlay left one nobody may read."""
    import shutil
    import stat

    def again(function: Any, where: str, error: Any) -> None:
        if not isinstance(error[1], PermissionError):
            raise error[1]
        for each in (os.path.dirname(where), where):
            if stat.S_ISDIR(os.lstat(each).st_mode):
                os.chmod(each, 0o700)
        if os.path.isdir(where) and not os.path.islink(where):
            shutil.rmtree(where)
        else:
            os.unlink(where)

    shutil.rmtree(path, onerror=again)


def _write(path: str, record: dict[str, Any]) -> None:
    import json

    new = f"{path}.new"
    with open(new, "w", encoding="utf-8", errors="surrogateescape") as file:
        json.dump(record, file)
    os.replace(new, path)


def read(path: str) -> dict[str, Any] | None:
    """The record in a container's directory, or None."""
    import json

    try:
        with open(f"{path}/container.json", encoding="utf-8", errors="surrogateescape") as file:
            found = json.load(file)
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and "id" in found else None


def check_name(name: str) -> None:
    """Docker's rule. Raises StoreError."""
    if len(name) < 2 or name[0] not in _LETTERS or not (_LETTERS | set("_.-")).issuperset(name):
        raise StoreError(
            name, "is not a container's name", "use two or more letters, digits, _ . - beginning with a letter or digit"
        )


def create(root: str, name: str, record: dict[str, Any]) -> Kept:
    """A new one, which this process runs. Raises StoreError if the name is taken."""
    check_name(name)
    from .image.locks import FileLock
    from .image.store import get

    get(root).prepare()
    with FileLock(f"{root}/names.lock"):
        for other in all_of(root):
            if other.name == name:
                raise StoreError(
                    "Conflict",
                    f'the container name "/{name}" is already in use by container "{other.id}"',
                    f"remove that container (fastctr rm {name}) to be able to reuse that name, "
                    f"or run it again: fastctr start -a {name}",
                )
        full = {"id": os.urandom(32).hex(), "name": name, "created": time.time(), "started": None, "finished": None,
                "exit": None, "pid": 0, "pid_start": 0, **record}  # fmt: skip
        kept = Kept(root, full)
        os.mkdir(kept.path, 0o700)
        kept.acquire()
        kept.note()
    return kept


def all_of(root: str) -> Iterator[Kept]:
    """All of a store, in no order."""
    try:
        names = os.listdir(f"{root}/containers")
    except OSError:
        return
    for name in names:
        record = read(f"{root}/containers/{name}") if len(name) == 64 else None
        if record is not None:
            yield Kept(root, record)


def find(root: str, text: str) -> Kept:
    """By name, id or a beginning of the id that only one has. Raises StoreError."""
    every = list(all_of(root))
    for kept in every:
        if text.removeprefix("/") == kept.name or text == kept.id:
            return kept
    if text and _HEX.issuperset(text):
        matching = [kept for kept in every if kept.id.startswith(text)]
        if len(matching) == 1:
            return matching[0]
        if matching:
            raise StoreError(text, "is the beginning of several containers' ids", "give more of it")
    raise StoreError(text, "no such container", "fastctr ps -a lists them; only those with a --name are kept")
