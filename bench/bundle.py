"""OCI bundles and bubblewrap options that ask the peers for the same isolation as fastctr's default."""
from __future__ import annotations

import json
import os
from typing import Any

from . import policy

MEMORY, CPUS, CPU_PERIOD, PIDS = 64 << 20, 2, 100000, 64
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MASKED = ("/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys",
          "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi",
          "/sys/firmware", "/sys/devices/virtual/powercap")
READONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


def _mount(where: str, kind: str, *options: str, source: str | None = None) -> dict[str, Any]:
    return {"destination": where, "type": kind, "source": source or kind, "options": list(options)}


def config(root: str, argv: list[str], cgroup: str, seccomp: dict[str, Any]) -> dict[str, Any]:
    """A config.json for crun and runc: ROOT is a ready, writable root filesystem, CGROUP the absolute
    path of the container's group."""
    safe = ("nosuid", "noexec", "nodev")
    return {
        "ociVersion": "1.0.2",
        "process": {
            "terminal": False, "user": {"uid": 0, "gid": 0}, "args": argv, "cwd": "/",
            "env": [f"PATH={PATH}"],
            "capabilities": {kind: list(policy.CAPS) for kind in ("bounding", "effective", "permitted")},
            "noNewPrivileges": True,
        },
        "root": {"path": root, "readonly": False},
        "hostname": "bench",
        "mounts": [
            _mount("/proc", "proc", *safe),
            _mount("/dev", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
            _mount("/dev/pts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620",
                   "gid=5"),
            _mount("/dev/shm", "tmpfs", *safe, "mode=1777", "size=65536k", source="shm"),
            _mount("/dev/mqueue", "mqueue", *safe),
            _mount("/sys", "sysfs", *safe, "ro"),
        ],
        "linux": {
            "namespaces": [{"type": kind} for kind in ("pid", "mount", "network", "ipc", "uts", "cgroup")],
            "resources": {
                "devices": [{"allow": False, "access": "rwm"}],
                "memory": {"limit": MEMORY},
                "cpu": {"quota": CPUS * CPU_PERIOD, "period": CPU_PERIOD},
                "pids": {"limit": PIDS},
            },
            "cgroupsPath": cgroup,
            "maskedPaths": list(MASKED), "readonlyPaths": list(READONLY),
            "seccomp": seccomp,
        },
    }


def make_bundles(folder: str, count: int, root: str, argv: list[str], cgroup: str,
                 seccomp: dict[str, Any]) -> None:
    """Make bundles FOLDER0 to FOLDER<count-1>, each with a group of its own below CGROUP."""
    for number in range(count):
        os.mkdir(f"{folder}{number}")
        with open(f"{folder}{number}/config.json", "w", encoding="utf-8") as file:
            json.dump(config(root, argv, f"{cgroup}/c{number}", seccomp), file)


def bwrap(root: str, argv: list[str], seccomp_fd: int, user_namespace: bool = False) -> list[str]:
    """bubblewrap's arguments for as much of the same isolation as it can do. It has no control groups, and
    version 0.8 no overlay; masks and read-only paths are asked for by mounts. (Its --proc makes some of
    them read-only by itself, but not for root: access(2) tells it that they are already.)"""
    options = ["--unshare-all"] if user_namespace else [
        "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup"]
    options += ["--hostname", "bench", "--bind", root, "/", "--dev", "/dev", "--mqueue", "/dev/mqueue",
                "--proc", "/proc", "--ro-bind", "/sys", "/sys"]
    for path in MASKED:
        if os.path.isdir(path):
            options += ["--tmpfs", path, "--remount-ro", path]
        elif os.path.exists(path):
            options += ["--ro-bind", "/dev/null", path]
    for path in READONLY:
        if os.path.exists(path):
            options += ["--ro-bind", path, path]
    options += ["--cap-drop", "ALL"]
    for cap in policy.CAPS:
        options += ["--cap-add", cap]
    return [*options, "--new-session", "--as-pid-1", "--clearenv", "--setenv", "PATH", PATH,
            "--seccomp", str(seccomp_fd), "--", *argv]
