"""What a changed job does to an output: refused with a diff, no difference, or an extension."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from batchr1.errors import FingerprintError
from batchr1.job.fingerprint import check_same, continued_digest, fingerprint
from batchr1.job.spec import JobSpec

JOB: dict[str, Any] = {
    "name": "math",
    "model": {"variant": "r1-tiny"},
    "input": {"path": "in.parquet", "id": "id", "prompt": "problem"},
    "output": {"path": "out", "keep": ["level"]},
    "sampling": {"n": 2, "max_tokens": 100, "seed": 1},
}


def semantic(
    changes: dict[str, Any], *, model: str = "sha256:m", kept: dict[str, str] | None = None
) -> dict[str, Any]:
    job = {name: dict(keys) if isinstance(keys, dict) else keys for name, keys in JOB.items()}
    for path, value in changes.items():
        section, _, key = path.partition(".")
        if key:
            job.setdefault(section, {})[key] = value
        else:
            job[section] = value
    return fingerprint(
        JobSpec.model_validate(job), model_identity=model, kept=kept or {"level": "int64"}
    )


SEMANTIC: list[tuple[dict[str, Any], str]] = [
    ({"model.quantization": "fp8"}, 'model.quantization: null → "fp8"'),
    (
        {"model.engine_args": {"kv_cache_dtype": "fp8"}},
        'model.engine_args.kv_cache_dtype: null → "fp8"',
    ),
    ({"model.engine_args": {"dtype": "float32"}}, 'model.engine_args.dtype: null → "float32"'),
    (
        {"model.engine_args": {"an_argument_of_tomorrow": 1}},
        "model.engine_args.an_argument_of_tomorrow: null → 1",
    ),
    ({"prompting.instruction": "none"}, 'prompting.instruction: "math" → "none"'),
    ({"prompting.think": "auto"}, 'prompting.think: "force" → "auto"'),
    ({"prompting.format": "seed"}, 'prompting.format: null → "seed"'),
    (
        {"prompting.template_args": {"thinking": True}},
        'prompting.template_args: null → {"thinking": true}',
    ),
    ({"prompting.system": "keep"}, 'prompting.system: null → "keep"'),
    ({"prompting.template": "t.jinja"}, 'prompting.template: null → "t.jinja"'),
    ({"sampling.temperature": 0.7}, "sampling.temperature: 0.6 → 0.7"),
    ({"sampling.top_p": 0.9}, "sampling.top_p: 0.95 → 0.9"),
    ({"sampling.top_k": 20}, "sampling.top_k: null → 20"),
    ({"sampling.seed": 2}, "sampling.seed: 1 → 2"),
    ({"sampling.max_tokens": 50}, "sampling.max_tokens: 100 → 50"),
    ({"sampling.min_p": 0.1}, "sampling.min_p: null → 0.1"),
    ({"sampling.ignore_eos": True}, "sampling.ignore_eos: false → true"),
    ({"sampling.thinking_budget": 50}, "sampling.thinking_budget: null → 50"),
    ({"sampling.answer_budget": 50}, "sampling.answer_budget: null → 50"),
    ({"sampling.stop_loops": True}, "sampling.stop_loops: null → true"),
    ({"sampling.stop": ["END"]}, 'sampling.stop: null → ["END"]'),
    (
        {"sampling.stop": ["END"], "sampling.stop_in": "anywhere"},
        'sampling.stop: null → ["END"]\n  sampling.stop_in: null → "anywhere"',
    ),
    (
        {"sampling.answer_schema": {"type": "object"}},
        'sampling.answer_schema: null → {"type": "object"}',
    ),
    ({"sampling.answer_regex": "[0-9]+"}, 'sampling.answer_regex: null → "[0-9]+"'),
    ({"sampling.repetition_penalty": 1.1}, "sampling.repetition_penalty: null → 1.1"),
    ({"sampling.presence_penalty": 0.5}, "sampling.presence_penalty: null → 0.5"),
    ({"sampling.frequency_penalty": 0.5}, "sampling.frequency_penalty: null → 0.5"),
    ({"sampling.logit_bias": {7: -5}}, 'sampling.logit_bias: null → {"7": -5.0}'),
    ({"sampling.bad_words": ["no"]}, 'sampling.bad_words: null → ["no"]'),
    ({"retry.on": ["unclosed", "empty"]}, 'retry.on: null → ["empty", "unclosed"]'),
    ({"input.prompt": "question"}, 'input.prompt: "problem" → "question"'),
    ({"input.max_tokens": "cap"}, 'input.max_tokens: null → "cap"'),
    ({"input.sampling": {"temperature": "t"}}, 'input.sampling.temperature: null → "t"'),
    ({"input.id": None}, 'input.id: "id" → null'),
    ({"input.id": ["id", "sample"]}, 'input.id: "id" → ["id", "sample"]'),
    ({"input.types": {"level": "int"}}, 'input.types: null → {"level": "int"}'),
    ({"input.gold": "answer"}, 'input.gold: null → "answer"'),
    ({"verify.kind": "none"}, 'verify.kind: "auto" → "none"'),
    ({"verify.extract": "= (.*)"}, 'verify.extract: null → "= (.*)"'),
    ({"output.keep": ["level", "subject"]}, 'output.keep: ["level"] → ["level", "subject"]'),
]
EXECUTION: list[dict[str, Any]] = [
    {"name": "another"},
    {
        "model.engine_args": {
            "max_num_seqs": 7,
            "gpu_memory_utilization": 0.5,
            "tensor_parallel_size": 2,
        }
    },
    {"model.engine_args": {"enforce_eager": True}},
    {"output.rows_per_part": 5},
    {"output.part_every_s": 5},
    {"output.path": "elsewhere"},
    {"output.token_ids": "always"},
    {"checkpoint": {"every_s": 1}},
    {"retry": {"attempts": 9}},
    {"storage": {"endpoint": "http://host:9000", "region": "eu-west-1", "profile": "nightly"}},
    {"storage": {"addressing": "virtual"}},
    {"model.trust_remote_code": True},
    {"input.expected_tokens": "length"},
    {"input.on_changed_prompt": "rerun"},
    {"input.on_changed_gold": "keep"},
    {"max_failed": 7},
    {"sampling.preset": "model"},  # the values that it takes are semantic
    {"on_finish": {"command": ["notify"], "timeout_s": 5}},
    {"schedule": "longest_first"},
    {"executor": {"kind": "ray", "replicas": 2, "address": "host:6379", "shared_storage": True}},
    {"verify": {"kind": "auto", "timeout_s": 3, "memory_gib": 1, "processes": 1}},
]
EXTENDING: list[dict[str, Any]] = [
    {"input.path": ["in.parquet", "more.parquet"]},
    {"input.limit": 1000},
    {"input.where": "level > 3"},
    {"input.exclude": ["earlier"], "input.exclude_by": "prompt"},
    {"input.allow_empty": True},
    {"sampling.n": 4},
]


# compared by the content that they lead to
BY_IDENTITY = {"model.variant", "model.path", "model.repo", "model.served", "model.revision"}
BY_IDENTITY |= {"model.adapter"}  # tests/unit/test_model_overrides.py


def test_every_key_of_a_job_is_in_one_of_the_tables() -> None:
    keys = set()
    for name, field in JobSpec.model_fields.items():
        section = field.annotation
        inner = (
            section.model_fields
            if isinstance(section, type) and issubclass(section, BaseModel)
            else {}
        )
        keys |= {f"{name}.{key}" for key in inner} or {name}
    named = set()
    for changes in [*(changes for changes, _ in SEMANTIC), *EXECUTION, *EXTENDING]:
        for path, value in changes.items():
            nested = isinstance(value, dict) and path in (
                "checkpoint",
                "retry",
                "storage",
                "executor",
                "verify",
            )
            named |= {f"{path}.{key}" for key in value} if nested else {path}
    with_others = {
        "input.messages",
        "input.template",
        "verify.path",
        "sampling.closing_sentence",
        "stop_when",
    }
    with_others |= {
        f"engine.{key}" for key in JobSpec.model_fields["engine"].annotation.model_fields
    }  # type: ignore[union-attr]
    assert named | with_others == keys - BY_IDENTITY
    assert len(SEMANTIC) + len(EXECUTION) + len(EXTENDING) >= 25


@pytest.mark.parametrize(("changes", "line"), SEMANTIC)
def test_what_changes_answers_is_refused_with_the_difference(
    changes: dict[str, Any], line: str
) -> None:
    with pytest.raises(FingerprintError) as refused:
        check_same(semantic({}), semantic(changes), output="out", continue_truncated=True)
    head, *lines, ways = str(refused.value).splitlines()
    assert head == "out: this output was made by a job that differs in what decides the answers:"
    assert lines == f"  {line}".splitlines()
    assert ways == (
        "Run the job as it was, or give a new output.path, or start over with --fresh (deletes "
        "these results)."
    )


def test_a_closing_sentence_decides_answers_and_when_to_stop_does_not() -> None:
    budget = {"sampling.thinking_budget": 50}
    with pytest.raises(FingerprintError, match=r"closing_sentence: null → \"Now\.\""):
        check_same(
            semantic(budget), semantic(budget | {"sampling.closing_sentence": "Now."}), output="out"
        )
    many = {"sampling.n": 4, "input.gold": "answer"}
    assert semantic(many) == semantic(many | {"stop_when": {"correct": 2}})


def test_what_is_unset_leaves_older_outputs_and_snapshots_as_they_are() -> None:
    assert not {"sampling.thinking_budget", "sampling.stop_loops", "retry.on"} & semantic({}).keys()


SERVED = {"model": {"served": "r1"}, "engine": {"kind": "openai", "base_url": "http://a/v1"}}


@pytest.mark.parametrize(
    "changes",
    [
        {"base_url": "http://b/v1"},
        {"api_key_env": "OTHER_KEY"},
        {"concurrency": 7},
        {"timeout_s": 7},
        {"patience_s": 7},
        {"stream": False},
        {"price": {"input": 1, "output": 2}},
        {"price": {"input": 1, "output": 2}, "max_cost": 3},
    ],
)
def test_where_a_server_is_and_what_it_costs_may_change(changes: dict[str, Any]) -> None:
    changed = {**SERVED, "engine": {**SERVED["engine"], **changes}}
    assert semantic(changed) == semantic(SERVED)


def test_that_a_server_does_the_work_and_its_own_parameters_decide_answers() -> None:
    extra = {**SERVED, "engine": {**SERVED["engine"], "extra_body": {"top_a": 1}}}
    with pytest.raises(FingerprintError, match=r"\n  engine.extra_body.top_a: null → 1\n"):
        check_same(semantic(SERVED), semantic(extra), output="out")
    with pytest.raises(FingerprintError, match=r'\n  engine.kind: null → "openai"\n'):
        check_same(semantic({}), semantic(SERVED), output="out")
    assert not any(key.startswith("engine") for key in semantic({})), (
        "older outputs stay as they are"
    )


@pytest.mark.parametrize("changes", EXECUTION + EXTENDING)
def test_how_and_how_much_is_run_may_change(changes: dict[str, Any]) -> None:
    assert semantic(changes) == semantic({})


def test_the_model_and_the_types_of_kept_columns_decide_too() -> None:
    for other in (semantic({}, model="sha256:other"), semantic({}, kept={"level": "string"})):
        with pytest.raises(FingerprintError):
            check_same(semantic({}), other, output="out", continue_truncated=True)


@pytest.mark.parametrize("limit", [101, None])
def test_a_larger_limit_extends_with_the_option_and_keeps_what_is_saved(limit: int | None) -> None:
    before, now = semantic({}), semantic({"sampling.max_tokens": limit})
    check_same(before, now, output="out", continue_truncated=True)
    assert continued_digest(before) == continued_digest(now)
    with pytest.raises(
        FingerprintError, match="With --continue-truncated the rows that were cut go on"
    ):
        check_same(before, now, output="out")
    with pytest.raises(FingerprintError, match=r"max_tokens: .* → 100\nRun the job as it was"):
        check_same(now, before, output="out", continue_truncated=True)


@pytest.mark.parametrize("other", [{"input.messages": "chat"}, {"input.template": "{problem}?"}])
def test_another_way_to_make_prompts_is_refused_with_both_keys(other: dict[str, Any]) -> None:
    [(path, value)] = other.items()
    with pytest.raises(FingerprintError) as refused:
        check_same(semantic({}), semantic({"input.prompt": None, path: value}), output="out")
    assert set(str(refused.value).splitlines()[1:3]) == {
        '  input.prompt: "problem" → null',
        f'  {path}: null → "{value}"',
    }
