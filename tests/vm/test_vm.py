"""The checks of guest_root.py and guest_user.py, inside a VM with pure cgroup v2.

One boot as root and one as an unprivileged user for each kernel; every line a guest prints is a test of its
own here. FASTCTR_VM_RUN names the vm-run to use, FASTCTR_VM_KERNELS the kernels ("newest,6.1"); by default
an older kernel is tried only where vm-run has it cached, so that a test run downloads one kernel at most.
"""

from __future__ import annotations

import glob
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile

import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
REPO = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, HERE)

import guest_root  # noqa: E402
import guest_support  # noqa: E402
import guest_user  # noqa: E402

KERNELS = ("newest", "6.1")
TIMEOUT = 900
pytestmark = pytest.mark.timeout(TIMEOUT + 200)


def _vm_run():
    places = (os.environ.get("FASTCTR_VM_RUN"), os.path.join(REPO, "..", "shared", "vm-run"))
    return next((os.path.abspath(path) for path in places if path and os.access(path, os.X_OK)), None)


def _cached(kernel):
    cache = os.environ.get("VM_RUN_CACHE") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "vm-run")
    return bool(glob.glob(f"{cache}/kernel-{kernel}-*/kver"))


def _reachable(path):
    """Whether any user may execute it: each directory above must let them through."""
    try:
        while path != "/":
            if not os.stat(path).st_mode & 0o001:
                return False
            path = os.path.dirname(path)
    except OSError:
        return False
    return True


def _interpreter(user):
    """This interpreter without its environment; for a user who cannot reach it, the system's of the same version."""
    own = os.path.realpath(sys.executable)
    if not user or (_reachable(own) and _reachable(sys.base_prefix)):
        return own
    system = f"/usr/bin/python{sys.version_info[0]}.{sys.version_info[1]}"
    if not os.access(system, os.X_OK):
        pytest.skip(f"an unprivileged user can reach neither {own} nor {system}")
    return system


def _package():
    """The installed or in-place package, if it is built."""
    import importlib.util

    found = importlib.util.find_spec("fastctr")
    folder = os.path.dirname(found.origin) if found and found.origin else ""
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    if not os.path.exists(f"{folder}/_core{suffix}") or not os.path.exists(f"{folder}/fctr-stub"):
        pytest.skip("fastctr is not built")
    return folder


def _boot(kernel, user):
    """Run one guest script to its end: {check: "ok" or what went wrong}."""
    tool = _vm_run()
    if tool is None:
        pytest.skip("no vm-run beside the repository (../shared/vm-run)")
    if os.geteuid() != 0:
        pytest.skip("vm-run needs root")
    if not os.path.exists("/bin/busybox"):
        pytest.skip("no /bin/busybox to make a root file system of (package busybox-static)")
    if kernel != "newest" and not _cached(kernel) and "FASTCTR_VM_KERNELS" not in os.environ:
        pytest.skip(f"vm-run has no kernel {kernel} cached (FASTCTR_VM_KERNELS={kernel} fetches it)")
    script = "guest_user.py" if user else "guest_root.py"
    interpreter = _interpreter(True)  # guest_root.py has checks that are run by other users
    folder = tempfile.mkdtemp(prefix="fastctr-vm-")
    try:
        os.chmod(folder, 0o755)
        shutil.copytree(_package(), f"{folder}/fastctr", ignore=shutil.ignore_patterns("__pycache__", "*.c"))
        for name in ("guest_support.py", script):
            shutil.copy(os.path.join(HERE, name), folder)
        command = [tool, "--share", f"{folder}:ro", "--disk", "256", "--timeout", str(TIMEOUT),
                   "--env", f"PYTHONPATH={folder}", "--env", "PYTHONDONTWRITEBYTECODE=1"]
        if sys.base_prefix.startswith(("/tmp/", "/run/")):
            command += ["--share", f"{sys.base_prefix}:ro"]
        command += ["--kernel", kernel] if kernel != "newest" else []
        command += ["--user", "1000"] if user else []
        done = subprocess.run([*command, "--", interpreter, "-S", f"{folder}/{script}"], stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, timeout=TIMEOUT + 150, check=False)
    finally:
        shutil.rmtree(folder)
    print(done.stdout)
    return _parse(done)


def _parse(done):
    results, ended = {}, False
    for line in done.stdout.splitlines():
        word, _, rest = line.partition(" ")
        if word == "end":
            ended = True
        elif word in ("ok", "FAIL", "skip"):
            name, _, why = rest.partition(":")
            results[name.strip()] = (word, why.strip())
    results["it ran to its end"] = ("ok", "") if ended and done.returncode == 0 else (
        "FAIL", f"status {done.returncode}: {done.stderr[-2000:] or done.stdout[-500:]}")
    return results


def _kernels():
    given = os.environ.get("FASTCTR_VM_KERNELS")
    return given.split(",") if given else list(KERNELS)


@pytest.fixture(scope="module")
def guests():
    """Boots on demand; each once."""
    seen = {}

    def results(kernel, user):
        key = (kernel, user)
        if key not in seen:
            seen[key] = None
            seen[key] = _boot(kernel, user)
        if seen[key] is None:
            pytest.skip("its boot was skipped; see the first of these tests")
        return seen[key]

    return results


def _cases():
    for kernel in _kernels():
        for user, module in ((False, guest_root), (True, guest_user)):
            for name in (*guest_support.checks(module.__name__), "it ran to its end"):
                who = "user" if user else "root"
                yield pytest.param(kernel, user, name, id=f"{kernel}-{who}-{name.replace(' ', '_')}")


@pytest.mark.parametrize(("kernel", "user", "name"), list(_cases()))
def test_in_the_vm(guests, kernel, user, name):
    word, why = guests(kernel, user).get(name, ("FAIL", "the guest said nothing about it"))
    if word == "skip":
        pytest.skip(why)
    assert word == "ok", why
