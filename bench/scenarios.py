"""What is measured: each scenario returns its sides' figures and the ratios the bars are held against."""
from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from . import syscalls
from .measure import Figures, interleave, percentile, rates, ratio
from .peers import THREADS, Side, Stage, import_command

TINY, BUSYBOX = "bare tiny", "bare busybox"


class Scale:
    """How much is done: the full run, or a smoke run of seconds."""

    def __init__(self, smoke: bool) -> None:
        self.rounds = 2 if smoke else 20
        self.budget = 0.04 if smoke else 0.15       # seconds of one side's turn
        self.quiet_rounds = 1 if smoke else 12
        self.quiet_starts = 2 if smoke else 5
        self.resident_mb = 256 if smoke else 2048
        self.mounts = 100 if smoke else 1000
        self.at_once = 50 if smoke else 2000
        self.rate_seconds = 0.3 if smoke else 3.0
        self.rate_rounds = 1 if smoke else 3


class Bench:
    """One run of the benchmarks: the stage, the scale and whether fastctr is there."""

    def __init__(self, stage: Stage, smoke: bool, fastctr: bool) -> None:
        self.stage, self.fastctr = stage, fastctr
        self.scale = Scale(smoke)

    def brackets(self) -> list[Side]:
        """The bare sides that run before and after each round."""
        return [self.stage.bare("tiny"), self.stage.bare("busybox")]

    def sides(self, *sides: Side | None) -> list[Side]:
        """Those of SIDES that are installed."""
        return [side for side in sides if side is not None]

    def fast(self, make: Callable[..., Side], *args: Any, **named: Any) -> Side | None:
        """A side of fastctr's, or None where fastctr is not built."""
        return make(*args, **named) if self.fastctr else None

    def run(self, sides: Sequence[Side], **named: Any) -> dict[str, Figures]:
        """Interleave SIDES between bare runs, then end their workers."""
        brackets = self.brackets()
        try:
            return interleave(sides, brackets, named.pop("rounds", self.scale.rounds), self.scale.budget,
                              **named)
        finally:
            for side in (*sides, *brackets):
                side.close()


def table(figures: dict[str, Figures]) -> dict[str, dict[str, float]]:
    """Each side's summary, with its multiples of the bare runs of the same rounds."""
    out = {}
    for name, one in figures.items():
        out[name] = one.summary()
        for bare in (TINY, BUSYBOX):
            if bare in figures:
                out[name][f"x {bare}"] = ratio(one, figures[bare])
    return out


def ratios(figures: dict[str, Figures], *pairs: tuple[str, str]) -> dict[str, float]:
    """"A / B" for each pair both sides of which were measured."""
    return {f"{a} / {b}": ratio(figures[a], figures[b]) for a, b in pairs if a in figures and b in figures}


def busy(bench: Bench) -> dict[str, Any]:
    """Starts one after another, without a pause."""
    stage = bench.stage
    figures = bench.run(bench.sides(
        bench.fast(stage.plan), bench.fast(stage.plan, "fastctr tiny", "/bin/tiny"), stage.classic(),
        stage.runtime("crun"), stage.runtime("runc"), stage.bwrap(), stage.bwrap(True), stage.subprocess()))
    return {"sides": table(figures), "ratios": ratios(
        figures, ("crun run", "fastctr"), ("runc run", "fastctr"), ("bwrap", "fastctr"),
        ("classic", "fastctr"), ("subprocess.run", "fastctr"), ("fastctr", "classic"), ("fastctr", BUSYBOX),
        ("fastctr tiny", TINY))}


def quiet(bench: Bench) -> dict[str, Any]:
    """Each start after 100 ms of quiet, beside the same side's busy starts of the same round."""
    stage, scale = bench.stage, bench.scale
    sides = bench.sides(stage.bare("busybox"), bench.fast(stage.plan), stage.classic(), stage.runtime("crun"),
                        stage.bwrap(), stage.runtime("runc"))
    figures: dict[str, Figures] = {}
    try:
        for side in sides:
            side.go(3)
            figures[side.name] = Figures(side.name)
            figures[f"{side.name}, after quiet"] = Figures(side.name)
        for _ in range(scale.quiet_rounds):
            for side in sides:
                figures[side.name].rounds.append(side.go(4 * scale.quiet_starts))
                figures[f"{side.name}, after quiet"].rounds.append(side.go(scale.quiet_starts, 100))
    finally:
        for side in sides:
            side.close()
    # The quiet figure of the issue is a p50 over all starts: rounds are too short for one each.
    out = {f"{side.name}, quiet / busy": statistics.median(figures[f"{side.name}, after quiet"].all())
           / statistics.median(figures[side.name].all()) for side in sides}
    out.update({f"{side.name} / fastctr, both after quiet":
                statistics.median(figures[f"{side.name}, after quiet"].all())
                / statistics.median(figures["fastctr, after quiet"].all())
                for side in sides if bench.fastctr and side.name != "fastctr"})
    return {"sides": {name: one.summary() for name, one in figures.items()}, "ratios": out}


def resident(bench: Bench) -> dict[str, Any]:
    """The launching process has 20 MB resident, or 2 GB."""
    if not bench.fastctr:
        return {}
    big = bench.scale.resident_mb
    small, large = "fastctr, 20 MB resident", f"fastctr, {big} MB resident"
    # A worker has 13 MB of its own. The second small one is the control: its ratio shows the noise.
    again = f"{small}, again"
    figures = bench.run([bench.stage.plan(small, resident_mb=7), bench.stage.plan(large, resident_mb=big),
                         bench.stage.plan(again, resident_mb=7)], alike=True)
    return {"sides": table(figures), "ratios": {
        "large / small": ratio(figures[large], figures[small]),
        "small again / small (1 but for noise)": ratio(figures[again], figures[small])}}


def mounts(bench: Bench) -> dict[str, Any]:
    """The host has 1,000 more mounts (in the worker's private mount namespace), or not."""
    number = bench.scale.mounts
    more = f"{number:,} more mounts"
    stage = bench.stage
    figures = bench.run(bench.sides(
        bench.fast(stage.plan, "fastctr", mounts=0),
        bench.fast(stage.plan, f"fastctr, {more}", mounts=number),
        stage.runtime("crun"), stage.runtime("crun", number)), alike=True)
    out = {}
    for name in ("fastctr", "crun run"):
        if name in figures:
            out[f"{name}, more mounts / none"] = ratio(figures[f"{name}, {more}"], figures[name])
    return {"sides": table(figures), "ratios": out}


def at_once(bench: Bench) -> dict[str, Any]:
    """Start one more container while 2,000 are running, and while none is (before and after)."""
    if not bench.fastctr:
        return {}
    number = bench.scale.at_once
    side = bench.stage.plan()
    alone, beside = Figures("alone"), Figures("beside")
    try:
        side.go(5)
        alone.rounds.append(side.go(60))
        starts = side.ask(f"fill {number - 1}")
        side.go(3)
        beside.rounds.append(side.go(120))
        side.ask("empty")
        time.sleep(number / 500)    # thousands of namespaces go; what comes next is not to pay for that
        side.go(3)
        alone.rounds.append(side.go(60))
    finally:
        side.close()
    few = max(5, number // 40)
    first, last = Figures("first"), Figures("last")
    first.rounds.append(starts[:few])
    last.rounds.append(starts[-few:])
    return {
        "sides": {"fastctr, none running": alone.summary(),
                  f"fastctr, {number - 1:,} running": beside.summary(),
                  f"Container(), the first {few}": first.summary(),
                  f"Container(), the last {few} of {number - 1:,}": last.summary()},
        "ratios": {"many running / none": statistics.median(beside.all()) / statistics.median(alone.all()),
                   "Container(), last / first": ratio(last, first)},
    }


def threads(bench: Bench) -> dict[str, Any]:
    """Containers per second from 8 threads. crun's are C threads, which favours it."""
    stage, scale = bench.stage, bench.scale
    sides = bench.sides(bench.fast(stage.plan), stage.runtime("crun"), stage.runtime("runc"),
                        stage.bare("busybox"))
    try:
        for side in sides:
            side.go(3)
        found = rates(sides, THREADS, scale.rate_seconds, scale.rate_rounds)
    finally:
        for side in sides:
            side.close()
    middle = {name: statistics.median(values) for name, values in found.items()}
    out = {f"fastctr / {name}": middle["fastctr"] / value for name, value in middle.items()
           if "fastctr" in middle and name != "fastctr"}
    return {"rates": middle, "ratios": out}


def commands(bench: Bench) -> dict[str, Any]:
    """Whole commands: an interpreter that does nothing, one that imports fastctr, and `fastctr run`.

    fastctr's names are imported when first used, so `import fastctr` alone shows little of the cost: what
    a program pays that then uses `run`, `Plan` and `Container` is measured beside it."""
    stage = bench.stage
    plain = stage.program("python3 -c pass", [sys.executable, "-I", "-c", "pass"])
    figures = bench.run(bench.sides(
        plain, bench.fast(stage.program, "import fastctr", import_command()),
        bench.fast(stage.program, "import fastctr, names used",
                   import_command("fastctr.run, fastctr.Plan, fastctr.Container")), bench.fast(stage.cli),
        stage.runtime("crun"), stage.runtime("runc")))
    out = {}
    for name in ("import fastctr", "import fastctr, names used", "fastctr run"):
        if name in figures:
            out[f"{name} - python3 -c pass, ms"] = statistics.median(
                (a - b) / 1000 for a, b in zip(figures[name].medians(), figures[plain.name].medians(),
                                               strict=True))
    return {"sides": table(figures), "ratios": out}


def cold(bench: Bench) -> dict[str, Any]:
    """A plan made and used once, beside one that is used again."""
    if not bench.fastctr:
        return {}
    stage = bench.stage
    figures = bench.run([stage.plan(), stage.cold()], alike=True)
    return {"sides": table(figures), "ratios": ratios(figures, ("fastctr, fresh plan", "fastctr"))}


def first_instruction(bench: Bench) -> dict[str, Any]:
    """From the call of plan.run to the first instruction of a tiny binary inside."""
    if not bench.fastctr:
        return {}
    side = bench.stage.plan()
    try:
        side.go(5)
        values = side.ask(f"first {bench.scale.rounds * 10}")
    finally:
        side.close()
    ordered = sorted(values)
    return {"sides": {"fastctr, call to first instruction": {
        "n": len(values), "p50": percentile(ordered, 0.5), "p95": percentile(ordered, 0.95),
        "p99": percentile(ordered, 0.99)}}, "ratios": {}}


def system_calls(bench: Bench) -> dict[str, Any]:
    """System calls of one start."""
    return {"calls": syscalls.count(bench.stage, bench.fastctr)}


SCENARIOS: dict[str, Callable[[Bench], dict[str, Any]]] = {
    "busy": busy, "quiet": quiet, "resident": resident, "mounts": mounts, "at_once": at_once,
    "threads": threads, "commands": commands, "cold": cold, "first": first_instruction,
    "syscalls": system_calls,
}
