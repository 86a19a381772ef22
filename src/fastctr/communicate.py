"""Container.communicate(): both outputs and the input at once, resumable after a timeout."""

from __future__ import annotations

import os
import time

from .results import decode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .container import Container


class _State:
    """What has been read and written so far, across calls."""

    def __init__(self, data: bytes) -> None:
        self.left = memoryview(data)
        self.out: dict[str, bytearray] = {}


def communicate(c: Container, given: Any, timeout: float | None) -> tuple[Any, Any]:
    import selectors

    deadline = None if timeout is None else time.monotonic() + timeout
    state: _State | None = getattr(c, "_io", None)
    if state is None:
        if isinstance(given, str):
            encoding, errors = c._text or (None, None)
            given = given.encode(encoding or "utf-8", errors or "strict")
        state = _State(given or b"")
        c._io = state  # type: ignore[attr-defined]
        if c.stdin is not None:
            _flush(c.stdin)
            if not state.left:
                _close(c.stdin)
    with selectors.PollSelector() as selector:
        for name in ("stdout", "stderr"):
            file = getattr(c, name)
            if file is not None and not file.closed:
                state.out.setdefault(name, bytearray())
                selector.register(file, selectors.EVENT_READ, name)
        if c.stdin is not None and not c.stdin.closed:
            os.set_blocking(c.stdin.fileno(), False)
            selector.register(c.stdin, selectors.EVENT_WRITE, "stdin")
        ended = c.returncode is not None
        if selector.get_map() and not ended:
            selector.register(c.pidfd, selectors.EVENT_READ, "pidfd")
        while len(selector.get_map()) > (0 if ended else 1) or (ended and selector.get_map()):
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                _expired(c, state, timeout)
            if ended:
                left = 0.0  # all in it are gone: what is written is there
            events = selector.select(left)
            if ended and not events:
                break
            for key, _ in events:
                if key.data == "pidfd":
                    selector.unregister(key.fileobj)
                    c.wait()
                    ended = True
                elif key.data == "stdin":
                    _feed(c, state, selector, key.fileobj)
                else:
                    chunk = os.read(key.fd, 65536)
                    if chunk:
                        state.out[key.data] += chunk
                    else:
                        selector.unregister(key.fileobj)
                        _close(key.fileobj)
    left = None if deadline is None else max(deadline - time.monotonic(), 0.0)
    if c._wait(-1.0 if left is None else left) is None:
        _expired(c, state, timeout)
    for name in ("stdin", "stdout", "stderr"):
        _close(getattr(c, name))
    del c._io  # type: ignore[attr-defined]
    return _result(c, state)


def _result(c: Container, state: _State) -> tuple[Any, Any]:
    def one(name: str) -> Any:
        if getattr(c, name) is None:
            return None
        data = bytes(state.out.get(name, b""))
        if c._text is None:
            return data
        return decode(data, *c._text)

    return one("stdout"), one("stderr")


def _feed(c: Container, state: _State, selector: Any, file: Any) -> None:
    try:
        done = os.write(file.fileno(), state.left[:65536])
        state.left = state.left[done:]
    except BlockingIOError:
        return
    except BrokenPipeError:
        state.left = memoryview(b"")
    if not state.left:
        selector.unregister(file)
        _close(file)


def _flush(file: Any) -> None:
    try:
        file.flush()
    except BrokenPipeError:
        pass


def _close(file: Any) -> None:
    if file is not None:
        try:
            file.close()
        except BrokenPipeError:
            pass


def _expired(c: Container, state: _State, timeout: float | None) -> None:
    from .errors import TimeoutExpired

    assert timeout is not None
    raise TimeoutExpired(c.args, timeout, bytes(state.out.get("stdout", b"")) or None,
                         bytes(state.out.get("stderr", b"")) or None)
