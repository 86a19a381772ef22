"""Layers as EROFS images that the kernel mounts straight from their files (Linux 6.12, no loop devices).

The containers' plan mounts them inside its own template namespace: nothing appears on the machine, and nothing is
left behind. An image is hashed when it is made. Later it is taken to be that one as long as the kernel says that
nobody has written to the file (its ctime, which no system call can set, inode and size are those noted then);
else it is hashed again before it is used. Where the filesystem has fs-verity the kernel checks every block as it
is read, and its digest is compared instead; docs/security.md says what each is good for.
"""

from __future__ import annotations

import os

from ...errors import DigestMismatch, ImageError, StoreError
from .base import Layer, Snapshotter, privileged, write_json
from .overlay import settle_into

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from ..store import Store
    from ..unpack import Unpacked
    from ..workplace import Workplace

_FS_IOC_ENABLE_VERITY = 0x40806685
_FS_IOC_MEASURE_VERITY = 0xC0046686
_USE_OVERLAY = 'use snapshotter="overlay"'
_REPAIR = "fastctr system fsck --repair, then pull again"
_usable: set[str] = set()
"""Stores in which an image could be mounted."""


class Erofs(Snapshotter):
    """layers/erofs/<chain>/layer.erofs, whiteouts and marks in it as overlayfs wants them. For root alone."""

    name = "erofs"

    def __init__(self, store: Store) -> None:
        """Raises StoreError where the kernel cannot mount such images, or mkfs.erofs is missing."""
        super().__init__(store)
        self._checked: set[str] = set()
        if store.root not in _usable:
            _try_out(store)
            _usable.add(store.root)

    def roots(self, chains: Sequence[str]) -> list[str]:
        """ "erofs:<file>" for each layer, topmost first; each is verified when it is first used in a process.

        Raises DigestMismatch for one that is not what was made.
        """
        if not chains:
            raise ImageError("image", "has no layers, so there is nothing to run")
        for chain in chains:
            if chain not in self._checked:
                self.verify(chain)
                self._checked.add(chain)
        return [f"erofs:{self.path(chain)}/layer.erofs" for chain in reversed(chains)]

    def verify(self, chain: str, whole: bool = False) -> None:
        """Compare the image with what was noted when it was made; `whole`: by its content in any case.

        Raises DigestMismatch, StoreError.
        """
        path, info = f"{self.path(chain)}/layer.erofs", self.info(chain)
        try:
            found = os.stat(path, follow_symlinks=False)
            if not whole and info.get("verity"):
                if measure_verity(path) == info["verity"]:
                    return
            elif not whole and info.get("seen") == _seen(found):
                return
            digest = _sha256(path)
        except OSError as error:
            raise StoreError(path, error.strerror or str(error), _REPAIR) from None
        if digest != info.get("sha256"):
            raise DigestMismatch(path, f"is {digest}, and was {info.get('sha256')} when it was made", _REPAIR)
        if info.get("seen") != _seen(found):  # moved to another filesystem, or a backup put back
            info["seen"] = _seen(found)
            new = f"{self.path(chain)}/layer.json.{os.getpid()}-{os.urandom(3).hex()}"
            write_json(new, info)
            os.rename(new, f"{self.path(chain)}/layer.json")

    # -- making one

    def _finish(self, place: Workplace, layer: Layer, made: Unpacked) -> dict[str, Any]:
        from ..workplace import remove_tree

        diff, image = f"{place.path}/diff", f"{place.path}/layer.erofs"
        self.wait_for_parent(layer)
        self._settle(diff, layer, made)
        make_image(diff, image, layer.chain)
        _keep_passwd(diff, place.path)
        remove_tree(diff)
        found: dict[str, Any] = {"sha256": _sha256(image), "verity": enable_verity(image)}
        info = os.stat(image)
        found["seen"] = _seen(info)
        made.size = info.st_size
        return found

    def _settle(self, diff: str, layer: Layer, made: Unpacked) -> None:
        """The layers below are looked into by mounts that are nowhere attached."""
        if not (made.implied_dirs or made.missing_links or made.opaque_root):
            return
        from .mounted import mount_roots

        fds: list[int] = []
        try:
            for chain in reversed(layer.parent_chains):
                fds.append(mount_roots(self.roots([chain])))
            settle_into(diff, made, fds, False)
        finally:
            for fd in fds:
                os.close(fd)


def _seen(info: os.stat_result) -> list[int]:
    return [info.st_ino, info.st_size, info.st_ctime_ns]


def _sha256(path: str) -> str:
    import hashlib

    with open(path, "rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def make_image(directory: str, image: str, chain: str) -> None:
    """An EROFS image of a directory, not packed, so that its pages are mapped as they are. Raises StoreError."""
    import shutil
    import subprocess

    tool = shutil.which("mkfs.erofs", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if tool is None:
        raise StoreError("mkfs.erofs", "is not installed", f"install erofs-utils, or {_USE_OVERLAY}")
    name = chain.partition(":")[2]
    uuid = "-".join((name[:8], name[8:12], name[12:16], name[16:20], name[20:32]))
    done = subprocess.run(
        [tool, "--quiet", "-d1", "-U", uuid, image, directory],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        said = done.stdout.decode("utf-8", "replace").strip().splitlines()
        raise StoreError(chain, f"mkfs.erofs failed: {said[-1] if said else done.returncode}", _USE_OVERLAY)


def _keep_passwd(diff: str, place: str) -> None:
    """For who wants to know a user's home without mounting anything (roots.readable)."""
    path = f"{diff}/etc/passwd"
    if os.path.islink(f"{diff}/etc") or os.path.islink(path) or not os.path.isfile(path):
        return
    os.mkdir(f"{place}/etc", 0o755)
    with open(path, "rb") as old, open(f"{place}/etc/passwd", "wb") as new:
        new.write(old.read(1 << 20))


def enable_verity(path: str) -> str | None:
    """Have the kernel check the file's blocks from now on (fs-verity); its digest, or None where it cannot."""
    import fcntl
    import struct

    # struct fsverity_enable_arg: version 1, sha256, blocks of 4096, no salt, no signature
    arg = struct.pack("=IIIIQIIQ88x", 1, 1, 4096, 0, 0, 0, 0, 0)
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, _FS_IOC_ENABLE_VERITY, arg)
    except OSError:
        return None
    finally:
        os.close(fd)
    return measure_verity(path)


def measure_verity(path: str) -> str | None:
    """The fs-verity digest of a file, or None if it has none."""
    import fcntl
    import struct

    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        found = fcntl.ioctl(fd, _FS_IOC_MEASURE_VERITY, struct.pack("=HH64x", 0, 64))
    except OSError:
        return None
    finally:
        os.close(fd)
    size = struct.unpack_from("=HH", found)[1]
    return "sha256:" + found[4 : 4 + size].hex()


def _try_out(store: Store) -> None:
    """Make a small image and mount it. Raises StoreError with the reason why not."""
    if not privileged():
        raise StoreError("erofs", "can be mounted by root alone", _USE_OVERLAY)
    from ...errors import LaunchError
    from ..workplace import Workplace
    from .mounted import mount_roots

    with Workplace(store, "probe") as place:
        os.mkdir(f"{place.path}/d", 0o700)
        make_image(f"{place.path}/d", f"{place.path}/image", "sha256:" + "0" * 64)
        try:
            os.close(mount_roots([f"erofs:{place.path}/image"]))
        except LaunchError as error:
            raise StoreError("erofs", _reason(error.errno), _USE_OVERLAY) from None


def _reason(code: int | None) -> str:
    import errno

    if code == errno.ENODEV:
        return "is not known to this kernel (CONFIG_EROFS_FS)"
    if code == errno.ENOTBLK:
        return "cannot be mounted from a file by this kernel: that needs Linux 6.12 with CONFIG_EROFS_FS_BACKED_BY_FILE"
    if code == errno.EINVAL:
        return "cannot be mounted from a file where the store lies (on a tmpfs, or an overlay)"
    return f"cannot be mounted here: {os.strerror(code or 0)}"
