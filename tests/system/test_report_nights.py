"""`batchr1 report` across nights: of one output that grows, and of an output for each date."""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from made_output import good_row, table_of
from replay_job import questions, replay, run_replay, write_job
from report_page import Page, assert_inert
from s3_fakes import S3

from batchr1.cli.main import main
from batchr1.output.folder import Output, part_name, stage_part
from batchr1.output.run_record import CountsRecord, RunRecord, TallyRecord
from batchr1.report.nights import nights, total
from batchr1.report.scan import scan
from batchr1.storage.base import Storage, open_storage

FIRST = dt.datetime(2026, 11, 1, 22, 0, tzinfo=dt.UTC)


def report(*args: str | Path) -> Result:
    return CliRunner().invoke(
        main, ["report", *map(str, args)], prog_name="batchr1", catch_exceptions=False
    )


def name_of(night: int) -> str:
    return f"{FIRST + dt.timedelta(days=night):%Y%m%dT%H%M%S}000Z-{night:04x}"


def write_night(
    storage: Storage | Path,
    night: int,
    rows: int,
    *,
    of: int = 0,
    gpus: int = 2,
    wall_s: float = 3600.0,
    killed: bool = False,
    **record: Any,
) -> str:
    """Write a night on two engines of `gpus` GPUs each for `wall_s`: rows, from `of`, and record.

    One row in four was cut, one in two is right.
    """
    output = Output(open_storage(storage) if isinstance(storage, Path) else storage)
    run, started = name_of(night), FIRST + dt.timedelta(days=night)
    if rows:
        made = [
            good_row(
                i,
                run=run,
                truncated=i % 4 == 0,
                truncated_in="answer" if i % 4 == 0 else None,
                correct=i % 2 == 0,
                finished_at=started + dt.timedelta(seconds=wall_s / 2),
            )
            for i in range(of, of + rows)
        ]
        name = part_name(run, 0, 0, 1)
        stage_part(output.storage, table_of(made), name)
        output.commit_part(name)
    if not output.exists():
        spec = {"name": "nightly", "sampling": {"n": 1, "max_tokens": 100}}
        output.write_job({"fingerprint": {}, "model": {"name": "r1-tiny"}, "spec": spec})
    document: dict[str, Any] = {
        "run": run,
        "state": "running",
        "started": started.isoformat(),
        "date": started.date().isoformat(),
        "batchr1": "0.1.0",
        "job": "nightly",
        "plan": {
            "replicas": 2,
            "tensor_parallel": gpus,
            "pipeline_parallel": 1,
            "device": "cuda" if gpus else "cpu",
        },
        "counts_before": {
            "rows": rows,
            "n": 1,
            "samples": rows,
            "pending": rows,
            "done": 0,
            "failed": 0,
        },
    }
    if not killed:
        events = [
            {"worker": w, "event": e, "at_s": at}
            for w in (0, 1)
            for e, at in (("started", 0), ("ended", wall_s))
        ]
        document |= {
            "state": "ended",
            "ended": (started + dt.timedelta(seconds=wall_s)).isoformat(),
            "exit_code": 0,
            "stopped": None,
            "wall_s": wall_s,
            "generating_s": wall_s,
            "tokens_per_s": rows * 20 / wall_s,
            "counts": {
                "rows": rows,
                "n": 1,
                "samples": rows,
                "pending": 0,
                "done": rows,
                "failed": 0,
            },
            "tally": {
                "done": rows,
                "failed": 0,
                "tokens": rows * 20,
                "carried": 0,
                "truncated": -(-rows // 4),
                "judged": rows,
                "correct": -(-rows // 2),
            },
            "replicas": {"events": events},
        }
    output.write_run(RunRecord.model_validate(document | record))
    if not killed:
        output.succeed(run, rows=None, samples=rows)
    return run


def write_empty_night(folder: Path, night: int) -> None:
    run, started = name_of(night), FIRST + dt.timedelta(days=night)
    Output(open_storage(folder)).write_run(
        RunRecord(
            run=run,
            state="ended",
            started=started.isoformat(),
            ended=started.isoformat(),
            date=started.date().isoformat(),
            exit_code=0,
            stopped=None,
            job="nightly",
            counts=CountsRecord(samples=0, pending=0),
            tally=TallyRecord(done=0, failed=0, tokens=0),
        )
    )


def write_five_nights(folder: Path) -> None:
    """Complete; killed after an hour and a half at least; cut by the window; an hour of a failed
    row; empty.
    """
    write_night(folder, 0, 40)
    write_night(folder, 1, 20, of=40, killed=True, wall_s=10_800)
    write_night(
        folder,
        2,
        20,
        of=60,
        exit_code=75,
        state="stopped",
        stopped="the time window of 3600 s is over",
    )
    tally = {
        "done": 10,
        "failed": 1,
        "tokens": 200,
        "carried": 50,
        "truncated": 3,
        "judged": 10,
        "correct": 5,
        "restarts": 2,
    }
    write_night(folder, 3, 10, of=80, exit_code=3, tally=tally)
    write_empty_night(folder, 4)


def test_five_nights_of_one_output(tmp_path: Path) -> None:
    write_five_nights(tmp_path / "out")
    found = json.loads(report(tmp_path / "out", "--json", "--price", "2.5").stdout)
    by_night = found["nights"]

    def column(name: str) -> list[Any]:
        return [night[name] for night in by_night]

    assert column("date") == [f"2026-11-0{day}" for day in range(1, 6)]
    assert column("rows") == column("rows_now") == [40, 20, 20, 10, 0]
    assert column("failed") == [0, 0, 0, 1, 0]
    assert column("tokens") == [800, 400, 400, 150, 0], (
        "what was saved before is not generated again"
    )
    assert column("exit_code") == [0, None, 75, 3, 0]
    assert column("engine_hours") == [2.0, 3.0, 2.0, 2.0, 0.0]
    assert column("gpu_hours") == [4.0, 6.0, 4.0, 4.0, 0.0], "engines × GPUs × hours"
    assert column("is_least") == [False, True, False, False, False]
    assert column("cost_usd") == [10.0, 15.0, 10.0, 10.0, 0.0]
    assert column("truncated_share") == [0.25, 0.25, 0.25, 0.3, None]
    assert column("pass_rate") == [0.5, 0.5, 0.5, 0.5, None]
    assert column("counted_from") == ["record", "rows", "record", "record", "record"]
    everything = found["all_nights"]
    assert (everything["rows"], everything["tokens"], everything["gpu_hours"]) == (90, 1750, 18.0)
    assert (everything["cost_usd"], everything["nights"], everything["is_least"]) == (45.0, 5, True)
    assert (found["price_usd"], len(found["outputs"]), found["rows"]["done"]) == (2.5, 1, 90)

    assert report(tmp_path / "out", "--price", "2.5").exit_code == 0
    page = (tmp_path / "out/report.html").read_text()
    assert_inert(page.encode())
    text = re.sub(r"\s+", " ", Page(page).text)
    for said in (
        "Night by night",
        "2026-11-02",
        "ended without a word",
        "exit code 75: the time window of 3600 s is over",
        "exit code 3 · 2 restarts",
        "nothing to do",
        "≥ 6.00",
        "≥ 18.00",
        "15.00",
        "≥ 45.00",
        "at least: 18.00 GPU-hours at 2.50",
        "2 × cuda × 2",
        "of a run that ended without a word, the rows that are there now",
    ):
        assert said in text, said
    for chart in (
        "rows by night",
        "output tokens/s by night",
        "USD by night",
        "truncated by night",
        "right by night",
    ):
        assert f'aria-label="{chart}"' in page


def test_rows_that_a_later_night_replaced_are_still_what_the_earlier_one_brought(
    tmp_path: Path,
) -> None:
    run = write_night(tmp_path / "out", 0, 8)
    output = Output(open_storage(tmp_path / "out"))
    [part] = output.parts()
    kept = output.read_part(part, None).slice(1)
    output.storage.delete(part)
    name = part_name(run, 0, 0, 1).replace(".parquet", f"-c-{name_of(1)}.parquet")
    stage_part(output.storage, kept, name)
    output.commit_part(name)
    write_night(tmp_path / "out", 1, 1)
    first, second = nights([output], scan([output]).rows)
    assert (first.rows, first.rows_now, first.truncated, second.rows, second.rows_now) == (
        8,
        7,
        2,
        1,
        1,
    )
    assert total([first, second])["rows"] == 9


def test_an_output_for_each_date_by_glob_and_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    dates = [f"2026-11-0{day}" for day in range(1, 4)]
    for night, date in enumerate(dates):
        write_night(tmp_path / "out" / date, night, 8 * (night + 1))  # the same ids in each
    (tmp_path / "out/notes").mkdir()
    (tmp_path / "out/2026-11-03/.batchr1/job.json").rename(tmp_path / "job.json")
    assert len(json.loads(report("out/*", "--json").stdout)["outputs"]) == 3, (
        "one whose engines never came up, too"
    )
    (tmp_path / "job.json").rename(tmp_path / "out/2026-11-03/.batchr1/job.json")
    said = report("out/*", "--to", "nights.html")
    assert re.fullmatch(rf"{tmp_path}/nights.html: \d\.\d MB about 24 rows\n", said.output)
    found = json.loads(report("out/*", "--json").stdout)
    by_name = json.loads(report(*(f"out/{date}" for date in reversed(dates)), "--json").stdout)
    assert {**found, "made_at": None} == {**by_name, "made_at": None}, (
        "by the time at which they ran"
    )
    assert [night["output"] for night in found["nights"]] == [
        f"{tmp_path}/out/{date}" for date in dates
    ]
    assert (
        [night["rows"] for night in found["nights"]]
        == [night["rows_now"] for night in found["nights"]]
        == [8, 16, 24]
    )
    assert (
        found["rows"]["done"],
        found["rows"]["prompts"],
        found["measures"]["all"]["prompts"],
    ) == (24, 24, 24), "each key once, as status and export count"
    assert found["rows"]["repeated"] == 24
    shared = "24 rows have a later one of the same model, id and sample"
    assert shared in Page((tmp_path / "nights.html").read_text()).text
    assert found["output"] == f"3 outputs, {tmp_path}/out/2026-11-01 to {tmp_path}/out/2026-11-03"
    assert found["state"] == "complete"
    page = (tmp_path / "nights.html").read_bytes()
    assert_inert(page)
    text = Page(page.decode()).text
    assert "3 outputs" in text
    (tmp_path / "out/2026-11-02/_SUCCESS").unlink()
    assert report("out/*", "--to", "nights.html").exit_code == 0
    shown = Page((tmp_path / "nights.html").read_text()).text
    assert (
        "1 of 3 outputs are not complete: everything below is of the rows that are done." in shown
    )


def test_outputs_on_s3_by_glob(s3: S3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint)
    for night in range(2):
        write_night(s3.storage(f"out/night-{night}"), night, 4)
    found = json.loads(
        report(f"s3://{s3.bucket}/out/night-*", "--json", "--to", tmp_path / "n.html").stdout
    )
    assert [night["rows"] for night in found["nights"]] == [4, 4]
    assert (tmp_path / "n.html").exists()


def test_one_night_is_a_table_of_one_line(tmp_path: Path) -> None:
    write_night(tmp_path / "out", 0, 8, gpus=0)
    assert report(tmp_path / "out", "--price", "3").exit_code == 0
    page = (tmp_path / "out/report.html").read_text()
    text = Page(page).text
    assert "Runs" in text and "Night by night" not in text
    assert "2.00" in text, "engine-hours, on CPUs"
    assert "by night" not in page
    write_empty_night(tmp_path / "out", 1)
    assert report(tmp_path / "out").exit_code == 0
    text = Page((tmp_path / "out/report.html").read_text()).text
    assert "nothing to do" in text and "Night by night" not in text, "nothing to compare"


def test_a_real_run_generates_what_it_says(tmp_path: Path) -> None:
    """Cut, gone on with, and once more without anything to do."""
    questions(30).write_parquet(tmp_path / "in.parquet")
    job = write_job(tmp_path, output={"rows_per_part": 4}, checkpoint={"every_s": 0.2})
    slow = replay(mean_len=60.0, tokens_per_step=1, step_s=0.02, max_num_seqs=4)
    day = dt.date(2026, 11, 30)
    assert run_replay(job, slow, stop_after_s=4.0, date=day).exit_code == 75
    assert run_replay(job, replay(mean_len=60.0), date=day).exit_code == 0
    assert run_replay(job, replay(mean_len=60.0), date=day).tally.done == 0
    output = Output(open_storage(tmp_path / "out"))
    rows = scan([output]).rows
    first, second, third = nights([output], rows, price=1.0)
    assert first.tokens + second.tokens == rows["completion_tokens"].sum(), (
        "each once, in rows or saved for the next"
    )
    assert first.rows + second.rows == 30 == first.rows_now + second.rows_now
    assert [night.exit_code for night in (first, second, third)] == [75, 0, 0]
    assert (third.rows, third.tokens, third.engine_hours, third.engines) == (0, 0, 0.0, None)
    assert 0 < first.engine_hours <= (first.wall_s or 0) / 3600
    assert (first.gpu_hours, first.cost_usd) == (0.0, 0.0), "CPUs are no GPUs"

    assert report(tmp_path / "out").exit_code == 0
    page = (tmp_path / "out/report.html").read_text()
    text = Page(page).text
    assert "Run by run" in text and "ight by night" not in text, "they are of one day"
    assert 'aria-label="rows by run"' in page
    assert str(first.started)[:16].replace("T", " ") in text
    if first.tokens:  # a slow machine is not ready within the window
        assert "in the last of 2 runs that generated" in text, "the third had nothing to do"
    assert "3 runs that generated" not in text


def test_outputs_of_two_jobs_are_no_nights(tmp_path: Path) -> None:
    for night, name in enumerate(("one", "two")):
        write_night(tmp_path / name, night, 8, job=name)
        job = json.loads((tmp_path / name / ".batchr1/job.json").read_text())
        job["spec"]["name"] = name
        (tmp_path / name / ".batchr1/job.json").write_text(json.dumps(job))
    assert report(tmp_path / "one", tmp_path / "two", "--to", tmp_path / "n.html").exit_code == 0
    text = Page((tmp_path / "n.html").read_text()).text
    assert "Run by run" in text and "ight by night" not in text


BAD: dict[str, tuple[Sequence[str], str]] = {
    "no place for the page": (
        ["TMP/out", "TMP/other"],
        "--to: the page of several outputs has no place of its own (got 2). Add --to nights.html.",
    ),
    "a glob of nothing": (
        ["TMP/none-*", "--json"],
        "TMP/none-*: the glob matches no output of batchr1. Check the pattern.",
    ),
    "two stars": (
        ["TMP/**", "--json"],
        "OUTPUT: ** is not understood here (got TMP/**). Write a * for each folder.",
    ),
    "one that is none": (
        ["TMP/out", "TMP/foreign", "--json"],
        "TMP/foreign: not an output of batchr1. Give the folder that a job wrote.",
    ),
    "a price that is none": (
        ["TMP/out", "--price", "-1"],
        "--price: not a price (got -1, need USD per GPU-hour). Correct it.",
    ),
    "among another's results": (
        ["TMP/out", "TMP/other", "--to", "TMP/other/data/n.html"],
        "--to TMP/other/data/n.html: lies among the results (got data/ of the output). Give "
        "another place.",
    ),
}


@pytest.mark.parametrize("name", list(BAD))
def test_what_cannot_be_is_refused_with_one_line(name: str, tmp_path: Path) -> None:
    for number, folder in enumerate(("out", "other")):
        write_night(tmp_path / folder, number, 2)
    (tmp_path / "foreign").mkdir()
    args, message = BAD[name]
    done = report(*(a.replace("TMP", str(tmp_path)) for a in args))
    assert done.stderr.replace(str(tmp_path), "TMP") == f"batchr1: {message}\n"
    assert (done.exit_code, done.stdout) == (2, "")


@pytest.mark.slow
def test_a_year_of_nights_is_a_page_of_its_own_size(tmp_path: Path) -> None:
    for night in range(365):
        write_night(tmp_path / "out", night, 2, of=2 * night)
    assert report(tmp_path / "out", "--price", "2").exit_code == 0
    assert (tmp_path / "out/report.html").stat().st_size < 2_000_000


def test_a_servers_night_that_was_killed_at_once_is_not_said_to_have_cost_nothing(
    tmp_path: Path,
) -> None:
    write_night(tmp_path, 0, rows=4, gpus=0, killed=True, plan={"replicas": 1, "device": "server"})
    output = Output(open_storage(tmp_path))
    [night] = nights([output], scan([output]).rows, price=2.0)
    assert (night.rows, night.cost_usd, total([night])["cost_usd"]) == (4, None, None)
