"""Prepared containers have their process already, asleep: nothing of it may show in the job, and none may stay."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import fastctr

pytestmark = pytest.mark.needs_root


def parked(launcher: int | None = None) -> list[int]:
    """The pids of the parked processes of a launcher."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                text = Path("/proc", entry, "stat").read_text()
            except OSError:
                continue
            name, rest = text[text.index("(") + 1 : text.rindex(")")], text[text.rindex(")") + 2 :].split()
            if name == "fctr-parked" and int(rest[1]) == (launcher or os.getpid()) and rest[0] != "Z":
                found.append(int(entry))
    return found


def name_of(pid: int) -> str:
    """Whoever its parent is by now: it holds its owner's lock as long as it is there at all."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    dead = text[text.rindex(")") + 2] in "ZX"  # waiting for its parent, with nothing in its hands
    return "" if dead else text[text.index("(") + 1 : text.rindex(")")]


@pytest.fixture
def plan(rootfs: str):
    """A plan with three prepared containers, or a skip where the kernel prepares no pid namespace."""
    from fastctr import context

    with fastctr.Plan(rootfs=rootfs, memory="64m", pids=32) as plan:
        plan.warm(3)
        if not parked():
            release = tuple(int(part) for part in os.uname().release.split(".")[:2])
            assert release < (6, 18), context.get().counters()
            pytest.skip("needs Linux 6.18, where a pid namespace can be prepared with its /proc")
        yield plan


def test_they_are_there_and_go(plan: fastctr.Plan) -> None:
    assert len(parked()) == 3
    assert plan.run(["sh", "-c", "echo $$"], capture_output=True).stdout == b"1\n"
    plan.close()
    assert parked() == []


def test_one_is_as_safe_as_the_launcher_until_it_is_the_job(rootfs: str, plan: fastctr.Plan) -> None:
    """Whoever may not trace the launcher may not trace it: its user and capabilities are the launcher's."""
    with fastctr.Plan(rootfs=rootfs, user="1000") as other:
        other.warm(2)
        mine = {line.split(":")[0]: line.split()[1:] for line in open("/proc/self/status")}
        for pid in parked():
            status = {line.split(":")[0]: line.split()[1:] for line in open(f"/proc/{pid}/status")}
            assert status["Uid"] == mine["Uid"] and status["CapPrm"] == mine["CapPrm"]
            assert (status["Seccomp"], status["NoNewPrivs"]) == (["2"], ["1"])
            assert os.getsid(pid) == pid, "a terminal's signals would reach it"
        job = other.run(["cat", "/proc/self/status"], capture_output=True, text=True).stdout
        assert "Uid:\t1000\t1000" in job and "CapPrm:\t0000000000000000" in job and "Seccomp_filters:\t1" in job


def test_nothing_of_the_launcher_shows(plan: fastctr.Plan, tmp_path: Path) -> None:
    with open(tmp_path / "secret", "w") as secret:
        os.set_inheritable(secret.fileno(), True)
        plan.warm(3)
        job = plan.run(["sh", "-c", "ls -l /proc/self/fd; cat /proc/self/comm; umask"], capture_output=True,
                  text=True)  # fmt: skip
        assert "secret" not in job.stdout and "\ncat\n" in job.stdout and job.stdout.endswith("0022\n")


@pytest.mark.parametrize("what", ["limit", "nice", "affinity", "oom"])
def test_what_a_job_inherits_is_the_launchers_of_now(plan: fastctr.Plan, what: str) -> None:
    if what == "limit":
        old = resource.getrlimit(resource.RLIMIT_CORE)
        resource.setrlimit(resource.RLIMIT_CORE, (4096, old[1]))
        try:
            assert plan.run(["sh", "-c", "ulimit -c"], capture_output=True).stdout == b"8\n"
        finally:
            resource.setrlimit(resource.RLIMIT_CORE, old)
    elif what == "nice":
        old_nice = os.getpriority(os.PRIO_PROCESS, 0)
        os.setpriority(os.PRIO_PROCESS, 0, 7)
        try:
            stat = plan.run(["cat", "/proc/self/stat"], capture_output=True).stdout.split()
            assert stat[18] == b"7"
        finally:
            os.setpriority(os.PRIO_PROCESS, 0, old_nice)
    elif what == "affinity":
        cpus = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {min(cpus)})
        try:
            assert plan.run(["nproc"], capture_output=True).stdout == b"1\n"
        finally:
            os.sched_setaffinity(0, cpus)
    else:
        score = Path("/proc/self/oom_score_adj")
        before = score.read_text()
        score.write_text("321")
        try:
            assert plan.run(["cat", "/proc/1/oom_score_adj"], capture_output=True).stdout == b"321\n"
        finally:
            score.write_text(before)
    for _ in range(4):
        assert plan.run(["sh", "-c", "exit 3"]).returncode == 3


def test_one_that_was_killed_is_not_used(plan: fastctr.Plan) -> None:
    for pid in parked()[:2]:
        os.kill(pid, signal.SIGKILL)
    time.sleep(0.05)
    for _ in range(4):
        assert plan.run(["sh", "-c", "exit 3"]).returncode == 3


def test_a_failed_start(plan: fastctr.Plan) -> None:
    for _ in range(2):
        with pytest.raises(fastctr.CommandNotFound):
            plan.run(["no-such-command"])
        with pytest.raises(fastctr.LaunchError, match="/nowhere"):
            plan.run(["true"], cwd="/nowhere")
    assert plan.run(["true"]).returncode == 0


@pytest.mark.parametrize("call", ["setresuid", "capset", "dup3", "futex", "chdir", "setsid", "sched_setaffinity"])
def test_a_filter_that_the_start_could_not_go_on_under(rootfs: str, call: str) -> None:
    profile = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": [call], "action": "SCMP_ACT_ERRNO"}]}
    with fastctr.Plan(rootfs=rootfs, seccomp=profile, user="1000") as plan:
        plan.warm(1)
        job = plan.run(["cat", "/proc/self/status"], capture_output=True, text=True)
        assert "Uid:\t1000" in job.stdout and "Seccomp:\t2" in job.stdout


def test_a_terminal_and_an_init(rootfs: str) -> None:
    with fastctr.Plan(rootfs=rootfs, init=True) as plan:
        plan.warm(2)
        assert plan.run(["sh", "-c", "cat /proc/1/comm; exit 4"], capture_output=True).returncode == 4
        with plan.container(["sh", "-c", "test -t 0 && stty size"], tty=(33, 44)) as c:
            assert c.tty is not None
            assert b"33 44" in c.tty.read(100)
            assert c.wait(5) == 0


def test_processors_are_given_back(plan: fastctr.Plan) -> None:
    """Launcher and job share one for a moment; neither may stay there."""
    before = os.sched_getaffinity(0)
    for argv in (["true"], ["sleep", "0.01"], ["no-such-command"], ["sleep", "5"]):
        try:
            plan.run(argv, timeout=0.02)
        except (fastctr.CommandNotFound, fastctr.TimeoutExpired):
            pass
        assert os.sched_getaffinity(0) == before, argv
    job = plan.run(["cat", "/proc/self/status"], capture_output=True, text=True).stdout
    mine = next(line for line in open("/proc/self/status") if line.startswith("Cpus_allowed_list"))
    assert mine in job


CHILD = """
import os, sys, fastctr
plan = fastctr.Plan(rootfs=sys.argv[1])
plan.warm(3)
print("ready", flush=True)
sys.stdin.readline()
os.execv("/bin/sleep", ["sleep", "60"])
"""


@pytest.mark.parametrize("how", ["kill", "exec", "exit"])
def test_they_go_with_their_launcher(rootfs: str, plan: fastctr.Plan, how: str) -> None:
    code = CHILD if how != "exit" else CHILD.replace("os.execv", "sys.exit() or os.execv")
    child = subprocess.Popen([sys.executable, "-c", code, rootfs], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdin is not None and child.stdout is not None
    try:
        assert child.stdout.readline() == b"ready\n"
        pids = parked(child.pid)
        assert len(pids) == 3
        if how == "kill":
            child.kill()
        else:
            child.stdin.write(b"\n")
            child.stdin.close()
        until = time.monotonic() + 20
        while alive := [pid for pid in pids if name_of(pid) == "fctr-parked"]:
            assert time.monotonic() < until, alive
            time.sleep(0.02)
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
        child.stdin.close()
    fastctr.gc()


def test_a_fork_leaves_the_parents_alone(plan: fastctr.Plan, rootfs: str) -> None:
    before = set(parked())
    pid = os.fork()
    if pid == 0:
        try:
            code = fastctr.run(["sh", "-c", "exit 5"], rootfs=rootfs).returncode
            fastctr.shutdown()
            os._exit(code)
        finally:
            os._exit(99)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 5
    assert set(parked()) == before
    assert plan.run(["true"]).returncode == 0


BIG = """
import sys, fastctr
limits = dict(part.split("=") for part in sys.argv[3:])
with fastctr.Plan(rootfs=sys.argv[1], memory=sys.argv[2] or None, pids=32) as plan:
    plan.warm(3)
    ends = []
    for _ in range(6):
        try:
            ends.append(fastctr.run(["/bin/true", *["x" * 100_000] * 18], plan=plan, **limits).returncode)
        except fastctr.LaunchError as error:
            assert error.stage == "exec", error
            ends.append(error.stage)
print("alive", *sorted(set(map(str, ends))))
"""


@pytest.mark.parametrize(("memory", "limits", "ends"), [
    ("512k", [], "exec"), ("1500k", [], "exec"), ("16m", [], "0"), ("64m", ["memory=512k"], "exec"), ("", [], "0")])
def test_a_group_too_small_for_the_exec_does_not_cost_the_launcher_its_life(
        rootfs: str, memory: str, limits: list[str], ends: str) -> None:
    """Out of memory in a group, the kernel kills all who share its victim's memory: those have no parked process."""
    done = subprocess.run([sys.executable, "-c", BIG, rootfs, memory, *limits], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"alive {ends}\n"), done.stderr


def test_none_below_a_group_that_somebody_has_limited(rootfs: str, plan: fastctr.Plan) -> None:
    """There the victim may be chosen for others' memory. A group above our own is another matter."""
    assert len(parked()) == 3
    v1 = Path("/sys/fs/cgroup/memory")
    top = v1 if v1.is_dir() else Path("/sys/fs/cgroup")
    name = f"fctr-test-{os.getpid()}"
    group = top / name
    group.mkdir()
    try:
        with fastctr.Plan(rootfs=rootfs, memory="64m", cgroup_parent=name) as free:
            free.warm(2)
            assert len(parked()) == 5
        (group / ("memory.limit_in_bytes" if v1.is_dir() else "memory.max")).write_text("200000000")
        time.sleep(0.15)
        with fastctr.Plan(rootfs=rootfs, memory="64m", cgroup_parent=name, hostname="other") as held:
            held.warm(2)
            assert len(parked()) == 3
            assert held.run(["/bin/true"]).returncode == 0
    finally:
        fastctr.shutdown()
        if group.is_dir():
            group.rmdir()
