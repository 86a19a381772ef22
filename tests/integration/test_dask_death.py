"""A Dask cluster whose workers die, and one whose workers pull an image."""

from __future__ import annotations

import os

import distributed
import pytest

from dask_support import cluster, kill, running, until
from fastctr.integrations.dask import DaskExecutor
from image_support import busybox_image, make_layer
from registry_support import ImageServer

pytestmark = [pytest.mark.needs_root, pytest.mark.no_leak_check]


def test_a_killed_workers_jobs_run_elsewhere(rootfs, tmp_path):
    """SIGKILL of one of three workers in the middle: every job has one result, and nothing of the dead
    worker's is left but its control groups, which the next start sweeps."""
    (tmp_path / "ran").mkdir()
    script = 'touch /ran/$1-$(cat /proc/sys/kernel/random/uuid); [ "$2" = 0 ] || sleep "$2"; echo $1'
    with cluster(workers=3, threads=1) as (_, client):
        pids = client.run(os.getpid)
        with DaskExecutor(client, rootfs=rootfs, volumes=[f"{tmp_path}/ran:/ran:rw"], warm=0) as jobs:
            argvs = [["sh", "-c", script, "job", str(n), "0.31" if n % 10 == 0 else "0"] for n in range(200)]
            futures = [jobs.submit(argv, capture_output=True) for argv in argvs]
            until(lambda: sum(f.done() for f in futures) > 30 and running("0.31") > 0, 30)
            kill(next(iter(pids.values())))
            done = [future.result(60) for future in futures]
        assert [d.stdout for d in done] == [b"%d\n" % n for n in range(200)]
        ran = [int(name.partition("-")[0]) for name in os.listdir(tmp_path / "ran")]
        assert set(ran) == set(range(200))  # each at least once; those the worker took with it again
        until(lambda: len(client.scheduler_info()["workers"]) == 3)  # the nanny started another
        with DaskExecutor(client, rootfs=rootfs, warm=0) as jobs:
            assert {r.returncode for r in jobs.map([["true"]] * 20)} == {0}


def test_a_job_that_kills_its_workers_is_given_up(rootfs):
    """Dask's promise, and its limit: after allowed-failures deaths the job has KilledWorker, and no other job."""
    with cluster(workers=2, threads=1) as (_, client):
        client.run_on_scheduler(lambda dask_scheduler: setattr(dask_scheduler, "allowed_failures", 0))
        with DaskExecutor(client, rootfs=rootfs, warm=0) as jobs:
            future = jobs.submit(["sleep", "602.25"])
            until(lambda: running("602.25") == 1)
            where = next(address for address, keys in client.processing().items() if keys)
            kill(client.run(os.getpid, workers=[where])[where])
            with pytest.raises(distributed.KilledWorker):
                future.result(60)
            until(lambda: running("602.25") == 0)  # it dies with its worker
            assert jobs.submit(["true"]).result(60).returncode == 0


def test_an_image_is_pulled_once(tmp_path):
    """Three workers share a store: each layer is fetched once, whoever comes first."""
    image = busybox_image(more=[make_layer({"etc/one": b"1"})], config={"Cmd": ["echo", "from the image"]})
    asked = []

    def hook(handler, kind, which):
        if handler.command == "GET" and kind == "blobs":
            asked.append(which)
        return False

    with ImageServer(image, hook) as server, cluster(workers=3, threads=1) as (_, client):
        name = f"{server.host}/some/image:1"
        with DaskExecutor(client, image=name, root=str(tmp_path / "store"), warm=1) as jobs:
            assert sorted(asked) == sorted(set(asked)) and len(asked) == len(image.blobs) - 1
            assert {d.stdout for d in jobs.with_options(capture_output=True).map([[]] * 12)} == {b"from the image\n"}
            assert len(asked) == len(image.blobs) - 1


def test_a_closed_client_ends_its_jobs(rootfs):
    with cluster(workers=1, threads=2) as (made, _):
        with distributed.Client(made) as client:
            jobs = DaskExecutor(client, rootfs=rootfs, warm=0)
            futures = [jobs.submit(["sleep", "602.5"]) for _ in range(4)]
            until(lambda: running("602.5") == 2)
        until(lambda: all(future.cancelled() for future in futures))
        until(lambda: running("602.5") == 0)
        jobs.shutdown()
