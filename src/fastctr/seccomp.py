"""System call policies, compiled once and kept. See seccomp(2) and the OCI runtime spec's linux.seccomp.

`compile` gives the program for the default policy or for a profile: from this process's memory, else
from the disk cache, else from the C compiler, `_core.seccomp_compile`:

    seccomp_compile(default_action: int, default_errno: int, archs: list[int],
                    rules: list[tuple[names, int, int, list[tuple[int, int, int, int]]]]) -> bytes

archs are numbers of `ARCHES`, actions of `ACTIONS`; a rule is (names: sequence of str, action,
errno or trace number, comparisons), a comparison (argument index, operator of `OPERATORS`, value,
value2), all of it as in csrc/seccomp.h. It returns the bytes of a struct sock_filter array and raises
LaunchError (stage "seccomp" or "memory"). This module is on the path of a first start: it imports
nothing that is not loaded anyway, and the policy itself (seccomp_default) and the reader of custom
profiles (seccomp_profile) only when needed.
"""

from __future__ import annotations

import os

from .errors import SpecError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

    Comparison = tuple[int, int, int, int]
    Rule = tuple[Sequence[str], int, int, Sequence[Comparison]]

VERSION = 2
"""Raised when the default policy or the compiler gives other programs than before: cached ones are
then compiled anew."""

ACTIONS = {
    "SCMP_ACT_KILL_PROCESS": 0,
    "SCMP_ACT_KILL_THREAD": 1,
    "SCMP_ACT_KILL": 1,
    "SCMP_ACT_TRAP": 2,
    "SCMP_ACT_ERRNO": 3,
    "SCMP_ACT_NOTIFY": 4,
    "SCMP_ACT_TRACE": 5,
    "SCMP_ACT_LOG": 6,
    "SCMP_ACT_ALLOW": 7,
}
ERRNO, NOTIFY, TRACE, ALLOW = 3, 4, 5, 7

OPERATORS = {
    "SCMP_CMP_NE": 1,
    "SCMP_CMP_LT": 2,
    "SCMP_CMP_LE": 3,
    "SCMP_CMP_EQ": 4,
    "SCMP_CMP_GE": 5,
    "SCMP_CMP_GT": 6,
    "SCMP_CMP_MASKED_EQ": 7,
}
NE, EQ, MASKED_EQ = 1, 4, 7
LOW32 = 0x100
"""Or-ed to an operator: only the low 32 bits count, as they do in the kernel for an int argument."""

ARCHES = {"x86_64": 0, "x86": 1, "x32": 2, "aarch64": 3, "arm": 4, "no_x32": 5}

SPEC_ALLOW = 4
"""SECCOMP_FILTER_FLAG_SPEC_ALLOW: without it the kernel slows the workload down by speculation
mitigations."""

# The capabilities the default policy depends on: others share a program. Bits of caps.BITS:
# DAC_READ_SEARCH, SYS_MODULE .. SYS_NICE, SYS_TIME, SYS_TTY_CONFIG, SYSLOG, PERFMON, BPF.
_DEPENDS = 0xC406FF0004

_EPERM, _ENOSYS = 1, 38
_MAGIC = b"FCTRBPF1"
_MAX_BYTES = 4096 * 8  # BPF_MAXINSNS of struct sock_filter
_MAX_KEPT = 256

_programs: dict[str, bytes] = {}


class Profile:
    """A policy with everything conditional resolved: what `_core.seccomp_compile` takes.

    flags: SECCOMP_FILTER_FLAG_* to load the program with.
    """

    __slots__ = ("archs", "default_action", "default_errno", "flags", "rules")

    def __init__(
        self,
        default_action: int,
        default_errno: int,
        archs: list[int],
        rules: list[Rule],
        flags: int = SPEC_ALLOW,
    ) -> None:
        self.default_action = default_action
        self.default_errno = default_errno
        self.archs = archs
        self.rules = rules
        self.flags = flags


def machine() -> str:
    """The machine's architecture, one of "x86_64" and "aarch64".

    Raises SpecError on another: we have no compiler for its system calls.
    """
    name = os.uname().machine
    if name not in ("x86_64", "aarch64"):
        raise SpecError("seccomp", name, "is not an architecture we can filter", 'use seccomp="unconfined"')
    return name


def default_policy(caps: int | Iterable[str], arch: str | None = None) -> Profile:
    """The default policy for a container that has these capabilities in its bounding set.

    caps: a mask as in `fastctr.caps`, or names. arch: "x86_64" or "aarch64", this machine by default.
    Raises SpecError for an unknown capability or architecture.
    """
    from . import seccomp_default as data
    from .caps import BITS

    if arch is None:
        arch = machine()
    elif arch not in data.ARCHITECTURES:
        raise SpecError("arch", arch, "is not an architecture we can filter", "use x86_64 or aarch64")
    mask = _mask(caps)
    names = (data.ALWAYS + data.BY_MACHINE[arch]).split()
    for cap, more in data.BY_CAPABILITY.items():
        if mask >> BITS[cap] & 1:
            names += more.split()
    rules: list[Rule] = [
        (names, ALLOW, 0, ()),
        (("socket",), ALLOW, 0, ((0, NE | LOW32, data.AF_VSOCK, 0),)),
    ]
    rules += [(("personality",), ALLOW, 0, ((0, EQ | LOW32, value, 0),)) for value in data.PERSONALITIES]
    if not mask >> BITS["CAP_SYS_ADMIN"] & 1:
        rules.append((("clone",), ALLOW, 0, ((0, MASKED_EQ, data.CLONE_NAMESPACES, 0),)))
        # its flags are in memory, where a filter can't see them: programs fall back to clone
        rules.append((("clone3",), ERRNO, _ENOSYS, ()))
    return Profile(ERRNO, _EPERM, [ARCHES[a] for a in data.ARCHITECTURES[arch]], rules)


def load_profile(source: str | os.PathLike[str] | Mapping[str, Any], caps: int | Iterable[str] = 0) -> Profile:
    """A custom profile: the path of a JSON file, or the object itself.

    Both the OCI runtime spec's linux.seccomp and Docker's profile format (archMap, and rules with
    includes and excludes by capability, architecture and kernel) are understood. caps: what the
    container has in its bounding set. Names of calls that an ABI lacks are passed over.
    Raises SpecError naming the place and the value that is wrong, OSError if the file can't be read.
    """
    from . import seccomp_profile

    return seccomp_profile.load(source, _mask(caps))


def compile(  # noqa: A001 - the word the rest of the package uses
    profile: Profile | str | os.PathLike[str] | Mapping[str, Any] = "default", caps: int | Iterable[str] = 0
) -> bytes:
    """The program for a profile: bytes of a struct sock_filter array, to load with seccomp(2).

    profile: "default", a `Profile`, or what `load_profile` takes. caps: as there.
    Kept in memory, and on disk below `cache_dir`; a cache that can't be read, is damaged or could have
    been written by someone else is passed over. Raises SpecError and OSError as `load_profile`, and
    LaunchError if the policy is too large for the kernel.
    """
    mask = _mask(caps)
    if isinstance(profile, str) and profile == "default":
        key = f"default-{machine()}-{mask & _DEPENDS:x}-v{VERSION}"
    else:
        if not isinstance(profile, Profile):
            profile = load_profile(profile, mask)
        key = _content_key(profile)
    program = _programs.get(key)
    if program is None:
        program = _read(key)
        if program is None:
            if not isinstance(profile, Profile):
                profile = default_policy(mask)
            program = _core_compile(profile.default_action, profile.default_errno, profile.archs, profile.rules)
            _write(key, program)
        if len(_programs) >= _MAX_KEPT:
            _programs.clear()
        _programs[key] = program
    return program


def cache_dir() -> str | None:
    """Where programs are kept: /var/cache/fastctr/seccomp for root, else fastctr/seccomp below
    XDG_CACHE_HOME (by default ~/.cache). None if there is no home directory."""
    if os.geteuid() == 0:
        return "/var/cache/fastctr/seccomp"
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not base.startswith("/"):
        base = os.environ.get("HOME", "")
        if not base.startswith("/"):
            return None
        base += "/.cache"
    return base + "/fastctr/seccomp"


def _mask(caps: int | Iterable[str]) -> int:
    if isinstance(caps, int):
        return caps
    from .caps import to_mask

    return to_mask(caps)


def _core_compile(default_action: int, default_errno: int, archs: list[int], rules: list[Rule]) -> bytes:
    from ._core import seccomp_compile

    return seccomp_compile(default_action, default_errno, archs, rules)


def _content_key(profile: Profile) -> str:
    from hashlib import blake2b

    rules = [(tuple(names), action, data, tuple(args)) for names, action, data, args in profile.rules]
    content = repr((profile.default_action, profile.default_errno, tuple(profile.archs), rules))
    return f"{blake2b(content.encode(), digest_size=20).hexdigest()}-v{VERSION}"


# ---- the disk cache: magic, checksum of what follows, length of the key, key, program ----


def _checksum(data: bytes) -> bytes:
    # The interpreter's own hash of source files: built in, where zlib and hashlib are libraries to
    # load. It finds damage; trust comes from who owns the file.
    from _imp import source_hash

    return source_hash(0, data)


def _open_dir(path: str) -> int:
    """A descriptor of the cache, if nobody but us can write there. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    st = os.fstat(fd)
    if st.st_uid != os.geteuid() or st.st_mode & 0o022:
        os.close(fd)
        raise PermissionError(path)
    return fd


def _read(key: str) -> bytes | None:
    path = cache_dir()
    if path is None:
        return None
    try:
        dir_fd = _open_dir(path)
    except OSError:
        return None
    try:
        fd = os.open(
            key + ".bpf",
            os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY,
            dir_fd=dir_fd,
        )
    except OSError:
        return None
    finally:
        os.close(dir_fd)
    try:
        st = os.fstat(fd)
        if st.st_uid != os.geteuid() or st.st_mode & 0o170022 != 0o100000:
            return None
        data = os.read(fd, _MAX_BYTES + 512)
    except OSError:
        return None
    finally:
        os.close(fd)
    head = len(_MAGIC)
    body = data[head + 8 :]
    if data[:head] != _MAGIC or data[head : head + 8] != _checksum(body):
        return None
    name = key.encode()
    if body[:1] != bytes((len(name),)) or body[1 : 1 + len(name)] != name:
        return None
    program = body[1 + len(name) :]
    if not program or len(program) % 8 or len(program) > _MAX_BYTES:
        return None
    return program


def _write(key: str, program: bytes) -> None:
    path = cache_dir()
    if path is None:
        return
    name = key.encode()
    body = bytes((len(name),)) + name + program
    temporary = f".{key}.{os.getpid()}.{os.urandom(4).hex()}"
    try:
        os.makedirs(path, 0o700, exist_ok=True)
        dir_fd = _open_dir(path)
    except OSError:
        return
    try:
        _make_room(dir_fd)
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=dir_fd)
        try:
            data = _MAGIC + _checksum(body) + body
            if os.write(fd, data) == len(data):
                os.rename(temporary, key + ".bpf", src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
                temporary = ""
        finally:
            os.close(fd)
            if temporary:
                os.unlink(temporary, dir_fd=dir_fd)
    except OSError:
        pass
    finally:
        os.close(dir_fd)


def _make_room(dir_fd: int) -> None:
    """Profiles that are generated anew each time must not fill the disk: above a number, forget all."""
    names = os.listdir(dir_fd)
    if len(names) >= _MAX_KEPT:
        for name in names:
            os.unlink(name, dir_fd=dir_fd)
