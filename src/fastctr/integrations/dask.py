"""Containers as tasks of a Dask cluster.

    from distributed import Client
    from fastctr.integrations.dask import DaskExecutor

    client = Client("scheduler:8786")
    with DaskExecutor(client, image="alpine:3.20", memory="256m") as jobs:    # fastctr.Executor(image=…) on one machine
        futures = [jobs.submit(["sh", "-c", f"echo {n}"], capture_output=True) for n in range(10_000)]
        print(futures[0].result().stdout)

    client.register_plugin(ContainerPlugin(rootfs="host", memory="1g"))       # or with Dask's own means
    with dask.annotate(executor="container", resources={"container": 1}):
        client.submit(function, 1)                                            # runs in a container

`ContainerPlugin` keeps a pool of containers on every worker, `DaskExecutor` is the face of fastctr.Executor
over it. Both need fastctr on the workers too. See docs/dask.md for what a killed worker means.
"""

from __future__ import annotations

try:
    import distributed as _distributed  # noqa: F401
except ImportError as error:
    raise ImportError(
        f"fastctr.integrations.dask needs Dask's distributed ({error}): pip install 'fastctr[dask]'", name=error.name
    ) from error

from .dask_executor import DaskExecutor
from .dask_jobs import OutputData
from .dask_plugin import ContainerPlugin

__all__ = ["ContainerPlugin", "DaskExecutor", "OutputData"]
