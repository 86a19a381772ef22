"""The plans of a batch: jobs that say the same of their container share one."""

from __future__ import annotations

import threading
import time

from ..errors import FastctrError, SpecError
from ..launch_args import IMAGE_FIELDS
from ..limits import ALIASES, Limits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ..plan import Plan
    from ..pool import Pool
    from ..results import Completed
    from .jobs import Job

KEPT = 64
POOL_AFTER, POOLS, POOL_SIZE = 8, 8, 8
"""With so many jobs alike they get a pool, and so many pools of so many there are at most."""
VARIANTS = 16
"""So many sets of limits get a plan of their own, with containers prepared; further ones are set at the start."""
AGAIN = 5.0
"""Seconds until an image that could not be had is asked for again."""
_OF_IMAGES = sorted(IMAGE_FIELDS - {"image"})


class Entry:
    """What jobs have in common: a plan once it is needed, a pool once there are some, what they use."""

    __slots__ = (
        "_failed",
        "_lock",
        "call",
        "given",
        "has_command",
        "memory",
        "peak_memory",
        "peak_pids",
        "pids",
        "plan",
        "pool",
        "used",
        "variants",
    )

    def __init__(self, given: dict[str, Any]) -> None:
        from ..spec import Spec

        self.given = given
        self.plan: Plan | None = None
        self.pool: Pool | None = None
        self.call: Callable[..., Completed] | None = None
        """plan.run or pool.run."""
        self.used = 0
        checked = {name: value for name, value in given.items() if name not in IMAGE_FIELDS}
        self.has_command = "image" in given
        if self.has_command:
            checked["rootfs"] = "host"  # the image is looked for when a job starts; what else is wrong shows now
        spec = Spec(**checked)
        self.memory, self.pids = needs(spec.limits)
        self.peak_memory = self.peak_pids = 0
        self.variants: dict[str, Entry] = {}
        self._lock = threading.Lock()
        self._failed: tuple[float, FastctrError] | None = None

    def make(self) -> Callable[..., Completed]:
        """What runs a job of the plan; the first caller makes it. Raises LaunchError, ImageError, SpecError."""
        with self._lock:
            if self.call is None:
                if self._failed is not None and time.monotonic() < self._failed[0]:
                    raise self._failed[1].with_traceback(None)
                from ..plan import plan_of

                try:
                    self.plan = plan_of(dict(self.given), None)
                    self.call = self.plan.run
                except FastctrError as error:
                    self._failed = time.monotonic() + AGAIN, error
                    raise
            return self.call

    def keep_ready(self, size: int) -> Pool | None:
        """Have containers ready before they are asked for; None if that is so already."""
        with self._lock:
            if self.pool is not None or self.plan is None:
                return None
            from ..pool import Pool

            self.pool = Pool(self.plan, size=size)
            self.call = self.pool.run
            return self.pool


def needs(limits: Limits) -> tuple[int | None, int | None]:
    """(bytes of memory, processes) at most, None where there is no limit."""
    memory, pids = limits.memory, limits.pids
    return (None if memory in (None, -1) else memory), (None if pids in (None, -1) else pids)


class Plans:
    """Entries by the fields they were made of; the last used are kept."""

    def __init__(self, defaults: dict[str, Any]) -> None:
        self._defaults = {name: value for name, value in defaults.items() if value is not None}
        self._entries: dict[str, Entry] = {}
        self._limits: dict[str, tuple[Limits, int | None, int | None]] = {}
        self._variants = 0
        self._shell: Entry | None = None
        self._pools: list[Pool] = []
        if "image" in self._defaults and "rootfs" in self._defaults:
            raise SpecError("rootfs", self._defaults["rootfs"], "cannot go with image", "give one of them")
        self.default = self._new({}, False)

    def entry(self, fields: dict[str, Any], shell: bool = False) -> Entry:
        """The entry of a job's own fields over the defaults. shell: it brings a shell's command line, which
        an image's entrypoint is not put before. Raises SpecError."""
        if not fields:
            if not shell or "image" not in self._defaults:
                return self.default
            if self._shell is None:
                self._shell = self._new({}, True)
            return self._shell
        key = f"{shell}{fields!r}"
        found = self._entries.pop(key, None)
        if found is None:
            found = self._new(fields, shell)
            if len(self._entries) >= KEPT:
                del self._entries[next(iter(self._entries))]
        self._entries[key] = found
        return found

    def _new(self, fields: dict[str, Any], shell: bool) -> Entry:
        base = dict(self._defaults)
        if "rootfs" in fields:
            if "image" in fields:
                raise SpecError("rootfs", fields["rootfs"], "cannot go with image", "give one of them")
            for name in IMAGE_FIELDS:
                base.pop(name, None)
        elif "image" in fields:
            base.pop("rootfs", None)
        given = {**base, **fields}
        if "image" in given:
            if not isinstance(given["image"], str) and not hasattr(given["image"], "reference_for_run"):
                raise SpecError("image", given["image"], "is not an image", 'use a name as "alpine", or an id')
            if isinstance(given["image"], str):
                from ..image_args import check_name

                check_name(given["image"])
            if shell:
                if given.get("entrypoint"):
                    hint = "give argv, or leave entrypoint away"
                    raise SpecError("cmd", given["entrypoint"], "cannot go with an entrypoint", hint)
                given["entrypoint"] = ""
        else:
            for name in _OF_IMAGES:
                if given.get(name) is not None:
                    raise SpecError(name, given[name], "is about images", 'add "image"')
            given.setdefault("rootfs", "host")
        if not given.get("read_only") and given.get("writable") != "direct":
            given.setdefault("cwd_create", True)
        return Entry(given)

    def keep_ready(self, entry: Entry, workers: int) -> None:
        """Give an entry that has enough jobs a pool, as long as there are not too many."""
        entry.used = -(1 << 62)  # asked once
        if len(self._pools) < POOLS:
            pool = entry.keep_ready(min(2 * workers, POOL_SIZE))
            if pool is not None:
                self._pools.append(pool)

    def close(self) -> None:
        """Let go of what is ready. Harmless if done twice."""
        while self._pools:
            self._pools.pop().close()

    def limit(self, job: Job, limits: dict[str, Any]) -> None:
        """Give a job limits of its own, over those it has. Raises SpecError."""
        key = repr(limits)
        variant = job.entry.variants.get(key)
        if variant is None and self._variants < VARIANTS:
            self._variants += 1
            named = {ALIASES.get(name, name): value for name, value in limits.items()}
            base = {ALIASES.get(name, name): value for name, value in job.entry.given.items()}
            if "memory" in named and "memory_swap" not in named:
                base.pop("memory_swap", None)
            variant = job.entry.variants[key] = Entry({**base, **named})
        if variant is not None:
            job.entry = variant
            job.memory, job.pids = variant.memory, variant.pids
            return
        made = self._limits.get(key)
        if made is None:
            parsed = Limits(**limits)
            made = (parsed, *needs(parsed))
            if len(self._limits) >= 256:
                self._limits.clear()
            self._limits[key] = made
        job.launch["limits"] = made[0]
        if made[0].memory is not None:
            job.memory = made[1]
        if made[0].pids is not None:
            job.pids = made[2]
