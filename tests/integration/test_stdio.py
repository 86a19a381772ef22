"""Standard input and output, descriptors passed on purpose, terminals; and nothing else."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time

import pytest
from support import inside, lines, run, running, sh

import fastctr
from fastctr import DEVNULL, PIPE, STDOUT

pytestmark = pytest.mark.needs_root


def test_capture(rootfs):
    done = run(["sh", "-c", "echo out; echo err >&2; exit 3"], rootfs=rootfs)
    assert (done.returncode, done.stdout, done.stderr) == (3, "out\n", "err\n")


def test_input_and_a_lot_of_output(rootfs):
    data = os.urandom(3 << 20)
    done = fastctr.run(["tee", "/dev/stderr"], rootfs=rootfs, input=data, capture_output=True, timeout=30)
    assert done.stdout == data
    assert done.stderr == data


def test_stderr_into_stdout(rootfs):
    done = fastctr.run(["sh", "-c", "echo a; echo b >&2; echo c"], rootfs=rootfs, stdout=PIPE, stderr=STDOUT)
    assert done.stdout == b"a\nb\nc\n"


def test_files_and_descriptors(rootfs, tmp_path):
    (tmp_path / "in").write_text("from a file\n")
    with open(tmp_path / "in") as source, open(tmp_path / "out", "wb") as out:
        fastctr.run(["cat"], rootfs=rootfs, stdin=source, stdout=out)
    assert (tmp_path / "out").read_text() == "from a file\n"
    read, write = os.pipe()
    fastctr.run(["echo", "x"], rootfs=rootfs, stdout=write)
    os.close(write)
    assert os.read(read, 10) == b"x\n"
    os.close(read)


def test_devnull_and_inherit(rootfs, capfd):
    assert run(["cat"], rootfs=rootfs, stdin=DEVNULL).stdout == ""
    fastctr.run(["sh", "-c", "echo seen; echo seen2 >&2"], rootfs=rootfs)
    assert capfd.readouterr() == ("seen\n", "seen2\n")
    fastctr.run(["echo", "unseen"], rootfs=rootfs, stdout=DEVNULL, stderr=DEVNULL)
    assert capfd.readouterr() == ("", "")


def test_descriptors_may_be_swapped(rootfs):
    """stdout and stderr crosswise: dup2 in the wrong order would lose one."""
    a, b = os.pipe(), os.pipe()
    fastctr.run(["sh", "-c", "echo out; echo err >&2; echo three >&3"], rootfs=rootfs, stdout=a[1], stderr=b[1],
                pass_fds={3: a[1]})
    for pipe, text in ((a, b"out\nthree\n"), (b, b"err\n")):
        os.close(pipe[1])
        assert os.read(pipe[0], 100) == text
        os.close(pipe[0])


def test_pass_fds(rootfs):
    read, write = os.pipe()
    done = run(["sh", "-c", f"echo hi >&{write}; echo there >&9"], rootfs=rootfs, pass_fds=[write])
    assert done.returncode != 0  # 9 was not passed
    os.close(write)
    assert os.read(read, 20) == b"hi\n"
    os.close(read)


def fds_of(pid: int) -> dict[int, str]:
    found = {}
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):  # an init closes its copies at that moment
            found[int(name)] = os.readlink(f"/proc/{pid}/fd/{name}")
    return found


@pytest.mark.parametrize("how", [{}, {"init": True}, {"user": "alice"}, {"pid": "host"}, {"writable": "disk"}])
def test_nothing_else_is_inherited(rootfs, how):
    """Directories, files and sockets that are open here and not close-on-exec."""
    pidfd = os.pidfd_open(os.getpid())
    held = [os.open("/", os.O_RDONLY), os.open("/etc/passwd", os.O_RDONLY), pidfd, os.dup2(0, 900)]
    for fd in held:
        os.set_inheritable(fd, True)
    quiet = dict.fromkeys(("stdin", "stdout", "stderr"), DEVNULL)
    try:
        with fastctr.Container(["sleep", "60"], rootfs=rootfs, **quiet, **how) as box:
            for pid in box.pids():
                for target in fds_of(pid).values():
                    assert target == "/dev/null" or (how.get("init") and target.startswith("pipe:"))
                assert set(fds_of(pid)) <= {0, 1, 2} or how.get("init")
            with box.exec(["sleep", "60"], **quiet) as job:
                assert fds_of(job.pid) == dict.fromkeys(range(3), "/dev/null")
    finally:
        for fd in held:
            os.close(fd)


def test_init_keeps_only_its_report(rootfs):
    with running(rootfs, init=True) as box:
        kinds = [target.partition(":")[0] for target in fds_of(box.pid).values()]
        assert kinds == ["pipe"]
        assert os.readlink(f"/proc/{box.pid}/exe").startswith("/memfd:fctr-stub")


# ---- terminals


def read_until(fd: int, word: bytes, seconds: float = 5) -> bytes:
    data, until = b"", time.monotonic() + seconds
    while word not in data and time.monotonic() < until:
        if select.select([fd], [], [], 0.1)[0]:
            try:
                data += os.read(fd, 4096)
            except OSError:
                break
    assert word in data, data
    return data


@pytest.mark.parametrize("how", [{}, {"init": True}, {"user": "alice"}, {"uid_map": [(0, 100000, 65536)]}])
def test_a_terminal_of_its_own(rootfs, how):
    script = "tty; stty size; test -t 0 -a -t 1 -a -t 2 && echo all; echo x > /dev/tty; echo y > /dev/console; echo end"
    with fastctr.Container(["sh", "-c", script], rootfs=rootfs, tty=(33, 101), **how) as box:
        data = read_until(box.tty.fileno(), b"end")
        assert box.wait(5) == 0
    assert data.split() == [b"/dev/pts/0", b"33", b"101", b"all", b"x", b"y", b"end"]
    assert not os.path.exists(f"/dev/pts/{os.getpid()}")


def test_terminal_input_signals_and_size(rootfs):
    script = "trap 'echo INT' INT; trap 'stty size' WINCH; echo ready; while :; do read line && echo got:$line; done"
    with fastctr.Container(["sh", "-c", script], rootfs=rootfs, tty=True) as box:
        fd = box.tty.fileno()
        read_until(fd, b"ready")
        os.write(fd, b"hello\n")
        read_until(fd, b"got:hello")
        os.write(fd, b"\x03")
        read_until(fd, b"INT")
        box.resize(40, 90)
        os.write(fd, b"\n")
        read_until(fd, b"40 90")


def test_the_terminal_is_not_ours(rootfs):
    """A job with our controlling terminal could type into it (TIOCSTI)."""
    with running(rootfs) as box:
        fields = open(f"/proc/{box.pid}/stat").read().rpartition(")")[2].split()
        assert fields[4] == "0"  # tty_nr
        assert fields[3] != str(os.getsid(0))


@pytest.mark.parametrize("how", [{}, {"uid_map": [(0, 100000, 65536)]}])
def test_exec_with_a_terminal(rootfs, how):
    with running(rootfs, **how) as box:
        mounts = open(f"/proc/{box.pid}/mountinfo").read()
        for _ in range(2):
            with box.exec(["sh", "-c", "stty size; tty; echo end"], tty=(12, 34)) as job:
                assert b"12 34" in read_until(job.tty.fileno(), b"end")
                assert job.wait(5) == 0
        assert open(f"/proc/{box.pid}/mountinfo").read() == mounts  # it was not the console


def test_exec_streams(rootfs):
    with running(rootfs) as box, box.exec(["cat"], stdin=PIPE, stdout=PIPE, text=True) as job:
        assert job.communicate("hello\n", 5) == ("hello\n", None)
        assert job.returncode == 0


def test_a_pipe_held_by_a_grandchild_does_not_hold_us_up(rootfs):
    start = time.monotonic()
    assert sh("sleep 30 & echo done", rootfs=rootfs) == "done\n"
    assert time.monotonic() - start < 10


def test_closed_reader(rootfs):
    with fastctr.Container(["sh", "-c", "yes; echo $? >&2"], rootfs=rootfs, stdout=PIPE, stderr=DEVNULL) as box:
        box.stdout.read(10)
        box.stdout.close()
        assert box.wait(5) in (0, 141, -signal.SIGPIPE)


def test_proc_self_fd_has_no_way_out(rootfs):
    out = lines("for f in /proc/self/fd/*; do readlink $f; done; true", rootfs=rootfs, stdin=DEVNULL)
    assert not [target for target in out if target.startswith("/") and not target.startswith(("/dev/null", "/proc"))]
    with running(rootfs) as box:
        assert os.path.exists(inside(box.pid, "/bin/busybox"))
