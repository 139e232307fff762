"""The published schemas are what the code says, and the code is what the schemas say."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click.testing
import jsonschema
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from pydantic import BaseModel
from replay_job import questions, run_replay, write_job

from batchr1.cli.main import main
from batchr1.columns import COLUMNS, KEPT_AFTER
from batchr1.job import JobSpec, load_job
from batchr1.output.folder import Output
from batchr1.output.folder import _json as as_json
from batchr1.output.run_record import FORMAT, parse_record
from batchr1.records import Result
from batchr1.storage.base import open_storage

ROOT = Path(__file__).parents[2]
JOBS = sorted((ROOT / "jobs").glob("*.yaml"))
OLD_RECORDS = sorted((ROOT / "tests/data/before_rebuild/output/.batchr1/runs").glob("*.json"))


def published(what: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(
        (ROOT / "schemas" / f"{what}.schema.json").read_text(encoding="utf-8")
    )
    return document


def expanded(job: Path) -> dict[str, Any]:
    raw: dict[str, Any] = yaml.safe_load(job.read_text(encoding="utf-8"))
    return raw


@pytest.mark.parametrize("what", ["job", "output", "run", "log"])
def test_the_schema_command_prints_the_published_file(what: str) -> None:
    result = click.testing.CliRunner().invoke(main, ["schema", what], catch_exceptions=False)
    assert result.exit_code == 0
    assert result.stdout == (ROOT / "schemas" / f"{what}.schema.json").read_text(encoding="utf-8")


def test_the_job_schema_is_a_valid_json_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(published("job"))


def test_every_key_of_a_job_is_described() -> None:
    schema = published("job")
    for definition in schema["$defs"].values():
        for name, key in definition["properties"].items():
            assert "description" in key or "$ref" in key, name


@pytest.mark.parametrize("job", JOBS, ids=[job.name for job in JOBS])
def test_a_shipped_job_is_valid_by_schema_and_by_spec(
    job: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BUCKET", "mine")
    monkeypatch.setenv("BENCHMARK", "math500")
    jsonschema.validate(expanded(job), published("job"))
    spec = load_job(job, date=dt.date(2025, 1, 2))
    assert spec.name == job.stem


def test_the_main_job_is_shipped() -> None:
    assert "math.yaml" in [job.name for job in JOBS]


@pytest.mark.parametrize("job", JOBS, ids=[job.name for job in JOBS])
def test_a_shipped_job_names_the_schema_for_editors(job: Path) -> None:
    first = job.read_text(encoding="utf-8").splitlines()[0]
    assert first == "# yaml-language-server: $schema=../schemas/job.schema.json"


GOOD: dict[str, Any] = {
    "name": "x",
    "model": {"variant": "r1-tiny"},
    "input": {"path": "in.parquet", "prompt": "problem"},
    "output": {"path": "out"},
}


@pytest.mark.parametrize(
    ("section", "keys"),
    [
        ("sampling", {"n": "four"}),
        ("sampling", {"n": 0}),
        ("sampling", {"temprature": 1}),
        ("sampling", {"temperature": 2.5}),
        ("prompting", {"think": "always"}),
        ("output", {"path": 3}),
        ("model", {"quantization": "int3"}),
        ("name", "a/b"),
        ("wrokers", 3),
    ],
)
def test_what_the_spec_refuses_the_schema_refuses_too(section: str, keys: Any) -> None:
    raw = {**GOOD, section: {**GOOD.get(section, {}), **keys} if isinstance(keys, dict) else keys}
    with pytest.raises(ValueError, match=r"validation error"):
        JobSpec.model_validate(raw)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(raw, published("job"))


def test_a_good_job_passes_both() -> None:
    JobSpec.model_validate(GOOD)
    jsonschema.validate(GOOD, published("job"))


def test_every_key_of_a_run_record_is_described() -> None:
    schema = published("run")
    jsonschema.Draft202012Validator.check_schema(schema)
    for definition in [schema, *schema["$defs"].values()]:
        for name, key in definition["properties"].items():
            assert "description" in key, name


@pytest.mark.parametrize("path", OLD_RECORDS, ids=["stopped", "killed"])
def test_a_record_of_an_older_batchr1_is_read_and_kept_to_the_byte(path: Path) -> None:
    record = parse_record(path.read_bytes())
    assert record.format == 1
    assert (record.counts is None) == (record.state == "running")
    assert as_json(record.to_dict()) == path.read_bytes()
    jsonschema.validate(json.loads(path.read_bytes()), published("run"))


def test_a_newer_record_is_read_and_its_unknown_keys_are_kept() -> None:
    newer = json.loads(OLD_RECORDS[0].read_bytes())
    newer |= {"format": 99, "weather": {"rain": True}}
    newer["tally"]["sighs"] = 3
    record = parse_record(json.dumps(newer).encode())
    assert (record.format, record.tally and record.tally.done) == (99, 9)
    assert record.to_dict() == newer


def test_a_written_record_has_the_keys_of_the_published_schema(real_output: Path) -> None:
    """None is unknown to the models, and the published schema holds."""
    [path] = (real_output / ".batchr1/runs").glob("*.json")
    record = parse_record(path.read_bytes())
    assert record.format == FORMAT
    assert list(unknown_keys(record)) == []
    assert record.to_dict() == json.loads(path.read_bytes())
    jsonschema.validate(json.loads(path.read_bytes()), published("run"))


def unknown_keys(value: Any) -> Iterator[str]:
    """The keys, at any depth, that no model has."""
    if isinstance(value, BaseModel):
        yield from value.model_extra or {}
        for name in value.model_fields_set:
            yield from unknown_keys(getattr(value, name))
    elif isinstance(value, dict):
        for one in value.values():
            yield from unknown_keys(one)
    elif isinstance(value, list):
        for one in value:
            yield from unknown_keys(one)


@pytest.fixture(scope="module")
def part(tmp_path_factory: pytest.TempPathFactory) -> pa.Schema:
    """The Arrow schema of a part that a whole run wrote, as pyarrow reads it from the file."""
    folder = tmp_path_factory.mktemp("job")
    rows = questions(3).to_arrow()
    rows = rows.append_column("level", pa.array([1, 2, 3], pa.int16()))
    pq.write_table(rows.append_column("tags", pa.array([["a"], [], None])), folder / "in.parquet")
    summary = run_replay(write_job(folder, output={"keep": ["level", "tags"]}))
    assert summary.exit_code == 0
    storage = open_storage(folder / "out")
    return pq.read_schema(storage.path(Output(storage).parts()[0]))


def test_a_written_part_has_the_columns_of_the_published_schema_by_name_and_by_type(
    part: pa.Schema,
) -> None:
    columns = published("output")["columns"]
    kept = ["level", "tags"]
    assert [n for n in part.names if n not in kept] == [c["name"] for c in columns]
    for column in columns:
        field = part.field(column["name"])
        assert (plain(field.type), field.nullable) == (column["type"], column["nullable"]), column[
            "name"
        ]


def test_kept_columns_stand_behind_the_sample_with_the_inputs_types(part: pa.Schema) -> None:
    at = part.get_field_index(KEPT_AFTER)
    assert part.names[at + 1 : at + 3] == ["level", "tags"]
    assert (part.field("level").type, plain(part.field("tags").type)) == (
        pa.int16(),
        "list<item: string>",
    )


def plain(kind: pa.DataType) -> str:
    """A type's name; Parquet calls the items of a list `element`."""
    return str(kind).replace("list<element:", "list<item:")


def test_each_column_is_a_field_of_a_result() -> None:
    assert {c.name for c in COLUMNS} == set(Result.__dataclass_fields__) - {"kept"}


def test_the_allowed_values_are_those_of_the_records() -> None:
    from typing import get_args

    from batchr1.records import FinishReason, ReasoningStatus, TruncatedBy, TruncatedIn

    values = {c["name"]: tuple(c.get("values", ())) for c in published("output")["columns"]}
    assert values["reasoning_status"] == get_args(ReasoningStatus)
    assert values["truncated_in"] == get_args(TruncatedIn)
    assert values["truncated_by"] == get_args(TruncatedBy)
    assert values["finish_reason"] == get_args(FinishReason)
