"""`fastctr run` for real: exit codes, input and output, signals, the terminal."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time

import pytest

pytest.importorskip("fastctr._core")
FASTCTR = [sys.executable, "-m", "fastctr"]


def cli(*args, **kw):
    kw.setdefault("capture_output", True)
    kw.setdefault("stdin", subprocess.DEVNULL if "input" not in kw else None)
    if kw["stdin"] is None:
        del kw["stdin"]
    return subprocess.run([*FASTCTR, *args], text=True, timeout=60, check=False, **kw)


def run(*args, **kw):
    return cli("run", *args, **kw)


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["host", "true"], 0),
        (["host", "--", "sh", "-c", "exit 7"], 7),
        (["--init", "host", "sh", "-c", "kill -USR1 $$"], 128 + signal.SIGUSR1),
        (["host", "/no/such"], 127),
        (["host", "no-such-command"], 127),
        (["host", "/etc/passwd"], 126),
        (["-m", "lots", "host", "true"], 125),
        (["--mount", "type=bind,src=/etc,dst=/proc/self", "host", "true"], 125),
    ],
)
def test_exit_codes(args, code):
    assert run(*args).returncode == code


def test_output_and_errors_stay_apart():
    done = run("host", "sh", "-c", "echo out; echo err >&2")
    assert (done.stdout, done.stderr) == ("out\n", "err\n")


def test_input_only_when_asked():
    assert run("-i", "host", "cat", input="hello").stdout == "hello"
    assert run("host", "cat", input="hello").stdout == ""


def test_options_arrive(tmp_path):
    file = tmp_path / "x"
    file.write_text("content")
    file.chmod(0o751)
    script = (
        "echo $A $B; pwd; hostname; id -u; cat /in/x; stat -c %a /put; ulimit -n; umask;"
        " echo w > /in/x 2>/dev/null || echo ro; grep -c . /proc/net/dev"
    )
    done = run(
        "-e",
        "A=1",
        "--env",
        "B=2",
        "-w",
        "/new/dir",
        "-h",
        "box",
        "-u",
        "0:0",
        "-v",
        f"{tmp_path}:/in:ro",
        "--file",
        f"/put={file}",
        "--ulimit",
        "nofile=99",
        "--umask",
        "027",
        "host",
        "sh",
        "-c",
        script,
    )
    assert done.stdout.split() == ["1", "2", "/new/dir", "box", "0", "content751", "99", "0027", "ro", "3"], (
        done.stderr
    )


def test_timeout():
    start = time.monotonic()
    done = run("--timeout", "300ms", "host", "sh", "-c", "sleep 60 & sleep 60")
    assert done.returncode == 124 and "timed out after 0.3 s" in done.stderr and time.monotonic() - start < 20


def test_timeout_sends_the_stop_signal_first():
    script = "trap 'echo bye; exit 3' TERM; while :; do sleep 0.05; done"
    done = run("--timeout", "500ms", "--stop-signal", "TERM", "host", "sh", "-c", script)
    assert (done.returncode, done.stdout) == (124, "bye\n")
    done = run("--timeout", "200ms", "--stop-signal", "TERM", "--stop-timeout", "0.2", "host", "sleep", "60")
    assert done.returncode == 124


def test_figures_go_to_standard_error():
    done = run("--stats", "--timings", "host", "echo", "x")
    assert done.stdout == "x\n" and "cpu_total" in done.stderr and "spawn" in done.stderr


def default_signals():
    """As an interactive shell starts its jobs; a background job's would ignore SIGINT and SIGQUIT."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)


def started(*args):
    """A running `fastctr run` whose command has printed its first line."""
    job = subprocess.Popen(
        [*FASTCTR, "run", *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=default_signals,
    )
    assert job.stdout.readline() == "up\n", job.stderr.read()
    return job


@pytest.mark.parametrize("name", ["HUP", "INT", "TERM", "QUIT", "USR1", "USR2"])
def test_signals_are_passed_on(name):
    job = started(
        "host", "sh", "-c", f"trap 'echo got {name}; exit 9' {name}; echo up; while :; do sleep 0.05; done"
    )
    job.send_signal(getattr(signal, "SIG" + name))
    out, _ = job.communicate(timeout=30)
    assert (out, job.returncode) == (f"got {name}\n", 9)


def test_third_request_to_end_kills():
    job = started("host", "sh", "-c", "trap '' TERM INT; echo up; while :; do sleep 1; done")
    for _ in range(3):
        time.sleep(0.2)
        job.send_signal(signal.SIGTERM)
    _, err = job.communicate(timeout=30)
    assert job.returncode == 137 and "three times" in err


def test_a_killed_launcher_takes_its_container_along(tmp_path):
    job = started(
        "-v",
        f"{tmp_path}:/shared",
        "host",
        "sh",
        "-c",
        "while date +%s%N > /shared/beat; do [ $n ] || echo up; n=1; sleep 0.05; done",
    )
    job.kill()
    job.communicate(timeout=30)
    time.sleep(0.5)
    before = (tmp_path / "beat").read_text()
    time.sleep(0.5)
    assert (tmp_path / "beat").read_text() == before
    assert cli("gc").returncode == 0  # its groups are for the next start to sweep


class Terminal:
    """A command on a pseudo-terminal of ours, driven as a user would."""

    def __init__(self, *argv, rows=30, columns=100):
        self.master, self.slave = pty.openpty()
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.before = termios.tcgetattr(self.slave)
        self.job = subprocess.Popen(
            argv, stdin=self.slave, stdout=self.slave, stderr=self.slave, preexec_fn=self._own
        )
        self.seen = b""

    def _own(self):
        default_signals()
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    def until(self, text, seconds=30):
        """Read until text has come; what was read up to and with it."""
        end = time.monotonic() + seconds
        while text not in self.seen:
            left = end - time.monotonic()
            assert left > 0 and select.select([self.master], [], [], left)[0], self.seen
            self.seen += os.read(self.master, 4096)
        at = self.seen.index(text) + len(text)
        got, self.seen = self.seen[:at], self.seen[at:]
        return got

    def type(self, text):
        os.write(self.master, text)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        if self.job.poll() is None:
            self.job.kill()
            self.job.wait()
        os.close(self.master)
        os.close(self.slave)


def test_terminal():
    with Terminal(*FASTCTR, "run", "-it", "-e", "PS1=ready> ", "host", "sh") as t:
        t.until(b"ready> ")
        t.type(b"tty; stty size; echo $TERM\r")
        assert b"/dev/pts/0\r\n30 100\r\nxterm\r\n" in t.until(b"ready> ").replace(
            b"/dev/console", b"/dev/pts/0"
        )
        t.type(b"sleep 60\r")
        t.until(b"sleep 60\r\n")
        time.sleep(0.5)
        t.type(b"\x03")  # Ctrl-C is a byte for the terminal inside
        t.until(b"ready> ")
        fcntl.ioctl(t.slave, termios.TIOCSWINSZ, struct.pack("HHHH", 41, 133, 0, 0))
        os.kill(t.job.pid, signal.SIGWINCH)
        time.sleep(0.3)
        t.type(b"stty size\r")
        t.until(b"41 133")
        t.until(b"ready> ")
        t.type(b"exit 5\r")
        t.until(b"exit")
        assert t.job.wait(30) == 5
        assert termios.tcgetattr(t.slave) == t.before


def test_terminal_is_restored_after_a_kill_and_a_failure():
    with Terminal(
        *FASTCTR, "run", "-it", "--timeout", "1", "host", "sh", "-c", "echo up; exec sleep 60"
    ) as t:
        t.until(b"up")
        assert t.job.wait(30) == 124
        assert termios.tcgetattr(t.slave) == t.before
    with Terminal(*FASTCTR, "run", "-it", "host", "no-such-command") as t:
        assert t.job.wait(30) == 127
        assert termios.tcgetattr(t.slave) == t.before


def test_all_output_comes_before_the_end():
    with Terminal(*FASTCTR, "run", "-it", "host", "sh", "-c", "seq 20000; echo the-last") as t:
        assert t.until(b"the-last").count(b"\r\n") == 20000
        assert t.job.wait(30) == 0


def test_terminal_without_input():
    done = run("-t", "host", "sh", "-c", "tty; echo end")
    assert done.stdout.startswith("/dev/") and "end" in done.stdout
    done = run("-it", "host", "true")
    assert done.returncode == 125 and "not a terminal" in done.stderr


def test_info_gc_version():
    found = json.loads(cli("info", "--json").stdout)
    assert found["cgroup"]["mode"] in ("none", "v1", "v2", "hybrid") and found["missing"] is not None
    done = cli("gc")
    assert done.returncode == 0 and done.stdout.startswith("cleared up after"), done.stderr
    assert cli("version").stdout.startswith("fastctr ")
