"""Every job of a file checked before the first of them is run."""

from __future__ import annotations

from ..errors import SpecError
from .errors import BatchError, JobError
from .jobs import twice
from .table import Table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .admission import Admission
    from .jobs import Reader
    from .reader import Items, Lines
    from .template import Mapped

SHOWN = 10


def check_all(source: Lines | Items | Mapped, reader: Reader, admission: Admission) -> int:
    """How many jobs there are; the source is at its beginning again. Raises BatchError with what is wrong."""
    wrong: list[str] = []
    count = bad = 0
    seen = Table()
    while (item := source.next()) is not None:
        count += 1
        try:
            job = reader.parse(*item)
            if job.id is not None:
                before = seen.get(job.key)
                if before is not None:
                    raise twice(job, before)
                seen.put(job.key, job.line)
            admission.check(job)
        except SpecError as error:
            bad += 1
            if bad <= SHOWN:
                wrong.append(str(error) if isinstance(error, JobError) else f"{source.name}, line {item[0]}: {error}")
    if bad:
        if bad > SHOWN:
            wrong.append(f"… and {bad - SHOWN} more")
        raise BatchError("\n".join([*wrong, f"{bad} of {count} jobs cannot be run as they are written; none was"]))
    source.rewind()
    return count
