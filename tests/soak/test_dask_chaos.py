"""Dask workers killed at random moments: every job has one result, and nothing is left.

FASTCTR_CHAOS_ROUNDS is how many are killed.
"""

from __future__ import annotations

import os
import random
import threading
import time
from typing import Any

import pytest

from dask_support import cluster, kill
from fastctr.integrations.dask import DaskExecutor

ROUNDS = int(os.environ.get("FASTCTR_CHAOS_ROUNDS", "3"))
JOBS = 120
pytestmark = [pytest.mark.needs_root, pytest.mark.no_leak_check, pytest.mark.soak,
              pytest.mark.timeout(60 + 15 * ROUNDS)]  # fmt: skip


def test_workers_killed_at_random(rootfs: str) -> None:
    chance = random.Random(4)
    killed = 0
    while killed < ROUNDS:
        with cluster(workers=3, threads=2) as (_, client):
            client.run_on_scheduler(lambda dask_scheduler: setattr(dask_scheduler, "allowed_failures", 10**6))
            with DaskExecutor(client, rootfs=rootfs, warm=2) as base:
                killed += kill_some(client, base.with_options(capture_output=True), chance, ROUNDS - killed)


def kill_some(client: Any, jobs: Any, chance: random.Random, rounds: int) -> int:
    """How many it killed: a nanny was seen not to bring its worker back, why is not known; it then goes on with a new cluster."""
    for n in range(rounds):
        pids = client.run(os.getpid)
        victim = chance.choice(list(pids))
        timer = threading.Timer(chance.uniform(0, 0.6), kill, [pids[victim]])
        timer.start()
        futures = [jobs.submit(["sh", "-c", f"sleep 0.0{k % 3}; echo {n}.{k}"]) for k in range(JOBS)]
        try:
            assert [f.result(60).stdout for f in futures] == [b"%d.%d\n" % (n, k) for k in range(JOBS)]
        finally:
            timer.join()
        end = time.monotonic() + 10
        while victim in (there := client.scheduler_info()["workers"]) or len(there) < 3:
            if time.monotonic() > end:
                return n + 1
            time.sleep(0.05)
        assert jobs.metrics()["pending"] == 0
    return rounds
