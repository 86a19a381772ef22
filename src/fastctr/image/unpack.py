"""Unpack a layer or archive: read and decompress, hash, and make the files, each in a thread of its own.

The GIL is let go of in all three, so the slowest decides how long it takes. Between them are bounded queues
of pieces of 256 KiB. Small archives are done without threads. The first error is the one that is raised; what
it leads to elsewhere is not. The files are made by csrc/untar.c: untar.h says what is taken from an archive and
what is refused.
"""

from __future__ import annotations

import os

from ..errors import ArchiveError, DigestMismatch, StoreError, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

    from .progress import Progress

    Map = Sequence[tuple[int, int, int]]

__all__ = ["Limits", "Unpacked", "unpack"]

_DEPTH = 32
"""Pieces that may wait between two threads."""
_SMALL = 2
"""Archives of so few pieces are not worth a thread."""
_CUT = bytes(1)
"""The last piece when reading failed: nothing is finished."""
_RAISE = "if that is what it should be, raise the limits"


class Limits:
    """How big an archive may get. Beyond one of them: ArchiveError.

    size     bytes of its files together, and of each with its holes (1 TiB)
    entries  files, directories, links … (10 million)
    ratio    bytes that one packed byte may become, once it is more than `floor` bytes (300; gzip's most is 1032).
    floor    bytes (16 GiB): below, long runs of zeros may be packed as tightly as they can be
    """

    __slots__ = ("entries", "floor", "ratio", "size")

    def __init__(self, size: int = 1 << 40, entries: int = 10_000_000, ratio: int = 300, floor: int = 16 << 30) -> None:
        self.size, self.entries, self.ratio, self.floor = size, entries, ratio, floor


class Unpacked:
    """What came of it.

    size             bytes of the files' content, holes not counted
    files            entries made: files, directories, links, devices, whiteouts
    diff_id          "sha256:…" of the archive, unpacked
    implied_dirs     directories that were made without an entry, parents first (b"": the top)
    missing_links    (link, target) of hard links whose target is not in the archive
    opaque_root      the archive hides all that is below it, which overlayfs wants said another way
    whiteouts        how many marks of both kinds
    hidden           paths of the whiteouts that were made
    skipped_devices  not made, as devices="skip" says
    skipped_xattrs   extended attributes that the filesystem or this user's rights do not allow

    Paths are bytes, relative to the directory. `settle` sees to the directories, links, whiteouts and opaque_root.
    """

    __slots__ = (
        "diff_id",
        "files",
        "hidden",
        "implied_dirs",
        "missing_links",
        "opaque_root",
        "size",
        "skipped_devices",
        "skipped_xattrs",
        "whiteouts",
    )

    def __init__(self, figures: dict[str, Any], diff_id: str) -> None:
        self.size: int = figures["size"]
        self.files: int = figures["entries"]
        self.diff_id = diff_id
        self.implied_dirs: list[bytes] = figures["implied"]
        self.missing_links: list[tuple[bytes, bytes]] = figures["missing"]
        self.opaque_root: bool = figures["root_opaque"]
        self.whiteouts: int = figures["whiteouts"]
        self.hidden: list[bytes] = figures["hidden"]
        self.skipped_devices: int = figures["skipped_devices"]
        self.skipped_xattrs: int = figures["skipped_xattrs"]


class _Line:
    """The state that the threads of one unpacking share."""

    def __init__(self) -> None:
        import threading

        self.error: BaseException | None = None
        self._lock = threading.Lock()

    def fail(self, error: BaseException) -> None:
        with self._lock:
            if self.error is None:
                self.error = error


class _Stage:
    """A thread that takes pieces off a queue. After a failure anywhere it goes on taking, and does nothing."""

    take: Callable[[bytes], object]  # what is done with a piece: each kind's own

    def __init__(self, line: _Line, name: str) -> None:
        import queue
        import threading

        self._line = line
        self._queue: Any = queue.Queue(_DEPTH)
        self.put = self._queue.put
        self._thread = threading.Thread(target=self._run, name=f"fastctr-{name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def join(self) -> None:
        self._thread.join()

    def begin(self) -> None: ...

    def end(self) -> None: ...

    def _run(self) -> None:
        line, get = self._line, self._queue.get
        try:
            self.begin()
        except BaseException as error:  # noqa: BLE001 it is raised by unpack()
            line.fail(error)
        while True:
            piece = get()
            if piece is _CUT:
                return
            if piece is None:
                break
            if line.error is None:
                try:
                    self.take(piece)
                except BaseException as error:  # noqa: BLE001
                    line.fail(error)
        if line.error is None:
            try:
                self.end()
            except BaseException as error:  # noqa: BLE001
                line.fail(error)


class _Hash(_Stage):
    def __init__(self, line: _Line) -> None:
        import hashlib

        super().__init__(line, "hash")
        self.sha256 = hashlib.sha256()
        self.take = self.sha256.update


class _Files(_Stage):
    def __init__(self, line: _Line, untar: Any) -> None:
        super().__init__(line, "untar")
        self.untar = untar
        self.begin = untar.own_thread  # type: ignore[method-assign]
        self.take = untar.feed
        self.figures: dict[str, Any] = {}

    def end(self) -> None:
        self.figures = self.untar.finish()


def _hint(code: int) -> str:
    import errno

    if code in (errno.ENOSPC, errno.EDQUOT):
        return "make room, or choose another place with --root"
    if code in (errno.EPERM, errno.EACCES):
        return "as root it would be allowed"
    return ""


def _told(fault: Any, where: str, devices: str) -> Exception:
    """The exception of fastctr.errors for an UntarFault."""
    import errno

    kind, code, entry, why = fault.args
    text = f"{shown(os.fsdecode(entry), 200)}: {why}" if entry else why
    if code:
        text += f": {os.strerror(code)}"
    if kind == "system":
        return StoreError(where, text, _hint(code))
    hint = ""
    if code == errno.EINVAL and "giving it to" in why:
        hint = "this user namespace has no such id: give uid_map and gid_map, or owner"
    elif kind == "limit":
        hint = _RAISE
    elif devices == "refuse" and "device" in why:
        hint = 'unpack as root, or with devices="skip"'
    return ArchiveError(where, text, hint)


def _check_args(mode: str, devices: str | None) -> None:
    from ..errors import SpecError

    if mode not in ("layer", "merge"):
        raise SpecError("mode", mode, "is no way to unpack", 'use "layer" or "merge"')
    if devices not in (None, "make", "skip", "refuse"):
        raise SpecError("devices", devices, "is not understood", 'use "make", "skip" or "refuse"')


def unpack(
    what: Any,
    directory: int,
    *,
    mode: str = "layer",
    diff_id: str | None = None,
    verified: bool = False,
    limits: Limits | None = None,
    uid_map: Map = (),
    gid_map: Map = (),
    userxattr: bool = False,
    owner: tuple[int, int] | None = None,
    devices: str | None = None,
    selinux: bool = False,
    where: str = "",
    progress: Progress | None = None,
    total: int = 0,
) -> Unpacked:
    """Unpack a tar archive, plain or packed with gzip, zstd, bzip2 or xz, below a directory.

    what       a path, a descriptor, or a binary file object; it is read once, from where it stands
    directory  a descriptor of the directory
    mode       "layer": whiteouts in overlayfs' own form, into an empty directory; "merge": whiteouts remove what
               is there already
    diff_id    "sha256:…" of the plain archive, verified at the end; without it the archive's end mark must be there
    verified   the caller has just seen that what is read has this diff id, if it is not packed: not done again
    limits     how big it may get
    uid_map, gid_map
               rows (first id in the archive, first id on disk, count); an id outside of them is refused
    userxattr  overlayfs' marks are user.overlay.*, as its mount option of that name wants them
    owner      (uid, gid) of everything; by default see ownership.ownership
    devices    "make", "skip" or "refuse"; by default "make" where this process may, else "refuse"
    selinux    take security.selinux from the archive too
    where      what it is, for messages
    progress   told of "unpacking", with `total` as the size of what is read (found out for files)

    Raises ArchiveError (the archive is damaged, hostile or too big), DigestMismatch, StoreError (it cannot be
    written). Then the directory holds a part of it, and is the caller's to remove.
    """
    from .. import _core
    from .compression import open_decompressed
    from .ownership import may_mknod, ownership

    _check_args(mode, devices)
    limits = limits or Limits()
    owner = owner or ownership(uid_map, gid_map)
    devices = devices or ("make" if may_mknod() else "refuse")
    try:
        reader = open_decompressed(what, where)
    except OSError as error:
        raise StoreError(where or str(what), f"cannot be read: {error.strerror}") from None
    where = where or reader.where
    untar = None
    try:
        untar = _core.Untar(
            directory, mode, devices, userxattr, selinux, diff_id is None, owner, uid_map, gid_map,
            limits.entries, limits.size,
        )  # fmt: skip
        known = diff_id if verified and reader.kind == "none" else None
        figures, found = _run(reader, untar, limits, where, progress, total, known)
    except _core.UntarFault as fault:
        raise _told(fault, where, devices) from None
    except OSError as error:
        raise StoreError(where, f"cannot be read: {error.strerror}") from None
    finally:
        if untar is not None:
            untar.close()
        reader.close()
    if diff_id is not None and found != diff_id:
        raise DigestMismatch(where, f"unpacked it is {found}, and should be {diff_id}", "pull or load it again")
    return Unpacked(figures, found)


def _run(
    reader: Any, untar: Any, limits: Limits, where: str, progress: Progress | None, total: int, known: str | None
) -> tuple[dict[str, Any], str]:
    """The figures of untar.finish(), and the digest of what was read, found out if it is not known."""
    meter = None
    if progress is not None:
        from .progress import Meter, short

        meter = Meter(progress, "unpacking", short(where), total)
    source = _Watched(reader, limits, where, meter)
    first = []
    for piece in source:
        first.append(piece)
        if len(first) > _SMALL:
            break
    else:
        return _run_here(first, source, untar)
    line = _Line()
    files = _Files(line, untar)
    sums = _Hash(line) if known is None else None
    stages: tuple[_Stage, ...] = (files,) if sums is None else (files, sums)
    for stage in stages:
        stage.start()
    try:
        for pieces in (first, source):
            for piece in pieces:
                if line.error is not None:
                    break
                for stage in stages:
                    stage.put(piece)
    except BaseException as error:  # noqa: BLE001 it is raised below
        line.fail(error)
    for stage in stages:
        _surely(stage.put, line, None if source.error is None else _CUT)
    for stage in stages:
        _surely(stage.join, line)
    if line.error is not None:
        raise line.error
    if source.error is not None:
        raise source.error
    if sums is not None:
        known = "sha256:" + sums.sha256.hexdigest()
    return files.figures, str(known)


def _run_here(pieces: list[bytes], source: _Watched, untar: Any) -> tuple[dict[str, Any], str]:
    """It is all there already: no need of threads."""
    import hashlib

    sha256 = hashlib.sha256()
    for piece in pieces:
        sha256.update(piece)
        untar.feed(piece)
    if source.error is not None:
        raise source.error
    return untar.finish(), "sha256:" + sha256.hexdigest()


def _surely(call: Callable[..., Any], line: _Line, *args: object) -> None:
    """Call it to its end, interrupted or not: nobody may still write to the directory when unpack() returns."""
    while True:
        try:
            call(*args)
            return
        except BaseException as error:  # noqa: BLE001 as KeyboardInterrupt; it is raised in the end
            line.fail(error)


class _Watched:
    """The reader's pieces. An error in reading ends them, and is kept: those before it may hold an earlier one."""

    def __init__(self, reader: Any, limits: Limits, where: str, meter: Any) -> None:
        self.error: Exception | None = None
        self._pieces = self._all(reader, limits, where, meter)

    def __iter__(self) -> Iterator[bytes]:
        return self._pieces

    def _all(self, reader: Any, limits: Limits, where: str, meter: Any) -> Iterator[bytes]:
        seen = 0
        try:
            for piece in reader.chunks():
                yield piece
                if reader.produced > limits.floor and reader.produced > limits.ratio * reader.consumed:
                    why = f"grows from {reader.consumed} bytes to more than {reader.produced}"
                    raise ArchiveError(where, why, _RAISE)
                if meter is not None and reader.consumed != seen:
                    meter.add(reader.consumed - seen)
                    seen = reader.consumed
        except (ArchiveError, OSError) as error:
            self.error = error
