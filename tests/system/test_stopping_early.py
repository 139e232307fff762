"""Signals before the first row: answered within the time of grace at every stage of preparing.

Each stage is replaced by one that does not return for minutes and never comes back to Python, as
decoding a huge page or tokenizing a huge prompt does; everything else is a real process.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from replay_job import questions, replay, set_engine, write_job
from serving import serving

GRACE_S = 2
# Seconds that a process may take beyond the time of grace on a machine that is busy.
SLACK_S = 20
STUCK = """
import hashlib, importlib, sys
module, _, name = sys.argv.pop(1).partition(":")
owner = importlib.import_module(module)
*path, name = name.split(".")
for part in path:
    owner = getattr(owner, part)
def stuck(*args, **more):
    print("stuck", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)
setattr(owner, name, stuck)
import batchr1.driver.signals
batchr1.driver.signals.GRACE_S = float(sys.argv.pop(1))
from batchr1.cli.main import program
program()
"""
STAGES = {
    "listing": "batchr1.storage.local:LocalStorage.list_files",
    "footers": "batchr1.dataset.readers:open_file",
    "a row group": "batchr1.dataset.readers:_checked",
    "ids": "batchr1.dataset.pending:key_hashes",
    "rendering": "batchr1.dataset.prompts:PromptRenderer.render_many",
    "tokenizer": "batchr1.dataset.tokenizer:joined_encoder",
}


def started(folder: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *words],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )


def stopped(process: subprocess.Popen[str], number: int) -> tuple[int, float, str]:
    """Send a signal. Returns the exit code, the seconds until it, and what was said."""
    began = time.monotonic()
    process.send_signal(number)
    try:
        _, said = process.communicate(timeout=GRACE_S + SLACK_S)
    finally:
        process.kill()
    return process.returncode, time.monotonic() - began, said


@pytest.fixture
def job(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    questions(40).write_parquet(tmp_path / "in/a.parquet")
    return set_engine(write_job(tmp_path, input={"path": "in"}), replay())


@pytest.mark.parametrize(
    ("stage", "command", "number"),
    [
        ("listing", "run", signal.SIGTERM),
        ("listing", "check", signal.SIGINT),
        ("footers", "check", signal.SIGTERM),
        ("a row group", "run", signal.SIGINT),
        ("a row group", "plan", signal.SIGTERM),
        ("ids", "check", signal.SIGINT),
        ("rendering", "run", signal.SIGTERM),
        ("rendering", "check", signal.SIGTERM),
        ("tokenizer", "run", signal.SIGINT),
    ],
)
def test_a_signal_is_answered_in_time_whatever_is_being_prepared(
    job: Path, stage: str, command: str, number: signal.Signals
) -> None:
    grace = ["--grace", f"{GRACE_S}s"] if command == "run" else []
    words = [STAGES[stage], str(GRACE_S), command, str(job), *grace]
    process = started(job.parent, "-c", STUCK, *words)
    assert process.stdout is not None
    assert process.stdout.readline() == "stuck\n"
    time.sleep(0.5)  # until it has left Python
    code, seconds, said = stopped(process, number)
    assert code == 75, said
    if "could not be answered" not in said:  # the machine is slow: it had not left Python yet
        assert seconds < GRACE_S + 5
        return
    assert said.splitlines()[-1] == (
        f"batchr1: {number.name} could not be answered within {GRACE_S} s: left. Run the same "
        "command again."
    )
    assert not (job.parent / "out/data").exists()


def test_a_second_signal_is_answered_at_once(job: Path) -> None:
    process = started(job.parent, "-c", STUCK, STAGES["footers"], "60", "check", str(job))
    assert process.stdout is not None
    assert process.stdout.readline() == "stuck\n"
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    code, seconds, said = stopped(process, signal.SIGTERM)
    assert code == 75, said
    assert seconds < 30


class Silent(BaseHTTPRequestHandler):
    """A store that takes a request and never answers."""

    def do_GET(self) -> None:
        self.server.asked.set()  # type: ignore[attr-defined]
        self.server.over.wait(120)  # type: ignore[attr-defined]

    do_HEAD = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


class SilentStore(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Silent)
        self.asked, self.over = Event(), Event()


@pytest.mark.parametrize("command", ["run", "check"])
def test_a_store_that_never_answers_does_not_hold_a_signal_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    with serving(SilentStore()) as store:
        endpoint = f"http://127.0.0.1:{store.server_address[1]}"
        path = write_job(tmp_path, input={"path": "s3://b/p/"}, storage={"endpoint": endpoint})
        set_engine(path, replay())
        process = started(tmp_path, "-m", "batchr1", command, str(path))
        assert store.asked.wait(60)
        code, _, said = stopped(process, signal.SIGTERM)
        store.over.set()
    assert code == 75
    assert (
        said.splitlines()[-1]
        == ("batchr1: received SIGTERM before the first row was begun. Run the same command again.")
        or "could not be answered within" in said
    )
