"""What can be mounted or put into a container, one class each.

`Spec(mounts=[…])` takes these and Docker's strings ("type=bind,src=/data,dst=/data,ro"; see
mount_text.py). Targets are absolute paths inside the container and are made if they are missing;
symbolic links on their way are followed inside the root only. See mount(2), mount_setattr(2).
"""

from __future__ import annotations

import os

from . import units
from .errors import SpecError
from .namespaces import id_map

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

# csrc/fctr.h: enum fctr_mount_kind and FCTR_MNT_F_*
BIND, TMPFS, PROC, SYSFS, MQUEUE, DEVPTS, CGROUP, FILE, SYMLINK = range(9)
F_RECURSIVE, F_ATTR_REC, F_OPTIONAL, F_NOCREATE = 1, 2, 4, 8
# linux/mount.h: MOUNT_ATTR_* and MS_*
RDONLY, NOSUID, NODEV, NOEXEC, NOATIME, STRICTATIME, NODIRATIME, NOSYMFOLLOW = (
    1,
    2,
    4,
    8,
    0x10,
    0x20,
    0x80,
    0x200000,
)
ATIME = 0x70  # the field that NOATIME, STRICTATIME and RELATIME (0) share
PROPAGATION = {"": 0, "unbindable": 1 << 17, "private": 1 << 18, "slave": 1 << 19, "shared": 1 << 20}
# mount_setattr(2) takes no MS_REC: whether it goes down the tree is said by F_ATTR_REC
PROPAGATION.update({"r" + name: bits for name, bits in list(PROPAGATION.items()) if name})


class Mount:
    """The base of all mounts: immutable, equal and hashed by content (`key`)."""

    __slots__ = ("key", "native")
    kind = -1
    native: dict[str, Any]
    key: tuple[Any, ...]

    def _set(
        self,
        target: object,
        flags: int = 0,
        source: str | None = None,
        attr_set: int = 0,
        attr_clr: int = 0,
        propagation: int = 0,
        size: int = -1,
        mode: int = 0,
        uid: int = 0,
        gid: int = 0,
        idmap: tuple[tuple[int, int, int], ...] | None = None,
        data: bytes | None = None,
    ) -> None:
        place = units.inside_path("target", target)
        if place.startswith(
            "/proc/"
        ):  # it would mislead the kernel's checks: labels are set below /proc/self
            raise SpecError(
                "target", target, "is below /proc", "mount elsewhere: the kernel's own files must stay true"
            )
        if place == "/proc" and self.kind not in (PROC, BIND, TMPFS):
            raise SpecError("target", target, "is /proc", "mount elsewhere")
        native = {
            "kind": self.kind,
            "flags": flags,
            "source": source,
            "target": place,
            "attr_set": attr_set,
            "attr_clr": attr_clr,
            "propagation": propagation,
            "size": size,
            "mode": mode,
            "uid": uid,
            "gid": gid,
            "idmap": idmap,
            "data": data,
        }
        object.__setattr__(self, "native", native)
        object.__setattr__(self, "key", tuple(native.values()))

    @property
    def target(self) -> str:
        """The place inside the container."""
        return str(self.native["target"])

    def to_native(self) -> dict[str, Any]:
        """The members of struct fctr_mount (csrc/fctr.h); idmap is a list of ranges or None."""
        native = dict(self.native)
        if native["idmap"] is not None:
            native["idmap"] = list(native["idmap"])
        return native

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("a mount cannot be changed; make another")

    def __eq__(self, other: object) -> bool:
        return self.key == other.key if isinstance(other, Mount) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.key)

    def __repr__(self) -> str:
        shown = {name: value for name, value in self.native.items() if value and name not in ("kind", "data")}
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in shown.items())})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), self.native)


def _restore(cls: type[Mount], native: dict[str, Any]) -> Mount:
    made = cls.__new__(cls)
    object.__setattr__(made, "native", native)
    object.__setattr__(made, "key", tuple(native.values()))
    return made


def _attrs(**given: bool) -> int:
    bits = {
        "read_only": RDONLY,
        "nosuid": NOSUID,
        "nodev": NODEV,
        "noexec": NOEXEC,
        "noatime": NOATIME,
        "nosymfollow": NOSYMFOLLOW,
    }
    total = 0
    for name, value in given.items():
        if units.boolean(name, value):
            total |= bits[name]
    return total


def _id(field: str, value: object) -> int:
    return units.integer(field, value, 0, 2**32 - 2, "an id")


class Bind(Mount):
    """A file or directory of this machine, at `target` in the container.

    source       its path here; must exist unless optional=True
    read_only    cannot be written through this mount (its submounts neither, when recursive)
    recursive    bring along what is mounted below source
    propagation  "private", "slave", "shared" or "unbindable", for the whole tree when recursive; with an
                 "r" before it the same (Docker's names)
    idmap        ranges (inside, outside, count) by which owners are shown (Linux 5.12)
    create       make the target if it is missing, as a file or a directory
    nosuid (on by default), nodev (on, except below /dev), noexec, noatime, nosymfollow   flags of the mount
    """

    __slots__ = ()
    kind = BIND

    def __init__(
        self,
        source: Any,
        target: Any,
        read_only: bool = False,
        recursive: bool = True,
        propagation: str = "rprivate",
        idmap: Iterable[Any] | None = None,
        create: bool = True,
        nosuid: bool = True,
        nodev: bool | None = None,
        noexec: bool = False,
        noatime: bool = False,
        nosymfollow: bool = False,
        optional: bool = False,
    ) -> None:
        path = units.host_path("source", source)
        if nodev is None:
            nodev = path != "/dev" and not path.startswith("/dev/")
        if propagation not in PROPAGATION:
            raise SpecError(
                "propagation",
                propagation,
                "is no propagation",
                "use private, slave, shared, unbindable, or one of them with r before it",
            )
        if not units.boolean("optional", optional) and not os.path.lexists(path):
            raise SpecError(
                "source", source, "does not exist on this machine", "make it first, or give another path"
            )
        attrs = _attrs(
            read_only=read_only,
            nosuid=nosuid,
            nodev=nodev,
            noexec=noexec,
            noatime=noatime,
            nosymfollow=nosymfollow,
        )
        flags = (F_RECURSIVE | F_ATTR_REC) if units.boolean("recursive", recursive) else 0
        if not units.boolean("create", create):
            flags |= F_NOCREATE
        if optional:
            flags |= F_OPTIONAL
        ranges = id_map("idmap", idmap) if idmap is not None else None
        self._set(target, flags, path, attrs, ATIME if noatime else 0, PROPAGATION[propagation], idmap=ranges)


class Tmpfs(Mount):
    """An empty file system in memory, gone with the container; tmpfs(5).

    size   most bytes ("64m"); None: the kernel's default, half of the memory
    mode   permission bits, uid and gid the owner inside the container
    """

    __slots__ = ()
    kind = TMPFS

    def __init__(
        self,
        target: Any,
        size: Any = None,
        mode: Any = 0o1777,
        uid: int = 0,
        gid: int = 0,
        read_only: bool = False,
        nosuid: bool = True,
        nodev: bool = True,
        noexec: bool = False,
        noatime: bool = False,
    ) -> None:
        attrs = _attrs(read_only=read_only, nosuid=nosuid, nodev=nodev, noexec=noexec, noatime=noatime)
        self._set(
            target,
            0,
            "tmpfs",
            attrs,
            ATIME if noatime else 0,
            size=-1 if size is None else units.size("size", size, 4096),
            mode=units.octal("mode", mode),
            uid=_id("uid", uid),
            gid=_id("gid", gid),
        )


class Proc(Mount):
    """A procfs of the container's pid namespace; proc(5)."""

    __slots__ = ()
    kind = PROC

    def __init__(self, target: Any = "/proc") -> None:
        self._set(target, 0, "proc", NOSUID | NODEV | NOEXEC)


class Sysfs(Mount):
    """A sysfs of the container's network namespace, read-only unless said; sysfs(5)."""

    __slots__ = ()
    kind = SYSFS

    def __init__(self, target: Any = "/sys", read_only: bool = True) -> None:
        self._set(target, 0, "sysfs", NOSUID | NODEV | NOEXEC | _attrs(read_only=read_only))


class Mqueue(Mount):
    """The POSIX message queues of the container's ipc namespace; mq_overview(7)."""

    __slots__ = ()
    kind = MQUEUE

    def __init__(self, target: Any = "/dev/mqueue") -> None:
        self._set(target, 0, "mqueue", NOSUID | NODEV | NOEXEC)


class Devpts(Mount):
    """Pseudo-terminals of the container's own; pts(4). The standard /dev has them already."""

    __slots__ = ()
    kind = DEVPTS

    def __init__(self, target: Any) -> None:
        self._set(target, 0, "devpts", NOSUID | NOEXEC, mode=0o620, gid=5)


class Cgroup(Mount):
    """The container's control groups, read-only unless said; cgroups(7)."""

    __slots__ = ()
    kind = CGROUP

    def __init__(self, target: Any = "/sys/fs/cgroup", read_only: bool = True) -> None:
        self._set(target, 0, None, NOSUID | NODEV | NOEXEC | _attrs(read_only=read_only))


class File(Mount):
    """A file with this content, put into the container without a bind.

    data   bytes, or str (as UTF-8); mode permission bits; uid and gid the owner inside
    """

    __slots__ = ()
    kind = FILE

    def __init__(self, target: Any, data: Any, mode: Any = 0o644, uid: int = 0, gid: int = 0) -> None:
        if isinstance(data, str):
            data = data.encode("utf-8", "surrogateescape")
        elif isinstance(data, (bytearray, memoryview)):
            data = bytes(data)
        if not isinstance(data, bytes):
            raise SpecError("data", data, "is no content of a file", "use bytes or str")
        if len(data) > 256 << 20:
            raise SpecError("data", len(data), "bytes are too many for a file put in", "use a Bind")
        self._set(target, mode=units.octal("mode", mode), uid=_id("uid", uid), gid=_id("gid", gid), data=data)


class Symlink(Mount):
    """A symbolic link at `target` whose text is `text`."""

    __slots__ = ()
    kind = SYMLINK

    def __init__(self, target: Any, text: Any) -> None:
        self._set(target, source=units.text("text", os.fsdecode(text)))
