"""What the process inside is to be: Spec's fields about it, refused or handed on."""

from __future__ import annotations

import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from refusal import refused

from fastctr import process, seccomp
from fastctr.errors import SpecError
from fastctr.spec import Spec

plain = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@pytest.fixture(autouse=True)
def no_compiler(monkeypatch):
    """These tests are about the plain values; the filter's program is tested elsewhere."""
    monkeypatch.setattr(seccomp, "compile", lambda *_: b"\0" * 8)


@pytest.mark.parametrize(
    ("value", "native_user"),
    [
        ("root", (None, 0, 0)),
        (0, (None, 0, 0)),
        ("7", ("7", 0, 0)),
        (7, ("7", 0, 0)),
        ("7:8", (None, 7, 8)),
        ((7, 8), (None, 7, 8)),
        ("www-data:adm", ("www-data:adm", 0, 0)),
    ],
)
def test_user_forms(value, native_user):
    n = Spec(rootfs="host", user=value).to_native()
    assert (n["user"], n["uid"], n["gid"]) == native_user


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[("user", v) for v in ("", ":", "a:", ":b", "a b", "-x", -1, 2**32, (1,), (1, "x"), 1.5, True)],
        *[("groups", v) for v in (["adm"], [-1], 5)],
        *[("env", v) for v in ({"A=B": "c"}, {"": "x"}, {"A": 1.5}, {"A": "x\0"}, ["=x"], 5)],
        *[
            ("ulimits", v)
            for v in (
                {"nofil": 3},
                {"nofile": "x"},
                {"nofile": (5, 3)},
                {"nofile": (1, 2, 3)},
                ["x"],
                3,
                {"nofile": 2**40},
            )
        ],
        *[
            ("sysctls", v)
            for v in (
                {"vm.swappiness": 1},
                {"kernel.hostname": "x"},
                {"net..x": 1},
                ["x"],
                {"net.a": None},
                {"net/core/a.b": 1},
            )
        ],
        *[("oom_score_adj", v) for v in (-1001, 1001, "x", 1.5)],
        *[("nice", v) for v in (-21, 20)],
        *[("cpu_affinity", v) for v in ("", "3-1", "8000", "a", [], [-1], {})],
        *[("umask", v) for v in (-1, 0o1000, "9", "abc")],
        *[("cwd", v) for v in ("x", "/a/../b", "", 5)],
        *[("cap_add", v) for v in (["NOPE"], [5])],
        *[("capabilities", v) for v in ({"x": []}, [], {"bounding": ["NOPE"]})],
        *[("seccomp", v) for v in ("/nowhere.json", "/etc/passwd", 5)],
        *[("init", v) for v in (1, "yes")],
        *[
            ("devices", v)
            for v in (
                ["/nowhere"],
                ["/etc/passwd"],
                ["/dev/null:x"],
                ["/dev/null:/dev/null:q"],
                ["/dev/null:rr"],
                ["/dev/null:a:b:c"],
                ["/dev/null", "/dev/null"],
            )
        ],
        *[
            ("device_cgroup_rules", v)
            for v in (["c"], ["x 1:3 r"], ["c 1 r"], ["c a:b r"], ["c 1:3 q"], ["a 1:3 r"])
        ],
        *[("shm_size", v) for v in ("x", -1)],
        *[("masked_paths", v) for v in (["proc"], "x", ["/a/../b"])],
        ("cgroup_parent", "/a/../b"),
    ],
)
def test_value_that_cannot_work(field, value):
    if value is not None:
        refused(field, **{field: value})


def test_fields_that_exclude_each_other():
    refused("memory", memory="64m", cgroup=False)
    refused("cgroup_parent", cgroup_parent="/x", cgroup=False)
    refused("init", init=True, pid="host")
    refused("capabilities", capabilities={"bounding": []}, cap_drop=["ALL"])
    refused("device_policy", device_policy=False, device_cgroup_rules=["c 1:3 r"])
    refused("volumes", tmpfs=["/x"], volumes=["/etc:/x"])
    refused("devices", devices=["/dev/full:/dev/x"], volumes=["/etc:/dev/x"])


def test_limits_that_need_power_are_refused_in_words(monkeypatch):
    monkeypatch.setattr(process, "have_capability", lambda _: False)
    import resource

    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    assert "CAP_SYS_RESOURCE" in str(refused("ulimits", ulimits={"nofile": hard + 1}))
    assert "CAP_SYS_RESOURCE" in str(refused("oom_score_adj", oom_score_adj=-1000))
    monkeypatch.setattr(resource, "getrlimit", lambda _: (0, 0))
    assert "CAP_SYS_NICE" in str(refused("nice", nice=-20))


def test_environment(tmp_path):
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\nann:x:7:7:Ann:/home/ann:/bin/sh\n")
    env = dict(
        e.split(b"=", 1) for e in Spec(rootfs=tmp_path, user="ann", env={"A": 1, "PATH": "/x"}).environment()
    )
    assert env == {b"PATH": b"/x", b"HOME": b"/home/ann", b"HOSTNAME": b"fastctr", b"A": b"1"}
    assert Spec(rootfs=tmp_path, clean_env=True, env=["B=2"]).environment() == [b"B=2"]
    spec = Spec(rootfs=tmp_path, user=7, uts="host")
    assert b"HOME=/home/ann" in spec.environment() and not any(
        e.startswith(b"HOSTNAME") for e in spec.environment()
    )
    assert b"TERM=xterm" in spec.environment(tty=True) and b"X=\xff" in spec.environment({"X": b"\xff"})


def test_home_does_not_follow_links_out_of_the_root(tmp_path):
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").symlink_to("/etc/passwd")
    assert process.home((str(tmp_path),), "daemon", 1) == "/"


def test_bare_names_take_our_environment(monkeypatch):
    monkeypatch.setenv("FASTCTR_TEST", "here")
    assert Spec(rootfs="host", env=["FASTCTR_TEST", "FASTCTR_ABSENT"]).env == {"FASTCTR_TEST": "here"}


def test_capabilities_in_all_five_sets():
    bounding, effective, permitted, inheritable, ambient = Spec(
        rootfs="host", cap_drop=["ALL"], cap_add=["chown"]
    ).to_native()["caps"]
    assert bounding == effective == permitted == 1 and inheritable == ambient == 0
    sets = Spec(rootfs="host", capabilities={"bounding": ["CHOWN", "KILL"], "ambient": ["KILL"]}).to_native()[
        "caps"
    ]
    assert sets == [33, 33, 33, 0, 32]


def test_devices_and_rules():
    n = Spec(rootfs="host", devices=["/dev/full:/dev/x:r"], device_cgroup_rules=["c 10:200 rwm"]).to_native()
    assert n["devices"][0][:4] == ("/dev/x", "c", 1, 7)
    assert n["devrules"][0] == (False, "a", -1, -1, 7)
    assert n["devrules"][-2:] == [(True, "c", 1, 7, 1), (True, "c", 10, 200, 7)]
    assert Spec(rootfs="host", device_policy=False).to_native()["devrules"] == []


def test_own_mounts_replace_the_standard_ones():
    n = Spec(rootfs="host", tmpfs=["/dev/shm", "/tmp:size=1m"], mounts=["type=mqueue"]).to_native()
    targets = [mount["target"] for mount in n["mounts"]]
    assert n["shm_size"] == 0 and len(targets) == len(set(targets))
    assert Spec(rootfs="host", volumes=["/dev:/dev"]).to_native()["dev"] is False
    n = Spec(rootfs="host", proc=False, sys=False).to_native()
    assert n["masked"] == n["readonly"] == [] and not {"/proc", "/sys"} & {m["target"] for m in n["mounts"]}


@plain
@given(st.text(max_size=12), st.text(max_size=12))
def test_env_reaches_the_environment_unchanged(name, value):
    try:
        spec = Spec(rootfs="host", env={name: value}, clean_env=True)
    except SpecError:
        assert not name or "=" in name or "\0" in name + value
        return
    except UnicodeEncodeError:
        raise AssertionError(name) from None
    assert spec.env == {name: value}


@plain
@given(st.sets(st.integers(0, 1000), min_size=1))
def test_affinity_bytes_have_those_bits(cpus):
    raw = process.affinity_bytes(tuple(sorted(cpus)))
    value = int.from_bytes(raw, sys.byteorder)
    assert len(raw) % 8 == 0 and {bit for bit in range(value.bit_length()) if value >> bit & 1} == cpus
