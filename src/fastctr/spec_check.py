"""What the fields of a spec must agree on. Called by Spec with the parsed values, which it completes
with what follows from them (a user namespace for an unprivileged user, its id map)."""

from __future__ import annotations

import os

from . import rights, roots
from .errors import SpecError
from .limits import Limits
from .namespaces import HOST, NEW, mapped

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def agree(values: dict[str, Any], limits: Limits) -> tuple[Any, ...]:
    """Raise SpecError for fields that exclude each other; returns the identity of the root's directories."""
    _userns(values)
    if values.get("mnt", NEW) != NEW:
        _no_mounts(values)
        identity: tuple[Any, ...] = ()
    else:
        identity = _root(values)
        _targets(values)
    _time(values)
    _names(values)
    _ids(values)
    if values.get("cgroup") is False:
        for name in ("cgroup_parent", "device_cgroup_rules"):
            if values.get(name):
                raise SpecError(name, values[name], "needs a control group", "leave cgroup=False away")
        if limits:
            name = limits.key[0][0]
            raise SpecError(name, getattr(limits, name), "needs a control group", "leave cgroup=False away")
    if values.get("device_policy") is False and values.get("device_cgroup_rules"):
        raise SpecError("device_policy", False, "cannot go with device_cgroup_rules", "give one of them")
    if values.get("dev") is False:
        for name in ("devices", "shm_size"):
            if values.get(name):
                raise SpecError(name, values[name], "needs /dev", "leave dev=False away")
    if values.get("init") and values.get("pid", NEW) != NEW:
        raise SpecError("init", True, "needs an own pid namespace", 'use pid="private"')
    if values.get("capabilities") and (values.get("cap_add") or values.get("cap_drop")):
        raise SpecError(
            "capabilities",
            dict(values["capabilities"]),
            "cannot go with cap_add and cap_drop",
            "give the sets, or what to add and drop",
        )
    return identity


def _userns(values: dict[str, Any]) -> None:
    """Imply a user namespace for unprivileged users and for maps, and complete its maps."""
    euid, root = os.geteuid(), rights.machine_root()
    given = values.get("userns")
    maps = values.get("uid_map"), values.get("gid_map")
    if given is None and (not root or any(maps)):
        given = values["userns"] = NEW
    if given in (None, HOST):
        for name, value in zip(("uid_map", "gid_map"), maps):
            if value:
                raise SpecError(name, list(value), "needs a user namespace", 'leave userns="host" away')
        if not root and given == HOST:
            raise SpecError(
                "userns",
                "host",
                "cannot work for an unprivileged user",
                "leave it away: a user namespace of its own is made",
            )
        return
    if given != NEW:
        for name, value in zip(("uid_map", "gid_map"), maps):
            if value:
                raise SpecError(
                    name, list(value), "cannot be set on a namespace that is joined", "leave it away"
                )
        return
    uid_map, gid_map = maps
    if not uid_map and not gid_map and root:
        raise SpecError(
            "userns", True, "needs a map as root", "add uid_map=[(0, 100000, 65536)], and gid_map alike"
        )
    if uid_map and not gid_map:
        if root:
            values["gid_map"] = uid_map
    elif gid_map and not uid_map and root:
        values["uid_map"] = gid_map
    if euid == 0 and not root:  # of a user namespace: what it has, it passes on
        values.setdefault("uid_map", rights.own_ids("uid"))
        values.setdefault("gid_map", rights.own_ids("gid"))
    values.setdefault("uid_map", ((0, euid, 1),))
    values.setdefault("gid_map", ((0, os.getegid(), 1),))


def _no_mounts(values: dict[str, Any]) -> None:
    """With the host's or a joined mount namespace nothing can be mounted and no root chosen."""
    if values.get("rootfs", "host") != "host":
        raise SpecError(
            "rootfs",
            values["rootfs"],
            "cannot be chosen in a mount namespace that is not its own",
            'leave mnt away, or use rootfs="host"',
        )
    for name in (
        "mounts",
        "volumes",
        "tmpfs",
        "files",
        "devices",
        "upper",
        "scratch_size",
        "scratch_dir",
        "read_only",
        "masked_paths",
        "readonly_paths",
    ):
        if values.get(name):
            value = values[name]
            raise SpecError(
                name,
                value if isinstance(value, (str, int)) else f"{len(value)} given",
                "needs an own mount namespace",
                "leave mnt away",
            )
    if "writable" in values:
        raise SpecError("writable", values["writable"], "needs an own mount namespace", "leave mnt away")
    values["rootfs"] = "host"


def _root(values: dict[str, Any]) -> tuple[Any, ...]:
    rootfs = values.get("rootfs")
    if rootfs is None:
        raise SpecError("rootfs", None, "is missing", 'give a directory, several (topmost first), or "host"')
    writable, upper, read_only = values.get("writable"), values.get("upper"), values.get("read_only", False)
    if writable == "direct" and rootfs == "host":
        raise SpecError(
            "writable", "direct", "would write into this machine's own root", 'use "tmpfs" or "disk"'
        )
    if writable == "direct" and len(rootfs) > 1:
        raise SpecError(
            "writable", "direct", "needs one directory", 'use "tmpfs", "disk" or upper= with several'
        )
    if upper is not None:
        if writable is not None:
            raise SpecError(
                "writable", writable, "cannot go with upper", "changes are kept at upper; leave it away"
            )
        if read_only:
            raise SpecError("upper", upper, "cannot be written with read_only", "give one of them")
    if read_only and writable is not None:
        raise SpecError("writable", writable, "cannot go with read_only", "give one of them")
    if "scratch_size" in values and (upper or read_only or writable in ("disk", "direct")):
        raise SpecError(
            "scratch_size", values["scratch_size"], 'is for writable="tmpfs" only', "leave it away"
        )
    if "scratch_dir" in values and writable != "disk":
        raise SpecError(
            "scratch_dir", values["scratch_dir"], 'is for writable="disk" only', 'add writable="disk"'
        )
    if writable == "disk" and "scratch_dir" not in values:
        values["scratch_dir"] = "/var/tmp"
    if rootfs == "host":
        return ()
    return roots.check(rootfs, values)


def _targets(values: dict[str, Any]) -> None:
    seen: dict[str, str] = {}
    for name in ("tmpfs", "mounts", "volumes", "files"):
        for number, mount in enumerate(values.get(name, ())):
            where = f"{name}[{number}]" if name != "files" else f"files[{mount.target!r}]"
            if mount.target in seen:
                raise SpecError(
                    where, mount.target, f"is mounted twice, also by {seen[mount.target]}", "leave one away"
                )
            seen[mount.target] = where
    for (path, *_), _access, _here in values.get("devices", ()):
        if path in seen:
            raise SpecError("devices", path, f"is there twice, also by {seen[path]}", "leave one away")
        seen[path] = "devices"


def _time(values: dict[str, Any]) -> None:
    for name in ("monotonic", "boottime"):
        if name not in values:
            continue
        if "timens" in values and values["timens"] != NEW:
            raise SpecError(name, values[name], "needs an own time namespace", "leave timens away")
        values["timens"] = NEW
        import time

        clock = time.CLOCK_MONOTONIC if name == "monotonic" else time.CLOCK_BOOTTIME
        if time.clock_gettime_ns(clock) + values[name] < 0:
            raise SpecError(
                name, values[name] / 10**9, "would make the clock negative", "use a smaller offset"
            )
    if values.get("timens") == NEW and not os.path.exists("/proc/self/ns/time"):
        raise SpecError(
            "timens", True, "is not known to this kernel", "it needs Linux 5.6 with CONFIG_TIME_NS"
        )


def _names(values: dict[str, Any]) -> None:
    """hostname and sysctls belong to namespaces, which must be the container's own."""
    for name in ("hostname", "domainname"):
        if name in values and values.get("uts", NEW) != NEW:
            raise SpecError(name, values[name], "needs an own uts namespace", "leave uts away")
    if values.get("sysctls"):
        from .sysctls import sysctl_namespace

        for name, value in values["sysctls"]:
            field = sysctl_namespace("sysctls", name)
            if values.get(field, NEW) != NEW:
                raise SpecError(
                    f"sysctls[{name!r}]", value, f"needs an own {field} namespace", f"leave {field} away"
                )


def _ids(values: dict[str, Any]) -> None:
    """Every id must have a place in the user namespace."""
    if values.get("userns", HOST) != NEW:
        return
    uid_map, gid_map = values["uid_map"], values["gid_map"]
    text, uid, gid = values.get("user", (None, 0, 0))
    if text is not None and text.partition(":")[0].isdigit():
        uid = int(text.partition(":")[0])
    if not mapped(uid_map, uid):
        hint = "extend uid_map, or use user= with an id of it"
        raise SpecError("user", uid, "has no place in uid_map", hint)
    if text is None and not mapped(gid_map, gid):
        raise SpecError(
            "user", gid, "has no place in gid_map", "extend gid_map, or use user=(uid, gid) with an id of it"
        )
    for name in ("groups", "group_add"):
        for number, group in enumerate(values.get(name) or ()):
            if not mapped(gid_map, group):
                raise SpecError(f"{name}[{number}]", group, "has no place in gid_map", "extend gid_map")
        if values.get(name) and os.geteuid() != 0 and gid_map == ((gid_map[0][0], os.getegid(), 1),):
            raise SpecError(
                name,
                list(values[name]),
                "cannot be set by an unprivileged user with one id mapped",
                "give gid_map with ranges of /etc/subgid, or leave it away",
            )
