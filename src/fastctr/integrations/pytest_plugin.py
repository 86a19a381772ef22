"""pytest plug-in: containers for tests, each gone with its test.

    @pytest.mark.container(image="alpine:3.20", memory="64m")
    def test_it(container):
        assert container.run(["echo", "hi"]).stdout == "hi\n"
        server = container.start(["httpd", "-f"])      # dead when the test ends, however it ends
        assert server.exec(["true"]).wait() == 0

Marks on a function, class or module (pytestmark) add up, the nearest wins. What they do not say comes from
the ini options container_image and container_rootfs. Where this machine cannot run containers the tests
that ask for one are skipped, or fail with --container-required.

Loaded by every pytest where fastctr is installed, so nothing of fastctr is imported before a test wants it.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..container import Container
    from ..plan import Plan
    from ..pool import Pool
    from ..results import Completed

_ASKED = ("stdout", "stderr", "capture_output", "text", "encoding", "errors")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini("container_image", "image of the container fixture, where no mark names another", default="")
    parser.addini("container_rootfs", 'root directory, or "host", of the container fixture', default="")
    group = parser.getgroup("fastctr", "containers (fastctr)")
    group.addoption("--container-required", action="store_true", default=False,
                    help="fail tests that want a container where there can be none; the default is to skip them")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "container(image=, rootfs=, memory=, …): what the container fixture is made "
                            "of: keywords of fastctr.run() (see fastctr.integrations.pytest_plugin)")


class Containers:
    """The `container` fixture: container.run(argv), or container(argv), and container.start(argv).

    Keywords of the launch (input, timeout, env, limits, …) are those of fastctr.run(); those of the
    container (image, rootfs, memory, network, …) go over what the marks say, for this one alone.
    """

    def __init__(self, session: _Session, given: dict[str, Any]) -> None:
        self._session = session
        self._given = given
        self._running: list[Container] = []

    @property
    def plan(self) -> Plan:
        """The plan of the marks and ini options."""
        return self._session.plan(self._given)

    def _plan(self, kw: dict[str, Any]) -> Plan:
        from ..launch_args import IMAGE_FIELDS
        from ..spec import FIELDS

        fields = (IMAGE_FIELDS | frozenset(FIELDS)) - _LAUNCH
        own = {name: kw.pop(name) for name in list(kw) if name in fields}
        if not own:
            return self.plan
        return self._session.plan(_over(self._given, own))

    def run(self, argv: Any = None, **kw: Any) -> Completed:
        """fastctr.run() in a new container. Its output is captured as text, unless one of stdout, stderr,
        capture_output, text, encoding and errors is given. Errors as there."""
        if not any(name in kw for name in _ASKED):
            kw.update(capture_output=True, text=True)
        plan = self._plan(kw)
        return plan.run(argv, **kw)

    __call__ = run

    def start(self, argv: Any = None, **kw: Any) -> Container:
        """A running fastctr.Container, closed when the test ends: everything in it is dead then. Without
        stdin= it has none to read from."""
        kw.setdefault("stdin", -3)  # DEVNULL: a test's own is the terminal, or closed by pytest
        plan = self._plan(kw)
        made = plan.container(argv, **kw)
        self._running.append(made)
        return made

    def close(self) -> None:
        """Kill what runs; the first error is raised once all are closed."""
        first: BaseException | None = None
        while self._running:
            try:
                self._running.pop().close()
            except BaseException as error:  # noqa: BLE001 the others are to be closed as well
                first = first or error
        if first is not None:
            raise first


_LAUNCH = frozenset(("env", "cwd", "user", "files"))
"""Fields that a launch has, too."""


def _over(given: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """own over given: one root takes the other's place."""
    left = dict(given)
    if own.get("image") is not None:
        left.pop("rootfs", None)
    elif own.get("rootfs") is not None:
        for name in ("image", "pull", "platform", "snapshotter", "entrypoint", "root"):
            left.pop(name, None)
    return {**left, **own}


class _Session:
    """What the tests of one process share: plans, and which images have been pulled."""

    def __init__(self, config: pytest.Config, shared: Any) -> None:
        self._config = config
        self._shared = shared  # a directory of all processes of this run: pytest-xdist has several
        self._plans: dict[str, Plan] = {}
        self._problem: str | None = None
        self._asked = False
        self.used = False

    def need_machine(self) -> None:
        """Skip, or fail, where there can be no containers."""
        problem = self.problem()
        if problem is not None:
            text = f"this machine runs no containers: {problem} (`fastctr info` says what is missing)"
            if self._config.getoption("--container-required"):
                pytest.fail(text, pytrace=False)
            pytest.skip(f"{text}; --container-required makes this a failure")

    def problem(self) -> str | None:
        """Why this machine cannot run containers, or None; asked once."""
        if not self._asked:
            self._asked = True
            try:
                from ..api import run
                from ..errors import CommandNotFound, FastctrError
            except ImportError as error:
                self._problem = f"fastctr cannot be imported: {error}"
                return self._problem
            self.used = True
            try:
                run(["true"], rootfs="host", stdin=-3, stdout=-3, stderr=-3, timeout=30)
            except CommandNotFound:
                pass  # the container was ready
            except (FastctrError, OSError) as error:
                self._problem = str(error)
        return self._problem

    def base(self) -> dict[str, Any]:
        """What the ini options say."""
        ini = {name: self._config.getini(f"container_{name}") for name in ("image", "rootfs")}
        return {name: value for name, value in ini.items() if value}

    def given(self, item: pytest.Item) -> dict[str, Any]:
        """What the ini options and the marks of a test say, the nearest mark last."""
        found = self.base()
        for mark in reversed(list(item.iter_markers("container"))):
            if mark.args:
                pytest.fail(f"@pytest.mark.container takes keywords alone, and got {mark.args!r}: "
                            'use image="…" or rootfs="…"', pytrace=False)
            if mark.kwargs.get("image") and mark.kwargs.get("rootfs"):
                pytest.fail("@pytest.mark.container: give image or rootfs, not both", pytrace=False)
            found = _over(found, dict(mark.kwargs))
        return found

    def plan(self, given: dict[str, Any]) -> Plan:
        """The plan of these keywords; its image is pulled once in a run of all processes."""
        if not given.get("image") and not given.get("rootfs"):
            pytest.fail("the container fixture has no root: mark the test with @pytest.mark.container(image=…) or "
                        "(rootfs=…), or set container_image or container_rootfs in the ini file", pytrace=False)
        key = repr(sorted(given.items()))
        plan = self._plans.get(key)
        if plan is None:
            from ..plan import Plan

            self.used = True
            if given.get("image"):
                from ..image.locks import FileLock

                with FileLock(str(self._shared / "fastctr-images.lock")):
                    plan = Plan(**self._pull_once(given))
            else:
                plan = Plan(**given)
            self._plans[key] = plan
        return plan

    def _pull_once(self, given: dict[str, Any]) -> dict[str, Any]:
        """With the lock: pull="always" is for the first of all processes."""
        if given.get("pull") != "always":
            return given
        import hashlib

        which = repr([given.get(name) for name in ("image", "platform", "root")])
        mark = self._shared / f"fastctr-pulled-{hashlib.sha256(which.encode()).hexdigest()[:16]}"
        if mark.exists():
            return {**given, "pull": "missing"}
        from ..plan import Plan

        Plan(**given).close()
        mark.touch()
        return {**given, "pull": "missing"}

    def close(self) -> None:
        for plan in self._plans.values():
            plan.close()
        self._plans.clear()
        if self.used:  # a process of pytest-xdist may end without atexit
            from ..maintenance import shutdown

            shutdown()


@pytest.fixture(scope="session")
def _container_session(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Session]:
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if hasattr(request.config, "workerinput") else base
    session = _Session(request.config, shared)
    yield session
    session.close()


@pytest.fixture
def container(request: pytest.FixtureRequest, _container_session: _Session) -> Iterator[Containers]:
    """Containers of this test's own: container.run(argv) and container.start(argv). Everything started is
    dead when the test ends."""
    given = _container_session.given(request.node)
    _container_session.need_machine()
    handle = Containers(_container_session, given)
    if given.get("image"):
        handle.plan  # noqa: B018 what is wrong with the image belongs to the setup
    yield handle
    handle.close()


@pytest.fixture(scope="session")
def container_pool(_container_session: _Session) -> Iterator[Pool]:
    """A fastctr.Pool of what the ini options say, for the whole session."""
    from ..pool import Pool

    _container_session.need_machine()
    with Pool(_container_session.plan(_container_session.base()), size=2) as pool:
        yield pool
