"""The bars: what the project promises of its speed, each held against one ratio of one scenario."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple


class Bar(NamedTuple):
    """One promise. `at_least`: the figure must reach LIMIT; else it must not pass it."""

    text: str
    scenario: str
    ratio: str
    at_least: bool
    limit: float


BARS = (
    Bar("plan.run: times faster than crun run", "busy", "crun run / fastctr", True, 12),
    Bar("plan.run: times faster than runc run", "busy", "runc run / fastctr", True, 20),
    Bar("plan.run: times faster than bwrap", "busy", "bwrap / fastctr", True, 4),
    Bar("plan.run, as a share of classic", "busy", "fastctr / classic", False, 0.5),
    Bar("plan.run of busybox, times bare", "busy", "fastctr / bare busybox", False, 1.9),
    Bar("plan.run of a tiny binary, times bare", "busy", "fastctr tiny / bare tiny", False, 5),
    Bar("after 100 ms of quiet, times busy", "quiet", "fastctr, quiet / busy", False, 1.5),
    Bar("launcher with 2 GB resident, times 20 MB", "resident", "large / small", False, 1.1),
    Bar("1,000 more mounts on the host, times none", "mounts", "fastctr, more mounts / none", False, 1.15),
    Bar("beside 1,999 running containers, times none", "at_once", "many running / none", False, 1.3),
    Bar("8 threads: times the containers per second of crun run", "threads", "fastctr / crun run", True, 10),
    Bar("import fastctr, ms over python3 -c pass", "commands", "import fastctr - python3 -c pass, ms",
        False, 12),
    Bar("the same with run, Plan and Container used", "commands",
        "import fastctr, names used - python3 -c pass, ms", False, 12),
    Bar("fastctr run, ms over python3 -c pass", "commands", "fastctr run - python3 -c pass, ms", False, 35),
)


def judge(scenarios: dict[str, Any], bars: Sequence[Bar] = BARS) -> list[dict[str, Any]]:
    """Each bar with its figure and verdict: "pass", "miss", or "not measured"."""
    out = []
    for bar in bars:
        figure = scenarios.get(bar.scenario, {}).get("ratios", {}).get(bar.ratio)
        verdict = "not measured"
        if figure is not None:
            verdict = "pass" if (figure >= bar.limit if bar.at_least else figure <= bar.limit) else "miss"
        out.append({"text": bar.text, "bar": f"{'at least' if bar.at_least else 'at most'} {bar.limit:g}",
                    "figure": figure, "verdict": verdict})
    return out
