"""Text that `status` prints about one output."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchr1.cli.printing import wrapped
from batchr1.events import printable

if TYPE_CHECKING:
    from batchr1.report.labels import LabelCounts
    from batchr1.report.measures import Estimate, Measures
    from batchr1.report.summary import GroupSummary, OutputSummary

NO_BREAK = "\N{NO-BREAK SPACE}"


def state_of(s: OutputSummary) -> str:
    """Name the state of an output that no run holds."""
    if s.complete and not s.pending:
        return "complete"
    if s.pending == 0 and s.failed:
        return "complete but for failed rows"
    return "not complete"


def as_text(s: OutputSummary, by: str | None) -> str:
    """The table that `status` prints."""
    state = state_of(s)
    if s.holder:
        state = f"running ({s.holder})"
    elif s.last_run.state == "running":
        state += f" (run {s.last_run.run} ended without a word: run the job again, it goes on)"
    elif not s.complete and s.last_run.stopped:
        state += f" (stopped: {printable(s.last_run.stopped)})"
    lines = [f"{s.output}: {state}", *_counts(s), *_speed(s)]
    if s.failed:
        lines.append("  failed     " + _list(s.failed))
    if s.done:
        lines += _results(s)
    return "\n".join(lines + [group_line(group, by) for group in s.groups])


def _counts(s: OutputSummary) -> list[str]:
    """Rows by state, and what is saved of those under way."""
    failed = sum(s.failed.values())
    pending = "pending unknown"
    if s.pending is not None:
        pending = f"{s.pending:,} pending"
    if s.spared:
        pending += f", {s.spared:,} spared"
    runs = "1 run"
    if s.runs != 1:
        runs = f"{s.runs:,} runs"
    lines = [f"  rows       {s.done:,} done, {failed:,} failed, {pending}, {runs}"]
    if s.beside:
        lines.append(
            f"  beside     {s.beside:,} of the done are not asked for by the input (other rows, "
            f"where, limit, n or exclude)"
        )
    if s.repeated:
        lines.append(
            f"  repeated   {s.repeated:,} rows lie in data/ twice (a part was copied there?): "
            f"counted once, and the next run keeps one of each"
        )
    saved = s.in_flight
    if saved.under_way or saved.finished:
        rows = f"{saved.under_way:,} under way, {saved.finished:,} waiting for their file"
        lines.append(f"  in flight  {rows}: {saved.tokens:,} tokens saved")
    if saved.unreadable:
        lines.append(
            f"  in flight  {saved.unreadable:,} snapshots cannot be read: their tokens are "
            f"generated again"
        )
    return lines


def _speed(s: OutputSummary) -> list[str]:
    """Tokens per second, and the engines' preemptions and prefix cache."""
    from batchr1.driver.monitor.progress import format_seconds

    lines = []
    if s.tokens_per_s:  # a run that was stopped while the model loaded has none
        since = "in the last run"
        if s.holder:
            since = "since this run began"
        eta = ""
        if s.eta_s is not None:
            eta = f", ETA {format_seconds(s.eta_s)}"
        lines.append(f"  speed      {s.tokens_per_s:,.0f} tokens/s {since}{eta}")
    loads = list((s.last_run.loads or {}).values())
    if any(load.preempted or load.prefix_hits for load in loads):
        preempted = sum(load.preempted for load in loads)
        queries = sum(load.prefix_queries for load in loads)
        hits = sum(load.prefix_hits for load in loads)
        share = ""
        if queries:
            share = f", {hits / queries:.0%} of prompt tokens found in the prefix cache"
        lines.append(f"  engines    {preempted:,} preemptions in the last run{share}")
    return lines


def _results(s: OutputSummary) -> list[str]:
    """Reasoning, truncation, right answers, flags and tokens of the done rows."""
    cut = sum(s.truncated_in.values())
    where = ""
    if cut:
        where = f" (in {_list(s.truncated_in)})"
    lines = [
        f"  reasoning  {_list(s.statuses)}",
        f"  truncated  {cut:,} = {cut / s.done:.1%}{where}",
    ]
    if s.judged:
        lines.append(f"  correct    {s.correct:,} of {s.judged:,} = {s.correct / s.judged:.1%}")
    if s.measures:
        lines += _measures(s.measures)
    if s.labels:
        lines.append(_labels(s.labels))
    if s.flags:
        lines.append(f"  flags      {_list(s.flags)}")
    if s.token_stats:
        lines.append(f"  tokens     {s.tokens:,} generated; per row:")
    else:
        lines.append("  tokens     the server counted none")
    for name, stats in s.token_stats.items():
        numbers = "  ".join(f"{key} {value:>8,.0f}" for key, value in stats.items())
        lines.append(f"    {name:<18} {numbers}")
    return lines


def group_line(group: GroupSummary, by: str | None) -> str:
    """The line of a value of the column `by`."""
    share = "     no gold"
    if group.judged:
        share = f"{group.correct / group.judged:6.1%} correct"
    line = (
        f"  {printable(by)} {printable(group.value):<24} {group.rows:>7,} rows  {share}  "
        f"{group.truncated / group.rows:6.1%} truncated"
    )
    if group.mean_tokens is not None:
        line += f"  {group.mean_tokens:>8,.0f} tokens"
    if group.measures:
        line += _at_most_k(group.measures)
    return line


def _measures(m: Measures) -> list[str]:
    """pass@k and cons@k with their intervals; cons@1 is pass@1."""

    def line(name: str, estimates: dict[int, Estimate]) -> str:
        each = (
            f"@{k}{NO_BREAK}{e.value:.1%}{NO_BREAK}({100 * e.low:.1f}-{100 * e.high:.1f})"
            for k, e in estimates.items()
        )
        return wrapped(f"  {name}     ", "  ".join(each)).replace(NO_BREAK, " ")

    agreed = {k: e for k, e in m.cons_at.items() if k > 1}
    lines = [line("pass@k", m.pass_at)]
    if agreed:
        lines.append(line("cons@k", agreed))
    judged = max((e.prompts for e in m.pass_at.values()), default=0)
    return [*lines, f"             95% intervals, bootstrap over {judged:,} prompts"]


def _labels(labels: LabelCounts) -> str:
    """The line of pass rates and majority shares."""
    found = []
    if labels.pass_rate:
        rates = ", ".join(f"{name}: {count:,}" for name, count in labels.pass_rate.items())
        if unjudged := labels.prompts - sum(labels.pass_rate.values()):
            rates += f", not judged: {unjudged:,}"
        found.append(f"by pass rate {rates}")
    if labels.mean_majority_share is not None:
        found.append(f"majority share {labels.mean_majority_share:.1%} in the mean")
    return wrapped("  prompts    ", f"{labels.prompts:,}; {'; '.join(found) or 'no answers'}")


def _at_most_k(m: Measures) -> str:
    """Both measures at the largest k that a group has."""
    k = max(m.pass_at, default=1)
    if k == 1:
        return ""
    return f"  pass@{k} {m.pass_at[k].value:.1%}  cons@{k} {m.cons_at[k].value:.1%}"


def _list(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {printable(name)}" for name, count in counts.items())
