"""jobs/: each says when to use it, is listed in docs/jobs.md, can be planned, and runs over data as
its comment says.
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest
from click.testing import CliRunner, Result
from made_output import good_row, table_of, write_output
from replay_job import scripted
from s3_fakes import S3

from batchr1.cli.main import main
from batchr1.job import load_job
from batchr1.output.folder import Output
from batchr1.reasoning.verify import Verify, full_verdict
from batchr1.storage.base import open_storage

ROOT = Path(__file__).parents[2]
JOBS = sorted((ROOT / "jobs").glob("*.yaml"))
DATA = ROOT.parent / "shared/data"  # read in place, never copied
DATE = "2026-11-03"


@dataclass(frozen=True)
class Shipped:
    """A job that runs on GPUs of this machine or of a cluster: how it is planned, and what it makes
    of three rows.
    """

    gpus: int = 1
    n: int = 1
    columns: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


LOCAL = {
    "math": Shipped(columns=("family", "level")),
    "nightly": Shipped(columns=("family", "level"), options=("--date", DATE)),
    "teacher_32b": Shipped(gpus=8, n=4, columns=("source",)),
    "pass_at_1": Shipped(n=64),
    "judge": Shipped(columns=("input_id", "input_sample", "judged_answer", "judged_correct")),
    "code": Shipped(n=10, columns=("entry_point", "test")),
    "r1_671b": Shipped(
        gpus=16,
        columns=("family", "level"),
        options=("--executor", "local", "--set", "model.engine_args={}"),
    ),
}
REMOTE = {"remote_api"}  # no GPU to plan for: tests/system/test_server.py


@pytest.fixture
def jobs(tmp_path: Path, s3_moto: S3, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The jobs in a folder of their own, with what their comments say must be there."""
    shutil.copytree(ROOT / "jobs", tmp_path / "jobs")
    problems = pl.read_parquet(ROOT / "jobs/data/math.parquet")
    if not DATA.is_dir():
        pytest.skip(f"{DATA}: the benchmarks that two of the jobs read are not here")
    for name in ("math500", "humaneval"):
        (tmp_path / f"jobs/data/{name}.parquet").symlink_to(DATA / f"{name}.parquet")
    (tmp_path / f"incoming/{DATE}").mkdir(parents=True)
    problems[:5].write_parquet(tmp_path / f"incoming/{DATE}/prompts.parquet")
    problems[:5].select("id", "problem", "answer", source="family").write_parquet(
        tmp_path / "prompts.parquet"
    )
    s3_moto.client().upload_file(
        str(tmp_path / "prompts.parquet"), s3_moto.bucket, "prompts/0.parquet"
    )
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_moto.endpoint)
    monkeypatch.setenv("BUCKET", s3_moto.bucket)
    monkeypatch.setenv("BENCHMARK", "math500")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    return tmp_path / "jobs"


def judged(folder: Path, name: str) -> None:
    """The output that a judge reads, which other jobs would write themselves."""
    if name == "judge":
        rows = [good_row(i, sample=n) for i in range(2) for n in range(2)]
        write_output(folder / "out/math-r1-tiny", [table_of(rows)])


def batchr1(*words: str) -> Result:
    result = CliRunner().invoke(main, scripted(words), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


def test_every_job_is_tested() -> None:
    assert {path.stem for path in JOBS} - REMOTE == set(LOCAL)


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_a_job_says_when_to_use_it_and_the_readme_lists_it(path: Path) -> None:
    schema, empty, *lines = path.read_text(encoding="utf-8").splitlines()
    assert (schema, empty) == ("# yaml-language-server: $schema=../schemas/job.schema.json", "#")
    comment = " ".join(
        line.removeprefix("#").strip() for line in lines[: lines.index(f"name: {path.stem}")]
    )
    assert len(comment) > 150, "when to use it, and how"
    assert f"`{path.name}`" in (ROOT / "docs/jobs.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", LOCAL)
def test_a_job_can_be_planned_for_gpus_that_are_not_there(jobs: Path, name: str) -> None:
    judged(jobs.parent, name)
    options = LOCAL[name].options[:2] if name == "nightly" else ()
    plan = batchr1(
        "plan",
        f"{jobs}/{name}.yaml",
        "--gpu",
        "H100",
        "--gpus",
        str(LOCAL[name].gpus),
        "--json",
        *options,
    )
    assert json.loads(plan.stdout)["replicas"] >= 1


@pytest.mark.parametrize("name", LOCAL)
def test_a_job_runs_over_the_data_that_it_names(jobs: Path, name: str) -> None:
    judged(jobs.parent, name)
    """By the replay engine, with r1-tiny's tokenizer in place of the variant's."""
    few = ["--variant", "r1-tiny", "--limit", "3", "--set", "sampling.max_tokens=60"]
    result = batchr1("run", f"{jobs}/{name}.yaml", *few, *LOCAL[name].options, "--json")
    output = json.loads(result.stdout)["output"]
    tables = Output(open_storage(output)).tables(["gold", *LOCAL[name].columns])
    rows = pl.concat(pl.DataFrame(table) for table in tables)
    assert rows.height == 3 * LOCAL[name].n
    assert rows["gold"].null_count() == (rows.height if name in ("code", "judge") else 0)


def test_measuring_follows_deepseeks_settings() -> None:
    text = (ROOT / "jobs/pass_at_1.yaml").read_text(encoding="utf-8")
    assert "sampling: {n: 64, temperature: 0.6, top_p: 0.95, max_tokens: 32768}" in text
    assert re.search(r"path: \S*\$\{BENCHMARK\}-\{\{ variant \}\}", text), "benchmarks do not mix"


def test_of_an_answer_with_code_the_last_block_is_final() -> None:
    extract = load_job(ROOT / "jobs/code.yaml").verify.extract
    assert extract is not None
    answer = (
        "As in:\n"
        "```python\n"
        "x = 1\n"
        "```\n"
        "so:\n"
        "```python\n"
        "import re\n"
        "\n"
        "\n"
        "def f(a):\n"
        "    return a\n"
        "```\n"
        "That is all."
    )
    verdict = full_verdict(Verify(extract=extract), None, answer, None, {})
    assert (verdict.final, verdict.correct) == ("import re\n\n\ndef f(a):\n    return a", None)
    assert full_verdict(Verify(extract=extract), None, "No code.", None, {}).final is None
