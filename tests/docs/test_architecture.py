"""The rooms of docs/architecture.md: all modules are there, and their imports point downwards."""

import ast
import re
from pathlib import Path

from tests.docs.blocks import DOCS

PACKAGE = DOCS.parent / "greentor"


def rooms() -> dict[str, int]:
    """Return which row each module, or package, of `greentor` stands in."""
    text = (DOCS / "architecture.md").read_text()
    rows = re.findall(r"^\| `greentor/(\w+)(?:/|\.py)` \| (.*) \|$", text, re.M)
    found = {}
    for number, (name, description) in enumerate(rows):
        beside = [word for word in re.findall(r"`(\w+)`", description) if is_module(word)]
        found.update(dict.fromkeys([name, *beside], number))
    return found


def is_module(name: str) -> bool:
    return (PACKAGE / f"{name}.py").exists() or (PACKAGE / name / "__init__.py").exists()


def imported(path: Path) -> set[str]:
    """Return the modules, directly in `greentor`, that a file imports for more than its annotations."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name.split(".")[1] for name in found if name.startswith("greentor.")}


def test_each_module_has_a_room():
    modules = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert modules | packages == rooms().keys()


def test_imports_point_downwards():
    where = rooms()
    for path in PACKAGE.rglob("*.py"):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for name in imported(path) & where.keys():
            assert room == "__init__" or where[room] <= where[name], f"{path} imports {name}"
