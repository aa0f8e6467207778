"""The signatures of everything public, as one text; `python tests/public_api.py` records it anew.

A module is public if it lists `__all__`. Sources are read, not imported, so that every Python gives the same text.
"""

from __future__ import annotations

import ast
import copy
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
RECORD = Path(__file__).with_name("public_api.txt")
SPECIAL = ("__init__", "__call__")  # members that users call, though not by their names


def signatures() -> str:
    """A part for every public module: what its users see of each name in `__all__`."""
    parts = [
        [f"# {module}", *(signature(module, name) for name in names)] for module, names in public_modules().items()
    ]
    return "\n\n\n".join("\n\n".join(part) for part in parts) + "\n"


def public_modules() -> dict[str, list[str]]:
    """The names in `__all__` of every module of `flowar` that lists it."""
    files = sorted((ROOT / "flowar").rglob("*.py"))
    modules = [".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for file in files]
    listed = {module: definitions(module).get("__all__") for module in modules}
    return {module: ast.literal_eval(node.value) for module, node in listed.items() if isinstance(node, ast.Assign)}


def signature(module: str, name: str) -> str:
    """A function with its parameters, a class with its public members, a value with its type where that is written."""
    return re.sub(r":\n +\.\.\.", "", ast.unparse(without_body(*definition(module, name))))


def definition(module: str, name: str) -> tuple[str, ast.stmt]:
    """The module that a name comes from, and the statement there; of a module that is a name, its import."""
    node = definitions(module)[name]
    while isinstance(node, ast.ImportFrom) and node.module != module:
        module = str(node.module)
        node = definitions(module)[name]
    return module, node


@cache
def definitions(module: str) -> dict[str, ast.stmt]:
    """The statements of a module by the names that they bind, those for type checkers among them."""
    path = ROOT.joinpath(*module.split("."))
    tree = ast.parse((path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text())
    statements = [each for node in tree.body for each in (node.body if isinstance(node, ast.If) else [node])]
    return {name: node for node in statements for name in bound(node)}


def bound(node: ast.stmt) -> Iterator[str]:
    """The names that a statement binds; of imports, those from this package."""
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        yield node.name
    elif isinstance(node, ast.ImportFrom) and str(node.module).startswith("flowar"):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        yield from (target.id for target in targets if isinstance(target, ast.Name))


def without_body(module: str, node: ast.stmt) -> ast.stmt:
    """A definition with nothing in it but what users see."""
    node = copy.copy(node)
    if isinstance(node, ast.FunctionDef):
        node.body = [ast.Expr(ast.Constant(...))]
    elif isinstance(node, ast.ClassDef):
        node.body = [*members(module, node).values()] or [ast.Expr(ast.Constant(...))]
    elif isinstance(node, ast.Assign):
        node = ast.Expr(node.targets[0])
    elif isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Dict):
        node.value = None
    return node


def members(module: str, node: ast.ClassDef) -> dict[str, ast.stmt]:
    """The public members of a class by name, with those that it inherits from classes of this package."""
    found: dict[str, ast.stmt] = {}
    for base in (ast.unparse(base) for base in node.bases):
        if base in definitions(module):
            place, inherited = definition(module, base)
            assert isinstance(inherited, ast.ClassDef)
            found |= members(place, inherited)
    own = {name: without_body(module, member) for member in node.body for name in bound(member)}
    return found | {name: member for name, member in own.items() if name in SPECIAL or not name.startswith("_")}


if __name__ == "__main__":
    RECORD.write_text(signatures())
