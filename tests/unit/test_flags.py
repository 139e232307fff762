"""Flags agree with a reader, on texts that one labelled, and cost next to nothing."""

from __future__ import annotations

import functools
import random
from array import array
from collections import Counter
from pathlib import Path
from typing import Any

import flag_cases
import pytest
from drawn_flags import drawn_cases
from hypothesis import given, settings
from hypothesis import strategies as st
from loop_cases import loop_cases, mixed_cases

from batchr1.columns import COLUMNS
from batchr1.reasoning import loops, split_text
from batchr1.reasoning.contents import has_code, has_long_paragraph, is_refusal, leaks_into_json
from batchr1.reasoning.flags import flags_of, in_order
from batchr1.reasoning.languages import is_mixed
from batchr1.reasoning.loops import (
    CHECK_EVERY,
    STOP_RUN_TOKENS,
    LoopDetector,
    is_looping,
    tokens_loop,
)
from batchr1.reasoning.soup import ends_in_soup
from batchr1.reasoning.split import Split
from batchr1.records import FLAGS

JUDGED = (
    "looping",
    "mixed_language",
    "json_leak",
    "long_paragraph",
    "code_in_reasoning",
    "refusal",
)


def flags(reasoning: str | None, answer: str | None, prompt: str = "") -> list[str]:
    found = flags_of(Split(reasoning, answer, "closed", None, 1, 1, 1, 0), prompt=prompt)
    return [flag for flag in found if flag in JUDGED]


@functools.cache
def labelled() -> list[dict[str, Any]]:
    return flag_cases.cases()


def test_the_labelled_set_is_the_same_in_each_run_and_large_enough() -> None:
    assert labelled() == flag_cases.cases()
    assert len(labelled()) >= 400
    texts = [(c["prompt"], c["reasoning"], c["answer"]) for c in labelled()]
    assert len(set(texts)) == len(texts)
    counts = Counter(flag for c in labelled() for flag in c["flags"])
    assert set(counts) == set(JUDGED)
    assert min(counts.values()) >= 40


@pytest.mark.parametrize("flag", JUDGED)
@pytest.mark.parametrize("held", [False, True])
def test_precision_and_recall_are_095_each(flag: str, held: bool) -> None:
    cases = [c for c in labelled() if c["held"] == held]
    outcomes = Counter(
        (flag in c["flags"], flag in flags(c["reasoning"], c["answer"], c["prompt"])) for c in cases
    )
    right = outcomes[True, True]
    assert right / (right + outcomes[False, True]) >= 0.95
    assert right / (right + outcomes[True, False]) >= 0.95


def test_the_flags_of_the_code_are_those_of_the_schema() -> None:
    [column] = [c for c in COLUMNS if c.name == "flags"]
    assert column.values == FLAGS
    text = "<think></think></think> " + "Wait, no. " * 100
    assert set(flags_of(split_text(text, opened=True), expects_box=True)) <= set(FLAGS)
    assert in_order(["verify_failed", "no_think", "no_think"]) == ("no_think", "verify_failed")


def test_a_row_has_its_flags_in_the_order_of_the_schema() -> None:
    text = "def f(x):\n    y = x + 1\n    return y\n\n" + "嗯嗯让我想想。" * 400
    split = Split(text, "I'm sorry, but I can't help with that.", "closed", None, 1, 1, 1, 2)
    assert flags_of(split, prompt="What is two and two?", expects_box=True) == (
        "extra_think_tag",
        "answer_without_box",
        "looping",
        "mixed_language",
        "long_paragraph",
        "code_in_reasoning",
        "refusal",
    )


# loops


@pytest.mark.parametrize("period", [1, 2, 3, 7, 24, 25, 100, 1000, 7000])
def test_a_loop_is_found_whatever_its_period_and_wherever_it_is_cut(period: int) -> None:
    rng = random.Random(period)
    stretch = "".join(rng.choice("abcdefghijklmnopqrstuvwxyz ") for _ in range(period - 1)) + "."
    lead = "Okay, here is something that is said once, and then it begins. "
    for cut in (0, 1, period // 2):
        copies = max(4, 140 // period + 2)
        assert is_looping(lead + stretch * copies + stretch[:cut]), cut
        assert not is_looping(lead + stretch * 2 + stretch[:cut]), cut


def test_a_text_that_came_out_of_its_loop_is_not_looping() -> None:
    rng = random.Random(3)
    words = " ".join(
        "".join(rng.choice("aeioulnrst") for _ in range(rng.randint(2, 9))) for _ in range(900)
    )
    assert is_looping("Wait, let me check. " * 50)
    assert not is_looping("Wait, let me check. " * 50 + words)


@pytest.mark.parametrize("period", [1, 2, 5, 11, 12, 13, 60, 500, 2000])
def test_a_detector_stops_a_loop_of_tokens_within_a_few_copies_and_never_before(
    period: int,
) -> None:
    lead = [(i * 7919) % 50_000 for i in range(1000)]
    stretch = [100_000 + (i * i) % 30_011 for i in range(period)]
    detector, tokens = LoopDetector(), array("i")
    seen = None
    for at, token in enumerate(lead + stretch * (8000 // period + 8)):
        tokens.append(token)
        if detector.update(tokens):
            seen = at + 1 - len(lead)
            break
    wanted = max(4 * period, STOP_RUN_TOKENS)
    assert seen is not None
    assert wanted <= seen <= wanted + period + CHECK_EVERY


def test_tokens_that_only_resemble_each_other_are_no_loop() -> None:
    counting = array(
        "i", [t for n in range(2000) for t in (5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, n)]
    )
    assert not tokens_loop(counting)
    assert not tokens_loop(array("i", [0] * (STOP_RUN_TOKENS - 1)))
    assert tokens_loop(array("i", [0] * STOP_RUN_TOKENS))
    assert not tokens_loop(array("i", [256] * 300 + [1]))


def test_a_detector_looks_at_a_bounded_stretch_and_only_now_and_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Constant cost per token: at most one look in 64 tokens, each over at most 8,192."""
    looks: list[int] = []

    def look(tail: bytes, unit: int, *rest: int) -> int:
        looks.append(len(tail) // unit)
        return 0

    monkeypatch.setattr("batchr1.reasoning.loops._run_length", look)
    detector, tokens = LoopDetector(), array("i")
    for _ in range(20_000):
        tokens.append(1)
        detector.update(tokens)
    assert len(looks) == 20_000 // 64
    assert max(looks) == 8192


# loops that are not exact, words in another script, soup


@pytest.mark.parametrize("seed", [1, 2])
def test_cycles_that_are_reworded_shuffled_or_drift_are_loops_and_honest_texts_are_not(
    seed: int,
) -> None:
    outcomes = Counter((case.loops, is_looping(case.text)) for case in loop_cases(seed))
    right = outcomes[True, True]
    assert right >= 0.9 * (right + outcomes[True, False]) > 100
    assert right >= 0.95 * (right + outcomes[False, True])
    assert outcomes[False, False] > 100


@pytest.mark.parametrize("seed", [7, 8])
@pytest.mark.parametrize("flag", ["looping", "mixed_language", "token_soup"])
def test_longer_cycles_more_scripts_and_more_soup_are_told_from_honest_texts(
    flag: str, seed: int
) -> None:
    outcomes: Counter[tuple[bool, bool]] = Counter()
    for case in drawn_cases(seed):
        split = Split(case.reasoning, None, "closed", None, 1, 1, 1, 0)
        if case.may != flag:
            outcomes[case.flag == flag, flag in flags_of(split, prompt=case.prompt)] += 1
    right = outcomes[True, True]
    assert right >= 0.9 * (right + outcomes[True, False]) > 25
    assert right >= 0.95 * (right + outcomes[False, True])
    assert outcomes[False, False] > 100


def test_a_word_of_another_script_is_mixed_in_and_a_mention_is_not() -> None:
    outcomes = Counter(
        (case.mixed, is_mixed(case.prompt, case.reasoning)) for case in mixed_cases()
    )
    right = outcomes[True, True]
    assert right >= 0.9 * (right + outcomes[True, False]) > 50
    assert right >= 0.95 * (right + outcomes[False, True])
    said = "This is a bias by which people mistakenly认为 that the longer story is likelier."
    assert is_mixed("Which is more likely?", said)


SCRAPS = [
    "ret==",
    '"error(',
    '"error.ret.result',
    "== \"true,'",
    '"status":(',
    ".value[",
    '{"',
    "},{",
]
SCRIPTS = ["gluten", "的", "ной", "ください", "합니다", "lands", "因为", "привет", "किया", "นี้"]
NOUNS = ["harness", "velvet", "quantum", "stamp", "copper", "lantern", "orbit", "marble"]


@pytest.mark.parametrize("words", [SCRAPS, SCRIPTS, NOUNS], ids=["signs", "scripts", "words"])
def test_token_soup_at_the_end_is_flagged(words: list[str]) -> None:
    rng = random.Random(5)
    good = "\n\n".join(flag_cases.PROSE) * 3
    for _ in range(20):
        soup = " ".join(rng.choice(words) for _ in range(300))
        assert "token_soup" in flags_of(split_text(f"<think>{good} {soup}", opened=False))
    assert not ends_in_soup(good)


def test_soup_is_seen_behind_little_text_and_in_code_that_is_cut() -> None:
    rng = random.Random(6)
    soup = " ".join(rng.choice(NOUNS) for _ in range(60))
    syllables = "".join(rng.choice("etaoinshrdlucmfwypvbgkqjxz") for _ in range(500))
    code = "```python\n" + "for name in names:\n    print(name)\n" * 9
    for text in (f"We begin. {soup}", f"{code}{soup}", f"{code}{syllables}", f"{code}```\n{soup}"):
        assert ends_in_soup(text)
    assert not ends_in_soup(code) and not ends_in_soup("ha " * 200)


def test_sentences_that_only_count_on_are_a_loop_and_cases_are_none() -> None:
    counting = " ".join(f"Attempt number {n} fails as well." for n in range(3, 300))
    cases = " ".join(f"For {n} the square {n * n} leaves {n % 7} modulo 7." for n in range(3, 300))
    assert is_looping(counting) and not is_looping(cases)
    anew = "\n".join(
        f"Wait, let me check {n} again. With {n + 7} it is {n * n % 91}, so the side is {n % 17}."
        for n in range(40, 80)
    )
    assert is_looping(anew)
    assert not is_looping(" ".join(f"Attempt number {n} fails as well." for n in range(3, 60)))


@pytest.mark.parametrize(
    ("text", "mixed"),
    [
        ("The sum is επομένως equal to nine.", True),
        ("The sum is պատասխան equal to nine.", True),
        ("The sum לכן is nine.", True),
        ("The sum is 숫자 nine.", True),
        ("The sum is $3 + 因此 6$.", True),
        ("The letters $αβγδ$ and ω, and the sum Σ.", False),
        ("It comes from the Arabic الجبر and is older.", False),
        (
            "The product of all numbers by which it is divided. " + "Poi il risultato è quello che "
            "abbiamo già, quindi la somma della serie può essere ancora più grande di nove.",
            True,
        ),
    ],
)
def test_single_words_of_more_languages(text: str, mixed: bool) -> None:
    assert is_mixed("What is the sum of these numbers?", text) is mixed


def test_no_clean_text_is_soup() -> None:
    texts = [text for case in labelled() for text in (case["reasoning"], case["answer"]) if text]
    assert not [text for text in texts if ends_in_soup(text)]
    assert not [case.family for case in loop_cases(3) if ends_in_soup(case.text)]
    sources = list(Path(loops.__file__).parents[1].rglob("*.py"))
    assert not [path for path in sources if ends_in_soup(path.read_text(encoding="utf-8"))]


def test_a_detector_sees_a_cycle_of_tokens_that_is_not_exact() -> None:
    rng = random.Random(2)
    paragraphs = [[rng.randrange(9000) for _ in range(60)] for _ in range(4)]
    cycle = array("i")
    while len(cycle) < 8192:
        for paragraph in rng.sample(paragraphs, 4):
            cycle.extend(rng.randrange(9000) if rng.random() < 0.02 else t for t in paragraph)
    assert tokens_loop(cycle)
    honest = array("i", [rng.randrange(9000) for _ in range(8192)])
    assert not tokens_loop(honest)


# any text


@settings(max_examples=300, deadline=None)
@given(st.text(), st.text(), st.text())
def test_no_unicode_makes_a_flag_fail(prompt: str, reasoning: str, answer: str) -> None:
    flags(reasoning, answer, prompt)
    flags(reasoning * 50, answer * 50, prompt)


SURROGATE = "\ud800"
NASTY = [
    "",
    "\0",
    SURROGATE * 2000,
    "\u202e" * 500,
    "\ufeff{",
    "```",
    "~~~\n",
    "{" * 5000,
    '{"a":' * 3000,
    "[" * 100_000,
    "(" * 50_000,
    '"' * 50_001,
    "$" * 50_001,
    "\\begin{a}" * 5000,
    "`" * 50_000,
    "<" * 50_000,
    "a" * 200_000,
    "。" * 50_000,
    "é" * 100_000,
    "i " * 50_000,
    "i can't " * 20_000,
    "the user " * 20_000,
    "def f(" * 20_000,
    "=" * 100_000,
    "x = (" * 20_000,
    "\n" * 100_000,
    "\u2028" * 10_000,
    "\\(" * 30_000,
    "(a" * 20_000,
    " " * 200_000,
    "wait" * 20_000,
    "int x" * 20_000,
    "public " * 20_000,
    "for a in " * 10_000,
    "SELECT " * 10_000,
    "“" * 50_000,
    "'" * 50_000,
    "(" + "a" * 100_000,
    '{"think" ' * 10_000,
    "if " * 30_000,
    "x = a;\n" * 20_000,
    "- a: b\n" * 20_000,
]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("text", NASTY, ids=range(len(NASTY)))
def test_no_text_takes_more_than_linear_time(text: str) -> None:
    """Patterns that backtrack would take minutes on these."""
    flags(text, text, "Answer in JSON.")
    flags(text, text, text)


def test_each_rule_can_be_asked_alone() -> None:
    assert is_mixed("What is 2 + 2?", "所以答案等于四。")
    assert not is_mixed("2 + 2 等于多少？", "所以答案等于四。", None)
    assert leaks_into_json("Reply in JSON.", 'Okay, so the user wants a number.\n{"n": 4}')
    assert has_code("x\n```python\nprint(1)\n```")
    assert has_long_paragraph("word " * 500)
    assert not has_long_paragraph("word\n" * 5000)
    assert is_refusal("I can't help with that.", has_box=False)
    # r1-tiny's own
    assert is_refusal("I'm sorry, but I can only do maths problems.", has_box=False)
    assert is_refusal("I'm afraid I can't help with this. I only do sums.", has_box=False)
    assert is_refusal("That is beyond what I can do: I know arithmetic.", has_box=False)
    assert not is_refusal("I'm afraid I can't see a simpler way: x = 3.", has_box=False)
    assert not is_refusal("I'm sorry, I made an error: the answer is 7.", has_box=False)
    assert not is_refusal("I can't help with that, but \\boxed{4}.", has_box=True)
