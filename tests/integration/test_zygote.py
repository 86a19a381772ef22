"""Zygote: calls and scripts in forks of an interpreter, each in a fresh container."""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
import time

import pytest

import fastctr
from fastctr.zygote import Zygote
from fastctr.zygote_wire import JobEnded, RemoteError, RemoteTraceback, ResultRefused, ZygoteError
from support import until
from zygote_support import make_python_root, python_fields

pytestmark = pytest.mark.needs_userns


@pytest.fixture
def zygote():
    with Zygote(**python_fields(), memory="256m", pids=64, size=2) as made:
        yield made


def test_a_call_gives_what_the_function_returns(zygote):
    assert zygote.call(math.factorial, 20) == math.factorial(20)
    assert zygote.call(lambda a, b=1: {"sum": a + b, "pid": os.getpid()}, 2, b=3) == {"sum": 5, "pid": 1}
    assert zygote.metrics()["started"] == 2


def test_an_exception_comes_back_with_its_traceback(zygote):
    def fails():
        raise KeyError("nothing", 7)

    with pytest.raises(KeyError) as caught:
        zygote.call(fails)
    assert caught.value.args == ("nothing", 7)
    assert isinstance(caught.value.__cause__, RemoteTraceback)
    assert "in fails" in str(caught.value.__cause__) and "fastctr zygote" not in str(caught.value.__cause__)


def test_exceptions_of_other_classes_are_told_as_text_or_unpickled_if_trusted(zygote):
    class Own(Exception):
        pass

    def fails():
        raise Own("mine")

    with pytest.raises(RemoteError, match="mine") as caught:
        zygote.call(fails)
    assert caught.value.type.endswith("Own")
    with pytest.raises(Exception, match="mine") as caught:
        zygote.start_call(fails, result="pickle").result()
    assert type(caught.value).__name__ == "Own"


def test_kinds_of_results(zygote):
    assert zygote.start_call(lambda: b"raw", result="bytes").result() == b"raw"
    assert zygote.start_call(lambda: {"a": [1, None]}, result="json").result() == {"a": [1, None]}
    plain = [1, 2.5, "x", b"y", (None, True), {3}, frozenset((4,)), range(5), {"k": bytearray(b"z")}, 1 + 2j]
    assert zygote.call(lambda: plain) == plain
    big = zygote.call(lambda: b"x" * 5_000_000)
    assert len(big) == 5_000_000
    with pytest.raises(ResultRefused, match=r"(os|nt|posix)\.system"):
        zygote.call(lambda: os.system)
    assert zygote.start_call(lambda: os.system, result="pickle").result() is os.system
    with pytest.raises(TypeError):
        zygote.start_call(lambda: object(), result="json").result()
    with pytest.raises(fastctr.SpecError, match="result"):
        zygote.start_call(len, ([],), result="yaml")


def test_large_arguments(zygote):
    assert zygote.call(len, b"x" * 3_000_000) == 3_000_000


def test_each_job_is_a_fresh_container(zygote):
    def plant():
        with open("/tmp/planted", "w") as file:
            file.write("x")
        os.environ["PLANTED"] = "1"
        math.planted = 1
        return os.getpid(), os.listdir("/proc/self/fd"), sorted(p for p in os.listdir("/proc") if p.isdigit())

    def look():
        return os.path.exists("/tmp/planted"), "PLANTED" in os.environ, hasattr(math, "planted")

    pid, fds, pids = zygote.call(plant)
    assert pid == 1 and pids == ["1"]
    assert set(fds) == {"0", "1", "2", "3", "4"}  # its own socket, and the listing
    assert [zygote.call(look) for _ in range(4)] == [(False, False, False)] * 4


def test_random_state_differs_between_jobs():
    with Zygote(**python_fields(), preload=["random", "uuid", "tempfile", "multiprocessing"], size=2) as zygote:
        def draw():
            import multiprocessing
            import random
            import tempfile
            import uuid

            return (random.random(), uuid.uuid4().hex, next(tempfile._get_candidate_names()),
                    bytes(multiprocessing.current_process().authkey))

        drawn = [zygote.call(draw) for _ in range(4)]
    for column in zip(*drawn):
        assert len(set(column)) == 4


def test_limits_and_rights_of_a_job(zygote):
    def status():
        with open("/proc/self/status") as file:
            return {name: value.strip() for name, _, value in (line.partition(":") for line in file)}

    here = zygote.call(status)
    assert here["NoNewPrivs"] == "1" and here["Seccomp"] == "2"
    assert int(here["CapBnd"], 16) & 1 << 21 == 0  # SYS_ADMIN, which the zygote has
    for name in ("CapPrm", "CapEff", "CapInh", "CapAmb"):
        assert int(here[name], 16) & ~0xA80425FB == 0

    def hog():
        blocks = []
        while True:
            blocks.append(bytearray(1 << 20))

    with pytest.raises(JobEnded) as caught:
        zygote.start_call(hog, limits={"memory": "40m"}).result()
    assert caught.value.completed.killed_by == "oom"
    assert zygote.call(int, "7") == 7


def test_a_user_other_than_root():
    with Zygote(**python_fields(), user="1000:1000") as zygote:
        def who():
            with open("/proc/self/status") as file:
                caps = [line.split()[1] for line in file if line.startswith(("CapPrm", "CapEff", "CapAmb"))]
            return os.getuid(), os.getgid(), os.geteuid(), caps, len(os.listdir("/proc/self/fd"))

        uid, gid, euid, caps, _ = zygote.call(who)
        assert (uid, gid, euid) == (1000, 1000, 1000)
        assert all(int(mask, 16) == 0 for mask in caps)


def test_timeout_kills_everything_in_it(zygote):
    def sleep():
        if os.fork() == 0:
            time.sleep(60)
        time.sleep(60)

    started = time.monotonic()
    job = zygote.start_call(sleep, timeout=0.3)
    with pytest.raises(fastctr.TimeoutExpired) as caught:
        job.result()
    assert time.monotonic() - started < 3
    assert caught.value.completed.killed_by == "timeout"
    assert job.completed.returncode == -9


def test_a_timeout_needs_nobody_to_wait(zygote):
    job = zygote.start_call(time.sleep, (60,), timeout=0.2)
    until(job.done)
    with pytest.raises(fastctr.TimeoutExpired):
        job.result()


def test_kill_fileno_and_waiting(zygote):
    job = zygote.start_call(time.sleep, (60,))
    assert job.fileno() >= 0 and not job.done()
    with pytest.raises(TimeoutError):
        job.result(timeout=0.05)
    job.kill()
    with pytest.raises(JobEnded) as caught:
        job.result()
    assert caught.value.completed.killed_by == "signal"
    job = zygote.start_call(math.sqrt, (4,))
    assert job.result() == 2.0 and job.result() == 2.0 and job.exception() is None
    assert job.completed.returncode == 0 and job.completed.usage.cpu_total is not None


def test_leaving_the_interpreter_is_no_result(zygote):
    with pytest.raises(JobEnded, match="code 3") as caught:
        zygote.call(os._exit, 3)
    assert caught.value.completed.returncode == 3 and caught.value.completed.killed_by is None
    with pytest.raises(JobEnded, match="signal 11"):
        zygote.call(lambda: __import__("ctypes").string_at(0))


def test_ctrl_c_kills_the_job(zygote):
    zygote.warmup()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    try:
        started = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            zygote.call(time.sleep, 60)
        assert time.monotonic() - started < 3
    finally:
        timer.join()
        signal.signal(signal.SIGINT, before)


def test_scripts(zygote):
    code = "import sys, os; print(sys.argv, __name__, os.environ.get('A')); print('e', file=sys.stderr); sys.exit(7)"
    done = zygote.run(["-c", code, "x"], capture_output=True, text=True, env={"A": "b"})
    assert done.returncode == 7 and done.stdout == "['-c', 'x'] __main__ b\n" and done.stderr == "e\n"
    done = zygote.run(["-c", "import sys; print(sys.stdin.read().upper())"], input="hello", capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "HELLO\n")
    done = zygote.run(["-c", "def f(): return 1/0\nf()"], capture_output=True, text=True)
    assert done.returncode == 1 and "ZeroDivisionError" in done.stderr and "fastctr" not in done.stderr
    done = zygote.run(["-m", "json.tool"], input='{"a":1}', capture_output=True, text=True, cwd="/tmp")
    assert done.returncode == 0 and '"a": 1' in done.stdout
    done = zygote.run(["/no/such.py"], capture_output=True, text=True)
    assert done.returncode == 2 and "can't open file" in done.stderr
    done = zygote.run(["-c", "import os; os.kill(os.getpid(), 9) or os._exit(4)"])
    assert done.returncode == 4  # the first process of a pid namespace cannot signal itself to death
    done = zygote.run(["-c", "import atexit; atexit.register(print, 'bye')"], capture_output=True, text=True)
    assert done.stdout == "bye\n"
    with pytest.raises(fastctr.TimeoutExpired) as caught:
        zygote.run(["-c", "print('so far', flush=True); import time; time.sleep(60)"], capture_output=True, text=True, timeout=0.5)
    assert caught.value.stdout == "so far\n" and caught.value.completed.killed_by == "timeout"
    done = zygote.run(["-c", "open('/tmp/out', 'w').write('made'); print('x' * 5000)"], capture_output=True, output_limit=100,
                      outputs=["/tmp/out"])
    assert done.files["/tmp/out"].read() == b"made" and len(done.stdout) == 100 and done.truncated == ("stdout",)
    done.files["/tmp/out"].close()
    with pytest.raises(fastctr.CalledProcessError):
        zygote.run(["-c", "raise SystemExit(3)"], check=True)
    with pytest.raises(fastctr.LaunchError, match="cwd"):
        zygote.run(["-c", "pass"], cwd="/no/such")


def test_a_script_file(tmp_path):
    (tmp_path / "helper.py").write_text("x = 5\n")
    (tmp_path / "script.py").write_text("import sys, helper\nif __name__ == '__main__':\n    print(helper.x, sys.argv[1:])\n")
    fields = python_fields()
    fields["volumes"] = [*fields.get("volumes", ()), f"{tmp_path}:/srv:ro"]
    with Zygote(**fields) as zygote:
        done = zygote.run(["/srv/script.py", "a", "b"], capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("5 ['a', 'b']\n", 0)


def test_many_threads(zygote):
    found = []

    def work(start):
        for n in range(start, start + 5):
            found.append(zygote.call(lambda n=n: n * n))

    threads = [threading.Thread(target=work, args=(5 * i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [n * n for n in range(20)]


def test_the_zygote_dies_with_its_jobs_and_another_comes(zygote):
    zygote.warmup()
    job = zygote.start_call(time.sleep, (60,))
    os.kill(zygote._process.container.pid, signal.SIGKILL)
    with pytest.raises(JobEnded) as caught:
        job.result()
    assert caught.value.completed.killed_by == "signal"
    assert zygote.call(int, "4") == 4
    assert zygote.metrics()["zygotes"] == 2


def test_preloading(tmp_path):
    with Zygote(**python_fields(), preload=["decimal"]) as zygote:
        assert zygote.call(lambda: "decimal" in sys.modules)
        assert zygote.version[:2] == sys.version_info[:2]
    with Zygote(**python_fields(), preload=["no_such_module"]) as zygote, pytest.raises(ZygoteError, match="no_such"):
        zygote.call(int)
    (tmp_path / "bad_threads.py").write_text("import threading, time\nthreading.Thread(target=time.sleep, args=(9,), daemon=True).start()\n")
    (tmp_path / "opens.py").write_text("import mmap, os\nf = open('/etc/passwd')\nm = mmap.mmap(-1, 4096)\nm[0] = 1\n")
    fields = python_fields()
    fields["volumes"] = [*fields.get("volumes", ()), f"{tmp_path}:/srv/lib:ro"]
    fields["env"] = {"PYTHONPATH": "/srv/lib"}
    with Zygote(**fields, preload=["bad_threads"]) as zygote, pytest.raises(ZygoteError, match="threads"):
        zygote.warmup()
    with Zygote(**fields, preload=["opens"], size=1) as zygote:
        def touch():
            import opens

            was = opens.m[0]
            opens.m[0] = 2
            return was, os.readlink(f"/proc/self/fd/{opens.f.fileno()}")

        assert [zygote.call(touch) for _ in range(3)] == [(1, "/dev/null")] * 3  # shared memory is a copy, files are closed


def test_a_call_in_a_directory_that_is_not_there(zygote):
    with pytest.raises(fastctr.LaunchError, match="cwd") as caught:
        zygote.start_call(int, ("3",), cwd="/no/such").result()
    assert (caught.value.stage, caught.value.errno) == ("cwd", 2)


def test_what_cannot_go_with_a_zygote(rootfs):
    for fields in ({"init": True}, {"monotonic": 5}, {"pid": "host"}, {"proc": False}):
        with pytest.raises(fastctr.SpecError, match=r"zygote|pid"):
            Zygote(rootfs="host", **fields)
    with pytest.raises(fastctr.CommandNotFound):
        Zygote(rootfs=rootfs).call(int)


def test_closing_kills_what_runs():
    zygote = Zygote(**python_fields())
    job = zygote.start_call(time.sleep, (60,))
    zygote.close()
    assert job.completed.killed_by == "signal"
    assert zygote.call(int, "3") == 3
    zygote.close()


def test_shutdown_closes_zygotes():
    zygote = Zygote(**python_fields())
    assert zygote.call(int, "3") == 3
    fastctr.shutdown()
    assert zygote.call(int, "5") == 5
    fastctr.shutdown()


@pytest.mark.parametrize("more", [{}, {"read_only": True, "user": "1000:1000"}, {"writable": "disk", "network": "host"}])
def test_a_root_of_its_own(python_root, more):
    """An interpreter of another build, without cloudpickle and whatever else is installed here."""
    with Zygote(rootfs=python_root, preload=["decimal"], size=1, **more) as zygote:
        assert zygote.call(lambda a: [a, os.getpid(), os.path.exists("/tests")], 4) == [4, 1, False]
        assert zygote.run(["-c", "import decimal; print(decimal.Decimal(1) / 8)"], capture_output=True).stdout == b"0.125\n"
        captured = {"k": (1, 2)}
        assert zygote.call(lambda: captured) == {"k": (1, 2)}  # by the cloudpickle it was given


@pytest.fixture(scope="module")
def python_root(tmp_path_factory):
    return str(make_python_root(tmp_path_factory.mktemp("python")))


def test_an_image(python_root, tmp_path):
    store = str(tmp_path / "store")
    fastctr.images.build_rootfs(python_root, "python:test", root=store, compression="none")
    plan = fastctr.Plan(image="python:test", root=store, pull="never", memory="256m")
    with plan, Zygote(plan, size=1, preload=["fractions"]) as zygote:
        assert zygote.call(math.gcd, 12, 18) == 6
        assert zygote.run(["-c", "print(open('/proc/1/comm').read())"], capture_output=True, text=True).returncode == 0
