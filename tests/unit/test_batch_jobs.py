"""The fields of a job: what they become, and what is refused in which words."""

from __future__ import annotations

import json

import pytest
from batch_help import parse, reader
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("fastctr._core")

from fastctr.batch.content import HostFile, host_path, text_or_base64
from fastctr.batch.errors import JobError
from fastctr.batch.jobs import OWN, PLAN_FIELDS
from fastctr.launch_args import IMAGE_FIELDS
from fastctr.spec import LIMITS


@pytest.mark.parametrize(
    ("job", "argv"),
    [
        ({"argv": ["echo", "a b"]}, ["echo", "a b"]),
        (["echo", "a b"], ["echo", "a b"]),
        ({"cmd": "echo $X"}, ["/bin/sh", "-c", "echo $X"]),
        ("echo $X", ["/bin/sh", "-c", "echo $X"]),
        ({"argv": ["true"], "cmd": None}, ["true"]),
        ({"cmd": "echo $1", "args": ["a b"]}, ["/bin/sh", "-c", "echo $1", "sh", "a b"]),
    ],
)
def test_command(job, argv):
    assert parse(job).argv == argv


@pytest.mark.parametrize(
    ("job", "words"),
    [
        (b"{", "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
        (b"[" * 100000, "is not JSON"),
        (b"17", "is not a job"),
        ({}, 'argv: None is missing; give "argv"'),
        ({"argv": []}, "is not a list of arguments"),
        ({"argv": "echo hi"}, "is not a list of arguments"),
        ({"argv": ["a", 3]}, "argv[1]: 3 is not a string"),
        ({"argv": [""]}, "argv[0]"),
        ({"argv": ["a\0"]}, "null byte"),
        ({"cmd": "x", "argv": ["x"]}, "cmd: \"x\" cannot go with argv"),
        ({"cmd": " "}, "is not a command"),
        ({"cmd": "x", "args": "y"}, "args: \"y\" is not a list"),
        ({"argv": ["x"], "args": ["y"]}, "are the parameters of cmd"),
        ({"argv": ["true"], "memroy": "1m"}, '"memroy" is not a field of a job; did you mean "memory"?'),
        ({"argv": ["true"], "output": []}, 'did you mean "outputs"?'),
        ({"argv": ["true"], "zzzzzz": 1}, '"zzzzzz" is not a field of a job; docs/batch.md'),
        ({"argv": ["true"], "memory": "lots"}, 'memory: "lots" is not a size'),
        ({"argv": ["true"], "limits": {"memroy": 1}}, 'did you mean "memory"?'),
        ({"argv": ["true"], "limits": 3}, "limits: 3 is not an object"),
        ({"argv": ["true"], "memory": "1m", "limits": {"memory": "2m"}}, "is given twice"),
        ({"argv": ["true"], "image": "alpine", "rootfs": "host"}, "cannot go with image"),
        ({"argv": ["true"], "image": "/tmp"}, "is a path, not an image's name"),
        ({"argv": ["true"], "image": 3}, "is not an image"),
        ({"argv": ["true"], "pull": "never"}, "is about images"),
        ({"cmd": "x", "image": "a", "entrypoint": "b"}, "cannot go with an entrypoint"),
        ({"argv": ["true"], "timeout": 0}, "leaves no time"),
        ({"argv": ["true"], "timeout": -1}, "is negative"),
        ({"argv": ["true"], "timeout": "soon"}, "is not a duration"),
        ({"argv": ["true"], "timeout": True}, "is not a duration"),
        ({"argv": ["true"], "retries": -1}, "out of range"),
        ({"argv": ["true"], "retries": {"on": ["opm"]}}, "is not an outcome to retry"),
        ({"argv": ["true"], "retries": {"time": 3}}, 'did you mean "times"?'),
        ({"argv": ["true"], "id": ""}, "is not an id"),
        ({"argv": ["true"], "id": True}, "is not an id"),
        ({"argv": ["true"], "id": "x" * 201}, "is too long"),
        ({"argv": ["true"], "stdin": 3}, "is no content"),
        ({"argv": ["true"], "stdin": {"base64": "?"}}, "is not base64"),
        ({"argv": ["true"], "stdin": {"path": "x", "text": "y"}}, "is no content"),
        ({"argv": ["true"], "stdin": "\ud800"}, "half a surrogate pair"),
        ({"argv": ["true"], "files": ["/a"]}, "files: ['/a'] is not an object"),
        ({"argv": ["true"], "files": {"a": "x"}}, "is not absolute"),
        ({"argv": ["true"], "files": {"/a": {"text": "x", "mode": "9"}}}, "permission bits"),
        ({"argv": ["true"], "outputs": ["/out/x"]}, "has no place to be saved to"),
        ({"argv": ["true"], "outputs": {"/out/x": "a/{idd}"}}, "has {idd} in it"),
        ({"argv": ["true"], "outputs": {"out/x": "a"}}, "is not absolute"),
        ({"argv": ["true"], "env": {"A=B": "c"}}, 'has "=" in a variable'),
        ({"argv": ["true"], "cwd": "x"}, "is not absolute"),
        ({"argv": ["true"], "user": "a:b:c"}, "is not a user"),
        ({"argv": ["true"], "output_limit": "x"}, "is not a size"),
        ({"argv": ["true"], "network": "bridge"}, "network"),
    ],
)  # fmt: skip
def test_refused(job, words):
    with pytest.raises(JobError) as error:
        parse(job)
    assert words in str(error.value)
    assert str(error.value).startswith("jobs.jsonl, line 7: ")


def test_all_of_it():
    job = parse({
        "id": 12, "tag": {"any": 1}, "argv": ["x"], "stdin": {"base64": "AAE="}, "cwd": "/w", "user": [1, 2],
        "files": {"/a": "é", "/b": {"path": "rel", "mode": "755"}}, "outputs": {"/o": "{id}/{line}/{name}"},
        "env": {"A": 1}, "timeout": "1m", "limits": {"memory": "64m"}, "pids": 9, "output_limit": "2k",
        "retries": {"times": 2, "on": ["oom", "timeout"], "delay": "250ms"},
    })  # fmt: skip
    assert (job.id, job.name, job.line, job.tag) == ("12", "12", 7, {"any": 1})
    assert job.stdin == b"\0\1"
    assert job.files is not None and job.files[0] == ("/a", "é".encode(), None)
    assert isinstance(job.files[1][1], HostFile) and job.files[1][1].path.startswith("/") and job.files[1][2] == 0o755
    assert (job.memory, job.pids) == (64 << 20, 9)
    assert job.launch == {"env": {"A": "1"}, "user": (1, 2), "timeout": 60.0, "output_limit": 2048}
    assert job.entry.given["cwd"] == "/w" and job.entry.given["cwd_create"]
    assert (job.retry.times, job.retry.on, job.retry.delay) == (2, {"oom", "timeout"}, 0.25)
    assert host_path(job, "/o", "{id}/{line}/{name}", None) == "12/7/o"


def test_defaults_and_what_overrides_them():
    made = reader(timeout=5, retries=1, memory="64m", image="alpine", platform="linux/arm64", root="/store")
    job = made.parse(1, b'{"argv": ["x"], "timeout": 9, "retries": 0, "limits": {"memory": "32m"}}')
    assert (job.launch["timeout"], job.retry.times, job.memory) == (9.0, 0, 32 << 20)
    job = made.parse(2, b'{"argv": ["x"], "rootfs": "host"}')
    assert not IMAGE_FIELDS & job.entry.given.keys() and job.memory == 64 << 20
    assert made.parse(3, b'{"id": "only the image\'s command"}').argv is None


def test_what_is_the_same_shares_a_plan():
    made = reader(image="alpine")
    one, two = (made.parse(n, b'{"argv": ["x"], "hostname": "h", "env": {"N": "%d"}}' % n) for n in (1, 2))
    assert one.entry is two.entry and one.entry is not made.plans.default
    with_shell = made.parse(3, b'"echo"')
    assert with_shell.entry.given["entrypoint"] == "" and with_shell.entry is made.parse(4, b'"ls"').entry
    assert made.parse(5, b'["x"]').entry is made.plans.default


def test_many_limits_do_not_make_many_plans():
    made = reader()
    entries = set()
    for n in range(40):
        job = made.parse(n + 1, b'{"argv": ["x"], "memory": %d}' % ((n + 1) << 20))
        assert job.memory == (n + 1) << 20
        entries.add(id(job.entry))
        assert ("limits" in job.launch) == (job.entry is made.plans.default)
    assert len(entries) == 17


def test_what_a_limit_replaces():
    made = reader(memory="64m", memory_swap="128m")
    assert made.parse(1, b'{"argv": ["x"], "memory": "32m"}').entry.given.get("memory_swap") is None
    assert made.parse(2, b'{"argv": ["x"], "mem_limit": "16m"}').memory == 16 << 20
    assert made.parse(3, b'{"argv": ["x"], "memswap_limit": "96m"}').entry.given["memory_swap"] == "96m"
    assert reader(mem_limit="64m").parse(1, b'{"argv": ["x"], "memory": "32m"}').memory == 32 << 20


@pytest.mark.parametrize(
    ("name", "folder"),
    [("a b", "a b"), ("../x", "%%2e%2e%2fx"), ("..", "%.."), ("a/b", "a%2fb"), ("line-3", "%line-3"), ("é%", "é%25")],
)  # fmt: skip
def test_an_id_is_no_path(name, folder):
    made = parse({"id": name, "argv": ["x"]}).name
    assert "/" not in made and made not in (".", "..")
    assert made == folder.replace("%%2e%2e", "%..")


def test_ids_without_a_collision():
    names = ["a", "A", "a/b", "a%2fb", "%a", ".a", "%.a", "line-1", "%line-1", "..", "%.."]
    assert len({parse({"id": name, "argv": ["x"]}).name for name in names}) == len(names)


def test_digest_is_of_the_line():
    one, two, three = (parse(text) for text in (b'["a"]', b'["a"]', b'["b"]'))
    assert one.digest == two.digest != three.digest and one.key == 7
    assert parse({"id": "a", "argv": ["x"]}).key == parse({"id": "a", "argv": ["y"]}, line=9).key


def test_bytes_in_results():
    assert text_or_base64(b"h\xc3\xa9") == "hé" and text_or_base64(b"\xff\0") == {"base64": "/wA="}


values = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
                      lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
                      max_leaves=6)  # fmt: skip
names = st.sampled_from(sorted({*OWN, *(PLAN_FIELDS - {"seccomp"}), *LIMITS})) | st.text(max_size=9)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(names, values, max_size=4) | values)
def test_nothing_but_refusals(fields):
    """Whatever a line holds, it becomes a job or is refused."""
    try:
        parse(json.dumps(fields).encode())
    except JobError as error:
        assert str(error).startswith("jobs.jsonl, line 7: ")


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60))
def test_bytes_that_are_no_json(line):
    try:
        parse(line)
    except JobError:
        pass
