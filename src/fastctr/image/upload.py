"""Blobs on their way to a registry: mounted from another repository, in one piece, or in chunks.

The first attempt is one PUT of the whole. If the connection breaks the registry is asked how far it has come
and the rest follows; if it does not know any more, a new upload is begun and goes in chunks, each of which
stays once it is acknowledged. A registry (or a proxy before it) that refuses the size gets smaller chunks.
"""

from __future__ import annotations

import os

from ..errors import ImageError, ImageNotFound, RegistryError, shown
from .connect import NetworkError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .distribution import Repository
    from .http import Answer

__all__ = ["Part", "upload"]

CHUNK = 16 << 20
SMALLEST_CHUNK = 1 << 20


class Part:
    """Bytes of a file between two offsets, as a body for urllib3; count(offset) is told how far it has been read."""

    def __init__(self, fd: int, start: int, end: int, count: Callable[[int], None] | None = None) -> None:
        self._fd, self._at, self._end, self._count = fd, start, end, count

    def read(self, size: int = -1) -> bytes:
        left = self._end - self._at
        size = left if size < 0 else min(size, left)
        data = os.pread(self._fd, size, self._at) if size else b""
        self._at += len(data)
        if self._count is not None and data:
            self._count(self._at)
        return data


def start(repository: Repository, digest: str = "", source: str = "") -> str | None:
    """Begin an upload: its URL. With a source repository, ask to mount the blob first: None if that was done."""
    from urllib.parse import quote, urljoin

    query = f"?mount={quote(digest)}&from={quote(source)}" if source else ""
    answer = repository.request("POST", f"{repository.base}/blobs/uploads/{query}", body=b"")
    if answer.status == 201 and source:
        answer.discard()
        return None
    location = answer.headers.get("Location")
    if answer.status != 202 or not location:
        if source and answer.status not in (401, 403, 429) and answer.status < 500:
            answer.discard()
            return start(repository)  # knows nothing of mounting
        raise repository.fail(answer, f"{repository.host}/{repository.name}")
    answer.discard()
    return str(urljoin(answer.url, location))


def upload(
    repository: Repository,
    digest: str,
    size: int,
    fd: int,
    location: str,
    *,
    count: Callable[[int], None] | None = None,
    chunk: int = 0,
) -> None:
    """Send the blob of that digest and size from a file to an upload begun by start().

    chunk: bytes of each PATCH; 0 for one PUT. Raises RegistryError, and NetworkError after several attempts.
    """
    from .progress import short

    settings = repository.http.settings
    offset = failures = 0
    while True:
        try:
            if not chunk and offset == 0:
                _put(repository, location, digest, Part(fd, 0, size, count), size)
            else:
                while offset < size:
                    end = min(size, offset + (chunk or size))
                    location, offset = _patch(repository, location, Part(fd, offset, end, count), offset, end)
                    failures = 0
                _put(repository, location, digest, b"", 0)
            return
        except (NetworkError, _Again) as error:
            failures += 1
            if failures >= settings.attempts:
                if isinstance(error, _Again):
                    raise error.error from error
                raise
            if isinstance(error, _Again) and error.error.status == 413:  # type: ignore[union-attr]
                if 0 < chunk <= SMALLEST_CHUNK:
                    raise error.error from error
                chunk = max(SMALLEST_CHUNK, chunk // 4) if chunk else CHUNK
        if repository.has_blob(digest):  # only the answer was lost
            return
        repository.http.sleep(min(10.0, settings.backoff * 2.0 ** (failures - 1)))
        try:
            location, offset = _status(repository, location, size)
        except (NetworkError, ImageNotFound, RegistryError):
            begun = start(repository)
            if begun is None:
                raise ImageError(short(digest), "the registry answers an upload with a mount") from None
            location, offset, chunk = begun, 0, chunk or CHUNK


class _Again(Exception):
    """An answer after which the upload is worth another attempt."""

    def __init__(self, error: RegistryError | ImageNotFound) -> None:
        self.error = error


def _check(repository: Repository, answer: Answer, good: tuple[int, ...]) -> None:
    if answer.status in good:
        return
    error = repository.fail(answer, f"{repository.host}/{repository.name}")
    # 404 and 416: the upload is not known any more, or is at another place; 413: too much at once.
    if answer.status in (404, 408, 413, 416, 429) or answer.status >= 500:
        raise _Again(error)
    raise error


def _put(repository: Repository, location: str, digest: str, body: Any, size: int) -> None:
    from urllib.parse import quote

    url = f"{location}{'&' if '?' in location else '?'}digest={quote(digest)}"
    headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
    answer = repository.request("PUT", url, headers, body=_once(body), retry=False)
    _check(repository, answer, (201, 204))
    answer.discard()


def _patch(repository: Repository, location: str, part: Part, offset: int, end: int) -> tuple[str, int]:
    """Send one chunk: the next URL, and how far the registry has come."""
    from urllib.parse import urljoin

    headers = {
        "Content-Type": "application/octet-stream",
        "Content-Length": str(end - offset),
        "Content-Range": f"{offset}-{end - 1}",
    }
    answer = repository.request("PATCH", location, headers, body=_once(part), retry=False)
    _check(repository, answer, (202, 204))
    answer.discard()
    return urljoin(answer.url, answer.headers.get("Location") or location), end


def _status(repository: Repository, location: str, size: int) -> tuple[str, int]:
    """Where an upload stands: its URL now, and the bytes that are there."""
    from urllib.parse import urljoin

    answer = repository.request("GET", location)
    if answer.status != 204:
        raise repository.fail(answer, f"{repository.host}/{repository.name}")
    answer.discard()
    first, _, last = answer.headers.get("Range", "").removeprefix("bytes=").partition("-")
    if first != "0" or not last.isdigit() or int(last) >= size:
        raise RegistryError(location, f"has a range that cannot be: {shown(answer.headers.get('Range'))}")
    there = int(last) + 1 if int(last) else 0  # "0-0" is said of nothing, too
    return urljoin(answer.url, answer.headers.get("Location") or location), there


def _once(body: Any) -> Any:
    """A body that can be sent once: a challenge in the middle of an upload begins it anew."""
    if isinstance(body, bytes):
        return body
    used: list[bool] = []

    def give() -> Any:
        if used:
            raise NetworkError("upload", "was interrupted by a challenge")
        used.append(True)
        return body

    return give
