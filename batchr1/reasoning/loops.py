"""Loops: a text, or tokens, whose end repeats itself.

Three forms of it, at the tail only, because a text that went on afterwards came out of its loop:

- a period: the tail is the same stretch over and over, three times at least, whatever its length;
- circling: the tail is mostly sentences that come again and again, in any order;
- repetition: paragraphs come again in other words or another order (`repetition`).

A period is found by an earlier place of the last few bytes: the distance is the candidate. The tail
is then compared with itself shifted by it. Both are single operations on memory.
"""

from __future__ import annotations

import re
from array import array
from collections import Counter

from batchr1.reasoning.repetition import CHECK_EVERY as REPETITION_EVERY
from batchr1.reasoning.repetition import is_repetitive, tokens_repeat

# of a finished text, in bytes of UTF-8
TAIL_BYTES = 24_000  # looked at: periods up to a third of it are found
MIN_COPIES = 3
MIN_RUN_BYTES = 120  # short periods must repeat for so long
PROBE_BYTES = 24
MAX_CANDIDATES = 24
MAX_CLOSING_BYTES = 300  # a last line or sentence that closes a loop, as one that is forced does,
MIN_CLOSED_RUN_BYTES = 600  # is looked past where the loop was so long

# circling
CIRCLE_CHARS = 4000  # the tail that is looked at,
MIN_CIRCLE_CHARS = 1000  # and the least that says anything
MIN_RETURNS = 4  # times that a sentence of so many letters stands in the tail:
MIN_SENTENCE_LETTERS = 10
MIN_SHORT_RETURNS = 12  # and one that is shorter
MIN_SHORT_LETTERS = 2
CIRCLE_SHARE = 0.6  # of the tail's characters, in such sentences

# while generating, in tokens
CHECK_EVERY = 64
WINDOW_TOKENS = 8192
STOP_COPIES = 4
STOP_RUN_TOKENS = 256
PROBE_TOKENS = 12

_SENTENCE_END = re.compile(r"[\n.!?。！？…]+")
_BREAK = re.compile(rb"\n|[.!?](?= )|\xe3\x80\x82")  # of lines and sentences, in bytes
_LETTERS = re.compile(r"[^\W\d_]")


def is_looping(text: str) -> bool:
    """Tell whether the end of a text is a loop.

    Takes time linear in the tail that is looked at.
    """
    tail = text[-TAIL_BYTES:].rstrip().encode(errors="replace")[-TAIL_BYTES:]
    if _run_length(tail, 1, PROBE_BYTES, MIN_COPIES, MIN_RUN_BYTES) or _is_circling(
        text[-CIRCLE_CHARS:]
    ):
        return True
    ends = [match.end() for match in _BREAK.finditer(tail, max(0, len(tail) - MAX_CLOSING_BYTES))]
    if is_repetitive(text):
        return True
    return any(
        _run_length(tail[:end].rstrip(), 1, PROBE_BYTES, MIN_COPIES, MIN_CLOSED_RUN_BYTES)
        for end in ends[-8:]
    )


class LoopDetector:
    """Notices a loop in a generation under way, from its tokens alone.

    `update` is given all tokens so far as often as one likes; it looks every `CHECK_EVERY` tokens
    at the last `WINDOW_TOKENS`, which is a constant cost per token, and keeps nothing but a count.
    It is slower to call something a loop than `is_looping`, because the text may still go on: it
    wants `STOP_COPIES` copies and `STOP_RUN_TOKENS`. `seen`: tokens that were looked at before an
    interruption, so that it looks at the same places after it.
    """

    __slots__ = ("_checked",)

    def __init__(self, seen: int = 0) -> None:
        self._checked = seen - seen % CHECK_EVERY

    def update(self, tokens: array[int], start: int = 0) -> bool:
        """Tell whether the tokens from `start` on end in a loop.

        They are looked at every so often.
        """
        if len(tokens) - self._checked < CHECK_EVERY:
            return False
        before = self._checked // REPETITION_EVERY
        # at the same places whoever begins to look where
        self._checked = len(tokens) - len(tokens) % CHECK_EVERY
        tail = tokens[max(start, len(tokens) - WINDOW_TOKENS) :]
        if self._checked // REPETITION_EVERY > before and tokens_repeat(tail):
            return True
        return _is_periodic(tail)


def tokens_loop(tokens: array[int]) -> bool:
    """Tell whether the end of token ids repeats for long enough."""
    return _is_periodic(tokens) or tokens_repeat(tokens)


def _is_periodic(tokens: array[int]) -> bool:
    tail = tokens[-WINDOW_TOKENS:]
    return (
        _run_length(tail.tobytes(), tail.itemsize, PROBE_TOKENS, STOP_COPIES, STOP_RUN_TOKENS) > 0
    )


def _run_length(tail: bytes, unit: int, probe: int, copies: int, shortest: int) -> int:
    """Measure how long the end of `tail` has been periodic, in units.

    0 when not for `copies` periods and `shortest` units. `unit` is the number of bytes of an item;
    `probe` the number of items that are searched for.
    """
    end, size = len(tail), probe * unit
    if end < shortest * unit:
        return 0
    needle, at = tail[end - size :], end - size
    for _ in range(MAX_CANDIDATES):
        at = tail.rfind(needle, 0, at + size - 1)
        if at < 0:
            return 0
        period = end - size - at
        if period % unit:  # a match between two items
            continue
        wanted = max(copies * period, shortest * unit)
        if wanted > end:
            return 0  # and other candidates are longer still
        if tail[end - wanted + period :] == tail[end - wanted : end - period]:
            return wanted // unit
    return 0


def _is_circling(tail: str) -> bool:
    """Whether most of a tail is sentences that return."""
    if len(tail) < MIN_CIRCLE_CHARS:
        return False
    sentences = [" ".join(part.split()) for part in _SENTENCE_END.split(tail)]
    counts = Counter(sentences)
    again = sum(
        len(sentence) * count
        for sentence, count in counts.items()
        if count >= MIN_RETURNS and _returns(sentence, count)
    )
    return again >= CIRCLE_SHARE * sum(map(len, sentences))


def _returns(sentence: str, count: int) -> bool:
    letters = len(_LETTERS.findall(sentence))
    return letters >= MIN_SENTENCE_LETTERS or (
        count >= MIN_SHORT_RETURNS and letters >= MIN_SHORT_LETTERS
    )
