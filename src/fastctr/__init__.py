"""fastctr: a Linux container started as cheaply as a process.

    import fastctr
    r = fastctr.run(["sh", "-c", "echo hi"], rootfs="host", memory="64m", timeout=5,
                    capture_output=True, text=True, check=True)
    print(r.stdout, r.usage.memory_peak)

    plan = fastctr.Plan(rootfs="host", memory="64m")    # compile once
    plan.run(["true"])                                  # launch many, from any thread

    with fastctr.Container(["sleep", "9"], rootfs="host") as c:   # Popen-shaped
        c.pause(); c.resume(); c.stats()

Everything is imported when it is first used (PEP 562).
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from . import aio, batch, images, mounts
    from .api import run
    from .container import Container
    from .errors import (
        ArchiveError,
        AuthError,
        CalledProcessError,
        CgroupError,
        CommandNotExecutable,
        CommandNotFound,
        DigestMismatch,
        FastctrError,
        ImageError,
        ImageNotFound,
        LaunchError,
        RegistryError,
        SpecError,
        StoreError,
        TimeoutExpired,
        UnknownField,
    )
    from .executor import Executor
    from .launch_args import DEVNULL, PIPE, STDOUT
    from .limits import Limits
    from .maintenance import gc, shutdown
    from .mounts import Bind, Cgroup, Devpts, File, Mqueue, Symlink, Tmpfs
    from .outputs import OutputFile
    from .plan import Plan
    from .pool import Pool
    from .resident import Resident
    from .results import Completed, Timings, Usage
    from .slots import Slots
    from .spec import Spec
    from .zygote import Zygote
    from .zygote_wire import JobEnded, RemoteError, RemoteTraceback, ResultRefused, ZygoteError

__version__ = "0.1.0"

_WHERE = {
    "run": "api", "Container": "container",
    **dict.fromkeys(("Completed", "Usage", "Timings"), "results"),
    **dict.fromkeys(("PIPE", "STDOUT", "DEVNULL"), "launch_args"),
    **dict.fromkeys(
        ("FastctrError", "SpecError", "UnknownField", "LaunchError", "CommandNotFound", "CommandNotExecutable",
         "CgroupError", "TimeoutExpired", "CalledProcessError", "ImageError", "ImageNotFound", "RegistryError",
         "AuthError", "ArchiveError", "DigestMismatch", "StoreError"), "errors"),
    **dict.fromkeys(("Bind", "Cgroup", "Devpts", "File", "Mqueue", "Symlink", "Tmpfs"), "mounts"),
    "Plan": "plan", "Spec": "spec", "Limits": "limits", "gc": "maintenance", "shutdown": "maintenance",
    "Pool": "pool", "Executor": "executor", "Slots": "slots", "Resident": "resident", "Zygote": "zygote",
    "OutputFile": "outputs",
    **dict.fromkeys(("JobEnded", "RemoteError", "RemoteTraceback", "ResultRefused", "ZygoteError"), "zygote_wire"),
}  # fmt: skip
_MODULES = ("aio", "batch", "mounts", "errors", "images")

__all__ = ["__version__", *sorted(_WHERE), "aio", "batch", "images", "mounts"]


def __getattr__(name):  # type: ignore[no-untyped-def]
    module = _WHERE.get(name)
    if module is None and name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    found = import_module(f"{__name__}.{module or name}")
    value = getattr(found, name) if module else found
    globals()[name] = value
    return value


def __dir__():  # type: ignore[no-untyped-def]
    return sorted({*globals(), *__all__})
