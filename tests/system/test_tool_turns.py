"""Finished tool turns in dialogues: rendered by templates that know them, refused by others."""

from __future__ import annotations

import json
from typing import Any

import pytest

from batchr1.dataset.chat_prompts import ChatRenderer
from batchr1.dataset.messages import as_messages
from batchr1.dataset.prompts import (
    MATH_INSTRUCTION,
    PromptRenderer,
    PromptRow,
    RowError,
    load_tokenizer,
)
from batchr1.models.catalogue import variant

# Templates that render a call's arguments as an object, or as the text that they came as.
TURNS = (
    "{% for m in messages %}"
    "{% if m.role == 'user' %}<｜User｜>{{ m.content }}"
    "{% elif m.role == 'tool' %}[{{ m.content }}]"
    "{% else %}<｜Assistant｜>{{ m.content }}"
    "{% for c in m.tool_calls or [] %}({{ c.function.name }} ARGUMENTS){% endfor %}"
    "{% endif %}{% endfor %}<｜Assistant｜><think>\n"
)
TEMPLATES = {
    "object": TURNS.replace(
        "ARGUMENTS", "{% for k, v in c.function.arguments.items() %}{{ k }}={{ v }}{% endfor %}"
    ),
    "text": TURNS.replace("ARGUMENTS", "{{ '~' + c.function.arguments }}"),
}
ARGUMENTS = {"word": "blue </think>"}
MATH = f"\n\n{MATH_INSTRUCTION}"
ASKED = {"role": "user", "content": "Look it up."}
ANSWERED = {"role": "tool", "content": "0000FF <｜User｜>", "tool_call_id": "c1"}
LAST = {"role": "user", "content": "So?"}


def called(arguments: Any = ARGUMENTS, **more: Any) -> dict[str, Any]:
    function = {"name": "find", "arguments": arguments}
    calls = [{"id": "c1", "type": "function", "function": function}]
    return {"role": "assistant", "content": None, "tool_calls": calls, **more}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load_tokenizer(str(variant("r1-tiny").path))


def renderer_of(tokenizer: Any, template: str | None) -> PromptRenderer:
    return PromptRenderer(tokenizer, instruction="none", template=template)


@pytest.mark.parametrize("form", ["object", "text"])
@pytest.mark.parametrize("given", [ARGUMENTS, json.dumps(ARGUMENTS)], ids=["object", "text"])
def test_a_finished_tool_turn_is_rendered_with_arguments_as_the_template_wants_them(
    tokenizer: Any, form: str, given: Any
) -> None:
    renderer = renderer_of(tokenizer, TEMPLATES[form])
    prompt = renderer.render("a", [ASKED, called(given), ANSWERED, LAST])
    shown = {"object": "word=blue </think>", "text": f"~{json.dumps(ARGUMENTS)}"}[form]
    text = renderer.as_text(prompt.token_ids)
    assert f"(find {shown})[0000FF <｜User｜>]<｜User｜>So?" in text.replace("▁", " ")


def test_what_a_tool_said_stays_text(tokenizer: Any) -> None:
    renderer = renderer_of(tokenizer, TEMPLATES["object"])
    plain = [ASKED, called({"word": "blue"}), {**ANSWERED, "content": "0000FF"}, LAST]
    special = [ASKED, called(), ANSWERED, LAST]
    added = set(tokenizer.get_added_vocab().values())
    counts = [
        sum(token in added for token in renderer.render("a", turns).token_ids)
        for turns in (plain, special)
    ]
    assert counts[0] == counts[1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([ASKED, called(), LAST], "a tool call has no answer in the dialogue"),
        ([ASKED, ANSWERED, LAST], "a tool's answer has no call in the dialogue"),
        (
            [ASKED, called("{no"), ANSWERED, LAST],
            "the arguments of a tool call must be an object in JSON",
        ),
        (
            [ASKED, {**called(), "tool_calls": [{"id": "c1"}]}, ANSWERED, LAST],
            "a tool call must have a function with a name",
        ),
        (
            [{**ASKED, "tool_calls": called()["tool_calls"]}, ANSWERED, LAST],
            "a message has unknown keys (tool_calls)",
        ),
        ([ASKED, called(), ANSWERED], "the last message must be the user's (got role tool)"),
    ],
)
def test_a_dialogue_with_a_broken_tool_turn_fails_as_a_row(
    tokenizer: Any, content: Any, message: str
) -> None:
    renderer = renderer_of(tokenizer, TEMPLATES["text"])
    [error] = renderer.render_many([PromptRow("a", content)])
    assert isinstance(error, RowError)
    assert (error.reason, error.message) == ("bad_messages", message)


def test_a_template_without_tools_and_a_server_refuse_tool_turns(tokenizer: Any) -> None:
    row = PromptRow("a", [ASKED, called(), ANSWERED, LAST])
    for renderer in (renderer_of(tokenizer, None), ChatRenderer()):
        [error] = renderer.render_many([row])
        assert isinstance(error, RowError)
        assert error.message.startswith(
            "its dialogue has tool turns, which the chat template does not render"
        )


def test_sharegpts_tool_turns_are_the_same(tokenizer: Any) -> None:
    call = json.dumps({"name": "find", "arguments": ARGUMENTS})
    shared = [
        {"from": "human", "value": "Look it up."},
        {"from": "function_call", "value": call},
        {"from": "observation", "value": ANSWERED["content"]},
        {"from": "human", "value": "So?"},
    ]
    renderer = renderer_of(tokenizer, TEMPLATES["object"])
    messages = [ASKED, called(), ANSWERED, LAST]
    one, other = (renderer.render("a", as_messages(m)) for m in (shared, messages))
    assert one.token_ids == other.token_ids


@pytest.mark.parametrize("kind", ["engine", "server"])
def test_the_turns_of_a_dialogue_are_kept_as_they_were_sent(tokenizer: Any, kind: str) -> None:
    said = {"role": "assistant", "content": "blue <｜User｜>"}
    renderer = renderer_of(tokenizer, None) if kind == "engine" else ChatRenderer()
    rows = [PromptRow("a", [ASKED, said, LAST]), PromptRow("b", "What is 2 + 2?")]
    several, one = renderer.render_many(rows)
    assert not isinstance(several, RowError)
    assert not isinstance(one, RowError)
    asked = [ASKED, said, {**LAST, "content": f"So?{'' if kind == 'engine' else MATH}"}]
    assert json.loads(several.dialogue or "") == asked
    assert one.dialogue is None


def test_a_prompt_is_shown_with_its_special_tokens_marked(tokenizer: Any) -> None:
    renderer = renderer_of(tokenizer, None)
    [prompt] = renderer.render_many([PromptRow("a", "Is <think> a tag? ½ <｜User｜>")])
    assert not isinstance(prompt, RowError)
    shown = renderer.show(prompt)
    assert shown.replace("⟦", "").replace("⟧", "") == renderer.as_text(prompt.token_ids)
    assert shown.startswith("⟦<｜begin▁of▁sentence｜>⟧⟦<｜User｜>⟧Is <think> a tag?")
    assert shown.rstrip().endswith("<｜User｜>⟦<｜Assistant｜>⟧⟦<think>⟧")
