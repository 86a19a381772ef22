"""`fastctr map` for real: quoting in real shells of real containers, where arguments come from, what is printed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import pytest

pytest.importorskip("fastctr._core")
FASTCTR = [sys.executable, "-m", "fastctr"]
NASTY = ["a b", "$(touch /tmp/pwned)", "`id`", "q'uo\"te", "*", "-n", "\\", "$1", "; exit 9", "é", "#c", "a\nb"]


def fmap(*args, **kw):
    kw.setdefault("stdin", subprocess.DEVNULL)
    if "input" in kw:
        del kw["stdin"]
    return subprocess.run([*FASTCTR, "map", *map(str, args)], capture_output=True, text=True, timeout=60, check=False, **kw)


@pytest.mark.parametrize("command", [["printf '<%s>' {}"], ["printf '<%s>' \"{}\""], ["--", "printf", "<%s>", "{}"], ["printf", "<%s>"]])
def test_whatever_an_argument_holds(rootfs, command):
    done = fmap("-q", "-k", "--image", rootfs, *command, ":::", *NASTY)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "".join(f"<{text}>" for text in NASTY)


def test_where_arguments_come_from(rootfs, tmp_path):
    (tmp_path / "args").write_text("a b\n\n c\nd")
    wanted = "[a b]1\n[ c]2\n[d]3\n"
    command = ["-q", "-k", "--image", rootfs, "echo [{}]{#}"]
    assert fmap(*command, input="a b\n\n c\nd").stdout == wanted
    assert fmap("-a", tmp_path / "args", *command).stdout == wanted
    assert fmap("-a", "-", "--check", *command, input="a b\n c\nd\n").stdout == wanted
    assert fmap("-0", *command, input="a b\0 c\0d").stdout == wanted
    assert fmap(*command, ":::").stdout == ""


def test_outputs_stay_whole_and_apart(rootfs):
    done = fmap("--image", rootfs, "-j", "3", "for i in 1 2 3; do echo {}; sleep 0.02; done; echo e{} >&2", ":::", "a", "b", "c")
    lines = done.stdout.split()
    assert sorted(lines) == sorted("abc" * 3) and all(len(set(lines[at : at + 3])) == 1 for at in (0, 3, 6))
    assert {"ea", "eb", "ec"} <= set(done.stderr.split()) and "3 ok" in done.stderr


def test_failures(rootfs):
    done = fmap("--image", rootfs, "-k", "--timeout", "500ms", "case {} in a) exit 3;; b) sleep 9;; *) echo {};; esac", ":::", "a", "b", "c")
    assert (done.returncode, done.stdout) == (1, "c\n") and "fastctr: b: its time was up" in done.stderr
    done = fmap("-q", "--image", rootfs, "--", "no-such", ":::", "x")
    assert done.returncode == 1 and "fastctr: x: exec: \"no-such\"" in done.stderr


def test_results_and_going_on(rootfs, tmp_path):
    out, log = tmp_path / "r", tmp_path / "log"
    log.mkdir()
    command = ["--image", rootfs, "-v", f"{log}:/log", "-o", out, "echo x >> /log/{}; echo {}"]
    assert fmap(*command, ":::", "a", "b").stdout == ""
    assert sorted((each["tag"], each["stdout"]) for each in map(json.loads, out.read_text().splitlines())) == [("a", "a\n"), ("b", "b\n")]
    assert "has results already" in fmap(*command, ":::", "a", "b", "c").stderr
    assert fmap("--resume", *command, ":::", "a", "b", "c").returncode == 0
    assert {path.name: path.read_text() for path in log.iterdir()} == dict.fromkeys("abc", "x\n")
    assert "is not the line whose result is recorded" in fmap("--resume", *command, ":::", "z", "b").stderr
    done = fmap("--image", rootfs, "--jsonl", "-q", "echo {}", ":::", "a")
    assert json.loads(done.stdout)["stdout"] == "a\n"


def test_dry_run(rootfs):
    done = fmap("--dry-run", "--", "gzip", "-k", "{}", "{.}.x", ":::", "a b.txt")
    assert (done.returncode, done.stdout) == (0, "gzip -k 'a b.txt' 'a b.x'\n")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], "no command given"),
        ([":::", "a"], "no command given"),
        (["echo", ":::", "a", ":::", "b"], "::: is given twice"),
        (["-a", "x", "echo", ":::", "a"], "-a cannot go with :::"),
        (["-a", "/no/such", "echo"], "No such file"),
        (["--keep-ordr", "echo", ":::", "a"], "did you mean --keep-order?"),
        (["-d", "echo", ":::", "a"], "is not offered"),
    ],
)
def test_misuse(args, words):
    done = fmap(*args)
    assert (done.returncode, done.stdout) == (125, "") and words in done.stderr


def test_ctrl_c_while_arguments_are_awaited(rootfs):
    process = subprocess.Popen([*FASTCTR, "map", "--image", rootfs, "echo {}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))  # fmt: skip
    process.stdin.write(b"a\n")
    process.stdin.flush()
    assert process.stdout.readline() == b"a\n"
    start = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130 and time.monotonic() - start < 10
    process.communicate()


def test_fail_fast(rootfs):
    start = time.monotonic()
    done = fmap("--image", rootfs, "--fail-fast", "-j", "2", "sleep {}; exit 1", ":::", "60", "0.1", "0.1")
    assert done.returncode == 1 and time.monotonic() - start < 20 and "1 failed, 1 cancelled" in done.stderr


def test_host_is_the_default():
    done = fmap("-q", "cat {}", ":::", "/etc/hostname")
    assert done.returncode == 0 and done.stdout == open("/etc/hostname").read()
