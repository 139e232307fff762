"""Nights: each runs what is new and what the nights before left, once; whatever became of them.

Two layouts: one output that grows, and an output for each date that leaves out what earlier ones
have done.
"""

from __future__ import annotations

import datetime as dt
import json
import re
import shutil
import signal
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click.testing
import polars as pl
import pytest
from process_tree import tree, until
from replay_job import MODEL, keys_of, questions, replay, rows_of, scripted, wanted_keys, write_job
from s3_fakes import S3
from watched import lines_of, samples_of

from batchr1.cli.main import main
from batchr1.cli.options import days
from batchr1.driver.context import open_job
from batchr1.driver.resume.pending_rows import find_pending
from batchr1.errors import InputError, JobError, OutputError
from batchr1.job import load_job

HELPER = str(Path(__file__).parents[1] / "helpers/replay_job.py")
SLOW: dict[str, Any] = {
    "mean_len": 60.0,
    "sigma": 0.1,
    "tokens_per_step": 1,
    "step_s": 0.02,
    "max_num_seqs": 4,
}
DAYS = [f"2026-11-0{day}" for day in range(1, 6)]


def batchr1(*args: str | Path, **script: Any) -> click.testing.Result:
    arguments = [str(a) for a in args]
    return click.testing.CliRunner().invoke(
        main, scripted(arguments, replay(**script)), catch_exceptions=False
    )


def _question(prompt: tuple[int, ...]) -> str:
    """The question in a rendered prompt."""
    from batchr1.dataset.prompts import load_tokenizer

    [found] = re.findall(r"What is \d+ . \d+\?", load_tokenizer(MODEL).decode(list(prompt)))
    return str(found)


class Nights:
    """A folder of prompts to which each night adds, and a job over all of it."""

    def __init__(self, folder: Path, output: str, **input: Any) -> None:
        self.folder = folder
        self.journal, self.metrics = folder / "journal", folder / "batchr1.prom"
        (folder / "in").mkdir()
        self.rows: dict[str, pl.DataFrame] = {}  # by the day on which they came
        self.replaced = pl.DataFrame()
        self.job = write_job(
            folder,
            input={"path": "in/*.parquet", "on_changed_prompt": "rerun", **input},
            output={"path": output, "rows_per_part": 2},
            checkpoint={"every_s": 0.2},
        )

    def add(self, day: str, rows: pl.DataFrame) -> None:
        self.rows[day] = rows
        rows.write_parquet(self.folder / f"in/{day}.parquet")

    def change(self, day: str, id: str) -> None:
        """Somebody corrects a prompt. `replaced`: the row that answers it as it was."""
        outputs = sorted(self.folder.glob("out/data")) + sorted(self.folder.glob(f"out/{day}/data"))
        self.replaced = rows_of(outputs[0].parent).filter(pl.col("id") == id)
        problem = (
            pl.when(pl.col("id") == id).then(pl.lit("What is 6 × 7?")).otherwise(pl.col("problem"))
        )
        self.add(day, self.rows[day].with_columns(problem=problem))

    def run(self, day: str, *options: str, **script: Any) -> click.testing.Result:
        return batchr1(
            "run", self.job, "--date", day, *options, journal=str(self.journal), **script
        )

    def watched(self, day: str, *options: str, **script: Any) -> click.testing.Result:
        """The same with JSON lines and metrics, which are held against their schema and parser."""
        result = self.run(
            day, "--log-format", "json", "--metrics-file", str(self.metrics), *options, **script
        )
        codes = {line["exit_code"] for line in lines_of(result.stderr) if "exit_code" in line}
        assert (
            codes
            == {result.exit_code}
            == {samples_of(self.metrics.read_text())["batchr1_run_exit_code"]}
        )
        return result

    def kill(self, day: str, output: Path) -> None:
        """Run, and kill the whole tree once something was committed and something else is under
        way.
        """
        script = self.folder / "script.json"
        script.write_text(json.dumps(SLOW | {"journal": str(self.journal)}))
        data, before = output / "data", len(list((output / "data").glob("*")))
        watched = ["--metrics-file", str(self.metrics)]
        with tree(
            [HELPER, str(script), "run", str(self.job), "--date", day, *watched], self.folder
        ) as run:
            until(
                lambda: (
                    len(list(data.glob("*"))) > before
                    and list(output.glob(".batchr1/inflight/*-000-*"))
                )
            )
            run.kill()
            assert run.driver.returncode == -signal.SIGKILL
        left = samples_of(self.metrics.read_text())
        assert (left["batchr1_run_active"], "batchr1_run_exit_code" in left) == (1, False), (
            "as the page says"
        )

    def ran(self) -> Counter[tuple[str, int]]:
        """What engines generated since the last call: each question and position of a token, and
        how often.
        """
        lines = (
            [json.loads(line) for line in self.journal.read_text().splitlines()]
            if self.journal.exists()
            else []
        )
        self.journal.unlink(missing_ok=True)
        questions = {
            line["key"]: _question(tuple(line["prompt"])) for line in lines if "prompt" in line
        }
        return Counter(
            (questions[line["key"]], position)
            for line in lines
            if "first" in line
            for position in range(line["first"], line["last"] + 1)
        )

    @property
    def inputs(self) -> pl.DataFrame:
        return pl.concat(self.rows.values())


@dataclass
class Told:
    """What a night said (None: it was killed), and which tokens its engines generated."""

    result: click.testing.Result | None
    tokens: Counter[tuple[str, int]]


def five_nights(nights: Nights, output_of: dict[str, Path]) -> list[Told]:
    """Complete; killed, with a changed prompt; cut by its window; complete; empty."""
    told = []

    def night(result: click.testing.Result | None) -> None:
        told.append(Told(result, nights.ran()))

    nights.add(DAYS[0], questions(8))
    night(nights.watched(DAYS[0]))
    nights.add(DAYS[1], questions(16, start=100))
    nights.change(DAYS[0], "row/3")
    nights.kill(DAYS[1], output_of[DAYS[1]])
    night(None)
    nights.add(DAYS[2], questions(16, start=200))
    night(nights.watched(DAYS[2], "--stop-after", "3s", **SLOW))
    nights.add(DAYS[3], questions(2, start=300))
    night(nights.watched(DAYS[3], **SLOW | {"step_s": 0.0}))
    night(nights.watched(DAYS[4]))
    said = [one.result for one in told if one.result is not None]
    assert [result.exit_code for result in said] == [0, 75, 0, 0]
    assert "\nstopped: the time window of 3 s is over\n" in said[1].stdout
    assert "\nnothing to do\n" in said[3].stdout
    assert not told[4].tokens
    return told


def assert_reported(told: list[Told], *outputs: str | Path) -> None:
    """The report has a line for each night: how it ended, and what its engines generated."""
    lines = json.loads(batchr1("report", *outputs, "--json").stdout)["nights"]
    assert [line["date"] for line in lines] == DAYS
    assert [line["exit_code"] for line in lines] == [0, None, 75, 0, 0]
    assert [line["stopped"] for line in lines] == [
        None,
        None,
        "the time window of 3 s is over",
        None,
        None,
    ]
    for line, one in zip(lines, told, strict=True):
        if one.result is not None:
            assert line["tokens"] == one.tokens.total()
            assert line["engine_hours"] > 0 or not one.tokens
        assert line["is_least"] == (one.result is None)
    assert 0 < lines[1]["rows"] < 17


def run_twice(
    told: list[Told], rows: pl.DataFrame, runs: list[str], *, interrupted: set[int]
) -> int:
    """Count tokens that engines generated twice: only rows of `interrupted` nights have any.

    `rows`: every one that was ever committed; `runs`: by night.
    """
    tokens = sum((one.tokens for one in told), Counter[tuple[str, int]]())
    found = [re.findall(r"What is \d+ . \d+\?", prompt)[0] for prompt in rows["prompt"]]
    lengths = dict(zip(found, rows["completion_tokens"], strict=True))
    assert set(tokens) == {
        (question, i) for question, length in lengths.items() for i in range(length)
    }
    by_night = [{q for q, of in zip(found, rows["run"], strict=True) if of == run} for run in runs]
    under_way = Counter(
        question
        for night in interrupted
        for question in {question for question, _ in told[night].tokens}
        if question not in by_night[night]
    )
    twice = {key: times for key, times in tokens.items() if times > 1}
    assert all(times <= 1 + under_way[question] for (question, _), times in twice.items())
    return len(twice)


def test_five_nights_of_one_output_that_grows(tmp_path: Path) -> None:
    nights, output = Nights(tmp_path, "out"), tmp_path / "out"
    told = five_nights(nights, dict.fromkeys(DAYS, output))
    assert told[4].result is not None
    assert told[4].result.stdout.splitlines()[0] == "42 rows = 42 done + 0 failed + 0 pending"
    rows = rows_of(output)
    assert keys_of(rows) == wanted_keys(nights.inputs)
    changed = rows.filter(pl.col("id") == "row/3")["prompt"].item()
    assert changed.startswith("What is 6 × 7?"), "the row was generated anew"
    assert (output / "_SUCCESS").exists()
    records = [json.loads(path.read_text()) for path in sorted(output.glob(".batchr1/runs/*.json"))]
    assert [record.get("exit_code") for record in records] == [0, None, 75, 0, 0]
    assert [record["date"] for record in records] == DAYS, "every night, the empty one too"
    assert (records[4]["counts"]["done"], records[4]["tally"]["done"], "plan" in records[4]) == (
        42,
        0,
        False,
    )
    by_run = Counter(rows["run"])
    assert sum(by_run.values()) == 42 == by_run.total()
    ended = [record for record in records if "tally" in record]
    replaced = {records[0]["run"]: 1}  # row/3, of the first night
    for record in ended:
        assert record["tally"]["done"] == by_run[record["run"]] + replaced.get(record["run"], 0), (
            "nothing ran twice"
        )
    assert rows["resumed_at"].list.len().max() > 0, "what a night began went on"
    assert_reported(told, output)
    runs = [record["run"] for record in records]
    twice = run_twice(told, pl.concat([rows, nights.replaced]), runs, interrupted={1})
    assert twice <= 4 * 40, "of four rows, what the killed night had not saved yet"
    assert not list(output.glob(".batchr1/inflight/*"))


def test_five_nights_with_an_output_for_each(tmp_path: Path) -> None:
    nights = Nights(tmp_path, "out/{{ ds }}", exclude=["out/*"], exclude_by="prompt")
    outputs = {day: tmp_path / "out" / day for day in DAYS}
    told = five_nights(nights, outputs)
    assert told[4].result is not None
    assert told[4].result.stdout.splitlines()[:3] == [
        "0 rows = 0 done + 0 failed + 0 pending",
        "42 rows left out: equal prompts, or done in input.exclude",
        "nothing to do",
    ]
    by_day = {
        day: rows_of(output) for day, output in outputs.items() if list(output.glob("data/*"))
    }
    union = pl.concat(by_day.values())
    assert keys_of(union) == sorted([*wanted_keys(nights.inputs), ("row/3", 0)]), (
        "by prompt, a changed one is a new row"
    )
    assert union.select("id", "prompt_hash").is_unique().all()
    runs = [
        json.loads(next(outputs[day].glob(".batchr1/runs/*.json")).read_text())["run"]
        for day in DAYS
    ]
    assert_reported(told, tmp_path / "out/*")
    run_twice(
        told, union, runs, interrupted={1, 2}
    )  # what another night's output has under way is not gone on with
    assert by_day[DAYS[0]].height == 8
    assert 0 < by_day[DAYS[1]].height < 17
    complete = [day for day in DAYS if (outputs[day] / "_SUCCESS").exists()]
    assert complete == [DAYS[0], DAYS[3], DAYS[4]]
    # What was killed and what was cut can be brought to an end at any time: nothing is left of
    # them.
    for day in (DAYS[1], DAYS[2]):
        result = nights.run(day)
        assert (result.exit_code, "\nnothing to do\n" in result.stdout) == (0, True)
        assert (outputs[day] / "_SUCCESS").exists()
    assert pl.concat(rows_of(outputs[day]) for day in by_day).equals(union)


# Empty nights.


def test_a_night_whose_input_has_no_rows_is_complete_where_that_is_allowed(tmp_path: Path) -> None:
    nights = Nights(tmp_path, "out/{{ ds }}", path="in/{{ ds }}.parquet", exclude=["out/*"])
    nights.add(DAYS[0], questions(0).cast(pl.String))
    refused = nights.run(DAYS[0])
    assert refused.exit_code == 2
    assert "input.allow_empty: true where a night may bring none" in refused.stderr
    for _ in range(2):
        result = nights.run(DAYS[0], "--set", "input.allow_empty=true")
        assert (result.exit_code, result.stdout.splitlines()[:2]) == (
            0,
            ["0 rows = 0 done + 0 failed + 0 pending", "nothing to do: the input has no rows"],
        )
        assert (tmp_path / "out" / DAYS[0] / "_SUCCESS").exists()
    [record] = [
        json.loads(p.read_text()) for p in (tmp_path / "out" / DAYS[0]).glob(".batchr1/runs/*.json")
    ]
    assert record["date"] == DAYS[0], "the second took the first one's place"
    assert (record["exit_code"], record["counts"]["samples"]) == (0, 0)
    for command in ("status", "report"):
        assert batchr1(command, tmp_path / "out" / DAYS[0]).exit_code == 0


def test_an_empty_night_of_an_output_that_grows_leaves_it_as_it_is(tmp_path: Path) -> None:
    nights = Nights(tmp_path, "out", path="in/{{ ds }}.parquet", allow_empty=True)
    nights.add(DAYS[0], questions(6))
    nights.add(DAYS[1], questions(0).cast(pl.String))
    assert nights.run(DAYS[0], "--stop-after", "0.01s").exit_code == 75
    assert nights.run(DAYS[1]).stdout.splitlines()[1] == "nothing to do: the input has no rows"
    assert nights.run(DAYS[0]).exit_code == 0
    assert nights.run(DAYS[1]).exit_code == 0
    assert keys_of(rows_of(tmp_path / "out")) == wanted_keys(questions(6))


# Which outputs `exclude` names.


def pending_of(job: Path) -> int:
    return find_pending(open_job(load_job(job, date=dt.date(2026, 11, 9)))).counts().pending


def three_outputs(folder: Path) -> Path:
    """a/x, a/y and b/x have done two rows each of ten: one part each of what a run of six made."""
    questions(6).write_parquet(folder / "in.parquet")
    assert (
        batchr1("run", write_job(folder, output={"path": "whole", "rows_per_part": 2})).exit_code
        == 0
    )
    parts = sorted(path.name for path in (folder / "whole/data").iterdir())
    for part, name in zip(parts, ("a/x", "a/y", "b/x"), strict=True):
        others = [other for other in parts if other != part]
        shutil.copytree(
            folder / "whole",
            folder / "out" / name,
            ignore=lambda _, names, others=others: set(others) & set(names),
        )
    questions(10).write_parquet(folder / "in.parquet")
    (folder / "out/a/notes").mkdir()
    (folder / "out/a/file").write_text("no folder")
    return folder


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return three_outputs(tmp_path_factory.mktemp("earlier"))


@pytest.mark.parametrize(
    ("patterns", "left"),
    [
        ([], 10),
        (["out/a/x"], 8),
        (["out/a/*"], 6),
        (["out/*/x"], 6),
        (["out/?/[xy]"], 4),
        (["out/*/*", "out/a/x"], 4),
        (["out/c*"], 10),
        (["nowhere/*/x"], 10),
        (["out/a/not*"], 10),
    ],
)
def test_exclude_takes_folders_and_globs_of_folders(
    earlier: Path, patterns: list[str], left: int
) -> None:
    job = write_job(earlier, input={"exclude": patterns}, output={"path": "out/new"})
    assert pending_of(job) == left


def test_a_jobs_own_output_is_none_of_the_earlier_ones(earlier: Path) -> None:
    job = write_job(earlier, input={"exclude": ["out/a/*", "out/b/x"]}, output={"path": "out/b/x"})
    counts = find_pending(open_job(load_job(job))).counts()
    assert (counts.rows, counts.done, counts.pending, counts.duplicates) == (6, 2, 4, 4)


def test_a_folder_that_is_named_must_be_an_output(earlier: Path) -> None:
    job = write_job(earlier, input={"exclude": ["out/a/notes"]}, output={"path": "out/new"})
    with pytest.raises(
        OutputError, match=r"out/a/notes: input\.exclude names no output of batchr1"
    ):
        pending_of(job)


def test_two_stars_are_refused(earlier: Path) -> None:
    job = write_job(earlier, input={"exclude": ["out/**"]}, output={"path": "out/new"})
    with pytest.raises(JobError) as caught:
        pending_of(job)
    assert str(caught.value) == (
        f"input.exclude: ** is not understood here (got {earlier}/out/**). Write a * for each "
        "folder."
    )


def test_by_prompt_the_id_does_not_matter(earlier: Path) -> None:
    inputs = questions(10).with_columns(id=pl.concat_str(pl.lit("new/"), pl.col("id")))
    inputs.write_parquet(earlier / "renamed.parquet")
    for by, left in (("id", 10), ("prompt", 4)):
        given = {"path": "renamed.parquet", "exclude": ["out/*/*"], "exclude_by": by}
        assert pending_of(write_job(earlier, input=given, output={"path": "out/new"})) == left


def test_exclude_on_s3(s3_moto: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_moto.endpoint)
    root = f"s3://{s3_moto.bucket}/out"
    questions(10).write_parquet(tmp_path / "in.parquet")
    for day, limit in (("2026-11-01", "2"), ("2026-11-02", "5")):
        job = write_job(
            tmp_path,
            input={"exclude": [f"{root}/night-*"]},
            output={"path": f"{root}/night-{{{{ ds }}}}"},
        )
        assert batchr1("run", job, "--date", day, "--limit", limit).exit_code == 0
    assert pending_of(job) == 5
    assert pending_of(write_job(tmp_path, input={"exclude": [f"{root}/night-*-02"]})) == 7
    assert pending_of(write_job(tmp_path, input={"exclude": [f"{root}/other-*"]})) == 10
    lost = write_job(tmp_path, input={"exclude": ["s3://no-such-bucket-here/out/*"]})
    with pytest.raises(InputError, match="no such bucket"):
        pending_of(lost)


# Ranges of days.


def test_days() -> None:
    assert days(None) == [None]
    assert days("2026-11-01") == ["2026-11-01"]
    assert days("2026-10-30..2026-11-02") == [
        "2026-10-30",
        "2026-10-31",
        "2026-11-01",
        "2026-11-02",
    ]
    assert days("2026-11-01..2026-11-01") == ["2026-11-01"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "2026-11-05..2026-11-01",
            "the range ends before it begins (got 2026-11-05..2026-11-01). Put the earlier day "
            "first.",
        ),
        (
            "2026-11-01..",
            "not a date (got '', need YYYY-MM-DD or YYYY-MM-DD..YYYY-MM-DD). Correct it.",
        ),
        (
            "2026-11-01..friday",
            "not a date (got 'friday', need YYYY-MM-DD or YYYY-MM-DD..YYYY-MM-DD). Correct it.",
        ),
        (
            "2026-11-01...2026-11-02",
            "not a date (got '.2026-11-02', need YYYY-MM-DD or YYYY-MM-DD..YYYY-MM-DD). Correct "
            "it.",
        ),
    ],
)
def test_what_is_no_range_of_days(text: str, said: str) -> None:
    with pytest.raises(JobError) as caught:
        days(text)
    assert str(caught.value) == f"--date: {said}"


def test_a_range_runs_each_day_in_turn(tmp_path: Path) -> None:
    nights = Nights(tmp_path, "out/{{ ds }}", path="in/{{ ds }}.parquet")
    for number, day in enumerate(DAYS[:3]):
        nights.add(day, questions(3, start=10 * number))
    result = nights.run(f"{DAYS[0]}..{DAYS[2]}")
    lines = result.stdout.splitlines()
    assert result.exit_code == 0
    assert [line for line in lines if line.endswith(":")] == [f"{day}:" for day in DAYS[:3]]
    assert lines.count("3 rows = 3 done + 0 failed + 0 pending") == 3
    for day, rows in nights.rows.items():
        assert keys_of(rows_of(tmp_path / "out" / day)) == wanted_keys(rows)
    again = nights.run(f"{DAYS[0]}..{DAYS[2]}", "--json")
    documents = [json.loads(line) for line in again.stdout.splitlines()]
    assert [(d["date"], d["exit_code"], d["this_run"]["done"]) for d in documents] == [
        (day, 0, 0) for day in DAYS[:3]
    ]


def test_a_range_ends_with_the_day_that_did_not_come_to_its_end(tmp_path: Path) -> None:
    nights = Nights(tmp_path, "out/{{ ds }}", path="in/{{ ds }}.parquet")
    nights.add(DAYS[0], questions(2).with_columns(problem=pl.lit("")))  # no prompt: rows that fail
    for number, day in enumerate(DAYS[1:3]):
        nights.add(day, questions(30, start=100 * number))
    dates = f"{DAYS[0]}..{DAYS[2]}"
    result = nights.run(dates, "--stop-after", "4s", **SLOW)
    assert result.exit_code == 75, result.output
    assert (
        result.stdout.splitlines()[-1]
        == f"next: batchr1 run {nights.job} --date {dates}    (goes on from here)"
    )
    assert not (tmp_path / "out" / DAYS[2]).exists()
    assert nights.run(dates, **SLOW | {"step_s": 0.0}).exit_code == 3, (
        "the first day has failed rows"
    )
    missing = nights.run(f"{DAYS[2]}..{DAYS[4]}")
    assert (missing.exit_code, missing.stdout.splitlines()[-1]) == (2, f"{DAYS[3]}:")
    assert f"in/{DAYS[3]}.parquet: no such file or folder" in missing.stderr


def test_a_range_of_days_that_are_all_the_same_is_refused(tmp_path: Path) -> None:
    nights = Nights(tmp_path, "out")
    nights.add(DAYS[0], questions(1))
    result = nights.run(f"{DAYS[0]}..{DAYS[1]}")
    assert (result.exit_code, result.stderr) == (
        2,
        f"batchr1: {nights.job}: --date: the job is the same on each day of the range (got no {{{{ "
        "ds }} in its paths). Give one day, or use {{ ds }} in input.path or output.path.\n",
    )
