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


def targets(kept: Kept) -> list[str]:
    """Where something else is mounted in it: no part of its own files."""
    from . import mount_text

    fields = kept.record.get("fields") or {}
    parsers = (("volumes", mount_text.volumes), ("mounts", mount_text.mount_list), ("tmpfs", mount_text.tmpfs))
    found = [mount.target for name, parse in parsers for mount in parse(name, fields.get(name) or ())]
    return [*SYSTEM, *found, *(fields.get("files") or ())]


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
    maps: dict[str, Any] = {}
    if os.geteuid() != 0:
        maps = {"uid_map": ((0, os.geteuid(), 1),), "gid_map": ((0, os.getegid(), 1),)}
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
    """While inside: everything in a running container is frozen, by its control group."""

    def __init__(self, kept: Kept, wanted: bool) -> None:
        self._kept, self._wanted = kept, wanted
        self._file = ""

    def __enter__(self) -> None:
        pid = self._kept.pid() if self._wanted else 0
        if not pid:
            return
        place = _freezer(pid)
        if place is None:
            raise StoreError(self._kept.name, "cannot be paused: there is no freezer of its own", "give --pause=false")
        self._file, how = place
        try:
            with open(self._file, "w") as file:
                file.write(how[0])
            _wait_frozen(self._file)
        except OSError as error:
            self.__exit__()
            raise StoreError(self._kept.name, f"cannot be paused: {error}", "give --pause=false") from None

    def __exit__(self, *exc: object) -> None:
        if self._file:
            try:
                with open(self._file, "w") as file:
                    file.write("0" if self._file.endswith(".freeze") else "THAWED")
            except OSError:
                pass  # it has ended


def _freezer(pid: int) -> tuple[str, tuple[str, str]] | None:
    """The file to write to, and the words to freeze and thaw with; only a group that is fastctr's own."""
    groups, ours = _groups(pid), _groups("self")
    with open("/proc/self/mountinfo") as file:
        mounts = [line.rstrip("\n").partition(" - ") for line in file]
    for names, path in groups.items():
        if path == ours.get(names) or (names and "freezer" not in names.split(",")):
            continue
        for left, _, right in mounts:
            kind, _, options = right.split(" ", 2)
            place = left.split(" ")[4] + path
            if names and kind == "cgroup" and "freezer" in options.split(","):
                place += "/freezer.state"
                if os.path.exists(place):
                    return place, ("FROZEN", "THAWED")
            if not names and kind == "cgroup2" and os.path.exists(place + "/cgroup.freeze"):
                return place + "/cgroup.freeze", ("1", "0")
    return None


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
