"""The figures of a container are true: by work of known size, and never those of the job before."""

from __future__ import annotations

import os
import time

import pytest

import fastctr
import leaks_support
from fastctr import context
from support import run, running

pytestmark = pytest.mark.needs_root

BURN = "i=0; while [ $i -lt 150000 ]; do i=$((i+1)); done"


@pytest.mark.needs_controller("cpuacct")
def test_cpu_time_is_what_was_burnt(rootfs: str) -> None:
    began = os.times()
    done = run(["sh", "-c", BURN + "; times"], rootfs=rootfs)
    ended = os.times()
    usage = done.usage
    from_times = sum(_seconds(word) for word in done.stdout.split())
    assert usage.cpu_total == pytest.approx(from_times, rel=0.2, abs=0.05)
    assert usage.cpu_user + usage.cpu_system == pytest.approx(usage.cpu_total, rel=0.05, abs=0.02)
    assert usage.cpu_user > usage.cpu_system
    assert usage.cpu_total >= 0.02
    assert ended.children_user - began.children_user <= usage.cpu_total + 0.1


def _seconds(text: str) -> float:
    """ "0m0.123s" as times(1) prints it."""
    minutes, _, seconds = text.rstrip("s").partition("m")
    return float(minutes) * 60 + float(seconds)


def test_cpu_time_in_the_kernel(rootfs: str) -> None:
    usage = run(["dd", "if=/dev/zero", "of=/dev/null", "bs=1M", "count=8000"], rootfs=rootfs).usage
    assert usage.cpu_system > usage.cpu_user


@pytest.mark.needs_controller("memory")
@pytest.mark.parametrize("megabytes", [40, 100])
def test_memory_peak(rootfs: str, megabytes: int) -> None:
    usage = run(["sh", "-c", f"dd if=/dev/zero of=/tmp/x bs=1M count={megabytes} 2>/dev/null"], rootfs=rootfs).usage
    assert usage.memory_peak == pytest.approx(megabytes << 20, rel=0.2)


@pytest.mark.needs_controller("memory")
def test_memory_now_and_limit(rootfs: str) -> None:
    script = "dd if=/dev/zero of=/tmp/x bs=1M count=50 2>/dev/null; echo ready; exec sleep 60"
    with running(rootfs, script, memory="128m") as c:
        usage = c.stats()
        assert usage.memory_current == pytest.approx(50 << 20, rel=0.2)
        assert usage.memory_limit == 128 << 20
    assert c.usage.memory_peak == pytest.approx(50 << 20, rel=0.2)


@pytest.mark.needs_controller("pids")
def test_pids_now_and_peak(rootfs: str) -> None:
    script = "for i in 1 2 3 4 5 6 7; do sleep 60 & done; echo ready; wait"
    with running(rootfs, script) as c:
        assert c.stats().pids_current == 8
        assert len(c.pids()) == 8
        assert c.pid in c.pids()
    assert c.usage.pids_peak in (None, 8)  # the kernel tells since 6.1 (v2: 6.6)


@pytest.mark.needs_controller("memory")
def test_oom_kills(rootfs: str) -> None:
    done = run(["sh", "-c", "(tail /dev/zero) ; (tail /dev/zero); exit 0"], rootfs=rootfs, memory="20m", memory_swap="20m")
    assert done.usage.oom_kills == 2
    assert done.returncode == 0
    assert done.killed_by is None  # the command itself ended well
    assert run(["true"], rootfs=rootfs, memory="20m").usage.oom_kills == 0


@pytest.mark.needs_controller("cpu")
def test_throttling_is_counted(rootfs: str) -> None:
    usage = run(["sh", "-c", BURN], rootfs=rootfs, cpus=0.1).usage
    assert usage.nr_throttled > 0
    assert usage.throttled > 0


def test_a_recycled_group_has_no_figures_of_the_last_job(rootfs: str) -> None:
    plan = fastctr.Plan(rootfs=rootfs, memory="160m", pids=64, cpus=2)
    heavy = f"({BURN}) & dd if=/dev/zero of=/tmp/x bs=1M count=60 2>/dev/null; for i in $(seq 20); do sleep 0.1 & done; wait"
    for _ in range(4):
        big = plan.run(["sh", "-c", heavy]).usage
        assert big.memory_peak > 55 << 20
        for _ in range(4):
            small = plan.run(["true"]).usage
            assert small.cpu_total < 0.05 < big.cpu_total + 0.05
            assert small.cpu_total < big.cpu_total / 2
            assert small.memory_peak < 20 << 20
            assert small.pids_peak in (None, 1)
            assert small.oom_kills == 0
            assert small.nr_throttled in (None, 0)
    for _ in range(3):
        killed = plan.run(["tail", "/dev/zero"])
        assert killed.killed_by == "oom"
        after = plan.run(["true"])
        assert after.usage.oom_kills == 0
        assert after.killed_by is None
    assert context.get().counters()["cg_reused"] > 0


def test_stats_after_the_end_stay(rootfs: str) -> None:
    with fastctr.Container(["sh", "-c", BURN], rootfs=rootfs) as c:
        c.wait(30)
        first = c.stats().as_dict()
        time.sleep(0.05)
        assert c.stats().as_dict() == first
        assert c.usage.cpu_total > 0
    assert c.stats().as_dict() == first


def test_usage_without_a_group(rootfs: str) -> None:
    usage = run(["sh", "-c", BURN], rootfs=rootfs, cgroup=False).usage
    assert usage.cpu_user > 0.02
    assert usage.memory_peak is None
    assert "cpu_user" in repr(usage)
    assert "memory_peak" not in repr(usage)
    with running(rootfs, cgroup=False) as c, pytest.raises(fastctr.FastctrError, match="group"):
        c.stats()


def test_io_is_counted(rootfs: str) -> None:
    usage = run(["true"], rootfs=rootfs).usage
    assert usage.io_read_bytes is None or usage.io_read_bytes >= 0


def test_where_the_groups_are(rootfs: str) -> None:
    with running(rootfs, memory="64m") as c:
        paths = c.cgroups
        assert any("memory" in name for name in paths) or "unified" in paths
        for path in paths.values():
            assert str(c.pid) in open(f"{path}/cgroup.procs").read().split()
    for path in paths.values():
        fastctr.shutdown()
        assert not os.path.exists(path)


def test_an_own_parent(rootfs: str) -> None:
    name = f"fctr-test-{os.getpid()}"
    with running(rootfs, cgroup_parent=f"/{name}/deeper", memory="64m") as c:
        assert all(f"/{name}/deeper/" in path for path in c.cgroups.values())
    fastctr.shutdown()
    for mount in leaks_support.cgroup_mounts():
        assert not os.path.exists(f"{mount}/{name}"), "parents that we made go with the last group"


def test_exec_counts_for_the_container(rootfs: str) -> None:
    with running(rootfs) as c:
        before = c.stats().cpu_total
        c.exec(["sh", "-c", BURN]).wait(30)
        assert c.stats().cpu_total > before + 0.02
