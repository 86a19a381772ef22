"""Interleaved measurement: the sides run in turn, bare runs bracket every round, ratios pair by round."""
from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

from .peers import PeerFailed, Side

SETTLE = 0.02   # seconds between two sides: what the last one left to the kernel's workers goes first


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which SHARE (0 to 1) of VALUES lie, between neighbours in proportion."""
    ordered = sorted(values)
    at = share * (len(ordered) - 1)
    low = int(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)


class Figures:
    """What one side gave, round by round, in microseconds."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.rounds: list[list[float]] = []

    def all(self) -> list[float]:
        """Every start."""
        return [value for values in self.rounds for value in values]

    def medians(self) -> list[float]:
        """The p50 of each round."""
        return [statistics.median(values) for values in self.rounds]

    def summary(self) -> dict[str, float]:
        """n, p50, p95 and p99."""
        values = self.all()
        return {"n": len(values), "p50": percentile(values, 0.5), "p95": percentile(values, 0.95),
                "p99": percentile(values, 0.99)}


def ratio(one: Figures, other: Figures) -> float:
    """How many times as long ONE takes as OTHER: the median over the rounds of the ratio of their p50."""
    return statistics.median(a / b for a, b in zip(one.medians(), other.medians(), strict=True))


def calibrate(sides: Sequence[Side], budget: float, pause_ms: int, least: int, most: int) -> dict[str, int]:
    """Warm every side up; starts per round so that a side's turn takes about BUDGET seconds."""
    counts = {}
    for side in sides:
        side.go(3)
        took = statistics.median(side.go(3, pause_ms)) / 1e6 + pause_ms / 1000
        counts[side.name] = max(least, min(most, int(budget / took)))
    return counts


def interleave(sides: Sequence[Side], brackets: Sequence[Side], rounds: int, budget: float, pause_ms: int = 0,
               least: int = 3, most: int = 60, alike: bool = False) -> dict[str, Figures]:
    """Run SIDES in turn ROUNDS times, BRACKETS before and after each round (their two runs of a round
    are put together). SIDES may give a second column: it becomes the figures "NAME, exit seen".

    ALIKE is for sides that differ in one thing and whose ratio is near 1: all make the same number of
    starts (a pool serves the first of a burst sooner, so bursts of other lengths have other medians), and
    every other round runs them backwards."""
    counts = calibrate([*brackets, *sides], budget, pause_ms, least, most)
    if alike:
        same = min(counts[side.name] for side in sides)
        counts.update({side.name: same for side in sides})
    figures: dict[str, Figures] = {}

    def keep(name: str, values: list[float], join: bool = False) -> None:
        one = figures.setdefault(name, Figures(name))
        if join:
            one.rounds[-1].extend(values)
        else:
            one.rounds.append(values)

    for turn in range(rounds):
        for side in brackets:
            keep(side.name, side.go(counts[side.name], pause_ms))
        for side in reversed(sides) if alike and turn % 2 else sides:
            time.sleep(SETTLE)
            keep(side.name, side.go(counts[side.name], pause_ms))
            if side.second:
                keep(f"{side.name}, exit seen", side.second)
        time.sleep(SETTLE)
        for side in brackets:
            keep(side.name, side.go(counts[side.name], pause_ms), join=True)
    return figures


def rates(sides: Sequence[Side], threads: int, seconds: float, rounds: int) -> dict[str, list[float]]:
    """Starts per second of each side with THREADS threads, in turn, ROUNDS times."""
    out: dict[str, list[float]] = {side.name: [] for side in sides}
    for _ in range(rounds):
        for side in sides:
            time.sleep(10 * SETTLE)
            out[side.name].append(side.rate(threads, seconds))
    return out


__all__ = ["Figures", "PeerFailed", "calibrate", "interleave", "percentile", "rates", "ratio"]
