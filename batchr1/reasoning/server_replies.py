"""Output row of a server's answer, without token ids.

The split is what the server made of it, or by text. Counts are what the server's `usage` says, and
null where it says nothing. `answer_tokens` and `control_tokens` are never known: usage does not
tell text from think tags and end token.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

from batchr1.reasoning.formats import Format, seen_in
from batchr1.reasoning.results import RowRules, row_of
from batchr1.reasoning.split import Split, split_text
from batchr1.reasoning.tags import Tag, tags_in
from batchr1.records import (
    FinishReason,
    ReasoningStatus,
    Reply,
    Result,
    ServerCompletion,
    TruncatedBy,
    TruncatedIn,
    WorkItem,
)

# Texts of end tokens of public vocabularies; none is found at the end of ordinary text.
END_TOKENS = (
    *("<｜end▁of▁sentence｜>", "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>"),
    *("<|return|>", "<|end|>", "<end_of_turn>", "<eos>", "<seed:eos>", "<|END_OF_TURN_TOKEN|>"),
    *("<turn|>", "[EOS]", "</s>", "<|eom_id|>", "[e~["),
)


def server_result(
    completion: ServerCompletion,
    *,
    forced: bool,
    format: Format | None = None,
    rules: RowRules,
    finished_at: dt.datetime,
) -> Result:
    """Make the output row of a server's answer.

    Arguments as for `to_result`; `forced` and `format` as for `split_reply`.
    """
    item, reply = completion.item, completion.reply
    row = row_of(
        item,
        split_reply(reply, forced=forced, format=format),
        finish_reason=reply.finish_reason,
        rules=rules,
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


def split_reply(reply: Reply, *, forced: bool, format: Format | None = None) -> Split:
    """Take an answer apart, as the server did or by tags.

    Without a `format`, by the family whose tags the text holds.

    - Reasoning apart, and a closing tag first in the text: the tag belongs to the block.
    - Reasoning apart and nothing beside it: the block was never closed, as far as can be seen.
    - A closing tag without an opening one before it: the server's chat template had opened the
      block.
    - An opening tag first, or one that is closed: the model opened it. Elsewhere, in a text that
      ended by itself, it is text about a tag.
    - No tag at all: an answer without reasoning (`missing`) if it ended by itself; many servers
      keep reasoning to themselves. One that was cut by length was cut while reasoning if the
      template is known to open the block (`forced`, prompting.think).
    """
    if reply.finish_reason == "stop":
        content, reasoning = without_end(reply.content), without_end(reply.reasoning)
        reply = replace(reply, content=content, reasoning=reasoning)
    text = reply.content or ""
    family = format or seen_in(text)
    found = [tag for tag in tags_in(text, family) if tag.kind in ("open", "close")]
    if reply.reasoning is not None and (reply.reasoning.strip() or (reply.reasoning and not found)):
        return _as_split_by_server(reply, reply.reasoning, found)
    if _is_about_tags(text, found, reply.finish_reason):
        return _without_reasoning(text, found)
    if found:
        opened = found[0].kind == "close" and not family.channels
    else:
        opened = forced and reply.finish_reason == "length"
    return split_text(text, opened=opened, finish_reason=reply.finish_reason, format=family)


def without_end(text: str | None) -> str | None:
    """Take off end tokens that a server left, as llama.cpp does.

    `</s>` stays where the text has a `<s>`: then it is HTML.
    """
    if text is None:
        return None
    rest = text.rstrip()
    while (end := next((end for end in END_TOKENS if rest.endswith(end)), None)) is not None:
        if end == "</s>" and "<s>" in rest:
            break
        rest = rest[: -len(end)].rstrip()
    if len(rest) == len(text.rstrip()):
        return text
    return rest


def _is_about_tags(text: str, found: list[Tag], finish_reason: FinishReason) -> bool:
    """Tell whether an unclosed tag stands in the middle of text."""
    if not found or finish_reason == "length" or any(tag.kind == "close" for tag in found):
        return False
    return bool(text[: found[0].start].strip())


def _without_reasoning(text: str, found: list[Tag]) -> Split:
    return Split(
        reasoning=None,
        answer=text.strip(),
        status="missing",
        truncated_in=None,
        reasoning_tokens=None,
        answer_tokens=None,
        control_tokens=None,
        extra_think_tags=len(found),
    )


def _as_split_by_server(reply: Reply, reasoning: str, found: list[Tag]) -> Split:
    """Keep the server's own parts; an empty text is none."""
    content = reply.content or ""
    if found and found[0].kind == "close" and not content[: found[0].start].strip():
        content, found = content[found[0].end :], found[1:]
    # White space comes after the closing tag too.
    inside, is_closed = reasoning.strip(), bool(reply.content)
    answer = content.strip() if is_closed else None
    is_cut = reply.finish_reason == "length"
    if not is_closed:
        status: ReasoningStatus = "unclosed"
    else:
        status = "closed" if inside else "empty"
    truncated_in: TruncatedIn | None = None
    if is_cut:
        truncated_in = "answer" if is_closed else "reasoning"
    return Split(
        reasoning=inside or None,
        answer=answer,
        status=status,
        truncated_in=truncated_in,
        reasoning_tokens=None,
        answer_tokens=None,
        control_tokens=None,
        extra_think_tags=len(found),
    )


def _truncated_by(item: WorkItem, reply: Reply) -> TruncatedBy:
    """Name the limit that cut an answer, by the server's count."""
    if item.limited_by == "context":
        return "context"
    is_before = reply.completion_tokens is not None and reply.completion_tokens < item.max_tokens
    return "context" if is_before else "max_tokens"
