"""Cost of an output at a server, over all its runs.

By the runs' records, and at least by the rows and saved answers. A run that was killed recorded its
spending a minute ago, so all that is committed or saved is counted as well, and the larger of both
is taken. Only what was thrown away in that minute (`retry.on`) is in neither.
"""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow.compute as pc

from batchr1.engine.openai.server import Spent, money
from batchr1.job.engine import PriceSpec
from batchr1.output.checkpoints import GenerationCheckpoint
from batchr1.output.folder import Output
from batchr1.output.run_record import SpendRecord, SpentRecord


def spent_before(
    output: Output, saved: Iterable[GenerationCheckpoint], price: PriceSpec
) -> SpentRecord:
    """Add up tokens and USD of all earlier runs.

    What no run recorded is taken at today's price.
    """
    prompt = completion = 0
    for table in output.tables(["prompt_tokens", "completion_tokens"]):
        prompt += pc.sum(table.column("prompt_tokens")).as_py() or 0
        completion += pc.sum(table.column("completion_tokens")).as_py() or 0
    for one in saved:
        if one.reply is not None:
            prompt += one.reply.prompt_tokens or 0
            completion += one.reply.completion_tokens or 0
    recorded = _recorded(output, price)
    more_prompt = max(0, prompt - recorded.prompt_tokens)
    more_completion = max(0, completion - recorded.completion_tokens)
    return SpentRecord(
        prompt_tokens=recorded.prompt_tokens + more_prompt,
        completion_tokens=recorded.completion_tokens + more_completion,
        usd=recorded.usd + price.usd(more_prompt, more_completion),
    )


def _recorded(output: Output, price: PriceSpec) -> SpentRecord:
    """Read the spending up to the newest record that has any."""
    spends = (record.spend for record in reversed(output.runs()))
    own = next((spend for spend in spends if spend is not None), None)
    if own is None:
        return SpentRecord(prompt_tokens=0, completion_tokens=0, usd=0.0)
    before = own.before or SpentRecord()
    usd = own.usd
    if usd is None:
        usd = price.usd(own.prompt_tokens, own.completion_tokens)
    return SpentRecord(
        prompt_tokens=before.prompt_tokens + own.prompt_tokens,
        completion_tokens=before.completion_tokens + own.completion_tokens,
        usd=before.usd + usd,
    )


def spend_record(spent: Spent, price: PriceSpec | None, before: SpentRecord | None) -> SpendRecord:
    """Record a run's own answers, and their cost in USD.

    `before`: what earlier runs spent.
    """
    usd = None
    if price is not None:
        usd = round(price.usd(spent.prompt_tokens, spent.completion_tokens), 6)
    return SpendRecord(
        requests=spent.requests,
        prompt_tokens=spent.prompt_tokens,
        completion_tokens=spent.completion_tokens,
        without_usage=spent.without_usage,
        usd=usd,
        before=before,
    )


def as_line(spend: SpendRecord, max_cost: float | None) -> str | None:
    """Say what a run has spent; None where no price is known."""
    if spend.usd is None:
        return None
    line = f"spent: {money(spend.usd)} USD on {spend.requests:,} answers in this run"
    before = spend.before
    if before is not None and (before.usd or max_cost is not None):
        of = ""
        if max_cost is not None:
            of = f" of {money(max_cost)}"
        line += f", {money(before.usd + spend.usd)}{of} on this output"
    if spend.without_usage:
        line += f" ({spend.without_usage:,} answers without usage are not in it)"
    return line
