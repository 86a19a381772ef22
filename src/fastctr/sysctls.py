"""Sysctls of a container's own namespaces: namespaces(7), and Docker's --sysctl for the form."""

from __future__ import annotations

from . import units
from .errors import SpecError

_IPC_SYSCTLS = frozenset(
    (
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
        "kernel.msg_next_id",
        "kernel.sem_next_id",
        "kernel.shm_next_id",
        "kernel.auto_msgmni",
    )
)


def sysctls(field: str, value: object) -> tuple[tuple[str, str], ...]:
    """(name with dots, value): {"net.core.somaxconn": 1024}, or Docker's "name=value"."""
    pairs: list[tuple[object, object]] = []
    if isinstance(value, dict):
        pairs = list(value.items())
    else:
        for number, item in enumerate(units.items(field, value)):
            word, equals, setting = units.text(f"{field}[{number}]", item).partition("=")
            if not equals:
                raise SpecError(f"{field}[{number}]", item, "is no sysctl", 'use "net.core.somaxconn=1024"')
            pairs.append((word, setting))
    found: dict[str, str] = {}
    for raw, text in pairs:
        where = f"{field}[{raw!r}]"
        name = units.text(where, raw)
        if "/" in name:
            if "." in name:
                raise SpecError(where, raw, "mixes dots and slashes", 'use names as "net.core.somaxconn"')
            name = name.strip("/")
        dotted = name.replace("/", ".")
        if not all(dotted.split(".")) or len(dotted) > 200 or any(c.isspace() for c in dotted):
            raise SpecError(where, raw, "is no sysctl's name", 'use names as "net.core.somaxconn"')
        if not isinstance(text, (str, int)) or isinstance(text, bool):
            raise SpecError(where, text, "is no value of a sysctl", "use text or a number")
        found[dotted] = units.text(where, str(text), empty=True)
        sysctl_namespace(where, dotted)
    return tuple(sorted(found.items()))


def sysctl_namespace(where: str, name: str) -> str:
    """The spec's field whose namespace a sysctl belongs to; SpecError for one of the whole machine."""
    if name in ("kernel.hostname", "kernel.domainname"):
        field = name.partition(".")[2]
        raise SpecError(where, name, "has a field of its own", f"use {field}=")
    if name in _IPC_SYSCTLS or name.startswith("fs.mqueue."):
        return "ipc"
    if name.startswith("net."):
        return "network"
    raise SpecError(
        where,
        name,
        "belongs to the whole machine, not to a namespace",
        "a container can have its own net.*, fs.mqueue.*, kernel.msg*, kernel.sem and kernel.shm*",
    )
