"""csrc/user.c: its C test, with sanitizers."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
def test_user_lookup(tmp_path):
    sources = [ROOT / "tests" / "c" / "test_user.c", ROOT / "csrc" / "user.c", ROOT / "csrc" / "error.c"]
    flags = ["-std=gnu11", "-g", "-O1", "-fsanitize=address,undefined", "-Wall", "-Wextra", "-Werror"]
    subprocess.run(["gcc", *flags, "-o", tmp_path / "t", *sources], check=True)
    subprocess.run([tmp_path / "t"], check=True, timeout=120)
