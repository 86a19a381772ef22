"""What is said of a job once it is over: one object, one line of JSON."""

from __future__ import annotations

import os
from errno import EISDIR

from ..errors import CommandNotExecutable, CommandNotFound, FastctrError, ImageNotFound, LaunchError, SpecError
from ..results import Usage
from .content import host_path, text_or_base64
from .errors import JobError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..results import Completed
    from .jobs import Job

_USAGE = tuple((name, name not in Usage._TIMES) for name in Usage.__slots__)
STATUSES = ("ok", "failed", "timeout", "oom", "signal", "error", "cancelled")


def status_of(done: Completed, killed_by_us: bool) -> str:
    """One word for how it ended. killed_by_us: its SIGKILL was the batch's own."""
    why = done.killed_by
    if why is None:
        return "ok" if done.returncode == 0 else "failed"
    if why == "signal" and killed_by_us and done.returncode == -9:
        return "cancelled"
    return str(why)


def usage_of(done: Completed) -> dict[str, Any]:
    """Usage.as_dict() without what the kernel cannot tell, and without the object between."""
    return {name: value if whole else value / 1e6
            for (name, whole), value in zip(_USAGE, done._raw_usage) if value is not None}  # fmt: skip


def head(job: Job, status: str) -> dict[str, Any]:
    """What every record begins with."""
    record = {"id": job.id, "line": job.line, "digest": f"{job.digest:016x}", "status": status}
    if job.tag is not None:
        record["tag"] = job.tag
    return record


def ended(job: Job, done: Completed, status: str, seconds: float, usage: dict[str, Any], directory: str | None,
          trouble: BaseException | None = None) -> dict[str, Any]:
    """The record of a job that ran. With a directory its output goes there. What it left that cannot be had,
    or has no place here (`trouble`, or found now), makes it an "error", with all else said of it."""
    record = head(job, status)
    record["returncode"] = done.returncode
    record["killed_by"] = done.killed_by
    record["seconds"] = round(seconds, 6)
    record["attempts"] = job.attempts
    record["usage"] = usage
    out, err = done.stdout or b"", done.stderr or b""
    try:
        if directory is None:
            record["stdout"] = text_or_base64(out)
            record["stderr"] = text_or_base64(err)
        else:
            for name, data in (("stdout", out), ("stderr", err)):
                record[name] = _to_file(os.path.join(directory, job.name, name), data, job.attempts > 1)
        record["truncated"] = list(done.truncated)
        if job.outputs and trouble is None:
            record["outputs"] = _outputs(job, done, directory)
    except OSError as error:
        error.batch_stage = "outputs"  # type: ignore[attr-defined]
        trouble = error
    if trouble is not None:
        record["status"] = "error"
        record["error"] = describe(trouble)
    return record


def _to_file(path: str, data: bytes, again: bool) -> Any:
    """{"path"} of what is written there; nothing is no file, also where an earlier attempt left one."""
    if data:
        save(path, data)
        return {"path": path}
    if again:
        remove(path)
    return ""


def _outputs(job: Job, done: Completed, directory: str | None) -> dict[str, str | None]:
    """{path inside: path here}, None where the job left no such file. Raises OSError."""
    found: dict[str, str | None] = {}
    try:
        for inside, template in job.outputs or ():
            file = done.files.get(inside)
            if file is None:
                found[inside] = None
                continue
            path = host_path(job, inside, template, directory)
            if os.path.isdir(path):
                raise IsADirectoryError(EISDIR, os.strerror(EISDIR), path)
            os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
            file.save(path)
            found[inside] = path
    finally:
        for file in done.files.values():
            file.close()
    return found


def save(path: str, data: bytes) -> None:
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    with open(path, "wb", buffering=0) as file:
        view = memoryview(data)
        while view:
            view = view[file.write(view) :]


def remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass


def refused(job: Job, error: BaseException, seconds: float = 0.0) -> dict[str, Any]:
    """The record of a job that could not be started, or whose line is wrong."""
    record = head(job, "error")
    if isinstance(error, JobError):
        record["invalid"] = True
    record["returncode"] = record["killed_by"] = None
    record["seconds"] = round(seconds, 6)
    record["attempts"] = job.attempts
    record["error"] = describe(error)
    return record


def describe(error: BaseException) -> dict[str, Any]:
    """{"type", "stage", "field" or "path" and "errno", "message"} of an error."""
    found: dict[str, Any] = {"type": type(error).__name__}
    if isinstance(error, SpecError):
        found.update(stage="job", field=error.where)
    elif isinstance(error, LaunchError):
        found.update(stage=error.stage, path=error.path, errno=error.errno)
    elif isinstance(error, FastctrError):
        found.update(stage="image", path=getattr(error, "where", None))
    elif isinstance(error, OSError):
        stage = getattr(error, "batch_stage", "system")
        path = os.fsdecode(error.filename) if isinstance(error.filename, (str, bytes)) else None
        found.update(stage=stage, path=path, errno=error.errno)
        found["message"] = f"{stage}: {path}: {error.strerror}" if path else str(error)
    else:
        found.update(stage="internal")
    found.setdefault("message", str(error) or type(error).__name__)
    return found


def hopeless(error: BaseException) -> bool:
    """Whether the same job would fail in the same way however often it is tried."""
    return isinstance(error, (SpecError, CommandNotFound, CommandNotExecutable, ImageNotFound))
