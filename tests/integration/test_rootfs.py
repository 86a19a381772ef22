"""The root: a directory, an overlay of some, the machine's own; what is written where."""

from __future__ import annotations

import os
import threading

import pytest
from support import inside, lines, mountinfo, run, running, sh

import fastctr

pytestmark = pytest.mark.needs_root

TMPFS_ROOT = "echo written > /new && echo more >> /etc/marker && rm /etc/group && mkdir /d && cat /new /etc/marker"


def tree(path: str) -> list[tuple[str, int, int]]:
    """Everything in a directory that a write could change."""
    found = []
    for folder, dirs, files in os.walk(path):
        for name in sorted(dirs + files):
            info = os.lstat(os.path.join(folder, name))
            found.append((os.path.join(folder, name), info.st_mtime_ns, info.st_size))
    return sorted(found)


@pytest.mark.parametrize("writable", ["tmpfs", "disk"])
def test_what_is_written_is_thrown_away(rootfs, writable):
    before = tree(rootfs)
    plan = fastctr.Plan(rootfs=rootfs, writable=writable)
    for _ in range(3):  # each starts from the image again
        out = plan.run(["sh", "-c", TMPFS_ROOT], capture_output=True, text=True, check=True).stdout
        assert out == "written\nfrom the image\nmore\n"
    assert tree(rootfs) == before


def test_direct_writes_into_the_directory(fresh_rootfs):
    sh("echo kept > /new; rm /etc/marker", rootfs=fresh_rootfs, writable="direct")
    assert open(f"{fresh_rootfs}/new").read() == "kept\n"
    assert not os.path.exists(f"{fresh_rootfs}/etc/marker")
    # the mounts that were put in need a place there, and it stays empty
    assert os.listdir(f"{fresh_rootfs}/dev") == os.listdir(f"{fresh_rootfs}/proc") == os.listdir(f"{fresh_rootfs}/sys") == []


def test_read_only(rootfs):
    before = tree(rootfs)
    done = run(["sh", "-c", "echo x > /new; echo x >> /etc/marker; mkdir /d; rm /etc/group; ln /etc/group /l"],
               rootfs=rootfs, read_only=True)
    assert done.returncode != 0
    assert done.stderr.count("Read-only file system") == 5
    assert tree(rootfs) == before
    assert sh("echo x > /tmp/y && cat /tmp/y", rootfs=rootfs, read_only=True, tmpfs=["/tmp"]) == "x\n"


def test_read_only_cannot_be_remounted_even_with_the_right(rootfs):
    script = "mount -o remount,rw / 2>/dev/null; echo x > /new 2>/dev/null && echo wrote; echo done"
    assert sh(script, rootfs=rootfs, read_only=True) == "done\n"


def test_upper_keeps_changes(rootfs, tmp_path):
    before = tree(rootfs)
    upper = tmp_path / "upper"
    sh("echo kept > /new; rm /etc/group", rootfs=rootfs, upper=upper)
    assert (upper / "new").read_text() == "kept\n"
    assert run(["sh", "-c", "cat /new; test -e /etc/group"], rootfs=rootfs, upper=upper).stdout == "kept\n"
    assert tree(rootfs) == before


def test_one_upper_serves_one_container_at_a_time(rootfs, tmp_path):
    upper = tmp_path / "upper"
    with running(rootfs, upper=upper):
        with pytest.raises(fastctr.LaunchError) as caught:
            fastctr.run(["true"], rootfs=rootfs, upper=upper)
        assert caught.value.stage == "overlay"
        assert str(upper) in str(caught.value)
    assert run(["true"], rootfs=rootfs, upper=upper).returncode == 0


def test_layers_topmost_first(rootfs, tmp_path):
    for name in ("top", "middle"):
        (tmp_path / name / "etc").mkdir(parents=True)
        (tmp_path / name / "etc/marker").write_text(f"{name}\n")
        (tmp_path / name / f"{name}-only").write_text(name)
    layers = [tmp_path / "top", tmp_path / "middle", rootfs]
    out = lines("cat /etc/marker; ls -d /*-only; head -1 /etc/passwd | cut -d: -f1", rootfs=layers)
    assert out == ["top", "/middle-only", "/top-only", "root"]
    assert "Read-only" in run(["touch", "/x"], rootfs=layers, read_only=True).stderr


def test_many_layers(rootfs, tmp_path):
    layers = []
    for number in range(60):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / f"layer{number}").touch()
        layers.append(tmp_path / str(number))
    assert sh("ls /layer* | wc -l", rootfs=[*layers, rootfs]).strip() == "60"


def test_scratch_size_is_a_limit(rootfs):
    done = run(["dd", "if=/dev/zero", "of=/big", "bs=64k", "count=64"], rootfs=rootfs, scratch_size="1m")
    assert done.returncode != 0
    assert "No space left" in done.stderr
    assert run(["dd", "if=/dev/zero", "of=/big", "bs=64k", "count=64"], rootfs=rootfs, scratch_size="8m").returncode == 0


def test_disk_scratch_is_on_disk_and_gone_afterwards(rootfs, tmp_path):
    with running(rootfs, "echo hello > /file; echo ready; exec sleep 60", writable="disk", scratch_dir=tmp_path) as box:
        found = list(tmp_path.rglob("file"))
        assert len(found) == 1
        assert found[0].read_text() == "hello\n"
        assert os.stat(found[0].parents[2]).st_mode & 0o077 == 0  # nobody else looks in
        assert box.poll() is None
    fastctr.shutdown()
    assert not list(tmp_path.rglob("*file*"))


def test_two_containers_of_one_plan_share_nothing_writable(rootfs):
    plan = fastctr.Plan(rootfs=rootfs, tmpfs=["/tmp"], cap_add=["SYS_ADMIN"])
    places = ("/", "/etc", "/tmp", "/dev", "/dev/shm", "/dev/mqueue", "/root", "/sys/firmware", "/proc/acpi")
    write = "".join(f"mount -o remount,rw {p} 2>/dev/null; echo secret > {p}/trace 2>/dev/null; " for p in places)
    look = "".join(f"ls {p} | grep -c '^trace$'; " for p in places) + "true"
    with plan.container(["sh", "-c", write + "echo ready; exec sleep 60"], stdout=fastctr.PIPE) as first:
        assert first.stdout.readline() == b"ready\n"
        for _ in range(3):
            out = plan.run(["sh", "-c", look], capture_output=True, text=True).stdout.split()
            assert out == ["0"] * len(places)
    for _ in range(6):  # nor one after another
        plan.run(["sh", "-c", write])
        out = plan.run(["sh", "-c", look], capture_output=True, text=True).stdout.split()
        assert out == ["0"] * len(places)


@pytest.mark.parametrize("right", [None, "SYS_ADMIN"])
def test_no_writable_mount_is_shared_between_containers_of_a_plan(rootfs, right):
    """By device number: what is shared is empty and read-only, and only where nobody may remount it."""
    plan = fastctr.Plan(rootfs=rootfs, tmpfs=["/tmp"], cap_add=[right] if right else [])
    with plan.container(["sleep", "60"]) as one, plan.container(["sleep", "60"]) as two:
        seen: list[dict[str, str]] = []
        for box in (one, two):
            devices = {}
            for line in open(f"/proc/{box.pid}/mountinfo"):
                fields = line.split()
                if right is None and line.split(" - ")[1].split()[2].startswith("ro,"):
                    assert os.listdir(inside(box.pid, fields[4])) == []
                    continue
                devices[fields[4]] = fields[2]
            seen.append(devices)
        assert set(seen[0]) == set(seen[1])
        same = {point for point in seen[0] if seen[0][point] == seen[1][point]}
        # a sysfs belongs to its network namespace, and each of these has its own
        assert same == set()


def test_the_old_root_is_gone(rootfs):
    with running(rootfs) as box:
        found = mountinfo(open(f"/proc/{box.pid}/mountinfo").read())
        assert found["/"][0] == "overlay"
        assert not any(kind in ("ext4", "xfs", "btrfs") for kind, _, _ in found.values())
        for line in open(f"/proc/{box.pid}/mountinfo"):
            assert " shared:" not in line
            assert " master:" not in line
        assert os.stat(inside(box.pid, "/..")).st_ino == os.stat(inside(box.pid, "/")).st_ino


def test_mounts_on_the_host_do_not_appear_inside_nor_the_other_way(rootfs):
    with running(rootfs, cap_add=["SYS_ADMIN"]) as box:
        mine = open("/proc/self/mountinfo").read()
        theirs = open(f"/proc/{box.pid}/mountinfo").read()
        with box.exec(["mount", "-t", "tmpfs", "new", "/srv"]) as job:
            assert job.wait(10) == 0
        assert open("/proc/self/mountinfo").read() == mine
        assert len(open(f"/proc/{box.pid}/mountinfo").readlines()) == len(theirs.splitlines()) + 1


def test_host_root_runs_what_is_installed_and_keeps_nothing(tmp_path):
    name = f"/etc/fastctr-test-{os.getpid()}"
    out = lines(f"echo x > {name}; cat {name}; ls /proc | grep -c '^[0-9]'; ls /tmp /run | wc -l", rootfs="host")
    assert out[0] == "x"
    assert int(out[1]) < 8
    assert int(out[2]) <= 3
    assert not os.path.exists(name)


def test_host_root_hides_what_is_the_machines(tmp_path):
    secret = tmp_path / "secret"  # below /tmp
    secret.write_text("x")
    assert str(secret).startswith("/tmp/")
    assert run(["cat", str(secret)], rootfs="host").returncode != 0
    found = mountinfo(sh("cat /proc/self/mountinfo", rootfs="host"))
    for point in ("/tmp", "/run", "/var/tmp", "/dev/shm"):
        assert found[point][0] == "tmpfs"
    assert "ro" in found["/sys"][2]


def test_a_replaced_directory_is_noticed(fresh_rootfs, rootfs):
    """A plan is prepared ahead from directories; one that is swapped must not be served stale."""
    plan = fastctr.Plan(rootfs=fresh_rootfs)
    plan.warm(2)
    os.rename(fresh_rootfs, fresh_rootfs + ".old")
    os.symlink(rootfs, fresh_rootfs)
    with open(f"{fresh_rootfs}.old/etc/marker", "w") as file:
        file.write("old\n")
    assert plan.run(["cat", "/etc/marker"], capture_output=True).stdout == b"from the image\n"
    os.unlink(fresh_rootfs)


def test_many_threads_one_plan(rootfs):
    plan = fastctr.Plan(rootfs=rootfs)
    out: list[str] = []

    def work(number: int) -> None:
        for turn in range(4):
            script = f"echo {number}.{turn} > /mine; sleep 0.01; cat /mine"
            out.append(plan.run(["sh", "-c", script], capture_output=True, text=True).stdout.strip())

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(out) == sorted(f"{n}.{t}" for n in range(6) for t in range(4))
