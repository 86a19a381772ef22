"""Many jobs, each in a container of its own: `fastctr batch` and `fastctr map`, and the same from Python.

    import fastctr.batch

    jobs = ({"id": f"n{n}", "cmd": f"seq {n} | wc -l", "memory": "64m", "timeout": 10} for n in range(1000))
    for result in fastctr.batch.run(jobs, image="alpine", output="results.jsonl", resume=True):
        print(result["id"], result["status"], result["stdout"])

docs/batch.md has the fields of jobs and of results.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .batch import Batch, run
    from .errors import BatchError, JobError

_WHERE = {"Batch": "batch", "run": "batch", "BatchError": "errors", "JobError": "errors"}

__all__ = ["Batch", "BatchError", "JobError", "run"]


def __getattr__(name: str) -> object:
    """Import it when it is first used (PEP 562)."""
    module = _WHERE.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.{module}"), name)
    globals()[name] = value
    return value
