"""aio.run(): as fastctr.run(), on asyncio's loop and on uvloop, in any thread."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import pytest

import fastctr
from aio_support import On, alive, on
from fastctr import aio, aio_start, aio_threads

pytestmark = pytest.mark.needs_root
__all__ = ["on"]


def test_results(on: On, rootfs: str) -> None:
    async def main() -> None:
        done = await aio.run(["sh", "-c", "cat; echo no >&2; exit 3"], rootfs=rootfs, memory="64m", input="hällo",
                             capture_output=True, text=True, timings=True)
        assert (done.returncode, done.stdout, done.stderr, done.killed_by) == (3, "hällo", "no\n", None)
        assert done.usage.cpu_total is not None and done.pid > 0
        assert done.timings is not None and done.timings.total > 0
        done = await aio.run(["sh", "-c", "echo a; echo b >&2"], rootfs=rootfs, stdout=aio.PIPE, stderr=aio.STDOUT)
        assert (done.stdout, done.stderr) == (b"a\nb\n", None)
        done = await aio.run(["sh", "-c", "kill -9 $$"], rootfs=rootfs, init=True)
        assert (done.returncode, done.killed_by) == (-9, "signal")
        done = await aio.run(["true"], rootfs=rootfs)
        assert (done.stdout, done.stderr) == (None, None)
        with pytest.raises(fastctr.CalledProcessError) as failed:
            await aio.run(["sh", "-c", "echo x; exit 4"], rootfs=rootfs, capture_output=True, check=True)
        assert (failed.value.returncode, failed.value.output) == (4, b"x\n")

    on(main())


def test_errors(on: On, rootfs: str) -> None:
    async def main() -> None:
        with pytest.raises(fastctr.CommandNotFound):
            await aio.run(["no-such"], rootfs=rootfs, capture_output=True)
        with pytest.raises(fastctr.SpecError):
            await aio.run("true", rootfs=rootfs)
        with pytest.raises(fastctr.UnknownField):
            await aio.run(["true"], rootfs=rootfs, memry="1m")
        with pytest.raises(fastctr.SpecError):
            await aio.run(["true"], rootfs=rootfs, input=b"", stdin=aio.PIPE)
        with pytest.raises(LookupError):
            await aio.run(["true"], rootfs=rootfs, encoding="no-such")
        with pytest.raises(fastctr.SpecError, match="create_container_exec"):
            await aio.run(["true"], rootfs=rootfs, tty=True)
        with pytest.raises(fastctr.SpecError, match="decode"):
            await aio.create_container_exec(["true"], rootfs=rootfs, stdout=aio.PIPE, text=True)
        with pytest.raises(fastctr.UnknownField):
            await aio.create_container_exec(["true"], rootfs=rootfs, timeout=3)

    on(main())


def test_timeout_gives_what_there_was(on: On, rootfs: str) -> None:
    async def main() -> None:
        began = time.monotonic()
        with pytest.raises(fastctr.TimeoutExpired) as expired:
            await aio.run(["sh", "-c", "echo a; echo b >&2; sleep 61 & sleep 62"], rootfs=rootfs, capture_output=True,
                          text=True, timeout=0.3)
        assert time.monotonic() - began < 3
        assert (expired.value.stdout, expired.value.stderr) == ("a\n", "b\n")
        assert expired.value.completed.killed_by == "timeout" and expired.value.completed.returncode == -9
        assert alive() == 0
        done = await aio.run(["true"], rootfs=rootfs, timeout=30)
        assert done.returncode == 0

    on(main())


def test_cancellation_kills_and_waits(on: On, rootfs: str) -> None:
    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await aio.run(["sh", "-c", "sleep 61 & sleep 62"], rootfs=rootfs)
        assert alive() == 0
        task = asyncio.create_task(aio.run(["sleep", "61"], rootfs=rootfs, capture_output=True))
        await asyncio.sleep(0.2)
        assert alive() == 1
        for _ in range(3):  # also by somebody impatient
            task.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert alive() == 0

    on(main())


def test_cancelled_at_every_moment(on: On, rootfs: str) -> None:
    """Before a thread has it, while it is being started, and after."""

    async def main() -> None:
        plan = fastctr.Plan(rootfs=rootfs)
        for round_ in range(30):
            tasks = [asyncio.create_task(aio.run(["sleep", "61"], plan=plan, capture_output=True)) for _ in range(8)]
            await asyncio.sleep(round_ * 0.0004)
            for task in tasks:
                task.cancel()
            done = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(isinstance(error, asyncio.CancelledError) for error in done), done
            assert alive() == 0

    on(main())


def test_limits_files_and_outputs(on: On, rootfs: str) -> None:
    async def main() -> None:
        plan = fastctr.Plan(rootfs=rootfs)
        done = await aio.run(["sh", "-c", "cat /srv/in; id -u; head -c 100000 /dev/zero >&2; cp /srv/in /tmp/out"], plan=plan,
                             files={"/srv/in": b"given"}, user="1000:1001", outputs=["/tmp/out", "/tmp/none"],
                             capture_output=True, output_limit="1k")  # fmt: skip
        assert (done.stdout, done.stderr, done.truncated) == (b"given1000\n", b"\0" * 1024, ("stderr",))
        assert {path: file.read() for path, file in done.files.items()} == {"/tmp/out": b"given"}
        done.files["/tmp/out"].close()
        with pytest.raises(fastctr.LaunchError) as refused:
            await aio.run(["ln", "-s", "/etc/passwd", "/tmp/out"], plan=plan, outputs=["/tmp/out"])
        assert refused.value.stage == "outputs" and refused.value.completed.returncode == 0
        plan.warm(2)
        assert (await aio.run(["true"], plan=plan)).warm

    on(main())


def test_output_is_drained(on: On, rootfs: str) -> None:
    async def main() -> None:
        many = "head -c 3000000 /dev/zero; head -c 1000000 /dev/zero >&2"
        plan = fastctr.Plan(rootfs=rootfs)
        for done in await asyncio.gather(*(aio.run(["sh", "-c", many], plan=plan, capture_output=True) for _ in range(4))):
            assert (len(done.stdout), len(done.stderr)) == (3000000, 1000000)
        big = os.urandom(1 << 20)
        done = await aio.run(["cat"], rootfs=rootfs, input=big, capture_output=True)
        assert done.stdout == big
        done = await aio.run(["true"], rootfs=rootfs, input=big, capture_output=True)  # it does not want it
        assert done.returncode == 0

    on(main())


@pytest.mark.parametrize("kind", [{"pid": "host"}, {"init": True}, {"writable": "direct"}, {"cgroup": False}], ids=str)
def test_kinds(on: On, fresh_rootfs: str, kind: dict[str, Any]) -> None:
    async def main() -> None:
        done = await aio.run(["sh", "-c", "(sleep 61 &); echo x"], rootfs=fresh_rootfs, capture_output=True, **kind)
        assert (done.returncode, done.stdout) == (0, b"x\n")
        with pytest.raises(fastctr.TimeoutExpired):
            await aio.run(["sleep", "61"], rootfs=fresh_rootfs, timeout=0.1, **kind)
        task = asyncio.create_task(aio.run(["sleep", "61"], rootfs=fresh_rootfs, **kind))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert alive() == 0

    on(main())


def test_many_in_flight_without_threads(rootfs: str) -> None:
    """Few threads, few descriptors, and a loop that answers meanwhile."""

    async def main() -> None:
        plan = fastctr.Plan(rootfs=rootfs)
        await aio.run(["true"], plan=plan)
        threads, fds = threading.active_count(), len(os.listdir("/proc/self/fd"))
        go, theirs = os.pipe()
        tasks = [asyncio.create_task(aio.run(["cat"], plan=plan, stdin=go, stdout=aio.PIPE)) for _ in range(200)]
        while fastctr.context.get().counters()["started"] < 201:
            await asyncio.sleep(0.01)
        assert threading.active_count() - threads <= aio_threads.THREADS
        warm = fastctr.context.get().counters()["warm"]
        assert len(os.listdir("/proc/self/fd")) - fds <= 200 * 5 + 16 * warm + 40
        os.close(theirs)
        assert [done.returncode for done in await asyncio.gather(*tasks)] == [0] * 200
        os.close(go)

    asyncio.run(main())


def test_a_warm_start_needs_no_thread(rootfs: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        plan = fastctr.Plan(rootfs=rootfs)
        assert not aio_start.is_ready(plan)  # not even compiled
        await aio.run(["true"], plan=plan)
        plan.warm(4)
        assert aio_start.is_ready(plan)
        orders = []
        monkeypatch.setattr(aio_start, "in_thread", lambda call: orders.append(call))
        assert (await aio.run(["true"], plan=plan)).returncode == 0
        assert orders == []

    asyncio.run(main())


def test_a_burst_leaves_the_loop_its_turns(rootfs: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many are prepared: a few starts in each turn, the rest in threads."""

    async def main() -> None:
        plan = fastctr.Plan(rootfs=rootfs)
        plan.warm(12)
        turn, here = 0, []

        def starting(*args: Any) -> Any:
            if threading.current_thread() is threading.main_thread():
                here.append(turn)
            return real(*args)

        real = aio_start._start
        monkeypatch.setattr(aio_start, "_start", starting)
        tasks = [asyncio.create_task(aio.run(["true"], plan=plan)) for _ in range(40)]
        while not all(task.done() for task in tasks):
            await asyncio.sleep(0)
            turn += 1
        assert [task.result().returncode for task in tasks] == [0] * 40
        assert here and max(here.count(n) for n in here) <= 2 * aio_start.STARTS_A_TURN

    asyncio.run(main())


def test_a_loop_that_is_closed_takes_its_containers(on: On, rootfs: str, capfd: pytest.CaptureFixture[str]) -> None:
    kept: list[Any] = []

    async def main() -> None:
        for _ in range(3):
            kept.append(await aio.create_container_exec(["sleep", "61"], rootfs=rootfs, stdin=aio.PIPE,
                                                        stdout=aio.PIPE, stderr=aio.PIPE))  # fmt: skip
        assert alive() == 3

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # asyncio's own, of pipes nobody closed
        on(main())
        assert alive() == 0
        kept.clear()
        gc.collect()
    assert "closed" not in capfd.readouterr().err


def test_no_child_watcher(rootfs: str) -> None:
    async def main() -> None:
        assert (await aio.run(["true"], rootfs=rootfs)).returncode == 0

    before = signal.getsignal(signal.SIGCHLD)
    asyncio.run(main())
    assert signal.getsignal(signal.SIGCHLD) is before


@pytest.mark.parametrize("where", ["loop", "thread"])
def test_shutdown_under_a_running_loop(rootfs: str, where: str) -> None:
    async def main() -> None:
        tasks = [asyncio.create_task(aio.run(["sleep", "61"], rootfs=rootfs, stdout=aio.PIPE)) for _ in range(6)]
        process = await aio.create_container_exec(["sleep", "61"], rootfs=rootfs, stdout=aio.PIPE)
        await asyncio.sleep(0.1)
        if where == "loop":
            fastctr.shutdown()
        else:
            await asyncio.to_thread(fastctr.shutdown)
        async with asyncio.timeout(5):
            assert [done.returncode for done in await asyncio.gather(*tasks)] == [-9] * 6
            assert await process.wait() == -9
        assert (await aio.run(["true"], rootfs=rootfs)).returncode == 0

    asyncio.run(main())


def test_no_descriptors_left(rootfs: str) -> None:
    """A clear error, nothing left of the ones that failed, and the others go on."""
    import resource

    async def main() -> None:
        plan = fastctr.Plan(rootfs=rootfs)
        await aio.run(["true"], plan=plan)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        fds = len(os.listdir("/proc/self/fd"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (fds + 90, hard))
        try:
            tasks = [asyncio.create_task(aio.run(["sleep", "0.5"], plan=plan, capture_output=True)) for _ in range(60)]
            done = await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        errors = [error for error in done if isinstance(error, BaseException)]
        assert errors and len(errors) < 60
        for error in errors:
            assert isinstance(error, fastctr.LaunchError) and error.errno in (23, 24), repr(error)
            assert "open files" in str(error)
        assert (await aio.run(["true"], plan=plan)).returncode == 0

    asyncio.run(main())


def test_from_a_fork(rootfs: str) -> None:
    """The child's loop is its own; the parent's containers stay."""

    async def one() -> int:
        return (await aio.run(["sh", "-c", "exit 7"], rootfs=rootfs)).returncode

    async def main() -> None:
        process = await aio.create_container_exec(["sleep", "61"], rootfs=rootfs)
        await asyncio.gather(*(one() for _ in range(6)))
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                asyncio.events._set_running_loop(None)
                code = asyncio.run(one())
                fastctr.shutdown()
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
        assert process.returncode is None and alive() == 1
        process.kill()
        assert await process.wait() == -9

    asyncio.run(main())


@pytest.mark.parametrize("snapshotter", ["overlay", "vfs"])
def test_from_an_image(on: On, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, snapshotter: str) -> None:
    """It is looked up in a thread the first time, and found at once the next."""
    from image_support import busybox_image
    from fastctr.image.store import get

    monkeypatch.setenv("FASTCTR_ROOT", str(tmp_path / "store"))
    busybox_image(get(str(tmp_path / "store")), config={"Cmd": ["echo", "from the image"], "Env": ["PATH=/bin"]})

    async def main() -> None:
        kw: dict[str, Any] = {"image": "busybox", "pull": "never", "snapshotter": snapshotter}
        assert not aio_start._image_known(dict(kw))
        done = await aio.run(capture_output=True, **kw)
        assert (done.returncode, done.stdout, done.args) == (0, b"from the image\n", ["echo", "from the image"])
        assert aio_start._image_known(dict(kw))
        tasks = [aio.run(["sh", "-c", "echo x > /new; cat /new"], capture_output=True, **kw) for _ in range(4)]
        assert [done.stdout for done in await asyncio.gather(*tasks)] == [b"x\n"] * 4
        async with await aio.create_container_exec(["sleep", "61"], **kw) as process:
            assert await (await process.exec(["true"])).wait() == 0
        async with aio.Pool(size=2, **kw) as pool:
            assert (await pool.run(["true"])).returncode == 0
            assert pool.metrics()["ready"] >= (0 if snapshotter == "vfs" else 1)
        with pytest.raises(fastctr.ImageNotFound):
            await aio.run(["true"], image="no-such", pull="never")

    on(main())
