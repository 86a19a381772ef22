"""The cache of compiled seccomp programs: used when sound and ours, else passed over."""

# ruff: noqa: F401, F811 - fixtures are imported
from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from seccomp_native import ROOT, compiler, library, needs_gcc

from fastctr import caps, seccomp

pytestmark = needs_gcc


def forget():
    seccomp._programs.clear()


def cache_file() -> Path:
    (one,) = Path(seccomp.cache_dir()).iterdir()
    return one


def test_cache_is_used_and_shared(compiler):
    first = seccomp.compile("default", caps.DEFAULT)
    assert seccomp.compile("default", caps.DEFAULT) is first
    forget()
    assert seccomp.compile("default", caps.DEFAULT) == first
    assert seccomp.compile("default", caps.DEFAULT & ~(1 << caps.BITS["CAP_NET_RAW"])) == first
    assert compiler.calls == 1
    assert seccomp.compile("default", caps.ALL) != first and compiler.calls == 2
    assert all(f.stat().st_mode & 0o777 == 0o600 for f in Path(seccomp.cache_dir()).iterdir())
    custom = {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW"}]}
    seccomp.compile(custom, 0)
    forget()
    seccomp.compile(seccomp.load_profile(custom), 0)
    assert compiler.calls == 3
    custom["defaultErrnoRet"] = 5
    seccomp.compile(custom, 0)
    assert compiler.calls == 4


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_cache_is_ignored(compiler, data):
    forget()
    shutil.rmtree(seccomp.cache_dir(), ignore_errors=True)
    good = seccomp.compile("default", caps.DEFAULT)
    path = cache_file()
    raw = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    else:
        del raw[data.draw(st.integers(0, len(raw) - 1)) :]
    path.write_bytes(raw)
    forget()
    calls = compiler.calls
    assert seccomp.compile("default", caps.DEFAULT) == good
    assert compiler.calls == calls + 1
    forget()
    assert seccomp.compile("default", caps.DEFAULT) == good  # and was written anew
    assert compiler.calls == calls + 1


def recompiles(compiler) -> bool:
    forget()
    calls = compiler.calls
    seccomp.compile("default", caps.DEFAULT)
    return compiler.calls > calls


def test_untrusted_cache_is_ignored(compiler, tmp_path):
    seccomp.compile("default", caps.DEFAULT)
    assert not recompiles(compiler)
    directory = Path(seccomp.cache_dir())
    directory.chmod(0o770)
    assert recompiles(compiler)
    directory.chmod(0o700)
    path = cache_file()
    path.chmod(0o620)
    assert recompiles(compiler)
    assert not recompiles(compiler)  # replaced by one of our own
    if os.geteuid() == 0:
        os.chown(path, 12345, -1)
        assert recompiles(compiler)
        os.chown(directory, 12345, -1)
        assert recompiles(compiler) and recompiles(compiler)
        os.chown(directory, 0, -1)
    content = path.read_bytes()
    path.unlink()
    (tmp_path / "elsewhere").write_bytes(content)
    path.symlink_to(tmp_path / "elsewhere")
    assert recompiles(compiler)
    path.unlink()
    os.mkfifo(path, 0o600)  # must not block
    assert recompiles(compiler)


def test_a_program_under_another_name_is_ignored(compiler):
    seccomp.compile("default", caps.ALL)
    every = cache_file()
    seccomp.compile("default", caps.DEFAULT)
    (default,) = set(Path(seccomp.cache_dir()).iterdir()) - {every}
    shutil.copyfile(every, default)
    assert recompiles(compiler)


def test_cache_that_cannot_be_made(compiler, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    for where in (None, str(tmp_path / "file" / "below"), "/proc/none/here"):
        monkeypatch.setattr(seccomp, "cache_dir", lambda where=where: where)
        assert recompiles(compiler) and recompiles(compiler)


def test_cache_stays_small(compiler, monkeypatch):
    monkeypatch.setattr(seccomp, "_MAX_KEPT", 4)
    for i in range(10):
        seccomp.compile({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": i}, 0)
        assert len(list(Path(seccomp.cache_dir()).iterdir())) <= 4 and len(seccomp._programs) <= 4


def test_cache_dir(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert seccomp.cache_dir() == "/var/cache/fastctr/seccomp"
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_CACHE_HOME", "/c")
    assert seccomp.cache_dir() == "/c/fastctr/seccomp"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", "/h")
    assert seccomp.cache_dir() == "/h/.cache/fastctr/seccomp"
    monkeypatch.delenv("HOME")
    assert seccomp.cache_dir() is None


def test_warm_path_loads_no_heavy_module(compiler, tmp_path):
    seccomp.compile("default", caps.DEFAULT)
    code = (
        "import sys; before = set(sys.modules)\n"
        "from fastctr import seccomp\n"
        f"seccomp.cache_dir = lambda: {seccomp.cache_dir()!r}\n"
        f"assert seccomp.compile('default', {caps.DEFAULT})\n"
        "print(sorted(m for m in set(sys.modules) - before if not m.startswith('fastctr')))\n"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=env).stdout
    assert not {"json", "hashlib", "struct", "typing", "dataclasses"} & set(eval(out))
