"""A batch that is killed again and again, with jobs of every outcome: each job ends up with one result."""

from __future__ import annotations

import collections
import json
import os
import random
import subprocess
import sys
import time

import pytest

pytest.importorskip("fastctr._core")
ROUNDS = int(os.environ.get("FASTCTR_CHAOS_ROUNDS", "4"))
KINDS = [
    ({"cmd": "{log}; exit 0"}, "ok"),
    ({"cmd": "{log}; exit 3"}, "failed"),
    ({"cmd": "{log}; sleep 60", "timeout": 0.1}, "timeout"),
    ({"cmd": "{log}; kill -SEGV $$", "init": True}, "signal"),
    ({"cmd": "{log}; head -c 300000 /dev/zero", "output_limit": 1000}, "ok"),
    ({"cmd": "{log}; x=$(head -c 40m /dev/zero | tr '\\0' a); echo ${{#x}}", "memory": "12m"}, "oom"),
    ({"cmd": "{log}; :(){{ :|:& }}; :; sleep 0.05; exit 5", "pids": 6}, "failed"),
    ({"argv": ["no-such-command"]}, "error"),
]


@pytest.mark.soak
@pytest.mark.needs_root
@pytest.mark.needs_controller("memory")
@pytest.mark.timeout(max(120, ROUNDS * 10))
def test_killed_at_random(rootfs, tmp_path):
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    choose = random.Random(seed)
    log, output, jobs = tmp_path / "log", tmp_path / "r.jsonl", tmp_path / "jobs.jsonl"
    log.mkdir()
    count, wanted = 20 * ROUNDS, {}
    with open(jobs, "w") as file:
        for n in range(count):
            job, wanted[f"j{n}"] = choose.choice(KINDS)
            job = {"id": f"j{n}", **job}
            if "cmd" in job:
                job["cmd"] = job["cmd"].format(log=f"echo s >> /log/{n}")
            file.write(json.dumps(job) + "\n")
    command = [sys.executable, "-m", "fastctr", "batch", str(jobs), "-j", "2", "-q", "--image", rootfs, "-v", f"{log}:/log", "-o",
               str(output), "--resume"]  # fmt: skip
    for _ in range(ROUNDS):
        process = subprocess.Popen(command)
        time.sleep(choose.uniform(0.05, 0.8))
        process.kill()
        process.wait()
        recorded = {each["id"] for each in whole(output)}
        ran = {path.name: len(path.read_text()) for path in log.iterdir()}
    assert subprocess.run(command, timeout=100 + 2 * count).returncode == 1
    for name in recorded:
        assert len(ran_of(log, name)) == ran.get(name[1:], 0), f"{name} had a result, and was run again"
    results = whole(output)
    assert collections.Counter(each["id"] for each in results) == dict.fromkeys(wanted, 1)
    assert {each["id"]: each["status"] for each in results} == wanted


def whole(path):
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]


def ran_of(log, name):
    path = log / name[1:]
    return path.read_text() if path.exists() else ""
