"""`stop_loops: close`: a loop in the reasoning is closed, and the model answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from killed_runs import content, inflight, started, wait_for_saved
from replay_job import MODEL, questions, replay, rows_of, run_replay, token_ids, write_job

from batchr1.dataset.prompts import load_tokenizer
from batchr1.errors import JobError
from batchr1.job import load_job
from batchr1.reasoning import ThinkTags
from batchr1.reasoning.budgets import Budgets
from batchr1.reasoning.loops import CHECK_EVERY, STOP_RUN_TOKENS
from batchr1.records import Completion, Prompt, ResumePoint, WorkItem
from batchr1.worker.generation import Generation, Rules

OPEN, CLOSE, END = 1, 2, 3
TAGS = ThinkTags.of_ids(open_id=OPEN, close_id=CLOSE, end_ids={END})
CLOSING = (18, 19, CLOSE, 17)
RULES = Rules(Budgets(None, None, None, CLOSING, TAGS), "close")
LOOP = [10, 11, 12]
ANSWER = [41, 42, 43, END]
ROWS = 24
LOOPING = {"letters": 1, "mean_len": 500.0, "sigma": 0.4, "answer_len": 12}
"""The replay engine says one letter: every trace that is long enough is a loop."""


def generation(max_tokens: int, partial: ResumePoint | None = None) -> Generation:
    prompt = Prompt("r", "", (5, 6), True, b"")
    return Generation(WorkItem(prompt, 0, max_tokens, "max_tokens", partial=partial), RULES)


def drive(one: Generation, loop: list[int], answer: list[int], *, until: int = 10**9) -> Any:
    """Play an engine that loops until the trace is closed, then answers."""
    while one.generated < until:
        if one.injected:
            at = list(one.tokens).index(CLOSE) + 2
            said = one.generated - at
            token = answer[said] if said < len(answer) else END
        else:
            token = loop[one.generated % len(loop)]
        act = one.take([token])
        if act == "close":
            one.close()
        elif act == "cut" or one.generated >= one.item.max_tokens:
            return one.completion("length")
        elif token == END:
            return one.completion("stop")
    return one


def test_a_loop_is_closed_and_answered() -> None:
    done = drive(generation(3000), LOOP, ANSWER)
    assert (done.finish_reason, done.cut_by, done.closed_by) == ("stop", None, "loop")
    assert done.injected == len(CLOSING)
    thought = len(done.token_ids) - len(CLOSING) - len(ANSWER)
    assert STOP_RUN_TOKENS <= thought <= STOP_RUN_TOKENS + CHECK_EVERY
    assert done.token_ids[thought:] == (*CLOSING, *ANSWER)


def test_a_loop_in_the_answer_ends_it() -> None:
    done = drive(generation(3000), LOOP, [50, 51] * 1000)
    assert (done.finish_reason, done.cut_by, done.closed_by) == ("length", "loop", "loop")
    assert len(done.token_ids) < 1000


def test_a_long_answer_behind_a_closed_loop_is_no_loop() -> None:
    """The loop is still among the last tokens; it is looked for behind the closing."""
    loop = [100 + i % 90 for i in range(5000)]
    done = drive(generation(9000), loop, [*range(1000, 4000), END])
    assert (done.finish_reason, done.cut_by, done.closed_by) == ("stop", None, "loop")


def test_without_room_for_an_answer_a_loop_is_cut() -> None:
    done = drive(generation(STOP_RUN_TOKENS + len(CLOSING)), LOOP, ANSWER)
    assert (done.injected, done.finish_reason) == (0, "length")


def test_a_trace_that_does_not_loop_is_left_alone() -> None:
    tokens = list(range(100, 2100))
    one = generation(3000)
    assert {one.take([token]) for token in tokens} == {None}
    done = one.completion("stop")
    assert (done.injected, done.closed_by, done.token_ids) == (0, None, tuple(tokens))


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(1, 400), min_size=1, max_size=3), st.integers(1, 60))
def test_an_interruption_anywhere_changes_nothing(cuts: list[int], period: int) -> None:
    loop = [100 + i for i in range(period)]
    whole: Completion = drive(generation(3000), loop, ANSWER)
    saved, at = ResumePoint(()), 0
    for cut in cuts:
        at += cut
        one = generation(3000, saved)
        ended = drive(one, loop, ANSWER, until=at)
        if isinstance(ended, Completion):
            break
        saved = ResumePoint(tuple(one.tokens), (), injected=one.injected)
    again: Completion = drive(generation(3000, saved), loop, ANSWER)
    assert again.token_ids == whole.token_ids
    assert (again.injected, again.closed_by) == (whole.injected, whole.closed_by)


def loop_job(folder: Path, **sampling: Any) -> Path:
    questions(ROWS).write_parquet(folder / "in.parquet")
    return write_job(
        folder,
        sampling={"max_tokens": 2000, "stop_loops": "close"} | sampling,
        output={"token_ids": "always"},
        checkpoint={"every_s": 0.2},
    )


def test_every_loop_of_a_run_has_an_answer_and_exact_counts(tmp_path: Path) -> None:
    job = loop_job(tmp_path, closing_sentence="I am going round in circles.")
    assert run_replay(job, replay(**LOOPING)).exit_code == 0
    rows = rows_of(tmp_path / "out")
    closed = rows.filter(rows["injected_tokens"] > 0)
    assert closed.height > ROWS // 2
    assert closed["answer"].is_not_null().all()
    assert all("looping" in flags for flags in closed["flags"])
    assert not any("budget_forced" in flags for flags in rows["flags"])
    assert set(closed["reasoning_status"]) == {"closed"}
    total = rows["reasoning_tokens"] + rows["answer_tokens"] + rows["control_tokens"]
    assert (total == rows["completion_tokens"]).all()
    assert all(text.endswith("going round in circles.") for text in closed["reasoning"])
    close_id = token_ids()["close_id"]
    for ids in closed["token_ids"].to_list():
        assert ids.index(close_id) >= STOP_RUN_TOKENS


def test_closed_loops_are_the_same_across_kills(tmp_path: Path) -> None:
    calm, killed = tmp_path / "calm", tmp_path / "killed"
    for folder in (calm, killed):
        folder.mkdir()
        loop_job(folder)
    script = {**LOOPING, "tokens_per_step": 1, "max_num_seqs": 8}
    run_replay(calm / "job.yaml", replay(**script))
    for kill in range(2):
        with started(killed / "job.yaml", **script, step_s=0.005) as run:
            wait_for_saved(run, killed / "out", 2400 * (kill + 1))
            run.kill()
    assert any(one.injected for one in inflight(killed / "out").saved.values())
    assert run_replay(killed / "job.yaml", replay(**script)).exit_code == 0
    rows = rows_of(killed / "out")
    assert content(rows).equals(content(rows_of(calm / "out")))


def test_a_loop_that_is_closed_needs_a_tag_that_is_a_token(tmp_path: Path) -> None:
    job = loop_job(tmp_path, stop_loops=False, closing_sentence="Enough.")
    with pytest.raises(JobError) as caught:
        load_job(job)
    assert "stop_loops: close" in str(caught.value)
    assert load_tokenizer(MODEL) is not None
