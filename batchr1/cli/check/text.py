"""Text that `check` prints about one job."""

from __future__ import annotations

from typing import Any

from batchr1.cli.printing import wrapped

SHOWN_HITS = 10


def _model_and_engine(d: dict[str, Any]) -> list[str]:
    model, server = d["model"], d.get("server")
    if server is not None:
        key = "no key"
        if server["key"]:
            key = f"key in {server['key']}"
        return [
            f"model    {model['name']}",
            (
                f"engine   openai at {server['base_url']}, {server['concurrency']} requests at a "
                f"time, {key}"
            ),
            f"server   {server['state']}: {server['says']}",
        ]
    return [
        wrapped(
            "model    ",
            f"{model['name']}, {model['identity'][:48]}, context {model['context_len']:,} tokens",
        ),
        wrapped(
            "engine   ",
            f"{d['replicas']} × {d['device']}, "
            f"{', '.join(f'{k}={v}' for k, v in d['engine_args'].items())}",
        ),
    ]


def _said_kind(chosen: str) -> str:
    return "row by row, by each right answer's form" if chosen == "auto" else f"as {chosen}"


def _prompting_lines(d: dict[str, Any]) -> list[str]:
    lines = []
    if d["think_tags"] is not None:
        tags = d["think_tags"]
        lines.append(f"thinks   {tags['open']} … {tags['close']} (format {tags['format']})")
    if d["recommended_sampling"]:
        pairs = d["recommended_sampling"].items()
        shown = ", ".join(f"{name} {value}" for name, value in pairs)
        hint = f"the model recommends {shown} (sampling.preset: model takes it)"
        lines.append(wrapped("sampling ", hint))
    return lines


def _overlap_lines(d: dict[str, Any]) -> list[str]:
    """Name the first prompts that overlap with benchmarks."""
    found = d.get("contamination")
    if found is None:
        return []
    lines = [
        f"overlap  {found['overlapping']:,} of {found['rows']:,} prompts overlap with benchmarks"
    ]
    for hit in found["hits"][:SHOWN_HITS]:
        place = f"{hit['benchmark']}: row {hit['benchmark_row']}"
        lines.append(f"         {hit['id']} with {place} ({hit['overlap']:.0%})")
    if len(found["hits"]) > SHOWN_HITS:
        lines.append(f"         … {len(found['hits']) - SHOWN_HITS:,} more: --json names all")
    return lines


def as_text(d: dict[str, Any]) -> str:
    """The lines that `check` prints about a job."""
    counts = d["counts"]
    failing = d.get("too_long", 0) + sum(d["bad_rows"].values())
    verdict = "nothing is wrong with it"
    if failing:
        verdict = f"can run, but {failing:,} of the first {d['sampled']:,} rows will fail"
    if not d.get("server", {}).get("ready", True):
        verdict += ", but its server is not ready for it"
    spared = ""
    if counts["spared"]:
        spared = f", {counts['spared']:,} spared"
    lines = [
        f"job      {d['job']}: {verdict}",
        *_model_and_engine(d),
        f"input    {counts['rows']:,} rows × {counts['n']}: {counts['done']:,} done, "
        f"{counts['failed']:,} failed, {counts['pending']:,} pending{spared}",
    ]
    if d["limit"] is not None and counts["rows"] + counts["duplicates"] >= d["limit"]:
        lines.append(f"         no more are read: input.limit is {d['limit']:,}")
    if counts["duplicates"]:
        lines.append(
            f"         {counts['duplicates']:,} rows left out: equal prompts, or done in "
            f"input.exclude"
        )
    if d["prompt_tokens"]:
        t = d["prompt_tokens"]
        too_long = ""
        if d["too_long"]:
            too_long = f"; {d['too_long']:,} too long for the context"
        lines.append(
            f"prompts  {t['min']:,} to {t['max']:,} tokens, mean {t['mean']:,.0f} (first "
            f"{d['sampled']:,} rows){too_long}"
        )
    if d["bad_rows"]:
        lines.append(
            "bad rows "
            + ", ".join(f"{count:,} {reason}" for reason, count in d["bad_rows"].items())
        )
        lines += [
            wrapped(
                " " * 9,
                f"{bad['reason']}: first in {bad['file']}, row {bad['row']:,} from 0 "
                f"({bad['message']})",
            )
            for bad in d["bad_examples"]
        ]
    if "chosen" in d["verify"]:
        v = d["verify"]
        kind = f"{v['kind']}: {_said_kind(v['chosen'])}"
        lines.append(wrapped("verify   ", f"{kind} ({v['why']})"))
    lines += _overlap_lines(d)
    lines += _prompting_lines(d)
    lines.append(f"output   {d['output']}")
    lines += [f"note     {note}" for note in d["notes"]]
    if fetch := d["model"].get("fetch"):
        lines.append(f"note     the weights are not on this machine yet: {fetch}")
    return "\n".join(lines)
