"""The user's terminal, while a command has one of its own inside: raw mode, window size, relay."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import struct
import termios
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Self


def size(fd: int = 0) -> tuple[int, int] | None:
    """(rows, columns) of the first of our descriptors that is a terminal, or None."""
    for number in (fd, 1, 2):
        try:
            rows, columns, _, _ = struct.unpack("HHHH", fcntl.ioctl(number, termios.TIOCGWINSZ, b"\0" * 8))
        except OSError:
            continue
        if rows and columns:
            return rows, columns
    return None


def raw(fd: int) -> list[Any]:
    """Put a terminal in raw mode, as cfmakeraw(3); returns the attributes to restore."""
    before = termios.tcgetattr(fd)
    mode = termios.tcgetattr(fd)
    mode[0] &= ~(
        termios.IGNBRK
        | termios.BRKINT
        | termios.PARMRK
        | termios.ISTRIP
        | termios.INLCR
        | termios.IGNCR
        | termios.ICRNL
        | termios.IXON
    )
    mode[1] &= ~termios.OPOST
    mode[2] = mode[2] & ~(termios.CSIZE | termios.PARENB) | termios.CS8
    mode[3] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN)
    mode[6][termios.VMIN], mode[6][termios.VTIME] = 1, 0
    termios.tcsetattr(fd, termios.TCSADRAIN, mode)
    return before


class Relay:
    """Bytes both ways between our terminal and the container's until the command ends.

    What is typed is passed on only when interactive, and then our terminal is raw, so that Ctrl-C is
    a byte for the command.
    """

    def __init__(self, container: Any, interactive: bool) -> None:
        self._container = container
        self._master = container.tty.fileno()
        self._typed = interactive
        self._saved: list[Any] | None = None
        self._to_master = b""
        self._old_winch: Any = None

    def __enter__(self) -> Self:
        if self._typed:
            self._saved = raw(0)
        self._old_winch = signal.signal(signal.SIGWINCH, self._resize)
        os.set_blocking(self._master, False)
        self._resize()
        return self

    def __exit__(self, *args: object) -> None:
        signal.signal(signal.SIGWINCH, self._old_winch)
        if self._saved is not None:
            termios.tcsetattr(0, termios.TCSADRAIN, self._saved)

    def _resize(self, *_: object) -> None:
        now = size()
        if now:
            try:
                self._container.resize(*now)
            except OSError:
                pass

    def wait(self, timeout: float | None) -> int:
        """Relay until the command ends; its return code. Raises TimeoutExpired."""
        deadline = None if timeout is None else time.monotonic() + timeout
        pidfd = self._container.pidfd
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        poll.register(self._master, select.POLLIN)
        if self._typed:
            poll.register(0, select.POLLIN)
        open_master = True
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if open_master:
                poll.modify(self._master, select.POLLIN | (select.POLLOUT if self._to_master else 0))
            ready = dict(poll.poll(None if left is None else left * 1000 + 1))
            seen = ready.get(self._master, 0)
            if seen & (select.POLLIN | select.POLLHUP | select.POLLERR) and self._from_master() < 0:
                poll.unregister(self._master)  # nobody in it has the terminal open any more
                open_master = False
            if open_master and seen & select.POLLOUT:
                self._flush()
            if 0 in ready and len(self._to_master) < 65536:
                typed = os.read(0, 4096)
                if typed:
                    self._to_master += typed
                    self._flush()
                else:
                    poll.unregister(0)
                    self._typed = False
            if pidfd in ready:
                while open_master and self._from_master() > 0:
                    pass
                return int(self._container.wait())
            if left == 0.0:
                self._container.wait(0)  # raises TimeoutExpired, unless it has just ended
                return int(self._container.returncode)

    def _from_master(self) -> int:
        """Pass on what the command wrote: bytes, 0 if there is nothing now, -1 at the end (EIO)."""
        try:
            data = os.read(self._master, 65536)
        except BlockingIOError:
            return 0
        except OSError:
            return -1
        rest = data
        while rest:
            rest = rest[os.write(1, rest) :]
        return len(data) or -1

    def _flush(self) -> None:
        try:
            self._to_master = self._to_master[os.write(self._master, self._to_master) :]
        except BlockingIOError:
            pass
        except OSError:
            self._to_master = b""
