"""Capability names, masks and Docker's ``--cap-add``/``--cap-drop`` rules. See capabilities(7).

A set of capabilities is an ``int`` mask: bit *n* is the capability with number *n* in linux/capability.h.
"""

from __future__ import annotations

from .errors import SpecError, nearest

_NAMES = (
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE"
    " NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT"
    " SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE"
    " AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ"
    " PERFMON BPF CHECKPOINT_RESTORE"
)

NAMES: tuple[str, ...] = tuple(["CAP_" + name for name in _NAMES.split()])
"""Every name, by number."""

BITS: dict[str, int] = {name: bit for bit, name in enumerate(NAMES)}
"""The number of every name."""

DEFAULT = 0xA80425FB
"""What Docker gives a container: CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID, SETUID, SETPCAP,
NET_BIND_SERVICE, NET_RAW, SYS_CHROOT, MKNOD, AUDIT_WRITE and SETFCAP."""

ALL = (1 << len(NAMES)) - 1
"""Every capability that has a name here."""

_last: int | None = None


def last() -> int:
    """The highest capability number this kernel knows, read once; the highest one named here if
    /proc/sys/kernel/cap_last_cap can't be read."""
    global _last
    if _last is None:
        try:
            with open("/proc/sys/kernel/cap_last_cap", "rb", buffering=0) as f:
                _last = int(f.read(16))
        except (OSError, ValueError):
            _last = len(NAMES) - 1
    return _last


def known() -> int:
    """The mask of all capabilities this kernel knows and we have a name for."""
    return ALL & ((1 << (last() + 1)) - 1)


def grantable() -> int:
    """The mask of what this process may hand on: permitted and still in the bounding set, from
    /proc/self/status. Zero if that can't be read."""
    permitted = bounding = 0
    try:
        with open("/proc/self/status", "rb", buffering=0) as f:
            text = f.read(65536)
    except OSError:
        return 0
    for line in text.splitlines():
        if line.startswith(b"CapPrm:"):
            permitted = int(line[7:], 16)
        elif line.startswith(b"CapBnd:"):
            bounding = int(line[7:], 16)
    return permitted & bounding


def normalize(name: object, where: str = "capabilities") -> str:
    """``net_admin``, ``CAP_NET_ADMIN`` … as ``CAP_NET_ADMIN``; ``all`` and ``CAP_ALL`` as ``ALL``.

    where: the field, for the message. Raises SpecError if there is no such capability.
    """
    if not isinstance(name, str):
        raise SpecError(where, name, "is not a string", "name a capability, such as NET_ADMIN")
    full = name.strip().upper()
    if full in ("ALL", "CAP_ALL"):
        return "ALL"
    if not full.startswith("CAP_"):
        full = "CAP_" + full
    if full not in BITS:
        near = nearest(full, NAMES)
        raise SpecError(
            where,
            name,
            "is not a capability",
            f"did you mean {near}?" if near else "capabilities(7) lists them",
        )
    return full


def to_mask(names: object, where: str = "capabilities") -> int:
    """The mask of an iterable of names, in any spelling `normalize` takes. ``ALL`` is `known`.

    Raises SpecError as `normalize`.
    """
    mask = 0
    for i, name in enumerate(_each(names, where)):
        full = normalize(name, f"{where}[{i}]")
        mask |= known() if full == "ALL" else 1 << BITS[full]
    return mask


def to_names(mask: int) -> list[str]:
    """The names in a mask, by number; a bit without a name is given as ``CAP_<number>``."""
    return [NAMES[bit] if bit < len(NAMES) else f"CAP_{bit}" for bit in range(mask.bit_length()) if mask >> bit & 1]


def resolve(
    cap_add: object = (),
    cap_drop: object = (),
    *,
    privileged: bool = False,
    default: int = DEFAULT,
    grant: int | None = None,
) -> int:
    """The mask a container gets, by Docker's rules.

    cap_add, cap_drop: iterables of names, in any case, ``CAP_`` optional, ``ALL`` for every one.
    ``ALL`` added: everything but what is dropped by name. Else ``ALL`` dropped: only what is added.
    Else ``default`` without what is dropped, then with what is added: a name in both is kept.
    privileged: everything, whatever else is said.
    grant: the mask this process may hand on, `grantable` by default; for a container in a user
    namespace of its own, pass `known`: its processes have every capability there.

    A capability asked for by name in cap_add that can't be granted is an error. One that is only part of
    ``ALL``, of privileged or of the default is left out silently if this process lacks it.

    Raises SpecError as `normalize`, and for a name in cap_add that can't be granted.
    """
    add = [normalize(name, f"cap_add[{i}]") for i, name in enumerate(_each(cap_add, "cap_add"))]
    drop = [normalize(name, f"cap_drop[{i}]") for i, name in enumerate(_each(cap_drop, "cap_drop"))]
    named = 0
    for name in add:
        if name != "ALL":
            named |= 1 << BITS[name]
    dropped = 0
    for name in drop:
        if name != "ALL":
            dropped |= 1 << BITS[name]

    if grant is None:
        grant = grantable()
    if privileged:
        return known() & grant
    if "ALL" in add:
        wanted = known() & ~dropped
        named &= wanted
    elif "ALL" in drop:
        wanted = named
    else:
        wanted = (default & ~dropped) | named

    missing = named & ~grant
    if missing:
        name = to_names(missing)[0]
        if missing & -missing & known():
            problem = "can't be granted: this process does not have it"
        else:
            problem = "is not known to this kernel"
        raise SpecError(f"cap_add[{add.index(name)}]", name, problem, "leave it out, or run where it is there")
    return wanted & grant


def _each(names: object, where: str) -> list[object]:
    if names is None:
        return []
    if isinstance(names, (str, bytes)) or not hasattr(names, "__iter__"):
        raise SpecError(where, names, "is not a list", "give a list of names, such as ['NET_ADMIN']")
    return list(names)
