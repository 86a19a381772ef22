"""Slots: one job plants, the next looks; what cannot be proven clean does not come back."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time

import pytest

fastctr = pytest.importorskip("fastctr")
from fastctr.slots import Slots  # noqa: E402
from support import keepers, printed as out, until  # noqa: E402

pytestmark = pytest.mark.needs_root
CLEAN = "shm 0 sem 0 msg 0\nmq 0 posix-shm 0\nabstract 0\nroot 755 "


@pytest.fixture
def slots(planting):
    with Slots(rootfs=planting, size=1, tmpfs=["/scratch"], files={"/etc/given": "as it was, as it was\n"}) as made:
        made.warmup()
        yield made


def settled(slots: Slots) -> dict[str, int]:
    """The metrics, once nothing is being torn down or made."""
    from fastctr import context

    context.get().drain(True)
    return slots.metrics()


def test_a_slot_is_used_again(slots):
    kinds = ("mnt", "net", "ipc", "uts", "cgroup", "pid")
    script = "; ".join(f"readlink /proc/self/ns/{kind}" for kind in kinds)
    first, second = (out(slots, "sh", "-c", script).split() for _ in range(2))
    assert first[:-1] == second[:-1]
    assert slots.metrics()["destroyed"] == 0
    assert out(slots, "sh", "-c", "echo $$; ls /proc | grep -c '^[0-9]'").split()[0] == "1"


@pytest.mark.parametrize("what", ["shm", "sem", "msg", "mq", "posix-shm", "abstract", "udp", "xattr"])
def test_nothing_planted_is_found(slots, what):
    before = out(slots, "plant", "look")
    assert before.startswith(CLEAN)
    assert slots.run(["plant", what]).returncode == 0
    assert out(slots, "plant", "look") == before
    assert out(slots, "cat", "/proc/net/snmp") == out(slots, "cat", "/proc/net/snmp")


FILES = {
    "file": "echo x > /etc/planted",
    "change": "echo x > /etc/passwd",
    "removal": "rm /etc/passwd",
    "mode of the root": "chmod 777 /",
    "time of the root": "touch -d '2001-01-01' /",
    "directory": "mkdir /srv/a; rmdir /srv/a",
    "device": "rm /dev/null; echo x > /dev/null",
    "shm": "echo x > /dev/shm/x; mkdir -p /dev/shm/a/b; chmod 000 /dev/shm/a",
    "tmpfs": "echo x > /scratch/x; ln -s /etc /scratch/y; mkfifo /scratch/z",
    "mode of a tmpfs": "chmod 700 /scratch",
    "given file": "echo longer than it was > /etc/given",
    "given file, as long": "echo 'as it was, as it WAS' > /etc/given",
    "terminals": "chmod 600 /dev/pts/ptmx",
    "queues": "chmod 700 /dev/mqueue",
}
LOOK = ("cat /etc/given /etc/passwd; ls -lnR --full-time /etc /srv /dev /scratch 2>&1 | grep -v '^total'; stat -c '%n %a %u' / /etc;"
        " [ $(stat -c %Y /) -gt 1500000000 ] && echo of today; ls -la /dev/null; ls /proc | grep -v '^[0-9]' | head -2")


@pytest.mark.parametrize("script", FILES.values(), ids=FILES.keys())
def test_files_are_as_they_were(planting, script):
    def look(slots: Slots) -> list[str]:
        return [" ".join(line.split()[:5]) for line in out(slots, "sh", "-c", LOOK).splitlines()]

    with Slots(rootfs=planting, size=1, tmpfs=["/scratch"], files={"/etc/given": "as it was, as it was\n"}) as slots:
        before = look(slots)
        slots.run(["sh", "-c", script], stderr=fastctr.DEVNULL)
        assert look(slots) == before


def test_a_write_through_a_mapping_is_seen(slots):
    assert slots.run(["plant", "map", "/etc/given"]).returncode == 0
    assert settled(slots)["destroyed"] == 1
    assert out(slots, "cat", "/etc/given") == "as it was, as it was\n"


def test_a_tmpfs_is_emptied_in_place(slots):
    for _ in range(5):
        assert out(slots, "sh", "-c", "ls /scratch /dev/shm; mkdir -p /scratch/a/b; echo x > /scratch/a/b/c; echo y > /dev/shm/z") == (
            "/dev/shm:\n\n/scratch:\n")
    assert slots.metrics()["destroyed"] == 0


def test_processes_end_with_the_job(slots):
    out(slots, "sh", "-c", "setsid sleep 60 >/dev/null 2>&1 & setsid sleep 61 >/dev/null 2>&1 & sleep 0.05")
    assert "sleep" not in out(slots, "ps")
    assert slots.metrics()["destroyed"] == 0


def test_environment_and_descriptors_are_the_jobs_own(slots):
    out(slots, "env", env={"SECRET": "x"})
    assert "SECRET" not in out(slots, "env")
    read, write = os.pipe()
    try:
        out(slots, "sh", "-c", "echo x >&9", pass_fds={9: write})
        assert out(slots, "ls", "/proc/self/fd").split() == ["0", "1", "2", "3"]
    finally:
        os.close(read)
        os.close(write)


def test_figures_are_of_the_job_alone(planting):
    with Slots(rootfs=planting, size=1, memory="64m", pids=40) as slots:
        busy = slots.run(["sh", "-c", "i=0; while [ $i -lt 60000 ]; do i=$((i+1)); done; for i in 1 2 3 4 5; do true & done; wait"])
        calm = [slots.run(["true"]) for _ in range(3)]
        assert busy.usage.cpu_total > 5 * max(done.usage.cpu_total for done in calm)
        assert busy.usage.pids_peak > 2
        assert all(done.usage.pids_peak in (1, None) for done in calm)
        assert all(done.usage.oom_kills == 0 for done in calm)


def test_out_of_memory_is_told_for_that_job_alone(planting):
    with Slots(rootfs=planting, size=1, memory="16m") as slots:
        hungry = ["sh", "-c", "x=aaaaaaaa; while :; do x=$x$x; done"]
        for _ in range(2):
            assert slots.run(hungry, timeout=20).killed_by == "oom"
            assert slots.run(["true"]).killed_by is None
            assert slots.run(["sh", "-c", "sh -c 'kill -9 $$'"]).killed_by is None


def test_a_timeout_ends_everything(slots):
    with pytest.raises(fastctr.TimeoutExpired) as caught:
        slots.run(["sh", "-c", "trap '' TERM; setsid sleep 47.5 & sleep 47.5"], timeout=0.3)
    assert caught.value.completed.killed_by == "timeout"
    assert "47.5" not in subprocess.run(["ps", "ax"], capture_output=True, text=True).stdout


def test_a_fork_bomb_and_a_flood(planting):
    with Slots(rootfs=planting, size=1, pids=30) as slots:
        with pytest.raises(fastctr.TimeoutExpired):
            slots.run(["plant", "fork"], timeout=0.5)
        done = slots.run(["sh", "-c", "yes | head -c 3000000"], capture_output=True, output_limit=1000, timeout=20)
        assert len(done.stdout) == 1000
        assert done.truncated == ("stdout",)
        assert slots.run(["true"]).returncode == 0


def test_many_at_once(planting):
    with Slots(rootfs=planting, size=3) as slots:
        wrong = []

        def work(n: int) -> None:
            for i in range(30):
                if out(slots, "sh", "-c", f"ls /dev/shm; echo {n} > /dev/shm/{n}; echo {i}") != f"{i}\n":
                    wrong.append((n, i))

        threads = [threading.Thread(target=work, args=(n,)) for n in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []
        assert slots.metrics()["done"] == 150
        assert [done.returncode for done in slots.map([["sh", "-c", f"exit {n}"] for n in range(9)])] == list(range(9))


def test_the_keeper_is_out_of_a_jobs_reach(slots):
    before = keepers()
    assert len(before) == 1
    assert b"keep" not in out(slots, "sh", "-c", "cat /proc/[0-9]*/cmdline").encode()
    for number in (before[0], 0):  # neither by its number here, nor by one of the job's own
        assert slots.run(["plant", "trace", str(number)]).returncode != 0
    assert slots.run(["sh", "-c", "kill -9 -1"]).returncode in (0, 1, -9)
    assert keepers() == before


def test_a_killed_keeper_costs_its_slot(slots):
    running = []

    def job() -> None:
        running.append(slots.run(["sleep", "0.6"]))

    thread = threading.Thread(target=job)
    thread.start()
    time.sleep(0.2)
    os.kill(keepers()[0], signal.SIGKILL)
    thread.join()
    assert running[0].returncode == 0  # the job is the launcher's own child
    assert settled(slots)["destroyed"] == 1
    assert slots.run(["true"]).returncode == 0
    for _ in range(3):
        settled(slots)
        for pid in keepers():
            os.kill(pid, signal.SIGKILL)
        try:
            slots.run(["true"])
        except fastctr.LaunchError as error:
            assert "keeper" in str(error)
        assert slots.run(["true"]).returncode == 0


def test_a_missing_command_is_told_as_ever(slots):
    with pytest.raises(fastctr.CommandNotFound):
        slots.run(["/nope"])
    with pytest.raises(fastctr.LaunchError, match="nowhere"):
        slots.run(["true"], cwd="/nowhere")
    assert slots.run(["true"]).returncode == 0


def test_a_large_argument_list(slots):
    words = [f"{n:0100d}" for n in range(3000)]
    assert out(slots, "sh", "-c", 'echo $#', *words) == "2999\n"


def test_user_and_rights_are_those_of_any_container(planting):
    script = "id; grep -E '^(Cap|Seccomp:|NoNewPrivs|Groups)' /proc/self/status; pwd; umask; hostname; echo $HOME"
    for fields in ({}, {"user": "alice"}, {"user": "1000:50", "cap_drop": ["ALL"]}, {"no_new_privs": False}):
        plain = fastctr.run(["sh", "-c", script], rootfs=planting, capture_output=True, text=True, **fields)
        with Slots(rootfs=planting, size=1, **fields) as slots:
            for _ in range(2):
                assert out(slots, "sh", "-c", script) == plain.stdout
    with Slots(rootfs=planting, size=1) as slots:  # one job's own user is not the next one's
        assert "1000" in out(slots, "id", user="alice")
        assert "uid=0" in out(slots, "id")


def test_calls_of_a_keeper_are_no_jobs(planting):
    """The filter that lets a keeper through is the job's, too: without the secret they fail as ever."""
    script = "unshare -m true; mount -t tmpfs x /mnt; nsenter -t 1 -m true; hostname other"
    plain = fastctr.run(["sh", "-c", script], rootfs=planting, capture_output=True, text=True)
    with Slots(rootfs=planting, size=1) as slots:
        done = slots.run(["sh", "-c", script], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == (plain.stdout, plain.stderr)


REFUSED = {
    "network": {"network": "host"},
    "ipc": {"ipc": "host"},
    "pid": {"pid": "host"},
    "userns": {"userns": True},
    "upper": {"upper": "/tmp/fastctr-never-made"},
    "writable": {"writable": "disk"},
    "init": {"init": True},
    "cgroup": {"cgroup": False},
    "cap_add": {"cap_add": ["SYS_ADMIN"]},
    "seccomp": {"seccomp": "unconfined"},
    "readonly_paths": {"readonly_paths": []},
    "mounts": {"mounts": [fastctr.Cgroup(read_only=False)]},
}


@pytest.mark.parametrize("field", REFUSED)
def test_what_cannot_be_kept_clean_is_refused(planting, field):
    with pytest.raises(fastctr.SpecError, match=field):
        Slots(rootfs=planting, **REFUSED[field])


def test_sysctls_are_there_for_each_job(planting):
    name = "net.ipv4.ip_unprivileged_port_start"
    with Slots(rootfs=planting, size=1, sysctls={name: 7, "kernel.msgmax": 9000}) as slots:
        for _ in range(2):
            assert out(slots, "cat", "/proc/sys/" + name.replace(".", "/"), "/proc/sys/kernel/msgmax") == "7\n9000\n"


def test_cancel_kills_what_runs_and_close_starts_no_more(planting):
    with Slots(rootfs=planting, size=1) as slots:
        slow, waiting = slots.submit(["sleep", "1000"]), slots.submit(["true"])
        until(lambda: slots.metrics()["running"])
        assert slow.cancel()
        assert waiting.result(10).returncode == 0
        until(lambda: slots.metrics()["killed"] == 1)
        last, never = slots.submit(["sh", "-c", "sleep 0.2; exit 3"]), slots.submit(["true"])
        until(lambda: slots.metrics()["running"])
    assert (last.result(0).returncode, never.cancelled()) == (3, True)


def test_in_the_child_of_a_fork(planting):
    """Also while every container of the parent is busy."""
    with Slots(rootfs=planting, size=1) as slots:
        busy = threading.Thread(target=slots.run, args=(["sleep", "0.6"],))
        busy.start()
        until(lambda: slots.metrics()["running"])
        pid = os.fork()
        if pid == 0:
            code = 9
            try:
                signal.alarm(20)
                code = slots.run(["sh", "-c", "exit 5"]).returncode
                slots.close()
                fastctr.shutdown()
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 5
        busy.join()
        assert slots.run(["true"]).returncode == 0


def test_a_batch_of_slots_leaves_nothing(planting):
    """More jobs than pid namespaces are made ahead, so that what they leave is cleared away several times."""
    with Slots(rootfs=planting, size=1) as slots:
        counts = [int(out(slots, "sh", "-c", "wc -l < /proc/self/mountinfo")) for _ in range(40)]
        assert max(counts) < 120
        assert slots.metrics()["destroyed"] == 0
