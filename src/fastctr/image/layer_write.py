"""A layer on its way into the store: hashed, compressed and written while it is still being made.

Whoever makes the tar writes into a LayerWriter; one thread hashes what comes (the diff id), another
compresses, hashes and writes it. Both let go of the GIL for their work.
"""

from __future__ import annotations

from ..errors import SpecError
from . import oci

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .store import Store

__all__ = ["LayerWriter", "NewLayer", "compressor", "layer_type"]

_TYPES = {"none": oci.LAYER, "gzip": oci.LAYER_GZIP, "zstd": oci.LAYER_ZSTD}
_DOCKER_TYPES = {"none": oci.DOCKER_LAYER, "gzip": oci.DOCKER_LAYER_GZIP, "zstd": oci.DOCKER_LAYER_ZSTD}
_QUEUE = 8


def layer_type(compression: str, docker: bool = False) -> str:
    """The media type of a layer. Raises SpecError for another compression than none, gzip, zstd."""
    kinds = _DOCKER_TYPES if docker else _TYPES
    if compression not in kinds:
        raise SpecError("compression", compression, "is not a compression of layers", 'use "gzip", "zstd" or "none"')
    return kinds[compression]


class NewLayer:
    """descriptor: of the blob in the store; diff_id: the digest of its tar; size: bytes of the tar."""

    __slots__ = ("descriptor", "diff_id", "size")

    def __init__(self, descriptor: oci.Descriptor, diff_id: str, size: int) -> None:
        self.descriptor = descriptor
        self.diff_id = diff_id
        self.size = size


def compressor(kind: str, level: int | None = None) -> Any:
    """An object with compress(data) and flush(), the same bytes for the same input and library.

    kind: "gzip" (level 0..3 as isal has them, 1..9 without it), "zstd" (1..19), "xz", "bzip2".
    """
    if kind == "gzip":
        try:
            from isal import isal_zlib

            return isal_zlib.compressobj(2 if level is None else min(level, 3), isal_zlib.DEFLATED, 31)
        except ImportError:
            import zlib

            return zlib.compressobj(6 if level is None else level, zlib.DEFLATED, 31)
    if kind == "zstd":
        import os

        import zstandard

        threads = max(1, min(os.cpu_count() or 1, 4))  # their number does not change the bytes
        level = 3 if level is None else level
        return zstandard.ZstdCompressor(level=level, write_checksum=True, threads=threads).compressobj()
    if kind == "xz":
        import lzma

        return lzma.LZMACompressor(preset=6 if level is None else level)
    if kind == "bzip2":
        import bz2

        return bz2.BZ2Compressor(9 if level is None else level)
    raise SpecError("compression", kind, "is not a compression", 'use "gzip", "zstd", "xz", "bzip2" or "none"')


class Stage:
    """A thread that calls `work` with each piece it is given, in order."""

    def __init__(self, name: str, work: Callable[[bytes], object]) -> None:
        import queue
        import threading

        self._queue: queue.Queue[bytes | None] = queue.Queue(_QUEUE)
        self._work = work
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        get, work = self._queue.get, self._work
        while True:
            piece = get()
            if piece is None:
                return
            if self.error is None:
                try:
                    work(piece)
                except BaseException as error:  # noqa: BLE001 raised again where the pieces come from
                    self.error = error

    def put(self, piece: bytes) -> None:
        if self.error is not None:
            raise self.error
        self._queue.put(piece)

    def join(self) -> None:
        self._queue.put(None)
        self._thread.join()


class LayerWriter:
    """A new layer in the store. Use as a context manager; write the tar, then finish().

    compression  "gzip", "zstd" or "none"
    docker       give the blob Docker's media type instead of OCI's
    """

    def __init__(
        self, store: Store, compression: str = "gzip", *, level: int | None = None, docker: bool = False
    ) -> None:
        self.media_type = layer_type(compression, docker)
        self.size = 0
        self._compression = compression
        self._level = level
        self._ingest = store.ingest(None)
        self._stages: list[Stage] = []
        self._packer: Any = None
        self._hash: Any = None

    def __enter__(self) -> LayerWriter:
        import hashlib

        self._packer = None if self._compression == "none" else compressor(self._compression, self._level)
        self._ingest.__enter__()
        # without compression the blob's digest is the diff id, and the ingest hashes it as it is
        self._stages.append(Stage("fastctr-layer", self._store_piece))
        if self._packer is not None:
            self._hash = hashlib.sha256()
            self._stages.append(Stage("fastctr-digest", self._hash.update))
        return self

    def _store_piece(self, piece: bytes) -> None:
        packed = piece if self._packer is None else self._packer.compress(piece)
        if packed:
            self._ingest.write(packed)

    def write(self, data: bytes) -> None:
        """The next bytes of the tar; they must not change afterwards. Raises what a stage ran into."""
        self.size += len(data)
        for stage in self._stages:
            stage.put(data)

    def _join(self) -> None:
        stages, self._stages = self._stages, []
        for stage in stages:
            stage.join()
        for stage in stages:
            if stage.error is not None:
                raise stage.error

    def finish(self) -> NewLayer:
        """Wait for everything to be written and give the blob its name."""
        self._join()
        if self._packer is not None:
            rest = self._packer.flush()
            if rest:
                self._ingest.write(rest)
        digest, size = self._ingest.commit()
        diff_id = digest if self._packer is None else f"sha256:{self._hash.hexdigest()}"
        return NewLayer(oci.Descriptor(self.media_type, digest, size), diff_id, self.size)

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        try:
            self._join()
        except BaseException:
            if kind is None:
                raise
        finally:
            self._ingest.__exit__(kind, error, trace)
