"""Containers in asyncio: thousands in flight on one loop, without a thread for each.

    done = await aio.run(["sh", "-c", "echo hi"], rootfs="host", memory="64m", capture_output=True, timeout=5)

    process = await aio.create_container_exec(["cat"], rootfs="host", stdin=aio.PIPE, stdout=aio.PIPE)
    out, _ = await process.communicate(b"x")

    async with aio.Pool(rootfs="host", size=8) as pool:
        async for done in pool.map(["sh", "-c", f"echo {n}"] for n in range(10_000)):
            ...

Works with any loop that has add_reader() (asyncio's own, uvloop), in any thread. A task that is cancelled
kills everything in its container and waits until it is gone; so does asyncio.timeout(). A loop that is
closed takes its containers with it. See aio_start.py for how a start keeps the loop from stalling.
"""

from __future__ import annotations

from .aio_job import run_plan
from .aio_pool import Pool
from .aio_process import Process, create_container_exec
from .aio_start import the_plan
from .launch_args import DEVNULL, PIPE, STDOUT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .plan import Plan
    from .results import Completed
    from .spec import Spec

__all__ = ["DEVNULL", "PIPE", "STDOUT", "Pool", "Process", "create_container_exec", "run"]


async def run(argv: Any = None, *, plan: Plan | None = None, spec: Spec | None = None, **kw: Any) -> Completed:
    """fastctr.run() that does not block the loop: the same keywords, results and errors.

    timeout (seconds) raises TimeoutExpired with the output so far, once everything in the container is dead.
    Cancelled, or out of the time of an asyncio.timeout(), it kills everything in the container, waits for
    that and raises CancelledError. Where this process has no descriptors left it raises LaunchError (errno
    EMFILE): a container takes up to 5 and one for each pipe; see Pool for fewer at a time.
    """
    if plan is None:
        plan = await the_plan(kw, spec)
    return await run_plan(plan, argv, **kw)
