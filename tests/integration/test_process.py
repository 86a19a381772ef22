"""What the process inside is: rights, limits, user, environment; from inside and from outside."""

from __future__ import annotations

import ctypes
import os
import resource
import signal

import pytest
from support import lines, run, running, sh, status, status_of

import fastctr
from fastctr import caps

pytestmark = pytest.mark.needs_root

SETS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
ALL = caps.grantable()


def sets(text: str) -> dict[str, int]:
    found = status(text)
    return {name: int(found[name], 16) for name in SETS}


# ---- capabilities


def test_default_capabilities_are_dockers(rootfs):
    default = caps.DEFAULT & ALL
    expected = {"CapInh": 0, "CapPrm": default, "CapEff": default, "CapBnd": default, "CapAmb": 0}
    assert sets(sh("cat /proc/self/status", rootfs=rootfs)) == expected
    with running(rootfs) as box:
        found = status_of(box.pid)
        assert {name: int(found[name], 16) for name in SETS} == expected


@pytest.mark.parametrize(("kw", "mask"), [
    ({"cap_drop": ["ALL"]}, 0),
    ({"cap_drop": ["ALL"], "cap_add": ["NET_RAW", "KILL"]}, 1 << 13 | 1 << 5),
    ({"cap_drop": ["MKNOD"]}, caps.DEFAULT & ~(1 << 27)),
    ({"cap_add": ["SYS_ADMIN"]}, caps.DEFAULT | 1 << 21),
])
def test_add_and_drop(rootfs, kw, mask):
    found = sets(sh("cat /proc/self/status", rootfs=rootfs, **kw))
    assert found["CapEff"] == found["CapPrm"] == found["CapBnd"] == mask
    assert found["CapInh"] == found["CapAmb"] == 0


def test_every_capability_of_ours(rootfs):
    found = sets(sh("cat /proc/self/status", rootfs=rootfs, cap_add=["ALL"]))
    assert found["CapEff"] == found["CapBnd"] == ALL


def test_all_five_sets(rootfs):
    given = {"bounding": ["CHOWN", "KILL", "NET_RAW"], "permitted": ["CHOWN", "KILL"], "effective": ["CHOWN"],
             "inheritable": ["CHOWN"], "ambient": ["CHOWN"]}
    found = sets(sh("cat /proc/self/status", rootfs=rootfs, capabilities=given, user="alice"))
    assert found["CapBnd"] == 1 << 0 | 1 << 5 | 1 << 13
    assert found["CapInh"] == found["CapAmb"] == found["CapEff"] == found["CapPrm"] == 1


def test_an_ordinary_user_has_none(rootfs):
    found = sets(sh("cat /proc/self/status", rootfs=rootfs, user="alice"))
    assert found["CapEff"] == found["CapPrm"] == found["CapAmb"] == 0
    assert found["CapBnd"] == caps.DEFAULT & ALL


def test_a_dropped_one_is_really_gone(rootfs):
    assert sh("chown 5 /tmp && echo done", rootfs=rootfs) == "done\n"
    assert run(["chown", "5", "/tmp"], rootfs=rootfs, cap_drop=["CHOWN"]).returncode != 0


# ---- seccomp and no_new_privs

REFUSED = [
    ("keyctl", 0, 0), ("add_key", "s:user", "s:x", "s:y", 1, -3), ("request_key", "s:user", "s:x", 0, -3),
    ("unshare", 0x10000000), ("unshare", 0x20000), ("setns", 0, 0), ("mount", "s:none", "s:/tmp", "s:tmpfs", 0, 0),
    ("umount2", "s:/proc", 2), ("pivot_root", "s:/", "s:/"), ("bpf", 0, 0, 0), ("perf_event_open", 0, 0, 0, 0, 0),
    ("init_module", 0, 0, "s:"), ("finit_module", 0, "s:", 0), ("delete_module", "s:x", 0), ("kexec_load", 0, 0, 0, 0),
    ("open_by_handle_at", 0, 0, 0), ("userfaultfd", 0), ("reboot", 0, 0, 0), ("swapon", "s:/x", 0), ("swapoff", "s:/x"),
    ("settimeofday", 0, 0), ("acct", 0), ("quotactl", 0, 0, 0, 0), ("syslog", 3, 0, 0), ("fsopen", "s:tmpfs", 0),
    ("open_tree", -100, "s:/", 1), ("move_mount", 0, 0, 0, 0, 0), ("clone", 0x10000011, 0), ("clone", 0x20011, 0),
    ("io_uring_setup", 1, 0), ("move_pages", 0, 0, 0, 0, 0), ("sethostname", "s:x", 1), ("lookup_dcookie", 0, 0, 0),
]


@pytest.fixture
def call(rootfs, probe):
    """call(name, args…, **container) -> what the system call gave."""

    def make(*args, **kw):
        words = [str(a & (1 << 64) - 1) if isinstance(a, int) else a for a in args]
        return int(run(["/probe", "call", *words], rootfs=rootfs, volumes={probe: "/probe:ro"}, **kw).stdout)

    return make


def test_what_the_default_policy_refuses(rootfs, probe):
    script = "; ".join(
        "/probe call " + " ".join(str(a & (1 << 64) - 1) if isinstance(a, int) else f"'{a}'" for a in args)
        for args in REFUSED)
    out = lines(script, rootfs=rootfs, volumes={probe: "/probe:ro"})
    wrong = [args for args, text in zip(REFUSED, out, strict=True) if text != "-1"]
    assert wrong == []


def test_clone3_is_unknown_so_that_libc_falls_back(call):
    assert call("clone3", 0, 0) == -38


def test_the_filter_goes_by_the_capabilities(call):
    assert call("unshare", 0x20000, cap_add=["SYS_ADMIN"]) == 0
    assert call("sethostname", "s:x", 1, cap_add=["SYS_ADMIN"]) == 0
    assert call("keyctl", 0, 0, cap_add=["SYS_ADMIN"]) == -1


def test_mode_and_filters_as_the_kernel_says(rootfs):
    for kw, mode in (({}, "2"), ({"seccomp": "unconfined"}, status_of(os.getpid())["Seccomp"])):
        with running(rootfs, **kw) as box:
            assert status_of(box.pid)["Seccomp"] == mode


def test_unconfined_and_own_profile(call):
    assert call("keyctl", 0, -3, seccomp="unconfined") > 0
    profile = {"defaultAction": "SCMP_ACT_ALLOW",
               "syscalls": [{"names": ["setpriority"], "action": "SCMP_ACT_ERRNO", "errnoRet": 55}]}
    assert call("setpriority", 0, 0, 5, seccomp=profile) == -55
    assert call("setpriority", 0, 0, 5) == 0


@pytest.mark.needs_x86_64
def test_the_other_abis_are_filtered_too(rootfs, compile_c):
    """A filter that looks at numbers alone is passed by with 32-bit or x32 numbers."""
    source = r"""
#include <stdio.h>
int main(void) {
    long r, x32;
    __asm__ volatile("int $0x80" : "=a"(r) : "a"(288 /* keyctl */), "b"(0), "c"(-3), "d"(0) : "memory");
    __asm__ volatile("syscall" : "=a"(x32) : "a"(0x40000000 | 250), "D"(0), "S"(-3), "d"(0) : "rcx", "r11", "memory");
    printf("%ld %ld\n", (long)(int)r, x32);
    return 0;
}"""
    program = compile_c("abis", source)
    done = run(["/p"], rootfs=rootfs, volumes={program: "/p:ro"})
    if done.returncode == 0:
        assert all(int(word) in (-1, -38) for word in done.stdout.split())
    else:
        assert done.returncode in (-31, -11)  # SIGSYS, or no such ABI here


def test_no_new_privs(rootfs, fresh_rootfs):
    assert status(sh("cat /proc/self/status", rootfs=rootfs))["NoNewPrivs"] == "1"
    assert status(sh("cat /proc/self/status", rootfs=rootfs, no_new_privs=False))["NoNewPrivs"] == "0"
    assert status(sh("cat /proc/self/status", rootfs=rootfs, no_new_privs=False))["Seccomp"] == "2"


def test_set_user_id_programs(fresh_rootfs, compile_c):
    program = compile_c("uid", '#include <stdio.h>\n#include <unistd.h>\nint main(void){printf("%d\\n",geteuid());return 0;}')
    data = open(program, "rb").read()
    files = {"/uid": (data, 0o4755)}
    assert sh("/uid", rootfs=fresh_rootfs, files=files, user="alice") == "1000\n"
    assert sh("/uid", rootfs=fresh_rootfs, files=files, user="alice", no_new_privs=False) in ("0\n", "1000\n")


# ---- limits of the process


def test_rlimits(rootfs):
    with running(rootfs, ulimits={"nofile": (100, 200), "core": 0, "nproc": 50, "stack": 1 << 20}) as box:
        assert resource.prlimit(box.pid, resource.RLIMIT_NOFILE) == (100, 200)
        assert resource.prlimit(box.pid, resource.RLIMIT_CORE) == (0, 0)
        assert resource.prlimit(box.pid, resource.RLIMIT_NPROC) == (50, 50)
        assert resource.prlimit(box.pid, resource.RLIMIT_STACK) == (1 << 20, 1 << 20)
    assert lines("ulimit -n; ulimit -Hn", rootfs=rootfs, ulimits=["nofile=100:200"]) == ["100", "200"]


def test_limits_are_not_ours_afterwards(rootfs):
    before = [resource.getrlimit(n) for n in range(16)]
    sh("true", rootfs=rootfs, ulimits={"nofile": 99, "fsize": 5})
    assert [resource.getrlimit(n) for n in range(16)] == before


def test_oom_score_adj(rootfs):
    assert sh("cat /proc/self/oom_score_adj", rootfs=rootfs, oom_score_adj=321) == "321\n"
    own = open("/proc/self/oom_score_adj").read()
    assert sh("cat /proc/self/oom_score_adj", rootfs=rootfs) == own


def test_nice(rootfs):
    with running(rootfs, nice=7) as box:
        assert os.getpriority(os.PRIO_PROCESS, box.pid) == 7
    assert os.getpriority(os.PRIO_PROCESS, 0) == 0


def test_cpu_affinity(rootfs):
    one = max(os.sched_getaffinity(0))
    with running(rootfs, cpu_affinity=[one]) as box:
        assert os.sched_getaffinity(box.pid) == {one}
    with running(rootfs) as box:
        assert os.sched_getaffinity(box.pid) == os.sched_getaffinity(0)


@pytest.mark.parametrize(("umask", "text"), [(0o077, "0077"), ("0007", "0007"), (0, "0000")])
def test_umask(rootfs, umask, text):
    assert sh("umask", rootfs=rootfs, umask=umask).strip() == text


# ---- user and groups


@pytest.mark.parametrize(("user", "expected"), [
    (None, "0 0 0"), ("root", "0 0 0"), ("alice", "1000 1001 1001 50 44"), ("alice:staff", "1000 50 50"),
    ("1000", "1000 1001 1001 50 44"), ("1000:50", "1000 50 50"), ((1000, 7), "1000 7 7"), (4242, "4242 0 0"),
    ("bob", "1002 1002 1002 50"),
])
def test_user(rootfs, user, expected):
    out = sh("id -u; id -g; id -G", rootfs=rootfs, user=user).split()
    uid, gid, *groups = expected.split()
    assert out[:2] == [uid, gid]
    assert set(out[2:]) == set(groups)


def test_user_from_outside(rootfs):
    with running(rootfs, user="alice") as box:
        found = status_of(box.pid)
        assert found["Uid"].split() == ["1000"] * 4
        assert found["Gid"].split() == ["1001"] * 4
        assert set(found["Groups"].split()) >= {"1001", "50", "44"}  # the primary one too: CVE-2022-36109


def test_groups(rootfs):
    assert set(sh("id -G", rootfs=rootfs, user="alice", groups=[7, 8]).split()) == {"1001", "7", "8"}
    assert {"1001", "50", "44", "9"} >= set(sh("id -G", rootfs=rootfs, user="alice", group_add=[9]).split()) >= {"1001", "9"}


def test_groups_of_ours_are_dropped(rootfs):
    assert sh("id -G", rootfs=rootfs, user=(5, 5)).split() == ["5"]


@pytest.mark.parametrize("user", ["nobody-there", "root:no-such-group"])
def test_unknown_user(rootfs, user):
    with pytest.raises(fastctr.LaunchError) as caught:
        fastctr.run(["true"], rootfs=rootfs, user=user)
    assert caught.value.stage in ("user", "groups")
    assert user.rpartition(":")[2] in str(caught.value)


def test_passwd_is_the_containers(fresh_rootfs):
    with open(f"{fresh_rootfs}/etc/passwd", "a") as file:
        file.write("only-here:x:3333:3334::/srv:/bin/sh\n")
    assert lines("id -u; echo $HOME", rootfs=fresh_rootfs, user="only-here") == ["3333", "/srv"]
    os.unlink(f"{fresh_rootfs}/etc/passwd")
    os.symlink("/../../../etc/passwd", f"{fresh_rootfs}/etc/passwd")  # inside, that is itself
    with pytest.raises(fastctr.LaunchError):
        fastctr.run(["true"], rootfs=fresh_rootfs, user="only-here")


# ---- cwd, env, sysctls


def test_cwd(rootfs):
    assert sh("pwd", rootfs=rootfs) == "/\n"
    assert sh("pwd", rootfs=rootfs, cwd="/home/alice") == "/home/alice\n"
    assert sh("pwd", rootfs=rootfs, cwd="/new/place", cwd_create=True) == "/new/place\n"
    plan = fastctr.Plan(rootfs=rootfs)
    assert plan.run(["pwd"], cwd="/etc", capture_output=True).stdout == b"/etc\n"
    with running(rootfs, cwd="/etc") as box:
        assert os.readlink(f"/proc/{box.pid}/cwd") == "/etc"


def test_env(rootfs, monkeypatch):
    monkeypatch.setenv("SECRET_OF_OURS", "x")
    out = dict(line.split("=", 1) for line in lines("env", rootfs=rootfs, env={"A": "1", "B": "x y=z"}))
    assert out["A"] == "1"
    assert out["B"] == "x y=z"
    assert out["HOME"] == "/root"
    assert out["HOSTNAME"] == "fastctr"
    assert "SECRET_OF_OURS" not in out
    assert sh("env", rootfs=rootfs, env=["SECRET_OF_OURS"]).count("SECRET_OF_OURS=x") == 1
    clean = fastctr.run(["/bin/env"], rootfs=rootfs, clean_env=True, env={"ONLY": "1"}, capture_output=True).stdout
    assert clean == b"ONLY=1\n"


def test_environment_of_the_launcher_is_not_in_proc(rootfs):
    with fastctr.Container(["sleep", "60"], rootfs=rootfs) as box:
        assert b"PYTHON" not in open(f"/proc/{box.pid}/environ", "rb").read()


def test_sysctls(rootfs):
    before = open("/proc/sys/kernel/shmmax").read()
    out = lines("cat /proc/sys/net/core/somaxconn /proc/sys/kernel/shmmax /proc/sys/net/ipv4/ip_forward", rootfs=rootfs,
                sysctls={"net.core.somaxconn": 77, "kernel.shmmax": 12345, "net/ipv4/ip_forward": "1"})
    assert out == ["77", "12345", "1"]
    assert open("/proc/sys/kernel/shmmax").read() == before
    assert "77" not in sh("cat /proc/sys/net/core/somaxconn", rootfs=rootfs)


def test_signals_are_as_for_a_new_session(rootfs):
    """Python ignores SIGPIPE, nohup SIGHUP, a shell's "&" SIGINT and SIGQUIT; a job starts without that."""
    ignored = (signal.SIGPIPE, signal.SIGHUP, signal.SIGQUIT, signal.SIGINT, signal.SIGUSR1, signal.SIGXFSZ)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in ignored}
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    try:
        for how in ({}, {"init": True}, {"pid": "host"}):
            done = fastctr.run(["cat", "/proc/self/status"], rootfs=rootfs, capture_output=True, text=True, **how)
            found = status(done.stdout)
            assert {name: int(found[name], 16) for name in ("SigBlk", "SigCgt", "SigIgn")} == dict.fromkeys(
                ("SigBlk", "SigCgt", "SigIgn"), 0)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        for number, handler in before.items():
            signal.signal(number, handler)


def test_this_process_stays_dumpable(rootfs):
    """Credentials change on memory that is ours; prctl(2) PR_SET_DUMPABLE."""
    prctl = ctypes.CDLL(None).prctl
    for user in ("alice", "root", "bob"):
        sh("true", rootfs=rootfs, user=user)
        assert prctl(3, 0, 0, 0, 0) == 1
