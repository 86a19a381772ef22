"""The parts of the image benchmarks: their archives hold what they say, and results are counted right."""
from __future__ import annotations

import json
import os
import stat
import tarfile

import pytest

from bench import images_material, images_report, images_sides, images_tar


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTCTR_BENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def unpack(material, folder):
    """The layers of a layout, each in a directory of its own; topmost first."""
    with open(f"{material.oci}/index.json") as file:
        target = json.load(file)["manifests"][0]["digest"]
    with open(f"{material.oci}/blobs/sha256/{target[7:]}") as file:
        layers = json.load(file)["layers"]
    folders = []
    for number, layer in enumerate(layers):
        folders.insert(0, f"{folder}/{number}")
        with tarfile.open(f"{material.oci}/blobs/sha256/{layer['digest'][7:]}", "r:gz") as archive:
            archive.extraction_filter = lambda member, path: member     # our own: take it as it is
            archive.extractall(folders[0])
    return folders


def test_layers_are_the_tree(cache, tmp_path):
    made = images_material.many_layers()
    assert len(made.about["layers"]) == images_material.LAYERS
    assert images_sides.merged(unpack(made, tmp_path)) == (made.entries, made.about["bytes"])
    assert images_sides.merged([made.tree]) == (made.entries, made.about["bytes"])
    assert os.listdir(cache) == [f"layers-{images_material.VERSION}"]
    before = os.stat(made.oci_tar).st_ino
    assert os.stat(images_material.many_layers().oci_tar).st_ino == before, "made once"


def test_archives_hold_the_same_layers(cache):
    made = images_material.realistic(smoke=True)
    with tarfile.open(made.docker_tar) as archive:
        manifest = json.load(archive.extractfile("manifest.json"))[0]
        config = json.load(archive.extractfile(manifest["Config"]))
        sizes = [archive.getmember(name).size for name in manifest["Layers"]]
    assert manifest["RepoTags"] == [images_tar.NAME]
    assert [f"sha256:{name[:64]}" for name in manifest["Layers"]] == config["rootfs"]["diff_ids"]
    assert sizes == [layer["size"] for layer in made.about["layers"]]
    with tarfile.open(made.oci_tar) as archive:
        assert {"oci-layout", "index.json"} <= set(archive.getnames())


def test_a_foreign_cache_is_refused(tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to(tmp_path)
    monkeypatch.setenv("FASTCTR_BENCH_CACHE", str(tmp_path / "link"))
    with pytest.raises(images_material.MissingTool):
        images_material.cache()


def test_merged_counts_as_overlay_shows(tmp_path):
    for name in ("low/kept", "low/gone", "low/closed/old", "low/dir/file", "top/kept", "top/closed/new"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    os.mknod(tmp_path / "top/gone", stat.S_IFCHR, os.makedev(0, 0))
    try:
        os.setxattr(tmp_path / "top/closed", "trusted.overlay.opaque", b"y")
    except OSError:
        pytest.skip("needs root and a file system with trusted.* attributes (TMPDIR on a disk)")
    # kept, closed, closed/new, dir, dir/file
    expected = len("top/kept") + len("top/closed/new") + len("low/dir/file")
    assert images_sides.merged([str(tmp_path / "top"), str(tmp_path / "low")]) == (5, expected)


def test_every_bar_has_its_scenario():
    assert {bar.scenario for bar in images_report.BARS} <= set(images_report.TITLES)
