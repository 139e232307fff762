r"""Flags: oddities of a row, to filter it without reading it.

Pure functions of a row's own texts, the same for every model. Their thresholds are constants at the
top of the modules they are in (`loops`, `languages`, `contents`), and `docs/traces.md` lists them
with how they were measured.
"""

from __future__ import annotations

from collections.abc import Iterable

from batchr1.reasoning.answers import boxed_answer
from batchr1.reasoning.contents import has_code, has_long_paragraph, is_refusal, leaks_into_json
from batchr1.reasoning.languages import is_mixed
from batchr1.reasoning.loops import is_looping
from batchr1.reasoning.soup import ends_in_soup
from batchr1.reasoning.split import Split
from batchr1.records import FLAGS


def flags_of(split: Split, *, prompt: str = "", expects_box: bool = False) -> tuple[str, ...]:
    r"""List the flags of a completion, in the order of `FLAGS`.

    Linear in its length. `prompt` is the user turn without what batchr1 appended to it. Flags are
    of the part after the think block or before:

    - `no_think`: no think block. `empty_think`: nothing in it. `extra_think_tag`: think tags were
      left in the text.
    - `answer_without_box`: there is an answer but no final one in it. Only where `expects_box`:
      the instruction asked for `\boxed{}`.
    - `looping`: reasoning or answer ends in a loop (`loops`).
    - `token_soup`: it ends in tokens that say nothing (`soup`).
    - `mixed_language`: it leaves the languages of the prompt (`languages`).
    - `json_leak`: an answer in JSON holds reasoning; `refusal`: the answer declines (`contents`).
    - `long_paragraph`, `code_in_reasoning`: of the reasoning; without a think block, of the
      answer's paragraphs.
    """
    reasoning, answer = split.reasoning or "", split.answer or ""
    box = boxed_answer(answer) if answer else None
    seen = {
        "no_think": split.status == "missing",
        "empty_think": split.status == "empty",
        "extra_think_tag": split.extra_think_tags > 0,
        "answer_without_box": expects_box and split.answer is not None and box is None,
        "looping": is_looping(reasoning) or is_looping(answer),
        "token_soup": ends_in_soup(reasoning) or ends_in_soup(answer),
        "mixed_language": is_mixed(prompt, reasoning, answer),
        "json_leak": leaks_into_json(prompt, answer),
        "long_paragraph": has_long_paragraph(reasoning or answer),
        "code_in_reasoning": has_code(reasoning),
        "refusal": is_refusal(answer, has_box=box is not None),
    }
    return tuple(flag for flag in FLAGS if seen.get(flag))


def in_order(flags: Iterable[str]) -> tuple[str, ...]:
    """Order flags as a row has them, each once."""
    found = set(flags)
    return tuple(flag for flag in FLAGS if flag in found)
