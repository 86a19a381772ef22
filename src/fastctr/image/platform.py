"""Platforms: "linux/amd64", "linux/arm/v7", and what runs on what."""

from __future__ import annotations

import os

from ..errors import ImageError, SpecError, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_ARCH = {
    "x86_64": "amd64", "x86-64": "amd64", "aarch64": "arm64", "armhf": "arm", "armel": "arm", "armv7l": "arm",
    "armv6l": "arm", "armv8l": "arm", "i386": "386", "i486": "386", "i586": "386", "i686": "386", "x86": "386",
    "ppc64el": "ppc64le", "loongarch64": "loong64",
}  # fmt: skip
_ARCH_VARIANT = {"armhf": "v7", "armel": "v6", "armv7l": "v7", "armv6l": "v6", "armv8l": "v8"}
_KNOWN = frozenset((
    "386", "amd64", "arm", "arm64", "loong64", "mips", "mips64", "mips64le", "mipsle", "ppc64", "ppc64le",
    "riscv64", "s390x", "wasm",
))  # fmt: skip
_LEVELS = (
    ("v2", "cx16 lahf_lm popcnt sse4_1 sse4_2 ssse3"),
    ("v3", "avx avx2 bmi1 bmi2 f16c fma abm movbe"),
    ("v4", "avx512f avx512bw avx512cd avx512dq avx512vl"),
)


class Platform:
    """os, architecture and variant by the names of the OCI image index (those of Go)."""

    __slots__ = ("architecture", "os", "os_features", "os_version", "variant")

    def __init__(
        self,
        os: str,
        architecture: str,
        variant: str = "",
        os_version: str = "",
        os_features: tuple[str, ...] = (),
    ) -> None:
        self.os = os
        self.architecture = architecture
        self.variant = variant
        self.os_version = os_version
        self.os_features = os_features

    @classmethod
    def parse(cls, text: object) -> Platform:
        """From "linux/arm64", "linux/arm/v7", or an architecture alone. Raises SpecError("platform", …)."""
        if isinstance(text, Platform):
            return text
        hint = 'use os/architecture[/variant], as "linux/amd64" or "linux/arm/v7"'
        if not isinstance(text, str):
            raise SpecError("platform", text, "is not a platform", hint)
        parts = text.strip().lower().split("/")
        if len(parts) == 1:
            word = parts[0]
            if word not in _KNOWN and word not in _ARCH:
                if word == "linux":
                    return host_platform()
                raise SpecError("platform", text, "is not a platform", hint)
            parts = ["linux", word]
        good = frozenset("abcdefghijklmnopqrstuvwxyz0123456789_.-")
        if len(parts) > 3 or not all(p and good.issuperset(p) for p in parts):
            raise SpecError("platform", text, "is not a platform", hint)
        return cls(*_normal(parts[0], parts[1], parts[2] if len(parts) == 3 else ""))

    @classmethod
    def from_json(cls, value: object, where: str = "platform") -> Platform:
        """From a descriptor's "platform", or from an image configuration. Raises ImageError."""
        if not isinstance(value, dict):
            raise ImageError(where, f"has a platform that is not an object: {shown(value)}")
        texts = [value.get(k) or "" for k in ("os", "architecture", "variant", "os.version")]
        features = value.get("os.features") or []
        if not all(isinstance(t, str) for t in texts) or not isinstance(features, list):
            raise ImageError(where, f"has a platform that is not made of strings: {shown(value)}")
        return cls(texts[0], texts[1], texts[2], texts[3], tuple(str(f) for f in features))

    def to_json(self) -> dict[str, Any]:
        made: dict[str, Any] = {"architecture": self.architecture, "os": self.os}
        for name, value in (("variant", self.variant), ("os.version", self.os_version)):
            if value:
                made[name] = value
        if self.os_features:
            made["os.features"] = list(self.os_features)
        return made

    def rank(self, other: Platform) -> int | None:
        """How well an image for `other` suits this platform: 0 is best, None not at all."""
        have = _normal(other.os, other.architecture, other.variant)
        want = _normal(self.os, self.architecture, self.variant)
        if have[0] != want[0]:
            return None
        level = _level() if self is _host and want[1] == "amd64" and have[1:] != ("amd64", "") else want[2]
        runs = _runs(want[1], level)
        return runs.index(have[1:]) if have[1:] in runs else None

    def __str__(self) -> str:
        return "/".join(p for p in (self.os, self.architecture, self.variant) if p)

    def __repr__(self) -> str:
        return f"Platform({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Platform) and self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash((self.os, self.architecture, self.variant))


def _normal(system: str, arch: str, variant: str) -> tuple[str, str, str]:
    """One spelling for what is the same: arm64/v8 is arm64, amd64/v1 is amd64, arm is arm/v7."""
    system = {"macos": "darwin"}.get(system.lower(), system.lower())
    variant = variant.lower() or _ARCH_VARIANT.get(arch.lower(), "")
    arch = _ARCH.get(arch.lower(), arch.lower())
    if variant and variant[0].isdigit():
        variant = "v" + variant
    if (arch, variant) in (("arm64", "v8"), ("amd64", "v1")):
        variant = ""
    if arch == "arm" and not variant:
        variant = "v7"
    return system, arch, variant


def _runs(arch: str, variant: str) -> list[tuple[str, str]]:
    """Architectures and variants that run on this one, best first."""
    found = []
    if arch == "amd64":
        level = int(variant[1:]) if variant[1:].isdigit() else 1
        found = [(arch, f"v{n}") for n in range(level, 1, -1)] + [(arch, ""), ("386", "")]
    elif arch == "arm64":
        if variant.startswith("v9"):
            found = [(arch, variant)]
        found += [(arch, "")] + [("arm", f"v{n}") for n in (8, 7, 6, 5)]
    elif arch == "arm" and variant[1:].isdigit():
        found = [(arch, f"v{n}") for n in range(int(variant[1:]), 4, -1)]
    return found or [(arch, variant)]


_host: Platform | None = None


def host_platform() -> Platform:
    """What this machine runs; asked for once a process."""
    global _host
    if _host is None:
        _host = Platform(*_normal("linux", os.uname().machine, ""))
    return _host


_found_level: str | None = None


def _level() -> str:
    """The x86-64 microarchitecture level of the processor ("" for the first), by its flags."""
    global _found_level
    if _found_level is not None:
        return _found_level
    flags: set[str] = set()
    try:
        with open("/proc/cpuinfo") as file:
            for line in file:
                if line.startswith("flags"):
                    flags = set(line.partition(":")[2].split())
                    break
    except OSError:
        pass
    level = ""
    for name, needed in _LEVELS:
        if not flags.issuperset(needed.split()):
            break
        level = name
    _found_level = level
    return level
