"""The image benchmarks as text; report.py puts them into the page."""
from __future__ import annotations

from typing import Any

from .bars import Bar
from .report import bars as bars_table
from .report import below, number, pairs, starts, table

SETUP_HEAD = ("", "fastctr load, pull", "umoci unpack", "skopeo, podman", "docker")
SETUP = (
    ("takes", "layout, oci-archive, docker-archive, registry", "layout", "oci-archive, docker-archive, registry",
     "docker-archive, registry"),
    ("digest of every blob verified", "yes", "yes", "yes, of an oci-archive and a registry",
     "yes, of a registry"),
    ("diff id of every layer verified", "yes", "yes", "yes", "yes"),
    ("the packed blobs are kept", "yes, as an OCI layout", "they are in the layout it reads", "no", "no"),
    ("what pushes the same tar again", "the blob", "the blob", "tar-split records", "tar-split records"),
    ("layers kept apart, for overlay", "yes", "no, one tree", "yes", "yes"),
    ("owners, modes, times, xattrs, links, whiteouts", "yes", "yes", "yes", "yes"),
    ("a manifest with a digest of every file (mtree)", "no", "yes", "no", "no"),
    ("process", "one, Python starts within the time", "one", "one, or two with skopeo",
     "a client; the daemon runs already"),
)

CAVEATS = (
    ("A store is empty at each run, and removed after it, neither within the time. What an earlier side wrote is on "
     "disk before the next one starts; archives and the registry's blobs are in the page cache."),
    ("Everything is measured on one fresh file system (below), for all sides the same, since removing 20,000 files "
     "makes the next 20,000 slow on some (ext4 without a journal)."),
    ("What every side made is walked as overlayfs would show it: number of entries and bytes must be the image's, "
     "or its figures are not taken."),
    ("dockerd is started before each of its runs, with an empty root; its start is not in the figures. It and the "
     "registry run on this machine and take processor time from who pulls: alike for all sides."),
    ("\"skopeo copy, podman load\" makes a docker-archive of the oci-archive and loads that; podman can load "
     "the oci-archive itself too, which is the row below it and the harder comparison."),
    ("Memory for each container is by the machine's own figures (/proc/meminfo), so whatever else runs is in them. "
     "Page cache is what the containers' groups are charged for: without sharing, a copy for each."),
    "podman and skopeo use the overlay driver, dockerd overlay2; podman runs as root, as all sides.",
)

TITLES = {
    "layout": "From an OCI layout in a directory",
    "oci-archive": "From an oci-archive",
    "docker-archive": "From a docker-archive",
    "pull": "From a registry on loopback",
    "layers": "A start from 60 layers",
    "after_unpack": "The first start after an unpack",
    "alive": "Many containers of one image at once",
}

BARS = (
    Bar("load of a layout: times faster than umoci unpack", "layout", "umoci unpack / fastctr load", True, 2),
    Bar("load of an oci-archive: times faster than skopeo copy and podman load", "oci-archive",
        "skopeo copy, podman load / fastctr load", True, 2),
    Bar("load of an oci-archive: times faster than skopeo copy and docker load", "oci-archive",
        "skopeo copy, docker load / fastctr load", True, 2),
    Bar("load of an oci-archive: times faster than skopeo copy into its storage", "oci-archive",
        "skopeo copy to storage / fastctr load", True, 2),
    Bar("load of an oci-archive: times faster than podman load", "oci-archive", "podman load / fastctr load", True, 2),
    Bar("load of a docker-archive: times faster than podman load", "docker-archive", "podman load / fastctr load",
        True, 2),
    Bar("load of a docker-archive: times faster than docker load", "docker-archive", "docker load / fastctr load",
        True, 2),
    Bar("pull from loopback: times faster than docker pull", "pull", "docker pull / fastctr pull", True, 1.5),
    Bar("pull from loopback: times faster than podman pull", "pull", "podman pull / fastctr pull", True, 1.5),
    Bar("start from 60 layers, times one directory", "layers", "many layers / one directory", False, 1.15),
    Bar("first start after an unpack, times the tenth, over the same of a copied directory", "after_unpack",
        "1st / 10th, image / directory", False, 1.25),
    Bar("page cache growth when all containers read a file, in copies of it", "alive",
        "page cache growth / one copy", False, 1.05),
    Bar("writable layer of a container that has written nothing, kB", "alive", "writable layer before a write, kB",
        False, 4),
)


def scenario(name: str, found: dict[str, Any]) -> str:
    """One scenario's tables."""
    parts = [f"### {TITLES.get(name, name)}"]
    if found.get("note"):
        parts.append(found["note"])
    if found.get("rows"):
        rows = [_row(row) for row in found["rows"]]
        parts.append(table(("seconds", "n", "p50", "least", "most", "times ours", "processor", "resident MB",
                            "entries", ""), rows))
    if found.get("sides"):
        parts.append(starts("µs from start to reaped", found["sides"]))
    if found.get("facts"):
        parts.append(pairs("what", "", found["facts"]))
    if found.get("ratios"):
        parts.append(pairs("ratio", "", found["ratios"]))
    return "\n\n".join(parts)


def _row(row: dict[str, Any]) -> tuple[str, ...]:
    if "p50" not in row:
        return (row["side"], str(row["n"]), *["–"] * 7, row["note"])
    cpu, resident = row["cpu"] or None, row["resident"] or None
    return (row["side"], str(row["n"]), *(number(row[key]) for key in ("p50", "least", "most", "ratio")), number(cpu),
            number(resident), f"{row['entries']:,}", "")


def opening(results: dict[str, Any]) -> str:
    """The caveats, the machine, the images and what each side does."""
    parts = ["# Images", "## Caveats first", "\n".join(f"- {line}" for line in CAVEATS)]
    if results["smoke"]:
        parts.append("**This was a smoke run: a small image, few starts. Its figures show that the benchmarks work, "
                     "no more.**")
    parts += ["## The machine and the images",
              "\n".join(f"- {key}: {value}" for key, value in {**results["machine"], **results["images"]}.items()),
              "## What each side does", table(SETUP_HEAD, SETUP)]
    return "\n\n".join(parts)


def markdown(results: dict[str, Any]) -> str:
    """The part of the page about images, a level below its title."""
    parts = [opening(results), "## The bars", bars_table(results)]
    if results["notes"]:
        parts.append("\n".join(f"- {note}" for note in results["notes"]))
    parts.append("## Figures")
    parts += [scenario(name, found) for name, found in results["scenarios"].items()]
    return below(parts, "comments_images.md")
