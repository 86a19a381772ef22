"""What `fastctr run` and `start` do for images and for kept containers: the plan, and the record of it."""

from __future__ import annotations

import os
import sys

from .options import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..from_image import Use
    from ..kept import Kept
    from ..plan import Plan

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "i686": "386", "armv7l": "arm", "armv6l": "arm"}


def image_of(own: dict[str, Any]) -> Use:
    """The image that was asked for, pulled if need be with its progress on standard error."""
    from ..from_image import use

    pull, entrypoint = own.get("_pull", "missing"), own.get("_entrypoint")
    if pull not in ("missing", "never", "always"):
        raise UsageError(f'--pull: "{pull}" is not a policy; use missing, never or always')
    shown = _Progress(own.get("_quiet", False) or pull == "never", own["_image"], pull)
    try:
        found = use(own["_image"], pull=pull, platform=own.get("_platform"), snapshotter=own.get("_snapshotter"),
                    entrypoint=entrypoint, progress=shown)  # fmt: skip
    finally:
        shown.close()
    here = _ARCHITECTURES.get(os.uname().machine, os.uname().machine)
    if found.architecture and found.architecture != here and "_platform" not in own:
        print(f"fastctr: warning: the image is for {found.architecture}, and this machine is {here}", file=sys.stderr)
    return found


class _Progress:
    """Progress of a pull on standard error, made with the first event: most starts have none. That an image
    which is here is unpacked is shown on a terminal only."""

    def __init__(self, quiet: bool, image: str, pull: str) -> None:
        import threading

        self._quiet, self._image, self._pull = quiet, image, pull
        self._lock = threading.Lock()
        self._shown: Any = None

    def __call__(self, event: Any) -> None:
        with self._lock:
            if self._shown is None:
                from ..display import display

                pulling = event.action == "resolving"
                if not self._quiet and pulling and self._pull == "missing":
                    print(f"Unable to find image '{self._image}' locally", file=sys.stderr)
                self._shown = display(sys.stderr, self._quiet or not (pulling or sys.stderr.isatty()))
            self._shown(event)

    def close(self) -> None:
        if self._shown is not None:
            self._shown.close()


def plan_of(fields: dict[str, Any], own: dict[str, Any], command: list[str]) -> tuple[Plan, Kept | None]:
    """The plan of a command line, and the container that is kept of it (with --name)."""
    from ..plan import Plan
    from ..spec import Spec

    found = image_of(own) if "_image" in own else None
    if "_name" not in own:
        return Plan(Spec(**(found.fields(fields) if found else fields)), use=found), None
    for name, option in (("upper", "--upper"), ("writable", "--writable"), ("read_only", "--read-only"),
                         ("scratch_size", "--scratch-size")):  # fmt: skip
        if fields.get(name):
            raise UsageError(f"{option} cannot go with --name, which keeps the changes in the store")
    from ..image_args import store_root
    from ..kept import create

    check = found.argv(command or None) if found else command
    kept = create(store_root(), own["_name"], record(fields, own, command, found, check))
    try:
        return kept_plan(kept, fields, found), kept
    except BaseException:
        kept.release()
        kept.remove()
        raise


def kept_plan(kept: Kept, fields: dict[str, Any], found: Use | None) -> Plan:
    """The plan of a kept container: its upper above the image's layers."""
    from ..plan import Plan
    from ..spec import Spec

    os.makedirs(kept.upper, 0o755, exist_ok=True)
    fields = {**fields, "upper": kept.upper}
    spec = Spec(**(found.fields(fields) if found else fields))
    kept.note(
        targets=[each.target for each in (*spec.tmpfs, *spec.mounts, *spec.volumes, *spec.files)],
        maps={"uid_map": spec.uid_map, "gid_map": spec.gid_map} if spec.uid_map else None,
    )
    if found is not None:
        found.make_volumes(kept.upper)
    return Plan(spec, use=found)


def record(
    fields: dict[str, Any], own: dict[str, Any], command: list[str], found: Use | None, argv: list[Any]
) -> dict[str, Any]:
    """What container.json says of it, so that start can do it again."""
    from ..process import env

    frozen = dict(fields)
    if "files" in frozen:
        import base64

        frozen["files"] = {p: [base64.b64encode(data).decode(), mode] for p, (data, mode) in frozen["files"].items()}
    if "env" in frozen:
        frozen["env"] = [f"{name}={value}" for name, value in env("env", frozen["env"])]
    rootfs = frozen.pop("rootfs", None)
    kept_own = {name: own[name] for name in ("_interactive", "_tty", "_stop_signal", "_stop_timeout") if name in own}
    made: dict[str, Any] = {
        "argv": [os.fsdecode(word) for word in argv], "command": command, "fields": frozen, "own": kept_own,
        "directory": os.getcwd(),
    }  # fmt: skip
    if found is None:
        paths = [rootfs] if isinstance(rootfs, str) else list(rootfs or ())
        made["rootfs"] = [path if path == "host" else os.path.abspath(path) for path in paths]
        made["image"] = made["rootfs"][0]
    else:
        made.update(image=found.text, image_id=found.id, manifest=found.manifest, snapshotter=found.snapshotter,
                    chains=list(found.chains), config=found.config, entrypoint=list(found.entrypoint))  # fmt: skip
    return made


def thawed(kept: Kept) -> tuple[dict[str, Any], Use | None]:
    """The fields of a record, and the image it is of."""
    import base64

    noted = kept.record
    fields = dict(noted.get("fields") or {})
    if "files" in fields:
        fields["files"] = {path: (base64.b64decode(data), mode) for path, (data, mode) in fields["files"].items()}
    if not noted.get("manifest"):
        fields["rootfs"] = "host" if noted["rootfs"] == ["host"] else noted["rootfs"]
        return fields, None
    from ..from_image import use

    return fields, use(noted["manifest"], pull="never", snapshotter=noted["snapshotter"], root=kept.root,
                       entrypoint=noted["entrypoint"])  # fmt: skip
