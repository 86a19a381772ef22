"""Batch: the jobs of a file or an iterable, run in containers, their results iterated or written."""

from __future__ import annotations

import os
import queue
import stat
import time

from .. import units
from ..errors import SpecError
from .admission import Admission
from .errors import BatchError
from .jobs import Reader, timeout_of
from .machine import cpus
from .plans import Plans
from .reader import Items, Lines, spooled
from .results import Recorded, Writer, open_results
from .retry import OUTCOMES, Retry, outcomes, times_of
from .runner import Runner
from .template import Mapped

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

MOST_WORKERS = 4096
SYNC_EVERY = 1.0
"""Seconds between two times results are seen to be on the disk."""
WAITING = 1024
"""Results that wait for whoever iterates; then the workers wait."""


class Defaults:
    """What a job has that does not say otherwise."""

    __slots__ = ("output_limit", "retry", "timeout")

    def __init__(self, timeout: Any, output_limit: Any, retries: Any, retry_on: Any, retry_delay: Any) -> None:
        self.timeout = None if timeout is None else timeout_of("timeout", timeout)
        self.output_limit = units.size("output_limit", output_limit)
        self.retry = Retry(
            times_of("retries", retries),
            outcomes("retry_on", retry_on),
            units.duration_ns("retry_delay", retry_delay) / 10**9,
        )


class Batch:
    """Jobs, each run in a container of its own, as many at once as there are cpus and room.

    jobs: a path of a JSONL file, an open binary file or descriptor, or an iterable of dicts, argument lists
    and shell commands (docs/batch.md has the fields); it is read as a stream. Iterating gives the results as
    dicts, in the order the jobs end; wait() runs all without keeping them. A context manager: leaving it
    kills what runs. Used once.

    workers      jobs at once (default: the cpus that can be used)
    output       path of the file results are written to, as JSONL
    resume       go on with that file: a job whose result is in it is not run again
    retry_failed with resume: those that did not end well are
    overwrite    begin the file anew
    allow_changes with resume: lines that are not what they were are new jobs (else BatchError)
    output_dir   directory for the jobs' stdout, stderr and outputs, DIR/<id>/…; else they are in the results
    fail_fast    with the first failed job start nothing more and kill the others
    check        check every job before the first is run; BatchError says what is wrong
    retries, retry_on, retry_delay, timeout, output_limit  of jobs that do not say so themselves
    memory_budget, pids_budget  what running jobs may use together ("2g", "50%"); default 0.8 of what is free
    fields       the container's: image or rootfs, memory, cpus, env, … as of fastctr.run()

    Raises SpecError and BatchError before anything is run; iterating and wait() raise BatchError when the
    batch cannot go on. What goes wrong with a job is in its result.
    """

    def __init__(self, jobs: Any, *, workers: int | None = None, output: Any = None, resume: bool = False,
                 retry_failed: bool = False, overwrite: bool = False, allow_changes: bool = False,
                 output_dir: Any = None, fail_fast: bool = False, check: bool = False, retries: int = 0,
                 retry_on: Any = OUTCOMES, retry_delay: Any = 0, timeout: Any = None, output_limit: Any = None,
                 memory_budget: Any = None, pids_budget: Any = None, sink: Any = None, name: str | None = None,
                 **fields: Any) -> None:
        if output_limit is None:
            output_limit = "1m" if output_dir is None else "16m"
        defaults = Defaults(timeout, output_limit, retries, retry_on, retry_delay)
        count = cpus() if workers is None else units.integer("workers", workers, 1, MOST_WORKERS)
        if output is None and (resume or overwrite):
            raise SpecError("resume" if resume else "overwrite", True, "needs a file of results", "give output")
        if retry_failed and not resume:
            raise SpecError("retry_failed", True, "is about going on", "give resume too")
        self.output = None if output is None else os.fspath(output)
        self.output_dir = None if output_dir is None else units.host_path("output_dir", output_dir)
        plans = Plans(fields)
        admission = Admission(memory_budget, pids_budget)
        self.workers = count
        self.recorded: Recorded | None = None
        self._close: list[int] = []
        self._queue: queue.Queue[Any] | None = None
        self._sink = sink
        self._writer: Writer | None = None
        self._started = False
        self.on_end: Callable[[], object] | None = None  # called by the last worker
        self._ended = False
        self._pid = os.getpid()
        self.checked = 0
        self._runner: Runner | None = None
        try:
            source = self._source(jobs, name, check)
            reader = Reader(source.name, defaults, plans, self.output_dir is not None)
            if check:
                from .check import check_all

                self.checked = check_all(source, reader, admission)
            if self.output is not None:
                fd = open_results(self.output, resume, overwrite)
                self._close.append(fd)
                self._writer = Writer(fd, self.output)
                if resume:
                    self.recorded = Recorded()
                    self.recorded.load(fd, self.output, retry_failed)
            self._runner = Runner(source, reader, admission, self, workers=count, output_dir=self.output_dir,
                                  recorded=self.recorded, allow_changes=allow_changes, fail_fast=fail_fast)
            source.wake = self._runner.wake_fd
        except BaseException:
            self.close()
            raise

    def _source(self, jobs: Any, name: str | None, check: bool) -> Lines | Items | Mapped:
        if isinstance(jobs, Mapped):
            return jobs
        if isinstance(jobs, (str, bytes, os.PathLike)):
            path = os.fsdecode(jobs)
            try:
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                raise BatchError(f"{path}: cannot be read: {error.strerror}") from None
            self._close.append(fd)
            return Lines(fd, name or path)
        if (isinstance(jobs, int) and not isinstance(jobs, bool)) or hasattr(jobs, "fileno"):
            fd = jobs if isinstance(jobs, int) else jobs.fileno()
            if check and not stat.S_ISREG(os.fstat(fd).st_mode):
                fd = spooled(fd)
                self._close.append(fd)
            return Lines(fd, name or "jobs")
        if check:
            jobs = list(jobs)
        try:
            return Items(jobs, name or "jobs")
        except TypeError:
            raise SpecError("jobs", jobs, "are no jobs", "give a path, a file or an iterable") from None

    # ---- running

    def put(self, job: Any, record: dict[str, Any]) -> None:
        """Of the runner: a job is over."""
        if self._writer is not None:
            self._writer.put(job, record)
        if self._sink is not None:
            self._sink.put(job, record)
        if self._queue is not None:
            self._hand_out(record)

    def end(self) -> None:
        """Of the runner: all jobs are over."""
        if self._queue is not None:
            self._hand_out(None)
        if self.on_end is not None:
            self.on_end()

    def _hand_out(self, item: Any) -> None:
        assert self._queue is not None
        while True:
            try:
                self._queue.put(item, timeout=0.5)
                return
            except queue.Full:
                if self._runner is None or self._runner.killing:
                    return  # nobody takes them any more

    def start(self) -> None:
        """Run; wait() and iterating do so themselves."""
        if self._started or self._runner is None:
            raise BatchError("a Batch is run once; make another")
        self._started = True
        self._runner.start()

    def wait(self, timeout: float | None = None) -> bool:
        """Run all jobs and wait for their end; False when `timeout` seconds passed before. Raises BatchError."""
        if not self._started:
            self.start()
        runner = self.runner
        until = None if timeout is None else time.monotonic() + timeout
        try:
            while not runner.finished.wait(SYNC_EVERY if until is None else min(SYNC_EVERY, until - time.monotonic())):
                if until is not None and time.monotonic() >= until:
                    return False
                self.sync()
        except BaseException:  # Ctrl-C
            self.close()
            raise
        self.sync()
        self.close()
        if runner.failure is not None:
            raise runner.failure
        if runner.changed:
            import warnings

            warnings.warn(f"{self.output}: {runner.changed} jobs are not what they were when their results were "
                          "recorded; they were not run again", stacklevel=2)  # fmt: skip
        return True

    def __iter__(self) -> Iterator[dict[str, Any]]:
        self._queue = queue.Queue(WAITING)
        try:
            self.start()
            while True:
                try:
                    record = self._queue.get(timeout=SYNC_EVERY)
                except queue.Empty:
                    self.sync()
                    continue
                if record is None:
                    break
                yield record
            self.wait()
        finally:
            self.close()

    @property
    def runner(self) -> Runner:
        assert self._runner is not None
        return self._runner

    def sync(self) -> None:
        """See that the results written so far are on the disk."""
        if self._writer is not None and not self._ended:
            self._writer.sync()

    def stop(self) -> None:
        """Start nothing more; what runs is waited for."""
        self.runner.stop()

    def kill(self) -> None:
        """stop(), and kill what runs: such jobs' results say "cancelled", and a resumed batch runs them."""
        self.runner.kill()

    def close(self) -> None:
        """kill(), wait, close the files. Harmless if done twice."""
        runner = self._runner
        if os.getpid() != self._pid:
            return  # a child of a fork: all of it is the parent's
        if runner is not None and not self._ended:
            if self._started and not runner.finished.is_set():
                runner.end()
            runner.close()
        self._ended = True
        while self._close:
            os.close(self._close.pop())

    def __del__(self) -> None:
        if not getattr(self, "_ended", True):
            self.close()

    def __enter__(self) -> Batch:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # ---- what came of it

    @property
    def counts(self) -> dict[str, int]:
        """How many ended so far, by status."""
        return self.runner.counts()


def run(jobs: Any, **options: Any) -> Iterator[dict[str, Any]]:
    """Run jobs, each in a container of its own, and give their results as they end. Options as of Batch."""
    return iter(Batch(jobs, **options))
