"""/dev, /proc and /sys: what is there, what is masked, and what may not be written."""

from __future__ import annotations

import os
import stat

import pytest
from support import inside, lines, mountinfo, run, running, sh

import fastctr
from fastctr.spec import MASKED_PATHS, READONLY_PATHS

pytestmark = pytest.mark.needs_root

NODES = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9), "tty": (5, 0)}
LINKS = {
    "fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2",
    "core": "/proc/kcore", "ptmx": "pts/ptmx",
}


def test_standard_nodes_and_links(rootfs):
    with running(rootfs) as box:
        assert set(os.listdir(inside(box.pid, "/dev"))) == {*NODES, *LINKS, "pts", "shm", "mqueue"}
        for name, (major, minor) in NODES.items():
            info = os.lstat(inside(box.pid, f"/dev/{name}"))
            assert stat.S_ISCHR(info.st_mode)
            assert (os.major(info.st_rdev), os.minor(info.st_rdev)) == (major, minor)
            assert stat.S_IMODE(info.st_mode) == 0o666
        for name, text in LINKS.items():
            assert os.readlink(inside(box.pid, f"/dev/{name}")) == text


def test_nodes_work(rootfs):
    script = ("echo x > /dev/null; head -c3 /dev/zero | od -An -tx1; head -c8 /dev/urandom | wc -c; "
              "echo x > /dev/full 2>/dev/null || echo full; cat < /dev/null | wc -c")
    assert sh(script, rootfs=rootfs).split() == ["00", "00", "00", "8", "full", "0"]


def test_pts_is_its_own(rootfs):
    mine = set(os.listdir("/dev/pts"))
    with running(rootfs) as box:
        assert os.listdir(inside(box.pid, "/dev/pts")) == ["ptmx"]
        assert set(os.listdir("/dev/pts")) == mine


@pytest.mark.parametrize(("size", "kb"), [(None, 65536), ("3m", 3072)])
def test_shm_size(rootfs, size, kb):
    assert sh("df -k /dev/shm | tail -1", rootfs=rootfs, shm_size=size).split()[1] == str(kb)


def test_shm_is_full_at_its_size(rootfs):
    done = run(["dd", "if=/dev/zero", "of=/dev/shm/x", "bs=64k", "count=64"], rootfs=rootfs, shm_size="1m")
    assert "No space left" in done.stderr


def test_no_shm_no_mqueue_no_dev(rootfs):
    assert "/dev/shm" not in mountinfo(sh("cat /proc/self/mountinfo", rootfs=rootfs, shm_size=0))
    assert "/dev/mqueue" not in mountinfo(sh("cat /proc/self/mountinfo", rootfs=rootfs, mqueue=False))
    assert sh("ls /dev", rootfs=rootfs, dev=False) == ""
    assert sh("wc -c < /proc/keys; echo x > /proc/keys 2>/dev/null || echo refused", rootfs=rootfs, dev=False).split() == ["0", "refused"]


def test_no_proc_no_sys(rootfs):
    assert sh("ls /proc; ls /sys", rootfs=rootfs, proc=False, sys=False) == ""


def test_extra_device(rootfs):
    out = sh("ls -l /dev/kmsg-here; head -c0 /dev/kmsg-here && echo opened",
             rootfs=rootfs, devices=["/dev/zero:/dev/kmsg-here:r"])
    assert "1,   5" in out
    assert out.endswith("opened\n")


@pytest.mark.needs_controller("devices")
def test_extra_device_with_the_access_given(rootfs):
    if not os.path.exists("/dev/loop-control") and not os.path.exists("/dev/fuse"):
        pytest.skip("needs a device beyond the standard ones (/dev/fuse or /dev/loop-control)")
    device = "/dev/fuse" if os.path.exists("/dev/fuse") else "/dev/loop-control"
    assert run(["sh", "-c", f"exec 3<{device}"], rootfs=rootfs, devices=[f"{device}:{device}:r"]).returncode == 0
    assert run(["sh", "-c", f"exec 3>{device}"], rootfs=rootfs, devices=[f"{device}:{device}:r"]).returncode != 0
    assert run(["sh", "-c", f"exec 3>{device}"], rootfs=rootfs, devices=[f"{device}:{device}:rw"]).returncode == 0


@pytest.mark.parametrize("extra", [{}, {"cap_add": ["SYS_ADMIN"]}], ids=["default", "SYS_ADMIN"])
def test_masked_paths_show_nothing(rootfs, extra):
    with running(rootfs, **extra) as box:
        seen = 0
        for path in MASKED_PATHS:
            if not os.path.lexists(path):
                continue
            seen += 1
            info = os.stat(inside(box.pid, path))
            if stat.S_ISDIR(info.st_mode):
                assert os.listdir(inside(box.pid, path)) == []
                with pytest.raises(OSError, match="Read-only"):
                    open(inside(box.pid, path + "/x"), "w")
            else:
                assert stat.S_ISCHR(info.st_mode)
                assert (os.major(info.st_rdev), os.minor(info.st_rdev)) == (1, 3)
        assert seen >= 3
        assert sh("cat /proc/keys /proc/timer_list 2>/dev/null | wc -c", rootfs=rootfs, **extra).strip() == "0"


@pytest.mark.parametrize("path", READONLY_PATHS)
def test_read_only_paths(rootfs, path):
    if not os.path.exists(path):
        pytest.skip(f"needs {path}, which this kernel does not have")
    with running(rootfs) as box:
        found = mountinfo(open(f"/proc/{box.pid}/mountinfo").read())
        assert "ro" in found[path][2]


@pytest.mark.parametrize("path", ["/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/proc/sys/vm/drop_caches",
                                  "/proc/sys/net/ipv4/ip_forward", "/proc/irq/default_smp_affinity"])
def test_machine_settings_cannot_be_written(rootfs, path):
    if not os.path.exists(path):
        pytest.skip(f"needs {path}, which this kernel does not have")
    before = open(path).read() if "sysrq" not in path and "drop_caches" not in path else None
    done = run(["sh", "-c", f"echo h > {path}"], rootfs=rootfs)
    assert done.returncode != 0
    assert "Read-only file system" in done.stderr
    if before is not None:
        assert open(path).read() == before


def test_sys_is_read_only(rootfs):
    done = run(["sh", "-c", "echo 1 > /sys/kernel/profiling; mkdir /sys/x; echo 1 > /sys/class/net/lo/mtu"], rootfs=rootfs)
    assert done.returncode != 0
    assert done.stderr.count("Read-only") + done.stderr.count("nonexistent") >= 2
    found = mountinfo(sh("cat /proc/self/mountinfo", rootfs=rootfs))
    assert {"ro", "nosuid", "nodev", "noexec"} <= found["/sys"][2]


def test_flags_of_the_mounts(rootfs):
    found = mountinfo(sh("cat /proc/self/mountinfo", rootfs=rootfs))
    assert {"nosuid", "nodev", "noexec"} <= found["/proc"][2]
    assert {"nosuid", "nodev", "noexec"} <= found["/dev/shm"][2]
    assert {"nosuid", "noexec"} <= found["/dev/pts"][2]
    assert {"nosuid", "nodev", "noexec"} <= found["/dev/mqueue"][2]


def test_own_masks_and_read_only_paths(rootfs):
    out = lines("cat /etc/marker | wc -c; ls /srv | wc -l; echo x > /root/y 2>/dev/null || echo refused; "
                "cat /proc/keys | wc -c | grep -qv '^0$' && echo keys",
                rootfs=rootfs, masked_paths=["/etc/marker", "/no/such", "/srv"], readonly_paths=["/root", "/no/such"])
    assert out[:3] == ["0", "0", "refused"]


def test_no_masks_at_all(rootfs):
    with running(rootfs, masked_paths=[], readonly_paths=[]) as box:
        found = mountinfo(open(f"/proc/{box.pid}/mountinfo").read())
        assert not any(p.startswith(("/proc/", "/sys/")) for p in found)


def test_proc_is_of_its_own_pid_namespace(rootfs):
    with running(rootfs, "sleep 50 & echo ready; wait") as box:
        seen = {name for name in os.listdir(inside(box.pid, "/proc")) if name.isdigit()}
        assert seen == {"1", "2"}


@pytest.mark.parametrize("name", ["proc", "sys", "dev"])
@pytest.mark.parametrize("text", ["/etc", "../../../../../../etc", "/", "home/alice"])
@pytest.mark.parametrize("how", [{}, {"writable": "direct"}, {"read_only": True}, {"uid_map": [(0, 0, 65536)]}],
                         ids=["overlay", "direct", "read_only", "userns"])
def test_a_symlink_in_the_image_leads_nowhere(fresh_rootfs, name, text, how):
    """CVE-2019-19921 and others: /proc made a link, so that masks and labels go elsewhere. Either it is
    refused, or a directory of ours covers it and everything is where it belongs."""
    os.rmdir(f"{fresh_rootfs}/{name}")
    os.symlink(text, f"{fresh_rootfs}/{name}")
    before = sorted(os.listdir("/etc")), sorted(os.listdir(f"{fresh_rootfs}/etc"))
    script = ("test -c /dev/null && test -c /dev/zero && test -d /proc/1/fd && test -d /sys/kernel && "
              "! (echo x > /proc/sys/kernel/ostype) 2>/dev/null && test ! -s /proc/timer_list && cat /proc/self/mountinfo")
    try:
        found = mountinfo(sh(script, rootfs=fresh_rootfs, **how))
    except fastctr.LaunchError as error:
        assert error.stage in ("proc", "sys", "dev", "mask", "mount")
        assert name in str(error)
    else:
        assert found["/proc"][0] == "proc"
        assert found["/sys"][0] == "sysfs"
        assert found["/dev/pts"][0] == "devpts"
        assert not any(point.startswith(("/etc", "/home")) for point in found)
    assert (sorted(os.listdir("/etc")), sorted(os.listdir(f"{fresh_rootfs}/etc"))) == before


def test_inner_links_of_proc_are_not_followed_out(fresh_rootfs):
    """A file where a directory should be, and the other way."""
    os.rmdir(f"{fresh_rootfs}/proc")
    open(f"{fresh_rootfs}/proc", "w").close()
    with pytest.raises(fastctr.LaunchError) as caught:
        fastctr.run(["true"], rootfs=fresh_rootfs, writable="direct")
    assert caught.value.stage == "proc"
    assert caught.value.errno == 20


def test_missing_mount_points_are_made(fresh_rootfs):
    for name in ("proc", "sys", "dev"):
        os.rmdir(f"{fresh_rootfs}/{name}")
    assert lines("test -e /proc/self && test -c /dev/null && test -d /sys/kernel && echo fine", rootfs=fresh_rootfs) == ["fine"]
    assert lines("test -e /proc/self && echo fine", rootfs=fresh_rootfs, read_only=True) == ["fine"]
    assert not os.path.exists(f"{fresh_rootfs}/proc")
