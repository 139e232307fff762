"""The final answer is what the last box holds, and it is right if it is the same number or the same
LaTeX.
"""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchr1.reasoning import boxed_answer, final_answer, is_correct

BOXES = [
    (r"So \boxed{5}.", "5"),
    (r"\boxed{5} and then \boxed{\frac{1}{2}} it is", r"\frac{1}{2}"),
    (r"\fbox{A}", "A"),
    (r"\boxed { 7 }", "7"),
    (r"$\boxed 5$", "5"),
    (r"\boxed5.", "5"),
    (r"\boxed\frac12", r"\frac12"),
    (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
    (r"\boxed{\left\{ x \mid x > \{1\} \right\}}", r"\left\{ x \mid x > \{1\} \right\}"),
    (r"\boxed{a \\{b}}", r"a \\{b}"),
    (r"\boxed{\boxed{3}}", "3"),
    (r"\boxed{5} but \boxed{6", "5"),
    (r"{ \boxed{5}", "5"),
    (r"} } \boxed{5}", "5"),
    ("\\boxed{\n 5\n}", "5"),
    (r"\boxed{5}, which I put into \boxed{} as asked", "5"),
    (r"\boxed{5}, which \boxed shows", "5"),
]


@pytest.mark.parametrize(("text", "box"), BOXES)
def test_the_last_complete_box_is_the_answer(text: str, box: str) -> None:
    assert boxed_answer(text) == box
    assert final_answer(text) == box


@pytest.mark.parametrize(
    "text",
    ["", "5", "boxed{5}", r"\boxed{5", r"\boxed", r"\boxed{}", r"\boxedx{5}", r"\box{5}", "}{"],
)
def test_without_a_complete_box_there_is_no_answer(text: str) -> None:
    assert boxed_answer(text) is None


def test_without_text_or_right_answer_there_is_nothing_to_compare() -> None:
    assert final_answer(None) is None
    assert is_correct("5", None) is None
    assert is_correct(None, None) is None
    assert is_correct(None, "5") is False


SAME = [
    ("1,234", "1234"),
    ("1{,}234", "1234"),
    (r"1,\!234", "1234"),
    (r"1\,234.50", "1234.5"),
    ("1,234,567", "1234567"),
    (r"\$18", "18"),
    ("$18$", "18"),
    ("$18", "18"),
    (r"50\%", "50"),
    ("50%", "50"),
    (r"18\text{ dollars}", "18"),
    (r"5 \text{ cm}^2", "5"),
    (r"12\,\mathrm{km}", "12 "),
    (r"90^\circ", "90"),
    ("5.", "5"),
    ("+5", "5"),
    ("-0", "0"),
    (".5", "0.5"),
    ("3.0", "3"),
    ("007", "7"),
    ("−3", "-3"),
    ("- 3", "-3"),
    ("x = 5", "5"),
    ("f(x)=5", "5"),
    (r"\frac{1}{2}", "0.5"),
    (r"\dfrac{1}{2}", "1/2"),
    (r"-\frac12", r"\frac{-1}{2}"),
    (r"\tfrac9{12}", "3/4"),
    (r"2\frac12", "2.5"),
    (r"\(7\)", "7"),
    ("  7\n", "7"),
    (r"\text{0}", "0"),
    ("18", "She has 18 left.\n#### 18"),
    ("18", r"Thus \boxed{18}."),
    (r"\left( 3, \frac{\pi}{2} \right)", r"(3,\tfrac{\pi}{2})"),
    (r"\text{Evelyn}", "Evelyn"),
    ("C", r"\text{(C)}"),
    (r"11\sqrt2", r"11\sqrt{2}"),
    ("y = 2x + 1", "y=2x+1"),
    ("9" * 5000, "9" * 5000),
    ("1/0", "1/0"),
]


@pytest.mark.parametrize(("final", "gold"), SAME)
def test_the_same_answer_may_be_written_differently(final: str, gold: str) -> None:
    assert is_correct(final, gold) is True


OTHER = [
    ("5", "6"),
    ("5", "-5"),
    ("1,23", "123"),
    ("3 4", "34"),
    ("0.333", "1/3"),
    ("50%", "0.5"),
    (r"18 \text{ or } 20", "1820"),
    ("", "0"),
    ("five", "5"),
    (r"\text{cm}", "5"),
    ("(1, 2)", "(2, 1)"),
    ("9" * 5000, "9" * 4999 + "8"),
    ("x", "y"),
    ("٣", "3"),
]


@pytest.mark.parametrize(("final", "gold"), OTHER)
def test_another_answer_is_wrong(final: str, gold: str) -> None:
    assert is_correct(final, gold) is False
    assert is_correct(gold, final) is False


@given(st.integers(-(10**12), 10**12))
def test_a_number_is_equal_to_itself_in_any_notation(number: int) -> None:
    for text in (
        f"{number:,}",
        f"{number}.0",
        f"${number}$",
        f"x = {number}",
        rf"{number}\text{{ apples}}",
        f"{number}/1",
    ):
        assert is_correct(text, str(number)) is True
        assert is_correct(text, str(number + 1)) is False


latex = st.lists(
    st.one_of(
        st.sampled_from(
            [
                "\\boxed",
                "\\fbox",
                "{",
                "}",
                "\\{",
                "\\",
                "\\frac",
                "\\text",
                "$",
                "####",
                "=",
                "/",
                ",",
                ".",
            ]
        ),
        st.sampled_from(["1", "-", "0", " ", "x", "%", "\\left", "\\circ", "^", "\\,"]),
        st.text(max_size=3),
    ),
    max_size=30,
).map("".join)


@given(st.one_of(latex, st.text(st.characters())), latex)
def test_any_text_can_be_compared(final: str, gold: str) -> None:
    assert is_correct(final, gold) in (True, False)
    assert is_correct(final, final) in (True, False)
    box = boxed_answer(final)
    assert box is None or (box in final and box == box.strip() != "")


@given(latex)
def test_what_is_put_into_a_box_comes_out_of_it(text: str) -> None:
    balanced = text.replace("{", "").replace("}", "").replace("\\", "").strip()
    assert boxed_answer(rf"\boxed{{1}} \boxed{{{balanced}}} end") == (balanced or "1")


def test_deeply_nested_boxes_take_no_longer_than_they_must() -> None:
    start = time.process_time()
    assert boxed_answer("\\boxed{" * 70_000 + "5" + "}" * 70_000) == "5"
    assert time.process_time() - start < 2
