"""Layers as a container's root: many of them, merged beforehand, for user namespaces, from EROFS images."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest
from snapshot_support import LOOK, MAP, UserFolder, layer, stack
from snapshot_support import run as run_python
from support import lines, run, sh

import fastctr
from fastctr import LaunchError, SpecError

pytestmark = pytest.mark.needs_root


@pytest.fixture
def mkfs():
    tool = shutil.which("mkfs.erofs")
    if tool is None:
        pytest.skip("needs mkfs.erofs: install erofs-utils")

    def make(directory):
        image = f"{os.path.dirname(directory)}/layer.erofs"
        subprocess.run([tool, "--quiet", image, directory], check=True, stdout=subprocess.DEVNULL)
        return f"erofs:{image}"

    return make


@pytest.fixture
def erofs(mkfs, tmp_path):
    """mkfs, where the kernel takes its images."""
    from fastctr import _core

    (tmp_path / "probe").mkdir()
    try:
        os.close(_core.mount_layers([mkfs(str(tmp_path / "probe"))]))
    except LaunchError as error:
        pytest.skip(f"EROFS images cannot be mounted from files here (Linux 6.12): {error}")
    return mkfs


@pytest.mark.parametrize("count", [2, 8, 9, 64, 128, 400])
def test_any_number_of_layers(rootfs, tmp_path, count):
    layers = stack(tmp_path, rootfs, count)
    for how in ({}, {"read_only": True}, {"uid_map": MAP}):
        assert lines(LOOK, rootfs=layers, **how) == [str(count - 2), "new", "0"], how
    if count > 2:
        assert sh("echo x > /only0 && rm /only0 && mkdir /only0 && ls -d /only0", rootfs=layers) == "/only0\n"
    assert os.path.exists(f"{layers[0]}/opq/new" if count == 2 else f"{layers[0]}/only0")


def test_too_many_layers_are_refused(rootfs, tmp_path):
    with pytest.raises(SpecError, match="500"):
        fastctr.Spec(rootfs=[layer(tmp_path, str(n)) for n in range(501)])


def test_the_merged_layers_take_no_part_in_the_mount_table(rootfs, tmp_path):
    layers = stack(tmp_path, rootfs, 60)
    inside = sh("cat /proc/self/mountinfo", rootfs=layers)
    assert "/l/0" in inside
    assert "/l/1" not in inside  # one directory for all of them
    plan = fastctr.Plan(rootfs=layers)
    plan.warm(2)
    assert str(tmp_path) not in open("/proc/self/mountinfo").read()


def test_plain_directories_are_looked_at_each_time(rootfs, tmp_path):
    """Only a store's layers never change: with other directories a container sees what is there now."""
    layers = []
    for number in range(20):
        (tmp_path / f"p{number}").mkdir()
        layers.append(tmp_path / f"p{number}")
    plan = fastctr.Plan(rootfs=[*layers, rootfs])
    look = ["sh", "-c", "test -e /late && echo there; true"]
    assert plan.run(look, capture_output=True, text=True).stdout == ""
    (tmp_path / "p7/late").touch()
    assert plan.run(look, capture_output=True, text=True).stdout == "there\n"


def test_a_layer_put_in_anew_is_seen(rootfs, tmp_path):
    layers = stack(tmp_path, rootfs, 12)
    plan = fastctr.Plan(rootfs=layers)
    assert plan.run(["true"]).returncode == 0
    os.rename(tmp_path / "n0", tmp_path / "old")
    layer(tmp_path, "n0", {"fresh": ""})
    assert plan.run(["sh", "-c", "test -e /fresh && ! test -e /only0"]).returncode == 0


def test_marks_count_in_a_user_namespace(rootfs, tmp_path):
    """trusted.overlay.* cannot be read from inside: root merges the layers before it goes in."""
    layers = stack(tmp_path, rootfs, 2)
    out = lines("ls /opq; ls /gone 2>&1 | grep -c 'No such'; rm -r /opq && mkdir /opq && ls /opq | wc -l; stat -c %u:%g /etc",
                rootfs=layers, uid_map=MAP)
    assert out == ["new", "1", "0", "0:0"]


def test_a_kept_upper_in_a_user_namespace_hides_what_it_replaces(rootfs, tmp_path):
    upper = tmp_path / "upper"
    layers = stack(tmp_path, rootfs, 3)
    sh("rm -r /opq && mkdir /opq && touch /opq/mine", rootfs=layers, upper=upper, uid_map=MAP)
    assert lines("ls /opq", rootfs=layers, upper=upper, uid_map=MAP) == ["mine"]
    assert os.getxattr(upper / "opq", "user.overlay.opaque") == b"y"


def test_owners_are_shifted_in_every_layer(rootfs, tmp_path):
    layers = stack(tmp_path, rootfs, 12)
    os.chown(f"{layers[3]}/only3", 7, 8)
    os.chown(f"{layers[-1]}/etc/marker", 1000, 1001)
    out = lines("stat -c %u:%g /only3 /etc/marker /only4; chown 9:9 /only3 && stat -c %u:%g /only3", rootfs=layers, uid_map=MAP)
    assert out == ["7:8", "1000:1001", "0:0", "9:9"]
    assert (os.stat(f"{layers[3]}/only3").st_uid, os.stat(f"{layers[3]}/only3").st_gid) == (7, 8)


def test_layers_on_an_overlay(rootfs, tmp_path):
    """It goes one level deep less: they are not merged, and refused where they would have to be."""
    for name in ("lower", "up", "work", "merged"):
        (tmp_path / name).mkdir()
    options = f"lowerdir={tmp_path}/lower,upperdir={tmp_path}/up,workdir={tmp_path}/work"
    done = subprocess.run(["mount", "-t", "overlay", "-o", options, "overlay", tmp_path / "merged"], check=False)
    if done.returncode != 0:
        pytest.skip("no overlay can be mounted where the tests' files lie")
    try:
        layers = [layer(tmp_path / "merged", f"n{n}", {f"only{n}": ""}) for n in range(12)]
        assert lines("ls -d /only* | wc -l", rootfs=[*layers, rootfs]) == ["12"]
        layers.append(f"{tmp_path}/merged/base/diff")
        shutil.copytree(rootfs, layers[-1], symlinks=True)
        shutil.copy(tmp_path / "merged/n0/layer.json", tmp_path / "merged/base")
        assert lines("ls -d /only* | wc -l", rootfs=layers) == ["12"]
        with pytest.raises(LaunchError, match="on an overlay file system"):
            fastctr.run(["true"], rootfs=layers, uid_map=MAP)
    finally:
        fastctr.shutdown()
        subprocess.run(["umount", tmp_path / "merged"], check=True)


# ---- EROFS


@pytest.mark.parametrize("count", [1, 2, 20])
def test_erofs_images(rootfs, tmp_path, erofs, count):
    layers = stack(tmp_path, rootfs, max(count, 2))[-count:]
    images = [erofs(each) for each in layers]
    for how in ({}, {"read_only": True}, {"uid_map": MAP}, {"writable": "disk", "scratch_dir": tmp_path}):
        if count == 1:
            out = lines("ls /opq; echo x > /new && cat /new", rootfs=images, **how) if "read_only" not in how else ["old", "x"]
            assert out == ["old", "x"]
            assert run(["touch", "/x"], rootfs=images, read_only=True).returncode == 1
        else:
            assert lines(LOOK, rootfs=images, **how) == [str(count - 2), "new", "0"], how
    assert " erofs " not in open("/proc/self/mountinfo").read()
    assert lines("head -c 4 /etc/passwd", rootfs=[*images[:-1], layers[-1]]) == ["root"]  # mixed


def test_erofs_images_keep_everything(rootfs, tmp_path, erofs):
    top = layer(tmp_path, "top", {"file": "x" * 5000, "suid": "s"})
    os.chown(f"{top}/file", 70000, 80000)
    os.chmod(f"{top}/suid", 0o4711)
    os.link(f"{top}/file", f"{top}/second")
    os.setxattr(f"{top}/file", "user.note", b"here")
    os.utime(f"{top}/file", ns=(1_600_000_000_123_456_789, 1_600_000_000_123_456_789))
    os.mkfifo(f"{top}/pipe")
    out = lines("stat -c '%a %u:%g %h %s %Y' /file; stat -c %a /suid; stat -c %F /pipe; test /file -ef /second && echo same",
                rootfs=[erofs(top), rootfs])
    assert out == ["644 70000:80000 2 5000 1600000000", "4711", "fifo", "same"]


def test_erofs_refusals(rootfs, tmp_path, mkfs):
    image = mkfs(layer(tmp_path, "top"))
    with pytest.raises(SpecError, match="does not exist"):
        fastctr.Spec(rootfs=["erofs:/nowhere", rootfs])
    with pytest.raises(SpecError, match="is not a file"):
        fastctr.Spec(rootfs=f"erofs:{tmp_path}")
    with pytest.raises(SpecError, match="would change the image"):
        fastctr.Spec(rootfs=image, writable="direct")
    (tmp_path / "damaged").write_bytes(b"\0" * 8192)
    with pytest.raises(LaunchError) as caught:
        fastctr.run(["true"], rootfs=[f"erofs:{tmp_path}/damaged", rootfs])
    assert caught.value.stage == "rootfs"
    assert str(tmp_path / "damaged") in str(caught.value)


# ---- as an unprivileged user


AS_USER = """
import os, sys
import fastctr
from snapshot_support import LOOK, layer, stack
top = sys.argv[1]
base = f"{top}/root"
os.makedirs(f"{base}/bin")
import shutil
shutil.copy("/bin/busybox", f"{base}/bin/busybox")
for name in ("sh", "ls", "wc", "test", "stat", "rm", "mkdir", "touch"):
    os.symlink("busybox", f"{base}/bin/{name}")
import snapshot_support
snapshot_support.layer.__defaults__ = (*snapshot_support.layer.__defaults__[:-1], "user.overlay.opaque")
layers = stack(top, base, int(sys.argv[2]))
for how in ({}, {"read_only": True}):
    print(fastctr.run(["sh", "-c", LOOK], rootfs=layers, capture_output=True, text=True, **how).stdout.split())
print(fastctr.run(["sh", "-c", "rm -r /opq && mkdir /opq && touch /opq/x && ls /opq"], rootfs=layers, capture_output=True,
                  text=True).stdout.split())
try:
    fastctr.Spec(rootfs=["erofs:/etc/passwd", layers[0]])
except fastctr.SpecError as error:
    print(error)
"""


@pytest.mark.needs_userns
@pytest.mark.parametrize("count", [3, 130])
def test_many_layers_of_a_user(count):
    if not os.path.exists("/bin/busybox"):
        pytest.skip("needs a static busybox: install the package busybox-static")
    with UserFolder() as folder:
        out = run_python(AS_USER, folder, count, user=True)
    if len(out) < 4:
        pytest.fail("\n".join(out))
    assert out[:2] == [str([str(count - 2), "new", "0"])] * 2
    assert out[2] == "['x']"
    assert "can be mounted by root alone" in out[3]
