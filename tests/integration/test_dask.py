"""Containers as tasks of a real Dask cluster of several worker processes."""

from __future__ import annotations

import concurrent.futures
import os
import pickle
import socket
import subprocess
import sys
import threading

import dask
import pytest

import fastctr

from dask_support import cluster, running
from support import until
from fastctr.executor import Executor
from fastctr.integrations.dask import ContainerPlugin, DaskExecutor

pytestmark = [pytest.mark.needs_root, pytest.mark.no_leak_check]  # dask_support looks for what is left

PYTHON = {"rootfs": "host", "volumes": [f"{path}:{path}:ro" for path in {sys.prefix, sys.base_prefix} | {
    os.path.dirname(os.path.dirname(os.path.abspath(fastctr.__file__)))}], "python": sys.executable}  # fmt: skip


@pytest.fixture(scope="module")
def client():
    with cluster(workers=2, threads=2) as (_, client):
        yield client


@pytest.fixture(scope="module")
def jobs(client, rootfs):
    with DaskExecutor(client, rootfs=rootfs, warm=2) as jobs:
        yield jobs


@pytest.fixture(params=["Executor", "DaskExecutor"])
def either(request, client, rootfs):
    """The same interface on one machine and on a cluster."""
    if request.param == "Executor":
        made = Executor(rootfs=rootfs, max_workers=2)
    else:
        made = DaskExecutor(client, rootfs=rootfs, warm=0)
    with made:
        yield made


def functions():
    """Of no module: those of this one can be imported neither on a worker nor in a container."""

    def add(a, b=1):
        return a + b, os.getpid(), socket.gethostname()

    def fail(text):
        raise LookupError(text)

    return add, fail


add, fail = functions()


# ---- one body for both


def test_one_body_for_one_machine_and_many(either):
    done = either.submit(["sh", "-c", "cat; echo err >&2; exit 3"], input="in\n", capture_output=True, text=True)
    done = done.result(30)
    assert (done.returncode, done.stdout, done.stderr, done.killed_by) == (3, "in\n", "err\n", None)
    assert done.usage.as_dict().keys() >= {"cpu_total", "memory_peak"}
    text = either.with_options(capture_output=True, timeout=20)
    echoes = text.map([["echo", str(n)] for n in range(20)])
    assert [e.stdout for e in echoes] == [b"%d\n" % n for n in range(20)]

    with pytest.raises(fastctr.CommandNotFound) as error:
        either.submit(["nonesuch"]).result(30)
    assert (error.value.stage, error.value.path, error.value.errno) == ("exec", "nonesuch", 2)
    assert "PATH" in error.value.hint
    with pytest.raises(fastctr.CalledProcessError) as error:
        either.submit(["sh", "-c", "echo so; exit 4"], check=True, capture_output=True).result(30)
    assert (error.value.returncode, error.value.stdout, error.value.completed.killed_by) == (4, b"so\n", None)
    with pytest.raises(fastctr.TimeoutExpired) as error:
        either.with_options(timeout=0.2).submit(["sleep", "600.25"]).result(30)
    assert (error.value.timeout, error.value.completed.killed_by) == (0.2, "timeout")
    assert running("600.25") == 0

    future = either.submit(["sleep", "600.5"])
    until(lambda: running("600.5") == 1)
    assert future.cancel() and future.cancelled()
    until(lambda: running("600.5") == 0)
    with pytest.raises(concurrent.futures.CancelledError):
        future.result(30)

    late = text.submit(["sh", "-c", "sleep 0.1; echo late"])
    text.shutdown()  # of a view: its own jobs
    assert late.done() and late.result().stdout == b"late\n"
    with pytest.raises(RuntimeError, match="shutdown"):
        text.submit(["true"])
    assert either.submit(["true"]).result(30).returncode == 0
    either.shutdown()
    with pytest.raises(RuntimeError, match="shutdown"):
        either.submit(["true"])


# ---- commands


def test_many_jobs_one_result_each(jobs):
    futures = [jobs.submit(["echo", str(n)], capture_output=True) for n in range(300)]
    done = {future.result(60).stdout for future in concurrent.futures.as_completed(futures, 60)}
    assert done == {b"%d\n" % n for n in range(300)}


def test_short_jobs_go_together_and_a_long_one_holds_up_none(client, rootfs):
    with DaskExecutor(client, rootfs=rootfs, warm=0, together=8) as jobs:
        jobs._link._pace.took(0.001)  # it is known already that they are short
        argvs = [["echo", str(n)] if n != 37 else ["sleep", "603.25"] for n in range(120)]
        quick = jobs.with_options(capture_output=True)
        futures = [quick.submit(argv) for argv in argvs]
        others = [future for n, future in enumerate(futures) if n != 37]
        assert [f.result(60).stdout for f in others] == [b"%d\n" % n for n in range(120) if n != 37]
        assert jobs._link._count < 120  # fewer tasks than jobs
        assert running("603.25") == 1 and not futures[37].done()
        assert futures[37].cancel()
        until(lambda: running("603.25") == 0)
        assert jobs.metrics()["pending"] == 0


def test_a_chunk_with_a_long_job_gives_the_others_back(jobs):
    futures = jobs._chunks(iter([["echo", "a"], ["sleep", "603.5"], *[["echo", "b"]] * 6]), 8)
    assert [f.result(60).returncode for n, f in enumerate(futures) if n != 1] == [0] * 7
    assert running("603.5") == 1 and futures[1].cancel()
    until(lambda: running("603.5") == 0)


def test_jobs_given_back_are_not_lost_if_nobody_said_so(client, rootfs):
    with DaskExecutor(client, rootfs=rootfs, warm=0) as jobs:
        jobs._link._parted = lambda *_: None  # the worker's word does not come
        futures = jobs._chunks(iter([["true"], ["sleep", "0.6"], ["false"], ["true"]]), 4)
        assert [f.result(60).returncode for f in futures] == [0, 0, 1, 0]
        assert jobs._link._count == 3


def test_results_are_dropped_on_the_workers(client, jobs):
    list(jobs.map([["true"]] * 50))
    until(lambda: sum(len(keys) for keys in client.has_what().values()) == 0)


def test_a_chunk_has_a_result_for_each_of_its_jobs(jobs):
    argvs = [["true"], ["nonesuch"], ["false"], ["true"]]
    done = jobs.map(argvs, chunksize=4)
    assert next(done).returncode == 0
    with pytest.raises(fastctr.CommandNotFound):
        next(done)
    done = jobs.with_options(retries=2).map([["nonesuch"], ["sh", "-c", "exit 5"]], chunksize=2)
    with pytest.raises(fastctr.CommandNotFound):
        next(done)


def test_leaving_a_map_cancels_what_is_left(jobs):
    results = jobs.map([["true"], *[["sleep", "600.75"]] * 8])
    assert next(results).returncode == 0
    until(lambda: running("600.75") == 4)  # as many as the cluster has threads
    results.close()
    until(lambda: running("600.75") == 0)
    assert jobs.submit(["true"]).result(30).returncode == 0


def test_map_gives_up_at_its_timeout(jobs):
    with pytest.raises(concurrent.futures.TimeoutError):
        list(jobs.map([["sleep", "601.25"]], timeout=0.3))
    until(lambda: running("601.25") == 0)


def test_output_files_come_back_up_to_a_limit(jobs, tmp_path):
    command = ["sh", "-c", "echo small > /tmp/a; head -c 5000 /dev/zero > /tmp/b"]
    done = jobs.submit(command, outputs=["/tmp/a", "/tmp/b", "/tmp/none"], outputs_limit=1000).result(30)
    assert sorted(done.files) == ["/tmp/a", "/tmp/b"]
    assert done.files["/tmp/a"].read() == b"small\n"
    done.files["/tmp/a"].save(tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"small\n"
    assert done.truncated == ("/tmp/b",) and done.files["/tmp/b"].size == 5000
    with pytest.raises(fastctr.SpecError, match="outputs_limit"):
        done.files["/tmp/b"].read()


def test_a_flood_of_output_is_cut(jobs):
    flood = jobs.with_options(output_limit=1000)
    done = flood.submit(["sh", "-c", "head -c 100000 /dev/zero"], capture_output=True).result(30)
    assert (len(done.stdout), done.truncated, done.returncode) == (1000, ("stdout",), 0)


def test_what_is_open_here_is_refused(jobs):
    for launch in ({"stdout": sys.stderr}, {"stdin": 0}, {"pass_fds": [5]}):
        with pytest.raises(fastctr.SpecError, match="on this machine"):
            jobs.submit(["true"], **launch)
    with pytest.raises(fastctr.SpecError, match="is empty"):
        jobs.submit([]).result(30)
    with pytest.raises(fastctr.UnknownField, match="timeout"):
        jobs.submit(["true"], tiemout=3)
    with pytest.raises(TypeError, match="neither a function nor a command"):
        jobs.submit("true")


# ---- functions


@pytest.fixture(scope="module")
def calls(client):
    with DaskExecutor(client, warm=0, **PYTHON) as calls:
        yield calls


def test_functions_run_in_containers(calls):
    value, pid, host = calls.submit(add, 2, b=3).result(60)
    assert value == 5 and pid == 1 and host != socket.gethostname()
    assert [v[0] for v in calls.map(add, range(6), chunksize=2)] == [1, 2, 3, 4, 5, 6]
    assert calls.submit(lambda x: x * 2, 21).result(60) == 42
    with pytest.raises(LookupError, match="so it is"):
        calls.submit(fail, "so it is").result(60)
    with pytest.raises(fastctr.TimeoutExpired):
        calls.with_options(timeout=0.5).submit(__import__("time").sleep, 60).result(60)


def test_any_task_can_be_annotated(client, calls):
    name = calls._link._executor
    with dask.annotate(executor=name, resources={name: 1}):
        one = client.submit(add, 1)
        two = client.submit(lambda parts, more: (sum(p[0] for p in parts) + more, os.getpid()), [one, one], 5)
        bad = client.submit(fail, "in there", retries=0)
    assert two.result(60) == (9, 1)
    with pytest.raises(LookupError, match="in there"):
        bad.result(60)

    @dask.delayed
    def inc(x):
        return x + 1, os.getpid()

    with dask.annotate(executor=name, resources={name: 1}):
        graph = inc(1)
    assert client.compute(graph, optimize_graph=False).result(60) == (2, 1)


# ---- the plug-in


def test_slots_are_a_resource_of_the_workers(client, rootfs):
    client.register_plugin(ContainerPlugin(name="few", rootfs=rootfs, slots=1))
    try:
        found = client.scheduler_info()["workers"].values()
        assert [w["resources"]["few"] for w in found] == [1, 1]
        with DaskExecutor(client, executor="few") as few:
            futures = [few.submit(["sleep", "601.5"]) for _ in range(4)]
            until(lambda: running("601.5") == 2)
            threading.Event().wait(0.2)
            assert running("601.5") == 2  # one a worker, though each has two threads
            few.shutdown(cancel_futures=True)
            until(lambda: running("601.5") == 0)
        assert all(f.cancelled() for f in futures)
    finally:
        client.unregister_worker_plugin("fastctr-few")
    assert "few" not in client.run(lambda dask_worker: list(dask_worker.executors)).popitem()[1]


def test_taking_the_plug_in_away_kills_what_runs(client, rootfs):
    jobs = DaskExecutor(client, rootfs=rootfs)
    future = jobs.submit(["sleep", "601.75"])
    until(lambda: running("601.75") == 1)
    client.unregister_worker_plugin(jobs._link._plugin.name)
    assert running("601.75") == 0
    assert not future.done()  # Dask waits for a worker that has the resource
    jobs.shutdown(cancel_futures=True)


def test_what_fails_on_the_workers_is_raised_here(client, tmp_path):
    with pytest.raises(fastctr.SpecError) as error:
        DaskExecutor(client, rootfs=str(tmp_path / "none"))
    assert error.value.field == "rootfs"
    with pytest.raises(fastctr.ImageNotFound) as error:
        DaskExecutor(client, image="not/here:1", pull="never", root=str(tmp_path / "store"))
    assert "not/here:1" in error.value.where
    with pytest.raises(fastctr.UnknownField, match="memory"):
        DaskExecutor(client, rootfs="host", memroy="1m")
    assert client.run(lambda dask_worker: [p for p in dask_worker.plugins if "fastctr-container-" in p]).keys()


def test_container_errors_are_in_the_workers_logs(client, jobs):
    with pytest.raises(fastctr.CommandNotFound):
        jobs.submit(["no-such-command"]).result(30)
    with pytest.raises(fastctr.TimeoutExpired):
        jobs.submit(["sleep", "600.125"], timeout=0.1).result(30)
    until(lambda: any("no-such-command" in event["message"] for _, event in client.get_events("fastctr")
                      if "message" in event))  # fmt: skip
    lines = [line for _, lines in client.get_worker_logs().items() for _, line in lines]
    assert any("no-such-command" in line and "no container" in line for line in lines)
    assert any("timed out" in line and "600.125" in line for line in lines)


def test_without_dask_it_says_what_to_install():
    code = "import sys; sys.modules['distributed'] = None; import fastctr.integrations.dask"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False,
                          env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})  # fmt: skip
    assert done.returncode == 1 and done.stderr.strip().endswith("pip install 'fastctr[dask]'")


def test_figures_of_all_workers(jobs):
    before = jobs.metrics()
    list(jobs.map([["true"]] * 10))
    after = jobs.metrics()
    assert (after["workers"], after["pending"], after["done"] - before["done"]) == (2, 0, 10)


def test_an_executor_of_nothing_known_runs_nothing(client):
    from fastctr.integrations.dask_jobs import pack_command, pack_together, run_jobs

    with pytest.raises(RuntimeError, match="another executor"):
        client.submit(run_jobs, pack_together([pack_command(["true"], {})], None, "")).result(30)


# ---- errors travel


@pytest.mark.parametrize("error", [
    fastctr.SpecError("mounts[2].target", "x", "is bad", "do so"),
    fastctr.UnknownField("memroy", ("memory",)),
    fastctr.LaunchError("overlay", 28, "/x", "make room", 4),
    fastctr.CommandNotFound("exec", 2, "nope", "check", 1),
    fastctr.CommandNotExecutable("exec", 13, "nope", "check", 1),
    fastctr.CgroupError("limit", 22, "memory.max", "", 0),
    fastctr.ImageNotFound("alpine:0", "is not there", "pull it"),
    fastctr.RegistryError("alpine:0", "refused", "later", 503),
    fastctr.AuthError("alpine:0", "refused", "login", 401),
    fastctr.DigestMismatch("sha256:00", "is other"),
    fastctr.TimeoutExpired(["x"], 1.5, b"out", b"err"),
    fastctr.CalledProcessError(3, ["x"], b"out", b"err"),
], ids=lambda error: type(error).__name__)  # fmt: skip
def test_errors_come_back_as_themselves(error):
    if hasattr(error, "completed"):
        error.completed = fastctr.run(["true"], rootfs="host")
    error.__notes__ = ["a note"]
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is type(error) and str(back) == str(error)
    for name, value in vars(error).items():
        if name == "completed":
            assert back.completed.usage.as_dict() == value.usage.as_dict() and back.completed.args == value.args
        else:
            assert getattr(back, name) == value
