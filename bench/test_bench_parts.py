"""What the parts of a start cost, by pytest-benchmark: `python -m pytest bench/test_bench_parts.py`."""
from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from . import machine, policy
from .peers import Stage, has_fastctr
from .worker import LIMITS

pytest.importorskip("pytest_benchmark")
pytestmark = [
    pytest.mark.skipif(bool(machine.complaint()), reason=machine.complaint()),
    pytest.mark.skipif(not has_fastctr(), reason="fastctr is not built"),
]


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with Stage() as made:
        yield made


@pytest.fixture(scope="module")
def fastctr() -> Any:
    import fastctr as module  # imported here: the module may not be built

    return module


@pytest.fixture
def plan(fastctr: Any, stage: Stage) -> Any:
    return fastctr.Plan(rootfs=stage.rootfs, **LIMITS)


def ended_well(result: Any) -> None:
    assert result.returncode == 0, result


def test_spec(benchmark: Any, fastctr: Any, stage: Stage) -> None:
    """A Spec of a root filesystem and three limits, validated."""
    benchmark(lambda: fastctr.Spec(rootfs=stage.rootfs, **LIMITS))


def test_spec_to_native(benchmark: Any, fastctr: Any, stage: Stage) -> None:
    """What is handed to the C core."""
    spec = fastctr.Spec(rootfs=stage.rootfs, **LIMITS)
    benchmark(spec.to_native)


def test_plan_cached(benchmark: Any, fastctr: Any, stage: Stage) -> None:
    """A Plan whose spec was compiled before."""
    kept = fastctr.Plan(rootfs=stage.rootfs, **LIMITS)
    benchmark(lambda: fastctr.Plan(rootfs=stage.rootfs, **LIMITS))
    ended_well(kept.run(["/bin/true"]))


def test_plan_fresh(benchmark: Any, fastctr: Any, stage: Stage) -> None:
    """A Plan compiled anew: each has another host name."""
    count = iter(range(1 << 30))
    benchmark.pedantic(lambda: fastctr.Plan(rootfs=stage.rootfs, hostname=f"plan-{next(count)}", **LIMITS),
                       rounds=50)


@pytest.mark.parametrize("command", ["/bin/true", "/bin/tiny"])
def test_run(benchmark: Any, plan: Any, command: str) -> None:
    """plan.run from start to reaped."""
    ended_well(plan.run([command]))
    ended_well(benchmark(plan.run, [command]))


def test_run_with_environment(benchmark: Any, plan: Any) -> None:
    """plan.run with variables of this launch."""
    ended_well(benchmark(plan.run, ["/bin/true"], env={"A": "1", "B": "2"}))


def test_run_with_captured_output(benchmark: Any, plan: Any) -> None:
    """plan.run with pipes for both outputs."""
    result = benchmark(plan.run, ["/bin/tiny", "now"], capture_output=True)
    assert int(result.stdout) > 0


def test_run_function(benchmark: Any, fastctr: Any, stage: Stage) -> None:
    """fastctr.run: the Spec is made and looked up at each call."""
    ended_well(benchmark(lambda: fastctr.run(["/bin/true"], rootfs=stage.rootfs, **LIMITS)))


def test_stats(benchmark: Any, fastctr: Any, stage: Stage) -> None:
    """Container.stats of a running container."""
    with fastctr.Container(["/bin/sleep", "600"], rootfs=stage.rootfs, **LIMITS) as container:
        usage = benchmark(container.stats)
        assert usage is not None
        container.kill()


def test_exec(benchmark: Any, fastctr: Any, stage: Stage) -> None:
    """Container.exec in a running container, start to reaped."""
    with fastctr.Container(["/bin/sleep", "600"], rootfs=stage.rootfs, **LIMITS) as container:

        def once() -> None:
            with container.exec(["/bin/true"]) as command:
                assert command.wait() == 0

        once()
        benchmark.pedantic(once, rounds=50)
        container.kill()


def test_policy_is_the_same_everywhere(stage: Stage) -> None:
    """The peers' policy holds what fastctr's own allows."""
    names = {name for rule in stage.seccomp["syscalls"] if rule["action"] == "SCMP_ACT_ALLOW"
             for name in rule["names"]}
    assert {"execve", "openat", "clone", "chroot"} <= names
    assert not {"mount", "bpf", "io_uring_setup", "keyctl"} & names
    assert policy.as_text(stage.seccomp).startswith("default ")
    assert os.path.getsize(stage.path("policy.bpf")) % 8 == 0
