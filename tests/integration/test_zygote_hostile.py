"""What an image's code can do that has taken over a zygote, and what a job can do to the zygote and to others."""

from __future__ import annotations

import json
import os
import pickle
import time

import pytest

import fastctr
from fastctr import zygote_wire
from fastctr.zygote import Zygote
from fastctr.zygote_wire import JobEnded, ResultRefused, ZygoteError
from zygote_support import python_fields


def kernel_has(major: int, minor: int) -> bool:
    return tuple(int(part) for part in os.uname().release.split(".")[:2]) >= (major, minor)


pytestmark = pytest.mark.needs_userns

# What runs as a preloaded module: with all that a zygote has, which is what an image's code can get.
SPY = """
import ctypes, glob, json, os, socket
libc = ctypes.CDLL(None, use_errno=True)
found = {}
found["pids"] = sorted(int(p) for p in os.listdir("/proc") if p.isdigit())
found["uid_map"] = open("/proc/self/uid_map").read().split()
found["caps"] = [l.split()[1] for l in open("/proc/self/status") if l.startswith("CapEff")][0]

def attempt(name, call):
    try:
        result = call()
        found[name] = "did" if result is None else result
    except OSError as error:
        found[name] = error.errno

def sys(name, *args):
    def call():
        if getattr(libc, name)(*args) < 0:
            raise OSError(ctypes.get_errno(), name)
    return call

attempt("core_pattern", lambda: open("/proc/sys/kernel/core_pattern", "w").write("|/evil"))
def fresh_proc():
    os.makedirs("/tmp/p", exist_ok=True)
    sys("mount", b"proc", b"/tmp/p", b"proc", 0, None)()
attempt("proc", fresh_proc)
attempt("core_pattern_of_own_proc", lambda: open("/tmp/p/sys/kernel/core_pattern", "w").write("|/evil"))
attempt("panic_of_own_proc", lambda: open("/tmp/p/sys/kernel/panic", "w").write("1"))
attempt("sysrq", lambda: open("/tmp/p/sysrq-trigger", "w").write("h"))
attempt("pids_of_own_proc", lambda: sorted(int(p) for p in os.listdir("/tmp/p") if p.isdigit()))
attempt("mknod", lambda: os.mknod("/tmp/disk", 0o60600, os.makedev(8, 0)))
attempt("module", sys("syscall", 313, -1, b"", 0))
attempt("bpf", sys("syscall", 321, 0, None, 0))
attempt("perf", sys("syscall", 298, None, 0, -1, -1, 0))
attempt("keyctl", sys("syscall", 250, 0, 0))
attempt("host_uts", sys("sethostname", b"evil", 4))
attempt("reboot", sys("syscall", 169, 0xfee1dead, 672274793, 0x89ABCDEF, 0))
attempt("ptrace_parent", sys("ptrace", 16, os.getppid() or 999999, None, None))
attempt("kill_host", lambda: os.kill(@LAUNCHER@, 9))
found["dials"] = []
for path in ("/run/docker.sock", "/var/run/docker.sock", "/run/systemd/private"):
    s = socket.socket(socket.AF_UNIX)
    try:
        s.connect(path)
        found["dials"].append(path)
    except OSError:
        pass
attempt("shadow_write", lambda: open("/etc/shadow", "a").write(""))   # its own layer's

# and it looks at everything a job's container is made of
fork = os.fork
def spying_fork():
    pid = fork()
    if pid == 0:
        looked = {"fds": sorted(os.readlink("/proc/self/fd/%s" % f) for f in os.listdir("/proc/self/fd")
                                            if os.path.islink("/proc/self/fd/%s" % f))}
        for name in os.listdir("/proc/self/fd"):
            try:
                target = os.readlink("/proc/self/fd/" + name)
            except OSError:
                continue
            if target.startswith("mnt:"):
                again = fork()
                if again == 0:
                    if libc.setns(int(name), 0x20000) == 0:
                        os.chdir("/")
                        looked["mounts"] = sorted(os.listdir("/"))
                        looked["pids"] = [p for p in os.listdir("/proc") if p.isdigit()]
                        looked["old"] = [p for p in ("/p", "/y", "/l", "/e", "/s", "/r") if os.path.exists(p)]
                        tmp = json.dumps(looked)
                    else:
                        tmp = json.dumps({"errno": ctypes.get_errno()})
                    os.write(2, b"SPY " + tmp.encode() + b"\\n")
                    os._exit(0)
                os.waitpid(again, 0)
        return pid
    return pid
os.fork = spying_fork

def report():
    return found
"""


@pytest.fixture
def library(tmp_path):
    def make(name: str, text: str) -> dict[str, object]:
        folder = tmp_path / "lib"
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.py").write_text(text)
        fields = python_fields()
        fields["volumes"] = [*fields["volumes"], f"{folder}:/srv/lib:ro"]
        return {**fields, "env": {"PYTHONPATH": "/srv/lib"}, "preload": [name]}

    return make


@pytest.mark.needs_root
@pytest.mark.needs_x86_64
def test_what_code_in_the_zygote_can_reach(library):
    pattern = open("/proc/sys/kernel/core_pattern").read()
    name = os.uname().nodename
    with Zygote(**library("spy", SPY.replace("@LAUNCHER@", str(os.getpid()))), size=0) as zygote:
        found = zygote.call(lambda: __import__("spy").report())
    assert found["pids"] == [1]
    assert found["uid_map"][0] == "0" and int(found["uid_map"][1]) >= 524288 and found["uid_map"][2] == "65536"
    for what in ("core_pattern", "core_pattern_of_own_proc", "panic_of_own_proc", "sysrq"):
        assert found[what] in (1, 2, 13, 30), (what, found[what])
    assert found["pids_of_own_proc"] in ([1], 1, 2, 13, 22)
    for what in ("mknod", "module", "bpf", "perf", "keyctl", "reboot"):
        assert found[what] in (1, 13), (what, found[what])
    for what in ("ptrace_parent", "kill_host"):
        assert found[what] in (1, 3), (what, found[what])
    assert found["dials"] == []
    assert open("/proc/sys/kernel/core_pattern").read() == pattern
    assert os.uname().nodename == name  # it may set the name of its own container


@pytest.mark.needs_root
def test_a_jobs_container_shows_the_zygote_nothing_of_the_host(library):
    text = SPY.replace("@LAUNCHER@", "999999")
    read, write = os.pipe()
    saved = os.dup(2)
    os.dup2(write, 2)
    try:
        with Zygote(**library("spy", text), size=0) as zygote:
            assert zygote.call(int, "3") == 3
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(write)
    with open(read, "rb") as file:
        said = [line[4:] for line in file.read().splitlines() if line.startswith(b"SPY ")]
    looks = [json.loads(line) for line in said]
    assert any("pids" in look and "fds" in look for look in looks), looks  # it did get in, or nothing is shown
    for look in looks:
        assert look.get("pids", []) == [], look  # nobody is, nor ever will be, in that one's pid namespace
        assert [path for path in look.get("old", []) if not os.path.lexists(path)] == [], look
        files = [target for target in look.get("fds", ()) if target.startswith("/")]
        assert not [f for f in files if not f.startswith(("/memfd:", "/dev/null", "/proc/", "/sys/fs/cgroup/"))], look


def test_a_job_finds_nothing_of_the_zygote_or_of_others():
    with Zygote(**python_fields(), size=2) as zygote:
        other = zygote.start_call(time.sleep, (30,))

        def look():
            import ctypes
            import socket

            libc = ctypes.CDLL(None, use_errno=True)
            found: dict[str, object] = {"pids": [p for p in os.listdir("/proc") if p.isdigit()], "parent": os.getppid()}
            try:
                os.kill(2, 0)
                found["kill-two"] = "did"
            except OSError as error:
                found["kill-two"] = error.errno
            libc.unshare(0x10000000)
            found["unshare-user"] = ctypes.get_errno()
            libc.unshare(0x20000)
            found["unshare-mnt"] = ctypes.get_errno()
            found["mount"] = libc.mount(b"proc", b"/mnt", b"proc", 0, None)
            found["umount-proc"] = libc.umount2(b"/proc", 2)
            kinds = {}
            for fd in os.listdir("/proc/self/fd"):
                try:
                    kinds[fd] = os.readlink(f"/proc/self/fd/{fd}").partition(":")[0]
                except OSError:
                    pass
            found["fds"] = kinds
            sock = socket.socket(fileno=os.dup(3))
            found["peer"] = sock.getpeername()
            shared = [line for line in open("/proc/self/maps") if line.split()[1].endswith("s") and "w" in line.split()[1]]
            found["shared"] = shared
            found["mounts"] = [line.split()[4] for line in open("/proc/self/mountinfo")]
            found["net"] = [line.split(":")[0].strip() for line in open("/proc/net/dev") if ":" in line]
            found["unix"] = len(open("/proc/net/unix").read().splitlines())
            found["cgroup"] = {line.rstrip().split(":")[2] for line in open("/proc/self/cgroup")}
            return found

        found = zygote.call(look)
        other.kill()
    assert found["pids"] == ["1"] and found["parent"] == 0
    assert found["kill-two"] == 3
    assert found["unshare-user"] == 1 and found["unshare-mnt"] == 1 and found["mount"] == -1
    assert found["umount-proc"] == -1
    assert set(found["fds"]) <= {"0", "1", "2", "3", "4"} and found["fds"]["3"] == "socket"
    assert found["shared"] == []
    assert found["mounts"].count("/proc") >= 1 and "/p" not in found["mounts"]
    assert found["net"] == ["lo"] and found["unix"] == 1
    assert found["cgroup"] == {"/"}


def test_results_are_bytes_of_the_containers_choosing():
    """Jobs write what they like to the socket that results go by."""
    with Zygote(**python_fields(), size=1, result_limit="1m") as zygote:
        def say(data: bytes) -> None:
            os.write(3, data)
            time.sleep(20)

        class Evil:
            def __reduce__(self):
                return os.system, ("touch /tmp/fastctr-was-here",)

        evil = pickle.dumps(Evil())
        for data in (b"V" + len(evil).to_bytes(8, "little") + evil, b"garbage-and-more", b"V" + (1 << 40).to_bytes(8, "little"),
                     b"E" + (4).to_bytes(8, "little") + b"\xff\xff\xff\xff", b"V" + (0).to_bytes(8, "little"),
                     b"E" + (9).to_bytes(8, "little") + b"\x05\0\0\0[1,2]", b"S" + (0).to_bytes(8, "little"),
                     b"C" + (3).to_bytes(8, "little") + b"abc", b"F" + (12).to_bytes(8, "little") + b"\xff" * 12):
            with pytest.raises((ResultRefused, JobEnded, fastctr.LaunchError)):
                zygote.call(say, data)
        with pytest.raises((ResultRefused, JobEnded)):
            zygote.call(lambda: os.close(3) or os.abort())
        assert not os.path.exists("/tmp/fastctr-was-here")
        assert zygote.call(int, "5") == 5


@pytest.mark.skipif(not kernel_has(6, 16), reason="needs Linux 6.16 to refuse descriptors")
def test_a_job_cannot_send_descriptors_to_the_caller():
    """One of a lingering socket, say, would hold up whoever closes it."""
    with Zygote(**python_fields(), size=1) as zygote:
        def send() -> object:
            import array
            import socket

            try:
                sock = socket.socket(fileno=os.dup(3))
                sock.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0]))])
            except OSError as error:
                return error.errno
            return "sent"

        assert zygote.call(send) == 1


def test_plain_data_only():
    import collections
    import datetime
    import decimal

    good = [1, "x", {"a": (1, [2.5, None])}, {1}, collections.OrderedDict(a=1), datetime.datetime(2020, 1, 2),
            decimal.Decimal("1.5"), range(3)]
    assert zygote_wire.loads_plain(pickle.dumps(good)) == good
    for bad in (os.system, print, eval, pickle.loads, type, getattr, Exception("x"), zygote_wire):
        try:
            data = pickle.dumps(bad)
        except (TypeError, pickle.PicklingError):
            continue
        with pytest.raises(ResultRefused):
            zygote_wire.loads_plain(data)
    for data in (b"", b"\x80", b"cos\nsystem\n(S'true'\ntR.", b"\x80\x04\x95", b"}" * 10, b"P1\n."):
        with pytest.raises(ResultRefused):
            zygote_wire.loads_plain(data)


def test_arrays_come_as_data_alone():
    numpy = pytest.importorskip("numpy", reason="needs numpy for arrays: install numpy")
    with Zygote(**python_fields(), preload=["numpy"], size=1) as zygote:
        def arrays():
            import numpy as np

            return {"a": np.arange(6).reshape(2, 3), "s": np.float32(1.5), "t": np.array(["x", "yy"]),
                    "d": np.array(["2020-01-02"], "datetime64[D]"), "r": np.zeros(2, [("a", "i4"), ("b", "f8")])}

        got = zygote.call(arrays)
        assert (got["a"] == numpy.arange(6).reshape(2, 3)).all() and got["a"].dtype == numpy.arange(6).dtype
        assert got["s"] == 1.5 and type(got["s"]) is numpy.float32
        assert got["t"].tolist() == ["x", "yy"] and str(got["d"][0]) == "2020-01-02" and got["r"]["b"].tolist() == [0, 0]

        def objects():
            import numpy as np

            return np.array([object()], dtype=object)

        with pytest.raises(ResultRefused):
            zygote.call(objects)
        with pytest.raises(ResultRefused):  # numpy's own pickles are refused: they can be made up
            zygote_wire.loads_plain(pickle.dumps(numpy.arange(3)))


@pytest.mark.parametrize("evil", [
    "import os, socket\nos._exit(0)",
    "import socket\ns = socket.socket(fileno=10)\ns.send(b'garbage')\nimport time; time.sleep(60)",
    "import socket\ns = socket.socket(fileno=10)\ns.send(b'{\"version\": 5}')\nimport time; time.sleep(60)",
    "import socket\ns = socket.socket(fileno=10)\ns.send(b'x' * 150000)\nimport time; time.sleep(60)",
])  # fmt: skip
def test_a_zygote_that_says_nonsense_is_ended(library, evil):
    with Zygote(**library("evil", evil), start_timeout=10) as zygote, pytest.raises(ZygoteError):
        zygote.call(int)


def test_a_zygote_that_answers_nonsense_to_a_fork(library):
    lies = """
import json, os, socket, struct, array
control = socket.socket(fileno=os.dup(10))
control.send(json.dumps({"version": [3, 11, 7], "magic": "00", "pickle": 5, "cloudpickle": False, "fds": []}).encode())
n = 0
while True:
    data, parts, _, _ = control.recvmsg(64, 4096)
    if not data:
        os._exit(0)
    number = struct.unpack("<I", data[:4])[0]
    n += 1
    control.send(b"nonsense")
    control.send(struct.pack("<cIiI", b"P", number + 7, 0, 1))
    fd = os.open("/dev/null", os.O_RDONLY)      # no pidfd
    try:
        control.sendmsg([struct.pack("<cIiI", b"P", number, 0, 1)],
                        [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))])
    except OSError:
        control.send(struct.pack("<cIiI", b"P", number, 11, 1))
    os.close(fd)
"""
    with Zygote(**library("lies", lies), size=1, start_timeout=10) as zygote:
        for _ in range(2):
            with pytest.raises((fastctr.LaunchError, ZygoteError)):
                zygote.call(abs, -1)
