"""Jobs that are killed at random moments and must end as the oracle says.

A seed decides everything but the machine's own timing: the kind of job, its inputs and sizes, and
the moments of the kills.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import polars as pl
from oracle import (
    Expected,
    Key,
    Rules,
    Script,
    check_rows,
    check_success,
    check_swept,
    expected_rows,
    generated_in,
    read_rows,
)
from parts_on_disk import parts_of
from process_tree import Tree, tree, until
from replay_job import replay, run_replay, set_engine, write_job

SMALL, LARGE = 30, 90  # of max_tokens
GROUP = (20, 28, 300, 24, 35, 300)  # lengths, two of them beyond every limit
GONE_S = 10.0  # until every process of a killed tree has ended


@dataclass(frozen=True)
class Kind:
    """One kind of job: what it says beyond the plain one, and its options."""

    rules: Rules = field(default_factory=lambda: Rules(LARGE))
    script: Script = field(default_factory=Script)
    sections: dict[str, Any] = field(default_factory=dict)
    options: tuple[str, ...] = ()
    keeps_parts: bool = True  # no committed part is ever replaced


_SEVERAL = Kind(Rules(LARGE, n=3, seed=5), Script(group=GROUP), {"sampling": {"n": 3, "seed": 5}})
KINDS: dict[str, Kind] = {
    "plain": Kind(),
    "samples": _SEVERAL,
    "budget": Kind(
        Rules(LARGE, thinking=25, closing="Enough."),
        sections={"sampling": {"thinking_budget": 25, "closing_sentence": "Enough."}},
    ),
    "continue": Kind(options=("--continue-truncated",), keeps_parts=False),
    "rerun": Kind(sections={"input": {"on_changed_prompt": "rerun"}}, keeps_parts=False),
    "retry-failed": Kind(options=("--retry-failed",)),
    "fresh": Kind(keeps_parts=False),
    "verify": Kind(
        sections={"input": {"gold": "gold"}, "verify": {"kind": "exact"}}, keeps_parts=False
    ),
    "grown": Kind(),
    "stop-when": Kind(
        Rules(LARGE, n=4, seed=5),
        Script(group=GROUP),
        {
            "input": {"gold": "gold"},
            "sampling": {"n": 4, "seed": 5},
            "verify": {"kind": "exact"},
            "stop_when": {"correct": 2},
        },
    ),
    "fewer": Kind(_SEVERAL.rules, _SEVERAL.script, _SEVERAL.sections),
    "retry-on": Kind(
        Rules(LARGE, seed=5, attempts=3),
        Script(group=GROUP),
        {"sampling": {"seed": 5}, "retry": {"on": ["unclosed"], "attempts": 3}},
    ),
    "two-workers": Kind(options=("--replicas", "2")),
}


class KilledJob:
    """A job of a seed in a folder of its own."""

    def __init__(self, folder: Path, seed: int, kind: str | None = None) -> None:
        self.name = kind or list(KINDS)[seed % len(KINDS)]
        self.kind, self.seed, self.folder = KINDS[self.name], seed, folder
        self.output, self.rng = folder / "out", random.Random(seed)
        self.kills: list[str] = []
        self._starts = 0
        self._fewer = False
        rng = self.rng
        self._sizes = {
            "rows_per_part": rng.randint(2, 8),
            "every_s": rng.choice([0.1, 0.3, 1.0]),
            "max_num_seqs": rng.randint(3, 8),
        }
        self.problems: dict[str, str] = {}
        self._grow(rng.randint(12, 20) // self.kind.rules.n + 4)
        self._base: set[str] = set()
        prepare: Callable[[], None] = getattr(
            self, f"_prepare_{self.name.replace('-', '_')}", lambda: None
        )
        prepare()

    def kill_at_random(self, most: int) -> None:
        """Start it again and again, and kill the whole tree, until it ends or `most` are killed."""
        for _ in range(most):
            before = parts_of(self.output)
            with tree(self._command(), self.folder) as run:
                moment = self._await_moment(run)
                if run.driver.poll() is not None:
                    assert run.driver.returncode == 0, run.stderr
                    return
                run.kill()
                until(lambda run=run: not run.left(), GONE_S, "the end of every process")
            self.kills.append(moment)
            if self.kind.keeps_parts:
                assert before.items() <= parts_of(self.output).items(), "a committed part stays"

    def end(self) -> str:
        """Run it undisturbed to its end and check everything; returns a line of figures."""
        with tree(self._command(step_s=0.0), self.folder) as run:
            assert run.wait(200) == 0, run.stderr
        rows, needed = read_rows(self.output), self._needed()
        check_rows(rows, needed, self._allowed())
        check_success(self.output, rows, len(self.problems))
        check_swept(self.output, keeps_aside=self._fewer)
        getattr(self, f"_check_{self.name.replace('-', '_')}", lambda rows: None)(rows)
        generated = [generated_in(self._journal(start)) for start in range(1, self._starts + 1)]
        self._check_record(generated)
        resumed = sum(bool(row["resumed_at"]) for row in rows)
        kept = sum(row["completion_tokens"] for row in rows)
        return (
            f"{len(self.kills)} kills ({', '.join(self.kills)}), {len(rows)} rows, {resumed} "
            f"resumed, {sum(generated)} tokens made, {kept} kept"
        )

    # starting

    def _command(self, **script: Any) -> list[str]:
        self._starts += 1
        self._before_start()
        if self.name == "verify":
            golds = str(self.folder / "golds.parquet")
            words = ["verify", str(self.output), "--kind", "exact", "--gold", golds]
            return ["-m", "batchr1", *words]
        job = self._job()
        set_engine(job, self._script(**script))
        return ["-m", "batchr1", "run", str(job), *self._options()]

    def _before_start(self) -> None:
        if self.name == "grown":
            self._grow(self.rng.randint(1, 6))
        if self.name == "fewer" and self._starts > 1:
            self._fewer = True

    def _options(self) -> tuple[str, ...]:
        if self.name == "fresh" and (self._starts == 1 or self.rng.random() < 0.3):
            return ("--fresh", "--yes")
        return self.kind.options

    def _job(self, **more: Any) -> Path:
        sections = json.loads(json.dumps(self.kind.sections))
        sampling = {"max_tokens": self.kind.rules.max_tokens, **sections.pop("sampling", {})}
        if self._fewer:
            sampling["n"] = 1
        part = {"rows_per_part": self._sizes["rows_per_part"], "token_ids": "always"}
        given: dict[str, Any] = {
            "output": part,
            "sampling": sampling,
            "prompting": {"instruction": "none"},
            "checkpoint": {"every_s": self._sizes["every_s"]},
            **sections,
        }
        for name, keys in more.items():
            given[name] = {**given.get(name, {}), **keys}
        return write_job(self.folder, **given)

    def _script(self, **changes: Any) -> dict[str, Any]:
        script = self.kind.script
        lengths = {"mean_len": script.mean_len, "sigma": script.sigma}
        given: dict[str, Any] = {
            "groups": [list(script.group)] if script.group else [],
            "tokens_per_step": 1,
            "step_s": 0.01,
            "max_num_seqs": self._sizes["max_num_seqs"],
            "journal": str(self._journal(self._starts)),
        }
        return replay(**(lengths | given | changes))

    def _journal(self, start: int) -> Path:
        return self.folder / f"journal-{start}.jsonl"

    # moments

    def _await_moment(self, run: Tree) -> str:
        """Wait for a moment of the seed's choice, or the run's end; returns its name."""
        rng = self.rng
        phase = rng.choices(["start", "work", "change"], [2, 4, 4])[0]
        is_short = self.name == "verify"  # it generates nothing
        changes, delay = rng.randint(1, 8 if is_short else 20), rng.uniform(0, 1.0)
        if phase == "change":
            delay = rng.uniform(0, 0.02)
            self._await_changes(run, changes)
            phase = f"change {changes}"
        elif phase == "work":
            delay *= 0.15 if is_short else 1.0
            self._await_changes(run, 1)
        end = time.monotonic() + delay
        while time.monotonic() < end and run.driver.poll() is None:
            time.sleep(0.003)
        return f"{phase} + {delay:.3f} s"

    def _await_changes(self, run: Tree, count: int) -> None:
        """Wait until the output's names have changed so often."""
        before = _names(self.output)
        while count and run.driver.poll() is None:
            now = _names(self.output)
            count -= now != before
            before = now
            time.sleep(0.003)

    # kinds

    def _grow(self, count: int) -> None:
        known = len(self.problems)
        for number in range(known, known + count):
            text = f"Seed {self.seed}: what is {number} + {self.rng.randint(1, 99)}? ½ 東"
            self.problems[f"row/{number}"] = text
        self._write_inputs()

    def _write_inputs(self) -> None:
        frame = pl.DataFrame({"id": self.problems.keys(), "problem": self.problems.values()})
        if self.name == "stop-when":
            answers = [
                self.kind.script.tokens(problem, self.rng.randint(0, 25))
                for problem in self.problems.values()
            ]
            golds = [Expected(tokens, 0, 1, None).answer for tokens in answers]
            frame = frame.with_columns(gold=pl.Series(golds))
        elif self.name == "verify":
            frame = frame.with_columns(gold=pl.lit("nothing"))
        new = self.folder / f"in.{os.getpid()}"
        frame.write_parquet(new)
        new.replace(self.folder / "in.parquet")
        self._golds = dict(frame.select("id", "gold").iter_rows()) if "gold" in frame else {}

    def _plain_run(self, code: int = 0, job: Path | None = None, **script: Any) -> None:
        given = self._script(**{"step_s": 0.0, "journal": None, **script})
        assert run_replay(job or self._job(), given).exit_code == code

    def _note_base(self) -> None:
        self._base = {row["run"] for row in read_rows(self.output)}

    def _prepare_continue(self) -> None:
        self._plain_run(job=self._job(sampling={"max_tokens": SMALL}))
        self._note_base()

    def _prepare_rerun(self) -> None:
        self._plain_run()
        for id in self.rng.sample(sorted(self.problems), 5):
            self.problems[id] += " Now."
        os.utime(self.folder / "in.parquet", (1e9, 1e9))
        self._write_inputs()

    def _prepare_retry_failed(self) -> None:
        self._plain_run(3, refuse_every=3)

    def _prepare_fresh(self) -> None:
        self._plain_run()
        self._note_base()

    def _prepare_verify(self) -> None:
        self._plain_run()
        wanted = self._needed()
        self._golds = {
            id: row.answer if self.rng.random() < 0.5 and row.answer else "nothing"
            for (id, _), row in wanted.items()
        }
        frame = pl.DataFrame({"id": self._golds.keys(), "gold": self._golds.values()})
        frame.write_parquet(self.folder / "golds.parquet")

    # checks

    def _allowed(self) -> dict[Key, Expected]:
        return expected_rows(self.problems, self.kind.script, self.kind.rules)

    def _needed(self) -> dict[Key, Expected]:
        rules = self.kind.rules
        if self._fewer:
            rules = replace(rules, n=1)
        if self.name == "stop-when":
            return {}
        return expected_rows(self.problems, self.kind.script, rules)

    def _check_continue(self, rows: list[dict[str, Any]]) -> None:
        for row in rows:
            if len(row["token_ids"]) > SMALL:
                assert row["resumed_at"][0] == SMALL, "no token of the first run is lost"
            else:
                assert row["run"] in self._base, "what was not cut stays as it is"

    def _check_fresh(self, rows: list[dict[str, Any]]) -> None:
        old = [row["run"] in self._base for row in rows]
        assert all(old) or not any(old), "deleted whole, or not at all"

    def _check_verify(self, rows: list[dict[str, Any]]) -> None:
        for row in rows:
            assert bool(row["correct"]) == (row["answer"] == self._golds[row["id"]])

    def _check_stop_when(self, rows: list[dict[str, Any]]) -> None:
        rights: dict[str, list[bool]] = {id: [] for id in self.problems}
        for row in rows:
            is_right = row["answer"] == self._golds[row["id"]]
            assert bool(row["correct"]) == is_right
            rights[row["id"]].append(is_right)
        few = {id for id, found in rights.items() if len(found) < 4 and sum(found) < 2}
        assert not few, "all samples, or two that are right"

    def _check_record(self, generated: list[int]) -> None:
        """The last run's tokens are those that its engine made, saved ones and closings apart."""
        paths = sorted((self.output / ".batchr1/runs").glob("*.json"))
        record = json.loads(paths[-1].read_text())
        tally = record["tally"]
        assert record["exit_code"] == 0
        if self.name in ("verify", "stop-when") or not self._starts:
            return
        made = tally["tokens"] + tally.get("discarded", 0) - tally.get("carried", 0)
        extra = made - generated[-1]
        closing = max((row.injected for row in self._needed().values()), default=0)
        if closing:  # each closing costs one token that the engine made beyond the budget
            closings, rest = divmod(extra, closing - 1)
            assert rest == 0 and 0 <= closings <= len(self.problems), (made, generated[-1])
        elif self.name == "retry-on":  # `carried` is of kept tokens: a dropped try may be resumed
            assert 0 <= extra <= tally.get("discarded", 0), (made, generated[-1])
        else:
            assert extra == 0, (made, generated[-1])


def _names(output: Path) -> list[str]:
    """Names in the folders of an output that a run changes."""
    found: list[str] = []
    for folder in ("data", ".batchr1/lock", ".batchr1/inflight", ".batchr1/staging", ".batchr1"):
        try:
            found += os.listdir(output / folder)  # noqa: PTH208 - one system call, hence one moment
        except OSError:
            continue
    return sorted(found)
