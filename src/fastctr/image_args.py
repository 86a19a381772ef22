"""What is said of images in arguments: names, ids, policies, entrypoints, stop signals, where the store is."""

from __future__ import annotations

import os

from . import units
from .errors import SpecError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

POLICIES = ("missing", "never", "always")


def check_name(image: str) -> None:
    """A path is no image's name, and "host" is this machine's own root."""
    if not image:
        raise SpecError("image", image, "is empty", 'use a name as "alpine:3.20"')
    if image == "host":
        raise SpecError("image", image, "is this machine's own root", 'give it as rootfs="host"')
    if image.startswith(("/", "./", "../")) or image in (".", ".."):
        raise SpecError("image", image, "is a path, not an image's name", f'give a directory as rootfs="{image}"')


def is_id(text: str) -> bool:
    """Whether it can only be an image's id, in full: a name is never that."""
    digits = text.removeprefix("sha256:")
    return len(digits) == 64 and not digits.strip("0123456789abcdef")


def entrypoint_of(value: Any) -> tuple[str, ...] | None:
    """What entrypoint= means: None the image's own, "" or [] none, a string one word, a list all of it."""
    if value is None:
        return None
    words = [value] if isinstance(value, (str, bytes, os.PathLike)) else units.items("entrypoint", value)
    return tuple(os.fsdecode(word) for word in words if word)  # type: ignore[arg-type]


def store_root(root: Any = None) -> str:
    """Where the store lies: the argument, FASTCTR_ROOT, /var/lib/fastctr or the user's data folder."""
    given = root or os.environ.get("FASTCTR_ROOT")
    if given:
        return os.path.abspath(os.fsdecode(given))
    if os.geteuid() == 0:
        return "/var/lib/fastctr"
    data = os.environ.get("XDG_DATA_HOME")
    return os.path.join(data if data and os.path.isabs(data) else os.path.expanduser("~/.local/share"), "fastctr")


# by name: the module signal brings enum along, which takes longer than a start
_SIGNALS = {
    "HUP": 1, "INT": 2, "QUIT": 3, "ILL": 4, "TRAP": 5, "ABRT": 6, "IOT": 6, "BUS": 7, "FPE": 8, "KILL": 9, "USR1": 10,
    "SEGV": 11, "USR2": 12, "PIPE": 13, "ALRM": 14, "TERM": 15, "STKFLT": 16, "CHLD": 17, "CLD": 17, "CONT": 18,
    "STOP": 19, "TSTP": 20, "TTIN": 21, "TTOU": 22, "URG": 23, "XCPU": 24, "XFSZ": 25, "VTALRM": 26, "PROF": 27,
    "WINCH": 28, "IO": 29, "POLL": 29, "PWR": 30, "SYS": 31, "RTMIN": 34, "RTMAX": 64,
}  # fmt: skip


def signal_number(text: Any, field: str = "stop_signal") -> int:
    """A signal by name, with or without SIG, as RTMIN+3, or by number. Raises SpecError; signal(7)."""
    name = str(text).strip().upper().removeprefix("SIG")
    base, plus, more = name.partition("+" if "+" in name else "-")
    number = int(name) if name.isascii() and name.isdigit() else _SIGNALS.get(base, 0)
    if plus and base in ("RTMIN", "RTMAX") and more.isascii() and more.isdigit():
        number += int(more) if "+" in name else -int(more)
    elif plus:
        number = 0
    if not 1 <= number <= 64:
        raise SpecError(field, text, "is not a signal", "use a name as TERM, or a number")
    return number
