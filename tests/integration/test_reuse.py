"""What one container leaves for the next, and what it must not."""

from __future__ import annotations

import ctypes
import threading

import pytest

fastctr = pytest.importorskip("fastctr")
pytestmark = pytest.mark.needs_root
PORT = "/proc/sys/net/ipv4/ip_unprivileged_port_start"
PR_GET_DUMPABLE = 3


def ports_seen(plan, n=6) -> set[str]:
    return {plan.run(["cat", PORT], capture_output=True, text=True).stdout.strip() for _ in range(n)}


@pytest.mark.parametrize(
    ("fields", "script"),
    [
        ({"sysctls": {"net.ipv4.ip_unprivileged_port_start": 7}}, f"cat {PORT}"),
        ({"readonly_paths": []}, f"echo 7 > {PORT}; cat {PORT}"),
    ],
    ids=["asked for", "written by the job"],
)
def test_sysctls_of_the_network_do_not_come_along(fields, script):
    with fastctr.Plan(rootfs="host") as plain, fastctr.Plan(rootfs="host", **fields) as changing:
        before = ports_seen(plain, 1)
        for _ in range(4):
            assert changing.run(["sh", "-c", script], capture_output=True, text=True).stdout == "7\n"
        fastctr_idle()
        assert ports_seen(plain) == before != {"7"}


def fastctr_idle() -> None:
    """Until the background has cleared up what has ended."""
    from fastctr import context

    context.get().drain(True)


def dumpable() -> int:
    return ctypes.CDLL(None).prctl(PR_GET_DUMPABLE, 0, 0, 0, 0)


def test_our_memory_is_dumpable_again_after_starts_from_many_threads():
    """While a child shares it, it is not: whoever sees the child could trace it, and have us."""
    assert dumpable() == 1
    seen: set[int] = set()
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            seen.add(dumpable())

    with fastctr.Plan(rootfs="host", user="1000") as plan:
        watcher = threading.Thread(target=watch)
        watcher.start()
        threads = [threading.Thread(target=lambda: [plan.run(["true"]) for _ in range(10)]) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        fastctr_idle()
        done.set()
        watcher.join()
    assert 0 in seen
    assert dumpable() == 1
