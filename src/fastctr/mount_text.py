"""Mounts written as text or dicts, the ways Docker and docker-py write them.

--mount   "type=bind,src=/data,dst=/data,ro,bind-propagation=rslave"
--volume  "/data:/data:ro,z", or {"/data": "/in"}, {"/data": {"bind": "/in", "mode": "ro"}}
--tmpfs   "/run:size=64m,mode=1777", or {"/run": "size=64m"}
files     {"/etc/motd": "hello"}, {"/bin/go": (b"#!/bin/sh\\n…", 0o755)}
"""

from __future__ import annotations

import os

from . import mounts, units
from .errors import SpecError, nearest, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_TYPES = ("bind", "tmpfs", "proc", "sysfs", "mqueue", "devpts", "cgroup")
_FLAGS = {
    "nosuid": ("nosuid", True),
    "suid": ("nosuid", False),
    "nodev": ("nodev", True),
    "dev": ("nodev", False),
    "noexec": ("noexec", True),
    "exec": ("noexec", False),
    "noatime": ("noatime", True),
    "ro": ("read_only", True),
    "rw": ("read_only", False),
}
_TRUE = {"": True, "1": True, "true": True, "0": False, "false": False}


def relabel(where: str, value: object, error: SpecError) -> SpecError:
    """A mount's error with the place it was given at: target -> mounts[2], "…" is below /proc."""
    if error.value == value:
        return SpecError(where, value, error.problem, error.hint)
    return SpecError(
        where, value, f"has a bad {error.where}: {shown(error.value)} {error.problem}", error.hint
    )


def _no_named_volume(where: str, value: object, source: str) -> SpecError:
    return SpecError(
        where,
        value,
        f'has no path as its source ("{source}" would be a named volume, which fastctr does not keep)',
        f'use a path (as "./{source}:/data")',
    )


def mount_option(where: str, value: str) -> mounts.Mount:
    """A mount of Docker's --mount syntax: comma-separated key=value, quoted as CSV if need be."""
    given: dict[str, str] = {}
    for part in split_csv(where, value):
        key, _, text = part.strip().partition("=")
        key = _MOUNT_KEYS.get(key.lower(), key.lower())
        if key in given:
            raise SpecError(where, value, f'has "{key}" twice')
        given[key] = text
    kind = given.pop("type", "volume")
    if kind == "volume":
        source = given.get("source", "")
        if not source.startswith(("/", ".")):
            raise _no_named_volume(where, value, source)
        kind = "bind"
    if kind not in _TYPES:
        raise SpecError(where, value, f'has an unknown type "{kind}"', f"use type={', type='.join(_TYPES)}")
    if "target" not in given and kind not in ("proc", "sysfs", "mqueue", "cgroup"):
        raise SpecError(where, value, "has no target", "add dst=/path/inside")
    if kind == "bind" and not given.get("source"):
        raise SpecError(where, value, "has no source", "add src=/path/here")
    known = _KEYS[kind]
    kw: dict[str, Any] = {}
    for key, text in given.items():
        if key in ("readwrite", "suid", "dev", "exec"):
            key, truth = (
                {"readwrite": "read_only", "suid": "nosuid", "dev": "nodev", "exec": "noexec"}[key],
                True,
            )
        else:
            truth = False
        if key not in known:
            close = nearest(key, known)
            raise SpecError(
                where,
                value,
                f'has an option "{key}" that type={kind} does not know',
                f'did you mean "{close}"?' if close else f"use {', '.join(sorted(known))}",
            )
        name, how = known[key]
        if how is bool:
            if text.lower() not in _TRUE:
                raise SpecError(where, value, f'has "{key}={text}"', f"use {key} or {key}=false")
            kw[name] = _TRUE[text.lower()] != truth
        elif how == "not":
            if text.lower() not in _TRUE:
                raise SpecError(where, value, f'has "{key}={text}"', f"use {key} or {key}=false")
            kw[name] = not _TRUE[text.lower()]
        elif how == "recursive":
            if text not in ("enabled", "disabled", "writable", "readonly", "true", "false", ""):
                raise SpecError(where, value, f'has "{key}={text}"', "use enabled or disabled")
            kw[name] = text not in ("disabled", "false")
        elif how == "ids":
            kw[name] = text.split("+")
        else:
            kw[name] = text
    return _make(where, value, _CLASSES[kind], kw)


def _make(where: str, value: object, cls: type[mounts.Mount], kw: dict[str, Any]) -> mounts.Mount:
    try:
        return cls(**kw)
    except SpecError as error:
        raise relabel(where, value, error) from None


_CLASSES: dict[str, type[mounts.Mount]] = {
    "bind": mounts.Bind,
    "tmpfs": mounts.Tmpfs,
    "proc": mounts.Proc,
    "sysfs": mounts.Sysfs,
    "mqueue": mounts.Mqueue,
    "devpts": mounts.Devpts,
    "cgroup": mounts.Cgroup,
}
_MOUNT_KEYS = {
    "src": "source",
    "dst": "target",
    "destination": "target",
    "ro": "readonly",
    "rw": "readwrite",
    "propagation": "bind-propagation",
    "relabel": "z",
}
_COMMON: dict[str, tuple[str, Any]] = {
    "target": ("target", str),
    "read_only": ("read_only", bool),
    "readonly": ("read_only", bool),
    "nosuid": ("nosuid", bool),
    "nodev": ("nodev", bool),
    "noexec": ("noexec", bool),
    "noatime": ("noatime", bool),
}
_KEYS: dict[str, dict[str, tuple[str, Any]]] = {
    "bind": {
        **_COMMON,
        "source": ("source", str),
        "bind-propagation": ("propagation", str),
        "create": ("create", bool),
        "bind-nonrecursive": ("recursive", "not"),
        "bind-recursive": ("recursive", "recursive"),
        "nosymfollow": ("nosymfollow", bool),
        "idmap": ("idmap", "ids"),
        "optional": ("optional", bool),
    },
    "tmpfs": {
        **_COMMON,
        "tmpfs-size": ("size", str),
        "size": ("size", str),
        "tmpfs-mode": ("mode", str),
        "mode": ("mode", str),
        "uid": ("uid", str),
        "gid": ("gid", str),
    },
    "proc": {"target": ("target", str)},
    "sysfs": {"target": ("target", str), "readonly": ("read_only", bool), "read_only": ("read_only", bool)},
    "mqueue": {"target": ("target", str)},
    "devpts": {"target": ("target", str)},
    "cgroup": {"target": ("target", str), "readonly": ("read_only", bool), "read_only": ("read_only", bool)},
}


def split_csv(where: str, value: str) -> list[str]:
    """Fields between commas; a field in double quotes may hold commas, "" in it is a quote (RFC 4180)."""
    fields: list[str] = []
    text, quoted, place = "", False, 0
    while place < len(value):
        char = value[place]
        if char == '"':
            if quoted and value[place + 1 : place + 2] == '"':
                text += char
                place += 1
            else:
                quoted = not quoted
        elif char == "," and not quoted:
            fields.append(text)
            text = ""
        else:
            text += char
        place += 1
    if quoted:
        raise SpecError(where, value, "has a quote that does not end")
    fields.append(text)
    if any(not field.strip() for field in fields):
        raise SpecError(where, value, "has an empty field", 'use "type=bind,src=/here,dst=/inside"')
    return fields


def volume(where: str, value: object) -> mounts.Mount:
    """A bind of Docker's --volume syntax, "source:target[:options]"."""
    if not isinstance(value, str):
        raise SpecError(where, value, "is not a volume", 'use "/here:/inside" or "/here:/inside:ro"')
    parts = value.split(":")
    if len(parts) == 1:
        raise SpecError(
            where, value, "has no target", 'use "/here:/inside"; an anonymous volume is tmpfs="/inside"'
        )
    if len(parts) > 3:
        raise SpecError(where, value, "has too many colons", 'use mounts with "type=bind,src=…,dst=…"')
    return bind(where, value, parts[0], parts[1], parts[2] if len(parts) == 3 else "")


def bind(where: str, value: object, source: str, target: str, options: str) -> mounts.Mount:
    """A bind with options as "ro,rslave,noexec"; a missing source is an error (Docker makes a directory)."""
    if not source.startswith(("/", ".", "~")):
        raise _no_named_volume(where, value, source)
    kw: dict[str, Any] = {"source": os.path.expanduser(source), "target": target}
    for option in options.split(",") if options else ():
        if option in _FLAGS:
            name, truth = _FLAGS[option]
            kw[name] = truth
        elif option in mounts.PROPAGATION and option:
            kw["propagation"] = option
        elif option in ("bind", "rbind"):
            kw["recursive"] = option == "rbind"
        elif option in ("z", "Z", "cached", "delegated", "consistent", "nocopy"):
            continue  # labels and caches that Docker takes and that have no effect here
        elif option.startswith("idmap="):
            kw["idmap"] = option[6:].split("+")
        else:
            close = nearest(option, (*_FLAGS, *mounts.PROPAGATION, "bind", "rbind"))
            raise SpecError(
                where,
                value,
                f'has an unknown option "{option}"',
                f'did you mean "{close}"?' if close else "use ro, rw, rslave, noexec …",
            )
    return _make(where, value, mounts.Bind, kw)


def volumes(field: str, value: object) -> list[mounts.Mount]:
    """All of volumes=: a list of strings, or docker-py's dict."""
    found: list[mounts.Mount] = []
    if isinstance(value, dict):
        for source, target in value.items():
            where = f"{field}[{source!r}]"
            if not isinstance(source, (str, bytes, os.PathLike)):
                raise SpecError(where, source, "is not a path", 'use {"/here": "/inside"}')
            path = os.fsdecode(source)
            if isinstance(target, dict):
                unknown = set(target) - {"bind", "mode"}
                if unknown or "bind" not in target:
                    raise SpecError(where, target, "is not a volume", 'use {"bind": "/inside", "mode": "ro"}')
                found.append(bind(where, path, path, target["bind"], target.get("mode") or ""))
            elif isinstance(target, str):
                inside, _, options = target.partition(":")
                found.append(bind(where, path, path, inside, options))
            else:
                raise SpecError(
                    where, target, "is not a volume", 'use "/inside" or {"bind": "/inside", "mode": "ro"}'
                )
        return found
    return [volume(f"{field}[{number}]", item) for number, item in enumerate(units.items(field, value))]


def tmpfs(field: str, value: object) -> list[mounts.Mount]:
    """All of tmpfs=: a list of "/run:size=64m,mode=1777", or a dict {"/run": "size=64m"}."""
    pairs: list[tuple[object, object]]
    if isinstance(value, dict):
        pairs = list(value.items())
    else:
        pairs = []
        for item in units.items(field, value):
            if isinstance(item, mounts.Tmpfs):
                pairs.append((item, ""))
            else:
                path, _, rest = str(item).partition(":")
                pairs.append((path, rest))
    found: list[mounts.Mount] = []
    for target, options in pairs:
        if isinstance(target, mounts.Tmpfs):
            found.append(target)
            continue
        where = f"{field}[{target!r}]"
        whole = f"{target}:{options}" if options else str(target)
        # Docker's --tmpfs is noexec by default, type=tmpfs mounts are not
        kw: dict[str, Any] = {"target": target, "noexec": True}
        for option in str(options).split(",") if options else ():
            key, equals, amount = option.partition("=")
            if option in _FLAGS:
                name, truth = _FLAGS[option]
                kw[name] = truth
            elif equals and key in ("size", "mode", "uid", "gid"):
                kw[key] = amount
            elif option not in ("defaults", "notmpcopyup"):
                raise SpecError(
                    where,
                    whole,
                    f'has an unknown option "{option}"',
                    "use size=, mode=, uid=, gid=, ro, exec, suid, dev, noatime",
                )
        found.append(_make(where, whole, mounts.Tmpfs, kw))
    return found


def files(field: str, value: object) -> list[mounts.Mount]:
    """All of files=: {path: bytes or str, or (content, mode), or (content, mode, uid, gid)}."""
    if not isinstance(value, dict):
        raise SpecError(field, value, "is not a dict", 'use {"/path": b"content"}')
    found: list[mounts.Mount] = []
    for target, content in value.items():
        rest = content if isinstance(content, tuple) else (content,)
        if not 1 <= len(rest) <= 4:
            raise SpecError(
                f"{field}[{target!r}]", content, "is no file", "use content, or (content, mode[, uid, gid])"
            )
        try:
            found.append(mounts.File(target, *rest))
        except SpecError as error:
            raise SpecError(f"{field}[{target!r}]", error.value, error.problem, error.hint) from None
    return found


def mount_list(field: str, value: object) -> list[mounts.Mount]:
    """All of mounts=: Mount objects, --mount strings, or dicts with those keys."""
    found: list[mounts.Mount] = []
    given = [value] if isinstance(value, (mounts.Mount, dict)) else units.items(field, value)
    for number, item in enumerate(given):
        where = f"{field}[{number}]"
        if isinstance(item, mounts.Mount):
            found.append(item)
        elif isinstance(item, str):
            found.append(mount_option(where, item))
        else:
            raise SpecError(where, item, "is not a mount", 'use Bind(…), Tmpfs(…) or "type=bind,src=…"')
    return found
