"""Who what is unpacked belongs to, by what this process may do."""

from __future__ import annotations

import os

from ..rights import machine_root, own_ids

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    Map = Sequence[tuple[int, int, int]]

__all__ = ["may_mknod", "ownership"]

_CHOWN, _MKNOD = 0, 27


def _may(capability: int) -> bool:
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        for line in file:
            if line.startswith("CapEff:"):
                return bool(int(line.split()[1], 16) >> capability & 1)
    return False


def ownership(uid_map: Map, gid_map: Map) -> tuple[int, int] | None:
    """The (uid, gid) that everything has to belong to, or None when owners can be told apart.

    With maps: when each of them has a single id. Without: when this process may not give files away (no CAP_CHOWN,
    capabilities(7)), or its user namespace has a single id; then they are its own.
    """
    if uid_map or gid_map:
        if sum(row[2] for row in uid_map) == 1 and sum(row[2] for row in gid_map) == 1:
            return uid_map[0][1], gid_map[0][1]
        return None
    if _may(_CHOWN) and sum(row[2] for row in own_ids("uid")) > 1:
        return None
    return os.geteuid(), os.getegid()


def may_mknod() -> bool:
    """Whether this process may make devices: never in a user namespace of somebody's own."""
    return machine_root() and _may(_MKNOD)
