"""Plots of a throughput run: `python -m bench.plot THROUGHPUT.json DIRECTORY` writes latency.svg and rate.svg."""
from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 760, 430
LEFT, RIGHT, TOP, BOTTOM = 62, 190, 40, 52
SIZE = 12   # of the text
#: colours that can be told apart in print and by those who see few of them (Okabe and Ito's and some darker ones);
#: the peers are dashed besides. A side has the same in every plot
STYLES = {"bare busybox": ("#000000", ""), "Pool": ("#0072b2", ""), "Pool, ready": ("#56b4e9", ""),
          "Slots": ("#009e73", ""), "Resident": ("#e69f00", ""), "crun run": ("#d55e00", "7 3"),
          "runc run": ("#cc79a7", "7 3"), "bwrap": ("#666666", "7 3"), "podman run": ("#7f3f98", "2 3"),
          "dockerd": ("#8b4513", "2 3")}
OTHERS = (("#4b0082", "8 3 2 3"), ("#2f4f4f", "8 3 2 3"), ("#8b0000", "8 3 2 3"))

Points = Sequence[tuple[float, float]]


class Axis:
    """A logarithmic or linear axis from LOW to HIGH, over pixels from BEGIN to END."""

    def __init__(self, low: float, high: float, begin: float, end: float, log: bool) -> None:
        self.low, self.high, self.begin, self.end, self.log = low, high, begin, end, log

    def at(self, value: float) -> float:
        """Where VALUE is."""
        if self.log:
            share = math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.begin + min(share, 1.0) * (self.end - self.begin)

    def ticks(self) -> list[float]:
        """Powers of ten, or tenths of the way."""
        if not self.log:
            return [self.low + (self.high - self.low) * step / 5 for step in range(6)]
        first, last = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
        return [10.0**power for power in range(first, last + 1)]

    def between(self) -> list[float]:
        """Lines between the ticks."""
        if not self.log:
            return []
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        return [value for power in range(first, last) for digit in range(2, 10)
                if self.low <= (value := digit * 10.0**power) <= self.high]


def decades(values: Sequence[float]) -> tuple[float, float]:
    """The limits of a logarithmic axis for VALUES: 1, 2 or 5 times a power of ten, around all."""
    def near(value: float, up: bool) -> float:
        power = 10.0 ** math.floor(math.log10(value))
        steps = [power * digit for digit in (1, 2, 5, 10)]
        return next(step for step in steps if step >= value * 0.9999) if up else max(
            step for step in steps if step <= value * 1.0001)

    low, high = near(min(values), False), near(max(values), True)
    return (low, high) if high > low else (low, low * 10)


def _text(x: float, y: float, words: str, anchor: str = "middle", more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{more}>{escape(words)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, width: float = 1) -> str:
    return (f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" '
            f'stroke-width="{width:g}"/>')


def chart(title: str, x: Axis, y: Axis, x_words: str, y_words: str, x_ticks: Sequence[tuple[float, str]],
          y_ticks: Sequence[tuple[float, str]], lines: Mapping[str, Points], dots: bool) -> str:
    """A line chart with a legend beside it; DOTS: a mark at each point."""
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
             f'height="{HEIGHT}" font-family="sans-serif" font-size="{SIZE}" role="img">',
             f"<title>{escape(title)}</title>", f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
             _text(LEFT, TOP - 16, title, "start", ' font-weight="bold" font-size="14"')]
    parts += [_line(x.at(v), y.begin, x.at(v), y.end, "#f0f0f0") for v in x.between()]
    parts += [_line(x.begin, y.at(v), x.end, y.at(v), "#f0f0f0") for v in y.between()]
    for value, words in x_ticks:
        parts += [_line(x.at(value), y.begin, x.at(value), y.end, "#cccccc"),
                  _text(x.at(value), y.begin + 17, words)]
    for value, words in y_ticks:
        parts += [_line(x.begin, y.at(value), x.end, y.at(value), "#cccccc"),
                  _text(x.begin - 7, y.at(value) + 4, words, "end")]
    parts += [_line(x.begin, y.begin, x.end, y.begin, "#333333"), _line(x.begin, y.begin, x.begin, y.end, "#333333"),
              _text((x.begin + x.end) / 2, y.begin + 38, x_words),
              _text(0, 0, y_words, more=f' transform="translate(16 {(y.begin + y.end) / 2:.1f}) rotate(-90)"')]
    for (name, points), (colour, dash), row in zip(lines.items(), styles(list(lines)), range(len(lines)), strict=True):
        pattern = f' stroke-dasharray="{dash}"' if dash else ""
        path = " ".join(f"{x.at(a):.1f},{y.at(b):.1f}" for a, b in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"{pattern}/>')
        if dots:
            parts += [f'<circle cx="{x.at(a):.1f}" cy="{y.at(b):.1f}" r="3" fill="{colour}"/>' for a, b in points]
        at = TOP + 8 + row * 19
        parts.append(f'<polyline points="{x.end + 14},{at} {x.end + 40},{at}" fill="none" stroke="{colour}" '
                     f'stroke-width="2"{pattern}/>')
        parts.append(_text(x.end + 46, at + 4, name, "start"))
    return "\n".join([*parts, "</svg>"]) + "\n"


def styles(names: Sequence[str]) -> list[tuple[str, str]]:
    """Colour and dash pattern of each side."""
    other = iter(OTHERS * (len(names) // len(OTHERS) + 1))
    return [STYLES.get(name) or next(other) for name in names]


def _axes(x_values: Sequence[float], y_low: float, y_high: float, x_log: bool, y_log: bool) -> tuple[Axis, Axis]:
    low, high = decades(x_values) if x_log else (min(x_values), max(x_values))
    return Axis(low, high, LEFT, WIDTH - RIGHT, x_log), Axis(y_low, y_high, HEIGHT - BOTTOM, TOP, y_log)


def time_words(us: float) -> str:
    """A time with the unit that suits it."""
    return next(f"{us / unit:g} {word}" for unit, word in ((1e6, "s"), (1e3, "ms"), (1.0, "µs"), (0.0, "µs"))
                if us >= unit)


def latency(quantiles: Mapping[str, Sequence[float]]) -> str:
    """The share of starts that were done within a time; QUANTILES: of each side, evenly spaced, in µs."""
    lines = {name: [(value, at / (len(values) - 1) * 100) for at, value in enumerate(values)]
             for name, values in quantiles.items()}
    x, y = _axes([value for values in quantiles.values() for value in values], 0, 100, True, False)
    return chart("Latency of a start, from the call until its exit is known", x, y, "time (logarithmic)",
                 "% of starts done", [(tick, time_words(tick)) for tick in x.ticks()],
                 [(tick, f"{tick:.0f} %") for tick in y.ticks()], lines, False)


def rate(curves: Mapping[str, Sequence[Sequence[float]]]) -> str:
    """Jobs per second against threads; CURVES: of each side, pairs of them."""
    lines = {name: [(point[0], point[1]) for point in points] for name, points in curves.items()}
    threads = sorted({point[0] for points in lines.values() for point in points})
    low, high = decades([point[1] for points in lines.values() for point in points])
    x = Axis(threads[0], max(threads[-1], threads[0] * 2), LEFT, WIDTH - RIGHT, True)
    y = Axis(low, high, HEIGHT - BOTTOM, TOP, True)
    x.between = lambda: []  # type: ignore[method-assign]  # the numbers of threads alone
    return chart("Jobs per second, by the number of threads that start them", x, y, "threads", "jobs per second "
                 "(logarithmic)", [(value, f"{value:g}") for value in threads],
                 [(tick, f"{tick:,.0f}") for tick in y.ticks()], lines, True)


def write(results: dict[str, Any], folder: str) -> list[str]:
    """Write what RESULTS have figures for into FOLDER; the names of the files."""
    scenarios = results["scenarios"]
    texts = {}
    if scenarios.get("latency", {}).get("quantiles"):
        texts["latency.svg"] = latency(scenarios["latency"]["quantiles"])
    if scenarios.get("concurrency", {}).get("curves"):
        texts["rate.svg"] = rate(scenarios["concurrency"]["curves"])
    for name, text in texts.items():
        with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
            file.write(text)
    return list(texts)


def main() -> int:
    if len(sys.argv) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    with open(sys.argv[1], encoding="utf-8") as file:
        results = json.load(file)
    os.makedirs(sys.argv[2], exist_ok=True)
    for name in write(results, sys.argv[2]):
        print(os.path.join(sys.argv[2], name))
    return 0


if __name__ == "__main__":
    sys.exit(main())
