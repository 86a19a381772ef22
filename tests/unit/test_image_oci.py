"""An image's documents: what is taken, what is refused and how it is said; platforms; chain ids."""

from __future__ import annotations

import hashlib
import json
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastctr.errors import ImageError, ImageNotFound, SpecError
from fastctr.image import digest as digests
from fastctr.image import oci
from fastctr.image.oci import Descriptor
from fastctr.image.platform import Platform, host_platform

D = "sha256:" + "d" * 64


def descriptor(**more):
    return {"mediaType": oci.LAYER_GZIP, "digest": D, "size": 3, **more}


def manifest(**more):
    return {"schemaVersion": 2, "mediaType": oci.MANIFEST,
            "config": descriptor(mediaType=oci.CONFIG), "layers": [descriptor()], **more}  # fmt: skip


def dump(value):
    return json.dumps(value).encode()


def test_chain_ids():
    ids = ["sha256:" + c * 64 for c in "abc"]
    first = hashlib.sha256(f"{ids[0]} {ids[1]}".encode()).hexdigest()
    second = hashlib.sha256(f"sha256:{first} {ids[2]}".encode()).hexdigest()
    assert oci.chain_ids(ids) == [ids[0], f"sha256:{first}", f"sha256:{second}"]
    assert oci.chain_ids([]) == []


@given(st.binary(max_size=300))
def test_digests(data):
    found = digests.sha256(data)
    assert found == "sha256:" + hashlib.sha256(data).hexdigest()
    assert digests.verify(found, data) and digests.valid(found)
    assert not digests.verify(found, data + b"x")
    assert digests.verify("sha512:" + hashlib.sha512(data).hexdigest(), data)


@pytest.mark.parametrize("bad", ["", "x", "sha256:", "sha256:" + "a" * 63, "sha256:" + "A" * 64, "sha256:../" + "a" * 61,
                                 "md5:" + "a" * 32, "sha256:" + "a" * 65, None, 3])  # fmt: skip
def test_no_digest(bad):
    assert not digests.valid(bad)
    with pytest.raises(ImageError):
        digests.split(bad)


def test_descriptor_round_trip():
    value = {"mediaType": oci.MANIFEST, "digest": D, "size": 5, "artifactType": "a/b",
             "platform": {"architecture": "arm", "os": "linux", "variant": "v7"}, "urls": ["https://x"],
             "annotations": {"k": "v"}}  # fmt: skip
    found = Descriptor.from_json(value)
    assert found.to_json() == value
    assert found == Descriptor.from_json(found.to_json())
    assert found.bare().annotations == {} and found.annotations == {"k": "v"}


@pytest.mark.parametrize("change", [{"mediaType": None}, {"mediaType": ""}, {"mediaType": 3}, {"digest": "sha256:x"},
                                    {"digest": "../../etc/passwd"}, {"size": -1}, {"size": "3"}, {"size": True}, {"size": 2**63},
                                    {"size": 1.5}, {"urls": "x"}, {"urls": [1]}, {"annotations": {"a": 1}}, {"annotations": ["x"]},
                                    {"platform": "linux"}, {"platform": {"os": 1}}])  # fmt: skip
def test_bad_descriptor(change):
    with pytest.raises(ImageError):
        Descriptor.from_json(descriptor(**change))
    with pytest.raises(ImageError):
        oci.parse_manifest(dump(manifest(layers=[descriptor(**change)])))


@pytest.mark.parametrize("media_type", [oci.MANIFEST, oci.DOCKER_MANIFEST, None, oci.MANIFEST + "; charset=utf-8"])
def test_manifest(media_type):
    value = manifest(mediaType=(media_type or oci.MANIFEST).partition(";")[0])
    assert oci.parse_manifest(dump(value), media_type) == value
    del value["mediaType"]
    assert oci.parse_manifest(dump(value), media_type) == value


@pytest.mark.parametrize(("change", "said"), [
    ({"schemaVersion": 1}, "schema 1"),
    ({"schemaVersion": 3}, "schemaVersion"),
    ({"schemaVersion": None}, "schemaVersion"),
    ({"mediaType": oci.INDEX}, "is not a manifest"),
    ({"mediaType": oci.SCHEMA1[1]}, "schema 1"),
    ({"mediaType": "text/html"}, "is not a manifest"),
    ({"manifests": []}, "both manifests and layers"),
    ({"layers": None}, "layers"),
    ({"layers": {}}, "layers"),
    ({"layers": [descriptor()] * (oci.LAYERS_MAX + 1)}, "layers"),
    ({"config": None}, "config"),
    ({"config": []}, "config"),
])  # fmt: skip
def test_bad_manifest(change, said):
    with pytest.raises(ImageError, match=said):
        oci.parse_manifest(dump(manifest(**change)))


def test_what_it_says_and_how_it_came_must_agree():
    with pytest.raises(ImageError, match="came as"):
        oci.parse_manifest(dump(manifest()), oci.DOCKER_MANIFEST)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"3", b"\xff\xfe", b'{"a":' * 100_000, b"null"])
@pytest.mark.parametrize("parse", [oci.parse_manifest, oci.parse_index, oci.parse_config])
def test_not_json(parse, data):
    with pytest.raises(ImageError):
        parse(data)


_json = st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
                     lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)  # fmt: skip


def _both(text, monkeypatch):
    """By the scanner alone, as before json was imported, and by json: values, or None for an error."""
    found = []
    for names in (set(sys.modules) - {"json"}, set(sys.modules)):
        with monkeypatch.context() as patch:
            patch.setattr(oci, "sys", type("", (), {"modules": names}))
            try:
                found.append(repr(oci._loads(text)))
            except (ValueError, RecursionError):
                found.append(None)
    return found


@given(_json, st.sampled_from(["", " ", "\n\t\r"]), st.sampled_from(["", " ", "\n", "x", ",", "\x00"]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_short_way_to_json(monkeypatch, value, before, after):
    one, two = _both(before + json.dumps(value) + after, monkeypatch)
    assert one == two


@pytest.mark.parametrize("text", ["", " ", "{", "[1,]", "{'a':1}", '"\n"', "NaN", "[Infinity]", "01", "1 2", "\ufeff{}", '{"a":1,"a":2}',
                                  "tru", "[" * 100_000, '"\\ud800"', "-", "1e999", "\x0b{}"])  # fmt: skip
def test_the_short_way_to_no_json(monkeypatch, text):
    one, two = _both(text, monkeypatch)
    assert one == two


def test_too_big():
    with pytest.raises(ImageError, match="more than"):
        oci.parse_manifest(b" " * (oci.DOCUMENT_MAX + 1))


def config(**more):
    return {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [D]}, **more}


@pytest.mark.parametrize("value", [
    config(), config(config=None), config(config={}), config(history=None), config(history=[{}]),
    config(rootfs={"type": "layers", "diff_ids": None}),
    config(config={"Env": None, "Cmd": None, "Entrypoint": [], "Labels": None, "Volumes": {"/x": {}}, "User": "a:b"}),
])  # fmt: skip
def test_config(value):
    assert oci.parse_config(dump(value))["architecture"] == "amd64"


def test_one_string_is_a_list_of_it():
    assert oci.parse_config(dump(config(config={"Entrypoint": "/x"})))["config"]["Entrypoint"] == ["/x"]


@pytest.mark.parametrize("value", [
    {}, config(rootfs=None), config(rootfs={"type": "x", "diff_ids": []}), config(rootfs={"type": "layers", "diff_ids": ["x"]}),
    config(architecture=3), config(os=[]), config(history={}), config(history=[1]), config(config=[]),
    config(config={"Env": {"A": "b"}}), config(config={"Env": [1]}), config(config={"Labels": ["a"]}),
    config(config={"Labels": {"a": 1}}), config(config={"User": 0}), config(config={"Cmd": {}}),
    config(config={"ExposedPorts": ["80"]}), config(config={"WorkingDir": ["/"]}),
])  # fmt: skip
def test_bad_config(value):
    with pytest.raises(ImageError):
        oci.parse_config(dump(value))


# ---- platforms


@pytest.mark.parametrize(("text", "shown"), [
    ("linux/amd64", "linux/amd64"), ("amd64", "linux/amd64"), ("x86_64", "linux/amd64"), ("linux/x86_64", "linux/amd64"),
    ("arm64", "linux/arm64"), ("linux/arm64/v8", "linux/arm64"), ("aarch64", "linux/arm64"), ("linux/arm", "linux/arm/v7"),
    ("armhf", "linux/arm/v7"), ("armel", "linux/arm/v6"), ("linux/arm/v6", "linux/arm/v6"), ("linux/arm/7", "linux/arm/v7"),
    ("linux/amd64/v3", "linux/amd64/v3"), ("Linux/AMD64", "linux/amd64"), ("windows/amd64", "windows/amd64"),
])  # fmt: skip
def test_platform(text, shown):
    assert str(Platform.parse(text)) == shown
    assert Platform.parse(Platform.parse(text)) == Platform.parse(shown)


@pytest.mark.parametrize("text", ["", "pdp11", "linux/", "linux/a/b/c", "linux/amd 64", None, 3, "/amd64"])
def test_no_platform(text):
    with pytest.raises(SpecError) as caught:
        Platform.parse(text)
    assert caught.value.field == "platform"


def index(*platforms, **extra):
    entries = [{"mediaType": oci.MANIFEST, "digest": f"sha256:{i:064x}", "size": 1, "platform": p}
               for i, p in enumerate(platforms)]  # fmt: skip
    return oci.parse_index(dump({"schemaVersion": 2, "mediaType": oci.INDEX, "manifests": entries, **extra}))


def chosen(found, platform):
    return int(oci.choose(found, Platform.parse(platform)).digest[7:], 16)


def _p(text):
    system, arch, *variant = text.split("/")
    return {"os": system, "architecture": arch, **({"variant": variant[0]} if variant else {})}


def test_choose():
    found = index(*map(_p, ["linux/arm/v6", "linux/amd64", "linux/arm64/v8", "linux/arm/v7", "windows/amd64", "linux/386",
                            "unknown/unknown"]))  # fmt: skip
    assert chosen(found, "linux/amd64") == 1
    assert chosen(found, "linux/arm64") == 2
    assert chosen(found, "linux/arm/v7") == 3
    assert chosen(found, "linux/arm/v6") == 0
    assert chosen(found, "linux/arm/v8") == 3
    assert chosen(found, "linux/386") == 5
    assert chosen(found, "windows/amd64") == 4
    with pytest.raises(ImageNotFound, match="nothing for linux/s390x; there is: linux/386, linux/amd64"):
        oci.choose(found, Platform.parse("s390x"))
    with pytest.raises(ImageNotFound):
        oci.choose(found, Platform.parse("linux/arm/v5"))


def test_choose_levels_and_older_machines():
    levels = index(*map(_p, ["linux/amd64/v3", "linux/amd64", "linux/amd64/v2"]))
    assert chosen(levels, "linux/amd64") == 1
    assert chosen(levels, "linux/amd64/v2") == 2
    assert chosen(levels, "linux/amd64/v4") == 0
    assert chosen(index(_p("linux/386")), "linux/amd64") == 0
    assert chosen(index(_p("linux/arm/v7")), "linux/arm64") == 0


def test_attestations_are_not_images():
    entry = {"mediaType": oci.MANIFEST, "digest": D, "size": 1, "platform": _p(str(host_platform())),
             "annotations": {"vnd.docker.reference.type": "attestation-manifest"}}  # fmt: skip
    found = oci.parse_index(dump({"schemaVersion": 2, "manifests": [entry]}))
    assert oci.candidates(found) == []


def test_host_platform_is_plain():
    assert host_platform().os == "linux"
    assert host_platform() is host_platform()
    assert host_platform().rank(host_platform()) is not None
    assert host_platform().rank(Platform(host_platform().os, host_platform().architecture)) is not None
    if host_platform().architecture == "amd64":
        assert str(host_platform()) == "linux/amd64"


def test_bad_index():
    for change in ({"manifests": None}, {"manifests": [1]}, {"mediaType": oci.MANIFEST}, {"layers": []}):
        with pytest.raises(ImageError):
            oci.parse_index(dump({"schemaVersion": 2, "mediaType": oci.INDEX, "manifests": [], **change}))
