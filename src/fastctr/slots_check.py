"""Which specs a container may serve one job after another of (`fastctr.Slots`), and which not."""

from __future__ import annotations

from . import mounts
from .errors import SpecError
from .namespaces import HOST, KINDS, NEW

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .plan import Plan
    from .spec import Spec

_POWERS = frozenset(
    "CAP_" + name
    for name in ("SYS_ADMIN", "NET_ADMIN", "SYS_TIME", "SYS_MODULE", "SYS_RAWIO", "SYS_BOOT", "BPF", "PERFMON",
                 "MAC_ADMIN", "MAC_OVERRIDE", "CHECKPOINT_RESTORE")
)  # fmt: skip
"""With one of these a job could change what is kept between jobs and not looked at, or the clock that
changes of files are told by."""
_LASTING = frozenset(("keyctl", "add_key", "request_key", "io_uring_setup", "bpf", "perf_event_open"))
"""Calls that leave something of the job in the kernel when its processes are gone."""
_OTHER = "use Pool, whose containers are used once"


def check(plan: Plan) -> None:
    """Raise SpecError, naming the field, for a plan whose containers cannot be told to be clean again."""
    spec = plan.spec
    if plan.copies:
        raise SpecError("snapshotter", "vfs", "gives each container files of its own on disk", _OTHER)
    for field, kind in KINDS.items():
        if kind[3] and getattr(spec, field) != NEW:
            raise SpecError(field, _given(spec, field), "is shared with others: what a job leaves there stays", _OTHER)
    for field in ("userns", "timens"):
        if getattr(spec, field) != HOST:
            raise SpecError(field, _given(spec, field), "cannot be kept from one job to the next", _OTHER)
    if spec.upper is not None:
        raise SpecError("upper", spec.upper, "keeps what each job writes", _OTHER)
    if spec.writable != "tmpfs":
        raise SpecError("writable", spec.writable, "cannot be checked between jobs", 'use "tmpfs"')
    if spec.init:
        raise SpecError("init", True, "is not for slots: all of a job ends with its first process", "leave it out")
    if not spec.cgroup:
        raise SpecError("cgroup", False, "leaves no group to tell a job's figures and its end by", "leave it out")
    _rights(spec)
    _mounts(spec)


def _given(spec: Spec, field: str) -> Any:
    return spec._given.get(field, "private")


def _rights(spec: Spec) -> None:
    from . import caps, native

    held = 0
    for mask in native.capabilities(spec):
        held |= mask
    for name in sorted(_POWERS):
        if held & 1 << caps.BITS[name] & caps.known():
            where = "capabilities" if spec.capabilities else "cap_add"
            raise SpecError(where, name, "lets a job change what is kept between jobs", _OTHER)
    if spec.seccomp == "default":
        return
    if spec.seccomp == "unconfined":
        raise SpecError("seccomp", "unconfined", "lets a job leave keys and more in the kernel", _OTHER)
    import json

    from . import seccomp

    profile = seccomp.load_profile(json.loads(spec.seccomp), native.capabilities(spec)[0])
    allowing = (seccomp.ALLOW, 6)  # 6: SCMP_ACT_LOG, which allows too
    named = {name for names, action, *_ in profile.rules for name in names if action in allowing}
    kept = _LASTING if profile.default_action in allowing else _LASTING & named
    if profile.default_action in allowing:
        kept = kept - {name for names, action, *rest in profile.rules for name in names
                       if action not in allowing and not rest[-1]}
    if kept:
        raise SpecError("seccomp", "profile",
                        f"lets a job call {sorted(kept)[0]}, which leaves something in the kernel", _OTHER)


def _mounts(spec: Spec) -> None:
    covered = any(path in ("/proc", "/proc/sys") for path in spec.readonly_paths)
    if spec.proc and not covered:
        raise SpecError("readonly_paths", list(spec.readonly_paths),
                        "leaves out /proc/sys: sysctls of a job would stay", 'add "/proc/sys"')
    for mount in (*spec.tmpfs, *spec.mounts, *spec.volumes):
        where = mount.target
        if mount.kind == mounts.PROC and where != "/proc":
            raise SpecError("mounts", where, "is a second procfs, which cannot be each job's own", "leave it out")
        if mount.kind in (mounts.SYSFS, mounts.CGROUP) and not mount.to_native()["attr_set"] & mounts.RDONLY:
            raise SpecError("mounts", where, "can be written, and what a job changes there stays", "make it read-only")
