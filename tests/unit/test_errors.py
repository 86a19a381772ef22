"""Errors of the core become exceptions that say what to do."""

from __future__ import annotations

import errno
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fastctr import errors, hints

REPO = Path(__file__).parents[2]


def stages():
    text = (REPO / "csrc/error.c").read_text()
    return re.findall(r'"([^"]+)"', re.search(r"stage_names\[\w+\] = \{(.*?)\};", text, re.DOTALL).group(1))


def test_every_stage_has_general_advice_and_no_other_is_named():
    names = set(stages()) - {"none"}
    assert {stage for stage, code in hints.HINTS if code == 0} == names
    assert {stage for stage, _ in hints.HINTS} == names


def test_docs_list_the_whole_table():
    doc = (REPO / "docs/errors.md").read_text()
    assert hints.table() in doc


def test_launch_error_says_stage_path_reason_and_advice():
    error = errors.from_native("overlay", 3, errno.ENODEV, "/srv/x", "sh")
    assert type(error) is errors.LaunchError and isinstance(error, OSError)
    assert (error.stage, error.index, error.errno, error.path, error.filename) == (
        "overlay",
        3,
        errno.ENODEV,
        "/srv/x",
        "/srv/x",
    )
    assert (
        str(error) == f'overlay: "/srv/x": No such device; {error.hint}' and "modprobe overlay" in error.hint
    )


@pytest.mark.parametrize(
    ("code", "kind", "base", "status"),
    [
        (errno.ENOENT, errors.CommandNotFound, FileNotFoundError, 127),
        (errno.EACCES, errors.CommandNotExecutable, PermissionError, 126),
        (errno.ENOEXEC, errors.CommandNotExecutable, OSError, 126),
        (errno.E2BIG, errors.LaunchError, OSError, 125),
    ],
)
def test_exec_errors_are_told_apart(code, kind, base, status):
    error = errors.from_native("exec", -1, code, "", "prog")
    assert (
        type(error) is kind and isinstance(error, base) and error.exit_code == status and error.path == "prog"
    )


def test_kinds():
    assert type(errors.from_native("limit", 0, errno.ENOENT, "memory.max")) is errors.CgroupError
    assert type(errors.from_native("spec", 0, 0, "rootfs")) is errors.SpecError
    assert type(errors.from_native("memory", 0, 0, "plan")) is errors.LaunchError
    assert isinstance(errors.from_native("clone", 0, errno.ENOSPC, ""), errors.FastctrError)
    assert errors.from_native("clone", 0, 9999, "").hint == hints.HINTS["clone", 0]
    assert errors.from_native("novel", 0, 9999, "").hint


def test_they_survive_pickling():
    for error in (
        errors.from_native("mount", 2, errno.ENOENT, "/a"),
        errors.from_native("exec", 1, errno.ENOENT, "", "x"),
    ):
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is type(error) and str(again) == str(error) and vars(again) == vars(error)


def test_those_of_subprocess_are_lazy_and_subclasses():
    code = "import sys, fastctr.errors as e; assert 'subprocess' not in sys.modules; e.TimeoutExpired"
    subprocess.run([sys.executable, "-c", code], check=True)
    late = errors.TimeoutExpired(["x"], 5, output=b"o")
    assert isinstance(late, subprocess.TimeoutExpired) and isinstance(late, errors.FastctrError)
    assert errors.TimeoutExpired is errors.TimeoutExpired and late.stdout == b"o"
    bad = pickle.loads(pickle.dumps(errors.CalledProcessError(3, ["x"], "out", "err")))
    assert isinstance(bad, subprocess.CalledProcessError) and bad.returncode == 3 and bad.stderr == "err"
    with pytest.raises(AttributeError):
        errors.Nothing  # noqa: B018


def test_shown():
    assert errors.shown('a"b\n') == '"a\\"b\\n"' and len(errors.shown("x" * 500)) == 80

    class Odd:
        def __repr__(self):
            raise RuntimeError

    assert errors.shown(Odd()) == "<Odd>"
