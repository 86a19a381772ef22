"""System calls of one start, counted from a trace of every task it makes."""
from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections import Counter
from typing import Any

from .peers import Side, Stage
from .worker import MARK

CALL = re.compile(r"^(\d+)\s+(\w+)\(")
BORN = re.compile(r"^(\d+)\s+(?:<\.\.\. )?(?:clone3?|v?fork)\b.* = (\d+)")
TOP = 12


def _calls(path: str) -> list[tuple[int, str, str]]:
    """Task, name and whole line of every call in a trace; a resumed call is not counted twice."""
    out = []
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            found = CALL.match(line)
            if found:
                out.append((int(found[1]), found[2], line))
    return out


def _parents(path: str) -> dict[int, int]:
    """Who made whom: child to parent."""
    with open(path, encoding="utf-8", errors="replace") as file:
        return {int(found[2]): int(found[1]) for line in file if (found := BORN.match(line))}


def _summary(calls: list[tuple[int, str, str]]) -> dict[str, Any]:
    names = Counter(name for _, name, _ in calls)
    return {"calls": len(calls), "tasks": len({task for task, _, _ in calls}),
            "execs": names["execve"] + names["execveat"],
            "most": [f"{name} {count}" for name, count in names.most_common(TOP)]}


def whole_command(stage: Stage, side: Side) -> dict[str, Any]:
    """Every system call of one run of a program (crun, runc, bwrap), from its first to its last."""
    out = stage.path(f"trace-{side.name.replace(' ', '-')}")
    done = subprocess.run(stage.traced(side, out), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"strace of {side.name}: {done.stdout}{done.stderr}")
    return _summary(_calls(out))


def one_start(stage: Stage) -> dict[str, dict[str, Any]]:
    """The system calls of one warm plan.run: those of the caller, those of the tasks it made for the
    container until the last one's end, and those made meanwhile by background tasks and theirs."""
    side = stage.plan("traced")
    out = stage.path("trace-plan")
    strace = shutil.which("strace") or "strace"
    side.command = [strace, "-f", "-q", "-s", "64", "-o", out, "--", *side.command]
    try:
        side.go(5)
        side.ask("mark 3")
    finally:
        side.close()
    calls = _calls(out)
    marks = [at for at, (_, name, line) in enumerate(calls) if name == "write" and MARK.decode() in line]
    if len(marks) != 6:
        raise RuntimeError(f"the trace of plan.run has {len(marks)} marks: expected 6")
    begin, end, following = marks[-4], marks[-3], marks[-2]
    caller = calls[begin][0]
    before = {task for task, _, _ in calls[:begin]}
    inside = calls[begin + 1:end]
    until_next = calls[begin + 1:following]     # most of what runs in the background comes after the start
    parents = _parents(out)

    def owner(task: int) -> int:
        """The task from before this start that TASK comes from."""
        while task not in before and task in parents:
            task = parents[task]
        return task

    return {
        "fastctr, the caller": _summary([call for call in inside if call[0] == caller]),
        "fastctr, the container": _summary([call for call in inside
                                            if call[0] != caller and owner(call[0]) == caller]),
        "fastctr, in the background": _summary([call for call in until_next if owner(call[0]) != caller]),
    }


def count(stage: Stage, with_fastctr: bool) -> dict[str, dict[str, Any]]:
    """The table of system calls; sides that are not there are left out, and all without strace."""
    if not shutil.which("strace"):
        print("no strace: system calls are not counted", file=sys.stderr)
        return {}
    out: dict[str, dict[str, Any]] = {}
    if with_fastctr:
        out.update(one_start(stage))
    for side in (stage.bare("busybox"), stage.bwrap(), stage.runtime("crun"), stage.runtime("runc")):
        if side:
            out[side.name] = whole_command(stage, side)
    return out
