"""`fastctr batch`: run the jobs of a JSONL file, each in a container of its own."""

from __future__ import annotations

import os
import stat

from .batch_options import table
from .batch_run import Control, Progress, fetch, grace_of, said_of_resume, verb
from .options import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

USAGE = """Usage: fastctr batch [OPTIONS] JOBS.jsonl|-

Run the jobs of a file (or of standard input), each in a container of its own, as many at once as there are
cpus and room. A line is one job: {"argv": ["echo", "hi"]} or {"cmd": "echo hi | wc -c"}, and with it what it
wants: "id", "image", "env", "stdin", "files", "outputs", "memory", "timeout", "retries" ... (docs/batch.md).
What it leaves away is as the options say. Results are JSON lines, in the order the jobs end."""


def batch(argv: Sequence[str]) -> int:
    """The verb; the exit code."""
    return verb("batch", USAGE, table(), argv, True, _batch)


def _batch(values: dict[str, Any], own: dict[str, Any], rest: list[str]) -> int:
    from ..batch.batch import Batch
    from ..batch.results import Writer

    if len(rest) != 1:
        raise UsageError("one file of jobs is needed (- is standard input)")
    quiet, path = own.get("_quiet", False), rest[0]
    jobs: Any = 0 if path == "-" else path
    if own.get("_dry_run"):
        return dry_run(values, jobs, "standard input" if jobs == 0 else path)
    grace = grace_of(own)
    fetch(values, own)
    sink = None if "output" in values else Shown(Writer(1, "standard output"))
    with Batch(jobs, sink=sink, name="standard input" if jobs == 0 else None, **values) as made:
        said_of_resume(made)
        progress = Progress(made, quiet, lambda: _total(jobs))
        if sink is not None:
            sink.beside(progress)
        return Control(made, progress, grace).run()


class Shown:
    """Results on standard output; where that is the terminal with the bar, the bar makes room."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer
        self._bar: Any = None

    def beside(self, progress: Progress) -> None:
        if progress.bar is not None and os.isatty(1):
            self._bar = progress.bar

    def put(self, job: Any, record: dict[str, Any]) -> None:
        if self._bar is None:
            self._writer.put(job, record)
            return
        with self._bar.lock:
            self._bar.erase()
            self._writer.put(job, record)


def dry_run(values: dict[str, Any], jobs: Any, name: str) -> int:
    """Check every job and say how many there are."""
    from ..batch.batch import Batch

    kept = {key: value for key, value in values.items() if key not in ("output", "resume", "retry_failed", "overwrite",
                                                                       "allow_changes", "check")}  # fmt: skip
    with Batch(jobs, check=True, name=name, **kept) as made:
        print(f"{made.checked} job{'s' * (made.checked != 1)} can be run")
    return 0


def _total(jobs: Any) -> int | None:
    """How many lines a file has; None for a pipe."""
    from ..batch.reader import count_lines

    try:
        if jobs == 0:
            if not stat.S_ISREG(os.fstat(0).st_mode):
                return None
            jobs = "/proc/self/fd/0"
        return count_lines(jobs)
    except OSError:
        return None


