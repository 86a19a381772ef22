"""Every stage that can be made to fail: the message names it, and nothing is left (see conftest)."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
import threading

import pytest
from support import run, running

import fastctr
from fastctr import Bind, File

pytestmark = pytest.mark.needs_root


def fails(rootfs, argv=("true",), **kw):
    """The error of a start that must fail, cold and with a plan that has been used."""
    with pytest.raises(fastctr.LaunchError) as caught:
        fastctr.run(list(argv), rootfs=rootfs, **kw)
    error = caught.value
    assert error.stage in str(error)
    assert error.hint
    if error.path:
        assert error.path in str(error)
    if error.errno:
        assert os.strerror(error.errno) in str(error)
    return error


def says(error, stage, number, path=None):
    assert (error.stage, errno.errorcode.get(error.errno)) == (stage, errno.errorcode.get(number))
    if path is not None:
        assert path in (error.path or "")


# ---- the command


@pytest.mark.parametrize("name", ["no-such-command", "/no/such/path", "etc/nothing", "/etc/marker/below"])
def test_command_not_found(rootfs, name):
    with pytest.raises(fastctr.CommandNotFound) as caught:
        fastctr.run([name], rootfs=rootfs)
    assert caught.value.exit_code == 127
    assert caught.value.stage == "exec"
    assert name in str(caught.value)
    assert isinstance(caught.value, FileNotFoundError)


@pytest.mark.parametrize("name", ["/etc/passwd", "/etc", "/bin"])
def test_command_not_executable(rootfs, name):
    with pytest.raises(fastctr.CommandNotExecutable) as caught:
        fastctr.run([name], rootfs=rootfs)
    assert caught.value.exit_code == 126
    assert isinstance(caught.value, PermissionError)


def test_wrong_format_and_missing_interpreter(rootfs):
    with pytest.raises(fastctr.CommandNotExecutable) as caught:
        fastctr.run(["/x"], rootfs=rootfs, files={"/x": (b"\x7fELF not really", 0o755)})
    assert caught.value.errno == errno.ENOEXEC
    with pytest.raises(fastctr.CommandNotFound) as caught:
        fastctr.run(["/x"], rootfs=rootfs, files={"/x": (b"#!/no/such/interpreter\n", 0o755)})
    assert "interpreter" in str(caught.value)


def test_argument_list_too_long(rootfs):
    error = fails(rootfs, ["true", "x" * 200_000])
    says(error, "exec", errno.E2BIG)


def test_permission_of_the_user(rootfs):
    with pytest.raises(fastctr.CommandNotExecutable):
        fastctr.run(["/x"], rootfs=rootfs, files={"/x": (b"#!/bin/sh\n", 0o700)}, user="alice")


def test_exec_errors(rootfs):
    with running(rootfs) as box:
        with pytest.raises(fastctr.CommandNotFound):
            box.exec(["no-such-command"])
        with pytest.raises(fastctr.CommandNotExecutable):
            box.exec(["/etc/passwd"])
        with pytest.raises(fastctr.LaunchError) as caught:
            box.exec(["true"], cwd="/no/such")
        assert caught.value.stage == "cwd"
        assert box.poll() is None
        box.kill()
        box.wait(5)
        with pytest.raises(fastctr.LaunchError) as caught:
            box.exec(["true"])
        assert (caught.value.stage, caught.value.errno) == ("join", errno.ESRCH)
    with pytest.raises(ValueError, match="released"):
        box.exec(["true"])


# ---- the root


def test_rootfs_gone_after_the_spec(fresh_rootfs):
    spec = fastctr.Spec(rootfs=fresh_rootfs)
    os.rename(fresh_rootfs, fresh_rootfs + ".gone")
    with pytest.raises(fastctr.LaunchError) as caught:
        fastctr.run(["true"], spec=spec)
    says(caught.value, "rootfs", errno.ENOENT, fresh_rootfs)


def test_layer_gone_after_the_spec(fresh_rootfs, tmp_path):
    (tmp_path / "top").mkdir()
    spec = fastctr.Spec(rootfs=[tmp_path / "top", fresh_rootfs])
    (tmp_path / "top").rmdir()
    with pytest.raises(fastctr.LaunchError) as caught:
        fastctr.run(["true"], spec=spec)
    assert caught.value.stage in ("rootfs", "mount", "overlay")
    assert "top" in str(caught.value)


def test_upper_on_proc(rootfs):
    with pytest.raises((fastctr.FastctrError, OSError)):
        fastctr.run(["true"], rootfs=rootfs, upper="/proc/upper")


def test_scratch_too_small_for_a_file(rootfs):
    error = fails(rootfs, scratch_size="64k", files={"/big": b"x" * 300_000})
    says(error, "file", errno.ENOSPC, "/big")


# ---- mounts


def test_mount_source_gone(rootfs, tmp_path):
    (tmp_path / "s").mkdir()
    spec = fastctr.Spec(rootfs=rootfs, volumes={tmp_path / "s": "/x"})
    (tmp_path / "s").rmdir()
    with pytest.raises(fastctr.LaunchError) as caught:
        fastctr.run(["true"], spec=spec)
    says(caught.value, "mount", errno.ENOENT, str(tmp_path / "s"))


@pytest.mark.parametrize(("target", "number"), [("/etc/passwd", errno.ENOTDIR), ("/etc/passwd/x", errno.ENOTDIR)])
def test_directory_on_a_file(rootfs, tmp_path, target, number):
    says(fails(rootfs, mounts=[Bind(tmp_path, target)]), "mount", number, target)


def test_file_on_a_directory(rootfs, tmp_path):
    (tmp_path / "f").write_text("x")
    error = fails(rootfs, mounts=[Bind(tmp_path / "f", "/etc")])
    assert error.stage == "mount"
    assert error.path == "/etc"


def test_file_onto_a_directory(rootfs):
    says(fails(rootfs, mounts=[File("/etc", "x")]), "file", errno.EISDIR, "/etc")


def test_target_in_a_read_only_directory(rootfs, tmp_path):
    error = fails(rootfs, volumes=[f"{tmp_path}:/data:ro"], tmpfs=["/data/missing"])
    says(error, "mount", errno.EROFS, "/data/missing")
    assert os.listdir(tmp_path) == []


def test_symlink_loop(fresh_rootfs, tmp_path):
    os.symlink("b", f"{fresh_rootfs}/a")
    os.symlink("a", f"{fresh_rootfs}/b")
    says(fails(fresh_rootfs, volumes={tmp_path: "/a/x"}), "mount", errno.ELOOP, "/a/x")


def test_idmap_where_it_cannot_be():
    with pytest.raises(fastctr.LaunchError) as caught:
        fastctr.run(["true"], rootfs="host", mounts=[Bind("/proc/sys", "/mnt", idmap=[(0, 1000, 10)])])
    assert caught.value.stage == "idmap"
    assert "/proc/sys" in str(caught.value)


# ---- the process


def test_cwd(rootfs):
    says(fails(rootfs, cwd="/no/such"), "cwd", errno.ENOENT, "/no/such")
    says(fails(rootfs, cwd="/etc/passwd"), "cwd", errno.ENOTDIR, "/etc/passwd")
    plan = fastctr.Plan(rootfs=rootfs)
    for _ in range(3):
        with pytest.raises(fastctr.LaunchError) as caught:
            plan.run(["true"], cwd="/other")
        says(caught.value, "cwd", errno.ENOENT, "/other")
        assert plan.run(["true"]).returncode == 0


def test_cwd_of_somebody_else(rootfs):
    error = fails(rootfs, cwd="/t/x", user="alice", tmpfs={"/t": "mode=0700"})
    says(error, "cwd", errno.EACCES, "/t/x")


def test_user(rootfs, fresh_rootfs):
    error = fails(rootfs, user="nobody-knows")
    assert error.stage == "user"
    assert "nobody-knows" in str(error)
    os.unlink(f"{fresh_rootfs}/etc/passwd")
    os.mkfifo(f"{fresh_rootfs}/etc/passwd")
    assert fails(fresh_rootfs, user="alice").stage == "user"


def test_oom_score_below_ours(rootfs):
    """Lowering it needs CAP_SYS_RESOURCE; where that is missing the spec or the start says so."""
    with open("/proc/self/status") as file:
        held = any(line.startswith("CapEff") and int(line.split()[1], 16) >> 24 & 1 for line in file)
    if held:
        assert run(["true"], rootfs=rootfs, oom_score_adj=-500).returncode == 0
        return
    with pytest.raises((fastctr.SpecError, fastctr.LaunchError)) as caught:
        run(["true"], rootfs=rootfs, oom_score_adj=-500)
    assert "oom" in str(caught.value)


def test_sysctl_value(rootfs):
    says(fails(rootfs, sysctls={"net.ipv4.ip_forward": "nonsense"}), "sysctl", errno.EINVAL, "net/ipv4/ip_forward")
    assert fails(rootfs, sysctls={"net.no.such": "1"}).stage == "sysctl"


def test_affinity_of_a_cpu_that_is_not_there(rootfs):
    with pytest.raises(fastctr.FastctrError) as caught:
        run(["true"], rootfs=rootfs, cpu_affinity=[1000])
    assert "affinity" in str(caught.value)


def test_mask_on_the_first_process(rootfs):
    with pytest.raises(fastctr.CommandNotExecutable):
        run(["true"], rootfs=rootfs, masked_paths=["/bin/busybox"])


# ---- descriptors and memory


def test_descriptor_that_is_closed(rootfs):
    fd = 4000  # far from what the start itself opens
    with pytest.raises((fastctr.FastctrError, OSError)) as caught:
        fastctr.run(["true"], rootfs=rootfs, stdout=fd)
    assert str(fd) in str(caught.value)
    with pytest.raises(fastctr.SpecError):
        fastctr.run(["true"], rootfs=rootfs, pass_fds=[fd])


@pytest.mark.parametrize("room", range(0, 40, 3))
def test_no_more_descriptors(rootfs, room):
    """Running out at every possible place of a start."""
    fastctr.shutdown()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    top = max(int(n) for n in os.listdir("/proc/self/fd"))
    used = len(os.listdir("/proc/self/fd")) - 1
    limit = min(soft, max(top, used) + 1 + room)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    try:
        for _ in range(2):
            try:
                assert fastctr.run(["true"], rootfs=rootfs, init=True).returncode == 0
            except (fastctr.FastctrError, OSError) as error:
                assert error.errno in (errno.EMFILE, errno.EBADF, 0, None) or "Too many open" in str(error), repr(error)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert fastctr.run(["true"], rootfs=rootfs).returncode == 0


def test_no_more_processes(rootfs):
    """clone says EAGAIN below a limit of pids."""
    root = next((p for p in ("/sys/fs/cgroup/pids", "/sys/fs/cgroup") if os.path.exists(f"{p}/cgroup.procs")), None)
    if root is None or not os.access(root, os.W_OK):
        pytest.skip("needs the pids controller in reach")
    code = ("import os, sys, fastctr\n"
            "fastctr.run(['true'], rootfs=sys.argv[1])\n"
            "open(sys.argv[2] + '/pids.max', 'w').write('1')\n"
            "open(sys.argv[2] + '/cgroup.procs', 'w').write(str(os.getpid()))\n"
            "try:\n    fastctr.run(['true'], rootfs=sys.argv[1])\n"
            "except fastctr.LaunchError as e:\n    print(e.stage, e.errno)\n"
            "open(sys.argv[3] + '/cgroup.procs', 'w').write(str(os.getpid()))\n")
    group = f"{root}/fastctr-test-{os.getpid()}"
    os.mkdir(group)
    try:
        if not os.path.exists(f"{group}/pids.max"):
            pytest.skip("needs the pids controller in reach")
        done = subprocess.run([sys.executable, "-c", code, rootfs, group, root], capture_output=True, text=True, timeout=30, check=False)
        assert (done.stdout, done.returncode) == (f"clone {errno.EAGAIN}\n", 0), done.stderr
    finally:
        os.rmdir(group)


# ---- control groups


def test_parent_that_cannot_be(rootfs):
    with pytest.raises(fastctr.FastctrError) as caught:
        fastctr.run(["true"], rootfs=rootfs, cgroup_parent="/cgroup.procs")
    assert caught.value.stage == "cgroup"
    assert "cgroup.procs" in str(caught.value)


def test_limit_that_the_kernel_refuses(rootfs):
    with pytest.raises(fastctr.FastctrError) as caught:
        fastctr.run(["true"], rootfs=rootfs, cpuset_cpus="4000")
    assert "cpuset" in str(caught.value)


def test_limits_of_a_launch_that_fail(rootfs):
    plan = fastctr.Plan(rootfs=rootfs)
    for _ in range(3):
        with pytest.raises(fastctr.FastctrError):
            plan.run(["true"], limits={"cpuset_cpus": "4000"})
        assert plan.run(["true"]).returncode == 0


# ---- many at once


def test_failures_in_many_threads(rootfs):
    plan = fastctr.Plan(rootfs=rootfs)
    seen = []

    def work(number):
        for turn in range(6):
            try:
                seen.append(plan.run(["true" if (number + turn) % 2 else "no-such"]).returncode)
            except fastctr.CommandNotFound:
                seen.append(127)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(seen) == [0] * 18 + [127] * 18


def test_errors_are_told_apart_by_type():
    assert issubclass(fastctr.CgroupError, fastctr.LaunchError)
    assert issubclass(fastctr.LaunchError, OSError)
    assert issubclass(fastctr.SpecError, ValueError)
