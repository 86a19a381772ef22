"""init=True: a PID 1 of ours above the command, which needs no file in the root."""

from __future__ import annotations

import os
import signal
import time

import pytest
from support import inside, lines, run, running, sh, wait_for

import fastctr

pytestmark = pytest.mark.needs_root


def test_the_command_is_not_pid_1(rootfs):
    assert sh("echo $$ $PPID", rootfs=rootfs, init=True) == "2 1\n"
    assert sh("echo $$", rootfs=rootfs) == "1\n"


def test_it_needs_no_file(rootfs):
    with running(rootfs, init=True) as box:
        assert os.readlink(f"/proc/{box.pid}/exe").startswith("/memfd:")
        assert open(f"/proc/{box.pid}/cmdline").read().startswith("fctr-init")
        assert not os.path.exists(inside(box.pid, "/fctr-stub"))


@pytest.mark.parametrize("code", [0, 1, 7, 255])
def test_exit_codes(rootfs, code):
    assert run(["sh", "-c", f"exit {code}"], rootfs=rootfs, init=True).returncode == code


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGKILL, signal.SIGSEGV])
def test_death_by_signal(rootfs, number):
    done = run(["sh", "-c", f"kill -{int(number)} $$"], rootfs=rootfs, init=True)
    assert done.returncode == -number
    assert done.killed_by == "signal"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2, signal.SIGINT])
def test_signals_are_passed_on(rootfs, number):
    with running(rootfs, f"trap 'echo got; exit 5' {int(number)}; echo ready; while :; do sleep 0.05; done", init=True) as box:
        box.send_signal(number)
        wait_for(box.stdout, "got")
        assert box.wait(5) == 5


def test_terminate_ends_what_has_no_handler(rootfs):
    """As PID 1 it would take no notice: pid_namespaces(7)."""
    with running(rootfs, init=True) as box:
        box.terminate()
        assert box.wait(5) == -signal.SIGTERM
    with running(rootfs) as box:
        box.terminate()
        with pytest.raises(fastctr.TimeoutExpired):
            box.wait(0.2)


def test_orphans_are_reaped(rootfs, probe):
    done = run(["/probe", "orphans", "30"], rootfs=rootfs, init=True, volumes={probe: "/probe:ro"})
    assert done.stdout == "0\n"


def test_children_end_with_the_command(rootfs):
    start = time.monotonic()
    assert sh("sleep 33 & sleep 33 & echo done", rootfs=rootfs, init=True) == "done\n"
    assert time.monotonic() - start < 10


def test_command_not_found_and_not_executable(rootfs):
    with pytest.raises(fastctr.CommandNotFound) as caught:
        run(["no-such"], rootfs=rootfs, init=True)
    assert caught.value.exit_code == 127
    with pytest.raises(fastctr.CommandNotExecutable):
        run(["/etc/passwd"], rootfs=rootfs, init=True)


def test_init_has_the_rights_of_the_command_and_no_more(rootfs):
    with running(rootfs, init=True, user="alice") as box:
        text = open(f"/proc/{box.pid}/status").read()
        assert "CapEff:\t0000000000000000" in text
        assert "Seccomp:\t2" in text
        assert "Uid:\t1000\t1000" in text


def test_output_ends_when_the_command_does(rootfs):
    assert lines("echo a; echo b", rootfs=rootfs, init=True) == ["a", "b"]
    with fastctr.Container(["sh", "-c", "echo x"], rootfs=rootfs, init=True, stdout=fastctr.PIPE) as box:
        assert box.stdout.read() == b"x\n"
        assert box.wait(5) == 0


@pytest.mark.parametrize("how", [{"uid_map": [(0, 100000, 65536)]}, {"writable": "disk"}, {"memory": "64m"}])
def test_with_other_things(rootfs, how):
    assert sh("echo $$; exit 0", rootfs=rootfs, init=True, **how) == "2\n"


def test_killing_the_init_ends_everything(rootfs):
    with running(rootfs, "sleep 50 & echo ready; wait", init=True) as box:
        pids = box.pids()
        assert len(pids) == 3
        os.kill(box.pid, signal.SIGKILL)
        assert box.wait(5) == -9
        assert not any(os.path.exists(f"/proc/{pid}") for pid in pids)
