"""User namespaces with maps, and binds whose owners are shown by a map."""

from __future__ import annotations

import os

import pytest
from support import inside, lines, namespace, run, running, sh, status_of

import fastctr
from fastctr import Bind

pytestmark = pytest.mark.needs_root

MAP = [(0, 100000, 65536)]
MANY = [(0, 200000, 1000), (1000, 500, 1), (1001, 300000, 10000)]


def test_root_inside_is_nobody_outside(rootfs):
    with running(rootfs, uid_map=MAP) as box:
        assert namespace(box.pid, "user") != namespace("self", "user")
        assert status_of(box.pid)["Uid"].split() == ["100000"] * 4
        assert status_of(box.pid)["Gid"].split() == ["100000"] * 4
        assert open(f"/proc/{box.pid}/uid_map").read().split() == ["0", "100000", "65536"]
    assert lines("id -u; id -g", rootfs=rootfs, uid_map=MAP) == ["0", "0"]


@pytest.mark.parametrize(("user", "outside"), [("alice", 500), ((0, 0), 200000), ((1002, 1002), 300001)])
def test_many_ranges(rootfs, user, outside):
    with running(rootfs, uid_map=MANY, gid_map=MAP, user=user) as box:
        assert status_of(box.pid)["Uid"].split()[0] == str(outside)


def test_the_namespaces_belong_to_it(rootfs):
    """So that root inside may use what it has there, and nothing of the machine."""
    out = lines("hostname inner && hostname; mount -t tmpfs t /mnt && echo mounted; ip link set lo down && echo down",
                rootfs=rootfs, uid_map=MAP, cap_add=["ALL"], seccomp="unconfined")
    assert out == ["inner", "mounted", "down"]
    assert os.uname().nodename != "inner"


@pytest.mark.parametrize("writable", ["tmpfs", "disk"])
def test_the_image_belongs_to_root_inside(rootfs, writable):
    out = lines("stat -c '%u %g' / /etc/passwd /bin/busybox; echo x >> /etc/marker && touch /new && stat -c %u /new /etc/marker",
                rootfs=rootfs, uid_map=MAP, writable=writable)
    assert out == ["0 0"] * 3 + ["0", "0"]


def test_kept_changes_belong_to_the_same_ids_again(rootfs, tmp_path):
    upper = tmp_path / "upper"
    sh("echo x > /new; chown 7:8 /new", rootfs=rootfs, upper=upper, uid_map=MAP)
    assert lines("stat -c '%u %g' /new", rootfs=rootfs, upper=upper, uid_map=MAP) == ["7 8"]
    info = os.stat(upper / "new")
    assert info.st_uid in (7, 100007)


def test_host_files_cannot_be_written(rootfs, tmp_path):
    (tmp_path / "d").mkdir(mode=0o755)
    (tmp_path / "d/secret").write_text("x")
    (tmp_path / "d/secret").chmod(0o600)
    done = run(["sh", "-c", "cat /d/secret; echo y > /d/new; chown 0 /d; stat -c %u /d"], rootfs=rootfs, uid_map=MAP,
               volumes={tmp_path / "d": "/d"})
    assert done.stdout == "65534\n"
    assert not (tmp_path / "d/new").exists()


def test_no_power_over_the_machine(rootfs):
    script = ("mknod /d b 8 0 && echo node; mount -o remount,rw /proc/sys && echo remounted; umount /proc/keys && echo unmounted; "
              "echo x > /proc/sys/kernel/core_pattern && echo wrote; dmesg >/dev/null && echo log; true")
    before = open("/proc/sys/kernel/core_pattern").read()
    out = sh(script, rootfs=rootfs, uid_map=MAP, cap_add=["ALL"], seccomp="unconfined")
    assert not {"node", "wrote", "log"} & set(out.split())
    assert open("/proc/sys/kernel/core_pattern").read() == before


def test_setgroups_and_ownership_inside(rootfs):
    assert set(sh("id -G", rootfs=rootfs, uid_map=MAP, user="alice").split()) == {"1001", "50", "44"}
    assert lines("touch /x && chown 1000:1001 /x && stat -c '%u %g' /x", rootfs=rootfs, uid_map=MAP) == ["1000 1001"]
    assert run(["chown", "70000", "/etc"], rootfs=rootfs, uid_map=MAP).returncode != 0


def test_standard_devices_work_inside(rootfs):
    assert sh("echo x > /dev/null; head -c2 /dev/zero | od -An -tx1; test -c /dev/tty && echo tty", rootfs=rootfs,
              uid_map=MAP).split() == ["00", "00", "tty"]


def test_files_and_tmpfs_inside(rootfs):
    out = lines("stat -c '%u %g %a' /f /t; cat /f", rootfs=rootfs, uid_map=MAP, files={"/f": ("x\n", 0o640, 5, 6)},
                tmpfs={"/t": "uid=7,gid=8,mode=0700"})
    assert out == ["5 6 640", "7 8 700", "x"]


def test_exec_joins_it(rootfs):
    with running(rootfs, uid_map=MAP) as box, box.exec(["sleep", "60"]) as job:
        assert namespace(job.pid, "user") == namespace(box.pid, "user")
        assert status_of(job.pid)["Uid"].split()[0] == "100000"


def test_joining_a_user_namespace(rootfs):
    with running(rootfs, uid_map=MAP) as box, running(rootfs, userns=box.pid) as other:
        assert namespace(other.pid, "user") == namespace(box.pid, "user")
        assert status_of(other.pid)["Uid"].split()[0] == "100000"


def test_two_with_the_same_map_are_still_apart(rootfs):
    plan = fastctr.Plan(rootfs=rootfs, uid_map=MAP)
    with plan.container(["sleep", "60"]) as one:
        assert plan.run(["sh", "-c", "ls -d /proc/[0-9]*"], capture_output=True).stdout == b"/proc/1\n"
        assert not os.path.exists(inside(one.pid, "/proc/2"))
        for kind in ("mnt", "pid", "net", "ipc", "uts"):
            with plan.container(["sleep", "60"]) as two:
                assert namespace(one.pid, kind) != namespace(two.pid, kind)


@pytest.mark.parametrize("how", [{}, {"uid_map": MAP}], ids=["host", "userns"])
def test_idmapped_bind(rootfs, tmp_path, how):
    (tmp_path / "d").mkdir()
    for uid in (1000, 1001, 5):
        (tmp_path / "d" / str(uid)).write_text("x")
        os.chown(tmp_path / "d" / str(uid), uid, uid)
    os.chown(tmp_path / "d", 1000, 1000)
    if how:  # seen through both maps: on disk 1000, by the mount 100000, by the namespace 0
        out = lines("stat -c '%u' /d/1000 /d/1001 /d/5; touch /d/new", rootfs=rootfs,
                    mounts=[Bind(tmp_path / "d", "/d", idmap=[(1000, 100000, 10)])], **how)
        assert out == ["0", "1", "65534"]
    else:
        out = lines("stat -c '%u' /d/1000 /d/1001 /d/5; touch /d/new; chown 0 /d/new", rootfs=rootfs,
                    mounts=[Bind(tmp_path / "d", "/d", idmap=[(1000, 0, 10)])])
        assert out == ["0", "1", "65534"]
    assert os.stat(tmp_path / "d/new").st_uid == 1000
    assert os.stat(tmp_path / "d").st_uid == 1000


def test_a_map_of_one_id(rootfs):
    with running(rootfs, uid_map=[(0, 4242, 1)], gid_map=[(0, 4242, 1)]) as box:
        assert status_of(box.pid)["Uid"].split()[0] == "4242"


def test_the_launcher_keeps_its_own(rootfs):
    before = (os.getresuid(), os.getresgid(), namespace("self", "user"))
    for _ in range(3):
        sh("true", rootfs=rootfs, uid_map=MAP)
    assert (os.getresuid(), os.getresgid(), namespace("self", "user")) == before
