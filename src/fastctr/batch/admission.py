"""How many jobs may run at once by what they may use: the machine is never promised twice.

A job counts with its limit of memory and of processes; one without a limit with an estimate, learned from
the peaks of jobs like it. Jobs start in the order they come: a big one waits for room, and those after it
wait behind it.
"""

from __future__ import annotations

import threading

from .. import units
from ..errors import SpecError
from . import machine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .jobs import Job

SHARE = 0.8
"""Of what is available when the batch begins."""
FIRST_MEMORY, LEAST_MEMORY = 32 << 20, 1 << 20
FIRST_PIDS = 8
OWN_PIDS = 1
"""Beside a job's own processes: one that sees to it."""


class TooBig(SpecError):
    """A job that would not fit if it were alone."""


def budget_of(field: str, value: Any, total: int) -> int:
    """Bytes of "2g" or of "50%" (of all there is). Raises SpecError."""
    if isinstance(value, str) and value.strip().endswith("%"):
        try:
            share = float(value.strip()[:-1])
        except ValueError:
            share = -1.0
        if not 0 < share <= 100:
            raise SpecError(field, value, "is not a share", 'use a size as "2g", or a share as "50%"')
        return int(total * share / 100)
    return units.size(field, value, 1 << 20)


class Admission:
    """enter(job) waits for room, leave(job) gives it back; any thread."""

    def __init__(self, memory_budget: Any = None, pids_budget: Any = None) -> None:
        total, available = machine.memory()
        if memory_budget is None:
            self.memory = max(int(available * SHARE), LEAST_MEMORY)
            self.most_memory = total
        else:
            self.memory = self.most_memory = budget_of("memory_budget", memory_budget, total)
        all_pids, free = machine.processes()
        if pids_budget is None:
            self.pids = max(int(free * SHARE), 1)
            self.most_pids = all_pids
        else:
            self.pids = self.most_pids = units.integer("pids_budget", pids_budget, 1, 2**22)
        self.used_memory = self.used_pids = self.running = 0
        self.peak_running = 0
        self._lock = threading.Lock()
        self._waiting: list[_Ticket] = []
        self._closed = False

    def check(self, job: Job) -> None:
        """Raises TooBig for a job that no waiting would help."""
        if job.memory is not None and job.memory > self.most_memory:
            raise TooBig("memory", job.memory, f"is more than there is to give: {self.most_memory} bytes",
                         "lower it, or raise --memory-budget")  # fmt: skip
        if job.pids is not None and job.pids > self.most_pids:
            raise TooBig("pids", job.pids, f"is more than there is to give: {self.most_pids}",
                         "lower it, or raise --pids-budget")  # fmt: skip

    def needs(self, job: Job) -> tuple[int, int]:
        """(bytes, processes) a job is counted with."""
        entry = job.entry
        memory = job.memory
        if memory is None:
            memory = min(entry.peak_memory + (entry.peak_memory >> 2) or FIRST_MEMORY, self.most_memory)
        pids = job.pids
        if pids is None:
            pids = min((entry.peak_pids or FIRST_PIDS) + OWN_PIDS, self.most_pids)
        return memory, pids

    def enter(self, job: Job) -> tuple[int, int] | None:
        """Wait until it fits: what to give to leave(). None when it is not to start any more. Raises TooBig."""
        memory, pids = need = self.needs(job)
        if memory > self.memory or pids > self.pids:
            self.check(job)
        with self._lock:
            if self._closed:
                return None
            if not self._waiting and self._fits(memory, pids):
                self._take(memory, pids)
                return need
            ticket = _Ticket(memory, pids)
            self._waiting.append(ticket)
        ticket.go.acquire()
        return need if ticket.admitted else None

    def _fits(self, memory: int, pids: int) -> bool:
        if not self.running:
            return True  # alone it may have more than the budget: it is less than the machine
        return self.used_memory + memory <= self.memory and self.used_pids + pids <= self.pids

    def _take(self, memory: int, pids: int) -> None:
        self.used_memory += memory
        self.used_pids += pids
        self.running += 1
        if self.running > self.peak_running:
            self.peak_running = self.running

    def leave(self, need: tuple[int, int]) -> None:
        """It has ended: let in whoever fits now, in order."""
        with self._lock:
            self.used_memory -= need[0]
            self.used_pids -= need[1]
            self.running -= 1
            waiting = self._waiting
            while waiting and self._fits(waiting[0].memory, waiting[0].pids):
                ticket = waiting.pop(0)
                self._take(ticket.memory, ticket.pids)
                ticket.admitted = True
                ticket.go.release()

    def learn(self, job: Job, memory: Any, pids: Any) -> None:
        """What a job was seen to use at most: bytes, processes, or None. Estimates rise at once and sink slowly."""
        entry = job.entry
        if memory is not None and job.memory is None:
            memory = max(memory, LEAST_MEMORY)
            entry.peak_memory = max(memory, entry.peak_memory - (entry.peak_memory >> 6))
        if pids is not None and job.pids is None:
            entry.peak_pids = max(pids, entry.peak_pids)

    def close(self) -> None:
        """Nothing is let in any more."""
        with self._lock:
            self._closed = True
            for ticket in self._waiting:
                ticket.go.release()
            self._waiting.clear()


class _Ticket:
    __slots__ = ("admitted", "go", "memory", "pids")

    def __init__(self, memory: int, pids: int) -> None:
        self.memory = memory
        self.pids = pids
        self.admitted = False
        self.go = threading.Lock()
        self.go.acquire()
