"""Results as text: `python -m bench.report RESULTS.json [docs/benchmarks.md [IMAGES.json [THROUGHPUT.json]]]` writes
the page, and the plots beside it."""
from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import Any

CAVEATS = (
    ("Figures move with the machine, its load and its kernel; ratios between sides of one run hold better. "
     "All ratios pair the sides round by round and are the median over the rounds."),
    "Every start's exit status is checked, for every side; one failed start ends the run.",
    ("Each program (bare, crun, runc, bwrap, `fastctr run`) is started by vfork from the same small C "
     "process, so no launcher's cost is counted. fastctr's `plan.run` and `subprocess.run` are timed inside a "
     "Python process."),
    ("crun, runc and bwrap get a root filesystem whose overlay was mounted once, before the measurement: they "
     "do not pay for an overlay at each start, fastctr and the classic reference do. This favours the three."),
    "bwrap has no control groups: it sets no cpu, memory or pids limit, which favours it too.",
    ("crun refuses to start where cgroup v1 and v2 are both mounted. Where that is so, it (and runc, to be "
     "alike) runs in a mount namespace without the v2 mount; the namespace is made once, outside the measurement."),
    ("fastctr prepares before a start and cleans up after it in the background: up to 16 containers of a plan in "
     "use, each with its process asleep. A turn of up to 60 starts finds those, so its median is that of a "
     "prepared start, while p95 and p99 show the others. After each turn fastctr's worker waits till its background "
     "has nothing to do, uncounted, as what the peers leave to the kernel is. In the containers per second of 8 "
     "threads all of it is counted."),
    "`/bin/true` is a static busybox everywhere; the tiny binary has no libc and exits at once.",
    "Benchmarks of a container start say nothing of the speed of what runs inside.",
)

SETUP_HEAD = ("", "bare, subprocess", "classic", "fastctr", "crun, runc", "bwrap")
SETUP = (
    ("pid, mnt, ipc, uts, cgroup namespaces", "no", "yes", "yes", "yes", "yes"),
    ("net namespace, `lo` up", "no", "made on the path", "yes, from a pool", "yes", "yes"),
    ("root", "host", "overlay, made on the path", "overlay of its own for each start",
     "overlay, mounted beforehand", "overlay, mounted beforehand"),
    ("writable layer of its own for each start", "no", "yes, tmpfs", "yes, tmpfs", "no, shared by all starts",
     "no, shared by all starts"),
    ("/proc, /sys read-only", "no", "yes", "yes", "yes", "yes, the host's /sys"),
    ("/dev with nodes, links, pts, shm, mqueue", "no", "yes", "yes", "yes", "yes"),
    ("masked and read-only paths", "no", "Docker's", "Docker's", "Docker's",
     "Docker's, by binds of the host's"),
    ("pivot_root", "no", "yes", "yes", "yes", "yes"),
    ("cpu, memory and pids limits", "no", "yes", "yes", "yes", "no"),
    ("device policy", "no", "yes on v1, no on v2", "yes", "yes", "no"),
    ("capabilities", "all", "Docker's 14", "Docker's 14", "Docker's 14",
     "Docker's 14, bounding set left full"),
    ("no_new_privs", "no", "yes", "yes", "yes", "yes"),
    ("seccomp", "no", "Docker's default, compiled beforehand", "Docker's default, compiled with the plan",
     "Docker's default, compiled at each start", "Docker's default, compiled beforehand"),
    ("groups removed within the time measured", "–", "yes", "no, in the background", "yes", "–"),
    ("usage figures read", "no", "no", "yes", "no", "no"),
)

TITLES = {
    "busy": "One start after another",
    "quiet": "After 100 ms of quiet",
    "resident": "From a large process",
    "mounts": "On a host with many mounts",
    "at_once": "Beside many running containers",
    "threads": "8 threads, containers per second",
    "commands": "Whole commands",
    "cold": "From a fresh plan",
    "first": "Until the first instruction",
    "syscalls": "System calls of one start",
}


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A markdown table, its columns padded so that it reads well in a terminal."""
    widths = [max(len(str(row[at])) for row in (head, *rows)) for at in range(len(head))]
    lines = ["| " + " | ".join(str(cell).ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
             for row in (head, *rows)]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def number(value: float | None) -> str:
    """Three figures that count."""
    if value is None:
        return "–"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def starts(head: str, sides: dict[str, dict[str, float]]) -> str:
    """Percentiles of each side's starts, and how many times bare they are where that was paired."""
    extra = [key for key in ("x bare tiny", "x bare busybox") if any(key in row for row in sides.values())]
    return table((head, "n", "p50", "p95", "p99", *(key.replace("x ", "times ") for key in extra)), [
        (side, str(int(row["n"])), number(row["p50"]), number(row["p95"]), number(row["p99"]),
         *(number(row.get(key)) for key in extra)) for side, row in sides.items()])


def pairs(head: str, value_head: str, values: dict[str, float]) -> str:
    """A figure a row; counts in full."""
    return table((head, value_head), [(name, f"{value:,}" if isinstance(value, int) else number(value))
                                      for name, value in values.items()])


def below(parts: list[str], comments: str) -> str:
    """PARTS and what is written by hand in the file COMMENTS beside this one, a level below the page's title."""
    path = os.path.join(os.path.dirname(__file__), comments)
    if os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            parts = [*parts, file.read().strip()]
    lines = "\n\n".join(parts).splitlines()
    return "\n".join(f"#{line}" if line.startswith("#") else line for line in lines)


def bars(results: dict[str, Any]) -> str:
    """The bars with figure and verdict."""
    return table(("bar", "limit", "figure", "verdict"),
                 [(row["text"], row["bar"], number(row["figure"]), row["verdict"])
                  for row in results["bars"]])


def scenario(name: str, found: dict[str, Any]) -> str:
    """One scenario's tables."""
    parts = [f"### {TITLES.get(name, name)}"]
    sides = found.get("sides") or {}
    if sides:
        parts.append(starts("µs from start to reaped", sides))
    if found.get("rates"):
        parts.append(pairs("side", "per second", found["rates"]))
    if found.get("calls"):
        rows = [(side, f"{row['calls']:,}", str(row["tasks"]), str(row["execs"]), ", ".join(row["most"]))
                for side, row in found["calls"].items()]
        parts.append(table(("side", "calls", "tasks", "execs", "most often"), rows))
    if found.get("ratios"):
        parts.append(pairs("ratio", "", found["ratios"]))
    if len(parts) == 1:
        parts.append("Not measured.")
    return "\n\n".join(parts)


def opening(results: dict[str, Any]) -> str:
    """The caveats, the machine, and what each side sets up."""
    parts = ["# Benchmarks", "## Caveats first", "\n".join(f"- {line}" for line in CAVEATS)]
    if results["smoke"]:
        parts.append("**This was a smoke run: few starts, small loads. Its figures show that the benchmarks "
                     "work, no more.**")
    parts += ["## The machine", "\n".join(f"- {key}: {value}" for key, value in results["machine"].items()),
              "## What each side sets up", table(SETUP_HEAD, SETUP)]
    return "\n\n".join(parts)


def markdown(results: dict[str, Any], images: dict[str, Any] | None = None,
             throughput: dict[str, Any] | None = None, plots: bool = False) -> str:
    """The whole page; IMAGES are the results of bench.images, THROUGHPUT those of bench.throughput; PLOTS: of
    these are beside the page."""
    parts = [opening(results), "## The bars", bars(results)]
    if results["notes"]:
        parts.append("\n".join(f"- {note}" for note in results["notes"]))
    parts.append("## Figures")
    parts += [scenario(name, found) for name, found in results["scenarios"].items()]
    comments = os.path.join(os.path.dirname(__file__), "comments.md")
    if os.path.exists(comments):    # written by hand: what the figures mean, and where they fall short
        with open(comments, encoding="utf-8") as file:
            parts.append(file.read().strip())
    if images is not None:
        from . import images_report

        parts.append(images_report.markdown(images))
    if throughput is not None:
        from . import throughput_report

        parts.append(throughput_report.markdown(throughput, plots))
    parts.append("`make bench` measures this again and writes this page; `python -m bench.run --json FILE`, "
                 "`python -m bench.images --json FILE` and `python -m bench.throughput --json FILE` keep the figures, "
                 "and `python -m bench.report FILE docs/benchmarks.md IMAGES_FILE THROUGHPUT_FILE` writes the page "
                 "from them.")
    return "\n\n".join(parts) + "\n"


def main() -> int:
    if len(sys.argv) not in (2, 3, 4, 5):
        print(__doc__, file=sys.stderr)
        return 2
    found = []
    for name in (sys.argv[1], *sys.argv[3:]):
        with open(name, encoding="utf-8") as file:
            found.append(json.load(file))
    run, images, throughput = (*found, None, None)[:3]
    page = markdown(run, images, throughput, len(sys.argv) > 2)
    if len(sys.argv) == 2:
        sys.stdout.write(page)
        return 0
    if throughput is not None:
        from . import plot

        plot.write(throughput, os.path.dirname(sys.argv[2]) or ".")
    with open(sys.argv[2], "w", encoding="utf-8") as file:
        file.write(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
