"""Where image operations are measured: a fresh file system, and namespaces whose traces end with them."""
from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from types import TracebackType
from typing import NamedTuple, Self

from .images_material import SYSTEM_PATH
from .peers import PeerFailed, installed
from .rootfs import busybox
from .worker import SOURCE

DISK_GB, SMOKE_GB = 16, 2
PORT = 5000     # in a network namespace of our own
HOST = f"127.0.0.1:{PORT}"
DISK = "/mnt"   # in a mount namespace of our own; podman wants short paths

# The holder of the namespaces. What peers write outside their stores goes to private copies.
HOLDER = r"""
mount --make-rprivate /
{busybox} ip link set lo up
if [ -n "{image}" ] && mount -o loop "{image}" {disk} 2>/dev/null; then what=loop
else what=plain; mount --bind {folder}/plain {disk}; fi
cd {disk} && mkdir -p .etc .etc-work .opt .opt-work home tmp
echo '{{}}' >home/config.json      # podman wants it
for name in etc opt; do
    mount -t overlay overlay -o "lowerdir=/$name,upperdir=.$name,workdir=.$name-work" "/$name" 2>/dev/null
done
for name in /run /dev/shm; do mount -t tmpfs tmpfs "$name"; done
echo $what
exec {busybox} sleep 1000000
"""


class Took(NamedTuple):
    """What commands took: seconds by the clock, seconds of processor time of theirs, MB resident at most."""

    seconds: float
    cpu: float
    resident_mb: float


class Ground:
    """A folder on a file system made for this run, in mount and network namespaces of their own.

    The file system is an ext4 in a file, mounted by a loop device: a store is removed and made again all the
    time here, and on a file system in use the next side would pay for what the last one left. Where no loop
    device can be had it is a folder of the cache. `enter` makes a command that runs here; `path` is a path
    in here, `outside` the same for this process."""

    def __init__(self, cache: str, smoke: bool) -> None:
        self.folder = tempfile.mkdtemp(prefix="run-", dir=cache)
        self.env = self._environment()
        self._holder: subprocess.Popen[str] | None = None
        try:
            self._hold(self._image(SMOKE_GB if smoke else DISK_GB))
        except BaseException:
            self.close()
            raise

    def _environment(self) -> dict[str, str]:
        disk = DISK
        env = {"PATH": SYSTEM_PATH, "LC_ALL": "C",
               "HOME": f"{disk}/home", "TMPDIR": f"{disk}/tmp", "DOCKER_CONFIG": f"{disk}/home",
               "FASTCTR_REGISTRIES": f"{self.folder}/registries.toml",
               "CONTAINERS_CONF": f"{self.folder}/containers.conf",
               "CONTAINERS_STORAGE_CONF": f"{self.folder}/storage.conf"}
        texts = {"registries.toml": "", "docker.json": "{}",
                 "containers.conf": '[engine]\nlock_type = "file"\nevents_logger = "none"\n',
                 "storage.conf": f'[storage]\ndriver = "overlay"\ngraphroot = "{disk}/podman"\n'
                                 f'runroot = "{disk}/podman-run"\n'}
        for name, text in texts.items():
            with open(f"{self.folder}/{name}", "w", encoding="utf-8") as file:
                file.write(text)
        os.mkdir(f"{self.folder}/plain")
        return env

    def _image(self, size_gb: int) -> str:
        program = shutil.which("mkfs.ext4", path=SYSTEM_PATH)
        if not program:
            return ""
        path = f"{self.folder}/image"
        with open(path, "wb") as file:
            file.truncate(size_gb << 30)
        # All is written now: no kernel thread does it later, in somebody's time.
        done = subprocess.run([program, "-q", "-F", "-i", "8192", "-m", "0", "-E",
                               "lazy_itable_init=0,lazy_journal_init=0", path], capture_output=True, check=False)
        return path if done.returncode == 0 else ""

    def _hold(self, image: str) -> None:
        script = HOLDER.format(busybox=shlex.quote(busybox()), folder=shlex.quote(self.folder), image=image,
                               disk=DISK)
        self._holder = subprocess.Popen(["unshare", "--net", "--mount", "sh", "-c", script], text=True,
                                        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert self._holder.stdout and self._holder.stderr
        said = self._holder.stdout.readline().strip()
        if not said:
            self._holder.wait()
            raise PeerFailed(f"no place to measure in: {self._holder.stderr.read().strip() or 'the holder ended'}")
        self.loop = said == "loop"

    def words(self) -> str:
        """The file system, in words."""
        if self.loop:
            return "a fresh ext4 in a file, on a loop device"
        done = subprocess.run(["stat", "-f", "-c", "%T", self.folder], capture_output=True, text=True, check=False)
        return f"{done.stdout.strip() or 'unknown'}, the cache's own (no loop device could be had)"

    def path(self, *names: str) -> str:
        """A path on the fresh file system."""
        return os.path.join(DISK, *names)

    def outside(self, path: str) -> str:
        """PATH of in here, for a process that is not."""
        assert self._holder
        return f"/proc/{self._holder.pid}/root{path}"

    def enter(self, command: list[str], **env: str) -> list[str]:
        """COMMAND, in here, with the environment of here and ENV."""
        assert self._holder
        words = [f"{name}={value}" for name, value in {**self.env, **env}.items()]
        return ["nsenter", f"--target={self._holder.pid}", "--net", "--mount", "--", "env", "-i", *words, *command]

    def remove(self, *paths: str) -> None:
        """Remove PATHS of in here. Done from outside: whatever a side left mounted there does not hold it."""
        kept = [self.outside(path) for path in paths if path.startswith(f"{DISK}/")]
        if kept:
            subprocess.run(["rm", "-rf", "--", *kept], check=True, stdin=subprocess.DEVNULL)

    def output(self, command: list[str], **env: str) -> str:
        """What COMMAND says in here; raises PeerFailed with its last words."""
        done = subprocess.run(self.enter(command, **env), stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              check=False)
        if done.returncode:
            raise PeerFailed(failure(command, done.stderr or done.stdout))
        return done.stdout

    def timed(self, commands: list[list[str]], **env: str) -> Took:
        """Run COMMANDS one after another in here; raises PeerFailed with the last words of one that fails."""
        seconds = cpu = resident = 0.0
        for command in commands:
            whole = self.enter(command, **env)
            with tempfile.TemporaryFile("w+", errors="replace") as words:
                begin = time.perf_counter()
                process = subprocess.Popen(whole, stdin=subprocess.DEVNULL, stdout=words, stderr=words)
                _, status, usage = os.wait4(process.pid, 0)
                seconds += time.perf_counter() - begin
                process.returncode = os.waitstatus_to_exitcode(status)
                cpu += usage.ru_utime + usage.ru_stime
                resident = max(resident, usage.ru_maxrss / 1024)
                if process.returncode:
                    words.seek(0)
                    raise PeerFailed(failure(command, words.read()))
        return Took(seconds, cpu, resident)

    def close(self) -> None:
        """End the holder: the mounts go with it."""
        if self._holder is not None:
            self._holder.kill()
            self._holder.wait()
            for pipe in (self._holder.stdout, self._holder.stderr):
                if pipe:
                    pipe.close()
            self._holder = None
        until = time.monotonic() + 10
        while os.path.exists(self.folder):  # the loop device may take a moment to let go
            shutil.rmtree(self.folder, ignore_errors=True)
            if time.monotonic() > until:
                print(f"left behind: {self.folder}", file=sys.stderr)
                return
            time.sleep(0.01)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()


def failure(command: list[str], words: str) -> str:
    """Why COMMAND failed, in a line."""
    last = (words.strip().splitlines() or ["it failed without a word"])[-1]
    return f"{os.path.basename(command[0])} {command[1] if len(command) > 1 else ''}: {last[:300]}"


class Daemon:
    """A program that serves in the ground until `close`; READY is asked until it is."""

    def __init__(self, ground: Ground, name: str, command: list[str]) -> None:
        self.name = name
        self.log = open(f"{ground.folder}/{name}.log", "wb")
        self.process = subprocess.Popen(ground.enter(command), stdin=subprocess.DEVNULL, stdout=self.log,
                                        stderr=self.log)

    def wait(self, ready: list[str], seconds: float = 30) -> None:
        """Until the command READY succeeds; raises PeerFailed."""
        until = time.monotonic() + seconds
        while subprocess.run(ready, stdin=subprocess.DEVNULL, capture_output=True, check=False).returncode:
            if self.process.poll() is not None or time.monotonic() > until:
                with open(self.log.name, encoding="utf-8", errors="replace") as file:
                    raise PeerFailed(failure([self.name], file.read()))
            time.sleep(0.02)

    def close(self) -> None:
        """End it as its own signal does, then by force."""
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()


def python_command(code: str) -> list[str]:
    """An interpreter that can import fastctr and runs CODE."""
    path = "" if installed() else f"import sys; sys.path.append({SOURCE!r}); "
    return [sys.executable, "-I", "-c", path + code]


def listens(ground: Ground) -> list[str]:
    """A command that succeeds once somebody listens on PORT in here."""
    return ground.enter([sys.executable, "-I", "-S", "-c",
                         f"import socket; socket.create_connection(('127.0.0.1', {PORT}), 1)"])


__all__ = ["HOST", "Daemon", "Ground", "Took", "failure", "listens", "python_command"]
