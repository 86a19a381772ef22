"""How a DaskExecutor's jobs get to the scheduler and back: many at a time both ways, however they were given."""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import threading

import dask

from .dask_jobs import run_jobs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from distributed import Client

    from ..workers import JobFuture
    from .dask_plugin import ContainerPlugin

_AT_ONCE = 1000
"""Tasks of one message to the scheduler; results of one question for them."""


class Task:
    """One task of Dask's: its payload, and the futures of its jobs. chunk: it gives a list, of (True, result) or
    (False, exception) for each."""

    __slots__ = ("chunk", "future", "futures", "left", "link", "options", "payload")

    def __init__(self, futures: list[JobFuture], payload: bytes, options: dict[str, Any], chunk: bool) -> None:
        self.futures = futures
        self.payload = payload
        self.options = options
        self.left = len(futures)  # jobs somebody still waits for
        self.future: Any = None  # Dask's, while it is there
        self.link: Link | None = None
        self.chunk = chunk
        for each in futures:
            each._kill = self._cancelled

    def _cancelled(self) -> None:
        """One of the jobs is not wanted any more."""
        if self.link is not None:
            self.link.unwanted(self)

    def settle(self, value: Any) -> None:
        if not self.chunk:
            self.futures[0].end(value, None)
            return
        for future, (well, each) in zip(self.futures, value):
            future.end(*((each, None) if well else (None, each)))

    def fail(self, error: BaseException) -> None:
        for future in self.futures:
            future.end(None, error)


class Link:
    """Two threads between futures and a client: one sends tasks, one takes what comes back.

    Raises what registering the plug-in does.
    """

    def __init__(self, client: Client, executor: str, plugin: ContainerPlugin | None) -> None:
        self._client = client
        self._executor = executor
        self._plugin = plugin
        self._lock = threading.Condition()
        self._open: set[Task] = set()
        self._closed = False
        self._ended = False
        self._started = False
        self._sends: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._comes: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._loop = client.loop.asyncio_loop
        self._ready: list[tuple[Task, Any]] = []  # this and the next two are the loop's
        self._works: set[asyncio.Task[Any]] = set()
        self._pumping = False
        self._prefix = f"{executor.partition('-')[0]}-{os.urandom(8).hex()}"
        self._count = 0
        if plugin is not None:
            try:
                client.register_plugin(plugin)
            except BaseException:
                self._unregister()
                raise

    def add(self, task: Task) -> None:
        """Send it. Raises RuntimeError once closed."""
        with self._lock:
            if self._closed:
                raise RuntimeError("cannot schedule new futures after shutdown")
            self._open.add(task)
            task.link = self
            if not self._started:
                self._started = True
                for work in (self._send, self._receive):
                    threading.Thread(target=work, name=f"fastctr-dask{work.__name__}", daemon=True).start()
        self._sends.put(task)

    def unwanted(self, task: Task) -> None:
        """One job less is waited for. With the last the task is given up, which has its worker end it."""
        with self._lock:
            task.left -= 1
            if task.left:
                return
        self._finish(task)

    def _finish(self, task: Task) -> None:
        with self._lock:
            task.left = 0
            future, task.future = task.future, None
            task.payload = b""
            self._open.discard(task)
            if not self._open:
                self._lock.notify_all()
        if future is not None:
            future.release()

    def close(self, wait: bool, cancel: bool) -> None:
        """Take nothing more; see DaskExecutor.shutdown()."""
        with self._lock:
            self._closed = True
            tasks = list(self._open) if cancel else []
        for task in tasks:
            for future in task.futures:
                future.cancel()
        if wait:
            self._end()
        else:
            threading.Thread(target=self._end, name="fastctr-dask_end", daemon=True).start()

    def _end(self) -> None:
        with self._lock:
            self._lock.wait_for(lambda: not self._open)
            if self._ended:
                return
            self._ended = True
        self._sends.put(None)
        self._comes.put(None)
        if self._plugin is not None:
            self._unregister()

    def _unregister(self) -> None:
        """Where the client is closed, or the scheduler gone, the plug-in goes with the cluster."""
        assert self._plugin is not None
        with contextlib.suppress(Exception):
            if self._client.status == "running":
                self._client.unregister_worker_plugin(self._plugin.name)

    def metrics(self) -> dict[str, int]:
        """See DaskExecutor.metrics()."""
        name = self._executor

        def ask(dask_worker: Any) -> dict[str, int] | None:
            found = dask_worker.executors.get(name)
            return None if found is None else found.metrics()

        total = {"pending": len(self._open), "workers": 0}
        for each in self._client.run(ask).values():
            if each is not None:
                total["workers"] += 1
                for field, value in each.items():
                    if field not in ("pending", "workers"):
                        total[field] = total.get(field, 0) + value
        return total

    # ---- there

    def _send(self) -> None:
        while (task := self._sends.get()) is not None:
            batch = [task]
            while len(batch) < _AT_ONCE and not self._sends.empty():
                more = self._sends.get()
                if more is None:
                    self._sends.put(None)
                    break
                batch.append(more)
            while batch:
                options = batch[0].options
                same = next((n for n, each in enumerate(batch) if each.options is not options), len(batch))
                self._send_some([each for each in batch[:same] if each.left], options)
                batch = batch[same:]

    def _send_some(self, tasks: list[Task], options: dict[str, Any]) -> None:
        keys = [f"{self._prefix}-{self._count + n}" for n in range(len(tasks))]
        self._count += len(tasks)
        if not tasks:
            return
        try:
            with dask.annotate(executor=self._executor):
                futures = self._client.map(run_jobs, [task.payload for task in tasks], key=keys, pure=False,
                                           resources={self._executor: 1}, **options)  # fmt: skip
        except BaseException as error:  # noqa: BLE001 whoever waits for them is to hear of it
            for task in tasks:
                task.fail(error)
                self._finish(task)
            return
        sent = []
        for task, future in zip(tasks, futures):
            with self._lock:
                wanted = task.left > 0
                if wanted:
                    task.future = future
                    task.payload = b""
                    sent.append((task, future))
            if not wanted:
                future.release()
        self._loop.call_soon_threadsafe(self._watch, sent)

    # ---- and back: on the client's loop

    def _watch(self, sent: list[tuple[Task, Any]]) -> None:
        for task, future in sent:
            self._keep(self._wait(task, future))

    def _keep(self, work: Any) -> asyncio.Task[Any]:
        """The loop itself does not hold on to what it runs."""
        running: asyncio.Task[Any] = self._loop.create_task(work)
        self._works.add(running)
        running.add_done_callback(self._works.discard)
        return running

    async def _wait(self, task: Task, future: Any) -> None:
        await future._state.wait()  # what all of distributed's own waiting comes down to
        self._ready.append((task, future))
        if not self._pumping:
            self._pumping = True
            self._keep(self._pump())

    async def _pump(self) -> None:
        """Ask for what is ready, as much as there is at once: a question costs more than its answers. One that
        takes long (a result was lost with its worker, and is made again) does not hold up the others."""
        while self._ready:
            await asyncio.sleep(min(len(self._open) / 4_000, 0.25))
            ready, self._ready = self._ready[:_AT_ONCE], self._ready[_AT_ONCE:]
            done = [each for each in ready if each[1].status == "finished"]
            for each in ready:
                if each[1].status == "error":
                    await self._fetch([each])  # it is here already
                elif each[1].status != "finished":  # cancelled or lost: by somebody else, or the cluster went
                    self._comes.put([(each[0], None, None)])
            if done:
                await asyncio.wait({self._keep(self._fetch(done))}, timeout=0.5)
        self._pumping = False

    async def _fetch(self, ready: list[tuple[Task, Any]]) -> None:
        """Results by one question to the scheduler; one by one if that fails, to know whose failure it is."""
        try:
            values = await self._client.gather([future for _, future in ready], asynchronous=True)
            self._comes.put([(task, True, value) for (task, _), value in zip(ready, values)])
        except BaseException as error:  # noqa: BLE001 it is a job's
            if len(ready) == 1:
                self._comes.put([(ready[0][0], False, error)])
                return
            for each in ready:
                await self._fetch([each])

    # ---- in a thread: whatever is called back by a future may take its time

    def _receive(self) -> None:
        while (batch := self._comes.get()) is not None:
            for task, well, value in batch:
                if well is None:
                    for each in task.futures:
                        each.cancel()
                elif well:
                    task.settle(value)
                else:
                    task.fail(value)
                self._finish(task)
