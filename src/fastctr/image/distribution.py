"""The OCI distribution API, version 2: manifests, blobs, tags and uploads of one repository.

A `Repository` speaks to one host for one name. Manifests are checked against the digest that was asked for
or that the registry names; blobs are checked by who writes them. Statuses become errors here: 404
ImageNotFound, 401 and 403 AuthError, anything else RegistryError, each with what the registry said.
"""

from __future__ import annotations

from ..errors import DigestMismatch, ImageNotFound, RegistryError, shown
from . import digest as digests
from . import oci
from .auth import Authenticator, pull_scope
from .connect import origin

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .credentials import Credentials
    from .http import Answer, Http

__all__ = ["Repository", "log_in"]

_SAID_LIMIT = 64 << 10  # bytes of an error's body
_TAGS_LIMIT = 16 << 20
_PAGES = 10_000
_TAGS = 1_000_000
_VAGUE = ("", "application/json", "application/octet-stream", "text/plain")  # types that say nothing
_ACCEPT = ", ".join(oci.ACCEPT)


class Repository:
    """One repository on one host. Threads may share it."""

    def __init__(
        self,
        http: Http,
        host: str,
        name: str,
        find: Callable[[], tuple[Credentials | None, str]],
        scopes: tuple[str, ...] = (),
        login_host: str = "",
    ) -> None:
        """host "registry-1.docker.io"; name "library/alpine"; scopes: what tokens are asked for (default: pull)."""
        self.http, self.host, self.name = http, host, name
        self.auth = Authenticator(http, login_host or host, find)
        self.scopes = scopes or (pull_scope(name),)
        self._base = ""

    @property
    def base(self) -> str:
        """ "https://host/v2/name"."""
        if not self._base:
            self._base = f"{self.http.base(self.host)}/v2/{self.name}"
        return self._base

    def request(
        self,
        method: str,
        url: str,
        headers: dict[str, str] | None = None,
        *,
        body: bytes | Callable[[], Any] | None = None,
        retry: bool = True,
    ) -> Answer:
        """Send it with our credentials; a challenge is answered once. AuthError if that does not do."""
        own = origin(self.base)
        sent = self.auth.header(self.scopes)
        for again in (True, False):
            answer = self.http.request(
                method,
                url,
                headers,
                body=body() if callable(body) else body,
                authorization=sent,
                trusted=own,
                retry=retry,
            )
            if answer.status != 401:
                return answer
            asked = answer.url
            if origin(asked) != own:
                raise self.fail(answer)
            if not again:
                why = said(answer)
                raise self.auth.refused(asked, 401, why)
            answer.discard()
            sent = self.auth.answer(asked, answer.headers, self.scopes, sent)
        raise AssertionError("unreachable")

    def fail(self, answer: Answer, what: str = "") -> RegistryError | ImageNotFound:
        """The error for an answer that is not what was asked for."""
        status, url, why = answer.status, answer.url, said(answer)
        if status in (401, 403):
            return self.auth.refused(url, status, why)
        if status == 404:
            return ImageNotFound(what or url, "is not in the registry" + (f": {why}" if why else ""))
        if status == 429:
            return RegistryError(url, "has had too many requests" + (f": {why}" if why else ""), status=status)
        return RegistryError(url, f"answers {status}" + (f": {why}" if why else ""), status=status)

    # ---- reading

    def manifest(self, which: str, expected: oci.Descriptor | None = None) -> tuple[bytes, oci.Descriptor]:
        """An index or manifest by tag or digest, as the registry has it, and its descriptor.

        ImageNotFound; DigestMismatch if it is not what its digest, or the registry, says; RegistryError if
        it is no manifest at all.
        """
        url = f"{self.base}/manifests/{which}"
        answer = self.request("GET", url, {"Accept": _ACCEPT})
        if answer.status != 200:
            separator = "@" if ":" in which else ":"
            raise self.fail(answer, f"{self.host}/{self.name}{separator}{which}")
        data = answer.read(oci.DOCUMENT_MAX)
        digest = which if ":" in which else answer.headers.get("Docker-Content-Digest", "")
        if not digests.valid(digest):
            if digest:
                raise RegistryError(url, f"has a digest that cannot be verified: {shown(digest)}")
            digest = digests.sha256(data)
        elif not digests.verify(digest, data):
            raise DigestMismatch(digest, f"what {self.host} sends has the digest {digests.sha256(data)}")
        kind = answer.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if expected is not None:
            if len(data) != expected.size:
                raise DigestMismatch(digest, f"has {len(data)} bytes, and should have {expected.size}")
            kind = expected.media_type
        elif kind in _VAGUE:
            kind = oci.document_type(oci.load_json(data, url))
        if kind not in oci.ACCEPT and kind not in oci.SCHEMA1:
            raise RegistryError(url, f"answers with {shown(kind)}, which is not a manifest", status=answer.status)
        return data, oci.Descriptor(kind, digest, len(data))

    def digest(self, which: str) -> str:
        """The digest of what a tag stands for, by a HEAD (which no registry counts as a pull); "" if it says none."""
        answer = self.request("HEAD", f"{self.base}/manifests/{which}", {"Accept": _ACCEPT})
        answer.discard()
        found: str = answer.headers.get("Docker-Content-Digest", "") if answer.status == 200 else ""
        return found if digests.valid(found) else ""

    def has_manifest(self, which: str) -> bool:
        """Whether there is one of that tag or digest."""
        return self._has(f"{self.base}/manifests/{which}", {"Accept": _ACCEPT})

    def has_blob(self, digest: str) -> bool:
        """Whether there is a blob of that digest in this repository."""
        return self._has(f"{self.base}/blobs/{digest}")

    def _has(self, url: str, headers: dict[str, str] | None = None) -> bool:
        answer = self.request("HEAD", url, headers)
        answer.discard()
        if answer.status == 200:
            return True
        if answer.status == 404:
            return False
        raise self.fail(answer)

    def open_blob(self, blob: oci.Descriptor, offset: int = 0) -> tuple[Answer, int]:
        """The blob from `offset` on, and the offset the answer begins at: 0 if the registry knows no ranges."""
        headers = {"Accept": "*/*"}
        if offset:
            headers["Range"] = f"bytes={offset}-"
        url = f"{self.base}/blobs/{blob.digest}"
        answer = self.request("GET", url, headers)
        begins = 0
        if answer.status == 206:
            begins = _range_start(answer, offset)
        elif answer.status == 416 and offset:
            answer.discard()
            return self.open_blob(blob)
        elif answer.status != 200:
            raise self.fail(answer, f"{self.host}/{self.name}@{blob.digest}")
        length = answer.length
        if length is not None and length != blob.size - begins:
            answer.close()
            raise DigestMismatch(
                blob.digest, f"{self.host} has {begins + length} bytes of it, and it should have {blob.size}"
            )
        return answer, begins

    def tags(self) -> list[str]:
        """All tags of the repository, in the registry's order."""
        import json

        url = f"{self.base}/tags/list?n=1000"
        found: list[str] = []
        seen: set[str] = set()
        for _ in range(_PAGES):
            answer = self.request("GET", url)
            if answer.status != 200:
                raise self.fail(answer, f"{self.host}/{self.name}")
            links = answer.headers.get("Link", "")
            try:
                listed = json.loads(answer.read(_TAGS_LIMIT)).get("tags") or []
            except (ValueError, AttributeError, RecursionError):
                raise RegistryError(url, "answers with something that is not a list of tags") from None
            found += [tag for tag in listed if isinstance(tag, str)]
            seen.add(url)
            url = _next_page(answer.url, links)
            if not url:
                return list(dict.fromkeys(found))
            if url in seen or len(found) > _TAGS or origin(url) != origin(self.base):
                break
        raise RegistryError(url, "does not come to an end of its tags")

    # ---- writing: see upload.py for blobs

    def put_manifest(self, which: str, data: bytes, media_type: str) -> None:
        """Store an index or manifest under a tag or its digest."""
        url = f"{self.base}/manifests/{which}"
        answer = self.request("PUT", url, {"Content-Type": media_type}, body=data)
        if answer.status not in (200, 201, 202):
            raise self.fail(answer, f"{self.host}/{self.name}")
        digest = answer.headers.get("Docker-Content-Digest", "")
        answer.discard()
        if digests.valid(digest) and not digests.verify(digest, data):
            raise DigestMismatch(digests.sha256(data), f"{self.host} has stored it as {digest}")


def said(answer: Answer) -> str:
    """What the registry says of an error, fit to be shown: its errors' codes and messages."""
    import json

    try:
        body = answer.read(_SAID_LIMIT)
    except RegistryError:
        return ""
    try:
        errors = json.loads(body)["errors"]
        parts = [f"{each.get('code', '')} {each.get('message', '')}".strip() for each in errors]
        return shown("; ".join(part for part in parts if part)[:400], 420).strip('"')
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    kind = answer.headers.get("Content-Type", "")
    return shown(body.decode(errors="replace").strip(), 200).strip('"') if kind.startswith("text/plain") else ""


def _range_start(answer: Answer, wanted: int) -> int:
    """Where a 206 answer begins (RFC 9110, 14.4); RegistryError if it is another part than was wanted."""
    unit, _, rest = answer.headers.get("Content-Range", "").strip().partition(" ")
    start = rest.partition("-")[0]
    if unit != "bytes" or not start.isdigit() or int(start) != wanted:
        answer.close()
        raise RegistryError(answer.url, f"answers with another part than was asked for: {shown(rest)}", status=206)
    return wanted


def _next_page(url: str, links: str) -> str:
    """The target of rel="next" in a Link header (RFC 8288), or ""."""
    from urllib.parse import urljoin

    for link in links.split(","):
        target, _, rest = link.strip().partition(">")
        if target.startswith("<") and "next" in rest.replace('"', "").replace("rel=", "").split(";")[-1].split():
            return urljoin(url, target[1:])
    return ""


def log_in(http: Http, host: str, credentials: Credentials) -> Credentials:
    """Ask the registry whether it takes these credentials; what to keep: an identity token where it gives one.

    AuthError: it does not take them. RegistryError: it is no registry, or cannot be reached.
    """
    from .auth import parse_challenges
    from .registries import HUB

    where = HUB if host == "docker.io" else host
    url = f"{http.base(where)}/v2/"
    auth = Authenticator(http, host, lambda: (credentials, ""))
    answer = http.request("GET", url)
    if answer.status == 401:
        answer.discard()
        for scheme, given in parse_challenges(answer.headers.getlist("WWW-Authenticate")):
            if scheme == "bearer" and given.get("realm"):
                auth.check_realm(url, given["realm"])
                reply = auth.fetch_token(given["realm"], given.get("service", ""), (), offline=True)
                token = reply.get("refresh_token")
                if isinstance(token, str) and token and not credentials.identity_token:
                    from .credentials import Credentials as Made

                    return Made(credentials.username, identity_token=token)
        header = auth.answer(url, answer.headers, (), None)
        answer = http.request("GET", url, authorization=header)
    why = said(answer)
    if answer.status in (401, 403):
        raise auth.refused(url, answer.status, why)
    if answer.status != 200:
        raise RegistryError(url, f"answers {answer.status}: it is not a registry of version 2", status=answer.status)
    return credentials
