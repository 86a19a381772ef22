"""What comes back of a job is what happened: codes, causes, figures, outputs cut at a limit, files left."""

from __future__ import annotations

import json
import os
import pickle
import stat
import threading
import time

import pytest

fastctr = pytest.importorskip("fastctr")
from support import out_of as out  # noqa: E402

pytestmark = pytest.mark.needs_root
GROW = "a=x; while :; do a=$a$a$a$a; done"


@pytest.fixture
def plan(rootfs):
    with fastctr.Plan(rootfs=rootfs, memory="64m", pids=40) as made:
        yield made


# ---- the cause of an end


@pytest.mark.parametrize(
    ("script", "code", "cause"),
    [
        ("exit 0", 0, None), ("exit 7", 7, None), ("exit 137", 137, None), ("exit 124", 124, None),
        ("sh -c 'kill -9 $$'; exit $?", 137, None),  # a child's death is not the job's
        ("sh -c 'kill -9 $$'; exit 0", 0, None),
        (GROW, -9, "oom"),
        (f"sh -c '{GROW}'; exit $?", 137, "oom"),  # not PID 1, and the job failed of it
        (f"sh -c '{GROW}'; exit 3", 3, "oom"),
        (f"sh -c '{GROW}'; exit 0", 0, None),  # it got over it
    ],
)  # fmt: skip
def test_killed_by_is_known_not_guessed(plan, script, code, cause):
    done = plan.run(["sh", "-c", script], stderr=fastctr.DEVNULL, timeout=30, limits={"memory": "24m"})
    assert (done.returncode, done.killed_by) == (code, cause)
    assert (done.usage.oom_kills or 0) == (GROW in script)
    again = plan.run(["sh", "-c", "exit 137"])  # in the group after that
    assert (again.returncode, again.killed_by, again.usage.oom_kills or 0) == (137, None, 0)


def test_a_signal_with_an_init_is_the_jobs_own(rootfs):
    done = fastctr.run(["sh", "-c", "kill -9 $$"], rootfs=rootfs, init=True)
    assert (done.returncode, done.killed_by) == (-9, "signal")
    done = fastctr.run(["sh", "-c", "exit 137"], rootfs=rootfs, init=True)
    assert (done.returncode, done.killed_by) == (137, None)


def test_a_timeout_is_a_timeout_even_if_the_job_would_say_137(plan):
    with pytest.raises(fastctr.TimeoutExpired) as caught:
        plan.run(["sh", "-c", "trap 'exit 137' TERM; sleep 30"], timeout=0.2)
    assert caught.value.completed.killed_by == "timeout"
    assert caught.value.completed.returncode == -9


def test_a_fork_bomb_ends_with_the_time_and_leaves_nothing(plan):
    with pytest.raises(fastctr.TimeoutExpired) as caught:
        plan.run(["sh", "-c", "while :; do sleep 30 & done & exec sleep 31"], timeout=1, stderr=fastctr.DEVNULL)
    done = caught.value.completed
    assert done.killed_by == "timeout"
    assert not done.usage.oom_kills
    assert done.usage.pids_peak is None or done.usage.pids_peak <= 40
    assert out(plan, "ps | grep -c 'sleep 30$'; exit 0").stdout == "0\n"


def test_a_fork_bomb_that_gives_up_is_a_failure_of_its_own(plan):
    done = plan.run(["sh", "-c", "for i in $(seq 99); do sleep 9 & done; wait"], stderr=fastctr.DEVNULL, timeout=20)
    assert done.returncode not in (0, 137)
    assert done.killed_by is None


def test_figures_are_of_that_job_alone(rootfs):
    big = "dd if=/dev/zero of=/dev/shm/x bs=1M count=20 2>/dev/null; i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done"
    with fastctr.Plan(rootfs=rootfs, memory="64m", writable="disk") as plan:
        for _ in range(3):
            plan.run(["true"])
        first = plan.run(["sh", "-c", big + "; dd if=/dev/zero of=/x bs=1M count=2 conv=fsync 2>/dev/null"])
        second = plan.run(["true"])
    assert first.usage.memory_peak > 20 << 20 > 10 << 20 > second.usage.memory_peak
    assert first.usage.cpu_total > second.usage.cpu_total
    assert first.usage.io_write_bytes >= 2 << 20
    assert second.usage.io_write_bytes < 1 << 20


def test_as_dict_is_json(plan):
    done = plan.run([b"sh", "-c", "echo hi; exit 3"], capture_output=True, output_limit=1)
    found = json.loads(json.dumps(done.as_dict()))
    assert found["args"] == ["sh", "-c", "echo hi; exit 3"]
    assert (found["returncode"], found["killed_by"], found["truncated"]) == (3, None, ["stdout"])
    assert found["usage"]["memory_limit"] == 64 << 20
    assert found["pid"] == done.pid
    assert "stdout" not in found


# ---- outputs with a limit


@pytest.mark.parametrize(
    ("limit", "size", "kept", "truncated"),
    [("1k", 3_000_000, 1024, ("stdout",)), (10, 10, 10, ()), (10, 11, 10, ("stdout",)), (0, 5, 0, ("stdout",)),
     (0, 0, 0, ()), (20_000, 19_999, 19_999, ()), (20_000, 20_001, 20_000, ("stdout",)), ("1m", 70_000, 70_000, ())],
)  # fmt: skip
def test_output_is_kept_up_to_the_limit_and_the_job_goes_on(plan, limit, size, kept, truncated):
    done = plan.run(["sh", "-c", f"head -c {size} /dev/zero" + "; echo $? >&2" * bool(limit)], capture_output=True, output_limit=limit)
    assert (len(done.stdout), done.truncated) == (kept, truncated)
    assert done.returncode == 0
    if limit not in (0, 10):
        assert done.stderr == b"0\n"  # it could write all of it


def test_each_stream_has_the_limit_to_itself(plan):
    done = plan.run(["sh", "-c", "head -c 9 /dev/zero; head -c 11 /dev/zero >&2"], capture_output=True, output_limit=10)
    assert (len(done.stdout), len(done.stderr), done.truncated) == (9, 10, ("stderr",))
    done = plan.run(["sh", "-c", "head -c 19 /dev/zero; head -c 11 /dev/zero >&2"], capture_output=True, output_limit=10)
    assert done.truncated == ("stdout", "stderr")
    done = plan.run(["sh", "-c", "echo abc; echo def >&2"], stdout=fastctr.PIPE, stderr=fastctr.STDOUT, output_limit=6)
    assert (done.stdout, done.stderr, done.truncated) == (b"abc\nde", None, ("stdout",))


def test_text_cut_within_a_character_is_still_text(plan):
    done = plan.run(["echo", "äöü"], capture_output=True, text=True, output_limit=3)
    assert done.stdout == "ä\ufffd"
    assert done.truncated == ("stdout",)
    assert "truncated" in repr(done)


def test_a_flood_until_the_timeout_takes_no_memory(plan):
    with pytest.raises(fastctr.TimeoutExpired) as caught:
        plan.run(["cat", "/dev/zero"], stdout=fastctr.PIPE, timeout=0.5, output_limit="4k")
    done = caught.value.completed
    assert (len(done.stdout), done.truncated, done.killed_by) == (4096, ("stdout",), "timeout")


@pytest.mark.parametrize("value", [-1, "lots", 1.5, True, b"1k"])
def test_a_limit_that_is_none(plan, value):
    with pytest.raises(fastctr.SpecError, match="output_limit"):
        plan.run(["true"], output_limit=value)


# ---- files left


def test_files_left_are_open_at_the_end(any_plan):
    done = any_plan.run(["sh", "-c", "mkdir -p /o/d; echo one > /o/d/a; chmod 4750 /o/d/a; echo 'two ' > '/o/b b'"],
                        outputs=["/o/d/a", "/o/b b", "/o/none", "/none/at/all", "/etc/passwd/x", "/o//d/./a"])
    assert done.returncode == 0
    assert list(done.files) == ["/o/d/a", "/o/b b"]
    first = done.files["/o/d/a"]
    assert (first.read(), first.size, first.mode, first.path) == (b"one\n", 4, 0o4750, "/o/d/a")
    assert first.read(2) == b"on"
    assert done.files["/o/b b"].read() == b"two \n"
    assert not os.get_inheritable(first.fd)
    assert os.read(first.fd, 9) == b"one\n"  # read() leaves the place alone
    first.close()
    first.close()
    with pytest.raises(ValueError, match="closed"):
        first.read()


def test_what_a_job_that_failed_or_was_killed_left_is_there_too(plan):
    with pytest.raises(fastctr.CalledProcessError) as failed:
        plan.run(["sh", "-c", "echo so far > /o; exit 9"], outputs=["/o"], check=True)
    assert failed.value.completed.files["/o"].read() == b"so far\n"
    with pytest.raises(fastctr.TimeoutExpired) as late:
        plan.run(["sh", "-c", "echo so far > /o; sleep 60"], outputs=["/o"], timeout=0.3)
    assert late.value.completed.files["/o"].read() == b"so far\n"
    with pytest.raises(fastctr.CommandNotFound):
        plan.run(["no-such-thing"], outputs=["/o"])
    assert plan.run(["true"], outputs=["/o"]).files == {}
    assert plan.run(["true"], outputs=[]).files == plan.run(["true"]).files == {}


def test_saving(plan, tmp_path):
    done = plan.run(["sh", "-c", "head -c 3000000 /dev/urandom > /o; cp /o /p; chmod 700 /o; sha1sum < /o"],
                    outputs=["/o"], stdout=fastctr.PIPE)
    file = done.files["/o"]
    file.save(tmp_path / "copy")
    file.save(tmp_path)
    file.save(os.fsencode(tmp_path / "bytes"), mode=0o604)
    assert (tmp_path / "copy").read_bytes() == (tmp_path / "o").read_bytes() == (tmp_path / "bytes").read_bytes() == file.read()
    assert len(file.read()) == file.size == 3_000_000
    assert stat.S_IMODE((tmp_path / "copy").stat().st_mode) & 0o077 == 0
    assert stat.S_IMODE((tmp_path / "bytes").stat().st_mode) == 0o604
    with pytest.raises(OSError, match="No such file"):
        file.save(tmp_path / "none" / "x")
    assert sorted(os.listdir(tmp_path)) == ["bytes", "copy", "o"]
    with pytest.raises(TypeError, match="read"):
        pickle.dumps(file)
    with file:
        pass
    assert file.fd == -1


def test_a_completed_without_files_can_be_sent(plan):
    done = pickle.loads(pickle.dumps(plan.run(["echo", "hi"], capture_output=True)))
    assert (done.stdout, done.killed_by, done.files) == (b"hi\n", None, {})


HOSTILE = {
    "pipe": "mkfifo /o", "directory": "mkdir /o", "link": "ln -s /etc/marker /o", "link out": "ln -s /../../../etc/shadow /o",
    "dangling": "ln -s /nowhere /o", "device": "mknod /o c 1 3", "disk": "mknod /o b 254 0",
    "loop": "ln -s /o /o",
}  # fmt: skip


@pytest.mark.parametrize("script", HOSTILE.values(), ids=HOSTILE.keys())
def test_only_regular_files_are_opened(plan, script):
    begun = time.monotonic()
    with pytest.raises(fastctr.LaunchError) as caught:
        plan.run(["sh", "-c", script], outputs=["/etc/marker", "/o"], timeout=10)
    assert (caught.value.stage, caught.value.path) == ("outputs", "/o")
    assert caught.value.completed.returncode == 0
    assert time.monotonic() - begun < 5


def test_links_on_the_way_stay_inside(plan, tmp_path):
    (tmp_path / "secret").write_text("the host's")
    done = plan.run(["sh", "-c", f"ln -s / /up; ln -s /../../../../..{tmp_path} /abs; ln -s ../../../../../..{tmp_path} /rel; "
                                 "mkdir /d; echo in > /d/f; ln -s /d /e; ln -s /proc/1/root /root1"],
                    outputs=["/up/d/f", "/abs/secret", "/rel/secret", "/e/f", "/up/up/e/f", "/root1/d/f"])
    assert {path: file.read() for path, file in done.files.items()} == {
        "/up/d/f": b"in\n", "/e/f": b"in\n", "/up/up/e/f": b"in\n"}


def test_magic_links_of_a_living_proc_lead_nowhere(rootfs, tmp_path):
    """Another process's /proc/<pid>/root would be the host's own root."""
    (tmp_path / "secret").write_text("the host's")
    with fastctr.Plan(rootfs=rootfs, pid="host") as plan, pytest.raises(fastctr.LaunchError) as caught:
        plan.run(["sh", "-c", f"ln -s /proc/{os.getpid()}/root /r"], outputs=[f"/r{tmp_path}/secret"])
    assert caught.value.stage == "outputs"


def test_what_the_job_may_not_read_we_do_not_read_for_it(rootfs, tmp_path):
    (tmp_path / "key").write_text("secret")
    (tmp_path / "key").chmod(0o600)
    (tmp_path / "open").write_text("fine")
    tmp_path.chmod(0o755)
    with fastctr.Plan(rootfs=rootfs, volumes=[f"{tmp_path}:/v:ro"]) as plan:
        asked = {"outputs": ["/tmp/d/key"], "user": "alice"}
        with pytest.raises(fastctr.LaunchError) as caught:
            plan.run(["ln", "-s", "/v", "/tmp/d"], **asked)
        assert (caught.value.stage, caught.value.errno) == ("outputs", 13)
        done = plan.run(["ln", "-s", "/v", "/tmp/d"], outputs=["/tmp/d/open"], user="alice")
        assert done.files["/tmp/d/open"].read() == b"fine"
        assert plan.run(["ln", "-s", "/v", "/tmp/d"], outputs=["/tmp/d/key"]).files["/tmp/d/key"].read() == b"secret"


def test_directories_swapped_meanwhile_never_show_the_host(rootfs, tmp_path):
    volume, host = tmp_path / "volume", tmp_path / "host"
    (volume / "a").mkdir(parents=True)
    (volume / "a/f").write_text("inside")
    host.mkdir()
    (host / "f").write_text("outside")
    (volume / "b").symlink_to(f"../../../../../../../../../..{host}")
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            for one, two in (("a", "x"), ("b", "a"), ("a", "b"), ("x", "a")):
                os.rename(volume / one, volume / two)

    swapper = threading.Thread(target=swap)
    swapper.start()
    seen = set()
    try:
        with fastctr.Plan(rootfs=rootfs, volumes=[f"{volume}:/v"]) as plan:
            for _ in range(60):
                try:
                    seen.update(file.read() for file in plan.run(["true"], outputs=["/v/a/f", "/v/b/f"]).files.values())
                except fastctr.LaunchError as error:
                    assert error.stage == "outputs"
    finally:
        stop.set()
        swapper.join()
    assert seen <= {b"inside"}


@pytest.mark.parametrize("value", ["/o", ["o"], ["/a/../o"], ["/"], [""], [3], ["/x"] * 3 + [f"/{i}" for i in range(300)]])
def test_outputs_that_are_none(plan, value):
    with pytest.raises(fastctr.SpecError, match="outputs"):
        plan.run(["true"], outputs=value)


def test_without_a_root_of_its_own_there_are_neither_outputs_nor_files():
    with fastctr.Plan(rootfs="host", mnt="host", **{}) as plan:
        with pytest.raises(fastctr.LaunchError, match="no root of its own") as caught:
            plan.run(["true"], outputs=["/etc/passwd"])
        assert caught.value.completed.returncode == 0
        with pytest.raises(fastctr.LaunchError, match="no root of its own"):
            plan.run(["true"], files={"/tmp/fastctr-never": b""})
    assert not os.path.exists("/tmp/fastctr-never")
