"""Digests: "sha256:<64 hex>" (or sha512), as the OCI image specification writes them.

Small things are hashed by the interpreter's own SHA-2, because importing hashlib brings OpenSSL in and
takes longer than a start; big ones by hashlib, which is several times faster and lets go of the GIL.
"""

from __future__ import annotations

from ..errors import ImageError, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

LENGTHS = {"sha256": 64, "sha512": 128}
HEX = frozenset("0123456789abcdef")

_small: Callable[[bytes], Any] | None = None


def _small_sha256() -> Callable[[bytes], Any]:
    global _small
    if _small is None:
        try:
            from _sha2 import sha256  # type: ignore[import-not-found]  # Python 3.12 and later
        except ImportError:
            try:
                from _sha256 import sha256  # type: ignore[import-not-found]
            except ImportError:
                from hashlib import sha256
        _small = sha256
    return _small


def sha256(data: bytes) -> str:
    """ "sha256:<hex>" of the bytes."""
    if len(data) > 1 << 20:
        return "sha256:" + str(hasher("sha256", data).hexdigest())
    return "sha256:" + str(_small_sha256()(data).hexdigest())


def hasher(algorithm: str, data: bytes = b"") -> Any:
    """A hashlib object for "sha256" or "sha512"."""
    import hashlib

    return hashlib.new(algorithm, data, usedforsecurity=False)


def valid(digest: object) -> bool:
    """Whether it is a digest of a kind we verify, in its one spelling (lower case, full length)."""
    if not isinstance(digest, str):
        return False
    algorithm, colon, value = digest.partition(":")
    return bool(colon) and len(value) == LENGTHS.get(algorithm) and HEX.issuperset(value)


def split(digest: str) -> tuple[str, str]:
    """("sha256", "<hex>"). Raises ImageError for anything else: what is not checked here would become a path."""
    if not valid(digest):
        why = "is not a digest" if ":" not in str(digest) else "is not a digest we can verify"
        raise ImageError(shown(digest), why, 'use "sha256:" and 64 hexadecimal digits in lower case')
    algorithm, _, value = digest.partition(":")
    return algorithm, value


def short(digest: str) -> str:
    """The first 12 digits, as tables show an image."""
    return digest.partition(":")[2][:12]


def verify(digest: str, data: bytes) -> bool:
    """Whether the bytes have that digest."""
    algorithm, value = split(digest)
    if algorithm == "sha256":
        return sha256(data) == digest
    return bool(hasher(algorithm, data).hexdigest() == value)
