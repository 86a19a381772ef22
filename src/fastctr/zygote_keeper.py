"""What keeps a zygote going: its process, the jobs forked ahead, and the background that ends and replaces them."""

from __future__ import annotations

import heapq
import os
import select
import threading
import time
from collections import deque

from . import context
from . import zygote_wire as wire
from .errors import from_native
from .zygote_host import Child, Process
from .zygote_job import ANSWER, ZygoteJob, failed_start

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .plan import Plan
    from .spec import Spec

READY_TIMEOUT = 20.0


class Keeper:
    """The inside of a Zygote."""

    plan: Plan
    preload: list[str]
    size: int
    _python: list[Any]
    _start_timeout: float | None
    _jobs: Spec
    _own: Spec
    _process: Process | None

    def _reset(self) -> None:
        self._start_lock = threading.Lock()
        self._lock = threading.Lock()
        self._filled = threading.Condition(self._lock)
        self._ready: deque[Child] = deque()
        self._todo: deque[ZygoteJob] = deque()
        self._running: set[ZygoteJob] = set()
        self._deadlines: list[tuple[float, int, ZygoteJob]] = []
        self._counts = dict.fromkeys(("started", "parked", "direct", "zygotes", "failed"), 0)
        self._thread: threading.Thread | None = None
        self._event = -1
        self._closing = False
        self._trouble: BaseException | None = None

    def _running_process(self) -> Process:
        process = self._process
        if process is not None and not process.gone() and not self._closing:
            return process
        with self._start_lock:
            process = self._process
            if process is not None and not process.gone():
                return process
            self._process = None
            if process is not None:
                with self._lock:
                    children = list(self._ready)
                    self._ready.clear()
                if process.container is not None:
                    process.container.kill()
                for child in children:
                    self._discard(child)
                process.close()
            context.hooks()
            self._process = Process(self._jobs, self._own, self.plan.image, self._python, self.preload,
                                    self._start_timeout)
            self._counts["zygotes"] += 1
            self._trouble = None
            if self._event < 0:
                self._event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            if self._thread is None:
                self._thread = threading.Thread(target=self._manage, name="fastctr-zygote", daemon=True)
                self._thread.start()
            return self._process

    def _take(self, limits: dict[str, Any] | None) -> Child:
        """A child that is ready and nobody else's."""
        for attempt in range(3):
            process = self._running_process()
            while True:
                try:
                    child = self._ready.popleft()
                except IndexError:
                    break
                poll = select.poll()
                poll.register(child.sock, select.POLLIN)
                if child.process is not process or poll.poll(0):  # it is dead, or speaks out of turn
                    self._discard(child)
                    continue
                try:
                    if limits is not None:
                        child.run.update(limits)
                except BaseException:
                    self._discard(child)
                    raise
                self._counts["started"] += 1
                self._counts["parked"] += 1
                return child
            try:
                child = process.fork(limits)
            except BrokenPipeError:
                if attempt == 2:
                    raise wire.ZygoteError("the zygote ended while it was asked for a job") from None
                continue
            self._counts["started"] += 1
            self._counts["direct"] += 1
            return child
        raise AssertionError

    def _ahead(self, process: Process) -> Child:
        child = process.fork(ahead=True)
        try:
            child.sock.settimeout(READY_TIMEOUT)
            try:
                word = child.sock.recv(ANSWER.size)
            except TimeoutError:
                word = b""
            if word[:1] == b"F":
                raise failed_start(child.sock.recv(12))
            if word[:1] != b"R":
                if not process.listen():
                    raise BrokenPipeError(32, "the zygote is gone")
                raise from_native("clone", -1, 3, "the job ended before it was ready")
        except BaseException:
            self._counts["failed"] += 1
            self._discard(child)
            raise
        child.ready = True
        return child

    def _discard(self, child: Child) -> None:
        child.sock.close()
        child.run.release()

    def _finished(self, job: ZygoteJob) -> None:
        """It has its outcome: what is left of it is cleared away in the background."""
        self._todo.append(job)
        self._wake()

    def _wake(self) -> None:
        if self._event >= 0:
            try:
                os.eventfd_write(self._event, 1)
            except OSError:
                pass

    def _manage(self) -> None:
        """The background: ends finished jobs, kills those whose time is up, forks the next ones ahead."""
        event = self._event
        poll = select.poll()
        poll.register(event, select.POLLIN)
        while not self._closing:
            with self._lock:
                until = self._deadlines[0][0] if self._deadlines else None
            poll.poll(None if until is None else max(0.0, (until - time.monotonic()) * 1000 + 1))
            try:
                os.eventfd_read(event)
            except BlockingIOError:
                pass
            self._tidy()
            process = self._process
            while not self._closing and process is not None and process.alive and len(self._ready) < self.size:
                if self._trouble is not None:
                    break
                try:
                    child = self._ahead(process)
                except BaseException as error:  # noqa: BLE001 the next job finds out by itself
                    self._trouble = error
                    with self._filled:
                        self._filled.notify_all()
                    break
                with self._filled:
                    self._ready.append(child)
                    self._filled.notify_all()
                self._tidy()
            if process is not None and process.alive:
                process.listen()

    def _tidy(self) -> None:
        now = time.monotonic()
        while True:
            with self._lock:
                late = heapq.heappop(self._deadlines)[2] if self._deadlines and self._deadlines[0][0] <= now else None
            if late is None:
                break
            if late._outcome is None and late._completed is None:
                late._expire()
        while self._todo and not self._closing:
            try:
                job = self._todo.popleft()
            except IndexError:
                break
            job._end()
            with self._lock:
                self._running.discard(job)

    def _forget(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            if process.container is not None:
                process.container._run.forget()  # before it goes, which would end it
            process.control.close()
            for fd in (process.userns, process.null):
                if fd >= 0:
                    os.close(fd)
        for child in (*self._ready, *(job._child for job in (*self._running, *self._todo))):
            child.run.forget()
            child.sock.close()
        if self._event >= 0:
            os.close(self._event)
        self._reset()
