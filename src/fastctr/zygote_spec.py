"""The two specs of a zygote: that of its jobs' containers, and that of its own."""

from __future__ import annotations

import os

from . import rights
from .errors import SpecError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .spec import Spec

NEEDS = ("SYS_ADMIN", "SYS_CHROOT", "SETPCAP", "SETUID", "SETGID", "DAC_OVERRIDE")
OTHERWISE = ("user", "groups", "group_add", "cap_add", "cap_drop", "capabilities", "seccomp", "ulimits", "cwd", "env",
             "clean_env")  # fields that the zygote has in a way of its own
CALLS = "setns unshare fsopen fsconfig fsmount fspick move_mount open_tree mount_setattr mount umount2 pivot_root"


def job_spec(spec: Spec) -> Spec:
    """The spec of a zygote's jobs: in a user namespace of its own. Raises SpecError for what cannot go with it."""
    from .namespaces import HOST, NEW

    clock = "a fork stays in its time namespace"
    for field, hint in (("init", "a job that needs one can start it"), ("upper", "changes of a job are thrown away"),
                        ("monotonic", clock), ("boottime", clock)):
        if getattr(spec, field):
            raise SpecError(field, getattr(spec, field), "cannot go with a zygote", hint)
    for field in ("mnt", "pid"):
        if getattr(spec, field) != NEW:
            raise SpecError(field, spec._given.get(field), "cannot go with a zygote", "its jobs have their own")
    if spec.timens != HOST:
        raise SpecError("timens", spec._given.get("timens"), "cannot go with a zygote", clock)
    if spec.writable == "direct":
        raise SpecError("writable", "direct", "cannot go with a zygote", "its jobs would write to one directory")
    if not spec.proc:
        raise SpecError("proc", False, "cannot go with a zygote", "the interpreter needs /proc")
    if spec.userns == NEW:
        return spec
    if spec.userns != HOST:
        raise SpecError("userns", spec._given.get("userns"), "cannot be joined by a zygote", "it has one of its own")
    # as root of the machine: a block of ids that nobody has, where container managers look for them
    block = 8 + int.from_bytes(os.urandom(2), "little") % 28000
    ids = [(0, block << 16, 1 << 16)]
    if not rights.machine_root():
        return spec.replace(userns=True)
    return spec.replace(userns=True, uid_map=ids, gid_map=ids, volumes=None,
                        mounts=[_owned(mount, ids) for mount in (*spec.mounts, *spec.volumes)])


def _owned(mount: Any, ids: list[tuple[int, int, int]]) -> Any:
    """A bind that shows its owners inside as they are here, as the root does."""
    from .mounts import BIND, _restore

    if mount.kind != BIND or mount.native["idmap"] is not None:
        return mount
    return _restore(type(mount), {**mount.native, "idmap": tuple(ids)})


def zygote_spec(spec: Spec, limits: Any) -> Spec:
    """The spec of the zygote itself: the jobs' root and mounts, and rights over its user namespace to put
    children into theirs."""
    from . import caps, native, seccomp_default
    from .namespaces import mapped
    from .spec import LIMITS

    mask = caps.to_mask(NEEDS)
    for held in native.capabilities(spec):
        mask |= held
    if not rights.machine_root():
        mask &= caps.known()
    names = [name for name, bit in caps.BITS.items() if mask >> bit & 1]
    given = {name: value for name, value in spec._given.items() if name not in LIMITS and name not in OTHERWISE}
    if limits is None:
        limits = {name: value for name, value in spec._given.items() if name.startswith("mem")}
    calls = f"{seccomp_default.ALWAYS} {seccomp_default.BY_MACHINE[os.uname().machine]} chroot {CALLS}".split()
    profile = {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
        {"names": calls, "action": "SCMP_ACT_ALLOW"},
        {"names": ["socket"], "action": "SCMP_ACT_ALLOW",
         "args": [{"index": 0, "op": "SCMP_CMP_NE", "value": seccomp_default.AF_VSOCK}]},
        {"names": ["clone"], "action": "SCMP_ACT_ALLOW",
         "args": [{"index": 0, "op": "SCMP_CMP_MASKED_EQ", "value": seccomp_default.CLONE_NAMESPACES, "valueTwo": 0}]},
        {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
        {"names": ["personality"], "action": "SCMP_ACT_ALLOW"},
    ]}
    uid, gid = (0 if mapped(ids, 0) else ids[0][0] for ids in (spec.uid_map, spec.gid_map))
    return type(spec)(**{**given, **limits}, user=(uid, gid), seccomp=profile, env=spec.env, clean_env=spec.clean_env,
                      capabilities=dict.fromkeys(native.CAP_SETS, names))
