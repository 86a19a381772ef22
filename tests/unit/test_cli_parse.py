"""The command line: Docker's options become a Spec, mistakes become exit code 125 and a sentence."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastctr import cli
from fastctr.cli import info, run
from fastctr.cli.options import FLAG, LIST, VALUE, Option, UsageError, help_text, parse
from fastctr.cli.run_options import REFUSED, TABLE, env_file, option_of, parse_run
from fastctr.errors import SpecError
from fastctr.limits import FIELDS as LIMIT_FIELDS
from fastctr.spec import FIELDS, Spec

SMALL = (
    Option("-i --interactive", FLAG, "i", "", ""),
    Option("-t --tty", FLAG, "t", "", ""),
    Option("-m --memory", VALUE, "m", "SIZE", ""),
    Option("-e --env", LIST, "e", "VAR", ""),
)


@pytest.mark.parametrize(
    ("argv", "given_", "rest"),
    [
        ([], {}, []),
        (["-it", "x"], {"i": [True], "t": [True]}, ["x"]),
        (["-itm64m", "x", "-i"], {"i": [True], "t": [True], "m": ["64m"]}, ["x", "-i"]),
        (["-m", "1", "--memory=2", "--memory", "3"], {"m": ["1", "2", "3"]}, []),
        (["-m=4", "--", "-i"], {"m": ["4"]}, ["-i"]),
        (["-e", "A=1", "-eB=2", "--env=C=3"], {"e": ["A=1", "B=2", "C=3"]}, []),
        (["--tty=false", "-i=0", "-"], {"t": [False], "i": [False]}, ["-"]),
        (["--env", "--", "x"], {"e": ["--"]}, ["x"]),
        (["--memory=", "x"], {"m": [""]}, ["x"]),
    ],
)
def test_options(argv, given_, rest):
    assert parse(SMALL, argv) == (given_, rest)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--memroy"], "unknown flag: --memroy (did you mean --memory?)"),
        (["-x"], "unknown shorthand flag: -x"),
        (["-ix"], "unknown shorthand flag: -x"),
        (["-m"], "-m needs a value"),
        (["--env"], "--env needs a value"),
        (["--tty=maybe"], '--tty: "maybe" is not a truth value; use true or false'),
    ],
)
def test_option_errors(argv, message):
    with pytest.raises(UsageError) as caught:
        parse(SMALL, argv)
    assert str(caught.value) == message


@given(st.lists(st.text(max_size=8), max_size=6))
def test_parser_takes_anything_or_says_why(argv):
    try:
        found, rest = parse(TABLE, argv, REFUSED)
    except UsageError as error:
        assert str(error)
        return
    assert argv[len(argv) - len(rest) :] == rest
    assert all(found.values())


@given(
    st.lists(
        st.sampled_from(SMALL).flatmap(
            lambda o: st.tuples(st.just(o), st.sampled_from(o.names), st.text(max_size=5), st.booleans())
        )
    ),
    st.lists(st.text(max_size=4), max_size=3),
)
def test_what_is_written_is_read(parts, rest):
    argv, expected = [], {}
    for option, name, value, equals in parts:
        if option.kind == FLAG:
            argv.append(name)
            expected.setdefault(option.key, []).append(True)
        else:
            argv += [f"{name}={value}"] if equals else [name, value]
            expected.setdefault(option.key, []).append(value)
    assert parse(SMALL, [*argv, "--", *rest]) == (expected, rest)


def test_table_is_sound():
    names = [name for option in TABLE for name in option.names]
    assert len(names) == len(set(names)) and not set(names) & set(REFUSED)
    for option in TABLE:
        if option.kind and not option.key.startswith("_"):
            assert option.key in FIELDS or option.key in LIMIT_FIELDS, option.key
            assert option_of(option.key) in option.names
    assert all(len(line) < 130 for line in help_text(TABLE).split("\n"))


DOCKER = """
    -m 64m --memory-swap 128m --memory-reservation 32m --memory-swappiness 0 --cpus 0.5 --cpu-shares 512
    --cpuset-cpus 0 --cpuset-mems 0 --pids-limit 32 --blkio-weight 500 --device-read-bps 8:0:1mb
    --device-write-iops 8:0:100 -e A=1 --env B=2 -w /tmp -u 0 -v /etc:/x:ro --mount type=tmpfs,dst=/y
    --tmpfs /z:size=1m --read-only --network none --pid private --ipc private --uts private --cgroupns private
    --cap-add NET_ADMIN --cap-drop ALL --security-opt no-new-privileges --security-opt seccomp=unconfined
    --security-opt label=disable --security-opt apparmor=unconfined --ulimit nofile=512:1024
    --sysctl net.core.somaxconn=9 --device /dev/null:/dev/n:r --shm-size 1m -h box --domainname lan --init
    -i -t --rm --oom-score-adj 500 --cgroup-parent /p --group-add 5 --stop-signal TERM --timeout 5 --stats
    --timings --hugetlb 2MB=64m --unified memory.high=32m --umask 022 --nice 5
"""


def test_everything_docker_names_is_understood():
    argv = DOCKER.split()
    fields, own, command = parse_run(
        [*argv, "--device-cgroup-rule", "c 1:3 r", "host", "sh", "-c", "x", "--", "-m"]
    )
    assert command == ["sh", "-c", "x", "--", "-m"]
    spec = Spec(**fields)
    assert (
        spec.memory == 64 << 20 and spec.cpus == 0.5 and spec.pids == 32 and spec.env == {"A": "1", "B": "2"}
    )
    assert (
        spec.read_only
        and spec.init
        and spec.hostname == "box"
        and spec.no_new_privs
        and spec.seccomp == "unconfined"
    )
    assert spec.cwd == "/tmp" and not spec.cwd_create and spec.user == (None, 0, 0) and spec.group_add == (5,)
    assert own == {
        "_interactive": True,
        "_tty": True,
        "_rm": True,
        "_stop_signal": "TERM",
        "_timeout": "5",
        "_stats": True,
        "_timings": True,
    }


def test_rootfs_and_command():
    assert parse_run(["host", "--", "ls", "-l"])[2] == ["ls", "-l"]
    assert parse_run(["--", "host", "ls", "-m"])[2] == ["ls", "-m"]
    assert parse_run(["--layer", "/b", "--layer=/c", "/a", "ls"])[0]["rootfs"] == ["/a", "/b", "/c"]
    assert parse_run(["-w", "/new", "host", "ls"])[0]["cwd_create"] is True
    assert parse_run(["--uid-map", "0:1:2", "host", "ls"])[0]["userns"] == "private"
    for bad in ([], ["host"], ["host", "--"], ["", "ls"]):
        with pytest.raises(UsageError):
            parse_run(bad)


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_is_not_offered_says_so(name):
    with pytest.raises(UsageError, match=rf"^{name} is "):
        parse_run([name, "host", "ls"])


@pytest.mark.parametrize(
    "text", ["", "x", "seccomp", "seccomp=", "no-new-privs=maybe", "label=type:x", "label"]
)
def test_security_options_that_are_not(text):
    with pytest.raises(UsageError):
        parse_run(["--security-opt", text, "host", "ls"])


def test_security_options():
    def of(text):
        return parse_run(["--security-opt", text, "host", "ls"])[0]

    assert (
        of("no-new-privs:false")["no_new_privs"] is False
        and of("no-new-privileges=true")["no_new_privs"] is True
    )
    assert of("seccomp=/a=b")["seccomp"] == "/a=b" and of("seccomp=builtin")["seccomp"] == "default"
    assert (
        of("label=u:r:t:s0")["selinux"] == "u:r:t:s0" and of("systempaths=unconfined")["masked_paths"] == []
    )


def test_env_file(tmp_path, monkeypatch):
    monkeypatch.setenv("OURS", "yes")
    file = tmp_path / "env"
    file.write_text("\ufeff# comment\n\nA=1 # kept\n  B==x\nOURS\nABSENT\n")
    fields, _, _ = parse_run(["--env-file", str(file), "-e", "A=2", "host", "ls"])
    assert Spec(**fields).env == {"A": "2", "B": "=x", "OURS": "yes"}
    file.write_text("A B=1\n")
    for bad in (str(file), "/nowhere"):
        with pytest.raises(UsageError, match="--env-file"):
            env_file(bad)


def test_files(tmp_path):
    source = tmp_path / "x"
    source.write_bytes(b"hi")
    source.chmod(0o750)
    fields, _, _ = parse_run(["--file", f"/etc/x={source}", "host", "ls"])
    assert fields["files"] == {"/etc/x": (b"hi", 0o750)}
    with pytest.raises(SpecError, match="files"):
        parse_run(["--file", "/etc/x=/nowhere", "host", "ls"])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["-m", "64q", "host", "ls"], 'fastctr: --memory: "64q" is not a size'),
        (["--pids-limit", "x", "host", "ls"], 'fastctr: --pids-limit: "x"'),
        (
            ["--mount", "type=odd,dst=/x", "host", "ls"],
            'fastctr: --mount[0]: "type=odd,dst=/x" has an unknown type',
        ),
        (["/nowhere", "ls"], 'fastctr: ROOTFS: "/nowhere" does not exist'),
        (["--timeout", "soon", "host", "ls"], 'fastctr: --timeout: "soon" is not a duration'),
        (["--stop-signal", "NOPE", "host", "ls"], 'fastctr: --stop-signal: "NOPE" is not a signal'),
        (["-e", "=x", "host", "ls"], "fastctr: --env[0]: "),
        (["--sysctl", "vm.x=1", "host", "ls"], "fastctr: --sysctl['vm.x']: "),
        (["--wat", "host", "ls"], "fastctr: unknown flag: --wat"),
        (["-d", "host", "ls"], "fastctr: -d is not offered"),
    ],
)
def test_mistakes_end_with_125_and_name_the_option(argv, message, capsys):
    assert cli.main(["run", *argv]) == 125
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(message), err


def test_help_and_unknown_commands(capsys):
    assert cli.main(["--help"]) == 0 and "fastctr COMMAND" in capsys.readouterr().out
    assert cli.main(["run", "--help"]) == 0 and "--memory SIZE" in capsys.readouterr().out
    assert cli.main(["gc", "--help"]) == 0 and cli.main(["info", "--help"]) == 0
    assert cli.main(["runn"]) == 125 and "did you mean run?" in capsys.readouterr().err
    assert cli.main([]) == 125 and cli.main(["gc", "x"]) == 125 and cli.main(["info", "-x"]) == 125


def test_signal_numbers():
    assert (
        run.signal_number("term") == run.signal_number("SIGTERM") == run.signal_number("15") == signal.SIGTERM
    )
    for bad in ("", "0", "99", "_DFL", "SIG_IGN", "x"):
        with pytest.raises(UsageError):
            run.signal_number(bad)


def test_exit_codes():
    assert run._exit_code(3) == 3 and run._exit_code(-9) == 137


def test_info_says_what_is_there():
    found = info.collect()
    assert found["kernel"]["release"] == os.uname().release and found["cgroup"]["mode"] in (
        "none",
        "v1",
        "v2",
        "hybrid",
    )
    assert found["namespaces"]["pid"]["available"] and isinstance(found["missing"], list)
    assert any(line.startswith("cgroups") for line in info._lines(found))


def test_parsing_loads_no_heavy_modules():
    code = (
        "import sys; before = set(sys.modules)\n"
        "from fastctr.cli.run_options import parse_run; from fastctr.spec import Spec\n"
        "import fastctr.cli.run\n"
        "Spec(**parse_run(['-m', '64m', '-v', '/etc:/x', 'host', 'ls'])[0])\n"
        "print(*sorted(set(sys.modules) - before))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.split()
    heavy = {
        "argparse",
        "dataclasses",
        "typing",
        "subprocess",
        "logging",
        "json",
        "inspect",
        "difflib",
        "shutil",
        "pathlib",
    }
    assert not heavy & set(out)


@settings(deadline=None)
@given(
    st.lists(
        st.sampled_from([name for option in TABLE for name in option.names])
        | st.sampled_from(
            ["host", "ls", "64m", "0", "a=b", "/x", "none", "--", "1:2:3", "type=tmpfs,dst=/q"]
        ),
        max_size=7,
    )
)
def test_any_command_line_makes_a_spec_or_a_sentence(argv):
    try:
        fields, own, _ = parse_run(argv)
        if not own.get("_help"):
            Spec(**fields)
    except (UsageError, SpecError) as error:
        assert str(error)
