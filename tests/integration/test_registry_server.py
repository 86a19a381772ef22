"""Debian's docker-registry: push and pull, skopeo on the other side, basic and token authentication, TLS."""

from __future__ import annotations

import gzip
import json
import os
import socket
import subprocess
import sys
import threading

import pytest

from fastctr.errors import (
    ArchiveError,
    DigestMismatch,
    FastctrError,
    ImageNotFound,
    SpecError,
)
from fastctr.image import snapshot
from fastctr.image.pull import pull, remote
from fastctr.image.push import push
from fastctr.image.store import Store
from image_support import Image, Index, make_layer
from registry_support import (  # noqa: F401
    ImageServer,
    Running,
    assert_whole,
    fails,
    fetch,
    other,
    private,
    quick,
    registry,
    skopeo,
    some_image,
    store,
)

pytestmark = pytest.mark.usefixtures("private")


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


def test_layers_unpack_while_others_come(store):
    image, events = some_image(16, layers=5, size=100_000), []
    with ImageServer(image, rate=500_000) as server:
        found = pull(store, f"{server.host}/run:1", jobs=2, progress=events.append)
        again = pull(store, f"{server.host}/run:1", jobs=2)
    assert again.chain_ids == found.chain_ids
    told = [(event.action, event.id) for event in events]
    first, last = (digest[7:19] for digest in (image.layers[0], image.layers[-1]))
    assert told.index(("unpacked", first)) < told.index(("done", last)) < told.index(("unpacked", last))
    made = snapshot.get(store)
    assert all(made.has(chain) for chain in found.chain_ids)
    for place, root in enumerate(reversed(made.roots(found.chain_ids))):
        assert os.listdir(root) == [f"file{place}"]
    assert store.fsck() == []


@pytest.mark.parametrize("what", ["diff_id", "not a tar", "snapshotter"])
def test_layers_that_cannot_be_unpacked(store, what):
    image = some_image(17, layers=1)
    layer = json.loads(image.manifest_bytes)["layers"][0]
    if what == "not a tar":
        image = Image([gzip.compress(b"nonsense" * 999)])
    elif what == "diff_id":
        config = {**json.loads(image.config_bytes), "rootfs": {"type": "layers", "diff_ids": ["sha256:" + "1" * 64]}}
        data = json.dumps(config).encode()
        digest = image._add(data)
        manifest = {**json.loads(image.manifest_bytes), "layers": [layer]}
        manifest["config"].update(digest=digest, size=len(data))
        image.target["digest"] = image._add(json.dumps(manifest).encode())
    with ImageServer(image) as server:
        error = fails(FastctrError, pull, store, f"{server.host}/bad:1", snapshotter="no" * (what == "snapshotter") or None)
        assert type(error) is {"diff_id": DigestMismatch, "not a tar": ArchiveError, "snapshotter": SpecError}[what]
        assert store.refs.list() == [] and (what == "snapshotter") == (not server.seen)
    assert what == "snapshotter" or os.listdir(f"{store.root}/tmp") == []
