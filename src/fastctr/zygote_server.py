"""The interpreter inside a zygote's container: it imports, waits, and forks itself into jobs' containers.

Given in as text and run by the image's own Python (3.8 and later, with ctypes), so it uses the standard
library alone and nothing of fastctr. It has power over its own user namespace and nothing else. Each request
on the control socket brings the steps and descriptors of one job's container; the child that is forked for
it walks them by the small library `fctr-zygote`, is then a process like any other container's first, says
so on the job's own socket and waits there for what it is to do. See zygote_host.py for the other side.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # signal makes an enum of each number
import _socket
import array
import ctypes
import gc
import importlib
import importlib.util
import json
import mmap
import os
import pickle
import select
import socket
import struct
import sys
import traceback
import types
import warnings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .zygote_task import job, name_markers, rehearsal, rehearse, reseed

NEWPID = 0x20000000
JOB = 3  # the job's socket, in the job
HEAD = struct.Struct("<IQ")  # of what a job is sent: lengths of the options and of the pickle
ANSWER = struct.Struct("<cQ")  # of what it sends: kind and length
MAX_FDS = 32
AHEAD, INTRODUCED = 1, 2  # flags of a request: its job is not there yet; the child says who it is
THREADS = tuple(name + "_NUM_THREADS" for name in ("OMP", "OPENBLAS", "MKL", "BLIS", "NUMEXPR"))


def receive(sock: socket.socket, size: int) -> tuple[bytes, list[int]]:
    fds = array.array("i")
    data, parts, _, _ = sock.recvmsg(size, socket.CMSG_SPACE(MAX_FDS * fds.itemsize))
    for level, kind, part in parts:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(part[: len(part) - len(part) % fds.itemsize])
    return data, list(fds)


def exactly(sock: socket.socket, size: int) -> bytearray:
    data = bytearray(size)
    view = memoryview(data)
    while view:
        n = sock.recv_into(view)
        if n == 0:
            os._exit(125)
        view = view[n:]
    return data


def answer(sock: socket.socket, kind: bytes, data: bytes = b"") -> None:
    if len(data) < 65536:
        sock.sendall(ANSWER.pack(kind, len(data)) + data)
    else:
        sock.sendall(ANSWER.pack(kind, len(data)))
        sock.sendall(data)


class Zygote:
    def __init__(self, control: int, library: int) -> None:
        self.control = socket.socket(fileno=control)
        self.mine = {control, library}
        self.lib = ctypes.CDLL(f"/proc/self/fd/{library}")
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.enter = self.lib.fctr_zygote_enter
        self.pid_namespace = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        self.mine.add(self.pid_namespace)
        self.shared: list[tuple[int, int, int]] = []
        self.rehearsal = b""

    # ---- before the first job

    def prepare(self, setup: dict[str, Any], sources: dict[str, str]) -> dict[str, Any]:
        ours = [name for name in THREADS if name not in os.environ]
        os.environ.update(dict.fromkeys(ours, "1"))  # threads do not live on in a fork
        try:
            importlib.import_module("cloudpickle")
        except ImportError:
            try:
                supply(sources)
            except Exception:  # noqa: BLE001 it may be too new for this Python: then without
                for name in sources:
                    sys.modules.pop(name, None)
        for name in setup["preload"]:
            importlib.import_module(name)
        for name in ours:
            del os.environ[name]
        threading = sys.modules.get("threading")
        if threading is not None and threading.active_count() > 1:
            names = ", ".join(t.name for t in threading.enumerate() if t is not threading.main_thread())
            raise RuntimeError(f"the preloaded modules have started threads, which a fork leaves behind: {names}")
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        self.shared = shared_memory()
        self.rehearsal = rehearsal()
        gc.collect()
        gc.freeze()  # so that the collector does not write to pages the jobs share
        gc.disable()
        return {
            "version": list(sys.version_info[:3]),
            "magic": importlib.util.MAGIC_NUMBER.hex(),
            "pickle": pickle.HIGHEST_PROTOCOL,
            "cloudpickle": "cloudpickle" in sys.modules,
            "fds": sorted(set(descriptors()) - self.mine),
        }

    # ---- forking

    def serve(self) -> None:
        read, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        _signal.signal(_signal.SIGCHLD, lambda *_: None)
        _signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        poll = select.poll()
        poll.register(self.control, select.POLLIN)
        poll.register(read, select.POLLIN)
        while True:
            for fd, _ in poll.poll():
                if fd == read:
                    os.read(read, 4096)
                    self.reap()
                else:
                    data, fds = receive(self.control, 64)
                    if not data:
                        os._exit(0)  # the launcher is gone; as pid 1 we take everything along
                    self.fork(data, fds)

    def reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            try:  # for kernels that do not tell it by a pidfd
                self.control.send(struct.pack("<cIi", b"S", pid, status), socket.MSG_DONTWAIT)
            except BlockingIOError:
                pass

    def fork(self, data: bytes, fds: list[int]) -> None:
        number, place, flags = struct.unpack("<III", data)
        pid = pidfd = -1
        error = 0
        result = ctypes.create_string_buffer(64)  # here: a child's first touch of anything copies a page
        numbers = (ctypes.c_int * len(fds))(*fds)
        try:
            if self.libc.unshare(NEWPID) < 0:
                raise OSError(ctypes.get_errno(), "unshare")
            try:
                pid = os.fork()
                if pid == 0:
                    self.child(numbers, len(fds), result, fds[place], flags)
            finally:
                if pid != 0 and self.libc.setns(self.pid_namespace, NEWPID) < 0:
                    os._exit(1)
            if not flags & INTRODUCED:
                pidfd = os.pidfd_open(pid) if hasattr(os, "pidfd_open") else self.libc.syscall(434, pid, 0)
        except OSError as problem:
            error = problem.errno or 5
        if error or pidfd >= 0:
            reply = struct.pack("<cIiI", b"P", number, error, max(pid, 0))
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [pidfd]))] if pidfd >= 0 else []
            self.control.sendmsg([reply], rights)
        for fd in (*fds, pidfd):
            if fd >= 0:
                os.close(fd)

    def child(self, numbers: Any, count: int, result: Any, theirs: int, flags: int) -> None:
        code = 125
        try:
            if flags & INTRODUCED:
                os.write(theirs, b"P")  # the kernel says who wrote it
            for at, size, prot in self.shared:
                if self.lib.fctr_zygote_private(ctypes.c_void_p(at), ctypes.c_size_t(size), prot) < 0:
                    os._exit(125)
            if self.enter(numbers, count, result) < 0:
                report = ANSWER.pack(b"F", 12) + result.raw[:12]
                for fd in (theirs, JOB):  # which of them is open depends on how far it came
                    try:
                        os.write(fd, report)
                        break
                    except OSError:
                        pass
                os._exit(125)
            _signal.set_wakeup_fd(-1)
            _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
            self.control.detach()  # closed, as every other descriptor
            os.set_inheritable(JOB, False)
            sock: Any = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0, JOB)
            reseed()
            gc.enable()
            if flags & AHEAD:
                rehearse(self.rehearsal)
                answer(sock, b"R")
            code = job(sock)
        except BaseException:  # noqa: BLE001 whatever it is, this must not go on as a second zygote
            traceback.print_exc()
        finally:
            os._exit(code)


def descriptors() -> list[int]:
    found = []
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        try:
            os.fstat(fd)
        except OSError:
            continue  # of the listing itself
        if fd > 2:
            found.append(fd)
    return found


def shared_memory() -> list[tuple[int, int, int]]:
    """Writable shared mappings the modules have made: each job gets a copy, or they would share it."""
    found = []
    with open("/proc/self/maps") as file:
        for line in file:
            span, rights = line.split()[:2]
            if rights[3] == "s" and rights[1] == "w":
                start, end = (int(part, 16) for part in span.split("-"))
                prot = sum(bit for flag, bit in zip("rwx", (mmap.PROT_READ, mmap.PROT_WRITE, mmap.PROT_EXEC))
                           if flag in rights)
                found.append((start, end - start, prot))
    return found


def supply(sources: dict[str, str]) -> None:
    """The launcher's own cloudpickle, where the image has none."""
    for name in sources:
        module = types.ModuleType(name)
        module.__package__ = name.partition(".")[0]
        if "." not in name:
            module.__path__ = []
        sys.modules[name] = module
    for name in sorted(sources, key=lambda name: -name.count(".")):
        exec(compile(sources[name], f"<{name}>", "exec"), sys.modules[name].__dict__)


def start(control: int, library: int) -> None:
    """Called by the lines that zygote_host.py gives to the interpreter."""
    warnings.filterwarnings("ignore", category=DeprecationWarning, message=".*fork.*")
    name_markers()
    zygote = Zygote(control, library)
    data, fds = receive(zygote.control, 262144)
    sources = {}
    if fds:
        with open(fds[0], "rb") as file:
            sources = json.loads(file.read())
    try:
        hello = zygote.prepare(json.loads(data), sources)
    except BaseException as error:  # noqa: BLE001 whatever a module raises when it is imported
        text = "".join(traceback.format_exception(type(error), error, error.__traceback__))[-100000:]
        hello = {"error": f"{type(error).__name__}: {error}", "trace": text}
    zygote.control.send(json.dumps(hello).encode())
    if "error" in hello:
        os._exit(1)
    zygote.serve()
