"""`fastctr inspect`: all about images and kept containers, as JSON in Docker's shape."""

from __future__ import annotations

from .options import FLAG, VALUE, Option, UsageError
from .verb import Given, Verb, failed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

VERB = Verb(
    "inspect", "NAME|ID [NAME|ID...]", "All about images and kept containers, as JSON.",
    (
        Option("-f --format", VALUE, "format", "TEMPLATE", "json or a Go template, as '{{.Config.Cmd}}'"),
        Option("-s --size", FLAG, "size", "", "the size of containers' changes too"),
        Option("--type", VALUE, "type", "TYPE", "image or container, where both have the name"),
        Option("--platform", VALUE, "platform", "PLATFORM", "which of an image's platforms"),
    ),
    1, None,
)  # fmt: skip


def inspect(argv: Sequence[str]) -> int:
    return VERB.run(argv, _inspect)


def _inspect(given: Given, args: list[str]) -> int:
    kind = given.value("type")
    if kind not in (None, "image", "container"):
        raise UsageError(f'--type: "{kind}" is not known; use image or container')
    found, code = [], 0
    for name in args:
        try:
            found.append(_one(name, kind, given))
        except _NoSuch as error:
            code = failed(str(error))
    form = given.value("format")
    if form in (None, ""):
        import json

        print(json.dumps(found, indent=4, ensure_ascii=False))
        return code
    from .template import Template, TemplateError, to_json

    try:
        assert form is not None
        template = None if form == "json" else Template(form)
        for each in found:
            print(template.render(each) if template is not None else to_json(each))
    except TemplateError as error:
        raise UsageError(f"--format: {error}") from None
    return code


class _NoSuch(Exception):
    pass


def _one(name: str, kind: str | None, given: Given) -> dict[str, Any]:
    from ..errors import ImageNotFound, SpecError, StoreError
    from ..image_args import store_root
    from ..images import get
    from ..kept import find

    if kind != "image":
        try:
            return container_shape(find(store_root(), name), given.flag("size"))
        except StoreError as error:
            if "no such container" not in error.why or kind == "container":
                raise _NoSuch(str(error)) from None
    try:
        return get(name, platform=given.value("platform")).inspect()
    except (ImageNotFound, SpecError) as error:
        what = "object" if kind is None else "image"
        if isinstance(error, ImageNotFound) and error.why != "is not in the store":
            raise _NoSuch(str(error)) from None
        raise _NoSuch(f"no such {what}: {name}") from None


def container_shape(kept: Any, with_size: bool = False) -> dict[str, Any]:
    """A kept container in the shape of `docker container inspect`, as far as it has what is shown there."""
    from .table import iso

    record, state = kept.record, kept.state
    argv = [str(word) for word in record.get("argv") or ()]
    config = record.get("config") or {}
    shape: dict[str, Any] = {
        "Id": kept.id,
        "Created": iso(record.get("created")),
        "Path": argv[0] if argv else "",
        "Args": argv[1:],
        "State": {
            "Status": state,
            "Running": state == "running",
            "Paused": False,
            "Restarting": False,
            "OOMKilled": False,
            "Dead": False,
            "Pid": kept.pid(),
            "ExitCode": kept.exit_code,
            "Error": "",
            "StartedAt": iso(record.get("started")),
            "FinishedAt": iso(record.get("finished")),
        },
        "Image": record.get("image_id") or "",
        "Name": "/" + kept.name,
        "RestartCount": 0,
        "Driver": record.get("snapshotter") or "overlay",
        "Platform": "linux",
        "GraphDriver": {"Name": record.get("snapshotter") or "overlay", "Data": {"UpperDir": kept.upper}},
        "Mounts": [],
        "Config": {**config, "Image": record.get("image") or "", "Cmd": record.get("command") or config.get("Cmd")},
        "Options": record.get("fields") or {},
    }
    if with_size:
        from ..image.usage import tree_size

        shape["SizeRw"] = tree_size(kept.upper)
    return shape
