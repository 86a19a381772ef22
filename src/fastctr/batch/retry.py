"""Which outcomes are tried again, how often, and after how long."""

from __future__ import annotations

from .. import units
from ..errors import SpecError, nearest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

OUTCOMES = ("error", "failed", "timeout", "oom", "signal")
LONGEST = 60.0
"""Seconds: doubling the delay ends here, unless the first one is longer."""


class Retry:
    """times: how often again; on: after which outcomes; delay: seconds before the first, doubled each time."""

    __slots__ = ("delay", "on", "times")

    def __init__(self, times: int = 0, on: frozenset[str] = frozenset(OUTCOMES), delay: float = 0.0) -> None:
        self.times = times
        self.on = on
        self.delay = delay

    def after(self, attempts: int) -> float:
        """Seconds to wait once so many attempts have failed."""
        return min(self.delay * 2.0 ** min(attempts - 1, 60), max(LONGEST, self.delay))


def outcomes(field: str, value: Any) -> frozenset[str]:
    """A list of outcomes, or one text of them with commas."""
    words = value.split(",") if isinstance(value, str) else units.items(field, value)
    found = set()
    for word in words:
        text = str(word).strip().replace("non-zero", "failed").replace("launch", "error")
        if text not in OUTCOMES:
            close = nearest(text, OUTCOMES)
            hint = f'did you mean "{close}"?' if close else f"use {', '.join(OUTCOMES)}"
            raise SpecError(field, word, "is not an outcome to retry", hint)
        found.add(text)
    return frozenset(found)


def times_of(field: str, value: Any) -> int:
    """How often again. Raises SpecError."""
    return units.integer(field, value, 0, 1000, "how often to try again,")


def retry_of(field: str, value: Any, base: Retry) -> Retry:
    """A count, or {"times": 3, "on": ["oom", "timeout"], "delay": "1s"}. Raises SpecError."""
    if not isinstance(value, dict):
        return Retry(times_of(field, value), base.on, base.delay)
    for name in value:
        if name not in ("times", "on", "delay"):
            close = nearest(name, ("times", "on", "delay"))
            hint = f'did you mean "{close}"?' if close else "use times, on, delay"
            raise SpecError(f"{field}.{name}", name, "is not a field of retries", hint)
    return Retry(
        times_of(f"{field}.times", value.get("times", base.times or 1)),
        outcomes(f"{field}.on", value["on"]) if "on" in value else base.on,
        units.duration_ns(f"{field}.delay", value["delay"]) / 10**9 if "delay" in value else base.delay,
    )
