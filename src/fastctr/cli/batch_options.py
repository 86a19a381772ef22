"""The options that `fastctr batch` and `fastctr map` share: those of `run` for the container, and their own."""

from __future__ import annotations

from .options import FLAG, VALUE, Option, UsageError, heading
from .run_options import IMAGE_ONLY, apart, fields, is_directory, option_of
from .run_options import REFUSED as RUN_REFUSED
from .run_options import TABLE as RUN_TABLE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_LEFT_AWAY = {
    "_interactive": "is not offered: a job's input is its stdin",
    "_tty": "is not offered: jobs have no terminal",
    "_stop_signal": "is not offered: at its timeout a job is killed",
    "_stop_timeout": "is not offered: at its timeout a job is killed",
    "_sig_proxy": "is not offered: Ctrl-C stops the batch",
    "_stats": "is not offered: usage is in each result",
    "_timings": "is not offered: seconds are in each result",
    "_rm": "is not offered: nothing is kept of a job but its outputs",
    "_name": "is not offered: nothing is kept of a job but its outputs",
    "upper": "is not offered: jobs would all write to one directory; give each its own",
    "_timeout": "",
    "_quiet": "",
    "_help": "",
}
REFUSED = {
    **RUN_REFUSED,
    **{name: text for option in RUN_TABLE if (text := _LEFT_AWAY.get(option.key)) for name in option.names},
}
OWN = (
    heading("Jobs"),
    Option("-j --jobs", VALUE, "workers", "N", "so many at once (default: the cpus that can be used)"),
    Option("--image", VALUE, "_image", "IMAGE", "an image, a directory as ./dir, or host (default)"),
    Option("--timeout", VALUE, "timeout", "DURATION", 'kill a job after this time ("5", "1m30s")'),
    Option("--output-limit", VALUE, "output_limit", "SIZE", "most bytes kept of each output (1m; 16m in files)"),
    Option("--retries", VALUE, "retries", "N", "try a job again so often when it did not end well"),
    Option("--retry-on", VALUE, "retry_on", "LIST", "only after error,failed,timeout,oom,signal (default: all)"),
    Option("--retry-delay", VALUE, "retry_delay", "DURATION", "wait before trying again; doubled each time"),
    Option("--fail-fast", FLAG, "fail_fast", "", "with the first failed job kill the others and stop"),
    Option("--grace", VALUE, "_grace", "DURATION", "at Ctrl-C let running jobs end for so long (default 10)"),
    Option("--memory-budget", VALUE, "memory_budget", "SIZE|N%", "of all running jobs (default: 0.8 of what is free)"),
    Option("--pids-budget", VALUE, "pids_budget", "N", "processes of all running jobs"),
    heading("Results"),
    Option("-o --output", VALUE, "output", "FILE", "write results there, as JSON lines"),
    Option("--output-dir", VALUE, "output_dir", "DIR", "put output of jobs into files DIR/ID/stdout, stderr ..."),
    Option("--resume", FLAG, "resume", "", "go on: jobs that have a result in FILE are not run again"),
    Option("--retry-failed", FLAG, "retry_failed", "", "with --resume: but for those that failed"),
    Option("--allow-changes", FLAG, "allow_changes", "", "with --resume: lines that have changed are new jobs"),
    Option("--overwrite", FLAG, "overwrite", "", "begin FILE anew"),
    Option("--check", FLAG, "check", "", "check every job before the first is run"),
    Option("--dry-run", FLAG, "_dry_run", "", "check every job, and run none"),
    Option("-q --quiet", FLAG, "_quiet", "", "no progress, no summary"),
    Option("--help", FLAG, "_help", "", "print this"),
)
EXITS = """Exit code: 0 if every job ended well, 1 if not, 125 if a line is wrong or the batch could not go on,
130 after Ctrl-C (once: running jobs may end; twice: they are killed)."""
BATCH_FIELDS = frozenset(option.key for option in OWN if option.key and option.key[0] != "_")


def _container() -> list[Option]:
    """The rows of run's table that are about the container, without headings that head nothing."""
    rows: list[Option] = []
    for option in RUN_TABLE:
        if option.key in _LEFT_AWAY:
            continue
        if not option.kind and rows and not rows[-1].kind:
            rows.pop()
        rows.append(option)
    return rows


def table(*more: Option) -> tuple[Option, ...]:
    """All options of a verb."""
    return (*more, *OWN, *_container())


def split(given: dict[str, list[str | bool]], rows: tuple[Option, ...]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(keywords of Batch, what the verb does itself). Raises UsageError, SpecError."""
    values, own = apart(given, rows)
    root = own.get("_image", "host")
    if not root:
        raise UsageError("--image is empty")
    if is_directory(root):
        own.pop("_image", None)
        for key, option in IMAGE_ONLY.items():
            if key in own:
                raise UsageError(f"{option} is about images: name one with --image")
        values["rootfs"] = [root, *own.pop("_layers")] if "_layers" in own else root
    else:
        if "_layers" in own:
            raise UsageError("--layer is for a directory, and images have layers of their own")
        values["image"] = root
        for key in IMAGE_ONLY:
            if key in own:
                values[key[1:]] = own[key]
    fields(values, own)
    return values, own


def name_of(field: str) -> str:
    """The option that sets a field, for messages."""
    for option in OWN:
        if option.key == field:
            return option.long
    return "--image" if field in ("image", "rootfs") else option_of(field)
