"""What is measured of many jobs: each scenario gives figures, and the ratios the bars are held against."""
from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from .dask import BASE
from .images_starts import KB, settled
from .measure import SETTLE, Figures, interleave, percentile, ratio
from .peers import PeerFailed, Side
from .scenarios import BUSYBOX, TINY, ratios, table
from .throughput_sides import POOL, THREADS, ManyStage, missing
from .throughput_worker import job_file

LAUNCHERS = 2   # threads of the sustained runs
TURN = 8        # warm starts of one turn: half of what the pool holds
QUANTILES = 200
LINES, FEW_LINES = 100_000, 1_000


class Scale:
    """How much is done: the full run, or a smoke run of seconds."""

    def __init__(self, smoke: bool) -> None:
        self.rounds = 2 if smoke else 60            # of warm turns
        self.other_rounds = 1 if smoke else 12      # of numpy, latency
        self.budget = 0.04 if smoke else 0.3        # seconds of one side's turn
        self.jobs = 200 if smoke else 20_000
        self.steps = 4 if smoke else 20             # parts of them that are told apart
        self.job_rounds = 1 if smoke else 2
        self.peer_seconds = 0.3 if smoke else 4.0
        self.alive = 50 if smoke else 1000
        self.batch = 100 if smoke else 4000
        self.batch_rounds = 1 if smoke else 3
        self.lines = 5_000 if smoke else LINES
        self.dask = 100 if smoke else 10_000        # tasks of each side
        self.dask_turns = 1 if smoke else 5
        self.threads = (1, 4) if smoke else THREADS
        self.rate_seconds = 0.15 if smoke else 2.0


class Many:
    """One run of these benchmarks: its stage, its scale, and what has to be said."""

    def __init__(self, stage: ManyStage, smoke: bool) -> None:
        self.stage, self.scale = stage, Scale(smoke)
        self.said: list[str] = []

    def there(self, *sides: Side | None) -> list[Side]:
        """Those of SIDES that are installed and start; a peer that does not has a note."""
        out = []
        for side in sides:
            if side is None:
                continue
            if side.name in ("dockerd", "podman run"):
                try:
                    side.go(1)
                except PeerFailed as error:
                    side.close()
                    self.said.append(f"Not measured: {error}")
                    continue
            out.append(side)
        return out

    def lacks(self, *kinds: str) -> str:
        """A note about the sides of fastctr that cannot be measured, or an empty string."""
        gone = [f"{kind} ({name} is not there)" for kind in kinds if (name := missing(kind))]
        return f"Not measured: {', '.join(gone)}." if gone else ""


def _close(sides: Sequence[Side]) -> None:
    for side in sides:
        side.close()


# ---- warm -----------------------------------------------------------------------------------

FIRST = "pool.run, to the first instruction"
EXIT = "pool.run, to its exit seen (at most)"
ALL = "pool.run, until it returns"
CORE_FIRST = "core's start, to the exec"
CORE_EXIT = "core's start, to its exit seen"
BARE_FIRST, BARE_EXIT = "bare tiny, vfork to the first instruction", "bare tiny, vfork to its exit seen"


def warm(many: Many) -> dict[str, Any]:
    """Starts of prepared containers: fewer in a turn than the pool holds, which is full again before the next."""
    if missing("pool"):
        return {"note": many.lacks("pool")}
    stage = many.stage
    ours = stage.ours("pool", "pool")
    bare = stage.program("bare tiny", [f"{stage.rootfs}/bin/tiny", "now"])
    assert ours
    names = (FIRST, EXIT, ALL, CORE_FIRST, CORE_EXIT)
    figures = {name: Figures(name) for name in (BARE_FIRST, BARE_EXIT, *names)}

    def keep(columns: Sequence[str], rows: list[list[float]]) -> None:
        for name, values in zip(columns, zip(*rows, strict=True), strict=True):
            figures[name].rounds.append(list(values))

    try:
        ours.rows(f"first {TURN}")
        for _ in range(many.scale.rounds):
            before = bare.rows(f"first {TURN}")
            time.sleep(SETTLE)
            keep(names, ours.rows(f"first {TURN}"))
            time.sleep(SETTLE)
            keep((BARE_FIRST, BARE_EXIT), before + bare.rows(f"first {TURN}"))
    finally:
        _close((ours, bare))
    out = {"first instruction, pool.run / bare": ratio(figures[FIRST], figures[BARE_FIRST]),
           "first instruction, core's start to the exec / bare": ratio(figures[CORE_FIRST], figures[BARE_FIRST]),
           "exit seen, pool.run / bare": ratio(figures[EXIT], figures[BARE_EXIT]),
           "exit seen, core's start / bare": ratio(figures[CORE_EXIT], figures[BARE_EXIT])}
    whole = _warm_whole(many)
    out.update(ratios(whole, ("pool.run tiny", TINY), ("pool.run", BUSYBOX), ("crun run", "pool.run")))
    return {"sides": {**{name: one.summary() for name, one in figures.items()}, **table(whole)}, "ratios": out}


def _warm_whole(many: Many) -> dict[str, Figures]:
    stage = many.stage
    sides = many.there(stage.ours("pool.run tiny", "pool", "/bin/tiny", warm=True),
                       stage.ours("pool.run", "pool", warm=True), stage.runtime("crun"))
    brackets = [stage.bare("tiny"), stage.bare("busybox")]
    try:
        return interleave(sides, brackets, many.scale.rounds, many.scale.budget / 4, most=TURN)
    finally:
        _close((*sides, *brackets))


# ---- sustained ------------------------------------------------------------------------------


def sustained(many: Many, binary: str) -> dict[str, Any]:
    """Many jobs of BINARY by two launcher threads, each run between two of bare processes."""
    stage, scale = many.stage, many.scale
    command = "/bin/true" if binary == "busybox" else f"/bin/{binary}"
    step = scale.jobs // scale.steps
    bare = stage.bare(binary)
    ours = many.there(stage.ours("Pool", "pool", command), stage.ours("Slots", "slots", command, size=LAUNCHERS),
                      stage.ours("Resident", "resident", command))
    peers = many.there(stage.runtime("crun"), stage.docker()) if binary == "busybox" else []
    found: dict[str, list[float]] = {bare.name: []}
    shares: dict[str, list[float]] = {}
    steps: dict[str, list[list[float]]] = {}

    def bracket() -> float:
        time.sleep(SETTLE)
        rate = scale.jobs / 4 / bare.ask(f"jobs {LAUNCHERS} {scale.jobs // 4} {scale.jobs // 4}")[-1]
        time.sleep(SETTLE)
        found[bare.name].append(rate)
        return rate

    try:
        for side in (bare, *ours, *peers):
            side.rate(LAUNCHERS, 0.05)
        for _ in range(scale.job_rounds):
            before = bracket()
            for side in (*ours, *peers):
                if side in peers:
                    rate = side.rate(LAUNCHERS, scale.peer_seconds)
                else:
                    stamps = [0.0, *side.ask(f"jobs {LAUNCHERS} {scale.jobs} {step}")]
                    steps.setdefault(side.name, []).append(
                        [step / (end - begin) for begin, end in itertools.pairwise(stamps)])
                    rate = scale.jobs / stamps[-1]
                after = bracket()
                found.setdefault(side.name, []).append(rate)
                shares.setdefault(side.name, []).append(rate / statistics.mean((before, after)))
                before = after
    finally:
        _close((bare, *ours, *peers))
    out = {f"{name} / {bare.name}": statistics.median(values) for name, values in shares.items()}
    for peer in peers:
        out.update({f"{side.name} / {peer.name}": statistics.median(
            a / b for a, b in zip(found[side.name], found[peer.name], strict=True)) for side in ours})
    parts = {name: [statistics.mean(rates) for rates in zip(*rounds, strict=True)] for name, rounds in steps.items()}
    out.update({f"{name}, last part / first": rates[-1] / rates[0] for name, rates in parts.items()})
    return {"rates": {name: statistics.median(values) for name, values in found.items()}, "parts": parts,
            "step": step, "jobs": scale.jobs, "ratios": out, "note": many.lacks("pool", "slots", "resident")}


# ---- numpy ----------------------------------------------------------------------------------

COLD = "python3, import numpy"


def numpy(many: Many) -> dict[str, Any]:
    """A job that needs numpy: by a zygote in a container of its own, and by an interpreter without one."""
    stage = many.stage
    if missing("zygote"):
        return {"note": many.lacks("zygote")}
    sides = many.there(stage.ours("Zygote, forked when called", "zygote", size=0),
                       stage.ours("Zygote, parked", "zygote", size=TURN, warm=True), stage.cold_numpy())
    brackets = [stage.bare("busybox")]
    try:
        figures = interleave(sides, brackets, many.scale.other_rounds, many.scale.budget, most=TURN)
    finally:
        _close((*sides, *brackets))
    return {"sides": table(figures), "ratios": ratios(figures, (COLD, "Zygote, forked when called"),
                                                      (COLD, "Zygote, parked"))}


# ---- alive ----------------------------------------------------------------------------------


def alive(many: Many) -> dict[str, Any]:
    """Many containers at once: what memory each takes, and what one more start takes."""
    if missing("pool"):
        return {"note": many.lacks("pool")}
    count = many.scale.alive
    side = many.stage.ours("pool", "pool", warm=True)
    assert side
    alone, beside = Figures("alone"), Figures("beside")
    rest = 0.3 + count / 1000
    try:
        for _ in range(5):
            side.go(TURN)
        alone.rounds.append([us for _ in range(10) for us in side.go(TURN)])
        before = settled(rest)
        side.ask(f"fill {count}")
        full = settled(rest)
        group_kb = side.ask("kernel")[0]
        side.go(TURN)
        beside.rounds.append([us for _ in range(20) for us in side.go(TURN)])
        side.ask("empty")
        time.sleep(count / 500)
        side.go(TURN)
        alone.rounds.append([us for _ in range(10) for us in side.go(TURN)])
    finally:
        side.close()
    each = {name: (full[name] - before[name]) / count for name in KB}
    return {
        "sides": {"pool.run, none alive": alone.summary(), f"pool.run, {count:,} alive": beside.summary()},
        "facts": {"containers": count,
                  "memory, kB for each container and its process (fall of MemAvailable)": -each.pop("MemAvailable"),
                  "kernel memory charged to its group, kB": group_kb,
                  **{f"{name}, kB for each": value for name, value in each.items()}},
        "ratios": {"memory for each, MB": (before["MemAvailable"] - full["MemAvailable"]) / count / 1024,
                   "one more / the first": statistics.median(beside.all()) / statistics.median(alone.all())}}


# ---- batch and Dask -------------------------------------------------------------------------


def batch(many: Many) -> dict[str, Any]:
    """The batch runner beside Pool.map of the same jobs, and its memory with a long file."""
    if missing("batch"):
        return {"note": many.lacks("batch")}
    stage, scale = many.stage, many.scale
    side = stage.ours("batch", "batch")
    assert side
    took: dict[str, list[float]] = {"batch": [], "Pool.map": []}
    cost = []
    try:
        side.ask(f"map 20 {LAUNCHERS}")
        side.rows(f"batch 20 {LAUNCHERS}")
        before = side.ask(f"map {scale.batch} {LAUNCHERS}")[0]
        for _ in range(scale.batch_rounds):
            took["Pool.map"].append(before)
            seconds, peak_mb = side.rows(f"batch {scale.batch} {LAUNCHERS}")[0]
            took["batch"].append(seconds)
            after = side.ask(f"map {scale.batch} {LAUNCHERS}")[0]
            cost.append(took["batch"][-1] / statistics.mean((before, after)))
            before = after
        took["Pool.map"].append(before)
    finally:
        side.close()
    resident = {lines: _checked(stage, lines) for lines in (FEW_LINES, scale.lines)}
    return {"rates": {name: scale.batch / statistics.median(values) for name, values in took.items()},
            "facts": {"jobs": scale.batch, "MB resident at most of the process that ran them": peak_mb,
                      **{f"`fastctr batch --dry-run` of {lines:,} lines, MB resident at most": mb
                         for lines, mb in resident.items()}},
            "ratios": {"batch / Pool.map, time": statistics.median(cost),
                       "resident memory, many lines / few": resident[scale.lines] / resident[FEW_LINES]}}


def _checked(stage: ManyStage, lines: int) -> float:
    """MB of `fastctr batch` that reads and checks so many lines."""
    with tempfile.NamedTemporaryFile(prefix="fctr-bench-jobs-", suffix=".jsonl") as file:
        job_file(file.name, lines, ["/bin/true"])
        resident, code = stage.batch_command(file.name, "--dry-run")
    if code != 0:
        raise PeerFailed(f"fastctr batch --dry-run of {lines} lines: exit code {code}")
    return resident


def dask(many: Many) -> dict[str, Any]:
    """Containers as tasks of a Dask cluster, beside tasks that start a process: see dask.py."""
    if missing("dask"):
        return {"note": many.lacks("dask")}
    scale = many.scale
    sides = many.stage.dask(scale.dask, scale.dask_turns)
    return {"rates": {name: statistics.median(side["rates"]) for name, side in sides.items()},
            "facts": {"tasks of each side": scale.dask},
            "ratios": {f"{name} / {BASE}": side["ratio"] for name, side in sides.items() if name != BASE}}


# ---- for the plots --------------------------------------------------------------------------


def _everyone(many: Many, pools: Sequence[Side | None]) -> list[Side]:
    stage, most = many.stage, max(THREADS)
    return many.there(stage.bare("busybox"), *pools, stage.ours("Slots", "slots", size=most),
                      stage.ours("Resident", "resident"), stage.runtime("crun", threads=most),
                      stage.runtime("runc", threads=most), stage.bwrap(), stage.podman(), stage.docker())


def concurrency(many: Many) -> dict[str, Any]:
    """Rate against the number of threads that start jobs."""
    scale = many.scale
    sides = _everyone(many, [many.stage.ours("Pool", "pool")])
    curves: dict[str, list[list[float]]] = {side.name: [] for side in sides}
    try:
        for side in sides:
            side.rate(1, 0.05)
        for threads in scale.threads:
            for side in sides:
                time.sleep(5 * SETTLE)
                curves[side.name].append([threads, side.rate(threads, scale.rate_seconds)])
    finally:
        _close(sides)
    return {"curves": curves, "note": many.lacks("pool", "slots", "resident")}


def latency(many: Many) -> dict[str, Any]:
    """How long single starts take, one after another: the whole distribution of each side."""
    stage = many.stage
    sides = _everyone(many, [stage.ours("Pool, ready", "pool", warm=True), stage.ours("Pool", "pool")])
    few = [side for side in sides if side.name == "Pool, ready"]
    figures: dict[str, Figures] = {side.name: Figures(side.name) for side in sides}
    counts = {}
    try:
        for side in sides:
            side.go(1)
            took = statistics.median(side.go(2)) / 1e6
            counts[side.name] = max(2, min(TURN if side in few else 200, int(many.scale.budget / took)))
        for _ in range(many.scale.other_rounds):
            for side in sides:
                time.sleep(SETTLE)
                figures[side.name].rounds.append(side.go(counts[side.name]))
    finally:
        _close(sides)
    return {"sides": {name: one.summary() for name, one in figures.items()}, "quantiles": {
        name: [round(percentile(one.all(), at / QUANTILES), 1) for at in range(QUANTILES + 1)]
        for name, one in figures.items()}, "note": many.lacks("pool", "slots", "resident")}


Found = Iterator[tuple[str, dict[str, Any]]]


def _one(name: str, scenario: Callable[[Many], dict[str, Any]]) -> Callable[[Many], Found]:
    def run(many: Many) -> Found:
        yield name, scenario(many)

    return run


def _sustained(many: Many) -> Found:
    for binary in ("busybox", "tiny"):
        yield f"sustained_{binary}", sustained(many, binary)


def _curves(many: Many) -> Found:
    yield "concurrency", concurrency(many)
    yield "latency", latency(many)


SCENARIOS: dict[str, Callable[[Many], Found]] = {
    "warm": _one("warm", warm), "sustained": _sustained, "numpy": _one("numpy", numpy), "alive": _one("alive", alive),
    "batch": _one("batch", batch), "dask": _one("dask", dask), "concurrency": _curves,
}

__all__ = ["POOL", "SCENARIOS", "Many"]
