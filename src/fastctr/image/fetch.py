"""One blob from a registry into the store: in big reads, hashed as it is written, gone on with after a cut.

Several sources (mirrors, then the registry) are tried in their order. What was there from before, be it of a
process that was killed, is kept: the next byte that is asked for is the first that is missing.
"""

from __future__ import annotations

import time

from ..errors import AuthError, DigestMismatch, ImageNotFound, RegistryError
from .connect import NetworkError
from .http import BLOCK
from .progress import Meter, emit, short

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .distribution import Repository
    from .ingest import Ingest
    from .oci import Descriptor
    from .progress import Progress
    from .store import Store

__all__ = ["fetch"]


class _TooSlow(NetworkError):
    """Bytes come, but so few that it would never end."""


def fetch(
    store: Store,
    sources: Sequence[Repository],
    blob: Descriptor,
    *,
    progress: Progress | None = None,
    check: Callable[[], None] = lambda: None,
) -> bool:
    """Bring the blob into the store; False if it was there already.

    check() is called now and then and raises where the work is to be given up. Raises DigestMismatch if what
    comes is not what the digest says, twice; NetworkError, RegistryError or ImageNotFound, of the last source,
    if no source has it.
    """
    name = short(blob.digest)
    for second in (False, True):
        with store.ingest(blob.digest, blob.size, check) as ingest:
            if ingest.done:
                emit(progress, "exists", name, blob.size, blob.size)
                return False
            meter = Meter(progress, "downloading", name, blob.size, ingest.offset)
            resumed = ingest.offset > 0
            try:
                _transfer(sources, blob, ingest, meter, check)
                ingest.commit()
            except DigestMismatch as error:
                ingest.abort()
                # Bytes from before may be at fault, too: once more from the start, the other way round.
                if second:
                    raise
                if len(sources) > 1 and not resumed:
                    sources = [*sources[1:], sources[0]]
                emit(progress, "retrying", name, 0, blob.size, str(error))
                continue
        emit(progress, "done", name, blob.size, blob.size)
        return True
    raise AssertionError("unreachable")


def _transfer(
    sources: Sequence[Repository], blob: Descriptor, ingest: Ingest, meter: Meter, check: Callable[[], None]
) -> None:
    """Write what is missing, from the first source that gives it."""
    for place, source in enumerate(sources):
        try:
            _from_one(source, blob, ingest, meter, check)
            return
        except (NetworkError, RegistryError, ImageNotFound, AuthError) as error:
            check()
            if place + 1 == len(sources):
                raise
            emit(meter.progress, "retrying", meter.id, ingest.offset, blob.size, f"{source.host}: {error}")


def _from_one(source: Repository, blob: Descriptor, ingest: Ingest, meter: Meter, check: Callable[[], None]) -> None:
    settings = source.http.settings
    failures = 0
    cuts = 50 + (blob.size >> 18)  # a connection that breaks after every few bytes is no use
    while ingest.offset < blob.size:
        before = ingest.offset
        answer, begins = source.open_blob(blob, before)
        try:
            if begins != before:
                ingest.restart()
                meter.current = 0
            try:
                _read(answer.read1, settings.read, settings.min_rate, ingest, meter, check)
            except NetworkError as error:
                check()
                cuts -= 1
                if ingest.offset > before and not isinstance(error, _TooSlow):
                    failures = 0
                failures += 1
                if failures >= settings.attempts or cuts < 0:
                    raise
                emit(meter.progress, "retrying", meter.id, ingest.offset, blob.size, error.why)
                source.http.sleep(settings.backoff * 2.0 ** (failures - 1))
                continue
        finally:
            answer.close_unless_done()
        if ingest.offset < blob.size:
            failures += 1
            if failures >= settings.attempts:
                raise DigestMismatch(
                    blob.digest, f"{source.host} ends it after {ingest.offset} of its {blob.size} bytes"
                )


def _read(
    read1: Callable[[int], bytes],
    window: float,
    rate: int,
    ingest: Ingest,
    meter: Meter,
    check: Callable[[], None],
) -> None:
    """Copy to the end of the answer."""
    write, add, clock = ingest.write, meter.add, time.monotonic
    until, mark = clock() + window, ingest.offset
    while data := read1(BLOCK):
        check()
        write(data)
        add(len(data))
        if clock() > until:
            if ingest.offset - mark < rate * window:
                raise _TooSlow(meter.id, f"comes with less than {rate} bytes a second")
            until, mark = clock() + window, ingest.offset
