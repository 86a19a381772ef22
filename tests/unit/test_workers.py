"""Workers and their futures, with functions in place of containers."""

from __future__ import annotations

import concurrent.futures as cf
import threading
import time

import pytest

pytest.importorskip("fastctr._core")
from fastctr.workers import JobFuture, Workers  # noqa: E402


@pytest.fixture
def workers():
    made = Workers("test", 2)
    yield made
    made.close(wait=False)
    made.cancel_pending()
    made.cancel_running()
    made.close()


class Running:
    """What runs until it is killed."""

    def __init__(self) -> None:
        self.dead = threading.Event()

    def kill_all(self) -> None:
        self.dead.set()


def job(started, running: Running, seconds: float = 30) -> str:
    started(running)
    return "killed" if running.dead.wait(seconds) else "done"


def test_results_and_exceptions(workers):
    assert workers.submit(lambda started, a, b: a + b, (1,), {"b": 2}).result(5) == 3
    failed = workers.submit(lambda started: 1 / 0, (), {})
    assert isinstance(failed.exception(5), ZeroDivisionError)
    left = workers.submit(lambda started: exit(3), (), {})
    assert isinstance(left.exception(5), SystemExit)
    assert workers.submit(lambda started: 5, (), {}).result(5) == 5  # the thread is still there


def test_cancel_kills_once_and_tells_everybody(workers):
    running = Running()
    future = workers.submit(job, (running,), {})
    told: list[cf.Future] = []
    future.add_done_callback(told.append)
    while not future.running():
        time.sleep(0.001)
    time.sleep(0.02)
    waiter = threading.Thread(target=lambda: cf.wait([future]))
    waiter.start()
    assert future.cancel()
    assert running.dead.is_set()
    waiter.join(5)
    assert not waiter.is_alive()
    assert told == [future]
    assert next(cf.as_completed([future], 5)) is future


def test_cancelled_before_there_was_something_to_kill(workers):
    here, go = threading.Event(), threading.Event()
    running = Running()

    def slow(started) -> None:
        here.set()
        go.wait(5)
        started(running)

    future = workers.submit(slow, (), {})
    here.wait(5)
    assert future.cancel()
    go.set()
    assert running.dead.wait(5)


def test_a_kill_that_comes_too_late_is_no_error(workers):
    class Gone:
        def kill(self) -> None:
            raise ValueError("the container is released")

    future = JobFuture()
    assert future.begin()
    future.started(Gone())
    assert future.cancel()
    assert not future.begin()


def test_pending_jobs_never_start(workers):
    both = [Running(), Running()]
    futures = [workers.submit(job, (running,), {}) for running in both]
    while workers.running < 2:
        time.sleep(0.001)
    ran: list[int] = []
    waiting = [workers.submit(lambda started, n: ran.append(n), (n,), {}) for n in range(5)]
    assert (workers.pending, workers.threads) == (5, 2)
    assert waiting[2].cancel()
    workers.cancel_pending()
    assert all(future.cancelled() for future in waiting)
    for running in both:
        running.kill_all()
    assert [future.result(5) for future in futures] == ["killed"] * 2
    assert ran == []


def test_closing():
    ended: list[str] = []
    workers = Workers("test", 3)
    future = workers.submit(lambda started: time.sleep(0.05), (), {})
    workers.close(wait=False, after=lambda: ended.append("after"))
    with pytest.raises(RuntimeError, match="closed"):
        workers.submit(lambda started: None, (), {})
    workers.close()
    assert future.done()
    assert ended == ["after"]
    assert workers.threads == 0
    idle = Workers("test", 3)
    idle.close(after=lambda: ended.append("idle"))
    idle.close(after=lambda: ended.append("never"))
    assert ended == ["after", "idle"]


def test_a_callback_may_close():
    workers = Workers("test", 1)
    done = threading.Event()
    workers.submit(lambda started: None, (), {}).add_done_callback(lambda _: (workers.close(), done.set()))
    assert done.wait(5)


def test_nothing_of_a_job_is_kept(workers):
    import gc
    import weakref

    class Thing:
        pass

    thing = Thing()
    gone = weakref.ref(thing)
    workers.submit(lambda started, it: None, (thing,), {}).result(5)
    del thing
    for _ in range(100):
        gc.collect()
        if gone() is None:
            return
        time.sleep(0.01)
    raise AssertionError("a thread that waits still holds its last job")


def test_back_pressure_lets_go_in_order():
    workers = Workers("test", 1, max_pending=2)
    running = Running()
    first = workers.submit(job, (running,), {})
    while not first.running():
        time.sleep(0.001)
    for _ in range(2):
        workers.submit(lambda started: None, (), {})
    submitted = threading.Event()

    def third() -> None:
        workers.submit(lambda started: None, (), {})
        submitted.set()

    thread = threading.Thread(target=third)
    thread.start()
    assert not submitted.wait(0.05)
    running.kill_all()
    assert submitted.wait(5)
    thread.join()
    workers.close()
