"""The leak check itself: each thing that could be left behind is seen."""

from __future__ import annotations

import contextlib
import os
import subprocess

import leaks_support
import pytest

RUNTIME = os.environ["FASTCTR_RUNTIME_DIR"]


@contextlib.contextmanager
def descriptor():
    fd = os.open("/etc/passwd", os.O_RDONLY)
    yield "+ ", "/etc/passwd"
    os.close(fd)


@contextlib.contextmanager
def process():
    with subprocess.Popen(["sleep", "60"]) as child:
        yield "+ ", f"{child.pid}: sleep"
        child.kill()


@contextlib.contextmanager
def zombie():
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    yield f"+ {pid}", "state=Z"
    os.waitpid(pid, 0)


@contextlib.contextmanager
def mount():
    subprocess.run(["mount", "-t", "tmpfs", "leak", "/mnt"], check=True)
    yield "+ ", "/mnt"
    subprocess.run(["umount", "/mnt"], check=True)


@contextlib.contextmanager
def group():
    place = next(m for m in leaks_support.cgroup_mounts() if os.access(m, os.W_OK))
    path = f"{place}/1-1-abc{leaks_support.runtime_tag(RUNTIME)}"
    os.mkdir(path)
    yield "+ ", path
    os.rmdir(path)


@contextlib.contextmanager
def lock():
    path = f"{RUNTIME}/1-1-abc"
    open(path, "w").close()
    yield "+ ", "1-1-abc"
    os.unlink(path)


@contextlib.contextmanager
def scratch():
    path = f"/var/tmp/fastctr-{os.getpid()}-test"
    os.mkdir(path)
    yield "+ ", path
    os.rmdir(path)


@contextlib.contextmanager
def link():
    subprocess.run(["ip", "link", "add", "fctr-leak", "type", "dummy"], check=True, capture_output=True)
    yield "+ ", "fctr-leak"
    subprocess.run(["ip", "link", "del", "fctr-leak"], check=True)


@contextlib.contextmanager
def umask():
    old = os.umask(0o177)
    yield "~ ", "Umask"
    os.umask(old)


@pytest.mark.needs_root
@pytest.mark.parametrize("make", [descriptor, process, zombie, mount, group, lock, scratch, link, umask])
def test_it_is_seen_and_named(make):
    before = leaks_support.Snapshot(RUNTIME, True)
    assert before.difference(leaks_support.Snapshot(RUNTIME, True)) == ""
    try:
        with make() as words:
            found = before.difference(leaks_support.Snapshot(RUNTIME, True))
    except (FileNotFoundError, subprocess.CalledProcessError):
        pytest.skip(f"needs what makes a {make.__name__} (iproute2 with dummy links)")
    assert all(word in found for word in words), found
    assert before.difference(leaks_support.Snapshot(RUNTIME, True)) == ""
