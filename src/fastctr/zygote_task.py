"""What a zygote's child does once it is a job, in its container: the second half of zygote_server.py.

Both are given to the image's Python as text and run in one namespace; standard library alone, Python 3.8 on.
"""

from __future__ import annotations

import array
import builtins
import importlib
import io
import json
import marshal
import os
import pickle
import socket
import struct
import sys
import traceback
import types

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .zygote_server import HEAD, answer, exactly, receive


def reseed() -> None:
    """What a fork must not share. random does it by itself; hashes of str stay alike in all jobs."""
    modules = sys.modules
    if "numpy.random" in modules:
        modules["numpy.random"].seed()
    if "tempfile" in modules:
        modules["tempfile"]._name_sequence = None  # type: ignore[attr-defined]
    if "multiprocessing.process" in modules:
        modules["multiprocessing.process"].current_process().authkey = os.urandom(32)
    if "uuid" in modules:
        modules["uuid"]._last_timestamp = None  # type: ignore[attr-defined]


# ---- a job, in its container


def job(sock: socket.socket) -> int:
    data, fds = receive(sock, 65536)
    if not data:
        return 0  # it is not needed any more
    while len(data) < HEAD.size:
        data += exactly(sock, HEAD.size - len(data))
    n_options, n_data = HEAD.unpack_from(data)
    rest = HEAD.size + n_options + n_data - len(data)
    if rest > 0:
        data = b"".join((data, exactly(sock, rest)))
    options = json.loads(data[HEAD.size : HEAD.size + n_options])
    for i, fd in enumerate(fds):
        os.dup2(fd, i)
        os.close(fd)
    if options.get("env") is not None:
        os.environ.clear()
        os.environ.update(item.split("=", 1) for item in options["env"])
    if isinstance(sys.stdout, io.TextIOWrapper) and os.isatty(1):
        sys.stdout.reconfigure(line_buffering=True)
    if options.get("cwd"):
        try:
            os.chdir(options["cwd"])
        except OSError as error:
            answer(sock, b"C", str(error.errno).encode())
            return 125
    if "argv" in options:
        return run(options["argv"])
    kind, value = call(memoryview(data)[HEAD.size + n_options :], options["result"], options["protocol"])
    code = flush()
    answer(sock, kind, value)
    return code


def function(about: tuple[Any, ...]) -> Any:
    """One that uses modules alone; see zygote_wire.py."""
    code, modules, module, name, qualname, doc = about
    names: dict[str, Any] = {"__builtins__": builtins, "__name__": module}
    for known, real in modules:
        names[known] = sys.modules.get(real) or importlib.import_module(real)
    made = types.FunctionType(marshal.loads(code), names, name)
    made.__module__, made.__qualname__, made.__doc__ = module, qualname, doc
    return made


def rehearsal() -> bytes:
    """A small call, as one is sent."""
    func = eval("lambda a, b: [sys.getrefcount(a), {b: str(a)}]", {"sys": sys})
    about = (marshal.dumps(func.__code__), (("sys", "sys"),), "__main__", "<lambda>", "<lambda>", None)
    options = json.dumps({"result": "data", "protocol": pickle.DEFAULT_PROTOCOL}).encode()
    data = pickle.dumps(about) + pickle.dumps(((1,), {"b": 2}))
    return HEAD.pack(len(options), len(data)) + options + data


def rehearse(data: bytes) -> None:
    """Done before its job is there: what a job writes to first is no longer shared with the zygote then, page by
    page, which is half of a short job's time."""
    try:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            copies = array.array("i", [os.dup(i) for i in range(3)])
            ours.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, copies)])
            for fd in copies:
                os.close(fd)
            job(theirs)
            ours.recv(4096)
        numpy = sys.modules.get("numpy")
        if numpy is not None:
            pickle.dumps([int(numpy.arange(10).sum()), float(numpy.ones(3).mean()), numpy.zeros((2, 2)).tolist()])
    except Exception:  # noqa: BLE001 it is only for the time it takes
        pass


def call(data: Any, result: str, protocol: int) -> tuple[bytes, bytes]:
    try:
        stream = io.BytesIO(data)
        func, *rest = pickle.load(stream)
        if len(rest) == 2:
            args, kwargs = rest
        else:
            func = function((func, *rest))
            args, kwargs = pickle.load(stream)
        value = func(*args, **kwargs)
        if result == "bytes":
            return b"V", bytes(memoryview(value))
        if result == "json":
            return b"V", json.dumps(value).encode()
        return b"V", dumps(value, result, protocol)
    except BaseException as error:  # noqa: BLE001 it is the caller's to handle
        return b"E", failure(error, result, protocol)


def dumps(value: Any, result: str, protocol: int) -> bytes:
    if result == "pickle":
        if "cloudpickle" in sys.modules:
            return sys.modules["cloudpickle"].dumps(value, protocol)  # type: ignore[no-any-return]
        return pickle.dumps(value, protocol)
    if "numpy" not in sys.modules:
        return pickle.dumps(value, protocol)
    out = io.BytesIO()
    Plain(out, protocol).dump(value)
    return out.getvalue()


class Plain(pickle.Pickler):
    """Arrays in the format of numpy.save, which holds data alone: a pickle of one need not be what it says."""

    def reducer_override(self, value: Any) -> Any:
        numpy = sys.modules["numpy"]
        if isinstance(value, (numpy.ndarray, numpy.generic)) and not numpy.asarray(value).dtype.hasobject:
            out = io.BytesIO()
            numpy.lib.format.write_array(out, numpy.asarray(value), allow_pickle=False)
            return (scalar if isinstance(value, numpy.generic) else as_array, (out.getvalue(),))
        return NotImplemented  # as any other object: pickle's own way, see Pickler.reducer_override


def as_array(data: bytes) -> Any:
    """Stands for what the caller calls "array": named, never called here."""


def scalar(data: bytes) -> Any:
    """The same for one value."""


def name_markers() -> None:
    module: Any = types.ModuleType("fastctr_zygote_data")
    for name, marker in (("array", as_array), ("scalar", scalar)):
        marker.__module__, marker.__qualname__, marker.__name__ = module.__name__, name, name
        setattr(module, name, marker)
    sys.modules[module.__name__] = module


def failure(error: BaseException, result: str, protocol: int) -> bytes:
    trace = error.__traceback__.tb_next if error.__traceback__ else None  # without ourselves
    kind = type(error)
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 a foreign __str__
        text = ""
    about = json.dumps({"module": kind.__module__, "name": kind.__qualname__, "text": text,
                        "trace": "".join(traceback.format_exception(kind, error, trace))}).encode()
    try:
        more = dumps(error if result == "pickle" else error.args, result, protocol)
    except Exception:  # noqa: BLE001 then its name and text have to do
        more = b""
    return struct.pack("<I", len(about)) + about + more


def flush() -> int:
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None and not stream.closed:
                stream.flush()
        except (OSError, ValueError):
            return 120  # as Python itself
    return 0


def run(argv: list[str]) -> int:
    """As the command line of Python: a script, -c or -m."""
    code = 0
    try:
        main(argv)
    except SystemExit as leaving:
        if leaving.code is None:
            code = 0
        elif isinstance(leaving.code, int):
            code = leaving.code & 0xFF
        else:
            print(leaving.code, file=sys.stderr)
            code = 1
    except BaseException as error:  # noqa: BLE001 as at the top of any program
        trace = error.__traceback__
        for _ in range(2):
            trace = trace.tb_next if trace is not None else None
        sys.excepthook(type(error), error.with_traceback(trace), trace)
        code = 130 if isinstance(error, KeyboardInterrupt) else 1
    threading = sys.modules.get("threading")
    if threading is not None:
        threading._shutdown()
    import atexit

    atexit._run_exitfuncs()
    return flush() or code


def main(argv: list[str]) -> None:
    module = types.ModuleType("__main__")
    module.__dict__["__builtins__"] = __builtins__
    sys.modules["__main__"] = module
    if argv[0] == "-m":
        import runpy

        sys.argv = argv[1:]
        sys.path[0] = os.getcwd()
        runpy.run_module(argv[1], run_name="__main__", alter_sys=True)
        return
    if argv[0] == "-c":
        sys.argv = ["-c", *argv[2:]]
        source: Any = argv[1]
        name = "<string>"
    else:
        sys.argv = argv
        name = argv[0]
        try:
            with open(name, "rb") as file:
                source = file.read()
        except OSError as error:
            print(f"{sys.executable}: can't open file {name!r}: [Errno {error.errno}] {error.strerror}",
                  file=sys.stderr)
            raise SystemExit(2) from None
        sys.path[0] = os.path.dirname(os.path.abspath(name))
        module.__file__ = name
    exec(compile(source, name, "exec"), module.__dict__)
