"""The worker of the containers that are alive at once: `python -m bench.images_worker JSON`, as worker.py.

More requests than it has:
    "pids"          the process id of each container
    "read PATH"     each container reads PATH; answers "end"
    "cache"         kB of files that are charged to the containers' memory groups, all together
    "copy PATH N"   N containers copy PATH into their writable layer
    "plain N"       start N processes of the same command without a container; "unplain" ends them
"""
from __future__ import annotations

import subprocess
import sys
from typing import Any

from . import worker

SLEEP = ["/bin/sleep", "3600"]


class AliveJob(worker.Job):
    """A plan and the containers made of it."""

    def __init__(self, options: dict[str, Any]) -> None:
        super().__init__(options)
        self.plain: list[subprocess.Popen[bytes]] = []

    def each(self, argv: list[str], count: int) -> None:
        """Run ARGV in the first COUNT containers, one after another."""
        for container in self.kept[:count]:
            with container.exec(argv, stdout=subprocess.DEVNULL) as command:
                code = command.wait()
            if code != 0:
                raise RuntimeError(f"{argv} in a running container: {code}")

    def cache(self) -> float:
        """kB of page cache charged to the containers: whoever touches a page first pays for it."""
        total = 0
        for container in self.kept:
            groups = container.cgroups
            with open(f"{groups.get('memory') or next(iter(groups.values()))}/memory.stat", encoding="ascii") as file:
                words = dict(line.split() for line in file)
            total += int(words["cache"] if "cache" in words else words["file"])
        return total / 1024


def answer(job: AliveJob, words: list[str]) -> list[str]:
    """Do one request; the lines to answer."""
    if words[0] == "pids":
        return [str(container.pid) for container in job.kept]
    if words[0] == "read":
        job.each(["/bin/cat", words[1]], len(job.kept))
        return []
    if words[0] == "cache":
        return [f"{job.cache():.1f}"]
    if words[0] == "copy":
        job.each(["/bin/sh", "-c", f"cat {words[1]} >/var/copy"], int(words[2]))
        return []
    if words[0] == "plain":
        job.plain += [subprocess.Popen(SLEEP) for _ in range(int(words[1]))]
        return []
    if words[0] == "unplain":
        for process in job.plain:
            process.kill()
        for process in job.plain:
            process.wait()
        job.plain.clear()
        return []
    return worker.answer(job, words)


if __name__ == "__main__":
    sys.exit(worker.serve(AliveJob, answer))
