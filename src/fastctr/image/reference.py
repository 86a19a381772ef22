"""Image references as Docker writes them: [host[:port]/]path[:tag][@digest].

The grammar and the defaults (docker.io, library/, latest) are those of the distribution project's
reference package, which docker, podman and containerd follow.
"""

from __future__ import annotations

from ..errors import SpecError
from . import digest as digests

DEFAULT_DOMAIN = "docker.io"
DEFAULT_TAG = "latest"
PATH_MAX = 255
"""Characters of a repository's path."""
TAG_MAX = 128

_LOWER = frozenset("abcdefghijklmnopqrstuvwxyz0123456789")
_ALNUM = _LOWER | frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
_WORD = _ALNUM | {"_"}
_TAG = _WORD | {".", "-"}
_HINT = 'use [host[:port]/]name[:tag][@sha256:...], as "alpine:3.20" or "localhost:5000/team/app"'


class Reference:
    """A parsed reference. Immutable, hashable, equal by its text.

    domain  "docker.io", "localhost:5000"
    path    "library/alpine"
    tag     "latest", or None
    digest  "sha256:…", or None
    """

    __slots__ = ("digest", "domain", "path", "tag")

    domain: str
    path: str
    tag: str | None
    digest: str | None

    def __init__(self, domain: str, path: str, tag: str | None, digest: str | None) -> None:
        for name, value in (("domain", domain), ("path", path), ("tag", tag), ("digest", digest)):
            object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a reference cannot be changed: {name}")

    def __reduce__(self) -> tuple[type[Reference], tuple[str, str, str | None, str | None]]:
        return Reference, (self.domain, self.path, self.tag, self.digest)

    @property
    def name(self) -> str:
        """The repository in full: "docker.io/library/alpine"."""
        return f"{self.domain}/{self.path}"

    @property
    def familiar_name(self) -> str:
        """The repository as people write it: "alpine"."""
        if self.domain != DEFAULT_DOMAIN:
            return self.name
        first, slash, rest = self.path.partition("/")
        return rest if slash and first == "library" and "/" not in rest else self.path

    @property
    def familiar(self) -> str:
        """The whole as people write it: "alpine:3.20"."""
        return self.familiar_name + self._end()

    @property
    def key(self) -> str:
        """What the store files it under: a digest says which image, so the tag beside it is left out."""
        return f"{self.name}@{self.digest}" if self.digest else f"{self.name}:{self.tag}"

    def with_tag(self, tag: str) -> Reference:
        """The same repository with that tag and no digest. Raises SpecError for a tag that cannot be."""
        if not _is_tag(tag):
            raise SpecError("tag", tag, "is not a tag", "use 1 to 128 letters, digits, '_', '.', '-'")
        return Reference(self.domain, self.path, tag, None)

    def with_digest(self, digest: str) -> Reference:
        """The same repository at that digest, without a tag."""
        digests.split(digest)
        return Reference(self.domain, self.path, None, digest)

    def _end(self) -> str:
        return (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")

    def __str__(self) -> str:
        return self.name + self._end()

    def __repr__(self) -> str:
        return f"Reference({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Reference) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))


def _is_tag(text: str) -> bool:
    return 0 < len(text) <= TAG_MAX and text[0] in _WORD and _TAG.issuperset(text)


def _is_host(text: str) -> bool:
    """A host name or an address in brackets, with or without a port."""
    if text.startswith("["):
        inner, bracket, port = text[1:].partition("]")
        if not bracket or not inner or not frozenset("0123456789abcdefABCDEF:").issuperset(inner):
            return False
        return not port or (port[0] == ":" and len(port) > 1 and _digits(port[1:]))
    host, colon, port = text.partition(":")
    if colon and not _digits(port):
        return False
    allowed = _ALNUM | {"-"}
    return all(
        part and allowed.issuperset(part) and part[0] != "-" and part[-1] != "-" for part in host.split(".")
    )


def _digits(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _is_component(text: str) -> bool:
    """Lower-case words joined by one '.', one or two '_', or any number of '-'."""
    if not text or text[0] not in _LOWER or text[-1] not in _LOWER:
        return False
    joint = ""
    for c in text:
        if c in _LOWER:
            if joint and joint not in (".", "_", "__") and joint.strip("-"):
                return False
            joint = ""
        elif c in "._-":
            joint += c
        else:
            return False
    return True


def split_domain(text: str) -> tuple[str, str]:
    """(domain, rest): the first part is a host if it has a '.', a ':' or an upper-case letter, or is localhost."""
    first, slash, rest = text.partition("/")
    if slash and (first == "localhost" or "." in first or ":" in first or first.lower() != first):
        domain = first
    else:
        domain, rest = DEFAULT_DOMAIN, text
    if domain == "index.docker.io":
        domain = DEFAULT_DOMAIN
    if domain == DEFAULT_DOMAIN and "/" not in rest:
        rest = "library/" + rest
    return domain, rest


def parse(text: object) -> Reference:
    """The reference a user wrote, with Docker's defaults filled in.

    Raises SpecError("image", …) if it cannot be one. A bare digest or image id is not a reference
    (Store.resolve takes those).
    """
    if isinstance(text, Reference):
        return text
    if not isinstance(text, str):
        raise SpecError("image", text, "is not an image reference", _HINT)
    if not text:
        raise SpecError("image", text, "is empty", _HINT)
    if len(text) == 64 and digests.HEX.issuperset(text):
        raise SpecError(
            "image", text, "is an invalid reference format: 64 hexadecimal digits are an image id", _HINT
        )
    domain, rest = split_domain(text)
    path, at, digest = rest.partition("@")
    path, colon, tag = path.partition(":")
    if path.lower() != path:
        raise SpecError(
            "image",
            text,
            f"is an invalid reference format: repository name ({path}) must be lowercase",
            f'did you mean "{text.replace(path.removeprefix("library/"), path.removeprefix("library/").lower())}"?',
        )
    if at and not digests.valid(digest):
        algorithm = digest.partition(":")[0]
        why = f"the digest ({digest}) cannot be verified"
        if algorithm in digests.LENGTHS:
            why = f"the digest must be {algorithm}: and {digests.LENGTHS[algorithm]} hexadecimal digits in lower case"
        raise SpecError("image", text, f"is an invalid reference format: {why}", _HINT)
    if colon and not _is_tag(tag):
        why = f"a tag has {TAG_MAX} characters at most" if len(tag) > TAG_MAX else f'"{tag}" is not a tag'
        raise SpecError("image", text, f"is an invalid reference format: {why}", _HINT)
    if not _is_host(domain):
        raise SpecError("image", text, f'is an invalid reference format: "{domain}" is not a host', _HINT)
    if not all(_is_component(part) for part in path.split("/")):
        raise SpecError("image", text, "is an invalid reference format", _HINT)
    if len(path) > PATH_MAX:
        raise SpecError("image", text, f"is too long: a repository name has {PATH_MAX} characters at most", _HINT)
    return Reference(domain, path, (tag or None) if (colon or at) else DEFAULT_TAG, digest or None)
