"""Mutations of a module: found in its syntax tree, applied on disk or in memory.

They invert a comparison, change a constant by one, remove a statement or the call of a layer,
exchange `and` and `or`, or replace an operator by its opposite.
"""

from __future__ import annotations

import ast
import gc
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FunctionType

_PAIRS = [
    *((ast.Lt, ast.LtE), (ast.Gt, ast.GtE), (ast.Eq, ast.NotEq), (ast.Is, ast.IsNot)),
    *((ast.In, ast.NotIn), (ast.And, ast.Or), (ast.Add, ast.Sub), (ast.Mult, ast.Div)),
    *((ast.BitOr, ast.BitAnd), (ast.LShift, ast.RShift)),
]
_TURNED = {old: new for pair in _PAIRS for old, new in (pair, pair[::-1])}
_TURNED |= {ast.FloorDiv: ast.Mult, ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult}

_Function = tuple[str, int]
"""A function's qualified name and its first line, that of a decorator if it has one."""
_Place = tuple[ast.AST, str, int | None]
"""The parent node, its field, and the index there if that is a list."""


@dataclass
class Fault:
    """A node of a module's syntax tree, and its faulty replacement.

    Attributes:
        path: The module's file.
        module: Its path in the package.
        kind: The kind of the change.
        node: The node as it is.
        other: Its replacement.
        tree: The module's tree, without the fault.
        place: Position of the node in the tree.
        function: The outermost function around it, if there is one.
        number: Distinguishes faults of a module that read the same.
    """

    path: Path
    module: str
    kind: str
    node: ast.AST
    other: ast.AST
    tree: ast.Module
    place: _Place
    function: _Function | None
    number: int = 0

    @property
    def name(self) -> dict[str, str | int]:
        """Return the fault's identity, which does not depend on line numbers."""
        was, now = (ast.unparse(node).split("\n")[0] for node in (self.node, self.other))
        name: dict[str, str | int] = {"module": self.module, "kind": self.kind}
        return name | {"was": was, "now": now, "number": self.number}

    @contextmanager
    def in_tree(self) -> Iterator[ast.Module]:
        """Yield the module's tree with the fault."""
        self._set_node(self.other)
        yield self.tree
        self._set_node(self.node)

    def _set_node(self, node: ast.AST) -> None:
        parent, field, index = self.place
        if index is None:
            setattr(parent, field, node)
        else:
            getattr(parent, field)[index] = node

    @contextmanager
    def on_disk(self, package: Path) -> Iterator[None]:
        """Write the fault into a copy of the package; restore the file at the end."""
        path = package / self.module
        with self.in_tree() as tree:
            path.write_text(ast.unparse(tree), "utf-8")
        yield
        shutil.copy(self.path, path)

    def in_memory(self, path: str) -> bool:
        """Replace the code of the functions that were loaded from a file by the faulty code.

        Returns:
            False if that is impossible: outside of functions, or with other free variables.
        """
        if self.function is None:
            return False
        with self.in_tree() as tree:
            faulty = _find_code(compile(tree, path, "exec", dont_inherit=True), self.function)
        functions = [
            found
            for found in gc.get_objects()
            if type(found) is FunctionType
            and found.__code__.co_filename == path
            and (found.__code__.co_qualname, found.__code__.co_firstlineno) == self.function
        ]
        try:
            for function in functions:
                function.__code__ = faulty
        except ValueError:
            return False
        return bool(functions)


def find_faults(package: Path, module: str) -> list[Fault]:
    """Return all faults that a module of a package can have."""
    path = package / module
    tree = ast.parse(path.read_bytes())
    faults = [
        Fault(path, module, kind, node, ast.copy_location(other, node), tree, place, function)
        for place, node, function in _walk(tree)
        for kind, other in _alternatives(node)
    ]
    seen: Counter[str] = Counter()
    for fault in faults:
        ast.fix_missing_locations(fault.other)
        same = str(fault.name)
        fault.number = seen[same]
        seen[same] += 1
    return faults


def _alternatives(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """Yield the faulty replacements of a node, each with its kind."""
    match node:
        case ast.Compare():
            for index, operator in enumerate(node.ops):
                ops = [*node.ops[:index], _TURNED[type(operator)](), *node.ops[index + 1 :]]
                yield "comparison turned", ast.Compare(node.left, ops, node.comparators)
        case ast.UnaryOp(op=ast.Not()):
            yield "comparison turned", node.operand
        case ast.Constant(value=bool()):
            yield "constant moved", ast.Constant(not node.value)
        case ast.Constant(value=int() | float()):
            yield "constant moved", ast.Constant(node.value + 1)
        case ast.BoolOp():
            yield "and, or", ast.BoolOp(_TURNED[type(node.op)](), node.values)
        case ast.BinOp() if type(node.op) in _TURNED:
            yield "operator", ast.BinOp(node.left, _TURNED[type(node.op)](), node.right)
        case ast.Expr(value=ast.Call()) | ast.AugAssign() | ast.Raise():
            yield "statement left out", ast.Pass()
        case ast.Call(ast.Attribute(ast.Name("self")) | ast.Name("sorted"), [argument], []):
            yield "call left out", argument


def _walk(
    node: ast.AST, name: str = "", function: _Function | None = None
) -> Iterator[tuple[_Place, ast.AST, _Function | None]]:
    """Yield each descendant with its place, and the outermost function around it."""
    for field, value in ast.iter_fields(node):
        inside = function
        if isinstance(node, ast.FunctionDef) and field == "body" and function is None:
            inside = (name, min(part.lineno for part in (node, *node.decorator_list)))
        for index, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if isinstance(child, ast.AST) and field not in {"annotation", "returns"}:
                yield (node, field, index), child, inside
                own = getattr(child, "name", "") if isinstance(child, ast.stmt) else ""
                yield from _walk(child, f"{name}.{own}".strip("."), inside)


def _find_code(code: CodeType, function: _Function) -> CodeType | None:
    if (code.co_qualname, code.co_firstlineno) == function:
        return code
    inner = (_find_code(part, function) for part in code.co_consts if isinstance(part, CodeType))
    return next((found for found in inner if found), None)
