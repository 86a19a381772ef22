"""Zygote.run(): a script in a job's container, waited for as fastctr.run() waits."""

from __future__ import annotations

import os

from .errors import SpecError, from_native
from .launch_args import PIPE, Stdio, more_limits, native_limits, redirected
from .results import STREAMS, Completed, Timings, finished, killed_by
from .units import size
from .zygote_job import ANSWER, failed_start, told

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .zygote import Zygote


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
    stdin, stdout, stderr, data, as_text = redirected(
        stdin, input, stdout, stderr, capture_output, text, encoding, errors)
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
            ends[0], ends[1], ends[2], data,
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
    found = taken.opened(wanted, fds) if wanted and isinstance(fds, list) else None
    done = Completed(argv, code, out, err, killed_by(code, oom, timed_out), usage,
                     Timings(times) if times else None, pid, STREAMS[more & 3], found, child.ready)
    return finished(done, as_text, timeout, fds if isinstance(fds, Exception) else None, check)


def _raise_failure(word: bytes, cwd: Any) -> None:
    """What the job said, if it did not come as far as the script."""
    if word[:1] == b"F":
        raise failed_start(word[ANSWER.size :])
    if word[:1] == b"C" and word[ANSWER.size :].isdigit():
        raise from_native("cwd", -1, int(word[ANSWER.size :]), str(cwd))
