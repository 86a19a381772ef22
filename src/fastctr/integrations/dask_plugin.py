"""The workers' side: ContainerPlugin, a pool of containers on each worker of a cluster."""

from __future__ import annotations

import asyncio
import logging

from distributed import WorkerPlugin
from distributed.core import Status

from ..errors import SpecError, UnknownField
from ..launch_args import IMAGE_FIELDS
from ..spec import FIELDS, LIMITS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from distributed import Worker

    from ..spec import Spec
    from .dask_worker import ContainerExecutor

TOPIC = "fastctr"
"""Of the events that the plug-in logs: client.get_events("fastctr")."""
_log = logging.getLogger("distributed.worker.fastctr")  # what client.get_worker_logs() shows


class ContainerPlugin(WorkerPlugin):  # type: ignore[misc]
    """A pool of containers on every worker, and an executor that runs tasks in them.

    name: that of the executor, dask.annotate(executor=name), and of the resource that limits how many run at
    once on a worker, dask.annotate(resources={name: 1}); the plug-in's own is "fastctr-" + name. slots: how many
    of that resource a worker has, by default its threads: Dask runs no more tasks at once than it has threads.
    warm: containers prepared on each worker at the start, by default as many as slots. preload, python, result: as of
    fastctr.Zygote, for functions. The other keywords are those of a container: image=, rootfs=, memory=, …
    Images are pulled when the plug-in comes to a worker; the workers of one machine share the store and its lock.

    Raises SpecError and UnknownField for keywords that no container has. All else is checked on the workers:
    client.register_plugin() raises what setting it up raised there (SpecError, ImageNotFound, LaunchError, …).
    """

    def __init__(self, *, name: str = "container", slots: int | None = None, warm: int | None = None,
                 preload: Any = (), python: Any = "python3", result: str = "data", spec: Spec | None = None,
                 **fields: Any) -> None:  # fmt: skip
        for field in fields:
            if field not in FIELDS and field not in LIMITS and field not in IMAGE_FIELDS:
                raise UnknownField(field, (*FIELDS, *LIMITS, *IMAGE_FIELDS))
        for field, value in (("slots", slots), ("warm", warm)):
            if value is not None and (not isinstance(value, int) or value < (field == "slots")):
                raise SpecError(field, value, "is not a number of containers", "use 1 or more, or None")
        if not name or not isinstance(name, str) or name in ("default", "offload", "actor", "gpu"):
            raise SpecError("name", name, "cannot name an executor", 'use another, as "container"')
        self.executor = name
        self.name = f"fastctr-{name}"
        self.slots = slots
        self.warm = warm
        self.preload = preload
        self.python = python
        self.result = result
        self.spec = spec
        self.fields = fields
        self._made: dict[int, ContainerExecutor] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_made": {}}

    async def setup(self, worker: Worker) -> None:
        """Pull the image, make the pool and its first containers, declare the slots. Called by Dask."""
        slots = self.slots or worker.state.nthreads
        try:
            made = await asyncio.to_thread(self._make, worker, slots)
        except Exception as error:
            worker.log_event(TOPIC, {"executor": self.executor, "worker": worker.address, "setup": repr(error)})
            raise
        self._made[id(worker)] = made
        worker.executors[self.executor] = made
        await worker.set_resources(**{self.executor: slots})
        _log.info("executor %r: %d containers at a time of %r", self.executor, slots, made.plan)

    def _make(self, worker: Worker, slots: int) -> ContainerExecutor:
        from .dask_worker import ContainerExecutor

        def report(event: dict[str, Any]) -> None:
            worker.log_event(TOPIC, {"executor": self.executor, "worker": worker.address, **event})

        made = ContainerExecutor(self.spec, self.fields, slots=slots, preload=self.preload, python=self.python,
                                 result=self.result, report=report, event=worker.log_event,
                                 loop=worker.loop.asyncio_loop)  # fmt: skip
        try:
            made.warmup(slots if self.warm is None else self.warm)
        except BaseException:
            made.close()
            raise
        return made

    async def teardown(self, worker: Worker) -> None:
        """Kill every container and let go of the pool. Called by Dask, also when a worker ends."""
        made = self._made.pop(id(worker), None)
        if made is None:
            return
        if worker.executors.get(self.executor) is made:
            del worker.executors[self.executor]
        if worker.status is Status.running:
            await worker.set_resources(**{self.executor: 0})
        await asyncio.to_thread(made.close)

    def transition(self, key: Any, start: str, finish: str, **kwargs: Any) -> None:
        """Dask's word that a task changed its state: one that is given up while it runs is killed."""
        if finish == "released" and start in ("executing", "long-running"):
            for made in self._made.values():
                made.kill(key)
