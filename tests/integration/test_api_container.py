"""fastctr.Container beside subprocess.Popen, and what a container has more: exec, pause, update."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import threading
import time
from typing import Any

import pytest

import fastctr
from fastctr import DEVNULL, PIPE, STDOUT
from support import running, status_of

ROOT = pytest.mark.needs_root


def readable(fd: int, timeout: float = 10) -> bool:
    """select(2) stops at descriptor 1023, and a pidfd may be above."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(timeout * 1000))


def output(c: fastctr.Container, argv: list[str], **kw: Any) -> str:
    made = c.exec(argv, stdin=DEVNULL, stdout=PIPE, stderr=STDOUT, text=True, **kw)
    out, _ = made.communicate(timeout=20)
    made.close()
    return out


# ---- as Popen


def test_poll_wait_returncode(rootfs: str) -> None:
    with fastctr.Container(["sh", "-c", "read x; exit 5"], rootfs=rootfs, stdin=PIPE) as c:
        assert c.poll() is None
        assert c.returncode is None
        assert c.killed_by is None
        assert c.pid > 1
        c.stdin.write(b"go\n")
        c.stdin.close()
        assert c.wait(10) == 5
        assert c.poll() == 5
        assert c.returncode == 5
        assert c.wait() == 5


def test_wait_times_out_and_can_be_tried_again(rootfs: str) -> None:
    with fastctr.Container(["sleep", "60"], rootfs=rootfs) as c:
        began = time.monotonic()
        with pytest.raises(fastctr.TimeoutExpired) as caught:
            c.wait(timeout=0.2)
        assert 0.15 < time.monotonic() - began < 5
        assert isinstance(caught.value, subprocess.TimeoutExpired)
        assert c.poll() is None
        c.kill()
        assert c.wait(10) == -9
        assert c.killed_by == "signal"


def test_communicate_five_megabytes_both_ways(rootfs: str) -> None:
    data = os.urandom(5 << 20)
    with fastctr.Container(["tee", "/dev/stderr"], rootfs=rootfs, stdin=PIPE, stdout=PIPE, stderr=PIPE) as c:
        out, err = c.communicate(data, timeout=60)
    assert out == data
    assert err == data
    assert c.returncode == 0


def test_communicate_goes_on_after_a_timeout(rootfs: str) -> None:
    with fastctr.Container(["sh", "-c", "echo one; read x; echo $x"], rootfs=rootfs, stdin=PIPE, stdout=PIPE, text=True) as c:
        reader = os.dup(c.stdin.fileno())
        try:
            with pytest.raises(fastctr.TimeoutExpired):
                c.stdin.flush()
                # the input is in the pipe only with the second call
                fastctr.Container.communicate(_held(c), timeout=0.2)
        finally:
            os.close(reader)
        c.kill()


def _held(c: fastctr.Container) -> fastctr.Container:
    """communicate() with no input closes stdin, and `read` ends: keep it from that."""
    c.stdin = None
    return c


def test_partial_output_of_communicate(rootfs: str) -> None:
    with fastctr.Container(["sh", "-c", "echo one; sleep 0.6; echo two"], rootfs=rootfs, stdout=PIPE, text=True) as c:
        with pytest.raises(fastctr.TimeoutExpired) as caught:
            c.communicate(timeout=0.2)
        assert caught.value.output == b"one\n"
        assert c.communicate(timeout=10) == ("one\ntwo\n", None)
        assert c.returncode == 0


def test_text_files(rootfs: str) -> None:
    with fastctr.Container(["cat"], rootfs=rootfs, stdin=PIPE, stdout=PIPE, encoding="latin-1") as c:
        c.stdin.write("grün\n")
        c.stdin.flush()
        assert c.stdout.readline() == "grün\n"
        assert c.communicate("ß", timeout=10)[0] == "ß"


def test_unknown_encoding_leaves_nothing(rootfs: str) -> None:
    for _ in range(3):
        with pytest.raises(LookupError):
            fastctr.Container(["sleep", "60"], rootfs=rootfs, stdin=PIPE, stdout=PIPE, encoding="no-such-encoding")


def test_leaving_with_kills_everything(rootfs: str) -> None:
    marker = f"32{os.getpid()}"
    script = f"trap '' TERM; (setsid sleep {marker}1 &); sleep {marker}2 & echo ready; sleep {marker}3"
    with running(rootfs, script) as c:
        assert len(c.pids()) >= 3
    assert c.returncode == -9
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                line = open(f"/proc/{name}/cmdline", "rb").read()
            except OSError:
                continue
            assert not (line.startswith(b"sleep") and marker.encode() in line)


def test_an_exception_leaves_with_too(rootfs: str) -> None:
    with pytest.raises(RuntimeError, match="mine"), running(rootfs) as c:
        raise RuntimeError("mine")
    assert c.returncode == -9


def test_dropping_it_kills_it(rootfs: str) -> None:
    c = running(rootfs)
    pidfd = os.pidfd_open(c.pid)
    try:
        del c
        assert readable(pidfd)
    finally:
        os.close(pidfd)


def test_pidfd_is_readable_at_its_end(rootfs: str) -> None:
    with fastctr.Container(["sh", "-c", "read x"], rootfs=rootfs, stdin=PIPE) as c:
        assert not readable(c.pidfd, 0)
        c.stdin.close()
        assert readable(c.pidfd)
        assert c.poll() is not None


def test_released_is_an_error_not_a_crash(rootfs: str) -> None:
    c = running(rootfs)
    c.close()
    c.close()
    assert c.poll() == -9
    assert c.stats().cpu_total is not None
    for call in (c.pids, c.pause, c.resume, lambda: c.cgroups, lambda: c.exec(["true"]), lambda: c.pidfd):
        with pytest.raises((ValueError, fastctr.FastctrError)):
            call()
    c.kill()
    c.terminate()


def test_methods_from_many_threads(rootfs: str) -> None:
    """Whatever the others do, close() in one of them is the end and not a crash."""
    for _ in range(10):
        c = running(rootfs)
        stop = threading.Event()

        def use(c: fastctr.Container = c, stop: threading.Event = stop) -> None:
            while not stop.is_set():
                try:
                    c.stats(), c.pids(), c.poll(), c.cgroups
                    c.exec(["true"]).close()
                except (ValueError, fastctr.FastctrError):
                    pass

        waiters = [threading.Thread(target=use) for _ in range(3)]
        waiters.append(threading.Thread(target=lambda c=c: c.wait()))
        for thread in waiters:
            thread.start()
        time.sleep(0.03)
        c.close()
        stop.set()
        for thread in waiters:
            thread.join()
        assert c.returncode == -9


# ---- signals of a container


def test_terminate_reaches_a_command_with_a_handler(rootfs: str) -> None:
    with running(rootfs, "trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done") as c:
        c.terminate()
        assert c.wait(10) == 9


def test_terminate_with_an_init(rootfs: str) -> None:
    with running(rootfs, init=True) as c:
        c.terminate()
        assert c.wait(10) == -15
        assert c.killed_by == "signal"


def test_send_signal(rootfs: str) -> None:
    with running(rootfs, "trap 'echo usr1; exit 0' USR1; echo ready; while :; do sleep 0.05; done") as c:
        c.send_signal(signal.SIGUSR1)
        assert c.communicate(timeout=10)[0] == b"usr1\n"
        c.send_signal(signal.SIGUSR1)  # as Popen: nothing to do


# ---- pause, resume, update


@ROOT
def test_pause_stops_the_clock(rootfs: str) -> None:
    with running(rootfs, "echo ready; while :; do :; done") as c:
        c.pause()
        first = c.stats().cpu_total
        time.sleep(0.3)
        assert c.stats().cpu_total - first < 0.05
        assert status_of(c.pid)["State"][0] in "DSTR"
        c.resume()
        first = c.stats().cpu_total
        time.sleep(0.3)
        assert c.stats().cpu_total - first > 0.05


@ROOT
@pytest.mark.parametrize("pid", ["private", "host"])
def test_a_paused_one_can_be_killed(rootfs: str, pid: str) -> None:
    with running(rootfs, pid=pid) as c:
        c.pause()
        c.kill()
        assert c.wait(10) == -9
    with running(rootfs, pid=pid) as c:
        c.pause()  # and left
    assert c.returncode == -9


@ROOT
def test_exec_into_a_paused_one_is_refused(rootfs: str) -> None:
    with running(rootfs) as c:
        c.pause()
        with pytest.raises(fastctr.LaunchError, match="resume"):
            c.exec(["true"])
        c.resume()
        assert output(c, ["echo", "x"]) == "x\n"


@ROOT
def test_pausing_an_exec_pauses_the_container(rootfs: str) -> None:
    with running(rootfs) as c:
        command = c.exec(["sleep", "60"])
        command.pause()
        command.kill()
        assert command.wait(10) == -9
        c.resume()
        assert c.poll() is None
        c.pause()
    assert c.returncode == -9


@ROOT
def test_update(rootfs: str) -> None:
    with running(rootfs, memory="64m", pids=32) as c:
        c.update(memory="48m", pids=3)
        assert c.stats().memory_limit == 48 << 20
        text = output(c, ["sh", "-c", "for i in 1 2 3 4 5 6; do sleep 5 & done; echo done"])
        assert "fork" in text
        with pytest.raises(fastctr.SpecError):
            c.update(memory="much")
        with pytest.raises(fastctr.SpecError):
            c.update(colour="blue")
        c.update()
