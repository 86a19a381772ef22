"""What all tests share: markers that say why something is skipped, a root file system, and the leak
check around every test of tests/integration, tests/leaks and tests/conformance."""

from __future__ import annotations

import contextlib
import fcntl
import gc
import os
import platform
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

import leaks_support

LEAK_CHECKED = ("integration", "leaks", "conformance", "soak")
MARKERS = (
    "needs_root: only root can do this here",
    "needs_user: only an unprivileged user shows this",
    "needs_v1: needs control groups v1 (or hybrid)",
    "needs_v2: needs pure control groups v2",
    "needs_controller(name): needs a controller of control groups",
    "needs_peer(name): needs another container runtime to compare with",
    "needs_userns: needs user namespaces for this user",
    "needs_x86_64: is about system calls of x86_64",
    "no_leak_check: leaves something on purpose, and clears it away in another way",
    "soak: thousands of jobs, as many as FASTCTR_SOAK_JOBS and FASTCTR_CHAOS_ROUNDS say (make soak)",
)
_state: dict[str, object] = {}


def pytest_configure(config: pytest.Config) -> None:
    for line in MARKERS:
        config.addinivalue_line("markers", line)
    if "FASTCTR_RUNTIME_DIR" not in os.environ:  # ours alone: nobody else's sweep comes by
        base = "/run" if os.access("/run", os.W_OK) else None
        made = tempfile.mkdtemp(prefix="fastctr-test-", dir=base)
        _state["made"] = os.environ["FASTCTR_RUNTIME_DIR"] = made
        _state["lock"] = lock = os.open(_lock_of(made), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        _remove_the_dead(os.path.dirname(made))
        if threading.current_thread() is threading.main_thread():  # as by timeout(1): end as by Ctrl-C, and clear up
            signal.signal(signal.SIGTERM, lambda *_: pytest.exit("terminated", 143))
    os.makedirs(os.environ["FASTCTR_RUNTIME_DIR"], 0o700, exist_ok=True)
    _state["mounts"] = leaks_support.own_mount_namespace()


def _lock_of(made: str) -> str:
    """Not in the directory nor named after it: tests look for what holds that open."""
    return f"{os.path.dirname(made)}/fastctr-lock-{made.rpartition('-')[2]}"


def _remove_the_dead(base: str) -> None:
    """Runtime directories of test runs that were killed; their groups go with the next sweep of anybody's."""
    for name in os.listdir(base):
        with contextlib.suppress(OSError):
            if name.startswith("fastctr-test-") and f"{base}/{name}" != _state["made"]:
                with open(_lock_of(f"{base}/{name}")) as lock:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(f"{base}/{name}")
                    os.unlink(lock.name)


def pytest_unconfigure() -> None:
    made = _state.pop("made", None)
    if made:
        maintenance = sys.modules.get("fastctr.maintenance")
        if maintenance is not None:
            maintenance.shutdown()
        os.environ.pop("FASTCTR_RUNTIME_DIR", None)
        shutil.rmtree(str(made), ignore_errors=True)
        os.close(int(str(_state.pop("lock"))))
        os.unlink(_lock_of(str(made)))


# ---- skipping


def _pure_v2() -> bool:
    return os.path.exists("/sys/fs/cgroup/cgroup.controllers")


def _has_v1() -> bool:
    with open("/proc/self/mountinfo") as file:
        return any(" - cgroup " in line for line in file)


def _controllers() -> set[str]:
    found: set[str] = set()
    with open("/proc/self/cgroup") as file:
        for line in file:
            found.update(line.split(":")[1].split(","))
    if _pure_v2():
        with open("/sys/fs/cgroup/cgroup.controllers") as file:
            found.update(file.read().split())
        found |= {"blkio", "cpuacct", "freezer", "devices"}
    return found


def _may_userns() -> bool:
    code = "import ctypes, sys; sys.exit(ctypes.CDLL(None).unshare(0x10000000) != 0)"
    return subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def _reason(mark: pytest.Mark) -> str | None:
    """Why a test with this mark cannot run here, or None."""
    name, arg = mark.name, mark.args[0] if mark.args else ""
    if name == "needs_root" and os.geteuid() != 0:
        return "needs root: run the tests as root to see this"
    if name == "needs_user" and os.geteuid() == 0:
        return "is about unprivileged users: run the tests as one to see this"
    if name == "needs_v1" and not _has_v1():
        return "needs control groups v1, and this machine has v2 alone"
    if name == "needs_v2" and not _pure_v2():
        return "needs control groups v2 alone, and this machine has v1 or both (see docs: tests in a VM)"
    if name == "needs_controller" and arg not in _controllers():
        return f"needs the {arg} controller, which this machine does not have"
    if name == "needs_peer" and shutil.which(arg) is None:
        return f"needs {arg} to compare with: install it"
    if name == "needs_userns" and not _state.setdefault("userns", _may_userns()):
        return "needs user namespaces, which this user may not make here"
    if name == "needs_x86_64" and platform.machine() != "x86_64":
        return f"is about x86_64, and this machine is {platform.machine()}"
    return None


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers():
        reason = _reason(mark)
        if reason is not None:
            pytest.skip(reason)


# ---- leaks


@pytest.fixture(autouse=True)
def leak_check(request: pytest.FixtureRequest):
    """Everything as it was before, once fastctr.shutdown() has returned."""
    wanted = request.node.path.parent.name in LEAK_CHECKED and not request.node.get_closest_marker("no_leak_check")
    if not wanted:
        yield
        return
    fastctr = pytest.importorskip("fastctr")
    pytest.importorskip("fastctr._core")
    runtime, mounts = os.environ["FASTCTR_RUNTIME_DIR"], bool(_state["mounts"])
    before = leaks_support.Snapshot(runtime, mounts)
    yield
    fastctr.shutdown()
    found = before.difference(leaks_support.Snapshot(runtime, mounts))
    if found:  # a traceback that pytest keeps may hold what the test itself had open
        gc.collect()
        fastctr.shutdown()
        found = before.difference(leaks_support.Snapshot(runtime, mounts))
    if found:
        pytest.fail(f"left behind by this test:\n{found}", pytrace=False)


# ---- root file systems


def _is_static(path: str) -> bool:
    """Whether an ELF program names no interpreter (no PT_INTERP)."""
    with open(path, "rb") as file:
        head = file.read(4096)
    if head[:4] != b"\x7fELF" or head[4] != 2:
        return False
    start, size, count = (int.from_bytes(head[at:end], "little") for at, end in ((32, 40), (54, 56), (56, 58)))
    return all(int.from_bytes(head[start + i * size :][:4], "little") != 3 for i in range(count))


def _busybox() -> str:
    for name in ("busybox", "busybox-static", "busybox.static"):
        path = shutil.which(name)
        if path and _is_static(os.path.realpath(path)):
            return os.path.realpath(path)
    pytest.skip("needs a static busybox for a root file system: install the package busybox-static")


PASSWD = "root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1001:Alice:/home/alice:/bin/sh\nbob:x:1002:1002::/:/bin/sh\n"
GROUP = "root:x:0:\nalice:x:1001:\nbob:x:1002:\nstaff:x:50:alice,bob\nvideo:x:44:alice\n"


def make_rootfs(path: Path, busybox: str) -> Path:
    for name in ("bin", "dev", "proc", "sys", "etc", "root", "home/alice", "run", "usr", "mnt", "srv", "var/empty"):
        (path / name).mkdir(parents=True, exist_ok=True)
    (path / "tmp").mkdir(exist_ok=True)
    (path / "tmp").chmod(0o1777)
    (path / "etc/passwd").write_text(PASSWD)
    (path / "etc/group").write_text(GROUP)
    (path / "etc/marker").write_text("from the image\n")
    shutil.copyfile(busybox, path / "bin/busybox")
    (path / "bin/busybox").chmod(0o755)
    applets = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split()
    for applet in applets:
        with contextlib.suppress(FileExistsError):
            (path / "bin" / applet).symlink_to("busybox")
    return path


@pytest.fixture(scope="session")
def busybox() -> str:
    """A static busybox of this machine."""
    return _busybox()


@pytest.fixture(scope="session")
def rootfs(tmp_path_factory: pytest.TempPathFactory, busybox: str) -> str:
    """A directory with busybox, /etc/passwd and /etc/group. Shared by all tests: never write to it."""
    return str(make_rootfs(tmp_path_factory.mktemp("rootfs"), busybox))


@pytest.fixture
def fresh_rootfs(tmp_path: Path, busybox: str) -> str:
    """One of this test's own, to be changed at will."""
    return str(make_rootfs(tmp_path / "root", busybox))


@pytest.fixture(scope="session")
def compile_c(tmp_path_factory: pytest.TempPathFactory):
    """compile_c(name, source) -> path of a static program."""
    cc = shutil.which("gcc") or shutil.which("cc")
    if cc is None:
        pytest.skip("needs a C compiler for programs that try to break out: install gcc")
    folder = tmp_path_factory.mktemp("programs")

    def build(name: str, source: str) -> str:
        out = folder / name
        (folder / f"{name}.c").write_text(source)
        subprocess.run([cc, "-O1", "-static", "-o", str(out), str(folder / f"{name}.c")], check=True)
        out.chmod(out.stat().st_mode | stat.S_IXOTH | stat.S_IXGRP)
        return str(out)

    return build


@pytest.fixture(scope="session")
def probe(compile_c) -> str:
    """tests/probe.c: one small program for what no shell can do."""
    return compile_c("probe", (Path(__file__).parent / "probe.c").read_text())


@pytest.fixture(scope="session")
def planting(tmp_path_factory: pytest.TempPathFactory, rootfs: str, compile_c) -> str:
    """The root file system, with tests/plant.c in it. Shared: never write to it."""
    path = str(tmp_path_factory.mktemp("planting") / "root")
    shutil.copytree(rootfs, path, symlinks=True)
    shutil.copy(compile_c("plant", (Path(__file__).parent / "plant.c").read_text()), f"{path}/bin/plant")
    return path


@pytest.fixture(params=["direct", "prepared", "userns", "disk", "init", "pid=host"])
def any_plan(request, rootfs):
    """Each way of starting has a root of its own at another moment."""
    import fastctr

    fields = {
        "userns": {"userns": True, "uid_map": [(0, 100000, 65536)], "gid_map": [(0, 100000, 65536)]},
        "disk": {"writable": "disk"}, "init": {"init": True}, "pid=host": {"pid": "host"},
    }  # fmt: skip
    with fastctr.Plan(rootfs=rootfs, **fields.get(request.param, {})) as made:
        if request.param == "prepared":
            made.warm(3)
        yield made
