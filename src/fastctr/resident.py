"""Resident: one container, many commands. `Container.exec` without its cost, for commands that may share all.

Nothing is reset between commands: files, processes left in the background, shared memory, the network, the
control group and its limits are one for all of them (docs/security.md). They are started by keepers
(csrc/keeper.c), which have joined the container once and are not seen inside; a command is a child of this
process, which hears of its end from the kernel. The container's first process does nothing but reap.
"""

from __future__ import annotations

import threading
import weakref

from . import _core, context
from .api import run_plan
from .container import Container
from .errors import CommandNotExecutable, CommandNotFound, LaunchError, SpecError
from .plan import Plan, given_plan
from .spec import LIMITS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .results import Completed, Usage
    from .spec import Spec

_WHOLE = ("limits", "files", "outputs", "timings")
"""Launch keywords that are about a container of the job's own."""


class _Idle(Container):
    """Its first process is the stub, which reaps what its parent left."""

    def _argv(self, argv: Any) -> list[Any]:
        return list(argv)


class _Inside:
    """What run_plan() asks of a plan, answered by the running container."""

    def __init__(self, plan: Plan, running: _core.Running) -> None:
        self._running = running
        self._exec = plan.exec_core()
        self.argv = plan.argv
        self.env = plan.env

    def core(self) -> _Inside:
        return self

    def launch(self, launch: _core.Launch) -> _core.Running:
        return self._running.exec(self._exec, launch)


class Resident:
    """A container that stays, for commands one after another or several at once, from any thread.

    plan, or spec, or the keywords of Plan: what the container is. It is started by the first run() (or
    start()), and again if it has died (`metrics()["restarts"]`). Works for an unprivileged user, too.

    Raises SpecError for what needs a container for each command: pid= other than "private", and a terminal.
    """

    def __init__(self, plan: Plan | None = None, *, spec: Spec | None = None, **fields: Any) -> None:
        plan = given_plan(plan, spec, fields)
        if plan.spec.pid[0] != "new":
            raise SpecError("pid", plan.spec._given.get("pid"), "cannot be kept by a first process of its own",
                            'leave it out, or use "private"')
        self.plan = Plan(plan.spec.replace(init=True), use=plan.image)
        self._closed = False
        self._reset()
        _all.add(self)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._container: _Idle | None = None
        self._inside: _Inside | None = None
        self._oom = 0
        self._counts = dict.fromkeys(("done", "failed", "killed", "starts"), 0)

    def start(self) -> None:
        """Start the container now, if it is not running. Raises LaunchError as a start would."""
        self._live()

    def _live(self, dead: _Inside | None = None) -> _Inside:
        inside = self._inside
        if inside is not None and inside is not dead and not self._closed:
            return inside
        with self._lock:
            if self._closed:
                raise ValueError("the resident is closed")
            if self._inside is None or self._inside is dead:
                if self._container is not None:
                    self._container.close()
                self._oom = 0
                made = _Idle(["fctr-idle"], plan=self.plan, stdin=-3, stdout=-3, stderr=-3)
                try:
                    made._run.lanes()
                    self._inside = _Inside(self.plan, made._run)
                except BaseException:
                    made.close()
                    raise
                self._container = made
                self._counts["starts"] += 1
            return self._inside

    def run(self, argv: Any = None, **launch: Any) -> Completed:
        """As fastctr.run(), in the container.

        A timeout kills the command and its process group; what it started in sessions of their own stays, as
        after any end. usage is the command's own CPU time (and that of children it has waited for); other
        figures are the container's: `stats()`. killed_by is "oom" if it died of SIGKILL while the container's
        count of OOM kills rose. Raises what fastctr.run() does; SpecError for limits, files, outputs and user.
        """
        for name, value in launch.items():
            if value if name in _WHOLE else value is not None and (name == "user" or name in LIMITS):
                raise SpecError(name, value, "is of the whole container", "give it to Resident(), or use Pool")
        check = launch.pop("check", False)
        inside = self._live()
        try:
            try:
                done = run_plan(inside, argv, **launch)  # type: ignore[arg-type]
            except (CommandNotFound, CommandNotExecutable):
                raise
            except (LaunchError, ValueError):
                container = self._container
                if self._inside is inside and (container is None or container._wait(0.5) is None):
                    raise  # it is alive: this is about the command
                done = run_plan(self._live(inside), argv, **launch)  # type: ignore[arg-type]
        except BaseException:
            self._counts["failed"] += 1
            raise
        if done.killed_by == "signal" and done.returncode == -9 and self._more_oom():
            done.killed_by = "oom"
        self._counts["killed" if done.killed_by else "done"] += 1
        if check:
            done.check_returncode()
        return done

    def _more_oom(self) -> bool:
        try:
            kills = self.stats().oom_kills or 0
        except (OSError, ValueError):
            return False
        with self._lock:
            more, self._oom = kills > self._oom, max(kills, self._oom)
        return more

    def stats(self) -> Usage:
        """The container's figures, since its start; results.Usage. Raises LaunchError if there is no group."""
        self._live()
        container = self._container
        assert container is not None
        return container.stats()

    def metrics(self) -> dict[str, int]:
        """Counts: done, failed (not started, timed out), killed; restarts of the container."""
        starts = self._counts["starts"]
        return {**{name: self._counts[name] for name in ("done", "failed", "killed")}, "restarts": max(starts - 1, 0)}

    def close(self) -> None:
        """Kill everything in the container and let go of it."""
        with self._lock:
            self._closed = True
            container, self._container, self._inside = self._container, None, None
        if container is not None:
            container.close()
        self.plan.close()

    def __enter__(self) -> Resident:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Resident({self.plan.spec!r})"


_all: weakref.WeakSet[Resident] = weakref.WeakSet()


def _after_fork() -> None:
    for resident in list(_all):  # the container is the parent's
        resident._reset()


context.on_fork(_after_fork)
