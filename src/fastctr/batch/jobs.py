"""A job of a batch: its fields, checked in full before anything of it runs. docs/batch.md has the format."""

from __future__ import annotations

import json
import os
from _blake2 import blake2b

from .. import process, units
from ..errors import SpecError, UnknownField, nearest
from ..launch_args import IMAGE_FIELDS
from ..spec import FIELDS, LIMITS
from .content import outputs_of, put_in, source_of
from .errors import JobError
from .plans import Entry, Plans
from .retry import Retry, retry_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

OWN = ("id", "argv", "cmd", "args", "stdin", "files", "outputs", "limits", "timeout", "retries", "output_limit", "tag")
PLAN_FIELDS = (frozenset(FIELDS) | IMAGE_FIELDS) - {"files", "env", "user", "root"}
ID_BIT = 1 << 63
_loads = json.JSONDecoder().decode


class Job:
    """One job, ready to be run any number of times."""

    __slots__ = (
        "args",
        "argv",
        "attempts",
        "digest",
        "entry",
        "files",
        "id",
        "key",
        "launch",
        "line",
        "memory",
        "outputs",
        "pids",
        "retry",
        "stdin",
        "tag",
    )

    def __init__(self, line: int, digest: int) -> None:
        self.line = line
        self.digest = digest
        self.key = line
        """What --resume knows it by: its id's digest, else its line's number."""
        self.id: str | None = None
        self.tag: Any = None
        self.argv: list[Any] | None = None
        self.args: list[Any] | None = None
        self.entry: Entry
        self.launch: dict[str, Any] = {}
        self.stdin: Any = None
        self.files: list[tuple[str, Any, Any]] | None = None
        self.outputs: list[tuple[str, str | None]] | None = None
        self.memory: int | None = None
        self.pids: int | None = None
        self.retry: Retry
        self.attempts = 0

    @property
    def name(self) -> str:
        """Its directory's name below the output directory: unique in the batch, and no path."""
        if self.id is None:
            return f"line-{self.line}"
        text = "".join(
            c if c.isalnum() or c in "._-+=,@: " or ord(c) > 127 else f"%{ord(c):02x}" for c in self.id
        )
        return "%" + text if text.startswith(("line-", ".")) else text


def digest_of(line: bytes) -> int:
    """63 bits of a line's digest; the lowest bit of a stored one says how it ended."""
    return int.from_bytes(blake2b(line, digest_size=8).digest(), "little") & ~1


def id_key(name: str) -> int:
    return int.from_bytes(blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little") | ID_BIT


def twice(job: Job, before: int) -> SpecError:
    """What is wrong with a second job of an id."""
    return SpecError("id", job.id, f"is line {before}'s too", "give each job its own")


class Reader:
    """Makes jobs of lines (bytes) or of Python values (dict, list of arguments, str for a shell)."""

    def __init__(self, source: str, defaults: Any, plans: Plans, to_directory: bool = False) -> None:
        self.source = source
        self.plans = plans
        self._to_directory = to_directory  # outputs without a path of their own have a place to go to
        self._retry: Retry = defaults.retry
        base: dict[str, Any] = {}
        if defaults.timeout is not None:
            base["timeout"] = defaults.timeout
        if defaults.output_limit is not None:
            base["output_limit"] = defaults.output_limit
        self._launch = base
        self._retries: dict[str, Retry] = {}

    def parse(self, line: int, given: Any) -> Job:
        """Raises JobError, which has the job's id if it could be read."""
        if isinstance(given, bytes):
            job = Job(line, digest_of(given))
            try:
                fields = _loads(given.decode())
            except (ValueError, RecursionError) as error:
                raise self._error(job, given, f"is not JSON: {error}") from None
        else:
            fields = given
            text = json.dumps(given, sort_keys=True, default=repr)
            job = Job(line, digest_of(text.encode()))
        if isinstance(fields, list):
            fields = {"argv": fields}
        elif isinstance(fields, str):
            fields = {"cmd": fields}
        elif not isinstance(fields, dict):
            hint = 'use an object as {"argv": ["echo", "hi"]}, a list of arguments, or a command as a string'
            raise self._error(job, fields, "is not a job", hint)
        try:
            self._fill(job, fields)
        except SpecError as error:
            raise JobError(self.source, job, error) from None
        return job

    def _error(self, job: Job, value: Any, problem: str, hint: str = "") -> JobError:
        return JobError(self.source, job, SpecError("", value, problem, hint))

    def _fill(self, job: Job, fields: dict[str, Any]) -> None:
        if "id" in fields:  # first: what is wrong elsewhere is said of this job
            _id(job, fields["id"])
        job.launch = self._launch.copy()
        job.retry = self._retry
        plan: dict[str, Any] = {}
        limits: dict[str, Any] = {}
        for name, value in fields.items():
            if value is None:
                continue
            own = _OWN.get(name)
            if own is not None:
                own(job, value)
            elif name in PLAN_FIELDS:
                plan[name] = value
            elif name in LIMITS:
                limits[name] = value
            elif name == "limits":
                if not isinstance(value, dict):
                    raise SpecError(name, value, "is not an object", 'use {"memory": "64m", "pids": 32}')
                for each, amount in value.items():
                    if each in limits or fields.get(each) is not None:
                        raise SpecError(each, amount, "is given twice, also in limits", "give one of them")
                    limits[each] = amount
            elif name == "retries":
                job.retry = self._retry_of(value)
            elif name == "outputs":
                job.outputs = outputs_of(value, self._to_directory)
            elif name != "id":
                self._unknown(name)
        if "cmd" in fields and fields["cmd"] is not None:
            if fields.get("argv") is not None:
                raise SpecError("cmd", fields["cmd"], "cannot go with argv", "give one of them")
            if job.args:
                job.argv = [*(job.argv or ()), "sh", *job.args]
            job.entry = self.plans.entry(plan, shell=True)
        else:
            if job.args:
                raise SpecError("args", job.args, "are the parameters of cmd", "give all of it as argv")
            job.entry = self.plans.entry(plan)
        if job.argv is None and not job.entry.has_command:
            raise SpecError("argv", None, "is missing", 'give "argv": ["echo", "hi"] or "cmd": "echo hi"')
        entry = job.entry
        job.memory, job.pids = entry.memory, entry.pids
        if limits:
            self.plans.limit(job, limits)

    def _retry_of(self, value: Any) -> Retry:
        key = repr(value)
        found = self._retries.get(key)
        if found is None:
            found = retry_of("retries", value, self._retry)
            if len(self._retries) < 256:
                self._retries[key] = found
        return found

    def _unknown(self, name: str) -> None:
        close = nearest(name, (*OWN, *FIELDS, *LIMITS, *IMAGE_FIELDS))
        error = UnknownField(name, (), "a job")
        error.hint = f'did you mean "{close}"?' if close else "docs/batch.md has the fields"
        raise error


# ---- single fields


def _id(job: Job, value: Any) -> None:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value:
        raise SpecError("id", value, "is not an id", "use a string that is not empty, or a whole number")
    if len(value) > 200:
        raise SpecError("id", value, "is too long", "use at most 200 characters")
    job.id = value
    job.key = id_key(value)


def _words(field: str, value: Any, hint: str) -> list[Any]:
    if not isinstance(value, (list, tuple)):
        raise SpecError(field, value, "is not a list of arguments", hint)
    for n, word in enumerate(value):
        if not isinstance(word, (str, bytes, os.PathLike)):
            raise SpecError(f"{field}[{n}]", word, "is not a string", "put it in quotes")
        if isinstance(word, str) and "\0" in word:
            raise SpecError(f"{field}[{n}]", word, "has a null byte in it", "leave it out")
    return list(value)


def _argv(job: Job, value: Any) -> None:
    hint = 'use a list as ["echo", "hi"], or "cmd"'
    job.argv = _words("argv", value, hint)
    if not job.argv:
        raise SpecError("argv", value, "is not a list of arguments", hint)
    if not job.argv[0]:
        raise SpecError("argv[0]", value[0], "is empty", "give the command to run")


def _args(job: Job, value: Any) -> None:
    job.args = _words("args", value, 'use a list, whose words are "$1", "$2" … in cmd')


def _cmd(job: Job, value: Any) -> None:
    if not isinstance(value, str) or not value.strip():
        raise SpecError("cmd", value, "is not a command", 'use a string as "echo hi | wc -c"')
    job.argv = ["/bin/sh", "-c", units.text("cmd", value)]


def _stdin(job: Job, value: Any) -> None:
    job.stdin = source_of("stdin", value)


def _files(job: Job, value: Any) -> None:
    job.files = put_in("files", value)


def _env(job: Job, value: Any) -> None:
    job.launch["env"] = dict(process.env("env", value))


def _user(job: Job, value: Any) -> None:
    if isinstance(value, list):
        value = tuple(value)
    process.user("user", value)
    job.launch["user"] = value


def _timeout(job: Job, value: Any) -> None:
    job.launch["timeout"] = timeout_of("timeout", value)


def _output_limit(job: Job, value: Any) -> None:
    job.launch["output_limit"] = units.size("output_limit", value)


def _tag(job: Job, value: Any) -> None:
    job.tag = value


def timeout_of(field: str, value: Any) -> float:
    """Seconds, more than none. Raises SpecError."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < 10**9:
        return float(value)
    seconds = units.duration_ns(field, value) / 10**9
    if not seconds:
        raise SpecError(field, value, "leaves no time at all", 'use seconds, or "1m30s"')
    return seconds


_OWN: dict[str, Callable[[Job, Any], None]] = {
    "argv": _argv,
    "args": _args,
    "cmd": _cmd,
    "stdin": _stdin,
    "files": _files,
    "env": _env,
    "user": _user,
    "timeout": _timeout,
    "output_limit": _output_limit,
    "tag": _tag,
}
