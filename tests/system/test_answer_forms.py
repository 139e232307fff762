"""Answers that are bound to a form: valid, behind free reasoning, the same across a kill."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from killed_runs import content, wait_for_saved
from process_tree import tree
from replay_job import questions, rows_of, run_replay, write_job

from batchr1.driver.context import RunOptions
from batchr1.driver.run_job import run_job
from batchr1.job import load_job
from batchr1.reasoning import ThinkTags
from batchr1.reasoning.budgets import Budgets
from batchr1.reasoning.contents import AnswerForm
from batchr1.records import Prompt, ResumePoint, WorkItem
from batchr1.worker.generation import Generation, Rules

MATH = Path(__file__).parents[2] / "jobs/data/math.parquet"
SCHEMA = {
    "type": "object",
    "properties": {"answer": {"type": "integer", "minimum": -9999, "maximum": 9999}},
    "required": ["answer"],
    "additionalProperties": False,
}
GREEDY = {"temperature": 0, "top_p": 1.0, "max_tokens": 600}
FLOAT32 = {"variant": "r1-tiny", "engine_args": {"dtype": "float32", "max_num_seqs": 32}}
CLOSE, END, BLANK = 2, 3, 4


def job(folder: Path, name: str, rows: int, **sampling: Any) -> Path:
    return write_job(
        folder,
        model=FLOAT32,
        input={"path": str(MATH), "prompt": "problem", "limit": rows},
        output={"path": name},
        checkpoint={"every_s": 0.2},
        sampling={**GREEDY, **sampling},
    )


def run(path: Path) -> pl.DataFrame:
    run_job(load_job(path), RunOptions(show_progress=False, gpus="none"))
    return rows_of(path.parent / str(load_job(path).output.path))


def test_answers_fit_a_schema_and_reasoning_is_as_free_as_ever(tmp_path: Path) -> None:
    free = run(job(tmp_path, "free", 40))
    rows = run(job(tmp_path, "bound", 40, answer_schema=SCHEMA, thinking_budget=200))

    assert set(rows["reasoning_status"]) == {"closed"}
    answers = [json.loads(text) for text in rows["answer"]]
    assert all(answer.keys() == {"answer"} for answer in answers)
    assert all(type(answer["answer"]) is int for answer in answers)
    assert not rows["flags"].list.contains("answer_invalid").any()
    unforced = ~rows["flags"].list.contains("budget_forced")
    assert unforced.sum() > 20
    assert rows.filter(unforced)["reasoning"].equals(free.filter(unforced)["reasoning"])
    assert set(rows["finish_reason"]) == {"stop"}
    assert rows["resumed_at"].list.len().sum() == 0


def test_a_regex_binds_too(tmp_path: Path) -> None:
    rows = run(job(tmp_path, "out", 8, answer_regex="The answer is [0-9]{1,6}\\."))
    assert rows["answer"].str.contains(r"^The answer is [0-9]{1,6}\.$").all()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_300_answers_are_valid_across_a_kill(tmp_path: Path) -> None:
    whole = run(job(tmp_path, "whole", 300, answer_schema=SCHEMA, thinking_budget=200))
    path = job(tmp_path, "killed", 300, answer_schema=SCHEMA, thinking_budget=200)
    with tree(["-m", "batchr1", "run", str(path), "--gpus", "none"], tmp_path) as killed:
        wait_for_saved(killed, tmp_path / "killed", 1500)
        killed.kill()
    rows = run(path)

    assert whole.height == rows.height == 300
    assert not rows["flags"].list.contains("answer_invalid").any()
    assert rows["resumed_at"].list.len().sum() > 0
    assert content(rows).equals(content(whole))


@pytest.mark.parametrize(
    ("form", "answer", "fits"),
    [
        (AnswerForm(json.dumps(SCHEMA)), '{"answer": 7}', True),
        (AnswerForm(json.dumps(SCHEMA)), '{"answer": "7"}', False),
        (AnswerForm(json.dumps(SCHEMA)), '{"answer": 7', False),
        (AnswerForm(json.dumps(SCHEMA)), "7", False),
        (AnswerForm(json.dumps(SCHEMA)), None, False),
        (AnswerForm(regex="[0-9]+"), "17", True),
        (AnswerForm(regex="[0-9]+"), "17 apples", False),
    ],
)
def test_a_form_is_checked(form: AnswerForm, answer: str | None, fits: bool) -> None:
    assert form.fits(answer) is fits


def bound(partial: ResumePoint | None = None, thinking: int | None = None) -> Generation:
    tags = ThinkTags.of_ids(close_id=CLOSE, end_ids=frozenset({END}))
    budgets = None if thinking is None else Budgets(thinking, None, 500, (CLOSE, BLANK), tags)
    item = WorkItem(Prompt("r", "", (5,), True, b""), 0, 500, "max_tokens", partial=partial)
    return Generation(item, Rules(budgets, binds=tags))


def test_the_answer_is_asked_for_from_the_closing_tag_on() -> None:
    one = bound()
    assert one.take([10, 11]) is None
    assert not one.request("a").is_answer
    assert one.take([12, CLOSE, 13, 14]) == "bind"
    assert one.tokens.tolist() == [10, 11, 12, CLOSE], "what was drawn freely behind it is dropped"
    assert one.request("b").is_answer
    assert one.take([15, CLOSE, 16]) is None


def test_a_saved_answer_begins_again_at_its_tag() -> None:
    one = bound(ResumePoint((10, CLOSE, 13, 14)))
    assert one.tokens.tolist() == [10, CLOSE]
    assert one.request("a").is_answer
    assert one.offset == 2
    inside = bound(ResumePoint((10, 11)))
    assert not inside.request("b").is_answer
    ended = bound(ResumePoint((10, CLOSE, 13, END), finish_reason="stop"))
    assert (ended.ended(), len(ended.tokens)) == ("stop", 4)


def test_a_saved_answer_begins_again_behind_all_that_closed_its_trace() -> None:
    whole = bound(thinking=2)
    assert whole.take([10, 11, 12]) == "close"
    whole.close()
    before = whole.tokens.tolist()
    assert before == [10, 11, CLOSE, BLANK]
    assert whole.take([13, 14]) is None

    saved = whole.saved()
    resumed = bound(ResumePoint(tuple(saved.tokens), injected=saved.injected), thinking=2)
    assert resumed.tokens.tolist() == before
    assert resumed.request("a").is_answer


def test_an_answer_that_does_not_fit_is_flagged(tmp_path: Path) -> None:
    questions(4).write_parquet(tmp_path / "in.parquet")
    run_replay(write_job(tmp_path, sampling={"answer_schema": SCHEMA}))
    rows = rows_of(tmp_path / "out")
    assert rows["flags"].list.contains("answer_invalid").all(), "a script draws letters"
