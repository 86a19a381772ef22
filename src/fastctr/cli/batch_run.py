"""What `fastctr batch` and `fastctr map` do once they know what: signals, progress, the exit code."""

from __future__ import annotations

import os
import sys
import time

from ..errors import FastctrError, SpecError
from .batch_options import EXITS, REFUSED, name_of, split
from .options import UsageError, help_text, parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from ..batch.batch import Batch
    from ..batch.progress import Bar
    from .options import Option

FAILED = 125
GRACE = 10.0


def verb(name: str, usage: str, rows: tuple[Option, ...], argv: Sequence[str], mixed: bool,
         do: Callable[[dict[str, Any], dict[str, Any], list[str]], int]) -> int:
    """Parse, do it, say what went wrong; the exit code."""
    try:
        given, rest = parse(rows, argv, REFUSED, mixed)
        if "_help" in given:
            print(f"{usage}\n{help_text(rows)}\n\n{EXITS}")
            return 0
        values, own = split(given, rows)
        return do(values, own, rest)
    except UsageError as error:
        return failed(f"{error}\nSee 'fastctr {name} --help'.")
    except SpecError as error:
        return failed(error.render(error.where.replace(error.field, name_of(error.field), 1)))
    except (FastctrError, OSError) as error:
        if isinstance(error, BrokenPipeError):
            raise
        return failed(str(error))


def failed(text: str) -> int:
    print(f"fastctr: {text}", file=sys.stderr)
    return FAILED


def fetch(values: dict[str, Any], own: dict[str, Any]) -> None:
    """Have the image of --image here before the first job asks for it, with its progress shown."""
    if "_image" in own:
        from .run_image import image_of

        image_of(own)
        values.pop("pull", None)


def grace_of(own: dict[str, Any]) -> float:
    from .. import units

    return units.duration_ns("--grace", own["_grace"]) / 10**9 if "_grace" in own else GRACE


def room_for(workers: int) -> None:
    """So many descriptors as jobs at once need, if we may have them."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 24 * workers + 256
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Progress:
    """What is shown on standard error while a batch runs: a bar on a terminal, what is wrong with lines."""

    def __init__(self, batch: Batch, quiet: bool, total: Callable[[], int | None]) -> None:
        self._batch = batch
        self._said = 0
        self.quiet = quiet
        self.bar: Bar | None = None
        if not quiet and sys.stderr.isatty():
            from ..batch.progress import Bar

            self.bar = Bar(sys.stderr, total())

    def update(self, word: str = "") -> None:
        runner = self._batch.runner
        while self._said < len(runner.invalid):
            self.say(f"fastctr: {runner.invalid[self._said]}")
            self._said += 1
        if self.bar is not None:
            self.bar.update(runner.counts(), runner.total("skipped"), runner.admission.running, word)

    def say(self, text: str) -> None:
        if self.bar is not None:
            self.bar.say(text)
        else:
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        self.update()
        if self.bar is not None:
            with self.bar.lock:
                self.bar.erase()


class Control:
    """Runs a batch to its end: Ctrl-C once stops it cleanly, twice at once."""

    def __init__(self, batch: Batch, progress: Progress, grace: float) -> None:
        self._batch = batch
        self._progress = progress
        self._grace = grace
        self._signals = 0
        self._signal = 0
        self._deadline: float | None = None
        self._old: dict[int, Any] = {}

    def run(self) -> int:
        """The exit code. Raises BatchError when it could not go on."""
        import signal

        runner = self._batch.runner
        began = time.monotonic()
        # every signal is a byte here: two that come close together are two, and the end of the batch is a zero
        read, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._batch.on_end = lambda: os.write(write, b"\0")
        woken = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        for number in map(int, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)):
            if signal.getsignal(number) is not signal.SIG_IGN or number == signal.SIGTERM:
                self._old[number] = signal.signal(number, lambda number, frame: None)
        try:
            room_for(self._batch.workers)
            self._batch.start()
            self._wait(runner, read)
        finally:
            runner.end()
            self._batch.on_end = None
            for number, handler in self._old.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(woken)
            for fd in (read, write):
                os.close(fd)
            self._progress.close()
        self._batch.sync()
        self._summary(time.monotonic() - began)
        if runner.failure is not None:
            raise runner.failure
        return self._code()

    def _wait(self, runner: Any, read: int) -> None:
        import select

        from ..batch.batch import SYNC_EVERY
        from ..batch.progress import EVERY

        poll = select.poll()
        poll.register(read, select.POLLIN)
        interval = EVERY if self._progress.bar is not None else SYNC_EVERY
        synced = time.monotonic()
        while not runner.finished.is_set():
            poll.poll((interval if self._deadline is None else 0.1) * 1000)
            try:
                for number in os.read(read, 4096):
                    if number:
                        self._asked(number)
                    else:
                        runner.finished.wait()
            except BlockingIOError:
                pass
            now = time.monotonic()
            if runner.killing or (self._deadline is not None and now >= self._deadline):
                runner.kill()  # again and again: what was about to start is killed too
            self._progress.update(self._word(now))
            if now - synced >= SYNC_EVERY:
                self._batch.sync()
                synced = time.monotonic()

    def _word(self, now: float) -> str:
        if self._batch.runner.killing:
            return "killing what runs"
        if self._deadline is not None:
            return f"stopping: killed in {max(self._deadline - now, 0):.0f}s (Ctrl-C: now)"
        return ""

    def _asked(self, number: int) -> None:
        self._signals += 1
        self._signal = self._signal or number
        if self._signals > 1:
            self._deadline = time.monotonic()
            self._batch.kill()
        else:
            self._deadline = time.monotonic() + self._grace
            self._batch.stop()
            if not self._progress.quiet and self._progress.bar is None:
                self._progress.say("fastctr: stopping: waiting for the jobs that run; again to kill them")

    def _summary(self, seconds: float) -> None:
        if self._progress.quiet:
            return
        from ..batch.progress import summary

        runner = self._batch.runner
        text = "fastctr: " + summary(runner.counts(), runner.total("skipped"), seconds)
        if not runner.exhausted and runner.failure is None:
            text += "; stopped before the end"
            if self._batch.output is not None:
                text += ": go on with --resume"
        print(text, file=sys.stderr, flush=True)
        if runner.changed:
            print(f"fastctr: {runner.changed} jobs are not what they were when their results were recorded; "
                  "they were not run again: give them other ids, or start anew with --overwrite",
                  file=sys.stderr)  # fmt: skip

    def _code(self) -> int:
        runner = self._batch.runner
        if self._signals:
            return 128 + self._signal
        if runner.invalid_count:
            return FAILED
        bad = sum(number for status, number in runner.counts().items() if status != "ok")
        return 1 if bad or runner.total("recorded_failed") else 0


def said_of_resume(batch: Batch) -> None:
    """What was found in the file of results that is worth a word."""
    found = batch.recorded
    if found is None:
        return
    if found.torn:
        print(f"fastctr: {batch.output}: its last line was cut off in the middle, and is dropped", file=sys.stderr)
    if found.damaged > 0:
        print(f"fastctr: {batch.output}: {found.damaged} lines are no results, and are not counted", file=sys.stderr)
