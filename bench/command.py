"""What the two runners share: their command line, the results they begin with and what they end with."""
from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable
from typing import Any

from . import bars, machine, report
from .peers import stamp

BUSY_LOAD = 0.5     # of one minute: something else was running


def parse(program: str, description: str | None, names: Iterable[str], smoke: str) -> argparse.Namespace:
    """The command line of `python -m PROGRAM`, whose scenarios are NAMES; SMOKE is what its smoke run is."""
    names = list(names)
    parser = argparse.ArgumentParser(prog=f"python -m {program}", description=description)
    parser.add_argument("--smoke", action="store_true", help=smoke)
    parser.add_argument("--only", action="append", choices=names, metavar="NAME",
                        help=f"one of: {', '.join(names)}; may be given again")
    parser.add_argument("--json", metavar="FILE", help="keep the results in FILE")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a bar was missed")
    return parser.parse_args()


def opening(about: dict[str, Any], smoke: bool) -> dict[str, Any]:
    """Results before anything is measured, with what has to be said of the machine's state."""
    results: dict[str, Any] = {"smoke": smoke, "machine": about, "notes": [], "scenarios": {}, "failed": [], "bars": [],
                               "stamp": stamp()}
    if os.getloadavg()[0] > BUSY_LOAD:
        results["notes"].append(f"The machine was busy before the run (load {os.getloadavg()[0]:.1f}): bars "
                                "passed or missed here say little.")
    return results


def failed(results: dict[str, Any], name: str, error: Exception) -> None:
    """A scenario that broke off is a note and no figure."""
    results["failed"].append(name)
    results["notes"].append(f"{name}: {error}")
    print(f"{name}: {error}", file=sys.stderr, flush=True)


def judge(results: dict[str, Any], *which: Any) -> dict[str, Any]:
    """The bars, and whether all figures are of one build."""
    results["bars"] = bars.judge(results["scenarios"], *which)
    if stamp() != results.pop("stamp"):
        results["notes"].append("fastctr was built anew during the run: its figures are of different builds, "
                                "and this run is not to be published.")
    return results


def main(options: argparse.Namespace, measure: Callable[[], dict[str, Any]], refused: tuple[type[Exception], ...],
         complaint: str = "") -> int:
    """Measure, print the bars and notes, keep the results; the exit code. REFUSED: what ends it with a word."""
    complaint = machine.complaint() or complaint
    if complaint:
        print(complaint, file=sys.stderr)
        return 2
    try:
        results = measure()
    except refused as error:
        print(error, file=sys.stderr)
        return 2
    print("\n## The bars\n\n" + report.bars(results))
    for note in results["notes"]:
        print(f"- {note}")
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(results, file, indent=1)
    missed = any(row["verdict"] == "miss" for row in results["bars"])
    return 1 if results["failed"] or (options.check and missed) else 0
