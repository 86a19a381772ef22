"""How many commands go to the cluster as one task of Dask's: more than one only while they are short."""

from __future__ import annotations

import threading
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from distributed import Client

SHORT = 0.05
"""Seconds of a job below which several go together: a task costs about 2 ms of CPU time besides."""
TASK = 0.15
"""Seconds that the jobs of one task are to take together."""
PROBES = 32
"""Jobs that are sent one by one before it is known how long they take."""
PATIENCE = 0.3
"""Seconds to wait for the first of them; jobs that take longer are long."""


class Pace:
    """What is known of the jobs' length. most: of one task; 1 keeps every job by itself."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Condition()
        self._each: float | None = None
        self._first = 0.0
        self._left = PROBES if most > 1 else 0
        self._slots = (0.0, 1)

    @property
    def probes(self) -> int:
        """How many may be sent before anything is known; 0: no limit."""
        return 0 if self._each is not None else self._left

    def size(self, pending: int, client: Client) -> int:
        """How many of `pending` jobs are to go together now. They are spread over all slots at least twice."""
        if self._each is None or self._each > SHORT:
            if self._left:
                self._first = self._first or time.monotonic()
                self._left = max(self._left - pending, 0)
            return 1
        now = time.monotonic()
        if now > self._slots[0]:
            self._slots = (now + 2, max(sum(client.nthreads().values()), 1))
        return max(min(self._most, int(TASK / max(self._each, 0.001)), pending // (2 * self._slots[1])), 1)

    def wait(self) -> None:
        """Once the probes are out: until it is known how long one takes, or they take long."""
        if self._most == 1 or self._left or self._each is not None:
            return
        with self._lock:
            self._lock.wait_for(lambda: self._each is not None, max(self._first + PATIENCE - time.monotonic(), 0))
            if self._each is None:
                self._each = PATIENCE

    def took(self, seconds: float) -> None:
        """A job took so long."""
        with self._lock:
            first = self._each is None
            self._each = seconds if first else 0.8 * (self._each or 0.0) + 0.2 * seconds
            if first:
                self._lock.notify_all()

    def slow(self) -> None:
        """One of several took long: the others were held up."""
        with self._lock:
            self._each = max(self._each or 0.0, 10 * SHORT)

