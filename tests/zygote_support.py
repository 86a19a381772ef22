"""What tests of zygotes share: a root file system with this very interpreter in it."""

from __future__ import annotations

import glob
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def python_fields() -> dict[str, object]:
    """Fields of a zygote with this interpreter and its packages."""
    folders = {os.path.dirname(os.path.dirname(os.path.realpath(sys.executable))), sys.prefix}
    shown = [f"{folder}:{folder}:ro" for folder in sorted(folders) if folder not in ("/", "/usr")]
    return {"rootfs": "host", "volumes": shown, "python": sys.executable}


def make_python_root(path: Path) -> Path:
    """A root of its own with the machine's Python and nothing else in it. Skips where there is none."""
    python = os.path.realpath("/usr/bin/python3")
    if not os.path.exists(python):
        pytest.skip("needs /usr/bin/python3 for a root file system: install python3")
    find = "import sysconfig, _ctypes; print(sysconfig.get_path('stdlib')); print(_ctypes.__file__)"
    stdlib, ctypes_so = subprocess.run([python, "-I", "-c", find], capture_output=True, text=True, check=True).stdout.split()
    binaries = [python, ctypes_so, *glob.glob(f"{stdlib}/lib-dynload/_*.so")]
    needed = {python}
    for line in subprocess.run(["ldd", *binaries], capture_output=True, text=True, check=False).stdout.splitlines():
        needed.update(word for word in line.split() if word.startswith("/") and not word.endswith(":"))
    path.chmod(0o755)
    for name in ("bin", "dev", "proc", "sys", "etc", "tmp", "usr/bin", "root"):
        (path / name).mkdir(parents=True, exist_ok=True)
    for file in sorted(needed):
        place = path / file[1:]
        place.parent.mkdir(parents=True, exist_ok=True)
        if os.path.isfile(file) and not place.exists():
            shutil.copy(os.path.realpath(file), place)
    (path / "usr/bin/python3").symlink_to(python)
    left_out = shutil.ignore_patterns("__pycache__", "test", "tests", "idlelib", "tkinter", "ensurepip", "lib2to3",
                                      "config-*", "dist-packages", "pydoc_data", "unittest")
    shutil.copytree(stdlib, path / stdlib[1:], symlinks=False, ignore=left_out, ignore_dangling_symlinks=True)
    return path
