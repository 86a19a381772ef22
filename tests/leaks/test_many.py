"""10,000 launches in a row leave everything flat."""

from __future__ import annotations

import os
import re
import time

import pytest

import fastctr
import leaks_support
from fastctr import context

pytestmark = [pytest.mark.needs_root, pytest.mark.timeout(300)]

SLABS = ("mnt_cache", "net_namespace", "pid_namespace", "kmalloc-cg-1k", "task_struct", "cred", "filp", "sock_inode_cache",
         "kmalloc-cg-4k", "kmalloc-4k", "kmalloc-1k", "pid", "signal_cache", "sighand_cache", "files_cache")  # fmt: skip


def slabs() -> dict[str, int]:
    """active objects by cache; slabinfo(5)."""
    found = {}
    with open("/proc/slabinfo") as file:
        for line in file:
            fields = line.split()
            if fields[0] in SLABS and len(fields) > 2 and fields[1].isdigit():
                found[fields[0]] = int(fields[1]) * int(fields[3])
    return found


def resident() -> int:
    with open("/proc/self/smaps_rollup") as file:
        return int(re.search(r"Private_Dirty:\s+(\d+)", file.read()).group(1))


def groups() -> int:
    return len(leaks_support.groups(leaks_support.runtime_tag(os.environ["FASTCTR_RUNTIME_DIR"])))


def namespaces() -> int:
    """Network namespaces by the kernel's own count, where it gives one."""
    return slabs().get("net_namespace", 0)


def state() -> dict[str, int]:
    """Without what is kept for the next starts: then every start must have left exactly nothing."""
    context.get().drain()
    return {"descriptors": len(os.listdir("/proc/self/fd")), "groups": groups(),
            "mounts": len(open("/proc/self/mountinfo").readlines()), "kB": resident()}  # fmt: skip


def test_ten_thousand_launches(rootfs: str) -> None:
    plan = fastctr.Plan(rootfs=rootfs, memory="64m", pids=32, cpus=1)
    argv = ["true"]
    for _ in range(500):
        plan.run(argv, capture_output=True)
    first, slab_first = state(), slabs()
    began = time.monotonic()
    for n in range(10_000):
        done = plan.run(argv, capture_output=True)
        assert done.returncode == 0, n
    took = time.monotonic() - began
    last = state()
    for name in ("descriptors", "groups", "mounts"):
        assert abs(last[name] - first[name]) <= 3, (name, first, last)
    assert last["kB"] - first["kB"] < 2048, (first, last)
    counters = context.get().counters()
    assert counters["cg_new"] < 200, counters
    assert counters["net_new"] < 500, counters
    fastctr.shutdown()
    time.sleep(1)  # the kernel frees namespaces in its own time, and others work on this machine
    for name, size in slabs().items():
        assert size - slab_first.get(name, 0) < 32 << 20, (name, slab_first, slabs())
    print(f"{took / 10_000 * 1e6:.0f} us a launch")


@pytest.mark.parametrize(
    "kind",
    [
        {"rootfs": "host"},
        {"init": True},
        {"pid": "host"},
        {"userns": True, "uid_map": [(0, 100000, 65536)], "gid_map": [(0, 100000, 65536)]},
        {"cap_add": ["NET_ADMIN"]},
        {"writable": "direct"},
        {"files": {"/a/b": b"x"}, "tmpfs": {"/t": "size=1m"}},
        {"timens": True, "boottime": 1000},
    ],
    ids=["host", "init", "pid-host", "userns", "net-admin", "direct", "files", "time"],
)
def test_three_hundred_of_each_kind(rootfs: str, kind: dict[str, object]) -> None:
    plan = fastctr.Plan(**{"rootfs": rootfs, **kind})
    for _ in range(40):
        plan.run(["true"])
    first = state()
    for _ in range(300):
        assert plan.run(["true"], input=b"x", capture_output=True).returncode == 0
    last = state()
    for name in ("descriptors", "groups", "mounts"):
        assert abs(last[name] - first[name]) <= 3, (name, first, last)
    assert last["kB"] - first["kB"] < 1024, (first, last)


def test_many_containers_and_execs(rootfs: str) -> None:
    plan = fastctr.Plan(rootfs=rootfs)
    first: dict[str, int] = {}
    for n in range(220):
        with plan.container(["sleep", "60"], stdout=fastctr.PIPE) as c:
            command = c.exec(["cat"], stdin=fastctr.PIPE, stdout=fastctr.PIPE)
            assert command.communicate(b"x") == (b"x", None)
            if n % 2:
                command.close()
            c.stats()
        if n == 20:
            first = state()
    last = state()
    for name in ("descriptors", "groups", "mounts"):
        assert abs(last[name] - first[name]) <= 3, (name, first, last)
    assert last["kB"] - first["kB"] < 1024, (first, last)


def test_failed_launches(rootfs: str) -> None:
    plan = fastctr.Plan(rootfs=rootfs, memory="64m")
    first: dict[str, int] = {}
    for n in range(320):
        with pytest.raises(fastctr.CommandNotFound):
            plan.run(["no-such-command"], capture_output=True)
        with pytest.raises(fastctr.LaunchError):
            plan.run(["true"], cwd="/nowhere")
        if n == 20:
            first = state()
    last = state()
    for name in ("descriptors", "groups", "mounts"):
        assert abs(last[name] - first[name]) <= 12, (name, first, last)
    assert last["kB"] - first["kB"] < 1024, (first, last)


def test_a_new_context_each_time(rootfs: str) -> None:
    first: dict[str, int] = {}
    for n in range(60):
        assert fastctr.run(["true"], rootfs=rootfs).returncode == 0
        fastctr.shutdown()
        if n == 10:
            first = {"descriptors": len(os.listdir("/proc/self/fd")), "groups": groups(), "kB": resident()}
    last = {"descriptors": len(os.listdir("/proc/self/fd")), "groups": groups(), "kB": resident()}
    assert last["descriptors"] == first["descriptors"]
    assert last["groups"] == first["groups"] == 0
    assert last["kB"] - first["kB"] < 1024, (first, last)
