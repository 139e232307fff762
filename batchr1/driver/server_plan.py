"""Plan of a job whose work a server does.

It counts requests and tokens, and prices them.
"""

from __future__ import annotations

from typing import Any

from batchr1.dataset.prompts import RowError
from batchr1.driver.context import JobContext
from batchr1.driver.feed.items import prompts_in
from batchr1.driver.feed.lengths import expected_completions
from batchr1.driver.planning import make_renderer
from batchr1.engine.openai.server import money

CHARS_PER_TOKEN = 4  # OpenAI's rule of thumb for English; only for an estimate
SAMPLE_ROWS = 20_000


def plan_server_job(job: JobContext) -> dict[str, Any]:
    """Reads the prompts; asks no server.

    Tokens and cost are of the whole input, whatever is done of it.
    """
    spec, source = job.spec, job.source
    renderer = make_renderer(job)
    rows, batches = source.spread(source.prompt_columns, SAMPLE_ROWS, else_about=SAMPLE_ROWS)
    chars = good = 0
    for batch in batches:
        for prompt in prompts_in(source, renderer, batch):
            if not isinstance(prompt, RowError):
                good += 1
                chars += sum(len(content) for _, content in prompt.messages)
    completions = expected_completions(spec, source, [job.output, *job.earlier], job.model)
    requests = rows * spec.sampling.n
    prompt_tokens = round(requests * chars / good / CHARS_PER_TOKEN) if good else 0
    completion_tokens = round(requests * completions.mean)
    price = spec.engine.price
    return {
        "model": job.model.name,
        "base_url": spec.engine.base_url,
        "concurrency": spec.engine.concurrency,
        "rows": rows,
        "n": spec.sampling.n,
        "requests": requests,
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "lengths": completions.source,
        "price": None if price is None else {"input": price.input, "output": price.output},
        "cost_usd": None
        if price is None
        else round(price.usd(prompt_tokens, completion_tokens), 4),
        "max_cost": spec.engine.max_cost,
    }


def server_plan_text(d: dict[str, Any]) -> str:
    """The same as lines."""
    lines = [
        f"model    {d['model']}",
        f"engine   openai at {d['base_url']}, {d['concurrency']} requests at a time",
        f"input    {d['rows']:,} rows × {d['n']} = {d['requests']:,} requests",
        f"tokens   about {d['prompt_tokens']:,} in ({CHARS_PER_TOKEN} characters a token) and "
        f"{d['completion_tokens']:,} out ({d['lengths']})",
    ]
    if d["price"] is None:
        lines.append("cost     not estimated: the job names no engine.price")
    else:
        price, most = d["price"], d["max_cost"]
        per = f"{price['input']:g} USD per million in, {price['output']:g} out"
        limit = "" if most is None else f"; engine.max_cost is {money(most)} USD"
        lines.append(f"cost     about {money(d['cost_usd'])} USD ({per}){limit}")
    return "\n".join(lines)
