"""What goes between a caller and its zygote's jobs: functions in, results and exceptions out.

What comes out of a container is bytes of the container's choosing. "data" (the default) reads them as plain
data, refusing every class but the few of `SAFE`; "pickle" reads anything, and so lets the container run code
in the caller; "json" and "bytes" are what they say.
"""

from __future__ import annotations

import pickle
import struct
import sys
import weakref

from .errors import FastctrError, SpecError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .results import Completed

RESULTS = ("data", "pickle", "json", "bytes")

SAFE: dict[str, frozenset[str]] = {
    "builtins": frozenset(("complex", "set", "frozenset", "bytearray", "slice", "range")),
    "collections": frozenset(("OrderedDict", "deque", "Counter")),
    "datetime": frozenset(("date", "time", "datetime", "timedelta", "timezone")),
    "decimal": frozenset(("Decimal",)),
    "fractions": frozenset(("Fraction",)),
    "uuid": frozenset(("UUID", "SafeUUID")),
}
"""Classes that a result of kind "data" may name, by module: making one of them runs no code of the container's.
NumPy's arrays are not among them: a made-up dtype in a pickle can point anywhere in memory. They travel in
the format of numpy.save instead, without objects in them."""


class ResultRefused(FastctrError):
    """A job's result names a class that is not plain data; `result="pickle"` would take it."""


class RemoteTraceback(Exception):
    """The cause of an exception that came from a job: where it was raised there, as text."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text}"""'


class RemoteError(FastctrError):
    """A job raised an exception that is not one of Python's own (and result="pickle" was not asked for).

    type: its class, as "module.Name"; text: its message; trace: its traceback, as text.
    """

    def __init__(self, type: str, text: str, trace: str) -> None:  # noqa: A002
        super().__init__(type, text, trace)
        self.type, self.text, self.trace = type, text, trace

    def __str__(self) -> str:
        return f"{self.type}: {self.text}" if self.text else self.type


class JobEnded(FastctrError):
    """A job ended without a result: it was killed, or left the interpreter. completed: how it ended."""

    def __init__(self, what: str, completed: Completed) -> None:
        super().__init__(what, completed)
        self.what = what
        self.completed = completed

    def __str__(self) -> str:
        done = self.completed
        how = {"oom": "was killed for memory", "signal": f"was killed by signal {-done.returncode}"}.get(
            done.killed_by or "", f"ended with code {done.returncode}")
        return f"{self.what} {how} before it had a result"


class ZygoteError(FastctrError):
    """A zygote did not come to life: a module could not be imported, or its process ended. trace: as text."""

    def __init__(self, why: str, trace: str = "") -> None:
        super().__init__(why, trace)
        self.why, self.trace = why, trace

    def __str__(self) -> str:
        return f"{self.why}\n{self.trace}" if self.trace else self.why


class _Plain(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module == "fastctr_zygote_data" and name in ("array", "scalar"):
            return _array if name == "array" else _scalar
        if name in SAFE.get(module, ()):
            return super().find_class(module, name)
        raise ResultRefused(f'a result of the class {module}.{name} is not plain data; return other values, or '
                            'give result="pickle" if you trust the image and what the job ran: reading such a '
                            'result can run any code here')

    def persistent_load(self, pid: Any) -> Any:
        raise ResultRefused("a result with persistent ids is not plain data")


def _array(data: bytes) -> Any:
    import io

    from numpy.lib import format as npy

    return npy.read_array(io.BytesIO(bytes(data)), allow_pickle=False)


def _scalar(data: bytes) -> Any:
    return _array(data)[()]


def loads_plain(data: bytes) -> Any:
    """Unpickle plain data. Raises ResultRefused for anything else, and for what is no pickle."""
    import io

    try:
        return _Plain(io.BytesIO(data)).load()
    except ResultRefused:
        raise
    except Exception as error:  # noqa: BLE001 bytes from a container may raise anything
        raise ResultRefused(f"the result cannot be read: {type(error).__name__}: {error}") from None


def check_result(result: str) -> str:
    if result not in RESULTS:
        raise SpecError("result", result, "is not a kind of result", "use " + ", ".join(f'"{r}"' for r in RESULTS))
    return result


# ---- functions in

_Function, _Module, _Code = type(loads_plain), type(sys), type(loads_plain.__code__)
_SIMPLE = (int, float, complex, str, bytes, bool, type(None))


def _by_name(func: Any) -> bool:
    module = getattr(func, "__module__", None)
    name = getattr(func, "__qualname__", None)
    if module in (None, "__main__", "__mp_main__") or name is None or "." in name:
        return False
    return getattr(sys.modules.get(module), name, None) is func


def _modules_used(func: Any) -> tuple[tuple[str, str], ...] | None:
    """What a plain function finds in its globals, if that is modules and nothing else, and it has nothing beside:
    (name there, module) of each. None for any other function."""
    if func.__closure__ or func.__defaults__ or func.__kwdefaults__ or func.__dict__:
        return None
    where, found = func.__globals__, []
    codes = [func.__code__]
    while codes:
        code = codes.pop()
        codes += [const for const in code.co_consts if type(const) is _Code]
        for name in code.co_names:
            if name in where and not (name == "__builtins__" or name.startswith("__")):
                value = where[name]
                real = value.__name__ if type(value) is _Module else "__main__"
                if real == "__main__" or sys.modules.get(real) is not value:
                    return None
                found.append((name, real))
    return tuple(found)


_codes: weakref.WeakKeyDictionary[Any, tuple[Any, bytes]] = weakref.WeakKeyDictionary()


def _plain_function(func: Any, protocol: int) -> bytes | None:
    """A function by its code and the modules it uses: a hundred times quicker than cloudpickle, and without it."""
    if type(func) is not _Function:
        return None
    used = _modules_used(func)
    if used is None:
        return None
    import marshal

    kept = _codes.get(func)
    if kept is None or kept[0] is not func.__code__:
        kept = _codes[func] = (func.__code__, marshal.dumps(func.__code__))
    return pickle.dumps((kept[1], used, func.__module__, func.__name__, func.__qualname__, func.__doc__), protocol)


def _magic() -> str:
    from importlib.util import MAGIC_NUMBER

    return MAGIC_NUMBER.hex()


def dumps(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], hello: dict[str, Any]) -> bytes:
    """The pickle of a call, for the interpreter that said `hello`: that of (func, args, kwargs), or one of what
    _plain_function() has and one of (args, kwargs)."""
    protocol = min(pickle.HIGHEST_PROTOCOL, hello["pickle"])
    by_name = _by_name(func)
    simple = all(type(arg) in _SIMPLE for arg in (*args, *kwargs.values()))
    if by_name and simple:
        return pickle.dumps((func, args, kwargs), protocol)
    same = hello["magic"] == _magic()
    if same and simple:
        head = _plain_function(func, protocol)
        if head is not None:
            return head + pickle.dumps((args, kwargs), protocol)
    if same and hello["cloudpickle"]:
        try:
            import cloudpickle  # type: ignore[import-untyped]
        except ImportError:
            pass
        else:
            data: bytes = cloudpickle.dumps((func, args, kwargs), protocol)
            return data
    if not by_name and getattr(func, "__module__", None) in (None, "__main__", "__mp_main__"):
        theirs = ".".join(map(str, hello["version"][:2]))
        why = "install cloudpickle here, or" if same else (
            f"the container has Python {theirs}, where code of this interpreter does not run:")
        raise SpecError("func", func, "cannot be sent", f"{why} put the function into a module that both have")
    return pickle.dumps((func, args, kwargs), protocol)


def sources() -> dict[str, str]:
    """The text of this interpreter's cloudpickle, for an image that has none; empty if there is none here."""
    try:
        from importlib.util import find_spec

        spec = find_spec("cloudpickle")
        if spec is None or not spec.origin:
            return {}
        import os

        folder = os.path.dirname(spec.origin)
        found = {}
        for file in os.listdir(folder):
            if file.endswith(".py"):
                with open(os.path.join(folder, file), encoding="utf-8") as text:
                    found["cloudpickle" if file == "__init__.py" else f"cloudpickle.{file[:-3]}"] = text.read()
        return found
    except (ImportError, OSError, ValueError):
        return {}


# ---- results out


def value(data: bytes, result: str) -> Any:
    if result == "data":
        return loads_plain(data)
    if result == "pickle":
        return pickle.loads(data)  # the caller's own choice
    if result == "json":
        import json

        try:
            return json.loads(data)
        except ValueError as error:
            raise ResultRefused(f"the result is not JSON: {error}") from None
    return data


def exception(data: bytes, result: str) -> BaseException:
    """The exception a job raised, its cause the traceback there."""
    import json

    try:
        n = struct.unpack_from("<I", data)[0]
        about = json.loads(data[4 : 4 + n])
        module, name, text, trace = (str(about[key]) for key in ("module", "name", "text", "trace"))
    except Exception as error:  # noqa: BLE001
        raise ResultRefused(f"the job's exception cannot be read: {error}") from None
    made: BaseException | None = None
    more = data[4 + n :]
    try:
        if result == "pickle" and more:
            found = pickle.loads(more)
            made = found if isinstance(found, BaseException) else None
        elif module == "builtins" and more:
            made = _own_exception(name, loads_plain(more))
    except Exception:  # noqa: BLE001 then as text
        made = None
    if made is None:
        made = RemoteError(f"{module}.{name}", text, trace)
    made.__cause__ = RemoteTraceback(trace)
    return made


def _own_exception(name: str, args: Any) -> BaseException | None:
    import builtins

    kind = getattr(builtins, name, None)
    if not isinstance(kind, type) or not issubclass(kind, Exception) or not isinstance(args, tuple):
        return None
    return kind(*args)
