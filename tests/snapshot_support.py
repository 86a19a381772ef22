"""Stores, layers and programs for the tests of snapshots."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

TESTS = str(Path(__file__).resolve().parent)
MAP = [(0, 100000, 65536)]


def layer(top, name, files=(), opaque=(), gone=(), marks="trusted.overlay.opaque"):
    """A directory as a store's layer is: <top>/<name>/diff beside layer.json. Returns it."""
    path = f"{top}/{name}/diff"
    os.makedirs(path)
    for each, text in dict(files).items():
        os.makedirs(os.path.dirname(f"{path}/{each}"), exist_ok=True)
        with open(f"{path}/{each}", "w") as file:
            file.write(text)
    for each in opaque:
        os.makedirs(f"{path}/{each}", exist_ok=True)
        os.setxattr(f"{path}/{each}", marks, b"y")
    for each in gone:
        os.mknod(f"{path}/{each}", 0o020000, 0)
    with open(f"{top}/{name}/layer.json", "w") as file:
        json.dump({"chain": name}, file)
    return path


def stack(top, rootfs, count):
    """`count` layers on top of a copy of rootfs, topmost first: each adds /only<n>; the second hides things."""
    base = f"{top}/base/diff"
    shutil.copytree(rootfs, base, symlinks=True)
    for name in ("opq/old", "gone"):
        os.makedirs(os.path.dirname(f"{base}/{name}"), exist_ok=True)
        Path(f"{base}/{name}").touch()
    with open(f"{top}/base/layer.json", "w") as file:
        file.write("{}")
    hides = layer(top, "hides", {"opq/new": ""}, opaque=["opq"], gone=["gone"])
    return [*(layer(top, f"n{n}", {f"only{n}": ""}) for n in range(count - 2)), hides, base]


LOOK = "ls -d /only* | wc -l; ls /opq; test -e /gone && echo there; stat -c %u /opq/new"


def start(code, *args, user=False, **more):
    """A Python program with the tests' modules at hand; user=True: as uid 1000 (skips where that cannot work)."""
    paths = [TESTS, *(path for path in sys.path if path)]
    command = [sys.executable]
    if user:
        command, paths = as_user(paths)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": "1"}
    if user:
        env.update(HOME="/tmp", FASTCTR_RUNTIME_DIR="")
        env.pop("XDG_RUNTIME_DIR", None)
    return subprocess.Popen([*command, "-c", textwrap.dedent(code), *map(str, args)], env=env, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more)  # fmt: skip


def run(code, *args, **more):
    """Its output's lines; it must end well."""
    process = start(code, *args, **more)
    out, err = process.communicate(timeout=100)
    assert process.returncode == 0, out + err
    return out.splitlines()


def _reachable(path):
    path = os.path.realpath(path)
    try:
        while path != "/":
            if not os.stat(path).st_mode & 0o001:
                return False
            path = os.path.dirname(path)
    except OSError:
        return False
    return True


def as_user(paths):
    import pytest

    if shutil.which("setpriv") is None:
        pytest.skip("needs setpriv: install util-linux")
    python = os.path.realpath(sys.executable)
    if not (_reachable(python) and _reachable(sys.base_prefix)):
        python = f"/usr/bin/python3.{sys.version_info[1]}"
        paths = [path for path in paths if _reachable(path)]
        if not os.access(python, os.X_OK):
            pytest.skip(f"an unprivileged user reaches neither {sys.executable} nor {python}")
    if not _reachable(os.path.join(next(p for p in sys.path if os.path.isdir(f"{p}/fastctr")), "fastctr")):
        pytest.skip("needs a place that other users can reach: fastctr is installed below a directory closed to them")
    return ["setpriv", "--reuid", "1000", "--regid", "1000", "--clear-groups", python], paths


class UserFolder:
    """A directory of uid 1000's, where it can reach it."""

    def __enter__(self):
        self.path = tempfile.mkdtemp(prefix="fastctr-user-", dir="/tmp")
        os.chown(self.path, 1000, 1000)
        return self.path

    def __exit__(self, *exc):
        shutil.rmtree(self.path, ignore_errors=True)
