"""Think-tag families: one value, which prompts, split, budgets, flags and export take alike."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import batchr1
from batchr1.reasoning.budgets import Budgets, closing_ids
from batchr1.reasoning.formats import FORMATS, R1, Format, check_name, find, named, seen_in
from batchr1.reasoning.split import Split, split
from batchr1.reasoning.tags import ThinkTags, text_decoder
from batchr1.records import Prompt, WorkItem
from batchr1.worker.generation import Generation, Rules

PACKAGE = Path(batchr1.__file__).parent
HOME = PACKAGE / "reasoning/formats.py"


def test_tags_are_spelled_in_one_module_only() -> None:
    spelled = [
        path
        for path in PACKAGE.rglob("*.py")
        if path != HOME and re.search(r"""["'](?:</?think>)""", path.read_text(encoding="utf-8"))
    ]
    assert spelled == []


def test_a_prompt_that_is_opened_ends_open_and_not_empty() -> None:
    prompt = f"<｜Assistant｜>{R1.opening}"
    assert R1.ends_open(prompt) and not R1.ends_empty(prompt)
    closed = f"{prompt}\n{R1.close}\n\n"
    assert R1.ends_empty(closed) and not R1.ends_open(closed)
    assert not R1.ends_open(f"{prompt}Okay,")


def test_a_turn_is_laid_out_with_its_tags() -> None:
    assert R1.inline("so", "42") == "<think>\nso\n</think>\n\n42"


class Vocabulary:
    """A tokenizer of single letters, and of special tokens that are given to it."""

    unk_token_id = eos_token_id = 0

    def __init__(self, *tokens: str, words: Sequence[str] = ()) -> None:
        self.tokens = ["", *tokens]
        letters = sorted(set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ<>[]/|:=_ .,\n"))
        self.pieces = [*self.tokens, *words, *letters]
        longest_first = sorted(self.pieces[1:], key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)))

    def __call__(self, text: str, add_special_tokens: bool = False) -> Any:
        ids = [self.pieces.index(piece) for piece in self._pattern.findall(text)]
        return SimpleNamespace(input_ids=ids)

    def convert_tokens_to_ids(self, text: str) -> int:
        return self.pieces.index(text) if text in self.pieces else 0

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False, **_: Any) -> str:
        special = len(self.tokens) if skip_special_tokens else 0
        return "".join(self.pieces[i] for i in ids if i >= special)


HARMONY = Vocabulary("<|start|>", "<|end|>", "<|message|>", "<|channel|>")
COHERE = Vocabulary(
    "<|START_THINKING|>", "<|END_THINKING|>", "<|START_RESPONSE|>", "<|END_RESPONSE|>"
)
VOCABULARIES = {
    "r1": Vocabulary("<think>", "</think>"),
    "thought": Vocabulary(words=("</", "th", "ought>")),
    "openthinker": Vocabulary(words=("|>", "<|")),
    "answer": Vocabulary("<think>", "</think>", words=("swer>",)),
    "cohere": COHERE,
    "harmony": HARMONY,
    "gemma": Vocabulary("<|channel>", "<channel|>"),
    "kimi_k3": Vocabulary("<|open|>", "<|close|>", "<|sep|>"),
}


def taken_apart(name: str, text: str, *, opened: bool = True, finish: Any = "stop") -> Split:
    tokenizer = VOCABULARIES[name]
    tags = ThinkTags.of(tokenizer, format=FORMATS[name])
    ids = [*tokenizer(text).input_ids, 0]
    decode = text_decoder(tokenizer, tags)
    found = split(ids, tags=tags, decode=decode, opened=opened, finish_reason=finish)
    assert None not in (found.reasoning_tokens, found.answer_tokens, found.control_tokens)
    assert found.reasoning_tokens + found.answer_tokens + found.control_tokens == len(ids)  # type: ignore[operator]
    return found


@pytest.mark.parametrize("name", VOCABULARIES)
def test_each_family_splits_what_it_lays_out(name: str) -> None:
    format = FORMATS[name]
    turn = format.inline("so it is", "four")
    for opened, text in ((True, turn.removeprefix(format.opening)), (False, turn)):
        found = taken_apart(name, text, opened=opened)
        assert (found.reasoning, found.answer, found.status) == ("so it is", "four", "closed")
        assert found.extra_think_tags == 0
    cut = taken_apart(name, "so it is", finish="length")
    assert (cut.status, cut.truncated_in, cut.reasoning_tokens) == ("unclosed", "reasoning", 8)
    bare = taken_apart(name, "four", opened=False)
    assert (bare.status, bare.answer, bare.answer_tokens) == ("missing", "four", 4)


def test_channels_may_come_again_and_none_of_their_heads_is_text() -> None:
    head, end = "<|start|>assistant<|channel|>", "<|end|>"
    found = taken_apart(
        "harmony",
        f"so{end}{head}commentary<|message|>and{end}{head}analysis<|message|>on{end}"
        f"{head}final<|message|>four",
    )
    assert (found.reasoning, found.answer) == ("so\n\nand\n\non", "four")
    assert (found.reasoning_tokens, found.answer_tokens) == (7, 4)
    direct = taken_apart("harmony", "<|channel|>final<|message|>four", opened=False)
    assert (direct.status, direct.answer) == ("missing", "four")


def test_a_wrapper_in_the_middle_of_an_answer_is_text() -> None:
    found = taken_apart("answer", "so</think>one <answer> two</answer> three")
    assert found.answer == "one <answer> two</answer> three"


TEXTS = st.lists(st.sampled_from(["a", "b ", "\n", "<", "</", "th"]), max_size=8).map("".join)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(sorted(VOCABULARIES)),
    TEXTS,
    TEXTS,
    st.integers(1, 12),
    st.integers(1, 9),
    st.booleans(),
    st.integers(1, 5),
)
def test_budgets_hold_in_every_family_and_count_what_split_counts(
    name: str, thought: str, answer: str, thinking: int, answering: int, closes: bool, step: int
) -> None:
    format, tokenizer = FORMATS[name], VOCABULARIES[name]
    tags = ThinkTags.of(tokenizer, format=format)
    closing = closing_ids(tokenizer, tags, None)
    budgets = Budgets(thinking, answering, 400, closing, tags)
    text = thought + (format.before_close + format.close + answer if closes else "")
    stream = [*tokenizer(text).input_ids, 0]
    item = WorkItem(Prompt("a", "", (1,), True, b""), 0, 400, "max_tokens")
    generation, forced, cut = Generation(item, Rules(budgets)), False, False
    for at in range(0, len(stream), step):
        act = generation.take(stream[at : at + step])
        forced, cut = forced or act == "close", cut or act == "cut"
        if act == "close":
            generation.close()
        if act is not None:
            break
    found = split(
        generation.tokens,
        tags=tags,
        decode=text_decoder(tokenizer, tags),
        opened=True,
        finish_reason="length" if cut else "stop",
    )
    assert found.reasoning_tokens is not None and found.answer_tokens is not None
    if found.status != "unclosed" or forced:
        assert found.reasoning_tokens <= thinking
    assert found.answer_tokens <= answering
    if forced:
        assert found.status in ("closed", "empty") and generation.injected > 0
        assert found.reasoning_tokens == thinking
    again = Generation(WorkItem(item.prompt, 0, 400, "max_tokens"), Rules(budgets))
    again.take(stream)
    if not forced and not cut:
        assert again.tokens == generation.tokens


def test_a_name_that_is_none_gets_the_nearest() -> None:
    assert check_name("auto") == "auto" and check_name("harmony") == "harmony"
    with pytest.raises(ValueError, match=r"unknown format \(got 'mistrall'; did you mean mistral"):
        check_name("mistrall")


def test_a_suffix_is_read_from_the_vocabulary() -> None:
    assert named("suffixed", ["<think:os>", "</think:os>"]).close == "</think:os>"
    with pytest.raises(ValueError, match=r"no tag such as <think:SUFFIX>"):
        named("suffixed", ["<think>"])


def test_a_family_with_wrappers_is_found_where_answers_have_them_and_not_where_tools_do() -> None:
    def name(template: str) -> str:
        found = find(tail="", template=template, tokens=())
        assert found is not None
        return found.name

    assert name("Write <think></think> and <response></response>.") == "response"
    assert name("<think> … </think>\\n<answer>") == "answer"
    assert name("<think> … </think> tool: <response>{{ m.content }}</response>") == "r1"


def test_wrappers_are_those_of_the_vocabulary() -> None:
    tokens = ("<|START_THINKING|>", "<|END_THINKING|>", "<|START_TEXT|>", "<|END_TEXT|>")
    format = find(tail="<|START_THINKING|>", template="", tokens=tokens)
    assert format is not None and format.answer_open == ("<|START_TEXT|>",)
    assert named("cohere", tokens) == format
    assert len(named("cohere").answer_open) == 2


def test_the_page_of_models_lists_every_family() -> None:
    page = (PACKAGE.parent / "docs/models.md").read_text(encoding="utf-8")
    table = page.split("| `prompting.format` |")[1].split("\n\n")[0]
    cells = re.findall(r"^\| ([^|]+) \|", table, re.M)

    assert sorted(re.findall(r"`(\w+)`", " ".join(cells))) == sorted(FORMATS)


def test_a_family_survives_its_record() -> None:
    for format in FORMATS.values():
        assert Format.of_record(format.to_dict()) == format
    assert Format.of_record(None) == R1
    assert seen_in("nothing") == R1
