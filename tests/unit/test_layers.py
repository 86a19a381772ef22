"""Who may know whom (docs/architecture.md), held by reading the sources."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CSRC = ROOT / "csrc"
PACKAGE = ROOT / "src" / "fastctr"

pytestmark = pytest.mark.skipif(not CSRC.is_dir(), reason="needs the source tree")


def _sources(*suffixes: str) -> list[Path]:
    return [path for path in sorted(CSRC.rglob("*")) if path.suffix in suffixes]


@pytest.mark.parametrize("path", _sources(".c", ".h"), ids=lambda path: path.name)
def test_the_c_core_knows_no_python(path: Path) -> None:
    text = path.read_text()
    assert not re.search(r'#\s*include\s*[<"](Python|pyconfig|structmember)\.h', text)
    assert not re.search(r"\bPy(Object|_[A-Z]\w+|Err_|Mem_)", text)


@pytest.mark.parametrize("path", _sources(".c"), ids=lambda path: path.name)
def test_the_c_core_is_in_files_that_can_be_read(path: Path) -> None:
    assert len(path.read_text().splitlines()) < 600


INCLUDED = re.findall(r'^include "(\w+\.pxi)"', (PACKAGE / "_core.pyx").read_text(), re.M)


def test_only_the_core_module_knows_the_c_headers() -> None:
    for path in PACKAGE.rglob("*.p[yx]*"):
        if path.suffix in (".pyx", ".pxd", ".pxi"):
            assert path.name.startswith("_core.") or path.name in INCLUDED, path
        elif path.suffix == ".py":
            text = path.read_text()
            assert "cimport" not in text
            if path.name != "zygote_server.py":  # runs in the container, where there is no extension of ours
                assert not re.search(r"^\s*(import|from) ctypes", text, re.M) or path.parent != PACKAGE, path


def _imports(path: Path) -> set[str]:
    """Modules of the package that a file imports, anywhere in it, as "spec" or "cli.run"."""
    package = list(path.relative_to(PACKAGE).parts[:-1])
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            if node.level == 0 and not (node.module or "").startswith("fastctr"):
                continue
            if node.level:
                base = package[: len(package) - node.level + 1]
                module = [*base, *(node.module.split(".") if node.module else [])]
            else:
                module = (node.module or "").split(".")[1:]
            found.update(".".join([*module, alias.name]) if not node.module or not module else ".".join(module)
                         for alias in node.names)  # fmt: skip
        elif isinstance(node, ast.Import):
            found.update(alias.name.removeprefix("fastctr.") for alias in node.names if alias.name.startswith("fastctr."))
    return found


IMAGE_MAY_USE = {"image", "_core", "errors", "units", "rights", "__version__"}


@pytest.mark.parametrize("path", sorted((PACKAGE / "image").rglob("*.py")), ids=lambda path: path.stem)
def test_images_know_nothing_of_containers(path: Path) -> None:
    """Downwards only: the core, errors and words for numbers."""
    for module in _imports(path):
        assert module.split(".")[0] in IMAGE_MAY_USE, f"{path} imports {module}"


# third parties' packages and slow modules of Python are for those who use them, when they do
AT_THE_TOP = ("urllib3", "isal", "zstandard", "rich", "tarfile", "subprocess", "dataclasses", "argparse", "logging", "asyncio",
              "http.client", "urllib", "ssl", "email", "tempfile", "ctypes")  # fmt: skip


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_what_is_slow_to_import_is_not_at_the_top(path: Path) -> None:
    if path.name == "zygote_server.py":  # another interpreter's, in a container
        return
    for_their_users = {"asyncio", "logging"} if path.name.startswith(("aio", "dask_")) else set()
    for node in ast.parse(path.read_text()).body:
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module or ""]
        for name in names:
            assert not any(name == slow or name.startswith(slow + ".") for slow in AT_THE_TOP if slow not in for_their_users), f"{path} imports {name}"


def _modules(*parts: str) -> list[Path]:
    return [path for path in sorted(PACKAGE.rglob("*.py")) if path.relative_to(PACKAGE).parts[: len(parts)] == parts]


# what may import it: part of the package -> those it must not know
FORBIDDEN = {
    "image": ("api", "engine", "daemon", "cli", "integrations"),
    "network": ("api", "engine", "daemon", "cli", "integrations"),
    "engine": ("daemon", "cli", "integrations"),
    "daemon": ("cli", "integrations"),
}
CORE = ("spec", "spec_check", "limits", "limits_io", "units", "mounts", "mount_text", "devices", "namespaces", "process",
        "sysctls", "caps", "seccomp", "seccomp_default", "seccomp_profile", "native", "hostroot", "errors", "hints")  # fmt: skip


def test_nobody_imports_the_ends() -> None:
    for path in PACKAGE.rglob("*.py"):
        part = path.relative_to(PACKAGE).parts[0]
        for module in _imports(path):
            top = module.split(".")[0]
            if top in ("cli", "daemon", "integrations"):
                assert part in (top, "__main__.py") or (top, part) == ("cli", "cli"), f"{path} imports {module}"


@pytest.mark.parametrize("part", FORBIDDEN)
def test_parts_do_not_know_what_is_above(part: str) -> None:
    for path in _modules(part):
        for module in _imports(path):
            assert module.split(".")[0] not in FORBIDDEN[part], f"{path} imports {module}"


@pytest.mark.parametrize("name", CORE)
def test_specs_do_not_know_how_they_are_run(name: str) -> None:
    path = PACKAGE / f"{name}.py"
    if not path.exists():
        pytest.skip(f"needs {name}.py")
    above = {"api", "plan", "context", "communicate", "maintenance", "cli", "engine", "daemon"}
    for module in _imports(path):
        assert module.split(".")[0] not in above, f"{name} imports {module}"


ALLOWED = re.compile(r"strlen|memcpy|memset|memmove|child_\w+|fctr_walk|_GLOBAL_OFFSET_TABLE_|fctr_clone_fn")


@pytest.mark.parametrize("name", ["child", "child_mounts"])
def test_between_clone_and_exec_nothing_of_libc_is_needed(name: str, tmp_path: Path) -> None:
    """A lock or a malloc there would hang now and then, in the memory of the launching process."""
    cc, nm = shutil.which("cc") or shutil.which("gcc"), shutil.which("nm")
    if not cc or not nm:
        pytest.skip("needs a C compiler and nm")
    made = tmp_path / "x.o"
    subprocess.run([cc, "-std=gnu11", "-O2", "-fno-stack-protector", "-iquote", str(CSRC), "-c", str(CSRC / f"{name}.c"),
                    "-o", str(made)], check=True)  # fmt: skip
    text = subprocess.run([nm, "--undefined-only", "--format=posix", str(made)], capture_output=True, text=True, check=True)
    needed = {line.split()[0] for line in text.stdout.splitlines()}
    assert {symbol for symbol in needed if not ALLOWED.fullmatch(symbol)} == set()
