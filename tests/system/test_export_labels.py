"""Labels of prompts without gold, equal to plain SQL over the output."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import duckdb
import polars as pl
import pytest
from click.testing import CliRunner
from made_output import good_row, table_of, write_output
from test_export import export, exported, rows_in

from batchr1.cli.main import main

ROWS = 800
LABELS = ["majority_answer", "majority_share", "pass_rate"]
SQL = """
WITH votes AS (
    SELECT trim(prompt) AS prompt, final_answer, count(*) AS votes
    FROM '{parts}' WHERE final_answer IS NOT NULL GROUP BY 1, 2
), placed AS (
    SELECT *, row_number() OVER (PARTITION BY prompt ORDER BY votes DESC, final_answer) AS place
    FROM votes
), prompts AS (
    SELECT trim(prompt) AS prompt, count(*) AS samples,
           count(*) FILTER (correct) / nullif(count(correct), 0) AS pass_rate
    FROM '{parts}' GROUP BY ALL
)
SELECT o.id, o.sample, v.final_answer AS majority_answer,
       v.votes / p.samples AS majority_share, p.pass_rate,
       coalesce(o.final_answer = v.final_answer, false) AS agrees
FROM '{parts}' o
JOIN prompts p ON trim(o.prompt) = p.prompt
LEFT JOIN placed v ON trim(o.prompt) = v.prompt AND v.place = 1
ORDER BY id, sample
"""


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two parts of 100 prompts with eight samples, shuffled; some say nothing, some tie."""
    draw, rows = random.Random(1), []
    for number in range(ROWS // 8):
        ease = draw.random()
        for sample in range(8):
            said = "7" if draw.random() < ease else draw.choice(["8", "9", None])
            judged = None if number % 10 == 3 else said == "7"
            rows.append(good_row(number, sample=sample, final_answer=said, correct=judged))
    draw.shuffle(rows)
    folder = tmp_path_factory.mktemp("labels") / "out"
    write_output(folder, [table_of(rows[:500]), table_of(rows[500:])])
    return folder


@pytest.fixture(scope="module")
def by_sql(output: Path) -> pl.DataFrame:
    with duckdb.connect() as connection:
        return connection.sql(SQL.format(parts=f"{output}/data/*.parquet")).pl()


def sorted_rows(dest: Path) -> pl.DataFrame:
    return rows_in(dest).sort("id", "sample")


@pytest.mark.parametrize("form", ["raw", "sft"])
def test_labels_are_what_sql_says(
    output: Path, by_sql: pl.DataFrame, tmp_path: Path, form: str
) -> None:
    exported(output, tmp_path / "ds", "--to", form, "--dedupe", "none", "--labels")
    rows = sorted_rows(tmp_path / "ds").select("id", "sample", *LABELS)
    assert rows.height == ROWS
    assert rows["majority_share"].n_unique() > 4
    assert rows["pass_rate"].null_count() == ROWS // 10
    assert rows.equals(by_sql.drop("agrees").cast({"sample": rows.schema["sample"]}))


def test_filters_by_labels_are_what_sql_says(
    output: Path, by_sql: pl.DataFrame, tmp_path: Path
) -> None:
    asked = ("--to", "raw", "--pass-rate", "0.25..0.75", "--agrees-with-majority")
    found = exported(output, tmp_path / "ds", *asked)
    wanted = by_sql.filter(pl.col("pass_rate").is_between(0.25, 0.75) & pl.col("agrees"))
    rows = sorted_rows(tmp_path / "ds")
    assert rows.select("id", "sample").rows() == wanted.select("id", "sample").rows()
    assert [step["name"] for step in found["steps"]] == ["--pass-rate", "--agrees-with-majority"]
    assert not {*LABELS} & {*rows.columns}


def test_labels_count_rows_that_a_filter_drops(
    output: Path, by_sql: pl.DataFrame, tmp_path: Path
) -> None:
    exported(output, tmp_path / "ds", "--to", "raw", "--correct-only", "--labels")
    rows = sorted_rows(tmp_path / "ds").select("id", "sample", *LABELS)
    wanted = rows.select("id", "sample").join(
        by_sql.drop("agrees").cast({"sample": rows.schema["sample"]}), on=["id", "sample"]
    )
    assert rows.equals(wanted.sort("id", "sample"))


@pytest.mark.parametrize("text", ["0.5", "0.9..0.1", "a..b", "-1..1", "0.1..2", "nan..1"])
def test_a_range_that_is_none_is_refused(output: Path, tmp_path: Path, text: str) -> None:
    result = export(output, tmp_path / "ds", "--to", "raw", f"--pass-rate={text}")
    assert (result.exit_code, result.stderr) == (
        2,
        f"batchr1: --pass-rate: not a range of rates (got {text!r}, need LOW..HIGH from 0 to 1, "
        "such as 0.1..0.9). Correct it.\n",
    )


def test_what_nobody_judged_has_no_rate(tmp_path: Path) -> None:
    rows = [good_row(i, correct=None) for i in range(3)]
    write_output(tmp_path / "out", [table_of(rows)])
    result = export(tmp_path / "out", tmp_path / "ds", "--to", "raw", "--pass-rate", "0..1")
    assert (result.exit_code, result.stderr) == (
        2,
        f"batchr1: --pass-rate: nothing is known to be right in {tmp_path}/out (got no value in "
        "the column correct). Set input.gold in the job, or leave --pass-rate out.\n",
    )


COUNTED = """
WITH prompts AS (
    SELECT id, any_value(pass_rate) AS pass_rate, any_value(majority_share) AS majority_share
    FROM labelled GROUP BY id
)
SELECT CASE WHEN {name} = 0 THEN '0' WHEN {name} < 0.25 THEN '0-0.25'
            WHEN {name} < 0.5 THEN '0.25-0.5' WHEN {name} < 0.75 THEN '0.5-0.75'
            WHEN {name} < 1 THEN '0.75-1' ELSE '1' END AS place, count(*) AS prompts
FROM prompts WHERE {name} IS NOT NULL GROUP BY 1
"""


def test_report_and_status_count_prompts_as_sql_does(output: Path, by_sql: pl.DataFrame) -> None:
    wanted: dict[str, object] = {"prompts": ROWS // 8}
    with duckdb.connect() as connection:
        connection.register("labelled", by_sql.to_arrow())
        for name in ("pass_rate", "majority_share"):
            wanted[name] = dict(connection.sql(COUNTED.format(name=name)).fetchall())
        [(mean,)] = connection.sql(
            "SELECT avg(share) FROM (SELECT any_value(majority_share) AS share FROM labelled "
            "GROUP BY id)"
        ).fetchall()
    for args in (["report"], ["status"]):
        done = CliRunner().invoke(main, [*args, str(output), "--json"], catch_exceptions=False)
        said = json.loads(done.stdout)["labels"]
        assert said.pop("mean_majority_share") == pytest.approx(mean)
        assert said == wanted
    assert sum(wanted["pass_rate"].values()) == 90  # type: ignore[attr-defined]
    shown = CliRunner().invoke(main, ["status", str(output)]).stdout
    rates = ", ".join(f"{name}: {count}" for name, count in sorted(wanted["pass_rate"].items()))  # type: ignore[attr-defined]
    rates += ", not judged: 10"
    line = f"prompts 100; by pass rate {rates}; majority share {mean:.1%} in the mean"
    assert line in " ".join(shown.split())
    assert max(map(len, shown.splitlines()[1:])) <= 80


def test_the_page_shows_prompts_by_their_labels(output: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    asked = ["report", str(output), "--to", str(page)]
    assert CliRunner().invoke(main, asked, catch_exceptions=False).exit_code == 0
    text = page.read_text(encoding="utf-8")
    section = text[text.index('<section id="labels">') :]
    found = re.findall(r'<tr><th>([\d.-]+)</th>\s*<td class="n">(\d+)</td>', section)
    assert [name for name, _ in found] == ["0", "0-0.25", "0.25-0.5", "0.5-0.75", "0.75-1", "1"]
    assert sum(int(count) for _, count in found) == 90


def test_a_prompt_of_one_sample_has_no_labels(tmp_path: Path) -> None:
    write_output(tmp_path / "out", [table_of([good_row(i) for i in range(3)])])
    done = CliRunner().invoke(main, ["status", str(tmp_path / "out"), "--json"])
    assert json.loads(done.stdout)["labels"] is None
