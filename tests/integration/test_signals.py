"""Signals: Ctrl-C of the launching program, who dies with whom, and a clean slate in the container."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
import time

import pytest

import fastctr
from support import run, running, status, status_of

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def program(code: str, **kw: object) -> subprocess.Popen[str]:
    """Another Python that may use fastctr and tests/support.py."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([HERE, *sys.path])}
    return subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True, env=env, **kw)  # fmt: skip


def gone(pid: int, seconds: float = 10) -> bool:
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        return bool(poll.poll(seconds * 1000))
    finally:
        os.close(pidfd)


CTRL_C = """
import fastctr, os, sys, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
try:
    {call}
except KeyboardInterrupt:
    fastctr.shutdown()
    print("interrupted", flush=True)
"""


@pytest.mark.parametrize(
    "call",
    [
        "fastctr.run(['sh', '-c', 'echo $$; exec sleep 61'], rootfs=ROOT)",
        "fastctr.run(['sh', '-c', 'echo $$; exec sleep 61'], rootfs=ROOT, stdout=sys.stdout, stderr=fastctr.PIPE)",
        "fastctr.run(['sh', '-c', 'echo $$; exec sleep 61'], rootfs=ROOT, timeout=60)",
        "fastctr.run(['sh', '-c', 'echo $$; exec sleep 61'], rootfs=ROOT, init=True)",
        "fastctr.Container(['sh', '-c', 'echo $$; exec sleep 61'], rootfs=ROOT).wait()",
        "fastctr.Container(['sh', '-c', 'echo $$; exec sleep 61'], rootfs=ROOT).communicate()",
    ],
    ids=["run", "run-pipe", "run-timeout", "run-init", "wait", "communicate"],
)
def test_ctrl_c(rootfs: str, call: str) -> None:
    with program(CTRL_C.format(call=call).replace("ROOT", repr(rootfs))) as process:
        assert process.stdout.readline()
        children = _descendants(process.pid)
        assert children
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert out == "interrupted\n", err
    assert process.returncode == 0, err
    assert time.monotonic() - began < 10
    assert all(gone(pid) for pid in children)


def _descendants(pid: int) -> list[int]:
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat") as file:
                    parent = int(file.read().rpartition(")")[2].split()[1])
            except OSError:
                continue
            if parent == pid:
                found.append(int(name))
    return found


@pytest.mark.parametrize("sig", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV, signal.SIGABRT])
@pytest.mark.parametrize("kind", ["", "init=True", "pid='host'", "userns=True, uid_map=[(0, 100000, 65536)], gid_map=[(0, 100000, 65536)]"])
@pytest.mark.needs_root
def test_containers_die_with_the_program(rootfs: str, kind: str, sig: signal.Signals) -> None:
    code = f"""
import fastctr, time
c = fastctr.Container(["sh", "-c", "trap '' TERM; sleep 62 & echo ready; sleep 63"], rootfs={rootfs!r},
                      stdout=fastctr.PIPE, text=True, {kind})
c.stdout.readline()
e = c.exec(["sh", "-c", "echo ready; exec sleep 64"], stdout=fastctr.PIPE, text=True)
e.stdout.readline()
print(*c.pids(), flush=True)
time.sleep(60)
"""
    with program(code) as process:
        line = process.stdout.readline()
        assert line, process.stderr.read()
        pids = [int(word) for word in line.split()]
        assert len(pids) >= 3
        process.send_signal(sig)
        process.wait(20)
        first = pids if "pid=" not in kind else pids[:1]
        assert all(gone(pid) for pid in first)
        run(["true"], rootfs=rootfs)  # a next process's first start does this by itself: it ends those others
        fastctr.gc()  # of the host's pid namespace that nothing else does
        assert all(gone(pid) for pid in pids)


def test_a_container_outlives_the_thread_that_started_it(rootfs: str) -> None:
    made: list[fastctr.Container] = []
    thread = threading.Thread(target=lambda: made.append(running(rootfs)))
    thread.start()
    thread.join()
    time.sleep(0.2)
    with made[0] as c:
        assert c.poll() is None
        command: list[fastctr.Container] = []
        thread = threading.Thread(target=lambda: command.append(c.exec(["sleep", "60"])))
        thread.start()
        thread.join()
        time.sleep(0.2)
        assert command[0].poll() is None
        command[0].close()


@pytest.mark.parametrize("kind", [{}, {"init": True}], ids=["plain", "init"])
def test_signals_in_the_container_are_as_new(rootfs: str, kind: dict[str, object]) -> None:
    old = {sig: signal.getsignal(sig) for sig in (signal.SIGCHLD, signal.SIGHUP, signal.SIGUSR1)}
    try:
        for sig in old:
            signal.signal(sig, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2, signal.SIGTERM])
        text = run(["cat", "/proc/self/status"], rootfs=rootfs, **kind).stdout
        with running(rootfs) as c:
            out, _ = c.exec(["cat", "/proc/self/status"], stdout=fastctr.PIPE, text=True).communicate()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR2, signal.SIGTERM])
        for sig, handler in old.items():
            signal.signal(sig, handler)
    for found in (status(text), status(out)):
        assert {found[name] for name in ("SigBlk", "SigIgn", "SigCgt", "SigPnd", "ShdPnd")} == {"0" * 16}


def test_sigpipe_ends_a_pipeline(rootfs: str) -> None:
    assert run(["sh", "-c", "(yes; echo $? > /dev/stderr) | head -n 1"], rootfs=rootfs, timeout=10).returncode == 0


def test_our_signals_are_left_alone(rootfs: str) -> None:
    before = status_of(os.getpid())
    run(["true"], rootfs=rootfs)
    with running(rootfs) as c:
        c.exec(["true"]).wait()
    after = status_of(os.getpid())
    for name in ("SigBlk", "SigIgn", "SigCgt"):
        assert before[name] == after[name]


def test_a_handler_that_returns_does_not_end_the_wait(rootfs: str) -> None:
    seen: list[int] = []
    old = signal.signal(signal.SIGALRM, lambda sig, frame: seen.append(sig))
    timer = threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGALRM))
    try:
        timer.start()
        began = time.monotonic()
        done = run(["sh", "-c", "sleep 0.6; exit 4"], rootfs=rootfs)
        assert done.returncode == 4
        assert time.monotonic() - began > 0.5
        assert seen == [signal.SIGALRM]
    finally:
        timer.join()
        signal.signal(signal.SIGALRM, old)


def test_a_handler_that_raises_ends_it_and_the_container(rootfs: str) -> None:
    class Enough(Exception):
        pass

    def handler(sig: int, frame: object) -> None:
        raise Enough

    old = signal.signal(signal.SIGUSR1, handler)
    timer = threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGUSR1))
    try:
        timer.start()
        with pytest.raises(Enough):
            fastctr.run(["sleep", f"65{os.getpid()}"], rootfs=rootfs, stdout=fastctr.PIPE)
    finally:
        timer.join()
        signal.signal(signal.SIGUSR1, old)
    def command(pid: int) -> str:
        try:
            return open(f"/proc/{pid}/cmdline").read()
        except (FileNotFoundError, ProcessLookupError):  # reaped meanwhile
            return ""

    assert not [pid for pid in _descendants(os.getpid()) if f"65{os.getpid()}" in command(pid)]
