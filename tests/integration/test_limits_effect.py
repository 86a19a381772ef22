"""Every limit by hitting it, and what happens where the machine lacks the controller."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from pathlib import Path

import pytest

import fastctr
import leaks_support
from support import run, running, sh

pytestmark = pytest.mark.needs_root

SPIN = "while :; do :; done"


# ---- memory


@pytest.mark.needs_controller("memory")
@pytest.mark.parametrize("kind", [{}, {"init": True}, {"pid": "host"}], ids=["plain", "init", "pid-host"])
def test_memory_hog_is_killed_and_called_oom(rootfs: str, kind: dict[str, object]) -> None:
    done = run(["tail", "/dev/zero"], rootfs=rootfs, memory="24m", memory_swap="24m", **kind)
    assert done.returncode == -9
    assert done.killed_by == "oom"
    assert done.usage.oom_kills >= 1
    assert done.usage.memory_peak <= 25 << 20


@pytest.mark.needs_controller("memory")
def test_a_shell_whose_child_was_killed(rootfs: str) -> None:
    done = run(["sh", "-c", "tail /dev/zero; exit $?"], rootfs=rootfs, memory="24m")
    assert done.returncode == 137
    assert done.killed_by == "oom"


@pytest.mark.needs_controller("memory")
def test_a_limit_too_small_to_start_with_kills_the_job_and_not_us(rootfs: str) -> None:
    for size in (65536, 128 << 10, 256 << 10):
        try:
            done = run(["tail", "/dev/zero"], rootfs=rootfs, memory=size)
        except fastctr.LaunchError as error:
            assert error.errno
        else:
            assert done.returncode != 0
            assert done.killed_by == "oom"
    assert run(["true"], rootfs=rootfs).returncode == 0


@pytest.mark.needs_controller("memory")
def test_a_tmpfs_counts_as_memory(rootfs: str) -> None:
    done = run(["dd", "if=/dev/zero", "of=/tmp/x", "bs=1M", "count=60"], rootfs=rootfs, memory="32m", memory_swap="32m")
    assert done.killed_by == "oom"


@pytest.mark.needs_controller("memory")
def test_swap_is_limited_too(rootfs: str) -> None:
    with open("/proc/swaps") as file:
        swap = len(file.readlines()) > 1
    files = [f"{mount}/{name}" for mount in leaks_support.cgroup_mounts()
             for name in ("memory.memsw.limit_in_bytes", "cgroup.controllers") if os.path.exists(f"{mount}/{name}")]  # fmt: skip
    if not swap and not files:
        pytest.skip("needs swap accounting, which this kernel does not have")
    try:
        with running(rootfs, memory="32m", memory_swap="48m") as c:
            path = next(path for name, path in c.cgroups.items() if "memory" in name.split(",") or name == "unified")
            for name, value in (("memory.memsw.limit_in_bytes", 48 << 20), ("memory.swap.max", 16 << 20)):
                if os.path.exists(f"{path}/{name}"):
                    assert int(Path(f"{path}/{name}").read_text()) == value
    except fastctr.FastctrError as error:
        assert "swap" in str(error)  # noqa: PT017 a clear word where the kernel has no swap accounting
    with pytest.raises(fastctr.SpecError, match="memory_swap"):
        run(["true"], rootfs=rootfs, memory="32m", memory_swap="16m")


# ---- pids


@pytest.mark.needs_controller("pids")
def test_fork_bomb_stops_at_pids(rootfs: str) -> None:
    bomb = "b() { b | b & }; b 2>/dev/null; sleep 0.5; echo over"
    began = time.monotonic()
    with contextlib.suppress(fastctr.TimeoutExpired):
        done = fastctr.run(["sh", "-c", bomb], rootfs=rootfs, pids=24, timeout=3, capture_output=True)
        assert done.usage.pids_peak in (None, *range(1, 25))
    assert time.monotonic() - began < 15


@pytest.mark.needs_controller("pids")
def test_pids_exactly(rootfs: str) -> None:
    script = "for i in 1 2 3 4 5 6 7 8; do sleep 60 & done; echo ready; wait"
    with fastctr.Container(["sh", "-c", script], rootfs=rootfs, pids=5, stdout=fastctr.PIPE, stderr=fastctr.DEVNULL) as c:
        time.sleep(0.3)
        assert len(c.pids()) <= 5
    assert run(["true"], rootfs=rootfs, pids=1).returncode == 0
    assert run(["sh", "-c", "sleep 0 & wait"], rootfs=rootfs, pids=1).returncode != 0


# ---- cpu


def _cpu_share(rootfs: str, seconds: float, **kw: object) -> float:
    with running(rootfs, f"echo ready; {SPIN}", **kw) as c:
        time.sleep(0.3)
        first, began = c.stats().cpu_total, time.monotonic()
        time.sleep(seconds)
        return (c.stats().cpu_total - first) / (time.monotonic() - began)


@pytest.mark.needs_controller("cpu")
@pytest.mark.parametrize("kind", [{"cpus": 0.2}, {"cpu_quota": 20000, "cpu_period": 100000}], ids=["cpus", "quota"])
def test_quota_holds(rootfs: str, kind: dict[str, object]) -> None:
    shares = []
    for _ in range(3):  # a busy machine gives less than the quota, never more
        shares.append(_cpu_share(rootfs, 2.0, **kind))
        assert shares[-1] < 0.23
        if shares[-1] > 0.17:
            return
    pytest.skip(f"needs a less busy machine: it gave {max(shares):.2f} of the 0.2 allowed")


@pytest.mark.needs_controller("cpu")
@pytest.mark.needs_controller("cpuset")
@pytest.mark.parametrize("kind", ["cpu_weight", "cpu_shares"])
def test_weights_share_a_core(rootfs: str, kind: str) -> None:
    low, high = (100, 400) if kind == "cpu_weight" else (256, 1024)
    cpu = str(max(os.sched_getaffinity(0)))
    ratios = []
    for _ in range(3):
        with running(rootfs, f"echo ready; {SPIN}", cpuset_cpus=cpu, **{kind: low}) as small, \
                running(rootfs, f"echo ready; {SPIN}", cpuset_cpus=cpu, **{kind: high}) as big:  # fmt: skip
            before = small.stats().cpu_total, big.stats().cpu_total
            time.sleep(1.5)
            after = small.stats().cpu_total, big.stats().cpu_total
        ratios.append((after[1] - before[1]) / max(after[0] - before[0], 1e-3))
        if 3.0 < ratios[-1] < 5.3:
            return
    pytest.fail(f"4 to 1 was asked for, and these came: {ratios}")


@pytest.mark.needs_controller("cpuset")
def test_cpuset(rootfs: str) -> None:
    cpu = max(os.sched_getaffinity(0))
    text = sh("grep Cpus_allowed_list /proc/self/status; grep Mems_allowed_list /proc/self/status", rootfs=rootfs,
              cpuset_cpus=str(cpu), cpuset_mems="0")  # fmt: skip
    assert text.split() == ["Cpus_allowed_list:", str(cpu), "Mems_allowed_list:", "0"]
    with pytest.raises(fastctr.SpecError, match="cpuset_cpus"):
        run(["true"], rootfs=rootfs, cpuset_cpus="900")


# ---- block devices


def _disk_of(path: Path) -> str | None:
    """The whole disk that a path lies on, as /dev/vda."""
    number = os.stat(path).st_dev
    link = f"/sys/dev/block/{os.major(number)}:{os.minor(number)}"
    if not os.path.exists(link):
        return None
    name = os.path.realpath(link)
    if os.path.exists(f"{name}/partition"):
        name = os.path.dirname(name)
    found = "/dev/" + os.path.basename(name)
    return found if os.path.exists(found) else None


@pytest.mark.needs_controller("blkio")
def test_bytes_a_second(rootfs: str) -> None:
    place = Path("/var/tmp")
    disk = _disk_of(place)
    if disk is None:
        pytest.skip("needs /var/tmp on a block device")
    host = f"{place}/fctr-io-{os.getpid()}"
    os.mkdir(host)
    try:
        write = ["dd", "if=/dev/zero", "of=/io/x", "bs=256k", "count=8", "oflag=direct"]
        began = time.monotonic()
        free = run(write, rootfs=rootfs, volumes=[f"{host}:/io"])
        quick = time.monotonic() - began
        if free.returncode != 0:
            pytest.skip("needs a disk that takes O_DIRECT")
        began = time.monotonic()
        try:
            done = run(write, rootfs=rootfs, volumes=[f"{host}:/io"], device_write_bps=[f"{disk}:1m"])
        except fastctr.FastctrError as error:
            pytest.skip(f"needs a kernel that limits this disk: {error}")
        slow = time.monotonic() - began
        assert done.returncode == 0
        assert slow > 1.2, f"2 MB at 1 MB a second took {slow:.2f} s, without a limit {quick:.2f} s"
        assert done.usage.io_write_bytes is None or done.usage.io_write_bytes >= 2 << 20
    finally:
        subprocess.run(["rm", "-rf", host], check=True)


@pytest.mark.needs_controller("hugetlb")
def test_huge_pages(rootfs: str) -> None:
    if not os.path.isdir("/sys/kernel/mm/hugepages/hugepages-2048kB"):
        pytest.skip("needs huge pages of 2 MB, which this kernel does not have")
    with running(rootfs, hugetlb={"2MB": "4m"}) as c:
        limits = [Path(f"{path}/{name}").read_text() for path in c.cgroups.values()
                  for name in ("hugetlb.2MB.max", "hugetlb.2MB.limit_in_bytes") if os.path.exists(f"{path}/{name}")]  # fmt: skip
        assert [int(limit) for limit in limits] == [4 << 20]


# ---- devices


@pytest.mark.needs_controller("devices")
def test_device_rules(rootfs: str) -> None:
    caps = {"cap_add": ["MKNOD"], "tmpfs": {"/d": "dev"}}
    make = "mknod /d/kmsg c 1 11 2>/dev/null && head -c 1 /d/kmsg"
    assert run(["sh", "-c", make], rootfs=rootfs, tmpfs={"/d": "dev"}).returncode != 0
    text = sh("head -c 4 /dev/zero | wc -c; echo x > /dev/null; head -c 3 /dev/urandom | wc -c", rootfs=rootfs)
    assert text.split() == ["4", "3"]
    allowed = run(["sh", "-c", "mknod /d/full c 1 7 && ! echo x > /d/full"], rootfs=rootfs, **caps)
    assert allowed.returncode == 0, allowed.stderr
    major, minor = 1, 11
    denied = run(["sh", "-c", "mknod /d/k c 1 11; head -c 1 /d/k"], rootfs=rootfs, **caps)
    assert denied.returncode != 0
    given = run(["sh", "-c", "mknod /d/k c 1 11 && dd if=/d/k of=/dev/null count=0 iflag=nonblock 2>/dev/null; echo $?"],
                rootfs=rootfs, device_cgroup_rules=[f"c {major}:{minor} rwm"], **caps)  # fmt: skip
    assert given.returncode == 0


# ---- what is not there


@pytest.mark.needs_v1
def test_unified_without_the_controller_is_refused(rootfs: str) -> None:
    with pytest.raises(fastctr.FastctrError) as caught:
        run(["true"], rootfs=rootfs, unified={"memory.high": "32m"})
    assert "memory.high" in str(caught.value)


def test_a_controller_that_is_not_there(rootfs: str) -> None:
    """Each limit is either kept or refused in words that name it."""
    asked = {
        "hugetlb": {"hugetlb": {"1GB": "1g"}},
        "cpu_idle": {"cpu_idle": 1},
        "cpu_burst": {"cpus": 0.5, "cpu_burst": 1000},
        "memory_swappiness": {"memory_swappiness": 10},
        "memory_reservation": {"memory_reservation": "16m"},
        "io_weight": {"io_weight": 50},
        "memory_swap": {"memory": "32m", "memory_swap": "64m"},
    }
    for name, limit in asked.items():
        try:
            assert run(["true"], rootfs=rootfs, **limit).returncode == 0, name
        except fastctr.FastctrError as error:
            text = str(error)
            assert len(text) > 20, (name, text)
            assert "; " in text, (name, text)


def test_a_refused_limit_of_a_launch_leaves_the_plan_usable(rootfs: str) -> None:
    plan = fastctr.Plan(rootfs=rootfs, memory="64m")
    for _ in range(3):
        with contextlib.suppress(fastctr.FastctrError):
            plan.run(["true"], unified={"nothing.here": "1"})
        with contextlib.suppress(fastctr.FastctrError):
            plan.run(["true"], hugetlb={"1GB": "1g"})
        assert plan.run(["true"]).usage.memory_limit == 64 << 20


# ---- while it runs


def test_update_takes_effect(rootfs: str) -> None:
    with running(rootfs, f"echo ready; {SPIN}", cpus=1) as c:
        c.update(cpus=0.1)
        time.sleep(0.2)
        first, began = c.stats().cpu_total, time.monotonic()
        time.sleep(1)
        assert (c.stats().cpu_total - first) / (time.monotonic() - began) < 0.14
    with running(rootfs, "echo ready; read x; tail /dev/zero", memory="256m") as c:
        c.update(memory="24m", memory_swap="24m")
        hog = c.exec(["tail", "/dev/zero"])
        assert hog.wait(30) == -9
        assert c.stats().oom_kills >= 1
        c.update(pids=200)
        c.update(cpu_shares=100)


def test_update_does_not_reach_the_next_job(rootfs: str) -> None:
    plan = fastctr.Plan(rootfs=rootfs, memory="64m")
    for _ in range(3):
        with plan.container(["sleep", "60"]) as c:
            c.update(memory="20m")
        assert plan.run(["true"]).usage.memory_limit == 64 << 20
