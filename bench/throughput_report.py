"""The throughput benchmarks as text; report.py puts them into the page."""
from __future__ import annotations

from typing import Any

from .bars import Bar
from .dask import BASE, ONE, TOGETHER, USUAL
from .report import bars as bars_table
from .report import below, number, pairs, starts, table

CAVEATS = (
    ("A **warm** start finds a prepared container whose process is asleep before its exec. A turn of 8 takes half of "
     "what the pool holds (16), and before the next turn the pool is full again, which is not in these figures: what "
     "that costs is in the sustained rates, where all of it is counted."),
    ("To the first instruction: a tiny binary prints the clock as the first thing it does, into a pipe on both sides. "
     "Bare is counted from its vfork in a C program, its pipe made before; `pool.run` from the call in Python, so with "
     "Python's own part and the making of its pipes. \"Core's start\" is counted from the entry into the C core "
     "(`timings=True`), and to the exec as the core sees it, not to the binary's own word: it is no bar's figure."),
    ("\"Its exit seen (at most)\" is the whole call but for the reading of usage figures; what Python does after that "
     "is in it, for it cannot be told apart from outside."),
    ("Sustained: two threads start one job after another, in Python for fastctr's sides, in C for bare and crun; "
     "dockerd is asked over its API by two threads, and no client's process is started. Each run is held against the "
     "two bare runs around it. Peers run for seconds, not for all the jobs."),
    ("dockerd is asked for the same limits, no network, no_new_privs and no log; its data is on a tmpfs, and it lives "
     "in namespaces of its own. podman is asked for the same, with crun, its data on this machine's disk."),
    ("Slots and Resident share more between jobs than containers of their own do: the table says what. They are no "
     "replacement where jobs do not trust each other."),
    ("The cold interpreter of the numpy job finds its files in the page cache, compiled: it is as fast as it gets. The "
     "zygote's containers have this machine's own root, where its Python is; the other sides' root is a busybox's."),
    ("The Dask bar is held with DaskExecutor as it is by default, which sends short commands together; a process is "
     "always a task. The line below it is of as many tasks on both sides."),
    "Memory for each container is by the machine's own figures (/proc/meminfo), with the process inside.",
    ("The batch runner and Pool.map both capture the jobs' output, with two workers. The runner's memory is that of a "
     "command that reads and checks every line and runs none."),
    "bwrap sets no limits, and has no writable layer of its own; it and crun find their overlay mounted.",
)

SETUP_HEAD = ("for each job", "Pool: full containers", "Slots", "Resident", "Zygote", "crun, runc", "docker, podman")
SETUP = (
    ("mount, ipc, uts, cgroup namespaces", "new", "the slot's", "the container's", "new", "new", "new"),
    ("pid namespace", "new", "new", "the container's", "new", "new", "new"),
    ("net namespace", "its own, from a pool", "the slot's", "the container's", "its own", "new", "new"),
    ("writable files", "a layer of its own", "the slot's, reset and looked at between jobs", "the container's, kept",
     "a layer of its own", "one overlay for all, mounted beforehand", "a layer of its own"),
    ("control groups with limits", "its own", "the slot's", "the container's", "its own", "new", "new"),
    ("capabilities, no_new_privs, seccomp", "yes", "yes", "yes", "yes", "yes", "yes"),
    ("user namespace", "as the plan says", "as the plan says", "as the plan says", "yes, of the zygote's", "no", "no"),
    ("what is there before the job", "the container, its process asleep", "the slot", "the container",
     "the container, an interpreter with its modules", "the overlay", "the image; a daemon (docker)"),
    ("memory shared with other jobs", "the launcher's, until the exec", "the same", "the same",
     "the zygote's, copied when written to", "no", "no"),
    ("usage figures are the job's alone", "yes", "yes", "its processor time, no more", "yes", "not read", "not read"),
    ("meant for", "anything", "jobs of one tenant", "jobs of one program", "Python that is slow to import", "–", "–"),
)

TITLES = {
    "warm": "Warm starts",
    "sustained_busybox": "Sustained, busybox's true",
    "sustained_tiny": "Sustained, the tiny binary",
    "numpy": "A Python job with numpy",
    "alive": "Many containers alive at once",
    "batch": "The batch runner",
    "dask": "A Dask cluster on this machine",
    "concurrency": "Rate against concurrency",
    "latency": "Latency of single starts",
}


def _sustained_bars() -> list[Bar]:
    bars = []
    for binary, word in (("busybox", "busybox's true"), ("tiny", "the tiny binary")):
        for side, limit in (("Pool", 0.2), ("Slots", 0.5), ("Resident", 0.75)):
            bars.append(Bar(f"{side}, sustained, {word}: share of the bare rate", f"sustained_{binary}",
                            f"{side} / bare {binary}", True, limit))
    bars += [Bar(f"{side}, sustained: rate of the last part of the jobs, times the first's", "sustained_busybox",
                 f"{side}, last part / first", True, 0.9) for side in ("Pool", "Slots", "Resident")]
    return bars


BARS = (
    Bar("pool.run, warm, call to the first instruction: times bare vfork and exec", "warm",
        "first instruction, pool.run / bare", False, 0.8),
    Bar("pool.run, warm, call to its exit seen: times bare", "warm", "exit seen, pool.run / bare", False, 1.1),
    Bar("pool.run, warm, in all, tiny binary: times bare", "warm", "pool.run tiny / bare tiny", False, 2.5),
    Bar("pool.run, warm: times faster than crun run", "warm", "crun run / pool.run", True, 12),
    *_sustained_bars(),
    Bar("Pool, sustained: times crun's rate", "sustained_busybox", "Pool / crun run", True, 15),
    Bar("Pool, sustained: times dockerd's rate", "sustained_busybox", "Pool / dockerd", True, 100),
    Bar("numpy job by a zygote: times faster than a cold interpreter", "numpy",
        "python3, import numpy / Zygote, forked when called", True, 50),
    Bar("the same, parked", "numpy", "python3, import numpy / Zygote, parked", True, 150),
    Bar("memory of each container alive, MB", "alive", "memory for each, MB", False, 1),
    Bar("one more beside them, times the first", "alive", "one more / the first", False, 1.3),
    Bar("batch runner, times Pool.map's time", "batch", "batch / Pool.map, time", False, 1.1),
    Bar("batch runner's memory with a long job file, times a short one's", "batch",
        "resident memory, many lines / few", False, 1.25),
    Bar(f"Dask: containers, up to {TOGETHER} a task (the default): share of the rate of processes, one a task", "dask",
        f"{USUAL} / {BASE}", True, 0.8),
    Bar("the same, but each container a task of its own", "dask", f"{ONE} / {BASE}", True, 0.8),
)


def scenario(name: str, found: dict[str, Any]) -> str:
    """One scenario's tables."""
    parts = [f"### {TITLES.get(name, name)}"]
    if found.get("note"):
        parts.append(found["note"])
    sides = found.get("sides") or {}
    if sides:
        parts.append(starts("µs", sides))
    if found.get("rates"):
        parts.append(pairs("side", "per second", found["rates"]))
    if found.get("parts"):
        parts.append(_parts(found))
    if found.get("curves"):
        threads = [str(int(point[0])) for point in next(iter(found["curves"].values()))]
        parts.append(table(("per second, with so many threads", *threads), [
            (side, *(number(point[1]) for point in points)) for side, points in found["curves"].items()]))
    if found.get("facts"):
        parts.append(pairs("what", "", found["facts"]))
    if found.get("ratios"):
        parts.append(pairs("ratio", "", found["ratios"]))
    return "\n\n".join(parts)


def _parts(found: dict[str, Any]) -> str:
    """The rate of each part of a sustained run: the first, the last, and some between."""
    last = len(next(iter(found["parts"].values()))) - 1
    shown = sorted({0, last, *(round(last * share) for share in (0.25, 0.5, 0.75))})
    head = [f"per second, of {found['jobs']:,} jobs"]
    head += [f"{at * found['step'] + 1:,} to {(at + 1) * found['step']:,}" for at in shown]
    return table((*head, "least", "most"), [
        (side, *(number(rates[at]) for at in shown), number(min(rates)), number(max(rates)))
        for side, rates in found["parts"].items()])


def opening(results: dict[str, Any]) -> str:
    """The caveats, the machine, and what each side sets up."""
    parts = ["# Thousands of jobs", "## Caveats first", "\n".join(f"- {line}" for line in CAVEATS)]
    if results["smoke"]:
        parts.append("**This was a smoke run: few jobs. Its figures show that the benchmarks work, no more.**")
    parts += ["## The machine", "\n".join(f"- {key}: {value}" for key, value in results["machine"].items()),
              "## What each side sets up for a job", table(SETUP_HEAD, SETUP)]
    return "\n\n".join(parts)


def markdown(results: dict[str, Any], plots: bool = False) -> str:
    """The part of the page about many jobs, a level below its title; PLOTS: they are beside the page."""
    parts = [opening(results), "## The bars", bars_table(results)]
    if results["notes"]:
        parts.append("\n".join(f"- {note}" for note in results["notes"]))
    parts.append("## Figures")
    for name, found in results["scenarios"].items():
        parts.append(scenario(name, found))
        if plots and name == "latency" and found.get("quantiles"):
            parts.append("![How many of its starts each side has done within a time](latency.svg)")
        if plots and name == "concurrency" and found.get("curves"):
            parts.append("![Jobs per second against the threads that start them](rate.svg)")
    return below(parts, "comments_throughput.md")
