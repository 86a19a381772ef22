"""Checks of fastctr as an unprivileged user with a delegated group and subordinate ids. See guest_support.py."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import guest_support as vm
from guest_support import check, read, until

ROOT = "/tmp/root"
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


def ranges():
    """A map of our own id and the ranges of /etc/subuid (subuid(5))."""
    import pwd

    me, uid = pwd.getpwuid(os.geteuid()).pw_name, os.geteuid()
    for line in read("/etc/subuid").splitlines():
        name, first, count = line.split(":")
        if name in (me, str(uid)):
            return [(0, uid, 1), (1, int(first), min(int(count), 60000))]
    raise vm.Skip("no subordinate ids")


def refused(kind, *words, **kw):
    try:
        sh("true", **kw)
    except kind as error:
        text = str(error)
        assert all(word in text for word in words), text
        return error
    raise AssertionError(f"{kw} went through")


def running(*marks):
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if set(marks) & set(read(f"/proc/{pid}/cmdline").split("\0")):
                found.append(int(pid))
        except OSError:
            continue
    return found


# ---- starting


@check
def check_user_namespace_is_implied():
    assert out("id -u; id -g; cat /proc/self/uid_map").split() == ["0", "0", "0", str(os.geteuid()), "1"]


@check
def check_runtime_directory():
    import fastctr.context as context

    assert context.runtime_dir() == f"{os.environ['XDG_RUNTIME_DIR']}/fastctr"
    code = "import fastctr.context as c; print(c.runtime_dir())"
    env = {name: value for name, value in os.environ.items() if name != "XDG_RUNTIME_DIR"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"/tmp/fastctr-{os.geteuid()}", done.stdout
    assert os.stat(done.stdout.strip()).st_mode & 0o777 == 0o700


@check
def check_host_root():
    text = out("id -u; ls /; ls /tmp | wc -l; touch /usr/x 2>&1; touch /new && echo made", rootfs="host")
    assert text.startswith("0\n") and text.endswith("made\n"), text
    assert {"usr", "etc", "bin", "proc", "sys", "dev", "tmp"} <= set(text.split()), text
    assert "Read-only" in text, text


@check
def check_world_readable_root_of_another_user():
    if os.stat("/usr/bin").st_uid == os.geteuid() or not os.path.exists("/usr/bin/busybox"):
        raise vm.Skip("/usr/bin is ours, or has no busybox")
    # its programs need no more than themselves, and what else a root has is made in the layer above
    for extra in ({}, {"read_only": True}, {"init": True, "tmpfs": ["/tmp"]}):
        assert run("/busybox", "id", "-u", rootfs="/usr/bin", **extra).stdout == "0\n", extra
    done = run("/busybox", "sh", "-c", "echo x >/busybox; echo y >/made && echo made", rootfs="/usr/bin")
    assert done.stdout == "made\n" and "denied" in done.stderr, done


@check
def check_command_errors():
    for argv, kind in ((["/no/such"], fastctr.CommandNotFound), (["/etc/passwd"], fastctr.CommandNotExecutable)):
        for init in (False, True):
            try:
                run(*argv, init=init)
            except kind:
                continue
            raise AssertionError((argv, init))
    assert sh("exit 9").returncode == 9
    assert sh("kill -USR1 $$", init=True).returncode == -signal.SIGUSR1


@check
def check_own_network():
    text = out("ip addr show lo; ls /sys/class/net; ip link")
    assert "LOOPBACK,UP" in text and "127.0.0.1/8" in text, text
    here = os.readlink("/proc/self/ns/net")
    assert out("readlink /proc/self/ns/net", rootfs="host").strip() != here
    assert out("readlink /proc/self/ns/net", rootfs="host", network="host").strip() == here


@check
def check_namespaces_are_own():
    kinds = ("pid", "mnt", "ipc", "uts", "cgroup", "user")
    inside = out("readlink " + " ".join(f"/proc/self/ns/{kind}" for kind in kinds), rootfs="host").split()
    assert not set(inside) & {os.readlink(f"/proc/self/ns/{kind}") for kind in kinds}, inside
    assert out("hostname; echo $$", rootfs="host", hostname="box").split() == ["box", "1"]


# ---- root file system and mounts


@check
def check_overlay_throwaway():
    text = out("echo x >/etc/new; rm /etc/passwd; mkdir /etc/d; mv /etc/d /etc/e; ls /etc; stat -c %u /etc/new")
    assert text == "e\ngroup\nnew\n0\n", text
    assert sorted(os.listdir(f"{ROOT}/etc")) == ["group", "passwd"]
    assert "userxattr" in out("grep '^overlay / ' /proc/mounts")


@check
def check_overlay_of_layers_kept_and_on_disk():
    for name in "ab":
        os.makedirs(f"/tmp/l/{name}", exist_ok=True)
        with open(f"/tmp/l/{name}/which", "w") as file:
            file.write(name)
    assert out("cat /which", rootfs=["/tmp/l/b", "/tmp/l/a", ROOT]) == "b"
    os.makedirs("/tmp/kept", exist_ok=True)
    out("echo one >/a; rm /etc/group", upper="/tmp/kept/upper")
    assert out("cat /a; ls /etc", upper="/tmp/kept/upper") == "one\npasswd\n"
    os.makedirs("/tmp/scratch", exist_ok=True)
    assert out("echo x >/a; mkdir -p /d/e; cat /a", writable="disk", scratch_dir="/tmp/scratch") == "x\n"


@check
def check_direct_and_read_only():
    out("touch /direct", writable="direct")
    assert os.stat(f"{ROOT}/direct").st_uid == os.geteuid()
    os.unlink(f"{ROOT}/direct")
    done = sh("touch /x", read_only=True)
    assert done.returncode != 0 and "Read-only" in done.stderr, done


@check
def check_files_tmpfs_volumes():
    os.makedirs("/tmp/vol", exist_ok=True)
    with open("/tmp/vol/f", "w") as file:
        file.write("v")
    done = sh("cat /etc/a/b /v/f; touch /t/x && stat -c %a /t; touch /v/g; touch /w/g",
              files={"/etc/a/b": b"f"}, tmpfs={"/t": "size=1m,mode=711"}, volumes=["/tmp/vol:/v:ro", "/tmp/vol:/w"])
    assert done.stdout == "fv711\n", done
    assert "/v/g: Read-only" in done.stderr, done
    assert os.path.exists("/tmp/vol/g")


@check
def check_dev_proc_sys():
    text = out("echo x >/dev/null && head -c 3 /dev/zero | wc -c; ls /dev/pts /dev/shm -d; touch /dev/shm/x; "
               "cat /proc/keys | wc -c; touch /sys/x 2>&1; echo 1 2>&1 >/proc/sys/kernel/printk; cat /proc/1/comm")
    assert text.startswith("3\n/dev/pts\n/dev/shm\n0\n"), text
    assert "ead-only" in text or "denied" in text, text


# ---- ids


@check
def check_map_of_many_ranges():
    ids = ranges()
    text = out("cat /proc/self/uid_map /proc/self/gid_map; touch /tmp/mine; chown 7:8 /tmp/mine && stat -c %u:%g /tmp/mine",
               uid_map=ids, gid_map=ids)
    assert text.endswith("7:8\n"), text
    assert text.split()[3:6] == [str(n) for n in ids[1]], text


@check
def check_user_inside_a_map():
    ids = ranges()
    assert out("id -u; id -g; id -G", uid_map=ids, gid_map=ids, user="app").split() == ["7", "8", "8", "9"]
    with start("sleep", "99", uid_map=ids, gid_map=ids, user="7:8") as c:
        assert os.stat(f"/proc/{c.pid}").st_uid == ids[1][1] + 6
    ids1000 = [(1000, os.geteuid(), 1)]
    assert out("id -u; id -g; touch /tmp/x; stat -c %u /tmp/x", uid_map=ids1000, gid_map=[(1000, os.getegid(), 1)],
               user="1000:1000").split() == ["1000", "1000", "1000"]


@check
def check_ids_that_cannot_be():
    refused(fastctr.SpecError, "uid_map", user="1000:1000")
    refused(fastctr.LaunchError, "idmap", "/etc/subuid", uid_map=[(0, 0, 1)])
    error = refused(fastctr.LaunchError, "idmap", "/etc/subuid", uid_map=[(0, os.geteuid(), 1), (1, 2000000, 9)])
    assert "newuidmap: uid range" in str(error), error
    refused(fastctr.SpecError, "userns", userns="host")
    refused(fastctr.SpecError, "groups", groups=[os.getegid()])
    assert "user" in str(refused(fastctr.LaunchError, "nobody-here", user="nobody-here"))


@check
def check_seccomp_caps_and_no_new_privs():
    text = out("grep -E '^(Seccomp|NoNewPrivs|CapEff|CapBnd):' /proc/self/status")
    fields = dict(line.split(":\t") for line in text.splitlines())
    assert fields["Seccomp"] == "2" and fields["NoNewPrivs"] == "1", fields
    assert fields["CapEff"] == fields["CapBnd"] == "00000000a80425fb", fields


# ---- limits


@check
def check_limits():
    with start("sh", "-c", "while :; do :; done", memory="64m", pids=9, cpus=0.2) as c:
        path = group(c)
        assert read(f"{path}/memory.max") == f"{64 << 20}\n" and read(f"{path}/pids.max") == "9\n"
        assert until(lambda: c.stats().nr_throttled > 2), c.stats()
        assert c.pid in c.pids()
        c.update(pids=17)
        assert read(f"{path}/pids.max") == "17\n"
    done = sh("head -c 60000000 /dev/zero | tail -c 50000000 | wc -c; exit 1", memory="8m", memory_swap="8m")
    assert done.killed_by == "oom", done
    assert done.usage.memory_peak is not None and done.usage.cpu_total > 0, done.usage


@check
def check_limits_that_cannot_be():
    error = refused(fastctr.CgroupError, "BPF", device_cgroup_rules=["c 1:3 rwm"])
    assert "(root)" in str(error), error


@check
def check_pause():
    with start("sh", "-c", "while :; do echo x; done", stdout=fastctr.PIPE) as c:
        os.set_blocking(c.stdout.fileno(), False)
        c.pause()
        assert "frozen 1" in read(f"{group(c)}/cgroup.events")
        while c.stdout.read(1 << 20):
            pass
        c.resume()
        assert until(lambda: c.stdout.read(100)), "it stays frozen"
        c.pause()


@check
def check_without_a_group():
    with start("sleep", "99", cgroup=False) as c:
        assert c.cgroups == {}
        for call in (c.pause, c.stats, lambda: c.update(memory="64m")):
            try:
                call()
            except fastctr.CgroupError as error:
                assert "cgroup=False" in str(error), error
            else:
                raise AssertionError(call)
        assert c.exec(["true"]).wait() == 0


# ---- terminal, init, time, ends


@check
def check_tty():
    with start("sh", "-c", "tty; stty size; echo hi >/dev/tty; read a; echo got $a", tty=(33, 101)) as c:
        c.tty.write(b"you\n")
        text = b""
        while b"got you" not in text:
            text += c.tty.read(1000)
        assert b"/dev/pts/0" in text and b"33 101" in text and b"hi" in text, text
        assert c.wait() == 0
    with start("sleep", "99") as c:
        e = c.exec(["sh", "-c", "tty; stty size"], tty=(7, 9))
        text = b""
        try:
            while b"7 9" not in text:
                text += e.tty.read(1000)
        except OSError:
            pass
        assert b"7 9" in text, text
        assert e.wait() == 0


@check
def check_init():
    with start("sh", "-c", "trap 'exit 5' TERM; echo ready; while :; do sleep 0.1; done", init=True,
               stdout=fastctr.PIPE) as c:
        assert c.stdout.readline() == b"ready\n"
        c.terminate()
        assert c.wait() == 5, c.returncode


@check
def check_exec():
    with start("sleep", "99", hostname="box", env={"A": "b"}) as c:
        e = c.exec(["sh", "-c", "hostname; echo $A; id -u; cat /proc/1/comm"], stdout=fastctr.PIPE)
        assert e.communicate()[0].decode().split() == ["box", "b", "0", "sleep"]
        for kind in ("pid", "mnt", "net", "ipc", "uts", "cgroup", "user"):
            e = c.exec(["cat"], stdin=fastctr.PIPE)
            assert os.readlink(f"/proc/{e.pid}/ns/{kind}") == os.readlink(f"/proc/{c.pid}/ns/{kind}"), kind
            e.close()
        e = c.exec(["sleep", "98"])
        ee = e.exec(["sleep", "97"])
        assert {e.pid, ee.pid} <= set(c.pids())
        c.kill()
        assert [part.wait() for part in (ee, e, c)] == [-9, -9, -9]
    ids = ranges()
    with start("sleep", "99", uid_map=ids, gid_map=ids, user="7:8") as c:
        e = c.exec(["sh", "-c", "id -u; id -g"], stdout=fastctr.PIPE)
        assert e.communicate()[0].decode().split() == ["7", "8"]


@check
def check_time_namespace():
    here = time.clock_gettime(time.CLOCK_BOOTTIME)
    for extra in ({}, {"init": True}, {"memory": "64m"}, {"oom_score_adj": 500}):
        text = out("cat /proc/uptime /proc/self/oom_score_adj; id -u", boottime=1_000_000, **extra)
        assert float(text.split()[0]) > here + 999_000, (extra, text)
    with start("sleep", "99", boottime=1_000_000) as c:
        e = c.exec(["cat", "/proc/uptime"], stdout=fastctr.PIPE)
        assert float(e.communicate()[0].split()[0]) > here + 999_000


@check
def check_timeout_kills_all():
    try:
        sh("sleep 7771 & sleep 7772", timeout=3)
    except fastctr.TimeoutExpired as error:
        assert error.completed.killed_by == "timeout"
    else:
        raise AssertionError("no timeout")
    assert until(lambda: not running("7771", "7772"), 5), running("7771", "7772")


@check
def check_job_in_the_host_pid_namespace():
    c = start("sh", "-c", "(sleep 7781 & sleep 7782 & wait) & sleep 7783", pid="host")
    assert until(lambda: len(running("7781", "7782", "7783")) == 3)
    c.kill()
    assert c.wait() == -9
    assert until(lambda: not running("7781", "7782", "7783"), 10), running("7781", "7782", "7783")
    c.close()


@check
def check_dies_with_its_launcher():
    for where in ("", ", pid='host'"):
        code = ("import fastctr, time\n"
                f"c = fastctr.Container(['sh', '-c', 'sleep 7791 & sleep 7792'], rootfs={ROOT!r}{where})\n"
                "print('up', flush=True)\ntime.sleep(99)\n")
        child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        assert child.stdout.readline() == "up\n"
        assert until(lambda: len(running("7791", "7792")) == 2)
        child.kill()
        child.wait()
        child.stdout.close()
    subprocess.run([sys.executable, "-c", "import fastctr; fastctr.gc()"], check=True)
    assert until(lambda: not running("7791", "7792"), 10), running("7791", "7792")


@check
def check_nothing_is_left():
    fastctr.shutdown()
    base = "/sys/fs/cgroup" + read("/proc/self/cgroup").strip().removeprefix("0::").removesuffix("/fastctr-self")
    before = vm.tree(base), read("/proc/self/mountinfo"), vm.children()
    fds = len(os.listdir("/proc/self/fd"))
    with fastctr.Plan(rootfs=ROOT, memory="64m", pids=16) as plan:
        for n in range(60):
            assert plan.run(["sh", "-c", f"exit {n % 7}"]).returncode == n % 7
    for bad in (dict(volumes=["/etc/passwd:/bin"]), dict(cwd="/no/such"), dict(unified={"cpu.max": "word"})):
        refused(fastctr.LaunchError, **bad)
    fastctr.shutdown()
    after = vm.tree(base), read("/proc/self/mountinfo"), vm.children()
    assert after == before, (after[0], before[0], after[2])
    assert len(os.listdir("/proc/self/fd")) <= fds + 1, os.listdir("/proc/self/fd")
    assert not os.listdir(f"{os.environ['XDG_RUNTIME_DIR']}/fastctr")


@check
def check_many_layers():
    for count in (3, 100, 400):
        made, seen = vm.layers(f"/tmp/layers{count}", ROOT, count, "user.overlay.opaque")
        for how in ({}, {"read_only": True}):
            done = fastctr.run(["sh", "-c", vm.LOOK_AT_LAYERS], rootfs=made, capture_output=True, text=True, **how)
            assert done.stdout.split() == seen, (count, how, done.stdout, done.stderr)


if __name__ == "__main__":
    import fastctr

    vm.make_root(ROOT)
    vm.main(__name__)
