"""The sides of the throughput benchmarks: fastctr's ways to run many jobs, and the peers that have a daemon."""
from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from typing import Any

from .peers import LIMIT_OPTIONS, TOP, UNIFIED, PeerFailed, Side, Stage, cli_command, has_fastctr, installed
from .throughput_worker import NUMPY_ANSWER, NUMPY_JOB, numpy_places
from .worker import LIMITS, SOURCE

THREADS = (1, 2, 4, 8, 16)
POOL = 16   # containers a pool holds: more than a turn takes

#: what a kind of side is made of; a kind whose module is not there is not measured
NEEDS = {"zygote": "numpy", "dask": "distributed"}


def missing(kind: str) -> str:
    """The module a side of this kind lacks, or an empty string."""
    if not has_fastctr():
        return "fastctr"
    wanted = NEEDS.get(kind)
    return wanted if wanted is not None and find_spec(wanted) is None else ""


class ManyStage(Stage):
    """A Stage with the sides of the throughput benchmarks."""

    def end(self) -> None:
        """End all sides: also those of a scenario that broke off."""
        for side in self.sides:
            side.close()
        self.sides.clear()

    def ours(self, name: str, kind: str, argv: str = "/bin/true", **options: object) -> Side | None:
        """A worker of throughput_worker.py, or None where what it needs is not there."""
        if missing(kind):
            return None
        given = {"kind": kind, "argv": [argv], "rootfs": self.rootfs, "size": POOL, **options}
        return self._side(name, [sys.executable, "-m", "bench.throughput_worker", json.dumps(given)])

    def dask(self, tasks: int, turns: int) -> dict[str, Any]:
        """What bench.dask finds: rates and ratio by side. Raises PeerFailed with its last words."""
        out = self.path("dask.json")
        env = dict(os.environ)
        if not installed():
            env["PYTHONPATH"] = os.pathsep.join(filter(None, [env.get("PYTHONPATH"), SOURCE]))
        command = [sys.executable, "-m", "bench.dask", "--tasks", str(tasks), "--turns", str(turns), "--json", out]
        done = subprocess.run(command, cwd=TOP, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              check=False)
        if done.returncode:
            raise PeerFailed(f"bench.dask: {(done.stderr.strip().splitlines() or ['no word'])[-1]}")
        with open(out, encoding="utf-8") as file:
            found: dict[str, Any] = json.load(file)["sides"]
        return found

    def docker(self) -> Side | None:
        """A dockerd of our own, see throughput_docker.py."""
        if not shutil.which("dockerd"):
            return None
        given = {"rootfs": self.rootfs, "argv": ["/bin/true"], "folder": self._folder("docker"),
                 "cgroup": f"{self.cgroup}/docker", "limits": LIMITS}
        return self._side("dockerd", [sys.executable, "-m", "bench.throughput_docker", json.dumps(given)])

    def podman(self) -> Side | None:
        """`podman run --rm` of the root filesystem, an overlay over it made at each start.

        In a pid namespace of its own: what it leaves behind (conmon's zombies) ends with that."""
        program = shutil.which("podman")
        runtime = shutil.which("crun") or shutil.which("runc")
        if not program or not runtime:
            return None
        folder = self._folder("podman")
        conf = f"{folder}/containers.conf"
        with open(conf, "w", encoding="utf-8") as file:
            file.write('[engine]\nlock_type = "file"\nevents_logger = "none"\ncgroup_manager = "cgroupfs"\n')
        where = ["--root", f"{folder}/storage", "--runroot", f"{folder}/run", "--tmpdir", f"{folder}/tmp",
                 "--storage-driver", "overlay", "--runtime", runtime]
        # Its default of more open files than this machine may allow would fail; the others set none.
        asked = [*LIMIT_OPTIONS, "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024", "--security-opt",
                 "no-new-privileges"]
        run = ["run", "--rm", "--network", "none", "--log-driver", "none", "--cgroup-parent", f"{self.cgroup}/podman",
               *asked, "--rootfs", f"{self.rootfs}:O", "/bin/true"]
        own = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        return self._side("podman run", [
            *own, "env", f"CONTAINERS_CONF={conf}", f"HOME={folder}", self.tools["bare"], "-u", UNIFIED, "--",
            program, *where, *run])

    def cold_numpy(self) -> Side | None:
        """An interpreter that imports numpy and does the job of the zygote's sides, without a container."""
        if find_spec("numpy") is None:
            return None
        python, site = numpy_places()
        return self.program("python3, import numpy", [
            python, "-I", "-c", f"import sys; sys.path.append({site!r}); import numpy; "
                                f"sys.exit({NUMPY_JOB} != {NUMPY_ANSWER})"])

    def batch_command(self, jobs: str, *options: str) -> tuple[float, int]:
        """`fastctr batch OPTIONS JOBS`: its peak of resident memory in MB, and its exit code."""
        process = subprocess.Popen([*cli_command(), "batch", "--quiet", "--image", self.rootfs, *options, jobs],
                                   stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        return usage.ru_maxrss / 1024, process.returncode


__all__ = ["NEEDS", "POOL", "THREADS", "ManyStage", "missing"]
