"""aio.run(): one command in a container, its pipes and its end all in the loop."""

from __future__ import annotations

import asyncio
import os

from .aio_start import Exit, Started, is_heavy, start
from .aio_threads import whatever
from .errors import LaunchError, SpecError
from .launch_args import redirected
from .results import Completed, finished, killed_by
from .units import size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .plan import Plan

READ = 65536
LAST_READS = 64
"""What is read of a pipe once its container is gone: more cannot be in it, unless somebody outside writes."""


class _Pipe:
    """Our end of a pipe of a container, until close()."""

    __slots__ = ("_fd", "_file", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop, file: Any) -> None:
        self._loop = loop
        self._file = file
        self._fd: int = file.fileno()
        os.set_blocking(self._fd, False)

    def lost(self) -> None:
        """Close it; the loop no longer looks at it."""
        if self._file is not None:
            self._file.close()
            self._file = None


class Stream(_Pipe):
    """One pipe from the container: what has been read, up to `limit` bytes; the rest is read and dropped."""

    __slots__ = ("limit", "parts", "size", "truncated")

    def __init__(self, loop: asyncio.AbstractEventLoop, file: Any, limit: int | None) -> None:
        super().__init__(loop, file)
        self.limit = limit
        self.parts: list[bytes] = []
        self.size = 0
        self.truncated = False
        loop.add_reader(self._fd, self.read)

    def read(self) -> bool:
        """Whether there may be more."""
        try:
            part = os.read(self._fd, READ)
        except BlockingIOError:
            return False
        except OSError:
            part = b""
        if not part:
            self.close()
            return False
        if self.limit is not None and self.size + len(part) > self.limit:
            self.truncated = True
            part = part[: self.limit - self.size]
        if part:
            self.size += len(part)
            self.parts.append(part)
        return True

    def rest(self) -> None:
        """What is left in it, when nobody in the container can write any more."""
        for _ in range(LAST_READS):
            if self._file is None or not self.read():
                break
        self.close()

    def close(self) -> None:
        if self._file is not None:
            self._loop.remove_reader(self._fd)
            self.lost()

    def data(self) -> bytes:
        return self.parts[0] if len(self.parts) == 1 else b"".join(self.parts)


class Feed(_Pipe):
    """The pipe to the container, and what is still to be written."""

    __slots__ = ("_left",)

    def __init__(self, loop: asyncio.AbstractEventLoop, file: Any, data: bytes) -> None:
        super().__init__(loop, file)
        self._left = memoryview(data)
        self.write()
        if self._file is not None:
            loop.add_writer(self._fd, self.write)

    def write(self) -> None:
        try:
            self._left = self._left[os.write(self._fd, self._left) :] if self._left else self._left
        except BlockingIOError:
            return
        except OSError:
            self._left = self._left[:0]  # it does not want more
        if not self._left:
            self.close()

    def close(self) -> None:
        if self._file is not None:
            self._loop.remove_writer(self._fd)
            self.lost()


class Job:
    """A container that was started, until it is over."""

    def __init__(self, loop: asyncio.AbstractEventLoop, container: Started, data: bytes | None,
                 limit: int | None, heavy: bool) -> None:  # fmt: skip
        self.container = container
        self.timed_out = False
        self._loop = loop
        self._over: asyncio.Future[None] = loop.create_future()
        self._streams: list[Stream | None] = [None, None]
        self._feed: Feed | None = None
        self._ended = False
        self._exit: Exit | None = None
        try:
            self._exit = Exit(loop, container, heavy, self._end, self._lost)
            for i, name in enumerate(("stdout", "stderr")):
                if getattr(container, name) is not None:
                    self._streams[i] = Stream(loop, getattr(container, name), limit)
                    setattr(container, name, None)  # ours now: shutdown() may close the container
            if container.stdin is not None:
                self._feed = Feed(loop, container.stdin, data or b"")
                container.stdin = None
        except BaseException:
            self._drop()
            if self._exit is not None:
                self._exit.forget()
            container.close()
            raise

    def _drop(self) -> None:
        for stream in self._streams:
            if stream is not None:
                stream.close()
        if self._feed is not None:
            self._feed.close()

    def _lost(self) -> None:
        """The loop was closed before its end."""
        for pipe in (*self._streams, self._feed):
            if pipe is not None:
                pipe.lost()

    def _end(self) -> None:
        """Everything in it is gone."""
        for stream in self._streams:
            if stream is not None:
                stream.rest()
        self._drop()
        self._ended = True
        if not self._over.done():
            self._over.set_result(None)

    def kill(self) -> None:
        if self._exit is not None:
            self._exit.kill()

    def expire(self) -> None:
        """Its time is up."""
        if self._exit is not None and not self._exit.has_ended():
            self.timed_out = True
            self.kill()

    async def wait(self) -> None:
        """Until it is over. Cancelled: everything in it is killed, and waited for all the same."""
        try:
            await self._over
        except asyncio.CancelledError:
            self.kill()
            while not self._ended:
                self._over = self._loop.create_future()
                await whatever(self._over)
            raise

    @property
    def exit(self) -> Exit:
        assert self._exit is not None
        return self._exit

    def output(self, i: int) -> bytes | None:
        stream = self._streams[i]
        return None if stream is None else stream.data()

    @property
    def truncated(self) -> tuple[str, ...]:
        """Of which outputs something was dropped."""
        return tuple(name for name, stream in zip(("stdout", "stderr"), self._streams)
                     if stream is not None and stream.truncated)


async def run_plan(
    plan: Plan, argv: Any = None, *, stdin: Any = None, input: Any = None, stdout: Any = None,  # noqa: A002
    stderr: Any = None, capture_output: bool = False, text: bool | None = None, encoding: str | None = None,
    errors: str | None = None, timeout: float | None = None, check: bool = False, output_limit: Any = None,
    outputs: Any = None, **launch: Any,
) -> Completed:  # fmt: skip
    """aio.run() of a plan; see there."""
    stdin, stdout, stderr, data, as_text = redirected(
        stdin, input, stdout, stderr, capture_output, text, encoding, errors)
    if launch.get("tty"):
        raise SpecError("tty", launch["tty"], "is for a container that is talked to", "use create_container_exec()")
    limit = None if output_limit is None else size("output_limit", output_limit)
    wanted = None
    if outputs is not None:
        from .outputs import paths

        wanted = paths(outputs) or None
    container = await start(plan, argv, {"stdin": stdin, "stdout": stdout, "stderr": stderr, **launch})
    loop = asyncio.get_running_loop()
    job = Job(loop, container, data, limit, is_heavy(plan))
    job.exit.outputs = wanted
    timer = None if timeout is None else loop.call_later(max(float(timeout), 0.0), job.expire)
    try:
        await job.wait()
    finally:
        if timer is not None:
            timer.cancel()
    return completed(job, argv, timeout, check, as_text, wanted)


def completed(job: Job, argv: Any, timeout: float | None, check: bool,
              text: tuple[str | None, str | None] | None, outputs: list[Any] | None) -> Completed:  # fmt: skip
    """What came of a job that is over. Raises TimeoutExpired, LaunchError of stage "outputs", and
    CalledProcessError with check."""
    container = job.container
    if container._result is None or container.returncode is None:
        raise job.exit.error or LaunchError("wait", 0, None, "the container's end was not seen")
    files = None
    if outputs and job.exit.fds is not None:
        from .outputs import opened

        files = opened(outputs, job.exit.fds)
    code, _, oom, usage = container._result
    done = Completed(container.args if argv is None else argv, container.returncode, job.output(0), job.output(1),
                     killed_by(code, oom, job.timed_out), usage, job.exit.timings, container.pid,
                     job.truncated, files, job.exit.warm)
    return finished(done, text, timeout, job.exit.error, check)
