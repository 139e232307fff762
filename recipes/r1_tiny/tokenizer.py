"""Byte-level BPE with single-digit tokens and DeepSeek's special tokens: training, files, and a
quick encoder.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from random import Random

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

from recipes.r1_tiny import R1_TINY
from recipes.r1_tiny.generator import Turn, draw_turn

BOS, EOS, PAD = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"
USER, ASSISTANT = "<｜User｜>", "<｜Assistant｜>"
THINK, END_THINK = "<think>", "</think>"
SPECIAL = (BOS, EOS, PAD, USER, ASSISTANT)
VOCAB_SIZE = 1408
# Qwen2's own split (transformers 5 applies it to every Qwen2 model, whatever the files say): digits
# one by one
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| "
    r"?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SPLIT_ASCII = re.compile(
    _SPLIT.replace(r"\p{L}\p{N}", r"A-Za-z\d")
    .replace(r"\p{L}", "[A-Za-z]")
    .replace(r"\p{N}", r"\d")
)
_NOT_QUICK = re.compile(r"[^\n -~×÷−–’…·€£]|<[/｜t]")
CHAT_TEMPLATE = (
    "{%- set ns = namespace(system='', first=true) -%}"
    "{{- bos_token -}}"
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'system' -%}"
    "{%- set ns.system = ns.system + message['content'] + '\\n\\n' -%}"
    "{%- elif message['role'] == 'user' -%}"
    "{{- '<｜User｜>' -}}"
    "{%- if ns.first -%}{{- ns.system -}}{%- set ns.first = false -%}{%- endif -%}"
    "{{- message['content'] -}}"
    "{%- elif message['role'] == 'assistant' -%}"
    "{%- set text = message['content'] or '' -%}"
    "{%- if '</think>' in text -%}{%- set text = text.split('</think>')[-1] | trim -%}{%- endif -%}"
    "{{- '<｜Assistant｜>' + text + '<｜end▁of▁sentence｜>' -}}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<｜Assistant｜><think>\\n' -}}{%- endif -%}"
)


def training_texts(count: int, seed: int) -> Iterator[str]:
    """Texts the merges are learnt from: questions count as often as the far longer reasoning."""
    rng = Random(seed)
    for i in range(count):
        turn = draw_turn(rng)
        yield turn.user
        if i % 4 == 0:
            yield turn.response.replace(END_THINK, "")


def train_tokenizer(count: int = 120_000, seed: int = 7) -> Tokenizer:
    """Learns the vocabulary from generated problems."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    added = [AddedToken(t, special=True, normalized=False) for t in SPECIAL]
    tags = [AddedToken(t, special=False, normalized=False) for t in (THINK, END_THINK)]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - len(tags),
        special_tokens=added,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(training_texts(count, seed), trainer)
    tokenizer.add_tokens(tags)
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Writes tokenizer.json and tokenizer_config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    added = {
        str(i): {
            "content": t.content,
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
            "special": t.special,
        }
        for i, t in sorted(tokenizer.get_added_tokens_decoder().items())
    }
    config = {
        "tokenizer_class": "Qwen2Tokenizer",
        "added_tokens_decoder": added,
        "unk_token": None,
        "bos_token": BOS,
        "eos_token": EOS,
        "pad_token": PAD,
        "extra_special_tokens": [USER, ASSISTANT],
        "add_bos_token": False,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 4096,
        "padding_side": "left",
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(
        json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )


class Encoder:
    """Token ids of training examples; remembers the ids of every word, which is quicker than the
    tokenizer itself.
    """

    def __init__(self, path: Path) -> None:
        self.tokenizer = Tokenizer.from_file(str(path))
        self._ids: dict[str, list[int]] = {}
        self.bos, self.eos, self.pad, self.user, self.assistant, self.think, self.end_think = (
            self._id(t) for t in (BOS, EOS, PAD, USER, ASSISTANT, THINK, END_THINK)
        )
        self._newline = self.encode("\n")

    def _id(self, token: str) -> int:
        number = self.tokenizer.token_to_id(token)
        if number is None:
            raise ValueError(f"tokenizer: no token {token!r}. Train it with recipe/tokenizer.py.")
        return int(number)

    def encode(self, text: str) -> list[int]:
        """Ids of plain text, the same as the tokenizer gives."""
        if _NOT_QUICK.search(text):
            return list(self.tokenizer.encode(text, add_special_tokens=False).ids)
        known = self._ids
        words = _SPLIT_ASCII.findall(text)
        try:
            return list(chain.from_iterable([known[w] for w in words]))
        except KeyError:
            if len(known) > 400_000:
                known.clear()
            for w in words:
                if w not in known:
                    known[w] = list(self.tokenizer.encode(w, add_special_tokens=False).ids)
            return list(chain.from_iterable([known[w] for w in words]))

    def prompt(self, user: str) -> list[int]:
        """Ids of a first user turn up to the open think block."""
        return [self.bos, self.user, *self.encode(user), self.assistant, self.think, *self._newline]

    def example(self, turn: Turn) -> tuple[list[int], int]:
        """Ids of a whole training example, and how many of them are the prompt."""
        prompt = self.prompt(turn.user)
        thought, _, answer = turn.response.partition(END_THINK)
        return [
            *prompt,
            *self.encode(thought),
            self.end_think,
            *self.encode(answer),
            self.eos,
        ], len(prompt)


def main() -> None:
    """Trains the tokenizer and writes its files."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, default=R1_TINY)
    parser.add_argument("--texts", type=int, default=120_000)
    arguments = parser.parse_args()
    tokenizer = train_tokenizer(arguments.texts)
    save_tokenizer(tokenizer, arguments.out)
    print(f"{tokenizer.get_vocab_size()} tokens in {arguments.out}")


if __name__ == "__main__":
    main()
