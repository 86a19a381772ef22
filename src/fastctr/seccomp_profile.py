"""Reads custom seccomp profiles: the OCI runtime spec's linux.seccomp and Docker's profile format.

Used through `fastctr.seccomp.load_profile`. A key that is not known is an error: a misspelt "args"
would make a rule far wider than meant.
"""

from __future__ import annotations

import os

from .errors import SpecError, nearest
from .seccomp import ACTIONS, ARCHES, ERRNO, NOTIFY, OPERATORS, SPEC_ALLOW, TRACE, Profile, machine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from .seccomp import Comparison, Rule

_TOP = (
    "defaultAction",
    "defaultErrnoRet",
    "defaultErrno",
    "architectures",
    "archMap",
    "flags",
    "syscalls",
    "comment",
)
_LISTENER = ("listenerPath", "listenerMetadata")
_RULE = ("names", "name", "action", "errnoRet", "errno", "args", "comment", "includes", "excludes")
_ARG = ("index", "value", "valueTwo", "op")
_FILTER = ("caps", "arches", "minKernel")
_MAX_FILE = 4 << 20

# Architectures a profile may speak of. Calls by any but this machine's own ABIs can't occur here.
_OTHER_ARCHES = (
    "MIPS MIPS64 MIPS64N32 MIPSEL MIPSEL64 MIPSEL64N32 PPC PPC64 PPC64LE S390 S390X PARISC PARISC64 RISCV64"
    " LOONGARCH64 M68K SH SHEB"
)
_NATIVE = {"x86_64": ("x86_64", "x86", "x32"), "aarch64": ("aarch64", "arm")}
# what Docker's includes and excludes call a machine
_DOCKER_ARCH = {"x86_64": "amd64", "aarch64": "arm64"}

_FLAGS = {
    "SECCOMP_FILTER_FLAG_TSYNC": 0,  # there is one thread when the filter is loaded
    "SECCOMP_FILTER_FLAG_LOG": 2,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": SPEC_ALLOW,
}


def load(source: str | os.PathLike[str] | Mapping[str, Any], caps: int) -> Profile:
    """See `fastctr.seccomp.load_profile`. caps: a mask."""
    where = "seccomp"
    if isinstance(source, (str, os.PathLike)):
        source = _read(source)
    top = _object(source, where, (*_TOP, *_LISTENER))
    for key in _LISTENER:
        if top.get(key):
            raise SpecError(f"{where}.{key}", top[key], "asks for a notification listener, which we don't offer")
    native = machine()

    if "defaultAction" not in top:
        raise SpecError(where, "defaultAction", "is missing", 'give one, such as "SCMP_ACT_ERRNO"')
    action = _action(top["defaultAction"], f"{where}.defaultAction")
    data = _errno(action, top.get("defaultErrnoRet"), top.get("defaultErrno"), f"{where}.defaultErrnoRet")

    rules: list[Rule] = []
    for i, call in enumerate(_list(top.get("syscalls"), f"{where}.syscalls")):
        rules += _rule(call, f"{where}.syscalls[{i}]", native, caps)
    return Profile(action, data, _archs(top, where, native), rules, _flags(top.get("flags"), f"{where}.flags"))


def _read(path: str | os.PathLike[str]) -> Any:
    import json

    with open(path, "rb") as f:
        text = f.read(_MAX_FILE + 1)
    if len(text) > _MAX_FILE:
        raise SpecError("seccomp", os.fspath(path), "is larger than 4 MiB", "give a profile in JSON")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as e:
        raise SpecError("seccomp", os.fspath(path), f"is not JSON: {e}") from None


def _object(value: Any, where: str, keys: tuple[str, ...]) -> Mapping[str, Any]:
    if not hasattr(value, "keys") or not hasattr(value, "get"):
        raise SpecError(where, value, "is not an object", f"give one with the keys {', '.join(keys)}")
    for key in value:
        if key not in keys:
            close = nearest(str(key), keys)
            raise SpecError(where, key, "is not a key here", f"did you mean {close}?" if close else "remove it")
    return value  # type: ignore[no-any-return]


def _list(value: Any, where: str) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, (list, tuple)):
        raise SpecError(where, value, "is not a list")
    return list(value)


def _action(value: Any, where: str) -> int:
    if not isinstance(value, str) or value not in ACTIONS:
        close = nearest(value, ACTIONS) if isinstance(value, str) else None
        raise SpecError(
            where,
            value,
            "is not an action",
            f"did you mean {close}?" if close else f"use one of {', '.join(ACTIONS)}",
        )
    action = ACTIONS[value]
    if action == NOTIFY:
        raise SpecError(where, value, "needs a notification listener, which we don't offer", "use SCMP_ACT_ERRNO")
    return action


def _errno(action: int, number: Any, name: Any, where: str) -> int:
    """The error number of ERRNO (EPERM if none is given) or the datum of TRACE."""
    if name not in (None, ""):
        import errno

        by_name = getattr(errno, name, None) if isinstance(name, str) and name.startswith("E") else None
        if by_name is None:
            raise SpecError(where, name, "is not the name of an error", "errno(3) lists them")
        if number is None:
            number = by_name
    if action not in (ERRNO, TRACE):
        if number is not None:
            raise SpecError(where, number, "is given for an action that returns no error", "remove it")
        return 0
    if number is None:
        return 1
    highest = 4095 if action == ERRNO else 65535
    if not _is_int(number) or not 0 <= number <= highest:
        raise SpecError(where, number, f"is not an error number of 0 to {highest}")
    return number  # type: ignore[no-any-return]


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _rule(call: Any, where: str, native: str, caps: int) -> list[Rule]:
    call = _object(call, where, _RULE)
    names = _list(call.get("names"), f"{where}.names")
    if call.get("name"):
        if names:
            raise SpecError(f"{where}.name", call["name"], "is given beside names", "use names alone")
        names = [call["name"]]
    if not names:
        raise SpecError(where, "names", "is empty", "name the system calls the rule is for")
    for i, name in enumerate(names):
        if not isinstance(name, str) or not name or "\0" in name:
            raise SpecError(f"{where}.names[{i}]", name, "is not the name of a system call")
    if "action" not in call:
        raise SpecError(where, "action", "is missing", 'give one, such as "SCMP_ACT_ALLOW"')
    action = _action(call["action"], f"{where}.action")
    data = _errno(action, call.get("errnoRet"), call.get("errno"), f"{where}.errnoRet")
    args = [_arg(a, f"{where}.args[{i}]") for i, a in enumerate(_list(call.get("args"), f"{where}.args"))]
    included = _applies(call.get("includes"), f"{where}.includes", native, caps, True)
    excluded = _applies(call.get("excludes"), f"{where}.excludes", native, caps, False)
    if not included or excluded:
        return []
    if len({a[0] for a in args}) < len(args):
        # As runc: several comparisons of one argument are alternatives.
        return [(names, action, data, (a,)) for a in args]
    return [(names, action, data, args)]


def _arg(arg: Any, where: str) -> Comparison:
    arg = _object(arg, where, _ARG)
    index, op = arg.get("index"), arg.get("op")
    if not _is_int(index) or not 0 <= index <= 5:
        raise SpecError(f"{where}.index", index, "is not the number of an argument", "use 0 to 5")
    if not isinstance(op, str) or op not in OPERATORS:
        raise SpecError(f"{where}.op", op, "is not an operator", f"use one of {', '.join(OPERATORS)}")
    values = []
    for key in ("value", "valueTwo"):
        value = arg.get(key, 0)
        if not _is_int(value) or not 0 <= value < 1 << 64:
            raise SpecError(f"{where}.{key}", value, "is not an unsigned 64-bit number")
        values.append(value)
    return index, OPERATORS[op], values[0], values[1]


def _applies(conditions: Any, where: str, native: str, caps: int, every: bool) -> bool:
    """Docker's includes (every condition must hold) and excludes (one is enough)."""
    if not conditions:
        return every
    from .caps import BITS, normalize

    conditions = _object(conditions, where, _FILTER)
    met = []
    arches = _list(conditions.get("arches"), f"{where}.arches")
    if arches:
        met.append(_DOCKER_ARCH[native] in arches)
    for i, name in enumerate(_list(conditions.get("caps"), f"{where}.caps")):
        full = normalize(name, f"{where}.caps[{i}]")
        if full == "ALL":
            raise SpecError(f"{where}.caps[{i}]", name, "is not one capability")
        met.append(bool(caps >> BITS[full] & 1))
    minimum = conditions.get("minKernel")
    if minimum:
        met.append(_version(os.uname().release, "", False) >= _version(minimum, f"{where}.minKernel", True))
    return all(met) if every else any(met)


def _version(text: Any, where: str, whole: bool) -> tuple[int, int]:
    parts = text.split(".") if isinstance(text, str) else []
    if len(parts) >= 2 and parts[0].isdecimal():
        minor = parts[1]
        digits = minor[: len(minor) - len(minor.lstrip("0123456789"))]
        if digits and not (whole and (digits != minor or len(parts) > 2)):
            return int(parts[0]), int(digits)
    raise SpecError(where, text, "is not a kernel version", 'use one such as "4.8"')


def _archs(top: Mapping[str, Any], where: str, native: str) -> list[int]:
    """This machine's own ABI, and those of the profile that it can run."""
    listed = _list(top.get("architectures"), f"{where}.architectures")
    places = [f"{where}.architectures[{i}]" for i in range(len(listed))]
    entries = _list(top.get("archMap"), f"{where}.archMap")
    if listed and entries:
        raise SpecError(f"{where}.archMap", "archMap", "is given beside architectures", "use one of them")
    for i, entry in enumerate(entries):
        place = f"{where}.archMap[{i}]"
        entry = _object(entry, place, ("architecture", "subArchitectures"))
        sub = _list(entry.get("subArchitectures"), f"{place}.subArchitectures")
        all_of = [_arch(entry.get("architecture"), f"{place}.architecture")]
        all_of += [_arch(name, f"{place}.subArchitectures[{k}]") for k, name in enumerate(sub)]
        if all_of[0] == native:
            listed = [entry["architecture"], *sub]
            places = [place] * len(listed)
    wanted = {native} | {_arch(name, place) for name, place in zip(listed, places, strict=True)}
    return [ARCHES[name] for name in _NATIVE[native] if name in wanted]


def _arch(name: Any, where: str) -> str:
    if isinstance(name, str) and name.startswith("SCMP_ARCH_"):
        short = name[len("SCMP_ARCH_") :]
        if (short.isupper() and short.lower() in ARCHES and short != "NO_X32") or short in _OTHER_ARCHES.split():
            return short.lower()
        if short == "NATIVE":
            return machine()
    raise SpecError(where, name, "is not an architecture", "use a name such as SCMP_ARCH_X86_64")


def _flags(value: Any, where: str) -> int:
    if value is None:
        return SPEC_ALLOW
    flags = 0
    for i, name in enumerate(_list(value, where)):
        if not isinstance(name, str) or name not in _FLAGS:
            raise SpecError(f"{where}[{i}]", name, "is not a flag we take", f"use one of {', '.join(_FLAGS)}")
        flags |= _FLAGS[name]
    return flags
