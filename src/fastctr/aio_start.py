"""How an event loop starts containers, and hears of their ends.

A start that finds a prepared container takes 0.1 to 0.3 ms, and is made in the loop's own thread: a few of
them in one turn of the loop. What may take longer (a plan to compile, an image to look up, no container
prepared, a turn that has had its share, files to copy) goes to one of a few threads (aio_threads.py).

Who dies with whom: the kernel's idea of a parent is the thread that cloned (csrc/launch.c). These threads
live as long as this process's context, and so does the main thread; a loop in any other thread has all its
starts made here, so that a container never dies of a loop that moved on to another thread.

An end is a pidfd that becomes readable in the loop: no SIGCHLD, no child watcher, no thread that waits.
"""

from __future__ import annotations

import asyncio
import errno as codes
import os
import sys
import threading
import weakref

from . import context
from .aio_threads import hand_over, in_thread, retrieve
from .container import Container, _Exec
from .errors import FastctrError, LaunchError
from .plan import Plan, plan_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .results import Timings
    from .spec import Spec

STARTS_A_TURN = 4
"""Starts the loop's own thread makes in one turn of the loop at most, so that it answers within about 1 ms."""
ENDS_A_TURN = 8
"""Ends it sees to in one turn; when more come at once, the threads do."""


# ---- the start


class _Turn:
    """What one loop may still do itself in this turn."""

    __slots__ = ("ends", "fresh", "loop", "starts")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = weakref.ref(loop)
        self._next()

    def _next(self) -> None:
        self.starts, self.ends, self.fresh = STARTS_A_TURN, ENDS_A_TURN, True

    def _use(self) -> None:
        loop = self.loop()
        if self.fresh and loop is not None:
            self.fresh = False
            loop.call_soon(self._next)

    def start(self) -> bool:
        self._use()
        self.starts -= 1
        return self.starts >= 0

    def end(self) -> bool:
        self._use()
        self.ends -= 1
        return self.ends >= 0


_turns: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Turn] = weakref.WeakKeyDictionary()


def _turn(loop: asyncio.AbstractEventLoop) -> _Turn:
    turn = _turns.get(loop)
    if turn is None:
        turn = _turns[loop] = _Turn(loop)
    return turn


class Lent:
    """A descriptor that libuv closes. uvloop then closes the file it had it from once more: by that time the number may
    be another's, as the core opens descriptors in a thread of its own."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def fileno(self) -> int:
        return self._fd

    def close(self) -> None:
        """Nothing: it is closed."""


class Started(Container):
    """A Container of a loop. `exit`: what watches it; None before and after."""

    _lasting = True
    exit: Exit | None = None

    def close(self) -> None:
        watch, self.exit = self.exit, None
        if watch is not None:  # by shutdown(): the loop does not know
            watch.let_go()
        super().close()
        if watch is not None:
            watch.tell()


class StartedExec(_Exec, Started):
    """A command of a loop in a running container."""


async def the_plan(kw: dict[str, Any], spec: Spec | None) -> Plan:
    """The plan of a container's keywords, which are taken out of kw; an image is looked up in a thread."""
    if kw.get("image") is not None and not _image_known(kw):
        return await in_thread(lambda: plan_of(kw, spec))  # type: ignore[no-any-return]
    return plan_of(kw, spec)


def _image_known(kw: dict[str, Any]) -> bool:
    module = sys.modules.get(f"{__package__}.from_image")
    if module is None or not isinstance(kw["image"], str) or kw.get("pull") == "always":
        return False
    return bool(module.known(kw["image"], kw.get("platform"), kw.get("snapshotter"), kw.get("entrypoint"),
                             kw.get("root")))


def is_heavy(plan: Plan) -> bool:
    """Whether an end takes longer than a loop should wait: files to remove or to be written back, or
    processes to be found and killed one by one for want of a pid namespace."""
    spec = plan.spec
    return plan.copies or spec.upper is not None or spec.pid[0] != "new"


def is_ready(plan: Plan) -> bool:
    """Whether the next start of it finds everything made but its process."""
    compiled = plan._compiled
    if compiled is None or plan._generation != context.generation or plan.copies:
        return False
    try:
        return compiled.ready() > 0
    except ValueError:  # closed this moment
        return False


async def start(plan: Plan, argv: Any, kw: dict[str, Any]) -> Started:
    """A started container of the plan, or an error and nothing left of it."""
    loop = asyncio.get_running_loop()
    if is_ready(plan) and threading.current_thread() is threading.main_thread() and _turn(loop).start():
        return _start(plan, argv, kw)
    return await in_thread(lambda: _start(plan, argv, kw))  # type: ignore[no-any-return]


def _start(plan: Plan, argv: Any, kw: dict[str, Any]) -> Started:
    made: Started = told(lambda: Started(argv, plan=plan, bufsize=0, **kw))
    return made


def told(make: Callable[[], Any]) -> Any:
    """make(), and running out of descriptors told as every failed start is."""
    try:
        return make()
    except OSError as error:
        if isinstance(error, LaunchError) or error.errno not in (codes.EMFILE, codes.ENFILE):
            raise
        from .hints import hint

        raise LaunchError("stdio", error.errno, "a pipe", hint("stdio", codes.EMFILE, "")) from None


# ---- the end


class _Watch:
    """What the loop calls when a pidfd is readable. Nobody else holds it: when the loop is closed, it goes,
    and the container with it."""

    __slots__ = ("_exit",)

    def __init__(self, watched: Exit) -> None:
        self._exit = watched

    def __call__(self) -> None:
        self._exit.readable()

    def __del__(self) -> None:
        self._exit.loop_closed()


class Exit:
    """The end of one container, watched by a loop. then(): called once, in the loop, when everything in it
    is gone, its figures are read, its `outputs` opened as `fds` and it is closed. lost(): called instead
    when the loop is closed before."""

    __slots__ = ("_fd", "_generation", "_heavy", "_killed", "_loop", "_lost", "_over", "_then", "container",
                 "error", "fds", "outputs", "timings", "warm")

    def __init__(self, loop: asyncio.AbstractEventLoop, container: Started, heavy: bool,
                 then: Callable[[], None], lost: Callable[[], None]) -> None:  # fmt: skip
        self.container = container
        self._loop = loop
        self._then: Callable[[], None] | None = then
        self._lost: Callable[[], None] | None = lost
        self.outputs: list[str] | None = None
        self.fds: list[int] | None = None
        self.timings: Timings | None = None
        self.warm = False
        self.error: FastctrError | None = None
        self._heavy = heavy
        self._over = False
        self._killed = False
        self._generation = context.generation
        self._fd = container.pidfd
        loop.add_reader(self._fd, _Watch(self))
        os.set_blocking(self._fd, True)  # uvloop thought otherwise, and waitid(2) heeds it
        container.exit = self

    def readable(self) -> None:
        """It has ended."""
        if self._over:
            return
        if self._heavy or not _turn(self._loop).end():
            self.forget()
            hand_over(self._loop, self._collect).add_done_callback(self._finish)
            return
        try:
            if self.container._wait(0.0) is None:
                return
        except FastctrError as error:
            self.error = error
        self.forget()
        self._collect()
        self._finish()

    def _collect(self) -> None:
        c = self.container
        try:
            if self.error is None:
                c._wait(-1.0)
            self.warm = c._run.warm
            if c._timings:
                self.timings = c.timings
            if self.outputs is not None:
                self.fds = c._run.take(self.outputs)
        except ValueError:
            pass  # released: shutdown() was quicker
        except FastctrError as error:
            self.error = error
        finally:
            c.close()

    def forget(self) -> None:
        """Watch it no more; in the loop."""
        self._over = True
        self._loop.remove_reader(self._fd)
        self.container.exit = None

    def _finish(self, waited: asyncio.Future[Any] | None = None) -> None:
        retrieve(waited)
        then, self._then, self._lost = self._then, None, None
        if then is not None:
            then()

    def kill(self) -> None:
        """SIGKILL to everything in it; its end comes by then()."""
        if self._over or self._killed:
            return
        self._killed = True
        if self._heavy:
            hand_over(self._loop, self.container.kill).add_done_callback(retrieve)
        else:
            self.container.kill()

    def has_ended(self) -> bool:
        """Whether it is over, or about to be heard of."""
        if not self._over:
            import select

            one = select.poll()
            one.register(self._fd, select.POLLIN)
            return bool(one.poll(0))
        return True

    def let_go(self) -> None:
        """Before somebody else closes its pidfd, in any thread: its number may be another file's then."""
        self._over = True
        if self._loop.is_closed() or self._generation != context.generation:
            return
        if not self._loop.is_running() or asyncio._get_running_loop() is self._loop:
            self._loop.remove_reader(self._fd)
            return
        done = threading.Event()

        def remove() -> None:
            self._loop.remove_reader(self._fd)
            done.set()

        try:
            self._loop.call_soon_threadsafe(remove)
        except RuntimeError:  # closed this moment
            return
        done.wait(1.0)  # it may be blocked, and by the very one who closes this

    def tell(self) -> None:
        """After somebody else has closed it."""
        try:
            self._loop.call_soon_threadsafe(self._finish)
        except RuntimeError:
            pass

    def loop_closed(self) -> None:
        if not self._over and self._generation == context.generation:  # else it is the parent's
            self._over = True
            self.container.exit = None
            lost, self._lost, self._then = self._lost, None, None
            self.container.close()
            if lost is not None:
                lost()
