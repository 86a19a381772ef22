"""Registries for tests: Debian's docker-registry on loopback (open, htpasswd, token), and one written here
that serves an Image and misbehaves as it is told."""

from __future__ import annotations

import base64
import contextlib
import http.server
import json
import os
import random
import re
import shutil
import socket
import subprocess
import threading
import time
import urllib.parse

import pytest

from fastctr.image.pull import pull
from fastctr.image.store import Store
from image_support import Image, make_layer

USER, PASSWORD = "user", "secret"
_BCRYPT = "$2b$04$IiXtOK2AMG/cIWFCkasyMONxP.G2/LtWYDPcbA0Jsy/OxS0GVYCR."  # of PASSWORD


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


class Running:
    """A docker-registry. host "127.0.0.1:port"; stop() ends it."""

    def __init__(self, directory, auth=None, tls=None, token_url=None, certificate=None):
        program = shutil.which("docker-registry")
        if program is None:
            pytest.skip("needs docker-registry: install the package docker-registry")
        self.directory = str(directory)
        os.makedirs(f"{self.directory}/data", exist_ok=True)
        self.port = free_port()
        self.host = f"127.0.0.1:{self.port}"
        config = {
            "version": "0.1",
            "log": {"level": "error", "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": f"{self.directory}/data"}, "delete": {"enabled": True}},
            "http": {"addr": self.host, "secret": "for tests"},
        }
        if auth == "htpasswd":
            with open(f"{self.directory}/htpasswd", "w") as file:
                file.write(f"{USER}:{_BCRYPT}\n")
            config["auth"] = {"htpasswd": {"realm": "tests", "path": f"{self.directory}/htpasswd"}}
        elif auth == "token":
            config["auth"] = {"token": {
                "realm": token_url, "service": "tests", "issuer": "tests", "rootcertbundle": certificate,
            }}  # fmt: skip
        if tls:
            config["http"]["tls"] = {"certificate": tls[0], "key": tls[1]}
        path = f"{self.directory}/config.yml"
        with open(path, "w") as file:
            json.dump(config, file)  # JSON is YAML
        self.log = open(f"{self.directory}/log", "w")
        self.process = subprocess.Popen([program, "serve", path], stdout=self.log, stderr=self.log, cwd="/")
        until = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                if self.process.poll() is not None or time.monotonic() > until:
                    self.stop()
                    raise RuntimeError(open(f"{self.directory}/log").read()) from None
                time.sleep(0.02)

    def stop(self):
        self.process.kill()
        self.process.wait()
        self.log.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


def make_certificate(directory, name="127.0.0.1"):
    """(certificate, key): a self-signed one for that address."""
    cert, key = f"{directory}/cert.pem", f"{directory}/key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}",
         "-addext", f"subjectAltName=IP:{name}", "-keyout", key, "-out", cert],
        check=True, capture_output=True,
    )  # fmt: skip
    return cert, key


# ---- servers written here


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def setup(self):
        super().setup()
        self.server.sockets.add(self.connection)

    def finish(self):
        self.server.sockets.discard(self.connection)
        with contextlib.suppress(OSError):
            super().finish()

    def handle(self):
        with contextlib.suppress(OSError):
            super().handle()

    def answer(self, status, body=b"", headers=None, length=None):
        """A whole answer. length: what Content-Length says instead."""
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def cut(self):
        """Hang up, now."""
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            self.connection.shutdown(socket.SHUT_RDWR)

    def _any(self):
        size = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(size) if size else b""
        server = self.server
        server.seen.append((self.command, self.path, dict(self.headers)))
        server.respond(self)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_CONNECT = _any


class Server:
    """An HTTP server in a thread; respond(handler) answers. seen: [(method, path, headers)]."""

    def __init__(self, respond):
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.block_on_close = False
        self.server.sockets, self.server.seen = set(), []
        self.server.respond = respond
        self.seen = self.server.seen
        self.host = f"127.0.0.1:{self.server.server_address[1]}"
        self.url = f"http://{self.host}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.before = set(threading.enumerate())

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()
        for sock in list(self.server.sockets):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        self.thread.join()
        until = time.monotonic() + 5
        while time.monotonic() < until and any("process_request" in t.name for t in threading.enumerate()):
            time.sleep(0.005)


class ImageServer(Server):
    """A registry that has one Image (or Index) under every name and tag.

    hook(handler, kind, which) may answer instead (kind "manifests", "blobs", "tags", "v2"; which: tag or
    digest) and returns True then. rate: bytes a second.
    """

    def __init__(self, image, hook=None, rate=None):
        super().__init__(self._respond)
        self.image, self.hook, self.rate = image, hook, rate

    def _respond(self, handler):
        path = urllib.parse.urlsplit(handler.path).path
        found = re.fullmatch(r"/v2/(.+)/(manifests|blobs|tags)/([^/]+)", path)
        kind, which = (found[2], found[3]) if found else ("v2", "")
        if self.hook is not None and self.hook(handler, kind, which):
            return
        if kind == "manifests":
            digest = which if ":" in which else self.image.target["digest"]
            data = self.image.blobs.get(digest)
            if data is not None:
                handler.answer(200, data, {
                    "Content-Type": json.loads(data)["mediaType"], "Docker-Content-Digest": digest,
                })  # fmt: skip
                return
        elif kind == "blobs":
            data = self.image.blobs.get(which)
            if data is not None:
                self.blob(handler, data)
                return
        elif kind == "v2":
            handler.answer(200, b"{}")
            return
        handler.answer(404, b'{"errors":[{"code":"NAME_UNKNOWN","message":"no such thing"}]}')

    def blob(self, handler, data, until=None):
        """Send it, with ranges; `until`: hang up after that many bytes."""
        start = 0
        asked = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
        if asked:
            start = int(asked[1])
        handler.send_response(206 if asked else 200)
        if asked:
            handler.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        handler.send_header("Content-Length", str(len(data) - start))
        handler.end_headers()
        part = data[start:] if until is None else data[start : start + until]
        if self.rate:
            step = max(1, self.rate // 200)
            for at in range(0, len(part), step):
                handler.wfile.write(part[at : at + step])
                time.sleep(step / self.rate)
        else:
            handler.wfile.write(part)
        if until is not None and start + until < len(data):
            handler.cut()


class TokenServer(Server):
    """The token endpoint of a registry with auth "token": basic auth or a refresh token, JWTs by openssl.

    issued: the scopes of each token. anonymous: whether pulls need no password.
    """

    def __init__(self, directory, anonymous=False, expires=300, refresh="the-refresh-token"):
        super().__init__(self._token)
        self.certificate, self.key = make_certificate(directory, "127.0.0.1")
        self.anonymous, self.expires, self.refresh = anonymous, expires, refresh
        self.issued = []
        with open(self.certificate) as file:
            self.der = "".join(line.strip() for line in file if not line.startswith("-"))

    def _token(self, handler):
        split = urllib.parse.urlsplit(handler.path)
        query = urllib.parse.parse_qs(split.query)
        who = None
        scopes = query.get("scope", [])
        if handler.command == "POST":
            form = urllib.parse.parse_qs(handler.body.decode())
            scopes = form.get("scope", [""])[0].split()
            if form.get("refresh_token") == [self.refresh] and form.get("grant_type") == ["refresh_token"]:
                who = USER
        elif handler.headers.get("Authorization") == "Basic " + base64.b64encode(
            f"{USER}:{PASSWORD}".encode()
        ).decode():
            who = USER
        if who is None and (not self.anonymous or handler.headers.get("Authorization") or handler.command == "POST"):
            handler.answer(401, b'{"errors":[{"code":"UNAUTHORIZED","message":"incorrect username or password"}]}')
            return
        access = []
        for scope in scopes:
            kind, name, actions = scope.split(":")
            actions = actions.split(",")
            if who is None:
                actions = [a for a in actions if a == "pull"]
            access.append({"type": kind, "name": name, "actions": actions})
        self.issued.append(scopes)
        token = self.sign(who or "", access)
        reply = {"token": token, "access_token": token, "expires_in": self.expires}
        if "offline_token" in query:
            reply["refresh_token"] = self.refresh
        handler.answer(200, json.dumps(reply).encode(), {"Content-Type": "application/json"})

    def sign(self, subject, access):
        now = int(time.time())
        head = {"typ": "JWT", "alg": "RS256", "x5c": [self.der]}
        claims = {"iss": "tests", "sub": subject, "aud": "tests", "exp": now + self.expires, "nbf": now - 10,
                  "iat": now, "jti": str(random.random()), "access": access}  # fmt: skip
        text = _b64(json.dumps(head).encode()) + "." + _b64(json.dumps(claims).encode())
        signature = subprocess.run(
            ["openssl", "dgst", "-sha256", "-sign", self.key], input=text.encode(), capture_output=True, check=True
        ).stdout
        return text + "." + _b64(signature)


def _b64(data):
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def skopeo(*arguments):
    """Run skopeo, with what it says in the error."""
    if shutil.which("skopeo") is None:
        pytest.skip("needs skopeo: install the package skopeo")
    done = subprocess.run(["skopeo", "--insecure-policy", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def private(monkeypatch, tmp_path):
    """No configuration of this machine's, nor proxies; a home of its own, which it gives."""
    home = tmp_path / "home"
    (home / ".docker").mkdir(parents=True)
    (tmp_path / "registries.toml").write_text("")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("DOCKER_CONFIG", str(home / ".docker"))
    monkeypatch.setenv("FASTCTR_REGISTRIES", str(tmp_path / "registries.toml"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / ".config"))
    for name in ("REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "http_proxy", "https_proxy", "all_proxy", "no_proxy",
                 "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
    return home


def quick(**more):
    """Settings with short times."""
    from fastctr.image.http import Settings

    return Settings(**{"connect": 3.0, "read": 3.0, "attempts": 3, "backoff": 0.01, **more})


def fails(kind, function, *arguments, **keywords):
    """The error of that kind the call ends in."""
    with pytest.raises(kind) as caught:
        function(*arguments, **keywords)
    return caught.value


def assert_whole(store, image):
    """The store has every blob of the image, byte for byte."""
    for digest, data in image.blobs.items():
        assert store.read_blob(digest, 1 << 30) == data
    assert os.listdir(f"{store.root}/ingest") == []


# ---- what the tests of registries share: stores, an image, and pulls without unpacking


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "store"))


@pytest.fixture
def other(tmp_path):
    return Store(str(tmp_path / "other"))


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    """An open docker-registry."""
    with Running(tmp_path_factory.mktemp("registry")) as running:
        yield running


def some_image(seed=1, layers=3, size=50_000, config=None, **more):
    rng = random.Random(seed)
    made = [make_layer({f"file{i}": rng.randbytes(size)}) for i in range(layers)]
    return Image(made, {"Cmd": ["sh"]} if config is None else config, **more)


@pytest.fixture(scope="module")
def image():
    return some_image(7, size=60_000)


def fetch(store, name, **more):
    return pull(store, name, **{"unpack": False, "settings": quick(), **more})


def get(store, server, name="some/image:1", **more):
    return fetch(store, f"{server.host}/{name}", **more)


def refused(store, server, kind, **more):
    """The pull fails so, and leaves nothing of the image behind but whole blobs."""
    with pytest.raises(kind) as caught:
        get(store, server, **more)
    assert store.refs.list() == []
    for name in os.listdir(f"{store.root}/blobs/sha256"):
        store.read_blob("sha256:" + name, 1 << 30)
    return caught.value
