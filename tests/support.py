"""Short words for what most integration tests do."""

from __future__ import annotations

import os
from typing import Any

import fastctr


def run(argv: list[str], **kw: Any) -> fastctr.Completed:
    """A container whose output is text; 20 s at most."""
    kw.setdefault("timeout", 20)
    return fastctr.run(argv, capture_output=True, text=True, **kw)


def sh(script: str, **kw: Any) -> str:
    """What a shell script in a container prints; it must end well."""
    done = run(["sh", "-c", script], **kw)
    assert done.returncode == 0, f"exit {done.returncode}: {done.stderr}{done.stdout}"
    return done.stdout


def lines(script: str, **kw: Any) -> list[str]:
    return sh(script, **kw).splitlines()


def status(text: str) -> dict[str, str]:
    """/proc/<pid>/status as a dict; proc_pid_status(5)."""
    return {name: value.strip() for name, _, value in (line.partition(":") for line in text.splitlines())}


def status_of(pid: int) -> dict[str, str]:
    with open(f"/proc/{pid}/status") as file:
        return status(file.read())


def namespace(pid: int | str, kind: str) -> str:
    return os.readlink(f"/proc/{pid}/ns/{kind}")


def mountinfo(text: str) -> dict[str, tuple[str, str, set[str]]]:
    """mount point -> (fstype, root, options of the mount and of the file system); the last one wins."""
    found = {}
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        fields, more = left.split(), right.split()
        found[fields[4]] = (more[0], fields[3], {*fields[5].split(","), *more[2].split(",")})
    return found


def inside(pid: int, path: str) -> str:
    """A path of the container as we reach it."""
    return f"/proc/{pid}/root{path}"


def wait_for(stream: Any, word: str = "ready") -> None:
    """Block until the container has printed a line with `word`."""
    while True:
        line = stream.readline()
        line = line.decode() if isinstance(line, bytes) else line
        assert line, f'it ended without printing "{word}"'
        if word in line:
            return


def running(rootfs: str, script: str = "echo ready; exec sleep 60", **kw: Any) -> fastctr.Container:
    """A container that has printed "ready" and stays; use it as a context manager."""
    made = fastctr.Container(["sh", "-c", script], rootfs=rootfs, stdin=fastctr.DEVNULL, stdout=fastctr.PIPE, **kw)
    try:
        wait_for(made.stdout)
    except BaseException:
        made.close()
        raise
    return made
