"""The sides: each starts the same command in its own worker process and answers microseconds."""
from __future__ import annotations

import glob
import json
import os
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from types import TracebackType
from typing import Self

from . import bundle, policy, rootfs
from .worker import LIMITS, SOURCE

TOP = os.path.dirname(SOURCE)
UNIFIED = "/sys/fs/cgroup/unified"
THREADS = 8
SECCOMP_FD = 9
LIMIT_OPTIONS = ("--memory", str(LIMITS["memory"]), "--cpus", str(LIMITS["cpus"]), "--pids-limit", str(LIMITS["pids"]))


class PeerFailed(RuntimeError):
    """A side's worker reported a start that failed, or ended."""


class Side:
    """One worker process and its line protocol. Not started before the first request."""

    def __init__(self, name: str, command: list[str]) -> None:
        self.name, self.command = name, command
        self.second: list[float] = []   # the second column of the last `go`, where there is one
        self._process: subprocess.Popen[str] | None = None

    def _ask(self, request: str) -> list[str]:
        if self._process is None:
            self._process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                             text=True, cwd=TOP)
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin and stdout
        try:
            stdin.write(request + "\n")
            stdin.flush()
        except BrokenPipeError:
            pass    # its last words are read below
        lines: list[str] = []
        for line in stdout:
            line = line.rstrip("\n")
            if line == "end":
                return lines
            if line.startswith("error"):
                raise PeerFailed(f"{self.name}: {line}")
            lines.append(line)
        raise PeerFailed(f"{self.name}: its worker ended while asked to {request!r}")

    def go(self, count: int, pause_ms: int = 0) -> list[float]:
        """COUNT starts one after another, each after a pause; microseconds of each."""
        rows = [line.split() for line in self._ask(f"go {count} {pause_ms}")]
        self.second = [float(row[1]) for row in rows if len(row) > 1]
        return [float(row[0]) for row in rows]

    def rate(self, threads: int, seconds: float) -> float:
        """Starts per second with THREADS threads."""
        count, took = self._ask(f"rate {threads} {seconds}")[0].split()
        return int(count) / float(took)

    def ask(self, request: str) -> list[float]:
        """Any other request whose answer is one figure a line."""
        return [float(line) for line in self._ask(request)]

    def rows(self, request: str) -> list[list[float]]:
        """Any other request whose answer is some figures a line."""
        return [[float(word) for word in line.split()] for line in self._ask(request)]

    def close(self) -> None:
        """End the worker."""
        if self._process is None:
            return
        assert self._process.stdin and self._process.stdout
        try:
            self._process.stdin.close()
        except BrokenPipeError:
            pass
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._process = None


class Stage:
    """A temporary folder with the tools, the root filesystem and the bundles; makes sides. A context
    manager that leaves nothing behind."""

    def __init__(self) -> None:
        self.folder = tempfile.mkdtemp(prefix="fctr-bench-")
        self.sides: list[Side] = []
        self.cgroup = f"/fctr-bench-{os.getpid()}"
        try:
            self._prepare()
        except BaseException:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise

    def _prepare(self) -> None:
        self.tools = rootfs.build_tools(self.folder)
        self.rootfs = rootfs.make_rootfs(self.path("rootfs"), self.tools["tiny"])
        self.seccomp = policy.default_policy()
        with open(self.path("policy"), "w", encoding="utf-8") as file:
            file.write(policy.as_text(self.seccomp))
        subprocess.run([self.tools["classic"], "-p", self.path("policy"), "-e", self.path("policy.bpf")],
                       check=True)

    def path(self, name: str) -> str:
        """A path in the stage's folder."""
        return os.path.join(self.folder, name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        for side in self.sides:
            side.close()
        self._remove_groups()
        shutil.rmtree(self.folder)

    def _remove_groups(self) -> None:
        for top in ("/sys/fs/cgroup", *glob.glob("/sys/fs/cgroup/*/")):
            ours = top.rstrip("/") + self.cgroup
            for group in (*glob.glob(f"{ours}/*/*/"), *glob.glob(f"{ours}/*/"), ours):
                if os.path.isdir(group):
                    try:
                        os.rmdir(group)
                    except OSError as error:
                        print(f"left behind: {group}: {error}", file=sys.stderr)

    def _folder(self, name: str) -> str:
        return tempfile.mkdtemp(prefix=f"{name}-", dir=self.folder)

    def _side(self, name: str, command: list[str]) -> Side:
        side = Side(name, command)
        self.sides.append(side)
        return side

    # ---- the sides ---------------------------------------------------------------------

    def bare(self, binary: str = "tiny") -> Side:
        """vfork and exec of a static binary of the root filesystem, on the host."""
        name = "true" if binary == "busybox" else binary
        return self._side(f"bare {binary}", [self.tools["bare"], "--", f"{self.rootfs}/bin/{name}"])

    def program(self, name: str, argv: list[str]) -> Side:
        """vfork and exec of any program on the host."""
        return self._side(name, [self.tools["bare"], "--", *argv])

    def classic(self, command: str = "/bin/true") -> Side:
        """The reference of classic.c."""
        return self._side("classic", [self.tools["classic"], "-p", self.path("policy"), "-r", self.rootfs,
                                      "-d", self._folder("classic"), "--", command])

    def python(self, name: str, kind: str, argv: list[str], resident_mb: int = 0, mounts: int = -1) -> Side:
        """A worker of worker.py. MOUNTS -1: in the mount namespace we have; else in a private one with
        so many more mounts."""
        options = {"kind": kind, "argv": argv, "rootfs": self.rootfs, "resident_mb": resident_mb}
        command = [sys.executable, "-m", "bench.worker", json.dumps(options)]
        if mounts >= 0:
            extra = ["-m", f"{mounts}:{self._folder('mounts')}"] if mounts else []
            command = [self.tools["bare"], "-p", *extra, "-x", "--", *command]
        return self._side(name, command)

    def plan(self, name: str = "fastctr", argv: str = "/bin/true", resident_mb: int = 0,
             mounts: int = -1) -> Side:
        """fastctr's plan.run; see `python`."""
        return self.python(name, "plan", [argv], resident_mb, mounts)

    def cold(self) -> Side:
        """fastctr with a fresh plan for every start."""
        return self.python("fastctr, fresh plan", "cold", ["/bin/true"])

    def subprocess(self) -> Side:
        """subprocess.run on the host."""
        return self.python("subprocess.run", "subprocess", [os.path.join(self.rootfs, "bin/true")])

    def runtime(self, name: str, mounts: int = 0, threads: int = THREADS) -> Side | None:
        """crun or runc: `run` of a bundle whose root is an overlay mounted beforehand; None where it is
        not installed. MOUNTS: so many more mounts on its host; THREADS: bundles, one a thread."""
        program = shutil.which(name)
        if not program:
            return None
        folder = self._folder(name)
        merged = f"{folder}/overlay/merged"
        os.mkdir(f"{folder}/overlay")
        label = os.path.basename(folder)
        bundle.make_bundles(f"{folder}/b", threads, merged, ["/bin/true"], f"{self.cgroup}/{label}",
                            self.seccomp)
        extra = ["-m", f"{mounts}:{self._folder('mounts')}"] if mounts else []
        return self._side(f"{name} run, {mounts:,} more mounts" if mounts else f"{name} run", [
            self.tools["bare"], "-u", UNIFIED, *extra, "-o", f"{self.rootfs}:{folder}/overlay", "--",
            program, "--root", f"{folder}/overlay/state", "run", "--bundle", f"{folder}/b{{}}",
            f"{label}-{{}}"])

    def bwrap(self, user_namespace: bool = False) -> Side | None:
        """bubblewrap, on an overlay mounted beforehand."""
        program = shutil.which("bwrap")
        if not program:
            return None
        folder = self._folder("bwrap")
        argv = bundle.bwrap(f"{folder}/merged", ["/bin/true"], SECCOMP_FD, user_namespace)
        name = "bwrap, user namespace" if user_namespace else "bwrap"
        return self._side(name, [self.tools["bare"], "-o", f"{self.rootfs}:{folder}",
                                 "-s", self.path("policy.bpf"), "--", program, *argv])

    def traced(self, side: Side, out: str) -> list[str]:
        """The command that starts SIDE's program once, its system calls written to OUT by strace."""
        cut = side.command.index("--")
        head, program = side.command[:cut], [word.replace("{}", "0") for word in side.command[cut + 1:]]
        strace = ["strace", "-f", "-q", "-o", out, "--", *program]
        if "-s" in head:
            strace = ["sh", "-c", f'exec "$@" {SECCOMP_FD}<"$0"', self.path("policy.bpf"), *strace]
        env = shutil.which(strace[0]) or strace[0]
        return [*head, "-x", "--", env, *strace[1:]]

    def cli(self) -> Side:
        """`fastctr run` from a shell's point of view."""
        return self.program("fastctr run", [*cli_command(), "run", *LIMIT_OPTIONS, self.rootfs, "--", "/bin/true"])


def has_fastctr() -> bool:
    """Is there a built fastctr, installed or in this tree?"""
    if SOURCE not in sys.path:
        sys.path.append(SOURCE)
    return find_spec("fastctr") is not None and find_spec("fastctr._core") is not None


def stamp() -> tuple[float, int]:
    """What tells one build of fastctr's core from another."""
    spec = find_spec("fastctr._core") if has_fastctr() else None
    if spec is None or spec.origin is None:
        return (0.0, 0)
    found = os.stat(spec.origin)
    return (found.st_mtime, found.st_size)


def installed() -> bool:
    """Is fastctr on a fresh interpreter's own path?"""
    probe = "import importlib.util as u, sys; sys.exit(u.find_spec('fastctr') is None)"
    return subprocess.run([sys.executable, "-I", "-c", probe], check=False).returncode == 0


def cli_command() -> list[str]:
    """The `fastctr` command: the installed script, else the module run by this interpreter."""
    script = os.path.join(os.path.dirname(sys.executable), "fastctr")
    if os.path.exists(script) and installed():
        return [script]
    code = f"import sys; sys.path.append({SOURCE!r}); from fastctr.cli import main; sys.exit(main())"
    return [sys.executable, "-I", "-c", code]


def import_command(use: str = "") -> list[str]:
    """An interpreter that imports fastctr, does USE and ends."""
    path = "" if installed() else f"import sys; sys.path.append({SOURCE!r}); "
    return [sys.executable, "-I", "-c", f"{path}import fastctr; {use}"]
