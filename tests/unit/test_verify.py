"""An answer is right if it means what the right answer means, in the form that the job asks for."""

from __future__ import annotations

import re
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from judge import boxed, verdict

from batchr1.reasoning.verify import (
    BadVerdictError,
    Verdict,
    Verify,
    choice_of,
    full_verdict,
    quick_verdict,
)

SAME = [
    (r"\{1, 2, 3\}", "3, 1, 2"),
    (r"3 < x \le 4", "(3,4]"),
    (r"-2 \le x \le 7", r"x \in [-2,7]"),
    (r"(3,\infty) \cup (-\infty,2)", r"(-\infty, 2) \cup (3, \infty)"),
    (r"x=1 \text{ or } x=-2", "1,-2"),
    (r"1+\sqrt{19}, 1-\sqrt{19}", r"1 \pm \sqrt{19}"),
    (r"6.72 \times 10^{-5}", ".0000672"),
    (r"\frac{\cos x}{\sin x}", r"\cot x"),
    (r"ab+2a+5b+10", "(a+5)(b+2)"),
    (r"-5x+7y-11z-4=0", "5x - 7y + 11z + 4 = 0"),
    (r"\begin{bmatrix} 0.2 \\ -3.6 \end{bmatrix}", r"\begin{pmatrix} 1/5 \\ -18/5 \end{pmatrix}"),
    (r"864 \text{ square inches}", r"864 \mbox{ inches}^2"),
    (r"15\mbox{ cm}^2", "15"),
    ("52_{8}", "52_8"),
    ("52", "52_8"),
    ("$4,210_5$", "4210_{5}"),
    ("c", r"\text{(C)}"),
    ("C. 5 cm", "C"),
    ("east", r"\text{East}"),
]
DIFFERENT = [
    ("52_9", "52_8"),
    ("[3,4]", "(3,4]"),
    ("(1,-2)", "(-2,1)"),
    ("6+5i", "6-5i"),
    (r"\{1, 2\}", "1, 2, 3"),
    (r"7.14", r"\sqrt{51}"),
    ("x^2+2x+2", "(x+1)^2"),
    ("D", r"\text{(C)}"),
    ("west", r"\text{east}"),
    ("1" * 3000 + "x", "x"),
]


@pytest.mark.parametrize(("final", "gold"), SAME)
def test_mathematically_equal(final: str, gold: str) -> None:
    assert verdict("auto", boxed(final), gold).correct is True


@pytest.mark.parametrize(("final", "gold"), DIFFERENT)
def test_mathematically_different(final: str, gold: str) -> None:
    assert verdict("auto", boxed(final), gold).correct is False


@pytest.mark.parametrize(
    ("kind", "answer", "gold", "final", "correct"),
    [
        ("number", "That makes 1,234 apples.", "1234", "1,234", True),
        ("number", "5 and 7 are 12.\n#### 12", "####12", "12", True),
        ("number", "The sum is 12, of 5 and 7", "12", "7", False),
        ("number", "no figure", "12", None, False),
        ("number", boxed(r"\frac{1}{2}"), "0.5", r"\frac{1}{2}", True),
        ("number", boxed(r"\sqrt{4}"), "2", r"\sqrt{4}", False),
        ("choice", "The answer is (B), not C.", "B", "B", True),
        ("choice", "A is wrong.\n\n**D**", "(D)", "D", True),
        ("choice", "因此答案是 C。", "c", "C", True),
        ("choice", "I think so", "I", None, False),
        ("choice", boxed(r"\text{(E) } 5"), "E", r"\text{(E) } 5", True),
        ("auto", "So the correct option is **B**.", r"\text{(B)}", "B", True),
        ("auto", "So the result is 5.", "5", None, False),
        ("exact", "  Paris\n", "Paris", "Paris", True),
        ("exact", "paris", "Paris", "paris", False),
        ("regex", "order 66", r"(?i)ORDER \d+", "order 66", True),
        ("regex", "an order 66", r"order \d+", "an order 66", False),
        ("none", boxed("5"), "5", "5", None),
        ("auto", boxed("5"), None, "5", None),
        ("auto", None, "5", None, False),
        ("math", None, None, None, None),
    ],
)
def test_each_kind_finds_its_answer_and_compares_it(
    kind: str, answer: str | None, gold: str | None, final: str | None, correct: bool | None
) -> None:
    assert verdict(kind, answer, gold) == Verdict(final, correct)


@pytest.mark.parametrize(
    ("pattern", "final"),
    [
        (r"result: (\w+)", "b"),
        (r"result: \w+", "result: b"),
        (r"nothing", None),
        (r"result: (z)?", None),
    ],
)
def test_extract_takes_the_first_group_of_the_last_match(pattern: str, final: str | None) -> None:
    answer = "result: a, result: b \\boxed{c}"
    assert verdict("exact", answer, "b", extract=pattern) == Verdict(final, final == "b")


def test_a_right_answer_that_is_no_pattern_is_an_error_of_its_row() -> None:
    with pytest.raises(re.error):
        verdict("regex", "x", "(")


@pytest.mark.parametrize(
    ("given", "wanted"),
    [(True, True), (False, False), (None, None), (pl.Series([True]).to_numpy()[0], True)],
)
def test_a_function_says_true_false_or_nothing(given: object, wanted: bool | None) -> None:
    seen: list[Any] = []

    def function(answer: str | None, gold: str | None, row: dict[str, Any]) -> object:
        seen.append((answer, gold, row))
        return given

    assert full_verdict(Verify("m:f"), function, boxed("5"), None, {"level": 3}) == Verdict(
        "5", wanted
    )
    assert seen == [(boxed("5"), None, {"level": 3, "final_answer": "5"})]


def test_a_function_that_gives_something_else_is_told_so() -> None:
    with pytest.raises(BadVerdictError) as caught:
        full_verdict(Verify("m:f"), lambda answer, gold, row: 0.7, "x", "y", {})
    assert str(caught.value) == "gave float, not True, False or None"


def test_a_function_is_not_asked_about_an_answer_that_is_not_there() -> None:
    assert quick_verdict(Verify("m:f"), None, None) == Verdict(None, False)


@given(
    st.text(max_size=60),
    st.text(max_size=60),
    st.sampled_from(["auto", "math", "number", "choice", "exact"]),
)
def test_no_text_makes_the_quick_verdict_fail(answer: str, gold: str, kind: str) -> None:
    for text in (answer, boxed(answer)):
        found = quick_verdict(Verify(kind), text, gold)
        assert found is None or found.unsure or found.correct in (True, False)
    choice_of(answer)


def test_the_quick_verdict_takes_linear_time() -> None:
    """Texts that would make a pattern with overlapping repetitions run for hours."""
    for text in (
        "answer" + " " * 200_000,
        "*" * 200_000,
        "1," * 100_000,
        "\\text{" * 50_000,
        "选" * 100_000,
    ):
        for kind in ("auto", "number", "choice", "exact"):
            quick_verdict(Verify(kind), text, "B")
            quick_verdict(Verify(kind), boxed(text), "1")
