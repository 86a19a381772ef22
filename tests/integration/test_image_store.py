"""The store by itself: blobs, names, resolving, removing, room, checking; and that others can read it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fastctr.errors import DigestMismatch, ImageError, ImageNotFound, SpecError, StoreError
from fastctr.image import store as stores
from fastctr.image.oci import Descriptor
from fastctr.image.store import Store
from image_support import Image, Index, busybox_entries, entry, make_layer, sha256

SCHEMAS = Path(os.environ.get("FASTCTR_OCI_SCHEMAS")
               or Path(__file__).resolve().parents[3] / "shared/reference/oci-image")  # fmt: skip


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "store"))


def fake_layer(store, snapshotter, image, number, size=1000):
    """An unpacked layer as a snapshotter leaves it."""
    chain = store.resolve(image).chain_ids[number]
    parent = store.resolve(image).chain_ids[number - 1] if number else None
    path = f"{store.root}/layers/{snapshotter}/{chain[7:]}"
    os.makedirs(f"{path}/diff/d")
    found = store.resolve(image)
    papers = {"chain": chain, "parent": parent, "diff_id": found.diff_ids[number],
              "blob": found.layers[number].digest, "size": size, "files": 1, "made": "2024-01-01T00:00:00Z"}  # fmt: skip
    Path(path, "layer.json").write_text(json.dumps(papers))
    return path


# ---- blobs


def test_nothing_is_made_by_looking(store):
    assert store.images() == [] and store.refs.list() == []
    assert store.fsck() == [] and store.gc().blobs == []
    assert store.df().size == 0
    with pytest.raises(ImageNotFound):
        store.resolve("alpine")
    assert not os.path.exists(store.root)


def test_add_read(store):
    digest = store.add_bytes(b"hello")
    assert digest == sha256(b"hello")
    assert store.has_blob(digest) and store.has_blob(digest, 5) and not store.has_blob(digest, 4)
    assert store.read_blob(digest) == b"hello"
    with store.open_blob(digest) as file:
        assert file.read(3) == b"hel"
    assert os.stat(store.blob_path(digest)).st_mode & 0o777 == 0o644
    assert store.add_bytes(b"hello") == digest
    assert os.listdir(f"{store.root}/ingest") == []
    with pytest.raises(StoreError):
        store.read_blob(digest, limit=4)
    with pytest.raises(ImageNotFound):
        store.read_blob(sha256(b"other"))
    with pytest.raises(ImageError):
        store.blob_path("sha256:../../../etc/passwd")


def test_sha512(store):
    import hashlib

    digest = "sha512:" + hashlib.sha512(b"x").hexdigest()
    with store.ingest(digest, 1) as blob:
        blob.write(b"x")
        assert blob.commit() == (digest, 1)
    assert store.read_blob(digest) == b"x"
    assert store.fsck() == []


def test_unknown_digest(store):
    with store.ingest() as blob:
        blob.write(b"a")
        blob.write(memoryview(b"bc"))
        assert blob.commit() == (sha256(b"abc"), 3)
    with store.ingest() as blob:
        blob.write(b"left")
    assert os.listdir(f"{store.root}/ingest") == []


def test_goes_on_where_it_was(store):
    data = os.urandom(3_000_000)
    with store.ingest(sha256(data), len(data)) as blob:
        assert (blob.offset, blob.done) == (0, False)
        blob.write(data[:1_234_567])
    assert not store.has_blob(sha256(data))
    with store.ingest(sha256(data), len(data)) as blob:
        assert blob.offset == 1_234_567
        blob.write(data[blob.offset :])
        assert blob.commit() == (sha256(data), len(data))
    with store.ingest(sha256(data), len(data)) as blob:
        assert blob.done
        assert blob.commit() == (sha256(data), len(data))
    assert store.read_blob(sha256(data)) == data


def test_restart(store):
    with store.ingest(sha256(b"abcdef"), 6) as blob:
        blob.write(b"xyz")
    with store.ingest(sha256(b"abcdef"), 6) as blob:
        assert blob.offset == 3
        blob.restart()
        blob.write(b"abcdef")
        blob.commit()
    assert store.has_blob(sha256(b"abcdef"), 6)


def test_damaged_partial_is_found_and_removed(store):
    with store.ingest(sha256(b"abcdef"), 6) as blob:
        blob.write(b"xyz")
    with pytest.raises(DigestMismatch), store.ingest(sha256(b"abcdef"), 6) as blob:
        blob.write(b"def")
        blob.commit()
    assert os.listdir(f"{store.root}/ingest") == [] and not store.has_blob(sha256(b"abcdef"))


def test_too_long_and_too_short(store):
    with pytest.raises(DigestMismatch, match="longer"), store.ingest(sha256(b"abc"), 3) as blob:
        blob.write(b"abcd")
    assert os.listdir(f"{store.root}/ingest") == []
    with pytest.raises(DigestMismatch, match="2 bytes"), store.ingest(sha256(b"abc"), 3) as blob:
        blob.write(b"ab")
        blob.commit()
    with store.ingest(sha256(b"abc"), 3) as blob:  # what came is kept: it may be right
        assert blob.offset == 2
        blob.write(b"c")
        blob.commit()


def test_a_cut_off_blob_is_replaced(store):
    """What a power cut may leave: the name is there, the bytes are not."""
    digest = store.add_bytes(b"hello")
    os.truncate(store.blob_path(digest), 0)
    with store.ingest(digest, 5) as blob:
        assert not blob.done
        blob.write(b"hello")
        blob.commit()
    assert store.read_blob(digest) == b"hello"


def test_damage_is_noticed(store):
    digest = store.add_bytes(b"hello")
    Path(store.blob_path(digest)).write_bytes(b"hellO")
    with pytest.raises(DigestMismatch):
        store.read_blob(digest)


# ---- names


def test_names(store):
    one, two = Image([make_layer({"a": "1"})]), Image([make_layer({"a": "2"})])
    one.put(store, "app")
    assert store.refs.list() == [("docker.io/library/app:latest", Descriptor.from_json(one.target))]
    assert store.refs.get("docker.io/library/app:latest") == store.refs.get("app") == Descriptor.from_json(one.target)
    assert store.refs.get("other") is None
    store.refs.set("app:1", store.refs.get("app"))
    two.put(store, "app")
    assert store.refs.dangling() == []
    assert store.resolve("app").id == two.config_digest and store.resolve("app:1").id == one.config_digest
    two.put(store, "app:1")
    assert [d.digest for d in store.refs.dangling()] == [one.manifest_digest]
    one.put(store, "app:1")  # has a name again
    assert store.refs.dangling() == []
    assert store.refs.remove("app").digest == two.manifest_digest
    assert store.refs.remove("app") is None
    with pytest.raises(SpecError):
        store.refs.set("App", Descriptor.from_json(one.target))
    assert store.refs.remove("app:1", keep=True).digest == one.manifest_digest
    assert len(store.refs.dangling()) == 1


def test_another_process_sees_it_at_once(store):
    image = Image([make_layer({"a": "1"})]).put(store, "a")
    other = Store(store.root)
    assert other.resolve("a").id == image.config_digest
    stamps = {store.refs.stamp()}
    for i in range(50):
        store.refs.set(f"n:{i}", store.refs.get("a"))
        stamps.add(store.refs.stamp())
        assert other.refs.get(f"n:{i}") is not None
    assert len({s[1] for s in stamps}) == 51


def test_resolve(store):
    image = Image([make_layer({"a": "1"}), make_layer({"b": "2"})], {"Env": ["A=b"]}).put(store, "host:5000/x/app:1")
    found = store.resolve("host:5000/x/app:1")
    assert found.names == ["host:5000/x/app:1"]
    assert found.target.digest == found.manifest_descriptor.digest == image.manifest_digest
    assert found.id == found.config_digest == image.config_digest
    assert [x.digest for x in found.layers] == image.layers and found.diff_ids == image.diff_ids
    assert found.config["config"]["Env"] == ["A=b"]
    assert found.repo_digests == [f"host:5000/x/app@{image.manifest_digest}"]
    assert set(found.digests) == set(image.blobs)
    assert store.resolve("host:5000/x/app:1") is found
    for text in (image.config_digest, image.config_digest[7:], image.config_digest[7:19], image.config_digest[:19],
                 image.manifest_digest, image.manifest_digest[7:20], f"host:5000/x/app@{image.manifest_digest}",
                 f"host:5000/x/app:other@{image.manifest_digest}"):  # fmt: skip
        assert store.resolve(text).id == image.config_digest, text
    for text in ("x/app:1", f"other@{image.manifest_digest}", "host:5000/x/app", "sha256:" + "0" * 64, "0" * 64, "000000"):
        with pytest.raises(ImageNotFound):
            store.resolve(text)
    with pytest.raises(SpecError):
        store.resolve("NO")


def test_a_name_goes_before_an_id(store):
    one = Image([make_layer({"a": "1"})]).put(store, "one")
    start = one.config_digest[7:11]
    two = Image([make_layer({"a": "2"})]).put(store, start)
    assert store.resolve(start).id == two.config_digest
    assert store.resolve(f"sha256:{start}").id == one.config_digest


def test_ambiguous_id(store):
    images = [Image([make_layer({"a": str(i)})]).put(store, f"n:{i}") for i in range(18)]
    firsts = [i.config_digest[7] for i in images]
    twice = next(c for c in firsts if firsts.count(c) > 1)
    with pytest.raises(ImageNotFound, match="several"):
        store.resolve("sha256:" + twice)


def test_platforms(store):
    here = Image([make_layer({"a": "1"})])
    arm = Image([make_layer({"a": "2"})], architecture="arm", variant="v7")
    other = Image([make_layer({"a": "3"})], architecture="s390x")
    index = Index([arm, here, other], present=[here, arm]).put(store, "multi")
    assert store.resolve("multi").id == here.config_digest
    assert store.resolve("multi", "linux/arm/v7").id == arm.config_digest
    assert store.resolve("multi").target.digest == index.target["digest"]
    assert {i.id for i in store.images()} == {here.config_digest, arm.config_digest}
    with pytest.raises(ImageNotFound, match="is not here for linux/s390x"):
        store.resolve("multi", "s390x")
    with pytest.raises(ImageNotFound, match="nothing for linux/riscv64"):
        store.resolve("multi", "riscv64")
    with pytest.raises(SpecError):
        store.resolve("multi", "pdp11")
    assert store.resolve(arm.config_digest[7:20]).id == arm.config_digest
    Index([other, arm], present=[arm]).put(store, "foreign")  # nothing for this machine: what there is
    assert store.resolve("foreign").id == arm.config_digest
    other.put(store, "single")
    assert store.resolve("single").platform.architecture == "s390x"
    with pytest.raises(ImageNotFound, match="is for linux/s390x, not for linux/amd64"):
        store.resolve("single", "linux/amd64")


def test_another_platform_comes_later(store):
    """The index is the same as before, and the answer is not."""
    here, other = Image([make_layer({"a": "1"})]), Image([make_layer({"a": "2"})], architecture="s390x")
    Index([other, here], present=[other]).put(store, "multi")
    again = Store(store.root)
    assert store.resolve("multi").id == again.resolve("multi").id == other.config_digest
    Index([other, here]).put(store, "multi")
    assert store.resolve("multi").id == again.resolve("multi").id == here.config_digest


def test_incomplete_is_not_found(store):
    image = Image([make_layer({"a": "1"})]).put(store, "app")
    os.unlink(store.blob_path(image.config_digest))
    with pytest.raises(ImageNotFound, match="only in part"):
        Store(store.root).resolve("app")


def test_not_an_image(store):
    image = Image([make_layer({"a": "1"})])
    value = json.loads(image.manifest_bytes)
    value["config"]["mediaType"] = "application/vnd.example.config+json"
    data = json.dumps(value).encode()
    store.add_bytes(data)
    for blob in image.blobs.values():
        store.add_bytes(blob)
    store.refs.set("artifact", Descriptor(value["mediaType"], sha256(data), len(data)))
    with pytest.raises(ImageError, match="artifact"):
        store.resolve("artifact")
    assert store.images() == [] and store.fsck() == []


def test_cached_resolve_is_quick_and_light(store):
    Image([make_layer({"a": "1"})]).put(store, "app")
    code = f"""if 1:
        import sys, time
        before = set(sys.modules)
        from fastctr.image.store import Store
        store = Store({store.root!r})
        heavy = {{"hashlib", "urllib3", "isal", "zstandard", "rich", "dataclasses", "subprocess", "typing", "json", "re"}}
        print(*heavy & (set(sys.modules) - before))
        store.resolve("app")
        print(*heavy & (set(sys.modules) - before))
        best = 1
        for _ in range(20):
            start = time.perf_counter()
            for _ in range(100): store.resolve("app")
            best = min(best, (time.perf_counter() - start) / 100)
        print(best)"""
    done = run_python(code, "-S")
    first, second, best = done.stdout.split("\n")[:3]
    assert first == second == ""
    assert float(best) < 50e-6  # 3 µs on an idle machine


def python_env():
    return {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}


def run_python(code, *options, **more):
    done = subprocess.run([sys.executable, *options, "-c", code], env=python_env(), capture_output=True, text=True,
                          check=False, **more)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done


def test_same_object_by_root(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTCTR_ROOT", str(tmp_path / "a"))
    assert stores.get() is stores.get(str(tmp_path / "a")) is not stores.get(str(tmp_path / "b"))
    assert Store().root == str(tmp_path / "a")
    monkeypatch.delenv("FASTCTR_ROOT")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    expected = "/var/lib/fastctr" if os.geteuid() == 0 else str(tmp_path / "data/fastctr")
    assert stores.default_root() == expected


# ---- taking away


def test_remove_by_name(store):
    base = make_layer({"base": "x" * 1000})
    one = Image([base, make_layer({"a": "1"})]).put(store, "app:1")
    two = Image([base, make_layer({"a": "2"})]).put(store, "app:2")
    store.refs.set("other/name", store.refs.get("app:1"))
    fake_layer(store, "overlay", "app:1", 0)
    top = fake_layer(store, "overlay", "app:1", 1)
    chain = store.resolve("app:1").chain_ids[1]
    assert store.remove("app:1") == [("Untagged", "app:1")]
    assert store.has_blob(one.config_digest)
    assert store.remove("other/name") == [
        ("Untagged", "other/name:latest"), ("Untagged", f"other/name@{one.manifest_digest}"),
        ("Deleted", one.config_digest), ("Deleted", chain)]  # fmt: skip
    assert not store.has_blob(one.layers[1]) and store.has_blob(one.layers[0]) and not os.path.exists(top)
    assert set(os.listdir(f"{store.root}/blobs/sha256")) == {d[7:] for d in two.blobs}
    assert len(os.listdir(f"{store.root}/layers/overlay")) == 1
    assert store.fsck() == []
    with pytest.raises(ImageNotFound):
        store.remove("app:1")
    store.remove("app:2")
    assert os.listdir(f"{store.root}/blobs/sha256") == os.listdir(f"{store.root}/layers/overlay") == []
    assert os.listdir(f"{store.root}/tmp") == os.listdir(f"{store.root}/ingest") == []


def test_remove_by_id(store):
    one = Image([make_layer({"a": "1"})]).put(store, "app:1")
    store.refs.set(f"app@{one.manifest_digest}", store.refs.get("app:1"))
    assert store.remove(one.config_digest[7:19])[-1] == ("Deleted", one.config_digest)  # one tag, and its digest
    one.put(store, "app:1")
    one.put(store, "app:2")
    with pytest.raises(ImageError, match=r"must be forced.*app:1, app:2"):
        store.remove(one.config_digest)
    done = store.remove(one.config_digest, force=True)
    assert done[:2] == [("Untagged", "app:1"), ("Untagged", "app:2")] and done[-1] == ("Deleted", one.config_digest)
    assert store.refs.entries() == [] and os.listdir(f"{store.root}/blobs/sha256") == []


def test_digest_name_goes_with_the_last_tag(store):
    one = Image([make_layer({"a": "1"})]).put(store, "app:1")
    store.refs.set(f"app@{one.manifest_digest}", store.refs.get("app:1"))
    store.refs.set(f"kept@{one.manifest_digest}", store.refs.get("app:1"))
    assert store.remove("app:1") == [("Untagged", "app:1"), ("Untagged", f"app@{one.manifest_digest}")]
    assert store.resolve(f"kept@{one.manifest_digest}").names == [f"docker.io/library/kept@{one.manifest_digest}"]


def test_kept_containers_hold_their_image(store):
    one = Image([make_layer({"a": "1"})]).put(store, "app")
    layer = fake_layer(store, "overlay", "app", 0)
    os.makedirs(f"{store.root}/containers/c1")
    papers = Path(store.root, "containers/c1/container.json")
    papers.write_text(json.dumps({"id": "c1", "image": {"id": one.config_digest, "target": f"app@{one.manifest_digest}"}}))
    with pytest.raises(ImageError, match="container c1 uses"):
        store.remove("app")
    assert store.prune(everything=True).untagged == []
    assert store.remove("app", force=True) == [("Untagged", "app:latest"), ("Untagged", f"app@{one.manifest_digest}")]
    assert store.has_blob(one.config_digest) and os.path.exists(layer)
    assert store.df().unneeded[:2] == (0, 0)
    papers.unlink()
    store.gc()
    assert not store.has_blob(one.config_digest) and not os.path.exists(layer)


def test_leases_hold_blobs_and_layers(store):
    one = Image([make_layer({"a": "1"}), make_layer({"b": "1"})]).put(store, "app")
    paths = [fake_layer(store, "overlay", "app", i) for i in range(2)]
    chains = store.resolve("app").chain_ids
    with store.lease() as lease:
        lease.layer("overlay", chains[1])
        store.refs.remove("app")
        report = store.gc()
        assert set(report.blobs) == set(one.blobs) and report.layers == []
        assert all(map(os.path.exists, paths))  # with the one below
    assert len(store.gc().layers) == 2
    with store.lease() as lease:
        lease.blob(one.manifest_digest)  # first the lease, then the blob
        for data in one.blobs.values():
            store.add_bytes(data)
        stray = store.add_bytes(b"noted in the open lease by itself")
        assert store.gc().blobs == []
        assert store.has_blob(stray)
    assert len(store.gc().blobs) == len(one.blobs) + 1
    assert os.listdir(f"{store.root}/leases") == []


def test_hold(store):
    Image([make_layer({"a": "1"})]).put(store, "app")
    path = fake_layer(store, "overlay", "app", 0)
    chains = store.resolve("app").chain_ids
    store.hold("overlay", chains)
    store.hold("overlay", chains)
    assert len(os.listdir(f"{store.root}/leases")) == 1
    store.remove("app")
    assert os.path.exists(path)
    assert Store(store.root).prune(everything=True).layers == []
    store.release_holds()
    assert os.listdir(f"{store.root}/leases") == []
    assert store.gc().layers == [("overlay", chains[0])]


def test_prune(store):
    old = Image([make_layer({"a": "old"})]).put(store, "app")
    new = Image([make_layer({"a": "new"})]).put(store, "app")
    report = store.prune()
    assert (report.untagged, report.deleted) == ([], [old.config_digest]) and set(report.blobs) == set(old.blobs)
    assert report.bytes == sum(map(len, old.blobs.values()))
    report = store.prune(everything=True)
    assert (report.untagged, report.deleted) == (["app:latest"], [new.config_digest])
    assert os.listdir(f"{store.root}/blobs/sha256") == []


def test_leftovers(store, monkeypatch):
    monkeypatch.setattr("fastctr.image.gc.FRESH", 0.2)
    Image([make_layer({"a": "1"})]).put(store, "app")
    with store.ingest(sha256(b"abc"), 3) as blob:
        blob.write(b"ab")
    os.makedirs(f"{store.root}/tmp/left/diff")
    os.chmod(f"{store.root}/tmp/left/diff", 0)
    Path(f"{store.root}/leases/1-dead").write_text(f"blob {sha256(b'abc')}\n")
    usage = store.df()
    assert usage.partial == (1, 2) and usage.unpacking == 1 and usage.dead_leases == 1
    with store.workplace() as place:
        os.utime(f"{store.root}/tmp/left")
        kinds = {f.kind for f in store.fsck()}
        assert kinds == {"leftover"}
        wait_until_old(f"{store.root}/tmp/left")
        assert store.gc().leftovers == 1  # the directory; the bytes may be gone on with
        assert os.listdir(f"{store.root}/tmp") == [os.path.basename(place.path)]
    assert os.listdir(f"{store.root}/leases") == [] and len(os.listdir(f"{store.root}/ingest")) == 1
    assert store.gc(older_than=0).leftovers == 1
    assert store.fsck() == [] and store.df().partial == (0, 0)


def wait_until_old(path):
    import time

    from fastctr.image import gc

    while time.time() - os.stat(path).st_ctime < gc.FRESH:
        time.sleep(0.05)


def test_workplace(store):
    final = f"{store.root}/layers/overlay/{'a' * 64}"
    with store.workplace("layer") as place:
        Path(place.path, "x").write_text("1")
        assert place.publish(final)
    assert os.listdir(final) == ["x"]
    with store.workplace("layer") as place:
        Path(place.path, "y").write_text("1")
        assert not place.publish(final)
    assert os.listdir(final) == ["x"] and os.listdir(f"{store.root}/tmp") == []


def test_deep_and_closed_trees_go(store):
    with store.workplace() as place:
        fd = os.open(place.path, os.O_RDONLY)
        for _ in range(2500):
            os.mkdir("d", dir_fd=fd)
            deeper = os.open("d", os.O_RDONLY, dir_fd=fd)
            os.close(fd)
            fd = deeper
        os.close(fd)
        os.symlink("/", f"{place.path}/out")
        os.makedirs(f"{place.path}/closed/inner")
        os.chmod(f"{place.path}/closed", 0)
    assert os.listdir(f"{store.root}/tmp") == []


# ---- room


def test_df(store):
    base, a, b = make_layer({"base": "x" * 5000}), make_layer({"a": "1"}), make_layer({"b": "2"})
    one, two = Image([base, a]).put(store, "one"), Image([base, b]).put(store, "two")
    store.refs.set("uno", store.refs.get("one"))
    fake_layer(store, "overlay", "one", 0, 6000)
    fake_layer(store, "overlay", "one", 1, 500)
    usage = store.df()
    rows = {r.image.id: r for r in usage.images}
    assert len(rows) == 2
    first, second = rows[one.config_digest], rows[two.config_digest]
    assert first.image.names == ["docker.io/library/one:latest", "docker.io/library/uno:latest"]
    assert first.shared == second.shared == len(base) + 6000
    assert first.packed == sum(map(len, one.blobs.values())) and first.unpacked == 6500
    assert first.unique == first.size - first.shared
    assert usage.layers == {"overlay": (2, 6500)}
    assert usage.blobs == (7, sum(map(len, {**one.blobs, **two.blobs}.values())))
    assert usage.reclaimable == usage.size
    assert not first.active
    with store.lease() as lease:
        lease.layer("overlay", store.resolve("one").chain_ids[-1])
        usage = store.df()
        assert {r.image.id for r in usage.images if r.active} == {one.config_digest}
        assert usage.reclaimable == second.unique
    json.dumps(usage.to_json())
    store.refs.remove("two")
    assert store.df().unneeded == (3, 0, second.unique)


# ---- checking


def test_fsck_finds_each_kind(store):
    image = Image([make_layer({"a": "1"}), make_layer({"b": "1"})]).put(store, "app")
    other = Image([make_layer({"c": "1"})]).put(store, "other")
    Index([other, Image([make_layer({"d": "1"})], architecture="s390x")]).put(store, "multi")
    first = fake_layer(store, "overlay", "app", 0)
    fake_layer(store, "overlay", "app", 1)
    assert store.fsck() == []

    def found(repair=False):
        return [f.kind for f in store.fsck(repair)]

    Path(store.blob_path(image.layers[1])).write_bytes(b"damaged")
    kinds = found(repair=True)
    assert kinds == ["blob", "reference", "reference"] or kinds == ["blob", "reference"]
    assert store.refs.get("app") is None and store.refs.get("other") is not None
    assert store.fsck() == []
    assert not os.path.exists(first)

    first = fake_layer(store, "overlay", "other", 0)
    Path(first, "layer.json").write_text("{")
    assert found() == ["layer"]
    assert found(repair=True) == ["layer"] and not os.path.exists(first) and found() == []

    first = fake_layer(store, "overlay", "other", 0)
    papers = json.loads(Path(first, "layer.json").read_text())
    Path(first, "layer.json").write_text(json.dumps({**papers, "diff_id": "sha256:" + "0" * 64}))
    with store.lease() as lease:
        lease.layer("overlay", papers["chain"])
        assert [str(f) for f in store.fsck(repair=True)] == [
            f"layer overlay/{papers['chain']}: its parent and diff_id do not make its chain id"]  # fmt: skip
        assert os.path.exists(first)  # somebody uses it
    found(repair=True)
    assert not os.path.exists(first)

    os.makedirs(f"{store.root}/layers/overlay/nothex")
    Path(f"{store.root}/blobs/sha256/nothex").write_text("x")
    Path(f"{store.root}/oci-layout").write_text("")
    assert sorted(found(repair=True)) == ["blob", "layer", "layout"]
    assert store.fsck() == []

    arm = next(i for i in store.images() if i.platform.architecture == "s390x")
    os.unlink(store.blob_path(arm.layers[0].digest))
    assert found(repair=True) == ["reference"]  # only that platform of the index goes
    assert store.refs.get("multi") is not None
    assert store.fsck() == []

    Path(store.refs.path).write_text("garbage")
    with pytest.raises(ImageError):
        store.gc()  # does not take it for an empty one
    assert "layout" in found(repair=True)
    assert found(repair=True) == ["leftover"]  # the broken one, kept for once
    assert found() == [] and store.refs.list() == []
    assert other.config_digest in {i.id for i in store.images()}  # only the names are lost
    os.unlink(store.refs.path)
    with pytest.raises(StoreError):
        store.gc()
    assert found(repair=True) == ["layout"] and found() == []
    assert other.config_digest in {i.id for i in store.images()}


def test_a_missing_parent_layer(store):
    Image([make_layer({"a": "1"}), make_layer({"b": "1"})]).put(store, "app")
    first, second = (fake_layer(store, "overlay", "app", i) for i in range(2))
    shutil.rmtree(first)
    assert [f.why for f in store.fsck()] == [f"the layer below it, {store.resolve('app').chain_ids[0]}, is missing"]
    store.fsck(repair=True)
    assert not os.path.exists(second)


# ---- others read it


def test_schemas(store):
    jsonschema = pytest.importorskip("jsonschema")
    if not SCHEMAS.is_dir():
        pytest.skip("needs the OCI image schemas: set FASTCTR_OCI_SCHEMAS")
    from referencing import Registry, Resource
    from referencing.jsonschema import DRAFT4

    registry = Registry(retrieve=lambda uri: Resource(
        json.loads((SCHEMAS / uri.rpartition("/")[2]).read_text()), DRAFT4))  # fmt: skip

    def valid(name, data):
        schema = json.loads((SCHEMAS / name).read_text())
        jsonschema.Draft4Validator(schema, registry=registry).validate(json.loads(data))

    image = Image([make_layer({"a": "1"})], {"Env": ["A=b"]}).put(store, "app")
    Index([image]).put(store, "multi:1")
    Image([make_layer({"a": "2"})]).put(store, "app")
    valid("image-layout-schema.json", Path(store.root, "oci-layout").read_text())
    valid("image-index-schema.json", Path(store.root, "index.json").read_text())
    for _, each in store.refs.entries():
        kind = "image-index-schema.json" if each.is_index else "image-manifest-schema.json"
        valid(kind, store.read_blob(each.digest))
        valid("content-descriptor.json", json.dumps(each.to_json()))
    with pytest.raises(jsonschema.ValidationError):
        valid("image-manifest-schema.json", "{}")


def peer(*command):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.needs_peer("skopeo")
def test_skopeo_reads_and_writes_it(store, tmp_path):
    image = Image([make_layer(busybox_entries()), make_layer({"x": "1"})], {"Cmd": ["sh"]})
    for name in ("busybox", "localhost:5000/a/b:1.2", f"app@{image.manifest_digest}"):
        image.put(store, name)
    Index([image, Image([make_layer({"s": "390"})], architecture="s390x")], present=[image]).put(store, "multi")
    for name, _ in store.refs.list():
        found = json.loads(peer("skopeo", "inspect", f"oci:{store.root}:{name}"))
        assert found["Layers"] == image.layers
    peer("skopeo", "copy", "-q", f"oci:{store.root}:docker.io/library/multi:latest", f"oci:{tmp_path}/out:x")
    peer("skopeo", "copy", "-q", f"oci:{tmp_path}/out:x", f"oci:{store.root}:docker.io/library/back:1")
    assert store.resolve("back:1").id == image.config_digest
    assert store.fsck() == []


@pytest.mark.needs_peer("umoci")
def test_umoci_reads_and_writes_it(store):
    image = Image([make_layer(busybox_entries())], {"Cmd": ["sh"]})
    for name in ("busybox", "localhost:5000/a/b:1.2", f"app@{image.manifest_digest}"):
        image.put(store, name)
    names = [name for name, _ in store.refs.list()]
    assert sorted(peer("umoci", "ls", "--layout", store.root).split()) == names
    for name in names:
        found = json.loads(peer("umoci", "stat", "--json", "--image", f"{store.root}:{name}"))
        assert [h["layer"]["digest"] for h in found["history"] if h.get("layer")] == image.layers
    peer("umoci", "tag", "--image", f"{store.root}:docker.io/library/busybox:latest", "mine")
    assert store.resolve("mine").id == image.config_digest
    assert store.remove("mine") == [("Untagged", "mine:latest")]
    assert store.fsck() == []


def test_entries_of_every_kind():
    """The helper itself: what the other tests of images build upon."""
    kinds = [entry("d/"), entry("f", "x", xattrs={"user.a": b"b"}), entry("l", kind="symlink", link="f"),
             entry("h", kind="link", link="f"), entry("c", kind="char", major=1, minor=3), entry("p", kind="fifo")]  # fmt: skip
    assert make_layer(kinds) == make_layer(kinds)
    assert make_layer(kinds, "none")[257:262] == b"ustar"
