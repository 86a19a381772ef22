"""`fastctr batch` for real: exit codes, signals, kill -9 and going on, the bar, memory."""

from __future__ import annotations

import collections
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time

import pytest

pytest.importorskip("fastctr._core")
FASTCTR = [sys.executable, "-m", "fastctr"]


def batch(*args, **kw):
    kw.setdefault("stdin", subprocess.DEVNULL)
    if "input" in kw:
        del kw["stdin"]
    return subprocess.run([*FASTCTR, "batch", *map(str, args)], capture_output=True, text=True, timeout=60, check=False, **kw)


def write(path, jobs):
    path.write_text("".join(json.dumps(job) + "\n" for job in jobs))
    return path


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def default_signals():
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)


class Log:
    """Jobs that note in a directory of ours that they have run."""

    def __init__(self, tmp_path, rootfs, count, script):
        self.folder = tmp_path / "log"
        self.folder.mkdir()
        self.output = tmp_path / "r.jsonl"
        self.jobs = write(tmp_path / "jobs.jsonl", [{"id": f"j{n}", "cmd": f"echo s >> /log/{n}; {script}"} for n in range(count)])
        self.args = ["--image", rootfs, "-v", f"{self.folder}:/log", "-o", self.output, self.jobs]

    def start(self, *args):
        return subprocess.Popen([*FASTCTR, "batch", *map(str, self.args), *args], stderr=subprocess.PIPE, text=True,
                                stdin=subprocess.DEVNULL, preexec_fn=default_signals)  # fmt: skip

    def resume(self, *args):
        return batch(*self.args, "--resume", *args)

    def ran(self):
        return collections.Counter({f"j{path.name}": len(path.read_text()) // 2 for path in self.folder.iterdir()})

    def wait(self, count):
        end = time.monotonic() + 30
        while sum(self.ran().values()) < count:
            assert time.monotonic() < end
            time.sleep(0.01)


@pytest.mark.parametrize(
    ("jobs", "code"),
    [(["true", "true"], 0), (["true", "exit 3"], 1), (["true", {"cmdd": 1}], 125), ([], 0), ([{"argv": ["no-such"]}], 1)],
)  # fmt: skip
def test_exit_codes(rootfs, tmp_path, jobs, code):
    done = batch(write(tmp_path / "jobs", jobs), "--image", rootfs)
    assert done.returncode == code, done.stderr
    assert sorted(json.loads(line)["line"] for line in done.stdout.splitlines()) == list(range(1, len(jobs) + 1))
    last = done.stderr.splitlines()[-1]
    assert re.match(rf"fastctr: {len(jobs)} jobs? in ", last), last


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], "one file of jobs is needed"),
        (["/no/such"], "/no/such: cannot be read: No such file"),
        (["-", "-i"], "-i is not offered: a job's input is its stdin"),
        (["-", "--memroy", "1m"], "did you mean --memory?"),
        (["-", "-m", "lots"], '--memory: "lots" is not a size'),
        (["-", "-j", "0"], "--jobs: "),
        (["-", "--resume"], "--resume: True needs a file of results"),
        (["-", "--grace", "x"], "--grace"),
        (["-", "--upper", "/x"], "is not offered: jobs would all write"),
        (["-", "--image", "no.such.invalid/x", "--pull", "never"], "no.such.invalid/x"),
        (["-", "--platform", "linux/arm64"], "is about images"),
    ],
)
def test_misuse(args, words):
    done = batch(*args, input='["true"]\n')
    assert (done.returncode, done.stdout) == (125, "") and words in done.stderr


def test_options_are_the_jobs_defaults(rootfs, tmp_path):
    (tmp_path / "f").write_text("content")
    jobs = [{"cmd": "echo $A; id -u; cat /f; pwd; hostname"}, {"cmd": "echo $A; id -u; hostname", "env": {"A": "2"}, "hostname": "two"},
            {"cmd": "sleep 9"}, {"cmd": "sleep 0.4", "timeout": 20}]  # fmt: skip
    done = batch("-", "-e", "A=1", "-u", "1000:1000", "--file", f"/f={tmp_path}/f", "-w", "/new", "-h", "one", "--timeout", "300ms",
                 "--image", rootfs, "-q", input="".join(json.dumps(job) + "\n" for job in jobs))  # fmt: skip
    found = {each["line"]: each for each in map(json.loads, done.stdout.splitlines())}
    assert found[1]["stdout"] == "1\n1000\ncontent/new\none\n" and found[2]["stdout"] == "2\n1000\ntwo\n"
    assert (found[3]["status"], found[4]["status"]) == ("timeout", "ok") and done.stderr == ""


def test_dry_run_and_check(rootfs, tmp_path):
    good, bad = write(tmp_path / "good", ["true"]), write(tmp_path / "bad", ["true", {"cmdd": 1}])
    done = batch(good, "--dry-run")
    assert (done.returncode, done.stdout) == (0, "1 job can be run\n")
    done = batch("-", "--check", "--image", rootfs, input=bad.read_text())
    assert (done.returncode, done.stdout) == (125, "") and 'line 2: "cmdd" is not a field' in done.stderr
    assert batch("-", "--check", "--image", rootfs, input=good.read_text()).returncode == 0


def test_ctrl_c_once_lets_jobs_end(rootfs, tmp_path):
    log = Log(tmp_path, rootfs, 8, "sleep 0.6")
    process = log.start("-j", "2")
    log.wait(2)
    process.send_signal(signal.SIGINT)
    error = process.communicate(timeout=30)[1]
    assert process.returncode == 130 and "stopped before the end: go on with --resume" in error
    first = read(log.output)
    assert [each["status"] for each in first] == ["ok"] * len(first) and 2 <= len(first) < 8
    assert log.resume("-j", "8").returncode == 0
    assert log.ran() == dict.fromkeys((f"j{n}" for n in range(8)), 1)
    assert sorted(each["id"] for each in read(log.output)) == sorted(log.ran())


def test_ctrl_c_kills_after_the_grace(rootfs, tmp_path):
    log = Log(tmp_path, rootfs, 3, "test $(wc -l < /log/${0##*j}x) || sleep 60")
    write(log.jobs, [{"id": f"j{n}", "cmd": f"echo s >> /log/{n}; test $(wc -l < /log/{n}) -gt 1 || sleep 60"} for n in range(3)])
    process = log.start("-j", "2", "--grace", "300ms")
    log.wait(2)
    start = time.monotonic()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM and time.monotonic() - start < 20
    assert [each["status"] for each in read(log.output)] == ["cancelled"] * 2
    process = log.start("-j", "3", "--resume")  # the two killed ones are run again, and the third for the first time
    log.wait(5)
    for _ in range(2):  # at once
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)
    process.communicate(timeout=30)
    assert process.returncode == 130 and log.ran()["j2"] == 1


def test_ctrl_c_twice_is_at_once(rootfs, tmp_path):
    log = Log(tmp_path, rootfs, 5, "sleep 60")
    process = log.start("-j", "2", "--grace", "1h")
    log.wait(2)
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert process.poll() is None
    start = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130 and time.monotonic() - start < 15
    assert [each["status"] for each in read(log.output)] == ["cancelled"] * 2 and sum(log.ran().values()) == 2


def test_ctrl_c_while_jobs_are_awaited(rootfs):
    process = subprocess.Popen([*FASTCTR, "batch", "-", "--image", rootfs], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, preexec_fn=default_signals)  # fmt: skip
    process.stdin.write(b'["true"]\n')
    process.stdin.flush()
    assert json.loads(process.stdout.readline())["status"] == "ok"
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    process.communicate()


def test_kill_9_and_resume(rootfs, tmp_path):
    """However often it is killed: what has a result is not run again, and in the end all have one."""
    log = Log(tmp_path, rootfs, 120, "exit 0")
    for turn in range(3):
        process = log.start("-j", "2", *(["--resume"] if turn else []))
        log.wait(sum(log.ran().values()) + 10 + 7 * turn)
        process.kill()
        process.communicate(timeout=30)
        if turn == 1:  # and the machine went down within a write
            with open(log.output, "ab") as file:
                file.write(b'{"id": "j119", "line": 120, "dig')
        whole = [json.loads(line) for line in log.output.read_bytes().split(b"\n")[:-1]]
        before = log.ran()
        recorded = {each["id"] for each in whole}
        assert all(before[name] >= 1 for name in recorded)
        if turn == 2:
            done = log.resume()
            assert done.returncode == 0, done.stderr
            after = log.ran()
            assert all(after[name] == before[name] for name in recorded)
    assert sorted(each["id"] for each in read(log.output)) == sorted(f"j{n}" for n in range(120))
    assert log.resume().stderr.count("120 had a result already") == 1


def test_a_torn_line_is_said(rootfs, tmp_path):
    log = Log(tmp_path, rootfs, 2, "exit 0")
    log.output.write_bytes(b'{"id": "j0", "li')
    done = log.resume()
    assert done.returncode == 0 and "cut off in the middle" in done.stderr and len(read(log.output)) == 2


def test_results_to_a_reader_that_leaves(rootfs, tmp_path):
    jobs = write(tmp_path / "jobs", ["head -c 100000 /dev/zero | tr '\\0' x"] * 50)
    process = subprocess.Popen([*FASTCTR, "batch", str(jobs), "--image", rootfs], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.read(10)
    process.stdout.close()
    assert process.wait(30) == 141
    process.stderr.close()


def test_no_room_for_results(rootfs, tmp_path):
    done = batch(write(tmp_path / "jobs", ["true"] * 50), "--image", rootfs, "-o", "/dev/full")
    assert done.returncode == 125 and "No space left on device" in done.stderr


def test_bar_on_a_terminal(rootfs, tmp_path):
    jobs = write(tmp_path / "jobs", ["sleep 0.3"] * 4 + ["exit 1"])
    master, slave = pty.openpty()
    done = subprocess.Popen([*FASTCTR, "batch", str(jobs), "--image", rootfs, "-j", "2", "-o", str(tmp_path / "r")], stderr=slave)
    os.close(slave)
    shown = b""
    while True:
        try:
            chunk = os.read(master, 4096)
        except OSError:
            break
        shown += chunk
        if not chunk:
            break
    os.close(master)
    assert done.wait(30) == 1
    text = shown.decode()
    assert re.search(r"\d+% \d/5  \d failed  [12] running", text), text
    assert text.rstrip().endswith("4 ok, 1 failed")


FLAT = """
import resource, sys
from fastctr.batch.batch import Batch
class Sink:
    def put(self, job, record): pass
def peak(path):
    batch = Batch(path, workers=2, sink=Sink(), memory_budget="100m", output=path + ".out")
    batch.wait()
    assert batch.counts["error"] == int(sys.argv[2] if path.endswith("big") else 2000), batch.counts
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
small = peak(sys.argv[1] + "small")
print(peak(sys.argv[1] + "big") - small)
"""


def test_100000_lines_in_flat_memory(tmp_path):
    """Read, checked, refused and recorded; 12 MB of jobs and 40 MB of results in 6 MB, most of it the ids."""
    count = 100_000
    line = '{"id": "job-%d", "argv": ["echo", "some words of no importance %d"], "memory": "200m", "timeout": 10}\n'
    for name, number in (("small", 2000), ("big", count)):
        with open(tmp_path / name, "w") as file:
            file.writelines(line % (n, n) for n in range(number))
    done = subprocess.run([sys.executable, "-c", FLAT, f"{tmp_path}/", str(count)], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 8000, f"{done.stdout} kB"


def test_an_image_and_its_entrypoint(rootfs, tmp_path):
    store = {**os.environ, "FASTCTR_ROOT": str(tmp_path / "store")}
    made = subprocess.run([*FASTCTR, "import", "-c", 'ENTRYPOINT ["echo", "entry"]', "-c", 'CMD ["default"]', "-c", "ENV X=1", rootfs,
                           "mine/bb"], env=store, capture_output=True, text=True)  # fmt: skip
    assert made.returncode == 0, made.stderr
    jobs = [["a"], "echo cmd $X", {"id": "own"}, {"argv": ["x"], "entrypoint": "/bin/echo"}, {"argv": ["x"], "image": "mine/none", "pull": "never", "retries": 3},
            {"cmd": "cat /etc/marker", "rootfs": rootfs}]  # fmt: skip
    done = batch("-", "--image", "mine/bb", "--pull", "never", env=store, input="".join(json.dumps(job) + "\n" for job in jobs))
    found = {each["line"]: each for each in map(json.loads, done.stdout.splitlines())}
    assert [found[n].get("stdout") for n in range(1, 7)] == ["entry a\n", "cmd 1\n", "entry default\n", "x\n", None, "from the image\n"]
    assert (found[5]["error"]["type"], found[5]["attempts"]) == ("ImageNotFound", 1)
    done = subprocess.run([*FASTCTR, "map", "-q", "-k", "--image", "mine/bb", "echo {} $X", ":::", "a b", "c"], env=store,
                          capture_output=True, text=True)  # fmt: skip
    assert done.stdout == "a b 1\nc 1\n"
