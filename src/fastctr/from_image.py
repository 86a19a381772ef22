"""An image as the root of containers: its layers, and what its config asks for.

`use()` finds the image (pulling it by policy) and makes a Use of it, which is remembered for as long as
the store's index stays as it is; a start from it then costs one stat more than one from a directory. The
layers are held by a lease of this process while plans of it use them, until shutdown() or its end.
"""

from __future__ import annotations

import os
import threading

from . import context, process, units
from .errors import ImageError, ImageNotFound, SpecError, StoreError
from .image import facts_path, index_stamp
from .image_args import POLICIES, check_name, entrypoint_of, signal_number, store_root
from .roots import Layers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .image.leases import Lease
    from .plan import Plan
    from .spec import Spec

_lock = threading.Lock()
_finding: dict[tuple[Any, ...], threading.Lock] = {}
"""One for each image that is being looked for: pulling one must not keep another from starting."""
_uses: dict[tuple[Any, ...], tuple[tuple[int, ...], Use]] = {}
_leases: dict[str, Lease] = {}
_held: set[tuple[str, str, tuple[str, ...]]] = set()


class Use:
    """One image for containers: immutable, compared by identity. `config` is the image's, as Docker's
    "Config"; id its config's digest; names the references it had when it was looked up."""

    __slots__ = (
        "_fields",
        "_volumes",
        "architecture",
        "chains",
        "cmd",
        "config",
        "entrypoint",
        "env",
        "id",
        "layers",
        "manifest",
        "names",
        "root",
        "snapshotter",
        "stop_signal",
        "text",
    )  # fmt: skip

    def __init__(self, text: str, root: str, facts: dict[str, Any], entrypoint: tuple[str, ...] | None) -> None:
        config = facts["config"]
        self.text = text
        self.root = root
        self.id: str = facts["id"]
        self.manifest: str = facts["manifest"]
        self.names: tuple[str, ...] = tuple(facts["names"])
        self.architecture: str = facts["architecture"]
        self.chains: tuple[str, ...] = tuple(facts["chains"])
        self.snapshotter: str = facts["snapshotter"]
        self.config: dict[str, Any] = config
        self.layers = Layers(facts["roots"])
        self.layers.identity = (self.snapshotter, root, self.chains[-1:])
        self.layers.place = os.path.join(root, "layers")
        self.entrypoint = tuple(config["Entrypoint"] or ()) if entrypoint is None else entrypoint
        self.cmd = tuple(config["Cmd"] or ()) if entrypoint is None else ()  # Docker's rule
        fields: dict[str, Any] = {"rootfs": self.layers}
        try:
            self.env = dict(process.env("env", config["Env"] or ()))
            self._volumes = {
                units.inside_path("volumes", path): facts["volumes"][path] for path in config["Volumes"] or ()
            }
            if config["WorkingDir"]:
                fields["cwd"] = _working_dir(config["WorkingDir"])
                units.inside_path("cwd", fields["cwd"], root=True)
            self.stop_signal = signal_number(config["StopSignal"], "StopSignal") if config["StopSignal"] else None
            if config["User"]:
                fields["user"] = config["User"]
                process.user("user", config["User"])
        except SpecError as error:
            raise ImageError(text, f"its config asks for what cannot be done: {error}") from None
        if self.env:
            fields["env"] = self.env
        self._fields = fields

    @property
    def copies(self) -> bool:
        """Whether every container gets a copy of the files of its own."""
        return self.snapshotter == "vfs"

    def argv(self, argv: Any) -> list[Any]:
        """Docker's rule: the entrypoint, and what was given or else the image's command."""
        from .launch_args import argv_of

        values = [*self.entrypoint, *(argv_of(argv) if argv is not None and argv != [] and argv != () else self.cmd)]
        if not values:
            raise SpecError(
                "argv", argv, f"is empty, and the image {self.text} names no command", "give the command to run"
            )
        return argv_of(values)

    def fields(self, given: dict[str, Any]) -> dict[str, Any]:
        """The fields of a Spec: the image's, and over them those given."""
        fields = dict(self._fields)
        for name, value in given.items():
            if value is not None:
                fields[name] = value
        if fields["rootfs"] is not self.layers:
            raise SpecError("rootfs", given["rootfs"], "cannot go with image", "give one of them")
        if given.get("writable") == "direct":
            hint = 'use "tmpfs", "disk" or upper='
            raise SpecError("writable", "direct", "would change the image itself", hint)
        if given.get("clean_env"):
            fields.pop("env", None)
            if given.get("env") is not None:
                fields["env"] = given["env"]
        elif given.get("env") is not None and self.env:
            fields["env"] = {**self.env, **dict(process.env("env", given["env"]))}
        if "cwd" in fields:
            fields.setdefault("cwd_create", True)
        if self._volumes:
            self._add_volumes(fields)
        return fields

    def _add_volumes(self, fields: dict[str, Any]) -> None:
        """Their paths are there, and can be written: a tmpfs where the image has none or is read-only."""
        from . import mount_text

        taken = {
            mount.target
            for name, parse in (
                ("tmpfs", mount_text.tmpfs),
                ("volumes", mount_text.volumes),
                ("mounts", mount_text.mount_list),
            )
            for mount in parse(name, fields.get(name) or ())
        }
        wanted = [path for path, owner in self._volumes.items() if owner is None or fields.get("read_only")]
        if fields.get("upper") is not None and not fields.get("read_only"):
            return  # what is kept must not go to memory: the upper gets the directories, see make_volumes()
        wanted = [path for path in wanted if path not in taken]
        if wanted:
            from .mounts import Tmpfs

            more = []
            for path in wanted:
                mode, uid, gid = self._volumes[path] or (0o755, 0, 0)
                more.append(Tmpfs(path, mode=mode, uid=uid, gid=gid))
            fields["mounts"] = [*units.items("mounts", fields.get("mounts")), *more]

    def make_volumes(self, upper: str) -> None:
        """Make the volumes' paths that the image lacks, in a kept writable layer."""
        for path, owner in self._volumes.items():
            if owner is None:
                os.makedirs(upper + path, 0o755, exist_ok=True)

    def hold(self) -> None:
        """Have this process's lease name the layers, and see that they are there. Raises ImageNotFound."""
        key = (self.root, self.snapshotter, self.chains)
        if key in _held:
            return
        with _lock:
            if key in _held:
                return
            from .image.leases import Lease

            context.hooks()
            lease = _leases.get(self.root)
            try:
                if lease is None:
                    lease = _leases[self.root] = Lease(_Place(self.root))  # type: ignore[arg-type]
                lease.layer(self.snapshotter, *self.chains[-1:])
            except StoreError:
                if not os.statvfs(self.root).f_flag & os.ST_RDONLY:
                    raise  # in a read-only one nobody can take anything away either
            if not all(os.path.exists(path.removeprefix("erofs:")) for path in self.layers):
                self._unpack_again()
            _held.add(key)

    def _unpack_again(self) -> None:
        from .image import snapshot
        from .image.store import get

        store = get(self.root)
        try:
            resolved = store.resolve(self.manifest)
        except ImageNotFound:
            raise ImageNotFound(self.text, "was removed since it was looked up", f"fastctr pull {self.text}") from None
        snapshot.ensure(store, resolved, self.snapshotter)

    def __repr__(self) -> str:
        return f"<Use of {self.text} {self.id[7:19]}>"


class Copied:
    """with Copied(plan) as own: … a plan of one container, whose root is a copy of the image's files."""

    def __init__(self, plan: Plan) -> None:
        from .image.snapshot.vfs import Vfs
        from .image.store import get
        from .plan import Plan as Made

        assert plan.image is not None
        plan.image.hold()
        self._copy = Vfs(get(plan.image.root)).prepare(plan.image.chains[-1])
        try:
            spec = plan.spec.replace(rootfs=self._copy.path, writable="direct", scratch_size=None, scratch_dir=None)
            self.plan = Made(spec, use=plan.image)
        except BaseException:
            self._copy.close()
            raise

    def close(self) -> None:
        """Remove it. Harmless if done twice."""
        self.plan.close()
        self._copy.close()

    def __enter__(self) -> Plan:
        return self.plan

    def __exit__(self, *exc: object) -> None:
        self.close()


class _Place:
    """As much of a store as a lease needs: the whole one takes longer to import than a start."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.open_leases: list[Lease] = []

    def prepare(self) -> None:
        if not os.path.isdir(f"{self.root}/leases"):
            from .image.store import get

            get(self.root).prepare()


def _working_dir(path: str) -> str:
    """As Docker takes it: from the root, without "..", made if it is missing."""
    return os.path.normpath("/" + path.lstrip("/"))


# ---- finding


def use(image: Any, *, pull: str = "missing", platform: str | None = None, snapshotter: str | None = None,
        entrypoint: Any = None, root: Any = None, progress: Any = None) -> Use:  # fmt: skip
    """The image of a name, name@digest, id or Image. Raises SpecError, ImageNotFound, RegistryError, …"""
    if pull not in POLICIES:
        raise SpecError("pull", pull, "is not a policy", 'use "missing", "never" or "always"')
    if not isinstance(image, str):
        image, root = _of_object(image, root)
    where = store_root(root)
    wanted = entrypoint_of(entrypoint)
    key = (image, where, platform, snapshotter or os.environ.get("FASTCTR_SNAPSHOTTER"), wanted)
    if pull != "always":
        known = _uses.get(key)
        if known is not None and known[0] == index_stamp(where):
            return known[1]
    with _finding.setdefault(key, threading.Lock()):
        stamp = index_stamp(where)
        known = _uses.get(key)
        if pull != "always" and known is not None and known[0] == stamp:
            return known[1]
        facts = _facts_on_disk(key, stamp) if pull != "always" else None
        if facts is None:
            check_name(image)
            from .image.facts import note
            from .image_facts import find

            facts = find(image, where, platform, key[3], pull, progress)
            now = index_stamp(where)
            if now != stamp:  # by our pull, or somebody else's: the name may be another's by now
                stamp = now
                facts = find(image, where, platform, key[3], "missing" if pull == "always" else pull, progress)
            note(facts_path(*key[:4]), stamp, facts)
        if known is not None and known[1].manifest == facts["manifest"] and known[1].layers == tuple(facts["roots"]):
            made = known[1]  # the same image still: its plans go on being used
        else:
            made = Use(image, where, facts, wanted)
        with _lock:
            if len(_uses) >= 256:
                _uses.pop(next(iter(_uses)))
                _finding.clear()
            _uses[key] = stamp, made
        return made


def known(image: str, platform: str | None, snapshotter: str | None, entrypoint: Any, root: Any) -> bool:
    """Whether use() has it at hand: then it takes one stat."""
    where = store_root(root)
    found = _uses.get((image, where, platform, snapshotter or os.environ.get("FASTCTR_SNAPSHOTTER"),
                       entrypoint_of(entrypoint)))
    return found is not None and found[0] == index_stamp(where)


def _of_object(image: Any, root: Any) -> tuple[str, Any]:
    found = getattr(image, "reference_for_run", None)
    if found is None:
        raise SpecError("image", image, "is not an image", 'use a name as "alpine", an id, or an Image')
    text, where = found()
    return text, root or where


def _facts_on_disk(key: tuple[Any, ...], stamp: tuple[int, ...]) -> dict[str, Any] | None:
    import marshal

    try:
        with open(facts_path(*key[:4]), "rb") as file:
            if os.fstat(file.fileno()).st_uid not in (0, os.geteuid()):
                return None  # marshal is not made for what others have written
            noted, facts = marshal.load(file)
    except (OSError, ValueError, EOFError, TypeError):
        return None
    if noted != stamp or not all(os.path.exists(path.removeprefix("erofs:")) for path in facts["roots"]):
        return None
    return facts  # type: ignore[no-any-return]


# ---- plans


def plan_of(options: dict[str, Any], given: dict[str, Any], spec: Spec | None = None) -> Plan:
    """The cached plan of an image and a container's keywords, over those of a spec if there is one."""
    from .plan import plan_for
    from .spec import Spec

    return plan_for(*spec_of(options, given, spec, Spec))


def spec_of(options: dict[str, Any], given: dict[str, Any], spec: Spec | None, make: Any) -> tuple[Spec, Use | None]:
    """The spec of an image's containers, and the Use it came from."""
    options = {name: value for name, value in options.items() if value is not None}
    if "image" not in options:
        for name, value in options.items():
            raise SpecError(name, value, "is about images", "add image=")
        return (spec.replace(**given) if spec is not None else make(**given)), None
    found = use(**options)
    if spec is not None:
        given = {**{name: value for name, value in spec._given.items() if name != "rootfs"}, **given}
    return make(**found.fields(given)), found


# ---- the end of a process, and its forks


def release() -> None:
    """Let go of every image; when everything that used them is closed."""
    with _lock:
        _held.clear()
        while _leases:
            _leases.popitem()[1].close()


def _after_fork() -> None:
    """The lease is the parent's: the child lets go of its copy, and takes its own with its first plan."""
    global _lock
    _lock = threading.Lock()
    _finding.clear()
    _held.clear()
    while _leases:
        _leases.popitem()[1].forget()


context.on_fork(_after_fork)
