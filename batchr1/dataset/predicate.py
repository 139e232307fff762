"""`input.where`: a SQL condition on one row, evaluated by polars.

Each row is looked at by itself, so that the answer does not depend on how a file was cut into row
groups. What needs other rows (aggregates, windows, subqueries) is refused by its name. DuckDB could
answer that over a whole input; a condition that does would have to read all of it before the first
row is known, and would hold its state in memory, which streaming is there to avoid.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from batchr1.dataset.types import has_extension, plain_type
from batchr1.dataset.values import to_plain
from batchr1.errors import JobError

Mask = np.ndarray[Any, np.dtype[np.bool_]]

MAX_CHARS = 20_000
MAX_BRACKETS = 100
"""Open brackets at a time: a parser that recurses would end the process."""

# Functions of one row that polars' SQL has. Any other that it takes looks at several rows.
_OF_ONE_ROW = frozenset(
    """
    abs ceil ceiling cbrt div exp floor ln log log10 log1p log2 mod pi pow power round sign sqrt
    acos acosd asin asind atan atan2 atan2d atand cos cosd cot cotd degrees radians sin sind tan
    tand bit_and bit_count bit_not bit_or bit_xor bitand bitor bitxor bitnot bit_length char_length
    character_length concat concat_ws ends_with initcap left length lower lpad ltrim normalize
    octet_length position regexp_like replace reverse right rpad rtrim split_part starts_with
    string_to_array strpos substr substring trim upper coalesce greatest if ifnull least nullif
    cast try_cast date date_part datetime extract strftime strptime time timestamp
    array_contains array_get array_length array_lower array_mean array_reverse array_sum
    array_to_string array_unique array_upper
    """.split()  # noqa: SIM905
)
_KEYWORDS = frozenset(
    """
    all and any array as asc between bigint binary boolean by case char decimal desc distinct double
    else end false float from ilike in int integer is like not null numeric on or real rlike regexp
    similar some symmetric then to true tinyint smallint using values varchar when where
    """.split()  # noqa: SIM905
)
_NODES_ACROSS_ROWS = frozenset(["Agg", "AnonymousAgg", "Over", "Rolling", "Window", "Explode"])
_CLOCKS = frozenset(
    ["now", "current_date", "current_time", "current_timestamp", "localtime", "localtimestamp"]
)
_TOKENS = re.compile(
    r"""\s+ | --[^\n]* | /\*.*?\*/ | (?P<text>'(?:[^']|'')*')
      | "(?P<quoted>(?:[^"]|"")*)" | `(?P<ticked>[^`]*)`
      | (?P<word>[A-Za-z_][A-Za-z_0-9$]*) | (?P<mark>.)""",
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class _Token:
    """Piece of a condition: a `name` in lower case, or a `mark`."""

    name: str = ""
    mark: str = ""
    is_quoted: bool = False


class Predicate:
    """A SQL condition: whose it is (`key`), and its `columns`."""

    def __init__(self, text: str, *, key: str = "input.where") -> None:
        self._text, self._key = text, key
        _refuse_long(text, key)
        try:
            self._expr = pl.sql_expr(text)
            self.columns: tuple[str, ...] = tuple(dict.fromkeys(self._expr.meta.root_names()))
        except BaseException as exc:
            if not _is_polars(exc):
                raise
            if "unsupported function" not in str(exc):
                _refuse_other_rows(text, key)
            raise JobError(
                f"{key}: not a SQL predicate (got {text!r}: {_first_line(exc)}). Write one "
                f"such "
                f"as level >= 4."
            ) from exc
        _refuse_other_rows(text, key)
        if not _is_of_one_row(self._expr):  # whatever the words look like
            raise _needs_other_rows(key, text, "it")
        if not self.columns:
            raise JobError(
                f"{key}: names no column (got {text!r}). Write a condition such as level >= 4."
            )

    def mask(self, table: pa.Table) -> pa.ChunkedArray:
        """Whether each row of a table passes; null counts as no."""
        try:
            frame = pl.DataFrame(_comparable(table.select(self.columns)))
            result = frame.select(self._expr.alias("_"))["_"]
        except BaseException as exc:
            if not _is_polars(exc):
                raise
            raise self._not_evaluated(_first_line(exc)) from exc
        if result.dtype != pl.Boolean or len(result) != table.num_rows:
            got = result.dtype if result.dtype != pl.Boolean else "one value for many rows"
            raise JobError(
                f"{self._key}: not a condition on a row (got {got}, need true or false for each). "
                "Write one such as level >= 4."
            )
        return pa.chunked_array([result.fill_null(False).to_arrow()])

    def select(self, tables: Iterable[pa.Table], num_rows: int) -> Mask:
        """Tell which rows of a row group pass.

        `tables`: its rows in pieces; `num_rows`: of them all.
        """
        masks: list[Mask] = [self.mask(table).to_numpy() for table in tables]
        whole: Mask = np.concatenate([np.empty(0, dtype=bool), *masks])
        return whole

    def _not_evaluated(self, why: str) -> JobError:
        return JobError(
            f"{self._key}: cannot be evaluated (got {self._text!r}: {why}). Correct the condition."
        )


def _is_of_one_row(expr: pl.Expr) -> bool:
    """Whether no node is known as an aggregate or a window."""
    try:
        waiting = [json.loads(expr.meta.serialize(format="json"))]
    except BaseException as exc:
        if not (_is_polars(exc) or isinstance(exc, ValueError | RecursionError)):
            raise
        return True
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            if _NODES_ACROSS_ROWS & node.keys():
                return False
            node = list(node.values())
        if isinstance(node, list):
            waiting += node
    return True


def _is_polars(exc: BaseException) -> bool:
    """Whether polars gave up; a panic of its Rust is no Exception."""
    return isinstance(exc, pl.exceptions.PolarsError) or type(exc).__name__ == "PanicException"


def _comparable(table: pa.Table) -> pa.Table:
    """The table with UUIDs and JSON as text, dictionaries as values."""
    for place, field in enumerate(table.schema):
        if has_extension(field.type) or pa.types.is_dictionary(field.type):
            chunks = [to_plain(chunk) for chunk in table.column(place).chunks]
            column = (
                pa.chunked_array(chunks) if chunks else pa.chunked_array([], plain_type(field.type))
            )
            table = table.set_column(place, field.name, column)
    return table


def _refuse_long(text: str, key: str) -> None:
    """Raise `JobError` for what a parser would choke on."""
    if len(text) > MAX_CHARS:
        raise JobError(
            f"{key}: too long (got {len(text):,} characters, need at most {MAX_CHARS:,}). Write "
            "the condition as a column of the input."
        )
    depth = deepest = 0
    for token in _tokens(text):
        depth += (token.mark in ("(", "[")) - (token.mark in (")", "]")) if token.mark else 0
        deepest = max(deepest, depth)
    words = len(re.findall(r"\b(?:not|and|or|case|between)\b|[-+*/]", text, re.IGNORECASE))
    if deepest > MAX_BRACKETS or words > 10 * MAX_BRACKETS:
        raise JobError(
            f"{key}: nested too deep (got {max(deepest, words):,} levels, need at most "
            f"{MAX_BRACKETS} brackets and {10 * MAX_BRACKETS:,} operators). Simplify the condition."
        )


def _tokens(text: str) -> list[_Token]:
    """Cut a condition into names and marks, without comments."""
    found = []
    for match in _TOKENS.finditer(text):
        quoted = match["quoted"] if match["quoted"] is not None else match["ticked"]
        if quoted is not None:
            found.append(_Token(name=quoted.lower(), is_quoted=True))
        elif match["word"]:
            found.append(_Token(name=match["word"].lower()))
        elif match["text"] or match["mark"]:
            found.append(_Token(mark=match["mark"] or "'"))
    return found


def _refuse_other_rows(text: str, key: str) -> None:
    """Raise `JobError` for a condition that needs more than its row."""
    tokens = _tokens(text)
    for before, token, after in zip(
        [_Token(), *tokens], tokens, [*tokens[1:], _Token()], strict=False
    ):
        if not token.name:
            continue
        is_call = after.mark == "("
        if token.name in _CLOCKS and not token.is_quoted and before.mark != ".":
            raise JobError(
                f"{key}: {token.name} tells another time in each run (got {text!r}, need a "
                "condition on the row alone). Write the time itself."
            )
        known = _OF_ONE_ROW if token.is_quoted else _OF_ONE_ROW | _KEYWORDS
        is_window = token.name == "over" and not token.is_quoted and before.mark == ")"
        is_query = token.name in ("select", "qualify") and not token.is_quoted
        if (is_call and token.name not in known) or is_window or is_query:
            shown = f"{token.name}()" if is_call else token.name.upper()
            raise _needs_other_rows(key, text, shown)


def _needs_other_rows(key: str, text: str, shown: str) -> JobError:
    return JobError(
        f"{key}: {shown} needs more than one row (got {text!r}, need a condition on each row by "
        "itself). Write its result as a column of the input, and name that."
    )


def _first_line(exc: BaseException) -> str:
    return str(exc).strip().partition("\n")[0].rstrip(".")
