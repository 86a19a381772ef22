"""Faults at every stage of a start: a clear error, and nothing of it stays (the leak check of conftest.py
compares descriptors, processes, groups, mounts and files after each)."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

import fastctr
from support import run, running

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
ROOT = pytest.mark.needs_root


def works(rootfs: str) -> None:
    assert run(["sh", "-c", "exit 3"], rootfs=rootfs).returncode == 3


# ---- the specification asks for what cannot be

IMPOSSIBLE: dict[str, tuple[dict[str, Any], str]] = {
    "cwd": ({"cwd": "/nowhere"}, "cwd"),
    "user": ({"user": "nobody-here"}, "user"),
    "bind-onto-a-file": ({"volumes": ["/etc:/etc/passwd"]}, ""),
    "bind-below-a-file": ({"volumes": ["/etc:/etc/passwd/x"]}, ""),
    "file-onto-a-directory": ({"files": {"/bin": b"x"}}, ""),
    "sysctl-value": ({"sysctls": {"net.ipv4.ip_forward": "maybe"}}, "sysctl"),
    "scratch-too-small": ({"scratch_size": "64k", "files": {"/big": b"x" * 200_000}}, ""),
    "rlimit-too-high": ({"ulimits": {"nofile": (1 << 30, 1 << 30)}}, "ulimits"),
}


@ROOT
@pytest.mark.parametrize("name", IMPOSSIBLE)
@pytest.mark.parametrize("init", [False, True], ids=["plain", "init"])
def test_impossible(rootfs: str, name: str, init: bool) -> None:
    kw, stage = IMPOSSIBLE[name]
    for _ in range(4):
        with pytest.raises(fastctr.FastctrError) as caught:
            run(["true"], rootfs=rootfs, init=init, **kw)
        assert stage in str(caught.value)
    works(rootfs)


@pytest.mark.parametrize("argv0", ["/nowhere", "/etc/passwd", "/etc", "bin/none", "/bin/sh/x"])
@pytest.mark.parametrize("kind", [{}, {"init": True}, {"writable": "direct"}], ids=["plain", "init", "direct"])
def test_commands_that_are_none(rootfs: str, argv0: str, kind: dict[str, Any]) -> None:
    for _ in range(3):
        with pytest.raises((fastctr.CommandNotFound, fastctr.CommandNotExecutable)):
            run([argv0], rootfs=rootfs, **kind)
    works(rootfs)


@ROOT
def test_a_script_without_its_interpreter(fresh_rootfs: str) -> None:
    path = Path(fresh_rootfs, "bin/script")
    path.write_text("#!/no/such/interpreter\n")
    path.chmod(0o755)
    with pytest.raises(fastctr.LaunchError) as caught:
        run(["script"], rootfs=fresh_rootfs)
    assert caught.value.exit_code in (126, 127)
    path.write_text("no program at all\n")
    with pytest.raises(fastctr.LaunchError) as caught:
        run(["/bin/script"], rootfs=fresh_rootfs)
    assert caught.value.exit_code == 126


def test_too_long_arguments(rootfs: str) -> None:
    with pytest.raises(fastctr.LaunchError) as caught:
        run(["echo", "x" * (200 << 10)], rootfs=rootfs)
    assert caught.value.errno == errno.E2BIG
    assert run(["echo", "x" * (100 << 10)], rootfs=rootfs).returncode == 0


@ROOT
def test_a_source_that_goes_while_it_is_used(rootfs: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    plan = fastctr.Plan(rootfs=rootfs, volumes=[f"{source}:/mnt"])
    for _ in range(4):
        assert plan.run(["true"]).returncode == 0
    source.rmdir()
    for _ in range(3):
        with pytest.raises(fastctr.LaunchError) as caught:
            plan.run(["true"])
        assert str(source) in str(caught.value) or "/mnt" in str(caught.value)
    source.mkdir()
    assert plan.run(["true"]).returncode == 0


@ROOT
def test_a_root_that_goes_while_it_is_used(fresh_rootfs: str) -> None:
    plan = fastctr.Plan(rootfs=fresh_rootfs)
    for _ in range(4):
        assert plan.run(["true"]).returncode == 0
    moved = fresh_rootfs + ".moved"
    os.rename(fresh_rootfs, moved)
    for _ in range(3):
        with pytest.raises(fastctr.LaunchError):
            plan.run(["true"])
    os.rename(moved, fresh_rootfs)
    assert plan.run(["true"]).returncode == 0


@ROOT
def test_the_same_upper_twice(rootfs: str, tmp_path: Path) -> None:
    upper = str(tmp_path / "upper")
    with running(rootfs, upper=upper), pytest.raises(fastctr.LaunchError) as caught:
        run(["true"], rootfs=rootfs, upper=upper)
    assert caught.value.errno == errno.EBUSY
    assert run(["true"], rootfs=rootfs, upper=upper).returncode == 0


def test_a_seccomp_program_that_is_too_long(rootfs: str) -> None:
    rules = [{"names": ["getpid"], "action": "SCMP_ACT_ERRNO", "args": [{"index": i % 6, "value": v, "op": "SCMP_CMP_EQ"}]}
             for v in range(1500) for i in range(3)]  # fmt: skip
    with pytest.raises(fastctr.FastctrError) as caught:
        run(["true"], rootfs=rootfs, seccomp={"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules})
    assert str(caught.value)
    works(rootfs)
