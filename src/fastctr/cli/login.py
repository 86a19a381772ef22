"""`fastctr login` and `fastctr logout`."""

from __future__ import annotations

import sys

from .options import FLAG, VALUE, Option, UsageError
from .verb import Given, Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

LOGIN = Verb(
    "login", "[REGISTRY]", "Log in to a registry (default: Docker Hub). Credentials go where docker keeps them.",
    (
        Option("-u --username", VALUE, "username", "NAME", "asked for if it is not given"),
        Option("-p --password", VALUE, "password", "TEXT", "seen by every user of this machine: better leave it away"),
        Option("--password-stdin", FLAG, "stdin", "", "read the password from standard input"),
    ),
    0, 1,
)  # fmt: skip
LOGOUT = Verb("logout", "[REGISTRY]", "Forget a registry's credentials (default: Docker Hub).", (), 0, 1)


def login(argv: Sequence[str]) -> int:
    return LOGIN.run(argv, _login)


def _login(given: Given, args: list[str]) -> int:
    from ..images import login as keep

    registry = args[0] if args else "docker.io"
    username, password = given.value("username"), given.value("password")
    if given.flag("stdin"):
        if password is not None:
            raise UsageError("--password and --password-stdin are mutually exclusive")
        if not username:
            raise UsageError("must provide --username with --password-stdin")
        password = sys.stdin.read().rstrip("\n").rstrip("\r")
    elif password is not None:
        print("WARNING! Using --password on the command line is insecure. Use --password-stdin.", file=sys.stderr)
    if not username or password is None:
        if not sys.stdin.isatty():
            raise UsageError("cannot ask without a terminal: use --username and --password-stdin")
        import getpass

        if not username:
            username = input("Username: ").strip()
        password = getpass.getpass("Password: ") if password is None else password
    if not username or not password:
        raise UsageError("username and password must not be empty")
    where = keep(registry, username, password)
    if where:
        print(where, file=sys.stderr)
    print("Login Succeeded")
    return 0


def logout(argv: Sequence[str]) -> int:
    return LOGOUT.run(argv, _logout)


def _logout(given: Given, args: list[str]) -> int:
    from ..images import logout as forget

    registry = args[0] if args else "docker.io"
    if forget(registry):
        print(f"Removing login credentials for {registry}")
    else:
        print(f"Not logged in to {registry}")
    return 0
