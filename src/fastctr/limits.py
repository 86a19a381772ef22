"""Resource limits by name, for a spec, for one launch, and for Container.update().

The names are Docker's where Docker has one; the files they end in are those of the kernel's
cgroup-v2.rst and cgroup-v1/*.rst.
"""

from __future__ import annotations

from . import limits_io, units
from .errors import SpecError, UnknownField

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

UNSET = units.UNSET


def _unlimited(field: str, value: object) -> int:
    """A count above zero, or -1 for none; Docker's 0 means none too."""
    if isinstance(value, str) and value.strip().lower() in ("max", "unlimited"):
        return -1
    return units.integer(field, value, -1, 2**22, "a count, or -1 for no limit,") or -1


def _memory(field: str, value: object) -> int:
    return units.size(field, value, 65536, unlimited=True)


def _cpus(field: str, value: object) -> int:
    """Cpus as thousandths, at least 0.01 (the kernel's shortest quota is 1 ms)."""
    hint = 'use a number from 0.01 to 8192 (as 0.5 or "1.5")'
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            raise SpecError(field, value, "is not a number of cpus", hint) from None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise SpecError(field, value, "is not a number of cpus", hint)
    if not 0.01 <= value <= 8192:
        raise SpecError(field, value, "is out of range", hint)
    return round(value * 1000)


def _quota(field: str, value: object) -> int:
    number = units.integer(field, value, -1, 2**44, "microseconds, or -1 for no limit,")
    if 0 <= number < 1000:
        raise SpecError(field, value, "is too short", "use at least 1000 microseconds, or -1 for no limit")
    return number


def _range(low: int, high: int, what: str = "a whole number") -> Callable[[str, object], int]:
    return lambda field, value: units.integer(field, value, low, high, what)


def _idle(field: str, value: object) -> int:
    return int(value) if isinstance(value, bool) else units.integer(field, value, 0, 1)


def _online(field: str, value: object) -> str:
    numbers = units.cpu_list(field, value)
    name = "cpu/possible" if field == "cpuset_cpus" else "node/possible"
    try:
        with open(f"/sys/devices/system/{name}") as file:
            there = units.cpu_list(field, file.read().strip())
    except (OSError, SpecError):
        there = ()  # a kernel without NUMA has no node list
    missing = [number for number in numbers if there and number not in there]
    if missing:
        what = "cpu" if field == "cpuset_cpus" else "memory node"
        raise SpecError(
            field,
            value,
            f"has no such {what} here: {missing[0]}",
            f"this machine has {units.list_text(there)}",
        )
    return units.list_text(numbers)


def _hugetlb(field: str, value: object) -> tuple[tuple[str, int], ...]:
    if not isinstance(value, dict):
        raise SpecError(field, value, "is not a dict", 'use {"2MB": "64m"}')
    found = []
    for name, amount in value.items():
        unit = str(name)[-2:].upper()
        if unit not in ("KB", "MB", "GB") or not str(name)[:-2].isdigit():
            raise SpecError(
                f"{field}[{name!r}]", name, "is not a size of huge pages", 'use names as "2MB" or "1GB"'
            )
        found.append((str(name)[:-2] + unit, units.size(f"{field}[{name!r}]", amount)))
    return tuple(sorted(found))


def _unified(field: str, value: object) -> tuple[tuple[str, str], ...]:
    if not isinstance(value, dict):
        raise SpecError(field, value, "is not a dict", 'use {"memory.high": "32m"}')
    found = []
    for name, amount in value.items():
        key = units.text(field, name)
        where = f"{field}[{key!r}]"
        if "/" in key or "." not in key.strip("."):
            raise SpecError(where, key, "is not a file of a control group", 'use names as "memory.high"')
        if key.startswith("cgroup."):
            raise SpecError(
                where, key, "is the group's own switch, not a limit", 'use names as "memory.high"'
            )
        text = units.text(where, str(amount) if isinstance(amount, int) else amount)
        if key.startswith("memory.") and text.lower() != "max" and text[-1:].isalpha():
            text = str(units.size(where, text))
        found.append((key, text))
    return tuple(sorted(found))


# name: its parser. What the parsers return is what is compared and hashed.
FIELDS: dict[str, Callable[[str, object], Any]] = {
    "memory": _memory,
    "memory_swap": lambda f, v: units.size(f, v, 0, unlimited=True),
    "memory_reservation": _memory,
    "memory_swappiness": _range(0, 100, "a percentage"),
    "cpus": _cpus,
    "cpu_quota": _quota,
    "cpu_period": _range(1000, 1000000, "microseconds"),
    "cpu_burst": _range(0, 2**44, "microseconds"),
    "cpu_weight": _range(1, 10000, "a weight"),
    "cpu_shares": _range(2, 262144, "shares"),
    "cpu_idle": _idle,
    "cpuset_cpus": _online,
    "cpuset_mems": _online,
    "pids": _unlimited,
    "io_weight": _range(1, 10000, "a weight"),
    "blkio_weight": limits_io.blkio,
    "blkio_weight_device": limits_io.per_device("weight", limits_io.blkio),
    "io_max": limits_io.io_max,
    "device_read_bps": limits_io.per_device("rbps", limits_io.rate),
    "device_write_bps": limits_io.per_device("wbps", limits_io.rate),
    "device_read_iops": limits_io.per_device("riops", limits_io.iops),
    "device_write_iops": limits_io.per_device("wiops", limits_io.iops),
    "hugetlb": _hugetlb,
    "unified": _unified,
}
ALIASES = {
    "pids_limit": "pids",
    "mem_limit": "memory",
    "memswap_limit": "memory_swap",
    "mem_reservation": "memory_reservation",
    "mem_swappiness": "memory_swappiness",
}

_RIVALS = {
    "cpus": ("cpu_quota", "cpu_period"),
    "cpu_quota": ("cpus",),
    "cpu_period": ("cpus",),
    "cpu_weight": ("cpu_shares",),
    "cpu_shares": ("cpu_weight",),
    "io_weight": ("blkio_weight",),
    "blkio_weight": ("io_weight",),
}


class Limits:
    """Limits of one control group; immutable, compared by content.

    memory              most bytes of memory ("64m"; -1 none): more, and the kernel kills ("oom")
    memory_swap         memory and swap together, as Docker's --memory-swap (-1 no limit on swap). Left
                        away it is twice memory where the machine has swap
    memory_reservation  bytes below which memory is reclaimed last (v1 soft limit, v2 memory.low)
    memory_swappiness   0..100, v1 only
    cpus                cpus' worth of time (0.5); or cpu_quota of every cpu_period µs; cpu_burst µs saved
    cpu_weight          1..10000 against other groups; or cpu_shares 2..262144; cpu_idle: only idle time
    cpuset_cpus         which cpus ("0-3"); cpuset_mems: which memory nodes
    pids                most processes and threads (-1 or 0: no limit); pids_limit is the same
    io_weight           1..10000; or blkio_weight 10..1000 as Docker's, blkio_weight_device ["/dev/sda:200"]
    io_max              {"/dev/sda": {"rbps": "1m", "wbps":…, "riops":…, "wiops":…}}; or Docker's
                        device_read_bps, device_write_bps, device_read_iops, device_write_iops lists
    hugetlb             {"2MB": "64m"}
    unified             raw v2 files {"memory.high": "32m"}

    Raises SpecError for a value that cannot work, UnknownField for a name that is not there.
    """

    __slots__ = ("_given", "key")
    _given: dict[str, Any]
    key: tuple[Any, ...]

    def __init__(self, **given: Any) -> None:
        parsed: dict[str, Any] = {}
        for name, value in given.items():
            field = ALIASES.get(name, name)
            parser = FIELDS.get(field)
            if parser is None:
                raise UnknownField(name, FIELDS, "Limits")
            if value is None:
                continue
            if field in parsed:
                raise SpecError(name, value, f"is given twice, also as {field}", "give one of them")
            parsed[field] = parser(name, value)
        _agree(parsed)
        object.__setattr__(self, "_given", parsed)
        object.__setattr__(self, "key", tuple(sorted(parsed.items())))

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("Limits cannot be changed; make another")

    __delattr__ = __setattr__  # type: ignore[assignment]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or (name := ALIASES.get(name, name)) not in FIELDS:
            raise AttributeError(f"Limits has no field {name!r}")
        value = self._given.get(name)
        return value / 1000 if name == "cpus" and value is not None else value

    def __eq__(self, other: object) -> bool:
        return self.key == other.key if isinstance(other, Limits) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.key)

    def __bool__(self) -> bool:
        return bool(self._given)

    def __repr__(self) -> str:
        return f"Limits({', '.join(f'{name}={getattr(self, name)!r}' for name in sorted(self._given))})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (self._given,)

    def merged(self, other: Limits) -> Limits:
        """These limits with the other's in their place where both say something. Raises SpecError."""
        if not other._given:
            return self
        given = dict(self._given)
        for name in other._given:
            for rival in _RIVALS.get(name, ()):
                given.pop(rival, None)
        if "memory" in other._given and "memory_swap" not in other._given:
            given.pop("memory_swap", None)
        given.update(other._given)
        _agree(given)
        return _restore(given)

    def to_native(self) -> dict[str, Any]:
        """The members of struct fctr_limits (csrc/fctr.h); UNSET (-2**63) where nothing is said."""
        get = self._given.get
        memory, swap = get("memory", UNSET), get("memory_swap", UNSET)
        if swap == UNSET and memory not in (UNSET, -1) and _has_swap():
            swap = min(memory * 2, units.MAX)
        quota, period = get("cpu_quota", UNSET), get("cpu_period", UNSET)
        if "cpus" in self._given:
            quota, period = self._given["cpus"] * 100, 100000
        weight = get("io_weight", UNSET)
        if "blkio_weight" in self._given:
            weight = limits_io.v2_weight(self._given["blkio_weight"])
        return {
            "cpu_quota_us": quota,
            "cpu_period_us": period,
            "cpu_burst_us": get("cpu_burst", UNSET),
            "cpu_weight": get("cpu_weight", UNSET),
            "cpu_shares": get("cpu_shares", UNSET),
            "cpu_idle": get("cpu_idle", UNSET),
            "cpuset_cpus": get("cpuset_cpus"),
            "cpuset_mems": get("cpuset_mems"),
            "memory_max": memory,
            "memory_soft": get("memory_reservation", UNSET),
            "memory_swap_max": swap,
            "memory_swappiness": get("memory_swappiness", UNSET),
            "pids_max": get("pids", UNSET),
            "io_weight": weight,
            "io": limits_io.devices(self._given),
            "huge": list(get("hugetlb", ())),
            "unified": list(get("unified", ())),
        }


def _restore(given: dict[str, Any]) -> Limits:
    """Limits from what parsers returned, which is not parsed again."""
    made = Limits.__new__(Limits)
    object.__setattr__(made, "_given", given)
    object.__setattr__(made, "key", tuple(sorted(given.items())))
    return made


def _has_swap() -> bool:
    try:
        with open("/proc/swaps", "rb") as file:
            return file.read(4096).count(b"\n") > 1
    except OSError:
        return False


def _agree(given: dict[str, Any]) -> None:
    """Refuse limits that contradict each other."""
    get = given.get
    for name in given:
        for rival in _RIVALS.get(name, ()):
            if rival in given:
                raise SpecError(
                    name, getattr(_restore(given), name), f"cannot go with {rival}", "give one of them"
                )
    memory, swap, soft = get("memory"), get("memory_swap"), get("memory_reservation")
    if swap is not None and swap != -1:
        if memory is None or memory == -1:
            raise SpecError(
                "memory_swap", swap, "needs memory", "it is the sum of memory and swap; give memory= too"
            )
        if swap < memory:
            raise SpecError(
                "memory_swap",
                swap,
                f"is below memory ({memory})",
                "it is the sum of memory and swap: give the same for no swap at all",
            )
    if soft is not None and memory is not None and -1 not in (soft, memory) and soft > memory:
        raise SpecError("memory_reservation", soft, f"is above memory ({memory})", "use less than memory")
    burst, quota = get("cpu_burst"), get("cpu_quota", get("cpus", 0) * 100)
    if burst and (quota <= 0 or burst > quota):
        raise SpecError(
            "cpu_burst",
            burst,
            f"is above the quota ({max(quota, 0)} microseconds)",
            "give cpus or cpu_quota, and at most that",
        )
