"""The image benchmarks: `python -m bench.images [--smoke] [--only NAME]... [--json FILE] [--check]`."""
from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from . import bars, images_material, images_report, images_starts, images_unpack, machine, report
from .images_ground import Ground
from .peers import PeerFailed, has_fastctr, stamp
from .rootfs import MissingTool
from .run import BUSY_LOAD

PEERS = ("umoci", "skopeo", "podman", "dockerd", "docker-registry")
NAMES = ("archives", "pull", "layers", "after_unpack", "alive")


class Scale:
    """How much is done: the full run, or a smoke run of seconds."""

    def __init__(self, smoke: bool) -> None:
        self.rounds = 1 if smoke else 7         # of each way to unpack and pull
        self.start_rounds = 2 if smoke else 30
        self.budget = 0.04 if smoke else 0.15   # seconds of one side's turn
        self.trials = 1 if smoke else 15        # of an unpack and ten starts
        self.alive = 20 if smoke else 1000


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.images", description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="a small image, few starts: under a minute")
    parser.add_argument("--only", action="append", choices=NAMES, metavar="NAME",
                        help=f"one of: {', '.join(NAMES)}; may be given again")
    parser.add_argument("--json", metavar="FILE", help="keep the results in FILE")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a bar was missed")
    return parser.parse_args()


Found = Iterator[tuple[str, dict[str, Any]]]


class Run:
    """The scenarios of one run: each yields names of the report with what was found."""

    def __init__(self, ground: Ground, smoke: bool, images: dict[str, images_material.Material]) -> None:
        self.ground, self.scale, self.images = ground, Scale(smoke), images

    def archives(self) -> Found:
        """Unpack from a local archive."""
        yield from images_unpack.archives(self.ground, self.images["realistic"], self.scale.rounds)

    def pull(self) -> Found:
        """Pull from a registry on loopback."""
        yield "pull", images_unpack.pulls(self.ground, self.images["realistic"], self.scale.rounds)

    def layers(self) -> Found:
        """Start from many layers."""
        yield "layers", images_starts.from_layers(self.ground, self.images["layers"], self.scale.start_rounds,
                                                  self.scale.budget)

    def after_unpack(self) -> Found:
        """Start right after an unpack."""
        yield "after_unpack", images_starts.after_unpack(self.ground, self.images["layers"], self.scale.trials)

    def alive(self) -> Found:
        """Many containers at once."""
        yield "alive", images_starts.alive(self.ground, self.images["shared"], self.scale.alive)


def needed(chosen: list[str], smoke: bool) -> dict[str, images_material.Material]:
    """The images of the scenarios CHOSEN, made if they are not in the cache."""
    makers: dict[str, tuple[set[str], Callable[[], images_material.Material]]] = {
        "realistic": ({"archives", "pull"}, lambda: images_material.realistic(smoke)),
        "layers": ({"layers", "after_unpack"}, images_material.many_layers),
        "shared": ({"alive"}, images_material.shared),
    }
    return {name: make() for name, (uses, make) in makers.items() if uses & set(chosen)}


def measure(chosen: list[str], smoke: bool) -> dict[str, Any]:
    """Run the scenarios CHOSEN; one in which fastctr fails ends with a note and is no figure."""
    about = machine.describe(PEERS)
    results: dict[str, Any] = {"smoke": smoke, "machine": about, "notes": [], "scenarios": {}, "failed": []}
    if os.getloadavg()[0] > BUSY_LOAD:
        results["notes"].append(f"The machine was busy before the run (load {os.getloadavg()[0]:.1f}): bars "
                                "passed or missed here say little.")
    built = stamp()
    images = needed(chosen, smoke)
    results["images"] = {name: image.words() for name, image in images.items()}
    with Ground(images_material.cache(), smoke) as ground:
        about["file system"] = ground.words()
        print(images_report.opening(results), flush=True)
        run = Run(ground, smoke, images)
        for name in chosen:
            begin = time.monotonic()
            try:
                for part, found in getattr(run, name)():
                    results["scenarios"][part] = found
                    print(f"\n{images_report.scenario(part, found)}\n\n({time.monotonic() - begin:.0f} s)", flush=True)
                    begin = time.monotonic()
            except PeerFailed as error:
                results["failed"].append(name)
                results["notes"].append(f"{name}: {error}")
                print(f"{name}: {error}", file=sys.stderr, flush=True)
    results["bars"] = bars.judge(results["scenarios"], images_report.BARS)
    if stamp() != built:
        results["notes"].append("fastctr was built anew during the run: its figures are of different builds, "
                                "and this run is not to be published.")
    return results


def main() -> int:
    options = parse()
    complaint = machine.complaint() or ("" if has_fastctr() else "fastctr is not built: nothing to measure")
    if complaint:
        print(complaint, file=sys.stderr)
        return 2
    try:
        results = measure(options.only or list(NAMES), options.smoke)
    except (MissingTool, PeerFailed) as error:
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
