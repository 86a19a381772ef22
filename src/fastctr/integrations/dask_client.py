"""How a DaskExecutor's jobs get to the scheduler and back: many at a time both ways, however they were given."""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import threading

import dask

from .dask_jobs import pack_together, run_jobs, unpack
from .dask_pace import Pace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from distributed import Client

    from ..workers import JobFuture
    from .dask_plugin import ContainerPlugin

_AT_ONCE = 1000
"""Tasks of one message to the scheduler; results of one question for them."""


class Task:
    """One task of Dask's: jobs (packed) and their futures. chunk: somebody said that these go together."""

    __slots__ = ("call", "chunk", "future", "futures", "jobs", "key", "link", "moved", "options")

    def __init__(self, futures: list[JobFuture | None], jobs: list[bytes], options: dict[str, Any], *,
                 call: bool = False, chunk: bool = False) -> None:  # fmt: skip
        self.futures = futures
        self.jobs = jobs
        self.options = options
        self.call = call  # of a function: the one job's bytes are the payload
        self.chunk = chunk
        self.key = ""
        self.future: Any = None  # Dask's, while it is there
        self.link: Link | None = None
        self.moved: Task | None = None  # the one that has taken its job over
        for each in futures:
            if each is not None:
                each._kill = self._cancelled

    def wanted(self) -> bool:
        """Whether anybody waits for one of its jobs still."""
        return any(each is not None and not each.done() for each in self.futures)

    def _cancelled(self) -> None:
        if self.link is not None:
            self.link.unwanted(self)

    def settle(self, value: Any) -> None:
        """value: a call's result, or [(True, result) or (False, exception)] of commands."""
        for future, (well, each) in zip(self.futures, [(True, value)] if self.call else value):
            if future is not None:
                future.end(*((each, None) if well else (None, each)))

    def fail(self, error: BaseException) -> None:
        for future in self.futures:
            if future is not None:
                future.end(None, error)


class Link:
    """Two threads between futures and a client: one sends tasks, one takes what comes back.

    together: how many short commands may go as one task at most. Raises what registering the plug-in does.
    """

    def __init__(self, client: Client, executor: str, plugin: ContainerPlugin | None, together: int) -> None:
        self._client = client
        self._executor = executor
        self._plugin = plugin
        self._lock = threading.Condition()
        self._open: set[Task] = set()
        self._sent: dict[str, Task] = {}
        self._pace = Pace(together)
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
            first, self._started = not self._started, True
        if first:
            self._client.subscribe_topic(self._prefix, lambda event: self._comes.put(event[1]))
            for work in (self._send, self._receive):
                threading.Thread(target=work, name=f"fastctr-dask{work.__name__}", daemon=True).start()
        self._sends.put(task)

    def unwanted(self, task: Task) -> None:
        """One job less is waited for. With the last the task is given up, which has its worker end it."""
        with self._lock:
            task = task.moved or task
            if task.wanted():
                return
        self._finish(task)

    def _finish(self, task: Task) -> None:
        with self._lock:
            future, task.future = task.future, None
            self._open.discard(task)
            self._sent.pop(task.key, None)
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
                if future is not None:
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
        if self._started:
            with contextlib.suppress(Exception):
                if self._client.status == "running":
                    self._client.unsubscribe_topic(self._prefix)
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

        with self._lock:
            pending = sum(each is not None and not each.done() for task in self._open for each in task.futures)
        total = {"pending": pending, "workers": 0}
        for each in self._client.run(ask).values():
            if each is not None:
                total["workers"] += 1
                for field, value in each.items():
                    if field not in ("pending", "workers"):
                        total[field] = total.get(field, 0) + value
        return total

    # ---- there

    def _send(self) -> None:
        ended = False
        while not ended:
            batch: list[Task] = []
            most = _AT_ONCE
            while not ended and len(batch) < most and not (batch and self._sends.empty()):
                task = self._sends.get()
                ended = task is None
                if task is not None:
                    batch.append(task)
                    if not (task.call or task.chunk):
                        most = min(most, self._pace.probes or most)
            while batch:
                options = batch[0].options
                same = next((n for n, each in enumerate(batch) if each.options is not options), len(batch))
                try:
                    self._send_some(self._joined(batch[:same]), options)
                except Exception as error:  # noqa: BLE001 the client is closed, say
                    for task in batch[:same]:
                        (task.moved or task).fail(error)
                        self._finish(task.moved or task)
                batch = batch[same:]
            if not self._sends.empty():
                self._pace.wait()

    def _joined(self, tasks: list[Task]) -> list[Task]:
        """Short commands in fewer tasks, see Pace."""
        size = 1
        if any(not (task.call or task.chunk) for task in tasks):
            size = self._pace.size(len(tasks) + self._sends.qsize(), self._client)
        found: list[Task] = []
        part: list[Task] = []
        for task in tasks:
            if size == 1 or task.call or task.chunk:
                found.append(task)
                continue
            part.append(task)
            if len(part) == size:
                found.append(self._join(part))
                part = []
        return [*found, self._join(part)] if part else found

    def _join(self, part: list[Task]) -> Task:
        if len(part) == 1:
            return part[0]
        with self._lock:
            part = [task for task in part if task in self._open and task.wanted()]
            futures = [each for task in part for each in task.futures]
            made = Task(futures, [job for task in part for job in task.jobs], part[0].options if part else {})
            made.link = self
            for task in part:
                task.moved = made
                self._open.discard(task)
            if part:
                self._open.add(made)
        if part and not made.wanted():  # all cancelled in that moment
            self._finish(made)
        return made

    def _send_some(self, tasks: list[Task], options: dict[str, Any]) -> None:
        for task in tasks:
            if not task.wanted():
                self._finish(task)
        tasks = [task for task in tasks if task.wanted()]
        single = [task for task in tasks if len(task.jobs) == 1 and not task.chunk]
        several = [task for task in tasks if len(task.jobs) > 1 or task.chunk]
        if single:
            self._map(single, options, None)
        if several:  # each of their jobs is tried again by itself, on the worker
            self._map(several, {**options, "retries": 0}, options.get("retries", 0))

    def _map(self, tasks: list[Task], options: dict[str, Any], retries: int | None) -> None:
        for task in tasks:
            self._count += 1
            task.key = f"{self._prefix}-{self._count}"
        with self._lock:
            self._sent.update((task.key, task) for task in tasks)
        try:
            with dask.annotate(executor=self._executor):
                payloads = [task.jobs[0] if task.call else pack_together(task.jobs, retries, self._prefix)
                            for task in tasks]  # fmt: skip
                futures = self._client.map(run_jobs, payloads, key=[task.key for task in tasks], pure=False,
                                           resources={self._executor: 1}, **options)  # fmt: skip
        except BaseException as error:  # noqa: BLE001 whoever waits for them is to hear of it
            for task in tasks:
                task.fail(error)
                self._finish(task)
            return
        watched = []
        for task, future in zip(tasks, futures):
            with self._lock:
                wanted = task.wanted()
                if wanted:
                    task.future = future
                    watched.append((task, future))
            if not wanted:
                future.release()
                self._finish(task)
        self._loop.call_soon_threadsafe(self._watch, watched)

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
            done = []
            for each in ready:
                status = each[1].status
                if status == "finished":
                    done.append(each)
                elif status == "error":
                    await self._fetch([each])  # it is here already
                elif status == "cancelled":  # by somebody else, or the cluster went away
                    self._comes.put([(each[0], None, None)])
                else:  # lost with its worker meanwhile: it is made again
                    self._keep(self._wait(*each))
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
            if isinstance(batch, dict):
                self._parted(batch["key"], batch["kept"], batch["done"])
                continue
            for task, well, value in batch:
                try:
                    self._came(task, well, value)
                except Exception as error:  # noqa: BLE001 such as a result that cannot be what it is
                    task.fail(error)
                self._finish(task)

    def _came(self, task: Task, well: bool | None, value: Any) -> None:
        if well is None:
            for each in task.futures:
                if each is not None:
                    each.cancel()
        elif not well:
            task.fail(value)
        elif task.call:
            task.settle(value)
        else:
            entries, seconds = value
            self._pace.took(seconds / max(len(entries), 1))
            task.settle(entries)
            self._send_again(task, len(entries))

    def _parted(self, key: str, kept: int, done: bytes) -> None:
        """A job of a task takes long: those before it are done, and those after it (from `kept` on) will not be
        run there. They are sent by themselves."""
        self._pace.slow()
        task = self._sent.get(key)
        if task is None:
            return
        with contextlib.suppress(Exception):  # they come once more when the task has ended
            task.settle(unpack(done))
        self._send_again(task, kept)
        if not task.wanted():
            self._finish(task)

    def _send_again(self, task: Task, start: int) -> None:
        """The jobs from there on were not run, and will not be by this task."""
        again = []
        with self._lock:
            for n in range(start, len(task.futures)):
                future, task.futures[n] = task.futures[n], None
                if future is not None and not future.done():
                    made = Task([future], [task.jobs[n]], task.options)
                    made.link = self
                    self._open.add(made)
                    again.append(made)
        for made in again:
            self._sends.put(made)
