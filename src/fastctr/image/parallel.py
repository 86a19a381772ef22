"""A few threads that work together: the first error stops all of them and is what the caller gets."""

from __future__ import annotations

import threading

from ..errors import ImageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Crew"]


class Stopped(ImageError):
    """Another thread of the crew has failed."""


class Crew:
    """Threads that share `changed`, a condition; stop() is called once, when the first of them fails."""

    def __init__(self, stop: Callable[[], object]) -> None:
        self.changed = threading.Condition()
        self._stop = stop
        self._error: BaseException | None = None
        self._threads: list[threading.Thread] = []

    def check(self) -> None:
        """Raises Stopped if all is over."""
        if self._error is not None:
            raise Stopped("the transfer", "was given up")

    def start(self, count: int, work: Callable[[], None]) -> None:
        """`count` threads that each run work() once."""
        try:
            for _ in range(count):
                thread = threading.Thread(target=self._run, args=(work,), name="fastctr-image", daemon=True)
                thread.start()
                self._threads.append(thread)
        except BaseException as error:  # noqa: BLE001 an interrupt ends those that have begun, and join() raises it
            self.fail(error)
            self.join()

    def fail(self, error: BaseException) -> None:
        """End all of it with this error, unless there was one already."""
        with self.changed:
            first = self._error is None
            if first:
                self._error = error
            self.changed.notify_all()
        if first:
            self._stop()

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Stopped:
            pass
        except BaseException as error:  # noqa: BLE001 it is raised where the crew is waited for
            self.fail(error)

    def join(self) -> None:
        """Wait for all threads, then raise the first error. An interrupt ends them, too."""
        try:
            for thread in self._threads:
                thread.join()
        except BaseException as error:
            self.fail(error)
            for thread in self._threads:
                thread.join()
            raise
        if self._error is not None:
            raise self._error
