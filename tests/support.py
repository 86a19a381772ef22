"""Short words for what most integration tests do."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
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


def out_of(plan: fastctr.Plan, script: str, **kw: Any) -> fastctr.Completed:
    """A shell script in a container of the plan; its output is text, 20 s at most."""
    kw.setdefault("timeout", 20)
    return plan.run(["sh", "-c", script], capture_output=True, text=True, **kw)


def printed(where: Any, *argv: str, **kw: Any) -> str:
    """What a command in slots or a resident prints; it must end well."""
    done = where.run(list(argv), capture_output=True, text=True, timeout=20, **kw)
    assert done.returncode == 0, done
    return str(done.stdout)


def until(check: Callable[[], object], seconds: float = 5.0) -> None:
    """Wait for it to be true."""
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.01)


def keepers() -> list[int]:
    """The keepers of this process (csrc/keeper.c)."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/cmdline", "rb") as file:
                words = file.read().split(b"\0")
            with open(f"/proc/{name}/stat") as file:
                parent = int(file.read().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if words[0] == b"fctr-keep" and parent == os.getpid():
            found.append(int(name))
    return found
