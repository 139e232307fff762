"""What real servers and gateways showed: each fault once, by a server that plays it."""

from __future__ import annotations

import asyncio
import json
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from chat_server import KEY, ChatServer, chat_server, remote_job
from replay_job import keys_of, rows_of

from batchr1.driver.context import RunOptions
from batchr1.driver.monitor.summary import Summary
from batchr1.driver.run_job import run_job
from batchr1.engine.openai.bounds import Held
from batchr1.engine.openai.client import Answer, ChatClient
from batchr1.engine.openai.faults import CertificateError, ProxyFault
from batchr1.engine.openai.served import Served
from batchr1.errors import UsageError
from batchr1.job import Overrides, load_job
from batchr1.job.engine import EngineKind
from batchr1.job.spec import SamplingSpec

PROXIES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*PROXIES, "OPENAI_API_KEY", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)


def run(job: Path, *settings: str) -> Summary:
    return run_job(load_job(job, Overrides(settings=settings)), RunOptions(show_progress=False))


def refusal_of(job: Path, kind: type[Exception], *settings: str) -> str:
    with pytest.raises(kind) as caught:
        run(job, *settings)
    return str(caught.value)


def log_of(output: Path) -> str:
    return max((output / ".batchr1/runs").glob("*.log")).read_text()


def turned(server: ChatServer, word: str, *, after: int) -> None:
    """Let rows from `after` on, and all that is asked again, be answered by `word`."""
    server.scripts = {f"(row {i}.)": ["ok", word] for i in range(after)}
    server.default = word


@pytest.mark.parametrize("word", ["400", "404", "422"])
def test_a_server_that_turns_to_refusals_in_mid_run_stops_it_and_costs_no_row(
    tmp_path: Path, word: str
) -> None:
    with chat_server() as server:
        job = remote_job(tmp_path, server, rows=40)
        turned(server, word, after=6)
        summary = run(job)
        assert (summary.exit_code, summary.counts.failed) == (75, 0)
        assert summary.counts.done == 6
        assert summary.stopped is not None
        assert summary.stopped.startswith(
            "the server refuses everything, also what it has answered before ("
        )
        assert len(server.bodies) < 6 + 10 + 4 + 2, "and is left alone soon"
        server.scripts, server.default = {}, "ok"
        assert run(job).exit_code == 0
    assert keys_of(rows_of(tmp_path / "out")) == sorted((f"row/{i}", 0) for i in range(40))


def test_many_rows_that_are_refused_beside_others_fail_as_rows(tmp_path: Path) -> None:
    with chat_server() as server:
        server.scripts = {f"(row {i}.)": ["400"] for i in range(4, 28)}
        job = remote_job(tmp_path, server, rows=40)
        summary = run(job)
        assert (summary.exit_code, summary.counts.failed, summary.counts.done) == (3, 24, 16)
        again = [body for body in server.bodies if body["max_tokens"] == 1]
        assert 1 <= len(again) <= 3, "an answered prompt was asked again, for one token"
    assert keys_of(rows_of(tmp_path / "out")) == sorted(
        (f"row/{i}", 0) for i in range(40) if not 4 <= i < 28
    )


@pytest.mark.parametrize("concurrency", [1, 8])
def test_refusals_at_the_very_end_fail_as_rows(tmp_path: Path, concurrency: int) -> None:
    with chat_server(scripts={"(row 11.)": ["400"], "(row 10.)": ["413"]}) as server:
        job = remote_job(tmp_path, server, engine={"concurrency": concurrency})
        summary = run(job)
    assert (summary.exit_code, summary.counts.failed, summary.counts.done) == (3, 2, 10)


def test_a_server_that_answers_to_any_name_is_told_of(tmp_path: Path) -> None:
    with chat_server(models=["llama-3", "phi-4"]) as server:
        job = remote_job(tmp_path, server, rows=3)
        assert run(job).exit_code == 0
        said = (
            "the server answers to the name 'teacher/r1', which its list does not have (it lists "
            "llama-3, phi-4): it may answer to any. Rows are recorded as 'teacher/r1'; correct "
            "model.served if that is another model"
        )
        assert log_of(tmp_path / "out").count(said) == 1
        checked = subprocess.run(
            [sys.executable, "-m", "batchr1", "check", str(job)],
            capture_output=True,
            text=True,
            check=True,
        )
    assert checked.stdout.splitlines()[-1] == (
        "note     some servers answer to any name: rows of such a one are recorded as "
        "'teacher/r1', whatever model it has"
    )


@pytest.mark.parametrize(
    ("software", "unset"),
    [
        ("vllm", {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}),
        ("sglang", {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}),
        ("llamacpp", {"top_k": 0, "min_p": 0.0, "repeat_penalty": 1.0}),
        ("system", None),
    ],
)
def test_what_the_job_leaves_unset_is_said_to_programs_that_have_defaults(
    software: str, unset: dict[str, Any] | None
) -> None:
    sent = body_for(software, EngineKind(kind="openai"), SamplingSpec())
    if unset is not None:
        unset = unset | {"presence_penalty": 0.0, "frequency_penalty": 0.0}
    assert sent == (unset or {}) | {"temperature": 0.6, "top_p": 0.95}


def test_what_the_job_says_wins_and_what_the_body_says_wins_over_all() -> None:
    server = EngineKind(kind="openai", extra_body={"min_p": 0.2, "repetition_penalty": 1.1})
    sent = body_for("vllm", server, SamplingSpec(top_k=40))
    assert (sent["top_k"], sent["min_p"], sent["repetition_penalty"]) == (40, 0.2, 1.1)


def body_for(software: str, server: EngineKind, sampling: SamplingSpec) -> dict[str, Any]:
    """What a request holds beside model and messages, once the list of models was seen."""
    with chat_server(software=software) as known:
        server = server.model_copy(update={"base_url": known.url, "stream": False})

        async def go() -> None:
            async with ChatClient(server, "teacher/r1", sampling) as client:
                await client.models()
                await client.ask([("user", "1 + 1?")])

        asyncio.run(go())
        body = dict(known.bodies[0])
    del body["model"], body["messages"]
    return body


def test_top_k_may_be_in_the_body_where_the_job_has_none(tmp_path: Path) -> None:
    with chat_server() as server:
        job = remote_job(tmp_path, server, rows=1, engine={"extra_body": {"top_k": -1}})
        assert run(job).exit_code == 0
    assert server.bodies[0]["top_k"] == -1


def test_end_tokens_that_a_server_leaves_are_in_no_row(tmp_path: Path) -> None:
    with chat_server(ending="<｜end▁of▁sentence｜>\n") as server:
        assert run(remote_job(tmp_path, server, rows=3)).exit_code == 0
    for row in rows_of(tmp_path / "out").to_dicts():
        assert row["answer"].startswith("It is \\boxed{") and row["answer"].endswith("}.")
        assert "<｜" not in row["answer"]


def test_counts_of_reasoning_that_a_gateway_guesses_are_left_out(tmp_path: Path) -> None:
    with chat_server(form="native", headers={"x-litellm-version": "1.80.0"}) as server:
        assert run(remote_job(tmp_path, server, rows=2)).exit_code == 0
    assert rows_of(tmp_path / "out")["reasoning_tokens"].to_list() == [None, None]


@pytest.mark.parametrize(
    ("completion", "reasoning", "counted"),
    [(100, 90, 90), (100, 100, None), (100, 101, None), (None, 90, 90)],
)
def test_a_count_of_reasoning_that_leaves_nothing_for_the_answer_is_none(
    completion: int | None, reasoning: int, counted: int | None
) -> None:
    answer = Answer(Held(1).share())
    answer.take(
        {
            "choices": [{"message": {"content": "42", "reasoning": "so"}, "finish_reason": "stop"}],
            "usage": {
                "completion_tokens": completion,
                "completion_tokens_details": {"reasoning_tokens": reasoning},
            },
        }
    )
    assert answer.reply().reasoning_tokens == counted


def test_a_server_that_wants_a_key_says_so_where_there_is_none(tmp_path: Path) -> None:
    with chat_server(key=KEY) as server:
        job = remote_job(tmp_path, server)
        words = refusal_of(job, UsageError)
        assert words.startswith(
            f"engine.base_url {server.url}: it wants a key, and OPENAI_API_KEY is not set (HTTP 401"
        )
        assert words.endswith(
            "Set that variable to the key, or name another in engine.api_key_env."
        )
        checked = subprocess.run(
            [sys.executable, "-m", "batchr1", "check", str(job)],
            capture_output=True,
            text=True,
            check=False,
        )
    assert checked.returncode == 2
    assert "it wants a key, and OPENAI_API_KEY is not set" in checked.stderr


@pytest.fixture
def certified(tmp_path: Path) -> Iterator[ChatServer]:
    """A server with a certificate that nobody knows."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"),
            *("-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with chat_server() as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        yield server


def test_a_certificate_that_is_not_trusted_is_named_at_once(
    tmp_path: Path, certified: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = certified.url.replace("http://", "https://")
    job = remote_job(tmp_path, url, rows=2)
    words = refusal_of(job, UsageError)
    assert words.startswith(f"engine.base_url {url}: its certificate is not trusted here (connect")
    assert words.endswith("Set SSL_CERT_FILE to the file of its authority, or correct the address.")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "certificate.pem"))
    assert run(job).exit_code == 0


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "ALL_PROXY"])
def test_a_proxy_that_is_dead_is_named(
    tmp_path: Path, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with chat_server() as gone:
        address = f"http://user:hidden@{gone.url.split('/')[2]}"
    monkeypatch.setenv(variable, address)
    job = remote_job(tmp_path, "http://teacher.invalid:8000/v1", engine={"patience_s": 1})
    summary = run(job)
    assert (summary.exit_code, summary.counts.failed) == (75, 0)
    words = str(summary.stopped)
    assert words == (
        "engine.base_url http://teacher.invalid:8000/v1: the way to the server is barred (the "
        f"proxy that {variable} names: connect error: All connection attempts failed; tried for 1 "
        f"s). Correct {variable}, or put the server's host into NO_PROXY; the same command goes on."
    )
    assert "hidden" not in words


def test_the_causes_are_kinds_of_what_they_were() -> None:
    """A dead proxy is waited for like a server; a bad certificate ends a run like a bad key."""
    assert str(ProxyFault("no answer", variable="HTTPS_PROXY")) == (
        "the proxy that HTTPS_PROXY names: no answer"
    )
    assert Served(None).oddity("x") is None and Served(("x",)).oddity("x") is None
    assert CertificateError("x").args == ("x",)


def test_rows_of_a_run_are_read_as_they_lie(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A run that was refused says so as an error, and leaves parts that can be read."""
    with chat_server() as server:
        job = remote_job(tmp_path, server, rows=20)
        turned(server, "400", after=3)
        summary = run(job)
    assert summary.exit_code == 75
    levels = {one.levelname for one in caplog.records if one.getMessage() == summary.stopped}
    assert levels == {"ERROR"}
    failed = list((tmp_path / "out/.batchr1/failed").glob("*.parquet"))
    assert sum(len(pl.read_parquet(path)) for path in failed) == 0
    record = json.loads(max((tmp_path / "out/.batchr1/runs").glob("*.json")).read_text())
    assert record["exit_code"] == 75
