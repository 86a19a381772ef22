"""Pool: prepared containers, threads, back-pressure and cancelling."""

from __future__ import annotations

import concurrent.futures as cf
import itertools
import os
import threading
import time
from pathlib import Path

import pytest

fastctr = pytest.importorskip("fastctr")
from fastctr.pool import Pool  # noqa: E402
from support import until  # noqa: E402

pytestmark = pytest.mark.needs_root
NULL = {"stdin": fastctr.DEVNULL, "stdout": fastctr.DEVNULL, "stderr": fastctr.DEVNULL}


@pytest.fixture
def pool(rootfs):
    with Pool(rootfs=rootfs, memory="64m", pids=32, size=4) as made:
        yield made


def marked(word: str) -> list[int]:
    """Processes of this machine whose command line has the word."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                text = Path("/proc", entry, "cmdline").read_bytes()
            except OSError:
                continue
            if word.encode() in text.split(b"\0"):
                found.append(int(entry))
    return found


# ---- what is ready


def test_run_finds_what_was_warmed_up(pool):
    assert pool.warmup() >= 4
    done = pool.run(["echo", "hi"], capture_output=True, text=True, env={"A": "b"}, timeout=9)
    assert (done.stdout, done.warm) == ("hi\n", True)
    found = pool.metrics()
    assert (found["started"], found["warm"], found["direct"], found["done"], found["size"]) == (1, 1, 0, 1, 4)
    assert found["workers"] == 0  # nothing was submitted


def test_more_than_a_plan_keeps_by_itself(rootfs):
    from fastctr import context

    size = context.WARM_MAX + 8
    with Pool(rootfs=rootfs, size=size) as pool:
        assert pool.warmup() >= size
        warm = [pool.run(["true"], **NULL).warm for _ in range(size)]
    assert all(warm)


def test_it_fills_by_itself_and_again(pool):
    until(lambda: pool.metrics()["ready"] >= 4)
    for _ in range(4):
        assert pool.run(["true"]).warm
    until(lambda: pool.metrics()["ready"] >= 4)


def test_what_is_ready_stays_though_nobody_asks(rootfs, monkeypatch):
    from fastctr import context

    fastctr.shutdown()
    monkeypatch.setattr(context, "IDLE_MS", 100)
    with Pool(rootfs=rootfs, size=3) as pool, fastctr.Plan(rootfs=rootfs, hostname="other") as plan:
        pool.warmup()
        plan.warm(3)
        until(lambda: plan.core().counters()[1] == 0, 9)
        assert pool.metrics()["ready"] >= 3
    fastctr.shutdown()


def test_an_empty_pool_starts_directly_and_says_so(rootfs):
    with Pool(rootfs=rootfs, size=0, workers=2) as pool:
        assert pool.warmup() == 0
        assert not pool.run(["true"]).warm
        assert pool.metrics()["direct"] == 1


@pytest.mark.parametrize("kind", ["upper", "mnt"])
def test_a_plan_that_cannot_be_prepared(rootfs, tmp_path, kind):
    fields = {"rootfs": rootfs, "upper": str(tmp_path / "upper")} if kind == "upper" else {"rootfs": "host", "mnt": "host"}
    with Pool(**fields, size=2) as pool:
        assert pool.warmup() == 0
        assert [pool.run(["true"]).warm for _ in range(2)] == [False, False]
        assert pool.metrics()["direct"] == 2


def test_warmup_gives_up_in_time(rootfs):
    with Pool(rootfs=rootfs, size=200) as pool:
        begun = time.monotonic()
        ready = pool.warmup(timeout=0.05)
        assert time.monotonic() - begun < 1
        assert 0 <= ready < 200


def test_a_plan_may_have_several_pools(rootfs):
    with fastctr.Plan(rootfs=rootfs) as plan, Pool(plan, size=3) as one:
        with Pool(plan, size=5) as two:
            until(lambda: plan.core().counters()[2] >= 8)
            assert two.run(["true"]).returncode == one.run(["true"]).returncode == 0
        one.warmup()
        assert one.run(["true"]).warm
        assert plan.run(["true"]).returncode == 0


def test_the_plan_closed_in_between(pool):
    pool.warmup()
    pool.plan.close()
    assert pool.run(["true"]).returncode == 0
    until(lambda: pool.metrics()["ready"] >= 4)
    fastctr.shutdown()
    assert pool.submit(["true"]).result().returncode == 0
    assert pool.metrics()["done"] == 2


def test_an_image_that_changes_is_noticed(fresh_rootfs, tmp_path):
    with Pool(rootfs=fresh_rootfs, size=3) as pool:
        pool.warmup()
        os.rename(fresh_rootfs, tmp_path / "old")
        with pytest.raises(fastctr.LaunchError) as caught:
            pool.run(["true"])
        assert caught.value.stage == "rootfs"
        os.rename(tmp_path / "old", fresh_rootfs)
        assert pool.run(["true"]).returncode == 0
        assert pool.metrics()["errors"] == 1


@pytest.mark.parametrize(
    ("kw", "field"),
    [({"size": -1}, "size"), ({"size": 1025}, "size"), ({"size": True}, "size"), ({"size": "8"}, "size"), ({"workers": 0}, "workers"),
     ({"max_pending": 0}, "max_pending"), ({"memory": "lots"}, "memory"), ({"nonsense": 1}, "nonsense"), ({"plan": 1, "memory": "1g"}, "memory")],
)  # fmt: skip
def test_what_cannot_work_is_said_before_anything_is_made(rootfs, kw, field):
    if kw.get("plan"):
        kw = {**kw, "plan": fastctr.Plan(rootfs=rootfs)}
    else:
        kw = {"rootfs": rootfs, **kw}
    with pytest.raises(fastctr.SpecError) as caught:
        Pool(**kw)
    assert caught.value.field == field


# ---- submit


def test_submit_and_its_future(pool):
    good = pool.submit(["sh", "-c", "echo $A; exit 3"], env={"A": "1"}, capture_output=True)
    bad = pool.submit(["no-such-command"])
    late = pool.submit(["sleep", "30"], timeout=0.2)
    wrong = pool.submit("one string")
    strict = pool.submit(["false"], check=True)
    called: list[cf.Future] = []
    good.add_done_callback(called.append)
    assert (good.result().returncode, good.result().stdout) == (3, b"1\n")
    assert isinstance(bad.exception(), fastctr.CommandNotFound)
    assert isinstance(late.exception(), fastctr.TimeoutExpired)
    assert isinstance(wrong.exception(), fastctr.SpecError)
    assert isinstance(strict.exception(), fastctr.CalledProcessError)
    until(lambda: called == [good])
    until(lambda: not pool.metrics()["running"])
    found = pool.metrics()
    assert {name: found[name] for name in ("started", "done", "failed", "killed", "errors", "pending")} == {
        "started": 3, "done": 0, "failed": 2, "killed": 1, "errors": 2, "pending": 0}


def test_as_completed_and_wait(pool):
    futures = [pool.submit(["sh", "-c", f"exit {n}"]) for n in range(20)]
    assert sorted(f.result().returncode for f in cf.as_completed(futures, 30)) == list(range(20))
    slow, fast = pool.submit(["sleep", "30"]), pool.submit(["true"])
    done, rest = cf.wait([slow, fast], 30, cf.FIRST_COMPLETED)
    assert (done, rest) == ({fast}, {slow})
    assert slow.cancel()
    done, rest = cf.wait([slow], 5)
    assert (done, rest) == ({slow}, set())


def test_threads_are_started_when_they_are_needed(rootfs):
    with Pool(rootfs=rootfs, size=2, workers=3) as pool:
        assert pool.metrics()["workers"] == 0
        pool.submit(["true"]).result()
        until(lambda: pool.metrics()["running"] == 0)
        time.sleep(0.05)
        pool.submit(["true"]).result()
        assert pool.metrics()["workers"] == 1
        futures = [pool.submit(["sleep", "0.2"]) for _ in range(7)]
        assert pool.metrics()["workers"] == 3
        until(lambda: pool.metrics()["running"] == 3)
        assert pool.metrics()["pending"] == 4
        cf.wait(futures)


@pytest.mark.parametrize("kw", [{}, {"capture_output": True}])
def test_cancel_kills_what_runs(pool, kw):
    word = f"cancel-{os.urandom(4).hex()}"
    future = pool.submit(["sh", "-c", "sleep 1000 & sleep 1001 & wait", word], **kw)
    until(lambda: marked(word))
    told: list[cf.Future] = []
    future.add_done_callback(told.append)
    assert future.cancel()
    assert future.cancelled()
    assert future.cancel()
    assert told == [future]
    with pytest.raises(cf.CancelledError):
        future.result()
    until(lambda: not marked(word))
    until(lambda: pool.metrics()["killed"] == 1)
    assert pool.run(["true"]).returncode == 0


def test_cancel_before_the_start_and_after_the_end(rootfs):
    with Pool(rootfs=rootfs, size=1, workers=1) as pool:
        first, second, third = pool.submit(["sleep", "0.3"]), pool.submit(["touch", "/x"]), pool.submit(["true"])
        assert second.cancel()
        assert (third.result().returncode, first.result().returncode) == (0, 0)
        assert not first.cancel()
        assert not first.cancelled()
        assert pool.metrics()["started"] == 2


def test_cancel_at_any_moment_of_a_start(pool):
    futures = []
    for i in range(60):
        future = pool.submit(["sleep", "1000"], **NULL)
        time.sleep(i % 12 * 0.0002)
        assert future.cancel()
        futures.append(future)
    done, rest = cf.wait(futures, 10)
    assert not rest
    assert all(future.cancelled() for future in done)
    until(lambda: not pool.metrics()["running"])


def test_waiting_as_a_way_of_pressing_back(rootfs):
    with Pool(rootfs=rootfs, size=2, workers=1, max_pending=2) as pool:
        begun = time.monotonic()
        futures = [pool.submit(["sleep", "0.2"], **NULL) for _ in range(5)]
        blocked = time.monotonic() - begun
        assert blocked > 0.3  # the fourth waits for the second to be taken, the fifth for the third
        assert pool.metrics()["pending"] <= 2
        cf.wait(futures)
        many = [pool.submit(["true"], **NULL) for _ in range(30)]
        assert all(future.result().returncode == 0 for future in many)


def test_closing_wakes_whoever_waits_to_submit(rootfs):
    pool = Pool(rootfs=rootfs, size=1, workers=1, max_pending=1)
    futures = [pool.submit(["sleep", "1000"], **NULL), pool.submit(["true"], **NULL)]
    until(lambda: pool.metrics()["running"] == 1)
    raised: list[BaseException] = []

    def more() -> None:
        try:
            for _ in range(3):
                futures.append(pool.submit(["true"], **NULL))
        except RuntimeError as error:
            raised.append(error)

    thread = threading.Thread(target=more)
    thread.start()
    time.sleep(0.1)
    pool.close(cancel=True)
    thread.join(5)
    assert len(raised) == 1
    assert all(future.done() for future in futures)


# ---- map


def test_map_is_in_order_and_lazy(pool):
    taken: list[int] = []

    def commands():
        for n in itertools.count():
            taken.append(n)
            yield ["sh", "-c", f"sleep 0.0{(n * 7) % 5}; echo {n}"]

    results = pool.map(commands(), window=6, capture_output=True, text=True)
    assert not taken
    assert [int(next(results).stdout) for _ in range(10)] == list(range(10))
    assert len(taken) <= 16
    results.close()
    until(lambda: not pool.metrics()["running"])


def test_map_stops_at_an_error(pool):
    results = pool.map([["true"], ["no-such-command"], *[["sleep", "1000"]] * 3])
    assert next(results).returncode == 0
    with pytest.raises(fastctr.CommandNotFound):
        next(results)
    until(lambda: not pool.metrics()["running"])
    with pytest.raises(fastctr.SpecError, match="one string"):
        pool.map("echo hi")
    with pytest.raises(fastctr.SpecError, match="window"):
        pool.map([], window=0)
    assert list(pool.map([])) == []
