"""A run against a server that means harm for some rows: its memory, and the rows of the others.

Driver, worker and connections are the real ones.
"""

from __future__ import annotations

import gzip
import itertools
import json
from collections.abc import Callable, Iterable
from pathlib import Path

import polars as pl
import pytest
from chat_server import chat_server, remote_job
from peak_rss import MOST_MIB, Peaks
from process_tree import tree
from replay_job import rows_of

MIB = 2**20
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
PLAIN = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
ERROR = b"HTTP/1.1 400 Bad Request\r\n"
PACKED = b"Content-Encoding: gzip\r\n\r\n"
BOMB = gzip.compress(b'{"choices": "' + b"a" * (200 * MIB), 1)


def endless(head: bytes, piece: bytes) -> Callable[[], Iterable[bytes]]:
    return lambda: itertools.chain([head], itertools.repeat(piece))


def event(text: str) -> bytes:
    return b"data: " + json.dumps({"choices": [{"delta": {"content": text}}]}).encode() + b"\n\n"


HARM: dict[str, Callable[[], Iterable[bytes]]] = {
    "text": endless(STREAM, event("a" * MIB)),
    "wide text": endless(STREAM, event("🙂" * (MIB // 4))),
    "event": endless(STREAM + b"data: ", b"a" * MIB),
    "document": endless(PLAIN + b"\r\n", b" " * MIB),
    "bomb": lambda: [PLAIN, PACKED, BOMB],
    "bomb in a bomb": lambda: [PLAIN, b"Content-Encoding: gzip, gzip\r\n\r\n", gzip.compress(BOMB)],
    "error": endless(ERROR + b"\r\n", b"e" * MIB),
}


def peak_of(job: Path, code: int) -> int:
    with tree(["-m", "batchr1", "run", str(job)], job.parent) as run:
        peaks = Peaks(run.pids)
        peaks.start()
        assert run.wait(200) == code, run.stderr
        peaks.over.set()
    return peaks.mib


def test_a_run_against_a_hostile_server_takes_no_more_memory_and_does_the_honest_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    rows, hostile = 48, range(6, 30)
    for folder in ("honest", "harmed"):
        (tmp_path / folder).mkdir()
    with chat_server() as server:
        normal = peak_of(remote_job(tmp_path / "honest", server, rows=rows), 0)
    scripts = {
        f"row {i}.": [f"raw:{name}"]
        for i, name in zip(hostile, itertools.cycle(HARM), strict=False)
    }
    # Honest answers before, and one after another behind: else it would be the server's fault.
    scripts |= {f"row {i}.": [f"slow:{(i - 29) / 2}"] for i in range(30, rows)}
    with chat_server(scripts=scripts, raw=HARM) as server:
        engine = {"concurrency": 24, "patience_s": 2}
        peak = peak_of(remote_job(tmp_path / "harmed", server, rows=rows, engine=engine), 3)
    print(f"PEAK {peak} MiB, {normal} MiB against an honest server")
    done = set(rows_of(tmp_path / "harmed/out")["id"])
    assert done == {f"row/{i}" for i in range(rows) if i not in hostile}
    failed = [pl.read_parquet(p) for p in (tmp_path / "harmed/out/.batchr1/failed").iterdir()]
    assert set(pl.concat(failed)["id"]) == {f"row/{i}" for i in hostile}
    assert peak <= normal + MOST_MIB
