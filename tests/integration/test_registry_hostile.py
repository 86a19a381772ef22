"""Registries that lie, break off, never end, or lead astray."""

from __future__ import annotations

import json
import os

import pytest

from fastctr.errors import AuthError, DigestMismatch, ImageError, ImageNotFound, RegistryError
from fastctr.image.connect import NetworkError
from image_support import Image, Index, sha256
from registry_support import (  # noqa: F401
    ImageServer, Server, assert_whole, fails, get, image, private, quick, refused, store,
)  # fmt: skip

pytestmark = pytest.mark.usefixtures("private")


def test_plain(store, image):
    with ImageServer(image) as server:
        found = get(store, server)
        assert found.id == image.config_digest and found.diff_ids == image.diff_ids
        assert_whole(store, image)
        # One GET for each thing, no ping; the second time one HEAD.
        assert [m for m, _, _ in server.seen] == ["GET"] * 5
        assert all(h["User-Agent"].startswith("fastctr/") for _, _, h in server.seen)
        told = []
        get(store, server, progress=told.append)
        assert [m for m, _, _ in server.seen[5:]] == ["HEAD"] and told[-1].action == "exists"
        os.unlink(store.blob_path(image.layers[0]))
        get(store, server, progress=told.append)
        assert [m for m, _, _ in server.seen[6:]] == ["HEAD", "GET"] and told[-1].action == "done"
        assert_whole(store, image)


def test_wrong_digest_once_and_always(store, image):
    bad, asked = image.layers[1], []

    def lie(handler, kind, which):
        if which == bad:
            asked.append(which)
            if len(asked) <= limit:
                data = bytearray(image.blobs[bad])
                data[-1] ^= 1
                handler.answer(200, bytes(data))
                return True
        return False

    with ImageServer(image, lie) as server:
        limit = 1
        get(store, server)
        assert len(asked) == 2
        assert_whole(store, image)
        store.refs.remove(f"{server.host}/some/image:1")
        os.unlink(store.blob_path(bad))
        asked.clear()
        limit = 99
        with pytest.raises(DigestMismatch, match="what came"):
            get(store, server)
        assert len(asked) == 2 and not store.has_blob(bad)


def test_manifest_is_not_what_its_digest_says(store, image):
    def lie(handler, kind, which):
        if kind == "manifests":
            data = image.manifest_bytes + b" "
            handler.answer(200, data, {"Content-Type": image.target["mediaType"], "Docker-Content-Digest": said})
        return kind == "manifests"

    with ImageServer(image, lie) as server:
        said = image.manifest_digest
        refused(store, server, DigestMismatch)
        refused(store, server, DigestMismatch, name=f"some/image@{image.manifest_digest}")
        said = "md5:1234"
        assert "cannot be verified" in str(refused(store, server, RegistryError))


def test_a_child_of_another_size(store, image):
    index = Index([image])
    changed = json.loads(index.index_bytes)
    changed["manifests"][0]["size"] += 1
    index.index_bytes = json.dumps(changed).encode()
    index.target["digest"] = sha256(index.index_bytes)
    index.blobs[index.target["digest"]] = index.index_bytes
    with ImageServer(index) as server:
        refused(store, server, DigestMismatch)


@pytest.mark.parametrize("how", ["short length", "clean end", "cut"])
def test_truncated(store, image, how):
    bad = image.layers[2]

    def truncate(handler, kind, which):
        if which != bad:
            return False
        half = image.blobs[bad][:1000]
        if how == "short length":
            handler.answer(200, half)
        elif how == "clean end":
            handler.send_response(200)
            handler.send_header("Transfer-Encoding", "chunked")
            handler.end_headers()
            handler.wfile.write(b"3e8\r\n" + half + b"\r\n0\r\n\r\n")
        else:
            handler.answer(200, half, length=len(image.blobs[bad]))
            handler.cut()
        return True

    with ImageServer(image, truncate) as server:
        error = refused(store, server, NetworkError if how == "cut" else DigestMismatch)
        assert len(server.seen) < 20
        assert isinstance(error, ImageError)
        assert not store.has_blob(bad)


@pytest.mark.parametrize("kind", ["blobs", "manifests"])
def test_endless(store, image, kind):
    sent = [0]

    def endless(handler, what, which):
        if what != kind or which == image.config_digest:
            return False
        handler.send_response(200)
        handler.send_header("Content-Type", image.target["mediaType"])
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        part = b"10000\r\n" + bytes(65536) + b"\r\n"
        while True:
            handler.wfile.write(part)
            sent[0] += 65536

    with ImageServer(image, endless) as server:
        refused(store, server, DigestMismatch if kind == "blobs" else RegistryError)
    assert sent[0] < 64 << 20


def test_manifest_too_large(store, image):
    big = image.manifest_bytes + b" " * (5 << 20)

    def respond(handler, kind, which):
        if kind == "manifests":
            handler.answer(200, big, {"Content-Type": image.target["mediaType"]})
        return kind == "manifests"

    with ImageServer(image, respond) as server:
        assert "more than" in str(refused(store, server, RegistryError))


@pytest.mark.parametrize("kind", ["text/html", "application/vnd.cncf.helm.config.v1+json", "image/png; charset=x"])
def test_wrong_content_type(store, image, kind):
    def respond(handler, what, which):
        if what == "manifests":
            handler.answer(200, image.manifest_bytes, {"Content-Type": kind})
        return what == "manifests"

    with ImageServer(image, respond) as server:
        error = refused(store, server, RegistryError)
        assert "is not a manifest" in str(error) and kind.partition(";")[0] in str(error)


def test_content_type_that_says_nothing(store, image):
    def respond(handler, what, which):
        if what == "manifests":
            handler.answer(200, image.manifest_bytes, {"Content-Type": "application/json"})
        return what == "manifests"

    with ImageServer(image, respond) as server:
        assert get(store, server).id == image.config_digest


def test_schema1_foreign_and_artifacts(store, image):
    documents = {
        "schema1": ({"schemaVersion": 1, "name": "x", "tag": "y", "fsLayers": [], "history": []},
                    "application/vnd.docker.distribution.manifest.v1+prettyjws", "schema 1"),
        "foreign": ({**json.loads(image.manifest_bytes), "layers": [{
            "mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "digest": image.layers[0],
            "size": 5, "urls": ["https://example.com/layer"]}]}, image.target["mediaType"], "may not give out"),
        "artifact": ({**json.loads(image.manifest_bytes), "config": {
            "mediaType": "application/vnd.example+json", "digest": image.layers[0], "size": 5}},
            image.target["mediaType"], "is not an image"),
        "layer": ({**json.loads(image.manifest_bytes), "layers": [{
            "mediaType": "application/vnd.oci.image.layer.v1.tar+lz4", "digest": image.layers[0], "size": 5}]},
            image.target["mediaType"], "lz4"),
    }  # fmt: skip

    def respond(handler, what, which):
        if what == "manifests":
            body, kind, _ = documents[which]
            handler.answer(200, json.dumps(body).encode(), {"Content-Type": kind})
        return what == "manifests"

    with ImageServer(image, respond) as server:
        for tag, (_, _, words) in documents.items():
            error = refused(store, server, ImageError, name=f"some/image:{tag}")
            assert words in str(error)
        assert {path.split("/")[-2] for _, path, _ in server.seen} == {"manifests"}  # nothing fetched in vain


def test_platforms_are_listed(store, image):
    index = Index([Image([], architecture=a) for a in ("s390x", "ppc64le")])
    with ImageServer(index) as server:
        error = refused(store, server, ImageNotFound)
        assert "linux/s390x" in str(error) and "linux/ppc64le" in str(error)
        assert get(store, server, platform="linux/s390x").id == index.images[0].config_digest
    other = Image([], architecture="s390x")
    told = []
    with ImageServer(other) as server:
        assert "linux/s390x" in str(fails(ImageNotFound, get, store, server, platform="linux/amd64"))
        get(store, server, progress=told.append)
        assert [event.action for event in told if event.action == "warning"] == ["warning"]


def test_not_there_says_what_the_registry_says(store, image):
    def respond(handler, what, which):
        body = {"errors": [{"code": "MANIFEST_UNKNOWN", "message": "no\x1b[31m such\r\nthing"}]}
        handler.answer(404, json.dumps(body).encode())
        return True

    with ImageServer(image, respond) as server:
        error = refused(store, server, ImageNotFound)
    assert "MANIFEST_UNKNOWN" in str(error) and "\x1b" not in str(error) and "\n" not in str(error)


# ---- redirects and credentials


def test_authorization_stays_with_its_origin(store, image):
    with ImageServer(image) as elsewhere:

        def respond(handler, what, which):
            if not handler.headers.get("Authorization", "").startswith("Basic "):
                handler.answer(401, b"", {"WWW-Authenticate": 'Basic realm="x"'})
                return True
            if what == "blobs":
                near = handler.path.startswith("/v2/")
                where = "/near" + handler.path if near and which == image.layers[0] else elsewhere.url + handler.path
                handler.answer(307, b"moved", {"Location": where})
                return True
            return False

        def near(handler, what, which):
            if handler.path.startswith("/near"):
                assert handler.headers["Authorization"]
                server.blob(handler, image.blobs[image.layers[0]])
                return True
            return respond(handler, what, which)

        with ImageServer(image, near) as server:
            get(store, server, auth=("user", "secret"))
        assert_whole(store, image)
        assert len(elsewhere.seen) == 3  # the configuration and two layers
        assert not any("authorization" in (name.lower() for name in h) for _, _, h in elsewhere.seen)


@pytest.mark.parametrize("where", ["/v2/some/image/blobs/x", "file:///etc/passwd", "ftp://example.com/x", "http://[::1"])
def test_redirects_that_lead_nowhere(store, image, where):
    def respond(handler, what, which):
        if what == "blobs":
            handler.answer(302, b"", {"Location": where})
        return what == "blobs"

    with ImageServer(image, respond) as server:
        refused(store, server, RegistryError)
        assert len(server.seen) < 40


def test_redirect_loop_of_the_manifest(store, image):
    def respond(handler, what, which):
        handler.answer(302, b"", {"Location": handler.path})
        return True

    with ImageServer(image, respond) as server:
        assert "redirects more than" in str(refused(store, server, RegistryError))
        assert len(server.seen) == 6


@pytest.mark.parametrize("scheme", ["basic", "bearer", "none", "strange"])
def test_401_loops(store, image, scheme):
    def token(handler):
        handler.answer(200, b'{"token":"abc"}')

    with Server(token) as tokens:
        challenge = {"basic": 'Basic realm="x"', "bearer": f'Bearer realm="{tokens.url}/token",service="s"',
                     "none": "", "strange": 'Negotiate, NTLM abc=="'}[scheme]  # fmt: skip

        def respond(handler, what, which):
            handler.answer(401, b"", {"WWW-Authenticate": challenge} if challenge else {})
            return True

        with ImageServer(image, respond) as server:
            error = refused(store, server, AuthError, auth=("user", "secret"))
            assert error.status == 401 and "secret" not in str(error)
            assert len(server.seen) <= 2 and len(tokens.seen) <= 1


def test_tokens_that_cannot_be(store, image):
    replies = [b"no json", b'["token"]', b'{"token":""}', b'{"token":"a\\r\\nX-Evil: 1"}', b"x" * (2 << 20)]

    def token(handler):
        handler.answer(200, replies[0])

    with Server(token) as tokens:
        where = f"{tokens.url}/t"

        def respond(handler, what, which):
            handler.answer(401, b"", {"WWW-Authenticate": f'Bearer realm="{where}"'})
            return True

        with ImageServer(image, respond) as server:
            while replies:
                refused(store, server, RegistryError)
                replies.pop(0)
            where = "file:///etc/passwd"
            refused(store, server, RegistryError)
