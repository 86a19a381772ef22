"""The benchmark runner: `python -m bench.run [--smoke] [--only NAME]... [--json FILE] [--check]`."""
from __future__ import annotations

import sys
import time
from typing import Any

from . import command, machine, report
from .peers import PeerFailed, Stage, has_fastctr
from .policy import NoProfile
from .rootfs import MissingTool
from .scenarios import SCENARIOS, Bench


def measure(chosen: list[str], smoke: bool) -> dict[str, Any]:
    """Run the scenarios CHOSEN; a side that fails ends its scenario with a note and is no figure."""
    fastctr = has_fastctr()
    results = command.opening(machine.describe(), smoke)
    if not fastctr:
        results["notes"].append("fastctr is not built: only its peers were measured.")
    print(report.opening(results), flush=True)
    with Stage() as stage:
        bench = Bench(stage, smoke, fastctr)
        for name in chosen:
            begin = time.monotonic()
            try:
                found = SCENARIOS[name](bench)
            except PeerFailed as error:
                command.failed(results, name, error)
                continue
            results["scenarios"][name] = found
            print(f"\n{report.scenario(name, found)}\n\n({time.monotonic() - begin:.0f} s)", flush=True)
    return command.judge(results)


def main() -> int:
    options = command.parse("bench.run", __doc__, SCENARIOS, "few starts and small loads: under a minute")
    return command.main(options, lambda: measure(options.only or list(SCENARIOS), options.smoke),
                        (MissingTool, NoProfile))


if __name__ == "__main__":
    sys.exit(main())
