"""The places in the product that sync, found in its source, and the product without one of them."""

import ast
import importlib
import inspect
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

BASE = Path(__file__).resolve().parent.parent.parent
NAMES = frozenset({"fsync", "fdatasync", "_fdatasync", "sync_directory", "syncfs"})


@dataclass(frozen=True)
class Sync:
    """A use of a syncing function: in which file, in which function there, and which it is."""

    file: str
    function: str
    name: str

    def __str__(self) -> str:
        return f"{self.file.removesuffix('.py')}:{self.function}:{self.name}"

    def remove(self, patch: pytest.MonkeyPatch) -> None:
        """Have the real function run without it."""
        code = next(each for each in _codes(self.module()) if each.co_qualname == self.function)
        found: Any = importlib.import_module(self.file.removesuffix(".py").replace("/", "."))
        for name in self.function.split("."):
            found = getattr(found, name)
        patch.setattr(inspect.unwrap(getattr(found, "__func__", found)), "__code__", code)

    def module(self) -> types.CodeType:
        """The code of its whole module without it."""
        tree = ast.parse((BASE / self.file).read_text(encoding="utf-8"))
        [place] = [node for node, function in _uses(tree) if (function, _name(node)) == self._here]
        return compile(_Removal(place).visit(tree), str(BASE / self.file), "exec")

    @property
    def _here(self) -> tuple[str, str]:
        return self.function, self.name


class _Removal(ast.NodeTransformer):
    """Puts a function that does nothing in the place of one that syncs."""

    def __init__(self, place: ast.expr) -> None:
        self._place = place

    def visit(self, node: ast.AST) -> Any:
        if node is not self._place:
            return self.generic_visit(node)
        nothing = ast.parse("lambda *_: None", mode="eval").body
        for each in ast.walk(nothing):
            ast.copy_location(each, self._place)
        return nothing


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for each in code.co_consts:
        if isinstance(each, types.CodeType):
            yield from _codes(each)


def _name(node: ast.AST) -> str:
    match node:
        case ast.Attribute(attr=name, ctx=ast.Load()) | ast.Name(id=name, ctx=ast.Load()):
            return name
        case _:
            return ""


def _uses(node: ast.AST, function: str = "", *, inside: bool = False) -> Iterator[tuple[Any, str]]:
    """Every use of a syncing function below a node, and the outermost function that it is in."""
    if _name(node) in NAMES:
        yield node, function
    named = isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
    if named and not inside:
        function = f"{function}.{node.name}".lstrip(".")  # type: ignore[attr-defined]
        inside = not isinstance(node, ast.ClassDef)
    for child in ast.iter_child_nodes(node):
        yield from _uses(child, function, inside=inside)


def syncs_in(*packages: str) -> list[Sync]:
    """All of them in these packages; one that a function has twice is there twice."""
    return [
        Sync(str(path.relative_to(BASE)), function, _name(node))
        for package in packages
        for path in sorted((BASE / package).rglob("*.py"))
        for node, function in _uses(ast.parse(path.read_text(encoding="utf-8")))
    ]
