"""What goes into a job and comes out of it: text, base64, files of this machine, templates of paths."""

from __future__ import annotations

import os
import re

from .. import units
from ..errors import SpecError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_PLACE = re.compile(r"\{([^{}]*)\}")
PLACES = ("id", "line", "name")
_FORMS = 'use text, {"base64": "…"} or {"path": "a file here"}'


class HostFile:
    """A file of this machine that is opened when the job starts."""

    __slots__ = ("path",)

    def __init__(self, path: str) -> None:
        self.path = path


def source_of(field: str, value: Any) -> bytes | HostFile:
    """The bytes of a text, of {"text"}, of {"base64"}, or the file of {"path"}. Raises SpecError."""
    if isinstance(value, str):
        return _encode(field, value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    if isinstance(value, os.PathLike):
        return HostFile(units.host_path(field, value))
    if not isinstance(value, dict):
        raise SpecError(field, value, "is no content", _FORMS)
    kinds = [name for name in value if name != "mode"]
    if len(kinds) != 1 or kinds[0] not in ("text", "base64", "path"):
        raise SpecError(field, value, "is no content", _FORMS)
    kind, content = kinds[0], value[kinds[0]]
    if kind == "path":
        return HostFile(units.host_path(f"{field}.path", content))
    text = units.text(f"{field}.{kind}", content, empty=True) if kind == "base64" else content
    if kind == "text":
        if not isinstance(text, str):
            raise SpecError(f"{field}.text", text, "is not a string", "put it in quotes")
        return _encode(field, text)
    import binascii

    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except ValueError as error:
        raise SpecError(f"{field}.base64", text, f"is not base64 ({error})", "see RFC 4648, section 4") from None


def _encode(field: str, text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise SpecError(field, text, "has half a surrogate pair in it", 'use {"base64": "…"} for bytes') from None


def put_in(field: str, value: Any) -> list[tuple[str, Any, int | None]]:
    """files: [(path inside, content, mode or None)]. Raises SpecError."""
    if not isinstance(value, dict):
        raise SpecError(field, value, "is not an object", 'use {"/in/a.txt": "content"}')
    found = []
    for path, content in value.items():
        where = f"{field}[{path!r}]"
        mode = None
        if isinstance(content, dict) and "mode" in content:
            mode = units.octal(f"{where}.mode", content["mode"])
        found.append((units.inside_path(where, path), source_of(where, content), mode))
    return found


def outputs_of(value: Any, to_directory: bool) -> list[tuple[str, str | None]]:
    """outputs: [(path inside, template of the path here or None)]. Raises SpecError."""
    field = "outputs"
    if isinstance(value, dict):
        pairs: list[tuple[Any, Any]] = list(value.items())
    else:
        pairs = [(path, None) for path in units.items(field, value)]
    found: list[tuple[str, str | None]] = []
    for path, template in pairs:
        where = f"{field}[{path!r}]"
        inside = units.inside_path(where, path)
        if template is None:
            if not to_directory:
                hint = 'give --output-dir, or {"/out/x": "path here"}'
                raise SpecError(where, path, "has no place to be saved to", hint)
        else:
            template = os.fsdecode(template) if isinstance(template, os.PathLike) else units.text(where, template)
            for place in _PLACE.findall(template):
                if place not in PLACES:
                    raise SpecError(where, template, f"has {{{place}}} in it", "use {id}, {line} and {name}")
        found.append((inside, template))
    return found


def host_path(job: Any, inside: str, template: str | None, directory: str | None) -> str:
    """Where an output is saved. {id} and {line} are the job's, {name} is the last part of the path inside."""
    if template is None:
        assert directory is not None
        return os.path.join(directory, job.name, inside.lstrip("/"))
    values = {"id": job.name, "line": str(job.line), "name": os.path.basename(inside)}
    return _PLACE.sub(lambda match: values[match.group(1)], template)


def read(source: bytes | HostFile) -> bytes:
    """The content; raises OSError."""
    if isinstance(source, bytes):
        return source
    with open(source.path, "rb") as file:
        return file.read()


def text_or_base64(data: bytes) -> Any:
    """As JSON has it: text where it is UTF-8, else {"base64": "…"}."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        import binascii

        return {"base64": binascii.b2a_base64(data, newline=False).decode()}
