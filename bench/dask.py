"""Containers as tasks of a Dask cluster on this machine, against subprocess.run() as tasks of the same cluster.

    python -m bench.dask --tasks 2000

The sides take turns; each turn has a share of the tasks, and the order is turned round every time. Said are tasks
per second from the first submission to the last result in the client, and CPU time for each task of all
processes together, children included (where all cores are busy the rates follow that).
"""
from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

from . import rootfs
from .worker import LIMITS, load_fastctr

INSIDE = ["/bin/true"]
TOGETHER = CHUNK = 16
#: the sides. A DaskExecutor sends short commands up to TOGETHER to a task of Dask's, which is what its user gets;
#: a process is always one task, and so is each command by ONE
BASE, USUAL, ONE = "subprocess.run(), one a task", f"containers, up to {TOGETHER} a task", "containers, one a task"
CHUNKS = f"containers, map() in chunks of {CHUNK}"


def cpu_ms(pid: int) -> float:
    """CPU time of a process and of its children that were waited for; proc_pid_stat(5)."""
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) * 1000 / os.sysconf("SC_CLK_TCK")


def measure(client: Any, sides: dict[str, Callable[[int], Any]], tasks: int, turns: int) -> dict[str, Any]:
    """{side: {"rates": [tasks a second of each turn], "cpu_ms": of one task}}."""
    pids = [os.getpid(), *client.run(os.getpid).values()]
    count = max(tasks // turns, 1)
    found: dict[str, Any] = {name: {"rates": [], "cpu_ms": 0.0} for name in sides}
    for side in sides.values():
        side(50)  # whatever is made once
    for turn in range(turns):
        for name, side in list(sides.items())[:: -1 if turn % 2 else 1]:
            time.sleep(0.3)  # the last one's remains are cleared away
            cpu, began = sum(map(cpu_ms, pids)), time.perf_counter()
            done = side(count)
            found[name]["rates"].append(count / (time.perf_counter() - began))
            found[name]["cpu_ms"] += (sum(map(cpu_ms, pids)) - cpu) / (count * turns)
            if [each.returncode for each in done] != [0] * count:
                raise RuntimeError(f"{name}: not all of {count} tasks ended with 0")
            print(f"turn {turn + 1} {name:32} {found[name]['rates'][-1]:8.0f} tasks/s", file=sys.stderr, flush=True)
    return found


def main() -> int:
    """The command; 1 with --check if containers are slower than 0.8 of subprocesses."""
    parser = argparse.ArgumentParser(prog="python -m bench.dask", description=__doc__)
    parser.add_argument("--tasks", type=int, default=10_000, help="of each side, in all turns (default 10000)")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="worker processes (default: CPUs)")
    parser.add_argument("--threads", type=int, default=2, help="of each worker (default 2)")
    parser.add_argument("--host-root", action="store_true", help="containers of rootfs=\"host\", not of a busybox")
    parser.add_argument("--json", metavar="FILE", help="keep the figures in FILE")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    load_fastctr()
    from distributed import Client, LocalCluster

    from fastctr.integrations.dask import DaskExecutor

    with (
        tempfile.TemporaryDirectory() as folder,
        LocalCluster(n_workers=options.workers, threads_per_worker=options.threads, processes=True, host="127.0.0.1",
                     memory_limit=0, scheduler_kwargs={"dashboard": False, "dashboard_address": "127.0.0.1:0"}) as made,
        Client(made) as client,
    ):
        root, outside = "host", INSIDE
        if not options.host_root:
            tiny = rootfs.compile_c("tiny", folder, "-static", "-nostdlib", "-ffreestanding", "-fno-stack-protector")
            root = rootfs.make_rootfs(os.path.join(folder, "root"), tiny)
            outside = [os.path.join(root, "bin/true")]  # the same program on both sides
        with (DaskExecutor(client, rootfs=root, together=TOGETHER, **LIMITS) as jobs,
              DaskExecutor(client, rootfs=root, together=1, **LIMITS) as single):
            found = measure(client, {
                BASE: lambda n: client.gather(
                    client.map(lambda _: subprocess.run(outside, check=False), range(n), pure=False)),
                USUAL: lambda n: list(jobs.map([INSIDE] * n)),
                ONE: lambda n: list(single.map([INSIDE] * n)),
                CHUNKS: lambda n: list(jobs.map([INSIDE] * n, chunksize=CHUNK)),
            }, options.tasks, options.turns)
    base = found[BASE]["rates"]
    for name, side in found.items():
        side["ratio"] = statistics.median(a / b for a, b in zip(side["rates"], base, strict=True))
        print(f"{name:34} {statistics.median(side['rates']):8.0f} tasks/s {side['cpu_ms']:7.2f} ms CPU a task"
              f"   ratio {side['ratio']:.2f}")
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"workers": options.workers, "threads": options.threads, "tasks": options.tasks,
                       "load": os.getloadavg()[0], "sides": found}, file, indent=1)
    ratio = found[USUAL]["ratio"]
    print(f"{USUAL}, over {BASE}: {ratio:.2f} (bar: at least 0.8); {ONE}: {found[ONE]['ratio']:.2f}")
    return 1 if options.check and ratio < 0.8 else 0


if __name__ == "__main__":
    sys.exit(main())
