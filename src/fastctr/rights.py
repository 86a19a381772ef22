"""What this process may do: root of the machine, root of a user namespace somebody else made, or neither."""

from __future__ import annotations

import os

_known: dict[tuple[int, int], bool] = {}


def own_ids(which: str) -> tuple[tuple[int, int, int], ...]:
    """The ids there are in this process's user namespace, as (first, the same outside, count) ranges.

    which: "uid" or "gid"; user_namespaces(7).
    """
    with open(f"/proc/self/{which}_map") as file:
        ranges = [line.split() for line in file]
    return tuple((int(first), int(first), int(count)) for first, _, count in ranges)


def sys_admin() -> bool:
    """Whether this process has CAP_SYS_ADMIN in its own user namespace (capabilities(7))."""
    with open("/proc/self/status") as file:
        for line in file:
            if line.startswith("CapEff:"):
                return bool(int(line.split()[1], 16) >> 21 & 1)
    return False


def machine_root() -> bool:
    """Whether this is root with all ids there are; uid 0 of an unprivileged user namespace is not, and lives as users
    do: it may mount, but makes no device nodes and no trusted.* attributes."""
    euid = os.geteuid()
    if euid != 0:
        return False
    key = (euid, os.getpid())
    found = _known.get(key)
    if found is None:
        try:
            with open("/proc/self/uid_map") as file:
                found = file.read().split() == ["0", "0", "4294967295"]
        except OSError:
            found = True
        _known[key] = found
    return found
