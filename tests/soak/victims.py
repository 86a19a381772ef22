"""A process that starts containers in one way until it is killed: `python victims.py KIND rootfs scratch`.

Prints "ready" when the first of them have run.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time
from collections.abc import Callable

import fastctr
from fastctr import aio

LONG = ["sh", "-c", "(sleep 71 &); sleep 72 & echo x; sleep 73"]
SHORT = ["sh", "-c", "sleep 74 & :"]


def ready() -> None:
    print("ready", flush=True)


def user(rootfs: str, scratch: str) -> None:
    """Plan.run() in threads, containers and commands in them."""
    plans = [
        fastctr.Plan(rootfs=rootfs, memory="64m"),
        fastctr.Plan(rootfs=rootfs, init=True, cap_add=["NET_ADMIN"]),
        fastctr.Plan(rootfs=rootfs, pid="host", pids=20),
        fastctr.Plan(rootfs=rootfs, writable="disk", scratch_dir=scratch),
    ]

    def body(plan: fastctr.Plan) -> None:
        while True:
            plan.run(SHORT, capture_output=True)
            with plan.container(LONG, stdout=fastctr.PIPE) as c:
                c.stdout.readline()  # type: ignore[union-attr]
                c.exec(["true"]).close()

    threads = [threading.Thread(target=body, args=(plan,), daemon=True) for plan in plans]
    plans[0].run(SHORT)
    for thread in threads:
        thread.start()
    ready()
    for thread in threads:
        thread.join()


def pool(rootfs: str, scratch: str) -> None:
    from fastctr.pool import Pool

    with Pool(rootfs=rootfs, memory="64m", size=6, workers=4, max_pending=8) as made:
        made.warmup()
        ready()
        for n in range(1_000_000):
            made.submit(LONG if n % 5 == 0 else SHORT, timeout=0.05 if n % 5 == 0 else None, stdout=fastctr.DEVNULL)


def loop(rootfs: str, scratch: str) -> None:
    """aio: many in flight, some cancelled."""

    async def main() -> None:
        async with aio.Pool(rootfs=rootfs, memory="64m", size=6, max_running=24, max_pending=48) as made:
            ready()
            for n in range(1_000_000):
                await made.room()
                task = made.submit(LONG if n % 5 == 0 else SHORT, capture_output=True)
                if n % 5 == 0:
                    asyncio.get_running_loop().call_later(0.05, task.cancel)

    asyncio.run(main())


def zygote(rootfs: str, scratch: str) -> None:
    from fastctr.zygote import Zygote

    with Zygote(rootfs="host", memory="128m", size=2) as made:
        made.call(os.getpid)
        ready()
        while True:
            job = made.start_call(os.system, ("sleep 75 & sleep 76",))
            made.call(os.getpid)
            job.kill()


def slots(rootfs: str, scratch: str) -> None:
    from fastctr.slots import Slots

    with Slots(rootfs=rootfs, memory="64m", size=2) as made:
        made.run(["true"])
        ready()
        while True:
            made.run(SHORT, stdout=fastctr.DEVNULL)
            try:
                made.run(LONG, stdout=fastctr.DEVNULL, timeout=0.05)
            except fastctr.TimeoutExpired:
                pass


def batch(rootfs: str, scratch: str) -> None:
    """A batch run of short and long jobs, from a file, with what is done noted for a --resume."""
    from fastctr.cli import main

    jobs = f"{scratch}.jobs"
    with open(jobs, "w") as file:
        for n in range(20_000):
            argv = LONG if n % 5 == 0 else SHORT
            file.write(json.dumps({"id": f"j{n}", "argv": argv, **({"timeout": 0.05} if n % 5 == 0 else {})}) + "\n")
    results = f"{scratch}.results"
    size = os.path.getsize(results) if os.path.exists(results) else 0

    def watch() -> None:
        while not os.path.exists(results) or os.path.getsize(results) <= size:
            time.sleep(0.01)
        ready()

    threading.Thread(target=watch, daemon=True).start()
    sys.exit(main(["batch", jobs, "-j", "4", "--image", rootfs, "--output", results, "--resume", "--quiet"]))


VICTIMS: dict[str, Callable[[str, str], None]] = {
    "user": user, "pool": pool, "aio": loop, "zygote": zygote, "slots": slots, "batch": batch,
}  # fmt: skip

if __name__ == "__main__":
    VICTIMS[sys.argv[1]](sys.argv[2], sys.argv[3])
