"""The sides that run many jobs by fastctr: `python -m bench.throughput_worker JSON`, as worker.py.

JSON has the keys of worker.py, with the kinds
    pool, slots      one for all threads; "size" containers
    resident         one container a thread
    zygote           calls of a small numpy job; "size" parked children, 0: forked when called
    batch            the batch runner, beside the pool it is held against
and "warm": true, to have all of them ready before each "go" (uncounted). More requests than it has:
    "jobs THREADS N STEP"  N jobs by THREADS threads; a line of seconds since the first for every STEP that
                           are done
    "first N"              wait till all are ready, uncounted, then N starts of tiny: lines of microseconds
                           from the call to its first instruction, to its exit seen, until the call returns;
                           and from the core's start to the exec, to the exit seen
    "fill N", "empty"      as there, of the pool's plan
    "kernel"               kB of kernel memory charged to each of their groups, on average
    "batch N THREADS"      N jobs by the runner; seconds, and MB of resident memory at most
    "map N THREADS"        the same by Pool.map; seconds, without the making of the pool
"""
from __future__ import annotations

import itertools
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from . import worker
from .worker import LIMITS

#: what the zygote's jobs and the cold interpreter do
NUMPY_JOB = "__import__('numpy').arange(1000.0).sum().item()"
NUMPY_ANSWER = 499500.0
SITE = "/usr/local/lib/fctr-bench-site"     # where the zygote's containers have our numpy


def numpy_places() -> tuple[str, str]:
    """The interpreter of the numpy scenario and the directory that has numpy.

    The system's where it is of the same version as ours, for ours may lie where only root may read, and a
    zygote's jobs are not the machine's root."""
    site = os.path.dirname(os.path.dirname(find_spec("numpy").origin))   # type: ignore[union-attr, arg-type]
    system = f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}"
    return (system if os.path.exists(system) else os.path.realpath(sys.executable)), site


class ManyJob(worker.Job):
    """One way to run many jobs. `once()` runs one, and checks its exit status."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.argv: list[str] = options["argv"]
        self.rootfs: str = options["rootfs"]
        self.size: int = options["size"]
        self.warm: bool = options.get("warm", False)
        self.kept: list[Any] = []
        self.local = threading.local()
        self.residents: list[Any] = []
        self.fastctr = worker.load_fastctr()
        self.plan = self.fastctr.Plan(rootfs=self.rootfs, **LIMITS)
        self.runner: Any = None
        getattr(self, f"make_{options['kind']}")()
        self.once: Callable[[], None] = getattr(self, f"once_{options['kind']}", self.once_run)

    # ---- what runs the jobs

    def make_pool(self) -> None:
        from fastctr.pool import Pool

        self.runner = Pool(self.plan, size=self.size)

    def make_slots(self) -> None:
        from fastctr.slots import Slots

        self.runner = Slots(self.plan, size=self.size)
        self.runner.warmup()

    def make_resident(self) -> None:
        pass    # by each thread, before its time begins

    def make_zygote(self) -> None:
        from fastctr.zygote import Zygote

        python, site = numpy_places()
        self.runner = Zygote(rootfs="host", preload=["numpy"], python=python, size=self.size,
                             env={"PYTHONPATH": SITE}, volumes=[f"{site}:{SITE}:ro"], **LIMITS)

    def make_batch(self) -> None:
        pass    # each run makes its own

    def enter(self) -> None:
        """Of each thread, before its time begins."""
        if self.once == self.once_resident and not hasattr(self.local, "resident"):
            from fastctr.resident import Resident

            self.local.resident = Resident(self.plan)
            self.local.resident.start()
            self.residents.append(self.local.resident)

    def leave(self) -> None:
        """Of each thread, after its time."""
        if hasattr(self.local, "resident"):
            self.local.resident.close()
            del self.local.resident

    # ---- one job

    def once_run(self) -> None:
        result = self.runner.run(self.argv)
        if result.returncode != 0:
            raise RuntimeError(f"{type(self.runner).__name__}.run({self.argv}): {result}")

    def once_resident(self) -> None:
        result = self.local.resident.run(self.argv)
        if result.returncode != 0:
            raise RuntimeError(f"Resident.run({self.argv}): {result}")

    def once_zygote(self) -> None:
        found = self.runner.call(eval, NUMPY_JOB)   # eval can be sent by its name: nothing of this file is there
        if found != NUMPY_ANSWER:
            raise RuntimeError(f"Zygote.call: {found!r}")

    # ---- requests

    def ready(self) -> None:
        """Until all that can be ready is."""
        if self.size == 0:
            return
        got = self.runner.warmup(timeout=30)
        if got < self.size:
            raise RuntimeError(f"{type(self.runner).__name__}.warmup: {got} of {self.size} ready after 30 s")

    def go(self, count: int, pause_ms: int) -> list[float]:
        if self.warm:
            self.ready()
        self.enter()
        return super().go(count, pause_ms)

    def first(self, count: int) -> list[Any]:
        self.ready()
        rows = []
        for _ in range(count):
            begin = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
            result = self.runner.run(["/bin/tiny", "now"], stdout=-1, timings=True)
            total = (time.clock_gettime_ns(time.CLOCK_MONOTONIC) - begin) / 1000
            if result.returncode != 0:
                raise RuntimeError(f"run of tiny: {result}")
            took = result.timings
            core = took.acquire + took.spawn
            rows.append((((int(result.stdout) - begin) / 1000), total - took.collect, total, core, core + took.run))
        self.settle()
        return rows

    def race(self, threads: int, body: Callable[[int, float], None]) -> tuple[float, float]:
        """THREADS threads do BODY, given their number and when all of them began; begin and end."""
        faults: list[BaseException] = []
        starting = [0.0]

        def begin() -> None:
            starting[0] = time.perf_counter()

        gate = threading.Barrier(threads, begin)

        def run(number: int) -> None:
            try:
                self.enter()
                gate.wait()
                body(number, starting[0])
            except BaseException as error:  # noqa: BLE001 - told to the asker below
                faults.append(error)
                gate.abort()

        racers = [threading.Thread(target=run, args=(number,)) for number in range(threads)]
        for racer in racers:
            racer.start()
        for racer in racers:
            racer.join()
        end = time.perf_counter()
        for resident in self.residents:     # their threads are gone
            resident.close()
        self.residents.clear()
        if faults:
            raise next((fault for fault in faults if not isinstance(fault, threading.BrokenBarrierError)), faults[0])
        return starting[0], end

    def rate(self, threads: int, seconds: float) -> tuple[int, float]:
        counts = [0] * threads

        def body(number: int, begin: float) -> None:
            while time.perf_counter() - begin < seconds:
                self.once()
                counts[number] += 1

        begin, end = self.race(threads, body)
        return sum(counts), end - begin

    def jobs(self, threads: int, number: int, step: int) -> list[float]:
        taken = itertools.count()
        done: list[float] = []

        def body(_: int, begin: float) -> None:
            while next(taken) < number:
                self.once()
                done.append(time.perf_counter() - begin)

        self.race(threads, body)
        self.settle()
        done.sort()
        if len(done) != number:
            raise RuntimeError(f"{len(done)} of {number} jobs were done")
        return done[step - 1::step]

    def batch(self, number: int, threads: int) -> tuple[float, float]:
        import resource

        from fastctr.batch import Batch

        with tempfile.TemporaryDirectory(prefix="fctr-bench-") as folder:
            job_file(f"{folder}/jobs", number, self.argv)
            begin = time.perf_counter()
            with Batch(f"{folder}/jobs", workers=threads, output=f"{folder}/results", rootfs=self.rootfs,
                       **LIMITS) as made:
                made.wait()
            took = time.perf_counter() - begin
            with open(f"{folder}/results", encoding="utf-8") as file:
                good = sum(json.loads(line)["status"] == "ok" for line in file)
        if good != number:
            raise RuntimeError(f"batch: {good} of {number} jobs ended well")
        self.settle()
        return took, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    def map(self, number: int, threads: int) -> float:
        from fastctr.pool import Pool

        with Pool(self.plan, size=self.size, workers=threads) as pool:
            begin = time.perf_counter()
            good = sum(result.returncode == 0 for result in
                       pool.map((self.argv for _ in range(number)), capture_output=True))
            took = time.perf_counter() - begin
        if good != number:
            raise RuntimeError(f"Pool.map: {good} of {number} jobs ended well")
        self.settle()
        return took

    def kernel(self) -> float:
        total = 0
        for container in self.kept:
            groups = container.cgroups
            if "memory" in groups:
                with open(f"{groups['memory']}/memory.kmem.usage_in_bytes", encoding="ascii") as file:
                    total += int(file.read())
            else:
                with open(f"{next(iter(groups.values()))}/memory.stat", encoding="ascii") as file:
                    words = dict(line.split() for line in file)
                total += int(words.get("kernel", 0))
        return total / len(self.kept) / 1024

    def close(self) -> None:
        """Whatever runs the jobs."""
        self.leave()
        if self.runner is not None:
            self.runner.close()


def job_file(path: str, number: int, argv: list[str]) -> None:
    """NUMBER jobs of ARGV, as JSON lines."""
    text = json.dumps(argv)
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(f'{{"id": "job-{count}", "argv": {text}}}\n' for count in range(number))


def answer(job: ManyJob, words: list[str]) -> list[str]:
    """Do one request; the lines to answer."""
    numbers = [int(word) for word in words[1:] if word.isdigit()]
    if words[0] == "first":
        return [" ".join(f"{value:.1f}" for value in row) for row in job.first(numbers[0])]
    if words[0] == "jobs":
        return [f"{seconds:.6f}" for seconds in job.jobs(*numbers)]
    if words[0] == "batch":
        return ["{:.6f} {:.1f}".format(*job.batch(*numbers))]
    if words[0] == "kernel":
        return [f"{job.kernel():.1f}"]
    if words[0] == "map":
        return [f"{job.map(*numbers):.6f}"]
    return worker.answer(job, words)


def main() -> int:
    made: list[ManyJob] = []

    def make(options: dict[str, Any]) -> ManyJob:
        made.append(ManyJob(options))
        return made[0]

    try:
        return worker.serve(make, answer)
    finally:
        for job in made:
            job.close()


if __name__ == "__main__":
    sys.exit(main())
