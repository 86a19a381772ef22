"""Numbers with units: sizes ("64m"), durations ("1.5s"), counts and cpu lists ("0-3,5").

Every function takes the field's name for its error and raises SpecError.
"""

from __future__ import annotations

from .errors import SpecError

UNSET = -(2**63)  # FCTR_UNSET of fctr.h
MAX = 2**63 - 1
_SIZES = {"": 0, "b": 0, "k": 10, "m": 20, "g": 30, "t": 40, "p": 50}
_TIMES = {
    "ns": 1,
    "us": 10**3,
    "µs": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
    "d": 86400 * 10**9,
}
_UNLIMITED = ("unlimited", "max", "-1")
_DIGITS = frozenset("0123456789")


def _decimal(text: str) -> tuple[int, int] | None:
    """ "1.25" as (125, 100), exactly; None if it is not a plain decimal number."""
    whole, dot, part = text.partition(".")
    if not (whole or part) or not _DIGITS.issuperset(whole) or not _DIGITS.issuperset(part):
        return None
    if (dot and not part) or len(text) > 40:
        return None
    return int((whole + part) or "0"), int(10 ** len(part))


def size(field: str, value: object, minimum: int = 0, unlimited: bool = False) -> int:
    """Bytes of a size: an int, or a number with b, k, m, g, t, p (powers of 1024; "64m", "1.5GiB").

    With unlimited, -1, "unlimited" and "max" give -1.
    """
    hint = 'use bytes or a number with k, m, g (as "64m")'
    if unlimited:
        hint += ", or -1 for no limit"
    result: int | None = None
    if isinstance(value, int) and not isinstance(value, bool):
        result = value
    elif isinstance(value, str):
        text = value.strip().lower()
        if unlimited and text in _UNLIMITED:
            return -1
        number = text.rstrip("abcdefghijklmnopqrstuvwxyz")
        unit = text[len(number) :]
        if unit != "b" and unit.endswith("b"):
            unit = unit[:-1]
        if len(unit) == 2 and unit[1] == "i":
            unit = unit[0]
        exact = _decimal(number.strip())
        if exact and unit in _SIZES:
            result = (exact[0] << _SIZES[unit]) // exact[1]
    if unlimited and result == -1:
        return -1
    if result is None:
        raise SpecError(field, value, "is not a size", hint)
    if result < minimum or result < 0:
        raise SpecError(field, value, f"is too small: at least {minimum} bytes", hint)
    if result > MAX:
        raise SpecError(field, value, "is more bytes than the kernel can count", hint)
    return result


def duration_ns(field: str, value: object, negative: bool = False) -> int:
    """Nanoseconds of a duration: seconds as int or float, or text as "90", "1.5s", "200ms", "1h30m"."""
    hint = 'use seconds or a number with ns, us, ms, s, m, h, d (as "1.5s")'
    result: int | None = None
    if isinstance(value, int) and not isinstance(value, bool):
        result = value * 10**9
    elif isinstance(value, float):
        if abs(value) < 10**10:
            result = round(value * 10**9)
    elif isinstance(value, str):
        result = _duration_text(value)
    if result is None:
        raise SpecError(field, value, "is not a duration", hint)
    if result < 0 and not negative:
        raise SpecError(field, value, "is negative", hint)
    if abs(result) > MAX:
        raise SpecError(field, value, "is too long", hint)
    return result


def _duration_text(value: str) -> int | None:
    text = value.strip().lower()
    sign = -1 if text[:1] == "-" else 1
    text = text.lstrip("+-") if text[:2] not in ("--", "++", "+-", "-+") else ""
    if not text:
        return None
    total, seen = 0, False
    while text:
        end = 0
        while end < len(text) and (text[end] in _DIGITS or text[end] == "."):
            end += 1
        stop = end
        while stop < len(text) and text[stop] not in _DIGITS and text[stop] != ".":
            stop += 1
        exact, unit = _decimal(text[:end]), text[end:stop].strip()
        if exact is None or (not unit and (seen or stop != len(text))):
            return None
        scale = _TIMES.get(unit or "s")
        if scale is None:
            return None
        total += exact[0] * scale // exact[1]
        seen, text = True, text[stop:]
    return sign * total


def integer(field: str, value: object, low: int, high: int, what: str = "a whole number") -> int:
    """A whole number between low and high, as int or decimal text."""
    hint = f"use {what} from {low} to {high}"
    number: int | None = None
    if isinstance(value, int) and not isinstance(value, bool):
        number = value
    elif isinstance(value, str):
        digits = value[1:] if value[:1] in ("-", "+") else value
        if digits and _DIGITS.issuperset(digits) and len(digits) < 25:
            number = int(value)
    elif not isinstance(value, (float, bool)) and hasattr(value, "__index__"):
        number = value.__index__()
    if number is None:
        raise SpecError(field, value, "is not a whole number", hint)
    if not low <= number <= high:
        raise SpecError(field, value, "is out of range", hint)
    return number


def boolean(field: str, value: object) -> bool:
    """True or False, nothing else: a string "false" would be true by Python's rules."""
    if value is True or value is False:
        return bool(value)
    raise SpecError(field, value, "is not a truth value", "use True or False")


def octal(field: str, value: object, high: int = 0o7777) -> int:
    """Permission bits: an int, or octal text as "1777"."""
    if isinstance(value, str):
        text = value[2:] if value[:2].lower() == "0o" else value
        if text and len(text) < 8 and frozenset("01234567").issuperset(text) and int(text, 8) <= high:
            return int(text, 8)
    elif isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= high:
        return value
    raise SpecError(
        field, value, "is not a set of permission bits", f'use octal from 0 to {high:o} (as "755")'
    )


def cpu_list(field: str, value: object) -> tuple[int, ...]:
    """Numbers of a list as "0-3,5" (cpuset(7)), of one int, or of ints; sorted, each once."""
    hint = 'use numbers and ranges (as "0-3,5")'
    found: set[int] = set()
    if isinstance(value, str):
        for part in value.split(","):
            first, dash, last = part.strip().partition("-")
            if not (_is_index(first) and (not dash or _is_index(last))):
                raise SpecError(field, value, "is not a list of numbers", hint)
            start, end = int(first), int(last) if dash else int(first)
            if end < start:
                raise SpecError(field, value, "has a range that runs backwards", hint)
            found.update(range(start, end + 1))
    else:
        if isinstance(value, int):
            value = (value,)
        try:
            items = list(value)  # type: ignore[call-overload]
        except TypeError:
            raise SpecError(field, value, "is not a list of numbers", hint) from None
        for item in items:
            found.add(integer(field, item, 0, 8191, "numbers"))
    if not found:
        raise SpecError(field, value, "is empty", hint)
    return tuple(sorted(found))


def _is_index(text: str) -> bool:
    return bool(text) and len(text) <= 4 and _DIGITS.issuperset(text) and int(text) <= 8191


def list_text(numbers: tuple[int, ...]) -> str:
    """(0, 1, 2, 5) as the kernel writes it: "0-2,5"."""
    parts: list[str] = []
    start = last = numbers[0]
    for number in (*numbers[1:], -1):
        if number == last + 1:
            last = number
            continue
        parts.append(f"{start}-{last}" if last > start else str(start))
        start = last = number
    return ",".join(parts)


def text(field: str, value: object, empty: bool = False) -> str:
    """A string without NUL bytes."""
    if not isinstance(value, str):
        raise SpecError(field, value, "is not a string")
    if "\0" in value:
        raise SpecError(field, value, "has a NUL byte in it", "the kernel's strings end at the first one")
    if not value and not empty:
        raise SpecError(field, value, "is empty")
    return value


def host_path(field: str, value: object) -> str:
    """A path of this machine (str, bytes or PathLike), made absolute; not looked up."""
    import os

    try:
        path = os.fsdecode(value)  # type: ignore[arg-type]
    except TypeError:
        raise SpecError(field, value, "is not a path", "use a string or a PathLike") from None
    return os.path.abspath(text(field, path))


def inside_path(field: str, value: object, root: bool = False) -> str:
    """An absolute path inside the container, without ".." and doubled slashes; "/" only with root."""
    import os

    try:
        path = os.fsdecode(value)  # type: ignore[arg-type]
    except TypeError:
        raise SpecError(field, value, "is not a path", "use a string or a PathLike") from None
    text(field, path)
    if not path.startswith("/"):
        raise SpecError(field, value, "is not absolute", "paths inside the container begin with /")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise SpecError(field, value, 'has ".." in it', "write the path without it")
    if not parts and not root:
        raise SpecError(field, value, "is the root itself", "rootfs= and writable= say what / is")
    if any(len(os.fsencode(part)) > 255 for part in parts) or len(path) > 4000:
        raise SpecError(field, value, "is longer than the kernel takes", "255 bytes a component, 4000 in all")
    return "/" + "/".join(parts)


def items(field: str, value: object) -> list[object]:
    """The entries of a list, tuple or set; a lone string is one entry, None is none."""
    if value is None:
        return []
    if isinstance(value, (str, bytes)):
        return [value]
    if isinstance(value, (list, tuple)):
        return list(value)
    if isinstance(value, (set, frozenset)):
        return sorted(value, key=str)
    raise SpecError(field, value, "is not a list", "use a list")
