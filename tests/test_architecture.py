"""The rooms and arrows of the design: who may import whom, read from the source."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import edgekit

PACKAGE = Path(edgekit.__file__).parent
ROOMS = {"bench", "runtimes", "report", "quantize", "distill", "targets"}
FRONT = {"cli", "pipeline", "__main__"}
ALLOWED = {("bench", "runtimes"), ("bench", "targets"), ("quantize", "runtimes")}
MODULES = sorted(PACKAGE.rglob("*.py"))


def imports_of(path: Path) -> set[str]:
    """First-level parts of edgekit that a module imports, at the top or inside a function."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        found |= {parts[1] for parts in (name.split(".") for name in names) if parts[0] == "edgekit" and len(parts) > 1}
    return found


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_arrows(path: Path) -> None:
    here = part_of(path)
    if here in FRONT or here == "__init__":
        return
    for other in imports_of(path) - {here}:
        assert other not in FRONT, f"{here} imports {other}: the library never imports the command line"
        if other in ROOMS:
            assert here in ROOMS, f"the floor ({here}) imports the room {other}"
            assert (here, other) in ALLOWED, f"room {here} imports room {other}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_relative_imports(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_stay_readable(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 400
    if path.match("header/container.py"):  # a parser of strangers' files must fit on a reviewer's desk
        assert len(lines) <= 150


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_functions_stay_short(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno:
            body = node.body[1:] if ast.get_docstring(node) else node.body
            length = node.end_lineno - body[0].lineno + 1 if body else 0
            assert length <= 40, f"{node.name} has {length} lines"
