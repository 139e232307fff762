"""docs/nightly.md and jobs/nightly.yaml: every command of the page is run, and every line it shows
is said.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path

import click.testing
import polars as pl
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from replay_job import scripted

from batchr1.cli.main import COMMANDS, main
from batchr1.driver.monitor.prometheus import HELP
from batchr1.events import EVENTS
from batchr1.job import JobSpec

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/nightly.md").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Shown:
    """A command of the page with what is shown of it."""

    command: str
    lines: tuple[str, ...]
    exit_code: int


def shown() -> list[Shown]:
    found = []
    for block in re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL):
        command, *lines = block.splitlines()
        code = re.fullmatch(r"\(exit code (\d+)\)", lines[-1]) if lines else None
        found.append(
            Shown(
                command.removeprefix("$ "),
                tuple(lines[:-1] if code else lines),
                int(code[1]) if code else 0,
            )
        )
    return found


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The job, and the prompts of four days: the third has three of the first's and one without
    text, the last none.
    """
    (tmp_path / "jobs").mkdir()
    shutil.copy(ROOT / "jobs/nightly.yaml", tmp_path / "jobs")
    problems = pl.read_parquet(ROOT / "jobs/data/math.parquet")
    bad = problems[30:31].with_columns(problem=pl.lit(" "))
    third = [
        problems[20:27],
        bad,
        problems[:3].with_columns(id=pl.concat_str(pl.lit("again/"), pl.col("id"))),
    ]
    days = {"01": problems[:10], "02": problems[10:20], "03": pl.concat(third), "04": problems[:0]}
    for day, rows in days.items():
        path = tmp_path / f"incoming/2026-11-{day}/prompts.parquet"
        path.parent.mkdir(parents=True)
        rows.write_parquet(path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_command_of_the_page_does_what_the_page_shows(folder: Path) -> None:
    commands = shown()
    assert len(commands) >= 10
    for one in commands:
        words = shlex.split(one.command.replace("--stop-after 6h", "--stop-after 0.1s"))
        assert words[0] == "batchr1"
        runner = click.testing.CliRunner()
        result = runner.invoke(
            main, scripted(words[1:]), prog_name="batchr1", catch_exceptions=False
        )
        assert result.exit_code == one.exit_code, (one.command, result.output)
        said = result.output.replace("--stop-after 0.1s", "--stop-after 6h").replace(
            "of 0.1 s", "of 21600 s"
        )
        for line in one.lines:
            pattern = re.escape(line).replace("…", ".*")
            assert re.search(rf"^{pattern}$", said, re.MULTILINE), (one.command, line, said)
    metrics = {
        family.name
        for family in text_string_to_metric_families((folder / "batchr1.prom").read_text())
    }
    assert "batchr1_run_exit_code" in metrics
    outputs = sorted(path.name for path in (folder / "out/nightly").iterdir())
    assert outputs == [f"2026-11-0{day}" for day in range(1, 5)]
    rows = pl.concat(
        pl.read_parquet(f"{folder}/out/nightly/2026-11-0{day}/data/*.parquet")
        for day in range(1, 4)
    )
    assert rows.height == 27 == rows["prompt_hash"].n_unique()


def test_what_the_page_names_is_there() -> None:
    for command in re.findall(r"`batchr1 (\w+)", PAGE):
        assert command in COMMANDS
    metrics = set(re.findall(r"\bbatchr1_\w+", PAGE))
    assert metrics and metrics <= set(HELP)
    for name in ("run_ended", "nothing_to_do", "failed"):
        assert name in EVENTS
    for target in re.findall(r"\]\(([^)#:]+)\)", PAGE):
        assert (ROOT / "docs" / target).exists(), target


def test_the_command_that_the_job_and_the_page_show_is_a_valid_one() -> None:
    text = (ROOT / "jobs/nightly.yaml").read_text(encoding="utf-8")
    [commented] = re.findall(r"^# (on_finish: \{.*?\})", text, re.MULTILINE)
    [in_page] = re.findall(r"`(on_finish: \{.*?\})`", PAGE)
    for line in (commented, in_page):
        raw = yaml.safe_load(text) | yaml.safe_load(line)
        spec = JobSpec.model_validate(raw)
        assert spec.on_finish is not None
        assert json.dumps(spec.on_finish.command) == '["notify", "#nightly"]'
