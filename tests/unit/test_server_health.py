"""How long a server is waited for, by a clock of the test."""

from __future__ import annotations

import pytest
import tenacity

from batchr1.engine.openai.faults import RowFailed, ServerFault
from batchr1.records import SampleKey
from batchr1.worker.server_health import BACKOFF_MAX_S, BACKOFF_S, ServerGone, ServerHealth, Wait

A, B = SampleKey("a", 0), SampleKey("b", 0)
FAULT, BUSY = ServerFault("HTTP 500"), ServerFault("HTTP 429", is_busy=True)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def patience(clock: Clock) -> ServerHealth:
    return ServerHealth(600, clock)


@pytest.mark.parametrize("fault", [FAULT, BUSY])
def test_nothing_but_faults_for_long_and_the_server_is_gone(
    clock: Clock, patience: ServerHealth, fault: ServerFault
) -> None:
    for seconds in (0, 100, 599):
        clock.now = 1000 + seconds
        patience.note(fault, A if seconds else B)
    clock.now = 1600
    with pytest.raises(ServerGone) as gone:
        patience.note(fault, A)
    assert str(gone.value) == (
        f"the server gave nothing but errors for 600 s (last: {fault}). Look at it; the same "
        "command goes on."
    )


def test_a_server_that_was_not_asked_for_hours_is_not_gone_at_its_first_fault(
    clock: Clock, patience: ServerHealth
) -> None:
    clock.now += 10_000
    patience.note(FAULT, A)
    clock.now += 599
    patience.note(FAULT, A)


def test_whatever_it_gives_is_a_sign_of_life(clock: Clock, patience: ServerHealth) -> None:
    for _ in range(20):
        patience.note(BUSY, A)
        clock.now += 400
        patience.note(BUSY, A)
        patience.alive()


def test_a_row_that_it_fails_at_while_it_answers_others_fails(
    clock: Clock, patience: ServerHealth
) -> None:
    for _ in range(6):
        patience.note(FAULT, A)
        clock.now += 100
        patience.answered(B)
    with pytest.raises(RowFailed) as failed:
        patience.note(FAULT, A)
    assert failed.value.reason == "server_failed"
    assert str(failed.value) == (
        "the server failed at it for 600 s, while it answered others (last: HTTP 500)"
    )


def test_a_row_is_not_to_blame_for_a_server_that_is_busy_and_one_that_was_answered_begins_anew(
    clock: Clock, patience: ServerHealth
) -> None:
    for _ in range(30):
        patience.note(BUSY, A)
        clock.now += 100
        patience.answered(B)
    patience.note(FAULT, A)
    clock.now += 500
    patience.answered(A)
    patience.note(FAULT, A)
    clock.now += 500
    patience.answered(B)
    patience.note(FAULT, A)


def test_a_request_that_hung_counts_from_its_sending(clock: Clock, patience: ServerHealth) -> None:
    clock.now += 1800
    with pytest.raises(ServerGone, match="for 1,800 s"):
        patience.note(ServerFault("no answer", is_busy=True), A, since=1000.0)


def test_a_wish_that_is_longer_than_the_patience_ends_it_at_once(patience: ServerHealth) -> None:
    patience.note(ServerFault("HTTP 429", retry_after_s=600, is_busy=True), A)
    with pytest.raises(ServerGone, match="to be left alone for 601 s"):
        patience.note(ServerFault("HTTP 429", retry_after_s=601, is_busy=True), A)


def test_waits_grow_and_honour_what_the_server_wishes() -> None:
    def waits(fault: ServerFault, attempt: int) -> list[float]:
        state = tenacity.RetryCallState(tenacity.AsyncRetrying(), None, (), {})
        state.attempt_number = attempt
        state.set_exception((type(fault), fault, None))
        return [Wait()(state) for _ in range(200)]

    assert min(waits(FAULT, 1)) >= 0 and max(waits(FAULT, 1)) <= BACKOFF_S
    assert 4 < max(waits(FAULT, 4)) <= 8
    assert 30 < max(waits(FAULT, 30)) <= BACKOFF_MAX_S
    asked = waits(ServerFault("HTTP 429", retry_after_s=7), 1)
    assert 7 <= min(asked) < 7.2 and 7.8 < max(asked) <= 8, "not before, and not all at once"
