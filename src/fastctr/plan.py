"""Plan: a spec compiled once, launched any number of times from any thread."""

from __future__ import annotations

import os
import threading
import weakref

from . import _core, context
from .errors import SpecError
from .launch_args import IMAGE_FIELDS, argv_of, split
from .spec import Spec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .container import Container
    from .from_image import Use
    from .results import Completed

_CACHE_MAX = 64
_cache: dict[Spec | tuple[Spec, Use], Plan] = {}
_cache_lock = threading.Lock()
_all: weakref.WeakSet[Plan] = weakref.WeakSet()


class Plan:
    """Compile a spec once. The keywords are those of `Spec`, or give a Spec; and those of an image's
    containers, as of run(): image, pull, platform, snapshotter, entrypoint, root.

    Raises SpecError before anything is made, ImageNotFound and other ImageErrors for an image that cannot
    be had, LaunchError for a group or namespace that cannot be had.
    """

    __slots__ = ("__weakref__", "_compiled", "_env", "_exec", "_generation", "_lock", "homes", "image", "spec")

    def __init__(self, spec: Spec | None = None, *, use: Use | None = None, **given: Any) -> None:
        if given and not IMAGE_FIELDS.isdisjoint(given):
            from .from_image import spec_of

            options = {name: given.pop(name) for name in list(given) if name in IMAGE_FIELDS}
            spec, use = spec_of(options, given, spec, Spec)
        elif spec is None:
            spec = Spec(**given)
        elif given:
            spec = spec.replace(**given)
        self.spec = spec
        self.image = use
        """What the image asks for (config, entrypoint, cmd, id), or None without an image."""
        self._lock = threading.Lock()
        self._compiled: _core.Plan | None = None
        self._exec: _core.Plan | None = None
        self._env: list[bytes] | None = None
        self._generation = -1
        self.homes: dict[tuple[str | None, int, int], bytes] = {}  # of launches by other users
        _all.add(self)

    def core(self) -> _core.Plan:
        """The compiled plan of this process, compiled now if need be."""
        compiled = self._compiled  # another thread may close() meanwhile
        if compiled is not None and self._generation == context.generation:
            return compiled
        with self._lock:
            if self._compiled is None or self._generation != context.generation:
                if self.image is not None:
                    self.image.hold()
                self._compiled = self._compile()
                self._exec = None
                self._generation = context.generation
            return self._compiled

    def _compile(self) -> _core.Plan:
        return compile_spec(self.spec)

    def exec_core(self) -> _core.Plan:
        """The plan of a command that joins a running container of this plan."""
        with self._lock:
            if self._exec is None or self._generation != context.generation:
                self._exec = compile_exec(self.spec)
            return self._exec

    def env(self, env: Any, tty: bool = False) -> list[bytes]:
        """The environment of a launch as b"NAME=value"."""
        if env or tty:
            return self.spec.environment(env, tty)
        if self._env is None:
            self._env = self.spec.environment()
        return self._env

    @property
    def copies(self) -> bool:
        """Whether each of its containers gets a copy of the image's files (snapshotter "vfs")."""
        if self.image is None or not self.image.copies:
            return False
        return self.spec.rootfs is self.image.layers and not self.spec.read_only and self.spec.upper is None

    @property
    def prepares(self) -> bool:
        """Whether its containers can be made ahead of their start: not with a kept upperdir, a mount namespace that
        is not their own, or files to copy."""
        return self.spec.upper is None and self.spec.mnt[0] == "new" and not self.copies

    def argv(self, argv: Any) -> list[Any]:
        """The command of a launch: as given, or as an image completes it."""
        return argv_of(argv) if self.image is None else self.image.argv(argv)

    def run(self, argv: Any = None, **kw: Any) -> Completed:
        """As fastctr.run(), of this plan."""
        from .api import run_plan

        if self.copies:
            from .from_image import Copied

            with Copied(self) as own:
                return run_plan(own, argv, **kw)
        return run_plan(self, argv, **kw)

    def container(self, argv: Any = None, **kw: Any) -> Container:
        """As fastctr.Container(), of this plan."""
        from .container import Container

        return Container(argv, plan=self, **kw)

    def warm(self, n: int = 1) -> None:
        """Prepare n containers now, so that the next n starts find everything made but their process.

        Raises LaunchError as a start would. Prepared ones go when the plan is not used for a while.
        """
        if not isinstance(n, int) or not 0 <= n <= 1024:
            raise ValueError(f"n: {n!r} is not a number from 0 to 1024")
        if self.copies:
            return  # each has files of its own, which are copied when it starts
        self.core().warm(n)

    def close(self) -> None:
        """Let go of what is prepared. Running containers stay; the plan can be used again."""
        with self._lock:
            both, self._compiled, self._exec = (self._compiled, self._exec), None, None
        for compiled in both:
            if compiled is not None and self._generation == context.generation:
                compiled.close()

    def __enter__(self) -> Plan:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Plan({self.spec!r})"


def given_plan(plan: Plan | None, spec: Spec | None, fields: dict[str, Any]) -> Plan:
    """The plan somebody was given, or the one of spec and fields. Raises SpecError for both."""
    if plan is None:
        return Plan(spec, **fields)
    if spec is not None or fields:
        name = "spec" if spec is not None else next(iter(fields))
        raise SpecError(name, fields.get(name, spec), "cannot go with plan", "give one of them")
    return plan


def plan_of(kw: dict[str, Any], spec: Spec | None = None) -> Plan:
    """The cached plan of the container's keywords, which are taken out of kw, over those of a spec."""
    given = split(kw)
    if not IMAGE_FIELDS.isdisjoint(kw):
        from .from_image import plan_of as of_image

        return of_image({name: kw.pop(name) for name in list(kw) if name in IMAGE_FIELDS}, given, spec)
    return plan_for(spec.replace(**given) if spec is not None and given else spec or Spec(**given))


def plan_for(spec: Spec, use: Use | None = None) -> Plan:
    """The cached plan of a spec: the same content gives the same plan. The 64 last used are kept."""
    key = spec if use is None else (spec, use)
    with _cache_lock:
        plan = _cache.pop(key, None)
        if plan is None:
            plan = Plan(spec, use=use)
        _cache[key] = plan
        old = _cache.pop(next(iter(_cache))) if len(_cache) > _CACHE_MAX else None
    del old  # closed with its last user: another thread may be about to launch it
    return plan


def close_all() -> None:
    """Close every plan of this process; also the cached ones."""
    with _cache_lock:
        _cache.clear()
    for plan in list(_all):
        plan.close()
    _close_user_namespaces()


def _close_user_namespaces() -> None:
    """Plans have duplicates of their own."""
    while _userns:
        os.close(_userns.popitem()[1])


def _after_fork() -> None:
    global _cache_lock, _scratch_lock
    _cache_lock = threading.Lock()
    _scratch_lock = threading.Lock()
    _scratch.clear()  # the parent's
    _close_user_namespaces()
    for plan in list(_all):
        plan._lock = threading.Lock()
        for compiled in (plan._compiled, plan._exec):
            if compiled is not None:
                compiled.forget()
        plan._compiled = plan._exec = None


context.on_fork(_after_fork)


# ---- compiling


class _Fds:
    """Descriptors opened for a compile: the core duplicates what it keeps."""

    def __init__(self) -> None:
        self.open: list[int] = []

    def add(self, fd: int) -> int:
        self.open.append(fd)
        return fd

    def close(self) -> None:
        for fd in self.open:
            os.close(fd)
        self.open.clear()


def _open_namespace(kind: str, how: tuple[str, Any], fds: _Fds) -> int:
    from .errors import LaunchError

    way, value = how
    try:
        if way == "path":
            return fds.add(os.open(value, os.O_RDONLY | os.O_CLOEXEC))
        if way == "pid":
            return fds.add(os.open(f"/proc/{value}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC))
        return fds.add(os.dup(value))
    except OSError as error:
        raise LaunchError("namespace", error.errno or 0, f"{kind} {way}:{value}",
                          "the namespace to join is gone; name one of a running process") from None


_userns: dict[tuple[Any, ...], int] = {}
_scratch: dict[str, str] = {}
_scratch_lock = threading.Lock()


def user_namespace(uids: Any, gids: Any) -> int:
    """A user namespace of these maps, made once a process; its descriptor is ours to keep."""
    key = (context.generation, tuple(map(tuple, uids)), tuple(map(tuple, gids)))
    fd = _userns.get(key)
    if fd is None:
        fd = _userns[key] = new_user_namespace(uids, gids)
    return fd


def new_user_namespace(uids: Any, gids: Any) -> int:
    """One that nobody else has; the descriptor is the caller's. Raises LaunchError."""
    helpers: list[str | None] = [None, None]
    if os.geteuid() != 0:
        own = (len(uids) == 1 and tuple(uids[0])[1:] == (os.geteuid(), 1),
               len(gids) == 1 and tuple(gids[0])[1:] == (os.getegid(), 1))
        import shutil

        for i, name in enumerate(("newuidmap", "newgidmap")):
            if not own[i]:
                helpers[i] = shutil.which(name)
                if helpers[i] is None:
                    from .errors import LaunchError

                    raise LaunchError("idmap", 2, name, "ranges of /etc/subuid need newuidmap and newgidmap: "
                                      "install the package uidmap")
    return _core.userns_create(list(uids), list(gids), *helpers)


def _prepare_scratch(native: dict[str, Any]) -> None:
    """Thrown-away layers on disk lie in a directory of this process's own, noted for the sweep."""
    if not native["scratch"]:
        return
    core = context.get()
    with _scratch_lock:
        path = _scratch.get(native["scratch"])
        if path is None:
            path = os.path.join(native["scratch"], f"fastctr-{os.getpid()}-{os.urandom(4).hex()}")
            core.note_scratch(path)
            os.mkdir(path, 0o700)
            _scratch[native["scratch"]] = path
    native["scratch"] = path


def remove_scratch() -> None:
    """At the end of this process's context, once everything in them is torn down."""
    with _scratch_lock:
        paths = list(_scratch.values())
        _scratch.clear()
    if paths:
        import shutil

        for path in paths:
            shutil.rmtree(path, True)


def compile_spec(spec: Spec, userns: int | None = None, zygote: bool = False,
                 tenant: bool = False) -> _core.Plan:
    """userns: the descriptor of the user namespace to use in place of the shared one of these maps; zygote: for
    containers that a zygote forks itself into; tenant: for slots."""
    core = context.get()
    native = spec.to_native()
    native["zygote"] = zygote
    native["tenant"] = tenant
    _prepare_scratch(native)
    if native["upper"]:
        for path in (native["upper"], native["upper"] + ".work"):
            os.makedirs(path, 0o755, exist_ok=True)
    fds = _Fds()
    try:
        ns_fds = {name: _open_namespace(name, how[1], fds)
                  for name, how in native["ns"].items() if how[0] == "join"}
        if native["ns"]["user"][0] == "new":
            ns_fds["user"] = user_namespace(native["uid_map"], native["gid_map"]) if userns is None else userns
        idmap_fds = {tuple(m["idmap"]): user_namespace(m["idmap"], m["idmap"]) for m in native["mounts"]
                     if m["idmap"] is not None and (userns is None or m["idmap"] != native["uid_map"])}
        if userns is not None and native["uid_map"] == native["gid_map"]:
            idmap_fds[tuple(native["uid_map"])] = userns
        plan = _core.Plan(core, native, ns_fds, idmap_fds)
    finally:
        fds.close()
    context.sweep_once()
    return plan


def compile_exec(spec: Spec) -> _core.Plan:
    """The same process attributes, every namespace joined; which ones is told by the target's pidfd."""
    core = context.get()
    native = spec.to_native()
    native.update(rootfs_kind=0, rootfs=None, lower=[], upper=None, scratch=None, mounts=[], devices=[], dev=False,
                  masked=[], readonly=[], sysctl=[], hostname=None, domainname=None, init=False, cgroup=False,
                  devrules=[], cwd_create=False)
    native["ns"] = {name: ("host", None) if how[0] == "host" else ("join", None)
                    for name, how in native["ns"].items()}
    null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)  # any descriptor: the target's takes its place
    try:
        return _core.Plan(core, native, {name: null for name, how in native["ns"].items() if how[0] == "join"}, {})
    finally:
        os.close(null)
