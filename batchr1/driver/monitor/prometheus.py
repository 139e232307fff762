"""A run as Prometheus metrics, in the text format that a scraper or the node exporter's textfile collector reads.

Every sample carries the job's `name`, so that the files of several jobs may lie in one folder.
Totals are of one run: a counter that begins anew is what Prometheus expects of a program that was
started again.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from batchr1 import __version__
from batchr1.dataset.pending import Counts
from batchr1.driver.driver import Tally
from batchr1.executors.messages import Heartbeat

Kind = Literal["gauge", "counter"]

HELP: dict[str, tuple[Kind, str]] = {
    "batchr1_run_info": ("gauge", "Which run this is about; always 1."),
    "batchr1_run_active": ("gauge", "1 while the run goes on, 0 once it has ended."),
    "batchr1_run_started_timestamp_seconds": ("gauge", "When the command was started."),
    "batchr1_run_ended_timestamp_seconds": ("gauge", "When it ended; absent until then."),
    "batchr1_run_exit_code": ("gauge", "With which exit code it ended; absent until then."),
    "batchr1_updated_timestamp_seconds": (
        "gauge",
        "When these numbers were last renewed: old ones are of a dead run.",
    ),
    "batchr1_last_commit_timestamp_seconds": (
        "gauge",
        "When a file of results last became durable, in this run.",
    ),
    "batchr1_samples": ("gauge", "Samples of the whole input, by state."),
    "batchr1_run_samples_total": (
        "counter",
        "Samples that this run brought to an end, by outcome.",
    ),
    "batchr1_truncated_samples_total": ("counter", "Samples of this run that a limit cut."),
    "batchr1_judged_samples_total": ("counter", "Samples of this run whose answer was verified."),
    "batchr1_correct_samples_total": ("counter", "Those of them that are right."),
    "batchr1_generated_tokens_total": ("counter", "Tokens that this run's engines have generated."),
    "batchr1_committed_tokens_total": (
        "counter",
        "Output tokens of samples that this run has made durable.",
    ),
    "batchr1_prompt_tokens_total": ("counter", "Prompt tokens of the same samples."),
    "batchr1_server_requests_total": (
        "counter",
        "Requests that a server has answered in this run (engine.kind openai).",
    ),
    "batchr1_server_tokens_total": (
        "counter",
        "Tokens by the usage of these answers, by kind: what they cost.",
    ),
    "batchr1_worker_restarts_total": ("counter", "Workers that were started again in this run."),
    "batchr1_preemptions_total": (
        "counter",
        "Sequences that engines of this run had to put off for want of memory.",
    ),
    "batchr1_workers": ("gauge", "Workers whose engine is loaded."),
    "batchr1_sequences": ("gauge", "Sequences in the engines, by state."),
    "batchr1_kv_cache_usage_ratio": (
        "gauge",
        "Share of the KV cache in use, mean over the workers.",
    ),
}


@dataclass(slots=True)
class Metrics:
    """What is known of a run so far. `name`: the job's."""

    name: str
    started: float = field(default_factory=time.time)
    ended: float | None = None
    exit_code: int | None = None
    run: str | None = None
    output: str | None = None
    counts: Counts | None = None
    tally: Tally = field(default_factory=Tally)
    workers: list[Heartbeat] = field(default_factory=list)
    tokens: int = 0
    preempted: int = 0

    def text(self) -> str:
        """Everything, with help and types; ends with a line feed, as the format demands."""
        lines = []
        for name, samples in self._samples().items():
            kind, meaning = HELP[name]
            lines += [f"# HELP {name} {meaning}", f"# TYPE {name} {kind}"]
            for labels, value in samples:
                shown = ",".join(
                    f'{key}="{_escaped(text)}"'
                    for key, text in {"name": self.name, **labels}.items()
                )
                lines.append(f"{name}{{{shown}}} {value!r}")
        return "\n".join(lines) + "\n"

    def _samples(self) -> dict[str, list[tuple[Mapping[str, str], float]]]:
        found = dict[str, list[tuple[Mapping[str, str], float]]]()

        def put(name: str, value: float | None, **labels: str) -> None:
            if value is not None:
                found.setdefault(name, []).append((labels, value))

        tally = self.tally
        info = {"run": self.run or "", "output": self.output or "", "version": __version__}
        put("batchr1_run_info", 1, **info)
        put("batchr1_run_active", int(self.ended is None))
        put("batchr1_run_started_timestamp_seconds", round(self.started, 3))
        put("batchr1_run_ended_timestamp_seconds", self.ended and round(self.ended, 3))
        put("batchr1_run_exit_code", self.exit_code)
        put("batchr1_updated_timestamp_seconds", round(time.time(), 3))
        if tally.last_commit is not None:  # by the monotonic clock
            put(
                "batchr1_last_commit_timestamp_seconds",
                round(time.time() - time.monotonic() + tally.last_commit, 3),
            )
        for state, count in self._states():
            put("batchr1_samples", count, state=state)
        put("batchr1_run_samples_total", tally.done, outcome="done")
        put("batchr1_run_samples_total", tally.failed, outcome="failed")
        put("batchr1_truncated_samples_total", tally.truncated)
        put("batchr1_judged_samples_total", tally.judged)
        put("batchr1_correct_samples_total", tally.correct)
        put("batchr1_generated_tokens_total", self.tokens)
        put("batchr1_committed_tokens_total", tally.tokens)
        put("batchr1_prompt_tokens_total", tally.prompt_tokens)
        if tally.spent is not None:
            put("batchr1_server_requests_total", tally.spent.requests)
            put("batchr1_server_tokens_total", tally.spent.prompt_tokens, kind="prompt")
            put("batchr1_server_tokens_total", tally.spent.completion_tokens, kind="completion")
        put("batchr1_worker_restarts_total", tally.restarts)
        put("batchr1_preemptions_total", self.preempted)
        workers = self.workers if self.ended is None else []
        put("batchr1_workers", len(workers))
        put("batchr1_sequences", sum(w.load.running for w in workers), state="running")
        put("batchr1_sequences", sum(w.load.waiting for w in workers), state="waiting")
        put(
            "batchr1_kv_cache_usage_ratio",
            sum(w.load.kv_cache_usage for w in workers) / max(1, len(workers)),
        )
        return found

    def _states(self) -> Iterable[tuple[str, int]]:
        """Samples of the input as they are now: as they were found, and what this run has done
        since.
        """
        if self.counts is None:
            return
        before, tally = self.counts, self.tally
        yield "done", before.done + tally.done
        yield "failed", before.failed + tally.failed
        yield "spared", before.spared + tally.spared
        yield "pending", before.pending - tally.done - tally.failed - tally.spared


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
