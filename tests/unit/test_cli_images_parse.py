"""The command line of images: which argument is what, options, templates, tables, sizes and ages."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastctr import cli
from fastctr.cli import VERBS, groups
from fastctr.cli.cp import split
from fastctr.cli.options import UsageError, parse
from fastctr.cli.run_options import TABLE, is_directory, parse_run
from fastctr.cli.table import age, ago, columns, filters, iso, moment, show, size
from fastctr.cli.template import Row, Template, TemplateError
from fastctr.errors import SpecError, StoreError
from fastctr.image.image import parse_time
from fastctr.image_args import check_name, entrypoint_of, is_id, signal_number, store_root
from fastctr.images import name_matches
from fastctr.kept import check_name as check_container


@pytest.mark.parametrize("text", ["host", ".", "..", "/", "/srv/root", "./root", "../root"])
def test_directories(text):
    fields, own, command = parse_run([text, "ls", "-l"])
    assert is_directory(text) and fields["rootfs"] == text and "_image" not in own and command == ["ls", "-l"]


@pytest.mark.parametrize("text", ["alpine", "host/x", "localhost:5000/a:b", "sha256:" + "a" * 64, "srv/root", ".x"])
def test_images(text):
    fields, own, command = parse_run(["-e", "A=b", "--pull", "never", text])
    assert own["_image"] == text and "rootfs" not in fields and command == [] and own["_pull"] == "never"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "nothing to run given"),
        (["host"], "no command given"),
        (["--pull", "never", "host", "ls"], "--pull is about images, and host is a directory"),
        (["--entrypoint", "x", "/srv", "ls"], "--entrypoint is about images"),
        (["--layer", "/srv", "alpine"], "--layer is for a ROOTFS directory"),
        (["", "ls"], "IMAGE is empty"),
        (["--publish", "80:80", "alpine"], "comes with the engine"),
    ],
)
def test_run_mistakes(argv, message):
    with pytest.raises(UsageError, match=message):
        parse_run(argv)


def test_options_may_follow_arguments():
    table = [option for option in TABLE if option.key in ("_quiet", "_name")]
    assert parse(table, ["a", "-q", "b", "--name", "n", "--", "-q"], mixed=True) == (
        {"_quiet": [True], "_name": ["n"]}, ["a", "b", "-q"])  # fmt: skip
    assert parse(table, ["-", "-q"], mixed=True) == ({"_quiet": [True]}, ["-"])


@pytest.mark.parametrize("name", sorted(VERBS))
def test_every_verb_has_help(name, capsys):
    assert cli.main([name, "--help"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("Usage: fastctr") and cli.main(["help", name]) == 0
    if name not in ("image", "container", "system"):
        assert "--help" in text
        assert cli.main([name, "--no-such-option"]) == 125 and "unknown flag" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("group", "name"), [(g, n) for g in ("IMAGE", "CONTAINER", "SYSTEM") for n in getattr(groups, g)]
)
def test_every_one_of_a_group_has_help(group, name, capsys):
    assert cli.main([group.lower(), name, "--help"]) == 0 and "Usage: fastctr" in capsys.readouterr().out


def test_groups(capsys):
    assert cli.main(["image"]) == 125 and "build-rootfs" in capsys.readouterr().err
    assert cli.main(["image", "lss"]) == 125 and "unknown command: image lss (did you mean ls?)" in capsys.readouterr().err
    assert cli.main(["comit"]) == 125 and "did you mean commit?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["pull"], '"fastctr pull" requires exactly 1 argument'),
        (["tag", "a"], '"fastctr tag" requires exactly 2 arguments'),
        (["rmi"], '"fastctr rmi" requires at least 1 argument'),
        (["load", "x"], '"fastctr load" accepts no arguments'),
        (["images", "a", "b"], '"fastctr images" accepts at most 1 argument'),
        (["commit", "a", "b", "c"], '"fastctr commit" requires 1 to 2 arguments'),
    ],
)
def test_numbers_of_arguments(argv, message, capsys):
    assert cli.main(argv) == 1
    assert message in capsys.readouterr().err


def test_root_option(monkeypatch, tmp_path, capsys):
    monkeypatch.delenv("FASTCTR_ROOT", raising=False)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["--root", "here", "version"]) == 0 and os.environ["FASTCTR_ROOT"] == str(tmp_path / "here")
    assert cli.main([f"--root={tmp_path}", "version"]) == 0 and store_root() == str(tmp_path)
    assert cli.main(["--root"]) == 125 and cli.main(["--root=", "images"]) == 125
    monkeypatch.delenv("FASTCTR_ROOT")
    assert store_root("/x/../y") == "/y" and os.path.isabs(store_root())


# ---- templates


SHAPE = {"Name": "box", "Config": {"Env": ["A=b", "C=d"], "Cmd": None, "Labels": {"x": "1", "a": "2"}}, "N": 3, "Yes": True}


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("plain", "plain"),
        ("{{.Name}}:{{.N}}", "box:3"),
        ("{{ .Config.Env }}", "[A=b C=d]"),
        ("{{.Config.Labels}}", "map[a:2 x:1]"),
        ("{{.Config.Cmd}} {{.Config.Nope}} {{.Yes}}", "<nil> <no value> true"),
        ("{{json .Config.Env}} {{json .Config.Cmd}}", '["A=b","C=d"] null'),
        ("{{.Config.Env | json}}", '["A=b","C=d"]'),
        ("{{range .Config.Env}}<{{.}}>{{end}}", "<A=b><C=d>"),
        ("{{range .Config.Cmd}}x{{else}}none{{end}}", "none"),
        ("{{if .Config.Cmd}}a{{else if .Yes}}b{{else}}c{{end}}", "b"),
        ("{{with .Config}}{{.Env}} {{$.Name}}{{end}}", "[A=b C=d] box"),
        ('{{join .Config.Env ", "}} {{upper .Name}} {{.Name | lower | title}}', "A=b, C=d BOX Box"),
        ("{{len .Config.Env}} {{index .Config.Env 1}} {{index .Config.Labels `x`}}", "2 C=d 1"),
        ('{{printf "%s-%d" .Name .N}} {{println .N}}|', "box-3 3\n|"),
        ("{{if eq .Name `box`}}y{{end}}{{if and .Yes (not .Config.Cmd)}}z{{end}}", "yz"),
        ("a {{- .N -}} b {{/* no */}}!", "a3b !"),
        ('{{"a}}b"}}', "a}}b"),
        ("{{range $x}}{{end}}", None),
        ("{{.Name", None),
        ("{{nope .}}", None),
        ("{{end}}", None),
        ("{{if .X}}", None),
        ("{{.Name.X}}", None),
        ("{{index .Config.Env 7}}", None),
        ("{{}}", None),
    ],
)
def test_templates(text, result):
    if result is None:
        with pytest.raises(TemplateError):
            Template(text).render(SHAPE)
    else:
        assert Template(text).render(SHAPE) == result


@given(st.text(alphabet="{}.|()$\"`ifendrangjson A1-", max_size=25))
def test_templates_take_anything_or_say_why(text):
    try:
        assert isinstance(Template(text).render(SHAPE), str)
    except TemplateError as error:
        assert str(error)


def test_rows_know_their_fields():
    with pytest.raises(TemplateError, match="can't evaluate field Nope; there are A"):
        Template("{{.Nope}}").render(Row(A=1))


# ---- tables


def test_tables():
    rows = [{"Repository": "a" * 20, "Tag": "1", "Size": "2B"}, {"Repository": "b", "Tag": "latest", "Size": "10MB"}]
    names = ("Repository", "Tag", "Size")
    assert show(None, rows, names) == [
        "REPOSITORY             TAG       SIZE", "aaaaaaaaaaaaaaaaaaaa   1         2B", "b                      latest    10MB"]  # fmt: skip
    assert show("{{.Tag}}", rows, names) == ["1", "latest"] and show("table {{.Tag}}\\t{{.Size}}", rows, names)[0] == "TAG       SIZE"
    assert show("json", rows[:1], names) == ['{"Repository":"aaaaaaaaaaaaaaaaaaaa","Tag":"1","Size":"2B"}']
    assert show(None, [], names) == ["REPOSITORY   TAG       SIZE"] and columns([]) == ""
    with pytest.raises(UsageError, match="--format: template"):
        show("{{.Nope}}", rows, names)


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0B"), (1, "1B"), (999, "999B"), (1000, "1kB"), (7_050_000, "7.05MB"), (123_456_789, "123MB"), (1.5e12, "1.5TB")],
)
def test_sizes(number, text):
    assert size(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "Less than a second"), (1, "1 second"), (59, "59 seconds"), (60, "About a minute"), (300, "5 minutes"),
     (3600, "About an hour"), (7200, "2 hours"), (86400 * 3, "3 days"), (86400 * 20, "2 weeks"),
     (86400 * 100, "3 months"), (86400 * 365 * 3, "3 years")],
)  # fmt: skip
def test_ages(seconds, text):
    assert age(seconds) == text


def test_times():
    assert parse_time("2024-01-02T03:04:05Z") == 1704164645 and parse_time("2024-01-02T03:04:05.5+01:00") == 1704161045.5
    assert parse_time("0001-01-01T00:00:00Z") is None and parse_time("soon") is None and parse_time(None) is None
    assert iso(1704164645.5) == "2024-01-02T03:04:05.5Z" and moment(1704164645) == "2024-01-02 03:04:05 +0000 UTC"
    assert ago(None) == "N/A" and iso(None).startswith("0001")


def test_filters():
    assert filters(["a=1", "a=2", "b=x=y"], ("a", "b")) == {"a": ["1", "2"], "b": ["x=y"]}
    for bad in ("a", "c=1"):
        with pytest.raises(UsageError):
            filters([bad], ("a",))


# ---- words


@pytest.mark.parametrize(
    ("name", "pattern", "found"),
    [
        ("docker.io/library/alpine:3", "alpine", True), ("docker.io/library/alpine:3", "alpine:3", True),
        ("docker.io/library/alpine:3", "alpine:4", False), ("docker.io/mine/box:1", "mine/*", True),
        ("docker.io/mine/box:1", "*", False), ("docker.io/mine/box:1", "docker.io/mine/box", True),
        ("localhost:5000/a:1", "localhost:5000/a", True), ("localhost:5000/a:1", "a", False),
    ],
)  # fmt: skip
def test_patterns(name, pattern, found):
    assert name_matches(name, pattern) is found


def test_copy_arguments():
    assert split("box:/etc") == ("box", "/etc") and split("box:rel") == ("box", "rel") and split("-") == ("", "-")
    assert split("./a:b") == ("", "./a:b") and split("/a:b") == ("", "/a:b") and split("plain") == ("", "plain")


@pytest.mark.parametrize(
    ("text", "number"), [("TERM", 15), ("sigkill", 9), ("SIGRTMIN+3", 37), ("RTMAX-1", 63), ("10", 10), (2, 2)]
)
def test_signals(text, number):
    assert signal_number(text) == number


@pytest.mark.parametrize("text", ["", "NOPE", "0", "65", "TERM+1", "RTMIN+99", "SIG"])
def test_no_signals(text):
    with pytest.raises(SpecError, match="is not a signal"):
        signal_number(text)


def test_names_and_ids():
    for bad in ("", "host", "/x", "./x", "../x", ".", ".."):
        with pytest.raises(SpecError):
            check_name(bad)
    check_name("alpine")
    assert is_id("a" * 64) and is_id("sha256:" + "0" * 64) and not is_id("a" * 12) and not is_id("g" * 64)
    assert entrypoint_of(None) is None and entrypoint_of("") == () == entrypoint_of([])
    assert entrypoint_of("/a b") == ("/a b",) and entrypoint_of(["a", b"b"]) == ("a", "b")
    for bad in ("x", "-ab", "a b", "a/b", "ä1"):
        with pytest.raises(StoreError):
            check_container(bad)
    check_container("a1_.-")
