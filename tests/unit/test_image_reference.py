"""References: Docker's grammar and defaults, case by case, and that text and value are the same thing."""

from __future__ import annotations

import copy
import pickle
import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fastctr.errors import SpecError
from fastctr.image import reference
from fastctr.image.reference import parse

A = "a" * 64
B = "b" * 128

GOOD = [  # what is written, in full, familiar, what the store files it under
    ("alpine", "docker.io/library/alpine:latest", "alpine:latest", None),
    ("alpine:3.20", "docker.io/library/alpine:3.20", "alpine:3.20", None),
    ("library/alpine", "docker.io/library/alpine:latest", "alpine:latest", None),
    ("docker.io/alpine", "docker.io/library/alpine:latest", "alpine:latest", None),
    ("docker.io/library/alpine", "docker.io/library/alpine:latest", "alpine:latest", None),
    ("index.docker.io/alpine", "docker.io/library/alpine:latest", "alpine:latest", None),
    ("user/app", "docker.io/user/app:latest", "user/app:latest", None),
    ("docker.io/user/app:1", "docker.io/user/app:1", "user/app:1", None),
    ("library/a/b", "docker.io/library/a/b:latest", "library/a/b:latest", None),
    ("a/b/c/d", "docker.io/a/b/c/d:latest", "a/b/c/d:latest", None),
    ("localhost/app", "localhost/app:latest", "localhost/app:latest", None),
    ("localhost", "docker.io/library/localhost:latest", "localhost:latest", None),
    ("localhost:5000/app", "localhost:5000/app:latest", "localhost:5000/app:latest", None),
    ("host:5000/a/b:tag", "host:5000/a/b:tag", "host:5000/a/b:tag", None),
    ("reg.example.com/a", "reg.example.com/a:latest", "reg.example.com/a:latest", None),
    ("reg.example.com/library/a", "reg.example.com/library/a:latest", "reg.example.com/library/a:latest", None),
    ("127.0.0.1:5000/a", "127.0.0.1:5000/a:latest", "127.0.0.1:5000/a:latest", None),
    ("[::1]:5000/a", "[::1]:5000/a:latest", "[::1]:5000/a:latest", None),
    ("[2001:db8::1]/a:t", "[2001:db8::1]/a:t", "[2001:db8::1]/a:t", None),
    ("UPPER/app", "UPPER/app:latest", "UPPER/app:latest", None),  # an upper-case first part is a host
    ("Reg.Example.COM/app", "Reg.Example.COM/app:latest", "Reg.Example.COM/app:latest", None),
    ("alpine:V1_x.y-z", "docker.io/library/alpine:V1_x.y-z", "alpine:V1_x.y-z", None),
    ("alpine:_x", "docker.io/library/alpine:_x", "alpine:_x", None),
    ("a:" + "t" * 128, "docker.io/library/a:" + "t" * 128, "a:" + "t" * 128, None),
    ("a.b", "docker.io/library/a.b:latest", "a.b:latest", None),
    ("a_b/c__d/e---f", "docker.io/a_b/c__d/e---f:latest", "a_b/c__d/e---f:latest", None),
    ("alpine@sha256:" + A, "docker.io/library/alpine@sha256:" + A, "alpine@sha256:" + A, None),
    ("alpine@sha512:" + B, "docker.io/library/alpine@sha512:" + B, "alpine@sha512:" + B, None),
    ("alpine:3@sha256:" + A, "docker.io/library/alpine:3@sha256:" + A, "alpine:3@sha256:" + A,
     "docker.io/library/alpine@sha256:" + A),
    ("host:5000/a/b:tag@sha256:" + A, "host:5000/a/b:tag@sha256:" + A, "host:5000/a/b:tag@sha256:" + A,
     "host:5000/a/b@sha256:" + A),
    ("a" * 63, "docker.io/library/" + "a" * 63 + ":latest", "a" * 63 + ":latest", None),
    ("docker.io/x/" + "a" * 253, "docker.io/x/" + "a" * 253 + ":latest", "", None),
]  # fmt: skip

BAD = [  # what is written, a part of what is said
    ("", "is empty"),
    ("Alpine", "repository name (library/Alpine) must be lowercase"),
    ("user/App:1", "must be lowercase"),
    ("localhost:5000/App", 'did you mean "localhost:5000/app"'),
    (A, "64 hexadecimal digits are an image id"),
    ("alpine:", "is not a tag"),
    ("alpine:-x", "is not a tag"),
    ("alpine:.x", "is not a tag"),
    ("alpine:a b", "is not a tag"),
    ("alpine:é", "is not a tag"),
    ("alpine:" + "t" * 129, "128 characters"),
    ("alpine@", "cannot be verified"),
    ("alpine@sha256:" + A[:-1], "64 hexadecimal digits"),
    ("alpine@sha256:" + A.upper(), "in lower case"),
    ("alpine@md5:" + A[:32], "cannot be verified"),
    ("alpine@sha256:" + A + "@sha256:" + A, "64 hexadecimal digits"),
    ("alpine:1:2", "is not a tag"),
    ("a//b", "invalid reference format"),
    ("/a", "invalid reference format"),
    ("a/", "invalid reference format"),
    ("-a", "invalid reference format"),
    ("a-", "invalid reference format"),
    ("a..b/c", "not a host"),
    ("x/a..b", "invalid reference format"),
    ("x/a___b", "invalid reference format"),
    ("x/a._b", "invalid reference format"),
    ("a b", "invalid reference format"),
    ("a\nb", "invalid reference format"),
    ("../etc", "not a host"),
    ("é", "invalid reference format"),
    ("host:port/a", "not a host"),
    ("host:/a", "not a host"),
    ("-host.com/a", "not a host"),
    ("[::1/a", "not a host"),
    ("[gg::]/a", "not a host"),
    ("https://reg.example.com/a", "not a host"),
    ("a/" + "b" * 256, "255 characters"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "full", "familiar", "key"), GOOD, ids=[g[0][:40] for g in GOOD])
def test_good(text, full, familiar, key):
    found = parse(text)
    assert str(found) == full
    assert not familiar or found.familiar == familiar
    assert found.key == (key or full)
    assert parse(full) == found
    if not (len(found.familiar_name) == 64 and set(found.familiar_name) <= set("0123456789abcdef")):
        assert parse(found.familiar) == found


@pytest.mark.parametrize(("text", "said"), BAD, ids=[b[0][:40] or "empty" for b in BAD])
def test_bad(text, said):
    with pytest.raises(SpecError) as caught:
        parse(text)
    assert said in str(caught.value)
    assert caught.value.field == "image"


@pytest.mark.parametrize("value", [None, 3, b"alpine", ["alpine"]])
def test_other_types(value):
    with pytest.raises(SpecError):
        parse(value)


def test_value():
    found = parse("host:5000/a/b:tag@sha256:" + A)
    assert (found.domain, found.path, found.tag, found.digest) == ("host:5000", "a/b", "tag", "sha256:" + A)
    assert found.name == "host:5000/a/b"
    assert parse(found) is found
    assert {found: 1}[parse(str(found))] == 1
    assert pickle.loads(pickle.dumps(found)) == found == copy.deepcopy(found)
    with pytest.raises(AttributeError):
        found.tag = "x"
    assert str(found.with_tag("2")) == "host:5000/a/b:2"
    assert str(found.with_digest("sha256:" + "c" * 64)) == "host:5000/a/b@sha256:" + "c" * 64
    with pytest.raises(SpecError):
        found.with_tag("no tag")


_component = st.from_regex(r"[a-z0-9]{1,8}((\.|_|__|-{1,3})[a-z0-9]{1,8}){0,2}", fullmatch=True)
_host = st.from_regex(
    r"(localhost|[a-zA-Z0-9]([a-zA-Z0-9-]{0,6}[a-zA-Z0-9])?(\.[a-zA-Z0-9]{1,5}){1,2})(:[0-9]{1,5})?", fullmatch=True
)
_tag = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,30}", fullmatch=True)
_digest = st.from_regex(r"sha256:[0-9a-f]{64}", fullmatch=True)


@given(st.none() | _host, st.lists(_component, min_size=1, max_size=4), st.none() | _tag, st.none() | _digest)
def test_what_is_put_together_comes_apart(host, parts, tag, digest):
    assume(host or len(parts) == 1 or not ("." in parts[0] or parts[0] == "localhost"))  # that would be a host
    text = "/".join(([host] if host else []) + parts) + (f":{tag}" if tag else "") + (f"@{digest}" if digest else "")
    found = parse(text)
    assert found.tag == (tag or (None if digest else "latest"))
    assert found.digest == digest
    assert parse(str(found)) == found
    assert str(parse(str(found))) == str(found)
    assert parse(found.key).key == found.key
    if len(parts) > 1 or host or len(parts[0]) != 64:
        assert parse(found.familiar) == found
    if host:
        assert found.path.endswith("/".join(parts))


OURS = re.compile(
    r"^(?P<domain>(?:[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)*"
    r"|\[[a-fA-F0-9:]+\])(?::[0-9]+)?)/"
    r"(?P<path>[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}))?\Z",
)
"""The documented grammar of a full reference, as a regular expression: another way to the same answer."""


@given(st.text(alphabet="aB0._-:/@[] \né", max_size=14) | st.text(max_size=10))
def test_anything(text):
    domain, rest = reference.split_domain(text)
    full = f"{domain}/{rest}"
    match = OURS.match(full)
    try:
        found = parse(text)
    except SpecError:
        assert not match
    else:
        assert match
        assert (found.domain, found.path) == match.group("domain", "path")
        assert found.tag == (match["tag"] or (None if match["digest"] else "latest"))
