"""What the checks that run inside the VM share: a registry, a small root file system, a runner.

Runs in the guest with the plain interpreter, so nothing but the standard library and fastctr. The host
imports the same files to know the names of the checks; fastctr itself is imported by the runner only.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
import traceback

CHECKS: dict[str, dict] = {}
SCALE = 10  # the VM is so much slower than a machine, at least
APPLETS = (
    "sh cat chmod chown dd echo env grep head hostname id ip kill ls mkdir mount nice ps pwd rm sleep stat stty sync "
    "tail test touch true tty umount uname wc yes"
).split()


def checks(module: str) -> dict:
    return CHECKS.setdefault(module, {})


def check(call):
    """Register a check under its name, less the leading "check_"."""
    checks(call.__module__)[call.__name__.removeprefix("check_")] = call
    return call


class Skip(Exception):
    """This kernel cannot do it; the reason is the message."""


def kernel():
    return tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2])


def make_root(path, owner_only=False):
    """A root file system of busybox, and nothing else."""
    os.makedirs(f"{path}/bin")
    shutil.copy("/bin/busybox", f"{path}/bin/busybox")
    for name in APPLETS:
        os.symlink("busybox", f"{path}/bin/{name}")
    for name in ("proc", "sys", "dev", "etc", "tmp", "run"):
        os.mkdir(f"{path}/{name}")
    with open(f"{path}/etc/passwd", "w") as file:
        file.write("root:x:0:0::/:/bin/sh\napp:x:7:8::/:/bin/sh\n")
    with open(f"{path}/etc/group", "w") as file:
        file.write("root:x:0:\napp:x:8:\nextra:x:9:app\n")
    os.chmod(path, 0o700 if owner_only else 0o755)
    return path


def layers(top, root, count, opaque):
    """`count` layers as a store has them, topmost first, over a copy of the root file system: each adds /only<n>,
    one of them hides /opq/old (by the attribute `opaque`, if the file system takes it) and /gone."""
    made = []
    for n in range(count - 2):
        made.append(f"{top}/n{n}/diff")
        os.makedirs(made[-1])
        open(f"{made[-1]}/only{n}", "w").close()
    made += [f"{top}/hides/diff", f"{top}/base/diff"]
    os.makedirs(f"{made[-2]}/opq")
    open(f"{made[-2]}/opq/new", "w").close()
    os.mknod(f"{made[-2]}/gone", 0o020000, 0)
    shutil.copytree(root, made[-1], symlinks=True)
    os.mkdir(f"{made[-1]}/opq")
    open(f"{made[-1]}/opq/old", "w").close()
    open(f"{made[-1]}/gone", "w").close()
    for each in made:
        with open(f"{os.path.dirname(each)}/layer.json", "w") as file:
            file.write("{}")
    try:
        os.setxattr(f"{made[-2]}/opq", opaque, b"y")
        seen = ["new"]
    except OSError:  # tmpfs has user.* from Linux 6.6 on
        seen = ["new", "old"]
    return made, [str(count - 2), *seen, "no"]


LOOK_AT_LAYERS = "ls -d /only* | wc -l; ls /opq; test -e /gone || echo no"


def until(true, seconds=60):
    """Wait for true(); its last value."""
    end = time.monotonic() + seconds
    while not (value := true()) and time.monotonic() < end:
        time.sleep(0.05)
    return value


def read(path):
    with open(path) as file:
        return file.read()


def tree(path):
    """The directories below path, relative to it."""
    return sorted(os.path.relpath(os.path.join(at, name), path) for at, names, _ in os.walk(path) for name in names)


def children():
    """Pids of processes whose parent is this one."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            if int(read(f"/proc/{name}/stat").rpartition(")")[2].split()[1]) == os.getpid():
                found.append(int(name))
        except OSError:
            continue
    return found


def _alarm(*_):
    raise TimeoutError("the check took too long")


def main(module):
    """Run the checks named on the command line, or all: one line each, and one at the end."""
    wanted = sys.argv[1:] or list(checks(module))
    failed = 0
    print(f"# {os.uname().release} uid {os.geteuid()}", flush=True)
    signal.signal(signal.SIGALRM, _alarm)
    for name in wanted:
        started = time.monotonic()
        signal.alarm(120)
        try:
            checks(module)[name]()
            line = f"ok {name}"
        except Skip as reason:
            line = f"skip {name}: {reason}"
        except BaseException as error:
            failed += 1
            where = traceback.extract_tb(error.__traceback__)[-1]
            for frame in traceback.extract_tb(error.__traceback__):
                if "guest_" in frame.filename:
                    where = frame
            text = f"{type(error).__name__}: {error} ({os.path.basename(where.filename)}:{where.lineno} {where.line})"
            line = f"FAIL {name}: " + " ".join(text.split())
        signal.alarm(0)
        print(line, f"# {time.monotonic() - started:.1f} s" if "-v" in os.environ.get("VM_OPTIONS", "") else "", flush=True)
    print(f"end {len(wanted)} checks, {failed} failed", flush=True)
    sys.exit(0)
