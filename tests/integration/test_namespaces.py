"""Each namespace from inside and from outside: a new one, the machine's, and one to join."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time

import pytest
from support import lines, namespace, run, running, sh

import fastctr

pytestmark = pytest.mark.needs_root

KINDS = {"mnt": "mnt", "pid": "pid", "network": "net", "ipc": "ipc", "uts": "uts", "cgroupns": "cgroup"}


@pytest.mark.parametrize("field", KINDS)
def test_each_is_new_by_default(rootfs, field):
    kind = KINDS[field]
    with running(rootfs) as box:
        assert namespace(box.pid, kind) != namespace("self", kind)
        with running(rootfs) as other:
            assert namespace(other.pid, kind) != namespace(box.pid, kind)


def test_user_and_time_are_the_machines_by_default(rootfs):
    with running(rootfs) as box:
        for kind in ("user", "time"):
            assert namespace(box.pid, kind) == namespace("self", kind)


@pytest.mark.parametrize("field", [f for f in KINDS if f != "mnt"])
def test_host_shares_the_machines(rootfs, field):
    word = "host"
    with running(rootfs, **{field: word}) as box:
        assert namespace(box.pid, KINDS[field]) == namespace("self", KINDS[field])
        for other in KINDS:
            if other != field:
                assert namespace(box.pid, KINDS[other]) != namespace("self", KINDS[other])


def test_host_mount_namespace():
    with fastctr.Container(["sleep", "60"], mnt="host") as box:
        assert namespace(box.pid, "mnt") == namespace("self", "mnt")
        assert os.readlink(f"/proc/{box.pid}/root") == "/"


def test_all_of_them_off_leaves_a_plain_process():
    off = dict.fromkeys(KINDS, "host")
    with fastctr.Container(["sleep", "60"], cgroup=False, seccomp="unconfined", **off) as box:
        for kind in KINDS.values():
            assert namespace(box.pid, kind) == namespace("self", kind)


@pytest.mark.parametrize("field", KINDS)
@pytest.mark.parametrize("how", ["pid", "path", "pidfd", "int"])
def test_join_by_pid_path_and_pidfd(rootfs, field, how):
    kind = KINDS[field]
    with running(rootfs) as target:
        value = {
            "pid": f"pid:{target.pid}",
            "int": target.pid,
            "path": f"/proc/{target.pid}/ns/{kind}",
            "pidfd": f"pidfd:{target.pidfd}",
        }[how]
        root = {} if field == "mnt" else {"rootfs": rootfs}
        with fastctr.Container(["/bin/sleep", "60"], **root, **{field: value}) as box:
            assert namespace(box.pid, kind) == namespace(target.pid, kind)
            if field != "mnt":
                assert namespace(box.pid, "mnt") != namespace(target.pid, "mnt")


def test_joined_network_is_really_shared(rootfs):
    with running(rootfs, "echo ready; nc -l -p 7777 -e echo hello") as server:
        for _ in range(100):
            done = run(["nc", "127.0.0.1", "7777"], rootfs=rootfs, network=server.pid, stdin=fastctr.DEVNULL)
            if done.stdout:
                break
            time.sleep(0.02)
        assert done.stdout == "hello\n"
        assert run(["nc", "127.0.0.1", "7777"], rootfs=rootfs, stdin=fastctr.DEVNULL).returncode != 0


def test_joined_pid_namespace_sees_the_other(rootfs):
    with running(rootfs, "echo ready; exec sleep 4321") as target:
        seen = sh("for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline; echo; done", rootfs=rootfs, pid=target.pid)
        assert "sleep 4321" in seen
        assert target.poll() is None  # the end of a guest is not the end of the host


def test_a_namespace_that_is_gone_is_an_error(rootfs):
    with running(rootfs) as target:
        spec = fastctr.Spec(rootfs=rootfs, network=f"pid:{target.pid}")
    with pytest.raises(fastctr.LaunchError) as caught:
        fastctr.run(["true"], spec=spec)
    assert caught.value.stage == "namespace"
    assert str(target.pid) in str(caught.value)


# ---- pid


def test_pid_namespace_from_inside(rootfs):
    assert lines("echo $$; echo /proc/[0-9]*", rootfs=rootfs)[0] == "1"
    assert lines("echo /proc/[0-9]*", rootfs=rootfs) == ["/proc/1"]


def test_host_processes_are_invisible_and_unreachable(rootfs, probe):
    with subprocess.Popen(["sleep", "60"]) as victim:
        try:
            script = f"ls -d /proc/{victim.pid} /proc/{os.getpid()} 2>/dev/null; kill -0 {victim.pid} 2>/dev/null; echo $?"
            assert lines(script, rootfs=rootfs) == ["1"]
        finally:
            victim.kill()


def test_the_end_of_the_first_process_is_the_end_of_all(rootfs):
    box = running(rootfs, "sleep 50 & sleep 50 & echo ready; wait")
    with box:
        pids = box.pids()
        assert len(pids) == 3
        box.kill()
        assert box.wait(5) == -9
        assert not any(os.path.exists(f"/proc/{pid}") for pid in pids)


# ---- uts


def test_hostname_and_domainname(rootfs):
    machine = os.uname()
    out = lines("hostname; cat /proc/sys/kernel/domainname", rootfs=rootfs, hostname="box", domainname="example.org")
    assert out == ["box", "example.org"]
    assert os.uname() == machine


def test_default_hostname_is_not_the_machines(rootfs):
    assert sh("hostname", rootfs=rootfs).strip() == "fastctr"


def test_hostname_cannot_be_changed_without_the_right(rootfs):
    done = run(["hostname", "evil"], rootfs=rootfs)
    assert done.returncode != 0
    assert os.uname().nodename != "evil"
    with_right = run(["sh", "-c", "hostname evil && hostname"], rootfs=rootfs, cap_add=["SYS_ADMIN"])
    assert with_right.stdout == "evil\n"
    assert os.uname().nodename != "evil"


# ---- net


def test_own_network_has_lo_and_it_is_up(rootfs):
    out = sh("ls /sys/class/net; cat /proc/net/dev | wc -l; ping -c1 -W1 127.0.0.1 >/dev/null && echo pong", rootfs=rootfs)
    assert out.split() == ["lo", "3", "pong"]


def test_ipv6_loopback_if_the_machine_has_it(rootfs):
    if not os.path.exists("/proc/net/if_inet6"):
        pytest.skip("needs IPv6, which this kernel does not have")
    assert "00000000000000000000000000000001" in sh("cat /proc/net/if_inet6", rootfs=rootfs)


def test_host_network_is_invisible(rootfs):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        assert run(["nc", "-w1", "127.0.0.1", str(port)], rootfs=rootfs, stdin=fastctr.DEVNULL).returncode != 0
        assert f":{port:04X}" not in sh("cat /proc/net/tcp", rootfs=rootfs)
        assert f":{port:04X}" in sh("cat /proc/net/tcp", rootfs=rootfs, network="host")


def test_nothing_outside_is_reachable(rootfs):
    assert sh("cat /proc/net/route | wc -l; ip route 2>/dev/null | wc -l", rootfs=rootfs).split() == ["1", "0"]


def test_abstract_sockets_of_the_host_are_unreachable(rootfs, probe):
    name = f"fastctr-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("\0" + name)
        server.listen()
        volumes = {probe: "/probe:ro"}
        refused = run(["/probe", "connect", name], rootfs=rootfs, volumes=volumes)
        assert refused.stdout == "-111\n"  # ECONNREFUSED
        assert run(["/probe", "connect", name], rootfs=rootfs, volumes=volumes, network="host").stdout == "0\n"


def test_a_used_network_namespace_shows_nothing(rootfs, probe):
    """Pooled ones are used again only if they look like new: counters, sockets, TIME_WAIT."""
    files = "sockstat sockstat6 dev snmp snmp6 netstat tcp tcp6 udp udp6 unix packet arp route if_inet6"
    script = f"for f in {files}; do cat /proc/net/$f 2>/dev/null; done; wc -l < /proc/net/netlink"
    plan = fastctr.Plan(rootfs=rootfs, volumes={probe: "/probe:ro"})
    fresh = plan.run(["sh", "-c", script], capture_output=True).stdout
    for _ in range(6):
        assert plan.run(["/probe", "traffic"], capture_output=True).stdout == b"done\n"
        assert plan.run(["sh", "-c", script], capture_output=True).stdout == fresh


def test_a_quiet_network_namespace_is_used_again(rootfs):
    plan = fastctr.Plan(rootfs=rootfs)
    seen = [plan.run(["readlink", "/proc/self/ns/net"], capture_output=True).stdout for _ in range(12)]
    assert len(set(seen)) < len(seen)


@pytest.mark.parametrize("right", ["NET_ADMIN", "SYS_ADMIN"])
def test_one_that_could_be_changed_is_not(rootfs, right):
    plan = fastctr.Plan(rootfs=rootfs, cap_add=[right])
    script = "cat /sys/class/net/lo/mtu; cat /proc/net/if_inet6 | wc -l; ip link set lo mtu 1234 2>/dev/null; true"
    seen = [plan.run(["sh", "-c", script], capture_output=True).stdout for _ in range(8)]
    assert set(seen) == {seen[0]}
    assert seen[0].startswith(b"65536\n")


# ---- ipc


def test_system_v_and_posix_ipc_are_apart(rootfs, probe):
    plan = fastctr.Plan(rootfs=rootfs, volumes={probe: "/probe:ro"})
    script = "/probe shm make 77; /probe mq make /q; echo x > /dev/shm/x; echo ready; exec sleep 60"
    look = ["sh", "-c", "/probe shm get 77; /probe mq get /q; ls /dev/shm /dev/mqueue | grep -c x; true"]
    with plan.container(["sh", "-c", script], stdout=fastctr.PIPE, stdin=fastctr.DEVNULL) as first:
        assert [first.stdout.readline() for _ in range(3)] == [b"0\n", b"0\n", b"ready\n"]
        assert plan.run(look, capture_output=True, text=True).stdout == "-2\n-2\n0\n"
        joined = run(["/probe", "shm", "get", "77"], rootfs=rootfs, volumes={probe: "/probe:ro"}, ipc=first.pid)
        assert joined.stdout == "0\n"
        assert not os.path.exists("/dev/shm/x")


# ---- cgroup, time


def test_cgroup_namespace_hides_where_it_is(rootfs):
    own = sh("cat /proc/self/cgroup", rootfs=rootfs)
    for line in own.splitlines():
        controllers, path = line.split(":")[1:]
        if any(c in controllers for c in ("memory", "pids")):
            assert path == "/"
    assert "fastctr" not in own
    assert "/fastctr/" in sh("cat /proc/self/cgroup", rootfs=rootfs, cgroupns="host")


def test_time_offsets(rootfs):
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    uptime = float(sh("cut -d' ' -f1 /proc/uptime", rootfs=rootfs, boottime=100_000, monotonic=50_000))
    assert 99_999 < uptime - before < 100_060
    code = "import time; print(time.clock_gettime(time.CLOCK_MONOTONIC))"
    inside = float(run([os.path.realpath(sys.executable), "-I", "-S", "-c", code], rootfs="host", monotonic=50_000).stdout)
    assert 50_000 <= inside - time.clock_gettime(time.CLOCK_MONOTONIC) + 60 < 50_120


def test_time_namespace_is_new_and_can_be_joined(rootfs):
    with running(rootfs, boottime=70_000) as target:
        assert namespace(target.pid, "time") != namespace("self", "time")
        uptime = float(sh("cut -d' ' -f1 /proc/uptime", rootfs=rootfs, timens=target.pid))
        assert uptime - time.clock_gettime(time.CLOCK_BOOTTIME) > 69_000
