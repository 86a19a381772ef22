"""run(): subprocess.run() for containers. See docs/architecture.md for the way down."""

from __future__ import annotations

import os

from . import _core
from .errors import SpecError
from .launch_args import PIPE, Stdio, argv_of, decode, fd_pairs, more_limits, native_limits, split
from .plan import Plan, plan_for
from .results import Completed, Timings, killed_by
from .spec import Spec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def run(argv: Any, *, plan: Plan | None = None, spec: Spec | None = None, **kw: Any) -> Completed:
    """Run a command in a container of its own and wait for it, as subprocess.run().

    argv: list of str, bytes or paths. Keywords of the container are those of `Spec` (rootfs="host" or a
    directory, memory="64m", cpus=0.5, pids=32, …); those of the launch: stdin, stdout, stderr (None:
    inherited, PIPE, DEVNULL, STDOUT, a file or descriptor), input, capture_output, text, encoding,
    errors, timeout (seconds), check, pass_fds, limits (a Limits or dict, over those of a plan),
    timings=True. env and cwd may be given for either.

    Raises SpecError before anything is made, CommandNotFound, CommandNotExecutable, LaunchError for a
    start that failed (nothing is left of it), TimeoutExpired when the time was up (everything in the
    container is dead then), CalledProcessError with check=True.
    """
    if plan is None:
        given = split(kw)
        plan = plan_for(spec.replace(**given) if spec is not None and given else spec or Spec(**given))
    return run_plan(plan, argv, **kw)


def run_plan(plan: Plan, argv: Any, *, stdin: Any = None, input: Any = None, stdout: Any = None, stderr: Any = None,  # noqa: A002
             capture_output: bool = False, text: bool | None = None, encoding: str | None = None,
             errors: str | None = None, timeout: float | None = None, check: bool = False, env: Any = None,
             cwd: Any = None, pass_fds: Any = (), limits: Any = None, timings: bool = False,
             **unknown: Any) -> Completed:
    """run() of a compiled plan; see there."""
    if unknown:
        limits = more_limits(limits, unknown)
    values = argv_of(argv)
    if input is not None:
        if stdin is not None:
            raise SpecError("input", "…", "cannot go with stdin", "give one of them")
        stdin = PIPE
    if capture_output:
        if stdout is not None or stderr is not None:
            raise SpecError("capture_output", True, "cannot go with stdout or stderr", "give one of them")
        stdout = stderr = PIPE
    as_text = bool(text or encoding or errors)
    data: bytes | None = None
    if input is not None:
        data = input.encode(encoding or "utf-8", errors or "strict") if isinstance(input, str) else bytes(input)
    if as_text:
        "".encode(encoding or "utf-8", errors or "strict")  # an unknown one: before anything is started
    core = plan.core()
    stdio = Stdio(stdin, stdout, stderr)
    ends = stdio.ends
    running: _core.Running | None = None
    try:
        launch = _core.Launch(values, plan.env(env), cwd, tuple(stdio.given), fd_pairs(pass_fds) if pass_fds else None,
                              native_limits(limits), None, True, timings)
        running = core.launch(launch)
        stdio.started()
        for fd in ends:
            if fd >= 0:
                os.set_blocking(fd, False)
        stdio.ends = [-1, -1, -1]  # finish() closes them
        code, lost, oom, timed_out, out, err, usage, times, pid = running.finish(
            ends[0], ends[1], ends[2], data, -1.0 if timeout is None else max(float(timeout), 0.0), timings)
    except BaseException:  # also Ctrl-C between any two lines
        if running is not None:
            running.release()
        stdio.close_all()
        raise
    if ends[1] < 0 or stdout != PIPE:
        out = None
    if stderr != PIPE:
        err = None
    if as_text:
        if timed_out and errors is None:
            errors = "replace"  # what was read may end within a character
        out, err = (part if part is None else decode(part, encoding, errors) for part in (out, err))
    done = Completed(argv, 255 if lost else code, out, err, killed_by(code, oom, timed_out), usage,
                     Timings(times) if times else None, pid)
    if timed_out:
        from .errors import TimeoutExpired

        assert timeout is not None
        expired = TimeoutExpired(argv, timeout, out, err)
        expired.completed = done
        raise expired
    if check:
        done.check_returncode()
    return done
