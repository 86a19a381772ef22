"""The sides: ways to get an image from an archive, a layout or a registry into a store of their own, unpacked."""
from __future__ import annotations

import itertools
import json
import os
import shutil
import stat
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from .images_ground import HOST, Daemon, Ground, Took, listens, python_command
from .images_material import SYSTEM_PATH, Material
from .images_tar import NAME, TAG
from .peers import PeerFailed, cli_command

PULLED = f"{HOST}/{NAME}"
PACKAGES = {"umoci": "umoci", "skopeo": "skopeo", "podman": "podman", "docker": "docker.io", "dockerd": "docker.io",
            "docker-registry": "docker-registry"}
_numbers = itertools.count(1)


class Absent(Exception):
    """A program is not installed."""


def program(name: str) -> str:
    """Its path; raises Absent."""
    found = shutil.which(name, path=SYSTEM_PATH)
    if not found:
        raise Absent(f"not installed: apt-get install {PACKAGES[name]}")
    return found


class Side(ABC):
    """One way. `prepare` is not timed, `run` is; `layers` are the directories it made, topmost first;
    `clear` removes all it made."""

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        self.store = ground.path(f"s{next(_numbers)}")
        self.extra: list[str] = []      # what else it makes

    def prepare(self) -> None:  # noqa: B027 most have nothing to prepare
        """Before each run."""

    @abstractmethod
    def run(self) -> Took:
        """Do it into a store that is not there yet."""

    @abstractmethod
    def layers(self) -> list[str]:
        """Where it unpacked to, for this process."""

    def clear(self) -> None:
        """After each run."""
        self.ground.remove(self.store, *self.extra)


class Fastctr(Side):
    """WORDS of the command line, or CODE for an interpreter."""

    def __init__(self, ground: Ground, words: list[str] | None = None, code: str = "") -> None:
        super().__init__(ground)
        self.command = [*cli_command(), *words] if words else python_command(code)

    def run(self) -> Took:
        return self.ground.timed([self.command], FASTCTR_ROOT=self.store)

    def layers(self) -> list[str]:
        top = self.ground.outside(f"{self.store}/layers/overlay")
        parents: dict[str, str | None] = {}
        for name in os.listdir(top):
            with open(f"{top}/{name}/layer.json", encoding="utf-8") as file:
                about = json.load(file)
            parents[about["chain"]] = about["parent"]
        return [f"{top}/{chain.partition(':')[2]}/diff" for chain in _topmost_first(parents)]


class Umoci(Side):
    """umoci unpack of a layout; there is no other source it takes."""

    def __init__(self, ground: Ground, layout: str) -> None:
        super().__init__(ground)
        self.command = [program("umoci"), "unpack", "--image", f"{layout}:{TAG}", self.store]

    def run(self) -> Took:
        return self.ground.timed([self.command])

    def layers(self) -> list[str]:
        return [self.ground.outside(f"{self.store}/rootfs")]


class Storage(Side):
    """Podman, or skopeo into containers' storage, with the overlay driver; FIRST may be a command before, which
    makes MADE."""

    def __init__(self, ground: Ground, first: list[str] | None = None, load: str = "",
                 pull: bool = False, skopeo: str = "", made: Sequence[str] = ()) -> None:
        super().__init__(ground)
        run = f"{self.store}-run"
        if skopeo:
            last = [program("skopeo"), "--insecure-policy", "copy", "-q", skopeo,
                    f"containers-storage:[overlay@{self.store}+{run}]localhost/{NAME}"]
        else:
            last = [program("podman"), "--root", self.store, "--runroot", run, "--tmpdir", f"{run}-tmp",
                    "--storage-driver", "overlay"]
            last += ["pull", "-q", "--tls-verify=false", PULLED] if pull else ["load", "-q", "-i", load]
        self.commands = [first, last] if first else [last]
        self.extra = [run, f"{run}-tmp", *made]

    def run(self) -> Took:
        return self.ground.timed(self.commands)

    def layers(self) -> list[str]:
        top = self.ground.outside(self.store)
        with open(f"{top}/overlay-layers/layers.json", encoding="utf-8") as file:
            parents = {each["id"]: each.get("parent") for each in json.load(file)}
        return [f"{top}/overlay/{name}/diff" for name in _topmost_first(parents)]


class Docker(Side):
    """The client of a dockerd that is started for each run, with an empty root, and ended after it."""

    def __init__(self, ground: Ground, first: list[str] | None = None, load: str = "",
                 pull: bool = False, made: Sequence[str] = ()) -> None:
        super().__init__(ground)
        self.extra = [*made]
        socket = f"unix://{self.store}/socket"
        client = [program("docker"), "-H", socket]
        self.commands = [first] if first else []
        self.commands.append([*client, "pull", "-q", PULLED] if pull else [*client, "load", "-q", "-i", load])
        self.server = [
            program("dockerd"), "--config-file", f"{ground.folder}/docker.json", "--data-root", f"{self.store}/root",
            "--exec-root", f"{self.store}/exec", "-H", socket, "-p", f"{self.store}/pid", "--iptables=false",
            "--ip6tables=false", "--ip-forward=false", "--ip-masq=false", "--bridge=none",
            "--userland-proxy=false", "--storage-driver", "overlay2", "--log-level", "error"]
        self.ready = [*client, "version"]
        self.daemon: Daemon | None = None

    def prepare(self) -> None:
        self.ground.output(["mkdir", self.store])
        self.daemon = Daemon(self.ground, "dockerd", self.server)
        self.daemon.wait(self.ground.enter(self.ready))

    def run(self) -> Took:
        """Processor time and memory are the daemon's and not known."""
        return self.ground.timed(self.commands)._replace(cpu=0.0, resident_mb=0.0)

    def layers(self) -> list[str]:
        top = self.ground.outside(f"{self.store}/root")
        chains = f"{top}/image/overlay2/layerdb/sha256"
        parents, places = {}, {}
        for name in os.listdir(chains):
            places[name] = _text(f"{chains}/{name}/cache-id")
            parent = f"{chains}/{name}/parent"
            parents[name] = _text(parent).partition(":")[2] if os.path.exists(parent) else None
        return [f"{top}/overlay2/{places[name]}/diff" for name in _topmost_first(parents)]

    def clear(self) -> None:
        if self.daemon is not None:
            self.daemon.close()
            self.daemon = None
        super().clear()


def _text(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read().strip()


def _topmost_first(parents: dict[str, str | None]) -> list[str]:
    """The one chain of layers in PARENTS (layer to the one below it)."""
    tops = set(parents) - set(parents.values())
    if len(tops) != 1:
        raise PeerFailed(f"{len(tops)} images are in a store that was to hold one")
    chain, at = [], next(iter(tops), None)
    while at:
        chain.append(at)
        at = parents[at]
    return chain


class Registry:
    """A docker-registry in the ground, with the image in it; raises Absent."""

    def __init__(self, ground: Ground, image: Material) -> None:
        self.folder = ground.path("registry")
        copy = program("skopeo")
        serve = program("docker-registry")
        config = f"{ground.folder}/registry.json"
        with open(config, "w", encoding="utf-8") as file:
            json.dump({"version": "0.1", "log": {"level": "error", "accesslog": {"disabled": True}},
                       "storage": {"filesystem": {"rootdirectory": self.folder}},
                       "http": {"addr": HOST, "secret": "bench"}}, file)
        self.ground, self.daemon = ground, Daemon(ground, "docker-registry", [serve, "serve", config])
        try:
            self.daemon.wait(listens(ground))
            ground.output([copy, "--insecure-policy", "copy", "-q", "--dest-tls-verify=false",
                           f"oci:{image.oci}:{TAG}", f"docker://{PULLED}"])
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End it, remove what it has."""
        self.daemon.close()
        self.ground.remove(self.folder)


# ---- what came out --------------------------------------------------------------------------


def merged(layers: list[str]) -> tuple[int, int]:
    """Entries and bytes of files of the union of LAYERS (topmost first), as overlayfs would show them."""
    entries = size = 0

    def walk(tops: list[str], at: str) -> None:
        nonlocal entries, size
        below: dict[str, list[str]] = {}
        closed: set[str] = set()
        for top in tops:
            with os.scandir(os.path.join(top, at)) as found:
                for entry in found:
                    if entry.name in closed:
                        continue
                    status = entry.stat(follow_symlinks=False)
                    if stat.S_ISDIR(status.st_mode):
                        if entry.name not in below:
                            entries += 1
                        below.setdefault(entry.name, []).append(top)
                        if _opaque(entry.path):
                            closed.add(entry.name)
                        continue
                    if entry.name not in below and not (stat.S_ISCHR(status.st_mode) and status.st_rdev == 0):
                        entries += 1
                        size += status.st_size if stat.S_ISREG(status.st_mode) else 0
                    closed.add(entry.name)
        for name, under in below.items():
            walk(under, os.path.join(at, name))

    walk(layers, "")
    return entries, size


def _opaque(path: str) -> bool:
    try:
        return os.getxattr(path, "trusted.overlay.opaque", follow_symlinks=False) == b"y"
    except OSError:
        return False


Maker = Callable[[], Side]


def from_archive(ground: Ground, image: Material) -> dict[str, dict[str, Maker]]:
    """Sides by source: a layout, an oci-archive, a docker-archive; ours is the first of each."""
    python = "import fastctr; fastctr.images.load({!r})"
    copied = ground.path("copied.tar")

    def copy() -> list[str]:
        return [program("skopeo"), "--insecure-policy", "copy", "-q", f"oci-archive:{image.oci_tar}",
                f"docker-archive:{copied}:{NAME}"]

    return {
        "layout": {
            "fastctr load": lambda: Fastctr(ground, ["load", "-q", "-i", image.oci]),
            "umoci unpack": lambda: Umoci(ground, image.oci),
        },
        "oci-archive": {
            "fastctr load": lambda: Fastctr(ground, ["load", "-q", "-i", image.oci_tar]),
            "fastctr.images.load": lambda: Fastctr(ground, code=python.format(image.oci_tar)),
            "skopeo copy, podman load": lambda: Storage(ground, copy(), load=copied, made=[copied]),
            "skopeo copy, docker load": lambda: Docker(ground, copy(), load=copied, made=[copied]),
            "skopeo copy to storage": lambda: Storage(ground, skopeo=f"oci-archive:{image.oci_tar}"),
            "podman load": lambda: Storage(ground, load=image.oci_tar),
        },
        "docker-archive": {
            "fastctr load": lambda: Fastctr(ground, ["load", "-q", "-i", image.docker_tar]),
            "podman load": lambda: Storage(ground, load=image.docker_tar),
            "docker load": lambda: Docker(ground, load=image.docker_tar),
        },
    }


def from_registry(ground: Ground) -> dict[str, Maker]:
    """Sides that pull PULLED; ours first."""
    python = "import fastctr; fastctr.images.pull({!r})"
    return {
        "fastctr pull": lambda: Fastctr(ground, ["pull", "-q", PULLED]),
        "fastctr.images.pull": lambda: Fastctr(ground, code=python.format(PULLED)),
        "podman pull": lambda: Storage(ground, pull=True),
        "docker pull": lambda: Docker(ground, pull=True),
    }
