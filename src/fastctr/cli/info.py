"""`fastctr info`: what this machine offers to containers, and what is missing."""

from __future__ import annotations

import os
import sys

from .options import FLAG, Option, UsageError, help_text, parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

TABLE = (
    Option("--json", FLAG, "json", "", "print it as JSON"),
    Option("--help", FLAG, "help", "", "print this"),
)
USAGE = """Usage: fastctr info [OPTIONS]

Say what this machine offers: kernel, control groups, namespaces, seccomp, overlay, rootless use; and
what is missing, with what that means. Nothing is changed."""

# name: (first Linux with it, what is done without)
KERNEL = (
    ("clone3 into a control group", (5, 7), "jobs join their group by themselves"),
    ("time namespaces", (5, 6), "monotonic= and boottime= are refused"),
    ("overlay for unprivileged users", (5, 11), "rootless containers need one read-only or direct directory"),
    ("idmapped mounts", (5, 12), "idmap= is refused"),
    ("cgroup.kill", (5, 14), "containers are frozen and killed process by process"),
    ("memory.peak", (5, 19), "usage has no memory_peak on v2"),
    ("/proc prepared before the start", (6, 18), "each start mounts it: slower, not less isolated"),
)
_CONTROLLERS = ("cpu", "cpuset", "memory", "pids", "io", "hugetlb", "devices", "freezer")


def info(argv: Sequence[str]) -> int:
    """Print it; 0, or 125 for a command line that is not understood."""
    try:
        given, rest = parse(TABLE, argv)
        if rest:
            raise UsageError(f'unexpected argument: "{rest[0]}"')
    except UsageError as error:
        print(f"fastctr: {error}\nSee 'fastctr info --help'.", file=sys.stderr)
        return 125
    if given.get("help"):
        print(USAGE + "\n\n" + help_text(TABLE))
        return 0
    found = collect()
    if given.get("json"):
        import json

        print(json.dumps(found, indent=2))
    else:
        print("\n".join(_lines(found)))
    return 0


def collect() -> dict[str, Any]:
    """Everything `fastctr info --json` prints."""
    from .. import __version__

    missing: list[str] = []
    system = os.uname()
    found = {
        "fastctr": __version__,
        "kernel": {
            "release": system.release,
            "machine": system.machine,
            "features": _kernel(system.release, missing),
        },
        "user": {"uid": os.geteuid(), "capabilities": _capabilities()},
        "cgroup": _cgroup(missing),
        "namespaces": _namespaces(missing),
        "seccomp": _seccomp(missing),
        "overlay": _overlay(missing),
        "rootless": _rootless(missing),
        "security": _security(),
        "missing": missing,
    }
    return found


def _read(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return None


def _kernel(release: str, missing: list[str]) -> dict[str, bool]:
    numbers = []
    for part in release.split(".")[:2]:
        digits = ""
        for char in part:
            if not char.isdigit():
                break
            digits += char
        numbers.append(int(digits or 0))
    version = tuple(numbers)
    features = {}
    for name, first, without in KERNEL:
        features[name] = version >= first
        if version < first:
            missing.append(f"{name} (Linux {first[0]}.{first[1]}): {without}")
    if version < (6, 1):
        missing.append("Linux 6.1 is the oldest that is supported; before 5.12 (mount_setattr) nothing starts")
    return features


def _capabilities() -> list[str]:
    from .. import caps

    return [name.removeprefix("CAP_") for name in caps.to_names(caps.grantable())]


def _cgroup(missing: list[str]) -> dict[str, Any]:
    from ..hostroot import unescape

    v1: dict[str, str] = {}
    v2 = None
    for line in (_read("/proc/self/mountinfo") or "").split("\n"):
        left, _, right = line.partition(" - ")
        fields, tail = left.split(" "), right.split(" ")
        if len(fields) < 5 or len(tail) < 3:
            continue
        if tail[0] == "cgroup2":
            v2 = v2 or unescape(fields[4])
        elif tail[0] == "cgroup":
            for name in tail[2].split(","):
                if name in (
                    "cpu",
                    "cpuacct",
                    "cpuset",
                    "memory",
                    "pids",
                    "blkio",
                    "hugetlb",
                    "devices",
                    "freezer",
                ):
                    v1.setdefault(name, unescape(fields[4]))
    on_v2: list[str] = []
    parent = None
    if v2 is not None:
        own = next(
            (line[3:] for line in (_read("/proc/self/cgroup") or "").split("\n") if line.startswith("0::")),
            "/",
        )
        parent = v2 + own.rstrip("/")
        on_v2 = (
            _read(v2 + "/cgroup.controllers" if os.geteuid() == 0 else parent + "/cgroup.controllers") or ""
        ).split()
    mode = "none" if not v1 and v2 is None else "v2" if not v1 else "v1" if v2 is None else "hybrid"
    there = set(on_v2) | {"io" if name == "blkio" else name for name in v1}
    if v2 is not None and mode == "v2":
        there |= {"devices", "freezer"}  # a program and a file of every group
    writable = [path for path in (v2, *v1.values()) if path and os.access(path, os.W_OK)]
    delegated = bool(parent and os.geteuid() != 0 and os.access(parent + "/cgroup.procs", os.W_OK))
    for name in _CONTROLLERS:
        if name not in there:
            missing.append(f"controller {name}: limits that need it are refused")
    if mode == "none":
        missing.append("control groups: none are mounted, so only cgroup=False works")
    elif not writable and not delegated:
        missing.append(
            "control groups: none is writable for this user; with systemd start below "
            "`systemd-run --user --scope -p Delegate=yes`, else use cgroup=False"
        )
    return {
        "mode": mode,
        "controllers": sorted(there),
        "v2": v2,
        "v1": v1,
        "writable": bool(writable),
        "delegated": delegated,
        "systemd": os.path.isdir("/run/systemd/system"),
        "pressure": os.path.exists("/proc/pressure/cpu"),
    }


def _namespaces(missing: list[str]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for name in ("mnt", "pid", "net", "ipc", "uts", "cgroup", "user", "time"):
        there = os.path.exists(f"/proc/self/ns/{name}")
        limit = _read(f"/proc/sys/user/max_{name}_namespaces")
        found[name] = {
            "available": there and limit != "0",
            "max": int(limit) if limit and limit.isdigit() else None,
        }
        if not there:
            missing.append(f"{name} namespaces: the kernel was built without them")
        elif limit == "0":
            missing.append(f"{name} namespaces: the sysctl user.max_{name}_namespaces is 0")
    return found


def _seccomp(missing: list[str]) -> dict[str, Any]:
    actions = (_read("/proc/sys/kernel/seccomp/actions_avail") or "").split()
    if not actions:
        missing.append('seccomp: the kernel was built without it; only seccomp="unconfined" works')
    return {"available": bool(actions), "actions": actions}


def _overlay(missing: list[str]) -> dict[str, Any]:
    names = [line.split()[-1] for line in (_read("/proc/filesystems") or "").split("\n") if line.strip()]
    loaded = "overlay" in names
    module = os.path.exists(f"/lib/modules/{os.uname().release}/kernel/fs/overlayfs")
    if not loaded and not module:
        missing.append(
            'overlay: not in this kernel; only writable="direct" and read_only=True with one directory work'
        )
    elif not loaded:
        missing.append("overlay: a module that is not loaded yet (modprobe overlay)")
    return {"available": loaded or module, "loaded": loaded, "erofs": "erofs" in names}


def _rootless(missing: list[str]) -> dict[str, Any]:
    import shutil

    sysctls = {
        "kernel.unprivileged_userns_clone": "0",
        "kernel.apparmor_restrict_unprivileged_userns": "1",
        "user.max_user_namespaces": "0",
    }
    blocked = [name for name, bad in sysctls.items() if _read("/proc/sys/" + name.replace(".", "/")) == bad]
    helpers = {name: shutil.which(name) for name in ("newuidmap", "newgidmap")}
    try:
        import pwd

        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        user = str(os.getuid())
    ranges = {}
    for name in ("subuid", "subgid"):
        ranges[name] = [
            line.partition(":")[2]
            for line in (_read("/etc/" + name) or "").split("\n")
            if line.partition(":")[0] in (user, str(os.getuid()))
        ]
    if blocked:
        missing.append(f"rootless: unprivileged user namespaces are switched off by {', '.join(blocked)}")
    if os.geteuid() != 0 and not (all(helpers.values()) and all(ranges.values())):
        missing.append(
            "rootless: no ranges in /etc/subuid and /etc/subgid with newuidmap and newgidmap: "
            "only one id can be mapped"
        )
    return {"allowed": not blocked, "blocked_by": blocked, **helpers, **ranges}


def _security() -> dict[str, Any]:
    modules = (_read("/sys/kernel/security/lsm") or "").split(",")
    return {
        "apparmor": _read("/sys/module/apparmor/parameters/enabled") == "Y",
        "selinux": os.path.exists("/sys/fs/selinux/enforce"),
        "modules": [name for name in modules if name],
    }


def _lines(found: dict[str, Any]) -> list[str]:
    """The same for people."""
    kernel, cgroup, rootless = found["kernel"], found["cgroup"], found["rootless"]

    def yes(value: object) -> str:
        return "yes" if value else "no"

    lines = [
        f"fastctr      {found['fastctr']}",
        f"kernel       {kernel['release']} {kernel['machine']}",
        f"user         {found['user']['uid']}" + (" (root)" if found["user"]["uid"] == 0 else ""),
        f"cgroups      {cgroup['mode']}; controllers: {' '.join(cgroup['controllers']) or 'none'}",
        "             "
        + ", ".join(f"{key}: {yes(cgroup[key])}" for key in ("writable", "delegated", "systemd", "pressure")),
        "namespaces   " + " ".join(name for name, each in found["namespaces"].items() if each["available"]),
        f"seccomp      {yes(found['seccomp']['available'])}",
        f"overlay      {yes(found['overlay']['available'])}"
        + ("" if found["overlay"]["loaded"] else " (not loaded)"),
        f"rootless     {yes(rootless['allowed'])}; ids: {' '.join(rootless['subuid']) or 'one'}",
        "labels       "
        + (" ".join(name for name in ("apparmor", "selinux") if found["security"][name]) or "none"),
        "kernel has   " + ", ".join(name for name, there in kernel["features"].items() if there),
    ]
    if found["missing"]:
        lines += ["", "missing:"] + [f"  {text}" for text in found["missing"]]
    return lines
