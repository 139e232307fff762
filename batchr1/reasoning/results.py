"""From what the engine generated to an output row."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import dataclass, replace
from typing import Any

from batchr1.reasoning.answers import final_answer
from batchr1.reasoning.contents import AnswerForm
from batchr1.reasoning.flags import flags_of, in_order
from batchr1.reasoning.split import Split, split
from batchr1.reasoning.stops import cut_at
from batchr1.reasoning.tags import Decode, ThinkTags
from batchr1.reasoning.verify import AUTO, Verdict, Verify, quick_verdict
from batchr1.records import Completion, FinishReason, Result, ResumePoint, WorkItem


@dataclass(frozen=True, slots=True)
class RowRules:
    r"""Values and rules that all rows of a run share.

    `expects_box` says whether the instruction asked for `\boxed{}`. `instruction` is what was
    appended to the prompt, in whatever language the prompt is. A text ends before the first of
    `stops`. An answer is flagged that does not have the `form`.
    """

    model: str
    run: str
    expects_box: bool
    instruction: str = ""
    verify: Verify = AUTO
    stops: tuple[str, ...] = ()
    form: AnswerForm | None = None


def form_of(sampling: Any) -> AnswerForm | None:
    """Read the form of answers from a job's section `sampling`."""
    if not sampling.binds_answers:
        return None
    schema = sampling.answer_schema
    return AnswerForm(None if schema is None else json.dumps(schema), sampling.answer_regex)


def to_result(
    completion: Completion,
    *,
    tags: ThinkTags,
    decode: Decode,
    rules: RowRules,
    keep_token_ids: bool,
    finished_at: dt.datetime,
) -> Result:
    """Make the output row of a completion, every column filled.

    `decode` as for `split`. `keep_token_ids` keeps the token ids of all rows and not only of
    truncated ones, which need them to be continued. `correct` is null where verification takes more
    than a comparison: the `verifier` package does it.
    """
    item = completion.item
    prompt = item.prompt
    parts = split(
        completion.token_ids,
        tags=tags,
        decode=decode,
        opened=prompt.opened,
        finish_reason=completion.finish_reason,
    )
    if (
        parts.reasoning_tokens is None
        or parts.answer_tokens is None
        or parts.control_tokens is None
    ):
        raise TypeError("split() of token ids gives counts")
    truncated = completion.finish_reason == "length"
    is_forced = completion.injected > 0 and completion.closed_by != "loop"
    looped = "loop" in (completion.cut_by, completion.closed_by)
    marks = ("budget_forced",) * is_forced + ("looping",) * looped
    row = row_of(
        item,
        parts,
        finish_reason=completion.finish_reason,
        marks=marks,
        rules=rules,
        finished_at=finished_at,
    )
    return replace(
        row,
        truncated_by=(completion.cut_by or item.limited_by) if truncated else None,
        prompt_tokens=len(prompt.token_ids),
        injected_tokens=completion.injected,
        completion_tokens=len(completion.token_ids),
        token_ids=completion.token_ids if keep_token_ids or truncated else None,
    )


def row_of(
    item: WorkItem,
    parts: Split,
    *,
    finish_reason: FinishReason,
    marks: tuple[str, ...] = (),
    rules: RowRules,
    finished_at: dt.datetime,
) -> Result:
    """Make a row with all that follows from its texts.

    `marks` are flags besides. Token counts beyond those of `parts`, and the cut, are the caller's.
    """
    prompt = item.prompt
    stops = rules.stops if prompt.own.stop is None else prompt.own.stop
    if (ended := _before_stops(parts, stops)) is not parts:
        parts, finish_reason = ended, "stop"
    verdict = quick_verdict(rules.verify, parts.answer, prompt.gold)
    if verdict is None:
        verdict = Verdict(final_answer(parts.answer), None)
    if verdict.unsure:
        marks = (*marks, "verify_unsure")
    if rules.form is not None and not rules.form.fits(parts.answer):
        marks = (*marks, "answer_invalid")
    asked = prompt.text.removesuffix(rules.instruction)
    flags = flags_of(parts, prompt=asked, expects_box=rules.expects_box)
    return Result(
        id=prompt.id,
        sample=item.sample,
        kept=prompt.kept,
        prompt=prompt.text,
        prompt_messages=prompt.dialogue,
        gold=prompt.gold,
        reasoning=parts.reasoning,
        answer=parts.answer,
        final_answer=verdict.final,
        correct=verdict.correct,
        verdict_by=verdict.by,
        reasoning_status=parts.status,
        truncated=finish_reason == "length",
        truncated_in=parts.truncated_in,
        truncated_by=None,
        finish_reason=finish_reason,
        prompt_tokens=None,
        reasoning_tokens=parts.reasoning_tokens,
        answer_tokens=parts.answer_tokens,
        control_tokens=parts.control_tokens,
        injected_tokens=0,
        completion_tokens=None,
        flags=in_order((*flags, *marks)),
        seed=item.seed,
        attempts=item.attempt,
        resumed_at=resumed_at(item.partial),
        token_ids=None,
        prompt_hash=prompt.digest.hex(),
        model=rules.model,
        run=rules.run,
        finished_at=finished_at,
    )


def _before_stops(parts: Split, stops: tuple[str, ...]) -> Split:
    """End the last text before its first stop string.

    A closed trace may hold it too.
    """
    if parts.status == "unclosed":
        ended = replace(parts, reasoning=cut_at(parts.reasoning, stops))
    else:
        ended = replace(parts, answer=cut_at(parts.answer, stops))
    return parts if ended == parts else replace(ended, truncated_in=None)


def resumed_at(partial: ResumePoint | None) -> tuple[int, ...]:
    """List the offsets at which a generation went on, this run's last."""
    if partial is None:
        return ()
    if partial.finish_reason is not None:  # it had ended before: nothing went on
        return partial.resumed_at
    offset = len(partial.token_ids)
    if offset == 0 or offset in partial.resumed_at[-1:]:
        return partial.resumed_at
    return (*partial.resumed_at, offset)
