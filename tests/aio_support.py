"""The loops that tests of fastctr.aio run on."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

import leaks_support

On = Callable[[Coroutine[Any, Any, Any]], Any]


try:  # libuv keeps a pipe of its own from its first loop on: it is not to be taken for a leak
    import uvloop

    asyncio.Runner(loop_factory=uvloop.new_event_loop).run(asyncio.sleep(0))
except ImportError:
    pass


def _uvloop(main: Coroutine[Any, Any, Any]) -> Any:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


def _in_thread(main: Coroutine[Any, Any, Any]) -> Any:
    got: list[Any] = []

    def body() -> None:
        try:
            got.append(asyncio.run(main))
        except BaseException as error:
            got.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    if isinstance(got[0], BaseException):
        raise got[0]
    return got[0]


@pytest.fixture(params=["asyncio", "uvloop", "thread"])
def on(request: pytest.FixtureRequest) -> On:
    """Runs a coroutine on that loop."""
    if request.param == "uvloop":
        pytest.importorskip("uvloop", reason="needs uvloop for a loop other than asyncio's: install uvloop")
    return {"asyncio": asyncio.run, "uvloop": _uvloop, "thread": _in_thread}[request.param]


def alive() -> int:
    tag = leaks_support.runtime_tag(os.environ["FASTCTR_RUNTIME_DIR"])
    return sum("sleep" in what for what in leaks_support.processes(tag).values())
