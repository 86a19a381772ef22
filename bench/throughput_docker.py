"""A dockerd of the benchmark's own and starts through its API: `python -m bench.throughput_docker JSON`.

Requests as in worker.py ("go N PAUSE_MS", "rate THREADS SECONDS"). One start is what `docker run --rm --network none`
asks of the daemon: create, wait for the removal, start; without the client's process and without its
attaching to the output, which favours docker. The daemon, its data (on a tmpfs), its network and all its
processes are in namespaces of their own and end with them.
"""
from __future__ import annotations

import http.client
import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import tarfile
import threading
import time
from typing import Any

from .worker import Job, answer, serve

READY_SECONDS = 30.0
IMAGE = "fctr-bench"
API = "/v1.40"

# Ends when our end of its standard input is closed, and everything in its pid namespace with it.
HOLDER = r"""
mount --make-rprivate /
for place in /etc/docker /run /opt; do [ -d "$place" ] && mount -t tmpfs none "$place"; done
mkdir -p {folder}/root && mount -t tmpfs none {folder}/root
ip link set lo up
{dockerd} --config-file {folder}/none.json --data-root {folder}/root/data --exec-root {folder}/root/exec \
    --pidfile {folder}/root/pid --host unix://{folder}/socket --bridge=none --iptables=false --ip6tables=false \
    --ip-forward=false --ip-masq=false --userland-proxy=false --storage-driver overlay2 --log-level error \
    --cgroup-parent {cgroup} </dev/null >{folder}/log 2>&1 &
cat >/dev/null
kill -TERM $!
wait $!
"""


class Connection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=60)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.sock.connect(self.path)

    def ask(self, method: str, path: str, body: Any = None) -> None:
        """Send a request; `reply` reads its answer."""
        data = json.dumps(body).encode() if body is not None else b""
        self.request(method, API + path, data, {"Content-Type": "application/json"})

    def reply(self) -> Any:
        """The answer; raises RuntimeError with the daemon's words."""
        got = self.getresponse()
        data = got.read()
        if got.status >= 400:
            raise RuntimeError(f"dockerd: {got.status} {data.decode(errors='replace').strip()}")
        return json.loads(data) if data.strip() else None


class DockerJob(Job):
    """Starts by the API; each thread has two connections."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.folder: str = options["folder"]
        self.socket = f"{self.folder}/socket"
        self.connections = threading.local()
        with open(f"{self.folder}/none.json", "w", encoding="utf-8") as file:
            file.write("{}")
        self.no_etc = not os.path.exists("/etc/docker")     # dockerd makes it before anything is mounted there
        if self.no_etc:
            os.mkdir("/etc/docker")
        script = HOLDER.format(folder=shlex.quote(self.folder), dockerd=shutil.which("dockerd") or "dockerd",
                               cgroup=shlex.quote(options["cgroup"]))
        self.holder = subprocess.Popen(["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child",
                                        "--mount-proc", "sh", "-c", script], stdin=subprocess.PIPE)
        try:
            self._wait()
            self._load(options["rootfs"])
        except BaseException:
            self.end()
            raise
        limits = options["limits"]
        self.body = {
            "Image": IMAGE, "Cmd": options["argv"], "HostConfig": {
                "AutoRemove": True, "NetworkMode": "none", "Memory": int(limits["memory"].removesuffix("m")) << 20,
                "NanoCpus": int(limits["cpus"] * 1e9), "PidsLimit": limits["pids"], "LogConfig": {"Type": "none"},
                "SecurityOpt": ["no-new-privileges"]}}

    def _wait(self) -> None:
        until = time.monotonic() + READY_SECONDS
        while True:
            try:
                asked = Connection(self.socket)
                asked.ask("GET", "/version")
                asked.reply()
                return
            except OSError:
                if self.holder.poll() is not None or time.monotonic() > until:
                    with open(f"{self.folder}/log", encoding="utf-8", errors="replace") as file:
                        raise RuntimeError(f"dockerd does not start: {file.read()[-400:]}") from None
                time.sleep(0.05)

    def _load(self, rootfs: str) -> None:
        path = f"{self.folder}/rootfs.tar"
        with tarfile.open(path, "w") as archive:
            archive.add(rootfs, "/")
        connection = Connection(self.socket)
        with open(path, "rb") as file:
            connection.request("POST", f"{API}/images/create?fromSrc=-&repo={IMAGE}&tag=latest", file,
                               {"Content-Type": "application/x-tar", "Content-Length": str(os.stat(path).st_size)})
        said = connection.getresponse().read().decode(errors="replace")
        if '"error"' in said:
            raise RuntimeError(f"dockerd takes no image: {said[-300:]}")

    def once(self) -> None:
        mine = self.connections
        if not hasattr(mine, "one"):
            mine.one, mine.other = Connection(self.socket), Connection(self.socket)
        mine.one.ask("POST", "/containers/create", self.body)
        name = mine.one.reply()["Id"]
        mine.other.ask("POST", f"/containers/{name}/wait?condition=removed")
        mine.one.ask("POST", f"/containers/{name}/start")
        mine.one.reply()
        ended = mine.other.reply()
        if ended["StatusCode"] != 0:
            raise RuntimeError(f"docker: {ended}")

    def settle(self) -> None:
        """Nothing of ours is prepared."""

    def end(self) -> None:
        """End the daemon and all its processes."""
        assert self.holder.stdin
        self.holder.stdin.close()
        try:
            self.holder.wait(20)
        except subprocess.TimeoutExpired:
            self.holder.kill()      # and, by its death, the pid namespace
            self.holder.wait()
        if self.no_etc:
            for name in os.listdir("/etc/docker"):
                os.unlink(f"/etc/docker/{name}")
            os.rmdir("/etc/docker")


def main() -> int:
    made: list[DockerJob] = []

    def make(options: dict[str, Any]) -> DockerJob:
        made.append(DockerJob(options))
        return made[0]

    try:
        return serve(make, answer)
    finally:
        for job in made:
            job.end()


if __name__ == "__main__":
    sys.exit(main())
