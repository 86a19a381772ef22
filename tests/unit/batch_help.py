"""What the unit tests of batches share."""

from __future__ import annotations

import json
from typing import Any

from fastctr.batch.batch import Defaults
from fastctr.batch.jobs import Job, Reader
from fastctr.batch.plans import Plans
from fastctr.batch.retry import OUTCOMES


def reader(to_directory: bool = False, **fields: Any) -> Reader:
    defaults = Defaults(fields.pop("timeout", None), fields.pop("output_limit", "1m"), fields.pop("retries", 0),
                        fields.pop("retry_on", OUTCOMES), fields.pop("retry_delay", 0))
    return Reader("jobs.jsonl", defaults, Plans(fields), to_directory)


def parse(job: Any, line: int = 7, **fields: Any) -> Job:
    text = job if isinstance(job, bytes) else json.dumps(job).encode()
    return reader(**fields).parse(line, text)
