"""The field rootfs: this machine's own root, directories, or the layers of an image, topmost first.

A layer that a store has unpacked (`<chain>/diff` beside `<chain>/layer.json`) and an EROFS image
("erofs:/path/file") never change: they are looked at once a process, and the core may merge them once
for all containers of a plan.
"""

from __future__ import annotations

import os

from . import rights, units
from .errors import SpecError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

EROFS = "erofs:"
_HINT = 'use a directory, several (topmost first), or "host"'
_fixed: dict[str, str] = {}
"""Layers that never change, by the text given: their real paths."""
_FIXED_MAX = 8192


class Layers(tuple[str, ...]):
    """An image's layers, topmost first: what its store made and keeps is not looked at again.

    identity tells one set of layers from another; place is the directory they all lie in.
    """

    identity: tuple[Any, ...]
    place: str


def rootfs(field: str, value: Any) -> str | tuple[str, ...]:
    """ "host", absolute paths of directories and "erofs:/file", topmost first, or Layers as they are.

    Raises SpecError.
    """
    if type(value) is Layers:
        return value
    if isinstance(value, str) and value == "host":
        return "host"
    given = [value] if isinstance(value, (str, bytes, os.PathLike)) else units.items(field, value)
    paths = [
        item
        if number and isinstance(item, str) and item in _fixed
        else _layer(field if len(given) == 1 else f"{field}[{number}]", item)
        for number, item in enumerate(given)
    ]
    if not paths:
        raise SpecError(field, value, "is empty", _HINT)
    if len(paths) > 500:
        raise SpecError(field, len(paths), "layers are too many", "overlay takes 500")
    return tuple(paths)


def _layer(where: str, item: Any) -> str:
    image = isinstance(item, str) and item.startswith(EROFS)
    path = units.host_path(where, item[len(EROFS) :] if image else item)
    if not (os.path.isfile if image else os.path.isdir)(path):
        kind = "a file" if image else "a directory"
        there = f"is not {kind}" if os.path.exists(path) else "does not exist"
        named = isinstance(item, str) and item[:1] not in ("/", ".") and not image
        raise SpecError(where, item, there, f"{_HINT}; an image is given by image=" if named else _HINT)
    real = os.path.realpath(path)
    if real == "/":
        raise SpecError(where, item, "is this machine's own root", 'use rootfs="host" and see what it exposes')
    path = EROFS + path if image else path
    if image or _of_store(path):
        if len(_fixed) >= _FIXED_MAX:
            _fixed.clear()
        _fixed[path] = real
    return path


def _of_store(path: str) -> bool:
    folder, name = os.path.split(path)
    return name == "diff" and os.path.isfile(os.path.join(folder, "layer.json"))


def fixed(paths: Any) -> bool:
    """Whether all of them are layers that never change."""
    return type(paths) is Layers or all(path in _fixed or (path.startswith(EROFS) or _of_store(path)) for path in paths)


def check(rootfs: tuple[str, ...], values: dict[str, Any]) -> tuple[Any, ...]:
    """Raise SpecError for layers within one another, or places for changes within a layer.

    Returns what tells these directories from others that may come in their place; of layers that never
    change, the topmost's does.
    """
    images = [number for number, path in enumerate(rootfs) if path.startswith(EROFS)]
    if images and not rights.machine_root():
        raise SpecError(
            "rootfs" if len(rootfs) == 1 else f"rootfs[{images[0]}]",
            rootfs[images[0]],
            "can be mounted by root alone",
            'use snapshotter="overlay", which unpacks to directories',
        )
    if values.get("writable") == "direct" and (images or type(rootfs) is Layers):
        raise SpecError("writable", "direct", "would change the image itself", 'use "tmpfs", "disk" or upper=')
    if type(rootfs) is Layers:
        real = [rootfs.place]
    else:
        real = [_fixed.get(path) or os.path.realpath(path.removeprefix(EROFS)) for path in rootfs]
        _apart(rootfs, real)
    for name in ("upper", "scratch_dir"):
        if name in values:
            place = os.path.realpath(values[name])
            for path in real:
                if within(place, path) or (name == "upper" and within(path, place)):
                    raise SpecError(
                        name,
                        values[name],
                        f"lies within rootfs ({path}) or around it",
                        "give a place apart from it",
                    )
    if type(rootfs) is Layers:
        return rootfs.identity
    looked_at = [path for number, path in enumerate(real) if number == 0 or rootfs[number] not in _fixed]
    try:
        found = [os.stat(path) for path in looked_at]
    except OSError as error:
        raise SpecError("rootfs", error.filename, "cannot be read", _HINT) from None
    return tuple((info.st_dev, info.st_ino) for info in found)


def _apart(rootfs: tuple[str, ...], real: list[str]) -> None:
    """Sorted with a slash behind them, what lies within another comes right after it."""
    order = sorted(range(len(real)), key=lambda number: (real[number].rstrip("/") + "/", number))
    for place in range(1, len(order)):
        before, number = order[place - 1], order[place]
        if within(real[number], real[before]):
            number = max(before, number)
            raise SpecError(
                f"rootfs[{number}]",
                rootfs[number],
                "is the same as, or within, another layer",
                "give layers that are apart",
            )


def within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def readable(root: str) -> str:
    """Where the files of a layer can be looked at from here: an image has its /etc/passwd beside it."""
    return os.path.dirname(root.removeprefix(EROFS)) if root.startswith(EROFS) else root
