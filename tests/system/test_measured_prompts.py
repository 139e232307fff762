"""Lengths of prompts, measured with a real tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from length_jobs import QUESTIONS, source_of, write
from replay_job import MODEL

from batchr1.dataset.prompts import PromptRenderer, load_tokenizer
from batchr1.driver.feed.lengths import (
    measure_prompts,
)
from batchr1.records import PromptLengths


@pytest.fixture(scope="module")
def renderer() -> PromptRenderer:
    return PromptRenderer(load_tokenizer(MODEL))


def measured(renderer: PromptRenderer, contents: Sequence[Any]) -> PromptLengths:
    lengths = [
        len(renderer.render(str(i), content).token_ids) for i, content in enumerate(contents)
    ]
    return PromptLengths(len(lengths), len(lengths), max(lengths), sum(lengths) / len(lengths))


@pytest.mark.parametrize("name", ["in.parquet", "in.jsonl"])
def test_each_prompt_is_counted_as_it_is_rendered(
    tmp_path: Path, renderer: PromptRenderer, name: str
) -> None:
    path = write(tmp_path / name, {"q": QUESTIONS, "level": [i % 5 for i in range(700)]}, 300)
    assert measure_prompts(source_of(path), renderer) == measured(renderer, QUESTIONS)


def test_templates_and_chats_are_measured_in_full(tmp_path: Path, renderer: PromptRenderer) -> None:
    chats = [
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": q}]
        for q in QUESTIONS[:20]
    ]
    path = write(tmp_path / "in.parquet", {"q": QUESTIONS[:20], "n": list(range(20)), "m": chats})
    filled = [f"{i}: {q}" for i, q in enumerate(QUESTIONS[:20])]
    assert measure_prompts(source_of(path, template="{n}: {q}"), renderer) == measured(
        renderer, filled
    )
    assert measure_prompts(source_of(path, messages="m"), renderer) == measured(renderer, chats)


# As long as the level says, and much longer from row 450 on: a row that should not be read shows.
LEVELLED = ["1" * (1 + 20 * (i % 5) + 200 * (i >= 450)) for i in range(700)]


@pytest.mark.parametrize("name", ["in.parquet", "in.jsonl"])
@pytest.mark.parametrize("limit_rows", [1000, 20])
@pytest.mark.parametrize(
    ("where", "limit", "expected"),
    [
        ("level >= 4", None, LEVELLED[4::5]),
        ("level = 0", 12, LEVELLED[::5][:12]),
        ("level = 0", 90, LEVELLED[::5][:90]),
        (None, 15, LEVELLED[:15]),
        (None, 450, LEVELLED[:450]),
    ],
)
def test_only_rows_that_pass_where_and_limit_are_counted_and_measured(
    tmp_path: Path,
    renderer: PromptRenderer,
    name: str,
    limit_rows: int,
    where: str | None,
    limit: int | None,
    expected: list[str],
) -> None:
    path = write(tmp_path / name, {"q": LEVELLED, "level": [i % 5 for i in range(700)]}, 64)
    found = measure_prompts(
        source_of(path, where=where, limit=limit), renderer, limit_rows=limit_rows
    )
    whole = measured(renderer, expected)
    if len(expected) <= limit_rows:
        assert found == whole
    else:
        assert (found.rows, found.measured, found.longest) == (whole.rows, 20, whole.longest)
        assert found.mean == pytest.approx(whole.mean, rel=0.25)


def test_bad_rows_are_passed_over_and_do_not_make_a_sample_of_it(
    tmp_path: Path, renderer: PromptRenderer
) -> None:
    path = write(tmp_path / "in.parquet", {"q": [None, "What is 1 + 1?", " ", "2 + 2"]})
    found = measure_prompts(source_of(path), renderer)
    assert found == replace(measured(renderer, ["What is 1 + 1?", "2 + 2"]), rows=4, measured=4)
    assert not found.sampled


@pytest.mark.parametrize(
    ("prompts", "where", "rows"), [([None, " "], None, 2), (["1 + 1"], "level > 1", 0)]
)
def test_without_a_good_row_the_lengths_are_zero(
    tmp_path: Path,
    renderer: PromptRenderer,
    prompts: list[str | None],
    where: str | None,
    rows: int,
) -> None:
    path = write(
        tmp_path / "in.parquet", {"q": pa.array(prompts, pa.string()), "level": [1] * len(prompts)}
    )
    assert measure_prompts(source_of(path, where=where), renderer) == PromptLengths(
        rows, rows, 0, 0.0
    )


@pytest.mark.parametrize(
    ("rows", "row_group_size"), [(1000, 1000), (1000, 7), (8000, 50), (8000, 400)]
)
def test_a_sample_follows_prompts_that_get_longer_over_the_input(
    tmp_path: Path, renderer: PromptRenderer, rows: int, row_group_size: int
) -> None:
    prompts = ["1" * (1 + 100 * i // rows) for i in range(rows)]
    files = [
        write(
            tmp_path / f"{half}.parquet",
            {"q": prompts[half * rows // 2 :][: rows // 2]},
            row_group_size,
        )
        for half in range(2)
    ]
    found = measure_prompts(source_of(*files), renderer, limit_rows=160)
    assert (found.rows, found.measured, found.sampled) == (rows, 160, True)
    whole = measured(renderer, prompts)
    assert found.mean == pytest.approx(whole.mean, rel=0.03), (
        "the first rows alone would give half of it"
    )
    assert whole.longest - 5 <= found.longest <= whole.longest
    assert measure_prompts(source_of(*files), renderer, limit_rows=160) == found, (
        "the same rows each time"
    )


def test_a_sample_does_not_fall_in_with_rows_that_alternate(
    tmp_path: Path, renderer: PromptRenderer
) -> None:
    prompts = ["1", "1" * 101] * 2000
    path = write(tmp_path / "in.parquet", {"q": prompts}, 1000)
    found = measure_prompts(source_of(path), renderer, limit_rows=1000)
    whole = measured(renderer, prompts)
    assert (found.measured, found.longest) == (1000, whole.longest)
    assert found.mean == pytest.approx(whole.mean, rel=0.1), (
        "every fourth row would give half or twice of it"
    )
