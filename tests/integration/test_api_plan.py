"""Plans: compiled once, launched by anybody, any number of times."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest

import fastctr
from fastctr import context
from support import run, running


def test_one_plan_many_launches(rootfs: str) -> None:
    plan = fastctr.Plan(rootfs=rootfs, env={"A": "plan"})
    for n in range(30):
        done = plan.run(["sh", "-c", f"echo $A; exit {n}"], capture_output=True)
        assert (done.returncode, done.stdout) == (n, b"plan\n")
    assert context.get().counters()["warm_hits"] > 0


def test_nothing_is_handed_from_job_to_job(rootfs: str) -> None:
    plan = fastctr.Plan(rootfs=rootfs)
    script = "ls /tmp /dev/shm /run; touch /tmp/t /dev/shm/s /run/r /root-file; echo /root*; set -- /proc/[0-9]*; echo $#"
    first = [plan.run(["sh", "-c", script], capture_output=True, text=True).stdout for _ in range(8)]
    assert set(first) == {first[0]}


def test_launch_time_keywords(rootfs: str) -> None:
    plan = fastctr.Plan(rootfs=rootfs, env={"A": "1", "B": "1"}, cwd="/etc")
    done = plan.run(["sh", "-c", "echo $A$B; pwd"], env={"B": "2"}, capture_output=True, text=True)
    assert done.stdout == "12\n/etc\n"
    assert plan.run(["pwd"], cwd="/bin", capture_output=True, text=True).stdout == "/bin\n"
    assert plan.run(["pwd"], capture_output=True, text=True).stdout == "/etc\n"
    with pytest.raises(fastctr.SpecError, match="hostname"):
        plan.run(["true"], hostname="other")
    with pytest.raises(fastctr.LaunchError) as caught:
        plan.run(["true"], cwd="/nowhere")
    assert "/nowhere" in str(caught.value)


@pytest.mark.needs_root
def test_limits_of_one_launch_are_of_that_launch(rootfs: str) -> None:
    plan = fastctr.Plan(rootfs=rootfs, memory="64m", pids=20)
    limit = ["sh", "-c", "for i in $(seq 12); do sleep 0.2 & done 2>&1; wait"]
    for _ in range(3):
        tight = plan.run(limit, pids=4, memory="32m", capture_output=True, text=True)
        assert "fork" in tight.stdout + tight.stderr
        assert tight.usage.memory_limit == 32 << 20
        wide = plan.run(limit, capture_output=True, text=True)
        assert "fork" not in wide.stdout + wide.stderr
        assert wide.usage.memory_limit == 64 << 20
    with_object = plan.run(["true"], limits=fastctr.Limits(memory="16m"))
    assert with_object.usage.memory_limit == 16 << 20
    with_dict = plan.run(["true"], limits={"memory": "17m"}, pids=3)
    assert with_dict.usage.memory_limit == 17 << 20
    with pytest.raises(fastctr.SpecError):
        plan.run(["true"], limits=fastctr.Limits(memory="16m"), pids=3)


def test_limits_without_a_group_are_refused(rootfs: str) -> None:
    plan = fastctr.Plan(rootfs=rootfs, cgroup=False)
    assert plan.run(["true"]).returncode == 0
    with pytest.raises(fastctr.FastctrError, match="group"):
        plan.run(["true"], memory="16m")


def test_container_of_a_plan(rootfs: str) -> None:
    plan = fastctr.Plan(rootfs=rootfs)
    with plan.container(["sh", "-c", "exit 3"]) as c:
        assert c.wait(10) == 3


def test_close_and_use_again(rootfs: str) -> None:
    plan = fastctr.Plan(rootfs=rootfs)
    with plan:
        plan.run(["true"], check=True)
        kept = plan.container(["sleep", "60"])
    assert kept.poll() is None  # what runs stays
    plan.run(["true"], check=True)
    kept.close()
    assert kept.returncode == -9


def test_after_shutdown_everything_begins_anew(rootfs: str) -> None:
    plan = fastctr.Plan(rootfs=rootfs)
    for _ in range(5):
        plan.run(["true"], check=True)
        fastctr.shutdown()
        fastctr.shutdown()


def test_warm(rootfs: str) -> None:
    plan = fastctr.Plan(rootfs=rootfs)
    plan.warm(3)
    before = context.get().counters()
    assert before["warm"] >= 3
    for _ in range(3):
        plan.run(["true"], check=True)
    assert context.get().counters()["warm_hits"] >= before["warm_hits"] + 3
    plan.warm(0)
    for bad in (-1, 2000, "1", 1.5):
        with pytest.raises(ValueError):
            plan.warm(bad)


def test_the_same_spec_is_one_plan(rootfs: str) -> None:
    from fastctr.plan import plan_for

    assert plan_for(fastctr.Spec(rootfs=rootfs, memory="64m")) is plan_for(fastctr.Spec(rootfs=rootfs, memory=64 << 20))
    assert plan_for(fastctr.Spec(rootfs=rootfs)) is not plan_for(fastctr.Spec(rootfs=rootfs, init=True))


def test_run_with_a_spec(rootfs: str) -> None:
    spec = fastctr.Spec(rootfs=rootfs, hostname="one")
    assert fastctr.run(["hostname"], spec=spec, capture_output=True).stdout == b"one\n"
    assert fastctr.run(["hostname"], spec=spec, hostname="two", capture_output=True).stdout == b"two\n"


def test_more_specs_than_are_kept_from_many_threads(rootfs: str) -> None:
    """The cache of plans lets go of one that another thread is about to launch."""
    wrong: list[Any] = []

    def work(start: int) -> None:
        for n in range(60):
            name = f"h{(start * 7 + n * 3) % 90}"
            try:
                done = fastctr.run(["hostname"], rootfs=rootfs, hostname=name, capture_output=True, text=True)
                if done.stdout != name + "\n":
                    wrong.append((name, done))
            except Exception as error:  # noqa: BLE001 whatever it is, it is wrong
                wrong.append((name, error))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_closed_while_others_launch_it(rootfs: str) -> None:
    plan = fastctr.Plan(rootfs=rootfs)
    wrong: list[Any] = []
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            try:
                if plan.run(["true"]).returncode != 0:
                    wrong.append("exit status")
            except ValueError as error:  # "the plan is closed": between core() and the launch
                assert "closed" in str(error)
            except Exception as error:  # noqa: BLE001
                wrong.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(40):
        plan.close()
        stop.wait(0.02)
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_the_hosts_mounts_are_seen_as_they_are_now(fresh_rootfs: str, tmp_path: Path) -> None:
    """What is prepared is made anew when its source was replaced."""
    source = tmp_path / "data"
    source.mkdir()
    (source / "name").write_text("old")
    plan = fastctr.Plan(rootfs=fresh_rootfs, volumes=[f"{source}:/mnt:ro"])
    for _ in range(5):
        assert plan.run(["cat", "/mnt/name"], capture_output=True).stdout == b"old"
    source.rename(tmp_path / "moved")
    source.mkdir()
    (source / "name").write_text("new")
    for _ in range(5):
        assert plan.run(["cat", "/mnt/name"], capture_output=True).stdout == b"new"


@pytest.mark.needs_root
def test_scratch_on_disk_is_one_directory_of_ours(rootfs: str, tmp_path: Path) -> None:
    place = tmp_path / "scratch"
    place.mkdir()
    for n in range(3):
        done = run(["sh", "-c", "echo x > /written; cat /written"], rootfs=rootfs, writable="disk",
                   scratch_dir=str(place), hostname=f"h{n}")  # fmt: skip
        assert done.stdout == "x\n"
    assert len(os.listdir(place)) == 1
    fastctr.shutdown()
    assert os.listdir(place) == []


@pytest.mark.needs_root
def test_a_forked_child_does_not_remove_our_scratch(rootfs: str, tmp_path: Path) -> None:
    place = tmp_path / "scratch"
    place.mkdir()
    with running(rootfs, writable="disk", scratch_dir=str(place)) as c:
        pid = os.fork()
        if pid == 0:
            try:
                import atexit

                atexit._run_exitfuncs()
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        assert len(os.listdir(place)) == 1
        out, _ = c.exec(["sh", "-c", "echo y > /w && cat /w"], stdout=fastctr.PIPE, text=True).communicate()
        assert out == "y\n"
