"""Verification beside the engine: a bad verifier costs its own row and nothing else.

It hangs, crashes or eats memory.

The runs are real ones through the replay engine; the verifiers are files of the user, in the job's
folder.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click.testing
import polars as pl
import pytest
from process_tree import tree, until
from replay_job import questions, replay, rows_of, run_replay, write_job

from batchr1.cli.main import main
from batchr1.output.checkpoints import read_checkpoints
from batchr1.reasoning.verify import Verify
from batchr1.storage.base import open_storage
from batchr1.verifier.pool import VerifierGoneError, VerifierProcess

SHORT = {"mean_len": 15.0, "sigma": 0.1}  # tokens of reasoning: every row comes to an answer
HELPER = str(Path(__file__).parents[1] / "helpers/replay_job.py")

BEHAVIOURS = """
import ctypes, os, signal, sys, time

def judge(answer, gold, row):
    assert row["kind"] == gold and row["answer"] == answer and row["id"] and row["prompt"]
    match gold:
        case "loops":
            while True:
                pass
        case "sleeps":
            signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals))
            time.sleep(3600)
        case "is killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "crashes":
            ctypes.string_at(0)
        case "leaves":
            os._exit(7)
        case "eats memory":
            hoard = []
            while True:
                hoard.append(bytearray(2**26))
        case "raises":
            raise ValueError(answer)
        case "exits":
            sys.exit(3)
        case "is wrong about itself":
            return "yes"
        case "prints":
            print(answer * 1000)
    return {"right": True, "wrong": False}.get(gold)
"""
FAILING = [
    "loops",
    "sleeps",
    "is killed",
    "crashes",
    "leaves",
    "eats memory",
    "raises",
    "exits",
    "is wrong about itself",
]
WORKING: dict[str, bool | None] = {"right": True, "wrong": False, "prints": None}


def test_a_verifier_that_hangs_crashes_or_eats_memory_costs_its_row_only(tmp_path: Path) -> None:
    kinds = [*FAILING, *(list(WORKING) * 7)]
    questions(len(kinds)).with_columns(kind=pl.Series(kinds)).write_parquet(tmp_path / "in.parquet")
    (tmp_path / "mine.py").write_text(BEHAVIOURS)
    job = write_job(
        tmp_path,
        input={"gold": "kind"},
        output={"keep": ["kind"]},
        verify={"kind": "mine:judge", "timeout_s": 3, "memory_gib": 0.5},
    )
    summary = run_replay(job, replay(**SHORT))
    assert (summary.exit_code, summary.counts.done, summary.counts.failed) == (0, 30, 0)
    assert summary.tally.restarts == 0
    rows = rows_of(tmp_path / "out")
    assert sorted(rows["kind"]) == sorted(kinds)
    for row in rows.iter_rows(named=True):
        wanted = (None, ["verify_failed"]) if row["kind"] in FAILING else (WORKING[row["kind"]], [])
        assert (row["correct"], [f for f in row["flags"] if f == "verify_failed"]) == wanted, row[
            "kind"
        ]
    assert (summary.tally.correct, summary.tally.judged) == (7, 14)
    [log] = (tmp_path / "out/.batchr1/runs").glob("*.log")
    said = log.read_text()
    for why in (
        "took longer than 3 s",
        "ended its process (SIGKILL)",
        "ended its process (SIGSEGV)",
        "ended its process (exit code 7)",
        "raised MemoryError at mine.py:",
        "raised ValueError at mine.py:",
        "raised SystemExit at mine.py:",
        "gave str, not True, False or None",
    ):
        assert f"no verdict: the verifier {why}" in said, why
    for answer in rows["answer"]:  # what a model said is in no log
        assert answer[:40] not in said
    assert not (tmp_path / "__pycache__").exists()


def test_math_verify_works_under_the_default_limits(tmp_path: Path) -> None:
    """The replay engine says letters: products of symbols, equal to nothing."""
    golds = pl.Series([r"\frac{1}{2}", r"\{1, 2\}", "(3,4]", "x^2"])
    questions(4).with_columns(gold=golds).write_parquet(tmp_path / "in.parquet")
    verify = {"kind": "math", "extract": "^[a-z]{3}"}
    assert (
        run_replay(
            write_job(tmp_path, input={"gold": "gold"}, verify=verify), replay(**SHORT)
        ).exit_code
        == 0
    )
    rows = rows_of(tmp_path / "out")
    assert rows["correct"].to_list() == [False] * 4
    assert [len(final) for final in rows["final_answer"]] == [3] * 4
    assert "verify_failed" not in rows["flags"].explode().to_list()


def test_a_pattern_of_a_right_answer_may_be_bad_or_run_for_ever(tmp_path: Path) -> None:
    golds = pl.Series([r"\w+", "(", r"([a-z]+)+!", r"\d+"])
    questions(4).with_columns(gold=golds).write_parquet(tmp_path / "in.parquet")
    verify = {"kind": "regex", "timeout_s": 2}
    job = write_job(tmp_path, input={"gold": "gold"}, verify=verify)
    assert run_replay(job, replay(**SHORT, answer_len=40)).exit_code == 0
    rows = rows_of(tmp_path / "out")
    assert rows["correct"].to_list() == [True, None, None, False]
    assert [("verify_failed" in flags) for flags in rows["flags"]] == [False, True, True, False]


@pytest.mark.parametrize(("number", "every_s"), [(signal.SIGKILL, 0.2), (signal.SIGTERM, 600)])
def test_verifying_processes_die_with_their_worker_and_the_next_run_has_the_tokens(
    number: int, every_s: float, tmp_path: Path
) -> None:
    """All rows are generated and none is judged when the driver is killed, or told to stop: nothing
    is left or lost.
    """
    count = 20
    questions(count).with_columns(gold=pl.lit("x")).write_parquet(tmp_path / "in.parquet")
    (tmp_path / "is slow").touch()
    (tmp_path / "mine.py").write_text(
        "import os, time\n"
        "\n"
        "def judge(answer, gold, row):\n"
        f"    time.sleep(60 if os.path.exists({str(tmp_path / 'is slow')!r}) else 0)\n"
        "    return True\n"
    )
    job = write_job(
        tmp_path,
        input={"gold": "gold"},
        output={"rows_per_part": 4},
        checkpoint={"every_s": every_s},
        verify={"kind": "mine:judge", "timeout_s": 100, "memory_gib": 0.5},
    )
    (tmp_path / "script.json").write_text(json.dumps({**SHORT, "grace_s": 4}))
    with tree([HELPER, str(tmp_path / "script.json"), "run", str(job)], tmp_path) as run:

        def verifying() -> list[int]:
            return [
                pid
                for pid in run.left()
                if b"batchr1.verifier.process" in Path(f"/proc/{pid}/cmdline").read_bytes()
            ]

        def saved() -> int:
            return sum(
                s.finish_reason is not None
                for s in read_checkpoints(open_storage(tmp_path / "out")).saved.values()
            )

        until(lambda: len(verifying()) == 2, timeout_s=250, what="verifiers")
        if number == signal.SIGKILL:
            until(lambda: saved() == count, what="snapshots while verification goes on")
        os.kill(run.driver.pid, number)
        assert run.wait(60) == (75 if number == signal.SIGTERM else -number)
        until(lambda: not run.left(), 20, "nothing to be left")
        assert saved() == count
    assert rows_or_none(tmp_path / "out") == 0
    (tmp_path / "is slow").unlink()
    summary = run_replay(job, replay(**SHORT))
    assert (summary.exit_code, summary.tally.correct) == (0, count)
    assert summary.tally.carried == summary.tally.tokens
    (tmp_path / "mine.py").write_text("def judge(answer, gold, row):\n    return False\n")
    refused = click.testing.CliRunner().invoke(main, ["check", str(job)])
    assert (
        "verify.kind's module: " in refused.stderr
    )  # the function's code is a part of what decides `correct`


def rows_or_none(output: Path) -> int:
    return sum(pl.read_parquet(part).height for part in (output / "data").glob("*.parquet"))


def test_a_process_that_cannot_start_is_told_from_one_that_is_slow(tmp_path: Path) -> None:
    process = VerifierProcess(Verify("slow:f", path=str(tmp_path)))
    (tmp_path / "slow.py").write_text("import time\ntime.sleep(60)\n")
    with pytest.raises(VerifierGoneError) as caught:
        process.start(timeout_s=0.5)
    process.close()
    assert str(caught.value) == "took longer than 0.5 s"


@dataclass(frozen=True)
class Bad:
    """A job that cannot verify as it says, and the exact words for it."""

    id: str
    message: str
    verify: dict[str, Any]
    module: str | None = None
    gold: bool = True
    change: Callable[[Path], object] = field(default=lambda tmp: None)


GOOD_MODULE = "def judge(answer, gold, row):\n    return True\n"
KINDS = (
    "auto, math, number, aime, choice, yes_no, short_text, exact, regex, none, "
    "or package.module:function"
)
CASES = [
    Bad(
        "kind that is none",
        f"TMP/job.yaml: verify.kind: wrong value (got text 'llm', need {KINDS}). Correct it.",
        {"kind": "llm"},
    ),
    Bad(
        "kind misspelt",
        (
            f"TMP/job.yaml: verify.kind: wrong value (got text 'maths', need {KINDS}). Did you "
            "mean math?"
        ),
        {"kind": "maths"},
    ),
    Bad(
        "kind that is no text",
        "TMP/job.yaml: verify.kind: wrong value (got true/false True, need text). Correct it.",
        {"kind": True},
    ),
    Bad(
        "entry point without a function",
        f"TMP/job.yaml: verify.kind: wrong value (got text 'mine:', need {KINDS}). Correct it.",
        {"kind": "mine:"},
    ),
    Bad(
        "bad pattern",
        "TMP/job.yaml: verify.extract: this is no regular expression (missing ), unterminated "
        "subpattern at position 4; got 'is: (x'). Correct it.",
        {"extract": "is: (x"},
    ),
    Bad(
        "pattern that finds nothing to do",
        "TMP/job.yaml: verify: extract does nothing with kind none (got both). Correct it.",
        {"kind": "none", "extract": "x"},
    ),
    Bad(
        "path without a function",
        (
            "TMP/job.yaml: verify: path belongs to a function as package.module:function (got kind "
            "math). Correct it."
        ),
        {"kind": "math", "path": "."},
    ),
    Bad(
        "no right answers",
        (
            "TMP/job.yaml: the job: verify.kind math compares with right answers, and input.gold "
            "names none. Correct it."
        ),
        {"kind": "math"},
        gold=False,
    ),
    Bad(
        "no time",
        "TMP/job.yaml: verify.timeout_s: wrong value (got a number 0, need a number greater than "
        "0). Correct it.",
        {"timeout_s": 0},
    ),
    Bad(
        "no processes",
        "TMP/job.yaml: verify.processes: wrong value (got a number 0, need a number greater than "
        "0). Correct it.",
        {"processes": 0},
    ),
    Bad(
        "unknown key",
        "TMP/job.yaml: verify.timeout: unknown key. Did you mean timeout_s?",
        {"timeout": 3},
    ),
    Bad(
        "module that is not there",
        "TMP/job.yaml: verify.kind: nowhere:judge: there is no module nowhere (looked in TMP and "
        "in what is installed). Correct the name, or give its folder as verify.path.",
        {"kind": "nowhere:judge"},
    ),
    Bad(
        "function that is not there",
        "TMP/job.yaml: verify.kind: mine:jugde: mine has no jugde (TMP/mine.py). Correct the name.",
        {"kind": "mine:jugde"},
        GOOD_MODULE,
    ),
    Bad(
        "no function",
        (
            "TMP/job.yaml: verify.kind: mine:judge: this is no function (got int). Name one that "
            "can be called."
        ),
        {"kind": "mine:judge"},
        "judge = 3\n",
    ),
    Bad(
        "coroutine function",
        "TMP/job.yaml: verify.kind: mine:judge: this is a coroutine function, and nothing would "
        "await it. Name a plain function.",
        {"kind": "mine:judge"},
        "async def judge(answer, gold, row):\n    return True\n",
    ),
    Bad(
        "wrong parameters",
        "TMP/job.yaml: verify.kind: mine:judge: it cannot be called with (answer, gold, row) (too "
        "many positional arguments). Change its parameters.",
        {"kind": "mine:judge"},
        "def judge(answer, gold):\n    return True\n",
    ),
    Bad(
        "module that raises",
        (
            "TMP/job.yaml: verify.kind: mine:judge: importing mine raised KeyError ('x') at "
            "mine.py:1. Correct the module."
        ),
        {"kind": "mine:judge"},
        "{}['x']\n",
    ),
    Bad(
        "module that is no Python",
        "TMP/job.yaml: verify.kind: mine:judge: importing mine raised SyntaxError (invalid syntax "
        "(mine.py, line 1)). Correct the module.",
        {"kind": "mine:judge"},
        "def def\n",
    ),
    Bad(
        "module whose own import fails",
        "TMP/job.yaml: verify.kind: mine:judge: importing mine raised ModuleNotFoundError (No "
        "module named 'nowhere') at mine.py:1. Correct the module.",
        {"kind": "mine:judge"},
        "import nowhere\n",
    ),
    Bad(
        "module that exits",
        "TMP/job.yaml: verify.kind: mine:judge: importing mine raised SystemExit (bye) at "
        "mine.py:1. Correct the module.",
        {"kind": "mine:judge"},
        "raise SystemExit('bye')\n",
    ),
    Bad(
        "module that ends the process",
        "TMP/job.yaml: verify.kind: mine:judge: the process that imports it ended its process "
        "(exit code 9) (memory_gib: 2). Import it in Python to see why, or raise "
        "verify.memory_gib.",
        {"kind": "mine:judge"},
        "import os\nos._exit(9)\n",
    ),
    Bad(
        "module that needs more memory",
        (
            "TMP/job.yaml: verify.kind: mine:judge: importing mine raised MemoryError at "
            "mine.py:1. Correct the module."
        ),
        {"kind": "mine:judge", "memory_gib": 0.25},
        "hoard = bytearray(2**30)\n",
    ),
]


@pytest.mark.parametrize("bad", CASES, ids=[bad.id for bad in CASES])
def test_a_job_that_cannot_verify_is_refused_in_exact_words_and_leaves_no_trace(
    bad: Bad, tmp_path: Path
) -> None:
    questions(2).with_columns(gold=pl.lit("1")).write_parquet(tmp_path / "in.parquet")
    if bad.module is not None:
        (tmp_path / "mine.py").write_text(bad.module)
    job = write_job(tmp_path, input={"gold": "gold"} if bad.gold else {}, verify=bad.verify)
    before = sorted(tmp_path.rglob("*"))
    result = click.testing.CliRunner().invoke(
        main, ["check", str(job)], prog_name="batchr1", catch_exceptions=False
    )
    assert result.exit_code == 2
    assert result.stderr.replace(str(tmp_path), "TMP") == f"batchr1: {bad.message}\n"
    assert sorted(tmp_path.rglob("*")) == before


def test_a_function_needs_no_right_answers_and_may_be_in_another_folder(tmp_path: Path) -> None:
    (tmp_path / "checks").mkdir()
    (tmp_path / "checks/form.py").write_text(
        "class Rules:\n"
        "    @staticmethod\n"
        "    def short(answer, gold, row):\n"
        "        return gold is None\n"
    )
    questions(2).write_parquet(tmp_path / "in.parquet")
    job = write_job(tmp_path, verify={"kind": "form:Rules.short", "path": "checks"})
    assert run_replay(job, replay(**SHORT)).tally.correct == 2
