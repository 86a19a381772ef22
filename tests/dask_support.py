"""A Dask cluster of worker processes on loopback for tests, and what it must not leave behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
import time
from multiprocessing import resource_tracker

import dask
import distributed
import leaks_support

import fastctr

SETTINGS = {
    "distributed.worker.daemon": True,
    "distributed.worker.memory.terminate": False,
    "distributed.scheduler.allowed-failures": 3,
    "distributed.admin.log-format": "%(name)s %(message)s",
}


@contextlib.contextmanager
def cluster(workers=2, threads=2):
    """(LocalCluster, Client) with a runtime directory of their own: all that its workers made is looked for
    there in the end, and must be gone."""
    resource_tracker.ensure_running()  # it stays, once there is a process by spawn: not a leak of the test's
    runtime = tempfile.mkdtemp(prefix="fastctr-dask-", dir="/run" if os.access("/run", os.W_OK) else None)
    before = snapshot(runtime)
    try:
        with (
            dask.config.set(SETTINGS),
            distributed.LocalCluster(
                n_workers=workers, threads_per_worker=threads, processes=True, host="127.0.0.1",
                scheduler_kwargs={"dashboard": False, "dashboard_address": "127.0.0.1:0"}, silence_logs=50,
                memory_limit=0, local_directory=runtime,
                env={"FASTCTR_RUNTIME_DIR": runtime},  # the setting distributed.nanny.environ gives way to what we have
            ) as made,
            distributed.Client(made) as client,
        ):  # fmt: skip
            yield made, client
        end = time.monotonic() + 10  # a nanny may have killed its worker, which then ends a moment later
        while left := found_after(before, runtime):
            assert time.monotonic() < end, left
            time.sleep(0.1)
    finally:
        shutil.rmtree(runtime, ignore_errors=True)


def snapshot(runtime):
    """All but what distributed keeps open in this process."""
    found = leaks_support.Snapshot(runtime, True)
    for part in ("descriptors of this process", "files in the runtime directory", "this process itself"):
        del found.parts[part]
    return found


def found_after(before, runtime):
    """What is there beyond `before`, as text, once the machine has been swept."""
    sweep(runtime)
    files = [n for n in os.listdir(runtime) if not n.startswith(("dask", "worker", "scheduler"))]
    return before.difference(snapshot(runtime)) + "".join(f"\nfile {name}" for name in files)


def sweep(runtime):
    """What the next start of anybody with that runtime directory does: here, after a worker was killed."""
    fastctr.shutdown()
    before, os.environ["FASTCTR_RUNTIME_DIR"] = os.environ["FASTCTR_RUNTIME_DIR"], runtime
    try:
        fastctr.gc()
        fastctr.shutdown()
    finally:
        os.environ["FASTCTR_RUNTIME_DIR"] = before


def running(argument):
    """How many processes of this machine have that argument: jobs are given an unlikely one."""
    found = 0
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as file:
            found += argument.encode() in file.read().split(b"\0")
    return found


def kill(pid):
    os.kill(pid, signal.SIGKILL)
