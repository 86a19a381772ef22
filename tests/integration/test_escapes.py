"""Ways out, tried for real. Each was somebody's CVE, or would be ours."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import subprocess
import sys
import time

import pytest
from support import inside, lines, run, running, sh, wait_for

import fastctr
from fastctr import caps

pytestmark = pytest.mark.needs_root

ADMIN = {"cap_add": ["SYS_ADMIN"]}
PTRACE = {"cap_add": ["SYS_PTRACE"]}


@pytest.fixture
def in_box(rootfs, probe):
    """in_box(words…, **container): the probe's first line."""

    def go(*words, **kw):
        return run(["/probe", *map(str, words)], rootfs=rootfs, volumes={probe: "/probe:ro"}, **kw).stdout.strip()

    return go


def disks() -> list[tuple[str, int, int]]:
    found = []
    for name in sorted(os.listdir("/sys/class/block")):
        major, minor = open(f"/sys/class/block/{name}/dev").read().split(":")
        found.append((name, int(major), int(minor)))
    return found[:4]


# ---- devices


@pytest.mark.needs_controller("devices")
@pytest.mark.parametrize("how", [{}, ADMIN, {"writable": "disk"}, {"cap_add": ["ALL"], "seccomp": "unconfined"}],
                         ids=["default", "SYS_ADMIN", "disk", "ALL"])
def test_a_node_of_the_machines_disk_cannot_be_opened(rootfs, how):
    nodes = [(k, major, minor) for _, major, minor in disks() for k in "b"]
    nodes += [("b", 8, 0), ("c", 1, 1), ("c", 1, 2), ("c", 1, 4), ("c", 1, 11), ("c", 10, 237)]
    for place in ("/", "/dev/", "/tmp/"):
        script = "".join(f"mknod {place}n{i} {k} {a} {b} || echo mknod; head -c1 {place}n{i} 2>&1 >/dev/null | "
                         f"grep -q 'not permitted' || echo opened {k} {a} {b}; " for i, (k, a, b) in enumerate(nodes))
        assert sh(script + "true", rootfs=rootfs, **how) == ""


@pytest.mark.parametrize("how", [{"cgroup": False}, {"device_policy": False}])
def test_without_a_device_policy_no_nodes_are_made(rootfs, how):
    out = sh("mknod /disk b 8 0 2>/dev/null && echo made; grep CapBnd /proc/self/status", rootfs=rootfs, **how)
    assert "made" not in out
    assert int(out.split()[-1], 16) & 1 << 27 == 0


def test_raw_devices_in_an_image_do_not_open(fresh_rootfs):
    for number, (_, major, minor) in enumerate(disks()):
        os.mknod(f"{fresh_rootfs}/disk{number}", 0o60666, os.makedev(major, minor))
    out = sh("for d in /disk*; do head -c1 $d 2>/dev/null | wc -c; done", rootfs=fresh_rootfs)
    assert set(out.split()) <= {"0"}


# ---- mounts and masks


@pytest.mark.parametrize("script", [
    "umount /proc/sys", "umount -l /proc/keys", "mount -o remount,rw /proc/sys", "mount -o remount,rw /sys",
    "mount -t proc p /mnt", "mount -t sysfs s /mnt", "mount -t tmpfs t /mnt", "mount --bind / /mnt", "mount -t devtmpfs d /mnt",
    "mount -t cgroup -o devices c /mnt", "pivot_root / /mnt", "unshare -m true", "unshare -r true", "unshare -U true",
    "chroot / unshare -m true", "nsenter -t 1 -m true", "swapoff -a", "insmod /etc/marker", "rmmod ext4",
])
def test_refused_without_the_right(rootfs, script):
    assert run(["sh", "-c", script], rootfs=rootfs).returncode != 0


MASKED = ("/proc/keys", "/proc/timer_list", "/proc/interrupts")


def test_with_sys_admin_masks_hide_the_machines_own_only_from_mistakes(rootfs):
    """CAP_SYS_ADMIN may unmount: that is what it means. It must not reach the host's mounts, though."""
    before = open("/proc/self/mountinfo").read()
    sh("umount -l /proc/sys; umount -l /proc/keys; mount -o remount,rw /sys; mount -t tmpfs x /mnt; true", rootfs=rootfs, **ADMIN)
    assert open("/proc/self/mountinfo").read() == before


@pytest.mark.parametrize("how", [{}, {"cap_add": ["DAC_READ_SEARCH"]}], ids=["default", "DAC_READ_SEARCH"])
def test_shocker(rootfs, in_box, how):
    """open_by_handle_at with a guessed handle of the host's root directory."""
    result = int(in_box("call", "open_by_handle_at", 0, 0, 0, **how))
    assert result in (-1, -14)  # refused; or, with the right, the bad address
    assert int(in_box("call", "open_by_handle_at", 0, 0, 0)) == -1


def test_chroot_dance(rootfs):
    """A second chroot with the working directory left outside: works out of a chroot, not out of a pivot."""
    out = sh("mkdir /j; cd /; chroot /j /no-such 2>/dev/null; cd ../../../../..; ls -a | sort | tr '\\n' ' '; ls /home", rootfs=rootfs)
    assert "alice" in out
    assert sorted(os.listdir("/")) != sorted(out.split())
    with running(rootfs) as box:
        assert os.stat(inside(box.pid, "/../../..")).st_dev == os.stat(inside(box.pid, "/")).st_dev


# ---- descriptors and directories


@pytest.mark.parametrize("how", [{}, {"init": True}, {"pid": "host"}, {"user": "alice"}, {"uid_map": [(0, 100000, 65536)]}],
                         ids=["direct", "init", "stub", "user", "userns"])
def test_leaked_directory(rootfs, in_box, how):
    """CVE-2024-21626: a descriptor of a host directory that is open while the job starts."""
    held = os.open("/", os.O_RDONLY)
    os.set_inheritable(held, True)
    high = os.dup2(held, 512)
    try:
        seen = in_box("fds", **how).splitlines()
        assert [line for line in seen if " dir " in line] == []
        assert {int(line.split()[0]) for line in seen} <= {0, 1, 2}
        for number in (*range(3, 40), held, high):
            for base in ("/proc/self/fd", "/proc/thread-self/fd", "/dev/fd"):
                try:
                    done = run(["/bin/cat", "etc/hostname"], rootfs=rootfs, cwd=f"{base}/{number}", **how)
                except fastctr.FastctrError:
                    continue
                pytest.fail(f"it ran in {base}/{number}: {done}")
                break
    finally:
        os.close(held)
        os.close(high)


def test_working_directory_outside_in_an_exec(rootfs):
    held = os.open("/", os.O_RDONLY)
    os.set_inheritable(held, True)
    try:
        with running(rootfs) as box:
            for number in range(3, 24):
                with pytest.raises(fastctr.FastctrError):
                    box.exec(["/bin/true"], cwd=f"/proc/self/fd/{number}").close()
    finally:
        os.close(held)


def test_a_passed_directory_does_not_lead_to_a_cwd(rootfs, tmp_path):
    """Passed on purpose it is the job's; the working directory must still be inside the root."""
    held = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(fastctr.LaunchError) as caught:
            run(["true"], rootfs=rootfs, pass_fds=[held], cwd=f"/proc/self/fd/{held}")
        assert caught.value.stage == "cwd"
    finally:
        os.close(held)


# ---- programs of ours


def stub_digest() -> str:
    for name in os.listdir("/proc/self/fd"):
        path = f"/proc/self/fd/{name}"
        if os.path.lexists(path) and "memfd:fctr-stub" in os.readlink(path):
            with open(path, "rb") as file:
                return hashlib.sha256(file.read()).hexdigest()
    return ""


def programs() -> str:
    """What a container could overwrite if it got hold of it."""
    import fastctr._core

    paths = (os.path.realpath(sys.executable), fastctr._core.__file__)
    return "".join(hashlib.sha256(open(path, "rb").read()).hexdigest() for path in paths)


@pytest.mark.parametrize("how", [{}, {"init": True}, PTRACE, {"init": True, **PTRACE}], ids=["plain", "init", "ptrace", "both"])
def test_the_joiner_cannot_be_overwritten(rootfs, probe, how):
    """CVE-2019-5736: wait for a runtime to come in by exec, hold its program, write to it."""
    kw = {"volumes": {probe: "/probe:ro"}, "stdout": fastctr.PIPE, "stdin": fastctr.DEVNULL, **how}
    before = programs()
    with fastctr.Container(["/probe", "watch", "1.2"], rootfs=rootfs, **kw) as box:
        wait_for(box.stdout)
        digest = stub_digest()
        assert digest
        joined = 0
        while joined < 25 and box.poll() is None:
            try:
                with box.exec(["true"], stdout=fastctr.DEVNULL) as job:
                    assert job.wait(10) in (0, -9)
            except fastctr.LaunchError as error:
                if error.errno == errno.ESRCH:  # it ended in the meantime
                    break
                assert error.errno == errno.ETXTBSY  # the container has its own program open for writing
            joined += 1
        assert joined
        found = dict(part.split("=") for part in box.stdout.readline().decode().split())
        assert box.wait(10) == 0
        assert int(found["looked"]) > 0
        assert found["written"] == "0"
        assert found["roots"] == "0"
        # with CAP_SYS_PTRACE it may be traced: by then it must have the container's rights alone
        assert int(found["caps"], 16) & ~(caps.DEFAULT | 1 << 19) == 0
        if "cap_add" not in how:
            assert found["traced"] == "0" or "init" in how
        assert stub_digest() == digest
    assert programs() == before
    assert sh("echo fine", rootfs=rootfs, init=True) == "fine\n"


def test_self_exe_of_a_job(rootfs, fresh_rootfs):
    """/proc/self/exe is the image's program, never the launcher's; and the image is not written."""
    before = os.stat(f"{rootfs}/bin/busybox").st_mtime_ns
    assert sh("readlink /proc/self/exe; readlink /proc/1/exe", rootfs=rootfs).split() == ["/bin/busybox"] * 2
    run(["sh", "-c", "cp /bin/busybox /tmp/b; (sleep 0.1; cat /etc/marker > /bin/busybox) & exec /tmp/b sleep 0.2"], rootfs=rootfs)
    assert os.stat(f"{rootfs}/bin/busybox").st_mtime_ns == before


def test_init_cannot_be_written_from_inside(rootfs, in_box):
    for how in ("w",):
        assert int(in_box("open", "/proc/1/exe", how, init=True)) in (-26, -13, -1)  # busy, or refused


# ---- the launcher


def test_the_launcher_cannot_be_seen_traced_or_read(rootfs, in_box):
    me = os.getpid()
    for how in ({}, PTRACE, ADMIN):
        assert int(in_box("call", "ptrace", 16, me, 0, 0, **how)) in (-1, -3)
        assert int(in_box("call", "kill", me, 0, **how)) == -3
        assert int(in_box("open", f"/proc/{me}/mem", "w", **how)) == -2
        assert int(in_box("call", "pidfd_open", me, 0, **how)) == -3


def test_with_the_machines_pid_namespace_it_still_cannot_be_traced(rootfs, in_box):
    """pid="host" shows every process; rights keep them apart: ours has capabilities the job lacks."""
    me = os.getpid()
    assert int(in_box("call", "ptrace", 16, me, 0, 0, pid="host")) == -1
    assert int(in_box("open", f"/proc/{me}/mem", "w", pid="host")) in (-13, -1)
    assert int(in_box("open", f"/proc/{me}/root/etc/passwd", "r", pid="host")) in (-13, -1)
    assert int(in_box("open", f"/proc/{me}/cwd/x", "r", pid="host")) in (-13, -1)


def test_memory_of_the_launcher_is_not_in_the_job(rootfs):
    """The child shares our memory until it execs; afterwards nothing of it is left."""
    secret = "fastctr-secret-" + "x" * 40
    holder = [secret + str(n) for n in range(100)]
    with running(rootfs) as box:
        with open(f"/proc/{box.pid}/maps") as file:
            maps = [line.split() for line in file if line.split()[1].startswith("rw")]
        with open(f"/proc/{box.pid}/mem", "rb", buffering=0) as memory:
            for fields in maps:
                start, end = (int(part, 16) for part in fields[0].split("-"))
                memory.seek(start)
                assert b"fastctr-secret-" not in memory.read(end - start)
    assert len(holder) == 100


# ---- namespaces and the kernel's keys


@pytest.mark.parametrize("flag", [0x10000000, 0x20000, 0x40000000, 0x20000000, 0x08000000, 0x04000000, 0x02000000])
def test_no_new_namespaces(in_box, flag):
    assert int(in_box("call", "unshare", flag)) == -1
    assert int(in_box("call", "clone", flag | 17, 0)) == -1


def test_clone3_cannot_be_looked_into_and_is_refused(in_box):
    assert int(in_box("call", "clone3", 0, 0)) == -38


def test_keys_are_refused(in_box):
    assert int(in_box("call", "keyctl", 0, -3 & 0xFFFFFFFF, 1)) == -1
    assert int(in_box("call", "add_key", "s:user", "s:a", "s:b", 1, -3 & 0xFFFFFFFF)) == -1


def test_user_namespace_needs_seccomp_off_and_gains_nothing(rootfs):
    """Without the filter a user may make one; the masks and read-only mounts are locked in it."""
    script = ("unshare -r sh -c 'mount -o remount,rw /proc/sys; umount /proc/sys; umount /proc/keys; "
              "mount -t proc p /mnt && cat /mnt/keys; echo x > /proc/sys/kernel/core_pattern' 2>/dev/null; true")
    before = open("/proc/sys/kernel/core_pattern").read()
    assert sh(script, rootfs=rootfs, seccomp="unconfined", user="alice") == ""
    assert open("/proc/sys/kernel/core_pattern").read() == before


# ---- control groups


def test_the_group_cannot_be_left_or_widened(rootfs):
    with running(rootfs, pids=8) as box:
        paths = box.cgroups
        assert paths
        assert not os.path.exists(inside(box.pid, "/sys/fs/cgroup/pids"))
    script = "find /sys/fs/cgroup -name tasks -o -name cgroup.procs 2>/dev/null | while read f; do echo 0 > $f && echo wrote; done; true"
    assert sh(script, rootfs=rootfs) == ""


@pytest.mark.needs_v1
def test_release_agent(rootfs):
    """CVE-2022-0492: mount a v1 hierarchy and have the host run a program."""
    script = "mkdir /c; mount -t cgroup -o {0} c /c && echo mounted; ls /c/release_agent 2>/dev/null; true"
    for name in ("devices", "memory", "rdma", "none,name=x"):
        assert sh(script.format(name), rootfs=rootfs) == ""
        assert sh("unshare -UrmC true && echo made; true", rootfs=rootfs) == ""


# ---- what the container does to itself


def test_a_symlink_swapped_while_it_is_started(fresh_rootfs, tmp_path):
    """Mount targets of a directory that somebody else keeps changing."""
    os.makedirs(f"{fresh_rootfs}/a/b")
    (tmp_path / "vol").mkdir()
    code = (f"import os\np={fresh_rootfs!r}\nwhile True:\n"
            " try:\n  os.rename(p+'/a',p+'/c'); os.symlink('/../../../../../../etc',p+'/a')\n"
            "  os.unlink(p+'/a'); os.rename(p+'/c',p+'/a')\n except OSError: pass\n")
    before = sorted(os.listdir("/etc"))
    with subprocess.Popen([sys.executable, "-c", code]) as racer:
        try:
            outcomes = set()
            until = time.monotonic() + 1.5
            while time.monotonic() < until:
                try:
                    done = run(["sh", "-c", "grep -c ' / / ' /proc/self/mountinfo"], rootfs=fresh_rootfs, writable="direct",
                               volumes={tmp_path / "vol": "/a/b"})
                    outcomes.add(done.returncode)
                except fastctr.LaunchError as error:
                    outcomes.add(error.stage)
                assert not any(" /etc" in line for line in open("/proc/self/mountinfo") if str(tmp_path) in line)
        finally:
            racer.kill()
    assert outcomes
    assert sorted(os.listdir("/etc")) == before


def test_an_exec_into_a_container_that_moved_its_directories(fresh_rootfs):
    """The working directory and the program of an exec are looked up inside, whatever is there."""
    with running(fresh_rootfs, "rm -r /home; ln -s /../../../../etc /home; ln -s /proc/1/root/.. /up; echo ready; exec sleep 60") as box:
        with box.exec(["cat", "marker"], cwd="/home", stdout=fastctr.PIPE) as job:
            assert job.stdout.read() == b"from the image\n"
        with box.exec(["ls", "/up/home/"], stdout=fastctr.PIPE) as job:
            assert b"marker" in job.stdout.read()


def test_the_machines_own_names_do_not_show(rootfs):
    """Paths of the host in what a container can read about itself."""
    text = "".join(lines("cat /proc/self/mountinfo /proc/self/maps /proc/self/cgroup /proc/1/environ /proc/1/cmdline", rootfs=rootfs))
    assert rootfs not in text
    assert not re.search(r"fastctr/\d+-", text)
