"""Secrets, given by every route there is, are in nothing that batchr1 leaves, says or serves; or
are refused.
"""

from __future__ import annotations

import json
import socket
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click.testing
import pyarrow.parquet as pq
import pytest
from replay_job import questions, scripted, write_job
from s3_fakes import S3, FaultyS3

from batchr1.cli.main import main
from batchr1.job.load import load_job

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "AKIAQ7NEVERSHOWN42XY",
    "AWS_SECRET_ACCESS_KEY": "wJalr/NeverToBeShown+K7MDENG",
    "AWS_SESSION_TOKEN": "FwoGZXIvYXdzNeverShownEither9",
    "HF_TOKEN": "hf_NeverShownAnywhere31",
    "OPENAI_API_KEY": "sk-never-shown-to-anybody-7",
    "NOTIFY_TOKEN": "xoxb-never-shown-8",
}
ARGUMENT = "xapp-never-shown-9"  # of the on_finish command
PASSWORD = "pa55w0rd-never-shown"
SERVERS_OWN = "hunter2"  # what a server puts in its refusals
EVERY = (*ENVIRONMENT.values(), ARGUMENT, PASSWORD, SERVERS_OWN)

TELL = """
import os, sys, pathlib, urllib.request
assert os.environ["NOTIFY_TOKEN"].startswith("xoxb"), "it inherits the environment"
folder, url, token = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
folder.joinpath("told.json").write_text(sys.stdin.read())
folder.joinpath("scraped.txt").write_bytes(urllib.request.urlopen(url).read())
print("told")
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Place:
    """A job in a folder, everything that its commands say, and everything that they leave."""

    def __init__(self, folder: Path, s3: S3) -> None:
        self.folder, self.s3, self.said, self.metrics = folder, s3, list[str](), list[str]()
        self.root = f"s3://{s3.bucket}"
        self.port = free_port()
        questions(4).write_parquet(folder / "in.parquet")
        command = [
            sys.executable,
            "-c",
            TELL,
            str(folder),
            f"http://127.0.0.1:{self.port}/metrics",
            ARGUMENT,
        ]
        self.job = write_job(
            folder,
            output={"path": f"{self.root}/${{BRANCH}}/out"},
            storage={"endpoint": s3.endpoint},
            on_finish={"command": command},
        )

    def batchr1(self, *args: str | Path, code: int, engine: bool = True) -> str:
        words = [*map(str, args)]
        if engine:
            scripted(words)
        result = click.testing.CliRunner().invoke(main, words, prog_name="batchr1")
        assert result.exit_code == code, result.output
        self.said.append(result.output)
        return result.stderr

    def run(self, *options: str, code: int) -> str:
        """With everything that watches it; and once more as a person would."""
        watched = ("--metrics-file", str(self.folder / "x.prom"), "--metrics-port", str(self.port))
        said = self.batchr1("run", self.job, "--log-format", "json", *watched, *options, code=code)
        assert all(json.loads(line) for line in said.splitlines())
        self.metrics.append((self.folder / "x.prom").read_text())
        self.batchr1("run", self.job, "--metrics-port", str(self.port), *options, code=code)
        return said

    def texts(self) -> Iterator[tuple[str, bytes]]:
        """All of it but the job file, which is the user's own.

        Of Parquet, also what is in its pages and its footer.
        """
        for number, text in enumerate(self.said):
            yield f"output {number}", text.encode()
        for number, text in enumerate(self.metrics):
            yield f"{number}/x.prom", text.encode()
        files = [path for path in self.folder.rglob("*") if path.is_file() and path != self.job]
        client = self.s3.client()
        for entry in client.list_objects_v2(Bucket=self.s3.bucket)["Contents"]:
            found = client.get_object(Bucket=self.s3.bucket, Key=entry["Key"])
            path = self.folder / "copies" / entry["Key"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(found["Body"].read())
            yield entry["Key"], json.dumps(found["Metadata"]).encode()
            files.append(path)
        for path in files:
            yield str(path), path.read_bytes()
            if path.suffix == ".parquet":
                file = pq.ParquetFile(path)
                yield f"{path} rows", json.dumps(file.read().to_pylist(), default=str).encode()
                yield (
                    f"{path} footer",
                    f"{file.schema_arrow.metadata}{file.metadata.metadata}".encode(),
                )

    def assert_clean(self) -> None:
        texts = dict(self.texts())
        names = "\n".join(texts)
        for wanted in (
            ".log",
            "job.json",
            "told.json",
            "scraped.txt",
            "x.prom",
            "report.html",
            "footer",
            "/runs/",
        ):
            assert wanted in names, wanted
        for seen in (
            "told.json",
            "scraped.txt",
            "x.prom",
            "report.html",
            "job.json",
            ".log",
            "output 0",
        ):
            named = [text for name, text in texts.items() if name.endswith(seen)]
            told = "batchr1.driver" if seen == ".log" else self.root
            assert any(told.encode() in text for text in named), f"{seen} was read"
        for secret in EVERY:
            assert [name for name, text in texts.items() if secret.encode() in text] == []


@pytest.fixture
def place(s3_moto: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("BRANCH", "main")
    return Place(tmp_path, s3_moto)


def test_no_secret_is_in_anything_that_is_left_said_or_served(
    place: Place, faulty_s3: FaultyS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.run(code=0)
    place.run("--stop-after", "0.01s", "--output", f"{place.root}/cut", code=75)
    again = [
        "--set",
        'on_finish.command=["false", "' + ARGUMENT + '"]',
        "--output",
        f"{place.root}/cut",
    ]
    place.batchr1("run", place.job, "--stop-after", "0.01s", *again, code=75)
    assert "--set 'on_finish.command=…'" in place.said[-1]

    # Runs that fail: another fingerprint, no bucket, no folder, an endpoint that is none, keys that
    # are refused.
    place.run("--set", "sampling.temperature=0.9", code=2)
    place.run("--output", "s3://no-such-bucket-here/out", code=2)
    place.run("--set", f"input.exclude=[{place.root}/nothing]", code=2)
    nowhere = [
        "--set",
        "storage.endpoint=http://127.0.0.1:9",
        "--set",
        "input.path=s3://gone/in.parquet",
    ]
    place.batchr1("run", place.job, "--log-format", "json", *nowhere, code=2)
    faulty_s3.script = ["403 InvalidAccessKeyId", "403 SignatureDoesNotMatch"] * 50
    said = place.run("--set", f"storage.endpoint={faulty_s3.options.endpoint}", code=2)
    assert "access is denied (got HTTP 403)" in said
    no_auth(place.s3, "0")
    try:
        assert "access is denied (got HTTP 403)" in place.run("--set", "sampling.seed=1", code=2)
    finally:
        no_auth(place.s3, "inf")
    place.batchr1(
        "run",
        place.job,
        "--set",
        "model.variant=null",
        "--set",
        "model.repo=nobody/nothing",
        code=2,
    )

    monkeypatch.setenv("AWS_ENDPOINT_URL", place.s3.endpoint)
    out = f"{place.root}/main/out"
    for arguments in (
        ["status", out, "--json"],
        ["status", out, "--health"],
        ["report", out],
        ["report", out, "--json"],
        ["check", place.job],
        ["plan", place.job],
    ):
        place.batchr1(*arguments, code=0)
    place.batchr1("export", out, place.folder / "sft", "--to", "raw", code=0)
    place.assert_clean()


def no_auth(s3: S3, requests: str) -> None:
    """How many requests moto answers before it looks at keys; those here are nobody's."""
    url = f"{s3.endpoint}/moto-api/reset-auth"
    request = urllib.request.Request(
        url, requests.encode(), {"Content-Type": "text/plain"}, method="POST"
    )
    with urllib.request.urlopen(request) as answer:
        assert answer.status == 200


USER = f"user:{PASSWORD}@"


@pytest.mark.parametrize(
    ("options", "environment", "said"),
    [
        (
            ["--set", f"storage.endpoint=http://{USER}host:9000"],
            {},
            (
                "JOB: storage.endpoint: the URL holds credentials. Set AWS_ACCESS_KEY_ID and its "
                "secret instead."
            ),
        ),
        (
            ["--set", f"storage.endpoint=https://host/?token={PASSWORD}"],
            {},
            (
                "JOB: storage.endpoint: the URL holds credentials. Set AWS_ACCESS_KEY_ID and its "
                "secret instead."
            ),
        ),
        (
            ["--set", "storage.endpoint=null"],
            {"AWS_ENDPOINT_URL": f"http://{USER}host:9000"},
            (
                "AWS_ENDPOINT_URL: the URL holds credentials. Set AWS_ACCESS_KEY_ID and its secret "
                "instead."
            ),
        ),
        (
            ["--set", f"input.path=s3://{USER}bucket/in.parquet"],
            {},
            (
                "JOB: s3://…: the URI holds credentials. Set AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY instead."
            ),
        ),
        (
            ["--set", f"input.path=https://{USER}host/in.parquet"],
            {},
            "JOB: https://…: the address holds credentials, and records repeat it. Take them out: "
            "they come from the environment.",
        ),
        (
            ["--set", "input.path=data/${OPENAI_API_KEY}/in.parquet"],
            {},
            "JOB: input.path: paths hold no secrets, they are written to logs and records (got "
            "${OPENAI_API_KEY}). Use another variable.",
        ),
        (
            ["--output", "s3://bucket/${AWS_SECRET_ACCESS_KEY}"],
            {},
            "JOB: output.path: paths hold no secrets, they are written to logs and records (got "
            "${AWS_SECRET_ACCESS_KEY}). Use another variable.",
        ),
        (
            ["--set", f"model.engine_args.hf_token={PASSWORD}"],
            {},
            "JOB: model.engine_args.hf_token: a job file holds no secrets (it is copied into the "
            "output). Set HF_TOKEN in the environment.",
        ),
        (
            ["--set", f"model.engine_args.api_key={PASSWORD}"],
            {},
            "JOB: model.engine_args.api_key: vLLM has no such argument.",
        ),
        (
            ["--set", f"model.engine_args.otlp_traces_endpoint=http://{USER}host:4317"],
            {},
            "JOB: model.engine_args: a job is copied into its output, and the URL in "
            "otlp_traces_endpoint holds credentials. Correct it.",
        ),
        (["--set", f"storage.secret_key={PASSWORD}"], {}, "JOB: storage.secret_key: unknown key."),
        (
            ["--set", f"storage=http://{USER}host"],
            {},
            "JOB: storage: wrong value (got text 'http://…@host', need a mapping). Correct it.",
        ),
        (
            ["--set", f"on_finish.command=curl -H {PASSWORD}"],
            {},
            "JOB: on_finish.command: wrong value (got text, need a list). Correct it.",
        ),
        (
            ["--set", f"on_finish.command=[curl, {PASSWORD}"],
            {},
            "--set on_finish.command: the value is not valid YAML. Quote it.",
        ),
    ],
)
def test_what_can_only_be_refused_is_refused_in_one_line_without_the_secret(
    place: Place,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    environment: dict[str, str],
    said: str,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    before = sorted(path.name for path in place.folder.iterdir())
    for command in (["run"], ["check"], ["run", "--log-format", "json"]):
        text = place.batchr1(*command, place.job, *options, code=2, engine=False)
        text = json.loads(text)["message"] if "json" in command else text.removeprefix("batchr1: ")
        assert text.replace(str(place.job), "JOB").startswith(said)
        assert len(text.splitlines()) == 1
        assert PASSWORD not in text
    assert sorted(path.name for path in place.folder.iterdir()) == before


def test_of_a_command_the_output_keeps_only_the_program(place: Place) -> None:
    place.run(code=0)
    job: Any = json.loads(
        dict(place.texts())[str(place.folder / "copies/main/out/.batchr1/job.json")]
    )
    assert job["spec"]["on_finish"]["command"] == [sys.executable, "…"]


@pytest.mark.parametrize("name", ["DATA_ROOT", "MONKEY", "KEYBOARD", "TOKENISED", "SCRATCH"])
def test_a_variable_with_another_name_is_expanded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "here")
    job = write_job(tmp_path, input={"path": f"${{{name}}}/in.parquet"})
    assert load_job(job).input.path == f"{tmp_path}/here/in.parquet"
