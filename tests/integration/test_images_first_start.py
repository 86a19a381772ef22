"""The first start after an unpack finds on disk what it needs to know of the image."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytest.importorskip("fastctr._core")
from image_support import Image, busybox_entries, make_layer
from registry_support import ImageServer, private  # noqa: F401

import fastctr
from fastctr.errors import DigestMismatch
from fastctr.image import snapshot
from fastctr.image.archive import load, save
from fastctr.image.pull import pull
from fastctr.image.store import Store, get

pytestmark = [pytest.mark.needs_root, pytest.mark.usefixtures("private")]
RUN = """
import sys
from fastctr.cli import main
code = main(["run", "--pull", "never", *sys.argv[1:], "cat", "/which"])
print(code, sorted(m for m in sys.modules if m in ("json", "fastctr.image_facts", "fastctr.image.store")))
"""


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTCTR_ROOT", str(tmp_path / "store"))
    return str(tmp_path / "store")


def boxed(which, **more):
    return Image([make_layer(busybox_entries()), make_layer({"which": f"{which}\n"})], {"Env": ["PATH=/bin"], **more})


def run(*words):
    done = subprocess.run([sys.executable, "-c", RUN, *words], capture_output=True, text=True, timeout=60, check=False)
    return done.stdout.splitlines() or done.stderr


def archive(tmp_path, name, *names, image=None):
    source = Store(str(tmp_path / f"source-{name}"))
    (image or boxed(name)).put(source, names[0] if names else None)
    save(source, list(names), tmp_path / f"{name}.tar", format="oci")
    return tmp_path / f"{name}.tar"


def test_after_a_load(tmp_path, root):
    [image] = load(Store(root), archive(tmp_path, "one", "box:latest"))
    for words in (["box"], ["box:latest"], ["docker.io/library/box:latest"], [image.config_digest]):
        assert run(*words) == ["one", "0 []"]
    assert run("--platform", str(image.platform), "box")[0] == "one"  # this was not foreseen


def test_after_a_pull(root):
    with ImageServer(boxed("pulled")) as server:
        name = f"{server.host}/mine/box"
        pull(Store(root), name)
        for each in (name, f"{name}:latest"):
            assert run(each) == ["pulled", "0 []"]


def test_a_name_that_stands_for_another_by_now(tmp_path, root):
    one, two = archive(tmp_path, "one", "box:1"), archive(tmp_path, "two", "box:1")
    for file, which in ((one, "one"), (two, "two"), (one, "one")):
        load(Store(root), file)
        assert run("box:1") == [which, "0 []"]
    store = get(root)
    two = store.images()
    other = next(each for each in two if not each.names)
    store.refs.set("box:1", other.target)
    assert run("box:1")[0] == "two"
    assert fastctr.run(["cat", "/which"], image="box:1", stdout=fastctr.PIPE).stdout == b"two\n"


def test_without_unpacking_there_is_nothing_to_note(tmp_path, root):
    load(Store(root), archive(tmp_path, "one", "box:1"), unpack=False)
    assert not os.path.isdir(f"{root}/cache")
    assert run("box:1")[0] == "one"


def test_a_cache_that_cannot_be_written_is_no_hindrance(tmp_path, root):
    os.makedirs(root)
    with open(f"{root}/cache", "w"):
        pass
    load(Store(root), archive(tmp_path, "one", "box:1"))
    assert run("box:1")[0] == "one"


def test_a_layer_that_was_there_is_verified_still(tmp_path, root):
    """Only what was written just now need not be hashed once more."""
    plain = Image([make_layer({"which": "one\n"}, "none")])
    source = Store(str(tmp_path / "source"))
    plain.put(source, "plain:1")
    save(source, ["plain:1"], tmp_path / "plain.tar")
    store = Store(root)
    [image] = load(store, tmp_path / "plain.tar")
    snapshot.get(store).remove(image.chain_ids[-1])
    path = store.blob_path(image.layers[0].digest)
    data = open(path, "rb").read()
    assert data.count(b"one\n") == 1
    with open(path, "wb") as file:
        file.write(data.replace(b"one\n", b"ONE\n"))
    with pytest.raises(DigestMismatch):
        load(store, tmp_path / "plain.tar")
    assert not snapshot.get(store).has(image.chain_ids[-1])
