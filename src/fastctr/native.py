"""A spec as the plain values of struct fctr_spec (csrc/fctr.h), and its default environment."""

from __future__ import annotations

import os

from . import hostroot, mounts, process, rights, roots
from .devices import DEFAULT_RULES
from .namespaces import HOST, KINDS, NEW

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .spec import Spec

UNSET = -(2**63)
INT_MIN = -(2**31)
ROOT_NONE, ROOT_DIR, ROOT_OVERLAY = range(3)
DEFAULT_HOSTNAME = "fastctr"
STANDARD = frozenset("/dev/" + name for name in ("null", "zero", "full", "random", "urandom", "tty", "ptmx"))
CAP_SETS = ("bounding", "effective", "permitted", "inheritable", "ambient")


def to_native(spec: Spec) -> dict[str, Any]:
    """Keys are the members' names; see csrc/fctr.h for their meaning."""
    own_mounts = spec.mnt == NEW
    caps = capabilities(spec)
    user, uid, gid = spec.user
    native: dict[str, Any] = {
        **_root(spec),
        "ns": {kind[0]: _namespace(getattr(spec, field)) for field, kind in KINDS.items()},
        "uid_map": list(spec.uid_map),
        "gid_map": list(spec.gid_map),
        "monotonic_ns": UNSET if spec.monotonic is None else spec.monotonic,
        "boottime_ns": UNSET if spec.boottime is None else spec.boottime,
        "hostname": hostname(spec),
        "domainname": spec.domainname,
        "mounts": [],
        "dev": False,
        "shm_size": 0,
        "devices": [],
        "masked": [],
        "readonly": [],
        "sysctl": list(spec.sysctls),
        "caps": caps,
        "no_new_privs": spec.no_new_privs,
        "seccomp": None,
        "seccomp_flags": 0,
        "apparmor": spec.apparmor,
        "selinux": spec.selinux,
        "rlimits": list(spec.ulimits),
        "oom_score_adj": INT_MIN if spec.oom_score_adj is None else spec.oom_score_adj,
        "nice": INT_MIN if spec.nice is None else spec.nice,
        "affinity": process.affinity_bytes(spec.cpu_affinity) if spec.cpu_affinity else None,
        "umask": -1 if spec.umask is None else spec.umask,
        "uid": uid,
        "gid": gid,
        "user": user,
        "groups": list(spec.groups if spec.groups is not None else spec.group_add),
        "groups_given": spec.groups is not None,
        "cwd": spec.cwd,
        "cwd_create": spec.cwd_create,
        "init": spec.init,
        "cgroup": spec.cgroup,
        "cgroup_parent": spec.cgroup_parent,
        "limits": spec.limits.to_native(),
        "devrules": _devrules(spec),
    }
    if spec.groups is not None:
        native["groups"] = list(dict.fromkeys((*spec.groups, *spec.group_add)))
    if spec.seccomp != "unconfined":
        native["seccomp"], native["seccomp_flags"] = seccomp(spec, caps)
    if own_mounts:
        native.update(_mounts(spec))
        _root_by_targets(native)
    return native


def _namespace(value: tuple[Any, ...]) -> tuple[str, Any]:
    return value[0], value[1]


def hostname(spec: Spec) -> str | None:
    """The name in an own uts namespace: never the machine's unless it is asked for."""
    return (spec.hostname or DEFAULT_HOSTNAME) if spec.uts == NEW else None


def _root(spec: Spec) -> dict[str, Any]:
    native: dict[str, Any] = {
        "rootfs_kind": ROOT_NONE,
        "rootfs": None,
        "lower": [],
        "lower_fixed": False,
        "upper": None,
        "work": None,
        "scratch": None,
        "scratch_size": -1,
        "rootfs_readonly": False,
        "rootfs_propagation": 0,
    }
    if spec.mnt != NEW:
        return native
    lower = ["/"] if spec.rootfs == "host" else list(spec.rootfs)
    if spec.rootfs == "host" and not rights.machine_root():
        lower = []  # an empty tmpfs, filled with binds: see hostroot.py
    one = len(lower) == 1 and spec.rootfs != "host" and not lower[0].startswith(roots.EROFS)
    if one and (spec.read_only or spec.writable == "direct"):
        native.update(rootfs_kind=ROOT_DIR, rootfs=lower[0], rootfs_readonly=spec.read_only)
        return native
    native.update(rootfs_kind=ROOT_OVERLAY, lower=lower, rootfs_readonly=spec.read_only)
    native["lower_fixed"] = spec.rootfs != "host" and bool(lower) and roots.fixed(spec.rootfs)
    if spec.upper is not None:
        native.update(upper=spec.upper, work=spec.upper + ".work")
    elif spec.writable == "disk":
        native["scratch"] = spec.scratch_dir
    elif not spec.read_only and spec.scratch_size is not None:
        native["scratch_size"] = spec.scratch_size
    return native


def _root_by_targets(native: dict[str, Any]) -> None:
    """A single read-only directory needs no overlay, unless something would have to be made in it."""
    if native["rootfs_kind"] != ROOT_DIR or not native["rootfs_readonly"]:
        return
    root = native["rootfs"]
    wanted = [mount["target"] for mount in native["mounts"] if not mount["target"].startswith("/dev/")]
    wanted += ["/dev"] if native["dev"] else []
    wanted += [native["cwd"]] if native["cwd"] and native["cwd_create"] else []
    if any(mount["kind"] == mounts.SYMLINK for mount in native["mounts"]) or not all(
        os.path.lexists(root + target) for target in wanted
    ):
        native.update(rootfs_kind=ROOT_OVERLAY, rootfs=None, lower=[root])


def _mounts(spec: Spec) -> dict[str, Any]:
    """Everything that goes into the container's mount namespace."""
    own = [*spec.tmpfs, *spec.mounts, *spec.volumes]
    taken = {mount.target for mount in own}
    found: list[mounts.Mount] = []
    if spec.rootfs == "host":
        found += _host_binds(spec)
        found += [
            mounts.Tmpfs(path, mode=mode)
            for path, mode in hostroot.OWN_TMPFS
            if path not in taken and os.path.isdir(path) and not os.path.islink(path)
        ]
    in_userns = spec.userns != HOST
    proc, sys = spec.proc and "/proc" not in taken, spec.sys and "/sys" not in taken
    dev = spec.dev and "/dev" not in taken
    if proc:  # the kernel gives a new procfs only for a pid namespace that one owns
        found.append(
            mounts.Bind("/proc", "/proc", nodev=True, noexec=True)
            if in_userns and spec.pid != NEW
            else mounts.Proc()
        )
    if sys:
        found.append(mounts.Sysfs())
    shm_size = spec.shm_size if dev and "/dev/shm" not in taken else 0
    if dev and spec.ipc == HOST:  # as Docker does: the host's ipc namespace comes with its shared memory
        for path in ("/dev/shm", "/dev/mqueue"):
            wanted = shm_size if path == "/dev/shm" else spec.mqueue
            if path not in taken and wanted and os.path.ismount(path):
                found.append(mounts.Bind(path, path, nodev=True, noexec=True))
                shm_size = 0 if path == "/dev/shm" else shm_size
    elif dev and spec.mqueue and "/dev/mqueue" not in taken:
        found.append(mounts.Mqueue())
    if in_userns:  # no nodes can be made there: the machine's are bound
        found += [
            mounts.Bind(here, device[0]) for device, _, here in spec.devices if device[0] not in STANDARD
        ]
    found += sorted(own, key=lambda mount: mount.target.count("/"))
    found += spec.files
    there = [top for top, is_there in (("/proc/", spec.proc), ("/sys/", spec.sys)) if is_there]

    def covered(paths: tuple[str, ...]) -> list[str]:
        return [
            path
            for path in paths
            if not path.startswith(("/proc/", "/sys/")) or path.startswith(tuple(there))
        ]

    return {
        "mounts": [native for mount in found for native in _expanded(mount)],
        "dev": dev,
        "shm_size": shm_size,
        "devices": []
        if in_userns
        else [device for device, _, _ in spec.devices if device[0] not in STANDARD],
        "masked": covered(spec.masked_paths),
        "readonly": covered(spec.readonly_paths),
    }


def _expanded(mount: mounts.Mount) -> list[dict[str, Any]]:
    """A mount as the core takes it. With v1 hierarchies /sys/fs/cgroup is a tmpfs of one mount each."""
    native = mount.to_native()
    if native["kind"] != mounts.CGROUP:
        return [native]
    with open("/proc/self/cgroup") as file:
        v1 = [line.split(":", 2)[1] for line in file]
    v1 = [names for names in v1 if names and not names.startswith("name=")]
    if not v1:
        return [native]
    top = native["target"]
    found = [mounts.Tmpfs(top, size=65536, mode=0o755).to_native()]
    found += [{**native, "source": names, "target": f"{top}/{names}"} for names in v1]
    if any(entry.fstype == "cgroup2" for entry in hostroot.read_mountinfo()):
        found.append({**native, "target": f"{top}/unified"})
    return found


def _host_binds(spec: Spec) -> list[mounts.Mount]:
    """What of this machine's root has to be bound, beside or in place of the overlay."""
    found: list[mounts.Mount] = []
    if not rights.machine_root():
        for path, text in hostroot.top_entries():
            found.append(
                mounts.Symlink(path, text) if text is not None else mounts.Bind(path, path, read_only=True)
            )
    else:
        in_userns = spec.userns != HOST
        seen: list[str] = []
        for point in hostroot.submounts(hostroot.read_mountinfo()):
            if in_userns:  # mounts cannot be taken apart there: the topmost, with all below it
                if any(point.startswith(top + "/") for top in seen):
                    continue
                seen.append(point)
            found.append(
                mounts.Bind(point, point, read_only=True, recursive=in_userns, create=False, optional=True)
            )
    if spec.network == HOST:  # /etc/resolv.conf often leads into /run, which is the container's own
        resolv = os.path.realpath("/etc/resolv.conf")
        if resolv.startswith("/run/") and os.path.isfile(resolv):
            found.append(mounts.Bind(resolv, resolv, read_only=True, optional=True))
    return found


def _devrules(spec: Spec) -> list[tuple[bool, str, int, int, int]]:
    if not spec.cgroup or not spec.device_policy:
        return []
    if not rights.machine_root() and not spec.device_cgroup_rules:
        return []  # an unprivileged user cannot make nodes, nor load the rules' program
    given = [(True, device[1], device[2], device[3], bits) for device, bits, _ in spec.devices]
    return [*DEFAULT_RULES, *given, *spec.device_cgroup_rules]


def capabilities(spec: Spec) -> list[int]:
    """The five sets in the order of enum fctr_capset. For a user other than root the kernel clears
    effective and permitted when the uid changes (capabilities(7))."""
    from . import caps

    grant = caps.known() if spec.userns != HOST else None
    mask = caps.resolve(spec.cap_add, spec.cap_drop, grant=grant)
    if not (spec.cgroup and spec.device_policy) and "CAP_MKNOD" not in spec.cap_add and "ALL" not in spec.cap_add:
        # nothing would keep a node of the machine's disk from being opened
        mask &= ~(1 << caps.BITS["CAP_MKNOD"])
    sets = dict.fromkeys(CAP_SETS, mask)
    sets["inheritable"] = sets["ambient"] = 0
    given = dict(spec.capabilities)
    if "bounding" in given:
        sets["effective"] = sets["permitted"] = given["bounding"]
    sets.update(given)
    return [sets[name] for name in CAP_SETS]


def seccomp(spec: Spec, caps: list[int]) -> tuple[bytes, int]:
    """The compiled filter, an array of struct sock_filter, and the flags to load it with."""
    from . import seccomp as policies

    if spec.seccomp == "default":
        return policies.compile("default", caps[0]), policies.SPEC_ALLOW
    import json

    profile = policies.load_profile(json.loads(spec.seccomp), caps[0])
    return policies.compile(profile, caps[0]), profile.flags


def base_environment(spec: Spec) -> dict[str, str]:
    """PATH, HOME and HOSTNAME unless clean_env, and over them the spec's env."""
    base: dict[str, str] = {}
    if not spec.clean_env:
        name, uid, _ = spec.user
        places = ("/",) if spec.rootfs == "host" else [roots.readable(root) for root in spec.rootfs]
        base["PATH"] = process.DEFAULT_PATH
        host = hostname(spec)
        if host is not None:
            base["HOSTNAME"] = host
        if "HOME" not in spec.env:
            base["HOME"] = process.home(places, name, uid)
    base.update(spec.env)
    return base
