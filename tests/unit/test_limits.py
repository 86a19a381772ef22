"""Limits and the units they are written in."""

from __future__ import annotations

import pickle
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastctr import limits as module
from fastctr import units
from fastctr.errors import SpecError, UnknownField
from fastctr.limits import UNSET, Limits


@pytest.fixture(autouse=True)
def no_swap(monkeypatch):
    monkeypatch.setattr(module, "_has_swap", lambda: False)


@pytest.mark.parametrize(
    ("value", "size"),
    [
        (5, 5),
        ("0", 0),
        ("64m", 64 << 20),
        ("64MB", 64 << 20),
        ("64MiB", 64 << 20),
        ("1.5g", 3 << 29),
        (" 2 k ", 2048),
        ("7b", 7),
        ("1t", 1 << 40),
        (".5k", 512),
    ],
)
def test_sizes(value, size):
    assert units.size("memory", value) == size


@pytest.mark.parametrize(
    "value",
    ["", "m", "64q", "-1", "1..5m", "1e3", "0x10", "1 2", "64mm", "5.", None, 1.5, True, [], "9" * 50],
)
def test_no_sizes(value):
    with pytest.raises(SpecError):
        units.size("memory", value)


@given(st.integers(0, 2**20), st.integers(1, 10**6), st.sampled_from("kmgt"))
def test_size_is_exact(whole, part, unit):
    text = f"{whole}.{part:06d}"
    exact = Fraction(text) * 1024 ** ("kmgt".index(unit) + 1)
    assert units.size("x", text + unit) == int(exact)


@pytest.mark.parametrize(
    ("value", "ns"),
    [
        (1, 10**9),
        (0.25, 250 * 10**6),
        ("90", 90 * 10**9),
        ("1.5s", 1500 * 10**6),
        ("200ms", 200 * 10**6),
        ("1h30m", 5400 * 10**9),
        ("7us", 7000),
        ("1d", 86400 * 10**9),
    ],
)
def test_durations(value, ns):
    assert units.duration_ns("timeout", value) == ns


@pytest.mark.parametrize(
    "value", ["", "s", "1x", "1m5", "--5", "-5", -1, float("nan"), float("inf"), None, "1 2s", 10**12]
)
def test_no_durations(value):
    with pytest.raises(SpecError):
        units.duration_ns("timeout", value)


@given(st.sets(st.integers(0, 8191), min_size=1, max_size=40))
def test_cpu_lists_round_trip(numbers):
    ordered = tuple(sorted(numbers))
    assert units.cpu_list("x", units.list_text(ordered)) == ordered == units.cpu_list("x", numbers)


@given(st.text(max_size=10))
def test_text_never_breaks_the_parsers(text):
    for parse in (units.size, units.duration_ns, units.cpu_list, units.octal, units.inside_path):
        try:
            parse("x", text)
        except SpecError as error:
            assert str(error)


def test_everything_reaches_the_core():
    native = Limits(
        memory="64m",
        memory_swap="128m",
        memory_reservation="32m",
        memory_swappiness=10,
        cpus=0.5,
        cpu_burst=1000,
        cpu_shares=512,
        cpu_idle=0,
        cpuset_cpus="0",
        cpuset_mems="0",
        pids=32,
        blkio_weight=500,
        hugetlb={"2mb": "64m"},
        unified={"memory.high": "32m"},
    ).to_native()
    assert native == {
        "cpu_quota_us": 50000,
        "cpu_period_us": 100000,
        "cpu_burst_us": 1000,
        "cpu_weight": UNSET,
        "cpu_shares": 512,
        "cpu_idle": 0,
        "cpuset_cpus": "0",
        "cpuset_mems": "0",
        "memory_max": 64 << 20,
        "memory_soft": 32 << 20,
        "memory_swap_max": 128 << 20,
        "memory_swappiness": 10,
        "pids_max": 32,
        "io_weight": 4950,
        "io": [],
        "huge": [("2MB", 64 << 20)],
        "unified": [("memory.high", str(32 << 20))],
    }


def test_nothing_said_is_nothing_set():
    native = Limits().to_native()
    assert {value for value in native.values() if isinstance(value, int)} == {UNSET}
    assert not Limits() and Limits(pids=None) == Limits()


def test_swap_follows_memory_where_there_is_swap(monkeypatch):
    monkeypatch.setattr(module, "_has_swap", lambda: True)
    assert Limits(memory="64m").to_native()["memory_swap_max"] == 128 << 20
    assert Limits(memory="64m", memory_swap=-1).to_native()["memory_swap_max"] == -1
    assert Limits(memory=-1).to_native()["memory_swap_max"] == UNSET


def test_io_by_device_number():
    native = Limits(
        device_read_bps=["8:0:1mb"],
        device_write_iops={"8:0": 100},
        io_max={"8:16": {"wbps": "2m"}},
        blkio_weight_device=["8:0:10"],
    ).to_native()
    assert native["io"] == [
        (8, 0, 1 << 20, UNSET, UNSET, 100, 1),
        (8, 16, UNSET, 2 << 20, UNSET, UNSET, UNSET),
    ]
    assert Limits(io_max="8:0 rbps=1048576 wiops=max").to_native()["io"] == [
        (8, 0, 1 << 20, UNSET, UNSET, -1, UNSET)
    ]


@pytest.mark.parametrize(
    ("field", "kw"),
    [
        ("memory", {"memory": "1k"}),
        ("memory_swap", {"memory_swap": "64m"}),
        ("memory_swap", {"memory": "64m", "memory_swap": "32m"}),
        ("memory_reservation", {"memory": "64m", "memory_reservation": "65m"}),
        ("memory_swappiness", {"memory_swappiness": 101}),
        ("cpus", {"cpus": 0}),
        ("cpus", {"cpus": "x"}),
        ("cpus", {"cpus": float("nan")}),
        ("cpus", {"cpus": True}),
        ("cpus", {"cpus": 1, "cpu_quota": 5000}),
        ("cpu_quota", {"cpu_quota": 5}),
        ("cpu_period", {"cpu_period": 1}),
        ("cpu_burst", {"cpu_burst": 5}),
        ("cpu_burst", {"cpus": 0.01, "cpu_burst": 5000}),
        ("cpu_weight", {"cpu_weight": 0}),
        ("cpu_shares", {"cpu_shares": 1}),
        ("cpu_idle", {"cpu_idle": 2}),
        ("cpuset_cpus", {"cpuset_cpus": "8000"}),
        ("cpuset_cpus", {"cpuset_cpus": "x"}),
        ("pids", {"pids": -2}),
        ("pids", {"pids": "many"}),
        ("pids_limit", {"pids": 1, "pids_limit": 2}),
        ("io_weight", {"io_weight": 10001}),
        ("blkio_weight", {"blkio_weight": 9}),
        ("device_read_bps", {"device_read_bps": ["/dev/null:1mb"]}),
        ("device_read_bps", {"device_read_bps": ["1mb"]}),
        ("device_write_bps", {"device_write_bps": ["/nowhere:1mb"]}),
        ("io_max", {"io_max": {"8:0": {"speed": 1}}}),
        ("io_max", {"io_max": {"8:0": {}}}),
        ("io_max", {"io_max": 5}),
        ("hugetlb", {"hugetlb": {"2": 5}}),
        ("hugetlb", {"hugetlb": 5}),
        ("unified", {"unified": {"cgroup.procs": 1}}),
        ("unified", {"unified": {"../x.y": 1}}),
        ("unified", {"unified": []}),
    ],
)
def test_limit_that_cannot_work(field, kw):
    with pytest.raises(SpecError) as caught:
        Limits(**kw)
    assert caught.value.field == field


def test_unknown_limit():
    with pytest.raises(UnknownField, match='did you mean "memory"'):
        Limits(memorry=5)


def test_merged_lets_the_other_win():
    base = Limits(memory="64m", memory_swap="64m", cpus=0.5, pids=10, cpu_shares=5)
    got = base.merged(Limits(memory="128m", cpu_quota=20000, cpu_weight=7))
    assert got.memory == 128 << 20 and got.memory_swap is None and got.cpus is None and got.cpu_shares is None
    assert got.pids == 10 and got.to_native()["cpu_quota_us"] == 20000
    assert base.merged(Limits()) is base
    with pytest.raises(SpecError):
        base.merged(Limits(memory_reservation="1g"))


def test_compared_and_kept_by_content():
    assert Limits(cpus="0.5") == Limits(cpus=0.5) and hash(Limits(pids=3)) == hash(Limits(pids_limit="3"))
    assert pickle.loads(pickle.dumps(Limits(cpus=2))) == Limits(cpus=2)
    with pytest.raises(AttributeError):
        Limits().memory = 5
