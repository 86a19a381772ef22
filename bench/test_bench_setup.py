"""The comparison is fair only if every side does set up what the table says: looked at from inside."""
from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from . import bundle, machine
from .peers import UNIFIED, Side, Stage, has_fastctr
from .worker import LIMITS

pytestmark = pytest.mark.skipif(bool(machine.complaint()), reason=machine.complaint())

LOOK = ("cat /proc/self/status; cat /proc/mounts; ip addr show lo; cat /proc/sys/kernel/hostname; "
        "ls /dev; "
        "for n in pid mnt net ipc uts cgroup; do readlink /proc/self/ns/$n; done")
SHELL = ["/bin/sh", "-c", LOOK]
#: 70 processes at once, more than the pids limit of 64 lets be
BOMB = ["/bin/sh", "-c", "n=0; while [ $n -lt 70 ]; do sleep 1 & n=$((n+1)); done; wait"]


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with Stage() as made:
        yield made


def command(stage: Stage, name: str, argv: list[str]) -> list[str]:
    """One start of side NAME with ARGV in place of its command and its output shown."""
    side: Side | None
    if name == "classic":
        side = stage.classic()
        return [*side.command[:side.command.index("--")], "-v", "--", *argv]
    if name == "bwrap":
        side = stage.bwrap()
        if side is None:
            pytest.skip("bwrap is not installed")
        at = side.command.index("--")
        shell = f'exec "$@" 9<{stage.path("policy.bpf")}'
        return [*side.command[:at], "-x", "--", "/bin/sh", "-c", shell, "sh", *side.command[at + 1:-1], *argv]
    program = shutil.which(name)
    if not program:
        pytest.skip(f"{name} is not installed")
    folder = stage.path(f"look-{name}-{len(os.listdir(stage.folder))}")
    os.makedirs(f"{folder}/overlay")
    label = os.path.basename(folder)
    bundle.make_bundles(f"{folder}/b", 1, f"{folder}/overlay/merged", argv, f"{stage.cgroup}/{label}",
                        stage.seccomp)
    return [stage.tools["bare"], "-u", UNIFIED, "-o", f"{stage.rootfs}:{folder}/overlay", "-x", "--", program,
            "--root", f"{folder}/overlay/state", "run", "--bundle", f"{folder}/b0", label]


def look(stage: Stage, name: str, argv: list[str]) -> Any:
    """One start of side NAME with its output; of fastctr a warm one, as those that are measured."""
    if name != "fastctr":
        return subprocess.run(command(stage, name, argv), capture_output=True, text=True, check=False, timeout=60)
    if not has_fastctr():
        pytest.skip("fastctr is not built")
    import fastctr

    with fastctr.Plan(rootfs=stage.rootfs, **LIMITS) as plan:  # type: ignore[attr-defined]
        for _ in range(20):
            assert plan.run(["/bin/true"]).returncode == 0
        return plan.run(argv, capture_output=True, text=True)


@pytest.mark.parametrize("name", ["fastctr", "classic", "crun", "runc", "bwrap"])
def test_isolation_is_the_same(stage: Stage, name: str) -> None:
    done = look(stage, name, SHELL)
    text = done.stdout
    fields = dict(re.findall(r"^(\w+):\s+(.*)$", text, re.MULTILINE))
    assert fields["CapEff"] == "00000000a80425fb", done
    if name != "bwrap":     # it leaves the bounding set as it was, and the table says so
        assert fields["CapBnd"] == "00000000a80425fb", done
    assert fields["NoNewPrivs"] == "1" and fields["Seccomp"] == "2"
    assert re.search(r"^overlay / overlay rw", text, re.MULTILINE)
    # fastctr's /dev is a layer of the root's overlay, not a mount of its own
    for path in ("/proc", "/sys", "/dev/pts", "/dev/mqueue", *(() if name == "fastctr" else ("/dev",))):
        assert re.search(rf"^\S+ {path} ", text, re.MULTILINE), f"{path} is not mounted: {text}"
    assert re.search(r"^\S+ /sys sysfs ro", text, re.MULTILINE)
    assert re.search(r"^proc /proc/sys proc ro", text, re.MULTILINE)
    for path in bundle.MASKED:
        if os.path.exists(path):
            assert re.search(rf"^\S+ {path} ", text, re.MULTILINE), f"{path} is not masked: {text}"
    assert {"null", "zero", "full", "random", "urandom", "tty", "ptmx", "fd", "stdin", "shm"} <= set(text.split())
    assert "LOOPBACK,UP" in text
    for kind in ("pid", "mnt", "net", "ipc", "uts", "cgroup"):
        inside = re.search(rf"^{kind}:\[\d+\]$", text, re.MULTILINE)
        assert inside and inside[0] != os.readlink(f"/proc/self/ns/{kind}"), f"{kind}: {text}"


@pytest.mark.parametrize("name", ["fastctr", "classic", "crun", "runc"])
def test_pids_limit_holds(stage: Stage, name: str) -> None:
    done = look(stage, name, BOMB)
    assert "can't fork" in done.stderr, done


def test_a_failed_start_is_told(stage: Stage) -> None:
    from .peers import PeerFailed

    side = stage.program("false", [os.path.join(stage.rootfs, "bin/false")])
    with pytest.raises(PeerFailed, match="wait status 0x100"):
        side.go(1)
    missing = stage.classic("/bin/nothing")
    with pytest.raises(PeerFailed, match="exec /bin/nothing"):
        missing.go(1)


def test_nothing_stays() -> None:
    with open("/proc/self/mounts", encoding="utf-8") as file:
        before = file.read()
    with Stage() as made:
        folder = made.folder
        for side in (made.classic(), made.runtime("crun"), made.bwrap()):
            if side:
                side.go(2)
    assert not os.path.exists(folder)
    with open("/proc/self/mounts", encoding="utf-8") as file:
        assert file.read() == before
    found = [path for path, folders, _ in os.walk("/sys/fs/cgroup") if f"fctr-bench-{os.getpid()}" in folders]
    assert not found
