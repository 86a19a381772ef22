"""Batches from Python: outcomes told apart, retries, admission, what is given to and taken from jobs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time

import pytest

pytest.importorskip("fastctr._core")

import fastctr.batch
from fastctr.batch import Batch, BatchError
from fastctr.errors import SpecError


def results(jobs, **kw):
    """{line: result}."""
    kw.setdefault("workers", 2)
    return {result["line"]: result for result in fastctr.batch.run(jobs, **kw)}


def one(job, **kw):
    return results([job], **kw)[1]


def test_outcomes(rootfs):
    found = results([
        "echo out; echo err >&2", "exit 3", {"cmd": "sleep 9", "timeout": 0.2}, {"argv": ["no-such-command"]},
        {"argv": ["/etc/passwd"]}, {"cmd": "kill -9 $$", "init": True}, {"image": "no.such.invalid/x", "pull": "never"},
        {"argv": ["true"], "stdin": {"path": "/no/such"}}, {"argv": ["true"], "memroy": 1}, {"argv": ["/bin/echo", b"bytes"]},
    ], rootfs=rootfs)  # fmt: skip
    assert [found[n]["status"] for n in range(1, 11)] == ["ok", "failed", "timeout", "error", "error", "signal", "error",
                                                          "error", "error", "ok"]
    assert (found[1]["stdout"], found[1]["stderr"], found[1]["returncode"]) == ("out\n", "err\n", 0)
    assert (found[2]["returncode"], found[2]["killed_by"], found[2]["attempts"]) == (3, None, 1)
    assert found[3]["killed_by"] == "timeout" and 0.2 <= found[3]["seconds"] < 5
    assert (found[4]["error"]["type"], found[4]["error"]["stage"], found[4]["error"]["errno"]) == (
        "CommandNotFound", "exec", 2)  # fmt: skip
    assert found[5]["error"]["type"] == "CommandNotExecutable" and found[5]["error"]["path"] == "/etc/passwd"
    assert found[6]["returncode"] == -9
    assert found[7]["error"]["type"] == "ImageNotFound"
    assert (found[8]["error"]["stage"], found[8]["error"]["path"]) == ("stdin", "/no/such")
    assert found[9]["invalid"] and 'did you mean "memory"' in found[9]["error"]["message"]
    assert found[10]["stdout"] == "bytes\n"
    json.dumps(found)


@pytest.mark.needs_controller("memory")
def test_out_of_memory_is_told_from_a_kill(rootfs):
    found = results([{"cmd": "x=$(head -c 40m /dev/zero | tr '\\0' a); echo ${#x}", "memory": "16m"}, "kill -9 $$; exit 137"],
                    rootfs=rootfs)  # fmt: skip
    assert found[1]["status"] == found[1]["killed_by"] == "oom" and found[1]["usage"]["oom_kills"] >= 1
    assert (found[2]["status"], found[2]["returncode"]) == ("failed", 137)  # a first process cannot kill itself


def test_what_a_job_is_given(rootfs, tmp_path):
    (tmp_path / "in").write_bytes(b"from a file\n")
    found = results([
        {"cmd": "cat; echo $A $B; pwd", "stdin": "text\n", "env": {"A": 1}, "cwd": "/new/dir"},
        {"argv": ["cat"], "stdin": {"path": str(tmp_path / "in")}},
        {"argv": ["cat"], "stdin": {"base64": "/wA="}},
        {"argv": ["hostname"], "hostname": "box"},
        ["cat"],
    ], rootfs=rootfs, env={"A": 0, "B": 2})  # fmt: skip
    assert [found[n]["stdout"] for n in range(1, 6)] == ["text\n1 2\n/new/dir\n", "from a file\n", {"base64": "/wA="},
                                                         "box\n", ""]  # fmt: skip


def test_order_and_numbers(rootfs):
    """A slow job keeps none from ending before it, and each is there once."""
    found = [result["tag"] for result in fastctr.batch.run(
        ({"argv": ["sleep", "0.5"] if n == 0 else ["true"], "tag": n} for n in range(40)), rootfs=rootfs, workers=3)]
    assert sorted(found) == list(range(40)) and found[0] != 0


def test_the_source_is_read_as_it_is_needed(rootfs):
    taken = []

    def jobs():
        for n in range(10**9):
            taken.append(n)
            yield ["true"]

    with Batch(jobs(), rootfs=rootfs, workers=2) as batch:
        for n, _ in enumerate(batch):
            if n == 10:
                break
    assert len(taken) < 1100


def test_a_source_that_fails(rootfs):
    def jobs():
        yield ["true"]
        raise RuntimeError("the source is broken")

    with pytest.raises(RuntimeError, match="source is broken"):
        list(fastctr.batch.run(jobs(), rootfs=rootfs))


def test_a_source_that_fails_lets_what_runs_end(rootfs):
    def jobs():
        yield ["sleep", "0.5"]
        time.sleep(0.2)
        raise RuntimeError("the source is broken")

    batch = Batch(jobs(), rootfs=rootfs, workers=2)
    with pytest.raises(RuntimeError):
        batch.wait()
    assert batch.counts["ok"] == 1


def test_a_batch_left_alone_ends_with_its_process(rootfs):
    code = f"""if True:
        import time
        from fastctr.batch import Batch
        Batch([["sleep", "60"]] * 9, rootfs={rootfs!r}, workers=2).start()
        time.sleep(0.3)"""
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "") and time.monotonic() - start < 20


def test_a_fork_has_nothing_of_it(rootfs):
    batch = Batch([["sleep", "0.5"], ["true"]], rootfs=rootfs, workers=1)
    batch.start()
    pid = os.fork()
    if not pid:
        batch.close()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    batch.wait()
    assert batch.counts["ok"] == 2


def test_leaving_kills(rootfs):
    start = time.monotonic()
    with Batch([["sleep", "60"]] * 3, rootfs=rootfs, workers=2) as batch:
        batch.start()
        time.sleep(0.3)
    assert time.monotonic() - start < 10 and batch.counts["cancelled"] == 2


def test_stop_lets_what_runs_end(rootfs):
    batch = Batch([["sleep", "0.5"]] * 9, rootfs=rootfs, workers=2)
    batch.start()
    threading.Timer(0.2, batch.stop).start()
    assert batch.wait(20) and batch.counts["ok"] == 2 and batch.counts["cancelled"] == 0
    batch.close()


# ---- retries


def test_retries(rootfs, tmp_path):
    (tmp_path / "n").mkdir()
    count = "echo x >> /n/$0; test $(wc -l < /n/$0) -ge"
    volume = f"{tmp_path}/n:/n"
    start = time.monotonic()
    found = results([
        {"argv": ["sh", "-c", f"{count} 3", "a"], "retries": 5},
        {"argv": ["sh", "-c", f"{count} 9", "b"], "retries": 2},
        {"argv": ["sh", "-c", f"{count} 3", "c"], "retries": {"times": 5, "on": ["oom"]}},
        {"argv": ["no-such"], "retries": 5},
        {"argv": ["sh", "-c", f"{count} 3", "d"], "retries": {"times": 5, "delay": 0.2}},
    ], rootfs=rootfs, volumes=[volume])  # fmt: skip
    assert [(found[n]["status"], found[n]["attempts"]) for n in range(1, 6)] == [
        ("ok", 3), ("failed", 3), ("failed", 1), ("error", 1), ("ok", 3)]  # fmt: skip
    assert time.monotonic() - start >= 0.6  # 0.2 and 0.4


def test_a_retry_that_waits_keeps_no_worker_busy(rootfs):
    jobs = [{"cmd": "exit 1", "retries": {"times": 1, "delay": 2}}, *[["true"]] * 20]
    order = [result["line"] for result in fastctr.batch.run(jobs, rootfs=rootfs, workers=1)]
    assert order[-1] == 1 and order[:3] == [2, 3, 4]


def test_stopping_ends_waiting_for_a_retry(rootfs):
    batch = Batch([{"cmd": "exit 1", "retries": {"times": 1, "delay": 60}}], rootfs=rootfs, workers=2)
    batch.start()
    time.sleep(0.5)
    batch.stop()
    assert batch.wait(10) and batch.counts["cancelled"] == 1
    batch.close()


# ---- fail fast, admission


def test_fail_fast(rootfs):
    start = time.monotonic()
    jobs = [["sleep", "60"], "sleep 0.2; exit 1", *[["true"]] * 5]
    found = results(jobs, rootfs=rootfs, fail_fast=True)
    assert {n: found[n]["status"] for n in found} == {1: "cancelled", 2: "failed"}
    assert time.monotonic() - start < 20


def test_admission(rootfs):
    """Jobs of half the budget and more run one at a time; small ones two at a time."""
    for memory, together in (("60m", 1), ("50m", 2)):
        batch = Batch([{"cmd": "sleep 0.1", "memory": memory}] * 4, rootfs=rootfs, workers=4, memory_budget="100m")
        batch.wait()
        assert batch.runner.admission.peak_running == together and batch.counts["ok"] == 4
        batch.close()
    batch = Batch([{"cmd": "sleep 0.1", "pids": 5}] * 4, rootfs=rootfs, workers=4, pids_budget=10)
    batch.wait()
    assert batch.runner.admission.peak_running == 2 and batch.counts["ok"] == 4
    batch.close()


def test_too_big_is_refused(rootfs):
    found = results([{"cmd": "true", "memory": "1000t"}, "true", {"cmd": "true", "memory": "200m"}], rootfs=rootfs,
                    memory_budget="100m")  # fmt: skip
    assert [found[n]["status"] for n in (1, 2, 3)] == ["error", "ok", "error"]
    assert found[3]["error"]["type"] == "TooBig" and "more than there is to give" in found[3]["error"]["message"]


@pytest.mark.needs_controller("memory")
def test_estimates_come_from_peaks(rootfs):
    batch = Batch(["x=$(head -c 20m /dev/zero | tr '\\0' a); echo ${#x}"] * 3, rootfs=rootfs, workers=1)
    batch.wait()
    entry = batch.runner.reader.plans.default
    assert 20 << 20 < entry.peak_memory < 200 << 20 and entry.peak_pids >= 2
    batch.close()


# ---- results


def test_output_directory(rootfs, tmp_path):
    found = results([{"id": "a/b", "cmd": "echo out"}, "echo err >&2"], rootfs=rootfs, output_dir=tmp_path / "o")
    assert found[1]["stdout"] == {"path": str(tmp_path / "o/a%2fb/stdout")} and found[1]["stderr"] == ""
    assert (tmp_path / "o/a%2fb/stdout").read_text() == "out\n"
    assert (tmp_path / "o/line-2/stderr").read_text() == "err\n"


def test_files_in_and_out(rootfs, tmp_path):
    (tmp_path / "c").write_bytes(b"\xff")
    found = results([
        {"id": "a", "user": "1000:1000", "cmd": "cat /in/*; stat -c %u:%a /in/b; echo res > /tmp/out; echo two > /tmp/two",
         "files": {"/in/a": "text\n", "/in/b": {"base64": "YgoK", "mode": "600"}},
         "outputs": {"/tmp/out": f"{tmp_path}/{{id}}/{{line}}-{{name}}", "/tmp/none": f"{tmp_path}/none"}},
        {"cmd": "cat /c; mkdir -p /o/p; echo three > /o/p/q", "files": {"/c": {"path": str(tmp_path / "c")}}, "outputs": ["/o/p/q"]},
        {"cmd": "mkdir /tmp/d; ln -s /etc/passwd /tmp/l; echo hi", "outputs": ["/tmp/d"]},
        {"cmd": "ln -s /etc/passwd /tmp/l; echo hi", "outputs": ["/tmp/l"]},
        {"cmd": "true", "files": {"/c": {"path": "/no/such"}}},
        {"cmd": "echo x > /o; exit 3", "outputs": {"/o": "/proc/no/such"}},
    ], rootfs=rootfs, output_dir=tmp_path / "dir")  # fmt: skip
    assert (tmp_path / "dir/a/stdout").read_text() == "text\nb\n\n1000:600\n"
    assert found[1]["outputs"] == {"/tmp/out": f"{tmp_path}/a/1-out", "/tmp/none": None}
    assert (tmp_path / "a/1-out").read_text() == "res\n" and not (tmp_path / "none").exists()
    assert found[2]["outputs"] == {"/o/p/q": str(tmp_path / "dir/line-2/o/p/q")}
    assert (tmp_path / "dir/line-2/o/p/q").read_text() == "three\n"
    for n in (3, 4):  # the job is told of all the same
        assert (found[n]["status"], found[n]["returncode"], found[n]["error"]["stage"]) == ("error", 0, "outputs")
        assert (tmp_path / f"dir/line-{n}/stdout").read_text() == "hi\n"
    assert (found[5]["error"]["stage"], found[5]["error"]["path"]) == ("files", "/no/such")
    assert (found[6]["status"], found[6]["returncode"], found[6]["error"]["stage"]) == ("error", 3, "outputs")
    assert not [name for name in os.listdir(tmp_path) if "." in name]


def test_output_limit(rootfs):
    found = results(["head -c 3m /dev/zero; echo err >&2", {"cmd": "echo 123456789", "output_limit": 4}], rootfs=rootfs)
    assert (len(found[1]["stdout"]), list(found[1]["truncated"]), found[1]["stderr"]) == (1 << 20, ["stdout"], "err\n")
    assert (found[2]["stdout"], list(found[2]["truncated"]), found[2]["status"]) == ("1234", ["stdout"], "ok")


def test_resume(rootfs, tmp_path):
    log, output = tmp_path / "log", tmp_path / "r.jsonl"
    log.mkdir()
    volume = [f"{log}:/log"]
    jobs = [{"id": f"j{n}", "cmd": f"echo x >> /log/{n}; exit $(({n} % 3 == 0))"} for n in range(12)]

    def go(given, **kw):
        with Batch(given, rootfs=rootfs, volumes=volume, workers=2, output=output, **kw) as batch:
            batch.wait()
            return batch.counts, batch.runner

    go(jobs[:5])
    with pytest.raises(BatchError, match="has results already"):
        go(jobs)
    counts, runner = go(jobs, resume=True)
    assert counts["ok"] + counts["failed"] == 7 and runner.total("skipped") == 5 and runner.total("recorded_failed") == 2
    assert all((log / str(n)).read_text() == "x\n" for n in range(12))
    counts, _ = go(jobs, resume=True, retry_failed=True)
    assert counts["failed"] == 4 and counts["ok"] == 0
    assert sorted(len((log / str(n)).read_text()) // 2 for n in range(12)) == [1] * 8 + [2] * 4
    changed = [{**job, "tag": 1} for job in jobs]
    with pytest.warns(UserWarning, match="12 jobs are not what they were"):
        counts, runner = go(changed, resume=True)
    assert sum(counts.values()) == 0 and runner.changed == 12  # an id is an id


def test_a_changed_file_is_said(rootfs, tmp_path):
    path, output = tmp_path / "jobs", tmp_path / "r.jsonl"
    path.write_text('["true"]\n["echo", "a"]\n')
    Batch(path, rootfs=rootfs, output=output).wait()
    path.write_text('["true"]\n["echo", "b"]\n["echo", "c"]\n')
    with pytest.raises(BatchError, match="line 2: is not the line whose result is recorded"), Batch(
        path, rootfs=rootfs, output=output, resume=True) as batch:  # fmt: skip
        batch.wait()
    with Batch(path, rootfs=rootfs, output=output, resume=True, allow_changes=True) as batch:
        batch.wait()
        assert batch.runner.total("skipped") >= 1 and batch.counts["error"] == 0
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert sorted((each["line"], each.get("stdout")) for each in lines)[-3:] == [(2, "a\n"), (2, "b\n"), (3, "c\n")]


def test_check_first(rootfs, tmp_path):
    path = tmp_path / "jobs"
    path.write_text('["true"]\n{"argv": ["true"], "id": "a"}\n{"cmdd": 1}\n{"argv": ["x"], "id": "a"}\n')
    with pytest.raises(BatchError) as error:
        Batch(path, rootfs=rootfs, check=True, output=tmp_path / "r")
    assert 'line 3: "cmdd"' in str(error.value) and 'line 4: id: "a" is line 2\'s too' in str(error.value)
    assert "2 of 4 jobs" in str(error.value) and not (tmp_path / "r").exists()
    found = results(path, rootfs=rootfs)
    assert [found[n]["status"] for n in (1, 2, 3, 4)] == ["ok", "ok", "error", "error"]


@pytest.mark.parametrize(
    "kw",
    [{"workers": 0}, {"resume": True}, {"retry_failed": True}, {"memory_budget": "x"}, {"pids_budget": 0}, {"retries": -1},
     {"timeout": "x"}, {"memory": "x"}, {"image": "a", "rootfs": "host"}, {"retry_on": "x"}, {"no_such_field": 1}],
)  # fmt: skip
def test_options_that_cannot_work(kw):
    with pytest.raises(SpecError):
        Batch([["true"]], **kw)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(SpecError):
        Batch("/etc/passwd", **kw)
    assert len(os.listdir("/proc/self/fd")) == before


def test_no_such_file():
    with pytest.raises(BatchError, match="/no/such: cannot be read: No such file"):
        Batch("/no/such")
    with pytest.raises(SpecError, match="are no jobs"):
        Batch(3.5)


def test_many_alike_get_a_pool(rootfs):
    batch = Batch([["true"]] * 60, rootfs=rootfs, workers=2)
    batch.start()
    while batch.counts["ok"] < 50:
        time.sleep(0.01)
    pool = batch.runner.reader.plans.default.pool
    assert pool is not None and pool.metrics()["errors"] == 0 and pool.size == 4
    batch.wait()
    assert batch.counts["ok"] == 60 and pool.metrics()["started"] >= 50
    few = Batch([["true"]] * 3, rootfs=rootfs, workers=2)
    few.wait()
    assert few.runner.reader.plans.default.pool is None


def test_many_kinds_do_not_keep_many_ready(rootfs):
    jobs = [{"argv": ["hostname"], "hostname": f"h{n % 12}", "tag": n % 12} for n in range(150)]
    batch = Batch(jobs, rootfs=rootfs, workers=2)
    assert all(result["stdout"] == f"h{result['tag']}\n" for result in batch)
    assert batch.counts["ok"] == 150 and not batch.runner.reader.plans._pools
