"""What is called right is right: labelled pairs, rewritten golds, near misses, any text at all."""

from __future__ import annotations

import json
import random
import re
import statistics
import time
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from judge import boxed, verdict
from rewritten import equal_forms, near_miss

from batchr1.reasoning.verdicts.choices import aime_of, choice_of, yes_no_of
from batchr1.reasoning.verdicts.column import GoldColumn
from batchr1.reasoning.verdicts.judge import judge
from batchr1.reasoning.verify import Verify, quick_verdict
from batchr1.records import VERDICT_STAGES

PAIRS = Path(__file__).parents[1] / "data" / "verdict_pairs.jsonl"
GSM8K = Path(__file__).parents[3] / "shared/data/gsm8k_test.parquet"


def pairs() -> list[dict[str, Any]]:
    return [json.loads(line) for line in PAIRS.read_text(encoding="utf-8").splitlines()]


def test_the_labelled_pairs_are_judged_as_a_person_judges_them() -> None:
    outcomes: dict[str, list[Any]] = {"wrongly right": [], "wrongly wrong": [], "unsure": []}
    labelled = pairs()
    assert len(labelled) >= 600
    assert 0.3 < sum(pair["right"] for pair in labelled) / len(labelled) < 0.75
    for pair in labelled:
        found = verdict("auto", pair["answer"], pair["gold"])
        if found.correct is None:
            assert found.unsure and found.by is None
            outcomes["unsure"].append(pair)
        else:
            assert found.by in VERDICT_STAGES or found.final is None
            if found.correct != pair["right"]:
                outcomes["wrongly right" if found.correct else "wrongly wrong"].append(pair)
    assert len(outcomes["wrongly right"]) <= 0.003 * len(labelled), outcomes
    assert len(outcomes["wrongly wrong"]) <= 0.03 * len(labelled), outcomes
    assert len(outcomes["unsure"]) <= 0.03 * len(labelled), outcomes


@pytest.mark.parametrize(
    ("final", "gold", "by"),
    [
        ("5", "5", "text"),
        (r"\text{East}", r"\text{east}", "text"),
        (r"\frac{2}{4}", "0.5", "number"),
        ("(B) 12", "B", "choice"),
        ("2, 1", "1, 2", "set"),
        ("]0,1[", "[0,1]", "set"),
        ("x>2", r"(2,\infty)", "interval"),
        ("(x+1)^2", "x^2+2x+1", "math"),
        (r"\sqrt{2+\sqrt3}", r"\frac{\sqrt6+\sqrt2}{2}", "math"),
        (r"\sum_{k=1}^{4} k", "10", "number"),
        (r"\int_0^1 x\,dx", r"\frac12", "math"),
    ],
)
def test_a_verdict_names_the_stage_that_decided(final: str, gold: str, by: str) -> None:
    assert verdict("auto", boxed(final), gold).by == by


@pytest.mark.parametrize(
    ("final", "gold"),
    [
        (r"\int_0^1 \text{something} \frac{}", "x"),
        (r"10\ldots", "10"),
        ("bca", "abc"),
        ("2.46", "2.457"),
        ("B", r"\sum_{n} a_n \text{ if } n"),
    ],
)
def test_what_is_not_settled_is_no_guess(final: str, gold: str) -> None:
    found = verdict("auto", boxed(final), gold)
    assert (found.correct, found.by, found.unsure) == (None, None, True)


@pytest.mark.skipif(not GSM8K.exists(), reason=f"GSM8K is not on this machine: {GSM8K}")
def test_gsm8k_golds_equal_rewritten_forms_and_no_near_miss() -> None:
    answers = pl.read_parquet(GSM8K)["answer"].to_list()
    golds = [text.rpartition("####")[2].strip() for text in answers]
    assert len(golds) == 1319
    right = [
        verdict("auto", boxed(form), answer).correct
        for answer, gold in zip(answers, golds, strict=True)
        for form in (gold, *equal_forms(gold.replace(",", "")))
    ]
    assert right.count(True) >= 0.995 * len(right)
    missed = [verdict("auto", boxed(near_miss(g)), g).correct for g in golds]
    assert missed.count(False) >= 0.995 * len(missed)


@pytest.mark.parametrize(
    "text",
    [
        "+".join(["x"] * 300),
        r"x\cdot" * 250 + "x",
        "-" * 700 + "x",
        "x^" + "-" * 700 + "2",
        "x" + "!" * 500,
        r"\sum_{a=1}^{9}" * 40 + "a",
        r"\sum_{",
        r"7\text{ units}\^2",
        "x >= 10^{400}",
        r"\frac{1}{" * 90 + "x" + "}" * 90,
    ],
    ids=lambda text: text[:12],
)
def test_a_deep_or_cut_expression_neither_recurses_nor_takes_long(text: str) -> None:
    started = time.process_time()
    for final, gold in ((text, "x+1"), ("x+1", text)):
        quick_verdict(Verify(), boxed(final), gold)
    assert time.process_time() - started < 0.5


AIME_FORMS = ["{}", "{:03d}", "m + n = {}", "{}.", r"\text{{{}}}", r"{} \text{{ ways}}", "{}.0"]


@pytest.mark.parametrize("kind", ["auto", "aime"])
def test_aime_numbers_equal_their_forms_and_no_neighbour(kind: str) -> None:
    rng = random.Random(4)
    for number in [0, 7, 10, 73, 99, 100, 999, *rng.sample(range(1000), 60)]:
        for gold in (str(number), f"{number:03d}"):
            for form in AIME_FORMS:
                assert verdict(kind, boxed(form.format(number)), gold).correct is True
            for other in (number + 1, number + 10, number * 10 + 1):
                assert verdict(kind, boxed(str(other)), gold).correct is False


@pytest.mark.parametrize(
    ("kind", "answer", "gold", "correct"),
    [
        ("aime", "The answer is 73.", "073", True),
        ("aime", boxed("1073"), "73", False),
        ("aime", boxed(r"\frac{73}{2}"), "73", False),
        ("aime", boxed("73"), "1073", None),
        ("choice", "Therefore the answer is (A, C).", "A", True),
        ("choice", boxed("A, C"), "AC", True),
        ("choice", boxed("A"), "AC", False),
        ("choice", boxed("(A) and (C)"), "A", False),
        ("choice", boxed("B"), "seven", None),
        ("choice", "The answer is A or B.", "A", False),
        ("choice", "The answer is C, B being too small.", "C", True),
        ("choice", "Therefore, B is the correct answer.", "B", True),
        ("choice", "B is right, and A is right too.", "B", False),
        ("choice", "So the right choice would be D.", "D", True),
        ("yes_no", "The claim is not true.", "no", True),
        ("yes_no", "So yes, it converges.", "yes", True),
        ("yes_no", "Yes, since every even number is divisible by two.", "yes", True),
        ("yes_no", "It is long.\n\nSo the answer is **no**.", "yes", False),
        ("yes_no", boxed("TRUE"), "Yes", True),
        ("yes_no", "答案是否", "no", True),
        ("yes_no", "Perhaps.", "no", False),
        ("yes_no", boxed("no"), "perhaps", None),
        ("short_text", "The answer is: the Eiffel Tower.", "Eiffel tower", True),
        ("short_text", boxed(r"\text{Marie Curie}"), "marie curie", True),
        ("short_text", "In 1,905", "in 1905", True),
        ("short_text", boxed("Pierre Curie"), "Marie Curie", False),
        ("short_text", boxed("tac"), "cat", False),
    ],
)
def test_kinds_of_a_closed_form(kind: str, answer: str, gold: str, correct: bool | None) -> None:
    assert verdict(kind, answer, gold).correct is correct


@pytest.mark.parametrize(
    ("golds", "kind"),
    [
        (list("ABCDABCD"), "choice"),
        ([r"\text{(A)}", "B", "(C)", r"\textbf{(D)}\ 12", "AC"], "choice"),
        (["yes", "No", "yes", "YES", "no"], "yes_no"),
        (["True", "False", "True", "True", "False"], "yes_no"),
        (["073", "12", "540", "6", "33"], "aime"),
        (["73", "12", "540", "6", "33"], "auto"),
        (["A", "x", "5", "B", "C", "D"], "auto"),
        (["A"] * 8, "auto"),
        (["A", "B"], "auto"),
        ([None, None], "auto"),
        ([], "auto"),
    ],
)
def test_auto_looks_at_the_whole_column(golds: list[str | None], kind: str) -> None:
    column = GoldColumn()
    column.add(golds)
    assert column.kind == kind
    assert column.why


# any text


PIECES = [
    *"0123456789xyABe+-=<>^_/()[]{}|,;:. \\!'\"$%&~",
    r"\frac",
    r"\sqrt",
    r"\{",
    r"\}",
    r"\pi",
    r"\infty",
    r"\cup",
    r"\text{",
    r"\quad",
    r"\ ",
    r"\pm",
    r"\sin",
    r"\log_2",
    r"\begin{pmatrix}",
    r"\end{pmatrix}",
    r"\\",
    r"\overline{3}",
    r"^\circ",
    "999999999",
    "12,345",
    "e9",
    "and",
    "or",
    "cm",
    "yes",
    "(B)",
    "²",
    "√",
    "é",
    "中",
    "...",
]
texts = st.lists(st.sampled_from(PIECES), max_size=14).map("".join)


@settings(max_examples=150, deadline=None)
@example("(B)0", "(B)1")
@given(texts, texts)
def test_no_text_makes_the_quick_stages_fail_or_hang(final: str, gold: str) -> None:
    started = time.process_time()
    found = judge(final, gold)
    assert found.correct in (True, False, None)
    assert (found.by is None) == (found.correct is None)
    choice_of(final), yes_no_of(final), aime_of(final)
    assert time.process_time() - started < 2


NUMBERS = st.fractions(max_denominator=60, min_value=-99, max_value=99).map(
    lambda q: (
        str(q.numerator) if q.denominator == 1 else rf"\frac{{{q.numerator}}}{{{q.denominator}}}"
    )
)
EXPRESSIONS = st.recursive(
    st.one_of(NUMBERS, st.sampled_from(["x", "y", r"\pi", r"\sqrt{2}", r"\sqrt{3}", "i"])),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(lambda ab: f"({ab[0]})+({ab[1]})"),
        st.tuples(inner, inner).map(lambda ab: rf"({ab[0]})\cdot({ab[1]})"),
        inner.map(lambda a: f"({a})^2"),
        inner.map(lambda a: f"-({a})"),
    ),
    max_leaves=4,
)


@settings(max_examples=50, deadline=None)
@given(EXPRESSIONS, EXPRESSIONS)
def test_equality_of_expressions_is_symmetric_and_holds_of_itself(a: str, b: str) -> None:
    assert judge(a, a).correct is True
    assert judge(f"({a})+({b})", f"({b})+({a})").correct is True
    assert judge(a, b).correct == judge(b, a).correct
    assert judge(f"({a})+1", a).correct is False


@settings(max_examples=50, deadline=None)
@given(EXPRESSIONS, EXPRESSIONS, st.sampled_from([r"\,", r"\;", r"\:", "~", " ", r"\!"]))
def test_latex_white_space_around_signs_changes_nothing(a: str, b: str, space: str) -> None:
    spaced = re.sub(r"([-+()])", lambda m: f"{space}{m[1]}{space}", a)
    assert judge(spaced, b).correct == judge(a, b).correct
    assert judge(spaced, a).correct is True


def test_the_median_row_takes_no_two_milliseconds() -> None:
    times = []
    for pair in pairs():
        started = time.process_time()
        quick_verdict(Verify("auto"), pair["answer"], pair["gold"])
        times.append(time.process_time() - started)
    assert statistics.median(times) <= 0.002
