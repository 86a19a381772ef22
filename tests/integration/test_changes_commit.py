"""Images made of changes, tars and directories: what is in them, and that they run."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

import fastctr
from changes_support import overlay, valid
from fastctr.errors import ArchiveError, ImageError, ImageNotFound, SpecError
from fastctr.image import oci, snapshot
from fastctr.image.commit import commit
from fastctr.image.importer import build_rootfs, import_rootfs
from image_fixtures import store  # noqa: F401
from image_support import Image, busybox_image, entry, make_layer

pytestmark = pytest.mark.needs_root


def run(store, image, argv, **options):
    """The command in the image, its output; errors are the test's."""
    roots = snapshot.ensure(store, image)
    done = fastctr.run(argv, rootfs=roots, capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def layer_names(store, image, number=-1):
    with tarfile.open(store.blob_path(image.layers[number].digest)) as tar:
        return tar.getnames()


def test_a_commit_has_the_change_and_runs(store, tmp_path):
    base = busybox_image(store, "base:1", config={"Cmd": ["sh"], "Env": ["PATH=/bin", "A=1"]})
    image = store.resolve("base:1")
    roots = snapshot.ensure(store, image)
    upper = tmp_path / "upper"
    script = "echo new > /etc/new; rm /etc/group; rm -r /var; mkdir /var; echo v > /var/v; chmod 4755 /bin/busybox"
    assert fastctr.run(["sh", "-c", script], rootfs=roots, upper=str(upper)).returncode == 0
    made = commit(
        store, image, upper, "team/app:2", author="A. Author", message="why", lower=roots, command=["sh", "-c", "x"],
        changes=["ENV B=2", 'CMD ["cat", "/etc/new"]', "EXPOSE 80", "LABEL l=1"], exclude=("/dev", "/proc", "/sys"),
    )  # fmt: skip
    assert made.names == ["docker.io/team/app:2"]
    assert made.diff_ids[:-1] == image.diff_ids and [d.digest for d in made.layers[:-1]] == base.layers
    config = made.config
    assert config["config"] == {"Cmd": ["cat", "/etc/new"], "Env": ["PATH=/bin", "A=1", "B=2"],
                                "ExposedPorts": {"80/tcp": {}}, "Labels": {"l": "1"}}  # fmt: skip
    assert config["author"] == "A. Author" and config["architecture"] == image.config["architecture"]
    last = config["history"][-1]
    assert last["comment"] == "why" and last["author"] == "A. Author" and last["created_by"] == "sh -c x"
    assert len([h for h in config["history"] if not h.get("empty_layer")]) == len(made.layers)
    names = layer_names(store, made)
    assert {"etc/.wh.group", "etc/new", "var/.wh..wh..opq", "var/v"} <= set(names)
    assert not [n for n in names if n.split("/")[0] in ("dev", "proc", "sys")]
    told = run(store, made, ["sh", "-c", "cat /etc/new /var/v; ls /etc/group /var; stat -c %a /bin/busybox; :"])
    assert told == "new\nv\n/var:\nv\n4755\n"
    valid(store, made)


def test_two_commits_on_top_of_each_other(store, tmp_path):
    busybox_image(store, "base:1")
    image = store.resolve("base:1")
    for number in (1, 2):
        roots = snapshot.ensure(store, image)
        upper = tmp_path / f"upper{number}"
        fastctr.run(["sh", "-c", f"echo {number} >> /etc/count"], rootfs=roots, upper=str(upper))
        image = commit(store, image, upper, "counted", exclude=("/dev", "/proc", "/sys"))
    assert run(store, image, ["cat", "/etc/count"]) == "1\n2\n"
    assert len(image.layers) == 3 and store.fsck() == []


def test_no_change_adds_no_layer(store, tmp_path):
    Image([make_layer({"a": "1"})], history=False).put(store, "base:1")
    (tmp_path / "upper").mkdir()
    image = store.resolve("base:1")
    made = commit(store, image, tmp_path / "upper", "same", changes=["USER 5"])
    assert made.diff_ids == image.diff_ids and made.config["history"][-1]["empty_layer"] is True
    assert len(made.config["history"]) == 2, "the base's layer has a line, too"
    assert made.id != image.id
    valid(store, made)


@pytest.mark.parametrize(
    ("docker", "compression", "kind"),
    [
        (False, "gzip", oci.LAYER_GZIP),
        (False, "zstd", oci.LAYER_ZSTD),
        (False, "none", oci.LAYER),
        (True, "gzip", oci.DOCKER_LAYER_GZIP),
        (True, "none", oci.DOCKER_LAYER),
        (True, "zstd", oci.LAYER_ZSTD),
    ],
)
def test_media_types_follow_the_base(store, tmp_path, docker, compression, kind):
    Image([make_layer({"a": "1"})], docker=docker).put(store, "base:1")
    (tmp_path / "upper").mkdir()
    (tmp_path / "upper/b").write_text("b")
    made = commit(store, store.resolve("base:1"), tmp_path / "upper", "new", compression=compression)
    assert made.layers[-1].media_type == kind
    is_docker = docker and compression != "zstd"
    assert (made.manifest["mediaType"] == oci.DOCKER_MANIFEST) is is_docker
    assert all(("docker" in d.media_type) is is_docker for d in made.layers)
    assert store.fsck() == []
    snapshot.ensure(store, made)
    store.release_holds()


def test_the_root_itself_may_change(store, tmp_path):
    Image([make_layer({"a": "1"})]).put(store, "base:1")
    lower = tmp_path / "lower"
    lower.mkdir()
    with overlay([lower], tmp_path / "upper", tmp_path / "merged") as merged:
        Path(merged, "x").write_text("x")
    base = store.resolve("base:1")
    assert "." not in layer_names(store, commit(store, base, tmp_path / "upper", lower=[str(lower)]))
    os.chmod(tmp_path / "upper", 0o700)
    made = commit(store, base, tmp_path / "upper", lower=[str(lower)])
    with tarfile.open(store.blob_path(made.layers[-1].digest)) as tar:
        assert tar.getmember(".").mode == 0o700


def test_a_commit_that_fails_leaves_nothing(store, tmp_path):
    Image([make_layer({"a": "1"})]).put(store, "base:1")
    (tmp_path / "upper").mkdir()
    (tmp_path / "upper/.wh.x").write_text("")
    before = sorted(os.listdir(f"{store.root}/blobs/sha256"))
    with pytest.raises(ImageError):
        commit(store, store.resolve("base:1"), tmp_path / "upper", "new")
    with pytest.raises(SpecError):
        commit(store, store.resolve("base:1"), tmp_path / "upper", "new", changes=["RUN x"])
    with pytest.raises(SpecError):
        commit(store, store.resolve("base:1"), tmp_path / "upper", "new@sha256:" + "0" * 64)
    with pytest.raises(SpecError):
        commit(store, store.resolve("base:1"), tmp_path / "upper", compression="rar")
    assert sorted(os.listdir(f"{store.root}/blobs/sha256")) == before and os.listdir(f"{store.root}/ingest") == []
    assert os.listdir(f"{store.root}/leases") == []


# ---- import


def rootfs_tar():
    from image_support import busybox_entries

    return make_layer(busybox_entries(), "none")


@pytest.mark.parametrize("packed", ["none", "gzip", "zstd", "xz", "bzip2"])
def test_import_of_a_tar(store, tmp_path, packed):
    data = rootfs_tar()
    path = tmp_path / "root.tar"
    path.write_bytes(data)
    if packed != "none":
        program = {"gzip": "gzip", "zstd": "zstd", "xz": "xz", "bzip2": "bzip2"}[packed]
        subprocess.run([program, "-q", "-1", path] + (["--rm"] if packed == "zstd" else []), check=True)
        (path,) = tmp_path.glob("root.tar.*")
    made = import_rootfs(store, path, "imported:1", changes=["CMD [\"cat\", \"/etc/group\"]", "ENV PATH=/bin"])
    assert made.names == ["docker.io/library/imported:1"]
    import hashlib

    assert made.diff_ids == ["sha256:" + hashlib.sha256(data).hexdigest()]
    assert made.layers[0].media_type == (oci.LAYER_ZSTD if packed == "zstd" else oci.LAYER_GZIP)
    if packed in ("gzip", "zstd"):
        assert made.layers[0].size == path.stat().st_size, "as it came"
    assert made.config["history"][0]["comment"] == f"Imported from {path}"
    assert "root:x:0:" in run(store, made, made.config["config"]["Cmd"])
    valid(store, made)


def test_import_from_a_pipe(store):
    data = rootfs_tar()
    reader, writer = os.pipe()
    with subprocess.Popen(["gzip", "-1"], stdin=subprocess.PIPE, stdout=writer) as gzip:
        os.close(writer)
        import threading

        feeder = threading.Thread(target=lambda: (gzip.stdin.write(data), gzip.stdin.close()))
        feeder.start()
        made = import_rootfs(store, reader, message="by pipe")
        feeder.join()
        os.close(reader)
    assert made.names == [] and store.resolve(made.id).id == made.id
    assert made.config["history"][0]["comment"] == "by pipe"


def test_import_from_a_url(store, tmp_path):
    import http.server
    import threading

    (tmp_path / "root.tar").write_bytes(rootfs_tar())

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(tmp_path))

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_address[1]}/root.tar"
            made = import_rootfs(store, url, "by-url")
            assert made.config["history"][0]["comment"] == f"Imported from {url}"
            with pytest.raises(ImageError, match="404"):
                import_rootfs(store, url + "x")
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"nothing like a tar" * 100,
        make_layer([entry("../up", "x")], "none"),
        make_layer([entry("../up", "x")], "gzip"),
        rootfs_tar()[:5000],
        make_layer({"a": "1"}, "gzip")[:-20],
    ],
    ids=["empty", "text", "leads out", "leads out, packed", "cut", "cut, packed"],
)
def test_bad_tars_leave_no_image(store, data):
    with pytest.raises(ArchiveError):
        import_rootfs(store, io.BytesIO(data), "bad")
    with pytest.raises(ImageNotFound):
        store.resolve("bad")
    assert store.images() == []
    store.gc(0)
    assert os.listdir(f"{store.root}/blobs/sha256") == []


# ---- from a directory


def test_an_image_of_a_directory(store, fresh_rootfs):
    os.chown(f"{fresh_rootfs}/etc/marker", 1000, 1000)
    Path(fresh_rootfs, "var/cache").mkdir(parents=True)
    Path(fresh_rootfs, "var/cache/big").write_text("x" * 1000)
    made = build_rootfs(store, fresh_rootfs, "of-dir:1", changes=["ENV PATH=/bin"], exclude=["/var/cache/*"],
                        config={"Cmd": ["sh"]})  # fmt: skip
    assert made.config["config"] == {"Cmd": ["sh"], "Env": ["PATH=/bin"]}
    assert run(store, made, ["sh", "-c", "ls /var/cache; stat -c %u /etc/marker; cat /etc/marker"]) == (
        "1000\nfrom the image\n"
    )
    valid(store, made)


def test_the_same_directory_gives_the_same_image(store, tmp_path, monkeypatch):
    def tree(name):
        root = tmp_path / name
        (root / "d").mkdir(parents=True)
        (root / "d/f").write_text("f")
        (root / "l").symlink_to("d/f")
        return root

    one = build_rootfs(store, tree("one"), reproducible=True, owner=(0, 0))
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    two = build_rootfs(store, tree("two"), reproducible=True, owner=(0, 0))
    assert one.manifest_descriptor.digest == two.manifest_descriptor.digest
    assert one.config["created"] == "1970-01-01T00:00:00Z"
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    assert build_rootfs(store, tree("three"), reproducible=True).config["created"] == "2023-11-14T22:13:20Z"
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "soon")
    with pytest.raises(SpecError, match="SOURCE_DATE_EPOCH"):
        build_rootfs(store, tmp_path / "one", reproducible=True)


def test_directories_that_cannot_be(store, tmp_path):
    with pytest.raises(ImageError, match="cannot be opened as a directory"):
        build_rootfs(store, tmp_path / "none")
    with pytest.raises(SpecError, match="owner"):
        build_rootfs(store, tmp_path, owner=(-1, 0))
    assert store.images() == []


def test_owners_of_a_directory(store, tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    (root / "f").write_text("")
    os.chown(root / "f", 100001, 100002)

    def owner(**options):
        made = build_rootfs(store, root, **options)
        with tarfile.open(store.blob_path(made.layers[0].digest)) as tar:
            member = tar.getmember("f")
            return member.uid, member.gid

    maps = {"uid_map": [(0, 100000, 65536)], "gid_map": [(0, 100000, 65536)]}
    assert (owner(), owner(owner=(0, 0)), owner(**maps)) == ((100001, 100002), (0, 0), (1, 2))
