"""The pytest plug-in, by pytester: each test runs a pytest of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import leaks_support

pytest_plugins = ("pytester",)
pytestmark = pytest.mark.needs_root
PLUGIN = "fastctr.integrations.pytest_plugin"


@pytest.fixture
def project(pytester: pytest.Pytester, rootfs: str, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A project whose ini names a rootfs; pytest runs in a process of its own."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # the others take long to import
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
    pytester.makeini(f"[pytest]\naddopts = -p no:cacheprovider\ncontainer_rootfs = {rootfs}\n")
    return pytester


def run(project: pytest.Pytester, *args: str) -> pytest.RunResult:
    return project.runpytest_subprocess("-p", PLUGIN, *args, timeout=100)


def sleepers() -> list[str]:
    tag = leaks_support.runtime_tag(os.environ["FASTCTR_RUNTIME_DIR"])
    return [what for what in leaks_support.processes(tag).values() if "sleep" in what]


def test_run_and_start(project: pytest.Pytester) -> None:
    project.makepyfile("""
        import fastctr, pytest
        def test_run(container):
            done = container.run(["sh", "-c", "cat; echo e >&2; exit 3"], input="in")
            assert (done.returncode, done.stdout, done.stderr) == (3, "in", "e\\n")
            assert container(["echo", "x"], stdout=fastctr.PIPE).stdout == b"x\\n"
            with pytest.raises(fastctr.CommandNotFound):
                container.run(["no-such"])
        def test_start(container):
            c = container.start(["sleep", "60"])
            assert c.exec(["echo", "in"], stdout=fastctr.PIPE).communicate()[0] == b"in\\n"
            assert c.poll() is None
            assert container.run(["pwd"], cwd="/tmp").stdout == "/tmp\\n"
            assert container.run(["hostname"], hostname="other").stdout == "other\\n"
            assert container.run(["id", "-u"], user="1000:1000").stdout == "1000\\n"
        @pytest.mark.container(memory="40m", hostname="marked")
        class TestMarked:
            def test_class(self, container):
                assert container.run(["hostname"]).stdout == "marked\\n"
                assert container.start(["sleep", "60"]).stats().memory_limit == 40 << 20
            @pytest.mark.container(hostname="nearest")
            def test_nearest_wins(self, container):
                assert container.run(["hostname"]).stdout == "nearest\\n"
                assert container.start(["sleep", "60"]).stats().memory_limit == 40 << 20
        @pytest.mark.container(rootfs="host")
        def test_other_root(container):
            assert container.run(["test", "-e", "/etc/marker"]).returncode == 1
        def test_pool(container_pool):
            assert container_pool.run(["echo", "p"], capture_output=True).stdout == b"p\\n"
    """)
    run(project, "--strict-markers").assert_outcomes(passed=6)
    assert sleepers() == []


def test_everything_is_dead_when_a_test_fails(project: pytest.Pytester) -> None:
    project.makepyfile("""
        import os
        def alive(pid):
            return os.path.exists(f"/proc/{pid}")
        pids = []
        def test_fails(container):
            for _ in range(3):
                pids.append(container.start(["sh", "-c", "sleep 61 & sleep 62"]).pid)
            container.start(["true"])
            assert alive(pids[0])
            assert 0
        def test_after():
            assert len(pids) == 3 and not any(map(alive, pids))
    """)
    run(project).assert_outcomes(passed=1, failed=1)
    assert sleepers() == []


def test_what_is_missing_is_said(project: pytest.Pytester) -> None:
    project.makeini("[pytest]\n")
    project.makepyfile("""
        import pytest
        def test_no_root(container):
            container.run(["true"])
        @pytest.mark.container("alpine")
        def test_positional(container): pass
        @pytest.mark.container(image="a", rootfs="b")
        def test_both(container): pass
        @pytest.mark.container(rootfs="host", memry="1m")
        def test_typo(container):
            container.run(["true"])
        @pytest.mark.container(image="nobody/has-this:1", pull="never")
        def test_no_image(container): pass
    """)
    result = run(project)
    result.assert_outcomes(failed=2, errors=3)
    result.stdout.fnmatch_lines_random(["*has no root*container_image*", "*takes keywords alone*", "*image or rootfs, not both*",
                                        "*memry*memory*", "*ImageNotFound*nobody/has-this*"])  # fmt: skip


@pytest.mark.parametrize("required", [False, True])
def test_a_machine_that_cannot(project: pytest.Pytester, required: bool) -> None:
    """A runtime directory that nobody can make stands for it."""
    project.makeconftest("import os; os.environ['FASTCTR_RUNTIME_DIR'] = '/proc/nowhere'")
    project.makepyfile("""
        def test_one(container): container.run(["true"])
        def test_two(container_pool): container_pool.run(["true"])
        def test_other(): pass
    """)
    result = run(project, "-rs", *(["--container-required"] if required else []))
    result.assert_outcomes(passed=1, **({"errors": 2} if required else {"skipped": 2}))
    result.stdout.fnmatch_lines(["*runs no containers*/proc/nowhere*"])


def test_under_xdist(project: pytest.Pytester) -> None:
    pytest.importorskip("xdist")
    project.makepyfile("""
        import pytest
        @pytest.mark.parametrize("n", range(8))
        def test_it(container, container_pool, n):
            container.start(["sleep", "60"])
            assert container.run(["echo", str(n)]).stdout == f"{n}\\n"
            assert container_pool.run(["true"]).returncode == 0
    """)
    run(project, "-p", "xdist", "-n2").assert_outcomes(passed=8)
    assert sleepers() == []


def test_images_are_pulled_once(project: pytest.Pytester) -> None:
    """pull="always" asks the registry once for all tests and processes of a run; it is counted in its place."""
    pytest.importorskip("xdist")
    log = project.path / "pulls"
    project.makeconftest(f"""
        import os, pytest
        import fastctr.plan as plan
        real = plan.Plan.__init__
        def counting(self, spec=None, **given):
            image, pull = given.pop("image"), given.pop("pull")
            with open({str(log)!r}, "a") as file:
                file.write(f"{{image}} {{pull}}\\n")
            real(self, rootfs="host", **given)
        @pytest.fixture(autouse=True)
        def count(monkeypatch):
            monkeypatch.setattr(plan.Plan, "__init__", counting)
        @pytest.fixture(autouse=True, scope="session")
        def machine(_container_session):
            _container_session.problem()
    """)
    project.makepyfile("""
        import pytest
        @pytest.mark.container(image="some:1", pull="always")
        @pytest.mark.parametrize("n", range(6))
        def test_it(container, n):
            assert container.run(["true"]).returncode == 0
    """)
    project.makeini("[pytest]\n")
    run(project, "-p", "xdist", "-n2").assert_outcomes(passed=6)
    assert log.read_text().splitlines().count("some:1 always") == 1


def test_collecting_imports_nothing(project: pytest.Pytester, tmp_path: Path) -> None:
    project.makepyfile("def test_it(container): pass")
    code = (f"import sys, pytest; code = pytest.main(['--collect-only', '-q', '-p', {PLUGIN!r}]);"
            "loaded = [m for m in sys.modules if m.startswith('fastctr')];"
            "print('LOADED', loaded); sys.exit(code)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=project.path, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    loaded = done.stdout.split("LOADED ")[1]
    assert eval(loaded) == ["fastctr", "fastctr.integrations", "fastctr.integrations.pytest_plugin"]
