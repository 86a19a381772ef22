"""The fastctr command: one module for each subcommand, imported only when it is chosen."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

HELP = """Usage: fastctr [--root DIR] COMMAND [OPTIONS]

Containers:
  run       run a command in a new container:  fastctr run alpine echo hello
  batch     run the jobs of a file, each in a container:  fastctr batch jobs.jsonl -o results.jsonl
  map       run a command once for each argument:  fastctr map 'gzip -k {}' ::: a b c
  ps        list kept containers (those with a --name)
  start     run a kept container again
  rm        remove kept containers
  diff      what a kept container has changed in its files
  cp        copy files into and out of a kept container
  commit    make an image of a kept container
  export    write a kept container's files as a tar

Images:
  pull      get an image from a registry          push      send one to a registry
  images    list images                           tag       give one another name
  rmi       remove images                         inspect   all about an image or container
  load      read images from an archive           save      write images to an archive
  import    make an image of a tar or directory   history   how an image was made
  login     log in to a registry                  logout    forget its credentials
  image     the same as "image ls", "image rm" ..., and build-rootfs, prune, fsck, mount
  container the same as "container ls", "container rm" ..., and prune

Machine:
  system    df (what takes how much room), prune
  info      what this machine offers, and what is missing
  gc        clear up what killed launchers left behind
  version   print the version

--root DIR is where images and kept containers are (else FASTCTR_ROOT, /var/lib/fastctr or the user's data
folder). `fastctr COMMAND --help` says more. Exit code 125 is fastctr's own failure, 1 a failed command."""

# name: (module, function)
VERBS = {
    "run": ("run", "run"),
    "batch": ("batch", "batch"),
    "map": ("map", "map_"),
    "info": ("info", "info"),
    "gc": ("gc", "gc"),
    "pull": ("pull", "pull"),
    "push": ("push", "push"),
    "images": ("images", "images"),
    "tag": ("tag", "tag"),
    "rmi": ("rmi", "rmi"),
    "inspect": ("inspect", "inspect"),
    "history": ("history", "history"),
    "load": ("load", "load"),
    "save": ("save", "save"),
    "import": ("import_", "import_"),
    "export": ("export", "export"),
    "commit": ("commit", "commit"),
    "diff": ("diff", "diff"),
    "cp": ("cp", "cp"),
    "login": ("login", "login"),
    "logout": ("login", "logout"),
    "ps": ("ps", "ps"),
    "rm": ("rm", "rm"),
    "start": ("start", "start"),
    "image": ("groups", "image"),
    "container": ("groups", "container"),
    "system": ("groups", "system"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code is returned."""
    args = list(sys.argv[1:] if argv is None else argv)
    try:
        problem = _root(args)
        if problem:
            print(f"fastctr: {problem}\nSee 'fastctr --help'.", file=sys.stderr)
            return 125
        name = args[0] if args else ""
        if name in VERBS:
            return call(VERBS[name], args[1:])
        if name in ("version", "--version", "-v"):
            from .. import __version__

            print(f"fastctr {__version__}")
            return 0
        if name in ("help", "--help", "-h"):
            if args[1:2] and args[1] in VERBS:
                return call(VERBS[args[1]], ["--help"])
            print(HELP)
            return 0
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return _broken_pipe()
    if not name:
        print(HELP, file=sys.stderr)
        return 125
    return unknown(name, (*VERBS, "version", "help"))


def _root(args: list[str]) -> str:
    """Take --root DIR off the front; what is wrong with it, or ""."""
    import os

    while args and (args[0] == "--root" or args[0].startswith("--root=")):
        word = args.pop(0)
        if word == "--root" and not args:
            return "--root needs a value"
        value = args.pop(0) if word == "--root" else word.partition("=")[2]
        if not value:
            return "--root is empty: give a directory"
        os.environ["FASTCTR_ROOT"] = os.path.abspath(value)
    return ""


def call(where: tuple[str, str], args: Sequence[str]) -> int:
    """Import a subcommand's module and run it."""
    from importlib import import_module

    try:
        return int(getattr(import_module(f".{where[0]}", __name__), where[1])(args))
    finally:
        store = sys.modules.get("fastctr.image.store")
        if store is not None:  # what this command held; at the end of a run it is done already
            store.release_all()


def unknown(name: str, known: Sequence[str], group: str = "") -> int:
    """Say that there is no such subcommand; exit code 125."""
    from ..errors import nearest

    close = nearest(name, known)
    print(
        f"fastctr: unknown command: {group}{name}"
        + (f" (did you mean {close}?)" if close else "")
        + f"\nSee 'fastctr {group}--help'.",
        file=sys.stderr,
    )
    return 125


def _broken_pipe() -> int:
    """Whoever read our output is gone: end as the signal would have made us, without a traceback."""
    import os

    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return 141
