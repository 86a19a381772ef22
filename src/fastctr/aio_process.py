"""aio.create_container_exec(): a container shaped like asyncio.subprocess.Process."""

from __future__ import annotations

import asyncio
import errno as codes
import os

from .aio_start import Exit, Lent, Started, StartedExec, is_heavy, start, the_plan, told
from .aio_threads import in_thread, whatever
from .errors import LaunchError, SpecError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .plan import Plan
    from .results import Timings, Usage
    from .spec import Spec

LIMIT = 2**16
"""Bytes a StreamReader holds before it stops reading, and half of them; as in asyncio."""
QUIET = 0.2
"""Seconds without output after a container's end, when somebody outside still holds its pipe."""


class _Reading(asyncio.StreamReaderProtocol):
    """The end of a terminal is EIO (pty(7)), which is no error."""

    def eof_received(self) -> bool:
        super().eof_received()
        return False  # nothing is to be written here: uvloop would keep it open

    def connection_lost(self, exc: Exception | None) -> None:
        if isinstance(exc, OSError) and exc.errno == codes.EIO:
            exc = None
        super().connection_lost(exc)


class _Terminal(asyncio.WriteTransport):
    """Writes to a terminal's master. The loops' own for pipes would not do: uvloop's reads from it, too, to
    hear of its end, and takes away what the container has written."""

    def __init__(self, loop: asyncio.AbstractEventLoop, fd: int, protocol: asyncio.StreamReaderProtocol) -> None:
        super().__init__()
        self._loop = loop
        self._fd = fd
        self._protocol = protocol
        self._left = b""
        self._closing = False
        os.set_blocking(fd, False)
        protocol.connection_made(self)

    def write(self, data: Any) -> None:
        if not self._closing:
            waits, self._left = bool(self._left), self._left + bytes(data)
            if not waits and self._left:
                self._flush()
                if self._left:
                    self._loop.add_writer(self._fd, self._flush)

    def _flush(self) -> None:
        try:
            self._left = self._left[os.write(self._fd, self._left) :]
        except BlockingIOError:
            return
        except OSError:
            self._left = b""  # its end: EIO
        if not self._left:
            self._loop.remove_writer(self._fd)
            if self._closing:
                self.abort()

    def get_write_buffer_size(self) -> int:
        return len(self._left)

    def is_closing(self) -> bool:
        return self._closing

    def can_write_eof(self) -> bool:
        return False

    def close(self) -> None:
        self._closing = True
        if not self._left:
            self.abort()

    def abort(self) -> None:
        self._closing = True
        if self._fd >= 0:
            self._loop.remove_writer(self._fd)
            self._loop.call_soon(self._protocol.connection_lost, None)
            self.lost()

    def lost(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


class _Writer(asyncio.StreamWriter):
    def __del__(self, *_: Any) -> None:
        """Some releases of Python close it here, which a closed loop complains of."""


async def create_container_exec(
    argv: Any = None, *, plan: Plan | None = None, spec: Spec | None = None, stdin: Any = None,
    stdout: Any = None, stderr: Any = None, tty: Any = None, limit: int = LIMIT, **kw: Any,
) -> Process:  # fmt: skip
    """Start a container: asyncio.create_subprocess_exec() with the keywords of fastctr.Container.

    stdin, stdout, stderr: None (inherit), PIPE, DEVNULL, STDOUT, a file or descriptor. tty=True or (rows,
    columns): a terminal of its own, which .stdin writes to and .stdout reads. limit: bytes, of the
    StreamReaders. Raises as fastctr.run(); cancelled, it leaves nothing.
    """
    _of_bytes(kw)
    if plan is None:
        plan = await the_plan(kw, spec)
    if not tty:
        kw.update(stdin=stdin, stdout=stdout, stderr=stderr)
    container = await start(plan, argv, {**kw, "tty": tty})
    return await _process(Process(container, is_heavy(plan)), limit)


def _of_bytes(kw: dict[str, Any]) -> None:
    for name in ("text", "encoding", "errors", "bufsize"):
        if kw.get(name) is not None:
            raise SpecError(name, kw[name], "cannot be done", "streams of asyncio are of bytes: decode what is read")


async def _process(made: Process, limit: int) -> Process:
    try:
        await made._connect(limit)
    except BaseException:
        await _ended(made)
        raise
    return made


async def _ended(process: Process) -> None:
    process.kill()
    await whatever(asyncio.ensure_future(process._over.wait()))
    process._let_go()


class Process:
    """A started container, shaped like asyncio.subprocess.Process: pid, returncode, stdin (StreamWriter),
    stdout and stderr (StreamReader) where PIPE was given, wait(), communicate(), send_signal(),
    terminate(), kill(). As there, cancelling wait() or communicate() leaves it running; leaving it as an
    async context manager kills everything in it and waits. What may take a while is a coroutine: pause(),
    resume(), update(), exec(), stop().
    """

    def __init__(self, container: Started, heavy: bool) -> None:
        self._container = container
        self._loop = asyncio.get_running_loop()
        self._over: asyncio.Event = asyncio.Event()
        self._transports: list[Any] = []
        self.args = container.args
        self.pid = container.pid
        self.stdin: asyncio.StreamWriter | None = None
        self.stdout: asyncio.StreamReader | None = None
        self.stderr: asyncio.StreamReader | None = None
        try:
            self._exit = Exit(self._loop, container, heavy, self._end, self._lost)
        except BaseException:
            container.close()
            raise

    async def _connect(self, limit: int) -> None:
        c = self._container
        if c.tty is not None:
            c.stdout, c.tty = c.tty, None
            protocol: asyncio.StreamReaderProtocol = self._writing()
            self.stdin = _Writer(_Terminal(self._loop, os.dup(c.stdout.fileno()), protocol), protocol, None, self._loop)
            self._transports.append(self.stdin.transport)
        for name in ("stdout", "stderr"):
            file = getattr(c, name)
            if file is not None:
                reader = asyncio.StreamReader(limit=limit, loop=self._loop)
                protocol = _Reading(reader, loop=self._loop)
                setattr(c, name, None)
                await self._connected(self._loop.connect_read_pipe, protocol, file)
                setattr(self, name, reader)
        if c.stdin is not None:
            file, c.stdin = c.stdin, None
            protocol = self._writing()
            transport = await self._connected(self._loop.connect_write_pipe, protocol, file)
            self.stdin = _Writer(transport, protocol, None, self._loop)

    def _writing(self) -> asyncio.StreamReaderProtocol:
        return asyncio.StreamReaderProtocol(asyncio.StreamReader(loop=self._loop), loop=self._loop)

    async def _connected(self, connect: Any, protocol: asyncio.StreamReaderProtocol, file: Any) -> Any:
        if type(self._loop).__module__.partition(".")[0] == "uvloop":
            lent = Lent(os.dup(file.fileno()))
            file.close()
            file = lent
        try:
            transport, _ = await connect(lambda: protocol, file)
        except BaseException:
            file.close()
            raise
        self._transports.append(transport)
        return transport

    # ---- its end

    def _end(self) -> None:
        self._over.set()

    def _lost(self) -> None:
        """The loop was closed before its end: the pipes' transports cannot close themselves any more."""
        for transport in self._transports:
            pipe = transport.get_extra_info("pipe")
            if pipe is not None:
                pipe.close()
            elif isinstance(transport, _Terminal):
                transport.lost()

    def _let_go(self) -> None:
        for transport in self._transports:
            if not transport.is_closing():
                if self.stdin is not None and transport is self.stdin.transport:
                    transport.abort()
                else:
                    transport.close()

    @property
    def returncode(self) -> int | None:
        """None while it runs; negative: the signal that ended it."""
        return self._container.returncode if self._over.is_set() else None

    async def wait(self) -> int:
        """Wait for its end, when everything in it is gone; the return code."""
        await self._over.wait()
        if self._container.returncode is None:
            raise self._exit.error or LaunchError("wait", 0, None, "the container's end was not seen")
        return self._container.returncode

    async def communicate(self, input: bytes | None = None) -> tuple[bytes | None, bytes | None]:  # noqa: A002
        """Write input, read both outputs to their end, wait: (stdout, stderr)."""
        feeding = asyncio.ensure_future(self._feed(input))
        reading = [asyncio.ensure_future(self._read(stream)) for stream in (self.stdout, self.stderr)]
        try:
            await asyncio.gather(feeding, *reading)
            await self.wait()
        finally:
            for task in (feeding, *reading):
                task.cancel()
        return reading[0].result(), reading[1].result()

    async def _feed(self, data: bytes | None) -> None:
        if self.stdin is None:
            return
        try:
            if data is not None:
                self.stdin.write(data)
                await self.stdin.drain()
        except (BrokenPipeError, ConnectionResetError):
            pass  # it does not want more, as in asyncio
        self.stdin.close()

    async def _read(self, stream: asyncio.StreamReader | None) -> bytes | None:
        if stream is None:
            return None
        parts: list[bytes] = []
        while True:
            part = asyncio.ensure_future(stream.read(LIMIT))
            over = asyncio.ensure_future(self._over.wait())
            try:
                await asyncio.wait((part, over), return_when=asyncio.FIRST_COMPLETED)
                if not part.done():
                    await asyncio.wait((part,), timeout=QUIET)
            finally:
                over.cancel()
                if not part.done():
                    part.cancel()
            if part.cancelled() or not part.done() or not part.result():
                return b"".join(parts)
            parts.append(part.result())

    # ---- signals

    def send_signal(self, signal: int) -> None:
        """Signal the first process; with init=True it is passed on to the command."""
        if self.returncode is None:
            self._container.send_signal(signal)

    def terminate(self) -> None:
        """SIGTERM; see Container.terminate() for what PID 1 makes of it."""
        self.send_signal(15)

    def kill(self) -> None:
        """SIGKILL to everything in the container."""
        self._exit.kill()

    async def stop(self, timeout: float = 10, signal: int | str | None = None) -> int:
        """Ask it to end, and kill everything in it once `timeout` seconds are over; the return code.
        The signal is the one given, else the image's StopSignal, else SIGTERM."""
        if self.returncode is None:
            if signal is not None and not isinstance(signal, int):
                from .image_args import signal_number

                signal = signal_number(signal, "signal")
            self.send_signal(signal or self._container.stop_signal or 15)
            try:
                async with asyncio.timeout(max(float(timeout), 0.0)):
                    await self._over.wait()
            except TimeoutError:
                self.kill()
        return await self.wait()

    # ---- figures and limits

    def stats(self) -> Usage:
        """What it uses now; after its end what it used."""
        return self._container.stats()

    @property
    def usage(self) -> Usage:
        """As stats()."""
        return self._container.stats()

    @property
    def killed_by(self) -> str | None:
        """None, "oom" or "signal", once it has ended."""
        return self._container.killed_by

    @property
    def timings(self) -> Timings | None:
        """Where the start's time went, if timings=True was given."""
        return self._exit.timings or (None if self._over.is_set() else self._container.timings)

    @property
    def cgroups(self) -> dict[str, str]:
        """{controller: path below the cgroup mount}."""
        return self._container.cgroups

    def pids(self) -> list[int]:
        """The processes in its control group, as this process sees them."""
        return self._container.pids()

    async def pause(self) -> None:
        """Freeze everything in it. Raises CgroupError without a freezer."""
        await in_thread(self._container.pause)

    async def resume(self) -> None:
        """Let it go on after pause()."""
        await in_thread(self._container.resume)

    async def update(self, **limits: Any) -> None:
        """Set limits while it runs: memory=, cpus=, pids=, … as in Limits. Raises SpecError, CgroupError."""
        await in_thread(lambda: self._container.update(**limits))

    async def resize(self, rows: int, columns: int) -> None:
        """Set the terminal's size; the foreground process gets SIGWINCH."""
        import fcntl
        import struct

        if self._container._run.master < 0:
            raise SpecError("tty", None, "was not asked for", "start the container with tty=True")
        fcntl.ioctl(self._container._run.master, 0x5414, struct.pack("HHHH", rows, columns, 0, 0))

    async def exec(self, argv: Any, *, limit: int = LIMIT, **kw: Any) -> Process:
        """Start another command in it, with the same user, rights and environment: a Process, whose kill()
        ends that command alone. Keywords of the launch as for create_container_exec()."""
        _of_bytes(kw)
        target = self._container
        made = await in_thread(lambda: told(lambda: StartedExec(target, argv, bufsize=0, **kw)))
        return await _process(Process(made, False), limit)

    async def __aenter__(self) -> Process:
        return self

    async def __aexit__(self, *exc: object) -> None:
        ending = asyncio.ensure_future(_ended(self))
        cancelled = False
        while not ending.done():
            try:
                await asyncio.wait([ending])
            except asyncio.CancelledError:
                cancelled = True
        ending.result()
        if cancelled:
            raise asyncio.CancelledError

    def __repr__(self) -> str:
        state = "running" if self.returncode is None else f"returncode={self.returncode}"
        return f"<Process pid={self.pid} {state} args={self.args!r}>"
