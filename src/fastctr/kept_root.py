"""The files of a kept container: its root to be copied from and to, its changes, an image of it."""

from __future__ import annotations

import os

from .errors import StoreError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from .image.resolved import Resolved
    from .kept import Kept

SYSTEM = ("/dev", "/proc", "/sys")


class mounted:
    """with mounted(kept) as fd: … a descriptor of its root: of the running one, or its layers mounted here."""

    def __init__(self, kept: Kept, read_only: bool) -> None:
        self._kept, self._read_only = kept, read_only
        self._fd = -1

    def __enter__(self) -> int:
        pid = self._kept.pid()
        if pid:
            self._fd = os.open(f"/proc/{pid}/root", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            if self._kept.pid() != pid:  # it has just ended, and the number may be another's
                os.close(self._fd)
                return self.__enter__()
            return self._fd
        self._kept.acquire()  # nobody may start it meanwhile
        try:
            from .image.snapshot.mounted import mount_roots

            upper = self._kept.upper
            for path in (upper, upper + ".work"):
                os.makedirs(path, 0o755, exist_ok=True)
            layers = ["/" if path == "host" else path for path in self._kept.layers()]
            made = mount_roots([upper, *layers]) if self._read_only else mount_roots(layers, upper)
            try:
                self._fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=made)
            finally:
                os.close(made)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self._fd

    def __exit__(self, *exc: Any) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
        self._kept.release()


def maps_on_disk() -> dict[str, Any]:
    """uid_map= and gid_map= of files in a writable layer: an unprivileged user's are all that user's."""
    if os.geteuid() == 0:
        return {}
    return {"uid_map": ((0, os.geteuid(), 1),), "gid_map": ((0, os.getegid(), 1),)}


def maps(kept: Kept) -> dict[str, Any]:
    """The same of files as they are seen in mounted(kept): of a running one by its user namespace's ids."""
    noted = kept.record.get("maps")
    if noted and kept.pid():
        return {name: tuple(tuple(each) for each in ranges) for name, ranges in noted.items()}
    return maps_on_disk()


def targets(kept: Kept) -> list[str]:
    """Where something else is mounted in it: no part of its own files."""
    return [*SYSTEM, *(kept.record.get("targets") or ())]


def changes(kept: Kept) -> list[tuple[str, str]]:
    """What it has added ("A"), changed ("C") and deleted ("D"): [(kind, path)], sorted by path."""
    if not os.path.isdir(kept.upper):
        return []
    from .image.diff import changes as compare

    with readable_layers(kept) as lower:
        return compare(lower, kept.upper, exclude=targets(kept))


class readable_layers:
    """with readable_layers(kept) as roots: … directories of its layers, those that are image files mounted."""

    def __init__(self, kept: Kept) -> None:
        self._kept = kept
        self._mount: Any = None

    def __enter__(self) -> list[str]:
        layers = ["/" if path == "host" else path for path in self._kept.layers()]
        if not any(path.startswith("erofs:") for path in layers):
            return layers
        from .image import snapshot
        from .image.store import get

        self._mount = snapshot.mount(get(self._kept.root), self._kept.resolved())
        return [os.fspath(self._mount.__enter__())]

    def __exit__(self, *exc: object) -> None:
        if self._mount is not None:
            self._mount.__exit__(None, None, None)


def commit(
    kept: Kept,
    reference: str | None = None,
    *,
    author: str = "",
    message: str = "",
    changes: Sequence[str] = (),
    pause: bool = True,
) -> Resolved:
    """An image of its image's layers and its changes, with its own command, environment and so on as config.

    Raises StoreError for one that was made from a directory, and what image.commit raises.
    """
    from .image.commit import commit as make
    from .image.store import get

    base = kept.resolved()
    os.makedirs(kept.upper, 0o755, exist_ok=True)
    maps = maps_on_disk()
    with _Paused(kept, pause), readable_layers(kept) as lower:
        return make(get(kept.root), base, kept.upper, reference, author=author, message=message, changes=changes,
                    config=config_of(kept, base), command=tuple(kept.record.get("argv") or ()), exclude=targets(kept),
                    lower=lower, **maps)  # fmt: skip


def config_of(kept: Kept, base: Resolved) -> dict[str, Any]:
    """The image's config with what was given when the container was made, as docker commit has it."""
    from .process import env

    config = dict(base.config.get("config") or {})
    fields = kept.record.get("fields") or {}
    if fields.get("env"):
        merged = dict(env("env", config.get("Env") or ()))
        merged.update(env("env", fields["env"]))
        config["Env"] = [f"{name}={value}" for name, value in merged.items()]
    if fields.get("cwd"):
        config["WorkingDir"] = fields["cwd"]
    if fields.get("user"):
        config["User"] = str(fields["user"])
    if kept.record.get("command"):
        config["Cmd"] = list(kept.record["command"])
    if kept.record.get("entrypoint") is not None:
        config["Entrypoint"] = list(kept.record["entrypoint"]) or None
        if not kept.record.get("command") and list(config.get("Entrypoint") or ()) != list(
            (base.config.get("config") or {}).get("Entrypoint") or ()
        ):
            config["Cmd"] = None
    return {name: value for name, value in config.items() if value is not None}


class _Paused:
    """While inside: everything in a running container is frozen, by its control group: its own where there is
    v2 alone; with v1, where a container has no group of the freezer, one for the moment."""

    def __init__(self, kept: Kept, wanted: bool) -> None:
        self._kept, self._wanted = kept, wanted
        self._file = self._made = self._home = ""

    def __enter__(self) -> None:
        pid = self._kept.pid() if self._wanted else 0
        if not pid:
            return
        try:
            if not self._find(pid):
                raise StoreError(self._kept.name, "cannot be paused: there is no freezer", "give --pause=false")
            self._write("1" if self._file.endswith(".freeze") else "FROZEN")
            _wait_frozen(self._file)
        except OSError as error:
            self.__exit__()
            raise StoreError(self._kept.name, f"cannot be paused: {error}", "give --pause=false") from None

    def _write(self, word: str) -> None:
        with open(self._file, "w") as file:
            file.write(word)

    def _find(self, pid: int) -> bool:
        groups, ours = _groups(pid), _groups("self")
        own = {names: path for names, path in groups.items() if path != ours.get(names)}
        places: dict[str, str] = {}
        with open("/proc/self/mountinfo") as file:
            for line in file:
                left, _, right = line.rstrip("\n").partition(" - ")
                kind, _, options = right.split(" ", 2)
                for names in groups:
                    wanted = set(names.split(",")) if names else set()
                    if (kind == "cgroup2" and not names) or (
                        kind == "cgroup" and names and wanted <= set(options.split(","))
                    ):
                        places.setdefault(names, left.split(" ")[4])
        if "" in own and "" in places and os.path.exists(f"{places['']}{own['']}/cgroup.freeze"):
            self._file = f"{places['']}{own['']}/cgroup.freeze"
            return True
        freezer = next((names for names in groups if "freezer" in names.split(",")), "")
        if not freezer or freezer not in places:
            return False
        if freezer in own:
            self._file = f"{places[freezer]}{own[freezer]}/freezer.state"
            return True
        members = [f"{places[names]}{path}" for names, path in own.items() if names in places]
        if not members:
            return False
        self._home = f"{places[freezer]}{groups[freezer]}"
        self._made = f"{places[freezer]}/fastctr-pause-{os.getpid()}-{os.urandom(4).hex()}"
        os.mkdir(self._made)
        self._file = f"{self._made}/freezer.state"
        seen: set[str] = set()
        for _ in range(100):  # those that fork meanwhile
            new = {each for place in _tree(members[0]) for each in _pids(place)} - seen
            if not new:
                break
            seen |= new
            _move(new, self._made)
        return True

    def __exit__(self, *exc: object) -> None:
        if not self._file:
            return
        try:
            self._write("0" if self._file.endswith(".freeze") else "THAWED")
        except OSError:
            pass  # it has ended
        if self._made:
            for _ in range(100):
                left = _pids(self._made)
                if not left:
                    break
                _move(left, self._home)
            try:
                os.rmdir(self._made)
            except OSError:
                pass


def _pids(group: str) -> set[str]:
    try:
        with open(f"{group}/cgroup.procs") as file:
            return set(file.read().split())
    except OSError:
        return set()


def _tree(group: str) -> list[str]:
    return [folder for folder, _, _ in os.walk(group)]


def _move(pids: set[str], group: str) -> None:
    for pid in pids:
        try:
            with open(f"{group}/cgroup.procs", "w") as file:
                file.write(pid)
        except ProcessLookupError:
            pass


def _groups(pid: int | str) -> dict[str, str]:
    with open(f"/proc/{pid}/cgroup") as file:
        return dict(line.rstrip("\n").split(":", 2)[1:] for line in file)


def _wait_frozen(path: str) -> None:
    """Freezing takes a moment. Raises OSError if it does not come about."""
    import time

    events = os.path.join(os.path.dirname(path), "cgroup.events")
    for _ in range(500):
        if path.endswith("freezer.state"):
            with open(path) as file:
                if file.read().strip() == "FROZEN":
                    return
        else:
            with open(events) as file:
                if "frozen 1" in file.read():
                    return
        time.sleep(0.01)
    raise OSError(110, "it does not freeze", path)
