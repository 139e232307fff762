"""Which row killed the engine: found by running suspects apart, and never an innocent one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchr1.driver.quarantine import ALONE_UP_TO, Quarantine
from batchr1.errors import EngineError
from batchr1.records import Prompt, WorkItem


def items(count: int) -> list[WorkItem]:
    return [
        WorkItem(Prompt(str(i), "?", (1,), True, b"d" * 16), 0, 10, "max_tokens")
        for i in range(count)
    ]


def hunt(rows: list[WorkItem], poison: set[str]) -> tuple[list[tuple[str, int]], int]:
    """Run rows through an engine that dies when one of `poison` is in it: who is blamed, after how
    many deaths.
    """
    suspects, again, blamed, deaths = Quarantine(), rows, list[tuple[str, int]](), 0
    while again or suspects:
        batch = suspects.next_group() if suspects else again
        if batch is again:
            again = []
        if {item.prompt.id for item in batch} & poison:
            deaths += 1
            again = again + suspects.exited(batch)
        else:
            blamed += [(f.id, f.attempts) for f in suspects.generated(item.key for item in batch)]
    return blamed + [(f.id, f.attempts) for f in suspects.verdicts()], deaths


@pytest.mark.parametrize(
    ("count", "poison", "blamed", "deaths"),
    [
        (1, {"0"}, [("0", 3)], 3),
        (ALONE_UP_TO, {"5"}, [("5", 3)], 3),
        (800, {"799"}, [("799", 4)], 4),
        (10, {"2", "7"}, [("2", 3), ("7", 3)], 4),
        (10, set(), [], 0),
    ],
)
def test_the_poison_row_is_found(
    count: int, poison: set[str], blamed: list[tuple[str, int]], deaths: int
) -> None:
    assert hunt(items(count), poison) == (blamed, deaths)


@given(st.integers(1, 200), st.sets(st.integers(0, 199), max_size=2))
def test_only_poison_rows_are_ever_blamed(count: int, poison: set[int]) -> None:
    bad = {str(i) for i in poison if i < count}
    assert {id for id, _ in hunt(items(count), bad)[0]} == bad


def test_an_engine_that_dies_with_any_row_blames_none() -> None:
    rows = items(10)
    with pytest.raises(EngineError, match="died with each of 3 rows that ran alone in it"):
        hunt(rows, {item.prompt.id for item in rows})


def test_a_row_that_got_through_is_cleared() -> None:
    suspects, [row, other] = Quarantine(), items(2)
    assert suspects.exited([row, other]) == [row, other]
    assert suspects.generated([row.key]) == []
    assert suspects.exited([row]) == [row]


def test_a_row_that_only_one_of_several_engines_dies_of_is_tried_on_another_and_not_blamed() -> (
    None
):
    suspects, [row, other] = Quarantine(), items(2)
    assert suspects.exited([row, other], worker=0, others=True) == [row, other]
    assert suspects.exited([row], worker=0, others=True) == []
    assert suspects.next_group(0, others=True) == []
    assert suspects.next_group(1, others=True) == [row]
    assert suspects.generated([row.key]) == []
    assert not suspects


def test_a_row_that_two_engines_die_of_is_blamed() -> None:
    suspects, [row] = Quarantine(), items(1)
    assert suspects.exited([row], worker=0, others=True) == [row]
    assert suspects.exited([row], worker=0, others=True) == []
    assert suspects.next_group(1, others=True) == [row]
    assert suspects.exited([row], worker=1, others=True) == []
    assert [(f.id, f.reason, f.attempts) for f in suspects.verdicts()] == [
        ("0", "killed_engine", 3)
    ]


def test_when_no_other_engine_is_left_the_same_one_tries_again() -> None:
    suspects, [row] = Quarantine(), items(1)
    assert suspects.exited([row], worker=0, others=True) == [row]
    assert suspects.exited([row], worker=0, others=True) == []
    assert suspects.next_group(0, others=False) == [row]
    assert suspects.exited([row], worker=0, others=False) == []
    assert [f.attempts for f in suspects.verdicts()] == [3]


def test_samples_of_one_prompt_are_no_proof_against_the_engine() -> None:
    prompt = Prompt("bad", "?", (1,), True, b"d" * 16)
    samples = [WorkItem(prompt, sample, 10, "max_tokens") for sample in range(6)]
    blamed, deaths = hunt(samples, {"bad"})
    assert (blamed, deaths) == ([("bad", 3)] * 6, 8)
    with pytest.raises(EngineError, match="the engine died with each of 3 rows"):
        hunt(items(3), {"0", "1", "2"})
