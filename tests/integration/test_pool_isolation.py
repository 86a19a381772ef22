"""Between the jobs of a pool: one job plants all it can, the next ones look and find nothing."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

fastctr = pytest.importorskip("fastctr")
from fastctr.pool import Pool  # noqa: E402

pytestmark = pytest.mark.needs_root
WORD = "planted-by-a-job"
JOBS = 6


@pytest.fixture(params=["as it is", "all rights"])
def pool(request, rootfs, probe):
    """Also with a job that may do nearly everything in its namespaces."""
    more = {} if request.param == "as it is" else {
        "cap_add": ["ALL"], "seccomp": "unconfined", "masked_paths": [], "readonly_paths": [], "no_new_privs": False}
    with Pool(rootfs=rootfs, size=3, memory="128m", pids=50, volumes=[f"{probe}:/probe:ro"], tmpfs=["/t"], **more) as made:
        made.warmup()
        yield made


def sh(pool, script: str, **kw) -> str:
    done = pool.run(["sh", "-c", script], capture_output=True, text=True, timeout=20, **kw)
    return done.stdout


def planted(pool, plant: str, look: str, there: str, gone: str, **kw) -> None:
    """there: what the job that planted it sees; gone: what those before and after see."""
    before = {sh(pool, look, **kw) for _ in range(2)}
    assert before == {gone}
    assert sh(pool, f"{plant}\n{look}", **kw) == there
    for _ in range(JOBS):  # as many as are prepared, and more
        assert sh(pool, look, **kw) == gone


@pytest.mark.parametrize("where", ["/", "/tmp/", "/etc/", "/dev/shm/", "/dev/", "/run/", "/root/", "/t/", "/var/empty/", "/bin/"])
def test_files(pool, where):
    planted(pool, f"echo x > {where}{WORD}; mkdir {where}d; ln -s / {where}l",
            f"for i in {WORD} d l; do ls -d {where}$i; done", f"{where}{WORD}\n{where}d\n{where}l\n", "")


def test_changed_and_removed_files(pool):
    planted(pool, "echo other > /etc/marker; rm /bin/vi; chmod 777 /etc; chown 5 /srv", "cat /etc/marker; ls /bin/vi; stat -c %a%u /etc /srv",
            "other\n7770\n7555\n", "from the image\n/bin/vi\n7550\n7550\n")


def test_processes(pool):
    planted(pool, "for i in 1 2 3; do setsid sleep 7777 </dev/null >/dev/null 2>&1 & done; (setsid sh -c 'sleep 7777 & sleep 7777' &) >/dev/null 2>&1; sleep .2",
            "ps | grep -c ' sleep 7777$'", "5\n", "0\n")
    assert "7777" not in subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout


def test_system_v_and_posix_ipc(pool):
    planted(pool, "/probe shm make 4242 >/dev/null", "/probe shm get 4242; wc -l < /proc/sysvipc/shm", "0\n2\n", "-2\n1\n")
    planted(pool, f"/probe mq make /{WORD} >/dev/null", f"/probe mq get /{WORD}; ls /dev/mqueue 2>/dev/null | wc -l", "0\n1\n", "-2\n0\n")


def test_abstract_and_network_sockets(pool):
    planted(pool, "nc -l -p 4321 -e cat </dev/null >/dev/null 2>&1 & sleep .2", "grep -c ':10E1 ' /proc/net/tcp /proc/net/tcp6 | cut -d: -f2 | sort -r | head -1",
            "1\n", "0\n")
    planted(pool, "/probe traffic >/dev/null 2>&1", "grep lo: /proc/net/dev | tr -s ' ' | cut -d' ' -f3 | grep -vc '^0$'", "1\n", "0\n")


def test_an_abstract_socket_of_another_job_that_runs(pool):
    """Two at the same time have nothing of each other either."""
    with pool.plan.container(["sh", "-c", "nc -l -p 4321 & echo up; wait"], stdout=fastctr.PIPE) as other:
        assert other.stdout.readline() == b"up\n"
        assert sh(pool, "grep -c ':10E1 ' /proc/net/tcp; cat /proc/net/unix | wc -l") == "0\n1\n"


def test_hostname_and_environment(pool):
    name = sh(pool, "hostname")
    planted(pool, f"export PLANTED={WORD}; hostname {WORD} 2>/dev/null", "env | grep -c PLANTED", "1\n", "0\n")
    assert {sh(pool, "hostname") for _ in range(JOBS)} == {name}
    assert sh(pool, "env | grep -c ^MINE", env={"MINE": "1"}) == "1\n"
    assert sh(pool, "env | grep -c ^MINE") == "0\n"


def test_limits_of_one_job(pool):
    look = "ulimit -n; ulimit -f; umask; nice; cat /proc/self/oom_score_adj; cat /proc/self/timerslack_ns 2>/dev/null; grep Cpus_allowed_list /proc/self/status"
    as_before = sh(pool, look)
    for _ in range(3):
        sh(pool, f"ulimit -n 77; ulimit -f 5; umask 0; nice -n 5 sh -c '{look}'; echo 500 > /proc/self/oom_score_adj")
        assert sh(pool, look) == as_before
    assert pool.run(["true"], limits={"memory": "16m"}).usage.memory_limit == 16 << 20
    assert {pool.run(["true"]).usage.memory_limit for _ in range(JOBS)} == {128 << 20}


def test_figures_start_from_zero(pool):
    big = pool.run(["sh", "-c", "dd if=/dev/zero of=/dev/shm/x bs=1M count=40 2>/dev/null; for i in 1 2 3 4 5 6; do sleep .1 & done; wait"])
    assert big.usage.memory_peak > 40 << 20
    for _ in range(JOBS):
        done = pool.run(["true"])
        assert done.usage.memory_peak < 10 << 20
        assert done.usage.cpu_total < big.usage.cpu_total
        assert done.usage.pids_peak is None or done.usage.pids_peak <= 2
        assert not done.usage.oom_kills


def test_keyrings(pool):
    """Docker's filter, which is the default, has no key calls. Without one a job's own keyrings go with it; those
    of a uid ("@u") are the user namespace's, and no container's: docs/security.md."""
    find = f"/probe call request_key s:user s:{WORD} 0 0"
    for ring in (2**64 - 2, 2**64 - 3):  # the process's, the session's: keyctl(2)
        sh(pool, f"/probe call add_key s:user s:{WORD} s:secret 6 {ring}; {find}")
        for _ in range(JOBS):
            assert int(sh(pool, find)) < 0


def test_what_a_job_does_to_its_own_proc_and_mounts(pool):
    look = "cat /proc/mounts | wc -l; cat /proc/sys/net/ipv4/ip_unprivileged_port_start; cat /proc/sys/kernel/msgmax"
    before = sh(pool, look)
    sh(pool, "mount -t tmpfs none /mnt; mount --bind /etc /srv; umount -l /dev/shm; echo 7 > /proc/sys/net/ipv4/ip_unprivileged_port_start;"
             " echo 9999 > /proc/sys/kernel/msgmax; ip link set lo down; ip addr add 10.9.8.7/24 dev lo; ip route add 10.1.0.0/16 dev lo")
    for _ in range(JOBS):
        assert sh(pool, look) == before
        assert sh(pool, "ip addr | grep -c 10.9.8.7; ip link show lo | grep -c 'LOOPBACK,UP'") == "0\n1\n"


def test_descriptors_of_one_launch_are_not_the_next_ones(pool, tmp_path):
    (tmp_path / "secret").write_text("of one job")
    with open(tmp_path / "secret") as file:
        assert sh(pool, "cat <&9", pass_fds={9: file.fileno()}) == "of one job"
        for _ in range(JOBS):
            assert sh(pool, "ls /proc/self/fd | wc -l; cat <&9 2>/dev/null") == "4\n"


def test_stdin_of_one_is_not_read_by_another(pool):
    assert pool.run(["head", "-c", "3"], input=b"one and more", capture_output=True).stdout == b"one"
    assert {pool.run(["cat"], stdin=fastctr.DEVNULL, capture_output=True).stdout for _ in range(JOBS)} == {b""}


def test_files_and_user_of_one_launch(pool):
    planted(pool, "true", "cat /given 2>/dev/null; id -u", "0\n", "0\n")
    assert sh(pool, "cat /given; id -u", files={"/given": "x\n"}, user="alice") == "x\n1000\n"
    for _ in range(JOBS):
        assert sh(pool, "cat /given 2>/dev/null; id -u") == "0\n"


def test_the_host_sees_none_of_it(pool, rootfs):
    tmp = set(os.listdir("/tmp"))
    sh(pool, f"touch /tmp/{WORD} /etc/{WORD}; echo x > /dev/shm/{WORD}")
    time.sleep(0.05)
    assert {name for name in set(os.listdir("/tmp")) - tmp if WORD in name} == set()
    assert not Path("/dev/shm", WORD).exists()
    assert not Path(rootfs, "etc", WORD).exists()
