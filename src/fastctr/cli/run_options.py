"""The options of `fastctr run`, and how they become the fields of a Spec."""

from __future__ import annotations

from ..errors import SpecError
from .options import FLAG, LIST, VALUE, Option, UsageError, heading, parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

# The key is the Spec's field, or one with "_" in front that run.py or fields() looks at.
TABLE = (
    heading("Input, output and the end"),
    Option("-i --interactive", FLAG, "_interactive", "", "connect standard input (else it is empty)"),
    Option("-t --tty", FLAG, "_tty", "", "give the command a terminal"),
    Option(
        "--timeout",
        VALUE,
        "_timeout",
        "DURATION",
        'kill everything after this time ("5", "1m30s"); exit code 124',
    ),
    Option(
        "--stop-signal",
        VALUE,
        "_stop_signal",
        "SIGNAL",
        "at the timeout first send this, and kill 10 s later",
    ),
    Option("--stop-timeout", VALUE, "_stop_timeout", "SECONDS", "how long after --stop-signal to kill"),
    Option("--sig-proxy", FLAG, "_sig_proxy", "", "pass signals on to the command (default true)"),
    Option("--stats", FLAG, "_stats", "", "print the figures of the control group at the end"),
    Option("--timings", FLAG, "_timings", "", "print how long each stage of the start took"),
    Option("--rm", FLAG, "_rm", "", "remove it at the end also if it has a --name (without one nothing is kept)"),
    Option("--help", FLAG, "_help", "", "print this"),
    heading("Image"),
    Option("--pull", VALUE, "_pull", "POLICY", "get the image if it is missing (default), always, or never"),
    Option("--platform", VALUE, "_platform", "PLATFORM", "which of the image's platforms, as linux/arm64"),
    Option("--entrypoint", VALUE, "_entrypoint", "COMMAND", 'in place of the image\'s entrypoint ("": none)'),
    Option("--snapshotter", VALUE, "_snapshotter", "NAME", "how it is unpacked: overlay (default), erofs, vfs"),
    Option("-q --quiet", FLAG, "_quiet", "", "show no progress of a pull"),
    Option("--name", VALUE, "_name", "NAME", "keep the container and its changes under this name"),
    heading("Root file system"),
    Option("--read-only", FLAG, "read_only", "", "mount it read-only"),
    Option(
        "--writable", VALUE, "writable", "HOW", "tmpfs (thrown away, in memory; default), disk, or direct"
    ),
    Option("--upper", VALUE, "upper", "DIR", "keep changes in this directory"),
    Option("--layer", LIST, "_layers", "DIR", "a further read-only layer below ROOTFS"),
    Option("--scratch-size", VALUE, "scratch_size", "SIZE", "most bytes of the writable layer in memory"),
    Option(
        "--scratch-dir", VALUE, "scratch_dir", "DIR", "where writable=disk puts its layer (default /var/tmp)"
    ),
    Option(
        "-v --volume", LIST, "volumes", "SRC:DST[:OPTS]", "bind a file or directory (ro, rslave, noexec ...)"
    ),
    Option(
        "--mount", LIST, "mounts", "SPEC", "type=bind|tmpfs|proc|sysfs|mqueue|devpts|cgroup,src=,dst=,ro ..."
    ),
    Option("--tmpfs", LIST, "tmpfs", "DST[:OPTS]", "mount an empty tmpfs (size=, mode=, exec ...)"),
    Option("--file", LIST, "_files", "PATH=SRC", "put a copy of the file SRC in at PATH"),
    Option("--shm-size", VALUE, "shm_size", "SIZE", "size of /dev/shm (default 64m; 0: none)"),
    Option("--device", LIST, "devices", "DEV[:DST[:rwm]]", "add a device of this machine"),
    heading("Process"),
    Option("-e --env", LIST, "_env", "NAME[=VALUE]", "set a variable, or pass ours on"),
    Option("--env-file", LIST, "_env_file", "FILE", "read variables from a file"),
    Option("--clean-env", FLAG, "clean_env", "", "start from an empty environment"),
    Option("-w --workdir", VALUE, "cwd", "DIR", "working directory inside (made if missing)"),
    Option("-u --user", VALUE, "user", "USER[:GROUP]", "names or numbers"),
    Option("--group-add", LIST, "group_add", "GID", "a further group"),
    Option("--init", FLAG, "init", "", "run a reaping, signal-forwarding init above the command"),
    Option("--umask", VALUE, "umask", "OCTAL", "file mode creation mask"),
    Option("--ulimit", LIST, "ulimits", "NAME=SOFT[:HARD]", "resource limit, as nofile=1024:2048"),
    Option("--sysctl", LIST, "sysctls", "NAME=VALUE", "of the container's own namespaces"),
    Option("--nice", VALUE, "nice", "N", "scheduling priority"),
    Option("--cpu-affinity", VALUE, "cpu_affinity", "LIST", "cpus to run on, without a control group"),
    Option(
        "--oom-score-adj",
        VALUE,
        "oom_score_adj",
        "N",
        "preference for the out-of-memory killer, -1000 to 1000",
    ),
    heading("Namespaces"),
    Option("--network --net", VALUE, "network", "NS", "none (own, with lo; default), host, or one to join"),
    Option("--pid", VALUE, "pid", "NS", "private (default), host, or one to join (/path, pid:123)"),
    Option("--ipc", VALUE, "ipc", "NS", "private, host, or one to join"),
    Option("--uts", VALUE, "uts", "NS", "private, host, or one to join"),
    Option("--cgroupns", VALUE, "cgroupns", "NS", "private, host, or one to join"),
    Option("--mnt", VALUE, "mnt", "NS", "private, host, or one to join"),
    Option("--userns", VALUE, "userns", "NS", "host (default as root), private, or one to join"),
    Option("--uid-map", LIST, "uid_map", "IN:OUT:COUNT", "ids of the user namespace"),
    Option("--gid-map", LIST, "gid_map", "IN:OUT:COUNT", "group ids of the user namespace"),
    Option("--monotonic", VALUE, "monotonic", "DURATION", "added to CLOCK_MONOTONIC inside"),
    Option("--boottime", VALUE, "boottime", "DURATION", "added to CLOCK_BOOTTIME inside"),
    Option("-h --hostname", VALUE, "hostname", "NAME", "host name inside"),
    Option("--domainname", VALUE, "domainname", "NAME", "domain name inside"),
    heading("Rights"),
    Option("--cap-add", LIST, "cap_add", "CAP", "add a capability (ALL: every one)"),
    Option("--cap-drop", LIST, "cap_drop", "CAP", "drop a capability (ALL: every one)"),
    Option(
        "--security-opt",
        LIST,
        "_security",
        "OPT",
        "seccomp=FILE|unconfined, no-new-privileges[:false], apparmor=, label=",
    ),
    Option("--device-cgroup-rule", LIST, "device_cgroup_rules", "RULE", 'allow devices, as "c 10:200 rwm"'),
    heading("Limits"),
    Option("-m --memory", VALUE, "memory", "SIZE", "most memory"),
    Option(
        "--memory-swap", VALUE, "memory_swap", "SIZE", "most memory and swap together (-1: no limit on swap)"
    ),
    Option("--memory-reservation", VALUE, "memory_reservation", "SIZE", "memory that is reclaimed last"),
    Option("--memory-swappiness", VALUE, "memory_swappiness", "N", "0 to 100, cgroup v1 only"),
    Option("--cpus", VALUE, "cpus", "N", "cpus' worth of time, as 0.5"),
    Option("--cpu-quota", VALUE, "cpu_quota", "USEC", "cpu time of every period"),
    Option("--cpu-period", VALUE, "cpu_period", "USEC", "length of the period"),
    Option("-c --cpu-shares", VALUE, "cpu_shares", "N", "weight against others, 2 to 262144"),
    Option("--cpu-weight", VALUE, "cpu_weight", "N", "weight against others, 1 to 10000"),
    Option("--cpuset-cpus", VALUE, "cpuset_cpus", "LIST", "cpus it may use, as 0-3,5"),
    Option("--cpuset-mems", VALUE, "cpuset_mems", "LIST", "memory nodes it may use"),
    Option("--pids-limit", VALUE, "pids", "N", "most processes and threads (-1: no limit)"),
    Option("--blkio-weight", VALUE, "blkio_weight", "N", "10 to 1000"),
    Option("--blkio-weight-device", LIST, "blkio_weight_device", "DEV:N", "for one device"),
    Option("--device-read-bps", LIST, "device_read_bps", "DEV:RATE", "bytes a second, as /dev/sda:1mb"),
    Option("--device-write-bps", LIST, "device_write_bps", "DEV:RATE", ""),
    Option("--device-read-iops", LIST, "device_read_iops", "DEV:N", "operations a second"),
    Option("--device-write-iops", LIST, "device_write_iops", "DEV:N", ""),
    Option("--hugetlb", LIST, "_hugetlb", "SIZE=LIMIT", "huge pages, as 2MB=64m"),
    Option("--unified", LIST, "_unified", "FILE=VALUE", "any file of a v2 group, as memory.high=32m"),
    Option("--cgroup-parent", VALUE, "cgroup_parent", "PATH", "the group to make ours in"),
    Option("--no-cgroup", FLAG, "_no_cgroup", "", "make no control group"),
)

_FOREGROUND = "is not offered: fastctr run stays in the foreground; use your shell or service manager"
_ENGINE = "is not offered: it comes with the engine"
REFUSED = {
    "-d": _FOREGROUND,
    "--detach": _FOREGROUND,
    "--restart": _FOREGROUND,
    "--detach-keys": _FOREGROUND,
    "-p": _ENGINE,
    "--publish": _ENGINE,
    "-P": _ENGINE,
    "--publish-all": _ENGINE,
    "--volumes-from": _ENGINE,
    "-l": _ENGINE,
    "--label": _ENGINE,
    "--dns": _ENGINE,
    "--add-host": _ENGINE,
    "--ip": _ENGINE,
    "--log-driver": _ENGINE,
    "--cidfile": _ENGINE,
    "--privileged": "is not offered: use --cap-add, --security-opt seccomp= and --device as far as needed",
    "--gpus": "is not offered: use --device and --volume",
    "-a": "is not offered: output is always attached, input with -i",
    "--attach": "is not offered: output is always attached, input with -i",
    "--kernel-memory": "is not offered: kernels have dropped it",
    "--isolation": "is for Windows",
}
USAGE = """Usage: fastctr run [OPTIONS] IMAGE|ROOTFS|host [--] [COMMAND] [ARG...]

Run a command in a new container and wait for it. IMAGE is a name or an id; without COMMAND the image's own
is run. ROOTFS is a directory, written with / or ./ in front; "host" is this machine's own root as the
read-only lower layer (see the docs for what that exposes). All else is the container's own: namespaces,
/proc, /dev, /tmp, capabilities, a system call filter, a control group."""
EXITS = """Exit code: the command's; 128+N if signal N killed it; 124 at the timeout; 125 if the container
could not be made, 126 if the command cannot be executed, 127 if it is not found."""


def option_of(field: str) -> str:
    """The option that sets a field, for messages."""
    special = {
        "rootfs": "ROOTFS",
        "image": "IMAGE",
        "argv": "COMMAND",
        "env": "--env",
        "files": "--file",
        "seccomp": "--security-opt seccomp",
        "no_new_privs": "--security-opt no-new-privileges",
        "apparmor": "--security-opt apparmor",
        "selinux": "--security-opt label",
        "hugetlb": "--hugetlb",
        "unified": "--unified",
    }
    for option in TABLE:
        if option.key == field:
            return option.long
    return special.get(field, field)


def parse_run(argv: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """(fields of the Spec, what run.py does itself, the command). Raises UsageError, SpecError."""
    given, rest = parse(TABLE, argv, REFUSED)
    values, own = apart(given, TABLE)
    if own.get("_help"):
        return {}, own, []
    if not rest:
        raise UsageError('nothing to run given: name an image, a directory as ./dir, or "host"')
    root, command = rest[0], rest[1:]
    if command[:1] == ["--"]:
        command = command[1:]
    if not root:
        raise UsageError("IMAGE is empty")
    if is_directory(root):
        if not command:
            raise UsageError("no command given")
        for key, option in IMAGE_ONLY.items():
            if key in own:
                raise UsageError(f"{option} is about images, and {root} is a directory")
        values["rootfs"] = [root, *own.pop("_layers")] if "_layers" in own else root
    else:
        if "_layers" in own:
            raise UsageError("--layer is for a ROOTFS directory, and images have layers of their own")
        own["_image"] = root
    fields(values, own)
    return values, own, command


def apart(given: dict[str, list[str | bool]], rows: Sequence[Option]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(fields, what the verb does itself) of what was given: the last of each, all of a LIST."""
    lists = {option.key for option in rows if option.kind == LIST}
    values: dict[str, Any] = {key: found if key in lists else found[-1] for key, found in given.items()}
    own = {key: values.pop(key) for key in list(values) if key[0] == "_"}
    return values, own


IMAGE_ONLY = {
    "_pull": "--pull",
    "_platform": "--platform",
    "_entrypoint": "--entrypoint",
    "_snapshotter": "--snapshotter",
}


def is_directory(text: str) -> bool:
    """Whether the first argument is a directory of this machine and no image."""
    return text in ("host", ".", "..") or text.startswith(("/", "./", "../"))


def fields(values: dict[str, Any], own: dict[str, Any]) -> None:
    """The options that are not a field as they stand."""
    env: list[str] = []
    for path in own.pop("_env_file", ()):
        env += env_file(path)
    env += own.pop("_env", ())
    if env:
        values["env"] = env
    for text in own.pop("_security", ()):
        _security(values, text)
    if "_files" in own:
        values["files"] = dict(_file(text) for text in own.pop("_files"))
    for key in ("_hugetlb", "_unified"):
        if key in own:
            values[key[1:]] = dict(_pair(f"--{key[1:]}", text) for text in own.pop(key))
    if own.pop("_no_cgroup", False):
        values["cgroup"] = False
    if "cwd" in values and not values.get("read_only") and values.get("writable") != "direct":
        values["cwd_create"] = True
    if "userns" not in values and ("uid_map" in values or "gid_map" in values):
        values["userns"] = "private"


def _pair(option: str, text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise UsageError(f'{option}: "{text}" has no value; use NAME=VALUE')
    return name, value


def _security(values: dict[str, Any], text: str) -> None:
    name, _, value = text.partition("=")
    if "=" not in text:
        name, _, value = text.partition(":")
    if name in ("no-new-privileges", "no-new-privs"):
        if value not in ("", "true", "false"):
            raise UsageError(
                f'--security-opt: "{text}" is not understood; use no-new-privileges[:true|:false]'
            )
        values["no_new_privs"] = value != "false"
    elif name == "seccomp" and value:
        values["seccomp"] = {"builtin": "default"}.get(value, value)
    elif name == "apparmor" and value:
        values["apparmor"] = value
    elif name == "label" and value:
        if value != "disable" and value.count(":") < 2:
            raise UsageError(
                f'--security-opt: "{text}" is not understood; use label=disable or label=user:role:type:level'
            )
        values["selinux"] = value
    elif name in ("systempaths", "unmask") and value in ("unconfined", "ALL"):
        values["masked_paths"] = values["readonly_paths"] = []
    else:
        raise UsageError(
            f'--security-opt: "{text}" is not known; use seccomp=, no-new-privileges, apparmor=, label=, '
            "systempaths=unconfined"
        )


def _file(text: str) -> tuple[str, tuple[bytes, int]]:
    import os

    target, source = _pair("--file", text)
    try:
        with open(source, "rb") as file:
            return target, (file.read(), os.fstat(file.fileno()).st_mode & 0o777)
    except OSError as error:
        raise SpecError(
            "files", text, f"cannot be read: {error.strerror}", "use PATH=SRC, SRC a file here"
        ) from None


def env_file(path: str) -> list[str]:
    """The variables of a file of Docker's form: NAME=VALUE lines; NAME alone passes ours on; # comments."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            text = file.read()
    except OSError as error:
        raise UsageError(f'--env-file: "{path}": {error.strerror}') from None
    found = []
    for number, line in enumerate(text.removeprefix("\ufeff").splitlines(), 1):
        line = line.lstrip()
        if not line or line.startswith("#"):
            continue
        name = line.partition("=")[0]
        if not name or any(c.isspace() for c in name):
            raise UsageError(f'--env-file: {path}, line {number}: "{name}" is not a variable\'s name')
        found.append(line)
    return found
