"""What is wrong with a batch as a whole, and with one line of it."""

from __future__ import annotations

from ..errors import FastctrError, SpecError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .jobs import Job


class BatchError(FastctrError):
    """The batch cannot go on: its file cannot be read, its results cannot be written, or it has changed."""


class JobError(SpecError):
    """A job that cannot be run as it is written: `source` and `line` say where it stands, `why` what is wrong."""

    def __init__(self, source: str, job: Job, why: SpecError) -> None:
        super().__init__(why.where, why.value, why.problem, why.hint)
        self.source = source
        self.job = job
        self.line = job.line
        self.why = why

    def __str__(self) -> str:
        if self.where:
            return f"{self.source}, line {self.line}: {self.why}"
        return f"{self.source}, line {self.line}: {self.problem}" + (f"; {self.hint}" if self.hint else "")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.source, self.job, self.why)
