"""Seccomp: the compiler against libseccomp and against the rules themselves, and the default policy."""

# ruff: noqa: F401, F811 - fixtures are imported
from __future__ import annotations

import errno
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from seccomp_native import (
    ALLOW,
    AUDIT,
    CSRC,
    ENOSYS,
    EPERM,
    KILL_PROCESS,
    ROOT,
    WARN,
    compiler,
    library,
    needs_gcc,
)

from fastctr import caps, seccomp, seccomp_default

pytestmark = needs_gcc


def policy_program(library, mask, arch="x86_64", archs=None):
    p = seccomp.default_policy(mask, arch)
    return library.compile(p.default_action, p.default_errno, archs or p.archs, p.rules)


# ---- the compiler ----


def test_random_profiles_with_sanitizers(tmp_path):
    out = tmp_path / "t"
    sources = [ROOT / "tests" / "c" / "test_seccomp.c", *CSRC]
    subprocess.run(
        ["gcc", "-g", "-O1", "-fsanitize=address,undefined", *WARN, "-o", out, *sources, "-lseccomp"], check=True
    )
    subprocess.run([out, "60", "12345"], check=True, timeout=300)


MASKS = [0, caps.DEFAULT, caps.ALL, caps.DEFAULT | 1 << caps.BITS["CAP_SYS_ADMIN"], 1 << caps.BITS["CAP_SYS_PTRACE"]]


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize(
    ("machine", "archs"),
    [
        ("x86_64", ["x86_64"]),
        ("x86_64", ["x86_64", "x86", "x32"]),
        ("aarch64", ["aarch64", "arm"]),
    ],
)
def test_default_policy_is_what_libseccomp_makes_of_it(library, mask, machine, archs):
    """But for two things: calls this libseccomp does not know, and LOW32, which it does not have."""
    p = seccomp.default_policy(mask, machine)
    known = [
        (
            [n for n in names if library.lib.seccomp_syscall_resolve_name(n.encode()) != -1],
            action,
            data,
            [(i, op & ~seccomp.LOW32, v, w) for i, op, v, w in args],
        )
        for names, action, data, args in p.rules
    ]
    args = (p.default_action, p.default_errno, [seccomp.ARCHES[a] for a in archs], known)
    profile = library.native(*args)
    ours, theirs = library.compile(*args), library.reference(profile)
    assert theirs is not None
    assert library.differs(profile, ours, theirs) == 0
    assert len(ours) * 3 < len(theirs)


names = st.sampled_from(
    ["read", "write", "socket", "connect", "clone", "ioctl", "personality", "futex", "shmat", "nosuch", "openat"]
)
values = st.one_of(st.integers(0, 5), st.integers(0, 2**64 - 1), st.integers(0, 63).map(lambda n: 1 << n))
ops = st.tuples(st.integers(1, 7), st.sampled_from([0, 0, seccomp.LOW32])).map(lambda t: t[0] | t[1])
arguments = st.lists(st.tuples(st.integers(0, 5), ops, values, values), max_size=3, unique_by=lambda a: a[0])
rules = st.lists(
    st.tuples(st.lists(names, min_size=1, max_size=4), st.integers(0, 7), st.integers(0, 4095), arguments), max_size=12
)
arch_lists = st.sampled_from([[0], [0, 1], [0, 1, 2], [1], [3, 4], [2, 0]])


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 7), arch_lists, rules)
def test_any_profile_does_what_its_rules_say(library, default, archs, rules):
    args = (default, 9, archs, rules)
    assert library.differs(library.native(*args), library.compile(*args), None) == 0


def test_i386_multiplexed_calls(library):
    """accept and semop have no number of their own on i386; shmat has one as well."""
    rules = [(["accept", "semop", "shmat"], 7, 0, [(1, 4, 5, 0)])]
    program = library.compile(3, 1, [1], rules)

    def on(nr, *args):
        return library.verdict(program, AUDIT["x86"], nr, *args, *[0] * (6 - len(args)))

    assert on(102, 5, 5) == ALLOW and on(102, 5, 6) == EPERM and on(102, 4, 5) == EPERM
    assert on(117, 1, 5) == ALLOW and on(117, 21, 5) == ALLOW and on(117, 2, 5) == EPERM
    assert on(397, 0, 5) == ALLOW and on(397, 0, 4) == EPERM
    assert on(364, 0, 5) == EPERM  # accept4 is another call
    assert on(398) == ENOSYS  # beyond what the policy names


@pytest.mark.parametrize(
    ("args", "text"),
    [
        ((9, 0, [0], []), "default action"),
        ((3, 5000, [0], []), "default action"),
        ((7, 0, [], []), "architecture"),
        ((7, 0, [77], []), "architecture 77"),
        ((7, 0, [0], [(["read"], 12, 0, [])]), "rule 0: action"),
        ((7, 0, [0], [(["read"], 3, 4096, [])]), "rule 0: action"),
        ((7, 0, [0], [(["read"], 3, 1, [(6, 4, 0, 0)])]), "argument 6"),
        ((7, 0, [0], [(["read"], 3, 1, [(1, 4, 0, 0), (1, 4, 1, 0)])]), "twice"),
        ((7, 0, [0], [(["read"], 3, 1, [(1, 8, 0, 0)])]), "operator 8"),
    ],
)
def test_the_compiler_refuses(library, args, text):
    with pytest.raises(OSError, match=text):
        library.compile(*args)


def test_too_large_and_long_jumps(library):
    def many(n):  # no two neighbours can share a load
        return [(["read"], 3, i % 7 + 1, [(i % 6, 4, i << 33 | i, 0)]) for i in range(n)]

    with pytest.raises(OSError) as e:
        library.compile(7, 0, [0], many(1500))
    assert e.value.errno == errno.E2BIG
    args = (7, 0, [0, 1, 2], many(200))
    assert library.differs(library.native(*args), library.compile(*args), None) == 0


# ---- the default policy ----


def test_policy_values(library):
    program = policy_program(library, caps.DEFAULT)

    def on(name, *args, arch="x86_64"):
        return library.verdict(program, AUDIT[arch], library.number(arch, name), *args, *[0] * (6 - len(args)))

    assert on("read") == ALLOW and on("chroot") == ALLOW and on("ptrace") == ALLOW and on("mseal") == ALLOW
    denied = "io_uring_setup mount reboot bpf keyctl kexec_load setns unshare syslog userfaultfd"
    for name in denied.split():
        assert on(name) == EPERM, name
    assert on("clone3") == ENOSYS
    assert on("clone", 0x11) == ALLOW
    for flag in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):
        assert on("clone", flag | 0x11) == EPERM
    assert on("socket", 1) == ALLOW and on("socket", 40) == EPERM
    assert on("socket", 1 << 32 | 40) == EPERM  # the kernel takes an int
    assert on("personality", 0x20008) == ALLOW and on("personality", 0x40000) == EPERM
    assert on("chown32", arch="x86") == ALLOW and on("mount", arch="x86") == EPERM
    assert library.verdict(program, AUDIT["x86_64"], 500, *[0] * 6) == ENOSYS
    assert library.verdict(program, AUDIT["x86_64"], 0x40000000, *[0] * 6) == ENOSYS
    assert library.verdict(program, AUDIT["aarch64"], 63, *[0] * 6) == KILL_PROCESS


def test_policy_by_capability(library):
    for cap, some in {
        "CAP_SYS_ADMIN": "mount unshare setns clone3 bpf syslog",
        "CAP_SYS_PTRACE": "kcmp process_madvise",
        "CAP_SYS_MODULE": "init_module",
        "CAP_SYS_BOOT": "reboot",
        "CAP_SYS_NICE": "mbind",
        "CAP_SYSLOG": "syslog",
        "CAP_BPF": "bpf",
        "CAP_PERFMON": "perf_event_open",
        "CAP_SYS_TIME": "clock_settime",
        "CAP_SYS_RAWIO": "iopl",
        "CAP_DAC_READ_SEARCH": "open_by_handle_at",
    }.items():
        program = policy_program(library, 1 << caps.BITS[cap])
        without = policy_program(library, caps.ALL & ~(1 << caps.BITS[cap]))
        for name in some.split():
            nr = library.number("x86_64", name)
            assert library.verdict(program, AUDIT["x86_64"], nr, *[0] * 6) == ALLOW, (cap, name)
            if name not in ("bpf", "syslog", "perf_event_open"):
                assert library.verdict(without, AUDIT["x86_64"], nr, *[0] * 6) != ALLOW, (cap, name)


def test_policy_names_are_known_and_listed_once(library):
    every = (seccomp_default.ALWAYS + " ".join(seccomp_default.BY_MACHINE.values())).split()
    assert len(every) == len(set(every))
    every += " ".join(seccomp_default.BY_CAPABILITY.values()).split()
    unknown = {n for n in every if all(library.number(a, n) == -1 for a in ("x86_64", "x86", "aarch64", "arm"))}
    assert unknown <= {"fstatat64", "riscv_hwprobe"}
    assert sum(1 << caps.BITS[c] for c in seccomp_default.BY_CAPABILITY) == seccomp._DEPENDS


LOAD = """
import ctypes, errno, os, sys
program = open(sys.argv[1], "rb").read()
class F(ctypes.Structure):
    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_char_p)]
libc = ctypes.CDLL(None, use_errno=True)
fprog = F(len(program) // 8, program)
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.syscall(317 if os.uname().machine == "x86_64" else 277, 1, 4, ctypes.byref(fprog)) == 0, ctypes.get_errno()
def call(nr, *args):
    return ctypes.get_errno() if libc.syscall(ctypes.c_long(nr), *args) < 0 else 0
assert call(int(sys.argv[2]), 0, 0) == errno.EPERM
assert call(435, 0, 0) == errno.ENOSYS
assert call(600) == errno.ENOSYS
assert os.getpid() > 0 and os.listdir("/proc/self/fd") and os.fork() is not None
"""


def test_the_kernel_takes_the_program(compiler, tmp_path):
    program = seccomp.compile("default", caps.DEFAULT)
    path = tmp_path / "default.bpf"
    path.write_bytes(program)
    unshare = compiler.number(seccomp.machine(), "unshare")
    subprocess.run([sys.executable, "-c", LOAD, path, str(unshare)], check=True)
