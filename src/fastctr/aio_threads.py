"""The few threads in which an event loop has done what would keep it from answering.

They live as long as this process's context, and wait for work without taking any time: what they clone
may take them for its parent (see aio_start.py and csrc/launch.c).
"""

from __future__ import annotations

import asyncio
import errno as codes
import os
import queue
import threading

from . import context
from .container import Container
from .errors import LaunchError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

THREADS = min(4, os.cpu_count() or 1)
"""So many at most, made with need and kept until shutdown()."""


class _Order:
    """One call a loop has handed to a thread; its future is the loop's."""

    __slots__ = ("call", "future", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop, call: Callable[[], Any]) -> None:
        self.call = [call]  # popped by whoever takes it: a thread, or the loop that gives it up
        self.loop = loop
        self.future: asyncio.Future[Any] = loop.create_future()

    def take(self) -> Callable[[], Any] | None:
        try:
            return self.call.pop()
        except IndexError:
            return None

    def serve(self) -> None:
        call = None if self.loop.is_closed() else self.take()
        if call is None:
            return
        result, error = None, None
        try:
            result = call()
        except BaseException as found:  # noqa: BLE001 it is the loop's to raise
            error = found
        try:
            self.loop.call_soon_threadsafe(self._tell, result, error)
        except RuntimeError:  # the loop is closed: nobody is left to have it
            if isinstance(result, Container):
                result.close()

    def refuse(self) -> None:
        """shutdown() came first."""
        if self.take() is not None and not self.loop.is_closed():
            error = LaunchError("clone", codes.ECANCELED, "shutdown() has been called")
            self.loop.call_soon_threadsafe(self._tell, None, error)

    def _tell(self, result: Any, error: BaseException | None) -> None:
        if self.future.done():
            if isinstance(result, Container):
                result.close()
        elif error is not None:
            self.future.set_exception(error)
        else:
            self.future.set_result(result)


class _Threads:
    def __init__(self) -> None:
        self.orders: queue.SimpleQueue[_Order | None] = queue.SimpleQueue()
        self.lock = threading.Lock()
        self.idle = 0
        self.made: list[threading.Thread] = []

    def put(self, order: _Order) -> None:
        self.orders.put(order)
        if len(self.made) < THREADS and self.orders.qsize() > self.idle:
            with self.lock:
                if len(self.made) < THREADS:
                    thread = threading.Thread(target=self._serve, name="fastctr-aio", daemon=True)
                    thread.start()
                    self.made.append(thread)

    def _serve(self) -> None:
        while True:
            with self.lock:
                self.idle += 1
            order = self.orders.get()
            with self.lock:
                self.idle -= 1
            if order is None:
                return
            order.serve()
            del order  # it holds a container, and the next may be long in coming

    def stop(self) -> None:
        with self.lock:
            made, self.made = self.made, []
        while True:
            try:
                left = self.orders.get_nowait()
            except queue.Empty:
                break
            if left is not None:
                left.refuse()
        for _ in made:
            self.orders.put(None)
        for thread in made:
            if thread is not threading.current_thread():
                thread.join()


_threads = _Threads()


def stop() -> None:
    """End the threads; at shutdown(), when nothing runs that they have started."""
    _threads.stop()


def _after_fork() -> None:
    global _threads
    _threads = _Threads()  # the parent's do not exist here


context.on_fork(_after_fork)


async def in_thread(call: Callable[[], Any]) -> Any:
    """What call() returns or raises, made in one of our threads.

    When the waiting task is cancelled before a thread has taken it, it is never made; once taken it is
    waited for, and a container it made is ended.
    """
    order = _Order(asyncio.get_running_loop(), call)
    _threads.put(order)
    try:
        return await asyncio.shield(order.future)
    except asyncio.CancelledError:
        if order.take() is None:
            made = await whatever(order.future)
            if isinstance(made, Container):
                await whatever(hand_over(order.loop, made.close))
        raise


def hand_over(loop: asyncio.AbstractEventLoop, call: Callable[[], Any]) -> asyncio.Future[Any]:
    """Have call() made in one of our threads: a future of the loop."""
    order = _Order(loop, call)
    _threads.put(order)
    return order.future


async def whatever(future: asyncio.Future[Any]) -> Any:
    """Wait for it, whatever else is asked meanwhile; its result, or None when it failed."""
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError:
            continue  # our caller is about to say so
    return None if future.cancelled() or future.exception() is not None else future.result()


def retrieve(future: asyncio.Future[Any] | None) -> None:
    """See its error, which somebody else has told of already: nothing is logged then."""
    if future is not None and not future.cancelled():
        future.exception()
