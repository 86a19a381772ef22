"""Limits of block devices: Docker's lists, io.max of v2, and what both become."""

from __future__ import annotations

from . import units
from .errors import SpecError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_IO_FIELDS = (
    "blkio_weight_device",
    "io_max",
    "device_read_bps",
    "device_write_bps",
    "device_read_iops",
    "device_write_iops",
)


def v2_weight(blkio: int) -> int:
    """Docker's 10..1000 on the 1..10000 scale, by the same line runc draws."""
    return 1 + (blkio - 10) * 9999 // 990


def blkio(field: str, value: object) -> int:
    return units.integer(field, value, 10, 1000, "a weight")


def _device(field: str, path: str, value: object) -> tuple[int, int]:
    """(major, minor) of a block device given as path or "8:0"."""
    import os
    import stat

    major, colon, minor = path.partition(":")
    if colon and major.isdigit() and minor.isdigit():
        return int(major), int(minor)
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        raise SpecError(
            field, value, "names no device of this machine", 'use a block device (as "/dev/sda")'
        ) from None
    if not stat.S_ISBLK(found.st_mode):
        raise SpecError(field, value, f"names {path}, which is not a block device", 'use one as "/dev/sda"')
    return os.major(found.st_rdev), os.minor(found.st_rdev)


def per_device(key: str, rate: Callable[[str, object], int]) -> Callable[[str, object], tuple[Any, ...]]:
    """A parser of ["/dev/sda:1mb"] or {"/dev/sda": "1mb"} or docker-py's [{"Path":…, "Rate":…}]."""

    def parse(field: str, value: object) -> tuple[Any, ...]:
        found: list[tuple[int, int, str, int]] = []
        pairs: list[tuple[object, object]] = []
        if isinstance(value, dict):
            pairs = list(value.items())
        else:
            for item in units.items(field, value):
                if isinstance(item, dict):
                    amount = item.get("Rate", item.get("Weight"))
                    pairs.append((item.get("Path"), amount))
                    continue
                path, colon, tail = str(item).rpartition(":")
                if not colon or not path:
                    raise SpecError(field, item, "is not a device with a figure", 'use "/dev/sda:1mb"')
                pairs.append((path, tail))
        for path_, amount in pairs:
            if not isinstance(path_, str):
                raise SpecError(field, value, "names no device", 'use "/dev/sda:1mb"')
            found.append((*_device(field, path_, value), key, rate(field, amount)))
        return tuple(found)

    return parse


def rate(field: str, value: object) -> int:
    return units.size(field, value, 1, unlimited=True)


def iops(field: str, value: object) -> int:
    if isinstance(value, str) and value.strip().lower() in ("max", "unlimited"):
        return -1
    return units.integer(field, value, -1, 2**32 - 1, "a count, or -1 for no limit,") or -1


def _weight(field: str, value: object) -> int:
    return units.integer(field, value, 1, 10000, "a weight")


_IO_KEYS = {"rbps": rate, "wbps": rate, "riops": iops, "wiops": iops, "weight": _weight}


def io_max(field: str, value: object) -> tuple[Any, ...]:
    """{"/dev/sda": {"rbps": "1m", "wiops": 100}}, or lines of v2's io.max ("8:0 rbps=1048576 wiops=max")."""
    found: list[tuple[int, int, str, int]] = []
    pairs: list[tuple[str, dict[str, object]]] = []
    if isinstance(value, dict):
        pairs = [(str(path), keys) for path, keys in value.items()]
    else:
        for item in units.items(field, value):
            path, _, rest = str(item).strip().partition(" ")
            pairs.append((path, {part.partition("=")[0]: part.partition("=")[2] for part in rest.split()}))
    for path, keys in pairs:
        device = _device(field, path, value)
        if not isinstance(keys, dict) or not keys:
            raise SpecError(field, value, "gives no figure for a device", 'use {"/dev/sda": {"rbps": "1m"}}')
        for key, amount in keys.items():
            if key not in _IO_KEYS:
                raise SpecError(field, value, f"has an unknown key {key!r}", f"use {', '.join(_IO_KEYS)}")
            found.append((*device, key, _IO_KEYS[key](field, amount)))
    return tuple(found)


def devices(given: dict[str, Any]) -> list[tuple[int, ...]]:
    """(major, minor, rbps, wbps, riops, wiops, weight) for each device named anywhere."""
    found: dict[tuple[int, int], dict[str, int]] = {}
    for field in _IO_FIELDS:
        for major, minor, key, amount in given.get(field, ()):
            if field == "blkio_weight_device":
                amount = v2_weight(amount)
            found.setdefault((major, minor), {})[key] = amount
    return [
        (*device, *(keys.get(key, units.UNSET) for key in _IO_KEYS)) for device, keys in sorted(found.items())
    ]
