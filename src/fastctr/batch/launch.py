"""One launch that another thread can kill."""

from __future__ import annotations

from .. import context

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ..results import Completed
    from .runner import Runner, Slot


def before() -> None:
    """What has to be there before a batch is: the end of the process finds it then."""
    context.hooks()


def run(call: Callable[..., Completed], argv: Any, slot: Slot, runner: Runner, **kw: Any) -> Completed:
    """Plan.run or Pool.run, with what runs noted in a worker's slot meanwhile."""

    def started(running: Any) -> None:
        slot.running = running
        if runner.killing:
            runner.kill_one(running)

    return call(argv, _started=started, **kw)
