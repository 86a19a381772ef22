"""Binds, tmpfs, files put in, and where their targets may lead."""

from __future__ import annotations

import os
import stat
import subprocess

import pytest
from support import inside, lines, mountinfo, run, running, sh

import fastctr
from fastctr import Bind, File, Tmpfs

pytestmark = pytest.mark.needs_root


@pytest.fixture
def source(tmp_path):
    (tmp_path / "src").mkdir()
    (tmp_path / "src/file").write_text("hello\n")
    (tmp_path / "src/sub").mkdir()
    return tmp_path / "src"


def test_bind_is_the_same_directory(rootfs, source):
    with running(rootfs, volumes={source: "/data"}) as box:
        assert os.stat(inside(box.pid, "/data")).st_ino == source.stat().st_ino
        (source / "later").write_text("x")
        assert os.path.exists(inside(box.pid, "/data/later"))
    sh("echo back > /data/back", rootfs=rootfs, volumes={source: "/data"})
    assert (source / "back").read_text() == "back\n"


def test_bind_read_only(rootfs, source):
    done = run(["sh", "-c", "cat /data/file; echo x > /data/file; mkdir /data/new; mount -o remount,rw /data"],
               rootfs=rootfs, volumes=[f"{source}:/data:ro"])
    assert done.stdout == "hello\n"
    assert done.returncode != 0
    assert (source / "file").read_text() == "hello\n"
    assert not (source / "new").exists()


def test_bind_of_a_file(rootfs, source):
    out = sh("cat /etc/marker; cat /brand/new", rootfs=rootfs,
             mounts=[Bind(source / "file", "/etc/marker"), Bind(source / "file", "/brand/new", read_only=True)])
    assert out == "hello\nhello\n"


@pytest.mark.parametrize("target", ["/a/b/c/d", "/etc/new", "/srv/x"])
def test_missing_targets_are_made_and_not_in_the_image(rootfs, source, target):
    assert sh(f"cat {target}/file", rootfs=rootfs, volumes={source: target}) == "hello\n"
    assert not os.path.exists(rootfs + target)


def test_a_target_that_must_exist(rootfs, source):
    with pytest.raises(fastctr.LaunchError) as caught:
        fastctr.run(["true"], rootfs=rootfs, mounts=[Bind(source, "/nowhere", create=False)])
    assert (caught.value.stage, caught.value.errno, caught.value.path) == ("mount", 2, "/nowhere")


def test_flags(rootfs, source):
    found = mountinfo(sh("cat /proc/self/mountinfo", rootfs=rootfs, mounts=[
        Bind(source, "/a"), Bind(source, "/b", nosuid=False, nodev=False), Bind(source, "/c", noexec=True, noatime=True),
    ]))
    assert {"rw", "nosuid", "nodev"} <= found["/a"][2]
    assert not {"nosuid", "nodev", "noexec"} & found["/b"][2]
    assert {"noexec", "noatime"} <= found["/c"][2]
    assert "noexec" not in found["/a"][2]


def test_noexec_and_nosymfollow_hold(rootfs, source, busybox):
    subprocess.run(["cp", busybox, source / "busybox"], check=True)
    (source / "link").symlink_to("file")
    assert run(["/data/busybox", "true"], rootfs=rootfs, mounts=[Bind(source, "/data")]).returncode == 0
    with pytest.raises(fastctr.CommandNotExecutable):
        run(["/data/busybox", "true"], rootfs=rootfs, mounts=[Bind(source, "/data", noexec=True)])
    assert run(["cat", "/data/link"], rootfs=rootfs, mounts=[Bind(source, "/data", nosymfollow=True)]).returncode != 0


@pytest.fixture
def mounted(source):
    """source with a tmpfs on source/sub."""
    subprocess.run(["mount", "-t", "tmpfs", "inner", source / "sub"], check=True)
    (source / "sub/deep").write_text("deep\n")
    yield source
    subprocess.run(["umount", "-l", source / "sub"], check=True)


def test_recursive_or_not(rootfs, mounted):
    assert sh("ls /data/sub", rootfs=rootfs, mounts=[Bind(mounted, "/data")]) == "deep\n"
    assert sh("ls /data/sub", rootfs=rootfs, mounts=[Bind(mounted, "/data", recursive=False)]) == ""


def test_read_only_reaches_below(rootfs, mounted):
    done = run(["sh", "-c", "echo x > /data/sub/new"], rootfs=rootfs, mounts=[Bind(mounted, "/data", read_only=True)])
    assert "Read-only" in done.stderr
    assert not (mounted / "sub/new").exists()


@pytest.mark.parametrize(("word", "host_to_box", "box_to_host"), [
    ("rprivate", False, False), ("rslave", True, False), ("rshared", True, True), ("private", False, False),
])
def test_propagation(rootfs, mounted, word, host_to_box, box_to_host):
    subprocess.run(["mount", "--make-shared", mounted / "sub"], check=True)
    (mounted / "sub/from-host").mkdir()
    (mounted / "sub/from-box").mkdir()
    with running(rootfs, cap_add=["SYS_ADMIN"], mounts=[Bind(mounted / "sub", "/data", propagation=word)]) as box:
        subprocess.run(["mount", "-t", "tmpfs", "late", mounted / "sub/from-host"], check=True)
        with box.exec(["mount", "-t", "tmpfs", "late", "/data/from-box"]) as job:
            assert job.wait(10) == 0
        try:
            there = mountinfo(open(f"/proc/{box.pid}/mountinfo").read())
            here = mountinfo(open("/proc/self/mountinfo").read())
            assert ("/data/from-host" in there) == host_to_box
            assert "/data/from-box" in there
            assert (str(mounted / "sub/from-box") in here) == box_to_host
        finally:
            subprocess.run(["umount", mounted / "sub/from-host"], check=True)
            subprocess.run(["umount", mounted / "sub/from-box"], check=False, capture_output=True)


def test_tmpfs_size_mode_owner(rootfs):
    out = lines("stat -c '%a %u %g' /t; df -k /t | tail -1; dd if=/dev/zero of=/t/x bs=64k count=32 2>&1 | grep -c 'No space'",
                rootfs=rootfs, mounts=[Tmpfs("/t", size="1m", mode=0o750, uid=7, gid=8)])
    assert out[0] == "750 7 8"
    assert out[1].split()[1] == "1024"
    assert out[2] == "1"


def test_tmpfs_flags_by_text(rootfs):
    found = mountinfo(sh("cat /proc/self/mountinfo", rootfs=rootfs, tmpfs={"/a": "", "/b": "size=64k,exec,mode=0700"}))
    assert {"nosuid", "nodev", "noexec"} <= found["/a"][2]
    assert "noexec" not in found["/b"][2]
    assert "size=64k" in found["/b"][2]


def test_mounts_nest_by_depth_not_by_order(rootfs, source):
    out = lines("ls /data; ls /data/sub", rootfs=rootfs, tmpfs=["/data/sub"], volumes={source: "/data"})
    assert out == ["file", "sub"]


@pytest.mark.parametrize("how", [{}, {"read_only": True}, {"writable": "disk"}])
def test_files_are_put_in(rootfs, how):
    files = {"/etc/motd": "hello", "/opt/a/run": (b"#!/bin/sh\necho ran\n", 0o755), "/owned": (b"x", 0o600, 5, 6),
             "/etc/marker": "replaced\n", "/empty": b"", "/big": b"z" * 300_000}
    out = lines("cat /etc/motd; echo; /opt/a/run; stat -c '%a %u %g' /owned; cat /etc/marker; wc -c < /empty; wc -c < /big",
                rootfs=rootfs, files=files, **how)
    assert out == ["hello", "ran", "600 5 6", "replaced", "0", "300000"]
    assert open(f"{rootfs}/etc/marker").read() == "from the image\n"
    assert not os.path.exists(f"{rootfs}/owned")


def test_files_leave_a_direct_directory_alone(fresh_rootfs):
    out = sh("cat /etc/marker /etc/new", rootfs=fresh_rootfs, writable="direct", files={"/etc/marker": "a\n", "/etc/new": "b\n"})
    assert out == "a\nb\n"
    assert open(f"{fresh_rootfs}/etc/marker").read() == "from the image\n"


@pytest.mark.parametrize("kind", ["fifo", "node", "socket"])
def test_a_file_is_not_written_into_something_else(fresh_rootfs, kind):
    """An image could have a device or a pipe where it knows a file will be put."""
    place = f"{fresh_rootfs}/etc/hosts"
    if kind == "fifo":
        os.mkfifo(place)
    elif kind == "node":
        os.mknod(place, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    else:
        os.mknod(place, stat.S_IFSOCK | 0o666)
    with pytest.raises(fastctr.LaunchError) as caught:
        fastctr.run(["cat", "/etc/hosts"], rootfs=fresh_rootfs, files={"/etc/hosts": "x"}, timeout=5)
    assert (caught.value.stage, caught.value.path) == ("file", "/etc/hosts")


LINKS = ["/etc", "../../../../../../../etc", "/proc/1/root/etc", "/.."]


@pytest.mark.parametrize("text", LINKS)
def test_symlinked_targets_stay_inside(fresh_rootfs, source, text):
    os.symlink(text, f"{fresh_rootfs}/link")
    before = sorted(os.listdir("/etc")), sorted(os.listdir("/"))
    kinds = {"volumes": {source: "/link/fastctr-evil"}, "tmpfs": ["/link/fastctr-evil"],
             "files": {"/link/fastctr-evil": "x"}, "mounts": [File("/link/deep/fastctr-evil", "x")]}
    for field, value in kinds.items():
        try:
            fastctr.run(["true"], rootfs=fresh_rootfs, **{field: value})
        except fastctr.LaunchError as error:
            assert "link" in str(error)
        assert (sorted(os.listdir("/etc")), sorted(os.listdir("/"))) == before


def test_a_symlinked_target_leads_to_its_place_inside(fresh_rootfs, source):
    os.symlink("/srv", f"{fresh_rootfs}/link")
    out = lines("ls /srv/x; cat /srv/f", rootfs=fresh_rootfs, volumes={source: "/link/x"}, files={"/link/f": "in\n"})
    assert out == ["file", "sub", "in"]
    os.symlink("/no/such/place", f"{fresh_rootfs}/etc/dangling")
    with pytest.raises(fastctr.LaunchError):
        fastctr.run(["true"], rootfs=fresh_rootfs, volumes={source / "file": "/etc/dangling"})


def test_masks_through_symlinks_stay_inside(fresh_rootfs):
    os.symlink("/../../etc/passwd", f"{fresh_rootfs}/link")
    out = lines("cat /link | wc -c; wc -c < /etc/passwd", rootfs=fresh_rootfs, masked_paths=["/link"])
    assert out == ["0", "0"]
    assert os.path.getsize("/etc/passwd") > 0
    assert stat.S_ISREG(os.stat("/etc/passwd").st_mode)


def test_the_null_that_masks_must_be_real(fresh_rootfs):
    """A bind on /dev/null would let an image choose what covers /proc/kcore."""
    (open(f"{fresh_rootfs}/fake", "w")).close()
    with pytest.raises(fastctr.LaunchError) as caught:
        fastctr.run(["true"], rootfs=fresh_rootfs, mounts=[Bind(f"{fresh_rootfs}/fake", "/dev/null")])
    assert caught.value.stage == "mask"


def test_source_that_goes_away(rootfs, source):
    plan = fastctr.Plan(rootfs=rootfs, volumes={source: "/data"})
    assert plan.run(["true"]).returncode == 0
    os.rename(source, f"{source}.gone")
    with pytest.raises(fastctr.LaunchError) as caught:
        plan.run(["true"])
    assert (caught.value.stage, caught.value.errno) == ("mount", 2)
    assert str(source) in str(caught.value)
    os.rename(f"{source}.gone", source)
    assert plan.run(["true"]).returncode == 0
