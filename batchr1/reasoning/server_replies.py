"""From a server's answer to an output row. There are no token ids: the split is what the server made of it, or by text.

Counts are what the server's `usage` says, and null where it says nothing. `answer_tokens` and
`control_tokens` are never known: usage does not tell text from think tags and end token.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

from batchr1.reasoning.formats import R1, Format
from batchr1.reasoning.results import row_of
from batchr1.reasoning.split import Split, split_text, tags_in
from batchr1.reasoning.verify import AUTO, Verify
from batchr1.records import FinishReason, Reply, Result, ServerCompletion, TruncatedBy, WorkItem


def server_result(
    completion: ServerCompletion,
    *,
    forced: bool,
    format: Format = R1,
    model: str,
    run: str,
    expects_box: bool,
    instruction: str = "",
    verify: Verify = AUTO,
    finished_at: dt.datetime,
) -> Result:
    """The output row of a server's answer.

    Arguments as for `to_result`; `forced` and `format` as for `split_reply`.
    """
    item, reply = completion.item, completion.reply
    row = row_of(
        item,
        split_reply(reply, forced=forced, format=format),
        finish_reason=reply.finish_reason,
        model=model,
        run=run,
        expects_box=expects_box,
        instruction=instruction,
        verify=verify,
        finished_at=finished_at,
    )
    return replace(
        row,
        truncated_by=_truncated_by(item, reply) if row.truncated else None,
        prompt_tokens=reply.prompt_tokens,
        # vLLM counts 0 where its chat template has opened the block (seen in 0.32): then it has not
        # counted.
        reasoning_tokens=None
        if row.reasoning and not reply.reasoning_tokens
        else reply.reasoning_tokens,
        completion_tokens=reply.completion_tokens,
    )


def split_reply(reply: Reply, *, forced: bool, format: Format = R1) -> Split:
    """Take an answer apart: as the server did, if it gave reasoning apart, else by the first think tag in its text.

    - `</think>` without `<think>` before it: the server's chat template had opened the block.
    - `<think>` first: the model opened it.
    - No tag at all: an answer without reasoning (`missing`) if it ended by itself; many servers keep reasoning to
      themselves. One that was cut by length was cut while reasoning if the template is known to open the block
      (`forced`, prompting.think).
    """
    if reply.reasoning:
        return _as_told(reply, reply.reasoning, format)
    text = reply.content or ""
    return split_text(
        text,
        opened=_is_opened(text, reply.finish_reason, forced, format),
        finish_reason=reply.finish_reason,
        format=format,
    )


def _is_opened(text: str, finish_reason: FinishReason, forced: bool, format: Format) -> bool:
    found = tags_in(text, format)
    if found:
        return not found[0].opens
    return forced and finish_reason == "length"


def _as_told(reply: Reply, reasoning: str, format: Format) -> Split:
    """Without anything beside it the block was never closed, as far as can be seen: servers say
    nothing of a tag.
    """
    inside, is_closed = (
        reasoning.strip(),
        bool(reply.content),
    )  # white space comes after the closing tag too
    answer = (reply.content or "").strip() if is_closed else None
    is_cut = reply.finish_reason == "length"
    return Split(
        reasoning=inside or None,
        answer=answer,
        status="unclosed" if not is_closed else "closed" if inside else "empty",
        truncated_in=None if not is_cut else "answer" if is_closed else "reasoning",
        reasoning_tokens=None,
        answer_tokens=None,
        control_tokens=None,
        extra_think_tags=len(tags_in(f"{inside} {answer or ''}", format)),
    )


def _truncated_by(item: WorkItem, reply: Reply) -> TruncatedBy:
    """The server's own limit, where none was sent or it cut before that; by its count."""
    if item.limited_by == "context":
        return "context"
    is_before = reply.completion_tokens is not None and reply.completion_tokens < item.max_tokens
    return "context" if is_before else "max_tokens"
