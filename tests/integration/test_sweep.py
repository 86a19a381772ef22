"""Clearing away after the dead: only after the dead, and only what was ours."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time

import leaks_support
import pytest
from support import run

import fastctr

pytestmark = pytest.mark.needs_root

HOLDER = """
import sys, fastctr
boxes = [fastctr.Container(["sleep", "300"], rootfs=sys.argv[1], stdin=fastctr.DEVNULL, writable=w) for w in ("tmpfs", "disk")]
print(*[b.pid for b in boxes], flush=True)
sys.stdin.read()
"""


def holder(rootfs: str, runtime_dir: str | None = None):
    """A process of its own with two running containers, and their pids."""
    env = dict(os.environ)
    if runtime_dir:
        env["FASTCTR_RUNTIME_DIR"] = runtime_dir
    made = subprocess.Popen([sys.executable, "-c", HOLDER, rootfs], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env)
    return made, [int(word) for word in made.stdout.readline().split()]


def alive(pids) -> bool:
    return all(os.path.exists(f"/proc/{pid}/cwd") and " Z " not in open(f"/proc/{pid}/stat").read() for pid in pids)


def end(process: subprocess.Popen, number: int) -> None:
    process.send_signal(number)
    process.wait(10)
    process.stdin.close()
    process.stdout.close()


def gone(pids, seconds=5.0) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if not any(os.path.exists(f"/proc/{pid}") for pid in pids):
            return True
        time.sleep(0.02)
    return False


def test_containers_die_with_their_process_and_the_next_start_clears_away(rootfs):
    process, pids = holder(rootfs)
    scratch = [f"/var/tmp/{n}" for n in os.listdir("/var/tmp") if n.startswith(f"fastctr-{process.pid}-")]
    assert len(pids) == 2
    assert scratch
    end(process, signal.SIGKILL)
    assert gone(pids)
    code = "import sys, fastctr; fastctr.run(['true'], rootfs=sys.argv[1], check=True)"
    subprocess.run([sys.executable, "-c", code, rootfs], check=True, timeout=30)  # its first start
    assert not [path for path in scratch if os.path.exists(path)]
    tag = leaks_support.runtime_tag(os.environ["FASTCTR_RUNTIME_DIR"])
    assert leaks_support.groups(tag) == set()


def test_gc_says_how_many(rootfs):
    process, pids = holder(rootfs)
    assert fastctr.gc() == 0
    end(process, signal.SIGKILL)
    assert gone(pids)
    assert fastctr.gc() >= 1
    assert fastctr.gc() == 0


def test_the_living_are_left_alone(rootfs):
    process, pids = holder(rootfs)
    try:
        for _ in range(3):
            fastctr.shutdown()
            fastctr.gc()
            assert alive(pids)
    finally:
        end(process, signal.SIGTERM)
    assert gone(pids)
    fastctr.gc()


def test_another_runtime_directory_is_another_world(rootfs, tmp_path):
    """Its owners have no lock with us, which says nothing of them."""
    process, pids = holder(rootfs, str(tmp_path / "other"))
    try:
        fastctr.gc()
        run(["true"], rootfs=rootfs)
        assert alive(pids)
    finally:
        end(process, signal.SIGTERM)
    assert gone(pids)
    env = {**os.environ, "FASTCTR_RUNTIME_DIR": str(tmp_path / "other")}
    subprocess.run([sys.executable, "-c", "import fastctr; fastctr.gc()"], env=env, check=True)
    assert os.listdir(tmp_path / "other") == []


def test_a_lost_lock_file_is_not_a_death(rootfs, tmp_path):
    """Somebody cleans /run. The process is there, so its containers stay."""
    process, pids = holder(rootfs, str(tmp_path / "other"))
    try:
        for name in os.listdir(tmp_path / "other"):
            os.unlink(tmp_path / "other" / name)
        env = {**os.environ, "FASTCTR_RUNTIME_DIR": str(tmp_path / "other")}
        subprocess.run([sys.executable, "-c", "import fastctr; fastctr.gc()"], env=env, check=True)
        assert alive(pids)
    finally:
        end(process, signal.SIGTERM)
    assert gone(pids)
    subprocess.run([sys.executable, "-c", "import fastctr; fastctr.gc()"], env=env, check=True)
    for name in os.listdir("/var/tmp"):  # which of these are its own stood in the file that was lost
        if name.startswith(f"fastctr-{process.pid}-"):
            shutil.rmtree(f"/var/tmp/{name}")


def groups_of(pid: int) -> list[str]:
    return [f"{mount}/fastctr/{name}" for mount in leaks_support.cgroup_mounts() if os.path.isdir(f"{mount}/fastctr")
            for name in os.listdir(f"{mount}/fastctr") if name.startswith(f"{pid}-")]


def test_the_dead_of_a_runtime_directory_that_is_gone(rootfs, tmp_path):
    """Nobody will ever start with that directory again, so it is whoever comes next."""
    process, pids = holder(rootfs, str(tmp_path / "other"))
    assert groups_of(process.pid)
    end(process, signal.SIGKILL)
    assert gone(pids)
    shutil.rmtree(tmp_path / "other")
    fastctr.gc()  # it may not be the first: another test run sweeps, too
    assert groups_of(process.pid) == []
    for name in os.listdir("/var/tmp"):  # which of these are its own stood in the file that was lost
        if name.startswith(f"fastctr-{process.pid}-"):
            shutil.rmtree(f"/var/tmp/{name}")


@pytest.mark.parametrize("who", ["alive", "of another pid namespace", "of an older form"])
def test_who_is_not_known_to_be_dead_keeps_its_groups(rootfs, who):
    ours, dead = os.stat("/proc/self/ns/pid").st_ino, 99999999
    name = {"alive": f"{os.getpid()}-1-abc-{ours:x}-1.1", "of another pid namespace": f"{dead}-1-abc-{ours + 1:x}-1.1",
            "of an older form": f"{dead}-1-abc-1.1"}[who]  # fmt: skip
    run(["true"], rootfs=rootfs)
    mount = next(m for m in leaks_support.cgroup_mounts() if os.path.isdir(f"{m}/fastctr"))
    os.mkdir(f"{mount}/fastctr/{name}")
    try:
        fastctr.gc()
        assert os.path.isdir(f"{mount}/fastctr/{name}")
    finally:
        os.rmdir(f"{mount}/fastctr/{name}")


@pytest.mark.parametrize("name", ["web", "1234", "1-2-3", "docker-0123456789abcdef.scope", "99999999-1-abcdef"])
def test_other_peoples_groups_below_a_parent_are_not_touched(rootfs, name):
    parent = f"fastctr-test-{os.getpid()}"
    places = [f"{mount}/{parent}/{name}" for mount in leaks_support.cgroup_mounts()
              if os.path.exists(f"{mount}/cgroup.procs") and "systemd" not in mount and "cpuset" not in mount]
    for place in places:
        os.makedirs(place)
    with subprocess.Popen(["sleep", "60"]) as victim:
        try:
            for place in places:
                with open(f"{place}/cgroup.procs", "w") as file:
                    file.write(str(victim.pid))
            assert run(["true"], rootfs=rootfs, cgroup_parent="/" + parent).returncode == 0
            fastctr.gc()
            time.sleep(0.05)
            assert victim.poll() is None
            assert all(os.path.isdir(place) for place in places)
        finally:
            victim.kill()
            victim.wait()
            fastctr.shutdown()
            for place in places:
                for path in (place, os.path.dirname(place)):
                    for _ in range(100):
                        try:
                            os.rmdir(path)
                            break
                        except OSError:
                            time.sleep(0.02)


def test_other_files_in_the_runtime_directory_stay(rootfs, tmp_path):
    place = tmp_path / "mine"
    place.mkdir(mode=0o700)
    (place / "notes.txt").write_text("precious")
    (place / "12-34").write_text("x")
    os.mkfifo(place / "pipe")
    (place / "folder").mkdir()
    (place / "1-2-abc-ff.1").write_text(f"{tmp_path}/keep\n")  # an owner's name, but no scratch of ours in it
    (tmp_path / "keep").mkdir()
    env = {**os.environ, "FASTCTR_RUNTIME_DIR": str(place)}
    subprocess.run([sys.executable, "-c", "import fastctr; fastctr.gc()"], env=env, check=True, timeout=20)
    assert sorted(os.listdir(place)) == ["12-34", "folder", "notes.txt", "pipe"]
    assert (tmp_path / "keep").is_dir()
