"""What to do about a failed start: one sentence per stage and errno (docs/errors.md prints this table).

Loaded only when a start has failed. An entry with errno 0 is the stage's general advice.
"""

from __future__ import annotations

from errno import (
    E2BIG,
    EACCES,
    EAGAIN,
    EBUSY,
    EFAULT,
    EINVAL,
    EIO,
    EISDIR,
    ELIBBAD,
    ELOOP,
    EMFILE,
    ENAMETOOLONG,
    ENFILE,
    ENODEV,
    ENOENT,
    ENOEXEC,
    ENOMEM,
    ENOSPC,
    ENOSYS,
    ENOTBLK,
    ENOTDIR,
    ENXIO,
    EOPNOTSUPP,
    EPERM,
    ERANGE,
    EROFS,
    ESRCH,
    ETXTBSY,
    EUCLEAN,
    EUSERS,
    EXDEV,
)

_ROOT_OR_USERNS = "run as root, or as a user who may make user namespaces (`fastctr info` says)"
_MOUNT_LIMIT = "raise fs.mount-max or user.max_mnt_namespaces, or unmount what is no longer used"

HINTS: dict[tuple[str, int], str] = {
    ("spec", 0): "two fields of the spec exclude each other; change one of them",
    ("memory", 0): "this process could not get memory for the plan; free some, or raise its own limit",
    ("userns", EPERM): (
        "this user may not make user namespaces: allow it (kernel.unprivileged_userns_clone=1, "
        "kernel.apparmor_restrict_unprivileged_userns=0) or run as root"
    ),
    ("userns", ENOSPC): "raise the sysctl user.max_user_namespaces; 0 turns them off",
    ("userns", EUSERS): (
        "user namespaces are nested too deep (32 levels), or user.max_user_namespaces is reached"
    ),
    ("userns", EINVAL): "the kernel was built without user namespaces (CONFIG_USER_NS)",
    ("userns", 0): "a user namespace could not be made; `fastctr info` says what this machine allows",
    ("idmap", EPERM): (
        "the ids outside must belong to this user: give the user's own id with count 1, or ranges from "
        "/etc/subuid and /etc/subgid with newuidmap and newgidmap installed"
    ),
    ("idmap", EINVAL): (
        "ranges of uid_map and gid_map must not overlap, and there may be at most 340 of them; an "
        "idmapped mount needs a file system that knows them (ext4, xfs, btrfs, tmpfs from Linux 6.3)"
    ),
    ("idmap", ENOENT): "install newuidmap and newgidmap (package uidmap), or map one id only",
    ("idmap", 0): "the id map was not accepted; check uid_map, gid_map and the mount's idmap",
    ("netns", EPERM): f'{_ROOT_OR_USERNS}, or use network="host"',
    ("netns", ENOSPC): 'raise the sysctl user.max_net_namespaces, or use network="host"',
    ("netns", ENOMEM): (
        "the kernel ran out of memory for network namespaces: dead ones may still be waiting to go"
    ),
    ("netns", ENOENT): "the namespace to join does not exist any more; check network=",
    ("netns", EINVAL): "the file given to network= is not a network namespace",
    ("netns", 0): "the network namespace could not be made or joined",
    ("namespace", ENOENT): "the namespace to join does not exist any more; check its path or pid",
    ("namespace", ESRCH): "the process whose namespace should be joined is gone",
    ("namespace", EINVAL): "the file given is a namespace of another kind, or cannot be joined from here",
    ("namespace", EPERM): (
        "joining needs CAP_SYS_ADMIN in the namespace's owner; join its user namespace too (userns=)"
    ),
    ("namespace", ENOSPC): "raise the sysctl user.max_*_namespaces for the kind named",
    ("namespace", 0): "the namespace could not be made or joined",
    ("timens", EPERM): f"a time namespace needs privilege: {_ROOT_OR_USERNS}",
    ("timens", ERANGE): "the offset would make the clock negative or too large; use a smaller one",
    ("timens", EINVAL): (
        "the kernel has no time namespaces (Linux 5.6, CONFIG_TIME_NS), or the offset is too large"
    ),
    ("timens", ENOSPC): "raise the sysctl user.max_time_namespaces",
    ("timens", 0): "the time namespace could not be made; leave monotonic= and boottime= away",
    ("template", EPERM): f"mount namespaces need privilege: {_ROOT_OR_USERNS}",
    ("template", ENOSPC): f"raise the sysctl user.max_mnt_namespaces; or {_MOUNT_LIMIT}",
    ("template", 0): "the plan's mount namespace could not be prepared",
    ("rootfs", ENOENT): "the directory is gone: make it again, or give another rootfs=",
    ("rootfs", ENOTDIR): "rootfs= must be a directory",
    ("rootfs", EACCES): (
        "this user cannot reach the directory: every directory on the way needs the x permission"
    ),
    ("rootfs", EPERM): f"mounting needs privilege: {_ROOT_OR_USERNS}",
    ("rootfs", EINVAL): (
        "the directory has locked mounts below it and cannot be bound alone; give one without mounts"
    ),
    ("rootfs", ENOSPC): _MOUNT_LIMIT,
    ("rootfs", ELOOP): "the path is a symbolic link where none may be; give the directory itself",
    ("rootfs", ENOTBLK): (
        "an EROFS image is mounted from its file from Linux 6.12 on (CONFIG_EROFS_FS_BACKED_BY_FILE);"
        ' use snapshotter="overlay"'
    ),
    ("rootfs", ENODEV): 'the kernel has no EROFS (CONFIG_EROFS_FS); use snapshotter="overlay"',
    ("rootfs", EUCLEAN): "the image's file is damaged: fastctr system fsck --repair, then pull it again",
    ("rootfs", 0): "the root file system could not be set up",
    ("overlay", EINVAL): (
        "the kernel's log (dmesg) has the reason: a layer may be missing, be an overlay too deep, have "
        "mounts below it as an unprivileged user, or lie on a file system that overlay does not take"
    ),
    ("overlay", ENODEV): (
        'the kernel has no overlay file system: load it (modprobe overlay), or use writable="direct" or'
        " read_only=True with one directory"
    ),
    ("overlay", EPERM): (
        "overlay mounts as an unprivileged user need Linux 5.11; use one directory with read_only=True"
    ),
    ("overlay", EBUSY): (
        "the upper or work directory is in use by another overlay: wait for it, or use another upper="
    ),
    ("overlay", ENOENT): "a layer or the upper directory is gone",
    ("overlay", ELOOP): "a layer lies within another one; give layers that are apart",
    ("overlay", EROFS): "upper= lies on a read-only file system",
    ("overlay", ENOSPC): "no room for the writable layer: free some, or give another scratch_dir=",
    ("overlay", EOPNOTSUPP): "upper= must lie on a file system with extended attributes (not NFS, not vfat)",
    ("overlay", EXDEV): "upper= and its work directory must lie on one file system",
    ("overlay", ENOMEM): "too many layers, or their paths are too long in all",
    ("overlay", 0): "the overlay could not be mounted; the kernel's log (dmesg) may say more",
    ("mount", ENOENT): (
        "the source does not exist on this machine, or the target is not in the root and must not be "
        "made (create=False)"
    ),
    ("mount", ENOTDIR): "source and target must both be directories, or neither",
    ("mount", EACCES): "this user cannot reach the source; every directory on the way needs the x permission",
    ("mount", EPERM): (
        "the kernel does not allow this mount here: in a user namespace flags of the machine's own "
        "mount (nosuid, nodev, noexec, read-only) cannot be taken away"
    ),
    ("mount", EROFS): (
        "the target does not exist and the root is read-only: make it in the root, or bind elsewhere"
    ),
    ("mount", EINVAL): "an option does not fit: propagation, size, or an idmap on a file system without them",
    ("mount", ELOOP): "the target leads through a symbolic link out of the root, or in a circle",
    ("mount", EXDEV): "the target leads out of the root",
    ("mount", ENOSPC): f"no room for the target, or too many mounts: {_MOUNT_LIMIT}",
    ("mount", 0): "the mount could not be made; check its source, target and options",
    ("dev", EPERM): (
        "device nodes could not be made; as an unprivileged user the machine's own are bound in their "
        "place, so they must exist there"
    ),
    ("dev", ENOENT): (
        "a standard device node is missing on this machine, or /dev is missing in a read-only root"
    ),
    ("dev", EROFS): "/dev does not exist in a read-only root: make the directory there, or use dev=False",
    ("dev", 0): "/dev could not be made; dev=False leaves it away",
    ("proc", EPERM): (
        "/proc of this machine is covered in parts (a container without full /proc), so that the kernel"
        " allows no new one: use proc=False, or bind it"
    ),
    ("proc", EROFS): "/proc does not exist in a read-only root: make the directory there, or use proc=False",
    ("proc", 0): "/proc could not be mounted; proc=False leaves it away",
    ("sys", EPERM): 'a new /sys needs an own network namespace: use network="none", sys=False, or bind it',
    ("sys", EROFS): "/sys does not exist in a read-only root: make the directory there, or use sys=False",
    ("sys", 0): "/sys could not be mounted; sys=False leaves it away",
    ("mask", EACCES): "the path could not be reached to be covered; change masked_paths= or readonly_paths=",
    ("mask", EINVAL): "/dev/null of this machine is not the null device, so nothing can be covered with it",
    ("mask", 0): "the path could not be covered or made read-only; change masked_paths= or readonly_paths=",
    ("file", EROFS): (
        "the root is read-only, so that nothing can be put at this place; bind a tmpfs there first"
    ),
    ("file", EISDIR): "there is a directory at this place; give another path",
    ("file", EINVAL): "what is there is no regular file, or the owner has no id in uid_map= and gid_map=",
    ("file", ENOSPC): "no room for the file: raise scratch_size=",
    ("file", ENOTDIR): "a part of the path is not a directory",
    ("file", ELOOP): "the path leads through a symbolic link out of the root",
    ("file", 0): "the file could not be put in place; check files=",
    ("pivot", EINVAL): (
        "the root must be a mount and its parent must not be shared; this points at an unusual root of "
        "this machine (initramfs)"
    ),
    ("pivot", 0): "the root could not be changed to the container's",
    ("cgroup", EROFS): (
        "the control group file system is mounted read-only (this is a container itself): give "
        "cgroup_parent= a writable one, or cgroup=False without limits"
    ),
    ("cgroup", EACCES): (
        "no group is delegated to this user: start below `systemd-run --user --scope -p Delegate=yes`, "
        "give cgroup_parent=, or use cgroup=False without limits"
    ),
    ("cgroup", EPERM): (
        "no group is delegated to this user: give cgroup_parent= or use cgroup=False without limits"
    ),
    ("cgroup", ENOENT): (
        "the parent group does not exist, or no control groups are mounted below /sys/fs/cgroup"
    ),
    ("cgroup", EBUSY): (
        "the parent group has processes of its own, so that its controllers cannot be handed down (the "
        "no-internal-process rule of v2): give an empty cgroup_parent="
    ),
    ("cgroup", ENOSPC): "too many control groups: raise cgroup.max.descendants, or run `fastctr gc`",
    ("cgroup", EAGAIN): (
        "too many control groups: raise cgroup.max.descendants of the parent, or run `fastctr gc`"
    ),
    ("cgroup", EOPNOTSUPP): "the parent is a threaded group; give another cgroup_parent=",
    ("cgroup", 0): "the control group could not be made; `fastctr info` says what is there",
    ("limit", ENOENT): (
        "the controller for this limit is not there: `fastctr info` lists those that are; take the "
        "limit away or switch the controller on"
    ),
    ("limit", EOPNOTSUPP): "the controller for this limit is not there: `fastctr info` lists those that are",
    ("limit", ENODEV): "there is no such block device, or its scheduler does not support this limit",
    ("limit", EINVAL): "the kernel does not take this value; it may exceed what the parent group allows",
    ("limit", ERANGE): "the value is outside what the kernel takes",
    ("limit", EACCES): "this file of the group is not delegated to this user",
    ("limit", EPERM): "device rules need privilege (CAP_SYS_ADMIN, CAP_BPF); real-time and io limits too",
    ("limit", EBUSY): "the group already uses more than this limit; use a larger one",
    ("limit", ENOSPC): "a cpuset needs cpus and memory nodes that the parent group has",
    ("limit", 0): "the limit could not be set; `fastctr info` says which controllers are there",
    ("cgroup-join", EACCES): (
        "the group does not let this user in; the nearest common ancestor must be delegated too"
    ),
    ("cgroup-join", ENOSPC): "the group's cpuset has no cpus or memory nodes",
    ("cgroup-join", EBUSY): "the group hands controllers down and takes no processes itself",
    ("cgroup-join", 0): "the command could not enter its control group",
    ("clone", EPERM): f"namespaces need privilege: {_ROOT_OR_USERNS}",
    ("clone", ENOSPC): "raise the sysctls user.max_*_namespaces; pid namespaces may be nested 32 deep",
    ("clone", EAGAIN): (
        "no more processes are allowed: raise the pids limit of this process's own group, ulimit -u or "
        "kernel.pid_max"
    ),
    ("clone", ENOMEM): "the machine has no memory for another process",
    ("clone", EINVAL): (
        "the kernel does not know a namespace or flag asked for; Linux 5.10 or newer is needed"
    ),
    ("clone", ENOSYS): (
        "clone3 is missing or filtered away (an outer container's seccomp policy?); Linux 5.5 is needed"
    ),
    ("clone", EUSERS): "namespaces are nested too deep",
    ("clone", EBUSY): "the control group cannot take processes: it is threaded or hands controllers down",
    ("clone", EACCES): "the control group does not let this user in",
    ("clone", EOPNOTSUPP): "the control group is of a kind that cannot be entered",
    ("clone", 0): "the first process could not be made",
    ("hostname", 0): "hostname and domainname have at most 64 bytes and need an own uts namespace",
    ("sysctl", ENOENT): "this kernel has no such sysctl, or the module that brings it is not loaded",
    ("sysctl", EINVAL): "the kernel does not take this value",
    ("sysctl", EACCES): "this sysctl is not writable from here; it may need an own namespace or root",
    ("sysctl", EPERM): "this sysctl is not writable from here; it may need an own namespace or root",
    ("sysctl", EROFS): "this sysctl lies on a read-only /proc",
    ("sysctl", 0): "the sysctl could not be set",
    ("rlimit", EPERM): (
        "a hard limit can be raised only with CAP_SYS_RESOURCE: stay below `ulimit -H` of this process"
    ),
    ("rlimit", EINVAL): "the soft limit is above the hard one, or there is no such resource",
    ("rlimit", 0): "the resource limit could not be set",
    ("oom", EACCES): "oom_score_adj can be lowered only with CAP_SYS_RESOURCE",
    ("oom", EPERM): "oom_score_adj can be lowered only with CAP_SYS_RESOURCE",
    ("oom", 0): "oom_score_adj could not be set",
    ("nice", EACCES): "a nice value below this process's own needs CAP_SYS_NICE or a higher ulimit -e",
    ("nice", EPERM): "a nice value below this process's own needs CAP_SYS_NICE or a higher ulimit -e",
    ("nice", 0): "the nice value could not be set",
    ("affinity", EINVAL): "none of the cpus given is online and in this process's cpuset",
    ("affinity", 0): "the cpu affinity could not be set",
    ("label", ENOENT): "the kernel has no such profile or label; load it first (aa-status, seinfo)",
    ("label", EACCES): "the security module does not allow this change of profile or label",
    ("label", EINVAL): "the kernel runs no such security module, or does not know the label",
    ("label", 0): "the security label could not be set",
    ("user", ENOENT): "no such user in the container's /etc/passwd: give the number, or add the user there",
    ("user", EINVAL): "this id has no place in the user namespace: extend uid_map and gid_map",
    ("user", EPERM): "changing the user needs CAP_SETUID and CAP_SETGID, which this process lacks",
    ("user", EAGAIN): "that user has reached its limit of processes (ulimit -u)",
    ("user", 0): "the user could not be changed",
    ("groups", ENOENT): "no such group in the container's /etc/group: give the number",
    ("groups", EPERM): (
        "an unprivileged user's namespace with a map of one id cannot set groups (setgroups is denied):"
        " leave groups= away"
    ),
    ("groups", EINVAL): "at most 65536 groups, each with a place in gid_map",
    ("groups", 0): "the groups could not be set",
    ("caps", EPERM): (
        "capabilities that this process lacks itself cannot be given on; take them out of cap_add="
    ),
    ("caps", EINVAL): "the kernel does not know one of the capabilities",
    ("caps", 0): "the capabilities could not be set",
    ("no-new-privs", 0): "no_new_privs could not be set",
    ("seccomp", EINVAL): (
        "the kernel does not take this filter: too long, or an action it does not know; try another profile"
    ),
    ("seccomp", EACCES): (
        'without no_new_privs a filter needs CAP_SYS_ADMIN: use no_new_privs=True or seccomp="unconfined"'
    ),
    ("seccomp", EFAULT): "the kernel does not take this filter",
    ("seccomp", ENOMEM): "too many filters are stacked on this process (32768 instructions in all)",
    ("seccomp", ESRCH): "the filter could not be put on; try again",
    ("seccomp", 0): 'the system call filter could not be loaded; seccomp="unconfined" leaves it away',
    ("stdio", EMFILE): "this process has too many open files: raise ulimit -n",
    ("stdio", ENFILE): "the machine has too many open files: raise fs.file-max",
    ("stdio", ENOSPC): "no pseudo-terminal is left: raise kernel.pty.max",
    ("stdio", 0): "standard input, output or error could not be connected",
    ("fds", EMFILE): "this process has too many open files: raise ulimit -n",
    ("fds", 0): "a file descriptor to pass on is not open any more; check pass_fds=",
    ("cwd", ENOENT): "the directory is not in the container: make it in the root, or use cwd_create=True",
    ("cwd", ENOTDIR): "cwd= must be a directory inside the container",
    ("cwd", EACCES): "the container's user cannot enter this directory",
    ("cwd", ELOOP): "the directory leads out of the container's root",
    ("cwd", EXDEV): "the directory leads out of the container's root",
    ("cwd", EROFS): "the directory does not exist and the root is read-only",
    ("cwd", 0): "the working directory could not be entered",
    ("exec", ENOENT): (
        "not found in the container: check the name, PATH, and for a script or dynamic binary that its "
        "interpreter (#! line, ELF loader) is in the root"
    ),
    ("exec", ENOTDIR): "a part of the command's path is not a directory",
    ("exec", EACCES): (
        "not executable by the container's user: check its mode, and that the mount is not noexec"
    ),
    ("exec", EPERM): (
        "executing it is not permitted here (seccomp, security module, or file capabilities not granted)"
    ),
    ("exec", ENOEXEC): "neither a binary for this machine nor a script with a #! line",
    ("exec", ELIBBAD): "its ELF loader is not one this kernel can run",
    ("exec", EISDIR): "the command's loader is a directory",
    ("exec", ELOOP): "too many symbolic links, or interpreters of interpreters, on the way",
    ("exec", ETXTBSY): "the file is open for writing somewhere; close it first",
    ("exec", EINVAL): "a malformed binary",
    ("exec", E2BIG): "arguments and environment are too long in all (ulimit -s / 4), or one is above 128 KiB, "
                     "or the memory limit leaves no room for them",
    ("exec", ENAMETOOLONG): "the command's name is too long",
    ("exec", ENOMEM): "no memory to load the command: raise memory=",
    ("exec", EAGAIN): "the user has reached its limit of processes (ulimit -u)",
    ("exec", 0): "the command could not be started",
    ("init", EAGAIN): "no more processes are allowed: init=True needs pids of at least 2",
    ("init", 0): "the container's init could not start the command",
    ("join", ESRCH): "the container is not running any more",
    ("join", EBUSY): "resume() it first: what joins a paused container would stop with it",
    ("join", EPERM): "joining it needs the privilege its owner has",
    ("join", 0): "the running container could not be joined",
    ("wait", 0): "the container's end could not be awaited; has other code in this process reaped the child?",
    ("stats", ENOENT): "the container's control group is gone",
    ("stats", ENODEV): "the container's control group is gone",
    ("stats", 0): "the figures could not be read",
    ("freeze", ENOENT): "the machine has no freezer controller, or the group is gone",
    ("freeze", EBUSY): "a process does not stop (it hangs in the kernel); try again",
    ("freeze", 0): "the container could not be frozen or thawed",
    ("kill", EBUSY): "a process does not die (it hangs in the kernel); `fastctr gc` clears up later",
    ("kill", 0): "the container could not be killed whole; `fastctr gc` clears up later",
    ("outputs", EISDIR): "a directory: name the files in it",
    ("outputs", ELOOP): "a symbolic link: name the file itself",
    ("outputs", EINVAL): "neither a regular file nor a directory: a pipe, a socket or a device is not read",
    ("outputs", EACCES): "the job's own user may not read it, so neither may we for it",
    ("outputs", 0): "the job has run (see `completed`), and the file it left could not be opened",
}

GENERAL: dict[int, str] = {
    EMFILE: "this process has too many open files: raise ulimit -n",
    ENFILE: "the machine has too many open files: raise fs.file-max",
    ENOMEM: "the machine, or this process's own control group, is out of memory",
    ENOSYS: "the kernel lacks a system call that is needed; Linux 5.10 or newer is",
    EIO: "a device or file system failed; see the kernel's log (dmesg)",
    ENXIO: "there is no such device",
    EPERM: _ROOT_OR_USERNS,
}


def hint(stage: str, errno: int, what: str = "") -> str:
    """The sentence for a stage's name and an errno; `what` is the path or key it is about."""
    if stage == "exec" and errno in (ENOENT, EACCES) and "/" not in what:
        tail = (
            "not found in PATH of the container" if errno == ENOENT else "found in PATH, but not executable"
        )
        return (
            f"{tail}; check the name and env PATH" if errno == ENOENT else f"{tail} by the container's user"
        )
    found = HINTS.get((stage, errno)) or GENERAL.get(errno) or HINTS.get((stage, 0))
    return found or "the step failed; run `fastctr info` to see what this machine offers"


def table() -> str:
    """The table as docs/errors.md has it: Markdown, one row per stage and errno."""
    from errno import errorcode

    rows = ["| stage | errno | what to do |", "|---|---|---|"]
    for (stage, code), text in HINTS.items():
        rows.append(f"| {stage} | {errorcode[code] if code else 'any other'} | {text} |")
    for code, text in GENERAL.items():
        rows.append(f"| any other | {errorcode[code]} | {text} |")
    return "\n".join(rows) + "\n"
