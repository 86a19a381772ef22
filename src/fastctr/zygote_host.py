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
import threading
import time

from . import _core, context, rights
from .errors import LaunchError, SpecError
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
FORK_TIMEOUT = 20.0
NEEDS = ("SYS_ADMIN", "SYS_CHROOT", "SETPCAP", "SETUID", "SETGID", "DAC_OVERRIDE")
OTHERWISE = ("user", "groups", "group_add", "cap_add", "cap_drop", "capabilities", "seccomp", "ulimits", "cwd", "env",
             "clean_env")  # fields that the zygote has in a way of its own
CALLS = "setns unshare fsopen fsconfig fsmount fspick move_mount open_tree mount_setattr mount umount2 pivot_root"


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

    def core(self) -> _core.Plan:
        with self._lock:
            if self._compiled is None or self._generation != context.generation:
                if self.image is not None:
                    self.image.hold()
                self._compiled = compile_spec(self.spec, self.userns, self.zygote)
                self._generation = context.generation
            return self._compiled

    def argv(self, argv: Any) -> list[Any]:
        return list(argv)


def job_spec(spec: Spec) -> Spec:
    """The spec of a zygote's jobs: in a user namespace of its own. Raises SpecError for what cannot go with it."""
    from .namespaces import HOST, NEW

    clock = "a fork stays in its time namespace"
    for field, hint in (("init", "a job that needs one can start it"), ("upper", "changes of a job are thrown away"),
                        ("monotonic", clock), ("boottime", clock)):
        if getattr(spec, field):
            raise SpecError(field, getattr(spec, field), "cannot go with a zygote", hint)
    for field in ("mnt", "pid"):
        if getattr(spec, field) != NEW:
            raise SpecError(field, spec._given.get(field), "cannot go with a zygote", "its jobs have their own")
    if spec.timens != HOST:
        raise SpecError("timens", spec._given.get("timens"), "cannot go with a zygote", clock)
    if spec.writable == "direct":
        raise SpecError("writable", "direct", "cannot go with a zygote", "its jobs would write to one directory")
    if not spec.proc:
        raise SpecError("proc", False, "cannot go with a zygote", "the interpreter needs /proc")
    if spec.userns == NEW:
        return spec
    if spec.userns != HOST:
        raise SpecError("userns", spec._given.get("userns"), "cannot be joined by a zygote", "it has one of its own")
    # as root of the machine: a block of ids that nobody has, where container managers look for them
    block = 8 + int.from_bytes(os.urandom(2), "little") % 28000
    ids = [(0, block << 16, 1 << 16)]
    if not rights.machine_root():
        return spec.replace(userns=True)
    return spec.replace(userns=True, uid_map=ids, gid_map=ids, volumes=None,
                        mounts=[_owned(mount, ids) for mount in (*spec.mounts, *spec.volumes)])


def _owned(mount: Any, ids: list[tuple[int, int, int]]) -> Any:
    """A bind that shows its owners inside as they are here, as the root does."""
    from .mounts import BIND, _restore

    if mount.kind != BIND or mount.native["idmap"] is not None:
        return mount
    return _restore(type(mount), {**mount.native, "idmap": tuple(ids)})


def zygote_spec(spec: Spec, limits: Any) -> Spec:
    """The spec of the zygote itself: the jobs' root and mounts, and rights over its user namespace to put
    children into theirs."""
    from . import caps, native, seccomp_default
    from .namespaces import mapped
    from .spec import LIMITS

    mask = caps.to_mask(NEEDS)
    for held in native.capabilities(spec):
        mask |= held
    if not rights.machine_root():
        mask &= caps.known()
    names = [name for name, bit in caps.BITS.items() if mask >> bit & 1]
    given = {name: value for name, value in spec._given.items() if name not in LIMITS and name not in OTHERWISE}
    if limits is None:
        limits = {name: value for name, value in spec._given.items() if name.startswith("mem")}
    calls = f"{seccomp_default.ALWAYS} {seccomp_default.BY_MACHINE[os.uname().machine]} chroot {CALLS}".split()
    profile = {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
        {"names": calls, "action": "SCMP_ACT_ALLOW"},
        {"names": ["socket"], "action": "SCMP_ACT_ALLOW",
         "args": [{"index": 0, "op": "SCMP_CMP_NE", "value": seccomp_default.AF_VSOCK}]},
        {"names": ["clone"], "action": "SCMP_ACT_ALLOW",
         "args": [{"index": 0, "op": "SCMP_CMP_MASKED_EQ", "value": seccomp_default.CLONE_NAMESPACES, "valueTwo": 0}]},
        {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
        {"names": ["personality"], "action": "SCMP_ACT_ALLOW"},
    ]}
    uid, gid = (0 if mapped(ids, 0) else ids[0][0] for ids in (spec.uid_map, spec.gid_map))
    return type(spec)(**{**given, **limits}, user=(uid, gid), seccomp=profile, env=spec.env, clean_env=spec.clean_env,
                      capabilities=dict.fromkeys(native.CAP_SETS, names))


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
        self._lock = threading.Lock()
        self._number = 0
        self.container: Container | None = None
        self.null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        self.userns = new_user_namespace(jobs.uid_map, jobs.gid_map)
        self.plan = _Compiled(jobs, self.userns, True, image)
        self._own = _Compiled(own, self.userns, False, image)
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        fds = [theirs.detach()]
        try:
            self.plan.core()  # first, so that a mistake in the spec is told before anything runs
            fds.append(_memfd("fctr-zygote", _library()))
            parts = [_text("zygote_server.py"), _text("zygote_task.py")]
            fds.append(_memfd("zygote-source", json.dumps(parts).encode()))
            self.container = Container([*python, "-c", BOOT], plan=self._own, stdin=-3, stdout=2 if _is_open(2) else -3,
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
            run, fds, n_own = _core.zygote_prepare(self.plan.core(), limits, theirs.fileno(), self.hello["fds"])
            own = fds[:n_own]
            place = fds.index(theirs.fileno())
            with self._lock:
                pid, pidfd = self._request(fds, place, ahead)
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

    def _request(self, fds: list[int], place: int, ahead: bool) -> tuple[int, int]:
        self._number += 1
        control = self.control
        until = time.monotonic() + FORK_TIMEOUT
        control.settimeout(FORK_TIMEOUT)
        try:
            control.sendmsg([struct.pack("<III", self._number, place, ahead)],
                            [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))])
            while True:
                control.settimeout(max(until - time.monotonic(), 0.001))
                answer = self._receive()
                if answer is not None:
                    if answer[0] == self._number:
                        break
                    if answer[3] >= 0:  # of a request that was given up
                        os.close(answer[3])
        except TimeoutError:
            self.alive = False  # the next job gets another one
            raise ZygoteError(f"the zygote did not answer for {FORK_TIMEOUT:.0f} s") from None
        except OSError as error:
            self.alive = False
            raise BrokenPipeError(32, f"the zygote is gone ({error})") from None
        _, errno, pid, pidfd = answer
        if errno or pidfd < 0:
            raise LaunchError("clone", errno or 5, "zygote", "the zygote could not fork: its limits (zygote_limits=), "
                              "or the machine's, may be reached")
        return pid, pidfd

    def _receive(self, flags: int = 0) -> tuple[int, int, int, int] | None:
        data, parts, _, _ = self.control.recvmsg(64, socket.CMSG_SPACE(64), flags | socket.MSG_CMSG_CLOEXEC)
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
                    self._receive()
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


def _is_open(fd: int) -> bool:
    from .launch_args import is_open

    return is_open(fd)
