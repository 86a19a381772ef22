"""The workers of a batch: threads that take jobs from the reader, run them and write what came of it.

There is no queue between them: each takes the next job itself, under a lock, when it has none. A job that
is to be tried again waits in a heap for its time, which keeps no worker busy but the last.
"""

from __future__ import annotations

import heapq
import os
import threading
import time
from collections import deque

from ..errors import FastctrError, LaunchError
from ..launch_args import DEVNULL
from . import launch, record
from .content import HostFile, read
from .errors import BatchError, JobError
from .jobs import ID_BIT, Job, twice
from .plans import POOL_AFTER

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..results import Completed
    from .admission import Admission
    from .jobs import Reader
    from .results import Recorded


AHEAD = 8
"""So many jobs are made of lines at once, if they have been read: the second costs half of the first."""


class Slot:
    """One worker's: what runs there now, and what it has counted."""

    __slots__ = ("counts", "recorded_failed", "retried", "running", "skipped")

    def __init__(self) -> None:
        self.running: Any = None
        self.counts = dict.fromkeys(record.STATUSES, 0)
        self.skipped = self.recorded_failed = self.retried = 0


class Runner:
    """Runs the jobs of a source; see Batch, which is its face."""

    def __init__(self, source: Any, reader: Reader, admission: Admission, sink: Any, *, workers: int,
                 output_dir: str | None, recorded: Recorded | None, allow_changes: bool, fail_fast: bool) -> None:
        self.source = source
        self.reader = reader
        self.admission = admission
        self.sink = sink
        self.output_dir = output_dir
        self.recorded = recorded
        self.allow_changes = allow_changes
        self.fail_fast = fail_fast
        self.slots = [Slot() for _ in range(workers)]
        self.finished = threading.Event()
        self.stopping = False
        self.killing = False
        self.failed_fast = False
        self.failure: BaseException | None = None
        self.invalid: list[str] = []  # the first few messages
        self.invalid_count = 0
        self.changed = 0  # jobs whose id is recorded with another content
        self.exhausted = False
        self._take = threading.Lock()
        self._due: list[tuple[float, int, Job]] = []  # retries, by time
        self._ahead: deque[Job] = deque()
        self._wake = threading.Event()
        self._seen: Any = None
        self._left = workers
        self._pipe = os.pipe2(os.O_CLOEXEC)

    @property
    def wake_fd(self) -> int:
        """Readable once the batch stops: for a reader that waits."""
        return self._pipe[0]

    def start(self) -> None:
        import atexit
        import signal

        launch.before()
        atexit.register(self.end)  # the last registered is called first: what containers need is there still
        started = 0
        # signals are for the thread that looks after the batch: it is woken by them only if it gets them itself
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGHUP, signal.SIGINT, signal.SIGTERM))
        try:
            for n, slot in enumerate(self.slots):
                threading.Thread(target=self._work, args=(slot,), name=f"fastctr-batch-{n}", daemon=True).start()
                started += 1
        except RuntimeError as error:  # no more threads: those there are do the work
            if not started:
                self.failure = BatchError(f"no thread could be started: {error}")
            with self._take:
                self._left -= len(self.slots) - started
                if not self._left:
                    self._over()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def end(self) -> None:
        """kill(), until all have ended."""
        self.kill()
        while not self.finished.wait(1.0):
            self.kill()

    # ---- stopping

    def stop(self) -> None:
        """Start nothing more; what runs goes on."""
        if not self.stopping:
            self.stopping = True
            self._wake.set()
            os.write(self._pipe[1], b"x")
            self.admission.close()

    def kill(self) -> None:
        """stop(), and kill what runs."""
        self.killing = True
        self.stop()
        for slot in self.slots:
            self.kill_one(slot.running)

    @staticmethod
    def kill_one(running: Any) -> None:
        if running is not None:
            try:
                running.kill_all()
            except (ValueError, FastctrError):
                pass  # it has just ended

    def close(self) -> None:
        import atexit

        atexit.unregister(self.end)
        self.reader.plans.close()
        for fd in self._pipe:
            os.close(fd)

    # ---- what was counted

    def counts(self) -> dict[str, int]:
        found = dict.fromkeys(record.STATUSES, 0)
        for slot in self.slots:
            for status, number in slot.counts.items():
                found[status] += number
        return found

    def total(self, name: str) -> int:
        """The sum of "skipped", "recorded_failed" or "retried"."""
        return sum(getattr(slot, name) for slot in self.slots)

    # ---- a worker

    def _work(self, slot: Slot) -> None:
        try:
            while (job := self._next(slot)) is not None:
                self._one(job, slot)
        except BaseException as error:  # noqa: BLE001 whatever it is, the batch says so and ends
            self.failure = self.failure or error
            self.kill()  # results cannot be written
        finally:
            with self._take:
                self._left -= 1
                last = not self._left
            if last:
                self._end()

    def _end(self) -> None:
        """By the last worker: what waits for another attempt does not get it."""
        try:
            for _, _, job in self._due:
                done = record.head(job, "cancelled")
                done.update(returncode=None, killed_by=None, seconds=0.0, attempts=job.attempts)
                self.slots[0].counts["cancelled"] += 1
                self.sink.put(job, done)
        except BaseException as error:  # noqa: BLE001
            self.failure = self.failure or error
        finally:
            self._due.clear()
            self._over()

    def _over(self) -> None:
        try:
            self.sink.end()
        finally:
            self.finished.set()  # the last thing: what end() needs may go with it

    def _next(self, slot: Slot) -> Job | None:
        """The next job to run, or None when there is nothing more to do."""
        while not self.stopping:
            wait = 0.0
            with self._take:
                if self._due:
                    wait = self._due[0][0] - time.monotonic()
                    if wait <= 0:
                        return heapq.heappop(self._due)[2]
                job = self._ahead.popleft() if self._ahead else self._read_or_fail(slot)
                if job is not None:
                    return job
                if not self._due:
                    return None
                wait = self._due[0][0] - time.monotonic()
            if wait > 0:
                self._wake.wait(wait)
        return None

    def _read_or_fail(self, slot: Slot) -> Job | None:
        """_read(), unless the source has come to its end. What is wrong with it ends the batch once what
        runs is done."""
        if self.exhausted:
            return None
        try:
            return self._read(slot)
        except BaseException as error:  # noqa: BLE001 a generator of somebody else's among them
            self.failure = self.failure or error
            self.stop()
            return None

    def _read(self, slot: Slot) -> Job | None:
        """The next job of the source that is right and not done yet. With the lock."""
        source, ahead = self.source, self._ahead
        while not self.stopping:
            item = source.next()
            if item is None:
                self.exhausted = not self.stopping
                break
            job = self._checked(item, slot)
            if job is not None:
                ahead.append(job)
            if ahead and (len(ahead) >= AHEAD or not source.ready()):
                break
        return ahead.popleft() if ahead else None

    def _checked(self, item: tuple[int, Any], slot: Slot) -> Job | None:
        """The job of an item; None if it is wrong, which is recorded, or done already."""
        try:
            job = self.reader.parse(*item)
            if job.id is not None:
                self._once(job)
        except JobError as error:
            self._refuse(error, slot)
            return None
        return None if self.recorded is not None and self._is_done(job, slot) else job

    def _once(self, job: Job) -> None:
        """An id is one job's. Raises JobError."""
        if self._seen is None:
            from .table import Table

            self._seen = Table()
        before = self._seen.get(job.key)
        if before is not None:
            raise JobError(self.reader.source, job, twice(job, before))
        self._seen.put(job.key, job.line)

    def _refuse(self, error: JobError, slot: Slot) -> None:
        self.invalid_count += 1
        if len(self.invalid) < 10:
            self.invalid.append(str(error))
        self._finish(error.job, record.refused(error.job, error), slot)

    def _is_done(self, job: Job, slot: Slot) -> bool:
        """Whether the results have it already. Raises BatchError if its line was another one then."""
        assert self.recorded is not None
        value = self.recorded.table.get(job.key)
        if value is None:
            return False
        if value & ~1 != job.digest:
            if not job.key & ID_BIT:
                if self.allow_changes:
                    return False
                raise BatchError(
                    f"{self.reader.source}, line {job.line}: is not the line whose result is recorded: the file has "
                    "changed; give jobs an id, or run lines that differ as new jobs with --allow-changes"
                )
            self.changed += 1
        slot.skipped += 1
        if not value & 1:
            slot.recorded_failed += 1
        return True

    # ---- a job

    def _one(self, job: Job, slot: Slot) -> None:
        try:
            need = self.admission.enter(job)
        except FastctrError as error:
            self._finish(job, record.refused(job, error), slot)
            return
        if need is None:
            if job.attempts:
                with self._take:
                    heapq.heappush(self._due, (0.0, job.line, job))
            return
        hopeless = False
        began = time.perf_counter()
        job.attempts += 1
        try:
            done = self._attempt(job, slot, need)
        except BatchError:
            raise
        except Exception as error:  # noqa: BLE001 one job's trouble is not the batch's
            slot.running = None
            done = record.refused(job, error, time.perf_counter() - began)
            hopeless = record.hopeless(error)
        status = done["status"]
        retry = job.retry
        if status != "ok" and job.attempts <= retry.times and not (hopeless or self.stopping) and status in retry.on:
            slot.retried += 1
            due = time.monotonic() + retry.after(job.attempts)
            with self._take:
                heapq.heappush(self._due, (due, job.line, job))
            return
        self._finish(job, done, slot)

    def _attempt(self, job: Job, slot: Slot, need: tuple[int, int]) -> dict[str, Any]:
        began = time.perf_counter()
        fd = -1
        trouble: BaseException | None = None
        done: Completed
        try:
            entry = job.entry
            call = entry.call or entry.make()
            entry.used += 1
            if entry.used >= POOL_AFTER:
                self.reader.plans.keep_ready(entry, len(self.slots))
            stdin: int | None = DEVNULL
            data: bytes | None = None
            if job.stdin is not None:
                if isinstance(job.stdin, HostFile):
                    fd = stdin = _open(job.stdin)
                else:
                    stdin, data = None, job.stdin
            more = job.launch
            if job.files is not None:
                more = {**more, "files": _files(job.files)}
            if job.outputs is not None:
                more = {**more, "outputs": [inside for inside, _ in job.outputs]}
            try:
                done = launch.run(call, job.argv, slot, self, stdin=stdin, input=data, capture_output=True, **more)
            except FastctrError as error:  # TimeoutExpired, and outputs that cannot be had
                if getattr(error, "completed", None) is None:
                    raise
                done = error.completed  # type: ignore[attr-defined]
                trouble = error if isinstance(error, LaunchError) else None
            finally:
                slot.running = None
        finally:
            self.admission.leave(need)
            if fd >= 0:
                os.close(fd)
        seconds = time.perf_counter() - began
        usage = record.usage_of(done)
        if job.memory is None or job.pids is None:
            self.admission.learn(job, usage.get("memory_peak"), usage.get("pids_peak"))
        return record.ended(job, done, record.status_of(done, self.killing), seconds, usage, self.output_dir, trouble)

    def _finish(self, job: Job, done: dict[str, Any], slot: Slot) -> None:
        status = done["status"]
        slot.counts[status] += 1
        self.sink.put(job, done)
        if self.fail_fast and status not in ("ok", "cancelled") and not self.failed_fast:
            self.failed_fast = True
            self.kill()


def _open(source: HostFile) -> int:
    try:
        return os.open(source.path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        error.batch_stage = "stdin"  # type: ignore[attr-defined]
        raise


def _files(given: list[tuple[str, Any, int | None]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path, source, mode in given:
        try:
            content = read(source)
        except OSError as error:
            error.batch_stage = "files"  # type: ignore[attr-defined]
            raise
        found[path] = content if mode is None else (content, mode)
    return found
