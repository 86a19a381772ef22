"""Custom seccomp profiles: OCI's and Docker's format, and what is wrong with them."""

# ruff: noqa: F401, F811 - fixtures are imported
from __future__ import annotations

import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from seccomp_native import ALLOW, AUDIT, EPERM, IS_X86, compiler, library, needs_gcc

from fastctr import caps, seccomp
from fastctr.errors import SpecError


def load(profile, mask=0):
    return seccomp.load_profile(profile, mask)


def test_oci_profile(tmp_path):
    profile = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 38,
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_MIPS"],
        "flags": ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"],
        "syscalls": [
            {"names": ["read", "write"], "action": "SCMP_ACT_ALLOW"},
            {
                "names": ["socket"],
                "action": "SCMP_ACT_ERRNO",
                "errnoRet": 22,
                "args": [
                    {"index": 0, "value": 16, "op": "SCMP_CMP_EQ"},
                    {"index": 2, "value": 1, "valueTwo": 2, "op": "SCMP_CMP_MASKED_EQ"},
                ],
            },
            {
                "names": ["ioctl"],
                "action": "SCMP_ACT_ALLOW",
                "args": [{"index": 1, "value": 1, "op": "SCMP_CMP_EQ"}, {"index": 1, "value": 2, "op": "SCMP_CMP_EQ"}],
            },
        ],
    }
    path = tmp_path / "p.json"
    path.write_text(json.dumps(profile))
    for source in (profile, str(path), path):
        p = load(source)
        assert (p.default_action, p.default_errno, p.flags) == (3, 38, 6)
        assert p.archs == ([0, 1] if IS_X86 else [3])
        assert p.rules[1] == (["socket"], 3, 22, [(0, 4, 16, 0), (2, 7, 1, 2)])
        assert [r[3] for r in p.rules[2:]] == [((1, 4, 1, 0),), ((1, 4, 2, 0),)]  # alternatives, as runc


def test_docker_profile():
    admin = 1 << caps.BITS["CAP_SYS_ADMIN"]
    me, other = ("amd64", "arm64") if IS_X86 else ("arm64", "amd64")

    def names(call, mask=0):
        call = {"names": ["mount"], "action": "SCMP_ACT_ALLOW", **call}
        return len(load({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [call]}, mask).rules)

    assert names({"includes": {"caps": ["CAP_SYS_ADMIN"]}}) == 0
    assert names({"includes": {"caps": ["CAP_SYS_ADMIN"]}}, admin) == 1
    assert names({"includes": {"caps": ["CAP_SYS_ADMIN", "CAP_BPF"]}}, admin) == 0
    assert names({"excludes": {"caps": ["CAP_BPF", "CAP_SYS_ADMIN"]}}, admin) == 0
    assert names({"excludes": {"caps": ["CAP_BPF"]}, "includes": {}}, admin) == 1
    assert names({"includes": {"arches": [me]}}) == 1 and names({"includes": {"arches": [other]}}) == 0
    assert names({"excludes": {"arches": [me]}}) == 0 and names({"excludes": {"arches": [other]}}) == 1
    assert names({"includes": {"minKernel": "4.8"}}) == 1 and names({"includes": {"minKernel": "99.0"}}) == 0
    assert names({"excludes": {"minKernel": "4.8"}}) == 0
    mapped = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "archMap": [
            {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]},
            {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]},
            {"architecture": "SCMP_ARCH_S390X", "subArchitectures": None},
        ],
    }
    assert load(mapped).archs == ([0, 1, 2] if IS_X86 else [3, 4])


@needs_gcc
@pytest.mark.skipif(not os.path.exists("/usr/share/containers/seccomp.json"), reason="no such profile here")
def test_a_profile_in_the_wild(compiler):
    program = seccomp.compile("/usr/share/containers/seccomp.json", caps.DEFAULT)
    if IS_X86:
        assert compiler.verdict(program, AUDIT["x86_64"], 0, *[0] * 6) == ALLOW
        assert compiler.verdict(program, AUDIT["x86_64"], 321, *[0] * 6) == EPERM  # bpf


def rule(**more):
    return {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_LOG", **more}]}


@pytest.mark.parametrize(
    ("profile", "where"),
    [
        ([], "seccomp"),
        ({}, "seccomp"),
        ({"defaultAction": "ALLOW"}, "seccomp.defaultAction"),
        ({"defaultAction": "SCMP_ACT_NOTIFY"}, "seccomp.defaultAction"),
        ({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/x"}, "seccomp.listenerPath"),
        ({"defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": 1}, "seccomp.defaultErrnoRet"),
        ({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 4096}, "seccomp.defaultErrnoRet"),
        ({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrno": "EWHAT"}, "seccomp.defaultErrnoRet"),
        ({"defaultAction": "SCMP_ACT_ALLOW", "syscall": []}, "seccomp"),
        ({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": {}}, "seccomp.syscalls"),
        ({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["x86_64"]}, "seccomp.architectures[0]"),
        ({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_NO_X32"]}, "seccomp.architectures[0]"),
        ({"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_NEW_LISTENER"]}, "seccomp.flags[0]"),
        (
            {
                "defaultAction": "SCMP_ACT_ALLOW",
                "architectures": ["SCMP_ARCH_ARM"],
                "archMap": [{"architecture": "SCMP_ARCH_ARM"}],
            },
            "seccomp.archMap",
        ),
        (rule(names=[]), "seccomp.syscalls[0]"),
        (rule(names=["read", ""]), "seccomp.syscalls[0].names[1]"),
        (rule(name="write"), "seccomp.syscalls[0].name"),
        (rule(action="SCMP_ACT_ALOW"), "seccomp.syscalls[0].action"),
        (rule(errnoRet=1), "seccomp.syscalls[0].errnoRet"),
        (rule(arg=[]), "seccomp.syscalls[0]"),
        (rule(args=[{"index": 6, "op": "SCMP_CMP_EQ"}]), "seccomp.syscalls[0].args[0].index"),
        (rule(args=[{"index": True, "op": "SCMP_CMP_EQ"}]), "seccomp.syscalls[0].args[0].index"),
        (rule(args=[{"index": 0, "op": "=="}]), "seccomp.syscalls[0].args[0].op"),
        (rule(args=[{"index": 0, "op": "SCMP_CMP_EQ", "value": -1}]), "seccomp.syscalls[0].args[0].value"),
        (rule(args=[{"index": 0, "op": "SCMP_CMP_EQ", "valueTwo": 1 << 64}]), "seccomp.syscalls[0].args[0].valueTwo"),
        (rule(includes={"caps": ["CAP_FLY"]}), "seccomp.syscalls[0].includes.caps[0]"),
        (rule(includes={"minKernel": "new"}), "seccomp.syscalls[0].includes.minKernel"),
        (rule(excludes={"cap": []}), "seccomp.syscalls[0].excludes"),
    ],
)
def test_bad_profiles_say_where(profile, where):
    with pytest.raises(SpecError) as e:
        load(profile)
    assert e.value.where == where


def test_bad_files(tmp_path):
    (tmp_path / "x").write_text("{")
    with pytest.raises(SpecError, match="JSON"):
        load(tmp_path / "x")
    (tmp_path / "x").write_text("[" * 100000)
    with pytest.raises(SpecError, match="JSON"):
        load(tmp_path / "x")
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none")


KEYS = ["defaultAction", "syscalls", "names", "action", "args", "index", "op", "value", "includes", "caps", "flags"]
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.sampled_from(list(seccomp.ACTIONS)),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(KEYS),
            inner,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(json_values)
def test_any_json_is_a_profile_or_a_clear_error(value):
    source = {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": value} if not isinstance(value, dict) else value
    try:
        load(source)
    except SpecError as e:
        assert e.where.startswith("seccomp")
