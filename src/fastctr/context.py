"""The one core context of this process: made with first use, closed at exit, made anew after a fork."""

from __future__ import annotations

import os
import threading

from . import _core, rights

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

WARM_MAX = 32  # prepared containers of one plan: a burst finds this many, 0.5 MB of kernel memory each
"""Prepared containers kept for one plan at most."""
IDLE_MS = 10_000
"""After so long without a start a plan lets go of what it has prepared."""

_lock = threading.Lock()
_current: _core.Context | None = None
_hooks = False
generation = 0
"""Raised by every fork in the child: plans compiled before belong to the parent."""
_swept = -1
_stub_fd = -1
_forked: list[Callable[[], None]] = []


def runtime_dir() -> str:
    """Where owner locks live: /run/fastctr for root, else below XDG_RUNTIME_DIR or /tmp."""
    given = os.environ.get("FASTCTR_RUNTIME_DIR")
    if given:
        path = given
    elif os.geteuid() == 0 and os.access("/run", os.W_OK):
        path = "/run/fastctr"
    else:
        base = os.environ.get("XDG_RUNTIME_DIR")
        path = f"{base}/fastctr" if base and os.path.isdir(base) else f"/tmp/fastctr-{os.geteuid()}"
    os.makedirs(path, 0o700, exist_ok=True)
    found = os.stat(path)
    if found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise PermissionError(f"{path} is not ours alone; set FASTCTR_RUNTIME_DIR to a private directory")
    return path


def _stub() -> int:
    """A sealed copy of the static stub: nobody in a container can change it (memfd_create(2))."""
    path = os.path.join(os.path.dirname(__file__), "fctr-stub")
    try:
        with open(path, "rb") as file:
            data = file.read()
    except FileNotFoundError:
        return -1
    fd = os.memfd_create("fctr-stub", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        os.fchmod(fd, 0o555)
        import fcntl

        fcntl.fcntl(fd, 1033, 0x1 | 0x2 | 0x4 | 0x8)  # F_ADD_SEALS: seal, shrink, grow, write
    except BaseException:
        os.close(fd)
        raise
    return fd


def privileged() -> bool:
    """Whether this process is root of the machine and may mount (CAP_SYS_ADMIN, capabilities(7))."""
    if os.geteuid() == 0 and not rights.machine_root():
        return False
    return rights.sys_admin()


def _open() -> _core.Context:
    with open("/proc/self/stat", "rb") as file:
        started = file.read().rpartition(b")")[2].split()[19].decode()
    owner = f"{os.getpid()}-{started}-{os.urandom(3).hex()}"
    global _stub_fd
    _stub_fd = _stub()
    try:
        return _core.Context(runtime_dir(), owner, _stub_fd, WARM_MAX, IDLE_MS, privileged())
    except BaseException:
        _close_stub()
        raise


def _close_stub() -> None:
    """The core borrows it: ours to close once the context is gone."""
    global _stub_fd
    fd, _stub_fd = _stub_fd, -1
    if fd >= 0:
        os.close(fd)


def _at_worker_exit() -> None:
    """A process of multiprocessing ends without atexit: it has finalizers of its own."""
    import sys

    package = sys.modules.get("multiprocessing")
    if package is not None and package.parent_process() is not None:
        from multiprocessing.util import Finalize

        Finalize(None, close, exitpriority=0)


def get() -> _core.Context:
    """The context. Raises LaunchError or PermissionError if the runtime directory cannot be used."""
    global _current
    context = _current
    if context is not None:
        return context
    hooks()
    with _lock:
        if _current is None:
            context = _open()
            _current = context
            _at_worker_exit()
        return _current


def hooks() -> None:
    """See that forks and the end of this process are noticed; before anything that must not outlive it."""
    global _hooks
    with _lock:
        if not _hooks:
            import atexit

            os.register_at_fork(after_in_child=_after_fork)
            atexit.register(close)
            _hooks = True


def sweep_once() -> None:
    """With the first plan, once its control groups are there: clear away what dead processes left."""
    global _swept
    if _swept != generation:
        _swept = generation
        get().sweep()


def sweep_later() -> None:
    """The first plan need not sweep: the caller is about to, and wants to know how many there were."""
    global _swept
    _swept = generation


def current() -> _core.Context | None:
    """The context if there is one already."""
    return _current


def on_fork(call: Callable[[], None]) -> None:
    """Have `call` called in the child of every fork, before anything of ours is used there."""
    _forked.append(call)


def _after_fork() -> None:
    global _current, _lock, generation
    _lock = threading.Lock()
    context, _current = _current, None
    generation += 1
    for call in _forked:
        call()
    if context is not None:
        context.forked()
        _close_stub()


def close() -> None:
    """Tear everything down and wait for it: prepared containers, groups, the background thread."""
    import sys

    global _current
    with _lock:
        context, _current = _current, None
    if context is not None:
        _core_close(context)
    for name, release in (("aio_threads", "stop"), ("from_image", "release"), ("image.store", "release_all")):
        module = sys.modules.get(f"{__package__}.{name}")
        if module is not None:  # threads may end, and images' layers go, once nothing runs any more
            getattr(module, release)()


def _core_close(context: _core.Context) -> None:
    import sys

    for name in ("zygote", "container"):
        module = sys.modules.get(f"{__package__}.{name}")
        if module is not None:
            module.close_live()
    from . import plan

    plan.close_all()
    context.close()
    plan.remove_scratch()
    _close_stub()
