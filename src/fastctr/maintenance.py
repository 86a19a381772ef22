"""gc() and shutdown(): clear away what dead processes left, and what this one keeps prepared."""

from __future__ import annotations

from . import context


def gc() -> int:
    """Remove the groups, locks and scratch directories of processes that died, killing what still runs
    in them. Returns how many such processes there were. Every first start of a process does the same."""
    core = context.get()
    context.sweep_later()
    _open_default_groups()
    return core.sweep()


def _open_default_groups() -> None:
    """Sweeping goes by the groups beside ours, so ours must be there."""
    from .errors import FastctrError
    from .plan import Plan

    try:
        Plan(rootfs="host").core()
    except FastctrError:
        pass


def shutdown() -> None:
    """Drop everything prepared, wait until every ended container is torn down, end the background
    thread and remove this process's groups. The next start begins anew. Done at exit by itself."""
    context.close()
