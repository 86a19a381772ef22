"""Archives to and from docker, podman, skopeo and umoci: what they load of ours, what we load of theirs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile

import pytest

from changes_support import describe, differences, make_odd_tree, private
from dockerd_support import dockerd  # noqa: F401 a fixture
from fastctr.image import oci, snapshot
from fastctr.image.archive import load, save
from fastctr.image.importer import build_rootfs, import_rootfs
from fastctr.image.pack import pack_tree
from fastctr.image.store import Store
from image_fixtures import store  # noqa: F401
from image_support import Image, busybox_image, extract, make_layer

pytestmark = pytest.mark.needs_root


@pytest.fixture
def images(store):
    """Images with layers in gzip, plain, in zstd, and with Docker's own media types."""
    base = make_layer({"a": "1" * 3000, "etc/x": "x"})
    made = {
        "fctr-peer:gz": Image([base, make_layer({"b": "2"})], {"Cmd": ["/a"], "Env": ["A=b c"]}),
        "fctr-peer:tar": Image([base, make_layer({"t": "2"}, "none")], {"Cmd": ["/t"]}),
        "fctr-peer:zst": Image([base, make_layer({"c": "3"}, "zstd")], {"Cmd": ["/c"], "Labels": {"l": "v"}}),
        "fctr-peer:dk": Image([base], {"Entrypoint": ["/d"], "User": "5:6"}, docker=True),
    }
    for name, image in made.items():
        image.put(store, name)
    return made


def fresh(tmp_path, name="second"):
    return Store(str(tmp_path / name))


def loaded(tmp_path, source, where="second"):
    return {name: image for image in load(fresh(tmp_path, where), source, unpack=False) for name in image.names or [None]}


def full(name):
    return "docker.io/library/" + name


# ---- docker


@pytest.mark.parametrize("compression", [None, "gzip"])
def test_docker_loads_what_we_save(dockerd, store, images, tmp_path, compression):  # noqa: F811
    save(store, list(images), tmp_path / "a.tar", compression=compression)
    try:
        told = dockerd("load", "-i", str(tmp_path / "a.tar"))
        assert sorted(told.splitlines()) == sorted(f"Loaded image: {name}" for name in images)
        for name, image in images.items():
            assert dockerd.inspect(name)["Id"] == image.config_digest
            assert dockerd.inspect(name)["RootFS"]["Layers"] == image.diff_ids
    finally:
        dockerd.run("rmi", "-f", *images)


def test_we_load_what_docker_saves(dockerd, store, images, tmp_path):  # noqa: F811
    """There and back: ids, layers and names are what they were."""
    save(store, list(images), tmp_path / "a.tar")
    try:
        dockerd("load", "-i", str(tmp_path / "a.tar"))
        dockerd("save", "-o", str(tmp_path / "b.tar"), *images)
        found = loaded(tmp_path, tmp_path / "b.tar")
        with open(tmp_path / "b.tar", "rb") as file, subprocess.Popen(["cat"], stdin=file, stdout=subprocess.PIPE) as cat:
            piped = loaded(tmp_path, cat.stdout, "third")
    finally:
        dockerd.run("rmi", "-f", *images)
    assert set(found) == set(piped) == {full(name) for name in images}
    for name, image in images.items():
        assert found[full(name)].id == piped[full(name)].id == image.config_digest
        assert found[full(name)].diff_ids == image.diff_ids
    assert fresh(tmp_path).fsck() == []


def test_what_docker_builds_and_imports(dockerd, store, tmp_path):  # noqa: F811
    """A docker import and a docker commit, saved and loaded: they unpack to the same files."""
    odd = make_odd_tree(str(tmp_path / "odd"))
    os.unlink(f"{odd}/socket")
    with open(tmp_path / "root.tar", "wb") as file:
        pack_tree(odd, file.write)
    try:
        dockerd("import", str(tmp_path / "root.tar"), "fctr-peer:odd")
        dockerd("save", "-o", str(tmp_path / "b.tar"), "fctr-peer:odd")
    finally:
        dockerd.run("rmi", "-f", "fctr-peer:odd")
    (image,) = load(store, tmp_path / "b.tar")
    ours = import_rootfs(store, tmp_path / "root.tar")
    with snapshot.mount(store, image) as theirs, snapshot.mount(store, ours) as mine:
        assert not differences(describe(odd), describe(mine))
        left = differences(describe(odd, times=False, links=False), describe(theirs, times=False, links=False))
    # docker keeps of the attributes only the capabilities
    assert all(line.startswith(("attributes:", "link:", "dir:")) for line in left), left


def test_docker_runs_what_we_build(dockerd, store, fresh_rootfs, tmp_path):  # noqa: F811
    made = build_rootfs(store, fresh_rootfs, "fctr-peer:built", changes=["CMD cat /etc/marker", "ENV PATH=/bin"])
    save(store, "fctr-peer:built", tmp_path / "a.tar")
    try:
        dockerd("load", "-i", str(tmp_path / "a.tar"))
        assert dockerd("run", "--rm", "--network", "none", "fctr-peer:built") == "from the image"
        assert dockerd.inspect("fctr-peer:built")["Id"] == made.id
    finally:
        dockerd.run("rmi", "-f", "fctr-peer:built")


# ---- podman


class Podman:
    def __init__(self, root):
        self.root = root

    def __call__(self, *args):
        flags = ("--root", f"{self.root}/podman", "--runroot", "/run/fctr", "--storage-driver", "vfs")
        return private("podman", *flags, *args).decode()


@pytest.fixture
def podman(tmp_path):
    if shutil.which("podman") is None:
        pytest.skip("needs podman: install the package podman")
    return Podman(str(tmp_path))


@pytest.mark.parametrize("compression", [None, "zstd"])
def test_podman_loads_what_we_save(podman, store, images, tmp_path, compression):
    save(store, list(images), tmp_path / "a.tar", compression=compression)
    podman("load", "-i", tmp_path / "a.tar")
    for name, image in images.items():
        assert json.loads(podman("image", "inspect", full(name)))[0]["Id"] == image.config_digest[7:]


@pytest.mark.parametrize("form", ["docker-archive", "oci-archive"])
def test_there_and_back_with_podman(podman, store, images, tmp_path, form):
    name = "fctr-peer:gz"
    save(store, name, tmp_path / "a.tar", format="oci" if form == "oci-archive" else "docker")
    podman("load", "-i", tmp_path / "a.tar")
    podman("save", "--format", form, "-o", tmp_path / "b.tar", full(name))
    found = loaded(tmp_path, tmp_path / "b.tar")
    assert found[full(name)].id == images[name].config_digest and found[full(name)].diff_ids == images[name].diff_ids


# ---- skopeo


def skopeo(*args):
    if shutil.which("skopeo") is None:
        pytest.skip("needs skopeo: install the package skopeo")
    return private("skopeo", "--insecure-policy", *args).decode()


def test_skopeo_reads_what_we_save(store, images, tmp_path):
    save(store, list(images), tmp_path / "a.tar")
    for name, image in images.items():
        manifest = json.loads(skopeo("inspect", "--raw", f"docker-archive:{tmp_path}/a.tar:{name}"))
        assert manifest["config"]["digest"] == image.config_digest


def test_skopeo_keeps_the_digests_of_oci_archives(store, images, tmp_path):
    save(store, list(images), tmp_path / "a.tar", format="oci")
    for name, image in images.items():
        if name == "fctr-peer:tar":
            continue  # it compresses what is not, and the manifest is another one
        target = tmp_path / f"layout-{name[-2:]}"
        skopeo("copy", "-q", f"oci-archive:{tmp_path}/a.tar:{full(name)}", f"oci:{target}:x")
        made = json.loads((target / "index.json").read_text())["manifests"][0]
        manifest = json.loads((target / "blobs/sha256" / made["digest"][7:]).read_text())
        assert manifest["config"]["digest"] == image.config_digest
        assert [d["digest"] for d in manifest["layers"]] == image.layers
        assert name == "fctr-peer:dk" or made["digest"] == image.manifest_digest


@pytest.mark.parametrize("form", ["docker-archive", "oci-archive"])
def test_we_read_what_skopeo_writes(store, images, tmp_path, form):
    for name in ("fctr-peer:gz", "fctr-peer:tar", *(("fctr-peer:zst",) if form == "oci-archive" else ())):
        image, path = images[name], f"{tmp_path}/{name[10:]}.tar"
        skopeo("copy", "-q", f"oci:{store.root}:{full(name)}", f"{form}:{path}:{full(name)}")
        found = loaded(tmp_path, path, "of-" + name[-2:])[full(name)]
        assert found.id == image.config_digest and found.diff_ids == image.diff_ids
        if form == "oci-archive" and name != "fctr-peer:tar":
            assert found.manifest_descriptor.digest == image.manifest_digest
        subprocess.run(["zstd", "-q", path], check=True)
        assert loaded(tmp_path, f"{path}.zst", "packed-" + name[-2:])[full(name)].id == image.config_digest


def test_skopeo_takes_a_layout_folder_and_a_pipe(store, images, tmp_path):
    save(store, "fctr-peer:gz", tmp_path / "a.tar", format="oci")
    extract(tmp_path / "a.tar", tmp_path / "layout")
    skopeo("copy", "-q", f"oci:{tmp_path}/layout:{full('fctr-peer:gz')}", f"docker-archive:{tmp_path}/b.tar:other:1")
    with open(tmp_path / "b.tar", "rb") as file, subprocess.Popen(["cat"], stdin=file, stdout=subprocess.PIPE) as cat:
        assert loaded(tmp_path, cat.stdout)[full("other:1")].id == images["fctr-peer:gz"].config_digest


# ---- umoci


def test_umoci_unpacks_what_we_save(store, tmp_path):
    if shutil.which("umoci") is None:
        pytest.skip("needs umoci: install the package umoci")
    odd = make_odd_tree(str(tmp_path / "odd"))
    for name in ("socket", "attributes", "capable", "link"):  # umoci keeps no such attributes with these bytes
        os.unlink(f"{odd}/{name}")
    os.removexattr(f"{odd}/dir", "user.dir")
    os.utime(f"{odd}/owned", ns=(0, 10**18))  # nor times so far away
    made = build_rootfs(store, odd, "odd:1")
    save(store, "odd:1", tmp_path / "a.tar", format="oci")
    extract(tmp_path / "a.tar", tmp_path / "layout")
    private("umoci", "unpack", "--image", f"{tmp_path}/layout:{full('odd:1')}", tmp_path / "bundle")
    before, after = describe(odd), describe(tmp_path / "bundle/rootfs")
    assert not differences(before, after)
    with snapshot.mount(store, made) as mine:
        assert not differences(before, describe(mine))


def test_umoci_reads_the_store_itself(store, images):
    if shutil.which("umoci") is None:
        pytest.skip("needs umoci: install the package umoci")
    told = json.loads(private("umoci", "stat", "--json", "--image", f"{store.root}:{full('fctr-peer:gz')}"))
    assert len(told["history"]) == 2


# ---- what the archives of ours are


def test_the_same_images_give_the_same_bytes(store, images, tmp_path):
    for form in ("docker", "oci"):
        for compression in (None, "gzip", "zstd", "xz"):
            paths = [tmp_path / f"{n}.tar" for n in "ab"]
            for path in paths:
                save(store, list(images), path, format=form, compression=compression)
            assert paths[0].read_bytes() == paths[1].read_bytes()
    other = fresh(tmp_path)
    load(other, paths[0], unpack=False)
    save(other, list(images), paths[1], format="oci", compression="xz")
    assert paths[0].read_bytes() == paths[1].read_bytes(), "also from a store that it was loaded into"


def test_oci_archives_are_layouts_by_the_schemas(store, images, tmp_path):
    from changes_support import check_schema

    save(store, list(images), tmp_path / "a.tar", format="oci")
    with tarfile.open(tmp_path / "a.tar") as tar:
        files = {m.name: tar.extractfile(m).read() for m in tar if m.isfile()}
        assert [m.name for m in tar][:2] == ["oci-layout", "index.json"]
        assert {(m.uid, m.gid, m.mtime) for m in tar} == {(0, 0, 0)}
    check_schema("image-layout-schema.json", files["oci-layout"])
    check_schema("image-index-schema.json", files["index.json"])
    for each in json.loads(files["index.json"])["manifests"]:
        manifest = files["blobs/sha256/" + each["digest"][7:]]
        assert each["mediaType"] == oci.MANIFEST and len(manifest) == each["size"]
        check_schema("image-manifest-schema.json", manifest)
        check_schema("config-schema.json", files["blobs/sha256/" + json.loads(manifest)["config"]["digest"][7:]])


def test_ids_bring_no_names(store, images, tmp_path):
    image = images["fctr-peer:gz"]
    save(store, [image.config_digest[7:20]], tmp_path / "a.tar")
    (found,) = load(fresh(tmp_path), tmp_path / "a.tar", unpack=False)
    assert found.names == [] and found.id == image.config_digest


def test_a_save_that_fails_leaves_the_old_file(store, images, tmp_path):
    from fastctr.errors import ImageNotFound, SpecError, StoreError

    (tmp_path / "a.tar").write_text("before")
    with pytest.raises(ImageNotFound):
        save(store, ["fctr-peer:gz", "none"], tmp_path / "a.tar")
    with pytest.raises(SpecError):
        save(store, "fctr-peer:gz", tmp_path / "a.tar", format="rar")
    with pytest.raises(SpecError):
        save(store, [], tmp_path / "a.tar")
    blob = store.blob_path(images["fctr-peer:gz"].layers[0])
    with open(blob, "r+b") as file:
        file.write(b"damaged")
    with pytest.raises(StoreError, match="is damaged"):
        save(store, "fctr-peer:gz", tmp_path / "a.tar")
    os.unlink(blob)
    with pytest.raises(ImageNotFound):
        save(store, "fctr-peer:gz", tmp_path / "a.tar")
    assert (tmp_path / "a.tar").read_text() == "before" and sorted(os.listdir(tmp_path)) == ["a.tar", "store"]


def test_into_a_pipe(store, images, tmp_path):
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=open(tmp_path / "piped.tar", "wb")) as cat:
        count = save(store, "fctr-peer:gz", cat.stdin)
        cat.stdin.close()
    save(store, "fctr-peer:gz", tmp_path / "a.tar")
    assert (tmp_path / "piped.tar").read_bytes() == (tmp_path / "a.tar").read_bytes()
    assert count == (tmp_path / "a.tar").stat().st_size


def test_busybox_there_and_back(store, tmp_path):
    image = busybox_image(store, "box:1")
    save(store, "box:1", tmp_path / "a.tar", compression="gzip")
    (found,) = load(fresh(tmp_path), tmp_path / "a.tar")
    assert found.target.digest == image.manifest_digest
