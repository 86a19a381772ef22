"""Challenges, credentials and their helpers, registries.toml, hosts, times: what needs no server."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys

import pytest

from fastctr.errors import AuthError, ImageError, RegistryError
from fastctr.image import connect, credentials, origins, registries
from fastctr.image.auth import parse_challenges
from fastctr.image.credentials import Credentials, parse_auth
from fastctr.image.distribution import _next_page
from fastctr.image.progress import Meter, short
from fastctr.image.store import Store
from registry_support import private  # noqa: F401

pytestmark = pytest.mark.usefixtures("private")


@pytest.mark.parametrize("lines, expected", [
    (['Bearer realm="https://a/token",service="s",scope="repository:x:pull,push"'],
     [("bearer", {"realm": "https://a/token", "service": "s", "scope": "repository:x:pull,push"})]),
    (['Basic realm="a \\"b\\", c"'], [("basic", {"realm": 'a "b", c'})]),
    (["Negotiate, NTLM abc==, Basic realm=x"], [("negotiate", {}), ("ntlm", {"abc": ""}), ("basic", {"realm": "x"})]),
    (["basic", 'bearer realm = "r"'], [("basic", {}), ("bearer", {"realm": "r"})]),
    ([""], []), ([",,,"], []), (['="x"'], [("x", {})]), (['Bearer realm="never closed'], [("bearer", {"realm": "never closed"})]),
])  # fmt: skip
def test_challenges(lines, expected):
    assert parse_challenges(lines) == expected


@pytest.mark.parametrize("host, loopback", [
    ("localhost", True), ("localhost:5000", True), ("127.0.0.1", True), ("127.9.9.9:1", True), ("[::1]:5000", True),
    ("::1", True), ("a.localhost", True), ("128.0.0.1", False), ("127.0.0.1.example.com", False), ("1127.0.0.1", False),
    ("example.com", False), ("localhost.example.com:5000", False), ("[::2]", False), ("127.0.0.1@example.com", False),
    ("127.0.0.999", False),
])  # fmt: skip
def test_loopback(host, loopback):
    assert connect.is_loopback(host) is loopback


@pytest.mark.parametrize("url", ["ftp://x/", "https://", "x", "http://x:99999/", "http://x:a/", "file:///etc/passwd", ""])
def test_origins_that_are_none(url):
    with pytest.raises(RegistryError):
        connect.origin(url)


def test_origin_and_redirects():
    assert connect.origin("https://a/b") == ("https", "a", 443) == connect.origin("https://a:443/")
    assert connect.redirected("https://a/v2/x", "/y") == "https://a/y"
    assert connect.redirected("http://a/x", "https://b/y") == "https://b/y"
    with pytest.raises(RegistryError, match="from https"):
        connect.redirected("https://a/x", "http://b/y")


@pytest.mark.parametrize("text, seconds", [("3", 3.0), ("0", 0.0), ("x", None), (None, None), ("", None), ("-1", None),
                                           ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0), ("9" * 50, 10.0**6)])  # fmt: skip
def test_retry_after(text, seconds):
    assert connect.retry_after(text) == seconds


@pytest.mark.parametrize("links, following", [
    ('</v2/x/tags/list?n=2&last=b>; rel="next"', "http://h/v2/x/tags/list?n=2&last=b"), ("", ""),
    ('<http://h/p?a=1>; rel="prev"', ""), ('<q>; rel=next', "http://h/v2/q"), ("garbage", ""),
])  # fmt: skip
def test_pages(links, following):
    assert _next_page("http://h/v2/x", links) == following


# ---- credentials


def config(home, **content):
    (home / ".docker/config.json").write_text(json.dumps(content))


def auth(user, password):
    return {"auth": credentials._base64(f"{user}:{password}")}


@pytest.mark.parametrize("key, host", [
    ("https://index.docker.io/v1/", "docker.io"), ("docker.io", "docker.io"), ("registry-1.docker.io", "docker.io"),
    ("example.com", "example.com"), ("https://example.com", "example.com"), ("https://example.com/v2/", "example.com"),
    ("example.com/v1/", "example.com"), ("example.com:5000", "example.com:5000"),
])  # fmt: skip
def test_keys_of_auths(private, key, host):  # noqa: F811
    config(private, auths={key: auth("me", "pass:word")})
    found, note = credentials.find(host, "some/thing")
    assert (found.username, found.password, note) == ("me", "pass:word", "")
    assert credentials.find("elsewhere.com") == (None, "") == credentials.find("example.com:1")
    assert "pass" not in repr(found)


def test_podman_keys_of_namespaces(private):  # noqa: F811
    path = private / ".config/containers/auth.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"auths": {"h": auth("all", "1"), "h/a": auth("a", "2"), "h/a/b": auth("ab", "3")}}))
    for name, user in (("a/b/c", "ab"), ("a/b", "ab"), ("a/bc", "a"), ("x", "all"), ("ab", "all")):
        assert credentials.find("h", name)[0].username == user
    config(private, auths={"h": auth("docker", "4")})
    assert credentials.find("h", "x")[0].username == "docker"  # Docker's first


def test_store_keeps_the_rest(private):  # noqa: F811
    config(private, HttpHeaders={"X": "y"}, auths={"other": auth("o", "p")}, psFormat="x")
    assert "in clear" in credentials.store("docker.io", Credentials("me", "secret"))
    credentials.store("h:5000", Credentials("me", identity_token="tok"))
    path = private / ".docker/config.json"
    data = json.loads(path.read_text())
    assert data["HttpHeaders"] == {"X": "y"} and set(data["auths"]) == {"other", "https://index.docker.io/v1/", "h:5000"}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and os.listdir(path.parent) == ["config.json"]
    assert credentials.find("h:5000")[0].identity_token == "tok"
    assert credentials.erase("docker.io") and not credentials.erase("docker.io")
    assert set(json.loads(path.read_text())["auths"]) == {"other", "h:5000"}


@pytest.mark.parametrize("text", ["[]", "{", "\xff", '"x"'])
def test_files_that_are_not_right(private, text):  # noqa: F811
    (private / ".docker/config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ImageError, match=r"config\.json"):
        credentials.find("h")


@pytest.mark.parametrize("content", [{"auths": []}, {"auths": {"h": 5}}, {"auths": {"h": {"auth": "%%%"}}},
                                     {"auths": {"h": {}}}, {"credHelpers": 3, "credsStore": 5}, {}])  # fmt: skip
def test_entries_that_say_nothing(private, content):  # noqa: F811
    config(private, **content)
    assert credentials.find("h") == (None, "")


HELPER = """#!/bin/sh
cd "$HELPER_DIR"; input=$(cat)
case $1 in
get) f=$(echo "$input" | tr -c 'a-z0-9\\n' _); if [ -f "$f" ]; then cat "$f"; else echo "credentials not found in native keychain"; exit 1; fi;;
store) echo "$input" > stored; key=$(echo "$input" | sed 's/.*"ServerURL": "\\([^"]*\\)".*/\\1/' | tr -c 'a-z0-9\\n' _); echo "$input" > "$key";;
erase) f=$(echo "$input" | tr -c 'a-z0-9\\n' _); rm "$f";;
esac
"""


def test_helpers(private, tmp_path, monkeypatch):  # noqa: F811
    folder = tmp_path / "helper"
    folder.mkdir()
    program = folder / "docker-credential-mine"
    program.write_text(HELPER)
    program.chmod(0o755)
    monkeypatch.setenv("HELPER_DIR", str(folder))
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    config(private, credHelpers={"h": "mine"}, credsStore="gone", auths={"third": auth("x", "y")})
    assert credentials.find("h") == (None, "")
    assert credentials.store("h", Credentials("me", "secret")) == ""
    text = (private / ".docker/config.json").read_text()
    assert "secret" not in text and json.loads(text)["auths"]["h"] == {}
    found, _ = credentials.find("h")
    assert (found.username, found.password) == ("me", "secret")
    credentials.store("h", Credentials("me", identity_token="token"))
    assert credentials.find("h")[0].identity_token == "token"
    assert credentials.erase("h")
    assert credentials.find("h") == (None, "")
    found, note = credentials.find("other")  # its helper is not there: said, and no hindrance
    assert found is None and "docker-credential-gone" in note
    assert credentials.find("third")[0].username == "x"
    with pytest.raises(AuthError, match="not installed"):
        credentials.store("other", Credentials("a", "b"))
    config(private, credsStore="../../bin/sh")
    assert "not the name of a program" in credentials.find("h")[1]


@pytest.mark.parametrize("value, expected", [
    (None, None), (("u", "p"), ("u", "p", "")), ("u:p:q", ("u", "p:q", "")), ({"username": "u", "password": "p"}, ("u", "p", "")),
    ({"identitytoken": "t"}, ("", "", "t")), ({"identity_token": "t", "Username": "u"}, ("u", "", "t")),
])  # fmt: skip
def test_parse_auth(value, expected):
    found = parse_auth(value)
    assert found is None if expected is None else (found.username, found.password, found.identity_token) == expected


@pytest.mark.parametrize("value", ["nocolon", 5, ("a",), ("a", "b", "c")])
def test_parse_auth_refuses(value):
    with pytest.raises(AuthError, match="auth"):
        parse_auth(value)


# ---- registries


def write(tmp_path, monkeypatch, text):
    path = tmp_path / "r.toml"
    path.write_text(text)
    monkeypatch.setenv("FASTCTR_REGISTRIES", str(path))
    return registries.load()


def test_registries(tmp_path, monkeypatch):
    found = write(tmp_path, monkeypatch, """
insecure = ["lan:5000", "10.0.0.0/8", "bare"]
[http]
read-timeout = 2.5
attempts = 9
[registry."docker.io"]
mirrors = ["mirror.lan", "https://m2:5000/", "http://m3", "http://127.0.0.1:5001"]
[registry."x.y"]
insecure = true
""")  # fmt: skip
    assert found.hosts("docker.io") == ["mirror.lan", "m2:5000", "m3", "127.0.0.1:5001", "registry-1.docker.io"]
    assert found.hosts("x.y") == ["x.y"]
    for host in ("lan:5000", "10.1.2.3:99", "10.1.2.3", "bare", "bare:80", "m3", "x.y", "localhost:1"):
        assert found.is_insecure(host), host
    for host in ("lan", "lan:5001", "11.0.0.1", "mirror.lan", "m2:5000", "docker.io"):
        assert not found.is_insecure(host), host
    settings = found.settings()
    assert (settings.read, settings.attempts, settings.connect) == (2.5, 9, 10.0)


@pytest.mark.parametrize("text", [
    "x", "other = 1", "insecure = 5", "insecure = [5]", "[http]\nfoo = 1", "[http]\nattempts = 0", "[http]\nattempts = 'x'",
    "[registry.x]\nmirrors = 'a'", "[registry.x]\nmirrors = ['a/b']", "[registry.x]\nmirrors = ['ftp://a']",
    "[registry.x]\nmirrors = ['']", "[registry.x]\nmirror = ['a']", "registry = 3",
])  # fmt: skip
def test_registries_that_are_not_right(tmp_path, monkeypatch, text):
    with pytest.raises(ImageError, match=r"r\.toml"):
        write(tmp_path, monkeypatch, text)


def test_registries_places(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTCTR_REGISTRIES", str(tmp_path / "nowhere"))
    with pytest.raises(ImageError, match="FASTCTR_REGISTRIES"):
        registries.load()
    monkeypatch.delenv("FASTCTR_REGISTRIES")
    daemon, system = tmp_path / "daemon.json", tmp_path / "system.toml"
    monkeypatch.setattr(registries, "DAEMON", str(daemon))
    monkeypatch.setattr(registries, "SYSTEM", str(system))
    assert registries.load().hosts("docker.io") == ["registry-1.docker.io"]
    daemon.write_text('{"registry-mirrors": ["https://m/"], "insecure-registries": ["i:1", "10.0.0.0/8"]}')
    found = registries.load()
    assert found.hosts("docker.io")[0] == "m" and found.is_insecure("i:1") and found.is_insecure("10.1.1.1:5")
    system.write_text('[registry."docker.io"]\nmirrors = ["sys"]\n[registry.a]\nmirrors = ["b"]')
    user = tmp_path / "home/.config/fastctr/registries.toml"
    user.parent.mkdir(parents=True)
    user.write_text('[registry."docker.io"]\nmirrors = ["user"]')
    found = registries.load()
    assert found.hosts("docker.io")[0] == "user" and found.hosts("a")[0] == "b" and not found.is_insecure("i:1")


# ---- small things


def test_origins_of_blobs(tmp_path, monkeypatch):
    store = Store(str(tmp_path / "s"))
    first, second = store.add_bytes(b"1"), store.add_bytes(b"2")
    origins.note(store, "h/a", [first, second, first])
    origins.note(store, "h/b", [first])
    origins.note(store, "other/c", [first])
    origins.note(store, "h/b", [first])
    assert origins.sources(store, "h", first, "x") == ["b", "a"]
    assert origins.sources(store, "h", first, "b") == ["a"] and origins.sources(store, "z", first, "") == []
    assert len(open(f"{store.root}/origins").readlines()) == 4
    monkeypatch.setattr(origins, "_LONG", 300)
    os.unlink(store.blob_path(second))
    origins.note(store, "h/d", [first])
    assert origins.sources(store, "h", second, "") == [] and "d" in origins.sources(store, "h", first, "")


def test_meter_tells_seldom():
    events = []
    meter = Meter(events.append, "downloading", "x", 100 << 20)
    for _ in range(100 << 4):
        meter.add(1 << 16)
    assert len(events) < 60 and events[-1].current <= 100 << 20
    assert short("sha256:0123456789abcdef") == "0123456789ab"


def test_imports_stay_light():
    code = (
        "import sys; from fastctr.image import pull, push, http, auth, credentials, registries, distribution, progress;"
        "print([m for m in ('urllib3', 'ssl', 'subprocess', 'hashlib', 'email', 'http.client', 'dataclasses', 'rich')"
        " if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
