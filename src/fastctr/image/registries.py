"""Which servers stand for a registry: mirrors, plain http, time limits. Read from TOML files of this form:

    insecure = ["registry.lan:5000", "10.0.0.0/8"]     # hosts or networks: any certificate, or plain http

    [http]                                             # seconds and numbers; these are the defaults
    connect-timeout = 10
    read-timeout = 30
    attempts = 5

    [registry."docker.io"]
    mirrors = ["mirror.lan", "http://127.0.0.1:5001"]  # asked first, in this order, for pulls
    insecure = false

Read are /etc/fastctr/registries.toml and ~/.config/fastctr/registries.toml (which adds to it and wins), or
the file FASTCTR_REGISTRIES names, alone. Where none of them is there, `registry-mirrors` (for docker.io) and
`insecure-registries` of /etc/docker/daemon.json are taken. Loopback is always insecure, as with Docker.
"""

from __future__ import annotations

import os

from ..errors import ImageError, shown
from .connect import is_loopback

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .http import Settings

__all__ = ["Registries", "load"]

SYSTEM = "/etc/fastctr/registries.toml"
DAEMON = "/etc/docker/daemon.json"
HUB = "registry-1.docker.io"
_HTTP = {"connect-timeout": "connect", "read-timeout": "read", "attempts": "attempts"}


class Registries:
    """What the files say.

    insecure hosts and networks; mirrors by registry ("docker.io"): hosts; http: fields of Settings.
    """

    def __init__(
        self,
        insecure: list[str] | tuple[str, ...] = (),
        mirrors: dict[str, list[str]] | None = None,
        http: dict[str, float] | None = None,
    ) -> None:
        self.insecure = list(insecure)
        self.mirrors = dict(mirrors or {})
        self.http = dict(http or {})

    def is_insecure(self, host: str) -> bool:
        """Whether plain http or any certificate will do for this host (with its port, if it has one)."""
        if is_loopback(host):
            return True
        bare = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        for each in self.insecure:
            if each in (host, bare) or ("/" in each and _within(bare, each)):
                return True
        return False

    def hosts(self, domain: str) -> list[str]:
        """The hosts to ask for a registry: its mirrors, then itself."""
        return [*self.mirrors.get(domain, ()), HUB if domain == "docker.io" else domain]

    def settings(self) -> Settings:
        """The limits for http.Http."""
        from .http import Settings

        found = Settings()
        for name, value in self.http.items():
            setattr(found, name, int(value) if name == "attempts" else float(value))
        return found


def _within(host: str, network: str) -> bool:
    import ipaddress

    try:
        return ipaddress.ip_address(host.strip("[]")) in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False


def mirror_host(path: str, value: object, insecure: list[str]) -> str:
    """ "host:port" of a mirror given so or as a URL; one with http:// is put among the insecure ones."""
    text = value.rstrip("/") if isinstance(value, str) else ""
    scheme, mark, rest = text.partition("://")
    host = rest if mark else scheme
    if not host or "/" in host or "@" in host or (mark and scheme not in ("http", "https")):
        raise ImageError(path, f"mirror {shown(value)} is not a host", 'use "host:port" or "https://host:port"')
    if mark and scheme == "http" and not is_loopback(host):
        insecure.append(host)
    return host


def _strings(path: str, name: str, value: object) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise ImageError(path, f"{name} must be a list of strings, not {shown(value)}")
    return value


def _take(path: str, data: dict[str, Any], into: Registries) -> None:
    """Add what one file says."""
    for name, value in data.items():
        if name == "insecure":
            into.insecure += _strings(path, name, value)
        elif name == "http" and isinstance(value, dict):
            for key, number in value.items():
                if key not in _HTTP or not isinstance(number, (int, float)) or number <= 0:
                    raise ImageError(
                        path, f"http.{key} = {shown(number)} cannot be", f"numbers over 0 for {', '.join(_HTTP)}"
                    )
                into.http[_HTTP[key]] = number
        elif name == "registry" and isinstance(value, dict):
            for domain, table in value.items():
                where = f'registry."{domain}"'
                unknown = set(table) - {"mirrors", "insecure"} if isinstance(table, dict) else {where}
                if unknown:
                    raise ImageError(path, f"{where} has {shown(min(unknown))}", "it may have mirrors and insecure")
                if "mirrors" in table:
                    given = _strings(path, f"{where}.mirrors", table["mirrors"])
                    into.mirrors[domain] = [mirror_host(path, each, into.insecure) for each in given]
                if table.get("insecure"):
                    into.insecure.append(domain)
        else:
            raise ImageError(path, f"has {shown(name)}", "it may have insecure, http and registry")


def _toml(path: str) -> dict[str, Any] | None:
    try:
        with open(path, "rb") as file:
            import tomllib

            try:
                return tomllib.load(file)
            except ValueError as error:  # of TOML, and of UTF-8
                raise ImageError(path, f"is not TOML: {error}") from None
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ImageError(path, f"cannot be read: {error.strerror}") from error


def _daemon(into: Registries) -> None:
    import json

    try:
        with open(DAEMON, "rb") as file:
            data = json.load(file)
    except (OSError, ValueError):
        return  # another program's file: that one says what is wrong with it
    if isinstance(data, dict):
        mirrors, insecure = data.get("registry-mirrors"), data.get("insecure-registries")
        if isinstance(insecure, list):
            into.insecure += [each for each in insecure if isinstance(each, str)]
        if isinstance(mirrors, list):
            into.mirrors["docker.io"] = [mirror_host(DAEMON, each, into.insecure) for each in mirrors]


def load() -> Registries:
    """What the files of this machine and user say. ImageError: a file is not as it should be."""
    found = Registries()
    named = os.environ.get("FASTCTR_REGISTRIES")
    if named:
        data = _toml(named)
        if data is None:
            raise ImageError(named, "is not there", "FASTCTR_REGISTRIES names it")
        _take(named, data, found)
        return found
    base = os.environ.get("XDG_CONFIG_HOME") or os.path.join(os.path.expanduser("~"), ".config")
    there = False
    for path in (SYSTEM, os.path.join(base, "fastctr/registries.toml")):
        data = _toml(path)
        if data is not None:
            there = True
            _take(path, data, found)
    if not there:
        _daemon(found)
    return found
