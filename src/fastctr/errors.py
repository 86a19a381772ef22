"""The exceptions of fastctr.

`SpecError` is raised before anything is made: a field of a spec, its value, and what would do.
`LaunchError` is raised when the kernel refuses a step: the stage, the path, the errno and a
sentence that says what to do; whatever had been made by then is gone again. `TimeoutExpired` and
`CalledProcessError` are subclasses of those of `subprocess`, made on first use because importing
subprocess takes longer than a start.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    import subprocess
    from typing import Any

__all__ = [
    "ArchiveError",
    "AuthError",
    "CalledProcessError",
    "CgroupError",
    "CommandNotExecutable",
    "CommandNotFound",
    "DigestMismatch",
    "FastctrError",
    "ImageError",
    "ImageNotFound",
    "LaunchError",
    "RegistryError",
    "SpecError",
    "StoreError",
    "TimeoutExpired",
    "UnknownField",
    "from_native",
    "nearest",
    "shown",
]


def shown(value: object, width: int = 80) -> str:
    """The value as a message shows it: strings in double quotes, long ones cut at `width` characters."""
    if isinstance(value, str):
        text = '"' + value.encode("utf-8", "backslashreplace").decode().replace('"', '\\"') + '"'
        text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    else:
        try:
            text = repr(value)
        except Exception:  # noqa: BLE001 a foreign __repr__ must not hide the real error
            text = f"<{type(value).__name__}>"
    return text if len(text) <= width else text[: width - 4] + " ..."


def nearest(word: str, known: Any) -> str | None:
    """The entry of `known` that `word` was most likely meant to be, or None."""
    import difflib

    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return found[0] if found else None


class FastctrError(Exception):
    """The base of everything fastctr raises on its own account."""


class SpecError(FastctrError, ValueError):
    """A value that cannot work, found before anything was made.

    field   the name of the spec's field, as "memory"
    where   the same with the place inside it, as "mounts[2]"
    value   what was given
    problem what is wrong with it, a half-sentence after the value
    hint    what would do; may be empty
    """

    def __init__(self, where: str, value: object, problem: str, hint: str = "") -> None:
        super().__init__(where, value, problem, hint)
        self.where = where
        self.field = where.partition("[")[0].partition(".")[0]
        self.value = value
        self.problem = problem
        self.hint = hint

    def render(self, name: str) -> str:
        """The message with another name for the field, as that of a command-line option."""
        text = f"{name}: {shown(self.value)} {self.problem}"
        return f"{text}; {self.hint}" if self.hint else text

    def __str__(self) -> str:
        return self.render(self.where)


class UnknownField(SpecError, TypeError):
    """A keyword that no spec has; `hint` names the nearest one."""

    def __init__(self, field: str, known: Any, owner: str = "Spec") -> None:
        close = nearest(field, known)
        hint = f'did you mean "{close}"?' if close else f"see help(fastctr.{owner})"
        Exception.__init__(self, field, known, owner)
        self.where = self.field = field
        self.value = field
        self.owner = owner
        self.problem = f"is not a field of {owner}"
        self.hint = hint

    def __str__(self) -> str:
        return f"{shown(self.field)} {self.problem}; {self.hint}"

    def __reduce__(self) -> tuple[Any, ...]:
        return UnknownField, (self.field, (), self.owner), self.__dict__.copy()


class ImageError(FastctrError):
    """An image, a layer or a registry is not what it should be.

    where: the reference, digest, url or path it is about; why; hint: what would do, or "".
    """

    def __init__(self, where: str, why: str, hint: str = "") -> None:
        self.where = where
        self.why = why
        self.hint = hint
        super().__init__(where, why, hint)

    def __str__(self) -> str:
        return f"{self.where}: {self.why}" + (f"; {self.hint}" if self.hint else "")


class ImageNotFound(ImageError):
    """No such image, neither here nor, if it was looked for there, in the registry."""


class RegistryError(ImageError):
    """A registry refused, or answered what the distribution specification does not allow.

    status: the HTTP status, or None where no answer came.
    """

    def __init__(self, where: str, why: str, hint: str = "", status: int | None = None) -> None:
        super().__init__(where, why, hint)
        self.status = status


class AuthError(RegistryError):
    """The registry wants credentials, or others than those it got."""


class ArchiveError(ImageError):
    """An archive is damaged, or holds what would break out of the directory it is unpacked to."""


class DigestMismatch(ImageError):
    """Content is not what its digest says."""


class StoreError(ImageError):
    """The store cannot be read or written."""


class LaunchError(FastctrError, OSError):
    """A start that failed in the kernel's hands, with nothing left behind.

    stage   the step's name, as "overlay" (docs/errors.md lists them)
    index   the step's place in the plan, or -1
    errno   the error number, 0 where there is none (errno(3))
    path    the path, key or name the step was about, or None; also as `filename`
    hint    a sentence that says what to do
    """

    exit_code = 125

    def __init__(
        self, stage: str, errno: int, path: str | None = None, hint: str = "", index: int = -1
    ) -> None:
        OSError.__init__(self, errno, os.strerror(errno) if errno else "failed", path)
        self.stage = stage
        self.index = index
        self.path = path
        self.hint = hint

    def __str__(self) -> str:
        text = self.stage
        if self.path:
            text += f": {shown(self.path, 260)}"  # the core's own sentences among them
        if self.errno:
            text += f": {self.strerror}"
        return f"{text}; {self.hint}" if self.hint else text

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.stage, self.errno, self.path, self.hint, self.index), self.__dict__.copy()


class CommandNotFound(LaunchError, FileNotFoundError):
    """The container was ready, and the command is not in it. Exit code 127, as a shell's."""

    exit_code = 127


class CommandNotExecutable(LaunchError, PermissionError):
    """The command is there and cannot be executed. Exit code 126, as a shell's."""

    exit_code = 126


class CgroupError(LaunchError):
    """A control group could not be made, limited, read, frozen or emptied."""


_CGROUP_STAGES = frozenset(("cgroup", "limit", "cgroup-join", "stats", "freeze", "kill"))


def from_native(stage: str, index: int, errno: int, what: str, argv0: str | None = None) -> FastctrError:
    """The exception for an error of the C core.

    stage is the name by fctr_stage_name(), index the plan's step or -1, errno the error number or
    0, what the path, key or name it is about (may be empty), argv0 the command that was asked for.
    """
    import errno as codes

    from .hints import hint

    path = what or None
    if stage == "memory":
        return LaunchError(stage, errno or codes.ENOMEM, path, hint(stage, errno, what), index)
    if stage == "spec":
        return (
            SpecError(what or "spec", None, "contradicts itself", hint(stage, errno, what))
            if not errno
            else (LaunchError(stage, errno, path, hint(stage, errno, what), index))
        )
    if stage == "exec":
        path = argv0 or path
        text = hint(stage, errno, path or "")
        if errno in (codes.ENOENT, codes.ENOTDIR):
            return CommandNotFound(stage, errno, path, text, index)
        if errno in (
            codes.EACCES,
            codes.EPERM,
            codes.ENOEXEC,
            codes.EISDIR,
            codes.ELOOP,
            codes.ETXTBSY,
            codes.ELIBBAD,
            codes.EINVAL,
        ):
            return CommandNotExecutable(stage, errno, path, text, index)
        return LaunchError(stage, errno, path, text, index)
    kind = CgroupError if stage in _CGROUP_STAGES else LaunchError
    return kind(stage, errno, path, hint(stage, errno, what), index)


if TYPE_CHECKING:

    class TimeoutExpired(subprocess.TimeoutExpired, FastctrError):
        completed: Any

    class CalledProcessError(subprocess.CalledProcessError, FastctrError):
        completed: Any


def __getattr__(name: str) -> Any:
    """Make the two exceptions that need subprocess when they are first asked for (PEP 562)."""
    if name not in ("TimeoutExpired", "CalledProcessError"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import subprocess

    made = {
        "TimeoutExpired": (
            subprocess.TimeoutExpired,
            "The time was up; everything in the container is dead.",
        ),
        "CalledProcessError": (
            subprocess.CalledProcessError,
            "The command failed and check=True asked to say so.",
        ),
    }
    for each, (base, doc) in made.items():
        body = {"__module__": __name__, "__qualname__": each, "__doc__": doc, "completed": None}
        globals().setdefault(each, type(each, (base, FastctrError), body))
    return globals()[name]
