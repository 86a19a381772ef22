"""Layers upon layers: whiteouts, opaque marks, replacing, what a layer leaves to those below it. Unpacked one by
one and put together by overlayfs, unpacked over each other, and by umoci: the same tree each time."""

from __future__ import annotations

import io
import os
import random
import stat
import tarfile

import pytest

import image_support
import unpack_support as u
from image_support import entry

pytestmark = pytest.mark.needs_root


def layer(*entries):
    return image_support.make_layer(list(entries), "none")


BASE = [
    entry("./", mode=0o755, mtime=5),
    entry("etc/", mode=0o750, uid=7, gid=8, mtime=10, xattrs={"user.a": b"etc"}),
    entry("etc/passwd", "root", mtime=11),
    entry("etc/conf/", mode=0o711, mtime=12),
    entry("etc/conf/one", "1", uid=9),
    entry("etc/conf/two", "2"),
    entry("usr/", mtime=13),
    entry("usr/lib/", mode=0o2755, mtime=14),
    entry("usr/lib/so", "library", mode=0o4755, uid=5, gid=6, xattrs={"user.x": b"so"}),
    entry("lib", kind="symlink", link="usr/lib"),
    entry("abs", kind="symlink", link="/usr"),
    entry("loop", kind="symlink", link="loop"),
    entry("dir/", mtime=15), entry("dir/a", "a"), entry("dir/sub/"), entry("dir/sub/b", "b"), entry("dir/c/"),
    entry("file", "file"), entry("other", "other"),
    entry("fifo", kind="fifo"), entry("dev", kind="char", major=1, minor=3),
]  # fmt: skip

CASES = {
    "delete a file": [entry("etc/.wh.passwd")],
    "delete a directory": [entry(".wh.dir")],
    "delete what is not there": [entry("etc/.wh.nothing")],
    "opaque": [entry("dir/", mtime=30), entry("dir/.wh..wh..opq"), entry("dir/new", "n")],
    "opaque after its entries": [entry("dir/", mtime=30), entry("dir/new", "n"), entry("dir/sub/"), entry("dir/.wh..wh..opq")],
    "opaque without an entry": [entry("dir/.wh..wh..opq"), entry("dir/new", "n")],
    "opaque deep": [entry("dir/sub/.wh..wh..opq")],
    "whiteout, then anew": [entry(".wh.dir"), entry("dir/", mode=0o700), entry("dir/new", "n")],
    "anew, then whiteout": [entry("dir/", mode=0o700), entry("dir/new", "n"), entry(".wh.dir")],
    "whiteout, then implied": [entry(".wh.dir"), entry("dir/sub/new", "n")],
    "file for a file": [entry("file", "new", mode=0o600, mtime=40)],
    "directory for a file": [entry("file/", mtime=41), entry("file/in", "i")],
    "file for a directory": [entry("dir", "flat")],
    "link for a directory": [entry("dir", kind="symlink", link="etc")],
    "directory for a link": [entry("lib/", mode=0o700), entry("lib/own", "o")],
    "file for a link": [entry("lib", "file")],
    "file and its whiteout": [entry("file", "new"), entry(".wh.file")],
    "implied directories": [entry("etc/conf/three", "3"), entry("usr/share/doc/x", "x")],
    "through a link": [entry("lib/more", "m")],
    "through a link, deep": [entry("lib/deep/er/x", "m"), entry("lib/deep/.wh.y")],
    "through an absolute link": [entry("abs/lib/x", "x"), entry("abs/new/y", "y")],
    "whiteout through a link": [entry("lib/.wh.so")],
    "a link of this layer": [entry("away", kind="symlink", link="/dir/sub"), entry("away/x", "x")],
    "a link of this layer to a link below": [entry("way", kind="symlink", link="lib/d"), entry("way/x", "x")],
    "hard link below": [entry("so", kind="link", link="usr/lib/so")],
    "hard link below, twice": [entry("s1", kind="link", link="usr/lib/so"), entry("s2", kind="link", link="/usr/lib/so")],
    "hard link below, through a link": [entry("so", kind="link", link="lib/so")],
    "hard links below and here": [entry("etc/new", "n"), entry("l1", kind="link", link="etc/new"), entry("l2", kind="link", link="etc/passwd")],
    "hard link into an implied directory": [entry("lib/x/y", kind="link", link="file")],
    "replaced in the same layer": [entry("t", "1"), entry("t/"), entry("t/x", "x"), entry("t", "2"), entry("t", kind="fifo")],
    "directory twice": [entry("d/", mode=0o700, mtime=50), entry("d/x", "x"), entry("d/", mode=0o755, mtime=51)],
    "aufs": [entry(".wh..wh.aufs", "x"), entry(".wh..wh.plnk/", mode=0o700), entry(".wh..wh.orph/")],
    "names that begin so": [entry("etc/.wher", "x"), entry("etc/.w", "x")],
    "the top": [entry("./", mode=0o711, uid=3, gid=4, mtime=60), entry("x", "x")],
    "opaque top": [entry(".wh..wh..opq"), entry("etc/"), entry("etc/only", "o"), entry("etc/hosts", "h")],
}  # fmt: skip
NOT_UMOCI = {"aufs"}  # it takes them for whiteouts


def plain(tree, times=True):
    """Without what is overlayfs' own, and the times of directories nobody gave any."""
    for each in tree.values():
        each["xattrs"] = {k: v for k, v in each["xattrs"].items() if ".overlay." not in k}
        each["also"] = None  # an overlay shows a layer's link counts
    return tree


def without_new(tree, known):
    """Directories that only this layer has, and has no entry for: owner and mode are umoci's choice, times the clock's."""
    for path in known:
        tree.pop(path, None)
    return tree


@pytest.mark.needs_peer("umoci")
@pytest.mark.parametrize("case", CASES)
def test_case(case, tmp_path):
    layers = [layer(*BASE), layer(*CASES[case])]
    rooms = {name: tmp_path / name for name in ("stack", "merge", "umoci")}
    for room in rooms.values():
        room.mkdir()
    made = u.stack(layers, rooms["stack"])
    with u.overlay(made, tmp_path / "mnt") as mounted:
        stacked = plain(u.describe(mounted))
    over = plain(u.describe(u.merged(layers, rooms["merge"] / "o")))
    new = {path for path, each in over.items()
           if stat.S_ISDIR(each["kind"]) and (each["mtime"] == 0 or each["mtime"] > 1_800_000_000 * 10**9)}
    lines = u.differences(stacked, over, {(path, "mtime") for path in new})
    # The top of an overlay is its topmost layer's, and that was made by a whiteout alone.
    assert lines == []
    if case not in NOT_UMOCI:
        theirs = plain(u.describe(u.umoci([image_support.compress(each, "gzip") for each in layers], rooms["umoci"])))
        ignore = {(path, field) for path in new for field in ("mtime", "mode")}
        # umoci touches a directory's time when it deletes below it, and has no attributes for what it made
        ignore |= {(path, "mtime") for path in over if stat.S_ISDIR(over[path]["kind"])}
        assert u.differences(over, theirs, ignore) == []


def test_directories_keep_their_times(tmp_path):
    layers = [layer(*BASE), layer(entry("etc/.wh.passwd"), entry("etc/conf/new", "x"), entry("dir/a", "again"))]
    over = u.merged(layers, tmp_path / "o")
    assert [os.stat(over / each).st_mtime for each in (".", "etc", "etc/conf", "dir")] == [5, 10, 12, 15]
    made = u.stack(layers, tmp_path)
    assert [os.stat(made[0] / each).st_mtime for each in (".", "etc", "etc/conf", "dir")] == [5, 10, 12, 15]
    assert os.stat(made[0] / "etc").st_uid == 7 and os.getxattr(made[0] / "etc", "user.a") == b"etc"


def test_what_a_layer_looks_like(tmp_path):
    got = u.unpack_to(tmp_path / "l", layer(
        entry("a/.wh.b"), entry("c/"), entry("c/.wh..wh..opq"), entry(".wh.d"), entry("d/"), entry("d/x", "x"),
        entry("l", kind="link", link="e/f")))  # fmt: skip
    st = os.lstat(tmp_path / "l/a/b")
    assert stat.S_ISCHR(st.st_mode) and st.st_rdev == 0
    for each in ("c", "d"):
        assert os.getxattr(tmp_path / "l" / each, "trusted.overlay.opaque") == b"y"
    assert got.implied_dirs == [b"", b"a"] and got.missing_links == [(b"l", b"e/f")] and got.whiteouts == 3
    assert got.files == 7 and not got.opaque_root
    got = u.unpack_to(tmp_path / "u", layer(entry("c/"), entry("c/.wh..wh..opq"), entry(".wh..wh..opq")), userxattr=True)
    assert os.getxattr(tmp_path / "u/c", "user.overlay.opaque") == b"y" and got.opaque_root


def test_links_whose_target_comes_later(tmp_path):
    got = u.unpack_to(tmp_path / "l", layer(entry("a", kind="link", link="b"), entry("c", kind="link", link="a"),
                                            entry("b", "text"), entry("gone", kind="link", link="x"), entry("gone", "now")))  # fmt: skip
    assert got.missing_links == [] and os.stat(tmp_path / "l/a").st_nlink == 3
    assert (tmp_path / "l/gone").read_text() == "now"


def test_hard_link_to_nowhere(tmp_path):
    from fastctr import ArchiveError

    layers = [layer(*BASE), layer(entry("x", kind="link", link="no/such"))]
    with pytest.raises(ArchiveError, match='"x" is a hard link to "no/such", which is neither'):
        u.stack(layers, tmp_path)
    with pytest.raises(ArchiveError, match='"x": a hard link to "no/such", which is not there'):
        u.merged(layers, tmp_path / "o")
    with pytest.raises(ArchiveError, match="neither"):  # whited out here
        u.stack([layer(*BASE), layer(entry(".wh.file"), entry("x", kind="link", link="file"))], tmp_path / "two")


def test_overlay_attributes_are_not_taken(tmp_path):
    bad = {"trusted.overlay.redirect": b"/etc", "trusted.overlay.metacopy": b"", "trusted.overlay.opaque": b"y",
           "user.overlay.opaque": b"y", "user.overlay.redirect": b"/", "user.fine": b"1", "security.selinux": b"x",
           "system.other": b"1", "security.capability": bytes.fromhex("0100000200200000000000000000000000000000")}  # fmt: skip
    entries = [entry("d/", xattrs=bad), entry("f", "x", xattrs=bad)]
    u.unpack_to(tmp_path / "l", layer(*entries))
    assert os.listxattr(tmp_path / "l/d") == ["user.fine"] or set(os.listxattr(tmp_path / "l/d")) == {"user.fine", "security.capability"}
    assert set(os.listxattr(tmp_path / "l/f")) == {"user.fine", "security.capability"}
    out = io.BytesIO()  # libarchive's form of the same
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        info, body = entry("f", "x")
        info.pax_headers = {"LIBARCHIVE.xattr.trusted.overlay.redirect": "L2V0Yw", "LIBARCHIVE.xattr.user.a%20b": "AAECAw=="}
        tar.addfile(info, io.BytesIO(body))
    u.unpack_to(tmp_path / "b", out.getvalue())
    assert {n: os.getxattr(tmp_path / "b/f", n) for n in os.listxattr(tmp_path / "b/f")} == {"user.a b": b"\0\1\2\3"}


CAP = bytes.fromhex("0100000200200000000000000000000000000000")
ACL = bytes.fromhex("02000000" "01000600ffffffff" "02000600" "05000000" "04000400ffffffff" "10000600ffffffff" "20000400ffffffff")  # fmt: skip


def test_shifted_ids(tmp_path):
    maps = {"uid_map": [(0, 100_000, 1000), (1000, 500_000, 10)], "gid_map": [(0, 200_000, 65536)]}
    data = layer(entry("d/", uid=1, gid=2, mode=0o2755), entry("d/f", "x", uid=1005, gid=5, mode=0o6755, xattrs={
        "security.capability": CAP, "system.posix_acl_access": ACL}), entry("s", kind="symlink", link="d", uid=3, gid=3))  # fmt: skip
    for mode in ("layer", "merge"):
        out = tmp_path / mode
        u.unpack_to(out, data, mode=mode, **maps)
        st = os.stat(out / "d/f")
        assert (st.st_uid, st.st_gid, stat.S_IMODE(st.st_mode) & 0o7007) == (500_005, 200_005, 0o6004)
        assert os.getxattr(out / "d/f", "security.capability")[-4:] == (100_000).to_bytes(4, "little")
        assert (100_005).to_bytes(4, "little") in os.getxattr(out / "d/f", "system.posix_acl_access")
        assert (os.stat(out / "d").st_uid, os.stat(out / "d").st_mode & 0o7777) == (100_001, 0o2755)
        assert os.lstat(out / "s").st_uid == 100_003
    assert os.stat(tmp_path / "layer").st_uid == 100_000  # the top is the archive's root's
    from fastctr import ArchiveError

    with pytest.raises(ArchiveError, match='"x": its user id 2000 is not in the map'):
        u.unpack_to(tmp_path / "no", layer(entry("x", uid=2000)), **maps)


def test_one_owner(tmp_path):
    data = layer(entry("d/", uid=1, gid=2), entry("d/f", "x", uid=33, gid=5, xattrs={"system.posix_acl_access": ACL}))
    got = u.unpack_to(tmp_path / "o", data, owner=(77, 78))
    assert {(os.stat(tmp_path / "o" / each).st_uid, os.stat(tmp_path / "o" / each).st_gid) for each in (".", "d", "d/f")} == {(77, 78)}
    assert got.skipped_xattrs == 1
    u.unpack_to(tmp_path / "m", data, uid_map=[(0, 55, 1)], gid_map=[(0, 56, 1)])
    assert os.stat(tmp_path / "m/d/f").st_uid == 55


def test_below_a_directory_with_setgid_and_acl(tmp_path):
    """What is made there would get another group and mode by itself."""
    for mode in ("layer", "merge"):
        top = tmp_path / mode
        top.mkdir()
        os.chown(top, 0, 1234)
        top.chmod(0o2777)
        default = bytes.fromhex("02000000" "01000700ffffffff" "04000700ffffffff" "20000000ffffffff")  # fmt: skip
        os.setxattr(top, "system.posix_acl_default", default)
        u.unpack_to(top, layer(entry("d/", mode=0o755), entry("d/f", "x", mode=0o644), entry("s", kind="symlink", link="x"),
                               entry("p", kind="fifo", mode=0o666)), mode=mode)  # fmt: skip
        got = {each: (os.lstat(top / each).st_gid, oct(os.lstat(top / each).st_mode & 0o7777)) for each in ("d", "d/f", "p")}
        assert got == {"d": (0, "0o755"), "d/f": (0, "0o644"), "p": (0, "0o666")}
        assert os.lstat(top / "s").st_gid == 0


def test_random_layers(tmp_path):
    """Stacks of three random layers: overlay and merge agree, and umoci where it was asked."""
    rng = random.Random(20261124)
    names = ["a", "b", "a/c", "a/d", "b/c", "a/c/e", "a/c/f", "b/g", "b/g/h"]
    for _ in range(12):
        layers = []
        for _ in range(3):
            entries, dirs, seen = [], set(), set()
            for name in rng.sample(names, rng.randrange(1, len(names))):
                folder, _, base = name.rpartition("/")
                if any(name.startswith(each + "/") for each in seen - dirs) or any(
                        each.startswith(name + "/") for each in seen):
                    continue
                kind = rng.choice(["file", "dir", "dir", "whiteout", "opaque", "file"])
                if kind == "whiteout":
                    entries.append(entry((folder + "/" if folder else "") + ".wh." + base))
                    seen.add(name)
                elif kind == "opaque":
                    entries += [entry(name + "/", mtime=1), entry(name + "/.wh..wh..opq")]
                    dirs.add(name)
                    seen.add(name)
                elif kind == "dir":
                    entries.append(entry(name + "/", mode=rng.choice([0o755, 0o700]), mtime=2))
                    dirs.add(name)
                    seen.add(name)
                else:
                    entries.append(entry(name, str(rng.random())))
                    seen.add(name)
                for n in range(len(name.split("/")) - 1):
                    if (parent := "/".join(name.split("/")[: n + 1])) not in seen:
                        dirs.add(parent)
            layers.append(layer(*entries))
        room = tmp_path / str(rng.random())
        room.mkdir()
        try:
            over = plain(u.describe(u.merged(layers, room / "merge"), times=False))
        except Exception as error:
            assert "is not a directory" in str(error)  # below a file of a lower layer: refused when merging
            u.remove(room)
            continue
        with u.overlay(u.stack(layers, room), room / "mnt") as mounted:
            stacked = plain(u.describe(mounted, times=False))
        assert u.differences(stacked, over) == [], [
            [m.name for m in u.members(each)] for each in layers]
        u.remove(room)


def as_nobody(call):
    """Run call() in a child of another user, and return what it returns, as text."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            text = str(call())
        except BaseException as error:
            text = f"{type(error).__name__}: {error}"
        os.write(writing, text.encode())
        os._exit(0)
    os.close(writing)
    with open(reading) as file:
        text = file.read()
    os.waitpid(pid, 0)
    return text


def test_unprivileged(tmp_path):
    from fastctr import _core  # noqa: F401 so that the child need not
    from fastctr.image import compression, settle, unpack  # noqa: F401

    for path in (tmp_path, *tmp_path.parents[:2]):
        path.chmod(0o755)
    (tmp_path / "o").mkdir()
    os.chown(tmp_path / "o", 65534, 65534)
    shut = [entry("d/", mode=0o500, uid=33), entry("d/f", "x", uid=5, gid=7, mode=0o4711, xattrs={"trusted.a": b"1", "user.b": b"2"}),
            entry("d/.wh.gone"), entry("none/", mode=0), entry("none/x", "x"), entry("o/.wh..wh..opq"),
            entry("s", kind="symlink", link="x", uid=9)]  # fmt: skip
    fd = os.open(tmp_path / "o", u.DIR)
    try:
        text = as_nobody(lambda: u.unpack_to(tmp_path / "o/l", layer(*shut), userxattr=True).skipped_xattrs)
        assert text == "1"
        text = as_nobody(lambda: u.unpack_to(tmp_path / "o/m", layer(*shut), mode="merge").files)
        assert text == "7"
        for top in (tmp_path / "o/l", tmp_path / "o/m"):
            assert {os.lstat(top / each).st_uid for each in (".", "d", "d/f", "s")} == {65534}
            assert [oct(os.stat(top / each).st_mode & 0o7777) for each in ("d", "d/f", "none")] == ["0o500", "0o4711", "0o0"]
        assert os.getxattr(tmp_path / "o/l/o", "user.overlay.opaque") == b"y" and os.listxattr(tmp_path / "o/l/d/f") == ["user.b"]
        assert stat.S_ISCHR(os.lstat(tmp_path / "o/l/d/gone").st_mode)
        more = layer(entry("d/new", "n"), entry("none/y", "y"), entry("d/.wh.f"))
        text = as_nobody(lambda: u.unpack_to(tmp_path / "o/m", more, mode="merge").files)
        assert text == "3" and os.listdir(tmp_path / "o/m/d") == ["new"]
        assert [oct(os.stat(tmp_path / "o/m" / each).st_mode & 0o7777) for each in ("d", "none")] == ["0o500", "0o0"]
        dev = layer(entry("null", kind="char", major=1, minor=3))
        text = as_nobody(lambda: u.unpack_to(tmp_path / "o/dev", dev))
        assert text.startswith('ArchiveError: test: "null": a device, which may not be made here; unpack as root')
        text = as_nobody(lambda: [_core.remove_tree(fd, each) for each in ("l", "m", "dev")])
        assert text == "[None, None, None]" and os.listdir(tmp_path / "o") == []
    finally:
        os.close(fd)
