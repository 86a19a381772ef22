"""What the sides start: a small busybox root filesystem, and the C programs beside this file."""
from __future__ import annotations

import os
import shutil
import subprocess

HERE = os.path.dirname(os.path.abspath(__file__))
BUSYBOX = ("/bin/busybox", "/usr/bin/busybox")
APPLETS = ("true", "false", "sh", "readlink", "sleep", "cat", "ls", "mount", "id", "hostname", "ip",
           "ps", "head", "grep")
FOLDERS = ("bin", "etc", "proc", "sys", "dev", "tmp", "root", "run", "var", "usr/bin")
WARNINGS = ("-std=gnu11", "-Wall", "-Wextra", "-O2")


class MissingTool(RuntimeError):
    """A program the benchmarks need is not installed."""


def busybox() -> str:
    """Path of the static busybox; raises MissingTool."""
    for path in BUSYBOX:
        if os.path.exists(path):
            return path
    raise MissingTool("busybox is missing: apt-get install busybox-static")


def compile_c(name: str, folder: str, *options: str) -> str:
    """Compile bench/NAME.c to FOLDER/NAME and return that path; raises MissingTool with cc's words."""
    out = os.path.join(folder, name)
    compiler = os.environ.get("CC", "cc")
    source = os.path.join(HERE, f"{name}.c")
    command = [compiler, *WARNINGS, "-o", out, source, *options]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise MissingTool(f"{compiler}: no C compiler: apt-get install gcc") from None
    if done.returncode:
        raise MissingTool(f"{' '.join(command)}: {done.stderr.strip()}")
    return out


def build_tools(folder: str) -> dict[str, str]:
    """Compile tiny, bare and classic into FOLDER: name to path."""
    return {
        "tiny": compile_c("tiny", folder, "-static", "-nostdlib", "-ffreestanding", "-fno-stack-protector"),
        "bare": compile_c("bare", folder, "-pthread"),
        "classic": compile_c("classic", folder, "-lseccomp"),
    }


def make_rootfs(folder: str, tiny: str) -> str:
    """Make a root filesystem in FOLDER (new): static busybox with a few applets, and /bin/tiny."""
    os.mkdir(folder, 0o755)
    for name in FOLDERS:
        os.makedirs(os.path.join(folder, name), exist_ok=True)
    os.chmod(os.path.join(folder, "tmp"), 0o1777)
    binary = os.path.join(folder, "bin/busybox")
    shutil.copy(busybox(), binary)
    for applet in APPLETS:
        os.symlink("busybox", os.path.join(folder, "bin", applet))
    shutil.copy(tiny, os.path.join(folder, "bin/tiny"))
    with open(os.path.join(folder, "etc/passwd"), "w", encoding="utf-8") as file:
        file.write("root:x:0:0:root:/root:/bin/sh\n")
    with open(os.path.join(folder, "etc/group"), "w", encoding="utf-8") as file:
        file.write("root:x:0:\ntty:x:5:\n")
    return folder
