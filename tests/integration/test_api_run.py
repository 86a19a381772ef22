"""fastctr.run() beside subprocess.run(): the same shapes, and a container's own additions."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

import fastctr
from fastctr import DEVNULL, PIPE, STDOUT
from support import run, running, sh


@pytest.mark.parametrize("code", [0, 1, 7, 126, 127, 255])
def test_return_code(rootfs: str, code: int) -> None:
    done = fastctr.run(["sh", "-c", f"exit {code}"], rootfs=rootfs)
    assert done.returncode == code
    assert done.killed_by is None
    assert done.args == ["sh", "-c", f"exit {code}"]


def test_output_is_bytes_or_text(rootfs: str) -> None:
    argv = ["sh", "-c", r"printf 'a\r\nb\n'; printf 'c\rd' >&2"]
    raw = fastctr.run(argv, rootfs=rootfs, capture_output=True)
    assert (raw.stdout, raw.stderr) == (b"a\r\nb\n", b"c\rd")
    text = fastctr.run(argv, rootfs=rootfs, capture_output=True, text=True)
    assert (text.stdout, text.stderr) == ("a\nb\n", "c\nd")
    there = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (text.stdout, text.stderr) == (there.stdout, there.stderr)


def test_no_output_asked_for(rootfs: str) -> None:
    done = fastctr.run(["echo", "x"], rootfs=rootfs, stdout=DEVNULL, stderr=DEVNULL)
    assert done.stdout is None
    assert done.stderr is None
    only = fastctr.run(["sh", "-c", "echo o; echo e >&2"], rootfs=rootfs, stdout=PIPE, stderr=DEVNULL)
    assert (only.stdout, only.stderr) == (b"o\n", None)


def test_empty_output_is_empty_not_none(rootfs: str) -> None:
    done = fastctr.run(["true"], rootfs=rootfs, capture_output=True)
    assert (done.stdout, done.stderr) == (b"", b"")


def test_stderr_into_stdout_keeps_the_order(rootfs: str) -> None:
    done = fastctr.run(["sh", "-c", "echo 1; echo 2 >&2; echo 3"], rootfs=rootfs, stdout=PIPE, stderr=STDOUT)
    assert (done.stdout, done.stderr) == (b"1\n2\n3\n", None)


def test_input(rootfs: str) -> None:
    assert fastctr.run(["cat"], rootfs=rootfs, input=b"\0\xff", stdout=PIPE).stdout == b"\0\xff"
    assert run(["cat"], rootfs=rootfs, input="grün").stdout == "grün"
    assert run(["wc", "-c"], rootfs=rootfs, input="").stdout.strip() == "0"
    latin = fastctr.run(["od", "-An", "-tx1"], rootfs=rootfs, input="ü", encoding="latin-1", stdout=PIPE)
    assert latin.stdout.split() == ["fc"]


def test_without_input_stdin_can_be_null(rootfs: str) -> None:
    assert run(["wc", "-c"], rootfs=rootfs, stdin=DEVNULL).stdout.strip() == "0"


def test_input_that_nobody_reads(rootfs: str) -> None:
    assert fastctr.run(["true"], rootfs=rootfs, input=b"x" * (4 << 20), timeout=20).returncode == 0


def test_five_megabytes_both_ways(rootfs: str) -> None:
    data = os.urandom(5 << 20)
    done = fastctr.run(["sh", "-c", "tee /dev/stderr"], rootfs=rootfs, input=data, capture_output=True, timeout=60)
    assert done.stdout == data
    assert done.stderr == data


def test_encoding_and_errors(rootfs: str) -> None:
    argv = ["printf", r"a\377b"]
    assert fastctr.run(argv, rootfs=rootfs, stdout=PIPE, encoding="latin-1").stdout == "aÿb"
    assert fastctr.run(argv, rootfs=rootfs, stdout=PIPE, errors="replace").stdout == "a�b"
    with pytest.raises(UnicodeDecodeError):
        fastctr.run(argv, rootfs=rootfs, stdout=PIPE, text=True)
    with pytest.raises(LookupError):
        fastctr.run(["touch", "/never"], rootfs=rootfs, stdout=PIPE, encoding="no-such-encoding")


def test_files_and_descriptors(rootfs: str, tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.write_text("from a file")
    with source.open() as stdin, out.open("w") as stdout:
        fastctr.run(["cat"], rootfs=rootfs, stdin=stdin, stdout=stdout, check=True)
    assert out.read_text() == "from a file"
    fd = os.open(out, os.O_WRONLY | os.O_APPEND)
    try:
        fastctr.run(["echo", " and more"], rootfs=rootfs, stdout=fd, stderr=STDOUT, check=True)
    finally:
        os.close(fd)
    assert out.read_text() == "from a file and more\n"


def test_inherited_output(rootfs: str, capfd: pytest.CaptureFixture[str]) -> None:
    fastctr.run(["sh", "-c", "echo to the terminal; echo errors >&2"], rootfs=rootfs)
    got = capfd.readouterr()
    assert (got.out, got.err) == ("to the terminal\n", "errors\n")


def test_passed_descriptors(rootfs: str) -> None:
    read, write = os.pipe()
    other, keep = os.pipe()
    try:
        os.write(write, b"through a pipe")
        os.close(write)
        script = f"cat <&7; ls /proc/self/fd | wc -l; ls -l /proc/self/fd/{other}"
        done = run(["sh", "-c", script], rootfs=rootfs, pass_fds={7: read, other: other}, stdin=DEVNULL)
        assert done.stdout.startswith("through a pipe")
        assert done.stderr == ""
    finally:
        for fd in (read, other, keep):
            os.close(fd)


def test_nothing_else_is_inherited(rootfs: str) -> None:
    leaked = os.open("/", os.O_RDONLY)
    os.set_inheritable(leaked, True)
    try:
        names = sh("ls /proc/self/fd", rootfs=rootfs).split()
    finally:
        os.close(leaked)
    assert set(names) <= {"0", "1", "2", "3"}  # 3: of ls itself


def test_check(rootfs: str) -> None:
    with pytest.raises(fastctr.CalledProcessError) as caught:
        run(["sh", "-c", "echo out; echo err >&2; exit 3"], rootfs=rootfs, check=True)
    assert isinstance(caught.value, subprocess.CalledProcessError)
    assert isinstance(caught.value, fastctr.FastctrError)
    assert caught.value.returncode == 3
    assert (caught.value.stdout, caught.value.stderr) == ("out\n", "err\n")
    assert caught.value.completed.returncode == 3
    assert caught.value.completed.usage.cpu_total is not None
    run(["true"], rootfs=rootfs, check=True).check_returncode()


def test_signal_is_negative(rootfs: str) -> None:
    done = run(["sh", "-c", "kill -9 $$; exec sleep 5"], rootfs=rootfs, init=True)
    assert done.returncode == -9
    assert done.killed_by == "signal"
    done = run(["sh", "-c", "kill -TERM $$; exec sleep 5"], rootfs=rootfs, init=True)
    assert done.returncode == -15


def test_timeout_has_what_was_written(rootfs: str) -> None:
    began = time.monotonic()
    with pytest.raises(fastctr.TimeoutExpired) as caught:
        fastctr.run(["sh", "-c", "echo partly; echo wrong >&2; sleep 60"], rootfs=rootfs, capture_output=True, timeout=0.3)
    assert time.monotonic() - began < 5
    error = caught.value
    assert isinstance(error, subprocess.TimeoutExpired)
    assert (error.output, error.stdout, error.stderr) == (b"partly\n", b"partly\n", b"wrong\n")
    assert error.timeout == 0.3
    assert error.completed.killed_by == "timeout"
    assert error.completed.returncode == -9
    assert error.completed.stdout == b"partly\n"


def test_timeout_within_a_character(rootfs: str) -> None:
    with pytest.raises(fastctr.TimeoutExpired) as caught:
        fastctr.run(["sh", "-c", r"printf 'a\303'; exec sleep 60"], rootfs=rootfs, capture_output=True, text=True, timeout=0.3)
    assert caught.value.stdout == "a�"


def test_timeout_without_output(rootfs: str) -> None:
    with pytest.raises(fastctr.TimeoutExpired) as caught:
        fastctr.run(["sleep", "60"], rootfs=rootfs, timeout=0)
    assert caught.value.completed.killed_by == "timeout"


def test_timeout_that_is_not_reached(rootfs: str) -> None:
    assert run(["true"], rootfs=rootfs, timeout=60).returncode == 0


STUBBORN = """
trap '' TERM HUP INT
sleep 300 &
(setsid sleep 301 &) &
(setsid sh -c 'trap "" TERM HUP; (sleep 302 &); sleep 303' &)
while :; do sleep 304; done
"""


def _sleepers(cgroups: dict[str, str]) -> list[str]:
    found = []
    for path in cgroups.values():
        try:
            with open(f"{path}/cgroup.procs") as file:
                found += file.read().split()
        except FileNotFoundError:
            continue
    return found


@pytest.mark.parametrize("pid", ["private", "host"])
def test_timeout_kills_everything(rootfs: str, pid: str) -> None:
    if pid == "host" and os.geteuid() != 0:
        pytest.skip("needs root: another pid namespace's processes are killed by the control group")
    marker = f"30{os.getpid()}"
    script = STUBBORN.replace("30", marker)
    with pytest.raises(fastctr.TimeoutExpired):
        fastctr.run(["sh", "-c", script], rootfs=rootfs, pid=pid, timeout=0.5)
    assert _running_sleepers(marker) == []


@pytest.mark.parametrize("pid", ["private", "host"])
def test_end_of_the_command_ends_everything(rootfs: str, pid: str) -> None:
    if pid == "host" and os.geteuid() != 0:
        pytest.skip("needs root: another pid namespace's processes are killed by the control group")
    marker = f"31{os.getpid()}"
    script = f"(setsid sleep {marker}1 &); sleep {marker}2 & echo out"
    assert run(["sh", "-c", script], rootfs=rootfs, pid=pid).stdout == "out\n"
    assert _running_sleepers(marker) == []


def _running_sleepers(marker: str) -> list[str]:
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/cmdline", "rb") as file:
                    line = file.read()
            except OSError:
                continue
            if b"sleep" in line and marker.encode() in line:
                found.append(line.decode())
    return found


def test_a_passed_pipe_does_not_keep_us_waiting(rootfs: str) -> None:
    with running(rootfs) as other:
        read, write = os.pipe()
        try:
            holder = other.exec(["sleep", "30"], stdout=write)
            began = time.monotonic()
            done = fastctr.run(["echo", "x"], rootfs=rootfs, stdout=PIPE)
            assert done.stdout == b"x\n"
            assert time.monotonic() - began < 5
            holder.close()
        finally:
            os.close(read)
            os.close(write)


def test_command_not_found_and_not_executable(rootfs: str) -> None:
    with pytest.raises(fastctr.CommandNotFound) as caught:
        run(["no-such-command"], rootfs=rootfs)
    assert caught.value.exit_code == 127
    assert "no-such-command" in str(caught.value)
    assert isinstance(caught.value, FileNotFoundError)
    with pytest.raises(fastctr.CommandNotExecutable) as caught:
        run(["/etc/passwd"], rootfs=rootfs)
    assert caught.value.exit_code == 126
    assert isinstance(caught.value, PermissionError)


@pytest.mark.parametrize("kind", [{"init": True}, {"pid": "host"}])
def test_command_not_found_another_way(rootfs: str, kind: dict[str, object]) -> None:
    if os.geteuid() != 0 and "pid" in kind:
        pytest.skip("needs root: the host's pid namespace belongs to another user namespace")
    with pytest.raises(fastctr.CommandNotFound):
        run(["no-such-command"], rootfs=rootfs, **kind)
    with pytest.raises(fastctr.CommandNotExecutable):
        run(["/etc/passwd"], rootfs=rootfs, **kind)


def test_path_search(rootfs: str, tmp_path: Path) -> None:
    assert sh("echo $PATH", rootfs=rootfs, env={"PATH": "/nowhere:/bin"}) == "/nowhere:/bin\n"
    with pytest.raises(fastctr.CommandNotFound):
        run(["sh", "-c", "true"], rootfs=rootfs, env={"PATH": "/nowhere"})
    assert run(["bin/echo", "x"], rootfs=rootfs, cwd="/").stdout == "x\n"


@pytest.mark.parametrize(
    ("argv", "kw", "word"),
    [
        ("echo hi", {}, "argv"),
        ([], {}, "argv"),
        ([""], {}, "argv"),
        (["a\0b"], {}, "argv"),
        (["true"], {"capture_output": True, "stdout": PIPE}, "capture_output"),
        (["true"], {"input": b"x", "stdin": PIPE}, "input"),
        (["true"], {"stdin": STDOUT}, "stdin"),
        (["true"], {"stdout": -7}, "stdout"),
        (["true"], {"stdout": object()}, "stdout"),
        (["true"], {"pass_fds": [1]}, "pass_fds"),
        (["true"], {"pass_fds": [987]}, "pass_fds"),
        (["true"], {"cpu": 1}, "cpu"),
        (["true"], {"memory": "lots"}, "memory"),
    ],
)
def test_refused_before_anything_is_made(rootfs: str, argv: object, kw: dict[str, object], word: str) -> None:
    before = os.listdir(os.environ["FASTCTR_RUNTIME_DIR"])
    with pytest.raises(fastctr.SpecError) as caught:
        fastctr.run(argv, rootfs=rootfs, **kw)
    assert isinstance(caught.value, ValueError)
    assert word in str(caught.value)
    del before


def test_environment(rootfs: str) -> None:
    os.environ["NOT_FOR_CONTAINERS"] = "1"
    try:
        text = sh("env", rootfs=rootfs, env={"A": "b=c"})
    finally:
        del os.environ["NOT_FOR_CONTAINERS"]
    assert "A=b=c\n" in text
    assert "PATH=" in text
    assert "NOT_FOR_CONTAINERS" not in text


def test_timings_when_asked(rootfs: str) -> None:
    done = run(["true"], rootfs=rootfs, timings=True)
    assert done.timings is not None
    assert done.timings.total > 0
    assert any(name == "exec" for name, _ in done.timings.stages)
    assert run(["true"], rootfs=rootfs).timings is None


def test_result_says_what_it_was(rootfs: str) -> None:
    done = run(["sh", "-c", "echo out; exit 2"], rootfs=rootfs)
    assert "returncode=2" in repr(done)
    assert "out" in repr(done)
    assert done.pid > 1


def test_standard_descriptors_that_are_closed_here(rootfs: str) -> None:
    """What of ours takes the numbers 0 to 2 is not handed to the container."""
    code = f"""
import os
os.close(0)
import fastctr
ls = "for i in 0 1 2; do readlink /proc/self/fd/$i; done"
for _ in range(3):
    done = fastctr.run(["sh", "-c", ls], rootfs={rootfs!r}, stdout=fastctr.PIPE, text=True)
    first = done.stdout.split()[0]
    assert first == "/dev/null", done.stdout
os.close(1)
done = fastctr.run(["sh", "-c", "echo lost"], rootfs={rootfs!r}, stderr=fastctr.PIPE)
assert done.returncode == 0, done
fd = os.open("/", os.O_RDONLY)          # the number 1 now: not inheritable, as every file of Python's
done = fastctr.run(["sh", "-c", "x=$(readlink /proc/$$/fd/1); echo $x >&2"], rootfs={rootfs!r}, stderr=fastctr.PIPE)
assert done.stderr == b"/dev/null\\n", done
"""
    import sys

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
