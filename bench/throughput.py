"""Thousands of jobs: `python -m bench.throughput [--smoke] [--only NAME]... [--json FILE] [--check]`."""
from __future__ import annotations

import sys
import time
from typing import Any

from . import command, machine, throughput_report
from .peers import PeerFailed, has_fastctr
from .policy import NoProfile
from .rootfs import MissingTool
from .throughput_scenarios import SCENARIOS, Many
from .throughput_sides import ManyStage

PEERS = ("crun", "runc", "bwrap", "podman", "dockerd")


def measure(chosen: list[str], smoke: bool) -> dict[str, Any]:
    """Run the scenarios CHOSEN; one in which a side fails ends with a note and is no figure."""
    results = command.opening(machine.describe(PEERS), smoke)
    print(throughput_report.opening(results), flush=True)
    with ManyStage() as stage:
        many = Many(stage, smoke)
        for name in chosen:
            begin = time.monotonic()
            try:
                for part, found in SCENARIOS[name](many):
                    results["scenarios"][part] = found
                    print(f"\n{throughput_report.scenario(part, found)}\n\n({time.monotonic() - begin:.0f} s)",
                          flush=True)
                    begin = time.monotonic()
            except PeerFailed as error:
                command.failed(results, name, error)
            finally:
                stage.end()
        results["notes"] += dict.fromkeys(many.said)
    return command.judge(results, throughput_report.BARS)


def main() -> int:
    options = command.parse("bench.throughput", __doc__, SCENARIOS, "few jobs: under a minute")
    return command.main(options, lambda: measure(options.only or list(SCENARIOS), options.smoke),
                        (MissingTool, NoProfile), "" if has_fastctr() else "fastctr is not built: nothing to measure")


if __name__ == "__main__":
    sys.exit(main())
