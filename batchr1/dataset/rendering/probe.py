"""Probe of a chat template, before anything runs.

It renders a few messages. What would make wrong prompts is refused, with the key that would help;
what is odd is noted.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal

from jinja2 import TemplateError

from batchr1.dataset.bounds import TooMuchError, bounded
from batchr1.dataset.rendering.chat_template import ChatTemplate
from batchr1.errors import ModelError
from batchr1.reasoning.formats import (
    FORMATS,
    R1,
    Format,
    find,
    named,
    shows,
    unknown_signs,
)
from batchr1.reasoning.tags import tags_in

QUESTION, SYSTEM, THOUGHT = "What is 1 + 1 (3f9a)?", "Be brief (7c2e).", "An old thought (b81d)."
MIN_SYSTEM_WORDS = 4  # fewer in front of the question are names of roles
SHOWN_WORDS = 12

TEMPLATE_FAULTS = (
    TemplateError,
    TypeError,
    ValueError,
    LookupError,
    ArithmeticError,  # a sandbox's range that is too long
    AttributeError,
    RecursionError,
)

State = Literal["neutral", "open", "begun", "closed"]
ToolArguments = Literal["text", "object"]


@dataclass(frozen=True, slots=True)
class Facts:
    """Findings about a template.

    `tail` is what it puts behind the user's words, and `state` what that does to the think block:
    `neutral`, `open`, `begun` (open, and its first words said) or `closed`. `is_dated`: the day is
    in its prompts. `shows_system`: a system message becomes a turn. `keeps_thoughts`: reasoning of
    earlier turns stays in the prompt. `notes` are what a user should know.
    """

    format: Format
    tail: str
    state: State
    is_dated: bool
    shows_system: bool
    keeps_thoughts: bool
    notes: tuple[str, ...]
    tool_arguments: ToolArguments | None = None


def probe(
    template: ChatTemplate, *, format: str | Format, force: bool, tokens: Collection[str]
) -> Facts:
    """Find out what a template does to prompts.

    `format` names a family, or is one; `tokens` are the added tokens. `force` is whether prompts
    must end inside an open block. Raises ModelError for a template that cannot be rendered, or not
    to the prompts that the job asks for.
    """
    text = _render_question(template)
    head, _, tail = text.rpartition(QUESTION)
    family = _family(template, format, tail, tokens, force=force)
    state = state_of(tail, family)
    if state == "closed" and force:
        raise ModelError(_closed(template, family))
    if _opens_twice(tail, family):
        raise ModelError(
            f"{template.where}: its chat template opens two think blocks (got {tail[-60:]!r}, need "
            "one). Correct the template, or give one in prompting.template."
        )
    is_dated = template.render(_user(), day=template.day + dt.timedelta(days=40)) != text
    notes = [
        *_block_notes(template, family, tail, state, force=force),
        *_system_notes(head, tokens),
        *_switch_notes(template, text, tail, state, force=force),
    ]
    if is_dated:
        notes.append(
            f"its chat template puts the date into prompts: {template.day} stays the day of this "
            "output"
        )
    return Facts(
        family,
        tail,
        state,
        is_dated,
        _shows_system(template),
        _keeps_thoughts(template, family),
        tuple(notes),
        _tool_arguments(template),
    )


def state_of(tail: str, format: Format) -> State:
    """Tell what the end of a prompt does to the think block."""
    tags = tags_in(tail, format)
    blocks = [tag for tag in tags if tag.kind in ("open", "close")]
    if not blocks:
        return "neutral"
    last = blocks[-1]
    if last.kind == "close" or any(t.kind == "turn" and t.start >= last.end for t in tags):
        return "closed"
    return "begun" if tail[last.end :].strip() else "open"


def _user(content: str = QUESTION) -> list[dict[str, Any]]:
    return [{"role": "user", "content": content}]


def _render_question(template: ChatTemplate) -> str:
    """Render the question, its content as text or as parts."""
    error: Exception | None = None
    for as_parts in (False, True):
        template.as_parts = as_parts
        try:
            with bounded():
                text = template.render(_user())
        except TooMuchError as exc:
            raise ModelError(
                f"{template.where}: its chat template does not end ({exc}; need a short message "
                "rendered at once). Correct it."
            ) from exc
        except TEMPLATE_FAULTS as exc:
            error = error or exc
            continue
        if QUESTION in text:
            return text
    template.as_parts = False
    if error is not None:
        raise ModelError(
            f"{template.where}: its chat template cannot be rendered ({error}). Correct it, or "
            "give one in prompting.template."
        ) from error
    raise ModelError(
        f"{template.where}: its chat template leaves out what the user says (got a prompt without "
        "the question). Give one that renders it in prompting.template."
    )


def _family(
    template: ChatTemplate,
    format: str | Format,
    tail: str,
    tokens: Collection[str],
    *,
    force: bool,
) -> Format:
    if isinstance(format, Format):
        return format
    if format != "auto":
        try:
            chosen = named(format, tokens)
        except ValueError as exc:
            raise ModelError(
                f"{template.where}: prompting.format {format} does not fit it ({exc}). Set "
                "prompting.format to auto, or to its family."
            ) from exc
        _refuse_other_tags(template, chosen, tail, tokens)
        return chosen
    found = find(tail=tail, template=template.source, tokens=tokens)
    if found is not None:
        return found
    signs = unknown_signs(template=template.source, tokens=tokens)
    if signs:
        raise ModelError(
            f"{template.where}: it thinks, in tags that batchr1 does not know (got "
            f"{', '.join(signs[:4])}; known formats: {', '.join(FORMATS)}). Set prompting.format "
            "to one of them, or to its tags as {open: …, close: …}."
        )
    if force:
        raise ModelError(
            f"{template.where}: neither its vocabulary nor its chat template has think tags (got "
            f"prompting.think force, which would write {R1.open} as plain text). Set "
            "prompting.think to auto, or prompting.format to r1 for a model trained so."
        )
    return R1


def _refuse_other_tags(
    template: ChatTemplate, chosen: Format, tail: str, tokens: Collection[str]
) -> None:
    """Refuse a family of which the model shows nothing, but another."""
    if shows(chosen, tail=tail, template=template.source, tokens=tokens):
        return
    found = find(tail=tail, template=template.source, tokens=tokens)
    if found is not None and found.open != chosen.open:
        raise ModelError(
            f"{template.where}: prompting.format {chosen.name} does not fit it (its chat template "
            f"and vocabulary have {found.open}, and never {chosen.open}). Set prompting.format to "
            f"{found.name}, or to the tags that it was trained with as {{open: …, close: …}}."
        )


def _closed(template: ChatTemplate, format: Format) -> str:
    """Word the refusal of a closed block."""
    helps = ""
    for name, value in template.open_switches():
        tail = template.render(_user(), args={name: value}).rpartition(QUESTION)[2]
        if state_of(tail, format) != "closed":
            shown = "true" if value is True else value
            helps = f"Set prompting.template_args to {{{name}: {shown}}}, or "
            break
    return (
        f"{template.where}: its chat template closes the think block at once, so the model would "
        "not reason (got an empty block, need an open one). "
        f"{helps or 'Use a template for reasoning, or '}set prompting.think to auto."
    )


def _opens_twice(tail: str, format: Format) -> bool:
    return sum(tag.kind == "open" for tag in tags_in(tail, format)) > 1


def _block_notes(
    template: ChatTemplate, format: Format, tail: str, state: State, *, force: bool
) -> list[str]:
    if state == "closed":
        return ["its chat template closes the think block: the model answers without reasoning"]
    if state == "begun":
        said = tags_in(tail, format)[-1].end
        return [f"its chat template says the first words of the reasoning: {tail[said:].strip()!r}"]
    shows_tags = format.open in template.source or format.close in template.source
    if state == "neutral" and force and not shows_tags and format.pieces:
        return [
            f"its chat template never has {format.open}, which prompting.think force adds: set "
            "prompting.think to auto if it was not trained to begin so"
        ]
    return []


def _system_notes(head: str, tokens: Collection[str]) -> list[str]:
    """Tell of a system prompt that the template puts in."""
    for token in sorted(tokens, key=len, reverse=True):
        head = head.replace(token, " ")
    words = re.sub(r"<[^<>]{1,40}>", " ", head).split()
    spoken = [word for word in words if re.search(r"\w", word)]
    if len(spoken) < MIN_SYSTEM_WORDS:
        return []
    shown = " ".join(words[:SHOWN_WORDS]) + (" …" if len(words) > SHOWN_WORDS else "")
    return [
        f"its chat template puts a system prompt of its own in ({len(spoken)} words: {shown!r}); "
        "a row's own replaces it with prompting.system keep"
    ]


def _switch_notes(
    template: ChatTemplate, text: str, tail: str, state: State, *, force: bool
) -> list[str]:
    """Tell of a switch that would turn thinking on."""
    if state != "neutral":
        return []
    for name, value in template.open_switches():
        changed = template.render(_user(), args={name: value})
        if changed != text and value in (True, "enabled"):
            shown = "true" if value is True else value
            return [
                f"its chat template has a switch for thinking that is not set: set "
                f"prompting.template_args to {{{name}: {shown}}}, or to its opposite"
            ]
    return []


def _shows_system(template: ChatTemplate) -> bool:
    try:
        with bounded():
            text = template.render([{"role": "system", "content": SYSTEM}, *_user()])
    except (TooMuchError, *TEMPLATE_FAULTS):
        return False
    return SYSTEM in text and QUESTION in text


def _keeps_thoughts(template: ChatTemplate, format: Format) -> bool:
    """Tell whether reasoning of an earlier turn stays in the prompt."""
    said = {"role": "assistant", "content": format.inline(THOUGHT, "Two.")}
    try:
        with bounded():
            text = template.render([*_user("And 1 + 0?"), said, *_user()])
    except (TooMuchError, *TEMPLATE_FAULTS):
        return False
    return THOUGHT in text


def _tool_arguments(template: ChatTemplate) -> ToolArguments | None:
    """Find the form of arguments with which tool turns are rendered whole."""
    name, value, result = "find_5e1b", "a4d7", "Found (9b2c)."
    forms: tuple[tuple[ToolArguments, Any], ...] = (
        ("object", {"word": value}),
        ("text", f'{{"word": "{value}"}}'),
    )
    for form, arguments in forms:
        function = {"name": name, "arguments": arguments}
        call = {"id": "call00001", "type": "function", "function": function}
        turns = [
            *_user("Look it up."),
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": result, "tool_call_id": "call00001", "name": name},
            {"role": "assistant", "content": "Done."},
            *_user(),
        ]
        try:
            with bounded():
                text = template.render(turns)
        except (TooMuchError, *TEMPLATE_FAULTS):
            continue
        if all(word in text for word in (name, value, result, QUESTION)):
            return form
    return None
