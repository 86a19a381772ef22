"""Checks of fastctr as root on pure cgroup v2. See guest_support.py."""

from __future__ import annotations

import os
import signal
import shutil
import subprocess
import sys
import time

import guest_support as vm
from guest_support import check, kernel, read, until

ROOT = "/tmp/root"
CG = "/sys/fs/cgroup"
MAP = [(0, 100000, 65536)]
fastctr = None


def run(*argv, **kw):
    kw.setdefault("rootfs", ROOT)
    kw.setdefault("capture_output", True)
    kw.setdefault("text", True)
    kw.setdefault("timeout", 100)
    return fastctr.run(list(argv), **kw)


def sh(script, **kw):
    return run("sh", "-c", script, **kw)


def out(script, **kw):
    done = sh(script, **kw)
    assert done.returncode == 0, done
    return done.stdout


def start(*argv, **kw):
    kw.setdefault("rootfs", ROOT)
    return fastctr.Container(list(argv), **kw)


def group(container):
    path = container.cgroups["unified"]
    assert os.path.isdir(path), path
    return path


# ---- limits


@check
def check_plain_run():
    assert out("echo hi; id -u") == "hi\n0\n"


@check
def check_memory_oom():
    done = sh("head -c 60000000 /dev/zero | tail -c 50000000 | wc -c; exit 1", memory="8m", memory_swap="8m")
    assert done.killed_by == "oom", done
    assert done.usage.oom_kills >= 1, done.usage
    assert done.usage.memory_limit == 8 << 20, done.usage


@check
def check_memory_figures():
    done = run("dd", "if=/dev/zero", "of=/tmp/x", "bs=1M", "count=20", memory="64m")
    assert done.returncode == 0, done
    assert 20 << 20 <= done.usage.memory_peak <= 64 << 20, done.usage


@check
def check_memory_peak_is_each_jobs_own():
    with fastctr.Plan(rootfs=ROOT, memory="64m") as plan:
        big = plan.run(["dd", "if=/dev/zero", "of=/tmp/x", "bs=1M", "count=20"], stderr=fastctr.DEVNULL)
        small = [plan.run(["true"]) for _ in range(4)]
    assert big.usage.memory_peak > 20 << 20, big.usage
    peaks = [done.usage.memory_peak for done in small]
    assert all(peak is None or peak < 10 << 20 for peak in peaks), peaks


@check
def check_pids():
    done = sh("n=0; for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 5 & done; wait", pids=6)
    assert done.usage.pids_peak <= 6, done.usage
    assert "an't fork" in done.stderr or done.returncode != 0, done


@check
def check_cpu_quota():
    with start("sh", "-c", "while :; do :; done", cpus=0.2) as c:
        assert read(f"{group(c)}/cpu.max") == "20000 100000\n"
        assert until(lambda: c.stats().nr_throttled > 3), c.stats()
        assert c.stats().throttled > 0


@check
def check_cpu_weight_and_set():
    with start("sleep", "99", cpu_shares=1024, cpuset_cpus="0", pids=9) as c:
        assert 20 <= int(read(f"{group(c)}/cpu.weight")) <= 100
        assert read(f"{group(c)}/cpuset.cpus.effective").strip() == "0"
        assert c.exec(["true"]).wait() == 0


@check
def check_unified_keys():
    with start("sleep", "99", unified={"memory.high": "33554432", "memory.oom.group": "1"}) as c:
        assert read(f"{group(c)}/memory.high") == "33554432\n"
        assert read(f"{group(c)}/memory.oom.group") == "1\n"
    try:
        run("true", unified={"no.such": "1"})
    except fastctr.CgroupError as error:
        assert "no.such" in str(error), error
    else:
        raise AssertionError("a key that is not there was taken")


@check
def check_io_figures_and_limit():
    if not os.path.ismount("/mnt/disk"):
        raise vm.Skip("no disk")
    os.makedirs("/mnt/disk/io", exist_ok=True)
    done = sh("dd if=/dev/zero of=/v/x bs=64k count=64 conv=fsync 2>/dev/null", volumes=["/mnt/disk/io:/v"],
              device_write_bps=["/dev/vda:100mb"])
    assert done.returncode == 0, done
    assert done.usage.io_write_bytes >= 4 << 20, done.usage
    with start("sleep", "99", device_write_bps=["/dev/vda:1mb"]) as c:
        assert "wbps=1048576" in read(f"{group(c)}/io.max"), read(f"{group(c)}/io.max")


@check
def check_pressure_figures():
    usage = sh("for i in 1 2 3 4; do (i=0; while [ $i -lt 3000 ]; do i=$((i+1)); done) & done; wait", cpus=0.3).usage
    assert usage.cpu_pressure is not None and usage.cpu_pressure > 0, usage
    assert usage.memory_pressure is not None and usage.io_pressure is not None, usage


@check
def check_limits_of_one_launch():
    with fastctr.Plan(rootfs=ROOT, pids=30) as plan, plan.container(["sleep", "99"], pids=12) as c:
        assert read(f"{group(c)}/pids.max") == "12\n"


@check
def check_update():
    with start("sleep", "99", memory="64m") as c:
        c.update(memory="96m", pids=44, cpus=1.5)
        assert read(f"{group(c)}/memory.max") == f"{96 << 20}\n"
        assert read(f"{group(c)}/pids.max") == "44\n"
        assert read(f"{group(c)}/cpu.max") == "150000 100000\n"


# ---- the group


@check
def check_born_in_its_group():
    # cgroup.stat and events cannot tell a birth from a move; what the first instruction sees can, and
    # that the launcher's own group never had it. nsdelegate would refuse a move across, too.
    with start("sh", "-c", "cat /proc/self/cgroup; cat", cgroupns="host", stdin=fastctr.PIPE, stdout=fastctr.PIPE) as c:
        line = c.stdout.readline().decode().strip()
        assert f"{CG}{line.removeprefix('0::')}" == group(c), (line, group(c))
        assert read(f"/proc/{c.pid}/cgroup").strip() == line
    if not os.path.isdir("/sys/kernel/tracing/events") and subprocess.run(
        ["mount", "-t", "tracefs", "tracefs", "/sys/kernel/tracing"], stderr=subprocess.DEVNULL, check=False).returncode:
        return
    event = "/sys/kernel/tracing/events/cgroup/cgroup_attach_task"
    if not os.path.exists(event):
        return
    with open(f"{event}/enable", "w") as file:
        file.write("1")
    try:
        with fastctr.Plan(rootfs=ROOT, memory="64m", pids=9, cpus=1) as plan:
            for _ in range(4):
                assert plan.run(["true"]).returncode == 0
        assert "cgroup_attach_task" not in "".join(
            line for line in read("/sys/kernel/tracing/trace").splitlines() if not line.startswith("#"))
    finally:
        with open(f"{event}/enable", "w") as file:
            file.write("0")


@check
def check_cgroup_namespace():
    assert out("cat /proc/self/cgroup") == "0::/\n"


@check
def check_group_paths_and_pids():
    with start("sh", "-c", "sleep 99 & sleep 99", stdin=fastctr.DEVNULL) as c:
        assert until(lambda: len(c.pids()) >= 2), c.pids()
        assert c.pid in c.pids()
        assert sorted(map(int, read(f"{group(c)}/cgroup.procs").split())) == sorted(c.pids())


@check
def check_exec_joins_the_group():
    with start("sleep", "99", memory="64m") as c:
        e = c.exec(["sleep", "98"])
        assert e.pid in c.pids(), (e.pid, c.pids())
        for kind in ("pid", "mnt", "net", "ipc", "uts", "cgroup"):
            mine = os.readlink(f"/proc/{c.pid}/ns/{kind}")
            assert os.readlink(f"/proc/{e.pid}/ns/{kind}") == mine, kind
        ee = e.exec(["sleep", "97"], tty=True)
        assert ee.pid in c.pids(), (ee.pid, c.pids())
        e.kill()
        assert e.wait() == -9
        assert c.poll() is None and ee.poll() is None
        done = c.exec(["sh", "-c", "ps; id -u"], stdout=fastctr.PIPE)
        text = done.communicate()[0].decode()
        assert "sleep 99" in text, text


@check
def check_pause_and_resume():
    with start("sh", "-c", "while :; do echo x; done", stdout=fastctr.PIPE) as c:
        os.set_blocking(c.stdout.fileno(), False)
        c.pause()
        assert read(f"{group(c)}/cgroup.events").count("frozen 1") == 1
        while c.stdout.read(1 << 20):
            pass
        time.sleep(0.5)
        assert not c.stdout.read(100), "it writes while it is frozen"
        c.resume()
        assert until(lambda: c.stdout.read(100)), "it stays frozen"
        c.pause()  # and it must die frozen


@check
def check_kill_of_a_job_in_the_host_pid_namespace():
    c = start("sh", "-c", "(sleep 999 & sleep 999 & wait) & sleep 999", pid="host")
    assert until(lambda: len(c.pids()) >= 4), c.pids()
    pids, path = c.pids(), group(c)
    c.kill()
    assert c.wait() == -9
    assert until(lambda: not any(os.path.exists(f"/proc/{pid}/cwd") for pid in pids)), pids
    c.close()
    fastctr.context.get().drain()
    assert not os.path.exists(path) or not read(f"{path}/cgroup.procs")


@check
def check_rest_dies_with_a_job_in_the_host_pid_namespace():
    done = sh("sleep 7777 & exec 1>&- 2>&-; exit 3", pid="host")
    assert done.returncode == 3, done
    left = [pid for pid in filter(str.isdigit, os.listdir("/proc")) if "7777" in _cmdline(pid)]
    assert not left, left


def _cmdline(pid):
    try:
        return read(f"/proc/{pid}/cmdline").split("\0")
    except OSError:
        return []


@check
def check_timeout_kills_all():
    try:
        sh("sleep 7771 & sleep 7772", timeout=3)
    except fastctr.TimeoutExpired as error:
        assert error.completed.killed_by == "timeout"
    else:
        raise AssertionError("no timeout")
    assert not [pid for pid in filter(str.isdigit, os.listdir("/proc")) if {"7771", "7772"} & set(_cmdline(pid))]


# ---- devices


@check
def check_device_policy():
    """The node is there, and CAP_MKNOD too: only the group's program can refuse."""
    done = sh("head -c 1 /dev/zero >/dev/null && echo x >/dev/null && head -c 1 /dev/loop0", volumes=["/dev/loop0:/dev/loop0"])
    assert done.returncode != 0 and "not permitted" in done.stderr, done
    done = sh("mknod /m b 7 0 && echo made && head -c 1 /m", rootfs="host")
    assert done.stdout == "made\n" and "not permitted" in done.stderr, done
    done = sh("head -c 0 /dev/loop0 && echo read; dd if=/dev/zero of=/dev/loop0 bs=1 count=1",
              devices=["/dev/loop0:/dev/loop0:r"])
    assert done.stdout == "read\n" and "not permitted" in done.stderr, done


@check
def check_no_device_policy():
    done = sh("head -c 1 /dev/loop0", volumes=["/dev/loop0:/dev/loop0"], device_policy=False)
    assert done.returncode == 0, done


# ---- root file systems


@check
def check_overlay_throwaway():
    assert out("echo x >/etc/new; rm /etc/passwd; ls /etc") == "group\nnew\n"
    assert sorted(os.listdir(f"{ROOT}/etc")) == ["group", "passwd"]


@check
def check_overlay_of_many_layers():
    layers = []
    for number in range(12):
        path = f"/tmp/layers/{number}"
        os.makedirs(path, exist_ok=True)
        with open(f"{path}/which", "w") as file:
            file.write(str(number))
        with open(f"{path}/only{number}", "w"):
            pass
        layers.append(path)
    assert out("cat /which; echo; ls /only11 /only0", rootfs=[*layers, ROOT]) == "0\n/only0\n/only11\n"


@check
def check_overlay_kept():
    os.makedirs("/tmp/kept", exist_ok=True)
    out("echo one >/a", upper="/tmp/kept/upper")
    assert out("cat /a", upper="/tmp/kept/upper") == "one\n"
    assert read("/tmp/kept/upper/a") == "one\n"


@check
def check_overlay_on_disk():
    place = "/mnt/disk/scratch" if os.path.ismount("/mnt/disk") else "/tmp/scratch"
    os.makedirs(place, exist_ok=True)
    assert out("echo x >/a; cat /a", writable="disk", scratch_dir=place) == "x\n"


@check
def check_read_only():
    done = sh("touch /x", read_only=True)
    assert done.returncode != 0 and "Read-only" in done.stderr, done


@check
def check_host_root():
    assert out("test -x /usr/bin/env && cat /etc/hostname >/dev/null 2>&1; ls /tmp | wc -l", rootfs="host").strip() == "0"


@check
def check_proc_is_masked():
    text = out("cat /proc/keys /proc/timer_list | wc -c; touch /proc/sys/vm/x 2>&1; echo 1 2>&1 >/proc/sys/vm/drop_caches; "
               "cat /proc/1/comm; ps | wc -l", init=False)
    assert text.startswith("0\n"), text
    assert "Read-only" in text or "can't create" in text, text


@check
def check_files_tmpfs_volumes():
    os.makedirs("/tmp/vol", exist_ok=True)
    with open("/tmp/vol/f", "w") as file:
        file.write("v")
    text = sh("cat /etc/a/b /v/f; touch /t/x && stat -c %a /t; touch /v/g 2>&1", files={"/etc/a/b": b"f"},
              tmpfs={"/t": "size=1m,mode=711"}, volumes=["/tmp/vol:/v:ro"]).stdout
    assert text.startswith("fv711\n"), text
    assert "Read-only" in text, text


# ---- user namespaces


@check
def check_userns_maps():
    root = _userns_root()
    done = out("cat /proc/self/uid_map; id -u; id -g", uid_map=MAP, rootfs=root)
    assert done.split() == ["0", "100000", "65536", "0", "0"], done
    with start("sleep", "99", uid_map=MAP, rootfs=root) as c:
        assert os.stat(f"/proc/{c.pid}").st_uid == 100000


@check
def check_userns_owns_its_root():
    """tmpfs takes an idmap from 6.3; before, the root lies on the disk (ext4)."""
    root = _userns_root()
    assert out("stat -c %u:%g /etc/passwd; echo x >>/etc/passwd && touch /new && stat -c %u /new", rootfs=root,
               uid_map=MAP) == "0:0\n0\n"
    assert out("touch /direct; stat -c %u /direct", rootfs=root, uid_map=MAP, writable="direct") == "0\n"
    assert os.stat(f"{root}/direct").st_uid == 0, "the idmap gives the file to the machine's root"
    os.unlink(f"{root}/direct")
    assert out("id -u; id -G; stat -c %u /etc/passwd", rootfs=root, uid_map=MAP, user="app") == "7\n8 9\n0\n"


@check
def check_userns_of_a_root_that_takes_no_idmap():
    if kernel() >= (6, 3):
        raise vm.Skip("tmpfs takes an idmap here")
    try:
        sh("true", uid_map=MAP)
    except fastctr.LaunchError as error:
        assert error.stage == "idmap" and "idmapped" in str(error), error
    else:
        raise AssertionError("an idmap that cannot be was not noticed")


@check
def check_userns_network_and_ipc():
    with start("sleep", "99", uid_map=MAP, rootfs=_userns_root()) as c:
        text = c.exec(["sh", "-c", "ip addr show lo; id -u"], stdout=fastctr.PIPE).communicate()[0].decode()
        assert "LOOPBACK,UP" in text and text.endswith("0\n"), text


def _userns_root():
    if kernel() >= (6, 3):
        return ROOT
    if not os.path.ismount("/mnt/disk"):
        raise vm.Skip("no idmapped tmpfs, and no disk")
    if not os.path.exists("/mnt/disk/root"):
        vm.make_root("/mnt/disk/root")
    return "/mnt/disk/root"


@check
def check_userns_limits_and_pause():
    with start("sh", "-c", "while :; do :; done", uid_map=MAP, rootfs=_userns_root(), cpus=0.2, memory="64m", pids=9) as c:
        assert until(lambda: c.stats().nr_throttled > 1), c.stats()
        c.pause()
        c.resume()
        c.update(pids=20)
        assert read(f"{group(c)}/pids.max") == "20\n"


# ---- terminal, init, time


@check
def check_tty():
    with start("sh", "-c", "tty; stty size; echo hi >/dev/tty; read a; echo got $a", tty=(33, 101)) as c:
        c.tty.write(b"you\n")
        text = b""
        while b"got you" not in text:
            text += c.tty.read(1000)
        assert b"/dev/pts/0" in text and b"33 101" in text and b"hi" in text, text
        assert c.wait() == 0


@check
def check_init():
    with start("sh", "-c", "trap 'echo term; exit 5' TERM; echo ready; while :; do sleep 0.1; done", init=True,
               stdout=fastctr.PIPE) as c:
        assert c.stdout.readline() == b"ready\n"
        c.terminate()
        assert c.wait() == 5, c.returncode
        assert c.stdout.readline() == b"term\n"
    assert sh("kill -USR1 $$", init=True).returncode == -signal.SIGUSR1
    try:
        run("/no/such", init=True)
    except fastctr.CommandNotFound:
        pass
    else:
        raise AssertionError("a missing command was not noticed")


def _uptime(text):
    return float(text.split()[0])


@check
def check_time_namespace():
    here = time.clock_gettime(time.CLOCK_BOOTTIME)
    assert _uptime(out("cat /proc/uptime", boottime=1_000_000, monotonic=5)) > here + 999_000
    for extra in ({"init": True}, {"memory": "64m", "pids": 9}, {"read_only": True}):
        done = out("cat /proc/uptime; cat /proc/self/cgroup; id -u", boottime=500_000, **extra)
        assert _uptime(done) > here + 499_000, (extra, done)
        assert done.endswith("0::/\n0\n"), done
    assert out("echo $$", boottime=1) == "1\n"


@check
def check_time_namespace_and_userns():
    here = time.clock_gettime(time.CLOCK_BOOTTIME)
    root = _userns_root()
    text = out("cat /proc/uptime; cat /proc/self/uid_map", boottime=1_000_000, uid_map=MAP, rootfs=root)
    assert _uptime(text) > here + 999_000, text
    assert text.split()[-3:] == ["0", "100000", "65536"], text


@check
def check_time_namespace_container():
    here = time.clock_gettime(time.CLOCK_BOOTTIME)
    with start("sleep", "99", boottime=1_000_000, memory="64m") as c:
        assert c.pid in c.pids(), (c.pid, c.pids())
        text = c.exec(["cat", "/proc/uptime"], stdout=fastctr.PIPE).communicate()[0].decode()
        assert _uptime(text) > here + 999_000, text
        assert c.poll() is None
        c.kill()
        assert c.wait() == -9


@check
def check_time_namespace_errors_and_oom_score():
    assert out("cat /proc/self/oom_score_adj", boottime=10, oom_score_adj=500) == "500\n"
    try:
        run("/no/such", boottime=10)
    except fastctr.CommandNotFound:
        pass
    else:
        raise AssertionError("a missing command was not noticed")
    with fastctr.Plan(rootfs=ROOT, boottime=1000) as plan:
        assert [plan.run(["sh", "-c", f"exit {n}"]).returncode for n in range(3)] == [0, 1, 2]


@check
def check_join_namespaces():
    with start("sleep", "99") as c:
        text = out("readlink /proc/self/ns/net /proc/self/ns/ipc; ps", network=f"pid:{c.pid}", ipc=f"pid:{c.pid}",
                   pid=f"pid:{c.pid}", rootfs="host")
        assert os.readlink(f"/proc/{c.pid}/ns/net") in text, text
        assert os.readlink(f"/proc/{c.pid}/ns/ipc") in text, text
        assert "sleep" in text, text


# ---- processes as they should be


@check
def check_exit_status_when_others_reap():
    """SIGCHLD ignored: 6.15 and newer still know the status, older ones do not and must not hang."""
    code = ("import signal, fastctr; signal.signal(signal.SIGCHLD, signal.SIG_IGN); "
            f"print(fastctr.run(['sh', '-c', 'exit 7'], rootfs={ROOT!r}).returncode)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done
    assert done.stdout.strip() in ("7", "255"), done
    if kernel() >= (6, 15):
        assert done.stdout.strip() == "7"


@check
def check_seccomp_caps_and_no_new_privs():
    text = out("grep -E '^(Seccomp|NoNewPrivs|CapEff|CapBnd):' /proc/self/status")
    fields = dict(line.split(":\t") for line in text.splitlines())
    assert fields["Seccomp"] == "2" and fields["NoNewPrivs"] == "1", fields
    assert fields["CapEff"] == fields["CapBnd"] == "00000000a80425fb", fields


@check
def check_user_and_groups():
    text = out("id", user="app").strip()
    assert text == "uid=7(app) gid=8(app) groups=8(app),9(extra)", text
    assert out("id -u; id -g; id -G", user="5:6", group_add=[77]).split() == ["5", "6", "6", "77"]


@check
def check_threads():
    import threading

    with fastctr.Plan(rootfs=ROOT, pids=9, memory="64m") as plan:
        got = []

        def work(n):
            got.extend(plan.run(["sh", "-c", f"exit {n}"]).returncode == n for _ in range(5))

        threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert got == [True] * 30, got


# ---- users without a group


AS_USER = """
import sys, fastctr
rootfs = sys.argv[1]
assert fastctr.run(["id", "-u"], rootfs=rootfs, capture_output=True).stdout == b"0\\n"
assert fastctr.run(["id", "-u"], rootfs="host", capture_output=True).stdout == b"0\\n"
for kw in ({"memory": "64m"}, {"pid": "host"}):
    try:
        fastctr.run(["true"], rootfs=rootfs, **kw)
    except fastctr.CgroupError as error:
        assert "delegated to this user" in str(error), error
    else:
        raise AssertionError(kw)
with fastctr.Container(["sleep", "99"], rootfs=rootfs) as c:
    assert c.exec(["true"]).wait() == 0
    for call in (c.pause, c.stats, lambda: c.update(memory="64m")):
        try:
            call()
        except fastctr.CgroupError as error:
            assert "delegated to this user" in str(error), error
        else:
            raise AssertionError(call)
    try:
        fastctr.run(["sh", "-c", "sleep 7761 & sleep 7762"], rootfs=rootfs, timeout=2)
    except fastctr.TimeoutExpired:
        pass
from fastctr import context
print(context.runtime_dir())
"""


@check
def check_users_without_a_group():
    command = ["--clear-groups", "env", "-u", "XDG_RUNTIME_DIR", sys.executable, "-c", AS_USER, ROOT]
    both = [subprocess.Popen(["setpriv", f"--reuid={uid}", f"--regid={uid}", *command], stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, text=True) for uid in (2001, 2002)]
    ended = [child.communicate(timeout=100) for child in both]
    for uid, child, (text, error) in zip((2001, 2002), both, ended):
        assert child.returncode == 0, error
        assert text.strip() == f"/tmp/fastctr-{uid}", text
    assert not [pid for pid in filter(str.isdigit, os.listdir("/proc")) if {"7761", "7762"} & set(_cmdline(pid))]


@check
def check_user_who_may_not_make_user_namespaces():
    code = f"import fastctr; fastctr.run(['true'], rootfs={ROOT!r})"
    before = read("/proc/sys/user/max_user_namespaces")
    with open("/proc/sys/user/max_user_namespaces", "w") as file:
        file.write("0")
    try:
        done = subprocess.run(["setpriv", "--reuid=2004", "--regid=2004", "--clear-groups", "env", "-u", "XDG_RUNTIME_DIR",
                               sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=False)
    finally:
        with open("/proc/sys/user/max_user_namespaces", "w") as file:
            file.write(before)
    assert done.returncode != 0 and "LaunchError: userns" in done.stderr, done
    assert "user.max_user_namespaces" in done.stderr, done


@check
def check_runtime_directory_of_somebody_else():
    """Somebody may have made /tmp/fastctr-UID before us, to read or fake our locks."""
    os.makedirs("/tmp/fastctr-2003", exist_ok=True)
    code = f"import fastctr; fastctr.run(['true'], rootfs={ROOT!r})"
    done = subprocess.run(["setpriv", "--reuid=2003", "--regid=2003", "--clear-groups", "env", "-u", "XDG_RUNTIME_DIR",
                           sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode != 0 and "FASTCTR_RUNTIME_DIR" in done.stderr, done


# ---- nothing is left


def _state():
    groups = vm.tree(CG)
    mounts = len(read("/proc/self/mountinfo").splitlines())
    return groups, mounts, vm.children()


@check
def check_200_launches_leave_nothing():
    fastctr.shutdown()
    before = _state()
    fds = len(os.listdir("/proc/self/fd"))
    with fastctr.Plan(rootfs=ROOT, memory="64m", pids=16, cpus=1) as plan:
        for n in range(200):
            done = plan.run(["sh", "-c", f"exit {n % 7}"])
            assert done.returncode == n % 7, done
    fastctr.shutdown()
    assert _state() == before, (_state(), before)
    assert len(os.listdir("/proc/self/fd")) <= fds + 1, os.listdir("/proc/self/fd")


@check
def check_failed_starts_leave_nothing():
    fastctr.shutdown()
    before = _state()
    for bad in (dict(volumes=["/etc/passwd:/bin"]), dict(cwd="/no/such"), dict(user="nobody-here"),
                dict(unified={"cpu.max": "word"}), dict(cpuset_cpus="0", unified={"pids.max": "word"})):
        for _ in range(3):
            try:
                run("true", **bad)
            except (fastctr.LaunchError, fastctr.SpecError):
                continue
            raise AssertionError(f"{bad} went through")
    fastctr.shutdown()
    assert _state() == before, (_state(), before)


@check
def check_killed_launcher_is_swept():
    fastctr.shutdown()
    before = _state()
    code = ("import fastctr, sys, time\n"
            f"p = fastctr.Plan(rootfs={ROOT!r}, memory='64m', pids=16)\n"
            "a = p.container(['sleep', '7773'], stdin=fastctr.DEVNULL)\n"
            f"b = fastctr.Container(['sh', '-c', 'sleep 7774 & sleep 7775'], rootfs={ROOT!r}, pid='host')\n"
            "time.sleep(1)\n"
            "print('up', flush=True)\n"
            "while True: p.run(['true'])\n")
    for wait in (0.0, 0.15, 0.3):
        child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        assert child.stdout.readline() == "up\n"
        time.sleep(wait)
        child.kill()
        child.wait()
        child.stdout.close()
        # the first start of a process sweeps, and so does gc()
        sweep = "print(fastctr.gc())" if wait else f"fastctr.run(['true'], rootfs={ROOT!r})"
        done = subprocess.run([sys.executable, "-c", f"import fastctr; {sweep}"], check=True, stdout=subprocess.PIPE)
        assert done.stdout.strip() == (b"1" if wait else b""), done
    assert until(lambda: not [pid for pid in filter(str.isdigit, os.listdir("/proc"))
                              if {"7773", "7774", "7775"} & set(_cmdline(pid))])
    fastctr.shutdown()
    assert _state() == before, (_state(), before)
    assert not os.listdir("/run/fastctr"), os.listdir("/run/fastctr")


@check
def check_many_layers():
    """More than a page of mount options holds, also where each cannot be given by itself (before 6.8)."""
    for count in (3, 12, 100, 400):
        made, seen = vm.layers(f"/tmp/layers{count}", ROOT, count, "trusted.overlay.opaque")
        for how in ({}, {"read_only": True}):
            done = fastctr.run(["sh", "-c", vm.LOOK_AT_LAYERS], rootfs=made, capture_output=True, text=True, **how)
            assert done.stdout.split() == seen, (count, how, done.stdout, done.stderr)
        shutil.rmtree(f"/tmp/layers{count}")


@check
def check_layers_with_owners_shifted():
    made, seen = vm.layers("/mnt/disk/layers", ROOT, 12, "trusted.overlay.opaque")
    done = fastctr.run(["sh", "-c", vm.LOOK_AT_LAYERS + "; stat -c %u /opq"], rootfs=made, uid_map=[(0, 100000, 65536)],
                       capture_output=True, text=True)
    assert done.stdout.split() == [*seen, "0"], (done.stdout, done.stderr)
    fastctr.shutdown()
    shutil.rmtree("/mnt/disk/layers")


@check
def check_layers_from_images():
    """EROFS, mounted from its file; before Linux 6.12 the refusal says why."""
    tool = shutil.which("mkfs.erofs")
    if tool is None:
        raise vm.Skip("no mkfs.erofs (package erofs-utils)")
    made, seen = vm.layers("/mnt/disk/layers", ROOT, 10, "trusted.overlay.opaque")
    images = []
    for each in made:
        images.append(f"erofs:{os.path.dirname(each)}/image")
        subprocess.run([tool, "--quiet", images[-1][6:], each], check=True, stdout=subprocess.DEVNULL)
    try:
        for how in ({}, {"uid_map": [(0, 100000, 65536)]}):
            done = fastctr.run(["sh", "-c", vm.LOOK_AT_LAYERS], rootfs=images, capture_output=True, text=True, **how)
            assert done.stdout.split() == seen, (how, done.stdout, done.stderr)
    except fastctr.LaunchError as error:
        assert vm.kernel() < (6, 12) and ("6.12" in str(error) or "CONFIG_EROFS_FS" in str(error)), error
    fastctr.shutdown()
    shutil.rmtree("/mnt/disk/layers")


if __name__ == "__main__":
    import fastctr
    import fastctr.context

    vm.make_root(ROOT)
    vm.main(__name__)
