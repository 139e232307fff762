"""What an output has cost at a server: what its runs recorded, and at least what its rows and saved answers say.

A run that was killed recorded its spending a minute ago, so all that is committed or saved is
counted as well, and the larger of both is taken. Only what was thrown away in that minute
(`retry.on`) is in neither.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pyarrow.compute as pc

from batchr1.engine.openai.server import Price, Spent
from batchr1.executors.messages import ServerSetup
from batchr1.output.checkpoints import GenerationCheckpoint
from batchr1.output.folder import Output

NOTHING = {"prompt_tokens": 0, "completion_tokens": 0, "usd": 0.0}


def spent_before(
    output: Output, saved: Iterable[GenerationCheckpoint], price: Price
) -> dict[str, Any]:
    """Tokens and USD of all earlier runs of an output; what no run recorded, at today's price."""
    prompt = completion = 0
    for table in output.tables(["prompt_tokens", "completion_tokens"]):
        prompt += pc.sum(table.column("prompt_tokens")).as_py() or 0
        completion += pc.sum(table.column("completion_tokens")).as_py() or 0
    for one in saved:
        if one.reply is not None:
            prompt += one.reply.prompt_tokens or 0
            completion += one.reply.completion_tokens or 0
    told = _recorded(output, price)
    more = max(0, prompt - told["prompt_tokens"]), max(0, completion - told["completion_tokens"])
    return {
        "prompt_tokens": told["prompt_tokens"] + more[0],
        "completion_tokens": told["completion_tokens"] + more[1],
        "usd": told["usd"] + price.usd(*more),
    }


def _recorded(output: Output, price: Price) -> dict[str, Any]:
    """By the newest record that tells: what was before that run, and what it spent itself."""
    for record in reversed(output.runs()):
        own = record.get("spend")
        if own:
            before = own.get("before") or NOTHING
            prompt, completion = own["prompt_tokens"], own["completion_tokens"]
            usd = price.usd(prompt, completion) if own.get("usd") is None else own["usd"]
            return {
                "prompt_tokens": before["prompt_tokens"] + prompt,
                "completion_tokens": before["completion_tokens"] + completion,
                "usd": before["usd"] + usd,
            }
    return NOTHING


def spend_document(
    spent: Spent, price: Price | None, before: dict[str, Any] | None
) -> dict[str, Any]:
    """What a run's record says: its own answers and their cost in USD, and what was spent `before`
    it.
    """
    return {
        "requests": spent.requests,
        "prompt_tokens": spent.prompt_tokens,
        "completion_tokens": spent.completion_tokens,
        "without_usage": spent.without_usage,
        "usd": None
        if price is None
        else round(price.usd(spent.prompt_tokens, spent.completion_tokens), 6),
        "before": before,
    }


def spent_all(remote: ServerSetup, spent: Spent) -> str | None:
    """Why nothing more may be sent, None while money is left."""
    if remote.max_cost is None or remote.price is None:
        return None
    usd = remote.before + remote.price.usd(spent.prompt_tokens, spent.completion_tokens)
    if usd < remote.max_cost:
        return None
    return (
        f"engine.max_cost is reached: {money(usd)} USD of {money(remote.max_cost)} are spent on "
        f"this output. "
        "Raise it, and the same command goes on."
    )


def money(usd: float) -> str:
    """1,234.50 or 0.0123: small amounts with more digits."""
    return f"{usd:,.2f}" if usd >= 1 or usd == 0 else f"{usd:.4f}"


def as_line(spend: dict[str, Any], max_cost: float | None) -> str | None:
    """What a run's summary says of it; None where no price is known."""
    if spend["usd"] is None:
        return None
    of = f" of {money(max_cost)}" if max_cost is not None else ""
    line = f"spent: {money(spend['usd'])} USD on {spend['requests']:,} answers in this run"
    if spend["before"] and (spend["before"]["usd"] or max_cost is not None):
        line += f", {money(spend['before']['usd'] + spend['usd'])}{of} on this output"
    if spend["without_usage"]:
        line += f" ({spend['without_usage']:,} answers without usage are not in it)"
    return line
