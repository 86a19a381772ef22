"""Resident: many commands in one container, started by keepers that nobody inside can reach."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time

import pytest

fastctr = pytest.importorskip("fastctr")
from fastctr.resident import Resident  # noqa: E402
from support import keepers, until, printed as out  # noqa: E402


@pytest.fixture
def resident(planting):
    with Resident(rootfs=planting) as made:
        yield made


def test_all_is_shared(resident):
    out(resident, "sh", "-c", "echo x > /etc/planted; echo y > /dev/shm/y; sleep 60 >/dev/null 2>&1 &")
    assert out(resident, "cat", "/etc/planted", "/dev/shm/y") == "x\ny\n"
    until(lambda: "sleep 60" in out(resident, "ps"))  # it may not have come to its exec
    names = {out(resident, "readlink", f"/proc/self/ns/{kind}") for kind in ("pid", "mnt") for _ in range(2)}
    assert len(names) == 2


def test_a_command_is_as_one_of_a_container(planting):
    script = "id; grep -E '^(Cap|Seccomp:|NoNewPrivs|Groups)' /proc/self/status; pwd; umask; hostname; env | sort; ls /proc/self/fd"
    for fields in ({}, {"user": "alice", "env": {"A": "b"}}, {"user": "1000:50", "cap_drop": ["ALL"]}, {"userns": True, "uid_map": [(0, 100000, 65536)], "gid_map": [(0, 100000, 65536)]},
                   {"seccomp": "unconfined"}, {"network": "host"}):
        if fields.get("userns") is None and os.geteuid() != 0 and "user" in fields:
            continue
        plain = fastctr.run(["sh", "-c", script], rootfs=planting, capture_output=True, text=True, **fields)
        with Resident(rootfs=planting, **fields) as resident:
            for _ in range(2):
                assert out(resident, "sh", "-c", script) == plain.stdout


def test_status_signal_and_input(resident):
    assert resident.run(["sh", "-c", "exit 3"]).returncode == 3
    done = resident.run(["sh", "-c", "kill -TERM $$"])
    assert (done.returncode, done.killed_by) == (-15, "signal")
    assert resident.run(["cat"], input="hi", capture_output=True, text=True).stdout == "hi"
    with pytest.raises(fastctr.CalledProcessError):
        resident.run(["false"], check=True)
    with pytest.raises(fastctr.CommandNotFound):
        resident.run(["/nope"])
    with pytest.raises(fastctr.LaunchError, match="nowhere"):
        resident.run(["true"], cwd="/nowhere")
    assert resident.metrics() == {"done": 3, "failed": 2, "killed": 1, "restarts": 0}


def test_orphans_are_reaped(resident):
    out(resident, "sh", "-c", "for i in 1 2 3 4; do sh -c 'sleep 0.05 & exit' & done; wait")
    time.sleep(0.3)
    assert "[" not in out(resident, "sh", "-c", "ps | grep sleep | grep -v grep || true")


def test_several_at_once_from_any_thread(resident):
    begin, seen = time.monotonic(), []

    def work(n: int) -> None:
        seen.append(out(resident, "sh", "-c", f"sleep 0.4; echo {n}"))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(seen) == sorted(f"{n}\n" for n in range(12))
    assert time.monotonic() - begin < 4


def test_a_timeout_ends_the_command_and_its_group(resident):
    with pytest.raises(fastctr.TimeoutExpired) as caught:
        resident.run(["sh", "-c", "sleep 48.5 & sleep 48.5"], timeout=0.2)
    assert caught.value.completed.killed_by == "timeout"
    time.sleep(0.05)
    assert "48.5" not in out(resident, "ps")


@pytest.mark.needs_root
def test_out_of_memory(planting):
    with Resident(rootfs=planting, memory="24m") as resident:
        hungry = ["sh", "-c", "x=aaaaaaaa; while :; do x=$x$x; done"]
        for _ in range(2):
            assert resident.run(hungry, timeout=20).killed_by == "oom"
            assert resident.run(["sh", "-c", "kill -9 $$"]).killed_by == "signal"
        assert resident.run(["true"]).returncode == 0


@pytest.mark.needs_root
def test_a_fork_bomb(planting):
    with Resident(rootfs=planting, pids=40) as resident:
        with pytest.raises(fastctr.TimeoutExpired):
            resident.run(["plant", "fork"], timeout=0.4)
        assert resident.run(["true"], timeout=10).returncode == 0


def test_nobody_inside_reaches_the_keeper_or_ends_the_first_process(resident):
    assert resident.run(["true"]).returncode == 0
    before = keepers()
    assert before
    listing = out(resident, "sh", "-c", "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '")
    assert "fctr-keep" not in listing
    assert resident.run(["plant", "trace", "1"]).returncode != 0
    assert resident.run(["plant", "trace", str(before[0])]).returncode != 0
    for path in ("/proc/1/mem", "/proc/1/exe", "/proc/1/fd/0"):
        assert resident.run(["sh", "-c", f"echo x > {path}"], stderr=fastctr.DEVNULL).returncode != 0
    assert resident.run(["sh", "-c", "kill -9 1; kill -TERM 1; kill -STOP 1; true"]).returncode == 0
    resident.run(["sh", "-c", "kill -9 -1"])
    assert resident.run(["true"]).returncode == 0
    assert resident.metrics()["restarts"] == 0
    assert set(before) <= set(keepers())


def test_a_killed_keeper_is_replaced(resident):
    assert resident.run(["true"]).returncode == 0
    for _ in range(3):
        for pid in keepers():
            os.kill(pid, signal.SIGKILL)
        try:
            resident.run(["true"])
        except fastctr.LaunchError as error:
            assert "keeper" in str(error)
        assert resident.run(["true"]).returncode == 0
    assert resident.metrics()["restarts"] == 0


def test_a_killed_container_is_started_again(resident):
    first = out(resident, "readlink", "/proc/self/ns/pid")
    ended = []
    thread = threading.Thread(target=lambda: ended.append(resident.run(["sleep", "30"])))
    thread.start()
    time.sleep(0.3)
    os.kill(resident._container.pid, signal.SIGKILL)
    thread.join()
    assert (ended[0].returncode, ended[0].killed_by) == (-9, "signal")
    assert out(resident, "readlink", "/proc/self/ns/pid") != first
    assert resident.metrics()["restarts"] == 1


def test_what_is_of_the_whole_container_is_refused(resident, planting):
    for name, value in (("limits", {"memory": "1m"}), ("user", "alice"), ("files", {"/x": "y"}), ("outputs", ["/x"]), ("memory", "1m"),
                        ("user", 0)):
        with pytest.raises(fastctr.SpecError, match=name):
            resident.run(["true"], **{name: value})
    if os.geteuid() == 0:
        with pytest.raises(fastctr.SpecError, match="pid"):
            Resident(rootfs=planting, pid="host")


def test_in_the_child_of_a_fork(planting):
    """Also while every container of the parent is busy."""
    with Resident(rootfs=planting) as resident:
        busy = threading.Thread(target=resident.run, args=(["sleep", "0.6"],))
        busy.start()
        until(lambda: resident._inside)
        pid = os.fork()
        if pid == 0:
            code = 9
            try:
                signal.alarm(20)
                code = resident.run(["sh", "-c", "exit 5"]).returncode
                resident.close()
                fastctr.shutdown()
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 5
        busy.join()
        assert resident.run(["true"]).returncode == 0


def test_closed_with_commands_running(planting):
    resident = Resident(rootfs=planting)
    ended = []

    def work() -> None:
        try:
            ended.append(resident.run(["sleep", "49.5"]).returncode)
        except (fastctr.LaunchError, ValueError):
            ended.append(-9)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    resident.close()
    for thread in threads:
        thread.join(10)
    assert ended == [-9, -9, -9]
    assert "49.5" not in subprocess.run(["ps", "ax"], capture_output=True, text=True).stdout
    with pytest.raises(ValueError, match="closed"):
        resident.run(["true"])
