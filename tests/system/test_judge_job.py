"""A judge, chained behind an output: its verdicts are joined to what it judged."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from chat_server import MODEL, ChatServer, chat_server
from click.testing import CliRunner, Result
from made_output import good_row, table_of, write_output
from replay_job import questions, rows_of, run_replay, write_job

from batchr1.cli.main import main

JOBS = Path(__file__).parents[2] / "jobs"
JUDGE, MATH = JOBS / "judge.yaml", JOBS / "math.yaml"


def judged_by_rule(prompt: str, answer: str) -> str:
    """Give the verdict of the scripted judge."""
    return "right" if sum(map(ord, prompt + answer)) % 3 else "wrong"


def reply(prompt: str, seed: int | None = None) -> tuple[str, str]:
    """Read a judge's prompt as jobs/judge.yaml writes it, and judge."""
    found = re.search(r"question:\n\n(.*)\n\nThe student thought:\n\n.*", prompt, re.DOTALL)
    answer = re.search(r"\n\nand answered:\n\n(.*)\n\nIs the answer right", prompt, re.DOTALL)
    assert found and answer
    question = found[1].partition("\n\nThe student thought:")[0]
    verdict = judged_by_rule(question, answer[1])
    return "Verdict: neither, yet.", f"I looked.\nVerdict: **{verdict}**"


def judge_job(folder: Path, server: ChatServer, **sampling: Any) -> Path:
    """The shipped job, with a scripted server in the model's place."""
    job = yaml.safe_load(JUDGE.read_text(encoding="utf-8"))
    job["model"] = {"served": MODEL}
    job["engine"] = {"kind": "openai", "base_url": server.url, "concurrency": 4}
    job["output"]["path"] = "../out/judge"
    job["sampling"] |= sampling
    (folder / "jobs").mkdir(exist_ok=True)
    path = folder / "jobs/judge.yaml"
    path.write_text(yaml.safe_dump(job, sort_keys=False), encoding="utf-8")
    return path


def batchr1(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words], catch_exceptions=False)


def test_verdicts_of_a_second_model_stand_beside_the_rows_that_it_read(tmp_path: Path) -> None:
    questions(6).write_parquet(tmp_path / "in.parquet")
    output = tmp_path / "out/math-r1-tiny"
    sections: dict[str, Any] = {"output": {"path": str(output)}}
    run_replay(write_job(tmp_path, sampling={"n": 2, "max_tokens": 200}, **sections))
    assert_judged_and_joined(tmp_path, output)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_rows_of_r1_tiny_are_generated_judged_and_exported(tmp_path: Path) -> None:
    """The chain of the shipped jobs: vLLM on the CPU generates, a scripted server judges."""
    output = tmp_path / "out/math-r1-tiny"
    job = yaml.safe_load(MATH.read_text(encoding="utf-8"))
    job["input"] |= {"path": str(MATH.parent / job["input"]["path"]), "limit": 60}
    job["output"]["path"] = str(output)
    job["sampling"] |= {"n": 2, "max_tokens": 160}
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs/math.yaml").write_text(yaml.safe_dump(job), encoding="utf-8")
    generated = batchr1("run", tmp_path / "jobs/math.yaml", "--gpus", "none", "--json")
    assert generated.exit_code == 0, generated.output
    rows = rows_of(output)
    assert rows.height == 120
    assert rows["truncated"].any(), "cut rows are left out by input.where"
    summary = assert_judged_and_joined(tmp_path, output)
    print(f"\n{rows.height} rows, {int(rows['truncated'].sum())} cut, verdicts {summary}")
    assert summary["rows"] > 60


def assert_judged_and_joined(folder: Path, output: Path) -> dict[str, Any]:
    """Judge an output, export it with the verdicts, and compare both with the rule.

    Returns what the export says of its verdicts.
    """
    rows = rows_of(output)
    with chat_server(reply=reply) as server:
        ran = batchr1("run", judge_job(folder, server), "--json")
    assert ran.exit_code == 0, ran.output
    judged = rows_of(folder / "out/judge")
    readable = rows.filter(pl.col("reasoning").is_not_null() & pl.col("answer").is_not_null())
    readable = readable.filter(~pl.col("truncated"))
    assert 0 < judged.height == readable.height

    given = ("--verdicts", folder / "out/judge", "--json")
    exported = batchr1("export", output, folder / "all", "--to", "raw", *given)
    assert exported.exit_code == 0, exported.output
    joined = pl.read_parquet(folder / "all/data/*.parquet")
    expected = {
        (row["id"], row["sample"]): judged_by_rule(row["prompt"], row["answer"])
        for row in readable.iter_rows(named=True)
    }
    found = joined.select("id", "sample", "verdict").rows()
    assert {(id, sample): verdict for id, sample, verdict in found if verdict} == expected
    assert joined.height == rows.height

    counts = {word: list(expected.values()).count(word) for word in ("right", "wrong")}
    assert all(counts.values())
    summary: dict[str, Any] = json.loads(exported.stdout)["verdicts"]
    assert summary["counts"] == counts
    assert (summary["rows"], summary["without"]) == (len(expected), rows.height - len(expected))
    only = batchr1("export", output, folder / "sft", "--to", "sft", *given, "--verdict", "right")
    assert json.loads(only.stdout)["steps"][1] == {
        "name": "--verdict",
        "keeps": "the judge's verdict is right",
        "rows": counts["right"],
    }
    kept = pl.read_parquet(folder / "sft/data/*.parquet")["verdict"]
    assert kept.unique().to_list() == ["right"]
    return summary


REFUSED: dict[str, tuple[dict[str, Any], list[dict[str, Any]], str]] = {
    "ids of one column": (
        {"input": {"id": "id"}, "sampling": {"n": 1}},
        [good_row(0, id="row%2F0/0")],
        "--verdicts: JUDGE: its ids do not name rows of an output (got input.id: id, need [id, "
        "sample]). Judge as jobs/judge.yaml does.",
    ),
    "several verdicts a row": (
        {"input": {"id": ["id", "sample"]}, "sampling": {"n": 4}},
        [good_row(0, id="row%2F0/0")],
        "--verdicts: JUDGE: has several verdicts of a row (got sampling.n: 4, need 1). Judge with "
        "one sample.",
    ),
    "rows of another output": (
        {"input": {"id": ["id", "sample"]}, "sampling": {"n": 1}},
        [good_row(0, id="other/0")],
        "--verdicts: JUDGE: judges rows of another output (got none of these 1 rows). Name the "
        "output of a job that read this one.",
    ),
    "no row": (
        {"input": {"id": ["id", "sample"]}, "sampling": {"n": 1}},
        [],
        "--verdicts: JUDGE: no row is judged yet (got no part). Run the judge first.",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_output_that_is_no_judges_is_refused(tmp_path: Path, name: str) -> None:
    changes, rows, message = REFUSED[name]
    write_output(tmp_path / "out", [table_of([good_row(0)])])
    write_output(tmp_path / "judge", [table_of(rows)] if rows else [], **changes)

    refused = batchr1(
        "export", tmp_path / "out", tmp_path / "to", "--to", "raw", "--verdicts", tmp_path / "judge"
    )
    assert refused.exit_code == 2
    text = refused.stderr.replace(str(tmp_path / "judge"), "JUDGE").strip()
    assert text == f"batchr1: {message}"
    assert not (tmp_path / "to").exists()


def test_a_verdict_needs_a_judge(tmp_path: Path) -> None:
    write_output(tmp_path / "out", [table_of([good_row(0)])])
    refused = batchr1(
        "export", tmp_path / "out", tmp_path / "to", "--to", "raw", "--verdict", "right"
    )
    assert refused.stderr == (
        "batchr1: --verdict: belongs to --verdicts (got 'right' without it). Name the judge's "
        "output, or leave --verdict out.\n"
    )
