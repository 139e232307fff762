"""What a job may say of a server, what it is told otherwise, and that it is told so without showing
a secret.
"""

from __future__ import annotations

from array import array
from pathlib import Path
from typing import Any

import pytest
from chat_server import KEY, remote_job
from click.testing import CliRunner

from batchr1.cli.main import main
from batchr1.dataset.chat_prompts import ChatRenderer
from batchr1.dataset.prompts import MATH_INSTRUCTION, PromptRow, RowError
from batchr1.driver.context import RunOptions, open_job
from batchr1.driver.monitor.cost import as_line, spend_record
from batchr1.engine.openai.server import Spent, money
from batchr1.errors import JobError
from batchr1.job import Overrides, load_job
from batchr1.job.engine import PriceSpec
from batchr1.output.checkpoints import GenerationCheckpoint, decode, encode
from batchr1.output.run_record import SpendRecord, SpentRecord
from batchr1.records import Prompt, Reply

URL = "http://localhost:8000/v1"


@pytest.fixture
def job(tmp_path: Path) -> Path:
    return remote_job(tmp_path, URL)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        (
            ["engine.base_url=null"],
            "the job: engine.base_url is required with engine.kind openai (such as "
            "http://localhost:8000/v1). Correct it.",
        ),
        (
            ["engine.base_url=localhost:8000"],
            (
                "engine.base_url: this is no address (need http://HOST:PORT/v1 or the like, "
                "without ? and #). Correct it."
            ),
        ),
        (
            ["engine.base_url=http://h:99999/v1"],
            (
                "engine.base_url: this is no address (need http://HOST:PORT/v1 or the like). "
                "Correct it."
            ),
        ),
        (
            ["engine.base_url=http://h/v1?key=1"],
            (
                "engine.base_url: this is no address (need http://HOST:PORT/v1 or the like, "
                "without ? and #). Correct it."
            ),
        ),
        (
            [f"engine.base_url=https://me:{KEY}@h/v1"],
            "engine.base_url: credentials in an address are refused (the job is copied into its "
            "output); put the key into the environment variable that engine.api_key_env names. "
            "Correct it.",
        ),
        (
            ["engine.base_url=http://h/v1/chat/completions"],
            "engine.base_url: the end is one path too many (got …/v1/chat/completions, need what "
            "stands before /chat/completions). Correct it.",
        ),
        (
            [f"engine.api_key_env={KEY}"],
            "engine.api_key_env: this is the name of an environment variable, in capitals, and "
            "never the key itself. Correct it.",
        ),
        ([f"engine.api_key={KEY}"], "engine.api_key: unknown key. Did you mean api_key_env?"),
        (
            ["engine.kind=vllm"],
            "the job: engine.base_url is for a server (set engine.kind: openai). Correct it.",
        ),
        (
            ["engine={kind: vllm}"],
            "the job: model.served names a model of a server (set engine.kind: openai, or give "
            "variant, path or repo). Correct it.",
        ),
        (
            ["engine.concurrency=0"],
            (
                "engine.concurrency: wrong value (got a number 0, need a number greater than 0). "
                "Correct it."
            ),
        ),
        (
            ["engine.max_cost=5"],
            (
                "the job: engine.max_cost needs engine.price, USD per million tokens (got no "
                "price). Correct it."
            ),
        ),
        (["engine.price={input: 1}"], "engine.price.output: this key is required. Add it."),
        (
            ["engine.extra_body={temperature: 1}"],
            (
                "engine.extra_body: temperature has a place of its own (sampling.temperature). "
                "Correct it."
            ),
        ),
        (
            ["engine.extra_body={a: {x-api-key: s}}"],
            "engine.extra_body: x-api-key looks like a secret, and a job is copied into its output "
            "(the key comes from the environment variable that engine.api_key_env names). Correct "
            "it.",
        ),
        (
            ["engine.extra_body={a: .nan}"],
            "engine.extra_body: this cannot be said in JSON (Out of range float values are not "
            "JSON compliant). Correct it.",
        ),
        (
            ["model={path: /m}"],
            (
                "the job: model.path is a folder, and a server knows its model by name (give "
                "model.served). Correct it."
            ),
        ),
        (
            ["model.variant=r1-tiny"],
            (
                "model: give exactly one of variant, path, repo, served (got variant, served). "
                "Correct it."
            ),
        ),
        (
            ["model.quantization=fp8"],
            "the job: model.quantization is how vLLM loads a model here; with engine.kind openai "
            "its server decides. Correct it.",
        ),
        (
            ["model.engine_args={max_num_seqs: 4}"],
            "the job: model.engine_args is how vLLM loads a model here; with engine.kind openai "
            "its server decides. Correct it.",
        ),
        (
            ["sampling.thinking_budget=5"],
            "the job: sampling.thinking_budget needs a model's tokens under way, and engine.kind "
            "openai gives none. Correct it.",
        ),
        (
            ["sampling.stop_loops=true"],
            "the job: sampling.stop_loops needs a model's tokens under way, and engine.kind openai "
            "gives none. Correct it.",
        ),
        (
            ["sampling.ignore_eos=true"],
            "the job: sampling.ignore_eos needs a model's tokens under way, and engine.kind openai "
            "gives none. Correct it.",
        ),
        (
            ["output.token_ids=always"],
            "the job: output.token_ids always: engine.kind openai gives no token ids. Correct it.",
        ),
        (
            ["executor.replicas=2"],
            "the job: executor places engines, and engine.kind openai has one client (raise "
            "engine.concurrency). Correct it.",
        ),
        (
            ["executor.kind=ray"],
            "the job: executor places engines, and engine.kind openai has one client (raise "
            "engine.concurrency). Correct it.",
        ),
    ],
)
def test_a_job_that_asks_a_server_for_what_it_cannot_do_is_refused(
    job: Path, settings: list[str], complaint: str
) -> None:
    with pytest.raises(JobError) as refused:
        load_job(job, Overrides(settings=tuple(settings)))
    assert str(refused.value) == f"{job}: {complaint}"
    assert KEY not in str(refused.value)


@pytest.mark.parametrize(
    ("settings", "options", "complaint"),
    [
        (
            ["model={variant: r1-tiny}"],
            {},
            "model.variant: r1-tiny has no repository to be called by. Give model.served, the name "
            "under which the server serves it.",
        ),
        (
            [],
            {"gpus": "1"},
            "--gpus: chooses among this machine's GPUs, and engine.kind is openai. Leave it out.",
        ),
        (
            [],
            {"devices": ("0",)},
            (
                "--devices: chooses among this machine's GPUs, and engine.kind is openai. Leave it "
                "out."
            ),
        ),
    ],
)
def test_what_only_the_run_can_see_is_refused_too(
    job: Path, settings: list[str], options: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(JobError) as refused:
        open_job(load_job(job, Overrides(settings=tuple(settings))), RunOptions(**options))
    assert str(refused.value) == complaint


def test_a_key_that_a_job_asks_for_is_needed_to_run_it_and_not_to_look_at_it(job: Path) -> None:
    words = [str(job), "--set", "engine.api_key_env=MY_KEY"]
    for command in ("run", "check"):
        result = CliRunner().invoke(main, [command, *words])
        assert result.exit_code == 2
        assert (
            "engine.api_key_env: the environment variable MY_KEY is not set. Set it to the key, or "
            "leave api_key_env out for a server that wants none.\n"
        ) in result.stderr
        assert not (job.parent / "out").exists()
    for command in ("status", "plan"):
        assert CliRunner().invoke(main, [command, *words]).exit_code == 0


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("{served: deepseek-reasoner}", "deepseek-reasoner"),
        ("{repo: deepseek-ai/DeepSeek-R1}", "deepseek-ai/DeepSeek-R1"),
        ("{variant: r1-distill-qwen-7b}", "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B"),
    ],
)
def test_a_model_is_asked_for_by_the_name_that_a_server_knows(
    job: Path, model: str, name: str
) -> None:
    prepared = open_job(load_job(job, Overrides(settings=(f"model={model}",))))
    assert (prepared.model.name, prepared.model.identity) == (name, f"openai:{name}")


def test_an_address_may_end_in_a_slash_and_a_path_may_name_the_served_model(job: Path) -> None:
    spec = load_job(
        job, Overrides(settings=(f"engine.base_url={URL}/", "output.path=/tmp/{{ variant }}"))
    )
    assert spec.engine.base_url == URL
    assert spec.output.path == "/tmp/r1"


def test_plan_takes_no_options_about_gpus(job: Path) -> None:
    result = CliRunner().invoke(main, ["plan", str(job), "--price", "2"])
    assert result.exit_code == 2
    assert (
        "--price: is about GPUs, and engine.kind is openai. Leave it out (engine.price is the "
        "server's).\n"
    ) in (result.stderr)


def test_messages_are_what_the_token_prompt_is_made_of() -> None:
    renderer = ChatRenderer()
    rows = [
        PromptRow("a", "1 + 1?"),
        PromptRow(
            "b", [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2 + 2?"}]
        ),
        PromptRow("c", f"3 + 3? {MATH_INSTRUCTION}"),
        PromptRow(
            "d",
            [
                {"role": "user", "content": "4?"},
                {"role": "assistant", "content": "5"},
                {"role": "user", "content": "6?"},
            ],
        ),
        PromptRow("e", None),
        PromptRow("f", "1 + 1?"),
    ]
    a, b, c, d, e, f = renderer.render_many(rows)
    assert (
        isinstance(a, Prompt)
        and isinstance(b, Prompt)
        and isinstance(c, Prompt)
        and isinstance(d, Prompt)
    )
    assert a.messages == (("user", f"1 + 1?\n\n{MATH_INSTRUCTION}"),)
    assert b.messages == (("user", f"Be brief.\n\n2 + 2?\n\n{MATH_INSTRUCTION}"),)
    assert c.messages == (("user", f"3 + 3? {MATH_INSTRUCTION}"),)
    assert [role for role, _ in d.messages] == ["user", "assistant", "user"]
    assert d.text == f"user: 4?\n\nassistant: 5\n\nuser: 6?\n\n{MATH_INSTRUCTION}"
    assert isinstance(e, RowError) and e.reason == "empty_prompt"
    assert isinstance(f, Prompt) and f.digest == a.digest != b.digest
    assert a.token_ids == () and len(a.digest) == 16
    assert len(renderer.warnings) == 1


def test_a_saved_answer_comes_back_as_it_was() -> None:
    reply = Reply('é\u2028"</think>', None, "length", 5, None, 3)
    saved = GenerationCheckpoint("a", 1, 2, b"h" * 16, array("i"), (), "length", None, reply=reply)
    [again] = decode(encode([saved], job="j"), job="j")
    assert again == saved
    assert again.partial().reply == reply
    assert again.num_tokens == 0


def test_a_run_says_what_it_spent_and_what_is_not_in_it() -> None:
    spent, price = Spent(3, 1_000_000, 100_000, 1), PriceSpec(input=0.5, output=2)
    before = SpentRecord(prompt_tokens=10, completion_tokens=20, usd=1.5)
    record = spend_record(spent, price, before)
    assert SpendRecord.model_validate_json(record.model_dump_json()) == record
    assert record.usd == 0.7
    assert as_line(record, 5.0) == (
        "spent: 0.7000 USD on 3 answers in this run, 2.20 of 5.00 on this output (1 answers "
        "without usage are not in it)"
    )
    assert as_line(spend_record(spent, None, None), None) is None
    assert [money(usd) for usd in (0, 0.00123, 1234.5)] == ["0.00", "0.0012", "1,234.50"]
