"""Root of a user namespace that somebody else made (rootless container engines, unshare -r) is no root of the
machine: fastctr lives there as it does for an unprivileged user."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_userns]
CODE = """
import sys, fastctr
for rootfs in (sys.argv[1], "host"):
    done = fastctr.run(["sh", "-c", "id -u; cat /proc/self/uid_map; touch /x && echo made"], rootfs=rootfs,
                       capture_output=True, text=True, check=True)
    print(done.stdout.split())
try:
    fastctr.Spec(rootfs="host", userns="host")
except fastctr.SpecError as error:
    print(error.field)
fastctr.shutdown()
"""


@pytest.mark.parametrize("ids", ["one", "many"])
def test_root_of_an_inner_user_namespace(rootfs: str, ids: str) -> None:
    enter = ["unshare", "-U", "--kill-child"]
    if ids == "one":
        enter.append("-r")
        text = [sys.executable, "-c", CODE, rootfs]
    else:  # the outer process writes the maps: twice root's, as an engine does
        text = ["sh", "-c", 'read go; exec "$@"', "sh", sys.executable, "-c", CODE, rootfs]
    child = subprocess.Popen([*enter, *text], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                             env={**os.environ, "FASTCTR_RUNTIME_DIR": ""})  # fmt: skip
    try:
        if ids == "many":
            until = time.monotonic() + 30
            while os.readlink(f"/proc/{child.pid}/ns/user") == os.readlink("/proc/self/ns/user"):
                assert time.monotonic() < until
                time.sleep(0.005)
            for which in ("uid", "gid"):
                with open(f"/proc/{child.pid}/{which}_map", "w") as file:
                    file.write("0 0 2000")
        out, _ = child.communicate("go\n", timeout=60)
    finally:
        if child.poll() is None:
            child.kill()
            child.communicate()
    assert child.returncode == 0
    count = "1" if ids == "one" else "2000"
    row = ["0", "0", "0", count, "made"]
    assert out.splitlines() == [str(row), str(row), "userns"]
