"""The machine in words, and whether it can run the benchmarks."""
from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Sequence


def _field(path: str, name: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            key, _, value = line.partition(":")
            if key.strip() == name:
                return value.strip()
    return ""


def cgroup_mode() -> str:
    """How control groups are mounted here."""
    if os.path.exists("/sys/fs/cgroup/cgroup.controllers"):
        return "cgroup v2"
    if os.path.exists("/sys/fs/cgroup/unified/cgroup.controllers"):
        return "cgroup v1 with a v2 hierarchy beside it (hybrid)"
    return "cgroup v1" if os.path.isdir("/sys/fs/cgroup/memory") else "no control groups"


def _version(program: str) -> str:
    path = shutil.which(program)
    if not path:
        return f"{program} is not installed"
    done = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
    found = re.search(r"\d+\.\d+[.\d]*", done.stdout)
    return f"{program} {found[0] if found else '?'}"


def _system() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
    except OSError:
        return "Linux"


def describe(peers: Sequence[str] = ("crun", "runc", "bwrap")) -> dict[str, str]:
    """What the figures were measured on."""
    kernel = re.match(r"\d+\.\d+(\.\d+)?", platform.release())
    memory = int(_field("/proc/meminfo", "MemTotal").split()[0]) / (1 << 20)
    virtual = "hypervisor" in _field("/proc/cpuinfo", "flags").split()
    return {
        "processor": f"{os.cpu_count()} cores, {_field('/proc/cpuinfo', 'model name') or platform.machine()}"
                     f"{', in a virtual machine' if virtual else ''}",
        "memory": f"{memory:.0f} GB",
        "system": f"{_system()}, kernel {kernel[0] if kernel else platform.release()}, {cgroup_mode()}",
        "python": platform.python_version(),
        "peers": ", ".join(_version(program) for program in peers),
        "load before the run": f"{os.getloadavg()[0]:.2f}",
    }


def complaint() -> str:
    """Why the benchmarks cannot run here, or an empty string."""
    if os.geteuid() != 0:
        return "the benchmarks need root: crun, runc and the reference make namespaces, mounts and groups"
    if not os.path.isdir("/sys/fs/cgroup"):
        return "/sys/fs/cgroup is not mounted: limits are part of what is measured"
    return ""
