"""What one launch of a plan brings along: files of its own, and a user."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

fastctr = pytest.importorskip("fastctr")
from support import out_of as out  # noqa: E402

pytestmark = pytest.mark.needs_root


@pytest.fixture
def plan(rootfs):
    with fastctr.Plan(rootfs=rootfs, memory="64m", pids=40) as made:
        yield made


# ---- files put in


def test_files_are_the_users(any_plan):
    done = out(any_plan, "cat /w/in/a; cat /b; stat -c '%a %u %g' /w/in/a /b /c /w /w/in; id -u",
               user="alice", files={"/w/in/a": "one\n", "/b": (b"two\n", 0o755), "/c": fastctr.File("/ignored", "", 0o600, 7, 8)})
    assert done.stdout.split() == ["one", "two", *"644 1000 1001 755 1000 1001 600 7 8 755 1000 1001 755 1000 1001 1000".split()]


def test_files_are_of_one_job_alone_and_not_of_the_image(plan, rootfs):
    plan.warm(2)
    assert out(plan, "cat /etc/marker /etc/new", files={"/etc/marker": "other\n", "/etc/new": "new\n"}).stdout == "other\nnew\n"
    for _ in range(4):
        assert out(plan, "cat /etc/marker; ls /etc/new 2>&1 | grep -c 'No such'").stdout == "from the image\n1\n"
    with open(f"{rootfs}/etc/marker") as file:
        assert file.read() == "from the image\n"


def test_a_large_file(plan):
    data = os.urandom(5_000_000)
    done = plan.run(["cat", "/big"], files={"/big": data}, stdout=fastctr.PIPE)
    assert done.stdout == data


@pytest.mark.parametrize(
    ("make", "ends"),
    [(lambda p: os.mkfifo(p), "EINVAL"), (lambda p: p.mkdir(), "EISDIR"), (lambda p: os.mknod(p, stat.S_IFBLK | 0o600, os.makedev(254, 0)), "EINVAL")],
    ids=["pipe", "directory", "disk"],
)  # fmt: skip
def test_what_an_image_has_at_their_place_is_not_written_to(fresh_rootfs, tmp_path, make, ends):
    make(Path(fresh_rootfs, "srv/x"))
    with fastctr.Plan(rootfs=fresh_rootfs) as plan, pytest.raises(fastctr.LaunchError) as caught:
        plan.run(["true"], files={"/srv/x": b"data"})
    assert (caught.value.stage, errno.errorcode[caught.value.errno]) == ("file", ends)


def test_links_of_an_image_stay_inside(fresh_rootfs, tmp_path):
    os.symlink(f"/../../../../../..{tmp_path}", f"{fresh_rootfs}/srv/out")
    os.makedirs(f"{fresh_rootfs}{tmp_path}")
    (tmp_path / "here").mkdir()
    with fastctr.Plan(rootfs=fresh_rootfs) as plan:
        done = out(plan, f"cat {tmp_path}/here/f", files={"/srv/out/here/f": "kept inside"})
    assert done.stdout == "kept inside"
    assert os.listdir(tmp_path / "here") == []


def test_a_read_only_root_takes_files_where_it_can_be_written(rootfs):
    with fastctr.Plan(rootfs=rootfs, read_only=True, tmpfs=["/w"]) as plan:
        with pytest.raises(fastctr.LaunchError, match="read-only"):
            plan.run(["true"], files={"/x": b""})
        assert out(plan, "cat /w/x", files={"/w/x": "fine"}).stdout == "fine"


@pytest.mark.parametrize(
    "value",
    [{"x": b""}, {"/x": 3}, {"/x": None}, {"/x": (b"", 0o644, 3)}, {"/x": (b"", 0o77777)}, ["/x"], {"/proc/self/x": b""},
     {"/../x": b""}],
)  # fmt: skip
def test_files_that_are_none(plan, value):
    with pytest.raises(fastctr.SpecError, match="files"):
        plan.run(["true"], files=value)


# ---- a user of one launch


@pytest.mark.parametrize(
    ("user", "ids", "home"),
    [("alice", "1000 1001 1001,44,50", "/home/alice"), ("bob:staff", "1002 50 50", "/"), (1000, "1000 1001 1001,44,50", "/home/alice"),
     ("1000:7", "1000 7 7", "/home/alice"), ((4000000, 3), "4000000 3 3", "/"), ("77", "77 0 0", "/"), ("root", "0 0 0", "/root"), (0, "0 0 0", "/root")],
)  # fmt: skip
@pytest.mark.parametrize("warm", [0, 3])
def test_user_of_a_launch(plan, user, ids, home, warm):
    plan.warm(warm)
    done = out(plan, "id -u; id -g; echo $(grep ^Groups /proc/self/status | cut -f2 | tr ' ' '\\n' | sort -u) ; echo $HOME", user=user)
    uid, gid, groups, found = done.stdout.splitlines()
    assert (uid, gid, ",".join(dict.fromkeys(groups.split()))) == tuple(part if i < 2 else ",".join(sorted(part.split(","))) for i, part in enumerate(ids.split()))
    assert found == home
    assert out(plan, "id -u; echo $HOME").stdout == "0\n/root\n"  # the plan's own is as it was


def test_a_user_of_a_launch_has_no_more_rights_than_one_of_the_plan(rootfs):
    script = "grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status"
    with fastctr.Plan(rootfs=rootfs) as plain, fastctr.Plan(rootfs=rootfs, user="alice") as own:
        plain.warm(2)
        expected = out(own, script).stdout
        assert out(plain, script, user="alice").stdout == out(plain, script, user=(1000, 1001)).stdout == expected
        assert "CapEff:\t0000000000000000" in expected
        assert out(own, "id -u; id -g; echo $HOME", user="bob").stdout == "1002\n1002\n/\n"


def test_home_that_was_given_stays(plan):
    assert out(plan, "echo $HOME", user="alice", env={"HOME": "/x"}).stdout == "/x\n"
    assert out(plan, "echo $HOME", user="alice", env=["A=b"]).stdout == "/home/alice\n"
    with fastctr.Plan(rootfs=plan.spec.rootfs[0], env={"HOME": "/y"}) as other:
        assert out(other, "echo $HOME", user="alice").stdout == "/y\n"


@pytest.mark.parametrize("user", ["nobody-here", "alice:nogroup"])
def test_a_user_who_is_not_there(plan, user):
    plan.warm(1)
    with pytest.raises(fastctr.LaunchError) as caught:
        plan.run(["true"], user=user)
    assert caught.value.stage == "user"


@pytest.mark.parametrize("user", ["", "a b", -1, (1,), 1.5, "a:b:c", 2**32])
def test_a_user_who_is_none(plan, user):
    with pytest.raises(fastctr.SpecError, match="user"):
        plan.run(["true"], user=user)


def test_an_id_outside_the_map(rootfs):
    with fastctr.Plan(rootfs=rootfs, userns=True, uid_map=[(0, 100000, 1000)], gid_map=[(0, 100000, 1000)]) as plan:
        with pytest.raises(fastctr.LaunchError) as caught:
            plan.run(["true"], user=(5000, 5))
        assert caught.value.stage == "user"
        assert out(plan, "id -u", user=(999, 5)).stdout == "999\n"


def test_run_with_a_plan_takes_them_too(plan):
    done = fastctr.run(["cat", "/a"], plan=plan, user="alice", files={"/a": "x"}, outputs=["/a"], stdout=fastctr.PIPE)
    assert (done.stdout, done.files["/a"].read()) == (b"x", b"x")


def test_a_terminal_on_a_prepared_container(plan):
    plan.warm(3)
    for _ in range(3):
        with plan.container(["sh", "-c", "stty size; id -u; stat -c %u $(tty)"], tty=(7, 9), user="alice") as c:
            seen = b""
            while len(seen.split()) < 4 or not seen.endswith(b"\n"):
                seen += c.tty.read(64)
            assert seen.split() == [b"7", b"9", b"1000", b"1000"]
            assert c.wait() == 0


def test_an_exec_has_its_containers_user(plan):
    with plan.container(["sleep", "60"], user="alice", files={"/a": "x"}) as c:
        with c.exec(["sh", "-c", "id -u; id -g; cat /a; echo $HOME"], stdout=fastctr.PIPE) as other:
            assert other.communicate()[0].split() == [b"1000", b"1001", b"x/home/alice"]
        for kw in ({"user": 0}, {"files": {"/b": "y"}}):
            with pytest.raises(fastctr.FastctrError):
                c.exec(["true"], **kw)
