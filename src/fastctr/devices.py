"""Devices given to a container, and the rules of its device control group.

See Docker's --device and --device-cgroup-rule, mknod(2), and the kernel's cgroup-v1/devices.rst. The
rules start as Docker's do: nothing may be opened but null, zero, full, random, urandom, tty, console,
ptmx and pseudo-terminals; nodes of any kind may be made.
"""

from __future__ import annotations

import os
import stat

from . import units
from .errors import SpecError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_ACCESS = {"r": 1, "w": 2, "m": 4}
# (allow, type, major, minor, access): as struct fctr_devrule; -1 is any
DEFAULT_RULES: tuple[tuple[bool, str, int, int, int], ...] = (
    (False, "a", -1, -1, 7),
    (True, "c", -1, -1, 4),
    (True, "b", -1, -1, 4),
    (True, "c", 1, 3, 7),  # null
    (True, "c", 1, 5, 7),  # zero
    (True, "c", 1, 7, 7),  # full
    (True, "c", 1, 8, 7),  # random
    (True, "c", 1, 9, 7),  # urandom
    (True, "c", 5, 0, 7),  # tty
    (True, "c", 5, 1, 7),  # console
    (True, "c", 5, 2, 7),  # ptmx
    (True, "c", 136, -1, 7),  # pts
)


def access(where: str, value: object, text: str) -> int:
    """Bits of "rwm"."""
    bits = 0
    for letter in text:
        bit = _ACCESS.get(letter, 0)
        if not bit or bits & bit:
            raise SpecError(where, value, f'has a bad access "{text}"', "use letters of rwm, each once")
        bits |= bit
    if not bits:
        raise SpecError(where, value, "has no access", "use letters of rwm")
    return bits


def devices(field: str, value: object) -> tuple[tuple[Any, ...], ...]:
    """((path inside, type, major, minor, mode, uid, gid), access, path here) for each device.

    Given as "/dev/fuse", "/dev/fuse:/dev/other", "/dev/fuse:rw", "/dev/fuse:/dev/other:rw", or docker-py's
    dict {"PathOnHost", "PathInContainer", "CgroupPermissions"}; a directory stands for the devices in it.
    """
    found: list[tuple[Any, ...]] = []
    for number, item in enumerate(units.items(field, value)):
        where = f"{field}[{number}]"
        if isinstance(item, dict):
            here = str(item.get("PathOnHost", ""))
            parts = [
                here,
                str(item.get("PathInContainer") or here),
                str(item.get("CgroupPermissions") or "rwm"),
            ]
        else:
            parts = units.text(where, os.fspath(item) if isinstance(item, os.PathLike) else item).split(":")
        if len(parts) > 3:
            raise SpecError(where, item, "has too many colons", 'use "/dev/fuse:/dev/fuse:rwm"')
        here, inside, letters = parts[0], parts[0], "rwm"
        for part in parts[1:]:
            if part.startswith("/"):
                inside = part
            else:
                letters = part
        bits = access(where, item, letters)
        found += [
            (entry, bits, source)
            for entry, source in _nodes(where, item, here, units.inside_path(where, inside))
        ]
    return tuple(found)


def _nodes(where: str, value: object, here: str, inside: str) -> list[tuple[tuple[Any, ...], str]]:
    try:
        info = os.stat(here)
    except (OSError, ValueError):
        raise SpecError(where, value, "names no device of this machine", 'use one as "/dev/fuse"') from None
    if stat.S_ISDIR(info.st_mode):
        nodes: list[tuple[tuple[Any, ...], str]] = []
        for name in sorted(os.listdir(here)):
            path = os.path.join(here, name)
            if name in ("pts", "shm", "fd", "mqueue", "console") or os.path.islink(path):
                continue
            mode = os.stat(path).st_mode
            if stat.S_ISDIR(mode) or stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
                nodes += _nodes(where, value, path, inside + "/" + name)
        return nodes
    kind = "c" if stat.S_ISCHR(info.st_mode) else "b" if stat.S_ISBLK(info.st_mode) else ""
    if not kind:
        raise SpecError(where, value, "is no device", "bind plain files and sockets with volumes=")
    native = (
        inside,
        kind,
        os.major(info.st_rdev),
        os.minor(info.st_rdev),
        stat.S_IMODE(info.st_mode),
        info.st_uid,
        info.st_gid,
    )
    return [(native, os.path.abspath(here))]


def rules(field: str, value: object) -> tuple[tuple[bool, str, int, int, int], ...]:
    """Docker's device rules, "c 10:200 rwm" ("*" is any); "!" before one forbids. Later ones win."""
    found = []
    hint = 'use "c 10:200 rwm", with * for any number'
    for number, item in enumerate(units.items(field, value)):
        where = f"{field}[{number}]"
        text = units.text(where, item).strip()
        allow = not text.startswith("!")
        parts = text.lstrip("!").split()
        if len(parts) != 3 or parts[0] not in ("a", "b", "c"):
            raise SpecError(where, item, "is no device rule", hint)
        numbers = parts[1].split(":")
        if len(numbers) != 2:
            raise SpecError(where, item, "has no major:minor", hint)
        major, minor = (
            -1 if part == "*" else units.integer(where, part, 0, 2**20 - 1, "a device number")
            for part in numbers
        )
        if parts[0] == "a" and (major, minor) != (-1, -1):
            raise SpecError(where, item, "gives numbers for type a", 'use "a *:* rwm", or b or c')
        found.append((allow, parts[0], major, minor, access(where, item, parts[2])))
    return tuple(found)
