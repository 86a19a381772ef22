"""ZygoteJob: a call that runs in its own container, forked from a zygote."""

from __future__ import annotations

import select
import socket
import struct
import threading
import time

from . import _core
from . import zygote_wire as wire
from .errors import from_native
from .results import Completed, killed_by

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .zygote import Zygote
    from .zygote_host import Child

ANSWER = struct.Struct("<cQ")
END = 0.05  # s, for a job to leave by itself once its result is in
SHORT_MS = 2  # a job that takes longer does not mind that the next container is made beside it
_NO_USAGE = (None,) * 18


class ZygoteJob:
    """A started call; see Zygote.start_call(). Any thread may wait for it or kill it.

    killed_by and usage are those of `.completed`.
    """

    def __init__(self, zygote: Zygote, child: Child, what: str, result: str, timeout: float | None, limit: int) -> None:
        self._zygote = zygote
        self._child = child
        self._what = what
        self._mode = result
        self._limit = limit
        self.timeout = timeout
        self.pid: int = child.run.pid
        """The job's process, as this process sees it."""
        self._until = None if timeout is None else time.monotonic() + timeout
        self._lock = threading.Lock()
        self._end_lock = threading.Lock()
        self._data = bytearray()
        self._outcome: tuple[bool, Any] | None = None
        self._timed_out = False
        self._completed: Completed | None = None
        self._has_result = False
        self._warm = child.ready

    def fileno(self) -> int:
        """A descriptor that is readable when there is a result (or none will come), to poll; -1 afterwards."""
        return self._child.sock.fileno()

    def done(self) -> bool:
        """Whether result() would not wait."""
        if self._outcome is not None or self._completed is not None:
            return True
        fd = self.fileno()
        if fd < 0:
            return True
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        return bool(poll.poll(0))

    def kill(self) -> None:
        """SIGKILL to everything in its container."""
        try:
            self._child.run.kill_all()
        except ValueError:
            pass  # it is over

    def result(self, timeout: float | None = None) -> Any:
        """What the function returned, or its exception, with the traceback there as its cause.

        timeout: seconds to wait at most; raises TimeoutError then, and the job goes on. Raises TimeoutExpired when
        the job's own time was up, JobEnded when it ended without a result, ResultRefused for a result that is not
        of the kind asked for.
        """
        with self._lock:
            if self._outcome is None:
                self._read(None if timeout is None else time.monotonic() + timeout)
            assert self._outcome is not None
            good, value = self._outcome
        if good:
            return value
        try:
            raise value
        finally:
            del value, self  # no cycle through the traceback

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """The exception result() would raise, or None."""
        try:
            self.result(timeout)
        except TimeoutError:
            if self._outcome is None:
                raise
        except BaseException:
            if self._outcome is None:
                raise
        assert self._outcome is not None
        return None if self._outcome[0] else self._outcome[1]

    @property
    def completed(self) -> Completed:
        """How it ended, with its usage: waits until everything in its container is gone. Without stdout and
        stderr. A job that gave a result has return code 0, whatever else it may have been up to."""
        if self._completed is None:
            if self._outcome is None:
                self.exception()
            self._end()
        assert self._completed is not None
        return self._completed

    # ---- reading

    def _read(self, give_up: float | None) -> None:
        sock, data = self._child.sock, self._data
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        poll.register(self._child.run.pidfd, select.POLLIN)  # a fork of ours may hold the job's end of the socket
        asked = False
        while True:
            wait = min((t for t in (give_up, self._until) if t is not None), default=None)
            left = None if wait is None else max((wait - time.monotonic()) * 1000, 0.0)
            if not poll.poll(left if asked else SHORT_MS if left is None else min(left, SHORT_MS)):
                if not asked:
                    asked = True
                    self._zygote._wake()  # a longer one
                elif self._until is not None and time.monotonic() >= self._until:
                    self._expire()
                    self._until = None
                elif give_up is not None and time.monotonic() >= give_up:
                    raise TimeoutError(f"{self._what}: no result yet")
                continue
            try:
                part = sock.recv(65536 if len(data) < 65536 else 1 << 20, socket.MSG_DONTWAIT)
            except OSError:  # nothing in it, and the process is gone; or the socket is
                part = b""
            if not part:
                self._ended()
                return
            data += part
            if len(data) < ANSWER.size:
                continue
            kind, length = ANSWER.unpack_from(data)
            if length > self._limit:
                self.kill()
                why = f"{self._what}: a result of {length} bytes is longer than result_limit"
                self._settle(False, wire.ResultRefused(why))
                return
            if len(data) >= ANSWER.size + length:
                self._parse(kind, bytes(memoryview(data)[ANSWER.size : ANSWER.size + length]))
                return

    def _parse(self, kind: bytes, data: bytes) -> None:
        self._data = bytearray()
        try:
            if kind == b"V":
                self._has_result = True
                self._settle(True, wire.value(data, self._mode))
            elif kind == b"E":
                self._has_result = True
                self._settle(False, wire.exception(data, self._mode))
            elif kind == b"F" and not self._child.ready:
                self._settle(False, failed_start(data))
            elif kind == b"C" and data[:9].isdigit():
                self._settle(False, from_native("cwd", -1, int(data[:9]), ""))
            else:
                raise wire.ResultRefused(f"{self._what}: what came from the job is no result")
        except Exception as error:  # noqa: BLE001 a result that cannot be read is its result
            self._settle(False, error)

    def _settle(self, good: bool, value: Any) -> None:
        self._outcome = (good, value)
        self._zygote._finished(self)

    def _ended(self) -> None:
        self._end()
        done = self._completed
        assert done is not None
        if self._timed_out:
            from .errors import TimeoutExpired

            assert self.timeout is not None
            expired = TimeoutExpired(self._what, self.timeout)
            expired.completed = done
            self._settle(False, expired)
        else:
            self._settle(False, wire.JobEnded(self._what, done))

    def _expire(self) -> None:
        self._timed_out = True
        self.kill()

    # ---- its end

    def _end(self) -> None:
        """Wait until it is gone, note how, let go of its container."""
        with self._end_lock:
            if self._completed is not None:
                return
            child = self._child
            run = child.run
            try:
                got = run.wait(END) if self._outcome is not None or self._zygote._closing else run.wait(END * 4)
                if got is None:
                    run.kill_all()
                    got = run.wait(-1.0)
                assert got is not None
                code, lost, oom, usage = got
                if lost:
                    code = told(child)
                if self._has_result:
                    code = 0
                why = killed_by(code, oom, self._timed_out and not self._has_result)
                self._completed = Completed(self._what, code, None, None, why, usage, None, self.pid, (), None,
                                            self._warm)
            except ValueError:  # the context was closed meanwhile, and everything in it ended
                self._completed = Completed(self._what, -9, None, None, "signal", _NO_USAGE, None, self.pid)
            finally:
                run.release()
                child.sock.close()

    def __repr__(self) -> str:
        state = "done" if self._outcome is not None else "running"
        return f"<ZygoteJob {self._what} pid={self.pid} {state}>"


def failed_start(report: bytes) -> Exception:
    """The error of a child that could not enter its container."""
    stage, index, errno = struct.unpack("<iii", report[:12].ljust(12, b"\0"))
    return from_native(_core.stage_name(stage) or "join", index, errno, "")


def told(child: Child) -> int:
    """Before Linux 6.15 the kernel does not tell how somebody else's child ended: the zygote does."""
    for _ in range(50):
        code = child.process.status(child.pid)
        if code is not None:
            return code
        if not child.process.alive:
            return -9
        time.sleep(0.002)
    return 255
