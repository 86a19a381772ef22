"""The image benchmarks: `python -m bench.images [--smoke] [--only NAME]... [--json FILE] [--check]`."""
from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from . import command, images_material, images_report, images_starts, images_unpack, machine
from .images_ground import Ground
from .peers import PeerFailed, has_fastctr
from .rootfs import MissingTool

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
    results = command.opening(about, smoke)
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
                command.failed(results, name, error)
    return command.judge(results, images_report.BARS)


def main() -> int:
    options = command.parse("bench.images", __doc__, NAMES, "a small image, few starts: under a minute")
    return command.main(options, lambda: measure(options.only or list(NAMES), options.smoke), (MissingTool, PeerFailed),
                        "" if has_fastctr() else "fastctr is not built: nothing to measure")


if __name__ == "__main__":
    sys.exit(main())
