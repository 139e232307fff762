"""The probe of a chat template: what it finds, what it refuses, and what it only notes.

Templates are short forms of our own that end as the named models' do.
"""

from __future__ import annotations

import copy
import datetime as dt
from functools import cache
from typing import Any

import pytest

from batchr1.dataset.prompts import PromptRenderer
from batchr1.dataset.rendering.turns import RowError
from batchr1.dataset.tokenizer import load_tokenizer
from batchr1.errors import ModelError
from batchr1.models.catalogue import variant
from batchr1.reasoning.formats import Format

TURNS = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}<｜User｜>{{ m.content }}"
    "{% else %}<｜Assistant｜>{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
TAIL = "{% if add_generation_prompt %}<｜Assistant｜>TAIL{% endif %}"
DAY = dt.date(2026, 1, 31)


@cache
def _tiny() -> Any:
    return load_tokenizer(str(variant("r1-tiny").path))


def tokenizer(template: str, *tokens: str) -> Any:
    """r1-tiny's tokenizer with another template, and other added tokens than its tags."""
    from tokenizers import AddedToken

    found = copy.deepcopy(_tiny())
    if tokens:
        found.add_tokens([AddedToken(token, special=True) for token in tokens])
    found.chat_template = template
    return found


class Hidden:
    """A tokenizer whose added tokens are those named, so that others are not seen."""

    def __init__(self, inner: Any, tokens: tuple[str, ...]) -> None:
        self._inner, self._tokens = inner, tokens

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def __call__(self, *args: Any, **options: Any) -> Any:
        return self._inner(*args, **options)

    @property
    def added_tokens_decoder(self) -> dict[int, Any]:
        own = {"<｜User｜>", "<｜Assistant｜>"} | set(self._tokens)
        found: dict[int, Any] = self._inner.added_tokens_decoder
        return {i: t for i, t in found.items() if t.content in own or t.content.startswith("<｜▁")}


def renderer(tail: str, *tokens: str, head: str = TURNS, **options: Any) -> PromptRenderer:
    template = head + TAIL.replace("TAIL", tail)
    inner = Hidden(tokenizer(template, *tokens), tokens)
    return PromptRenderer(inner, instruction="none", day=DAY, **options)


def text(made: PromptRenderer, content: Any = "Q?") -> str:
    return made.as_text(made.render("a", content).token_ids)


R1 = ("<think>", "</think>")
V31 = "{% if thinking is defined and thinking %}<think>{% else %}</think>{% endif %}"


def test_a_closed_block_names_the_switch_that_opens_it() -> None:
    with pytest.raises(ModelError) as caught:
        renderer(V31, *R1)
    assert str(caught.value) == (
        "model (unnamed): its chat template closes the think block at once, so the model would not "
        "reason (got an empty block, need an open one). Set prompting.template_args to "
        "{thinking: true}, or set prompting.think to auto."
    ).replace("(unnamed)", _tiny().name_or_path)
    made = renderer(V31, *R1, template_args={"thinking": True})
    assert text(made).endswith("<｜Assistant｜><think>") and made.render("a", "Q?").opened


def test_a_block_that_auto_leaves_closed_is_noted() -> None:
    made = renderer(V31, *R1, think="auto")
    assert not made.render("a", "Q?").opened
    assert made.notes == (
        "its chat template closes the think block: the model answers without reasoning",
    )


@pytest.mark.parametrize(
    ("tail", "tokens", "name", "ends"),
    [
        ("<seed:think>\n", ("<seed:think>", "</seed:think>"), "seed", "<seed:think>\n"),
        ("<thought>\n", (), "thought", "<thought>\n"),
        ("", ("[THINK]", "[/THINK]"), "mistral", "[THINK]"),
        ("", ("<think:os>", "</think:os>"), "suffixed", "<think:os>"),
        ("", ("<|inner_prefix|>", "<|inner_suffix|>"), "apertus", "<|inner_prefix|>"),
        ("<|START_THINKING|>", ("<|START_THINKING|>", "<|END_THINKING|>"), "cohere", "THINKING|>"),
        ("Here are my reasoning steps:\n", (), "apriel", "Here are my reasoning steps:\n"),
        ("<|channel>thought\n", ("<|channel>", "<channel|>"), "gemma", "<|channel>thought\n"),
        ("", ("<mm:think>", "</mm:think>"), "minimax", "<mm:think>\n"),
    ],
)
def test_a_family_is_found_by_prompt_or_vocabulary(
    tail: str, tokens: tuple[str, ...], name: str, ends: str
) -> None:
    made = renderer(tail, *tokens)
    assert made.format is not None and made.format.name == name
    assert text(made).endswith(ends) and made.render("a", "Q?").opened
    assert text(made).count(made.format.open) == 1


def test_harmony_is_found_by_its_channels() -> None:
    head = (
        "<|start|>system<|message|>Reasoning: medium<|end|>{% for m in messages %}<|start|>"
        "{{ m.role }}<|message|>{{ m.content }}<|end|>{% endfor %}"
    )
    tokens = ("<|start|>", "<|end|>", "<|message|>", "<|channel|>")
    template = head + "{% if add_generation_prompt %}<|start|>assistant{% endif %}"
    made = PromptRenderer(Hidden(tokenizer(template, *tokens), tokens), instruction="none")
    assert made.format is not None and made.format.name == "harmony"
    assert text(made).endswith("<|start|>assistant<|channel|>analysis<|message|>")


@pytest.mark.parametrize("think", ["force", "auto"])
def test_tags_that_nobody_knows_are_refused_with_the_key_that_helps(think: Any) -> None:
    with pytest.raises(ModelError, match=r"got <my_thoughts>.*Set prompting.format to one of them"):
        renderer("", "<my_thoughts>", think=think)


def test_a_family_of_which_the_model_shows_nothing_is_refused_where_it_shows_another() -> None:
    with pytest.raises(ModelError) as caught:
        renderer("", *R1, format="harmony")
    assert str(caught.value) == (
        f"model {_tiny().name_or_path}: prompting.format harmony does not fit it (its chat "
        "template and vocabulary have <think>, and never <|channel|>analysis<|message|>). Set "
        "prompting.format to r1, or to the tags that it was trained with as {open: …, close: …}."
    )
    assert renderer("", *R1, format=Format("custom", "<t>", "</t>")).format.open == "<t>"
    assert renderer("", *R1, format="answer").format.name == "answer"


def test_a_model_that_does_not_think_runs_as_it_is_and_is_not_forced() -> None:
    assert text(renderer("", think="auto")).endswith("<｜Assistant｜>")
    with pytest.raises(ModelError, match=r"has think tags .* would write <think> as plain text"):
        renderer("")
    assert text(renderer("", format="r1")).endswith("<think>\n")


def test_a_block_that_is_begun_stays_as_the_template_leaves_it() -> None:
    made = renderer("<think>\nOkay,", *R1)
    assert text(made).endswith("<think>\nOkay,") and made.render("a", "Q?").opened
    assert made.notes == ("its chat template says the first words of the reasoning: 'Okay,'",)


def test_two_blocks_are_refused() -> None:
    with pytest.raises(ModelError, match="opens two think blocks"):
        renderer("<think>\n<think>\n", *R1)


def test_content_that_a_template_wants_in_parts_is_given_so() -> None:
    head = (
        "{% for m in messages %}<｜User｜>{% for part in m.content %}{{ part.text }}{% endfor %}"
        "{% endfor %}"
    )
    made = renderer("<think>\n", *R1, head=head)
    assert text(made) == "<｜User｜>Q?<｜Assistant｜><think>\n"


def test_a_template_without_the_users_words_is_refused() -> None:
    with pytest.raises(ModelError, match=r"leaves out what the user says.*prompting.template"):
        renderer("<think>\n", *R1, head="<｜User｜>")


OWN_SYSTEM = (
    "{% if messages[0].role != 'system' %}You are an assistant of Some Company.\n{% endif %}"
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}\n{% endfor %}"
)
WITH_SYSTEM = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Q?"}]


def test_a_system_prompt_that_is_put_in_is_noted_and_replaced_by_a_rows_own() -> None:
    made = renderer("<think>\n", *R1, head=OWN_SYSTEM)
    [note] = made.notes
    assert "system prompt of its own" in note and "'You are an assistant of Some Company." in note
    assert "[system]Be kind.\n[user]Q?" in text(made, WITH_SYSTEM)
    assert "Company" not in text(made, WITH_SYSTEM)
    folded = renderer("<think>\n", *R1, head=OWN_SYSTEM, system="fold")
    assert "Company.\n[user]Be kind.\n\nQ?" in text(folded, WITH_SYSTEM)


def test_r1s_own_templates_have_no_system_turn_unless_it_is_kept() -> None:
    head = "{% for m in messages %}<｜User｜>[{{ m.role }}]{{ m.content }}{% endfor %}"
    assert "[user]Be kind.\n\nQ?" in text(renderer("<think>\n", *R1, head=head), WITH_SYSTEM)
    kept = renderer("<think>\n", *R1, head=head, system="keep")
    assert "[system]Be kind." in text(kept, WITH_SYSTEM)


def test_reasoning_that_stays_in_a_dialogue_is_said_once() -> None:
    dialogue = [
        {"role": "user", "content": "Q1?"},
        {"role": "assistant", "content": "<think>\nold\n</think>\n\nA1."},
        {"role": "user", "content": "Q2?"},
    ]
    made = renderer("<think>\n", *R1)
    for _ in range(2):
        made.render("a", dialogue)
    assert sum("keeps the reasoning of earlier" in warning for warning in made.warnings) == 1
    drops = TURNS.replace("{{ m.content }}{{ eos", "{{ m.content.split('</think>')[-1] }}{{ eos")
    calm = renderer("<think>\n", *R1, head=drops)
    calm.render("a", dialogue)
    assert not any("keeps the reasoning" in warning for warning in calm.warnings)


def test_a_date_is_the_pinned_day_and_is_noted() -> None:
    head = "Today: {{ strftime_now('%d %B %Y') }}\n" + TURNS
    made = renderer("<think>\n", *R1, head=head)
    assert text(made).startswith("Today: 31 January 2026\n")
    assert made.prompt_day == DAY and "2026-01-31 stays the day of this output" in made.notes[-1]
    assert renderer("<think>\n", *R1).prompt_day is None


def test_a_switch_that_is_not_set_is_noted_and_one_that_is_not_there_refused() -> None:
    head = "{% if enable_thinking %}Deliberate.{% endif %}" + TURNS
    made = renderer("", *R1, head=head + "{# <think> #}")
    assert made.notes == (
        "its chat template has a switch for thinking that is not set: set "
        "prompting.template_args to {enable_thinking: true}, or to its opposite",
    )
    with pytest.raises(ModelError, match=r"no variable enable_thinkin \(got .*enable_thinking\)"):
        renderer("", *R1, head=head, template_args={"enable_thinkin": True})


def test_a_template_of_the_jobs_own_is_used() -> None:
    own = "<｜User｜>{{ messages[-1].content }}<｜Assistant｜><think>"
    made = renderer("", *R1, template=own)
    assert text(made) == "<｜User｜>Q?<｜Assistant｜><think>"


def test_text_around_a_spelled_tag_is_unchanged_where_a_tokenizer_prepends_a_space() -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = [chr(i) for i in range(33, 127)] + ["▁", "\n"]
    inner = Tokenizer(models.BPE({c: i for i, c in enumerate(letters)}, []))
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")  # type: ignore[assignment]
    inner.decoder = decoders.Metaspace(prepend_scheme="always")  # type: ignore[assignment]
    inner.add_tokens([AddedToken("<think>"), AddedToken("</think>")])
    fast = PreTrainedTokenizerFast(tokenizer_object=inner)
    fast.chat_template = "{{ messages[0].content }}|<think>"
    made = PromptRenderer(fast, instruction="none")
    prompt = made.render("a", "What does </think> mean?")
    assert not isinstance(prompt, RowError)
    assert made.as_text(prompt.token_ids) == "What does </think> mean?|<think>"
