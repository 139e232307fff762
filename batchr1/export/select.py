"""Selection of the rows to export.

Every filter looks at all rows, by numbers and hashes; texts are read a part at a time. A prompt is
its text, not its id or its tokens. The same question under two ids, or given to two models, is one
prompt: --per-prompt counts over both, and both fall into the same split of every export.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from batchr1.dataset.predicate import Predicate
from batchr1.errors import UsageError
from batchr1.export.decontaminate import Benchmark, Index, find_hits, read_benchmarks
from batchr1.export.near_duplicates import SIMILAR, near_duplicates
from batchr1.export.options import ExportOptions
from batchr1.export.prompts import Prompts, distinct
from batchr1.export.verdicts import Verdicts, read_verdicts
from batchr1.output.across import KEY, RULE, last_of_each
from batchr1.output.folder import Output
from batchr1.output.labels import labels_of
from batchr1.records import FLAGS

_READ = (
    "id",
    "sample",
    "prompt",
    "reasoning",
    "answer",
    "correct",
    "reasoning_status",
    "truncated",
    "completion_tokens",
    "flags",
    "model",
    "finished_at",
)
SPLITS = ("train", "test")
_FIRST = ("prompt_key", "id", "sample")  # of several rows that would do, the first one is kept


@dataclass(frozen=True, slots=True)
class Step:
    """Filter: its name, its meaning, and the rows it left."""

    name: str
    keeps: str
    rows: int


@dataclass(frozen=True, slots=True)
class Selection:
    """Rows that passed every filter.

    Columns of `rows`: part (its number in `parts`), row (in that part), prompt_key, is_test,
    completion_tokens, and those that the options add. `hits`: contaminated prompts, where
    `benchmarks` were given (see `find_hits`). `given`: rows of each output. `renamed`: rows left
    out whose prompt was not that of the row with their key.
    """

    parts: list[tuple[Output, str]]
    rows: pl.DataFrame
    given: list[int]
    renamed: int
    steps: list[Step]
    benchmarks: list[Benchmark]
    hits: pl.DataFrame | None
    verdicts: dict[str, Any] | None = None

    @property
    def total(self) -> int:
        return sum(self.given)

    def by_part(self) -> Iterator[tuple[Output, str, dict[str, pl.DataFrame]]]:
        """Walk the parts that have selected rows.

        Yields (output, part, {split: its rows, in their order there}).
        """
        grouped = self.rows.sort("part", "row").partition_by("part", "is_test", as_dict=True)
        for number, (output, rel) in enumerate(self.parts):
            taken = {name: grouped.get((number, name == "test")) for name in SPLITS}
            if found := {name: mine for name, mine in taken.items() if mine is not None}:
                yield output, rel, found


def select(outputs: Sequence[Output], options: ExportOptions) -> Selection:
    """Apply the filters, in the order in which the card lists them.

    Of several outputs one row of each key is taken first. Raises `UsageError` when a filter names
    what an output does not have, or leaves nothing.
    """
    what = _named(outputs)
    parts = [(output, rel) for output in outputs for rel in output.parts()]
    if not parts:
        raise UsageError(
            f"{what}: no row is done yet (got no part). Export it when there are some."
        )
    rows = _look_at_all(outputs, parts, options)
    given = [rows.filter(pl.col("output") == number).height for number in range(len(outputs))]
    _refuse_doubled(outputs, rows)
    steps: list[Step] = []
    renamed = 0
    if len(outputs) > 1:
        every, rows = rows, last_of_each(rows)
        renamed = _renamed(every, rows)
        steps.append(Step("each key once", RULE, rows.height))
    _check_filters(what, rows, options)
    _check_added(parts, options)
    if options.needs_labels:
        rows = rows.join(
            labels_of(rows, key="prompt_key"), on="prompt_key", how="left", maintain_order="left"
        )
    verdicts = None if options.verdicts is None else _verdicts(outputs, options.verdicts)
    rows = rows if verdicts is None else verdicts.join(rows)
    by_text = _ByText(parts, options)
    rows = _filtered(what, rows, filters(options, by_text), steps)
    rows = by_text.mark(rows)
    rows = rows.with_columns((pl.col("is_test_at") < options.test_share).alias("is_test"))
    if rows["is_test"].all():
        raise UsageError(
            f"--test-share: every prompt falls into the test split (got {options.test_share:g} of "
            f"{rows['prompt_key'].n_unique():,} prompts). Give a smaller share."
        )
    kept = ["part", "row", "prompt_key", "is_test", "completion_tokens", *options.added]
    return Selection(
        parts,
        rows.select(kept),
        given,
        renamed,
        steps,
        by_text.benchmarks,
        by_text.hits,
        verdicts.count(rows) if verdicts is not None else None,
    )


def _verdicts(outputs: Sequence[Output], uri: str) -> Verdicts:
    """Read a judge's verdicts, which are of one output."""
    if len(outputs) > 1:
        raise UsageError(
            f"--verdicts: its rows name id and sample, and not the output (got {len(outputs)} "
            "outputs, need 1). Export the judged output alone."
        )
    return read_verdicts(uri)


def _look_at_all(
    outputs: Sequence[Output], parts: Sequence[tuple[Output, str]], options: ExportOptions
) -> pl.DataFrame:
    """Read keys and numbers of all rows of all outputs."""
    predicate = Predicate(options.where, key="--where") if options.where is not None else None
    if predicate is not None:
        _check_columns(parts, predicate)
    extra = ("final_answer",) if options.needs_labels else ()
    numbers = {output.uri: number for number, output in enumerate(outputs)}
    return pl.concat(
        _look_at(output, rel, number, predicate, extra).with_columns(
            output=pl.lit(numbers[output.uri], pl.UInt32)
        )
        for number, (output, rel) in enumerate(parts)
    )


def _filtered(
    what: str, rows: pl.DataFrame, found: Sequence[tuple[str, str, Any]], steps: list[Step]
) -> pl.DataFrame:
    """Apply every filter, and add its step."""
    total = rows.height
    for name, keeps, keep in found:
        rows = keep(rows) if callable(keep) else rows.filter(keep)
        steps.append(Step(name, keeps, rows.height))
        if not rows.height:
            lost = ", ".join(f"{step.name} {step.rows:,}" for step in steps)
            raise UsageError(
                f"{what}: no row is left to export (got {total:,} rows; left after each "
                f"filter: {lost}). Loosen {name}."
            )
    return rows


def _named(outputs: Sequence[Output]) -> str:
    """Name outputs in front of an error."""
    if len(outputs) == 1:
        return outputs[0].uri
    return f"{len(outputs)} outputs, {outputs[0].uri} to {outputs[-1].uri}"


def _renamed(every: pl.DataFrame, kept: pl.DataFrame) -> int:
    """Count rows left out whose kept row has another prompt."""
    if every.height == kept.height:
        return 0
    gone = every.join(kept.select("part", "row"), on=["part", "row"], how="anti")
    pairs = gone.join(kept, on=KEY, suffix="_kept")
    return pairs.filter(pl.col("prompt_key") != pl.col("prompt_key_kept")).height


class _ByText:
    """Filters that read the prompts' texts, and what they found."""

    def __init__(self, parts: list[tuple[Output, str]], options: ExportOptions) -> None:
        self._prompts = Prompts(parts)
        self._options = options
        self.benchmarks: list[Benchmark] = []
        self.hits: pl.DataFrame | None = None
        if options.decontaminate:
            self.benchmarks = read_benchmarks(options.decontaminate, options.benchmark_column)

    def filters(self) -> list[tuple[str, str, Any]]:
        """List those that drop rows."""
        found: list[tuple[str, str, Any]] = []
        if self.benchmarks and self._options.contaminated != "mark":
            keeps = "the prompt overlaps with no row of the benchmarks"
            found.append(("--decontaminate", keeps, self._without_hits))
        if self._options.near_duplicates == "drop":
            keeps = f"one of prompts that have {SIMILAR:.0%} of their word triples in common"
            found.append(("--near-duplicates drop", keeps, self._without_near))
        return found

    def mark(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Add the columns of what is to be marked."""
        if self._options.contaminated == "mark":
            place = pl.format("{}: row {}", "benchmark", "benchmark_row").alias("contaminated_by")
            best = self._find_hits(rows).sort("overlap", descending=True, maintain_order=True)
            best = best.unique("prompt_key", keep="first").select("prompt_key", place)
            rows = rows.join(best, on="prompt_key", how="left", maintain_order="left")
        if self._options.near_duplicates == "mark":
            near = near_duplicates(self._prompts, distinct(rows))
            rows = rows.join(near, on="prompt_key", how="left", maintain_order="left")
        return rows

    def _find_hits(self, rows: pl.DataFrame) -> pl.DataFrame:
        self.hits = find_hits(self._prompts, distinct(rows), Index(self.benchmarks))
        return self.hits

    def _without_hits(self, rows: pl.DataFrame) -> pl.DataFrame:
        return rows.join(self._find_hits(rows), on="prompt_key", how="anti", maintain_order="left")

    def _without_near(self, rows: pl.DataFrame) -> pl.DataFrame:
        near = near_duplicates(self._prompts, distinct(rows))
        return rows.join(near, on="prompt_key", how="anti", maintain_order="left")


def _refuse_doubled(outputs: Sequence[Output], rows: pl.DataFrame) -> None:
    copies = rows.filter(~pl.struct("output", "id", "sample").is_first_distinct())
    for number, doubled in copies.group_by("output", maintain_order=True).len().iter_rows():
        raise UsageError(
            f"{outputs[number].uri}: rows are there twice (got {doubled:,} of them, need each id "
            "and sample once). Run the job again: it keeps one of each, and generates nothing for "
            "it."
        )


def filters(options: ExportOptions, by_text: _ByText | None = None) -> list[tuple[str, str, Any]]:
    """List the filters that apply: (name, meaning, expression or function)."""
    found: list[tuple[str, str, Any]] = []
    if options.form == "sft":
        complete = (
            (pl.col("reasoning_status") == "closed") & ~pl.col("truncated") & pl.col("has_answer")
        )
        found.append(("complete", "a closed think block and an answer, nothing cut", complete))
    if options.where is not None:
        found.append(("--where", options.where, pl.col("passes")))
    if options.correct_only:
        found.append(
            ("--correct-only", "the final answer is right", pl.col("correct").fill_null(False))
        )
    if options.verdict is not None:
        keeps = f"the judge's verdict is {options.verdict}"
        found.append(("--verdict", keeps, pl.col("verdict") == options.verdict))
    found += _label_filters(options)
    for flag in options.drop_flags:
        found.append(
            (f"--drop-flag {flag}", f"not flagged {flag}", ~pl.col("flags").list.contains(flag))
        )
    if options.max_tokens is not None:
        within = pl.col("completion_tokens") <= options.max_tokens
        found.append(("--max-tokens", f"at most {options.max_tokens:,} completion tokens", within))
    if options.drops_duplicates:
        found.append(
            (
                "--dedupe exact",
                "one of rows with the same prompt, reasoning and answer",
                _first_of_equals,
            )
        )
    if by_text is not None:
        found += by_text.filters()
    if options.per_prompt is not None:
        most = options.per_prompt
        keeps = f"at most {most} of a prompt, the first samples"
        found.append(
            (
                "--per-prompt",
                keeps,
                lambda rows: rows.sort(*_FIRST).group_by("prompt_key").head(most),
            )
        )
    return found


def _label_filters(options: ExportOptions) -> list[tuple[str, str, Any]]:
    """List the filters that look at a prompt's labels."""
    found: list[tuple[str, str, Any]] = []
    if options.pass_rate is not None:
        low, high = options.pass_rate
        keeps = f"{low:g} to {high:g} of the prompt's judged samples are right"
        found.append(("--pass-rate", keeps, pl.col("pass_rate").is_between(low, high)))
    if options.agrees_with_majority:
        agrees = pl.col("final_answer") == pl.col("majority_answer")
        keeps = "the final answer is what most samples of the prompt say"
        found.append(("--agrees-with-majority", keeps, agrees))
    return found


def _first_of_equals(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.sort(*_FIRST).unique("content_key", keep="first", maintain_order=True)


def _look_at(
    output: Output, rel: str, number: int, predicate: Predicate | None, more: Sequence[str]
) -> pl.DataFrame:
    """Read keys and numbers of a part's rows, one row each.

    `more`: columns that are taken as they are.
    """
    wanted = (*_READ, *more, *(predicate.columns if predicate else ()))
    table = output.read_part(rel, list(dict.fromkeys(wanted)))
    frame = pl.DataFrame(table)
    prompts = [(text or "").strip().encode() for text in frame["prompt"]]
    keys = [hashlib.blake2b(prompt, digest_size=16).digest() for prompt in prompts]
    contents = [
        hashlib.blake2b(b"\0".join((key, _bytes(thought), _bytes(answer))), digest_size=16).digest()
        for key, thought, answer in zip(keys, frame["reasoning"], frame["answer"], strict=True)
    ]
    return frame.select(
        pl.lit(number, pl.UInt32).alias("part"),
        pl.int_range(pl.len(), dtype=pl.UInt32).alias("row"),
        "id",
        "sample",
        "correct",
        "reasoning_status",
        "truncated",
        "completion_tokens",
        "flags",
        "model",
        "finished_at",
        *more,
        (pl.col("answer").fill_null("").str.strip_chars() != "").alias("has_answer"),
        pl.Series("prompt_key", keys, pl.Binary),
        pl.Series("content_key", contents, pl.Binary),
        pl.Series("is_test_at", [int.from_bytes(key[:8]) / 2**64 for key in keys], pl.Float64),
        pl.Series(
            "passes", predicate.mask(table) if predicate else [True] * table.num_rows, pl.Boolean
        ),
    )


def _bytes(text: str | None) -> bytes:
    if text is None:
        return b"\1"
    return b"\2" + hashlib.blake2b(text.encode(), digest_size=16).digest()


def _check_columns(parts: Sequence[tuple[Output, str]], predicate: Predicate) -> None:
    is_one = len({output.uri for output, _ in parts}) == 1
    for output, rel in parts:
        have = list(output.part_columns(rel))
        where = "the output" if is_one else output.uri
        for name in predicate.columns:
            if name not in have:
                raise UsageError(
                    f"--where: there is no column {name!r} ({where} has: "
                    f"{', '.join(have)}). {_hint(name, have)}"
                )


def _check_added(parts: Sequence[tuple[Output, str]], options: ExportOptions) -> None:
    """Refuse to add a column under the name of another."""
    names = {name for output, rel in parts for name in output.part_columns(rel)}
    option_of = {
        "contaminated_by": "--contaminated mark",
        "near_duplicate_of": "--near-duplicates mark",
        "verdict": "--verdicts",
    }
    for name in options.added:
        option = option_of.get(name, "--labels")
        if name in names:
            raise UsageError(
                f"{option}: the output has a column {name!r} of its own. Leave {option} out, or "
                "keep it under another name (output.keep)."
            )


def _check_filters(what: str, rows: pl.DataFrame, options: ExportOptions) -> None:
    judging = {"--correct-only": options.correct_only, "--pass-rate": options.pass_rate is not None}
    for name, is_given in judging.items():
        if is_given and not rows["correct"].count():
            raise UsageError(
                f"{name}: nothing is known to be right in {what} (got no value in the "
                f"column correct). Set input.gold in the job, or leave {name} out."
            )
    if options.max_tokens is not None and not rows["completion_tokens"].count():
        raise UsageError(
            f"--max-tokens: no row of {what} has a count (the server that answered gave "
            "none). Leave it out."
        )
    known = sorted({*FLAGS, *rows.filter(pl.col("flags").list.len() > 0)["flags"].explode()})
    for flag in options.drop_flags:
        if flag not in known:
            raise UsageError(
                f"--drop-flag: there is no flag {flag!r} (known: {', '.join(known)}). "
                f"{_hint(flag, known)}"
            )


def _hint(name: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f"Did you mean {near[0]}?" if near else "Name one of these."
