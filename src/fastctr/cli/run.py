"""`fastctr run`: start one container, be its terminal and its signals, and leave with its exit code."""

from __future__ import annotations

import os
import signal
import sys

from ..errors import FastctrError, LaunchError, SpecError
from .options import UsageError, help_text
from .run_options import EXITS, TABLE, USAGE, option_of, parse_run

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType
    from typing import Any, Self

DEVNULL = -3  # as subprocess.DEVNULL, whose import costs more than a start
FAILED, TIMED_OUT = 125, 124
FORWARDED = (
    "SIGHUP",
    "SIGINT",
    "SIGQUIT",
    "SIGTERM",
    "SIGUSR1",
    "SIGUSR2",
    "SIGALRM",
    "SIGCONT",
    "SIGTSTP",
    "SIGTTIN",
    "SIGTTOU",
    "SIGURG",
    "SIGIO",
    "SIGPWR",
)


def run(argv: Sequence[str]) -> int:
    """Parse, launch, wait; returns the exit code for the shell."""
    try:
        fields, own, command = parse_run(argv)
        if own.get("_help"):
            print(USAGE + "\n" + help_text(TABLE) + "\n\n" + EXITS)
            return 0
        options = own_options(own)
        if "_image" in own or "_name" in own:
            from .run_image import plan_of

            plan, kept = plan_of(fields, own, command)
            return launch_kept(command or None, plan, options, kept, own.get("_rm", False))
        from ..spec import Spec

        return _launch(command, {"spec": Spec(**fields)}, options)
    except UsageError as error:
        return _fail(f"{error}\nSee 'fastctr run --help'.")
    except SpecError as error:
        return _fail(error.render(error.where.replace(error.field, option_of(error.field), 1)))
    except LaunchError as error:
        return _fail(str(error), error.exit_code)
    except (FastctrError, OSError) as error:
        return _fail(str(error))


def _fail(text: str, code: int = FAILED) -> int:
    print(f"fastctr: {text}", file=sys.stderr)
    return code


class _Options:
    """What `fastctr run` does itself, checked."""

    __slots__ = ("interactive", "proxy", "stats", "stop_signal", "stop_timeout", "timeout", "timings", "tty")

    def __init__(self) -> None:
        self.interactive = self.tty = self.stats = self.timings = False
        self.proxy = True
        self.timeout: float | None = None
        self.stop_signal: int | None = None
        self.stop_timeout = 10.0


def own_options(own: dict[str, Any]) -> _Options:
    """The options that are no fields, checked. Raises UsageError, SpecError."""
    from .. import units

    options = _Options()
    options.interactive = own.get("_interactive", False)
    options.tty = own.get("_tty", False)
    options.stats = own.get("_stats", False)
    options.timings = own.get("_timings", False)
    options.proxy = own.get("_sig_proxy", True)
    if "_timeout" in own:
        options.timeout = units.duration_ns("--timeout", own["_timeout"]) / 10**9
    if "_stop_timeout" in own:
        options.stop_timeout = units.duration_ns("--stop-timeout", own["_stop_timeout"]) / 10**9
    if "_stop_signal" in own:
        options.stop_signal = signal_number(own["_stop_signal"])
    if options.tty and options.interactive and not os.isatty(0):
        raise UsageError("the input device is not a terminal: leave -t away, or -i")
    return options


def signal_number(text: str) -> int:
    """A signal by name, with or without SIG, or by number. Raises UsageError."""
    name = text.upper().removeprefix("SIG")
    if name.isdigit() and 1 <= int(name) <= signal.NSIG - 1:
        return int(name)
    found = getattr(signal, "SIG" + name, None)
    if name.startswith("_") or not isinstance(found, int) or not found:
        raise UsageError(f'--stop-signal: "{text}" is not a signal; use a name as TERM, or a number')
    return int(found)


def launch_kept(command: list[str] | None, plan: Any, options: _Options, kept: Any = None, remove: bool = False) -> int:
    """Launch a plan, and note in the kept container, if there is one, how that went."""
    try:
        if kept is not None:
            kept.beginning()
        try:
            code = _launch(command, {"plan": plan}, options, kept)
        except (LaunchError, SpecError):
            if kept is not None and not kept.record["pid"]:
                kept.failed()
            raise
        if kept is not None and not remove:
            kept.ended(code)
        return code
    finally:
        plan.close()
        if kept is not None:
            kept.release()
            if remove:
                kept.remove()


def _launch(command: list[str] | None, kw: dict[str, Any], options: _Options, kept: Any = None) -> int:
    from ..container import Container

    if options.tty:
        from .terminal import size

        kw["tty"] = size() or True
    else:
        kw["stdin"] = None if options.interactive else DEVNULL
    if options.timings:
        kw["timings"] = True
    with _Signals(options.proxy) as signals, Container(command, **kw) as container:
        signals.send_to(container)
        if kept is not None:
            kept.began(container.pid)
        if options.tty:
            from .terminal import Relay

            with Relay(container, options.interactive) as relay:
                code = _wait(container, options, relay.wait)
        else:
            code = _wait(container, options, container.wait)
        if options.stats:
            _print_figures("usage (seconds, bytes, counts)", container.usage.as_dict())
        if options.timings:
            _print_figures("timings (microseconds)", _timings(container.timings))
        if container.killed_by == "oom":
            limit = container._plan.spec.memory
            where = f" (limit {limit} bytes: -m)" if limit else ""
            print(f"fastctr: killed: out of memory{where}", file=sys.stderr)
    return code


def _wait(container: Any, options: _Options, wait: Any) -> int:
    """The exit code, after the timeout's signals if it comes to that."""
    if options.timeout is None:
        return _exit_code(wait(None))
    if _ended(wait, options.timeout):
        return _exit_code(container.returncode)
    print(f"fastctr: timed out after {options.timeout:g} s", file=sys.stderr)
    stop = options.stop_signal or container.stop_signal
    if stop is not None:
        container.send_signal(stop)
        if _ended(wait, options.stop_timeout):
            return TIMED_OUT
    container.kill()
    wait(None)
    return TIMED_OUT


def _ended(wait: Any, timeout: float) -> bool:
    try:
        wait(timeout)
    except Exception as error:
        if type(error).__name__ != "TimeoutExpired":  # its module would be loaded by naming it
            raise
        return False
    return True


def _exit_code(returncode: int) -> int:
    return 128 - returncode if returncode < 0 else returncode


class _Signals:
    """While inside: signals sent to us go to the command; the third SIGINT or SIGTERM kills the container."""

    def __init__(self, proxy: bool) -> None:
        self._container: Any = None
        self._early: list[int] = []
        self._asked = 0
        self._proxy = proxy
        self._old: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for name in FORWARDED if self._proxy else ():
            number = getattr(signal, name)
            if signal.getsignal(number) is signal.SIG_IGN and name in ("SIGHUP", "SIGINT", "SIGQUIT"):
                continue  # nohup, or a shell's background job: as we were started
            self._old[number] = signal.signal(number, self._forward)
        return self

    def send_to(self, container: Any) -> None:
        """Signals so far, and from now on, are for this container."""
        self._container = container
        for number in self._early:
            container.send_signal(number)

    def _forward(self, number: int, frame: FrameType | None) -> None:
        if self._container is None:
            self._early.append(number)
            return
        if number in (signal.SIGINT, signal.SIGTERM):
            self._asked += 1
        try:
            if self._asked >= 3:
                print("fastctr: asked three times to end: killing the container", file=sys.stderr)
                self._container.kill()
            else:
                self._container.send_signal(number)
        except (FastctrError, ProcessLookupError):
            pass  # it has just ended

    def __exit__(self, *args: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)


def _print_figures(title: str, figures: dict[str, Any]) -> None:
    """One line a figure, on standard error so that the command's output stays its own."""
    lines = [f"{title}:"]
    for name, value in figures.items():
        if value is None:
            continue
        text = f"{value:.6f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
        lines.append(f"  {name:<17} {text}")
    print("\n".join(lines), file=sys.stderr)


def _timings(timings: Any) -> dict[str, Any]:
    """The four parts of the start and, indented, the stages of the child."""
    figures = {
        name: round(getattr(timings, name), 1) for name in ("acquire", "spawn", "run", "collect", "total")
    }
    figures.update({f"  {name}": round(us, 1) for name, us in timings.by_stage().items()})
    return figures
