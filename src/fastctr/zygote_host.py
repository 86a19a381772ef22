"""The launcher's side of one zygote process: its container, its control socket, and the forks it is asked for.

The zygote and its jobs share a user namespace that nobody else is in, with ids that are nobody's on the host.
All that the zygote says is the image's to choose: lengths are bounded, a pidfd must be one, and the process
it names is only ever waited for and killed.
"""

from __future__ import annotations

import array
import json
import os
import select
import socket
import struct
import sys
import threading
import time

from . import _core
from .errors import LaunchError
from .launch_args import is_open
from .plan import Plan, compile_spec, new_user_namespace
from .zygote_wire import ZygoteError, sources

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .container import Container
    from .spec import Spec

CONTROL, LIBRARY, SOURCE = 10, 11, 12  # descriptors in the zygote
BOOT = (
    "import json\n"
    'g = {"__name__": "fastctr_zygote"}\n'
    f'with open({SOURCE}, "rb") as f:\n'
    "    parts = json.loads(f.read())\n"
    "for n, t in parts:\n"
    '    exec(compile(t, n, "exec"), g)\n'
    f'g["start"]({CONTROL}, {LIBRARY})\n'
)
HELLO_MAX = 1 << 18
SO_PASSPIDFD, SO_PASSRIGHTS, SCM_PIDFD = 76, 83, 4
FORK_TIMEOUT = 20.0


class Child:
    """A container's first process, forked by the zygote: `sock` is its job socket, `run` the started container."""

    __slots__ = ("pid", "process", "ready", "run", "sock")

    def __init__(self, process: Process, run: _core.Running, sock: socket.socket, pid: int) -> None:
        self.process = process
        self.run = run
        self.sock = sock
        self.pid = pid  # as the zygote sees it
        self.ready = False


class _Compiled(Plan):
    """A plan in the zygote's own user namespace."""

    __slots__ = ("userns", "zygote")

    def __init__(self, spec: Spec, userns: int, zygote: bool, image: Any) -> None:
        super().__init__(spec, use=image)
        self.userns = userns
        self.zygote = zygote

    def _compile(self) -> _core.Plan:
        return compile_spec(self.spec, self.userns, self.zygote)

    def argv(self, argv: Any) -> list[Any]:
        return list(argv)


def _memfd(name: str, data: bytes) -> int:
    import fcntl

    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view):]
        os.lseek(fd, 0, os.SEEK_SET)
        os.fchmod(fd, 0o555)
        fcntl.fcntl(fd, 1033, 0x1 | 0x2 | 0x4 | 0x8)  # F_ADD_SEALS: seal, shrink, grow, write
    except BaseException:
        os.close(fd)
        raise
    return fd


def _text(name: str) -> tuple[str, str]:
    with open(os.path.join(os.path.dirname(__file__), name), encoding="utf-8") as file:
        return f"<fastctr {name}>", file.read()


def _library() -> bytes:
    try:
        with open(os.path.join(os.path.dirname(__file__), "fctr-zygote"), "rb") as file:
            return file.read()
    except FileNotFoundError:
        hint = "a file is missing from the installation: install fastctr again"
        raise LaunchError("init", 2, "fctr-zygote", hint) from None


class Process:
    """A running zygote. Raises what a start raises, and ZygoteError for modules that cannot be imported."""

    def __init__(self, jobs: Spec, own: Spec, image: Any, python: list[Any], preload: list[str],
                 timeout: float | None) -> None:
        from .container import Container

        self.alive = False
        self.hello: dict[str, Any] = {}
        self.statuses: dict[int, int] = {}
        self.failures: dict[int, int] = {}
        self._lock = threading.Lock()
        self._number = 0
        self.container: Container | None = None
        self.null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        self.userns = new_user_namespace(jobs.uid_map, jobs.gid_map)
        self.plan = _Compiled(jobs, self.userns, True, image)
        self._own = _Compiled(own, self.userns, False, image)
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        no_descriptors(self.control)
        fds = [theirs.detach()]
        try:
            self.plan.core()  # first, so that a mistake in the spec is told before anything runs
            fds.append(_memfd("fctr-zygote", _library()))
            parts = [_text("zygote_server.py"), _text("zygote_task.py")]
            fds.append(_memfd("zygote-source", json.dumps(parts).encode()))
            self.container = Container([*python, "-c", BOOT], plan=self._own, stdin=-3, stdout=2 if is_open(2) else -3,
                                       pass_fds=dict(zip((CONTROL, LIBRARY, SOURCE), fds)))
            while fds:  # ours of its end, too: else we would not see it go
                os.close(fds.pop())
            self._greet(preload, timeout)
        except BaseException:
            self.close()
            raise
        finally:
            for fd in fds:
                os.close(fd)
        self.alive = True

    def _greet(self, preload: list[str], timeout: float | None) -> None:
        fd = _memfd("zygote-modules", json.dumps(sources()).encode())
        try:
            self.control.settimeout(timeout)
            self.control.sendmsg([json.dumps({"preload": preload}).encode()],
                                 [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))])
            data = self.control.recv(HELLO_MAX)
        except TimeoutError:
            raise ZygoteError(f"the zygote was not ready after {timeout} s") from None
        except OSError:
            data = b""
        finally:
            os.close(fd)
        if not data:
            raise ZygoteError(f"the zygote {self._end()} before it was ready")
        try:
            hello = json.loads(data)
            if "error" in hello:
                raise ZygoteError(f"the zygote could not be made ready: {hello['error']}", str(hello["trace"]))
            self.hello = {"version": tuple(int(n) for n in hello["version"]), "pickle": int(hello["pickle"]),
                          "cloudpickle": bool(hello["cloudpickle"]), "magic": str(hello["magic"]),
                          "fds": sorted({int(fd) for fd in hello["fds"] if 3 < int(fd) < 1 << 20})}
        except (ValueError, KeyError, TypeError):
            raise ZygoteError("the zygote's first message is not what it should be") from None

    def _end(self) -> str:
        assert self.container is not None
        self.container.kill()
        code = self.container.wait()
        if self.container.killed_by == "oom":
            return "was killed for memory (zygote_limits= gives it more)"
        return f"ended with code {code}" if code >= 0 and code != 137 else f"was killed by signal {-code}"

    def gone(self) -> bool:
        """Whether it has ended: its end of the socket is closed before the kernel ends its jobs."""
        if self.alive:
            poll = select.poll()
            poll.register(self.control, 0)
            self.alive = not poll.poll(0)
        return not self.alive

    # ---- forks

    def fork(self, limits: dict[str, Any] | None = None, ahead: bool = False) -> Child:
        """A child in a fresh container; its first word is still to come. Raises LaunchError, BrokenPipeError
        when the zygote is gone."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        run: _core.Running | None = None
        own: list[int] = []
        try:
            introduced = no_descriptors(ours) and _tell_sender(ours)
            run, fds, n_own = _core.zygote_prepare(self.plan.core(), limits, theirs.fileno(), self.hello["fds"])
            own = fds[:n_own]
            with self._lock:
                self._number += 1
                number = self._number
                self._request(number, fds, fds.index(theirs.fileno()), ahead | introduced << 1)
                pid, pidfd = (0, -1) if introduced else self._answer(number)
            if introduced:
                pidfd = self._introduction(number, ours)
            _core.zygote_adopt(run, pidfd)
            child = Child(self, run, ours, pid)
        except BaseException:
            ours.close()
            if run is not None:
                run.release()
            raise
        finally:
            theirs.close()
            for fd in own:
                os.close(fd)
        return child

    def _request(self, number: int, fds: list[int], place: int, flags: int) -> None:
        self.control.settimeout(FORK_TIMEOUT)
        try:
            self.control.sendmsg([struct.pack("<III", number, place, flags)],
                                 [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))])
        except OSError as error:
            raise self._lost(error) from None

    def _introduction(self, number: int, ours: socket.socket) -> int:
        """The child's own first word, with a pidfd that the kernel put to it (SCM_PIDFD, unix(7))."""
        poll = select.poll()
        poll.register(ours, select.POLLIN)
        poll.register(self.control, select.POLLIN)
        until = time.monotonic() + FORK_TIMEOUT
        while True:
            ready = [fd for fd, _ in poll.poll(max(until - time.monotonic(), 0.0) * 1000)]
            if ours.fileno() in ready:
                _, parts, _, _ = ours.recvmsg(1, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC)
                for level, kind, part in parts:
                    if level == socket.SOL_SOCKET and kind == SCM_PIDFD and len(part) == 4:
                        return int.from_bytes(part, sys.byteorder)
                return -1
            if not ready:
                raise self._lost(TimeoutError())
            if not self.listen():
                raise self._lost(None)
            errno = self.failures.pop(number, 0)
            if errno:
                raise _no_fork(errno)

    def _answer(self, number: int) -> tuple[int, int]:
        """The same from the zygote, on kernels where the child's cannot be had."""
        until = time.monotonic() + FORK_TIMEOUT
        try:
            while True:
                self.control.settimeout(max(until - time.monotonic(), 0.001))
                answer = self._receive()
                if answer is not None:
                    if answer[0] == number:
                        break
                    if answer[3] >= 0:  # of a request that was given up
                        os.close(answer[3])
        except OSError as error:
            raise self._lost(error) from None
        _, errno, pid, pidfd = answer
        if errno or pidfd < 0:
            raise _no_fork(errno)
        return pid, pidfd

    def _lost(self, error: OSError | None) -> Exception:
        self.alive = False  # the next job gets another one
        if isinstance(error, TimeoutError):
            return ZygoteError(f"the zygote did not answer for {FORK_TIMEOUT:.0f} s")
        return BrokenPipeError(32, f"the zygote is gone ({error})")

    def _receive(self) -> tuple[int, int, int, int] | None:
        data, parts, _, _ = self.control.recvmsg(64, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC)
        got = array.array("i")
        for level, kind, part in parts:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                got.frombytes(part[: len(part) - len(part) % got.itemsize])
        if not data:
            raise BrokenPipeError(32, "the zygote is gone")
        if data[:1] == b"P" and len(data) == 13:
            for fd in got[1:]:
                os.close(fd)
            number, errno, pid = struct.unpack_from("<IiI", data, 1)
            if errno and len(self.failures) < 4096:
                self.failures[number] = abs(errno)
            return number, abs(errno), pid, got[0] if got else -1
        for fd in got:
            os.close(fd)
        if data[:1] == b"S" and len(data) == 9:
            pid, status = struct.unpack_from("<Ii", data, 1)
            if len(self.statuses) > 4096:
                self.statuses.clear()
            self.statuses[pid] = status
        return None

    def listen(self) -> bool:
        """Take in what it has said meanwhile. False when it is gone."""
        with self._lock:
            self.control.setblocking(False)
            try:
                while True:
                    answer = self._receive()
                    if answer is not None and answer[3] >= 0:
                        os.close(answer[3])
            except BlockingIOError:
                return True
            except OSError:
                self.alive = False
                return False

    def status(self, pid: int) -> int | None:
        """How a child ended, as a return code, where the kernel does not tell it: as the zygote says."""
        self.listen()
        status = self.statuses.pop(pid, None)
        return None if status is None else os.waitstatus_to_exitcode(status)

    def close(self) -> None:
        """End it, and with it every job of its. Their containers are their holders' to release."""
        self.alive = False
        if self.container is not None:
            self.container.close()
        self.control.close()
        self.plan.close()
        self._own.close()
        for fd in (self.userns, self.null):
            if fd >= 0:
                os.close(fd)
        self.userns = self.null = -1


def no_descriptors(sock: socket.socket) -> bool:
    """Have the kernel carry no descriptors to us (Linux 6.16): there are some that hold up whoever closes them. Whether
    it can."""
    return _option(sock, SO_PASSRIGHTS, 0)


def _tell_sender(sock: socket.socket) -> bool:
    return _option(sock, SO_PASSPIDFD, 1)


def _option(sock: socket.socket, name: int, value: int) -> bool:
    try:
        sock.setsockopt(socket.SOL_SOCKET, name, value)
    except OSError:
        return False
    return True


def _no_fork(errno: int) -> LaunchError:
    return LaunchError("clone", errno or 5, "zygote", "the zygote could not fork: its limits (zygote_limits=), or the "
                       "machine's, may be reached")
