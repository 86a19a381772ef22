"""The sides that are Python: a process that starts containers when told to, one request a line.

`python -m bench.worker JSON`, JSON with the keys
    kind         "plan" (one plan, many starts), "cold" (a fresh plan for each start), "subprocess"
    argv         the command to start
    rootfs       fastctr's root filesystem; or
    image, root  an image and the store it is in
    resident_mb  memory this process keeps in use, default 0
Requests as in bare.c ("go N PAUSE_MS", "rate THREADS SECONDS"), and for kind "plan"
    "fill N"     start N sleeping containers and keep them; answers N lines of microseconds, then "end"
    "empty"      end them; answers "end"
    "first N"    N lines: microseconds from the call to the first instruction of the command
    "mark N"     N starts between write(2) calls to descriptor -1 that a trace can find
"""
from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

SOURCE = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "src")
LIMITS: dict[str, Any] = {"memory": "64m", "cpus": 2, "pids": 64}
MARK = b"fastctr-bench-mark"


def load_fastctr() -> Any:
    """Import fastctr: the installed one, else the one built in this tree."""
    if SOURCE not in sys.path:
        sys.path.append(SOURCE)
    import fastctr

    return fastctr


class Job:
    """One way to start `argv`, timed. `once()` starts it and checks its exit status."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.argv: list[str] = options["argv"]
        self.rootfs: str = options.get("rootfs", "")
        self.kept: list[Any] = []
        self.number = 0
        self.once: Callable[[], None] = getattr(self, f"once_{options['kind']}")
        if options["kind"] == "subprocess":
            import subprocess

            self.subprocess = subprocess
            return
        self.fastctr = load_fastctr()
        if options["kind"] == "plan":
            where = {"image": options["image"], "root": options["root"], "pull": "never"} \
                if "image" in options else {"rootfs": self.rootfs}
            self.plan = self.fastctr.Plan(**where, **LIMITS)

    def once_plan(self) -> None:
        result = self.plan.run(self.argv)
        if result.returncode != 0:
            raise RuntimeError(f"plan.run({self.argv}): {result}")

    def once_cold(self) -> None:
        self.number += 1
        plan = self.fastctr.Plan(rootfs=self.rootfs, hostname=f"cold-{self.number}", **LIMITS)
        result = plan.run(self.argv)
        if result.returncode != 0:
            raise RuntimeError(f"plan.run({self.argv}): {result}")

    def once_subprocess(self) -> None:
        self.subprocess.run(self.argv, check=True)

    def go(self, count: int, pause_ms: int) -> list[float]:
        took = []
        for _ in range(count):
            if pause_ms:
                time.sleep(pause_ms / 1000)
            begin = time.perf_counter_ns()
            self.once()
            took.append((time.perf_counter_ns() - begin) / 1000)
        self.settle()
        return took

    def settle(self) -> None:
        """What it clears away and prepares in the background is done before another side's turn begins."""
        if hasattr(self, "fastctr"):
            from fastctr import context

            context.get().drain(True)

    def rate(self, threads: int, seconds: float) -> tuple[int, float]:
        counts = [0] * threads
        faults: list[BaseException] = []
        begin = time.perf_counter()

        def race(number: int) -> None:
            try:
                while time.perf_counter() - begin < seconds:
                    self.once()
                    counts[number] += 1
            except BaseException as error:  # noqa: BLE001 - told to the asker below
                faults.append(error)

        racers = [threading.Thread(target=race, args=(number,)) for number in range(threads)]
        for racer in racers:
            racer.start()
        for racer in racers:
            racer.join()
        if faults:
            raise faults[0]
        return sum(counts), time.perf_counter() - begin

    def fill(self, count: int) -> list[float]:
        took = []
        for _ in range(count):
            begin = time.perf_counter_ns()
            self.kept.append(self.plan.container(["/bin/sleep", "3600"]))
            took.append((time.perf_counter_ns() - begin) / 1000)
        for container in self.kept:
            if container.poll() is not None:
                raise RuntimeError(f"a container of {count} ended by itself: {container.poll()}")
        return took

    def empty(self) -> None:
        for container in self.kept:
            container.kill()
        for container in self.kept:
            container.close()
        self.kept.clear()

    def first(self, count: int) -> list[float]:
        took = []
        for _ in range(count):
            begin = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
            result = self.plan.run(["/bin/tiny", "now"], capture_output=True)
            if result.returncode != 0:
                raise RuntimeError(f"plan.run of tiny: {result}")
            took.append((int(result.stdout) - begin) / 1000)
        return took

    def mark(self, count: int) -> None:
        for _ in range(count):
            time.sleep(0.3)     # what runs off the path shall be over
            _mark()
            self.once()
            _mark()
        time.sleep(0.3)


def _mark() -> None:
    try:
        os.write(-1, MARK)
    except OSError:
        pass


def answer(job: Job, words: list[str]) -> list[str]:
    """Do one request; the lines to answer."""
    if words[0] == "go":
        return [f"{us:.1f}" for us in job.go(int(words[1]), int(words[2]) if len(words) > 2 else 0)]
    if words[0] == "rate":
        count, seconds = job.rate(int(words[1]), float(words[2]))
        return [f"{count} {seconds:.6f}"]
    if words[0] == "fill":
        return [f"{us:.1f}" for us in job.fill(int(words[1]))]
    if words[0] == "first":
        return [f"{us:.1f}" for us in job.first(int(words[1]))]
    if words[0] == "empty":
        job.empty()
        return []
    if words[0] == "mark":
        job.mark(int(words[1]))
        return []
    raise ValueError(f"unknown request {' '.join(words)}")


def raise_file_limit() -> None:
    """As many descriptors as this process may have: thousands of containers are kept at once."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def serve(make: Callable[[dict[str, Any]], Job], answer: Callable[[Any, list[str]], list[str]]) -> int:
    """Be a worker: make the job of the options given, answer requests about it until they end."""
    options = json.loads(sys.argv[1])
    # The jobs inherit /dev/null, not the pipes of our protocol.
    requests, replies = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.close(null)
    raise_file_limit()
    ballast = bytearray(os.urandom(4096) * (int(options.get("resident_mb", 0)) << 8))
    try:
        job = make(options)
        for line in requests:
            for reply in answer(job, line.split()):
                replies.write(reply + "\n")
            replies.write("end\n")
            replies.flush()
    except Exception as error:  # noqa: BLE001 - told to the asker, who ends the scenario
        replies.write(f"error {type(error).__name__}: {error}\n".replace("\n", " ").rstrip() + "\n")
        replies.flush()
        return 1
    del ballast
    return 0


def main() -> int:
    return serve(Job, answer)


if __name__ == "__main__":
    sys.exit(main())
