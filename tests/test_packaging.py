"""The wheel holds every package, which setuptools cannot find by itself where folders are not laid out as installed."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_pyproject_lists_every_package() -> None:
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {file.parent for room in setup["package-dir"].values() for file in (ROOT / room).rglob("__init__.py")}
    parts = (folder.relative_to(ROOT).parts for folder in folders)
    expected = {".".join(names if names[0] == "onnxgrad" else ("onnxgrad", *names)) for names in parts}
    assert sorted(setup["packages"]) == sorted(expected)
