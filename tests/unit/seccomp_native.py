"""The C side of seccomp for tests: our compiler, libseccomp's, an interpreter, by ctypes.

Test modules import the fixtures `library` and `compiler` from here.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from fastctr import seccomp

ROOT = Path(__file__).resolve().parents[2]
CSRC = [ROOT / "csrc" / name for name in ("seccomp.c", "bpf_build.c", "error.c")]
WARN = ["-std=gnu11", "-Wall", "-Wextra", "-Werror"]
IS_X86 = os.uname().machine == "x86_64"

needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")


class Arg(ctypes.Structure):
    _fields_ = [
        ("index", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("value", ctypes.c_uint64),
        ("value2", ctypes.c_uint64),
    ]


class Rule(ctypes.Structure):
    _fields_ = [
        ("names", ctypes.POINTER(ctypes.c_char_p)),
        ("n_names", ctypes.c_size_t),
        ("action", ctypes.c_int),
        ("data", ctypes.c_uint),
        ("args", ctypes.POINTER(Arg)),
        ("n_args", ctypes.c_size_t),
    ]


class NativeProfile(ctypes.Structure):
    _fields_ = [
        ("default_action", ctypes.c_int),
        ("default_data", ctypes.c_uint),
        ("archs", ctypes.POINTER(ctypes.c_int)),
        ("n_archs", ctypes.c_size_t),
        ("rules", ctypes.POINTER(Rule)),
        ("n_rules", ctypes.c_size_t),
    ]


class Error(ctypes.Structure):
    _fields_ = [("stage", ctypes.c_int), ("index", ctypes.c_int), ("err", ctypes.c_int), ("what", ctypes.c_char * 256)]


class Data(ctypes.Structure):
    _fields_ = [
        ("nr", ctypes.c_int),
        ("arch", ctypes.c_uint32),
        ("ip", ctypes.c_uint64),
        ("args", ctypes.c_uint64 * 6),
    ]


class Fprog(ctypes.Structure):
    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


class Library:
    """The C side as `_core.seccomp_compile` will present it, the reference and an interpreter."""

    def __init__(self, path: Path) -> None:
        self.lib = ctypes.CDLL(str(path))
        self.lib.t_run.restype = ctypes.c_uint32
        self.lib.t_run.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.POINTER(Data), ctypes.c_void_p]
        self.calls = 0

    def native(self, default_action, default_errno, archs, rules):
        keep = []
        array = (Rule * max(1, len(rules)))()
        for slot, (names, action, data, args) in zip(array, rules):
            c_names = (ctypes.c_char_p * len(names))(*[n.encode() for n in names])
            c_args = (Arg * max(1, len(args)))(*[Arg(*a) for a in args])
            keep += [c_names, c_args]
            slot.names, slot.n_names = c_names, len(names)
            slot.action, slot.data = action, data
            slot.args, slot.n_args = c_args, len(args)
        c_archs = (ctypes.c_int * max(1, len(archs)))(*archs)
        profile = NativeProfile(default_action, default_errno, c_archs, len(archs), array, len(rules))
        profile.keep = (keep, array, c_archs)
        return profile

    def compile(self, default_action, default_errno, archs, rules) -> bytes:
        self.calls += 1
        profile = self.native(default_action, default_errno, archs, rules)
        out, n, err = ctypes.c_void_p(), ctypes.c_size_t(), Error()
        if self.lib.fctr_seccomp_compile(ctypes.byref(profile), ctypes.byref(out), ctypes.byref(n), ctypes.byref(err)):
            raise OSError(err.err, err.what.decode())
        program = ctypes.string_at(out, n.value * 8)
        self.lib.t_free(out)
        return program

    def reference(self, profile, optimize=1) -> bytes | None:
        out, n = ctypes.c_void_p(), ctypes.c_size_t()
        if self.lib.t_reference(ctypes.byref(profile), optimize, ctypes.byref(out), ctypes.byref(n)):
            return None
        program = ctypes.string_at(out, n.value * 8)
        self.lib.t_free(out)
        return program

    def differs(self, profile, ours: bytes, theirs: bytes | None) -> int:
        return self.lib.t_compare(
            ctypes.byref(profile),
            ours,
            ctypes.c_size_t(len(ours) // 8),
            theirs,
            ctypes.c_size_t(len(theirs or b"") // 8),
        )

    def verdict(self, program: bytes, arch: int, nr: int, *args: int) -> int:
        data = Data(nr if nr < 1 << 31 else nr - (1 << 32), arch, 0, (ctypes.c_uint64 * 6)(*args))
        return self.lib.t_run(program, len(program) // 8, ctypes.byref(data), None)

    def number(self, arch: str, name: str) -> int:
        return self.lib.fctr_seccomp_number(seccomp.ARCHES[arch], name.encode())


@pytest.fixture(scope="session")
def library(tmp_path_factory) -> Library:
    out = tmp_path_factory.mktemp("seccomp") / "t.so"
    sources = [ROOT / "tests" / "c" / "test_seccomp.c", *CSRC]
    subprocess.run(["gcc", "-O2", "-fPIC", "-shared", "-DSHARED", *WARN, "-o", out, *sources, "-lseccomp"], check=True)
    return Library(out)


@pytest.fixture
def compiler(library, monkeypatch, tmp_path) -> Library:
    """seccomp.compile() with the C compiler by ctypes, an empty memory and a cache of its own."""
    monkeypatch.setattr(seccomp, "_core_compile", library.compile)
    monkeypatch.setattr(seccomp, "_programs", {})
    monkeypatch.setattr(seccomp, "cache_dir", lambda: str(tmp_path / "fastctr" / "seccomp"))
    library.calls = 0
    return library


AUDIT = {"x86_64": 0xC000003E, "x86": 0x40000003, "x32": 0xC000003E, "aarch64": 0xC00000B7, "arm": 0x40000028}
ALLOW, EPERM, ENOSYS = 0x7FFF0000, 0x50000 | errno.EPERM, 0x50000 | errno.ENOSYS
KILL_PROCESS = 0x80000000
