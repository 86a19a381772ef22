"""Dockerfile instructions that only change an image's configuration, as `docker commit --change` takes them.

parse() makes an Instruction of a line; apply() works instructions into the "config" part of an image's
configuration (OCI image specification, config.md, with Docker's Healthcheck, OnBuild and Shell).
"""

from __future__ import annotations

from ..errors import SpecError, nearest
from .instruction_words import expand, expand_words, json_strings, pairs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

__all__ = ["KEYWORDS", "Instruction", "apply", "environment", "parse"]

KEYWORDS = (
    "CMD",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "HEALTHCHECK",
    "LABEL",
    "ONBUILD",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
)
_BUILD_ONLY = ("ADD", "ARG", "COPY", "FROM", "MAINTAINER", "RUN")
_DEFAULT_SHELL = ["/bin/sh", "-c"]
_UNITS = {"ns": 1, "us": 10**3, "µs": 10**3, "μs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}


class Instruction:
    """keyword: in capitals; flags: "name" -> value, from --name=value; text: the rest of the line."""

    __slots__ = ("flags", "keyword", "line", "text")

    def __init__(self, keyword: str, text: str, flags: dict[str, str], line: str) -> None:
        self.keyword = keyword
        self.text = text
        self.flags = flags
        self.line = line

    def fail(self, problem: str, hint: str = "") -> SpecError:
        return SpecError("change", self.line, problem, hint)


def parse(line: str) -> Instruction:
    """An instruction of one line. Raises SpecError if it is none, or one that builds instead of describing."""
    if not isinstance(line, str):
        raise SpecError("change", line, "is not a Dockerfile instruction", 'use a string as "CMD [\\"sh\\"]"')
    stripped = line.strip()
    word, _, text = stripped.partition(" ") if " " in stripped else stripped.partition("\t")
    keyword, text = word.upper(), text.strip()
    if keyword not in KEYWORDS:
        if keyword in _BUILD_ONLY:
            raise SpecError("change", line, f"{keyword} builds, and does not change a configuration")
        close = nearest(keyword, KEYWORDS)
        hint = f"did you mean {close}?" if close else "use one of " + ", ".join(KEYWORDS)
        raise SpecError("change", line, "does not start with an instruction", hint)
    if not text:
        raise SpecError("change", line, f"{keyword} needs an argument")
    flags: dict[str, str] = {}
    if keyword == "HEALTHCHECK":
        while text.startswith("--"):
            flag, _, text = text.partition(" ")
            text = text.strip()
            name, equals, value = flag[2:].partition("=")
            if not equals or name not in ("interval", "timeout", "start-period", "start-interval", "retries"):
                raise SpecError("change", line, f"{flag} is not an option of HEALTHCHECK")
            if name in flags:
                raise SpecError("change", line, f"has --{name} twice")
            flags[name] = value
    return Instruction(keyword, text, flags, line)


def environment(config: dict[str, Any]) -> dict[str, str]:
    """The "Env" of a configuration as a mapping."""
    found = {}
    for each in config.get("Env") or ():
        name, _, value = each.partition("=")
        found[name] = value
    return found


def apply(config: dict[str, Any], instructions: Iterable[str | Instruction]) -> dict[str, Any]:
    """A configuration with the instructions worked in, in order; the one given is left as it is."""
    import copy

    made = copy.deepcopy(config)
    seen: set[str] = set()
    for each in instructions:
        instruction = each if isinstance(each, Instruction) else parse(each)
        _APPLY[instruction.keyword](made, instruction, seen)
        seen.add(instruction.keyword)
    return made


def _command(config: dict[str, Any], text: str) -> list[str]:
    """Exec form as it is; shell form as an argument of the image's shell."""
    found = json_strings(text)
    return found if found is not None else [*(config.get("Shell") or _DEFAULT_SHELL), text]


def _cmd(config: dict[str, Any], given: Instruction, seen: set[str]) -> None:
    config["Cmd"] = _command(config, given.text)


def _entrypoint(config: dict[str, Any], given: Instruction, seen: set[str]) -> None:
    if json_strings(given.text) == []:
        config.pop("Entrypoint", None)
    else:
        config["Entrypoint"] = _command(config, given.text)
    if "CMD" not in seen:  # the base's arguments were meant for the base's entry point
        config.pop("Cmd", None)


def _env(config: dict[str, Any], given: Instruction, seen: set[str]) -> None:
    variables = environment(config)
    env: list[str] = list(config.get("Env") or ())
    found = [(expand(name, variables), expand(value, variables)) for name, value in pairs(given.text, "ENV")]
    for name, value in found:
        if not name:
            raise given.fail("has a variable without a name")
        text = f"{name}={value}"
        for i, old in enumerate(env):
            if old.partition("=")[0] == name:
                env[i] = text
                break
        else:
            env.append(text)
    config["Env"] = env


def _label(config: dict[str, Any], given: Instruction, seen: set[str]) -> None:
    variables = environment(config)
    labels = config.setdefault("Labels", {}) or {}
    for name, value in pairs(given.text, "LABEL"):
        labels[expand(name, variables)] = expand(value, variables)
    config["Labels"] = labels


def _ports(given: Instruction, word: str) -> list[str]:
    """ "80", "80/udp", "7000-7010/tcp" as port/protocol, each port by itself."""
    ports, slash, protocol = word.partition("/")
    protocol = protocol.lower() if slash else "tcp"
    first, dash, last = ports.partition("-")
    numbers = [first, last] if dash else [first]
    if protocol not in ("tcp", "udp", "sctp") or not all(n.isascii() and n.isdigit() for n in numbers):
        raise given.fail(f'has "{word}", which is not a port', 'use "80", "53/udp" or "7000-7010"')
    low, high = int(first), int(last) if dash else int(first)
    if not 0 < low <= high <= 65535:
        raise given.fail(f'has "{word}", which is not a range of ports', "ports are 1 to 65535")
    return [f"{n}/{protocol}" for n in range(low, high + 1)]


def _expose(config: dict[str, Any], given: Instruction, seen: set[str]) -> None:
    ports = dict(config.get("ExposedPorts") or {})
    for word in expand_words(given.text, environment(config)):
        for port in _ports(given, word):
            ports[port] = {}
    config["ExposedPorts"] = ports


def _volume(config: dict[str, Any], given: Instruction, seen: set[str]) -> None:
    variables = environment(config)
    found = json_strings(given.text)
    paths = [expand(p, variables) for p in found] if found is not None else expand_words(given.text, variables)
    volumes = dict(config.get("Volumes") or {})
    for path in paths:
        if not path.strip():
            raise given.fail("has an empty path")
        volumes[path] = {}
    config["Volumes"] = volumes


def _user(config: dict[str, Any], given: Instruction, seen: set[str]) -> None:
    user = expand(given.text, environment(config))
    if not user or any(c.isspace() for c in user):
        raise given.fail("is not a user", 'use "name", "name:group", "uid" or "uid:gid"')
    config["User"] = user


def _workdir(config: dict[str, Any], given: Instruction, seen: set[str]) -> None:
    import posixpath

    path = expand(given.text, environment(config))
    if not path:
        raise given.fail("names no directory")
    made = posixpath.normpath(posixpath.join(config.get("WorkingDir") or "/", path))
    config["WorkingDir"] = "/" + made.lstrip("/")


def _stopsignal(config: dict[str, Any], given: Instruction, seen: set[str]) -> None:
    import signal

    text = expand(given.text, environment(config))
    name = text.upper()
    number = int(text) if text.isascii() and text.isdigit() else None
    known = name if name.startswith("SIG") else "SIG" + name
    fits = known in signal.Signals.__members__ or known.startswith(("SIGRTMIN", "SIGRTMAX"))
    if not (0 < number < 65 if number is not None else fits):
        raise given.fail("is not a signal", 'use a name as "SIGTERM" or a number')
    config["StopSignal"] = text


def _shell(config: dict[str, Any], given: Instruction, seen: set[str]) -> None:
    found = json_strings(given.text)
    if not found:
        raise given.fail("is not in exec form", 'use SHELL ["program", "argument"]')
    config["Shell"] = found


def _onbuild(config: dict[str, Any], given: Instruction, seen: set[str]) -> None:
    word = given.text.split(None, 1)[0].upper()
    if word in ("ONBUILD", "FROM", "MAINTAINER"):
        raise given.fail(f"{word} cannot be put off with ONBUILD")
    if word not in KEYWORDS and word not in _BUILD_ONLY:
        raise given.fail(f'"{word}" is not an instruction')
    config["OnBuild"] = [*(config.get("OnBuild") or ()), given.text]


def _nanoseconds(given: Instruction, name: str, text: str) -> int:
    """ "1m30s", "1.5s", "500ms" as Go writes durations; 0 or at least a millisecond."""
    import re

    parts = re.findall(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h)", text)
    if text != "0" and (not parts or "".join(a + b for a, b in parts) != text):
        raise given.fail(f'--{name} has "{text}", which is not a duration', 'use "30s", "1m30s" or "500ms"')
    total = sum(round(float(number) * _UNITS[unit]) for number, unit in parts)
    if 0 < total < 10**6:
        raise given.fail(f"--{name} is less than a millisecond")
    return total


def _healthcheck(config: dict[str, Any], given: Instruction, seen: set[str]) -> None:
    word, _, rest = given.text.partition(" ")
    kind, rest = word.upper(), rest.strip()
    if kind == "NONE":
        if rest or given.flags:
            raise given.fail("NONE takes no arguments")
        config["Healthcheck"] = {"Test": ["NONE"]}
        return
    if kind != "CMD" or not rest:
        raise given.fail("is neither NONE nor CMD with a command", "use HEALTHCHECK [options] CMD command")
    found = json_strings(rest)
    made: dict[str, Any] = {"Test": ["CMD", *found] if found is not None else ["CMD-SHELL", rest]}
    for name, key in (
        ("interval", "Interval"),
        ("timeout", "Timeout"),
        ("start-period", "StartPeriod"),
        ("start-interval", "StartInterval"),
    ):
        value = _nanoseconds(given, name, given.flags[name]) if name in given.flags else 0
        if value:
            made[key] = value
    retries = given.flags.get("retries")
    if retries is not None:
        if not (retries.isascii() and retries.isdigit()) or len(retries) > 9:
            raise given.fail(f'--retries has "{retries}", which is not a number of times')
        if int(retries):
            made["Retries"] = int(retries)
    config["Healthcheck"] = made


_APPLY = {
    "CMD": _cmd,
    "ENTRYPOINT": _entrypoint,
    "ENV": _env,
    "EXPOSE": _expose,
    "HEALTHCHECK": _healthcheck,
    "LABEL": _label,
    "ONBUILD": _onbuild,
    "SHELL": _shell,
    "STOPSIGNAL": _stopsignal,
    "USER": _user,
    "VOLUME": _volume,
    "WORKDIR": _workdir,
}
