"""Zygote.run(): a script in a job's container, waited for as fastctr.run() waits."""

from __future__ import annotations

import os

from .errors import SpecError, from_native
from .launch_args import PIPE, Stdio, decode, more_limits, native_limits
from .results import Completed, Timings, killed_by
from .units import size
from .zygote_job import ANSWER, failed_start, told

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .zygote import Zygote

_STREAMS = ((), ("stdout",), ("stderr",), ("stdout", "stderr"))


def run(zygote: Zygote, argv: Any, *, stdin: Any = None, input: Any = None, stdout: Any = None,  # noqa: A002
        stderr: Any = None, capture_output: bool = False, text: bool | None = None, encoding: str | None = None,
        errors: str | None = None, timeout: float | None = None, check: bool = False, env: Any = None, cwd: Any = None,
        limits: Any = None, timings: bool = False, output_limit: Any = None, outputs: Any = None, **unknown: Any,
        ) -> Completed:  # fmt: skip
    """See Zygote.run()."""
    if isinstance(argv, (str, bytes)) or not argv or (argv[0] in ("-c", "-m") and len(argv) < 2):
        raise SpecError("argv", argv, "is no command line",
                        'use ["script.py", "arg"], ["-c", "code"] or ["-m", "module"]')
    if unknown:
        limits = more_limits(limits, unknown)
    if input is not None:
        if stdin is not None:
            raise SpecError("input", "…", "cannot go with stdin", "give one of them")
        stdin = PIPE
    if capture_output:
        if stdout is not None or stderr is not None:
            raise SpecError("capture_output", True, "cannot go with stdout or stderr", "give one of them")
        stdout = stderr = PIPE
    data = input.encode(encoding or "utf-8", errors or "strict") if isinstance(input, str) else input
    wanted = None
    if output_limit is not None:
        output_limit = size("output_limit", output_limit)
    if outputs is not None:
        from . import outputs as taken

        wanted = taken.paths(outputs) or None
    options = zygote._options({"argv": [os.fsdecode(os.fspath(value)) for value in argv]}, env, cwd)
    zygote._running_process()
    child = zygote._take(native_limits(limits))
    stdio: Stdio | None = None
    word = b""
    try:
        stdio = Stdio(stdin, stdout, stderr)
        zygote._send(child, options, b"", stdio.given)
        stdio.started()
        ends = stdio.ends
        for fd in ends:
            if fd >= 0:
                os.set_blocking(fd, False)
        stdio.ends = [-1, -1, -1]  # finish() closes them
        zygote._wake()
        code, lost, oom, timed_out, out, err, usage, times, pid, more, fds = child.run.finish(
            ends[0], ends[1], ends[2], None if data is None else bytes(data),
            -1.0 if timeout is None else max(float(timeout), 0.0), timings, output_limit, wanted)
        child.sock.setblocking(False)
        try:
            word = child.sock.recv(64)
        except OSError:
            pass
    except BaseException:  # also Ctrl-C between any two lines
        zygote._discard(child)
        if stdio is not None:
            stdio.close_all()
        raise
    child.sock.close()
    zygote._wake()
    _raise_failure(word, cwd)
    if lost:
        code = -9 if timed_out else told(child)
    out, err = (None if stream != PIPE else part for part, stream in ((out, stdout), (err, stderr)))
    if text or encoding or errors:
        if (timed_out or more & 3) and errors is None:
            errors = "replace"  # what was read may end within a character
        out, err = (None if part is None else decode(part, encoding, errors) for part in (out, err))
    found = taken.opened(wanted, fds) if wanted and isinstance(fds, list) else None
    done = Completed(argv, code, out, err, killed_by(code, oom, timed_out), usage,
                     Timings(times) if times else None, pid, _STREAMS[more & 3], found, child.ready)
    if timed_out:
        from .errors import TimeoutExpired

        assert timeout is not None
        expired = TimeoutExpired(argv, timeout, out, err)
        expired.completed = done
        raise expired
    if isinstance(fds, Exception):
        fds.completed = done  # type: ignore[attr-defined]
        raise fds
    if check:
        done.check_returncode()
    return done


def _raise_failure(word: bytes, cwd: Any) -> None:
    """What the job said, if it did not come as far as the script."""
    if word[:1] == b"F":
        raise failed_start(word[ANSWER.size :])
    if word[:1] == b"C" and word[ANSWER.size :].isdigit():
        raise from_native("cwd", -1, int(word[ANSWER.size :]), str(cwd))
