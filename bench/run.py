"""The benchmark runner: `python -m bench.run [--smoke] [--only NAME]... [--json FILE] [--check]`."""
from __future__ import annotations

import argparse
import json
import os
import sys
import time
from typing import Any

from . import bars, machine, report
from .peers import PeerFailed, Stage, has_fastctr, stamp
from .policy import NoProfile
from .rootfs import MissingTool
from .scenarios import SCENARIOS, Bench

BUSY_LOAD = 0.5     # of one minute: something else was running


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.run", description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="few starts and small loads: under a minute")
    parser.add_argument("--only", action="append", choices=sorted(SCENARIOS), metavar="NAME",
                        help=f"one of: {', '.join(SCENARIOS)}; may be given again")
    parser.add_argument("--json", metavar="FILE", help="keep the results in FILE")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a bar was missed")
    return parser.parse_args()


def measure(chosen: list[str], smoke: bool) -> dict[str, Any]:
    """Run the scenarios CHOSEN; a side that fails ends its scenario with a note and is no figure."""
    fastctr = has_fastctr()
    results: dict[str, Any] = {"smoke": smoke, "machine": machine.describe(), "notes": [], "scenarios": {},
                               "failed": []}
    if not fastctr:
        results["notes"].append("fastctr is not built: only its peers were measured.")
    results["bars"] = []
    built = stamp()
    if os.getloadavg()[0] > BUSY_LOAD:
        results["notes"].append(f"The machine was busy before the run (load {os.getloadavg()[0]:.1f}): bars "
                                "passed or missed here say little.")
    print(report.opening(results), flush=True)
    with Stage() as stage:
        bench = Bench(stage, smoke, fastctr)
        for name in chosen:
            begin = time.monotonic()
            try:
                found = SCENARIOS[name](bench)
            except PeerFailed as error:
                results["failed"].append(name)
                results["notes"].append(f"{name}: {error}")
                print(f"{name}: {error}", file=sys.stderr, flush=True)
                continue
            results["scenarios"][name] = found
            print(f"\n{report.scenario(name, found)}\n\n({time.monotonic() - begin:.0f} s)", flush=True)
    results["bars"] = bars.judge(results["scenarios"])
    if stamp() != built:
        results["notes"].append("fastctr was built anew during the run: its figures are of different builds, "
                                "and this run is not to be published.")
    return results


def main() -> int:
    options = parse()
    complaint = machine.complaint()
    if complaint:
        print(complaint, file=sys.stderr)
        return 2
    try:
        results = measure(options.only or list(SCENARIOS), options.smoke)
    except (MissingTool, NoProfile) as error:
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


if __name__ == "__main__":
    sys.exit(main())
