"""`fastctr map`: run one command for each of many arguments, each in a container of its own."""

from __future__ import annotations

import os
import sys
import threading

from .batch import Shown
from .batch_options import table
from .batch_run import Control, Progress, fetch, grace_of, said_of_resume, verb
from .options import FLAG, VALUE, Option, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from ..batch.template import Mapped

USAGE = """Usage: fastctr map [OPTIONS] 'COMMAND LINE' [::: ARGUMENT...]
       fastctr map [OPTIONS] [--] COMMAND [WORD...] [::: ARGUMENT...]

Run a command once for each argument, each time in a container of its own, as many at once as there are cpus
and room. One word is a command line for /bin/sh; several, or any after --, are run without a shell. Places:
{} the argument, {.} without its ending, {/} its last part, {//} its directory, {/.} the last part without its
ending, {#} its number; without any, the argument comes last. Arguments are never read as code, whatever quotes
or $ they hold. Without ::: or -a they are the lines of standard input. Output is printed job by job; with -o
results are written to a file instead, as by `fastctr batch`."""

OWN = (
    Option("-a --arg-file", VALUE, "_arg_file", "FILE", "arguments are the lines of this file (- standard input)"),
    Option("-0 --null", FLAG, "_null", "", "arguments are parted by zero bytes, not lines"),
    Option("-k --keep-order", FLAG, "_keep", "", "print outputs in the order of the arguments"),
    Option("--jsonl", FLAG, "_jsonl", "", "print results as JSON lines"),
)
SEPARATOR = ":::"


def map_(argv: Sequence[str]) -> int:
    """The verb; the exit code."""
    words = list(argv)
    given: list[str] | None = None
    if SEPARATOR in words:
        at = words.index(SEPARATOR)
        words, given = words[:at], words[at + 1 :]
    plain = _plain(words)

    def do(values: dict[str, Any], own: dict[str, Any], rest: list[str]) -> int:
        return _map(values, own, rest, given, plain)

    return verb("map", USAGE, table(*OWN), words, False, do)


def _plain(words: list[str]) -> bool:
    """Whether there is a "--" that ends the options: then there is no shell."""
    from .options import parse

    try:
        _, rest = parse(table(*OWN), words)
    except Exception:  # noqa: BLE001 said by the verb
        return False
    return len(rest) < len(words) and words[len(words) - len(rest) - 1] == "--"


def _map(values: dict[str, Any], own: dict[str, Any], rest: list[str], given: list[str] | None, plain: bool) -> int:
    from ..batch.reader import Items, Lines, count_lines, spooled
    from ..batch.template import Line, Mapped, Words

    if not rest or not any(rest):
        raise UsageError("no command given")
    if given is not None and SEPARATOR in given:
        raise UsageError("::: is given twice; one list of arguments is taken")
    if given is not None and "_arg_file" in own:
        raise UsageError("-a cannot go with :::")
    command = Words(rest) if plain or len(rest) > 1 else Line(rest[0])
    fd, total = -1, None
    found: Items | Lines
    if given is not None:
        found, total = Items([each for each in given if each]), len(given)
    else:
        path = own.get("_arg_file", "-")
        if path == "-":
            if sys.stdin is None or os.isatty(0):
                raise UsageError("no arguments given: write them after :::, or give a file with -a")
            fd = os.dup(0)
        else:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            if not own.get("_null") and os.path.isfile(path):
                total = count_lines(path)
        if values.get("check") and not os.path.isfile(f"/proc/self/fd/{fd}"):
            pipe, fd = fd, spooled(fd)
            os.close(pipe)
        found = Lines(fd, "arguments", b"\0" if own.get("_null") else b"\n", strip=False)
    source = Mapped(command, found)
    try:
        if own.get("_dry_run"):
            while (item := source.next()) is not None:
                print(_shown(command.argv(item[1]["tag"], item[0])))
            return 0
        return _run(source, values, own, total)
    finally:
        if fd >= 0:
            os.close(fd)


def _shown(argv: list[str]) -> str:
    import shlex

    return shlex.join(argv)


def _run(jobs: Mapped, values: dict[str, Any], own: dict[str, Any], total: int | None) -> int:
    from ..batch.batch import Batch

    grace = grace_of(own)
    fetch(values, own)
    sink: Any = None
    if own.get("_jsonl") and "output" not in values:
        from ..batch.results import Writer

        sink = Shown(Writer(1, "standard output"))
    elif "output" not in values and "output_dir" not in values:
        sink = Outputs(own.get("_keep", False))
    with Batch(jobs, sink=sink, name="argument", **values) as made:
        said_of_resume(made)
        progress = Progress(made, own.get("_quiet", False), lambda: total)
        if sink is not None:
            sink.beside(progress)
        return Control(made, progress, grace).run()


class Outputs:
    """Prints what jobs have written, one job after the other: its stdout to ours, its stderr to ours."""

    def __init__(self, in_order: bool) -> None:
        self._in_order = in_order
        self._next = 1
        self._early: dict[int, tuple[bytes, bytes]] = {}
        self._lock = threading.Lock()
        self._bar: Any = None

    def beside(self, progress: Progress) -> None:
        self._bar = progress.bar
        if self._bar is not None:
            self._lock = self._bar.lock

    def put(self, job: Any, record: dict[str, Any]) -> None:
        out, err = _bytes(record.get("stdout")), _bytes(record.get("stderr"))
        if record["status"] == "error":
            err += f"fastctr: {job.tag}: {record['error']['message']}\n".encode("utf-8", "surrogateescape")
        elif record["status"] in ("timeout", "oom"):
            words = {"timeout": "its time was up", "oom": "killed: out of memory"}
            err += f"fastctr: {job.tag}: {words[record['status']]}\n".encode("utf-8", "surrogateescape")
        with self._lock:
            if self._bar is not None:
                self._bar.erase()
            if not self._in_order:
                self._print(out, err)
                return
            self._early[job.line] = out, err
            while (found := self._early.pop(self._next, None)) is not None:
                self._print(*found)
                self._next += 1

    @staticmethod
    def _print(out: bytes, err: bytes) -> None:
        for fd, data in ((1, out), (2, err)):
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]


def _bytes(text: Any) -> bytes:
    if isinstance(text, dict):
        import binascii

        return binascii.a2b_base64(text["base64"])
    return (text or "").encode()
