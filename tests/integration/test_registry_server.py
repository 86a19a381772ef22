"""Debian's docker-registry: push and pull, skopeo on the other side, basic and token authentication, TLS."""

from __future__ import annotations

import json
import os
import random
import socket
import stat
import subprocess
import sys
import threading

import pytest

from fastctr.errors import AuthError, ImageNotFound, RegistryError
from fastctr.image import credentials, distribution
from fastctr.image.connect import NetworkError
from fastctr.image.http import Http
from fastctr.image.pull import pull, remote
from fastctr.image.push import push
from fastctr.image.store import Store
from image_support import Image, Index, make_layer
from registry_support import (
    PASSWORD,
    USER,
    ImageServer,
    Running,
    Server,
    TokenServer,
    assert_whole,
    fails,
    make_certificate,
    private,  # noqa: F401
    quick,
    skopeo,
)

pytestmark = pytest.mark.usefixtures("private")


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    with Running(tmp_path_factory.mktemp("registry")) as running:
        yield running


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


def some_image(seed=1, layers=3, size=50_000, **more):
    rng = random.Random(seed)
    return Image([make_layer({f"file{i}": rng.randbytes(size)}) for i in range(layers)], {"Cmd": ["sh"]}, **more)


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "store"))


@pytest.fixture
def other(tmp_path):
    return Store(str(tmp_path / "other"))


def fetch(store, name, **more):
    return pull(store, name, unpack=False, settings=quick(), **more)


@pytest.mark.parametrize("docker", [False, True])
def test_push_and_pull(registry, store, other, docker):
    image, name = some_image(docker=docker), f"{registry.host}/team/app-{docker}:1.0".lower()
    image.put(store, name)
    assert push(store, name).digest == image.manifest_digest
    found = fetch(other, name)
    assert found.target.digest == image.manifest_digest and found.target.media_type == image.target["mediaType"]
    assert_whole(other, image)
    assert other.refs.get(name).digest == image.manifest_digest
    pinned = f"{name.rpartition(':')[0]}@{image.manifest_digest}"
    third = Store(other.root + "3")
    assert fetch(third, pinned).names == [pinned]
    assert remote(name)[1].digest == image.manifest_digest


def test_a_second_push_sends_nothing_and_another_name_mounts(registry, store):
    image, name = some_image(2), f"{registry.host}/mount/from:1"
    image.put(store, name)
    push(store, name)
    events = []
    push(store, name, progress=events.append)
    assert {e.action for e in events} == {"resolving", "exists", "done"}
    target = f"{registry.host}/mount/to:1"
    store.refs.set(target, store.refs.get(name))
    events.clear()
    push(store, target, progress=events.append)
    assert [e.action for e in events if e.action in ("mounted", "pushing", "exists")] == ["mounted"] * 4
    other = Store(store.root + "2")
    assert fetch(other, target).id == image.config_digest


def test_all_tags_and_what_is_not_there(registry, store, other):
    images = {tag: some_image(seed, layers=1) for seed, tag in enumerate(("a", "b", "c"))}
    for tag, image in images.items():
        image.put(store, f"{registry.host}/tags:{tag}")
        push(store, f"{registry.host}/tags:{tag}")
    found = pull(other, f"{registry.host}/tags", all_tags=True, unpack=False)
    assert {f.names[0].rpartition(":")[2]: f.id for f in found} == {t: i.config_digest for t, i in images.items()}
    for name in (f"{registry.host}/tags:nope", f"{registry.host}/nobody:1", f"{registry.host}/tags@sha256:{'0' * 64}"):
        assert "is not in the registry" in str(fails(ImageNotFound, fetch, other, name))
    with pytest.raises(ImageNotFound, match="not in the store"):
        push(other, f"{registry.host}/never:1")


def test_indexes(registry, store, other):
    images = [some_image(s, architecture=a) for s, a in ((1, "amd64"), (2, "arm64"), (3, "s390x"))]
    index, name = Index(images), f"{registry.host}/multi:1"
    index.put(store, name)
    assert push(store, name).digest == index.target["digest"]
    found = fetch(other, name, platform="linux/arm64")
    assert found.id == images[1].config_digest and found.target.digest == index.target["digest"]
    assert not other.has_blob(images[0].config_digest)
    # In part here, whole there: the index goes as it is. Where it is not: the one manifest that is here.
    again, elsewhere = f"{registry.host}/multi:2", f"{registry.host}/single:1"
    other.refs.set_all([(again, found.target), (elsewhere, found.target)])
    assert push(other, again).digest == index.target["digest"]
    events = []
    assert push(other, elsewhere, progress=events.append).digest == images[1].manifest_digest
    assert "warning" in {e.action for e in events}
    fetch(other, name, platform="linux/s390x")
    third = f"{registry.host}/third:1"
    other.refs.set(third, found.target)
    with pytest.raises(ImageNotFound, match="linux/amd64"):
        push(other, third)
    assert push(other, name, platform="linux/s390x").digest == images[2].manifest_digest
    error = fails(ImageNotFound, fetch, other, again, platform="linux/ppc64le")
    assert "linux/amd64, linux/arm64, linux/s390x" in str(error)


def test_a_part_that_is_missing(registry, store):
    image, name = some_image(5), f"{registry.host}/broken:1"
    image.put(store, name)
    os.unlink(store.blob_path(image.layers[1]))
    with pytest.raises(ImageNotFound, match="in part"):
        push(store, name)


def test_chunked_upload_and_one_that_is_cut(registry, store, other):
    image = some_image(6, layers=1, size=3_000_000)
    image.put(store, f"{registry.host}/chunks:1")
    push(store, f"{registry.host}/chunks:1", chunk=1_000_000)
    assert_whole(other, fetch(other, f"{registry.host}/chunks:1") and image)
    with Cutting(registry.port, after=700_000, times=3) as proxy:
        name = f"127.0.0.1:{proxy.port}/cut:1"
        some = some_image(7, layers=1, size=3_000_000)
        some.put(store, name)
        push(store, name, settings=quick(attempts=5), chunk=500_000)
        assert proxy.cuts == 3
        proxy.cuts, proxy.times = 0, 2
        some = some_image(8, layers=1, size=3_000_000)
        some.put(store, name)
        push(store, name, settings=quick(attempts=5))
        assert proxy.cuts == 2
        proxy.times = 0
        assert_whole(Store(other.root + "2"), fetch(Store(other.root + "2"), name) and some)


class Cutting:
    """A TCP proxy to a port here that hangs up `times` times after so many bytes to the server."""

    def __init__(self, port, after, times):
        self.target, self.after, self.times, self.cuts = port, after, times, 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.threads = [threading.Thread(target=self._accept, daemon=True)]

    def _accept(self):
        while True:
            try:
                ours, _ = self.listener.accept()
            except OSError:
                return
            theirs = socket.create_connection(("127.0.0.1", self.target))
            for pair in ((ours, theirs, True), (theirs, ours, False)):
                self.threads.append(threading.Thread(target=self._copy, args=pair, daemon=True))
                self.threads[-1].start()

    def _copy(self, source, sink, counted):
        total = 0
        try:
            while data := source.recv(65536):
                total += len(data)
                if counted and total > self.after and self.cuts < self.times:
                    self.cuts += 1
                    break
                sink.sendall(data)
        except OSError:
            pass
        for each in (source, sink):
            try:
                each.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def __enter__(self):
        self.threads[0].start()
        return self

    def __exit__(self, *_):
        self.listener.shutdown(socket.SHUT_RDWR)
        for thread in self.threads:
            thread.join(5)
        self.listener.close()


# ---- skopeo on the other side


@pytest.mark.needs_peer("skopeo")
def test_skopeo_both_ways(registry, store, other, tmp_path):
    image, layout = some_image(9), str(tmp_path / "layout")
    make = image.put(layout, "x")
    skopeo("copy", f"oci:{layout}:x", f"docker://{registry.host}/skopeo:1", "--dest-tls-verify=false")
    found = fetch(store, f"{registry.host}/skopeo:1")
    assert found.target.digest == make.manifest_digest
    store.refs.set(f"{registry.host}/ours:1", found.target)
    push(store, f"{registry.host}/ours:1")
    skopeo("copy", f"docker://{registry.host}/ours:1", f"oci:{tmp_path}/back:x", "--src-tls-verify=false")
    index = json.loads((tmp_path / "back/index.json").read_text())
    assert index["manifests"][0]["digest"] == image.manifest_digest
    assert json.loads(skopeo("inspect", "--raw", "--tls-verify=false", f"docker://{registry.host}/ours:1")) == json.loads(
        image.manifest_bytes
    )
    skopeo("copy", f"oci:{store.root}:{registry.host}/ours:1", f"oci:{tmp_path}/direct:x")  # the store is a layout
    zstd = Image([make_layer({"a": "b" * 9999}, "zstd"), make_layer({"c": "d"}, "zstd")])
    zstd.put(store, f"{registry.host}/ours:zstd")
    push(store, f"{registry.host}/ours:zstd")
    skopeo("copy", f"docker://{registry.host}/ours:zstd", f"docker://{registry.host}/back:zstd",
           "--src-tls-verify=false", "--dest-tls-verify=false")  # fmt: skip
    assert fetch(other, f"{registry.host}/back:zstd").target.digest == zstd.manifest_digest


# ---- who we are


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


def test_two_processes_at_once_share_the_work(tmp_path):
    image, root = some_image(15, layers=4, size=100_000), str(tmp_path / "shared")
    code = (
        "import sys; from fastctr.image.pull import pull; from fastctr.image.store import Store;"
        "print(pull(Store(sys.argv[1]), sys.argv[2], unpack=False).id)"
    )
    with ImageServer(image, rate=400_000) as server:
        both = [
            subprocess.Popen([sys.executable, "-c", code, root, f"{server.host}/both:1"], stdout=subprocess.PIPE, text=True)
            for _ in range(2)
        ]
        assert [each.communicate(timeout=60)[0].strip() for each in both] == [image.config_digest] * 2
        assert_whole(Store(root), image)
        blobs = [path for _, path, _ in server.seen if "/blobs/" in path]
        assert len(blobs) == len(set(blobs)) == 5
    assert not os.listdir(f"{root}/leases")


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
