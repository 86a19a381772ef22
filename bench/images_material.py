"""The images of the benchmarks, made once and kept below FASTCTR_BENCH_CACHE (see `cache`)."""
from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from typing import Any

from .images_tar import write_image, write_layer
from .rootfs import MissingTool

VERSION = 1         # of what is made here: another one is made anew
SUITE = "bookworm"
# Each a layer: what is installed after the ones before. About 300 MB and 20,000 files in all.
STEPS = (("python3", "python3-venv", "ca-certificates"), ("python3-pip", "python3-yaml", "python3-requests"),
         ("python3-django",), ("vim-runtime",))
DEBOOTSTRAP_SECONDS = 1800
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
APT = ("apt-get", "-qq", "-y", "-o", "Acquire::Check-Date=false", "-o", "Acquire::Check-Valid-Until=false",
       "-o", "Dpkg::Use-Pty=0", "-o", "APT::Sandbox::User=root")
BINARIES = ("/bin/true", "/bin/sleep", "/bin/cat", "/bin/sh")
LAYERS = 60
BIG_MB = 20
# Shares of the image that is made of this machine's own files where no mirror can be reached.
MACHINE = (("usr/bin", 0.2), ("usr/lib", 0.5), ("usr/share", 0.3))
MACHINE_BYTES, MACHINE_FILES = 300 << 20, 20_000
SMOKE_BYTES, SMOKE_FILES = 3 << 20, 300


class Material:
    """An image of the cache: `oci` (layout), `oci_tar`, `docker_tar`, `tree` (merged, may be absent), and
    `about`: image (its id), entries and bytes of the merged tree, layers, source (in words)."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.oci, self.tree = f"{folder}/oci", f"{folder}/tree"
        self.oci_tar, self.docker_tar = f"{folder}/oci.tar", f"{folder}/docker.tar"
        with open(f"{folder}/about.json", encoding="utf-8") as file:
            self.about: dict[str, Any] = json.load(file)
        self.image: str = self.about["image"]
        self.entries: int = self.about["entries"]

    def words(self) -> str:
        """What it is, in a line."""
        layers = self.about["layers"]
        return (f"{len(layers)} layers, {sum(each['size'] for each in layers) / 1e6:,.0f} MB unpacked, "
                f"{sum(each['packed'] for each in layers) / 1e6:,.0f} MB packed, {self.entries:,} files, directories "
                f"and links; {self.about['source']}")


def cache() -> str:
    """FASTCTR_BENCH_CACHE, else a directory of this user's in the system's temporary one; made if missing."""
    path = os.environ.get("FASTCTR_BENCH_CACHE")
    path = os.path.abspath(path) if path else f"{tempfile.gettempdir()}/fastctr-bench-cache-{os.geteuid()}"
    os.makedirs(path, 0o700, exist_ok=True)
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise MissingTool(f"{path} is not this user's directory: set FASTCTR_BENCH_CACHE to another one")
    return path


def _cached(name: str, make: Callable[[str], dict[str, Any]]) -> Material:
    final = f"{cache()}/{name}-{VERSION}"
    if not os.path.exists(f"{final}/about.json"):
        new = tempfile.mkdtemp(prefix="new-", dir=cache())
        try:
            os.chmod(new, 0o755)
            about = make(new)
            with open(f"{new}/about.json", "w", encoding="utf-8") as file:
                json.dump(about, file, indent=1)
            shutil.rmtree(final, ignore_errors=True)
            os.rename(new, final)
        except BaseException:
            shutil.rmtree(new, ignore_errors=True)
            raise
    return Material(final)


# ---- trees, and the layers that lead to them ----------------------------------------------


def scan(tree: str, top: str = "") -> dict[str, os.stat_result]:
    """Everything in TREE by its relative name, parents first."""
    found: dict[str, os.stat_result] = {}
    with os.scandir(os.path.join(tree, top)) as entries:
        for entry in sorted(entries, key=lambda each: each.name):
            name = os.path.join(top, entry.name)
            status = entry.stat(follow_symlinks=False)
            if stat.S_ISSOCK(status.st_mode) or not os.fsencode(name).isascii():
                continue    # names beyond ASCII are for the tests, not for here
            found[name] = status
            if entry.is_dir(follow_symlinks=False):
                found.update(scan(tree, name))
    return found


class Growing:
    """A tree that grows step by step; each step's changes become a layer."""

    def __init__(self, folder: str, tree: str) -> None:
        self.folder, self.tree = folder, tree
        self.layers: list[dict[str, Any]] = []
        self._before: dict[str, os.stat_result] = {}

    def layer(self) -> None:
        """What changed since the last one. Link targets' own changes of ctime count, as in any image builder."""
        now = scan(self.tree)
        before = self._before
        changed = [name for name, status in now.items()
                   if name not in before or (before[name].st_ctime_ns, before[name].st_ino)
                   != (status.st_ctime_ns, status.st_ino)]
        gone = [name for name in before if name not in now and (os.path.dirname(name) in now or "/" not in name)]
        self.layers.append(write_layer(self.folder, len(self.layers), self.tree, changed, gone))
        self._before = now

    def about(self, source: str) -> dict[str, Any]:
        """Write the image; what is to be known of it."""
        return _about(self.folder, self.layers, self._before, source)


def _about(folder: str, layers: list[dict[str, Any]], merged: dict[str, os.stat_result],
           source: str) -> dict[str, Any]:
    sizes = sum(status.st_size for status in merged.values() if stat.S_ISREG(status.st_mode))
    return {"image": write_image(folder, layers), "entries": len(merged), "bytes": sizes, "source": source,
            "layers": [{key: layer[key] for key in ("size", "packed", "entries")} for layer in layers]}


def write(path: str, data: str | bytes, mode: int = 0o644) -> None:
    """A file and the directories above it."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(data.encode() if isinstance(data, str) else data)
    os.chmod(path, mode)


# ---- the realistic image -------------------------------------------------------------------


def _quietly(command: list[str], log: str, seconds: float) -> None:
    with open(log, "ab") as out:
        try:
            done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, timeout=seconds,
                                  check=False, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C",
                                                    "PATH": SYSTEM_PATH})
        except subprocess.TimeoutExpired:
            raise MissingTool(f"{command[0]} was not done after {seconds:.0f} s") from None
    if done.returncode:
        with open(log, encoding="utf-8", errors="replace") as file:
            last = (file.read().strip().splitlines() or ["no output"])[-1]
        raise MissingTool(f"{os.path.basename(command[0])}: {last}")


def _clean(tree: str) -> None:
    for name in ("var/cache/apt", "var/lib/apt/lists", "var/log", "dev", "tmp", "run"):
        with contextlib.suppress(FileNotFoundError):
            for entry in os.scandir(os.path.join(tree, name)):
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path)
                else:
                    os.unlink(entry.path)
    for name in ("etc/resolv.conf", "etc/hostname"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(tree, name))


def _debian(folder: str) -> dict[str, Any]:
    program = shutil.which("debootstrap", path=SYSTEM_PATH)
    if not program:
        raise MissingTool("debootstrap is not installed")
    tree, log = f"{folder}/tree", f"{folder}/log"
    mirror = os.environ.get("FASTCTR_BENCH_MIRROR")
    # In a mount namespace: whatever becomes of it, no mount of it stays.
    _quietly(["unshare", "-m", program, "--variant=minbase", SUITE, tree, *([mirror] if mirror else [])], log,
             DEBOOTSTRAP_SECONDS)
    growing = Growing(folder, tree)
    _clean(tree)
    growing.layer()
    for packages in STEPS:
        shutil.copy("/etc/resolv.conf", f"{tree}/etc/resolv.conf")
        script = f'mount -t proc proc "$0/proc" && {" ".join(APT)} update && {" ".join(APT)} ' \
                 f'install --no-install-recommends {" ".join(packages)}'
        inside = script.replace(APT[0], f'chroot "$0" {APT[0]}')
        _quietly(["unshare", "-m", "sh", "-c", inside, tree], log, DEBOOTSTRAP_SECONDS)
        _clean(tree)
        growing.layer()
    # The last layer is somebody's program: some small files, a changed one, and what is not wanted taken away.
    for number in range(200):
        write(f"{tree}/srv/app/part_{number // 20}/module_{number}.py", f"NUMBER = {number}\n" * (number + 1))
    write(f"{tree}/etc/motd", "An application.\n")
    for name in ("usr/share/man", "usr/share/lintian"):
        shutil.rmtree(f"{tree}/{name}", ignore_errors=True)
    growing.layer()
    about = growing.about(f"Debian {SUITE} (debootstrap, minbase) with Python, Django and Vim's files")
    shutil.rmtree(tree)
    os.unlink(log)
    return about


def _machine(limit: int, most: int, why: str) -> Callable[[str], dict[str, Any]]:
    """An image of this machine's own files, up to LIMIT bytes and MOST entries."""
    def make(folder: str) -> dict[str, Any]:
        chosen: dict[str, os.stat_result] = {"usr": os.stat("/usr")}
        for top, share in MACHINE:
            room, places = limit * share, len(chosen) + most * share
            chosen[top] = os.stat(f"/{top}")
            for name, status in _walk(top):
                if room <= 0 or len(chosen) >= places:
                    break
                if status.st_size <= limit / 10:
                    chosen[name] = status
                    room -= status.st_size if stat.S_ISREG(status.st_mode) else 0
        names = list(chosen)
        layers = []
        for number in range(6):
            part = names[len(names) * number // 6:len(names) * (number + 1) // 6]
            layers.append(write_layer(folder, number, "/", [*_missing_parents(part), *part]))
        return _about(folder, layers, chosen, f"files of this machine's /usr, because {why}")
    return make


def _walk(top: str) -> Iterable[tuple[str, os.stat_result]]:
    """Files, links and directories below /TOP, one after another: it stops where the taker stops."""
    for folder, folders, files in os.walk(f"/{top}"):
        folders.sort()
        links = [name for name in folders if os.path.islink(f"{folder}/{name}")]
        if folder != f"/{top}":
            yield folder[1:], os.lstat(folder)
        for name in sorted(files) + links:
            status = os.lstat(f"{folder}/{name}")
            if (stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode)) and name.isascii():
                yield f"{folder}/{name}"[1:], status


def _missing_parents(names: list[str]) -> list[str]:
    there, out = set(names), []
    for name in names:
        parts = name.split("/")
        for count in range(1, len(parts)):
            parent = "/".join(parts[:count])
            if parent not in there:
                there.add(parent)
                out.append(parent)
    return out


def realistic(smoke: bool) -> Material:
    """The image that is unpacked and pulled; a small one of this machine's files in a smoke run."""
    if smoke:
        return _cached("small", _machine(SMOKE_BYTES, SMOKE_FILES, "this is a smoke run"))
    try:
        return _cached("debian", _debian)
    except MissingTool as error:
        print(f"no Debian image ({error}): taking this machine's files", file=sys.stderr)
        return _cached("machine", _machine(MACHINE_BYTES, MACHINE_FILES, f"none could be made of Debian: {error}"))


# ---- the small ones ------------------------------------------------------------------------


def _libraries(binaries: Iterable[str]) -> list[str]:
    """The shared libraries and the loader of BINARIES."""
    found = []
    for binary in binaries:
        done = subprocess.run(["ldd", binary], capture_output=True, text=True, check=False)
        found += re.findall(r"(/\S+) \(0x", done.stdout)
    return sorted(set(found))


def _base(tree: str) -> None:
    for name in ("usr/bin", "usr/lib", "etc", "proc", "sys", "dev", "run", "root", "var/lib"):
        os.makedirs(f"{tree}/{name}", exist_ok=True)
    os.makedirs(f"{tree}/tmp", exist_ok=True)
    os.chmod(f"{tree}/tmp", 0o1777)
    for name in ("bin", "lib", "lib64"):
        os.symlink(f"usr/{name}", f"{tree}/{name}")
    os.makedirs(f"{tree}/usr/lib64")
    write(f"{tree}/etc/passwd", "root:x:0:0:root:/root:/bin/sh\n")
    write(f"{tree}/etc/group", "root:x:0:\n")


def _programs(tree: str) -> None:
    for path in BINARIES:
        shutil.copy(path, f"{tree}/usr/bin/{os.path.basename(path)}")
    for path in _libraries(BINARIES):
        target = f"{tree}{path}"
        os.makedirs(os.path.dirname(target), exist_ok=True)
        shutil.copy(os.path.realpath(path), target)


def _layered(folder: str) -> dict[str, Any]:
    tree = f"{folder}/tree"
    os.mkdir(tree, 0o755)
    growing = Growing(folder, tree)
    for number in range(LAYERS):
        if number == 0:
            _base(tree)
        elif number == 1:
            _programs(tree)
        else:
            write(f"{tree}/usr/bin/tool-{number}", f"#!/bin/sh\necho {number}\n", 0o755)
            write(f"{tree}/usr/lib/package-{number}/data", os.urandom(4096))
            write(f"{tree}/usr/lib/package-{number}/module.py", f"NUMBER = {number}\n" * 50)
            write(f"{tree}/etc/package-{number}.conf", f"number = {number}\n")
            write(f"{tree}/var/lib/packages", f"package-{number}\n" * number)
        growing.layer()
    return growing.about("small layers, this machine's libc and a few programs in the second lowest")


def _shared(folder: str) -> dict[str, Any]:
    tree = f"{folder}/tree"
    os.mkdir(tree, 0o755)
    growing = Growing(folder, tree)
    _base(tree)
    _programs(tree)
    growing.layer()
    write(f"{tree}/srv/big", os.urandom(1 << 20) * BIG_MB)
    growing.layer()
    return growing.about(f"a few programs of this machine, and a file of {BIG_MB} MB")


def many_layers() -> Material:
    """60 small layers, and the same merged in `tree`."""
    return _cached("layers", _layered)


def shared() -> Material:
    """The image of the containers that are alive at once."""
    return _cached("shared", _shared)
