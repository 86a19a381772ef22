"""Debian's docker-registry that wants to know who we are: basic and token authentication, logins, TLS, proxies."""

from __future__ import annotations

import stat

import pytest

from fastctr.errors import (
    AuthError,
    ImageNotFound,
    RegistryError,
)
from fastctr.image import credentials, distribution
from fastctr.image.connect import NetworkError
from fastctr.image.http import Http
from fastctr.image.pull import remote
from fastctr.image.push import push
from fastctr.image.store import Store
from registry_support import (  # noqa: F401
    PASSWORD,
    Running,
    Server,
    TokenServer,
    USER,
    assert_whole,
    fails,
    fetch,
    make_certificate,
    other,
    private,
    quick,
    registry,
    skopeo,
    some_image,
    store,
)

pytestmark = pytest.mark.usefixtures("private")


@pytest.fixture(scope="module")
def basic(tmp_path_factory):
    with Running(tmp_path_factory.mktemp("basic"), auth="htpasswd") as running:
        yield running


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    with TokenServer(tmp_path_factory.mktemp("tokens")) as server:
        yield server


@pytest.fixture(scope="module")
def bearer(tmp_path_factory, tokens):
    directory = tmp_path_factory.mktemp("bearer")
    with Running(directory, auth="token", token_url=f"{tokens.url}/token", certificate=tokens.certificate) as running:
        yield running


def test_basic(basic, store, other, private):  # noqa: F811
    image, name = some_image(10, layers=1), f"{basic.host}/private:1"
    image.put(store, name)
    error = fails(AuthError, push, store, name)
    assert error.status == 401 and f"fastctr login {basic.host}" in str(error)
    error = fails(AuthError, push, store, name, auth=(USER, "wrong"))
    assert "wrong" not in str(error) and USER in str(error)
    push(store, name, auth=(USER, PASSWORD))
    fails(AuthError, fetch, other, name)
    with Http(quick()) as http:
        fails(AuthError, distribution.log_in, http, basic.host, credentials.Credentials(USER, "wrong"))
        kept = distribution.log_in(http, basic.host, credentials.Credentials(USER, PASSWORD))
    assert "in clear" in credentials.store(basic.host, kept)
    assert stat.S_IMODE((private / ".docker/config.json").stat().st_mode) == 0o600
    assert_whole(other, fetch(other, name) and image)
    assert credentials.erase(basic.host)
    fails(AuthError, remote, name)


def test_docker_and_skopeo_logins_are_ours(basic, store, private):  # noqa: F811
    image, name = some_image(11, layers=1), f"{basic.host}/logins:1"
    image.put(store, name)
    skopeo("login", "--tls-verify=false", "-u", USER, "-p", PASSWORD, "--authfile",
           str(private / ".config/containers/auth.json"), basic.host)  # fmt: skip
    push(store, name)
    credentials.store(basic.host, credentials.Credentials(USER, PASSWORD))
    skopeo("inspect", "--tls-verify=false", "--authfile", str(private / ".docker/config.json"), f"docker://{name}")


def test_bearer(bearer, tokens, store, other, private):  # noqa: F811
    image, name = some_image(12), f"{bearer.host}/team/secret:1"
    image.put(store, name)
    assert fails(AuthError, push, store, name).status == 401
    tokens.issued.clear()
    push(store, name, auth=(USER, PASSWORD))
    assert tokens.issued == [["repository:team/secret:pull,push"]]  # one token for all of it
    store.refs.set(f"{bearer.host}/team/other:1", store.refs.get(name))
    events = []
    push(store, f"{bearer.host}/team/other:1", auth={"username": USER, "password": PASSWORD}, progress=events.append)
    assert tokens.issued[1:] == [["repository:team/other:pull,push", "repository:team/secret:pull"]]
    assert [e.action for e in events].count("mounted") == 4
    tokens.issued.clear()
    fetch(other, name, auth=f"{USER}:{PASSWORD}")
    assert tokens.issued == [["repository:team/secret:pull"]]
    assert_whole(other, image)
    # login gives an identity token, which is kept instead of the password and used by POST
    with Http(quick()) as http:
        kept = distribution.log_in(http, bearer.host, credentials.Credentials(USER, PASSWORD))
    assert kept.identity_token == tokens.refresh and not kept.password
    credentials.store(bearer.host, kept)
    assert PASSWORD not in (private / ".docker/config.json").read_text()
    assert remote(name)[1].digest == image.manifest_digest
    assert tokens.seen[-1][0] == "POST"


def test_anonymous_tokens_that_end(tmp_path, store):
    with TokenServer(tmp_path, anonymous=True, expires=6) as tokens, Running(
        tmp_path, auth="token", token_url=f"{tokens.url}/token", certificate=tokens.certificate
    ) as running:  # fmt: skip
        name = f"{running.host}/free:1"
        image = some_image(13, layers=1, size=200_000)
        image.put(store, name)
        push(store, name, auth=(USER, PASSWORD))
        other = Store(store.root + "2")
        fetch(other, name)
        assert_whole(other, image)
        assert fails(AuthError, push, other, name).status == 401


def test_tls(tmp_path, store, other, monkeypatch, private):  # noqa: F811
    cert, key = make_certificate(tmp_path)
    with Running(tmp_path, tls=(cert, key)) as running:
        image, name = some_image(14, layers=1), f"{running.host}/tls:1"
        image.put(store, name)
        push(store, name)  # loopback: any certificate will do
        monkeypatch.setattr("fastctr.image.http.is_loopback", lambda host: False)
        monkeypatch.setattr("fastctr.image.registries.is_loopback", lambda host: False)
        error = fails(NetworkError, fetch, other, name)
        assert "CERTIFICATE_VERIFY_FAILED" in str(error) and "certs.d" in str(error)
        fetch(other, name, insecure=True)
        folder = private / ".config/containers/certs.d" / running.host
        folder.mkdir(parents=True)
        (folder / "ca.crt").write_text(open(cert).read())
        assert remote(name)[1].digest == image.manifest_digest
        (folder / "ca.crt").write_text("nonsense")
        with pytest.raises(RegistryError, match="certificate"):
            remote(name)


def test_proxies(registry, store, monkeypatch):
    def respond(handler):
        handler.answer(502, b"no")

    with Server(respond) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.setenv("https_proxy", proxy.url)
        fetch_error = fails(RegistryError, fetch, store, "registry.invalid/x:1", mirrors=[])
        assert "registry.invalid" in str(fetch_error)
        assert proxy.seen and proxy.seen[0][0] == "CONNECT"
        count = len(proxy.seen)
        fails(ImageNotFound, fetch, store, f"{registry.host}/not/there:1")
        assert len(proxy.seen) == count  # never for loopback
