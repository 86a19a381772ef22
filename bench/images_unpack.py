"""Scenarios of seconds: an image is unpacked from an archive or a layout, and pulled from a registry."""
from __future__ import annotations

import os
import statistics
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from .images_ground import Ground, Took
from .images_material import Material
from .images_sides import Absent, Maker, Registry, Side, from_archive, from_registry, merged
from .peers import PeerFailed

READ = 1 << 20


def warm(path: str) -> None:
    """Have PATH in the page cache, a directory with all below it."""
    paths = [path] if os.path.isfile(path) else [
        os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names]
    for each in paths:
        with open(each, "rb", buffering=0) as file:
            while file.read(READ):
                pass


class Column:
    """What one side took, run by run."""

    def __init__(self, name: str) -> None:
        self.name, self.note = name, ""
        self.side: Side | None = None
        self.took: list[Took] = []
        self.found: tuple[int, int] | None = None

    def row(self, ours: Column) -> dict[str, Any]:
        """As the report has it."""
        seconds = [each.seconds for each in self.took]
        row: dict[str, Any] = {"side": self.name, "n": len(seconds), "note": self.note}
        if seconds and not self.note:
            row.update(p50=statistics.median(seconds), least=min(seconds), most=max(seconds),
                       cpu=statistics.median(each.cpu for each in self.took),
                       resident=max(each.resident_mb for each in self.took),
                       entries=self.found[0] if self.found else None, ratio=ratio(self, ours))
        return row


def ratio(one: Column, other: Column) -> float | None:
    """How many times as long ONE takes as OTHER: the median over the rounds."""
    pairs = list(zip(one.took, other.took, strict=False))
    return statistics.median(a.seconds / b.seconds for a, b in pairs) if pairs else None


def compare(ground: Ground, makers: dict[str, Maker], image: Material, rounds: int,
            sources: Sequence[str] = ()) -> dict[str, Any]:
    """Run the sides in turn ROUNDS times, each into a store that is not there yet, the SOURCES in the page
    cache and nothing of the side before waiting to be written. The first side is ours and must not fail; a
    peer that is absent or fails has a note for figures."""
    columns = [Column(name) for name in makers]
    ours = columns[0]
    for turn in range(rounds):
        for column in reversed(columns) if turn % 2 else columns:
            if column.note:
                continue
            try:
                column.side = column.side or makers[column.name]()
                for source in sources:
                    warm(source)
                _once(ground, column, image)
            except Absent as error:
                column.note = str(error)
            except PeerFailed as error:
                if column.name.startswith("fastctr"):
                    raise
                column.note = f"failed: {error}"
                print(f"{column.name}: {error}", file=sys.stderr, flush=True)
    return {"rows": [column.row(ours) for column in columns],
            "ratios": {f"{column.name} / {ours.name}": ratio(column, ours)
                       for column in columns[1:] if column.took and not column.note}}


def _once(ground: Ground, column: Column, image: Material) -> None:
    side = column.side
    assert side is not None
    try:
        side.prepare()
        ground.output(["sync", "-f", ground.path()])
        column.took.append(side.run())
        if column.found is None:
            column.found = merged(side.layers())
            expected = (image.entries, image.about["bytes"])
            if column.found != expected:
                raise PeerFailed(f"{column.name}: unpacked {column.found} entries and bytes, the image has {expected}")
    finally:
        side.clear()


def archives(ground: Ground, image: Material, rounds: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each kind of local archive, by name."""
    sources = {"layout": image.oci, "oci-archive": image.oci_tar, "docker-archive": image.docker_tar}
    for kind, makers in from_archive(ground, image).items():
        yield kind, compare(ground, makers, image, rounds, [sources[kind]])


def pulls(ground: Ground, image: Material, rounds: int) -> dict[str, Any]:
    """From a registry on loopback, which has the image's blobs in the page cache."""
    try:
        registry = Registry(ground, image)
    except Absent as error:
        return {"note": f"no registry to pull from: {error}"}
    try:
        return compare(ground, from_registry(ground), image, rounds, [ground.outside(registry.folder)])
    finally:
        registry.close()
