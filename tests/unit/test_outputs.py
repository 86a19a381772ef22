"""OutputFile and the keywords outputs=, files= and user= of a launch, with files of our own."""

from __future__ import annotations

import os

import pytest

fastctr = pytest.importorskip("fastctr")
from fastctr import outputs  # noqa: E402
from fastctr.launch_args import launch_files, launch_user  # noqa: E402


@pytest.fixture
def made(tmp_path):
    (tmp_path / "source").write_bytes(b"0123456789")
    os.chmod(tmp_path / "source", 0o640)
    with outputs.OutputFile("/out/result", os.open(tmp_path / "source", os.O_RDONLY | os.O_CLOEXEC)) as file:
        yield file


def test_reading(made):
    assert (made.size, made.mode, made.path) == (10, 0o640, "/out/result")
    assert (made.read(), made.read(4), made.read(0), made.read(99)) == (b"0123456789", b"0123", b"", b"0123456789")
    assert os.read(made.fileno(), 3) == b"012"
    assert "result" in repr(made)


def test_saving_replaces_the_whole_file_or_nothing(made, tmp_path, monkeypatch):
    target = tmp_path / "target"
    target.write_text("before")

    def broken(*args):
        raise OSError(28, "no room")

    with monkeypatch.context() as patch:
        patch.setattr(os, "copy_file_range", broken)
        with pytest.raises(OSError, match="no room"):
            made.save(target)
    assert target.read_text() == "before"
    made.save(target)
    assert target.read_bytes() == b"0123456789"
    assert sorted(os.listdir(tmp_path)) == ["source", "target"]


@pytest.mark.parametrize("error", [18, 22, 38, 95])
def test_saving_where_the_kernel_does_not_copy(made, tmp_path, monkeypatch, error):
    def refused(*args):
        raise OSError(error, "not here")

    monkeypatch.setattr(os, "copy_file_range", refused)
    made.save(tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == b"0123456789"


def test_a_file_of_the_kernels_that_says_it_is_empty(tmp_path):
    with outputs.OutputFile("/v", os.open("/proc/self/status", os.O_RDONLY)) as file:
        assert file.size == 0
        file.save(tmp_path / "copy")
        assert b"Name:" in file.read()
    assert "Name:" in (tmp_path / "copy").read_text()


def test_paths():
    assert outputs.paths(["/a", b"/b", "/c//d/.", "/a"]) == ["/a", "/b", "/c/d"]
    assert outputs.paths(()) == []
    assert outputs.paths(path for path in ["/a"]) == ["/a"]


def test_files():
    given = {"/a": "ä", "/b": bytearray(b"x"), "/c": (b"", "755"), "/d": ("y", 0o600, 7, 8), "/e": fastctr.File("/other", b"z", uid=3)}
    assert launch_files(given) == [
        ("/a", "ä".encode(), 0o644, -1, -1), ("/b", b"x", 0o644, -1, -1), ("/c", b"", 0o755, -1, -1),
        ("/d", b"y", 0o600, 7, 8), ("/e", b"z", 0o644, 3, 0)]


@pytest.mark.parametrize(
    ("user", "found"),
    [("alice", ("alice", 0, 0)), (1000, ("1000", 0, 0)), ("7:8", (None, 7, 8)), ((7, 8), (None, 7, 8)), ("root", (None, 0, 0)), (0, (None, 0, 0))],
)  # fmt: skip
def test_users(user, found):
    assert launch_user(user) == found
