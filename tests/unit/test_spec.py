"""Spec: every field checked before anything is made, compared by content, handed to C in full."""

from __future__ import annotations

import os
import pickle
import re
import socket
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from refusal import refused

from fastctr import native, seccomp
from fastctr.errors import SpecError
from fastctr.spec import FIELDS, LIMITS, MASKED_PATHS, READONLY_PATHS, Spec

CSRC = Path(__file__).parents[2] / "csrc"
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
plain = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@pytest.fixture(autouse=True)
def no_compiler(monkeypatch):
    """These tests are about the plain values; the filter's program is tested elsewhere."""
    monkeypatch.setattr(seccomp, "compile", lambda *_: b"\0" * 8)


@pytest.fixture
def layers(tmp_path):
    made = []
    for name in ("a:b", "c,d", "plain"):
        path = tmp_path / name
        path.mkdir()
        made.append(str(path))
    return made


# ---- errors ----


def test_message_names_field_value_and_what_would_do():
    error = refused("memory", memory="64q")
    assert str(error).startswith('memory: "64q" is not a size; use bytes or a number with k, m, g (as "64m")')
    assert error.value == "64q" and 'as "64m"' in error.hint


def test_unknown_keyword_suggests_the_nearest():
    error = refused("memry", memry="64m")
    assert isinstance(error, TypeError) and error.hint == 'did you mean "memory"?'


def test_errors_survive_pickling():
    for kw in ({"memory": "64q"}, {"memry": 1}):
        error = refused(next(iter(kw)), **kw)
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is type(error) and str(again) == str(error) and again.field == error.field


@pytest.mark.parametrize("name", ["privileged", "network_mode", "environment", "security_opt"])
def test_docker_names_that_differ_say_so(name):
    assert "use" in str(refused(name, **{name: "x"}))


# ---- rootfs ----


def test_rootfs_is_required_unless_there_is_no_mount_namespace():
    with pytest.raises(SpecError, match="rootfs"):
        Spec()
    assert Spec(mnt="host").rootfs == "host"
    assert native.to_native(Spec(mnt="host"))["rootfs_kind"] == native.ROOT_NONE


def test_layers_keep_their_order_and_odd_names(layers):
    spec = Spec(rootfs=layers)
    assert spec.rootfs == tuple(layers)
    n = spec.to_native()
    assert n["rootfs_kind"] == native.ROOT_OVERLAY and n["lower"] == layers and n["upper"] is None


@pytest.mark.parametrize(
    ("kw", "field"),
    [
        ({"rootfs": "/nowhere/at/all"}, "rootfs"),
        ({"rootfs": "/etc/passwd"}, "rootfs"),
        ({"rootfs": "/"}, "rootfs"),
        ({"rootfs": []}, "rootfs"),
        ({"rootfs": 7}, "rootfs"),
        ({"rootfs": "a\0b"}, "rootfs"),
        ({"writable": "direct"}, "writable"),
        ({"writable": "yes"}, "writable"),
        ({"writable": "disk", "read_only": True}, "writable"),
        ({"writable": "disk", "scratch_size": "1m"}, "scratch_size"),
        ({"scratch_dir": "/var/tmp"}, "scratch_dir"),
        ({"upper": "/nowhere/up"}, "upper"),
        ({"upper": "/tmp/up", "read_only": True}, "upper"),
        ({"upper": "/tmp/up", "writable": "tmpfs"}, "writable"),
        ({"read_only": "false"}, "read_only"),
        ({"mnt": "host", "rootfs": "/etc"}, "rootfs"),
        ({"mnt": "host", "tmpfs": ["/x"]}, "tmpfs"),
        ({"mnt": "host", "writable": "disk"}, "writable"),
        ({"dev": False, "shm_size": "1m"}, "shm_size"),
    ],
)
def test_root_that_cannot_work(kw, field):
    refused(field, **kw)


def test_layers_must_be_apart(layers):
    inner = Path(layers[0], "inner")
    inner.mkdir()
    refused("rootfs", rootfs=[layers[0], layers[0]])
    refused("rootfs", rootfs=[layers[0], str(inner)])
    refused("upper", rootfs=layers[0], upper=str(inner / "up"))
    refused("writable", rootfs=layers[:2], writable="direct")


def test_kinds_of_root(layers, tmp_path):
    one = layers[2]
    assert Spec(rootfs=one, writable="direct").to_native()["rootfs_kind"] == native.ROOT_DIR
    up = str(tmp_path / "up")
    n = Spec(rootfs=one, upper=up).to_native()
    assert (n["upper"], n["work"]) == (up, up + ".work")
    assert Spec(rootfs=one, writable="disk", scratch_dir=tmp_path).to_native()["scratch"] == str(tmp_path)
    assert Spec(rootfs=one, scratch_size="64m").to_native()["scratch_size"] == 64 << 20
    n = Spec(rootfs=one, read_only=True).to_native()  # empty: /proc and so on must be made in an overlay
    assert n["rootfs_kind"] == native.ROOT_OVERLAY and n["rootfs_readonly"]
    for name in ("proc", "sys", "dev"):
        os.mkdir(os.path.join(one, name))
    n = Spec(rootfs=one, read_only=True).to_native()
    assert n["rootfs_kind"] == native.ROOT_DIR and n["rootfs_readonly"] and n["rootfs"] == one
    n = Spec(rootfs=one, read_only=True, files={"/etc/x": b""}).to_native()
    assert n["rootfs_kind"] == native.ROOT_OVERLAY


def test_a_directory_made_anew_is_another_spec(layers):
    first = Spec(rootfs=layers[0])
    os.rename(layers[0], layers[0] + ".old")
    os.mkdir(layers[0])
    assert Spec(rootfs=layers[0]) != first


# ---- namespaces ----


def test_namespaces_by_default_and_by_choice():
    ns = Spec(rootfs="host").to_native()["ns"]
    assert ns == {
        **dict.fromkeys(("mnt", "pid", "net", "ipc", "uts", "cgroup"), ("new", None)),
        "user": ns["user"],
        "time": ("host", None),
    }
    assert Spec(rootfs="host", network="host").to_native()["ns"]["net"] == ("host", None)
    assert Spec(rootfs="host", monotonic=5).to_native()["ns"]["time"] == ("new", None)


def test_joining_by_path_pid_and_pidfd():
    me = os.getpid()
    for value in (f"/proc/{me}/ns/net", f"path:/proc/{me}/ns/net", Path(f"/proc/{me}/ns/net")):
        assert Spec(rootfs="host", network=value).to_native()["ns"]["net"] == (
            "join",
            ("path", f"/proc/{me}/ns/net"),
        )
    for value in (me, f"pid:{me}"):
        assert Spec(rootfs="host", network=value).to_native()["ns"]["net"] == ("join", ("pid", me))
    fd = os.pidfd_open(me)
    try:
        spec = Spec(rootfs="host", network=f"pidfd:{fd}")
        assert spec.to_native()["ns"]["net"] == ("join", ("pidfd", fd))
        with os.fdopen(os.dup(fd)) as file:
            assert Spec(rootfs="host", network=file).network[2] == spec.network[2]
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    "value",
    [
        "bridge",
        "/etc/passwd",
        "/nowhere",
        "pid:0",
        "pid:4194305",
        "pidfd:99999",
        0,
        -4,
        "container:x",
        True,
        object(),
        "",
        f"/proc/{os.getpid()}/ns/uts",
        "/dev/null",
    ],
)
def test_namespace_that_cannot_be_joined(value):
    refused("network", network=value)


def test_pidfd_must_be_one():
    left, right = socket.socketpair()
    with left, right:
        refused("network", network=left)


@root_only
def test_userns_maps():
    maps = Spec(rootfs="host", uid_map=[(0, 100000, 65536)])
    n = maps.to_native()
    assert n["ns"]["user"] == ("new", None) and n["uid_map"] == n["gid_map"] == [(0, 100000, 65536)]
    assert Spec(rootfs="host", uid_map="0:100000:65536") == maps
    refused("userns", userns=True)
    refused("uid_map", userns="host", uid_map=[(0, 1, 1)])
    refused("uid_map", uid_map=[(0, 1, 5), (3, 100, 5)])
    refused("uid_map", uid_map=[(0, 1)])
    refused("uid_map", uid_map=[(0, 2**32 - 2, 5)])
    refused("user", uid_map=[(0, 100000, 10)], user="1000:1000")
    refused("groups", uid_map=[(0, 100000, 10)], groups=[99])


def test_unprivileged_user_gets_a_user_namespace(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(os, "getegid", lambda: 1001)
    n = Spec(rootfs="host").to_native()
    assert n["ns"]["user"] == ("new", None)
    assert (n["uid_map"], n["gid_map"]) == ([(0, 1000, 1)], [(0, 1001, 1)])
    assert n["lower"] == [] and n["devrules"] == []
    assert any(mount["target"] == "/usr" and mount["attr_set"] & 1 for mount in n["mounts"])
    refused("userns", userns="host")
    refused("groups", groups=[0])


def test_names_need_an_own_namespace():
    assert Spec(rootfs="host", hostname="box", domainname="lan").to_native()["hostname"] == "box"
    assert Spec(rootfs="host").to_native()["hostname"] != socket.gethostname()
    refused("hostname", hostname="box", uts="host")
    for bad in ("", "a b", "-a", "a" * 65, "ä", "a..b", "x\0", 5):
        refused("hostname", hostname=bad)
    refused("sysctls", sysctls={"net.core.somaxconn": 9}, network="host")
    refused("sysctls", sysctls={"kernel.msgmax": 9}, ipc="host")


def test_clock_offsets():
    n = Spec(rootfs="host", monotonic="1h30m", boottime=-1.5).to_native()
    assert (n["monotonic_ns"], n["boottime_ns"]) == (5400 * 10**9, -1500000000)
    refused("monotonic", monotonic=-int(time.monotonic()) - 10)
    refused("monotonic", monotonic=1, timens="host")
    refused("boottime", boottime="soon")


# ---- the whole ----


def header_members(name):
    text = re.sub(r"/\*.*?\*/", "", (CSRC / "fctr.h").read_text(), flags=re.DOTALL)
    body = re.search(r"struct " + name + r" \{(.*?)\n?\};", text, re.DOTALL).group(1)
    members = []
    for statement in body.split(";"):
        for part in statement.split(","):
            word = re.search(r"(\w+)\s*(\[\w+\])?\s*$", part.strip())
            if word:
                members.append(word.group(1))
    return members


def test_native_has_exactly_the_members_of_the_header():
    derived = {
        "n_" + n
        for n in (
            "lower",
            "uid_map",
            "gid_map",
            "mounts",
            "devices",
            "masked",
            "readonly",
            "sysctl",
            "rlimits",
            "groups",
            "devrules",
        )
    } | {"seccomp_len", "affinity_len", "tenant", "zygote"}  # the last two: who compiles it says so, not the spec
    n = Spec(rootfs="host").to_native()
    assert set(n) == set(header_members("fctr_spec")) - derived
    assert set(n["limits"]) == set(header_members("fctr_limits")) - {"n_io", "n_huge", "n_unified"}
    assert set(n["mounts"][0]) == set(header_members("fctr_mount")) - {"n_data", "idmap_fd"} | {"idmap"}
    for field, member in (
        ("devices", "fctr_device"),
        ("rlimits", "fctr_rlimit"),
        ("devrules", "fctr_devrule"),
    ):
        spec = Spec(rootfs="host", devices=["/dev/null:/dev/n"], ulimits={"core": 0})
        assert len(spec.to_native()[field][0]) == len(header_members(member))


def test_default_lists_reach_the_core():
    n = Spec(rootfs="host").to_native()
    assert n["masked"] == list(MASKED_PATHS) and n["readonly"] == list(READONLY_PATHS)
    assert Spec(rootfs="host", masked_paths=[]).to_native()["masked"] == []


def test_equal_by_content_and_immutable():
    a = Spec(rootfs="host", memory="64m", env={"A": "1"}, pid="private")
    b = Spec(memory=64 << 20, env=["A=1"], rootfs="host")
    assert a == b and hash(a) == hash(b) and a.key == b.key and a != Spec(rootfs="host")
    assert a.replace(memory="32m").memory == 32 << 20 and a.memory == 64 << 20
    assert pickle.loads(pickle.dumps(a)) == a
    for name in ("memory", "new", "key"):
        with pytest.raises(AttributeError):
            setattr(a, name, 1)
    with pytest.raises(AttributeError):
        a.nothing  # noqa: B018


def test_given_lists_may_change_afterwards():
    caps = ["CHOWN"]
    spec = Spec(rootfs="host", cap_drop=caps)
    caps.append("KILL")
    assert spec.replace(memory="1m").cap_drop == ("CAP_CHOWN",)


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=8)
    | st.sampled_from(
        ["host", "private", "none", "/", "/tmp", "64m", "-1", "0-3", "a=b", "1:2:3", "/dev/null", "default"]
    ),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=8) | st.integers(), inner, max_size=3)
        | st.tuples(inner, inner)
    ),
    max_leaves=6,
)


@plain
@given(st.dictionaries(st.sampled_from(sorted(FIELDS) + sorted(LIMITS)), anything, max_size=4))
def test_any_value_makes_a_spec_or_a_spec_error(kw):
    try:
        spec = Spec(**{"rootfs": "host", **kw})
    except SpecError as error:
        assert error.field in FIELDS or error.field in LIMITS
        assert str(error) and pickle.loads(pickle.dumps(error)).where == error.where
        return
    again = Spec(**{"rootfs": "host", **kw})
    assert spec == again and hash(spec) == hash(again)
    repr(spec)
    try:
        spec.to_native()
    except SpecError:
        assert kw.get("cap_add") or kw.get("seccomp")
