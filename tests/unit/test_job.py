"""Reading a job: defaults, typed overrides, expansion, relative paths, fingerprint.

What is refused, and in which words, is in test_bad_inputs.py.
"""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from batchr1.errors import FingerprintError, JobError
from batchr1.job import JobSpec, Overrides, load_job
from batchr1.job.fingerprint import check_same, digest, fingerprint

MINIMAL = """\
name: small
model: {variant: r1-tiny}
input: {path: in.parquet, prompt: problem}
output: {path: out}
"""


@pytest.fixture
def job(tmp_path: Path) -> Path:
    path = tmp_path / "jobs" / "job.yaml"
    path.parent.mkdir()
    path.write_text(MINIMAL, encoding="utf-8")
    return path


def changed(job: Path, **sections: Any) -> Path:
    """The minimal job with keys added."""
    raw = yaml.safe_load(MINIMAL)
    for name, keys in sections.items():
        raw[name] = {**raw.get(name, {}), **keys} if isinstance(keys, dict) else keys
    job.write_text(yaml.safe_dump(raw, allow_unicode=True), encoding="utf-8")
    return job


def with_settings(job: Path, *settings: str) -> JobSpec:
    return load_job(job, Overrides(settings=settings))


def test_everything_but_name_model_input_and_output_has_the_default_of_the_design(
    job: Path,
) -> None:
    folder = job.parent
    assert load_job(job).model_dump() == {
        "name": "small",
        "model": {
            "variant": "r1-tiny",
            "path": None,
            "repo": None,
            "served": None,
            "revision": None,
            "quantization": None,
            "adapter": None,
            "trust_remote_code": False,
            "engine_args": {},
        },
        "engine": {
            "kind": "vllm",
            "base_url": None,
            "api_key_env": None,
            "concurrency": 32,
            "timeout_s": 1800,
            "patience_s": 600,
            "stream": True,
            "extra_body": {},
            "price": None,
            "max_cost": None,
            "script": None,
        },
        "input": {
            "path": str(folder / "in.parquet"),
            "id": None,
            "prompt": "problem",
            "messages": None,
            "template": None,
            "gold": None,
            "max_tokens": None,
            "sampling": dict.fromkeys(["temperature", "top_p", "max_tokens", "seed", "stop"]),
            "expected_tokens": None,
            "where": None,
            "types": {},
            "limit": None,
            "on_changed_prompt": "refuse",
            "on_changed_gold": "refuse",
            "exclude": [],
            "exclude_by": "id",
            "allow_empty": False,
        },
        "output": {
            "path": str(folder / "out"),
            "keep": [],
            "rows_per_part": 2000,
            "part_every_s": 600,
            "token_ids": "truncated",
        },
        "prompting": {
            "instruction": "math",
            "think": "force",
            "format": "auto",
            "template_args": {},
            "template": None,
            "system": "auto",
        },
        "sampling": {
            "n": 1,
            "preset": None,
            "temperature": 0.6,
            "top_p": 0.95,
            "top_k": None,
            "min_p": None,
            "max_tokens": 32768,
            "stop": None,
            "stop_in": "answer",
            "answer_schema": None,
            "answer_regex": None,
            "repetition_penalty": None,
            "presence_penalty": None,
            "frequency_penalty": None,
            "logit_bias": None,
            "bad_words": None,
            "seed": None,
            "ignore_eos": False,
            "thinking_budget": None,
            "answer_budget": None,
            "closing_sentence": None,
            "stop_loops": False,
        },
        "schedule": "auto",
        "executor": {"kind": "local", "replicas": None, "address": "auto", "shared_storage": False},
        "checkpoint": {"every_s": 30},
        "retry": {"attempts": 3, "on": []},
        "verify": {
            "kind": "auto",
            "extract": None,
            "path": None,
            "timeout_s": 10,
            "memory_gib": 2,
            "processes": 2,
        },
        "stop_when": None,
        "storage": {"endpoint": None, "region": None, "profile": None, "addressing": "auto"},
        "on_finish": None,
        "max_failed": 0,
    }


def test_a_spec_cannot_be_changed(job: Path) -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_job(job).name = "other"  # type: ignore[misc]


def test_a_name_may_look_like_a_number(job: Path) -> None:
    assert load_job(changed(job, name=20250102)).name == "20250102"


def test_paths_in_the_file_are_relative_to_its_folder(
    job: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/")
    changed(job, input={"path": ["../data/a.parquet", "b/*.parquet"], "exclude": ["../old"]})
    spec = load_job(job)
    folder = job.parent
    assert spec.input.paths == (str(folder.parent / "data/a.parquet"), str(folder / "b/*.parquet"))
    assert spec.input.exclude == [str(folder.parent / "old")]
    assert spec.output.path == str(folder / "out")


def test_a_job_given_by_a_relative_path_means_the_same(
    job: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(job.parent.parent)
    assert load_job(Path("jobs/job.yaml")) == load_job(job)


def test_a_job_behind_a_link_is_relative_to_the_files_own_folder(job: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.yaml"
    link.symlink_to(job)
    assert load_job(link) == load_job(job)


def test_paths_from_the_command_line_are_relative_to_the_working_folder(
    job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    spec = load_job(job, Overrides(output="o", settings=("input.path=i.parquet",)))
    assert (spec.output.path, spec.input.path) == (
        str(tmp_path / "here/o"),
        str(tmp_path / "here/i.parquet"),
    )


def test_uris_and_absolute_paths_stay_as_they_are(job: Path) -> None:
    changed(
        job,
        input={"path": ["s3://bucket/a/*.parquet", "/data/b.parquet"]},
        output={"path": "s3://bucket/out"},
    )
    spec = load_job(job)
    assert spec.input.paths == ("s3://bucket/a/*.parquet", "/data/b.parquet")
    assert spec.output.path == "s3://bucket/out"


def test_home_is_expanded(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    assert load_job(changed(job, output={"path": "~/out"})).output.path == "/home/ada/out"


def test_environment_variant_and_date_are_expanded_in_every_path(
    job: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAKE", "s3://lake")
    changed(
        job,
        input={"path": ["${LAKE}/{{ ds }}/a.parquet"], "exclude": ["${LAKE}/out/{{ds}}"]},
        output={"path": "${LAKE}/out/{{ variant }}/{{ ds }}"},
    )
    spec = load_job(job, date=dt.date(2025, 1, 2))
    assert spec.input.path == ["s3://lake/2025-01-02/a.parquet"]
    assert spec.input.exclude == ["s3://lake/out/2025-01-02"]
    assert spec.output.path == "s3://lake/out/r1-tiny/2025-01-02"


def test_without_a_date_ds_is_today(job: Path) -> None:
    days = {dt.date.today().isoformat()}
    path = load_job(changed(job, output={"path": "/out/{{ ds }}"})).output.path
    days.add(dt.date.today().isoformat())  # midnight may have passed
    assert path.removeprefix("/out/") in days


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ({"variant": "r1-distill-qwen-7b"}, "r1-distill-qwen-7b"),
        ({"repo": "deepseek-ai/DeepSeek-R1"}, "deepseek-r1"),
        ({"path": "/models/My-R1/"}, "my-r1"),
    ],
)
def test_variant_in_a_path_is_the_models_own_name(
    job: Path, model: dict[str, str], name: str
) -> None:
    changed(job, output={"path": "/out/{{ variant }}"})
    raw = yaml.safe_load(job.read_text())
    job.write_text(yaml.safe_dump(raw | {"model": model}))
    assert load_job(job).output.path == f"/out/{name}"


def test_only_paths_are_expanded(job: Path) -> None:
    changed(job, prompting={"instruction": "Cost: ${PRICE} in {{ ds }}"})
    assert load_job(job).prompting.instruction == "Cost: ${PRICE} in {{ ds }}"


def test_the_variant_option_replaces_a_path_or_repository_and_its_revision(job: Path) -> None:
    raw = yaml.safe_load(MINIMAL) | {
        "model": {"repo": "someone/model", "revision": "main", "engine_args": {"seed": 1}}
    }
    raw["output"] = {"path": "/out/{{ variant }}"}
    job.write_text(yaml.safe_dump(raw))
    spec = load_job(job, Overrides(variant="r1-tiny"))
    assert (spec.model.variant, spec.model.repo, spec.model.revision) == ("r1-tiny", None, None)
    assert spec.model.engine_args == {"seed": 1}
    assert spec.output.path == "/out/r1-tiny"


def test_limit_and_output_options_set_their_keys(job: Path) -> None:
    spec = load_job(job, Overrides(limit=7, output="s3://bucket/elsewhere"))
    assert (spec.input.limit, spec.output.path) == (7, "s3://bucket/elsewhere")


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("sampling.n=4", 4),
        ("sampling.temperature=0", 0.0),
        ("sampling.temperature=1e-1", 0.1),
        ("sampling.max_tokens=null", None),
        ("sampling.ignore_eos=true", True),
        ("output.keep=[a, b]", ["a", "b"]),
        ("output.keep={new: old}", {"new": "old"}),
        ("output.keep=all", "all"),
        ("input.id=null", None),
        ("input.id=yes", "yes"),
        ("input.gold=2024", "2024"),
        ("input.where=level >= 4 AND kind = 'a: b'", "level >= 4 AND kind = 'a: b'"),
        ("prompting.instruction=Answer: yes or no", "Answer: yes or no"),
        ("prompting.instruction={problem}", "{problem}"),
        ("prompting.instruction=", ""),
        ("prompting.think=auto", "auto"),
        ("model.engine_args.max_num_seqs=8", 8),
        ("model.engine_args.kv_cache_dtype=fp8", "fp8"),
        ("checkpoint.every_s=0.5", 0.5),
        ("name=1", "1"),
    ],
)
def test_a_setting_has_the_type_that_its_key_has_in_the_spec(
    job: Path, setting: str, value: Any
) -> None:
    spec: Any = with_settings(job, setting)
    for part in setting.partition("=")[0].split("."):
        spec = spec[part] if isinstance(spec, dict) else getattr(spec, part)
    assert (spec, type(spec)) == (value, type(value))


def test_a_list_of_paths_can_be_set(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/data") if Path("/data").is_dir() else monkeypatch.chdir("/")
    here = Path.cwd()
    assert with_settings(job, "input.path=[a.parquet, b.parquet]").input.paths == (
        str(here / "a.parquet"),
        str(here / "b.parquet"),
    )


def test_settings_apply_in_order_and_after_the_other_options(job: Path) -> None:
    spec = load_job(job, Overrides(limit=3, settings=("input.limit=5", "input.limit=9")))
    assert spec.input.limit == 9


def test_a_setting_may_hold_an_equals_sign(job: Path) -> None:
    assert with_settings(job, "input.where=level = 4").input.where == "level = 4"


def test_merge_keys_and_anchors_work(job: Path) -> None:
    job.write_text(MINIMAL + "retry: &more {attempts: 5}\ncheckpoint: {every_s: 1}\n")
    assert load_job(job).retry.attempts == 5


def test_variant_without_a_model_is_a_missing_model_not_an_unknown_variable(job: Path) -> None:
    job.write_text(
        "name: x\ninput: {path: a.parquet, prompt: p}\noutput: {path: 'out-{{ variant }}'}\n"
    )
    with pytest.raises(JobError) as caught:
        load_job(job)
    assert str(caught.value) == f"{job}: model: this key is required. Add it."


@settings(deadline=None)
@given(st.text(max_size=30))
def test_any_short_text_as_a_job_file_is_a_job_error(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    path = tmp_path_factory.mktemp("any") / "job.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(JobError) as caught:
        load_job(path)
    assert str(caught.value).startswith(str(path))


def semantic(spec: JobSpec, model_identity: str = "sha256:1") -> dict[str, Any]:
    return fingerprint(spec, model_identity=model_identity, kept={"level": "int64"})


@pytest.mark.parametrize(
    "setting",
    [
        "sampling.temperature=0.7",
        "sampling.top_p=1",
        "sampling.top_k=5",
        "sampling.seed=1",
        "sampling.max_tokens=100",
        "sampling.ignore_eos=true",
        "prompting.instruction=none",
        "prompting.think=auto",
        "model.quantization=fp8",
        "model.engine_args.kv_cache_dtype=fp8",
        "model.engine_args.dtype=float32",
        "input.id=key",
        "input.prompt=question",
        "input.gold=answer",
        "output.keep=[level]",
    ],
)
def test_what_changes_answers_or_their_shape_changes_the_fingerprint(
    job: Path, setting: str
) -> None:
    before, now = semantic(load_job(job)), semantic(with_settings(job, setting))
    assert digest(before) != digest(now)
    with pytest.raises(FingerprintError):
        check_same(before, now, output="/out")


@pytest.mark.parametrize(
    "setting",
    [
        "sampling.n=4",
        "input.path=other.parquet",
        "input.where=level > 1",
        "input.limit=5",
        "output.path=elsewhere",
        "output.rows_per_part=5",
        "output.part_every_s=5",
        "checkpoint.every_s=5",
        "retry.attempts=1",
        "max_failed=9",
        "storage.region=eu",
        "input.expected_tokens=hint",
        "name=other",
        "model.engine_args.max_num_seqs=8",
        "model.engine_args.gpu_memory_utilization=0.5",
    ],
)
def test_what_changes_only_how_a_job_runs_leaves_the_fingerprint(job: Path, setting: str) -> None:
    before, now = semantic(load_job(job)), semantic(with_settings(job, setting))
    assert digest(before) == digest(now)
    check_same(before, now, output="/out")


def test_another_model_under_the_same_name_is_another_fingerprint(job: Path) -> None:
    spec = load_job(job)
    with pytest.raises(FingerprintError) as caught:
        check_same(semantic(spec), semantic(spec, "sha256:2"), output="/out")
    assert str(caught.value).splitlines()[1] == '  model: "sha256:1" → "sha256:2"'


def test_the_difference_names_each_key_with_both_values_and_the_three_ways_out(job: Path) -> None:
    now = semantic(with_settings(job, "sampling.temperature=0.9", "input.gold=answer"))
    with pytest.raises(FingerprintError) as caught:
        check_same(semantic(load_job(job)), now, output="/out")
    assert str(caught.value) == (
        "/out: this output was made by a job that differs in what decides the answers:\n"
        "  sampling.temperature: 0.6 → 0.9\n"
        '  input.gold: null → "answer"\n'
        "Run the job as it was, or give a new output.path, or start over with --fresh (deletes "
        "these results)."
    )
