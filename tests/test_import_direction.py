"""The rooms import one way, onnxgrad → runtime → compiler → passes, and compiling needs no runtime."""

import ast
import graphlib
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("passes", "compiler", "runtime", "onnxgrad")  # each imports from itself and from those before it
VAGUE = {"utils", "util", "helpers", "helper", "misc", "common"}
NOT_NEEDED_TO_COMPILE = ("onnxruntime", "onnxscript", "torch")


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    parts = parts if parts[0] == "onnxgrad" else ("onnxgrad", *parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(file): file for room in ROOMS for file in sorted((ROOT / room).rglob("*.py"))}


def room(module: str) -> str:
    inner = module.split(".")[1:2]
    return inner[0] if inner and inner[0] in ROOMS else "onnxgrad"


def imports(source: str, package: str) -> Iterator[str]:
    """The modules of onnxgrad that *source*, a module in *package*, imports anywhere: lazily or for types only, too."""
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            origin = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            members = [f"{origin}.{alias.name}" for alias in node.names]
            names = [member if member in FILES or origin == "onnxgrad" else origin for member in members]
        yield from (name for name in names if name.split(".")[0] == "onnxgrad")


def upward(source: str, module: str, package: str) -> list[str]:
    """The imports of *source* from a room above its own."""
    above = ROOMS[ROOMS.index(room(module)) + 1 :]
    return [name for name in imports(source, package) if room(name) in above]


def package_of(module: str) -> str:
    return module if FILES[module].name == "__init__.py" else module.rpartition(".")[0]


@pytest.mark.parametrize("module", FILES)
def test_no_module_imports_from_a_room_above(module: str) -> None:
    assert upward(FILES[module].read_text(), module, package_of(module)) == []


def test_no_modules_import_each_other() -> None:
    graph = {
        module: {name for name in imports(file.read_text(), package_of(module)) if name in FILES}
        for module, file in FILES.items()
    }
    graphlib.TopologicalSorter(graph).prepare()  # a CycleError lists the modules of the cycle


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("from ..compiler import load", ["onnxgrad.compiler.load"]),
        ("from .. import runtime", ["onnxgrad.runtime"]),
        ("from onnxgrad.compiler.program import Program", ["onnxgrad.compiler.program"]),
        ("import onnxgrad.runtime.session", ["onnxgrad.runtime.session"]),
        ("def late():\n    from ..runtime.session import Session", ["onnxgrad.runtime.session"]),
        ("from onnxgrad import Program", ["onnxgrad.Program"]),
        ("from . import tape\nfrom .errors import Error\nimport numpy", []),
    ],
)
def test_an_upward_import_is_found_in_every_form(source: str, found: list[str]) -> None:
    assert upward(source, "onnxgrad.passes.activity", "onnxgrad.passes") == found


def test_names_say_what_a_module_is_for() -> None:
    assert [module for module in FILES if VAGUE & set(module.split("."))] == []


def test_compiling_imports_no_runtime() -> None:
    modules = [module for module in FILES if room(module) in ("passes", "compiler")]
    script = (
        "import importlib, sys, onnxgrad\n"
        "onnxgrad.compile, onnxgrad.load\n"
        f"for module in {modules}: importlib.import_module(module)\n"
        f"print(*(name for name in {NOT_NEEDED_TO_COMPILE} if name in sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT / "tests")
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == []
