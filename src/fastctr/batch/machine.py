"""What this machine has for jobs: memory, processes and cpus, as the control groups around us allow.

See cgroup-v2.rst and cgroup-v1/memory.rst of the kernel, proc(5), sched_setaffinity(2).
"""

from __future__ import annotations

import os

from ..process import have_capability

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

NONE = 1 << 62
"""More than any limit: v1 writes about 2**63 for none."""
_CAP_SYS_ADMIN, _CAP_SYS_RESOURCE = 21, 24


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def _number(path: str) -> int | None:
    """The file's number; None without one or for "max"."""
    text = _read(path).strip()
    if not text.isdigit():
        return None
    value = int(text)
    return value if value < NONE else None


def _groups(controller: str) -> Iterator[tuple[str, bool]]:
    """(directory, whether it is v2) of our control group and those above it, as far as they can be seen."""
    mounts: dict[str, tuple[str, str]] = {}
    for line in _read("/proc/self/mountinfo").splitlines():
        left, _, right = line.partition(" - ")
        fields, more = left.split(), right.split()
        if more[0] == "cgroup2":
            mounts.setdefault("", (fields[3], fields[4]))
        elif more[0] == "cgroup" and controller in more[2].split(","):
            mounts.setdefault(controller, (fields[3], fields[4]))
    for line in _read("/proc/self/cgroup").splitlines():
        _, names, path = line.split(":", 2)
        kind = controller if controller in names.split(",") else "" if not names else None
        if kind is None or kind not in mounts:
            continue
        root, where = mounts[kind]
        inner = path[len(root) :] if root != "/" and path.startswith(root) else path if root == "/" else ""
        parts = [part for part in inner.split("/") if part and part != ".."]
        for depth in range(len(parts), -1, -1):
            yield os.path.join(where, *parts[:depth]), kind == ""


def memory() -> tuple[int, int]:
    """(bytes there are in all, bytes that could be used now)."""
    total = available = NONE
    for line in _read("/proc/meminfo").splitlines():
        if line.startswith("MemTotal:"):
            total = int(line.split()[1]) * 1024
        elif line.startswith("MemAvailable:"):
            available = int(line.split()[1]) * 1024
    for path, v2 in _groups("memory"):
        limit = _number(f"{path}/memory.max" if v2 else f"{path}/memory.limit_in_bytes")
        if limit is None:
            continue
        used = _number(f"{path}/memory.current" if v2 else f"{path}/memory.usage_in_bytes") or 0
        cache = 0
        for line in _read(f"{path}/memory.stat").splitlines():
            if line.startswith("inactive_file " if v2 else "total_inactive_file "):
                cache = int(line.split()[1])  # given back before anybody is killed
        total = min(total, limit)
        available = min(available, max(limit - used + cache, 0))
    return total, min(available, total)


def processes() -> tuple[int, int]:
    """(processes and threads there may be in all, how many more there could be now)."""
    kernel = min(_number("/proc/sys/kernel/pid_max") or 32768, _number("/proc/sys/kernel/threads-max") or NONE)
    total = free = kernel
    running = _read("/proc/loadavg").split()
    if len(running) > 3 and "/" in running[3]:
        free -= int(running[3].partition("/")[2])
    for path, _ in _groups("pids"):
        limit = _number(f"{path}/pids.max")
        if limit is not None:
            total = min(total, limit)
            free = min(free, limit - (_number(f"{path}/pids.current") or 0))
    if not (have_capability(_CAP_SYS_ADMIN) or have_capability(_CAP_SYS_RESOURCE)) or os.geteuid() != 0:
        import resource

        soft = resource.getrlimit(resource.RLIMIT_NPROC)[0]
        if soft != resource.RLIM_INFINITY:
            total = min(total, soft)
            free = min(free, soft - _own_threads())
    return total, max(free, 0)


def _own_threads() -> int:
    """Threads of this user, which RLIMIT_NPROC counts."""
    found, uid = 0, os.getuid()
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            if os.stat(f"/proc/{name}").st_uid == uid:
                found += len(os.listdir(f"/proc/{name}/task"))
        except OSError:
            continue  # it has just ended
    return found


def cpus() -> int:
    """Cpus that can be used: by affinity and the quotas of control groups, at least 1."""
    count = float(len(os.sched_getaffinity(0)))
    for path, v2 in _groups("cpu"):
        if v2:
            quota, _, period = _read(f"{path}/cpu.max").strip().partition(" ")
        else:
            quota, period = _read(f"{path}/cpu.cfs_quota_us").strip(), _read(f"{path}/cpu.cfs_period_us").strip()
        if quota.isdigit() and period.isdigit() and int(period):
            count = min(count, int(quota) / int(period))
    return max(int(count + 0.999), 1)
