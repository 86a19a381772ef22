"""Container.exec() and terminals."""

from __future__ import annotations

import os
import select
import time
from typing import Any

import pytest

import fastctr
from fastctr import DEVNULL, PIPE, STDOUT
from support import running, status

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


# ---- exec


def test_exec_exit_codes(rootfs: str) -> None:
    with running(rootfs) as c:
        for code in (0, 1, 42, 255):
            command = c.exec(["sh", "-c", f"exit {code}"])
            assert command.wait(10) == code
            command.close()
        command = c.exec(["sh", "-c", "kill -9 $$"])
        assert command.wait(10) == -9
        with pytest.raises(fastctr.CommandNotFound) as caught:
            c.exec(["no-such-command"])
        assert caught.value.exit_code == 127
        with pytest.raises(fastctr.CommandNotExecutable) as caught:
            c.exec(["/etc/passwd"])
        assert caught.value.exit_code == 126
        assert c.poll() is None


def test_exec_streams(rootfs: str) -> None:
    with running(rootfs) as c:
        command = c.exec(["cat"], stdin=PIPE, stdout=PIPE)
        data = os.urandom(1 << 20)
        assert command.communicate(data, timeout=20) == (data, None)
        command = c.exec(["sh", "-c", "echo $A; pwd"], stdout=PIPE, text=True, env={"A": "b"}, cwd="/etc")
        assert command.communicate(timeout=20)[0] == "b\n/etc\n"


def test_exec_sees_the_container(rootfs: str) -> None:
    with running(rootfs, hostname="inner", files={"/note": b"here"}) as c:
        assert output(c, ["hostname"]) == "inner\n"
        assert output(c, ["cat", "/note"]) == "here"
        assert "sleep 60" in output(c, ["ps"])
        for kind in ("mnt", "pid", "net", "ipc", "uts", "cgroup"):
            assert output(c, ["readlink", f"/proc/self/ns/{kind}"]).strip() == os.readlink(f"/proc/{c.pid}/ns/{kind}")
        assert output(c, ["cat", "/proc/self/cgroup"]) == output(c, ["cat", "/proc/1/cgroup"])


KEPT = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "Uid", "Gid", "Groups", "SigIgn", "SigBlk")


@pytest.mark.parametrize(
    "kind",
    [
        {},
        {"user": "alice"},
        {"user": "1000:1001", "cap_drop": ["ALL"]},
        {"cap_add": ["NET_ADMIN"], "seccomp": "unconfined", "no_new_privs": False},
        {"userns": True, "uid_map": [(0, 100000, 65536)], "gid_map": [(0, 100000, 65536)]},
        {"userns": True, "uid_map": [(0, 100000, 65536)], "gid_map": [(0, 100000, 65536)], "user": "bob"},
        {"pid": "host"},
        {"init": True},
    ],
    ids=["plain", "user", "no-caps", "unconfined", "userns", "userns-user", "pid-host", "init"],
)
@ROOT
def test_exec_has_the_rights_of_the_container(rootfs: str, kind: dict[str, Any]) -> None:
    with running(rootfs, **kind) as c:
        mine = status(output(c, ["cat", "/proc/self/status"]))
        its = status(output(c, ["cat", f"/proc/{c.pid if kind.get('pid') == 'host' else 1}/status"]))
        for name in KEPT:
            if kind.get("init") and name in ("SigBlk", "SigIgn"):
                continue  # the init's own
            assert mine[name] == its[name], name
        assert output(c, ["sh", "-c", "exit 3"]) == ""


@ROOT
def test_exec_with_the_hosts_processes(rootfs: str) -> None:
    with running(rootfs, pid="host") as c:
        command = c.exec(["sh", "-c", "echo ready; exec sleep 60"], stdout=PIPE)
        assert command.stdout.readline() == b"ready\n"
        assert command.pid in c.pids()
        assert output(c, ["sh", "-c", "echo $$"]).strip() != "1"
    assert command.wait(10) == -9
    command.close()


def test_exec_of_an_exec_is_one_of_the_container(rootfs: str) -> None:
    with running(rootfs) as c:
        first = c.exec(["sleep", "60"])
        second = first.exec(["sh", "-c", "echo ready; exec sleep 60"], stdout=PIPE)
        assert second.stdout.readline() == b"ready\n"
        assert second.pid in c.pids()
        first.close()
        assert second.poll() is None
        second.close()


def test_kill_of_an_exec_is_of_that_command_alone(rootfs: str) -> None:
    with running(rootfs) as c:
        command = c.exec(["sleep", "60"])
        command.kill()
        assert command.wait(10) == -9
        assert c.poll() is None
        command = c.exec(["sleep", "60"])
        command.terminate()
        assert command.wait(10) == -15


def test_exec_ends_with_the_container(rootfs: str) -> None:
    """One that nobody has waited for must not keep its container from ending."""
    c = running(rootfs)
    ended = c.exec(["true"])
    alive = c.exec(["sleep", "60"])
    time.sleep(0.1)
    began = time.monotonic()
    c.close()
    assert time.monotonic() - began < 5
    assert ended.wait(5) == 0
    assert alive.wait(5) == -9
    for call in (alive.stats, alive.pids, alive.kill):
        try:
            call()
        except (ValueError, fastctr.FastctrError):
            pass
    ended.close()
    alive.close()


def test_the_containers_own_end_with_an_exec_nobody_waits_for(rootfs: str) -> None:
    with fastctr.Container(["sh", "-c", "echo ready; read x; exit 4"], rootfs=rootfs, stdin=PIPE, stdout=PIPE) as c:
        assert c.stdout.readline() == b"ready\n"
        unwatched = c.exec(["true"])
        joined = fastctr.Container(["sleep", "60"], rootfs=rootfs, pid=c.pid) if os.geteuid() == 0 else None
        c.stdin.close()
        assert readable(c.pidfd), "its end is held up by a child of ours"
        assert c.wait(5) == 4
        if joined is not None:
            assert joined.wait(5) == -9
            joined.close()
        unwatched.close()


def test_exec_after_the_end(rootfs: str) -> None:
    with fastctr.Container(["true"], rootfs=rootfs) as c:
        c.wait()
        with pytest.raises(fastctr.LaunchError, match="not running"):
            c.exec(["true"])


@ROOT
def test_exec_is_under_the_containers_limits(rootfs: str) -> None:
    with running(rootfs, memory="32m", memory_swap="32m") as c:
        hog = c.exec(["sh", "-c", "x=$(head -c 60000000 /dev/zero | tr '\\0' x)"])
        assert hog.wait(30) in (-9, 137)
        assert c.stats().oom_kills >= 1


# ---- terminals


def _read_until(fd: int, word: bytes) -> bytes:
    got = b""
    while word not in got:
        assert readable(fd), got
        got += os.read(fd, 4096)
    return got


def test_tty(rootfs: str) -> None:
    with fastctr.Container(["sh", "-c", "tty; stty size; cat"], rootfs=rootfs, tty=(30, 90)) as c:
        fd = c.tty.fileno()
        got = _read_until(fd, b"30 90")
        assert b"/dev/" in got
        c.tty.write(b"hello\n")
        assert _read_until(fd, b"hello\r\nhello")
        c.tty.write(b"\x04")
        assert c.wait(10) == 0


def test_ctrl_c_in_a_terminal(rootfs: str) -> None:
    with fastctr.Container(["sh", "-c", "trap 'echo caught; exit 6' INT; echo ready; while :; do sleep 0.05; done"],
                           rootfs=rootfs, tty=True) as c:  # fmt: skip
        _read_until(c.tty.fileno(), b"ready")
        c.tty.write(b"\x03")
        assert c.wait(10) == 6


def test_resize(rootfs: str) -> None:
    script = "trap 'stty size; exit 0' WINCH; echo ready; while :; do sleep 0.05; done"
    with fastctr.Container(["sh", "-c", script], rootfs=rootfs, tty=True) as c:
        _read_until(c.tty.fileno(), b"ready")
        c.resize(11, 22)
        assert _read_until(c.tty.fileno(), b"11 22")
    with running(rootfs) as c, pytest.raises(fastctr.SpecError, match="tty"):
        c.resize(1, 1)


def test_exec_with_a_terminal(rootfs: str) -> None:
    with running(rootfs) as c:
        command = c.exec(["sh", "-c", "tty; stty size"], tty=(20, 70))
        assert _read_until(command.tty.fileno(), b"20 70")
        assert command.wait(10) == 0
        command.close()
        again = c.exec(["true"]).exec(["tty"], tty=True)
        assert _read_until(again.tty.fileno(), b"/dev/pts/")
        again.close()


@ROOT
def test_terminal_in_a_user_namespace(rootfs: str) -> None:
    maps = {"userns": True, "uid_map": [(0, 100000, 65536)], "gid_map": [(0, 100000, 65536)]}
    with fastctr.Container(["sh", "-c", "tty; echo ready; exec sleep 60"], rootfs=rootfs, tty=True, **maps) as c:
        _read_until(c.tty.fileno(), b"ready")
        command = c.exec(["tty"], tty=True)
        assert _read_until(command.tty.fileno(), b"/dev/pts/")
        command.close()


def test_unknown_terminal_size(rootfs: str) -> None:
    for size in ((1,), (1, 2, 3), (-1, 5), ("a", 1)):
        with pytest.raises((fastctr.SpecError, ValueError)):
            fastctr.Container(["true"], rootfs=rootfs, tty=size)
