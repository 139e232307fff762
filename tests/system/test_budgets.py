"""Thinking and answer budgets: exact to the token, the same across a kill, and never an answer
starved.
"""

from __future__ import annotations

import json
import re
from array import array
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from killed_runs import content, inflight, started, wait_for_saved
from process_tree import tree
from replay_job import MODEL, questions, replay, rows_of, run_replay, token_ids, write_job

from batchr1.dataset.prompts import load_tokenizer
from batchr1.dataset.tokenizer import end_ids_of
from batchr1.errors import JobError
from batchr1.job import load_job
from batchr1.reasoning import ThinkTags, split
from batchr1.reasoning.budgets import ANSWER_ROOM, Budgets, closing_ids
from batchr1.reasoning.loops import STOP_RUN_TOKENS
from batchr1.records import Completion, Prompt, ResumePoint, WorkItem
from batchr1.worker.generation import Generation, Rules

OPEN, CLOSE, END, TEXT = 1, 2, 3, tuple(range(10, 20))
TAGS = ThinkTags.of_ids(open_id=OPEN, close_id=CLOSE, end_ids=frozenset({END}))
CLOSING = (18, 19, CLOSE, 17)  # a sentence of two tokens, the tag, a blank line
ROWS = 40
LONG = {"mean_len": 120.0, "sigma": 0.6, "answer_len": 12}


def budgets(
    thinking: int | None = None, answer: int | None = None, max_tokens: int | None = None
) -> Budgets:
    return Budgets(thinking, answer, max_tokens, CLOSING, TAGS)


def generation(
    rules: Rules, max_tokens: int = 1000, partial: ResumePoint | None = None, opened: bool = True
) -> Generation:
    prompt = Prompt("r", "", (5, 6), opened, b"")
    return Generation(WorkItem(prompt, 0, max_tokens, "max_tokens", partial=partial), rules)


def generate(
    stream: list[int], rules: Rules, *, max_tokens: int = 1000, opened: bool = True
) -> Completion:
    """What a worker makes of an engine that would say this, a token at a time."""
    one = generation(rules, max_tokens, opened=opened)
    for token in stream:
        act = one.take([token])
        if act == "cut":
            return one.completion("length")
        if act == "close":
            one.close()
        if one.generated >= max_tokens:
            return one.completion("length")
        if token == END and act is None:
            return one.completion("stop")
    return one.completion("stop")


def parts(completion: Completion, *, opened: bool = True) -> Any:
    return split(
        completion.token_ids,
        tags=TAGS,
        decode=lambda ids: "x" * len(ids),
        opened=opened,
        finish_reason=completion.finish_reason,
    )


@given(
    st.lists(st.sampled_from([*TEXT, OPEN, CLOSE, END]), max_size=60),
    st.integers(1, 12),
    st.integers(1, 12),
    st.booleans(),
    st.booleans(),
)
def test_no_stream_of_tokens_goes_beyond_its_budgets(
    stream: list[int], thinking: int, answer: int, opened: bool, has_answer: bool
) -> None:
    asked = budgets(thinking, answer if has_answer else None)
    completion = generate(stream, Rules(asked), opened=opened)
    found = parts(completion, opened=opened)
    assert found.reasoning_tokens <= thinking + (2 if completion.injected else 0)
    if has_answer:
        assert found.answer_tokens <= answer
    assert completion.injected in (0, len(CLOSING) - 1, len(CLOSING))
    if completion.injected:
        put = CLOSING[
            : completion.injected
        ]  # no blank line where text before took the answer's budget
        at = (
            completion.token_ids.index(CLOSE, 0 if opened else completion.token_ids.index(OPEN)) - 2
        )
        assert completion.token_ids[at : at + len(put)] == put


def test_a_trace_is_closed_by_the_token_that_is_one_too_many() -> None:
    assert generate([10] * 5 + [CLOSE, 11, END], Rules(budgets(5))).injected == 0, (
        "it ended by itself"
    )
    forced = generate([10] * 6 + [11, END], Rules(budgets(5)))
    assert forced.token_ids == (10, 10, 10, 10, 10, *CLOSING, 11, END)
    assert (forced.injected, forced.finish_reason, forced.cut_by) == (4, "stop", None)


def test_an_answer_is_cut_by_the_token_that_is_one_too_many() -> None:
    asked = Rules(budgets(answer=3))
    assert generate([10, CLOSE, 11, 11, 11, END], asked).finish_reason == "stop"
    cut = generate([10, CLOSE, 11, 11, 11, 11], asked)
    assert (cut.token_ids, cut.finish_reason, cut.cut_by) == (
        (10, CLOSE, 11, 11, 11),
        "length",
        "budget",
    )


@pytest.mark.parametrize(
    ("asked", "max_tokens", "longest"),
    [
        (budgets(100), 4000, 100),
        (budgets(100, max_tokens=120), 120, 100),  # as it was asked, although little is left
        (
            budgets(1000, max_tokens=4000),
            1200,
            1200 - 4 - ANSWER_ROOM,
        ),  # a row's cap, or the context, is shorter
        (budgets(1000, max_tokens=4000), 100, 48),  # and much shorter: half of it
        (budgets(answer=50), 200, 200 - 4 - 50),
        (budgets(10, 9), 6, 1),  # a thought, the closing, a token of answer
        (budgets(answer=50, max_tokens=300), 60, 28),
    ],
)
def test_thinking_ends_early_enough_for_an_answer(
    asked: Budgets, max_tokens: int, longest: int
) -> None:
    completion = generate([10] * 5000, Rules(asked), max_tokens=max_tokens)
    assert completion.token_ids.index(CLOSE) == longest + 2
    whole = (
        max_tokens if asked.answer is None else longest + 4 + asked.answer - 1
    )  # a blank line is of the answer
    assert len(completion.token_ids) == min(max_tokens, whole)


def test_nothing_is_closed_where_that_leaves_no_room_for_a_thought_and_an_answer() -> None:
    completion = generate([10] * 50, Rules(budgets(10, 9)), max_tokens=len(CLOSING) + 1)
    assert (completion.token_ids, completion.injected) == ((10,) * 5, 0)


def drive(one: Generation, engine: list[int]) -> Completion:
    """An engine whose next token depends on how many there are, which ends where its list does."""
    while one.ended() is None and one.generated < len(engine):
        act = one.take([engine[one.generated]])
        if act == "cut":
            return one.completion("length")
        if act == "close":
            one.close()
    return one.completion(one.ended() or "stop")


@given(st.lists(st.sampled_from([*TEXT, CLOSE]), max_size=60), st.integers(0, 80))
def test_an_interruption_anywhere_changes_nothing(engine: list[int], at: int) -> None:
    rules = Rules(budgets(8, 6))
    whole = drive(generation(rules), engine)
    closed_at = whole.token_ids.index(CLOSE) + 2 if whole.injected else 0
    if closed_at - len(CLOSING) < at < closed_at:
        return  # a closing is put in at once
    injected = whole.injected if at >= closed_at else 0
    is_whole = at >= len(whole.token_ids)
    partial = ResumePoint(
        whole.token_ids[:at], (), whole.finish_reason if is_whole else None, injected=injected
    )
    again = drive(generation(rules, partial=partial), engine)
    assert (again.token_ids, again.injected) == (whole.token_ids, whole.injected)
    assert (again.finish_reason, again.cut_by) == (whole.finish_reason, whole.cut_by)


def test_a_loop_is_stopped_and_said_to_be_one() -> None:
    stopped = generate([10, 11, 12] * 2000, Rules(stop_loops=True), max_tokens=9000)
    assert (stopped.finish_reason, stopped.cut_by) == ("length", "loop")
    assert STOP_RUN_TOKENS <= len(stopped.token_ids) <= STOP_RUN_TOKENS + 64
    half = ResumePoint(stopped.token_ids[:200])
    again = generation(Rules(stop_loops=True), 9000, half)
    acts = [again.take([token]) for token in ([10, 11, 12] * 200)[200 : len(stopped.token_ids)]]
    assert acts[-1] == "cut" and set(acts[:-1]) == {None}, "at the same token after an interruption"
    ended = generation(
        Rules(stop_loops=True), 9000, ResumePoint(stopped.token_ids, finish_reason="length")
    )
    assert ended.ended() == "length"


@settings(deadline=None)
@given(
    st.lists(st.integers(1, 330), min_size=1, max_size=3),
    st.integers(1, 40),
    st.integers(0, 99),
    st.booleans(),
)
def test_a_loop_is_stopped_at_the_same_token_wherever_it_was_interrupted(
    cuts: list[int], period: int, before: int, has_budget: bool
) -> None:
    stream = [10 + i % 3 for i in range(before)] + [20 + i % period for i in range(3000)]
    rules = Rules(budgets(250, 2000) if has_budget else None, stop_loops=True)
    whole = drive(generation(rules, 2500), stream)
    saved, at = ResumePoint(()), 0
    for cut in cuts:
        at += cut
        one, act = generation(rules, 2500, saved), None
        while one.generated < at and one.ended() is None and act != "cut":
            if (act := one.take([stream[one.generated]])) == "close":
                one.close()
        ended = "length" if act == "cut" else saved.finish_reason
        saved = ResumePoint(tuple(one.tokens), (), ended, injected=one.injected)
    again = drive(generation(rules, 2500, saved), stream)
    assert (len(again.token_ids), again.cut_by, again.injected) == (
        len(whole.token_ids),
        whole.cut_by,
        whole.injected,
    )


def test_a_snapshot_that_comes_while_a_trace_is_closed_says_what_it_holds() -> None:
    """They are taken on another thread: the tokens are copied, then the trace may be closed, then
    all else is read.
    """
    one = generation(Rules(budgets(3)))
    one.take([10, 10, 10])

    class Slow(array):  # type: ignore[type-arg]
        def __getitem__(self, at: Any) -> Any:
            copied = super().__getitem__(at)
            one.close()
            return copied

    one.tokens = Slow("i", one.tokens)
    saved = one.saved()
    assert (list(saved.tokens), saved.injected) == ([10, 10, 10], 0)
    one.tokens = array("i", one.tokens)
    assert (list(one.saved().tokens), one.saved().injected) == ([10, 10, 10, *CLOSING], 4)


def budget_job(folder: Path, **sampling: Any) -> Path:
    questions(ROWS).write_parquet(folder / "in.parquet")
    return write_job(
        folder,
        sampling={"max_tokens": 600, **sampling},
        checkpoint={"every_s": 0.25},
        output={"rows_per_part": 1000, "token_ids": "always"},
    )


def closing_of(sentence: str | None) -> tuple[int, ...]:
    tokenizer = load_tokenizer(MODEL)
    return closing_ids(tokenizer, ThinkTags.of(tokenizer, end_ids=end_ids_of(MODEL)), sentence)


@pytest.mark.parametrize("sentence", [None, "So much for thinking."])
@pytest.mark.parametrize("budget", [1, 32])
def test_a_run_closes_every_trace_within_its_budget(
    tmp_path: Path, budget: int, sentence: str | None
) -> None:
    job = budget_job(tmp_path, thinking_budget=budget, closing_sentence=sentence)
    assert run_replay(job, replay(**LONG)).exit_code == 0
    rows, closing, close_id = (
        rows_of(tmp_path / "out"),
        closing_of(sentence),
        token_ids()["close_id"],
    )
    said = closing.index(close_id)
    forced = rows.filter(pl.col("injected_tokens") > 0)
    assert forced.height > ROWS // 2
    assert set(forced["injected_tokens"]) == {len(closing)}
    assert set(forced["reasoning_tokens"]) == {budget + said}
    assert all("budget_forced" in flags for flags in forced["flags"])
    for ids in forced["token_ids"].to_list():
        assert tuple(ids[budget : budget + len(closing)]) == closing
    others = rows.filter(pl.col("injected_tokens") == 0)
    assert others.is_empty() or others["reasoning_tokens"].max() <= budget  # type: ignore[operator]
    assert rows["answer"].is_not_null().all()
    total = rows["reasoning_tokens"] + rows["answer_tokens"] + rows["control_tokens"]
    assert (total == rows["completion_tokens"]).all()
    if sentence:
        assert all(text.endswith(sentence) for text in forced["reasoning"])


def test_budgets_are_the_same_across_kills(tmp_path: Path) -> None:
    sampling = {"thinking_budget": 40, "answer_budget": 8, "closing_sentence": "That is all."}
    calm, killed = tmp_path / "calm", tmp_path / "killed"
    for folder in (calm, killed):
        folder.mkdir()
        budget_job(folder, **sampling)
    script = {**LONG, "tokens_per_step": 1, "max_num_seqs": 8}
    run_replay(calm / "job.yaml", replay(**script))
    for kill in range(2):
        with started(killed / "job.yaml", **script, step_s=0.02) as run:
            wait_for_saved(run, killed / "out", 300 * (kill + 1))
            run.kill()
    assert any(one.injected for one in inflight(killed / "out").saved.values())
    assert run_replay(killed / "job.yaml", replay(**script)).exit_code == 0
    rows = rows_of(killed / "out")
    assert rows["resumed_at"].list.len().max() >= 1  # type: ignore[operator]  # how often depends on the moments
    assert content(rows).equals(content(rows_of(calm / "out")))
    cut = rows.filter(pl.col("truncated_by") == "budget")
    assert (
        cut.height and set(cut["answer_tokens"]) == {8} and set(cut["truncated_in"]) == {"answer"}
    )


def test_what_a_budget_cut_is_not_continued(tmp_path: Path) -> None:
    job = budget_job(tmp_path, thinking_budget=40, answer_budget=8)
    run_replay(job, replay(**LONG))
    before = rows_of(tmp_path / "out")
    assert before["truncated"].any()
    budget_job(tmp_path, thinking_budget=40, answer_budget=8, max_tokens=900)
    summary = run_replay(job, replay(**LONG), continue_truncated=True)
    assert summary.tally.done == 0
    assert rows_of(tmp_path / "out").equals(before)


def test_a_row_that_the_limit_cut_goes_on_in_its_answer(tmp_path: Path) -> None:
    long_answers = {
        **LONG,
        "mean_len": 400.0,
        "sigma": 0.1,
    }  # what replays after the closing is long
    job = budget_job(tmp_path, thinking_budget=40, max_tokens=60)
    run_replay(job, replay(**long_answers))
    assert set(rows_of(tmp_path / "out")["truncated_in"]) == {"answer"}
    budget_job(tmp_path, thinking_budget=40, max_tokens=900)
    assert run_replay(job, replay(**long_answers), continue_truncated=True).tally.done == ROWS
    rows = rows_of(tmp_path / "out")
    assert not rows["truncated"].any()
    closing = len(closing_of(None))
    assert set(rows["injected_tokens"]) == {closing}, "closed once, and counted once"
    assert set(rows["reasoning_tokens"]) == {40}


@pytest.mark.parametrize(
    ("sampling", "message"),
    [
        (
            {"thinking_budget": 100},
            (
                "sampling: thinking_budget leaves no room for the rest (got 100, need less than "
                "max_tokens, 100)"
            ),
        ),
        ({"answer_budget": 0}, "sampling.answer_budget: "),
        (
            {"closing_sentence": "Now."},
            "sampling: closing_sentence is said where batchr1 closes a trace, and nothing does "
            "(set thinking_budget, answer_budget, or stop_loops: close)",
        ),
    ],
)
def test_budgets_that_cannot_be(tmp_path: Path, sampling: dict[str, Any], message: str) -> None:
    job = write_job(tmp_path, sampling={"max_tokens": 100, **sampling})
    with pytest.raises(JobError, match=re.escape(message)):
        load_job(job)


def test_tokens_are_kept_as_an_array() -> None:
    one = generation(Rules(budgets(3)))
    one.take([10, 10, 10])
    one.take([10])
    one.close()
    assert one.tokens == array("i", [10, 10, 10, *CLOSING])


@pytest.mark.slow
@pytest.mark.parametrize("budget", [8, 32, 128])
def test_three_hundred_prompts_of_r1_tiny_through_vllm(tmp_path: Path, budget: int) -> None:
    """Exact on the real engine, greedy, float32, and the same after kill -9 and a rerun."""
    problems = pl.read_parquet(Path(__file__).parents[2] / "jobs/data/math.parquet").head(300)
    problems.write_parquet(tmp_path / "in.parquet")
    sampling = {"max_tokens": 2048, "temperature": 0, "thinking_budget": budget}
    outputs = {}
    for name in ("calm", "killed"):
        job = write_job(
            tmp_path,
            output={"path": name, "rows_per_part": 100},
            sampling=sampling,
            checkpoint={"every_s": 1},
            model={"engine_args": {"dtype": "float32"}},
            input={"gold": "answer"},
        )
        if name == "killed":
            with tree(["-m", "batchr1", "run", str(job)], tmp_path) as run:
                wait_for_saved(run, tmp_path / "killed", 1500)
                run.kill()
        with tree(["-m", "batchr1", "run", str(job), "--json"], tmp_path) as run:
            assert run.wait(600) == 0, run.stderr
            said = json.loads(run.stdout)
        outputs[name] = rows_of(tmp_path / name)
    assert said["this_run"]["done"] + 0 <= 300
    rows, closing = outputs["killed"], closing_of(None)
    assert rows.height == 300
    assert rows["reasoning_tokens"].max() <= budget + closing.index(token_ids()["close_id"])  # type: ignore[operator]
    assert rows["answer"].fill_null("").str.len_chars().gt(0).mean() >= 0.99  # type: ignore[operator]
    assert rows["resumed_at"].list.len().gt(0).any()
    assert content(rows).equals(content(outputs["calm"]))
    answered = rows["answer"].fill_null("").str.len_chars().gt(0).mean()
    print(
        f"budget {budget}: {rows['injected_tokens'].gt(0).sum()} of 300 forced, longest reasoning "
        f"{rows['reasoning_tokens'].max()}, {answered:.1%} answered, {rows['correct'].mean():.1%} "
        f"right, {rows['resumed_at'].list.len().gt(0).sum()} resumed"
    )
