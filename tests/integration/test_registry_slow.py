"""Registries that are busy, slow, cut off, or only one of several."""

from __future__ import annotations

import random
import threading
import time

import pytest

from fastctr.errors import RegistryError
from fastctr.image.connect import NetworkError
from fastctr.image.pull import pull
from fastctr.image.store import Store
from registry_support import (  # noqa: F401
    ImageServer, Server, assert_whole, fails, get, image, private, quick, refused, store,
)  # fmt: skip

pytestmark = pytest.mark.usefixtures("private")


def test_429_and_503_are_waited_for(store, image):
    answers = {"manifests": [(429, "0"), (503, None)], "blobs": [(429, "3600")]}

    def respond(handler, what, which):
        if answers.get(what):
            status, after = answers[what].pop(0)
            handler.answer(status, b"busy", {"Retry-After": after} if after else {})
            return True
        return False

    with ImageServer(image, respond) as server:
        before = time.monotonic()
        get(store, server, settings=quick(retry_after=0.1))
        assert 0.1 <= time.monotonic() - before < 2
        assert_whole(store, image)
        answers["manifests"] = [(429, "0")] * 9
        error = fails(RegistryError, get, store, server)
        assert error.status == 429 and "too many" in str(error)


def test_cut_at_random_bytes_goes_on(store, image):
    rng = random.Random(3)

    def cut(handler, kind, which):
        if kind == "manifests":
            if rng.random() < 0.5:
                handler.cut()
                return True
            return False
        if kind == "blobs":
            server.blob(handler, image.blobs[which], until=rng.randrange(1, 20_000))
            return True
        return False

    with ImageServer(image, cut) as server:
        get(store, server, settings=quick(attempts=6))
        ranges = [h["Range"] for _, _, h in server.seen if "Range" in h]
    assert len(ranges) > 5  # gone on, not begun anew
    assert_whole(store, image)


def test_servers_without_ranges(store, image):
    first = {}

    def respond(handler, kind, which):
        if kind != "blobs":
            return False
        data = image.blobs[which]
        if first.setdefault(which, True):
            first[which] = False
            handler.answer(200, data[: len(data) // 2], length=len(data))
            handler.cut()
        else:
            handler.answer(200, data)  # whatever the range
        return True

    with ImageServer(image, respond) as server:
        get(store, server)
    assert_whole(store, image)


def test_wrong_range(store, image):
    def respond(handler, kind, which):
        if kind != "blobs" or which == image.config_digest:
            return False
        data = image.blobs[which]
        if "Range" not in handler.headers:
            handler.answer(200, data[:100], length=len(data))
            handler.cut()
        else:
            handler.answer(206, data[50:], {"Content-Range": f"bytes 50-{len(data) - 1}/{len(data)}"})
        return True

    with ImageServer(image, respond) as server:
        assert "another part" in str(refused(store, server, RegistryError))


@pytest.mark.parametrize("what", ["silent", "drips its body", "drips its head"])
def test_slow(store, image, what):
    over = threading.Event()

    def slow(handler, kind, which):
        if kind != "blobs":
            return False
        if what == "silent":
            over.wait(5)
            return True
        if what == "drips its body":
            handler.send_response(200)
            handler.send_header("Content-Length", str(len(image.blobs[which])))
            handler.end_headers()
        else:
            handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
        while not over.wait(0.05):
            handler.wfile.write(b"x")
        return True

    with ImageServer(image, slow) as server:
        before = time.monotonic()
        refused(store, server, NetworkError, settings=quick(read=0.2, attempts=2))
        assert time.monotonic() - before < 5
        over.set()


def test_nobody_there(store, tmp_path):
    from registry_support import free_port

    error = fails(NetworkError, pull, store, f"127.0.0.1:{free_port()}/x:1", settings=quick())
    assert "refused" in str(error) and error.status is None


def test_what_progress_raises_ends_the_pull(store, image):
    def stop(event):
        if event.action == "downloading" and event.current:
            raise KeyboardInterrupt

    with ImageServer(image, rate=200_000) as server:
        before = time.monotonic()
        with pytest.raises(ValueError, match="enough"):

            def enough(event):
                if event.action == "downloading":
                    raise ValueError("enough")

            get(store, server, progress=enough)
        assert time.monotonic() - before < 2
    assert threading.active_count() < 10


def test_mirrors_first_then_the_registry(store, image):
    gone, asked = [], []

    def broken(handler, kind, which):
        asked.append(kind)
        if kind == "blobs" and which == image.layers[0]:
            handler.answer(404)
            return True
        if kind == "blobs" and which == image.layers[1]:
            gone.append(which)
            handler.answer(200, image.blobs[which][:-1] + b"?")
            return True
        return False

    with ImageServer(image, broken) as mirror, ImageServer(image) as upstream:
        get(store, upstream, mirrors=[f"http://{mirror.host}"])
        assert_whole(store, image)
        assert gone == [image.layers[1]]
        assert len(upstream.seen) == 2  # the two blobs the mirror does not have as they should be
    with ImageServer(image) as upstream:
        other = Store(store.root + "2")
        get(other, upstream, mirrors=["127.0.0.1:1"])
        assert_whole(other, image)
