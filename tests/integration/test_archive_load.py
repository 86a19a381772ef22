"""load: every form an image archive comes in, and what is refused."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import os
import subprocess
import tarfile

import pytest

import fastctr
from fastctr.errors import ArchiveError, DigestMismatch, FastctrError, ImageError
from fastctr.image import archive_read, oci, snapshot, tar_read
from fastctr.image.archive import load, save
from fastctr.image.store import Store
from image_fixtures import store  # noqa: F401
from image_support import Image, Index, busybox_image, decompress, entry, make_layer, sha256, write_layout

pytestmark = pytest.mark.needs_root


def tar_of(files, directory_entries=()):
    """A tar of (name, bytes or a link's target as str)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name in directory_entries:
            info = tarfile.TarInfo(name)
            info.type = tarfile.DIRTYPE
            tar.addfile(info)
        for name, data in files:
            info = tarfile.TarInfo(name)
            if isinstance(data, str):
                info.type, info.linkname = tarfile.SYMTYPE, data
                tar.addfile(info)
            else:
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def two_layers(**more):
    return Image([make_layer({"a": "1" * 5000, "etc/x": "x"}), make_layer({"b": "2"})], {"Cmd": ["/a"]}, **more)


def old_docker(image, tags=("old:1",), links=False, packed=False, manifest_last=True, repositories=False):
    """As `docker save` before 25: a folder a layer, layer.tar in it, a link where it is the same as another."""
    layers = [image.blobs[d] if packed else decompress(image.blobs[d]) for d in image.layers]
    files, names = [], []
    for number, data in enumerate(layers):
        folder = f"{number + 1:064x}"
        first = layers.index(data)
        names.append(f"{folder}/layer.tar")
        files += [(f"{folder}/VERSION", b"1.0"), (f"{folder}/json", json.dumps({"id": folder}).encode())]
        files.append((names[-1], f"../{first + 1:064x}/layer.tar" if links and first < number else data))
    config = image.config_digest[7:] + ".json"
    files.append((config, image.config_bytes))
    manifest = json.dumps([{"Config": config, "RepoTags": list(tags) or None, "Layers": names}]).encode()
    files.insert(len(files) if manifest_last else 0, ("manifest.json", manifest))
    if repositories:
        files.append(("repositories", json.dumps({"old": {"1": f"{len(layers):064x}"}}).encode()))
    return files


def check(store, image, names, found, unpacked=True):
    (loaded,) = found
    assert loaded.names == names and loaded.id == image.config_digest and loaded.diff_ids == image.diff_ids
    assert store.read_blob(loaded.config_digest) == image.config_bytes
    assert store.fsck() == [] and os.listdir(f"{store.root}/ingest") == [] and os.listdir(f"{store.root}/leases") == []
    assert [snapshot.get(store).has(c) for c in loaded.chain_ids] == [unpacked] * len(loaded.chain_ids)
    return loaded


def by_pipe(store, data, **options):
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reader)
            view = memoryview(data)
            while view:
                view = view[os.write(writer, view) :]
        finally:
            os._exit(0)
    os.close(writer)
    try:
        return load(store, reader, **options)
    finally:
        os.close(reader)
        os.waitpid(child, 0)


PACKERS = {
    "none": lambda data: data,
    "gzip": lambda data: gzip.compress(data, 1),
    "xz": lambda data: lzma.compress(data, preset=0),
    "zstd": lambda data: __import__("zstandard").ZstdCompressor().compress(data),
}


@pytest.mark.parametrize("packed", PACKERS)
@pytest.mark.parametrize("way", ["file", "pipe"])
def test_docker_archives(store, tmp_path, way, packed):
    image = two_layers()
    data = PACKERS[packed](tar_of(old_docker(image, repositories=True)))
    if way == "pipe":
        found = by_pipe(store, data)
    else:
        (tmp_path / "a.tar").write_bytes(data)
        found = load(store, tmp_path / "a.tar")
    loaded = check(store, image, ["docker.io/library/old:1"], found)
    assert {d.media_type for d in loaded.layers} == {oci.LAYER}


@pytest.mark.parametrize("way", ["file", "pipe"])
def test_layers_that_are_links_and_packed(store, tmp_path, way):
    layer = make_layer({"a": "1"})
    image = Image([layer, make_layer({"b": "2"}), layer])
    for number, options in enumerate(({"links": True}, {"packed": True}, {"links": True, "manifest_last": False})):
        data = tar_of(old_docker(image, (f"old:{number}",), **options))
        if way == "pipe":
            found = by_pipe(store, data)
        else:
            (tmp_path / "a.tar").write_bytes(data)
            found = load(store, tmp_path / "a.tar")
        assert [f"docker.io/library/old:{number}" in each.names for each in found] == [True]
        assert found[0].id == image.config_digest and found[0].diff_ids == image.diff_ids
    assert store.fsck() == []


def test_layers_packed_in_ways_no_layer_may_be(store, tmp_path):
    image = two_layers()
    files = [(name, lzma.compress(data) if name.endswith("layer.tar") else data) for name, data in old_docker(image)]
    (tmp_path / "a.tar").write_bytes(tar_of(files))
    loaded = check(store, image, ["docker.io/library/old:1"], load(store, tmp_path / "a.tar"))
    assert {d.media_type for d in loaded.layers} == {oci.LAYER_GZIP}


def test_before_docker_1_10(store, tmp_path):
    """Only "repositories": the configuration is put together from the layers' own documents."""
    layers = [make_layer({"a": "1"}, "none"), make_layer({"b": "2"}, "none")]
    ids = ["1" * 64, "2" * 64]
    documents = [
        {"id": ids[0], "created": "2013-01-01T00:00:00Z", "os": "linux", "architecture": "amd64",
         "container_config": {"Cmd": ["/bin/sh", "-c", "#(nop) ADD"]}},
        {"id": ids[1], "parent": ids[0], "created": "2013-02-02T00:00:00Z", "author": "Somebody", "os": "linux",
         "architecture": "amd64", "config": {"Cmd": ["/b"], "Env": ["A=1"]}},
    ]  # fmt: skip
    files = []
    for each, document, layer in zip(ids, documents, layers):
        files += [(f"{each}/VERSION", b"1.0"), (f"{each}/json", json.dumps(document).encode()), (f"{each}/layer.tar", layer)]
    files.append(("repositories", json.dumps({"ancient": {"1": ids[1], "base": ids[0]}}).encode()))
    (tmp_path / "a.tar").write_bytes(tar_of(files))
    found = load(store, tmp_path / "a.tar")
    assert [i.names for i in found] == [["docker.io/library/ancient:1"], ["docker.io/library/ancient:base"]]
    assert found[0].diff_ids == [sha256(d) for d in layers] and found[0].config["config"]["Cmd"] == ["/b"]
    assert [h["created"] for h in found[0].config["history"]] == ["2013-01-01T00:00:00Z", "2013-02-02T00:00:00Z"]
    assert by_pipe(Store(str(tmp_path / "second")), tar_of(files), unpack=False)[0].id == found[0].id
    documents[0]["parent"] = ids[1]
    files[1] = (f"{ids[0]}/json", json.dumps(documents[0]).encode())
    (tmp_path / "b.tar").write_bytes(tar_of(files))
    with pytest.raises(ArchiveError, match="have no end"):
        load(store, tmp_path / "b.tar")


def layout_files(named, index_extra=None):
    """A layout's files; named: (annotations, Image or Index)."""
    files, entries = [("oci-layout", b'{"imageLayoutVersion": "1.0.0"}')], []
    for notes, image in named:
        files += [(f"blobs/sha256/{d[7:]}", data) for d, data in image.blobs.items()]
        entries.append({**image.target, **({"annotations": notes} if notes else {})})
    files.append(("index.json", json.dumps({"schemaVersion": 2, "manifests": entries, **(index_extra or {})}).encode()))
    return files


@pytest.mark.parametrize("way", ["file", "pipe", "folder"])
def test_oci_archives(store, tmp_path, way):
    image = two_layers()
    if way == "folder":
        write_layout(str(tmp_path / "layout"), [("registry.example:5000/a/b:1", image)])
        found = load(store, tmp_path / "layout")
    else:
        data = tar_of(layout_files([({oci.REF_NAME: "registry.example:5000/a/b:1"}, image)]), ("blobs", "blobs/sha256"))
        (tmp_path / "a.tar").write_bytes(data)
        found = by_pipe(store, data) if way == "pipe" else load(store, tmp_path / "a.tar")
    loaded = check(store, image, ["registry.example:5000/a/b:1"], found)
    assert loaded.manifest_descriptor.digest == image.manifest_digest
    assert [d.digest for d in loaded.layers] == image.layers


@pytest.mark.parametrize(
    ("annotations", "names"),
    [
        ({}, []),
        ({oci.REF_NAME: "latest"}, []),
        ({oci.REF_NAME: "alpine:3"}, ["docker.io/library/alpine:3"]),
        ({oci.REF_NAME: "team/app"}, ["docker.io/team/app:latest"]),
        ({oci.REF_NAME: "3", "io.containerd.image.name": "docker.io/library/alpine:3"}, ["docker.io/library/alpine:3"]),
    ],
)
def test_names_in_oci_archives(store, annotations, names):
    image = two_layers()
    (found,) = load(store, io.BytesIO(tar_of(layout_files([(annotations, image)]))), unpack=False)
    assert found.names == names and store.resolve(image.config_digest).id == image.config_digest


def test_docker_25_and_later(store, tmp_path):
    """Both at once: the layout gives the manifest, manifest.json the names where the layout has none."""
    image = two_layers()
    manifest = [{"Config": f"blobs/sha256/{image.config_digest[7:]}", "RepoTags": ["new:1", "new:2"],
                 "Layers": [f"blobs/sha256/{d[7:]}" for d in image.layers]}]  # fmt: skip
    files = [*layout_files([({}, image)]), ("manifest.json", json.dumps(manifest).encode())]
    (tmp_path / "a.tar").write_bytes(tar_of(files))
    loaded = check(store, image, ["docker.io/library/new:1", "docker.io/library/new:2"], load(store, tmp_path / "a.tar"))
    assert loaded.manifest_descriptor.digest == image.manifest_digest


def test_platforms_that_were_left_out(store, tmp_path):
    here, there = two_layers(), Image([make_layer({"c": "3"})], architecture="s390x")
    index = Index([there, here], present=[here])
    (found,) = load(store, io.BytesIO(tar_of(layout_files([({oci.REF_NAME: "multi:1"}, index)]))))
    assert found.id == here.config_digest and found.target.digest == index.target["digest"]
    both = Index([there, here])
    (found,) = load(store, io.BytesIO(tar_of(layout_files([({oci.REF_NAME: "multi:2"}, both)]))))
    assert found.id == here.config_digest and store.resolve("multi:2", "linux/s390x").id == there.config_digest
    assert not snapshot.get(store).has(store.resolve("multi:2", "linux/s390x").chain_ids[0]), "not for this machine"
    none = tar_of(layout_files([({}, Index([there, here], present=[]))]))
    with pytest.raises(ArchiveError, match="has no image"):
        load(Store(str(tmp_path / "empty")), io.BytesIO(none))


def test_several_images_with_shared_layers(store, tmp_path):
    base = make_layer({"a": "1" * 100_000})
    images = [Image([base, make_layer({"b": str(n)})]) for n in range(3)]
    (tmp_path / "a.tar").write_bytes(tar_of(layout_files([({oci.REF_NAME: f"many:{n}"}, i) for n, i in enumerate(images)])))
    assert [i.id for i in load(store, tmp_path / "a.tar")] == [i.config_digest for i in images]
    assert len(snapshot.get(store).list()) == 4


def test_what_is_here_is_not_written_again(store, tmp_path):
    image = two_layers()
    (tmp_path / "a.tar").write_bytes(tar_of(old_docker(image)))
    load(store, tmp_path / "a.tar")
    before = {n: os.stat(f"{store.root}/blobs/sha256/{n}").st_ino for n in os.listdir(f"{store.root}/blobs/sha256")}
    events = []
    load(store, tmp_path / "a.tar", progress=events.append)
    assert before == {n: os.stat(f"{store.root}/blobs/sha256/{n}").st_ino for n in before}
    assert [e.action for e in events] == ["exists", "exists", "done"]


def test_progress(store, tmp_path):
    (tmp_path / "a.tar").write_bytes(tar_of(old_docker(two_layers())))
    events = []
    load(store, tmp_path / "a.tar", progress=events.append)
    assert {"loading", "unpacking", "unpacked", "done"} <= {e.action for e in events}
    assert all(e.current <= e.total for e in events if e.action == "loading")


def test_a_loaded_image_runs(store, tmp_path):
    busybox_image(store, "box:1")
    save(store, "box:1", tmp_path / "a.tar")
    other = Store(str(tmp_path / "other"))
    (image,) = load(other, tmp_path / "a.tar")
    done = fastctr.run(["cat", "/etc/group"], rootfs=snapshot.ensure(other, image), capture_output=True, text=True)
    assert done.stdout.startswith("root:x:0:")
    other.release_holds()


# ---- what is refused


def refused(store, data, error=ArchiveError, match=None):
    """As a file, as a pipe, packed: nothing of it stays but blobs that gc takes."""
    path = f"{store.root}.tar"
    with open(path, "wb") as file:
        file.write(data)
    for way in ("file", "pipe", "packed"):
        with pytest.raises(error, match=match):
            if way == "file":
                load(store, path)
            else:
                by_pipe(store, gzip.compress(data, 1) if way == "packed" else data)
    os.unlink(path)
    assert store.refs.list() == [] and store.images() == []
    store.gc(0)
    assert os.listdir(f"{store.root}/blobs/sha256") == [], "no blob stays"
    assert os.listdir(f"{store.root}/ingest") == [] and store.fsck() == []


@pytest.mark.parametrize("name", ["/abs/layer.tar", "../up.tar", "a/../../up.tar", "x/..", "/manifest.json"])
def test_names_that_lead_out(store, name):
    refused(store, tar_of([*old_docker(two_layers()), (name, b"x")]), match="name|out of it")


@pytest.mark.parametrize("target", ["/etc/passwd", "../../../etc/passwd", "../.."])
def test_links_that_lead_out(store, target):
    image = two_layers()
    files = [(n, target if n.endswith("layer.tar") else d) for n, d in old_docker(image)]
    refused(store, tar_of(files), match="out of it")


def test_links_in_a_circle(store):
    files = [(n, "layer.tar" if n.endswith("layer.tar") else d) for n, d in old_docker(two_layers())]
    refused(store, tar_of(files), match="circle")


def test_missing_and_wrong_parts(store):
    image = two_layers()
    files = old_docker(image)
    layer = next(n for n, _ in files if n.endswith("layer.tar"))
    config = next(n for n, _ in files if n.endswith(".json") and len(n) > 60)
    refused(store, tar_of([f for f in files if f[0] != layer]), match="is not in it")
    refused(store, tar_of([f for f in files if f[0] != config]), match="is not in it")
    refused(store, tar_of([(n, make_layer({"evil": "x"}, "none") if n == layer else d) for n, d in files]), DigestMismatch)
    refused(store, tar_of([(n, make_layer({"evil": "x"}) if n == layer else d) for n, d in files]), DigestMismatch)
    refused(store, tar_of([(n, d.replace(b"/a", b"/b") if n == config else d) for n, d in files]), DigestMismatch)
    oci_files = layout_files([({oci.REF_NAME: "x:1"}, image)])
    for digest in image.blobs:
        name = f"blobs/sha256/{digest[7:]}"
        refused(store, tar_of([f for f in oci_files if f[0] != name]), match="is not in it")
        refused(store, tar_of([(n, d[:-1] + b"?" if n == name else d) for n, d in oci_files]), ImageError)
        refused(store, tar_of([(n, d + b" " if n == name else d) for n, d in oci_files]), ImageError)


@pytest.mark.parametrize(
    "manifest",
    [
        b"no json", b"{}", b"[]", b"[1]", b'[{"Config": 1}]', b'[{"Config": "x", "Layers": "y"}]',
        b'[{"Config": "x.json", "Layers": []}]', b"[" * 100_000, b'[{"Config": "../x", "Layers": []}]',
        b"\xff\xfe", b'[{"Config": "/etc/passwd", "Layers": []}]',
    ],
)  # fmt: skip
def test_bad_manifests(store, manifest):
    refused(store, tar_of([("manifest.json", manifest)]))


def test_bad_names_of_images(store):
    for tag in ("UPPER:1", "a b", "x@sha256:12", "../../x"):
        refused(store, tar_of(old_docker(two_layers(), (tag,))), match="manifest.json names an image")
        refused(store, tar_of(layout_files([({oci.REF_NAME: tag + ":"}, two_layers())])), match="names an image")


def test_bad_layouts(store):
    image = two_layers()
    files = layout_files([({}, image)])
    for index in (b"{}", b"[]", b'{"schemaVersion": 2}', b'{"schemaVersion": 2, "manifests": [{}]}', b"no"):
        refused(store, tar_of([(n, index if n == "index.json" else d) for n, d in files]), FastctrError)
    refused(store, tar_of([("oci-layout", b'{"imageLayoutVersion": "9"}'), *files[1:]]), match="version")
    foreign = json.loads(image.manifest_bytes)
    foreign["layers"][0]["mediaType"] = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
    data = json.dumps(foreign).encode()
    index = {"schemaVersion": 2, "manifests": [{"mediaType": oci.MANIFEST, "digest": sha256(data), "size": len(data)}]}
    refused(store, tar_of([*files[:-1], (f"blobs/sha256/{sha256(data)[7:]}", data), ("index.json", json.dumps(index).encode())]),
            match="kept elsewhere")  # fmt: skip


def test_damaged_tars(store):
    data = tar_of(old_docker(two_layers()))
    refused(store, data[: len(data) // 2 // 512 * 512 + 100], FastctrError)
    refused(store, b"", match="empty")
    refused(store, b"just text" * 1000, match="not a tar")
    refused(store, make_layer({"etc/passwd": "x", "bin/x": "y"}, "none"), match="is not an image archive; a root")
    broken = bytearray(data)
    broken[1024 + 20] ^= 1
    refused(store, bytes(broken), FastctrError)
    with pytest.raises(ArchiveError):
        load(store, io.BytesIO(gzip.compress(data)[:-10]))


def test_bombs(store, monkeypatch):
    """Headers and documents that claim much; data that grows beyond measure; entries without end."""
    import fastctr.image.source as source

    huge = tarfile.TarInfo("x")
    huge.type, huge.size = b"x", 1 << 40
    refused(store, huge.tobuf(tarfile.GNU_FORMAT) + bytes(10240), match="header of")
    document = tarfile.TarInfo("manifest.json")
    document.size = 1 << 33
    refused(store, document.tobuf(tarfile.GNU_FORMAT) + bytes(10240), match="manifest.json|too early")
    monkeypatch.setattr(tar_read, "ENTRIES_MAX", 5)
    refused(store, tar_of([(f"x{n}.json", b"{}") for n in range(10)]), match="more than 5 entries")
    monkeypatch.setattr(tar_read, "ENTRIES_MAX", 10**6)
    monkeypatch.setattr(archive_read, "_DOCUMENTS_MAX", 1000)
    with pytest.raises(ArchiveError, match="documents of more than"):
        by_pipe(store, tar_of([(f"x{n}.json", b"{}" + b" " * 200) for n in range(10)]))
    monkeypatch.setattr(source, "RATIO_FLOOR", 1 << 20)
    monkeypatch.setattr(source, "RATIO_MAX", 100)
    with pytest.raises(ArchiveError, match="grows from"):
        by_pipe(store, gzip.compress(tar_of([("layer.tar", bytes(8 << 20))])))
    assert store.images() == []


def test_layers_that_are_bombs(store):
    image = Image([make_layer([entry("../../up", "x")])])
    refused(store, tar_of(old_docker(image)))
    refused(store, tar_of(layout_files([({}, image)])))


def test_a_link_in_a_folder_may_not_lead_out(store, tmp_path):
    image = two_layers()
    write_layout(str(tmp_path / "layout"), [("x:1", image)])
    blob = tmp_path / "layout/blobs/sha256" / image.layers[0][7:]
    blob.rename(tmp_path / "moved")
    blob.symlink_to(tmp_path / "moved")
    with pytest.raises(ArchiveError, match=r"leads out of it|is not in it"):
        load(store, tmp_path / "layout")
    assert store.images() == []


def test_two_processes_load_the_same(store, tmp_path):
    image = Image([make_layer({f"f{n}": "x" * 200_000 for n in range(20)}, "none"), make_layer({"b": "2"})])
    (tmp_path / "a.tar").write_bytes(tar_of(old_docker(image)))
    code = ("import sys; from fastctr.image.archive import load; from fastctr.image.store import Store\n"
            "print(load(Store(sys.argv[1]), sys.argv[2])[0].id)")  # fmt: skip
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in os.sys.path if p)}
    runs = [subprocess.Popen([os.sys.executable, "-c", code, store.root, tmp_path / "a.tar"], env=env, text=True,
                             stdout=subprocess.PIPE) for _ in range(3)]  # fmt: skip
    assert [run.communicate()[0].strip() for run in runs] == [image.config_digest] * 3
    assert store.fsck() == [] and store.resolve("old:1").id == image.config_digest
