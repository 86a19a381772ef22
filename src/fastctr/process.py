"""What the process inside is to be: user, groups, environment, resource limits, labels.

See setrlimit(2), sched_setaffinity(2), proc(5) oom_score_adj, and Docker's --user, --env, --ulimit for
the forms.
"""

from __future__ import annotations

import os

from . import units
from .errors import SpecError, nearest

# asm-generic/resource.h, the same on x86_64 and aarch64
RLIMITS = {
    "cpu": 0,
    "fsize": 1,
    "data": 2,
    "stack": 3,
    "core": 4,
    "rss": 5,
    "nproc": 6,
    "nofile": 7,
    "memlock": 8,
    "as": 9,
    "locks": 10,
    "sigpending": 11,
    "msgqueue": 12,
    "nice": 13,
    "rtprio": 14,
    "rttime": 15,
}
INFINITY = 2**64 - 1
CAP_SYS_NICE, CAP_SYS_RESOURCE = 23, 24
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def have_capability(bit: int) -> bool:
    """Whether this thread has a capability in its effective set; capabilities(7)."""
    try:
        with open("/proc/thread-self/status", "rb") as file:
            for line in file:
                if line.startswith(b"CapEff:"):
                    return bool(int(line.split()[1], 16) >> bit & 1)
    except OSError:
        pass
    return os.geteuid() == 0


def user(field: str, value: object) -> tuple[str | None, int, int]:
    """(text to look up inside or None, uid, gid).

    Numbers for both are taken as they are; a name, or a uid alone, is looked up in the container's
    /etc/passwd at the start, and a group's name in its /etc/group.
    """
    hint = 'use "name", "name:group", "1000:1000", a uid, or (uid, gid)'
    if isinstance(value, tuple):
        if len(value) != 2:
            raise SpecError(field, value, "is not a user", hint)
        uid, gid = (units.integer(field, part, 0, 2**32 - 2, "an id") for part in value)
        return None, uid, gid
    if isinstance(value, int) and not isinstance(value, bool):
        number = units.integer(field, value, 0, 2**32 - 2, "an id")
        return (None, 0, 0) if number == 0 else (str(number), 0, 0)
    if not isinstance(value, str):
        raise SpecError(field, value, "is not a user", hint)
    text = units.text(field, value)
    name, colon, group = text.partition(":")
    for part in (name, group) if colon else (name,):
        if (
            not part
            or "/" in part
            or ":" in part
            or any(c.isspace() for c in part)
            or part[0] in "+-"
            or len(part) > 64
        ):
            raise SpecError(field, value, "is not a user", hint)
        if part.isdigit():
            units.integer(field, part, 0, 2**32 - 2, "an id")
    if name.isdigit() and group.isdigit():
        return None, int(name), int(group)
    return (None, 0, 0) if text in ("0", "root") else (text, 0, 0)


def groups(field: str, value: object) -> tuple[int, ...]:
    """Supplementary group ids, in order, each once."""
    found: list[int] = []
    for number, item in enumerate(units.items(field, value)):
        where = f"{field}[{number}]"
        if isinstance(item, str) and not item.isdigit():
            raise SpecError(
                where, item, "is not a group id", "give the number that /etc/group inside has for it"
            )
        gid = units.integer(where, item, 0, 2**32 - 2, "a group id")
        if gid not in found:
            found.append(gid)
    if len(found) > 65536:
        raise SpecError(field, len(found), "groups are too many", "the kernel takes 65536")
    return tuple(found)


def env(field: str, value: object) -> tuple[tuple[str, str], ...]:
    """Variables of a dict, or of a list of "NAME=value"; a bare NAME takes this process's own value."""
    pairs: list[tuple[str, str]] = []
    if isinstance(value, dict):
        for name, text in value.items():
            where = f"{field}[{name!r}]"
            name = os.fsdecode(name) if isinstance(name, bytes) else name
            if text is None:
                continue
            if isinstance(text, (bytes, os.PathLike)):
                text = os.fsdecode(text)
            if isinstance(text, int) and not isinstance(text, bool):
                text = str(text)
            pairs.append((_name(where, name), units.text(where, text, empty=True)))
    else:
        for number, item in enumerate(units.items(field, value)):
            where = f"{field}[{number}]"
            item = os.fsdecode(item) if isinstance(item, bytes) else item
            name, equals, text = units.text(where, item).partition("=")
            if equals:
                pairs.append((_name(where, name), text))
            elif name in os.environ:
                pairs.append((_name(where, name), os.environ[name]))
    return tuple(dict(pairs).items())


def _name(where: str, name: object) -> str:
    text = units.text(where, name)
    if "=" in text:
        raise SpecError(where, name, 'has "=" in a variable\'s name', "use NAME and value apart")
    return text


def ulimits(field: str, value: object) -> tuple[tuple[int, int, int], ...]:
    """(resource, soft, hard): {"nofile": 1024 | (soft, hard)}, or "nofile=1024:2048"; -1 is unlimited."""
    pairs: list[tuple[object, object]] = []
    if isinstance(value, dict):
        pairs = list(value.items())
    else:
        for number, item in enumerate(units.items(field, value)):
            word, equals, amount = units.text(f"{field}[{number}]", item).partition("=")
            if not equals:
                raise SpecError(
                    f"{field}[{number}]", item, "is no limit", 'use "nofile=1024" or "nofile=1024:2048"'
                )
            pairs.append((word, amount))
    found: dict[int, tuple[int, int]] = {}
    for name, figure in pairs:
        where = f"{field}[{name!r}]"
        number = _resource(where, name)
        parts = figure.split(":") if isinstance(figure, str) else figure
        if not isinstance(parts, (tuple, list)):
            parts = (parts,)
        if len(parts) not in (1, 2):
            raise SpecError(where, figure, "is no limit", "use one number, or (soft, hard)")
        soft, hard = _figure(where, parts[0]), _figure(where, parts[-1])
        if soft > hard:
            raise SpecError(where, figure, "has its soft limit above the hard one", "use (soft, hard)")
        _may_raise(where, figure, number, hard)
        found[number] = (soft, hard)
    return tuple((number, *figures) for number, figures in sorted(found.items()))


def _resource(where: str, name: object) -> int:
    if isinstance(name, int) and not isinstance(name, bool):
        return units.integer(where, name, 0, 15, "a resource")
    text = str(name).lower().removeprefix("rlimit_")
    if text not in RLIMITS:
        close = nearest(text, RLIMITS)
        raise SpecError(
            where,
            name,
            "is no resource",
            f'did you mean "{close}"?' if close else f"use {', '.join(RLIMITS)}",
        )
    return RLIMITS[text]


def _figure(where: str, value: object) -> int:
    if value == -1 or (isinstance(value, str) and value.strip().lower() in ("-1", "unlimited", "infinity")):
        return INFINITY
    return units.integer(where, value, 0, INFINITY, "a limit, or -1 for none,")


def _may_raise(where: str, figure: object, number: int, hard: int) -> None:
    import resource

    own = resource.getrlimit(number)[1]
    if (own == resource.RLIM_INFINITY or hard <= own) and number != RLIMITS["nofile"]:
        return
    if number == RLIMITS["nofile"]:
        try:
            with open("/proc/sys/fs/nr_open") as file:
                most = int(file.read())
        except (OSError, ValueError):
            most = INFINITY
        if hard > most:
            raise SpecError(
                where, figure, f"is above fs.nr_open ({most})", "use a smaller one, or raise that sysctl"
            )
        if own == resource.RLIM_INFINITY or hard <= own:
            return
    if not have_capability(CAP_SYS_RESOURCE):
        raise SpecError(
            where,
            figure,
            f"is above this process's own hard limit ({own})",
            "raising it needs CAP_SYS_RESOURCE, which this process lacks: use that or less",
        )


def oom_score_adj(field: str, value: object) -> int:
    """-1000..1000; lower than this process's own needs CAP_SYS_RESOURCE."""
    number = units.integer(field, value, -1000, 1000)
    try:
        with open("/proc/self/oom_score_adj") as file:
            own = int(file.read())
    except (OSError, ValueError):
        return number
    if number < own and not have_capability(CAP_SYS_RESOURCE):
        raise SpecError(
            field,
            value,
            f"is below this process's own ({own})",
            "lowering it needs CAP_SYS_RESOURCE, which this process lacks: use that or more",
        )
    return number


def nice(field: str, value: object) -> int:
    """-20..19; lower than this process's own needs CAP_SYS_NICE or RLIMIT_NICE."""
    number = units.integer(field, value, -20, 19)
    own = os.getpriority(os.PRIO_PROCESS, 0)
    if number < own and not have_capability(CAP_SYS_NICE):
        import resource

        if 20 - number > resource.getrlimit(RLIMITS["nice"])[0]:
            raise SpecError(
                field,
                value,
                f"is below this process's own ({own})",
                "lowering it needs CAP_SYS_NICE or a higher ulimit -e: use that or more",
            )
    return number


def affinity(field: str, value: object) -> tuple[int, ...]:
    """Cpu numbers; at least one must be online."""
    cpus = units.cpu_list(field, value)
    try:
        with open("/sys/devices/system/cpu/online") as file:
            online = units.cpu_list(field, file.read().strip())
    except (OSError, SpecError):
        return cpus
    if not set(cpus) & set(online):
        raise SpecError(
            field, value, "has no cpu that is online", f"this machine has {units.list_text(online)}"
        )
    return cpus


def affinity_bytes(cpus: tuple[int, ...]) -> bytes:
    """A cpu_set_t with these cpus, as long as it must be in whole words."""
    import sys

    mask = 0
    for cpu in cpus:
        mask |= 1 << cpu
    return mask.to_bytes((mask.bit_length() + 63) // 64 * 8, sys.byteorder)


def apparmor(field: str, value: object) -> str | None:
    """A profile's name; None for "unconfined" where AppArmor is off."""
    name = units.text(field, value)
    try:
        with open("/sys/module/apparmor/parameters/enabled") as file:
            active = file.read().strip() == "Y"
    except OSError:
        active = False
    if not active and name == "unconfined":
        return None
    if not active:
        raise SpecError(
            field, value, "cannot be applied: AppArmor is not active in this kernel", "leave it away"
        )
    return name


def selinux(field: str, value: object) -> str | None:
    """A process label, "user:role:type:level"; None for "disable"."""
    name = units.text(field, value)
    if name == "disable":
        return None
    if not os.path.exists("/sys/fs/selinux/enforce"):
        raise SpecError(
            field, value, "cannot be applied: SELinux is not active in this kernel", "leave it away"
        )
    if name.count(":") < 2:
        raise SpecError(field, value, "is not a label", 'use "user:role:type:level"')
    return name


def hostname(field: str, value: object) -> str:
    """At most 64 bytes of letters, digits, dots and hyphens; hostname(7)."""
    name = units.text(field, value)
    good = name.isascii() and all(c.isalnum() or c in ".-_" for c in name)
    if not good or name[0] in ".-" or name[-1] == "-" or ".." in name:
        raise SpecError(field, value, "is not a host's name", "use letters, digits, dots and hyphens")
    if len(name) > 64:
        raise SpecError(field, value, "is too long", "the kernel takes 64 bytes")
    return name


def home(roots: tuple[str, ...] | list[str], name: str | None, uid: int) -> str:
    """The home directory that the root's /etc/passwd has for a user; "/root" for root, else "/"."""
    if name is None and uid == 0:
        return "/root"
    wanted = (name or str(uid)).partition(":")[0]
    column = 2 if wanted.isdigit() else 0
    for root in roots:
        top = os.path.realpath(root)
        path = os.path.realpath(os.path.join(top, "etc/passwd"))
        if not path.startswith(top.rstrip("/") + "/"):
            continue  # a link that leads out of the root
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
            with open(fd, encoding="utf-8", errors="surrogateescape") as file:
                text = file.read(1 << 20)
        except OSError:
            continue
        for line in text.split("\n"):
            fields = line.split(":")
            if len(fields) >= 6 and fields[column] == wanted and fields[5].startswith("/"):
                return fields[5]
        break
    return "/"
