"""engine.kind openai: jobs whose work a server does, one that fails as told. Driver and worker are
the real ones.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from chat_server import KEY, answer_to, chat_server, files_with, remote_job
from process_tree import Tree, tree, until
from replay_job import keys_of, rows_of

from batchr1.cli.run import as_text
from batchr1.driver.context import RunOptions
from batchr1.driver.monitor.summary import Summary
from batchr1.driver.run_job import run_job
from batchr1.errors import JobError, UsageError
from batchr1.job import Overrides, load_job
from batchr1.output.checkpoints import INFLIGHT_DIR, read_checkpoints
from batchr1.output.folder import Output
from batchr1.report.numbers import read
from batchr1.report.page import render
from batchr1.seeds import derive_seed
from batchr1.storage.base import open_storage

INSTRUCTION = "\n\nPlease reason step by step, and put your final answer within \\boxed{}."


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "OPENAI_API_KEY",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
        "http_proxy",
        "https_proxy",
        "all_proxy",
    ):
        monkeypatch.delenv(name, raising=False)


def run(job: Path, *settings: str, **options: Any) -> Summary:
    return run_job(
        load_job(job, Overrides(settings=settings)), RunOptions(show_progress=False, **options)
    )


def prompt_of(row: int) -> str:
    return f"What is {row} + {row}? (row {row}.){INSTRUCTION}"


def failed_of(output: Path) -> pl.DataFrame:
    return pl.concat(
        [pl.read_parquet(path) for path in sorted((output / ".batchr1/failed").glob("*.parquet"))]
    )


def record_of(output: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(max((output / ".batchr1/runs").glob("*.json")).read_text())
    return record


def log_of(output: Path) -> str:
    return max((output / ".batchr1/runs").glob("*.log")).read_text()


def every(rows: int, n: int = 1) -> list[tuple[str, int]]:
    return sorted((f"row/{i}", sample) for i in range(rows) for sample in range(n))


def test_a_server_that_fails_in_every_way_costs_no_row_and_doubles_none(tmp_path: Path) -> None:
    scripts = {
        "row 1.": ["429:1", "429", "ok"],
        "row 2.": ["500", "503", "ok"],
        "row 3.": ["cut", "ok"],
        "row 4.": ["json", "html", "ok"],
        "row 5.": ["slow:0.7"],
        "row 6.": ["finish:insufficient_system_resource", "ok"],
        "row 7.": ["408", "ok"],
        "row 8.": ["502:Fri, 31 Dec 1999 23:59:59 GMT", "ok"],
    }
    with chat_server(scripts=scripts, key=KEY) as server:
        job = remote_job(tmp_path, server)
        done = subprocess.run(
            [sys.executable, "-m", "batchr1", "run", str(job)],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"OPENAI_API_KEY": KEY},
        )
        assert done.returncode == 0, done.stderr
        assert "12 rows = 12 done + 0 failed + 0 pending" in done.stdout
        rows = rows_of(tmp_path / "out")
        assert keys_of(rows) == every(12)
        assert rows["attempts"].to_list() == [1] * 12, "the server's faults are not the rows'"
        assert sorted(server.prompts()).count(prompt_of(1)) == 3
        assert len(server.bodies) == 12 + sum(len(words) - 1 for words in scripts.values())
        asked = [
            at
            for at, prompt in zip(server.times, server.prompts(), strict=True)
            if prompt == prompt_of(1)
        ]
        assert asked[1] - asked[0] >= 1.0, "Retry-After is honoured"
        assert server.most_under_way <= 4
    for row in rows.to_dicts():
        reasoning, answer = answer_to(row["prompt"])
        assert (row["reasoning"], row["answer"]) == (reasoning, answer)
    assert "the server failed" in log_of(tmp_path / "out")
    assert not files_with(KEY, tmp_path)
    assert KEY not in done.stdout + done.stderr


def test_what_is_sent_is_what_the_job_says(tmp_path: Path) -> None:
    sampling = {"n": 2, "seed": 7, "temperature": 0.5, "top_p": 0.9, "top_k": 20, "max_tokens": 50}
    with chat_server() as server:
        job = remote_job(
            tmp_path, server, rows=3, sampling=sampling, engine={"extra_body": {"user": "batch"}}
        )
        assert run(job).exit_code == 0
    assert server.bodies[0] == {
        "model": "teacher/r1",
        "messages": [{"role": "user", "content": server.prompts()[0]}],
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 20,
        "max_tokens": 50,
        "user": "batch",
        "stream": True,
        "stream_options": {"include_usage": True},
        "seed": server.bodies[0]["seed"],
    }
    sent = {(body["messages"][-1]["content"], body["seed"]) for body in server.bodies}
    assert sent == {
        (prompt_of(i), derive_seed(7, f"row/{i}", s, 1)) for i in range(3) for s in range(2)
    }
    rows = rows_of(tmp_path / "out")
    assert keys_of(rows) == every(3, 2)
    assert set(zip(rows["prompt"], rows["seed"], strict=True)) == sent
    assert rows["answer"].n_unique() == 6


def test_what_is_not_set_is_not_sent(tmp_path: Path) -> None:
    with chat_server() as server:
        job = remote_job(
            tmp_path, server, rows=1, sampling={"max_tokens": None}, engine={"stream": False}
        )
        assert run(job).exit_code == 0
    assert server.bodies[0].keys() == {"model", "messages", "temperature", "top_p"}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("form", ["tags", "open_tag", "native", "reasoning"])
def test_reasoning_is_told_apart_however_the_server_tells_it(
    tmp_path: Path, form: str, stream: bool
) -> None:
    with chat_server(form=form) as server:
        assert run(remote_job(tmp_path, server, rows=2, engine={"stream": stream})).exit_code == 0
    for row in rows_of(tmp_path / "out").to_dicts():
        assert (row["reasoning"], row["answer"]) == answer_to(row["prompt"])
        assert (row["reasoning_status"], row["finish_reason"], row["truncated"]) == (
            "closed",
            "stop",
            False,
        )
        assert (row["prompt_tokens"], row["completion_tokens"]) == (20, 100)
        assert row["reasoning_tokens"] == (90 if form == "native" else None), (
            "by usage, or not at all"
        )
        assert row["answer_tokens"] is row["control_tokens"] is row["token_ids"] is None
        assert row["flags"] == []


def test_a_server_that_counts_nothing_leaves_counts_null_and_every_reader_works(
    tmp_path: Path,
) -> None:
    with chat_server(usage=False) as server:
        job = remote_job(
            tmp_path,
            server,
            rows=4,
            sampling={"n": 2},
            output={"keep": ["problem"]},
            schedule="longest_first",
        )
        assert run(job).exit_code == 0
        summary = run(job, "sampling.n=3")  # what is done orders what is not, if it has lengths
        assert summary.exit_code == 0
        assert re.search(
            r"\nthis run: 4 rows in [\d.]+ s, tokens not counted by the server, 0.0% trunc",
            as_text(summary, ""),
        )
        assert record_of(tmp_path / "out")["tokens_per_s"] is None
    rows = rows_of(tmp_path / "out")
    assert keys_of(rows) == every(4, 3)
    for name in (
        "prompt_tokens",
        "reasoning_tokens",
        "answer_tokens",
        "control_tokens",
        "completion_tokens",
    ):
        assert rows[name].null_count() == 12
    assert rows["injected_tokens"].to_list() == [0] * 12
    out = str(tmp_path / "out")
    for command in (
        ["status", out, "--by", "problem"],
        ["report", out],
        ["export", out, str(tmp_path / "sft"), "--to", "sft"],
    ):
        done = subprocess.run(
            [sys.executable, "-m", "batchr1", *command], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        if command[0] == "status":
            assert "  tokens     the server counted none\n" in done.stdout
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "batchr1",
            "export",
            out,
            str(tmp_path / "short"),
            "--to",
            "sft",
            "--max-tokens",
            "9",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "--max-tokens: no row of" in done.stderr


def test_a_row_that_the_server_refuses_fails_alone_and_without_its_prompt(tmp_path: Path) -> None:
    scripts = {
        "row 1.": ["400"],
        "row 2.": ["413"],
        "row 3.": ["echo"],
        "row 4.": ["404"],
        "row 5.": ["slow:0"],
    }
    with chat_server(scripts=scripts) as server:
        job = remote_job(tmp_path, server, engine={"concurrency": 1})
        assert run(job).exit_code == 3
        assert len(server.bodies) == 12, "nobody asks twice"
    assert len(rows_of(tmp_path / "out")) == 8
    failed = failed_of(tmp_path / "out").sort("id")
    assert dict(zip(failed["id"], failed["message"], strict=True)) == {
        "row/1": "HTTP 400: as told: 400",
        "row/2": "HTTP 413: as told: 413",
        "row/3": "HTTP 422: bad […]",
        "row/4": "HTTP 404: as told: 404",
    }
    assert set(failed["reason"]) == {"engine_refused"}
    assert failed["attempts"].to_list() == [1] * 4


def test_an_answer_that_the_server_ends_for_its_own_reasons_is_a_failed_row_and_paid_for(
    tmp_path: Path,
) -> None:
    with chat_server(scripts={"row 1.": ["finish:content_filter"]}) as server:
        assert run(remote_job(tmp_path, server, rows=3), "max_failed=1").exit_code == 0
    [failed] = failed_of(tmp_path / "out").to_dicts()
    assert (failed["id"], failed["reason"]) == ("row/1", "content_filter")
    assert (
        failed["message"]
        == "the server ended it (got finish_reason 'content_filter', need stop or length)"
    )
    assert record_of(tmp_path / "out")["spend"]["completion_tokens"] == 300


def test_a_row_that_takes_too_long_each_time_fails_and_a_slow_one_is_tried_again(
    tmp_path: Path,
) -> None:
    scripts = {"row 1.": ["hang"], "row 2.": ["trickle:0.2", "ok"]}
    with chat_server(scripts=scripts) as server:
        job = remote_job(
            tmp_path, server, engine={"timeout_s": 1.5}, retry={"attempts": 2}, sampling={"seed": 1}
        )
        server.scripts |= {
            f"row {i}.": ["slow:0.6"] for i in (3, 4, 5, 6, 7, 8, 9, 10, 11)
        }  # the server lives on
        assert run(job).exit_code == 3
    [failed] = failed_of(tmp_path / "out").to_dicts()
    assert (failed["id"], failed["reason"], failed["attempts"]) == ("row/1", "timed_out", 2)
    assert failed["message"] == "no answer within engine.timeout_s, 1.5 s, 2 times"
    rows = rows_of(tmp_path / "out")
    assert len(rows) == 11
    [slow] = rows.filter(pl.col("id") == "row/2").to_dicts()
    assert (slow["attempts"], slow["seed"]) == (2, derive_seed(1, "row/2", 0, 2))


def test_a_row_that_the_server_cannot_do_while_it_does_others_fails_after_the_patience(
    tmp_path: Path,
) -> None:
    with chat_server(scripts={"row 0.": ["500"]}, delay_s=0.4) as server:
        job = remote_job(tmp_path, server, engine={"concurrency": 2, "patience_s": 2})
        assert run(job).exit_code == 3
    [failed] = failed_of(tmp_path / "out").to_dicts()
    assert (failed["id"], failed["reason"]) == ("row/0", "server_failed")
    assert failed["message"].endswith("s, while it answered others (last: HTTP 500: as told: 500)")


def test_a_server_that_gives_nothing_but_errors_stops_the_run_and_no_row_is_to_blame(
    tmp_path: Path,
) -> None:
    with chat_server() as server:
        job = remote_job(tmp_path, server, engine={"patience_s": 2, "concurrency": 2})
        server.scripts = {f"row {i}.": ["503"] for i in range(5, 12)}
        summary = run(job)
        assert (summary.exit_code, summary.counts.failed) == (75, 0)
        assert summary.stopped is not None
        assert summary.stopped.startswith("the server gave nothing but errors for ")
        assert summary.stopped.endswith(
            "(last: HTTP 503: as told: 503). Look at it; the same command goes on."
        )
        before = len(rows_of(tmp_path / "out"))
        assert before == 5
        server.scripts = {}
        assert run(job).exit_code == 0
    assert keys_of(rows_of(tmp_path / "out")) == every(12)


def test_a_server_that_wants_to_be_left_alone_for_long_stops_the_run_at_once(
    tmp_path: Path,
) -> None:
    with chat_server(default="429:86400") as server:
        summary = run(remote_job(tmp_path, server, rows=2))
    assert summary.exit_code == 75
    assert summary.stopped == (
        "the server asks to be left alone for 86,400 s, which is longer than engine.patience_s "
        "(HTTP 429: as told: 429). Try again then; the same command goes on."
    )


def test_a_wrong_key_a_wrong_name_and_a_wrong_parameter_stop_at_once_and_bind_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    out = tmp_path / "out"
    with chat_server(key="another") as server:
        job = remote_job(tmp_path, server)
        with pytest.raises(UsageError) as refused:
            run(job)
        assert str(refused.value) == (
            f"engine.base_url {server.url}: the key in OPENAI_API_KEY is not taken (HTTP 401: "
            "Incorrect API key provided: Bearer […].). Set that variable to a right one."
        )
        assert not server.bodies
        server.key, server.default, server.models = None, "404", ["teacher/r1-old", "other"]
        with pytest.raises(UsageError) as refused:
            run(job)
        assert str(refused.value) == (
            f"engine.base_url {server.url}: the server has no model 'teacher/r1', or no "
            "/chat/completions there (HTTP 404: as told: 404). It serves teacher/r1-old, other. "
            "Correct model.served."
        )
        server.default = "400"
        with pytest.raises(UsageError) as refused:
            run(job, "engine.concurrency=1")
        assert str(refused.value) == (
            f"engine.base_url {server.url}: the server refuses every request of this job (got HTTP "
            "400: as told: 400). Correct what it complains about; nothing was answered."
        )
        assert len(server.bodies) <= 4 + 10
        assert not (out / ".batchr1/job.json").exists()
        assert (
            not list((out / ".batchr1/failed").glob("*"))
            if (out / ".batchr1/failed").exists()
            else True
        )
        server.default = "ok"
        assert run(job, "model.served=other").exit_code == 0
    assert not files_with(KEY, tmp_path)


def test_a_key_that_is_revoked_meanwhile_stops_the_run_resumably(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEACHER_KEY", KEY)
    with chat_server(key=KEY, scripts={"row 8.": ["401"]}) as server:
        job = remote_job(tmp_path, server, engine={"api_key_env": "TEACHER_KEY", "concurrency": 1})
        summary = run(job)
        assert (summary.exit_code, summary.counts.done, summary.counts.pending) == (75, 8, 4)
        assert summary.stopped == (
            f"engine.base_url {server.url}: the key in TEACHER_KEY is not taken (HTTP 401: as "
            "told: 401). Set that variable to a right one. The same command then goes on."
        )
    assert not files_with(KEY, tmp_path)


def test_no_server_at_all_ends_resumably(tmp_path: Path) -> None:
    with chat_server() as server:
        url = server.url
    summary = run(remote_job(tmp_path, url, rows=2, engine={"patience_s": 1}))
    assert summary.exit_code == 75
    assert summary.stopped == (
        f"engine.base_url {url}: the server cannot be reached (connect error: All connection "
        "attempts failed; tried for 1 s). Start it, or correct the address; the same command goes "
        "on."
    )


def test_kill_9_costs_what_was_under_way_and_what_was_paid_for_is_not_sent_again(
    tmp_path: Path,
) -> None:
    with chat_server(delay_s=0.4) as server:
        job = remote_job(
            tmp_path,
            server,
            rows=40,
            output={"rows_per_part": 1000},
            checkpoint={"every_s": 0.1},
            engine={"price": {"input": 1000, "output": 1000}, "max_cost": 1000},
        )
        with tree(["-m", "batchr1", "run", str(job)], tmp_path) as running:
            storage = open_storage(tmp_path / "out")
            until(
                lambda: (
                    (tmp_path / "out" / INFLIGHT_DIR).exists()
                    and read_checkpoints(storage).finished >= 10
                )
            )
            running.kill()
        saved = {key.id for key in read_checkpoints(storage).saved}
        assert len(saved) >= 10
        assert not list((tmp_path / "out").glob("data/*"))
        asked = len(server.bodies)
        summary = run(job)
        assert summary.exit_code == 0
        again = server.prompts()[asked:]
        assert len(again) == 40 - len(saved)
        assert not {prompt_of(int(id.removeprefix("row/"))) for id in saved} & set(again)
    rows = rows_of(tmp_path / "out")
    assert keys_of(rows) == every(40)
    for row in rows.to_dicts():
        assert (row["reasoning"], row["answer"]) == answer_to(row["prompt"])
    assert summary.tally.carried == 100 * len(saved)
    spend = record_of(tmp_path / "out")["spend"]
    assert spend["requests"] == len(again)
    assert spend["before"] == {
        "prompt_tokens": 20 * len(saved),
        "completion_tokens": 100 * len(saved),
        "usd": pytest.approx(0.12 * len(saved)),
    }


def test_a_worker_that_is_killed_has_a_successor_that_sends_nothing_twice_that_was_saved(
    tmp_path: Path,
) -> None:
    with chat_server(delay_s=0.4) as server:
        job = remote_job(
            tmp_path, server, rows=40, output={"rows_per_part": 1000}, checkpoint={"every_s": 0.1}
        )
        with tree(["-m", "batchr1", "run", str(job)], tmp_path) as running:
            storage = open_storage(tmp_path / "out")
            until(
                lambda: (
                    (tmp_path / "out" / INFLIGHT_DIR).exists()
                    and read_checkpoints(storage).finished >= 10
                )
            )
            saved = {key.id for key in read_checkpoints(storage).saved}
            asked = len(server.bodies)
            os.kill(running.workers()[0], signal.SIGKILL)
            assert running.wait() == 0, running.stderr
        again = server.prompts()[asked + 8 :]  # some were sent until the kill had come through
        assert not {prompt_of(int(id.removeprefix("row/"))) for id in saved} & set(again)
    assert keys_of(rows_of(tmp_path / "out")) == every(40)
    assert record_of(tmp_path / "out")["tally"]["restarts"] == 1
    assert 30 <= record_of(tmp_path / "out")["spend"]["requests"] <= len(server.bodies)


def stop(running: Tree) -> int:
    os.kill(running.driver.pid, signal.SIGTERM)
    return running.wait(60)


def test_sigterm_sends_nothing_more_and_keeps_what_was_under_way(tmp_path: Path) -> None:
    with chat_server(delay_s=0.8) as server:
        job = remote_job(tmp_path, server, rows=40)
        with tree(["-m", "batchr1", "run", str(job)], tmp_path) as running:
            until(lambda: len(server.bodies) >= 5)
            code = stop(running)
            assert code == 75, running.stderr
            assert "stopped: received SIGTERM" in running.stdout
        asked = len(server.bodies)
        rows = rows_of(tmp_path / "out")
        assert len(rows) == asked, "all that was paid for is there"
        time.sleep(0.3)
        assert len(server.bodies) == asked
        assert run(job, "input.limit=12").exit_code == 0
    assert len(rows_of(tmp_path / "out")) == 12


def test_a_server_that_hangs_does_not_hold_up_the_leaving(tmp_path: Path) -> None:
    with chat_server(scripts={"row 3.": ["hang"]}) as server:
        job = remote_job(tmp_path, server)
        with tree(["-m", "batchr1", "run", str(job), "--grace", "3s"], tmp_path) as running:
            until(lambda: len(server.bodies) == 12)
            started = time.monotonic()
            assert stop(running) == 75, running.stderr
            assert time.monotonic() - started < 10
    assert len(rows_of(tmp_path / "out")) == 11


def test_max_cost_counts_all_runs_and_stops_between_requests(tmp_path: Path) -> None:
    price = {"input": 1000, "output": 10_000}  # an answer: 20 in, 100 out = 1.02 USD
    with chat_server(delay_s=0.05) as server:
        job = remote_job(tmp_path, server, engine={"price": price, "max_cost": 5, "concurrency": 2})
        first = run(job)
        assert first.exit_code == 75
        assert first.stopped is not None
        assert first.stopped.endswith(
            "USD of 5.00 are spent on this output. Raise it, and the same command goes on."
        )
        done = len(rows_of(tmp_path / "out"))
        assert done == len(server.bodies)
        assert 5 <= done <= 6, "what is under way ends"
        assert first.spend is not None
        assert first.spend.usd == pytest.approx(1.02 * done)
        second = run(job)
        assert (second.exit_code, second.tally.done, len(server.bodies)) == (75, 0, done), (
            "not one more"
        )
        third = run(job, "engine.max_cost=8")
        assert third.exit_code == 75
        assert len(server.bodies) in (8, 9)
        last = run(job, "engine.max_cost=100")
        assert last.exit_code == 0
        assert last.spend is not None
        assert last.spend.before is not None
        assert last.spend.before.usd + last.spend.usd == pytest.approx(1.02 * 12)
    assert keys_of(rows_of(tmp_path / "out")) == every(12)
    numbers, found = read(Output(open_storage(str(tmp_path / "out"))))
    assert numbers["all_nights"]["cost_usd"] == pytest.approx(1.02 * 12)
    assert b">USD</th>" in render(numbers, found), "the nights' table has what they cost"


def test_the_summary_says_what_was_spent(tmp_path: Path) -> None:
    with chat_server() as server:
        job = remote_job(
            tmp_path, server, engine={"price": {"input": 1000, "output": 10_000}, "max_cost": 50}
        )
        done = subprocess.run(
            [sys.executable, "-m", "batchr1", "run", str(job)],
            capture_output=True,
            text=True,
            check=True,
        )
    assert (
        "\nspent: 12.24 USD on 12 answers in this run, 12.24 of 50.00 on this output\n"
        in done.stdout
    )


def test_max_cost_cannot_be_kept_without_usage(tmp_path: Path) -> None:
    with chat_server(usage=False) as server:
        job = remote_job(
            tmp_path,
            server,
            engine={"price": {"input": 1, "output": 1}, "max_cost": 5, "concurrency": 1},
        )
        with pytest.raises(UsageError) as refused:
            run(job)
        assert str(refused.value) == (
            f"engine.max_cost: cannot be kept with {server.url}, whose answers have no usage (got "
            "no token counts). Leave it out, and watch the cost there."
        )
        assert len(server.bodies) == 1
        assert len(rows_of(tmp_path / "out")) == 1, "it is there, and paid for"
        summary = run(job, "engine.max_cost=null")
        assert summary.exit_code == 0
        assert summary.spend is not None
        assert summary.spend.without_usage == 11


def test_outcomes_that_are_not_wanted_are_tried_again_and_paid_for(tmp_path: Path) -> None:
    with chat_server(scripts={"row 1.": ["length:Hmm", "ok"]}) as server:
        job = remote_job(tmp_path, server, rows=3, retry={"on": ["unclosed"]}, sampling={"seed": 5})
        summary = run(job)
        assert (summary.exit_code, summary.tally.discarded) == (0, 100)
    [row] = rows_of(tmp_path / "out").filter(pl.col("id") == "row/1").to_dicts()
    assert (row["attempts"], row["seed"], row["reasoning_status"]) == (
        2,
        derive_seed(5, "row/1", 0, 2),
        "closed",
    )
    assert record_of(tmp_path / "out")["spend"]["requests"] == 4


def test_enough_right_answers_spare_the_rest(tmp_path: Path) -> None:
    with chat_server() as server:
        job = remote_job(
            tmp_path, server, rows=2, sampling={"n": 8, "seed": 1}, engine={"concurrency": 2}
        )
        inputs = pl.read_parquet(tmp_path / "in.parquet")
        golds = [
            answer_to(prompt_of(i), derive_seed(1, f"row/{i}", 0, 1))[1][13:21] for i in range(2)
        ]
        inputs.with_columns(pl.Series("gold", golds)).write_parquet(tmp_path / "in.parquet")
        settings = ("input.gold=gold", "stop_when={correct: 1}", "verify.kind=exact")
        summary = run(job, *settings)
        assert (summary.exit_code, summary.counts.done + summary.counts.spared) == (0, 16)
        assert summary.counts.done < 16


def test_no_more_requests_are_under_way_than_the_job_allows(tmp_path: Path) -> None:
    with chat_server(delay_s=0.05) as server:
        assert run(remote_job(tmp_path, server, rows=30, engine={"concurrency": 7})).exit_code == 0
    assert 5 <= server.most_under_way <= 7


def test_cut_rows_cannot_go_on(tmp_path: Path) -> None:
    job = remote_job(tmp_path, "http://127.0.0.1:9/v1")
    with pytest.raises(JobError) as refused:
        run(job, continue_truncated=True)
    assert str(refused.value) == (
        "--continue-truncated: goes on from token ids, and engine.kind openai gives none. Leave it "
        "out."
    )


def test_the_worker_loads_neither_torch_nor_vllm_nor_a_tokenizer() -> None:
    code = (
        "import sys, batchr1.worker.main, batchr1.worker.server_worker, "
        "batchr1.dataset.chat_prompts; print(sorted({'torch', 'vllm', 'transformers', 'ray', "
        "'polars'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_check_asks_the_server_and_plan_counts_what_it_will_cost(tmp_path: Path) -> None:
    price = {"input": 0.5, "output": 2}
    with chat_server() as server:
        job = remote_job(
            tmp_path, server, rows=4, sampling={"n": 2}, engine={"price": price, "max_cost": 1}
        )

        def lines(*words: str) -> list[str]:
            command = [sys.executable, "-m", "batchr1", *words[:1], str(job), *words[1:]]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            return done.stdout.splitlines()

        assert lines("check", "--show-prompt") == [
            "job      remote: nothing is wrong with it",
            "model    teacher/r1",
            f"engine   openai at {server.url}, 4 requests at a time, no key",
            "server   reached: it serves teacher/r1",
            "input    4 rows × 2: 0 done, 0 failed, 8 pending",
            f"output   {tmp_path}/out",
            "first prompt:",
            "user: What is 0 + 0? (row 0.)",
            "",
            "Please reason step by step, and put your final answer within \\boxed{}.",
        ]
        assert lines("plan") == [
            "model    teacher/r1",
            f"engine   openai at {server.url}, 4 requests at a time",
            "input    4 rows × 2 = 8 requests",
            "tokens   about 190 in (4 characters a token) and 1,599 out (6,094 tokens, DeepSeek's "
            "average for maths, capped at 200: many will be cut)",
            (
                "cost     about 0.0033 USD (0.5 USD per million in, 2 out); engine.max_cost is "
                "1.00 USD"
            ),
        ]
        server.models = ["another"]
        assert (
            lines("check")[0]
            == "job      remote: nothing is wrong with it, but its server is not ready for it"
        )
        assert lines("check")[3] == (
            "server   reached: its list has no 'teacher/r1'. It serves another. Correct "
            "model.served."
        )
        assert not server.bodies, "neither asks for an answer"
    assert (
        lines("check")[3] == "server   not reached: connect error: All connection attempts failed"
    )
    assert not (tmp_path / "out").exists()


def test_the_record_and_the_metrics_tell_what_was_asked(tmp_path: Path) -> None:
    with chat_server() as server:
        job = remote_job(tmp_path, server, rows=3)
        assert run(job, metrics_file=tmp_path / "m.prom").exit_code == 0
    record = record_of(tmp_path / "out")
    assert record["plan"] == {
        "fits": True,
        "device": "server",
        "replicas": 1,
        "max_num_seqs": 4,
        "estimate": None,
        "notes": [],
    }
    assert record["memory"] == {}
    assert record["engines"]["0"]["info"]["engine"] == f"openai at {server.url}"
    assert record["spend"] == {
        "requests": 3,
        "prompt_tokens": 60,
        "completion_tokens": 300,
        "without_usage": 0,
        "usd": None,
        "before": None,
    }
    metrics = (tmp_path / "m.prom").read_text()
    assert 'batchr1_server_tokens_total{kind="completion",name="remote"} 300.0\n' in metrics
