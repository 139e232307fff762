"""docs/deploy/spot-notice.sh beside a real run: a notice comes to it as SIGTERM, and what was begun
goes on later.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import polars as pl
import pytest
from process_tree import tree, until
from replay_job import keys_of, questions, replay, rows_of, run_replay, wanted_keys, write_job
from serving import serving

from batchr1.output.checkpoints import read_checkpoints
from batchr1.storage.base import open_storage

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "docs/deploy/spot-notice.sh"
HELPER = str(ROOT / "tests/helpers/replay_job.py")
SLOW = {
    "mean_len": 200.0,
    "sigma": 0.1,
    "tokens_per_step": 1,
    "step_s": 0.05,
    "max_num_seqs": 8,
}  # 10 s a row
NOTICE = '{"action": "terminate", "time": "2026-11-03T02:10:00Z"}'


class Metadata(ThreadingHTTPServer):
    """As an EC2 machine's metadata service, version 2: nothing is said without a token, and each
    token once here.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.notice: str | None = None
        self.is_down = False
        self.tokens: set[str] = set()
        self.questions = 0
        self.refused = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Metadata

    def do_PUT(self) -> None:
        lasts_s = self.headers.get("X-aws-ec2-metadata-token-ttl-seconds", "")
        if (
            self.path != "/latest/api/token"
            or not lasts_s.isdigit()
            or not 1 <= int(lasts_s) <= 21600
        ):
            self._answer(400, "")
        elif self.server.is_down:
            self.server.refused += 1
            self._answer(503, "")
        else:
            token = secrets.token_urlsafe(40)
            self.server.tokens.add(token)
            self._answer(200, token)

    def do_GET(self) -> None:
        token = self.headers.get("X-aws-ec2-metadata-token", "")
        if token not in self.server.tokens:
            self._answer(401, "")
            return
        self.server.tokens.remove(token)
        self.server.questions += 1
        if self.path != "/latest/meta-data/spot/instance-action" or self.server.notice is None:
            self._answer(404, "<title>404 - Not Found</title>")
        else:
            self._answer(200, self.server.notice)

    def _answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def metadata() -> Iterator[Metadata]:
    with serving(Metadata()) as server:
        yield server


@contextmanager
def watching(metadata: Metadata, *command: str) -> Iterator[subprocess.Popen[str]]:
    """The script, asking this service ten times a second. `communicate` gives what it said."""
    environment = os.environ | {
        "AWS_EC2_METADATA_SERVICE_ENDPOINT": metadata.url,
        "SPOT_NOTICE_EVERY_S": "0.1",
    }
    with subprocess.Popen(
        [SCRIPT, *command],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as script:
        try:
            yield script
        finally:
            script.kill()


def test_a_notice_makes_a_real_run_save_and_leave_with_75_and_the_next_goes_on(
    tmp_path: Path, metadata: Metadata
) -> None:
    inputs, output = questions(12), tmp_path / "out"
    inputs.write_parquet(tmp_path / "in.parquet")
    job = write_job(tmp_path, sampling={"max_tokens": 300}, checkpoint={"every_s": 0.2})
    (tmp_path / "script.json").write_text(json.dumps(SLOW))
    with tree(
        [HELPER, str(tmp_path / "script.json"), "run", str(job), "--grace", "90s"], tmp_path
    ) as run:
        until(lambda: list(output.glob(".batchr1/inflight/*-000-*")), what="a first snapshot")
        with watching(metadata, "kill", "-TERM", str(run.driver.pid)) as script:
            until(lambda: metadata.questions > 2, what="the third question")
            assert script.poll() is None and run.driver.poll() is None, "no notice, no signal"
            metadata.notice = NOTICE
            assert script.communicate(timeout=30) == (
                "",
                f"spot-notice.sh: {NOTICE}: kill -TERM {run.driver.pid}\n",
            )
            assert script.returncode == 0
        assert run.wait(60) == 75, run.stderr
    begun = {key.id for key in read_checkpoints(open_storage(output)).saved}
    assert begun
    assert run_replay(job, replay(**SLOW | {"step_s": 0.0})).exit_code == 0
    rows = rows_of(output)
    assert keys_of(rows) == wanted_keys(inputs)
    assert set(rows.filter(pl.col("resumed_at").list.len() > 0)["id"]) == begun


def test_a_service_that_does_not_answer_is_asked_on_and_said_once(metadata: Metadata) -> None:
    metadata.is_down = True
    with watching(metadata, "echo", "taken") as script:
        assert script.stderr is not None
        assert (
            script.stderr.readline()
            == f"spot-notice.sh: no answer from {metadata.url}; asking on\n"
        )
        refused = metadata.refused
        until(lambda: metadata.refused > refused + 1, what="the script to ask on")
        metadata.is_down, metadata.notice = False, NOTICE
        out, err = script.communicate(timeout=30)
    assert (script.returncode, out, err) == (
        0,
        "taken\n",
        f"spot-notice.sh: {NOTICE}: echo taken\n",
    )


def test_the_exit_code_is_the_commands(metadata: Metadata) -> None:
    metadata.notice = NOTICE
    with watching(metadata, "sh", "-c", "exit 7") as script:
        assert script.wait(30) == 7


def test_without_a_command_it_says_where_to_look() -> None:
    done = subprocess.run([SCRIPT], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (
        2,
        "spot-notice.sh: which command? See the head of this file.\n",
    )
