"""run(): subprocess.run() for containers. See docs/architecture.md for the way down."""

from __future__ import annotations

import os

from . import _core
from .launch_args import (
    PIPE,
    Stdio,
    fd_pairs,
    launch_files,
    launch_user,
    more_limits,
    native_limits,
    redirected,
    user_env,
)
from .plan import Plan, plan_of
from .results import STREAMS, Completed, Timings, finished, killed_by
from .units import size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .spec import Spec


def run(argv: Any = None, *, plan: Plan | None = None, spec: Spec | None = None, **kw: Any) -> Completed:
    """Run a command in a container of its own and wait for it, as subprocess.run().

    argv: list of str, bytes or paths. Keywords of the container are those of `Spec` (rootfs="host" or a
    directory, memory="64m", cpus=0.5, pids=32, …); those of the launch: stdin, stdout, stderr (None:
    inherited, PIPE, DEVNULL, STDOUT, a file or descriptor), input, capture_output, text, encoding,
    errors, timeout (seconds), check, pass_fds, limits (a Limits or dict, over those of a plan),
    timings=True; output_limit (bytes or "1m": of each captured stream, what comes after it is read and
    dropped, see Completed.truncated); outputs (paths of regular files in the container, opened once it
    has ended, see Completed.files). env and cwd may be given for either; of a plan= so may user, and files
    {path: bytes, str, (content, mode) or File}, put in before the start and owned by the job's user.

    From an image instead of a rootfs: image="alpine:3.20" (a name, name@digest, id or Image), with
    pull="missing" (or "never", "always"), platform="linux/arm64", snapshotter="overlay" ("erofs", "vfs"),
    entrypoint= (a word or list in place of the image's; "" none), root= (the store's directory, else
    FASTCTR_ROOT or its usual place). Its config gives the rest: argv may be left away for its Cmd, and is
    what follows its Entrypoint; its Env lies under env=, WorkingDir is made if missing, User is looked up
    inside, StopSignal is what Container.stop() sends, Volumes' paths are there (a tmpfs where the image has
    none or is read_only). clean_env=True leaves its Env away too.

    Raises SpecError before anything is made, CommandNotFound, CommandNotExecutable, LaunchError for a
    start that failed (nothing is left of it), ImageNotFound, RegistryError or another ImageError for an
    image that cannot be had, TimeoutExpired when the time was up (everything in the
    container is dead then), CalledProcessError with check=True. Both have the Completed as `completed`,
    and so has a LaunchError of stage "outputs": the job has run, but an output is no regular file.
    """
    if plan is None:
        plan = plan_of(kw, spec)
    return plan.run(argv, **kw) if plan.image is not None else run_plan(plan, argv, **kw)


def run_plan(
    plan: Plan, argv: Any = None, *, stdin: Any = None, input: Any = None, stdout: Any = None,  # noqa: A002
    stderr: Any = None, capture_output: bool = False, text: bool | None = None, encoding: str | None = None,
    errors: str | None = None, timeout: float | None = None, check: bool = False, env: Any = None,
    cwd: Any = None, pass_fds: Any = (), limits: Any = None, timings: bool = False, output_limit: Any = None,
    outputs: Any = None, files: Any = None, user: Any = None, _started: Callable[[_core.Running], None] | None = None,
    **unknown: Any,
) -> Completed:  # fmt: skip
    """run() of a compiled plan; see there. _started: called with what runs, as soon as it does."""
    if unknown:
        limits = more_limits(limits, unknown)
    values = plan.argv(argv)
    stdin, stdout, stderr, data, as_text = redirected(
        stdin, input, stdout, stderr, capture_output, text, encoding, errors)
    who = wanted = put = None
    if output_limit is not None:
        output_limit = size("output_limit", output_limit)
    if outputs is not None:
        from . import outputs as taken

        wanted = taken.paths(outputs) or None
    if files:
        put = launch_files(files)
    if user is not None:
        who = launch_user(user)
    core = plan.core()
    stdio = Stdio(stdin, stdout, stderr)
    ends = stdio.ends
    running: _core.Running | None = None
    try:
        linger = 2000 if ends[1] < 0 and ends[2] < 0 else 300
        if timings or ends[0] >= 0 or (timeout is not None and timeout < 0.05):
            linger = 0
        launch = _core.Launch(values, plan.env(env) if who is None else user_env(plan, who, env), cwd,
                              tuple(stdio.given), fd_pairs(pass_fds) if pass_fds else None, native_limits(limits),
                              None, True, timings, False, linger, who, put)
        running = core.launch(launch)
        if _started is not None:
            _started(running)
        stdio.started()
        for fd in ends:
            if fd >= 0:
                os.set_blocking(fd, False)
        stdio.ends = [-1, -1, -1]  # finish() closes them
        code, lost, oom, timed_out, out, err, usage, times, pid, more, fds = running.finish(
            ends[0], ends[1], ends[2], data, -1.0 if timeout is None else max(float(timeout), 0.0), timings,
            output_limit, wanted)
    except BaseException:  # also Ctrl-C between any two lines
        if running is not None:
            running.release()
        stdio.close_all()
        raise
    found = taken.opened(wanted, fds) if wanted and isinstance(fds, list) else None
    if ends[1] < 0 or stdout != PIPE:
        out = None
    if stderr != PIPE:
        err = None
    if argv is None:
        argv = values
    done = Completed(argv, 255 if lost else code, out, err, killed_by(code, oom, timed_out), usage,
                     Timings(times) if times else None, pid, STREAMS[more & 3], found, more > 3)
    return finished(done, as_text, timeout, fds if isinstance(fds, Exception) else None, check)
