"""A dockerd of the tests' own, for comparison: its data, sockets, mounts and network apart from the machine's.

One for the whole run, started when first asked for; a test module gets the fixture by importing it. It runs in a mount and a network namespace of its own, so what it mounts
goes with it; a watcher ends it when the tests end, also if they are killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time

import pytest

WATCHER = r"""
import ctypes, os, select, signal, subprocess, sys, time
dockerd, root, group = sys.argv[1:4]
if os.fork():
    os._exit(0)
os.setsid()
ctypes.CDLL(None).unshare(0x20000 | 0x40000000)  # mount and network namespaces
subprocess.run(["mount", "--make-rprivate", "/"], check=True)
for place in ("/etc/docker", "/run", "/opt"):  # it makes files and folders there
    if os.path.isdir(place):
        subprocess.run(["mount", "-t", "tmpfs", "none", place], check=True)
subprocess.run(["ip", "link", "set", "lo", "up"], check=False)
log = open(root + "/dockerd.log", "wb")
daemon = subprocess.Popen(
    [dockerd, "--data-root", root + "/data", "--exec-root", root + "/exec", "--pidfile", root + "/pid",
     "--host", "unix://" + root + "/docker.sock", "--bridge=none", "--iptables=false", "--ip-masq=false",
     "--ip-forward=false", "--cgroup-parent", "/" + group, "--config-file", root + "/none.json"],
    stdin=subprocess.DEVNULL, stdout=log, stderr=log,
)
watched = os.pidfd_open(daemon.pid)
select.select([0, watched], [], [])
if daemon.poll() is None:
    daemon.terminate()
    try:
        daemon.wait(15)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()
os.write(1, b"x")
"""


class Dockerd:
    """docker("load", "-i", path) runs the client; it raises AssertionError if that fails."""

    def __init__(self) -> None:
        self.root = tempfile.mkdtemp(prefix="fctr-dockerd-")
        self.group = os.path.basename(self.root)
        with open(self.root + "/none.json", "w") as file:
            file.write("{}")
        self._gone_etc = not os.path.exists("/etc/docker")
        mine, its = os.pipe()  # its standard input: closed when we go
        done, end = os.pipe()
        subprocess.run(
            [sys.executable, "-c", WATCHER, shutil.which("dockerd") or "dockerd", self.root, self.group],
            stdin=mine, stdout=end, check=True,
        )  # fmt: skip
        os.close(mine)
        os.close(end)
        self._alive, self._done = its, done

    def wait(self, seconds: float = 30.0) -> str:
        """"" once it answers, else the end of its log."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if os.path.exists(self.root + "/docker.sock"):
                got = self.run("version")
                if got.returncode == 0:
                    return ""
            time.sleep(0.1)
        with open(self.root + "/dockerd.log", errors="replace") as file:
            return file.read()[-600:] or "no answer"

    def run(self, *args: str, **options: object) -> subprocess.CompletedProcess:
        client = shutil.which("docker", path="/usr/bin:/usr/local/bin:/bin") or "docker"
        env = {**os.environ, "DOCKER_HOST": f"unix://{self.root}/docker.sock", "DOCKER_CONFIG": self.root}
        return subprocess.run([client, *args], capture_output=True, env=env, timeout=60, check=False, **options)

    def __call__(self, *args: str, **options: object) -> str:
        done = self.run(*args, **options)
        assert done.returncode == 0, f"docker {' '.join(args)}: {done.stderr.decode(errors='replace')}"
        return done.stdout.decode(errors="replace").strip()

    def inspect(self, what: str) -> dict:
        return json.loads(self("inspect", what))[0]

    def close(self) -> None:
        os.close(self._alive)
        os.read(self._done, 1)
        os.close(self._done)
        for parent in _groups(self.group):
            _remove_group(parent)
        if self._gone_etc and os.path.isdir("/etc/docker"):
            with contextlib.suppress(OSError):
                os.unlink("/etc/docker/key.json")
                os.rmdir("/etc/docker")
        shutil.rmtree(self.root, ignore_errors=True)


def _groups(name: str) -> list[str]:
    found = []
    with open("/proc/self/mountinfo") as file:
        for line in file:
            left, _, right = line.partition(" - ")
            if right.startswith(("cgroup ", "cgroup2 ")):
                path = f"{left.split()[4]}/{name}"
                if os.path.isdir(path):
                    found.append(path)
    return found


def _remove_group(path: str) -> None:
    for each in os.listdir(path):
        if os.path.isdir(f"{path}/{each}"):
            _remove_group(f"{path}/{each}")
    with contextlib.suppress(OSError):
        os.rmdir(path)


_running: list[Dockerd] = []


@pytest.fixture(scope="session")
def dockerd():
    """A running dockerd, the same for every module that asks for one; or the test is skipped."""
    if _running:
        yield _running[0]
        return
    if os.geteuid() != 0 or shutil.which("dockerd") is None or shutil.which("docker") is None:
        pytest.skip("needs dockerd and root: install docker.io")
    daemon = Dockerd()
    try:
        trouble = daemon.wait()
        if trouble:
            pytest.skip(f"dockerd does not start here: {trouble}")
        _running.append(daemon)
        yield daemon
    finally:
        _running.clear()
        daemon.close()
