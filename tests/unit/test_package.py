"""The package: what is in it, who may import whom, and that its documents speak of what is there."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
from importlib import metadata
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
SOURCE = TOP / "src" / "fastctr"
CORE = TOP / "csrc"


def installed() -> Path:
    spec = importlib.util.find_spec("fastctr")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent


def run(*command: str, **kw: object) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, capture_output=True, text=True, check=False, **kw)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


# ---- what is installed


def test_one_version():
    import fastctr

    assert metadata.version("fastctr") == fastctr.__version__
    assert f"## {fastctr.__version__}" in (TOP / "CHANGELOG.md").read_text()


def test_installed_files():
    place = installed()
    if place == SOURCE:
        pytest.skip("fastctr is imported from the source tree, not installed")
    names = {str(path.relative_to(place)) for path in place.rglob("*")
             if path.is_file() and "__pycache__" not in path.parts}
    sources = {str(path.relative_to(SOURCE)) for path in SOURCE.rglob("*.py")}
    binary = {name for name in names if name.startswith("_core.") and name.endswith(".so")}
    assert len(binary) == 1
    assert names == sources | binary | {"_core.pyi", "py.typed", "fctr-stub", "fctr-zygote"}


def test_stub_stands_alone():
    stub = installed() / "fctr-stub"
    data = stub.read_bytes()
    assert os.access(stub, os.X_OK)
    assert data[:5] == b"\x7fELF\x02"
    assert len(data) < 64 << 10
    start, size, count = (int.from_bytes(data[a:b], "little") for a, b in ((32, 40), (54, 56), (56, 58)))
    kinds = {int.from_bytes(data[start + i * size :][:4], "little") for i in range(count)}
    assert not kinds & {2, 3}, "the stub wants a dynamic linker"  # PT_DYNAMIC, PT_INTERP


def test_command_is_installed():
    entries = metadata.entry_points(group="console_scripts", name="fastctr")
    assert [entry.value for entry in entries] == ["fastctr.cli:main"]


def test_typed_core_is_complete():
    """_core.pyi names what the extension has, and nothing else."""
    from fastctr import _core

    tree = ast.parse((SOURCE / "_core.pyi").read_text())
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            assert callable(getattr(_core, node.name))
        elif isinstance(node, ast.ClassDef):
            told = {part.name for part in node.body if isinstance(part, ast.FunctionDef)} - {"__init__"}
            has = {name for name in vars(getattr(_core, node.name)) if not name.startswith("_")}
            assert told == has, node.name


# ---- the source distribution


def test_source_distribution(tmp_path):
    pytest.importorskip("Cython")
    pytest.importorskip("setuptools")
    tree = tmp_path / "tree"  # not here: others may be building
    ignore = shutil.ignore_patterns(".git", ".venv", "build", "dist", "*.so", "__pycache__", "*.egg-info", ".*_cache")
    shutil.copytree(TOP, tree, ignore=ignore)
    code = "from setuptools.build_meta import build_sdist; import sys; print(build_sdist(sys.argv[1]))"
    name = run(sys.executable, "-c", code, str(tmp_path), cwd=tree).stdout.split()[-1]
    with tarfile.open(tmp_path / name) as archive:
        files = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    wanted = {f"csrc/{path.name}" for path in CORE.iterdir() if path.suffix in (".c", ".h")}
    wanted |= {f"src/fastctr/{path.relative_to(SOURCE)}" for path in SOURCE.rglob("*.py*")
               if path.suffix in (".py", ".pyx", ".pyi")}
    wanted |= {"src/fastctr/_core.pxd", "src/fastctr/_native.pxi", "src/fastctr/py.typed", "LICENSE", "README.md",
               "CHANGELOG.md", "Makefile", "install.sh", "setup.py", "pyproject.toml"}
    assert wanted <= files
    assert not [name for name in files if name.endswith((".so", ".o", "fctr-stub", "_core.c"))]


# ---- who may know whom


def imports_of(path: Path) -> set[str]:
    """The modules of fastctr that a module of it imports, at any place in it, but for type checkers."""
    package = ["fastctr", *path.relative_to(SOURCE).parent.parts]
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            if node.module:
                found.add(".".join([*base, node.module]))
            else:
                found.update(".".join([*base, alias.name]) for alias in node.names)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            found.update(name for name in names if name.split(".")[0] == "fastctr")
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text()))
    return found


MODULES = {".".join(["fastctr", *path.relative_to(SOURCE).with_suffix("").parts]): imports_of(path)
           for path in SOURCE.rglob("*.py")}
LAUNCHING = {"fastctr.api", "fastctr.container", "fastctr.results", "fastctr.plan", "fastctr.context", "fastctr.communicate", "fastctr.maintenance",
             "fastctr.from_image", "fastctr.images"}
# many jobs: they launch by the API and by one another, and what launches does not know them
JOBS = re.compile(r"fastctr\.(pool|workers|executor|aio\w*|slots\w*|resident|keeper\w*|zygote\w*|batch(\..*)?|integrations(\..*)?)$")


def test_only_the_launching_modules_know_the_core():
    knowing = {name for name, imported in MODULES.items() if "fastctr._core" in imported and not name.startswith("fastctr.image.")}
    assert {name for name in knowing if not JOBS.match(name)} <= LAUNCHING | {"fastctr.seccomp"}


def test_checking_does_not_know_launching():
    for name, imported in MODULES.items():
        if name not in LAUNCHING and not JOBS.match(name) and not name.startswith("fastctr.cli") and name != "fastctr.__main__":
            assert not imported & LAUNCHING, f"{name} imports {imported & LAUNCHING}"


def test_what_launches_one_container_knows_nothing_of_many():
    for name in LAUNCHING - {"fastctr.context"}:  # which ends them with the process
        assert not [one for one in MODULES[name] if JOBS.match(one)], name


def test_nobody_imports_the_command_line():
    for name, imported in MODULES.items():
        if not name.startswith("fastctr.cli") and name != "fastctr.__main__":
            assert not [one for one in imported if one.startswith("fastctr.cli")], name


def test_core_knows_no_python():
    for path in CORE.iterdir():
        if path.suffix in (".c", ".h"):
            assert "Python.h" not in path.read_text(), path.name


@pytest.mark.skipif(shutil.which("cc") is None or shutil.which("nm") is None, reason="needs cc and nm: install gcc")
def test_child_needs_nothing_of_libc(tmp_path):
    """Between vfork and exec there is only what the files of the child bring themselves."""
    defined, needed = set(), set()
    for name in ("child", "child_mounts", "child_layers"):
        made = tmp_path / f"{name}.o"
        run("cc", "-std=gnu11", "-O2", "-fno-stack-protector", "-iquote", str(CORE), "-c", str(CORE / f"{name}.c"),
            "-o", str(made))
        for line in run("nm", str(made)).stdout.splitlines():
            kind, symbol = line.split()[-2:]
            (needed if kind == "U" else defined).add(symbol)
    # the compiler may make calls of these out of plain C; they take no lock and touch no state
    assert needed - defined <= {"memcpy", "memset", "strlen", "_GLOBAL_OFFSET_TABLE_"}


# ---- documents


DOCS = [TOP / "README.md", *(TOP / "docs" / f"{name}.md" for name in ("architecture", "security", "kernel-features"))]


@pytest.mark.parametrize("page", DOCS, ids=lambda path: path.name)
def test_documents_name_what_is_there(page):
    text = page.read_text()
    code = "\n".join(path.read_text() for folder in (CORE, SOURCE) for path in sorted(folder.rglob("*"))
                     if path.suffix in (".c", ".h", ".py", ".pyx"))
    words = set(re.findall(r"`([A-Za-z_]\w+)(?:\(\))?`", text)) | set(re.findall(r"\b(?:fctr|FCTR)_\w+", text))
    prose = {"sh", "make", "kill", "setns", "tasks", "execve", "waitid", "host", "lo", "clone3", "close_range", "ptrace",
             "subprocess", "rootfs", "fastctr", "child", "pidns", "volatile", "userxattr", "returncode"}
    missing = {word for word in words - prose if not re.search(rf"\b{word}\b", code)}
    assert not missing
    for name in re.findall(r"`([\w.-]+\.(?:c|h|py|pyx|md))`", text):
        assert list(TOP.rglob(name)), name
    for link in re.findall(r"\]\(([\w/.-]+)\)", text):
        assert (page.parent / link).exists(), link


@pytest.mark.needs_root
def test_readme_example_runs(tmp_path):
    code = re.findall(r"^```python\n(.*?)^```", (TOP / "README.md").read_text(), re.M | re.S)
    assert len(code) == 1
    assert "sleep 9" in run(sys.executable, "-c", code[0], cwd=tmp_path).stdout


def test_make_help_lists_every_target():
    text = (TOP / "Makefile").read_text()
    targets = set(re.findall(r"^\.PHONY: (.*)$", text, re.M)[0].split())
    if shutil.which("make") is None:
        pytest.skip("needs make")
    listed = set(re.findall(r"^  make ([\w-]+)", run("make", "-C", str(TOP), "help").stdout, re.M))
    assert listed == targets
