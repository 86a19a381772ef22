"""Namespaces of a spec: what each is to be, and the id maps of user namespaces.

A namespace to join is named by a path ("/run/netns/blue"), a pid ("pid:123" or an int), or a pidfd
("pidfd:7", or an object with fileno()). It is looked up when the spec is made and identified by its
inode, so that two specs are equal only if they mean the same namespace. See namespaces(7).
"""

from __future__ import annotations

import os

from .errors import SpecError
from .units import integer, items

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# the spec's field: (name in C, file below /proc/<pid>/ns, the word for a new one, whether it is the default)
KINDS = {
    "mnt": ("mnt", "mnt", "private", True),
    "pid": ("pid", "pid", "private", True),
    "network": ("net", "net", "none", True),
    "ipc": ("ipc", "ipc", "private", True),
    "uts": ("uts", "uts", "private", True),
    "cgroupns": ("cgroup", "cgroup", "private", True),
    "userns": ("user", "user", "private", False),
    "timens": ("time", "time", "private", False),
}
HOST = ("host", None, None)
NEW = ("new", None, None)


def namespace(field: str, value: Any) -> tuple[Any, ...]:
    """("host", None, None), ("new", None, None) or ("join", how, identity); how is ("path", str),
    ("pid", int) or ("pidfd", int), identity the (device, inode) of the namespace."""
    _, proc, new, _ = KINDS[field]
    if isinstance(value, str):
        if value == "host":
            return HOST
        if value in (new, "private"):
            return NEW
        kind, colon, rest = value.partition(":")
        if value.startswith("/"):
            return _join(field, value, ("path", value), value)
        if kind in ("path", "ns") and colon and rest.startswith("/"):
            return _join(field, value, ("path", rest), rest)
        if kind == "pid" and rest.isdigit():
            return _join(field, value, ("pid", int(rest)), f"/proc/{int(rest)}/ns/{proc}")
        if kind == "pidfd" and rest.isdigit():
            return _pidfd(field, value, int(rest), proc)
        if kind == "container" and colon:
            raise SpecError(field, value, "names a container", 'give its pid (as "pid:123")')
        if field == "network" and value in ("bridge", "default", "nat"):
            raise SpecError(
                field, value, "is not offered", 'use "none" (own, with lo), "host", or one to join'
            )
    elif isinstance(value, bool):
        if field in ("userns", "timens") and value:
            return NEW
    elif isinstance(value, int):
        return _join(field, value, ("pid", value), f"/proc/{value}/ns/{proc}")
    elif isinstance(value, os.PathLike):
        path = os.fspath(value)
        return _join(field, value, ("path", path), path)
    elif hasattr(value, "fileno"):
        return _pidfd(field, value, value.fileno(), proc)
    hint = f'use "{new}" (an own one), "host", "/path", "pid:123", "pidfd:7" or an object with fileno()'
    raise SpecError(field, value, "is not a namespace", hint)


def _pidfd(field: str, value: object, fd: int, proc: str) -> tuple[Any, ...]:
    try:
        with open(f"/proc/self/fdinfo/{fd}") as file:
            pids = [line.split()[1] for line in file if line.startswith("Pid:")]
    except OSError:
        raise SpecError(field, value, "is not an open file descriptor", "use one of pidfd_open(2)") from None
    if not pids:
        raise SpecError(field, value, "is a file descriptor, but no pidfd", "use one of pidfd_open(2)")
    if int(pids[0]) <= 0:
        raise SpecError(field, value, "is the pidfd of a process that is gone", "use one that runs")
    return _join(field, value, ("pidfd", fd), f"/proc/{pids[0]}/ns/{proc}")


def _join(field: str, value: object, how: tuple[str, Any], path: str) -> tuple[Any, ...]:
    proc = KINDS[field][1]
    if how[0] == "pid" and how[1] <= 0:
        raise SpecError(field, value, "is not a pid", "use a number above 0")
    try:
        found = os.stat(path)
    except FileNotFoundError:
        problem = "is no running process" if how[0] == "pid" else "does not exist"
        raise SpecError(
            field, value, problem, "use the namespace of a running process, or its file"
        ) from None
    except PermissionError:
        raise SpecError(
            field, value, "belongs to a process of another user", "run as that user or as root"
        ) from None
    except (OSError, ValueError) as error:
        raise SpecError(
            field, value, f"cannot be looked up ({error})", "use a file as /proc/123/ns/net"
        ) from None
    if found.st_dev != os.stat("/proc/self/ns/mnt").st_dev:
        raise SpecError(
            field, value, "is not a namespace", f"use a file as /proc/123/ns/{proc} or /run/netns/name"
        )
    kind = _kind(path)
    if kind and kind != proc:
        raise SpecError(
            field, value, f"is a namespace of another kind ({kind})", f"{field} needs one of kind {proc}"
        )
    return ("join", how, (found.st_dev, found.st_ino))


def _kind(path: str) -> str | None:
    """ "net" and so on, by ioctl_ns(2) NS_GET_NSTYPE."""
    import fcntl

    flags = {
        0x20000: "mnt",
        0x20000000: "pid",
        0x40000000: "net",
        0x08000000: "ipc",
        0x04000000: "uts",
        0x02000000: "cgroup",
        0x10000000: "user",
        0x80: "time",
    }
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return flags.get(fcntl.ioctl(fd, 0xB703))
    except OSError:
        return None
    finally:
        os.close(fd)


def id_map(field: str, value: object) -> tuple[tuple[int, int, int], ...]:
    """Ranges (inside, outside, count), sorted by inside; user_namespaces(7). Text as "0:100000:65536"."""
    hint = "use (inside, outside, count), as (0, 100000, 65536)"
    given = items(field, value)
    if isinstance(value, tuple) and len(value) == 3 and all(isinstance(part, int) for part in value):
        given = [value]
    found = []
    for number, entry in enumerate(given):
        where = f"{field}[{number}]"
        parts: list[Any]
        if isinstance(entry, str):
            parts = list(entry.split(":"))
        elif isinstance(entry, (list, tuple)):
            parts = list(entry)
        else:
            parts = []
        if len(parts) != 3:
            raise SpecError(where, entry, "is not a range of ids", hint)
        inside, outside = (integer(where, part, 0, 2**32 - 2, "an id") for part in parts[:2])
        count = integer(where, parts[2], 1, 2**32 - 1, "a count")
        if inside + count > 2**32 - 1 or outside + count > 2**32 - 1:
            raise SpecError(where, entry, "runs beyond the last id", hint)
        found.append((inside, outside, count))
    if not found:
        raise SpecError(field, value, "is empty", hint)
    if len(found) > 340:
        raise SpecError(field, len(found), "ranges are too many", "the kernel takes 340")
    for place, name in ((0, "inside"), (1, "outside")):
        ordered = sorted(found, key=lambda entry: entry[place])
        for number in range(1, len(ordered)):
            before, after = ordered[number - 1], ordered[number]
            if before[place] + before[2] > after[place]:
                raise SpecError(field, value, f"has ranges that overlap {name}", hint)
    return tuple(sorted(found))


def mapped(ranges: tuple[tuple[int, int, int], ...], number: int) -> bool:
    """Whether the id `number` has a place inside."""
    return any(inside <= number < inside + count for inside, _, count in ranges)
