"""Matrices: rows, a factor, a power T, determinants."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from batchr1.reasoning.verdicts.grammar.forms import Matrix, Quantity, Value
from batchr1.reasoning.verdicts.grammar.grouping import depth_at, match_of
from batchr1.reasoning.verdicts.grammar.scan import GiveUpError, Token
from batchr1.reasoning.verdicts.grammar.trees import Node

MAX_CELLS = 60
MATRICES = ("matrix", "pmatrix", "bmatrix", "Bmatrix", "smallmatrix", "array")
_TRANSPOSED = (("^", "T"), ("^", "top"), ("^", "{", "T", "}"), ("^", "{", "top", "}"))


def cells_of(tokens: Sequence[Token]) -> list[list[list[Token]]]:
    """Split what stands within a matrix into rows of cells."""
    rows: list[list[list[Token]]] = [[[]]]
    for index, token in enumerate(tokens):
        if depth_at(tokens, index) == 0 and token.text == r"\\":
            rows.append([[]])
        elif depth_at(tokens, index) == 0 and token.text == "&":
            rows[-1].append([])
        elif token.text != "hline":
            rows[-1][-1].append(token)
    if rows[-1] == [[]]:
        rows.pop()
    if sum(map(len, rows)) > MAX_CELLS:
        raise GiveUpError("a large matrix")
    return rows


def transposed_end(tokens: Sequence[Token]) -> int | None:
    """Find where a final power T begins; None without one."""
    for form in _TRANSPOSED:
        if len(tokens) > len(form) and tuple(t.text for t in tokens[-len(form) :]) == form:
            return len(tokens) - len(form)
    return None


def transposed(value: Value) -> Value:
    if not isinstance(value, Matrix) or len({len(row) for row in value.rows}) > 1:
        raise GiveUpError("a power T of something else than a matrix")
    return Matrix(tuple(zip(*value.rows, strict=True)))


def scaled_begin(tokens: Sequence[Token]) -> int | None:
    """Find where a matrix behind a factor begins; None without both."""
    if tokens[-1].kind != "end":
        return None
    at = next((n for n, token in enumerate(tokens) if token.kind == "begin"), 0)
    return at if at and match_of(tokens, at) == len(tokens) - 1 else None


def scaled(factor: Node, value: Value) -> Matrix:
    """Multiply each cell. Raises `GiveUpError` for cells that are no quantity."""
    if not isinstance(value, Matrix):
        raise GiveUpError("a factor of something else than a matrix")
    nodes = [[_node(cell) for cell in row] for row in value.rows]
    return Matrix(tuple(tuple(Quantity(("mul", factor, n)) for n in row) for row in nodes))


def determinant(value: Matrix) -> Quantity:
    """Expand a determinant of at most three rows."""
    rows = [[_node(cell) for cell in row] for row in value.rows]
    if not 1 <= len(rows) <= 3 or any(len(row) != len(rows) for row in rows):
        raise GiveUpError("a determinant that is not square, or large")
    return Quantity(_expanded(rows))


def _expanded(rows: list[list[Node]]) -> Node:
    if len(rows) == 1:
        return rows[0][0]
    total: Node = ("num", Fraction(0))
    for column, node in enumerate(rows[0]):
        minor = _expanded([[*row[:column], *row[column + 1 :]] for row in rows[1:]])
        term: Node = ("mul", node, minor)
        total = ("add", total, ("neg", term) if column % 2 else term)
    return total


def _node(cell: Value) -> Node:
    if not isinstance(cell, Quantity):
        raise GiveUpError("a cell that is no quantity")
    return cell.node
