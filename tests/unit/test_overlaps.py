"""Overlap with benchmarks: what is found of planted copies, and what is left alone."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from planted import EDITS

from batchr1.export.decontaminate import Index, read_benchmarks
from batchr1.export.words import words_of

DATA = Path(__file__).parents[3] / "shared/data"
BENCHMARKS = {"gsm8k": "gsm8k_test", "math": "math500", "humaneval": "humaneval"}


@pytest.fixture(scope="module")
def indexes() -> dict[str, Index]:
    if not DATA.is_dir():
        pytest.skip("needs GSM8K, MATH-500 and HumanEval as Parquet in ../shared/data")
    return {
        name: Index(read_benchmarks([str(DATA / f"{file}.parquet")], None))
        for name, file in BENCHMARKS.items()
    }


def flagged(index: Index, texts: list[str]) -> set[int]:
    return set(index.look_up(pl.Series(texts, dtype=pl.String))["prompt"])


@pytest.mark.parametrize("name", list(BENCHMARKS))
@pytest.mark.parametrize("edit", list(EDITS))
def test_planted_copies_are_found(indexes: dict[str, Index], name: str, edit: str) -> None:
    (benchmark,) = indexes[name].benchmarks
    change, least = EDITS[edit]
    planted = [change(text) for text in benchmark.texts]
    hits = indexes[name].look_up(pl.Series(planted))
    itself = pl.Series(benchmark.rows).gather(hits["prompt"])
    found = hits.filter(hits["benchmark_row"] == itself)["prompt"].n_unique()
    assert found / len(planted) >= least


# Rows of another benchmark. GSM8K's own training set is not clean: it holds variants of test rows.
CLEAN = [("gsm8k", "math500"), ("gsm8k", "humaneval"), ("math", "gsm8k_test")]
CLEAN += [("math", "gsm8k_train"), ("math", "humaneval"), ("humaneval", "gsm8k_train")]


@pytest.mark.parametrize(("name", "clean"), CLEAN)
def test_rows_of_other_benchmarks_are_left_alone(
    indexes: dict[str, Index], name: str, clean: str
) -> None:
    (other,) = read_benchmarks([str(DATA / f"{clean}.parquet")], None)
    assert len(flagged(indexes[name], other.texts.to_list())) / len(other.texts) < 0.01


def index_of(tmp_path: Path, rows: list[str | None]) -> Index:
    pl.DataFrame({"question": rows}).write_parquet(tmp_path / "bench.parquet")
    return Index(read_benchmarks([str(tmp_path / "bench.parquet")], None))


LILY = "Lily has 12 red marbles and gives half of them to her brother before lunch."


def test_a_hit_names_the_row_the_share_and_the_longest_ngram(tmp_path: Path) -> None:
    index = index_of(tmp_path, [None, "Something else entirely, about boats and rivers.", LILY])
    text = "Yes: lily has twelve red marbles and gives ALL of them to her brother before lunch!"
    found = index.look_up(pl.Series(["nothing", text])).rows(named=True)
    assert found == [
        {
            "prompt": 1,
            "benchmark": f"{tmp_path}/bench.parquet",
            "benchmark_row": 2,
            "overlap": 14 / 15,
            "ngram": "lily has # red marbles and gives",
        }
    ]


@pytest.mark.parametrize(
    ("text", "is_hit"),
    [
        ("What is $2 + 3$?", True),
        ("what  IS 2+3", True),
        ("What is 2 + 4?", False),
        ("What is 12 + 3?", False),
        ("Tell me: what is 2 + 3, please?", True),
    ],
)
def test_a_short_row_must_stand_there_with_its_numbers(
    tmp_path: Path, text: str, is_hit: bool
) -> None:
    assert bool(flagged(index_of(tmp_path, ["What is 2 + 3?"]), [text])) is is_hit


def test_a_form_that_all_rows_share_is_no_evidence(tmp_path: Path) -> None:
    form = "Answer the following multiple choice question with one letter, and nothing else. "
    subjects = ("boats", "rivers", "stars", "bread", "clocks", "rain")
    verbs = ("sink", "freeze", "shine", "rise", "stop")
    rows = [f"{form}Why do {s} {v} near the old town?" for s in subjects for v in verbs]
    index = index_of(tmp_path, rows)
    assert flagged(index, [f"{form}Who painted the ceiling of the chapel?"]) == set()
    assert flagged(index, [rows[7]]) == {0}


def test_many_hits_are_taken_some_prompts_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = index_of(tmp_path, [LILY, LILY.replace("Lily", "Rosa"), "What is 7 + 8?"])
    texts = pl.Series([LILY, "none", f"So: what is 7 + 8? {LILY}", "What is 7 + 9?", LILY])
    whole = index.look_up(texts)
    assert set(whole["prompt"]) == {0, 2, 4}
    monkeypatch.setattr("batchr1.export.decontaminate.MOST_HITS", 1)
    assert index.look_up(texts).equals(whole)


def test_words_are_normalised() -> None:
    text = "Ｔwenty-five  \\left(\\dfrac{1}{2}x_1\\right), 1,200 EGGS ﬁt; 多少 ١٢"
    words = words_of(pl.Series([text, None, ""]), numbers=False)
    assert words.spelled.to_list() == ["#", "frac", "#", "x", "#", "eggs", "fit", "多", "少", "#"]
    assert words.lengths().tolist() == [10, 0, 0]


@pytest.mark.parametrize(
    "encoded",
    [
        pa.array(["one two", None, "one two", "three"]).dictionary_encode(),
        pa.array(["one two", None, "one two", "three"], pa.string_view()),
        pa.array(["one two", None, "one two", "three"], pa.large_string()),
    ],
    ids=lambda column: str(column.type)[:12],
)
def test_a_benchmark_is_read_however_its_text_is_encoded(tmp_path: Path, encoded: pa.Array) -> None:
    pq.write_table(pa.table({"question": encoded}), tmp_path / "bench.parquet")
    (found,) = read_benchmarks([str(tmp_path / "bench.parquet")], None)
    assert (found.texts.to_list(), found.rows.tolist()) == (["one two", "three"], [0, 3])
