"""Places of `fastctr map`: whatever an argument holds, the shell sees one word, and no code."""

from __future__ import annotations

import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastctr.batch.reader import Items
from fastctr.batch.template import PLACES, Line, Mapped, Words

NASTY = ["a b", "$(touch /pwned)", "`id`", "q'uo\"te", "*", "-n", "\\", "$1", "a\nb", "; exit 9", "é", "!x", "~", "#c"]


def run(line: str, text: str, number: int = 5) -> str:
    done = subprocess.run(Line(line).argv(text, number), capture_output=True, check=True)
    return done.stdout.decode()


@pytest.mark.parametrize("text", NASTY)
@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("printf '[%s]' {}", "[@]"),
        ("printf '[%s]'", "[@]"),
        ('printf "[%s]" "{}"', "[@]"),
        ("printf '[%s]' '{}'", "[@]"),
        ("printf '[%s]' x{}y", "[x@y]"),
        ("printf '[%s]' \"<{}>\" '<{}>' {}", "[<@>][<@>][@]"),
        ('printf "[%s]" "$(printf %s. {})"', "[@.]"),
        ('printf "[%s]" "$(printf %s. "{}")"', "[@.]"),
        ("printf '[%s]' \"$(printf %s. '{}')\"", "[@.]"),
        ('printf "[%s]" "$( (printf %s. {}) )"', "[@.]"),
        ("printf '[%s]' \"it's\" {}", "[it's][@]"),
        ("printf '[%s]' \\' {} \\\" {}", "['][@][\"][@]"),
    ],
)
def test_quoting(line, wanted, text):
    assert run(line, text) == wanted.replace("@", text)


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=30))
def test_any_text(text):
    assert run("printf '[%s]' {} \"{}\" '{}'", text) == f"[{text}]" * 3


@pytest.mark.parametrize(
    ("place", "text", "wanted"),
    [
        ("{}", "a/b.c", "a/b.c"),
        ("{.}", "a/b.tar.gz", "a/b.tar"),
        ("{.}", "a.d/b", "a.d/b"),
        ("{.}", ".hidden", ".hidden"),
        ("{/}", "a/b.c", "b.c"),
        ("{//}", "a/b.c", "a"),
        ("{//}", "b.c", "."),
        ("{/.}", "a/b.c", "b"),
        ("{#}", "x", "5"),
    ],
)
def test_places(place, text, wanted):
    assert PLACES[place](text, 5) == wanted
    assert Words(["x" + place]).argv(text, 5) == ["x" + wanted]
    assert run(f"printf %s {place}", text) == wanted


def test_without_a_shell():
    assert Words(["echo"]).argv("$(id)", 1) == ["echo", "$(id)"]
    assert Words(["--in={}", "{#}", "{}{}", "{x}"]).argv("a b", 3) == ["--in=a b", "3", "a ba b", "{x}"]
    assert Words(["{}"]).argv("{#}", 3) == ["{#}"]  # what was put in is not looked at again


def test_each_place_once():
    argv = Line("a {} {#} {}").argv("x", 2)
    assert argv == ["/bin/sh", "-c", 'a "${1}" "${2}" "${1}"', "sh", "x", "2"]


def test_jobs_are_numbered_without_gaps():
    source = Mapped(Words(["echo"]), Items(["a", b"b\xff"]))
    assert source.next() == (1, {"argv": ["echo", "a"], "tag": "a"})
    assert source.next() == (2, {"argv": ["echo", "b\udcff"], "tag": "b\udcff"})
    assert source.next() is None
