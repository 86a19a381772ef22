"""What rootfs="host" stands for: this machine's own root, seen through an overlay.

The machine's / is the read-only lower layer: a job reads every file there that the job's user may
read (programs, libraries, /etc, /home, /root, /var), and what it writes goes to a layer that is
thrown away. File systems mounted below / come along as read-only binds, except what is not a disk
or network file system and whatever lies below /proc, /sys, /dev, /run, /tmp, /var/tmp, /boot, /mnt
and /media; /tmp, /run and /var/tmp are the container's own empty tmpfs. So sockets of services
(/run/docker.sock, D-Bus) are not in reach, and secrets on disk are as far as their file modes allow:
as root in the container that is all of them. Give a rootfs of its own to a job that must not read
this machine's files.

As an unprivileged user the kernel refuses an overlay above a root that has mounts below it. Then the
root is an empty tmpfs in which each entry of / is bound read-only, with what is mounted below it.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NamedTuple

    class MountEntry(NamedTuple):
        """One line of /proc/self/mountinfo (proc_pid_mountinfo(5))."""

        id: int
        parent: int
        root: str
        point: str
        options: str
        fstype: str

else:
    from collections import namedtuple

    MountEntry = namedtuple("MountEntry", "id parent root point options fstype")

REAL = frozenset(
    (
        "ext2",
        "ext3",
        "ext4",
        "xfs",
        "btrfs",
        "zfs",
        "f2fs",
        "bcachefs",
        "jfs",
        "reiserfs",
        "nilfs2",
        "erofs",
        "squashfs",
        "iso9660",
        "udf",
        "vfat",
        "exfat",
        "ntfs3",
        "fuseblk",
        "nfs",
        "nfs4",
        "cifs",
        "smb3",
        "ceph",
        "9p",
        "virtiofs",
        "gfs2",
        "ocfs2",
        "lustre",
    )
)
OWN_TMPFS = (("/tmp", 0o1777), ("/run", 0o755), ("/var/tmp", 0o1777))
LEFT_OUT = ("/proc", "/sys", "/dev", "/run", "/tmp", "/var/tmp", "/boot", "/mnt", "/media")


def unescape(text: str) -> str:
    """A field of mountinfo with its octal escapes undone: "a\\040b" is "a b"."""
    if "\\" not in text:
        return text
    raw = os.fsencode(text)
    out = bytearray()
    place = 0
    while place < len(raw):
        digits = raw[place + 1 : place + 4]
        if raw[place] == 92 and len(digits) == 3 and all(48 <= digit <= 55 for digit in digits):
            out.append(int(digits, 8) & 255)
            place += 4
        else:
            out.append(raw[place])
            place += 1
    return os.fsdecode(bytes(out))


def read_mountinfo(path: str = "/proc/self/mountinfo") -> list[MountEntry]:
    """The mounts of this process in the kernel's order."""
    found = []
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            left, _, right = line.rstrip("\n").partition(" - ")
            fields = left.split(" ")
            if len(fields) < 6:
                continue
            found.append(
                MountEntry(
                    int(fields[0]),
                    int(fields[1]),
                    unescape(fields[3]),
                    unescape(fields[4]),
                    fields[5],
                    right.split(" ", 1)[0],
                )
            )
    return found


def _below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def visible(entries: list[MountEntry]) -> list[MountEntry]:
    """The mounts that a path still leads to: the last at each point, none under a later one's cover."""
    last: dict[str, MountEntry] = {}
    for entry in entries:
        last.pop(entry.point, None)  # order by the latest
        last[entry.point] = entry
    reached: set[int] = set()
    kept = []
    for entry in sorted(last.values(), key=lambda entry: entry.point.count("/") if entry.point != "/" else 0):
        if entry.point == "/" or entry.parent in reached:
            reached.add(entry.id)
            kept.append(entry)
    return kept


def submounts(entries: list[MountEntry]) -> list[str]:
    """The mount points below / that come along into the container, parents first."""
    points = [
        entry.point
        for entry in visible(entries)
        if entry.point != "/"
        and entry.fstype in REAL
        and not any(_below(entry.point, folder) for folder in LEFT_OUT)
    ]
    return sorted(points, key=lambda point: point.count("/"))


def top_entries(root: str = "/") -> list[tuple[str, str | None]]:
    """The entries of / that a root made of binds has: (path, None), or (path, text of the symlink)."""
    found: list[tuple[str, str | None]] = []
    with os.scandir(root) as entries:
        for entry in entries:
            path = os.path.join("/", entry.name)
            if any(path == folder for folder in LEFT_OUT) or entry.name == "lost+found":
                continue
            if entry.is_symlink():
                found.append((path, os.readlink(entry.path)))
            elif entry.is_dir(follow_symlinks=False) and os.access(entry.path, os.X_OK):
                found.append((path, None))
    return sorted(found)
