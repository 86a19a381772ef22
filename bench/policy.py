"""Docker's default seccomp policy, resolved for this machine once and given to every side alike."""
from __future__ import annotations

import importlib
import json
import os
import platform
import sys
from typing import Any

from .worker import SOURCE

CAPS = ("CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID",
        "CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL",
        "CAP_AUDIT_WRITE")
SYSTEM_PROFILES = ("/usr/share/containers/seccomp.json", "/etc/containers/seccomp.json")
ARCHES = {"x86_64": ("amd64", "SCMP_ARCH_X86_64"), "aarch64": ("arm64", "SCMP_ARCH_AARCH64")}


class NoProfile(RuntimeError):
    """No seccomp profile was found on this machine."""


def machine_arch() -> tuple[str, str]:
    """This machine's architecture in Docker's and in libseccomp's words."""
    name = platform.machine()
    if name not in ARCHES:
        raise NoProfile(f"architecture {name}: expected one of {', '.join(ARCHES)}")
    return ARCHES[name]


def system_profile() -> dict[str, Any]:
    """The profile file of the containers-common package, as parsed JSON."""
    for path in SYSTEM_PROFILES:
        if os.path.exists(path):
            with open(path, encoding="utf-8") as file:
                profile: dict[str, Any] = json.load(file)
                return profile
    raise NoProfile(f"none of {', '.join(SYSTEM_PROFILES)} exists: install golang-github-containers-common")


def _applies(rule: dict[str, Any], arch: str) -> bool:
    includes, excludes = rule.get("includes") or {}, rule.get("excludes") or {}
    if includes.get("arches") and arch not in includes["arches"]:
        return False
    if arch in (excludes.get("arches") or ()):
        return False
    if not set(includes.get("caps") or ()) <= set(CAPS):
        return False
    # A kernel version condition ("minKernel") holds on every kernel fastctr runs on.
    return not set(excludes.get("caps") or ()) & set(CAPS)


def resolve(profile: dict[str, Any]) -> dict[str, Any]:
    """The profile's rules for Docker's capabilities and the native architecture, in the OCI runtime
    specification's form (`linux.seccomp`)."""
    docker_arch, scmp_arch = machine_arch()
    rules = []
    for rule in profile["syscalls"]:
        if not _applies(rule, docker_arch):
            continue
        names = rule.get("names") or [rule["name"]]
        one: dict[str, Any] = {"names": names, "action": rule["action"]}
        if rule.get("args"):
            one["args"] = rule["args"]
        if "errnoRet" in rule:
            one["errnoRet"] = rule["errnoRet"]
        rules.append(one)
    return {"defaultAction": profile["defaultAction"], "defaultErrnoRet": profile.get("defaultErrnoRet", 1),
            "architectures": [scmp_arch], "syscalls": rules}


def as_text(oci: dict[str, Any]) -> str:
    """The resolved policy in the line format classic.c reads."""
    if oci["defaultAction"] != "SCMP_ACT_ERRNO":
        raise ValueError(f"seccomp defaultAction {oci['defaultAction']}: expected SCMP_ACT_ERRNO")
    lines = [f"default {oci['defaultErrnoRet']}"]
    for rule in oci["syscalls"]:
        action = rule["action"]
        if action == "SCMP_ACT_ALLOW":
            word = "allow"
        elif action == "SCMP_ACT_ERRNO":
            word = str(rule.get("errnoRet", 1))
        else:
            raise ValueError(f"seccomp action {action}: expected SCMP_ACT_ALLOW or SCMP_ACT_ERRNO")
        args = rule.get("args") or []
        tail = "".join(f" {a['index']} {a['op'].removeprefix('SCMP_CMP_')} {a['value']}"
                       f" {a.get('valueTwo', 0)}" for a in args)
        lines += [f"{word} {name} {len(args)}{tail}" for name in rule["names"]]
    return "\n".join(lines) + "\n"


def own_policy(data: Any) -> dict[str, Any]:
    """The OCI form of fastctr's own policy (DATA: the module fastctr.seccomp_default), which is Docker's, for
    Docker's capabilities and the native architecture."""
    _, scmp_arch = machine_arch()
    allow = "SCMP_ACT_ALLOW"
    names = set(data.ALWAYS.split()) | set(data.BY_MACHINE.get(platform.machine(), "").split())
    for cap in CAPS:
        names |= set(data.BY_CAPABILITY.get(cap, "").split())
    conditional = {"personality", "socket", "clone", "clone3"}
    rules: list[dict[str, Any]] = [{"names": sorted(names - conditional), "action": allow}]
    rules += [{"names": ["personality"], "action": allow,
               "args": [{"index": 0, "value": value, "op": "SCMP_CMP_EQ"}]} for value in data.PERSONALITIES]
    rules.append({"names": ["socket"], "action": allow,
                  "args": [{"index": 0, "value": data.AF_VSOCK, "op": "SCMP_CMP_NE"}]})
    rules.append({"names": ["clone"], "action": allow, "args": [
        {"index": 0, "value": data.CLONE_NAMESPACES, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]})
    rules.append({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38})
    return {"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1, "architectures": [scmp_arch],
            "syscalls": rules}


def default_policy() -> dict[str, Any]:
    """The policy every side loads: fastctr's own, else the system's file (see `resolve`)."""
    if SOURCE not in sys.path:
        sys.path.append(SOURCE)
    try:
        return own_policy(importlib.import_module("fastctr.seccomp_default"))
    except ImportError:
        return resolve(system_profile())
