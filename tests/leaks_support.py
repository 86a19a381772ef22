"""What a test may not leave behind: a snapshot before and after, compared exactly.

Other people work on the same machine, so each part is narrowed to what this process and the
processes it started could have made: processes by descent and by control group, groups and locks by
the tag of our private runtime directory, mounts in a mount namespace of our own.
"""

from __future__ import annotations

import ctypes
import os
import sys
import shutil
import subprocess

MS_REC, MS_PRIVATE, MS_SHARED = 0x4000, 1 << 18, 1 << 20
CLONE_NEWNS = 0x20000
_libc = ctypes.CDLL(None, use_errno=True)


def own_mount_namespace() -> bool:
    """A mount namespace for the whole session: then /proc/self/mountinfo is ours alone and can be
    compared line by line. Shared again afterwards, as systemd leaves "/": what propagates, shows."""
    if os.geteuid() != 0 or _libc.unshare(CLONE_NEWNS) != 0:
        return False
    for how in (MS_PRIVATE, MS_SHARED):
        if _libc.mount(b"none", b"/", None, MS_REC | how, None) != 0:
            return False
    return True


def runtime_tag(runtime_dir: str) -> str:
    """The end of the names of all owners that use this runtime directory (csrc/ctx.c)."""
    found = os.stat(runtime_dir)
    return f"-{found.st_dev:x}.{found.st_ino:x}"


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def cgroup_mounts() -> list[str]:
    found = []
    for line in _read("/proc/self/mountinfo").splitlines():
        left, _, right = line.partition(" - ")
        if right.startswith(("cgroup ", "cgroup2 ")):
            found.append(left.split()[4])
    return found


def _tracker() -> tuple[int, int]:
    """pid and descriptor of multiprocessing's tracker: it comes with the first process by spawn, and stays."""
    module = sys.modules.get("multiprocessing.resource_tracker")
    made = getattr(module, "_resource_tracker", None)
    return (getattr(made, "_pid", None) or -1, -1 if getattr(made, "_fd", None) is None else made._fd)


def processes(tag: str) -> dict[int, str]:
    """pid -> what it is: our descendants, also zombies, and whoever sits in a group of ours."""
    parents: dict[int, int] = {}
    text: dict[int, str] = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        stat = _read(f"/proc/{name}/stat")
        if not stat:
            continue
        comm, _, rest = stat.partition("(")[2].rpartition(")")
        state, parent = rest.split()[:2]
        parents[int(name)] = int(parent)
        alive = "S" if state in "RDI" else state  # a server of the tests runs or sleeps as it likes
        text[int(name)] = f"{comm} state={alive} parent={parent}"
    me = os.getpid()
    found = {}
    for pid in parents:
        at, seen = pid, 0
        while at not in (0, me) and seen < 100:
            at, seen = parents.get(at, 0), seen + 1
        if pid == _tracker()[0]:
            continue
        if (at == me and pid != me) or tag + "/" in _read(f"/proc/{pid}/cgroup"):
            found[pid] = text[pid]
    return found


def groups(tag: str) -> set[str]:
    """Every directory of an owner of ours, below whichever parent, in every hierarchy."""
    found = set()
    for mount in cgroup_mounts():
        todo = [(mount, 0)]
        while todo:
            path, depth = todo.pop()
            try:
                with os.scandir(path) as entries:
                    dirs = [e.name for e in entries if e.is_dir(follow_symlinks=False)]
            except OSError:
                continue
            for name in dirs:
                below = f"{path}/{name}"
                if name.endswith(tag) or tag + "/" in path + "/":
                    found.add(below)
                if depth < 5:
                    todo.append((below, depth + 1))
    return found


def descriptors() -> dict[int, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue  # the listing's own
        if int(name) != _tracker()[1]:
            found[int(name)] = target
    return found


def _mounts() -> set[str]:
    """mountinfo without the numbers, which change when something is unmounted and mounted again."""
    found = set()
    for line in _read("/proc/self/mountinfo").splitlines():
        left, _, right = line.partition(" - ")
        found.add(" ".join(left.split()[3:5]) + " - " + right)
    return found


def _scratch() -> set[str]:
    """Directories of this process's own in the usual places, which others use too."""
    found = set()
    for place in ("/tmp", "/var/tmp", "/run", "/dev/shm"):
        try:
            names = os.listdir(place)
        except OSError:
            continue
        found.update(f"{place}/{n}" for n in names if n.startswith(f"fastctr-{os.getpid()}-"))
    return found


def _links() -> set[str]:
    others = ("veth", "podman", "cni", "docker", "br-", "tap", "vnet")
    try:
        return {n for n in os.listdir("/sys/class/net") if not n.startswith(others)}
    except OSError:
        return set()


def _named_networks() -> set[str]:
    try:
        return {n for n in os.listdir("/run/netns") if "fastctr" in n or "fctr" in n}
    except OSError:
        return set()


def _tables() -> set[str]:
    nft = shutil.which("nft")
    if nft is None or os.geteuid() != 0:
        return set()
    done = subprocess.run([nft, "list", "tables"], capture_output=True, text=True, check=False)
    return {line for line in done.stdout.splitlines() if "fastctr" in line or "fctr" in line}


def _self() -> dict[str, str]:
    """What a good guest leaves alone in the process it lives in."""
    found = {f"ns/{n}": os.readlink(f"/proc/self/ns/{n}") for n in os.listdir("/proc/self/ns")}
    found["cwd"] = os.getcwd()
    found["root"] = os.readlink("/proc/self/root")
    found["oom_score_adj"] = _read("/proc/self/oom_score_adj").strip()
    found["cgroup"] = _read("/proc/self/cgroup")
    found["dumpable"] = str(_libc.prctl(3, 0, 0, 0, 0))
    keep = ("Umask", "SigBlk", "SigIgn", "SigCgt", "CapEff", "CapBnd", "NoNewPrivs", "Seccomp", "Uid", "Gid", "Groups")
    for line in _read("/proc/self/status").splitlines():
        name, _, value = line.partition(":")
        if name.startswith("Sig") and name in keep:  # 32 and 33 are libc's own, SIGALRM is pytest-timeout's
            found[name] = f"{int(value, 16) & ~(3 << 31 | 1 << 13):x}"
        elif name in keep:
            found[name] = value.strip()
    return found


class Snapshot:
    """Taken when no context is open."""

    def __init__(self, runtime_dir: str, mounts: bool) -> None:
        tag = runtime_tag(runtime_dir)
        self.parts: dict[str, object] = {
            "descriptors of this process": descriptors(),
            "processes": processes(tag),
            "mounts": _mounts() if mounts else set(),
            "control groups": groups(tag),
            "network links": _links(),
            "named network namespaces": _named_networks(),
            "nftables": _tables(),
            "files in the runtime directory": set(os.listdir(runtime_dir)),
            "scratch directories": _scratch(),
            "threads": {_read(f"/proc/self/task/{t}/comm").strip() for t in os.listdir("/proc/self/task")} & {"fastctr"},
            "this process itself": _self(),
        }

    def difference(self, after: Snapshot) -> str:
        """"" if nothing changed, else one line for each thing more (+), less (-) or other (~)."""
        lines = []
        for title, old in self.parts.items():
            new = after.parts[title]
            if old == new:
                continue
            lines.append(f"{title}:")
            if isinstance(old, dict) and isinstance(new, dict):
                for key in sorted({*old, *new}, key=str):
                    if key not in old:
                        lines.append(f"  + {key}: {new[key]}")
                    elif key not in new:
                        lines.append(f"  - {key}: {old[key]}")
                    elif old[key] != new[key]:
                        lines.append(f"  ~ {key}: {old[key]} -> {new[key]}")
            elif isinstance(old, set) and isinstance(new, set):
                lines += [f"  + {item}" for item in sorted(new - old)] + [f"  - {item}" for item in sorted(old - new)]
        return "\n".join(lines)
