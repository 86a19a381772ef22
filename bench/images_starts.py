"""Scenarios of containers: a start from many layers, the first after an unpack, 1,000 of one image alive."""
from __future__ import annotations

import json
import os
import statistics
import sys
import time
from typing import Any

from .images_ground import Ground
from .images_material import BIG_MB, Material
from .measure import Figures, interleave, percentile, ratio
from .peers import Side, cli_command
from .worker import SOURCE

TOP = os.path.dirname(SOURCE)
COMMAND = "/bin/true"
STARTS = 10     # after each unpack
BIG = "/srv/big"
COPIES = 3      # containers that write
KB = ("MemAvailable", "Cached", "Shmem", "AnonPages", "SReclaimable", "SUnreclaim", "KernelStack", "PageTables",
      "Percpu")
FIRST, TENTH = 0, STARTS - 1


def _worker(ground: Ground, name: str, module: str, options: dict[str, Any]) -> Side:
    """A worker in the ground. env -i of the ground lets nothing in: where fastctr is comes with the tree."""
    code = f"import sys; sys.path.insert(0, {TOP!r}); import runpy; " \
           f"sys.argv[1:] = [{json.dumps(options)!r}]; runpy.run_module('bench.{module}', run_name='__main__')"
    return Side(name, ground.enter([sys.executable, "-I", "-c", code]))


def _load(ground: Ground, image: Material, store: str) -> None:
    ground.output([*cli_command(), "load", "-q", "-i", image.oci], FASTCTR_ROOT=store)


def _copy(ground: Ground, image: Material, place: str) -> None:
    ground.output(["cp", "-a", "--", image.tree, place])


def from_layers(ground: Ground, image: Material, rounds: int, budget: float) -> dict[str, Any]:
    """plan.run of a dynamic binary from the image, and from one directory with the same merged tree."""
    store, tree = ground.path("store"), ground.path("tree")
    many, one = f"{len(image.about['layers'])} layers", "one directory"
    _load(ground, image, store)
    _copy(ground, image, tree)
    # The second directory is the control: its ratio shows the noise.
    again = f"{one}, again"
    sides = [_worker(ground, many, "worker", {"kind": "plan", "argv": [COMMAND], "image": image.image,
                                              "root": store}),
             *(_worker(ground, name, "worker", {"kind": "plan", "argv": [COMMAND], "rootfs": tree})
               for name in (one, again))]
    try:
        figures = interleave(sides, [], rounds, budget, alike=True)
    finally:
        for side in sides:
            side.close()
        ground.remove(store, tree)
    return {"sides": {name: each.summary() for name, each in figures.items()},
            "ratios": {"many layers / one directory": ratio(figures[many], figures[one]),
                       "one directory again / one directory (1 but for noise)":
                           ratio(figures[again], figures[one])}}


def after_unpack(ground: Ground, image: Material, trials: int) -> dict[str, Any]:
    """`fastctr run` right after an unpack, ten times, each a process of its own; and from a directory that
    was just copied, whose first start has the same to warm up."""
    store, tree = ground.path("store"), ground.path("tree")
    image_runs, tree_runs = Figures("image"), Figures("directory")
    for _ in range(trials):
        try:
            _load(ground, image, store)
            image_runs.rounds.append(_runs(ground, ["--pull", "never", image.image, COMMAND], store))
            _copy(ground, image, tree)
            tree_runs.rounds.append(_runs(ground, [tree, "--", COMMAND], store))
        finally:
            ground.remove(store, tree)
    sides = {}
    for name, figures in (("image just unpacked", image_runs), ("directory just copied", tree_runs)):
        for at, word in ((FIRST, "1st"), (1, "2nd"), (TENTH, f"{STARTS}th")):
            values = sorted(runs[at] for runs in figures.rounds)
            sides[f"fastctr run, {name}, {word} start"] = {
                "n": len(values), **{f"p{share}": percentile(values, share / 100) for share in (50, 95, 99)}}
    first = [statistics.median(runs[FIRST] / runs[TENTH] for runs in figures.rounds)
             for figures in (image_runs, tree_runs)]
    return {"sides": sides, "ratios": {
        "image, 1st / 10th": first[0], "directory, 1st / 10th": first[1],
        "1st / 10th, image / directory": first[0] / first[1],
        "fastctr run, image / directory, both 10th": statistics.median(
            a[TENTH] / b[TENTH] for a, b in zip(image_runs.rounds, tree_runs.rounds, strict=True))}}


def _runs(ground: Ground, words: list[str], store: str) -> list[float]:
    return [ground.timed([[*cli_command(), "run", *words]], FASTCTR_ROOT=store).seconds * 1e6 for _ in range(STARTS)]


# ---- memory ---------------------------------------------------------------------------------


def meminfo() -> dict[str, int]:
    """The figures of /proc/meminfo that count here, in kB."""
    found = dict.fromkeys(KB, 0)
    with open("/proc/meminfo", encoding="ascii") as file:
        for line in file:
            name, _, value = line.partition(":")
            if name in found:
                found[name] = int(value.split()[0])
    return found


def settled(seconds: float) -> dict[str, int]:
    """Memory after a while; the median of some looks, for others use it too."""
    time.sleep(seconds)
    looks = []
    for _ in range(5):
        looks.append(meminfo())
        time.sleep(0.05)
    return {name: int(statistics.median(look[name] for look in looks)) for name in KB}


def _drop(path: str) -> None:
    """Have nothing of PATH in the page cache."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


def _resident(pids: list[int]) -> tuple[float, float]:
    """Resident and proportional kB of a process, the median of PIDS (smaps_rollup)."""
    rows = []
    for pid in pids:
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
            words = dict(line.split(":", 1) for line in file if ":" in line and " kB" in line)
        rows.append((int(words["Rss"].split()[0]), int(words["Pss"].split()[0])))
    return statistics.median(row[0] for row in rows), statistics.median(row[1] for row in rows)


def _written(pid: int) -> float:
    """kB in the writable layer of a container (statfs of an overlay is that of its upper)."""
    found = os.statvfs(f"/proc/{pid}/root")
    return (found.f_blocks - found.f_bfree) * found.f_frsize / 1024


def alive(ground: Ground, image: Material, count: int) -> dict[str, Any]:
    """COUNT containers of one image at once: what each takes, whether files are shared, what writing costs."""
    store = ground.path("store")
    _load(ground, image, store)
    side = _worker(ground, "alive", "images_worker", {"kind": "plan", "argv": [COMMAND], "image": image.image,
                                                      "root": store})
    settle = 0.3 + count / 1000
    try:
        side.go(10)     # the plan, its template, the pool
        before = settled(settle)
        side.ask(f"plain {count}")
        plain = settled(settle)
        side.ask("unplain")
        side.go(3)
        empty = settled(settle)
        side.ask(f"fill {count}")
        full = settled(settle)
        pids = [int(pid) for pid in side.ask("pids")]
        resident, share = _resident(pids[:50])
        unwritten = max(_written(pid) for pid in pids)
        big = next(path for name in os.listdir(ground.outside(f"{store}/layers/overlay"))
                   if os.path.exists(path := ground.outside(f"{store}/layers/overlay/{name}/diff{BIG}")))
        _drop(big)
        unread = side.ask("cache")[0]
        side.ask(f"read {BIG}")
        grown = (side.ask("cache")[0] - unread) / 1024
        copies = min(COPIES, count)
        side.ask(f"copy {BIG} {copies}")
        written = [_written(pid) / 1024 for pid in pids]
        side.ask("empty")
    finally:
        side.close()
        ground.remove(store)

    def each(name: str, after: dict[str, int], earlier: dict[str, int], number: int = count) -> float:
        return (after[name] - earlier[name]) / number

    kb = {f"{name}, kB for each container": each(name, full, empty) for name in KB if name != "MemAvailable"}
    return {"facts": {
        "containers": count,
        "memory, kB for each container (fall of MemAvailable)": -each("MemAvailable", full, empty),
        "memory, kB for each such process without a container": -each("MemAvailable", plain, before),
        **kb,
        "resident kB of the process inside": resident,
        "its share of that (Pss)": share,
        f"page cache charged to all of them, MB, for a file of {BIG_MB} MB that each has read": grown,
        "writable layer, kB, the largest before a write": unwritten,
        f"the same, MB, after it has written {BIG_MB} MB": max(written[:copies]),
        "the same, MB, of those that have not": max(written[copies:], default=0.0),
    }, "ratios": {
        "page cache growth / one copy": grown / BIG_MB,
        "writable layer before a write, kB": unwritten,
    }}
