"""Jobs of every kind of outcome, each counted exactly once; and what is left on the machine afterwards."""

from __future__ import annotations

import os
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fastctr
import leaks_support
from fastctr import context

CRASH = """
#include <stdio.h>
int main(int argc, char **argv)
{
	dprintf(3, "%s\\n", argv[1]);	/* one write: others write there, too */
	*(volatile int *)0 = argc;
	return 0;
}
"""
"""PID 1 of a pid namespace dies of its own fault, but of no signal it sends itself."""

# kind: (of a thousand, the script after its number is told, keywords of the launch)
KINDS: dict[str, tuple[int, str, dict[str, Any]]] = {
    "ok": (720, "echo out $0", {}),
    "fail": (120, "exit $((1 + $0 % 50))", {}),
    "signal": (50, "", {}),
    "flood": (50, "head -c 300000 /dev/zero; head -c 200000 /dev/zero >&2", {"output_limit": 10000}),
    "timeout": (20, "echo before; sleep 60 & sleep 61", {"timeout": 0.15}),
    "oom": (20, "head -c 40m /dev/zero | tail -c 40m >/dev/null; exit $?", {"limits": {"memory": "12m"}}),
    "bomb": (20, "while :; do sleep 60 & done", {"limits": {"pids": 8}, "timeout": 30}),
}


def kind_of(n: int) -> str:
    at = n * 7919 % 1000  # spread evenly, the same in every run
    for kind, (share, _, _) in KINDS.items():
        at -= share
        if at < 0:
            return kind
    return "ok"


def job(n: int, fd: int) -> tuple[list[str], dict[str, Any]]:
    """argv and launch keywords of job n, which writes its number to fd."""
    kind = kind_of(n)
    _, script, more = KINDS[kind]
    argv = ["/bin/crash", str(n)] if kind == "signal" else ["sh", "-c", f"echo $0 >&3; {script}", str(n)]
    return argv, {"capture_output": True, "stdin": fastctr.DEVNULL, "pass_fds": {3: fd}, **more}


def outcome(n: int, done: fastctr.Completed | None, error: BaseException | None) -> str:
    """Its kind if it came out as it must, else what is wrong."""
    kind = kind_of(n)
    if error is not None:
        if not isinstance(error, fastctr.TimeoutExpired):
            return f"job {n} ({kind}): {error!r}"
        done = error.completed
    assert done is not None
    code, by, out, err = done.returncode, done.killed_by, done.stdout, done.stderr
    good = {
        "ok": (code, by, out, err) == (0, None, b"out %d\n" % n, b""),
        "fail": (code, by, out) == (1 + n % 50, None, b""),
        "signal": (code, by) == (-11, "signal"),
        "flood": (code, by, len(out), len(err), done.truncated) == (0, None, 10000, 10000, ("stdout", "stderr")),
        "timeout": (by, out) == ("timeout", b"before\n") and error is not None,
        "oom": code != 0 and by == "oom",
        "bomb": code != 0 and by is None and error is None,
    }[kind]
    return kind if good else f"job {n} ({kind}): {done!r}"


class Tally:
    """The numbers that jobs themselves write into a pipe, and the outcomes the caller sees."""

    def __init__(self) -> None:
        self.read, self.write = os.pipe()
        self.ran: Counter[int] = Counter()
        self.seen: Counter[int] = Counter()
        self.kinds: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._count)
        self._thread.start()

    def _count(self) -> None:
        with os.fdopen(self.read, "rb") as file:
            for line in file:
                self.ran[int(line)] += 1

    def note(self, n: int, done: fastctr.Completed | None, error: BaseException | None) -> None:
        found = outcome(n, done, error)
        with self._lock:
            self.seen[n] += 1
            self.kinds[found if found in KINDS else "wrong"] += 1
            if found not in KINDS and len(self.wrong) < 10:
                self.wrong.append(found)

    def close(self) -> None:
        if self.write >= 0:
            os.close(self.write)
            self.write = -1
            self._thread.join()

    def check(self, numbers: range) -> None:
        """Each of them ran once and was told of once, as what it was."""
        self.close()
        assert not self.wrong, "\n".join(self.wrong)
        wanted = Counter(dict.fromkeys(numbers, 1))
        assert self.seen == wanted, f"told: {_difference(self.seen, wanted)}"
        assert self.ran == wanted, f"ran: {_difference(self.ran, wanted)}"
        assert self.kinds == Counter(map(kind_of, numbers))


def _difference(found: Counter[int], wanted: Counter[int]) -> dict[int, int]:
    return {n: found[n] for n in {*found, *wanted} if found[n] != wanted[n]}


# ---- what is left

SLABS = ("mnt_cache", "net_namespace", "pid_namespace", "task_struct", "cred", "filp", "sock_inode_cache", "pid", "signal_cache",
         "sighand_cache", "files_cache", "kmalloc-1k", "kmalloc-4k", "kmalloc-cg-1k", "kmalloc-cg-4k")  # fmt: skip


def slabs() -> dict[str, int]:
    """bytes in active objects, by cache; slabinfo(5)."""
    found = {}
    with open("/proc/slabinfo") as file:
        for line in file:
            fields = line.split()
            if fields[0] in SLABS and len(fields) > 3 and fields[1].isdigit():
                found[fields[0]] = int(fields[1]) * int(fields[3])
    return found


def resident() -> int:
    """kB of this process's own memory."""
    with open("/proc/self/smaps_rollup") as file:
        return int(re.search(r"Private_Dirty:\s+(\d+)", file.read()).group(1))  # type: ignore[union-attr]


class Before:
    """The machine before the jobs, with what is kept for the next starts given up."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self.tag = leaks_support.runtime_tag(os.environ["FASTCTR_RUNTIME_DIR"])
        self._settle()
        self.fds = leaks_support.descriptors()
        self.mounts = sorted(Path("/proc/self/mountinfo").read_text().splitlines())
        self.kb = resident()
        self.slabs = slabs()

    def _settle(self) -> None:
        fastctr.shutdown()

    def left(self) -> list[str]:
        self._settle()
        found = [f"group {path}" for path in leaks_support.groups(self.tag)]
        found += [f"process {pid}: {what}" for pid, what in leaks_support.processes(self.tag).items()]
        found += [f"lock {name}" for name in os.listdir(os.environ["FASTCTR_RUNTIME_DIR"])]
        found += [f"scratch {path}" for path in self.scratch.rglob("*")]
        now = leaks_support.descriptors()
        found += [f"descriptor {fd}: {now[fd]}" for fd in now if fd not in self.fds]
        found += [f"mount {line}" for line in sorted(Path("/proc/self/mountinfo").read_text().splitlines())
                  if line not in self.mounts]  # fmt: skip
        return found

    def check(self, jobs: int) -> None:
        """Nothing is left. Memory is compared with room for allocators and caches, the same for any number."""
        found = self.left()
        for _ in range(30):
            if not found:
                break
            time.sleep(0.1)
            found = self.left()
        assert not found, f"left of {jobs} jobs:\n" + "\n".join(found)
        grown = resident() - self.kb
        assert grown < 24 << 10, f"{grown} kB more after {jobs} jobs"
        for _ in range(30):  # the kernel frees namespaces in its own time, and others work on this machine
            more = {name: size - self.slabs.get(name, 0) for name, size in slabs().items()}
            if all(size < 48 << 20 for size in more.values()):
                return
            time.sleep(0.3)
        raise AssertionError(f"slab has grown: {more}")


def processes_named(name: str) -> Iterator[int]:
    """Those of ours with this in their command line or name."""
    tag = leaks_support.runtime_tag(os.environ["FASTCTR_RUNTIME_DIR"])
    for pid in leaks_support.processes(tag):
        try:
            text = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            text += Path(f"/proc/{pid}/comm").read_text()
        except OSError:
            continue
        if name in text:
            yield pid


def counters() -> dict[str, int]:
    return context.get().counters()
