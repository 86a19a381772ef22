"""A Dask cluster whose workers pull an image, whose clients leave, and whose workers die."""

from __future__ import annotations

import os

import distributed
import pytest

from dask_support import cluster, kill, running
from fastctr.integrations.dask import DaskExecutor
from image_support import busybox_image, make_layer
from registry_support import ImageServer
from support import until

pytestmark = [pytest.mark.needs_root, pytest.mark.no_leak_check]  # dask_support looks for what is left


@pytest.fixture(scope="module")
def three():
    """(LocalCluster, Client) of three workers with one thread each."""
    with cluster(workers=3, threads=1) as both:
        yield both


def test_an_image_is_pulled_once(three, tmp_path):
    """The workers share a store: each layer is fetched once, whoever comes first."""
    image = busybox_image(more=[make_layer({"etc/one": b"1"})], config={"Cmd": ["echo", "from the image"]})
    asked = []

    def hook(handler, kind, which):
        if handler.command == "GET" and kind == "blobs":
            asked.append(which)
        return False

    with ImageServer(image, hook) as server:
        name = f"{server.host}/some/image:1"
        with DaskExecutor(three[1], image=name, root=str(tmp_path / "store"), warm=1) as jobs:
            assert jobs.metrics()["workers"] == 3
            assert sorted(asked) == sorted(set(asked)) and len(asked) == len(image.blobs) - 1
            done = jobs.with_options(capture_output=True).map([[]] * 12)
            assert {each.stdout for each in done} == {b"from the image\n"}
            assert len(asked) == len(image.blobs) - 1


def test_a_closed_client_ends_its_jobs(three, rootfs):
    with distributed.Client(three[0], set_as_default=False) as client:
        jobs = DaskExecutor(client, rootfs=rootfs, warm=0)
        futures = [jobs.submit(["sleep", "602.5"]) for _ in range(4)]
        until(lambda: running("602.5") == 3)
    until(lambda: all(future.cancelled() for future in futures))
    until(lambda: running("602.5") == 0)
    jobs.shutdown()
    three[1].unregister_worker_plugin(jobs._link._plugin.name)


def test_a_killed_workers_jobs_run_elsewhere(three, rootfs, tmp_path):
    """SIGKILL of one of three workers in the middle: every job has one result, and nothing of the dead
    worker's is left but its control groups, which the next start sweeps."""
    (tmp_path / "ran").mkdir()
    script = 'touch /ran/$1-$(cat /proc/sys/kernel/random/uuid); [ "$2" = 0 ] || sleep "$2"; echo $1'
    client = three[1]
    pids = client.run(os.getpid)
    with DaskExecutor(client, rootfs=rootfs, volumes=[f"{tmp_path}/ran:/ran:rw"], warm=0) as jobs:
        argvs = [["sh", "-c", script, "job", str(n), "0.31" if n % 20 == 0 else "0"] for n in range(150)]
        futures = [jobs.submit(argv, capture_output=True) for argv in argvs]
        until(lambda: sum(f.done() for f in futures) > 30 and running("0.31") > 0, 30)
        kill(next(iter(pids.values())))
        done = [future.result(60) for future in futures]
    assert [d.stdout for d in done] == [b"%d\n" % n for n in range(150)]
    ran = [int(name.partition("-")[0]) for name in os.listdir(tmp_path / "ran")]
    assert set(ran) == set(range(150))  # each at least once; those the worker took with it again
    until(lambda: len(client.scheduler_info()["workers"]) == 3, 30)  # the nanny started another
    with DaskExecutor(client, rootfs=rootfs, warm=0) as jobs:
        assert {r.returncode for r in jobs.map([["true"]] * 20)} == {0}
        assert jobs.metrics()["workers"] == 3


def test_a_job_whose_workers_die_is_given_up(three, rootfs):
    """Dask's promise has a limit: after allowed-failures deaths the job has KilledWorker, and no other job."""
    client = three[1]
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
