"""Capability names, masks and Docker's add and drop rules."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastctr import caps
from fastctr.errors import SpecError

HEADER = Path("/usr/include/linux/capability.h")


def bit(name: str) -> int:
    return 1 << caps.BITS["CAP_" + name]


@pytest.mark.skipif(not HEADER.exists(), reason="no kernel headers")
def test_names_are_the_kernels():
    found = dict(re.findall(r"^#define (CAP_[A-Z_]+)\s+(\d+)$", HEADER.read_text(), re.M))
    assert {name: int(n) for name, n in found.items() if name != "CAP_LAST_CAP"} == caps.BITS
    assert len(caps.NAMES) == 41


def test_default_is_dockers():
    names = (
        "CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP NET_BIND_SERVICE"
        " SYS_CHROOT KILL AUDIT_WRITE"
    )
    assert caps.to_mask(names.split()) == caps.DEFAULT
    assert len(caps.to_names(caps.DEFAULT)) == 14


@given(st.integers(0, caps.ALL))
def test_masks_and_names(mask):
    assert caps.to_mask(caps.to_names(mask)) == mask


@pytest.mark.parametrize("name", ["net_admin", "NET_ADMIN", "CAP_NET_ADMIN", "cap_net_admin", " Net_Admin "])
def test_spellings(name):
    assert caps.normalize(name) == "CAP_NET_ADMIN"


def test_unknown_names():
    with pytest.raises(SpecError, match="CAP_NET_ADMIN"):
        caps.normalize("NET_ADMIM")
    with pytest.raises(SpecError, match=r"cap_drop\[1\]"):
        caps.resolve(cap_drop=["CHOWN", "FLYING"])
    for bad in ("NET_ADMIN", b"x", 5):
        with pytest.raises(SpecError, match="list"):
            caps.resolve(cap_add=bad)
    with pytest.raises(SpecError):
        caps.resolve(cap_add=[7])


def resolve(add=(), drop=(), grant=caps.ALL, **more):
    return caps.resolve(add, drop, grant=grant, **more)


@pytest.fixture(autouse=True)
def all_known(monkeypatch):
    monkeypatch.setattr(caps, "_last", len(caps.NAMES) - 1)


def test_dockers_rules():
    assert resolve() == caps.DEFAULT
    assert resolve(None, None) == caps.DEFAULT
    assert resolve(["net_admin"], ["mknod"]) == (caps.DEFAULT | bit("NET_ADMIN")) & ~bit("MKNOD")
    assert resolve(["CHOWN"], ["CHOWN"]) == caps.DEFAULT
    assert resolve(["CHOWN", "BPF"], ["ALL"]) == bit("CHOWN") | bit("BPF")
    assert resolve([], ["all"]) == 0
    assert resolve(["ALL"]) == caps.ALL
    assert resolve(["ALL"], ["SYS_ADMIN"]) == caps.ALL & ~bit("SYS_ADMIN")
    assert resolve(["ALL", "SYS_ADMIN"], ["SYS_ADMIN"]) == caps.ALL & ~bit("SYS_ADMIN")
    assert resolve(["ALL"], ["ALL"]) == caps.ALL
    assert resolve([], ["ALL"], privileged=True) == caps.ALL
    assert resolve(default=bit("KILL")) == bit("KILL")


def test_what_the_process_lacks():
    grant = caps.ALL & ~bit("SYS_RESOURCE") & ~bit("MKNOD")
    assert resolve(["ALL"], grant=grant) == grant
    assert resolve(privileged=True, grant=grant) == grant
    assert resolve(grant=grant) == caps.DEFAULT & ~bit("MKNOD")
    for add in (["SYS_RESOURCE"], ["ALL", "sys_resource"]):
        with pytest.raises(SpecError, match=r"CAP_SYS_RESOURCE.*does not have it") as e:
            resolve(add, grant=grant)
        assert e.value.field == "cap_add"
    assert resolve(["ALL", "SYS_RESOURCE"], ["SYS_RESOURCE"], grant=grant) == grant


def test_an_old_kernel(monkeypatch):
    monkeypatch.setattr(caps, "_last", caps.BITS["CAP_AUDIT_READ"])
    old = caps.ALL & ~(bit("PERFMON") | bit("BPF") | bit("CHECKPOINT_RESTORE"))
    assert caps.known() == old
    assert resolve(["ALL"], grant=old) == old
    with pytest.raises(SpecError, match="not known to this kernel"):
        resolve(["BPF"], grant=old)


def test_this_process(monkeypatch):
    status = Path("/proc/self/status").read_text()
    permitted = int(re.search(r"CapPrm:\s+(\w+)", status)[1], 16)
    bounding = int(re.search(r"CapBnd:\s+(\w+)", status)[1], 16)
    assert caps.grantable() == permitted & bounding
    monkeypatch.setattr(caps, "_last", None)
    assert caps.last() == int(Path("/proc/sys/kernel/cap_last_cap").read_text())
