"""Spec: what a container is to be, validated in full before anything is made.

A Spec is immutable and compared by content. Its fields are the keywords of fastctr.run(argv, **fields);
docs of each are in the class. spec_check.py holds what fields must agree on, native.py how a spec is
handed to the C core.
"""

from __future__ import annotations

import os

from . import devices, limits, mount_text, namespaces, process, roots, sysctls, units
from .errors import SpecError, UnknownField

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

MASKED_PATHS = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
)
READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


def _choice(*words: str) -> Callable[[str, object], str]:
    def parse(field: str, value: object) -> str:
        if not isinstance(value, str) or value not in words:
            raise SpecError(
                field, value, "is not one of its values", "use " + " or ".join(f'"{w}"' for w in words)
            )
        return value

    return parse


def _upper(field: str, value: object) -> str:
    path = units.host_path(field, value)
    if not os.path.isdir(os.path.dirname(path)):
        raise SpecError(field, value, "has no directory to lie in", "make the directory above it")
    if os.path.lexists(path) and not os.path.isdir(path):
        raise SpecError(field, value, "is not a directory", "give a directory, or a path where none is yet")
    return path


def _scratch_dir(field: str, value: object) -> str:
    path = units.host_path(field, value)
    if not os.path.isdir(path):
        raise SpecError(field, value, "is not a directory", "give one on a disk, as /var/tmp")
    if not os.access(path, os.W_OK | os.X_OK):
        raise SpecError(field, value, "is not writable for this user", "give another directory")
    return path


def _paths(field: str, value: object) -> tuple[str, ...]:
    return tuple(units.inside_path(f"{field}[{n}]", item) for n, item in enumerate(units.items(field, value)))


def _capabilities(field: str, value: object) -> tuple[tuple[str, int], ...]:
    from . import caps

    sets = ("bounding", "effective", "permitted", "inheritable", "ambient")
    if not isinstance(value, dict):
        raise SpecError(
            field, value, "is not a dict", f'use {{"bounding": ["CHOWN"]}} with {", ".join(sets)}'
        )
    for name in value:
        if name not in sets:
            raise SpecError(field, name, "is not a set of capabilities", f"use {', '.join(sets)}")
    return tuple((name, caps.to_mask(value[name], f"{field}[{name!r}]")) for name in sets if name in value)


def _names(field: str, value: object) -> tuple[str, ...]:
    from . import caps

    found = [caps.normalize(item, f"{field}[{n}]") for n, item in enumerate(units.items(field, value))]
    return tuple(sorted(set(found)))


def _seccomp(field: str, value: object) -> Any:
    """ "default", "unconfined", or a profile's JSON text, sorted: files are read when the spec is made."""
    if value in ("default", "unconfined"):
        return value
    import json

    hint = 'use "default", "unconfined", a path of a JSON profile, or a dict'
    profile: Any = value
    if not isinstance(value, dict):
        path = units.host_path(field, value)
        try:
            with open(path, encoding="utf-8") as file:
                profile = json.load(file)
        except (OSError, ValueError) as error:
            raise SpecError(field, value, f"cannot be read as a profile ({error})", hint) from None
    if not isinstance(profile, dict):
        raise SpecError(field, value, "is no profile", hint)
    from . import seccomp

    seccomp.load_profile(profile)  # raises SpecError for what no filter can be made of
    try:
        return json.dumps(profile, sort_keys=True)
    except (TypeError, ValueError) as error:
        raise SpecError(field, value, f"is not JSON ({error})", hint) from None


def _cgroup_parent(field: str, value: object) -> str:
    text = units.text(field, value)
    if ".." in text.split("/"):
        raise SpecError(field, value, 'has ".." in it', "write the path without it")
    return text


def _offset(field: str, value: object) -> int:
    return units.duration_ns(field, value, negative=True)


def _shm_size(field: str, value: object) -> int:
    return units.size(field, value)


def _umask(field: str, value: object) -> int:
    return units.octal(field, value, 0o777)


def _cwd(field: str, value: object) -> str:
    return units.inside_path(field, value, root=True)


def _made(parse: Callable[[str, object], list[Any]]) -> Callable[[str, object], tuple[Any, ...]]:
    return lambda field, value: tuple(parse(field, value))


# name: (parser, default). The parsers' results are what is compared; None: left alone, or found out later.
FIELDS: dict[str, tuple[Callable[[str, Any], Any], Any]] = {
    "rootfs": (roots.rootfs, "host"),
    "writable": (_choice("tmpfs", "disk", "direct"), "tmpfs"),
    "upper": (_upper, None),
    "read_only": (units.boolean, False),
    "scratch_size": (lambda f, v: units.size(f, v, 65536), None),
    "scratch_dir": (_scratch_dir, None),
    **{
        name: (namespaces.namespace, namespaces.NEW if kind[3] else namespaces.HOST)
        for name, kind in namespaces.KINDS.items()
    },
    "uid_map": (namespaces.id_map, ()),
    "gid_map": (namespaces.id_map, ()),
    "monotonic": (_offset, None),
    "boottime": (_offset, None),
    "hostname": (process.hostname, None),
    "domainname": (process.hostname, None),
    "mounts": (_made(mount_text.mount_list), ()),
    "volumes": (_made(mount_text.volumes), ()),
    "tmpfs": (_made(mount_text.tmpfs), ()),
    "files": (_made(mount_text.files), ()),
    "dev": (units.boolean, True),
    "devices": (devices.devices, ()),
    "shm_size": (_shm_size, 64 << 20),
    "mqueue": (units.boolean, True),
    "proc": (units.boolean, True),
    "sys": (units.boolean, True),
    "masked_paths": (_paths, MASKED_PATHS),
    "readonly_paths": (_paths, READONLY_PATHS),
    "cap_add": (_names, ()),
    "cap_drop": (_names, ()),
    "capabilities": (_capabilities, ()),
    "seccomp": (_seccomp, "default"),
    "no_new_privs": (units.boolean, True),
    "apparmor": (process.apparmor, None),
    "selinux": (process.selinux, None),
    "sysctls": (sysctls.sysctls, ()),
    "ulimits": (process.ulimits, ()),
    "oom_score_adj": (process.oom_score_adj, None),
    "nice": (process.nice, None),
    "cpu_affinity": (process.affinity, None),
    "umask": (_umask, 0o022),
    "user": (process.user, (None, 0, 0)),
    "groups": (process.groups, None),
    "group_add": (process.groups, ()),
    "cwd": (_cwd, None),
    "cwd_create": (units.boolean, False),
    "env": (process.env, ()),
    "clean_env": (units.boolean, False),
    "init": (units.boolean, False),
    "cgroup": (units.boolean, True),
    "cgroup_parent": (_cgroup_parent, None),
    "device_cgroup_rules": (devices.rules, ()),
    "device_policy": (units.boolean, True),
}
LIMITS = frozenset(limits.FIELDS) | frozenset(limits.ALIASES)
_REFUSED = {
    "privileged": 'is not offered; use cap_add=["ALL"], seccomp="unconfined" and devices= as far as needed',
    "ports": "is not offered: networks between containers come with the engine",
    "image": "belongs to run(), Plan() and Container(), which make a Spec of it",
    "network_mode": "is Docker's name; use network=",
    "environment": "is Docker's name; use env=",
    "working_dir": "is Docker's name; use cwd=",
    "nano_cpus": "is Docker's name; use cpus=",
    "security_opt": "is Docker's name; use seccomp=, no_new_privs=, apparmor= or selinux=",
}


class Spec:
    """What a container is to be. All fields are keywords; None stands for the default.

    Root: rootfs ("host", a directory, or several, topmost first; required unless mnt is "host" or joined),
    writable ("tmpfs": thrown away, in memory; "disk": thrown away, below scratch_dir; "direct": the one
    directory itself), upper (a path where changes are kept; `<upper>.work` is used beside it), read_only,
    scratch_size ("64m"), scratch_dir ("/var/tmp").

    Namespaces: mnt, pid, ipc, uts, cgroupns ("private", "host", or one to join), network ("none": own with
    lo; "host"; join), userns ("host", True or "private": own; join), timens; uid_map and gid_map
    [(inside, outside, count)]; monotonic and boottime (seconds added to those clocks); hostname, domainname.
    To join: "/path", "pid:123", "pidfd:7", an int pid, an object with fileno(). As an unprivileged user a
    user namespace of its own is implied.

    Mounts: mounts (see fastctr.mounts), volumes, tmpfs, files {path: content}; dev, devices, shm_size
    ("64m", 0 none), mqueue, proc, sys; masked_paths, readonly_paths (None: Docker's lists).

    Rights: cap_add, cap_drop (Docker's rules), capabilities {set: names}; seccomp ("default",
    "unconfined", path or dict); no_new_privs; apparmor, selinux; user, groups (instead of those of user),
    group_add (besides them); device_cgroup_rules (besides the default ones), device_policy (False: none).

    Process: env (over a small default; alone with clean_env), cwd, cwd_create, umask (0o022), ulimits, sysctls,
    oom_score_adj, nice, cpu_affinity, init (a reaping PID 1 above the command).

    Control group: cgroup (False: none), cgroup_parent, and every field of fastctr.Limits.

    Raises SpecError for a value that cannot work, UnknownField (also a TypeError) for an unknown name.
    Attributes give the normalised values: `Spec(rootfs="host", memory="64m").memory` is 67108864.
    """

    __slots__ = ("_env", "_given", "_hash", "_values", "key", "limits")
    _given: dict[str, Any]
    _values: dict[str, Any]
    _hash: int | None
    _env: dict[str, str] | None
    limits: limits.Limits
    key: tuple[Any, ...]

    def __init__(self, **given: Any) -> None:
        from .spec_check import agree

        values: dict[str, Any] = {}
        limit: dict[str, Any] = {}
        kept: dict[str, Any] = {}
        for name, value in given.items():
            if value is None and (name in FIELDS or name in LIMITS):
                continue
            kept[name] = (
                list(value) if isinstance(value, list) else dict(value) if isinstance(value, dict) else value
            )
            entry = FIELDS.get(name)
            if entry is not None:
                values[name] = entry[0](name, value)
            elif name in LIMITS:
                limit[name] = value
            elif name in _REFUSED:
                raise SpecError(name, value, _REFUSED[name])
            else:
                raise UnknownField(name, (*FIELDS, *LIMITS))
        put = object.__setattr__
        put(self, "limits", limits.Limits(**limit) if limit else _NO_LIMITS)
        identity = agree(values, self.limits)
        content = [
            (name, value) for name, value in values.items() if value != FIELDS[name][1] or name == "rootfs"
        ]
        put(self, "_given", kept)
        put(self, "_values", values)
        put(self, "_hash", None)
        put(self, "_env", None)
        put(self, "key", (tuple(sorted(content, key=_first)), self.limits.key, identity))

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("a Spec cannot be changed; use spec.replace()")

    def __delattr__(self, name: str) -> None:
        raise AttributeError("a Spec cannot be changed; use spec.replace()")

    def __getattr__(self, name: str) -> Any:
        if name[:1] != "_":
            if name in FIELDS:
                value = self._values.get(name, FIELDS[name][1])
                return dict(value) if name == "env" else value
            if name in LIMITS:
                return getattr(self.limits, name)
        raise AttributeError(f"Spec has no field {name!r}")

    def __eq__(self, other: object) -> bool:
        return self.key == other.key if isinstance(other, Spec) else NotImplemented

    def __hash__(self) -> int:
        if self._hash is None:
            object.__setattr__(self, "_hash", hash(self.key))
        return self._hash  # type: ignore[return-value]

    def __repr__(self) -> str:
        return f"Spec({', '.join(f'{name}={value!r}' for name, value in self._given.items())})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _from_dict, (self._given,)

    def replace(self, **given: Any) -> Spec:
        """Another spec with these fields in place of its own. Raises SpecError."""
        return Spec(**{**self._given, **given})

    def to_native(self) -> dict[str, Any]:
        """The members of struct fctr_spec (csrc/fctr.h) as plain values, for the C core."""
        from .native import to_native

        return to_native(self)

    def environment(self, env: object = None, tty: bool = False) -> list[bytes]:
        """The variables of a launch as b"NAME=value": the default, over it the spec's, over it `env`.

        The default is PATH, HOME, HOSTNAME when the uts namespace is private, and TERM with a terminal;
        clean_env leaves it away. Raises SpecError for an env that cannot work.
        """
        base = self._env
        if base is None:
            from .native import base_environment

            base = base_environment(self)
            object.__setattr__(self, "_env", base)
        if env or tty:
            base = dict(base)
            if tty and not self.clean_env:
                base.setdefault("TERM", "xterm")
            if env:
                base.update(process.env("env", env))
        return [os.fsencode(f"{name}={value}") for name, value in base.items()]


def _first(pair: tuple[str, Any]) -> str:
    return pair[0]


def _from_dict(given: dict[str, Any]) -> Spec:
    return Spec(**given)


_NO_LIMITS = limits.Limits()
