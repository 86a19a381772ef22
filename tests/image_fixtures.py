"""What tests of images share. Not in image_support.py, which interpreters without pytest import, too."""

from __future__ import annotations

import pytest

from fastctr.errors import StoreError
from fastctr.image import snapshot
from fastctr.image.store import Store
from image_support import busybox_entries, make_layer


@pytest.fixture
def store(tmp_path):
    """A store of the test's own; what it held for containers is let go."""
    made = Store(str(tmp_path / "store"))
    yield made
    made.release_holds()


@pytest.fixture(scope="module")
def base():
    """A first layer with busybox."""
    return make_layer(busybox_entries())


@pytest.fixture
def root(tmp_path, monkeypatch):
    """The place of an empty store of this test's own, which is the default one."""
    monkeypatch.setenv("FASTCTR_ROOT", str(tmp_path / "store"))
    return str(tmp_path / "store")


def available(store, name):
    """The snapshotter of that name, or the test is skipped."""
    try:
        return snapshot.get(store, name)
    except StoreError as error:
        pytest.skip(f"needs the snapshotter {name}: {error}")
