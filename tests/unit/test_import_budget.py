"""What `import fastctr` costs, by what it brings in: counts are the same on every machine, times are not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = str(Path(__file__).parents[2] / "src")
FORBIDDEN = ("dataclasses", "typing", "subprocess", "logging", "argparse", "asyncio", "json", "ctypes", "tempfile", "shutil",
             "pathlib", "re", "inspect", "selectors", "concurrent.futures", "enum", "socket", "contextlib")  # fmt: skip


def _new_modules(code: str) -> set[str]:
    program = f"import sys; before = set(sys.modules)\n{code}\nprint(*sorted(set(sys.modules) - before), sep=chr(10))"
    # the installed package where there is one: the tree has a compiled core only when built in place
    paths = [*(path for path in sys.path if path.endswith("site-packages")), SOURCE]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run([sys.executable, "-S", "-c", program], capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_import_alone() -> None:
    found = _new_modules("import fastctr")
    assert len(found) <= 3, found
    assert not found & set(FORBIDDEN)


@pytest.mark.parametrize("code", ["import fastctr; fastctr.run", "import fastctr; fastctr.Container, fastctr.Plan, fastctr.Spec",
                                  "import fastctr; fastctr.Limits(memory='64m')"])  # fmt: skip
def test_what_a_program_uses_first(code: str) -> None:
    pytest.importorskip("fastctr._core")
    found = _new_modules(code)
    assert not found & set(FORBIDDEN), found & set(FORBIDDEN)
    assert len(found) <= 50, sorted(found)


def test_a_whole_spec() -> None:
    pytest.importorskip("fastctr._core")
    found = _new_modules("import fastctr; fastctr.Spec(rootfs='host', memory='64m', cpus=1, env={'A': 'b'}).to_native()")
    assert not found & set(FORBIDDEN), found & set(FORBIDDEN)
    assert len(found) <= 60, sorted(found)


@pytest.mark.parametrize("code", ["import fastctr; fastctr.images", "import fastctr.from_image", "import fastctr.kept"])
def test_images_before_they_are_used(code: str) -> None:
    pytest.importorskip("fastctr._core")
    found = _new_modules(code)
    assert not found & {*FORBIDDEN, "hashlib", "urllib3", "isal", "zstandard", "rich", "tarfile", "fastctr.image.store"}
    assert len(found) <= 50, sorted(found)


def test_the_exceptions_of_subprocess_come_when_asked_for() -> None:
    pytest.importorskip("fastctr._core")
    assert "subprocess" in _new_modules("import fastctr; fastctr.TimeoutExpired")


def test_everything_named_is_there() -> None:
    pytest.importorskip("fastctr._core")
    import fastctr

    for name in fastctr.__all__:
        assert getattr(fastctr, name) is not None
    assert set(fastctr.__all__) <= set(dir(fastctr))
    with pytest.raises(AttributeError, match="nothing_here"):
        _ = fastctr.nothing_here
