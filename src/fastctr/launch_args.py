"""The arguments of a launch: checked, and turned into what the core takes."""

from __future__ import annotations

import os

from .errors import SpecError
from .limits import Limits
from .mounts import File
from .process import env as env_pairs
from .spec import FIELDS, LIMITS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .plan import Plan

PIPE = -1
STDOUT = -2
DEVNULL = -3
IMAGE_FIELDS = frozenset(("image", "pull", "platform", "snapshotter", "entrypoint", "root"))
"""Keywords that say where a root comes from, beside those of a Spec; see from_image.py."""


def argv_of(argv: Any) -> list[Any]:
    if isinstance(argv, (str, bytes)):
        raise SpecError("argv", argv, "is one string", 'give a list, as ["sh", "-c", "echo hi"]')
    values = [os.fspath(arg) for arg in argv or ()]
    if not values:
        raise SpecError("argv", argv, "is empty", "give the command to run")
    for arg in values:
        if ("\0" if isinstance(arg, str) else b"\0") in arg:
            raise SpecError("argv", arg, "has a null byte in it", "leave it out")
    if not values[0]:
        raise SpecError("argv", argv, "has an empty command", "give the command to run")
    return values


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def inherited(fd: int) -> int:
    """A standard descriptor as an exec would pass it on: where it was closed, its number may be one of
    ours by now, or another file that is not to be inherited."""
    try:
        return fd if os.get_inheritable(fd) else -1
    except OSError:
        return -1


class Stdio:
    """The three descriptors of a launch, and our ends of the pipes made for it."""

    __slots__ = ("ends", "given", "ours")

    def __init__(self, stdin: Any, stdout: Any, stderr: Any) -> None:
        self.ours: list[int] = []  # to be closed once the job has them
        self.ends = [-1, -1, -1]
        self.given = [-1, -1, -1]
        try:
            for i, (name, value) in enumerate((("stdin", stdin), ("stdout", stdout), ("stderr", stderr))):
                self.given[i] = self._one(i, name, value)
        except BaseException:
            self.close_all()
            raise

    def _one(self, i: int, name: str, value: Any) -> int:
        if value is None:
            return inherited(i)
        if value == PIPE and isinstance(value, int):
            read, write = os.pipe2(os.O_CLOEXEC)
            theirs, self.ends[i] = (read, write) if i == 0 else (write, read)
            self.ours.append(theirs)
            return theirs
        if value == DEVNULL and isinstance(value, int):
            return -1
        if value == STDOUT and isinstance(value, int):
            if i != 2:
                raise SpecError(name, value, "is for stderr", "use PIPE, DEVNULL, a file or a descriptor")
            return self.given[1]
        if isinstance(value, int) and not isinstance(value, bool):
            if value < 0:
                raise SpecError(name, value, "is not a descriptor", "use PIPE, DEVNULL, a file or a descriptor")
            return value
        if hasattr(value, "fileno"):
            return int(value.fileno())
        raise SpecError(name, value, "cannot be used", "use None, PIPE, DEVNULL, a file or a descriptor")

    def started(self) -> None:
        for fd in self.ours:
            os.close(fd)
        self.ours.clear()

    def close_all(self) -> None:
        self.started()
        for i, fd in enumerate(self.ends):
            if fd >= 0:
                os.close(fd)
                self.ends[i] = -1


def redirected(stdin: Any, given: Any, stdout: Any, stderr: Any, capture_output: bool, text: Any,
               encoding: str | None, errors: str | None) -> tuple[Any, Any, Any, bytes | None, Any]:  # fmt: skip
    """What input= (given), capture_output= and the text keywords make of a launch: (stdin, stdout, stderr,
    the bytes to write, (encoding, errors) of text or None). Raises SpecError; LookupError for an unknown encoding."""
    if given is not None:
        if stdin is not None:
            raise SpecError("input", "…", "cannot go with stdin", "give one of them")
        stdin = PIPE
        given = given.encode(encoding or "utf-8", errors or "strict") if isinstance(given, str) else bytes(given)
    if capture_output:
        if stdout is not None or stderr is not None:
            raise SpecError("capture_output", True, "cannot go with stdout or stderr", "give one of them")
        stdout = stderr = PIPE
    if not (text or encoding or errors):
        return stdin, stdout, stderr, given, None
    "".encode(encoding or "utf-8", errors or "strict")  # an unknown one: before anything is started
    return stdin, stdout, stderr, given, (encoding, errors)


def fd_pairs(pass_fds: Any) -> list[tuple[int, int]]:
    """pairs (ours, the job's); a plain number keeps its own."""
    if isinstance(pass_fds, dict):
        pairs = [(int(ours), int(theirs)) for theirs, ours in pass_fds.items()]
    else:
        pairs = [(int(fd), int(fd)) for fd in pass_fds]
    for ours, theirs in pairs:
        if theirs < 3:
            raise SpecError("pass_fds", theirs, "is one of stdin, stdout and stderr", "use numbers from 3 on")
        if not is_open(ours):
            raise SpecError("pass_fds", ours, "is not an open descriptor", "open it first")
    return pairs


def native_limits(limits: Any) -> dict[str, Any] | None:
    if not limits:
        return None
    made = limits if isinstance(limits, Limits) else Limits(**limits)
    return made.to_native()


def launch_user(value: Any) -> tuple[str | None, int, int]:
    """user= of one launch: (text to look up in the container or None, uid, gid)."""
    from .process import user

    return user("user", value)


def launch_files(value: Any) -> list[tuple[str, bytes, int, int, int]]:
    """files= of one launch: (path, content, mode, uid, gid); ids -1: the job's own user.
    A File keeps its own. Raises SpecError."""
    if not isinstance(value, dict):
        raise SpecError("files", value, "is not a dict", 'use {"/path": b"content"}')
    found = []
    for path, given in value.items():
        rest = given if isinstance(given, tuple) else (given,)
        if len(rest) not in (1, 2, 4):
            raise SpecError(f"files[{path!r}]", given, "is no file", "use content, (content, mode) or a File")
        try:
            file = given if isinstance(given, File) else File(path, *rest)
            target = file.target if file is not given else File(path, b"").target
        except SpecError as error:
            raise SpecError(f"files[{path!r}]", error.value, error.problem, error.hint) from None
        made = file.native
        own = file is not given and len(rest) < 4
        found.append((target, made["data"], made["mode"], -1 if own else made["uid"], -1 if own else made["gid"]))
    return found


def user_env(plan: Plan, user: tuple[str | None, int, int], env: Any, tty: bool = False) -> list[bytes]:
    """The environment of a launch by another user than the plan's: HOME is that user's."""
    spec = plan.spec
    found = plan.env(env, tty)
    if spec.clean_env or "HOME" in spec.env or (env and any(name == "HOME" for name, _ in env_pairs("env", env))):
        return found
    home = plan.homes.get(user)
    if home is None:
        from . import process, roots

        places = ("/",) if spec.rootfs == "host" else [roots.readable(root) for root in spec.rootfs]
        if len(plan.homes) > 1000:
            plan.homes.clear()
        home = plan.homes[user] = b"HOME=" + os.fsencode(process.home(places, user[0], user[1]))
    return [home if pair.startswith(b"HOME=") else pair for pair in found]


def split(kw: dict[str, Any]) -> dict[str, Any]:
    """Take the keywords of a spec out of kw."""
    return {name: kw.pop(name) for name in list(kw) if name in FIELDS or name in LIMITS}


def more_limits(limits: Any, unknown: dict[str, Any]) -> Limits:
    """Limits given as keywords of a launch; anything else there is a mistake."""
    for name in unknown:
        if name in FIELDS or name in IMAGE_FIELDS:
            raise SpecError(name, unknown[name], "belongs to the plan", "give it to Plan(), or use fastctr.run()")
        if name not in LIMITS:
            from .errors import UnknownField

            raise UnknownField(name, ("stdin", "stdout", "stderr", "input", "capture_output", "text", "encoding",
                                      "errors", "timeout", "check", "env", "cwd", "pass_fds", "limits", "timings",
                                      "output_limit", "outputs",
                                      *IMAGE_FIELDS, *FIELDS, *LIMITS), "run")
    base: dict[str, Any] = {} if limits is None else dict(limits) if isinstance(limits, dict) else {}
    if isinstance(limits, Limits):
        raise SpecError("limits", limits, "cannot go with single limits", "give one of them")
    return Limits(**{**base, **unknown})


def tty_size(tty: Any) -> tuple[int, int] | None:
    if tty is None or tty is False:
        return None
    if tty is True:
        return (24, 80)
    rows, columns = tty
    if not all(isinstance(n, int) and 0 <= n < 65536 for n in (rows, columns)):
        raise SpecError("tty", tty, "is not a size", "use True or (rows, columns)")
    return (rows, columns)
