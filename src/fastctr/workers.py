"""Threads for jobs, and their futures: what Pool, Slots and Executor hand out. A job is a container, so
unlike a thread's function it can be stopped: cancel() kills it."""

from __future__ import annotations

import threading
import weakref
from collections import deque
from concurrent.futures import Future, InvalidStateError
from concurrent.futures._base import CANCELLED_AND_NOTIFIED, FINISHED, PENDING, RUNNING
from queue import Empty, SimpleQueue

from . import context

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    Item = tuple["JobFuture", Callable[..., Any], Any, dict[str, Any]] | None

_all: weakref.WeakSet[Workers] = weakref.WeakSet()


class JobFuture(Future):  # type: ignore[type-arg]
    """A concurrent.futures.Future whose job can be stopped at any time."""

    _kill: Callable[[], object] | None = None

    def cancel(self) -> bool:
        """Stop the job: one that has not started never will, and one that runs is killed with all that is
        in its container. True, unless it has ended. Waiters and callbacks are told at once."""
        with self._condition:
            if self._state == FINISHED:
                return False
            if self._state not in (PENDING, RUNNING):
                return True
            self._state = CANCELLED_AND_NOTIFIED
            for waiter in self._waiters:
                waiter.add_cancelled(self)
            self._condition.notify_all()
        self._end_it()
        self._invoke_callbacks()  # type: ignore[attr-defined]
        return True

    def begin(self) -> bool:
        """Before the job starts: False if it was cancelled."""
        with self._condition:
            if self._state != PENDING:
                return False
            self._state = RUNNING
            return True

    def started(self, running: Any) -> None:
        """What runs can be killed from here on, by its kill_all() or kill()."""
        self._kill = getattr(running, "kill_all", None) or running.kill
        if self._state == CANCELLED_AND_NOTIFIED:  # meanwhile; its canceller saw nothing to kill
            self._end_it()

    def _end_it(self) -> None:
        kill, self._kill = self._kill, None
        if kill is not None:
            try:
                kill()
            except (ValueError, OSError):
                pass  # it has ended by itself

    def end(self, result: Any, error: BaseException | None) -> None:
        """The job has ended; of one that was cancelled nobody wants to know."""
        self._kill = None
        try:
            if error is not None:
                self.set_exception(error)
            else:
                self.set_result(result)
        except InvalidStateError:
            pass


class Workers:
    """Up to `most` threads, each started when there is a job and no thread is free for it.

    max_pending: submit() blocks while that many jobs wait for a thread; None: never.
    """

    def __init__(self, name: str, most: int, max_pending: int | None = None) -> None:
        self.name = name
        self.most = most
        self.max_pending = max_pending
        self.closed = False
        self._fresh()
        _all.add(self)

    def _fresh(self) -> None:
        self._lock = threading.Lock()
        self._tasks: SimpleQueue[Item] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._alive = 0
        self._open = 0  # submitted, and not ended
        self._running: set[JobFuture] = set()
        self._room = threading.Semaphore(self.max_pending) if self.max_pending else None
        self._after: Callable[[], object] | None = None
        self.killing = False

    def submit(self, call: Callable[..., Any], args: Any, kw: dict[str, Any]) -> JobFuture:
        """Have a thread do call(future.started, *args, **kw). Raises RuntimeError once it is closed."""
        future = JobFuture()
        room = self._room
        if room is not None:
            room.acquire()
        queued = False
        try:
            with self._lock:
                if self.closed:
                    raise RuntimeError(f"cannot schedule new futures after the {self.name} was closed")
                self._open += 1
                if self._open > self._alive and self._alive < self.most:
                    self._start()
                self._tasks.put((future, call, args, kw))
                queued = True
        finally:
            if not queued and room is not None:
                room.release()
        return future

    def _start(self) -> None:
        thread = threading.Thread(target=_work, args=(self,), name=f"fastctr-{self.name}-{self._alive}")
        self._alive += 1
        try:
            thread.start()
        except BaseException:
            self._alive -= 1
            if not self._alive:  # else those there are will do
                self._open -= 1
                raise
            return
        self._threads.append(thread)

    @property
    def pending(self) -> int:
        """Jobs that wait for a thread."""
        return self._tasks.qsize() if not self.closed else max(self._open - len(self._running), 0)

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def threads(self) -> int:
        return self._alive

    def cancel_pending(self) -> None:
        """Cancel what no thread has taken yet."""
        ends = 0
        while True:
            try:
                item = self._tasks.get_nowait()
            except Empty:
                break
            if item is None:
                ends += 1
                continue
            with self._lock:
                self._open -= 1
            if self._room is not None:
                self._room.release()
            item[0].cancel()
        for _ in range(ends):
            self._tasks.put(None)

    def cancel_running(self) -> None:
        """Kill what runs, and what is about to; once it is closed."""
        self.killing = True
        for future in list(self._running):
            future.cancel()

    def close(self, wait: bool = True, after: Callable[[], object] | None = None) -> None:
        """Take no more jobs; the threads go when all are done, and the last of them calls `after`."""
        with self._lock:
            first, self.closed = not self.closed, True
            if first:
                self._after = after
                for _ in range(self._alive):
                    self._tasks.put(None)
            idle = first and not self._alive
        if first and self._room is not None:
            self._room.release(1 << 20)  # whoever waits to submit
        if idle and after is not None:
            after()
        if wait:
            for thread in self._threads:
                if thread is not threading.current_thread():
                    thread.join()

    def _gone(self) -> None:
        with self._lock:
            self._alive -= 1
            after = self._after if not self._alive else None
        if after is not None:
            after()


def _work(workers: Workers) -> None:
    tasks, running, lock, room = workers._tasks, workers._running, workers._lock, workers._room
    get = tasks.get
    while True:
        item = get()
        if item is None:
            break
        if room is not None:
            room.release()
        future, call, args, kw = item
        running.add(future)
        if workers.killing:
            future.cancel()
        if future.begin():
            result, error = None, None
            try:
                result = call(future.started, *args, **kw)
            except BaseException as caught:  # noqa: BLE001 # it is the future's
                error = caught
            running.discard(future)
            with lock:
                workers._open -= 1
            future.end(result, error)
            result = error = None
        else:
            running.discard(future)
            with lock:
                workers._open -= 1
        item = future = call = args = kw = None  # type: ignore[assignment] # nothing is kept while it waits
    workers._gone()


def in_order(submit: Callable[[Any], Future[Any]], argvs: Iterator[Any], ahead: int) -> Iterator[Any]:
    """The results of submit(argv) of each, in order, at most `ahead` submitted and not yet fetched. An error,
    and leaving the loop, cancels the rest."""
    waiting: deque[Future[Any]] = deque()
    try:
        for argv in argvs:
            waiting.append(submit(argv))
            if len(waiting) >= ahead:
                result = waiting[0].result()
                waiting.popleft()
                yield result
        while waiting:
            result = waiting[0].result()
            waiting.popleft()
            yield result
    finally:
        for future in waiting:
            future.cancel()


def close_all() -> None:
    """At the end of this process: what was submitted is done first, as concurrent.futures has it."""
    for workers in list(_all):
        workers.close()


def _after_fork() -> None:
    for workers in list(_all):  # the threads, and the jobs they had, are the parent's
        workers._fresh()


context.on_fork(_after_fork)
try:
    threading._register_atexit(close_all)  # type: ignore[attr-defined] # before threads are waited for
except (AttributeError, RuntimeError):
    import atexit

    atexit.register(close_all)
