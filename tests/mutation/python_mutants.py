"""Mutants of Python, from its syntax tree."""

from __future__ import annotations

import ast
from collections.abc import Iterable

from mutation.mutants import SWAPS, Mutant

SYMBOLS = {
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.Eq: "==",
    ast.NotEq: "!=",
    ast.Is: "is",
    ast.IsNot: "is not",
    ast.In: "in",
    ast.NotIn: "not in",
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.Div: "/",
    ast.FloorDiv: "//",
    ast.Mod: "%",
    ast.Pow: "**",
    ast.MatMult: "@",
    ast.BitAnd: "&",
    ast.BitOr: "|",
    ast.BitXor: "^",
    ast.LShift: "<<",
    ast.RShift: ">>",
    ast.And: "and",
    ast.Or: "or",
}
WORDS = {"is": "is not", "is not": "is", "in": "not in", "not in": "in", "and": "or", "or": "and"}
PYTHON_SWAPS = SWAPS | WORDS | {"//": "/", "**": "*", "@": "*"}
FLIPPED = (ast.Eq, ast.NotEq, ast.Is, ast.IsNot, ast.In, ast.NotIn)  # what the swap negates already


def python_mutants(file: str, source: bytes) -> list[Mutant]:
    """All mutants of a file: faults in code, none in annotations, in what raises errors, f-strings and `__repr__`."""
    finder = Finder(file, source)
    finder.visit(ast.parse(source))
    return finder.found


class Finder(ast.NodeVisitor):
    def __init__(self, file: str, source: bytes) -> None:
        self.file, self.source, self.found = file, source, list[Mutant]()
        self.starts = [0]
        for line in source.splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line))
        self.statement: ast.stmt | None = None
        self.bound: set[str] | None = None  # the names that a function has given values; None outside of functions

    def span(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return (
            self.starts[node.lineno - 1] + node.col_offset,
            self.starts[node.end_lineno - 1] + node.end_col_offset,
        )

    def text(self, node: ast.expr | ast.stmt) -> str:
        start, end = self.span(node)
        return self.source[start:end].decode()

    def add(self, start: int, end: int, replacement: str) -> None:
        lines = None
        if self.bound is not None and self.statement is not None:
            lines = (self.statement.lineno, self.source.count(b"\n", 0, end) + 1)
        self.found.append(Mutant(self.file, start, end, replacement, lines))

    def replace(self, node: ast.expr | ast.stmt, replacement: str) -> None:
        self.add(*self.span(node), replacement)

    def swap(self, left: ast.expr, operator: ast.AST, right: ast.expr) -> None:
        """Swap the operator between two operands."""
        start, end, symbol = self.span(left)[1], self.span(right)[0], SYMBOLS[type(operator)]
        at = self.source.index(symbol.encode(), start, end)
        self.add(at, at + len(symbol), PYTHON_SWAPS[symbol])

    def negate(self, test: ast.expr) -> None:
        simple = isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.ops[0], FLIPPED)
        if not simple and not (isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not)):
            self.replace(test, f"(not ({self.text(test)}))")

    def visit(self, node: ast.AST) -> None:
        before = self.statement
        if isinstance(node, ast.stmt):
            self.statement = node
        super().visit(node)
        self.statement = before

    def visit_all(self, nodes: Iterable[ast.AST | None]) -> None:
        for node in nodes:
            if node is not None:
                self.visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        if node.name == "__repr__":
            return
        arguments = node.args
        self.visit_all([*node.decorator_list, *arguments.defaults, *arguments.kw_defaults])
        before = self.bound
        parameters = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        self.bound = {each.arg for each in parameters}
        self.visit_all(node.body)
        self.bound = before

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self.visit_all([*node.args.defaults, *node.args.kw_defaults, node.body])

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        pass

    def visit_Raise(self, node: ast.Raise) -> None:
        pass

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.drop_assignment(node, [node.target])
            self.visit(node.value)

    def visit_Assign(self, node: ast.Assign) -> None:
        if self.text(node.targets[0]) != "__all__":
            self.drop_assignment(node, node.targets)
            self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self.drop_assignment(node, [])
        end, start = self.span(node.target)[1], self.span(node.value)[0]
        symbol = SYMBOLS[type(node.op)]
        at = self.source.index(symbol.encode(), end, start)
        self.add(at, at + len(symbol), PYTHON_SWAPS[symbol])
        self.generic_visit(node)

    def drop_assignment(self, node: ast.stmt, targets: list[ast.expr]) -> None:
        """Drop an assignment in a function, unless it gives a name its first value: any test misses the name."""
        if self.bound is not None:
            names = {each.id for target in targets for each in ast.walk(target) if isinstance(each, ast.Name)}
            if names <= self.bound:
                self.replace(node, "pass")
            self.bound |= names

    def visit_Expr(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Call):
            self.replace(node, "pass")
        self.generic_visit(node)

    def visit_Return(self, node: ast.Return) -> None:
        if node.value is not None and not (isinstance(node.value, ast.Constant) and node.value.value is None):
            self.replace(node.value, "None")
            self.visit(node.value)

    def visit_If(self, node: ast.If) -> None:
        if self.text(node.test) != "TYPE_CHECKING":
            self.negate(node.test)
            self.generic_visit(node)

    def visit_While(self, node: ast.While) -> None:
        self.negate(node.test)
        self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self.negate(node.test)
        self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        for test in node.ifs:
            self.negate(test)
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        operands = [node.left, *node.comparators]
        for left, operator, right in zip(operands, node.ops, node.comparators, strict=False):
            self.swap(left, operator, right)
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        for left, right in zip(node.values, node.values[1:], strict=False):
            self.swap(left, node.op, right)
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        self.swap(node.left, node.op, node.right)
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, (ast.Not, ast.USub)):
            self.replace(node, f"({self.text(node.operand)})")
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, bool):
            self.replace(node, str(not node.value))
        elif isinstance(node.value, (int, float)):
            self.replace(node, f"{node.value + 1}")
