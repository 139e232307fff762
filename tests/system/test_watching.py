"""What others see of a run: JSON lines on stderr, Prometheus metrics, a command at its end."""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import stat
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import click.testing
import jsonschema
import polars as pl
import pytest
from odd_files import null_device
from process_tree import tree, until
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as openmetrics_families,
)
from prometheus_client.parser import text_string_to_metric_families
from replay_job import questions, replay, scripted, write_job
from watched import LINE, lines_of, samples_of

from batchr1.cli.main import main
from batchr1.cli.options import address
from batchr1.dataset.pending import Counts
from batchr1.driver.fleet import Event as WorkerEvent
from batchr1.driver.monitor.prometheus import (
    HELP,
    Metrics,
    MetricsExporter,
    exporting,
    serving,
)
from batchr1.driver.tally import Tally
from batchr1.engine.openai.server import Spent
from batchr1.errors import JobError
from batchr1.events import EVENTS, JsonLines, event, schema_document

ROOT = Path(__file__).parents[2]
HELPER = str(Path(__file__).parents[1] / "helpers/replay_job.py")


def batchr1(*args: str | Path, **script: Any) -> click.testing.Result:
    arguments = [str(a) for a in args]
    return click.testing.CliRunner().invoke(
        main, scripted(arguments, replay(**script)), catch_exceptions=False
    )


def job_with_a_bad_row(folder: Path, **sections: Any) -> Path:
    rows = pl.concat([questions(20), pl.DataFrame({"id": ["bad"], "problem": [" "]})])
    rows.write_parquet(folder / "in.parquet")
    return write_job(folder, output={"rows_per_part": 8}, **sections)


# JSON lines.


def test_a_run_in_json_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batchr1.driver.monitor.progress.LINE_EVERY_S", 0.0)
    job = job_with_a_bad_row(tmp_path)
    result = batchr1("run", job, "--log-format", "json", step_s=0.02, max_num_seqs=8)
    assert result.exit_code == 3
    lines = lines_of(result.stderr)
    events = [line["event"] for line in lines]
    assert events[:2] == ["run_started", "worker_started"]
    assert [e for e in events if e.startswith("worker_")] == [
        "worker_started",
        "worker_ready",
        "worker_ended",
    ]
    assert {"progress", "part_committed", "rows_failed"} <= set(events)
    assert events[-1] == "run_ended"
    by_event = {line["event"]: line for line in lines}
    run = by_event["run_started"]["run"]
    assert {line["run"] for line in lines} == {run}
    assert (
        by_event["run_started"]
        | {"output": f"{tmp_path}/out", "samples": 21, "pending": 21, "done": 0}
        == (by_event["run_started"])
    )
    assert sum(line["rows"] for line in lines if line["event"] == "part_committed") == 20
    assert by_event["rows_failed"]["reasons"] == {"empty_prompt": 1}
    ended = by_event["run_ended"]
    assert (
        ended["done"],
        ended["failed"],
        ended["pending"],
        ended["exit_code"],
        ended["stopped"],
    ) == (
        20,
        1,
        0,
        3,
        None,
    )
    assert result.stdout.splitlines()[0] == "21 rows = 20 done + 1 failed + 0 pending", (
        "results stay on stdout"
    )

    again = lines_of(batchr1("run", job, "--log-format", "json").stderr)
    assert [(line["event"], line["pending"], line["spared"]) for line in again] == [
        ("nothing_to_do", 0, 0)
    ]


def test_a_run_that_is_stopped_and_gone_on_with_in_json_lines(tmp_path: Path) -> None:
    questions(20).write_parquet(tmp_path / "in.parquet")
    job, script = write_job(tmp_path), tmp_path / "script.json"
    script.write_text(
        json.dumps({"step_s": 0.1, "mean_len": 60.0, "tokens_per_step": 1, "max_num_seqs": 4})
    )
    with tree([HELPER, str(script), "run", str(job), "--log-format", "json"], tmp_path) as run:
        until(lambda: "worker_ready" in run.stderr)
        until(
            lambda: (
                "replay ready"
                in "".join(p.read_text() for p in tmp_path.glob("out/.batchr1/runs/*.log"))
            )
        )
        run.driver.terminate()
        assert run.wait() == 75
        lines = lines_of(run.stderr)
    by_event = {line["event"]: line for line in lines}
    assert (
        by_event["run_stopping"]["reason"] == by_event["run_ended"]["stopped"] == "received SIGTERM"
    )
    assert by_event["run_ended"]["exit_code"] == 75
    assert {line["level"] for line in lines if line["message"] == "received SIGTERM"} == {"warning"}


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        (("--set", "sampling.n=0"), 2, "sampling.n: wrong value"),
        (("--stop-at", "noon"), 2, "--stop-at: not a time of day"),
        (("--date", "today"), 2, "--date: not a date"),
        (("--metrics-port", "none"), 2, "--metrics-port: not a port"),
        (("--set", "input.where=id = 'nobody'"), 2, "input: no rows"),
    ],
)
def test_an_error_is_a_json_line_too(
    tmp_path: Path, change: tuple[str, str], code: int, message: str
) -> None:
    result = batchr1("run", job_with_a_bad_row(tmp_path), "--log-format", "json", *change)
    [line] = lines_of(result.stderr)
    assert (result.exit_code, line["event"], line["exit_code"], line["level"]) == (
        code,
        "failed",
        code,
        "error",
    )
    assert message in line["message"]
    assert result.stdout == ""


def test_the_schema_is_one_and_knows_every_event_that_the_code_names() -> None:
    jsonschema.Draft202012Validator.check_schema(schema_document())
    named = set()
    for path in (ROOT / "batchr1").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        named |= set(re.findall(r'event\(\s*"(\w+)"', text))
    workers = {f"worker_{what.replace(' ', '_')}" for what in get_args(WorkerEvent)}
    assert (named - {"worker_"}) | workers | {"message"} == set(EVENTS)


@pytest.mark.parametrize("line", [{}, {"event": "part_committed"}, {"event": "of_my_own"}])
def test_the_schema_refuses_what_is_no_such_line(line: dict[str, Any]) -> None:
    good = {
        "ts": "2026-11-26T06:00:00.000+00:00",
        "level": "info",
        "logger": "batchr1",
        "message": "x",
    }
    assert LINE.is_valid(good | {"event": "message"})
    assert not LINE.is_valid(good | line)


def test_a_traceback_is_part_of_its_line() -> None:
    try:
        raise RuntimeError("out of\nideas")
    except RuntimeError:
        record = logging.LogRecord(
            "batchr1.x", logging.ERROR, "x.py", 1, "it %s", ("broke",), sys.exc_info()
        )
    line = json.loads(JsonLines().format(record))
    assert (line["event"], line["message"]) == ("message", "it broke")
    assert line["exception"].endswith("RuntimeError: out of\nideas")
    LINE.validate(line)


# Metrics.


def test_the_metrics_file_of_a_run_and_of_an_empty_one(tmp_path: Path) -> None:
    job, file = job_with_a_bad_row(tmp_path), tmp_path / "node/batchr1.prom"
    file.parent.mkdir()
    assert batchr1("run", job, "--metrics-file", file).exit_code == 3
    found = samples_of(file.read_text())
    tokens = pl.read_parquet(tmp_path / "out/data/*.parquet")["completion_tokens"].sum()
    wanted = {
        "batchr1_run_active": 0,
        "batchr1_run_exit_code": 3,
        "batchr1_samples{state=done}": 20,
        "batchr1_samples{state=failed}": 1,
        "batchr1_samples{state=pending}": 0,
        "batchr1_samples{state=spared}": 0,
        "batchr1_run_samples_total{outcome=done}": 20,
        "batchr1_run_samples_total{outcome=failed}": 1,
        "batchr1_committed_tokens_total": tokens,
        "batchr1_workers": 0,
    }
    assert found | wanted == found
    started, ended = (
        found[f"batchr1_run_{what}_timestamp_seconds"] for what in ("started", "ended")
    )
    assert (
        started
        < found["batchr1_last_commit_timestamp_seconds"]
        < ended
        <= found["batchr1_updated_timestamp_seconds"]
    )
    assert stat.S_IMODE(file.stat().st_mode) & 0o444 == 0o444, "the node exporter is another user"
    assert list(file.parent.iterdir()) == [file]

    assert batchr1("run", job, "--metrics-file", file).exit_code == 3
    found = samples_of(file.read_text())
    assert (
        found["batchr1_run_samples_total{outcome=done}"],
        found["batchr1_samples{state=done}"],
    ) == (0, 20)


def test_a_run_that_cannot_begin_leaves_its_exit_code_in_the_metrics(tmp_path: Path) -> None:
    job, file = job_with_a_bad_row(tmp_path), tmp_path / "batchr1.prom"
    assert (
        batchr1("run", job, "--metrics-file", file, "--set", "input.where=id = 'nobody'").exit_code
        == 2
    )
    found = samples_of(file.read_text())
    assert (found["batchr1_run_active"], found["batchr1_run_exit_code"]) == (0, 2)
    assert "batchr1_samples{state=done}" not in found


def test_a_metrics_file_in_no_folder_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    result = batchr1("run", job_with_a_bad_row(tmp_path), "--metrics-file", tmp_path / "no/x.prom")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == (
        f"batchr1: --metrics-file: {tmp_path}/no/x.prom cannot be written (got no such file or "
        "directory). Name a file in a folder that is there.\n"
    )
    assert not (tmp_path / "out").exists()


def test_a_metrics_file_that_fails_later_is_said_once_and_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "node"
    folder.mkdir()
    with exporting("x", folder / "x.prom", None) as exporter:
        (folder / "x.prom").unlink()
        folder.rmdir()
        exporter.renew()
        exporter.renew()
    said = f"{folder}/x.prom: the metrics were not written (No such file or directory)"
    assert [record.message for record in caplog.records] == [said]


def test_metrics_are_written_into_what_is_no_regular_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    device = null_device(tmp_path / "null")
    before = device.lstat()
    assert batchr1("run", job_with_a_bad_row(tmp_path), "--metrics-file", device).exit_code == 3
    after = device.lstat()
    assert (after.st_ino, after.st_rdev) == (before.st_ino, before.st_rdev)
    assert not list(tmp_path.glob("null?*"))

    caplog.clear()
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with (
        pytest.raises(JobError, match=r"fifo cannot be written \(got no such device or address\)"),
        exporting("x", fifo, None),
    ):
        pass
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    with exporting("x", fifo, None) as exporter:
        assert samples_of(os.read(reader, 2**20).decode())["batchr1_run_active"] == 1
        exporter.metrics.output = "x" * 2**20  # more than a pipe holds: the run does not wait
        exporter.renew()
    os.close(reader)
    assert fifo.is_fifo()
    said = [record.message for record in caplog.records]
    assert said == [f"{fifo}: the metrics were not written (Resource temporarily unavailable)"]


def test_every_metric_is_described_and_written_as_prometheus_reads_it() -> None:
    name = 'a "b" \\ c\nd'
    metrics = Metrics(
        name, run="r", output="s3://b/o", counts=Counts(4, 2, 3, 1, 0), ended=1.0, exit_code=0
    )
    metrics.tally = Tally(done=2, last_commit=0.0, spent=Spent(1, 20, 100))
    text = MetricsExporter(metrics).text()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert {name.removesuffix("_total") for name in HELP} == set(families)
    for full, (kind, meaning) in HELP.items():
        family = families[full.removesuffix("_total")]
        assert (family.type, family.documentation) == (kind, meaning)
        assert (kind == "counter") == full.endswith("_total")
        assert {sample.labels["name"] for sample in family.samples} == {name}
    found = samples_of(text)
    states = [
        found[f"batchr1_samples{{state={state}}}"]
        for state in ("done", "failed", "spared", "pending")
    ]
    assert states == [5, 1, 0, 2]


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        body: bytes = answer.read()
    return body.decode()


def test_metrics_are_served_while_a_run_goes_on_to_this_machine_alone(tmp_path: Path) -> None:
    questions(40).write_parquet(tmp_path / "in.parquet")
    job, script = write_job(tmp_path, output={"rows_per_part": 4}), tmp_path / "script.json"
    script.write_text(json.dumps({"step_s": 0.1, "mean_len": 60.0, "max_num_seqs": 4}))
    command = [HELPER, str(script), "run", str(job), "--log-format", "json", "--metrics-port", "0"]
    with tree(command, tmp_path) as run:
        until(lambda: "part_committed" in run.stderr)
        [url] = [
            line["url"] for line in lines_of(run.stderr) if line["event"] == "metrics_listening"
        ]
        assert url.startswith("http://127.0.0.1:")
        until(lambda: samples_of(get(url)).get("batchr1_run_samples_total{outcome=done}", 0) > 0)
        found = samples_of(get(url))
        assert (found["batchr1_run_active"], found["batchr1_workers"]) == (1, 1)
        assert found["batchr1_sequences{state=running}"] > 0
        assert (
            sum(
                found[f"batchr1_samples{{state={s}}}"]
                for s in ("done", "failed", "spared", "pending")
            )
            == 40
        )
        with pytest.raises(urllib.error.HTTPError, match="404"):
            get(url.replace("/metrics", "/data"))


def test_a_port_that_is_taken_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        result = batchr1("run", job_with_a_bad_row(tmp_path), "--metrics-port", str(port))
    assert (result.exit_code, result.stderr) == (
        2,
        (
            f"batchr1: --metrics-port: cannot listen on 127.0.0.1:{port} (got address already in "
            "use). Choose another.\n"
        ),
    )
    assert not (tmp_path / "out").exists()


@pytest.fixture
def served() -> Iterator[tuple[MetricsExporter, str]]:
    exporter = MetricsExporter(Metrics("x"))
    with serving(exporter.registry, ("127.0.0.1", 0)) as url:
        yield exporter, url


def test_what_is_served_is_what_is_known_now(served: tuple[MetricsExporter, str]) -> None:
    exporter, url = served
    for tokens in (1, 2):
        exporter.metrics.tokens = tokens
        exporter.renew()
        assert get(url) == exporter.text()
        assert samples_of(get(url))["batchr1_generated_tokens_total"] == tokens


def test_prometheus_itself_gets_the_format_that_it_asks_for(
    served: tuple[MetricsExporter, str],
) -> None:
    exporter, url = served
    request = urllib.request.Request(
        url, headers={"Accept": "application/openmetrics-text;version=1.0.0"}
    )
    with urllib.request.urlopen(request, timeout=5) as answer:
        assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
        families = list(openmetrics_families(answer.read().decode()))
    plain = text_string_to_metric_families(exporter.text())
    assert {family.name for family in families} == {family.name for family in plain}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("9400", ("127.0.0.1", 9400)),
        ("0.0.0.0:9400", ("0.0.0.0", 9400)),
        ("my-host.lan:80", ("my-host.lan", 80)),
    ],
)
def test_a_port_and_its_host(text: str, wanted: tuple[str, int]) -> None:
    assert address(text) == wanted


@pytest.mark.parametrize("text", ["", "port", "70000", ":9400", "a b:1", "-1", "http://h:1"])
def test_what_is_no_port(text: str) -> None:
    with pytest.raises(JobError) as caught:
        address(text)
    assert str(caught.value) == (
        f"--metrics-port: not a port (got {text!r}, need 9400, or HOST:PORT such as 0.0.0.0:9400). "
        "Correct it."
    )


# on_finish.

KEEP = "import sys, pathlib; pathlib.Path(sys.argv[1]).write_text(sys.stdin.read()); print('kept')"


def telling(file: Path, **more: Any) -> dict[str, Any]:
    return {"on_finish": {"command": [sys.executable, "-c", KEEP, str(file)], **more}}


def test_the_command_gets_the_record_of_each_run(tmp_path: Path) -> None:
    told = tmp_path / "told.json"
    job = job_with_a_bad_row(tmp_path, **telling(told))
    for options, code, pending in (
        (("--stop-after", "0.01s"), 75, 21),
        ((), 3, 0),
        ((), 3, 0),
        ((), 3, 0),
    ):
        assert batchr1("run", job, *options).exit_code == code
        record = json.loads(told.read_text())
        assert (record["exit_code"], record["counts"]["pending"]) == (code, pending)
        assert (record["output"], record["job"]) == (f"{tmp_path}/out", "replayed")
        told.unlink()
    kept = [
        json.loads(path.read_text()) for path in sorted(tmp_path.glob("out/.batchr1/runs/*.json"))
    ]
    assert [record["exit_code"] for record in kept] == [75, 3, 3], (
        "of runs with nothing to do, one record a day is kept"
    )
    assert kept[2] | {"output": f"{tmp_path}/out"} == record


def test_the_output_is_free_when_the_command_is_run(tmp_path: Path) -> None:
    questions(2).write_parquet(tmp_path / "in.parquet")
    again = (
        "from sys import argv; from batchr1.storage.lock import Lock; from batchr1.storage.base "
        "import open_storage; "
    )
    again += "Lock.acquire(open_storage(argv[1]), run='next').release()"
    job = write_job(
        tmp_path, on_finish={"command": [sys.executable, "-c", again, str(tmp_path / "out")]}
    )
    result = batchr1("run", job, "--log-format", "json")
    assert lines_of(result.stderr)[-1]["event"] == "on_finish_ended"


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (["/no/such/program"], "no such file or directory"),
        ([sys.executable, "-c", "print('oh no'); raise SystemExit(9)"], "exit code 9"),
        ([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"], "signal 9"),
        (
            [sys.executable, "-c", "import time; time.sleep(60)"],
            "killed after 0.5 s, on_finish.timeout_s",
        ),
        (["echo $HOME; exit 3"], "no such file or directory"),
    ],
)
def test_its_failure_is_said_and_changes_no_exit_code(
    tmp_path: Path, command: list[str], reason: str
) -> None:
    questions(2).write_parquet(tmp_path / "in.parquet")
    job = write_job(
        tmp_path, on_finish={"command": command, "timeout_s": 0.5 if "time" in command[-1] else 60}
    )
    result = batchr1(
        "run", job, "--log-format", "json", "--limit", "0", "--set", "input.allow_empty=true"
    )
    assert result.exit_code == 0
    last = lines_of(result.stderr)[-1]
    assert (last["event"], last["reason"], last["level"]) == ("on_finish_failed", reason, "warning")
    if reason == "exit code 9":
        assert "oh no" in lines_of(result.stderr)[-2]["message"]


def test_without_json_its_failure_is_said_on_stderr(tmp_path: Path) -> None:
    questions(2).write_parquet(tmp_path / "in.parquet")
    job, script = write_job(tmp_path, on_finish={"command": ["false"]}), tmp_path / "script.json"
    script.write_text("{}")
    command = [
        HELPER,
        str(script),
        "run",
        str(job),
        "--limit",
        "0",
        "--set",
        "input.allow_empty=true",
    ]
    with tree(command, tmp_path) as run:
        assert run.wait() == 0
        assert (
            run.stderr
            == "on_finish: false failed (exit code 1); the run's exit code is not changed by it\n"
        )


def test_a_command_is_a_list(tmp_path: Path) -> None:
    for given, need in (("mail me", "a list"), ([], "List should have at least 1 item")):
        job = job_with_a_bad_row(tmp_path, on_finish={"command": given})
        result = batchr1("run", job)
        assert result.exit_code == 2
        assert f"{job}: on_finish.command: wrong value" in result.stderr
        assert need in result.stderr


def test_an_event_has_its_fields() -> None:
    assert event("worker_ready", worker=1, at_s=0.5)["event_fields"] == {"worker": 1, "at_s": 0.5}
