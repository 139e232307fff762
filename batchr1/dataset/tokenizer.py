"""Loading of a model's tokenizer, and breaking of special tokens.

Text that only spells a special token must not become one.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from batchr1.dataset.bounds import ENCODE_CHARS
from batchr1.dataset.without_torch import torch_is_left_out
from batchr1.errors import ModelError


def load_tokenizer(
    path_or_repo: str,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    needs_template: bool = True,
) -> Any:
    """Load a model's tokenizer with its chat template.

    From a folder or a Hugging Face repository. A repository is taken from the local cache when
    there is no network (`HF_HUB_OFFLINE=1` skips the network). Raises ModelError if it is missing
    or broken or has no chat template.
    """
    if torch_is_left_out() and not trust_remote_code and "transformers" not in sys.modules:
        # Python's own mark of a module that is not there.
        sys.modules.setdefault("torch", None)  # type: ignore[arg-type]
        os.environ.setdefault(
            "TRANSFORMERS_NO_ADVISORY_WARNINGS", "1"
        )  # which it would remark upon
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    where = f"model {path_or_repo}"
    if path_or_repo.startswith(("/", ".", "~")) and not Path(path_or_repo).is_dir():
        raise ModelError(f"{where}: there is no such folder. Correct model.path.")
    options = {"revision": revision, "trust_remote_code": trust_remote_code}
    try:
        tokenizer = AutoTokenizer.from_pretrained(path_or_repo, **options)
        if not _keeps_text(tokenizer):
            # transformers 5 builds a LlamaTokenizer, which drops all white space, for a byte-level
            # vocabulary whose config names that class, as the Llama distills of R1 do. The file
            # tokenizer.json is right.
            plain = PreTrainedTokenizerFast.from_pretrained(path_or_repo, **options)
            tokenizer = plain if _keeps_text(plain) else tokenizer
    # The tokenizers library raises bare Exception for a file that it cannot read.
    except Exception as error:
        first_line = next(iter(str(error).strip().splitlines()), "")[:300].rstrip(".")
        raise ModelError(
            f"{where}: its tokenizer cannot be loaded ({type(error).__name__}: {first_line}). "
            f"Give a folder with "
            "tokenizer.json and tokenizer_config.json, or a repository that is reachable or cached."
        ) from error
    if needs_template and not tokenizer.chat_template:
        raise ModelError(
            f"{where}: its tokenizer has no chat template (need chat_template.jinja, or "
            f"chat_template in "
            "tokenizer_config.json). Use an instruction-tuned model, or give a template in "
            "prompting.template."
        )
    return tokenizer


def _keeps_text(tokenizer: Any) -> bool:
    probe = "Let  x = 1,\n\n\ty = 2."
    return bool(tokenizer.decode(tokenizer.encode(probe, add_special_tokens=False)) == probe)


def special_tokens(tokenizer: Any) -> dict[str, int]:
    """The added tokens that steer a model, by their text.

    Not all of them are marked as special (DeepSeek's `<｜User｜>` and `<think>` are not). Not all
    added tokens steer: some vocabularies add runs of spaces or rare letters in the same way.
    """
    return {
        token.content: token_id
        for token_id, token in tokenizer.added_tokens_decoder.items()
        if token.special or re.fullmatch(r"<.+>|\[.+\]", token.content)
    }


def pattern_of(texts: Iterable[str]) -> re.Pattern[str] | None:
    """Finds any of `texts`, the longest first; None without any."""
    longest_first = sorted((text for text in texts if text), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first))) if longest_first else None


def mark_for(text: str) -> str:
    """A string of private-use characters that `text` does not hold."""
    mark = "\ue000\ue001"
    while mark in text:
        mark += "\ue001"
    return mark


def break_specials(text: str, special: re.Pattern[str] | None, mark: str) -> str:
    """Put `mark` inside every special token that a text spells.

    There it can be cut.
    """
    match = special.search(text) if special else None
    if special is None or match is None:
        return text
    parts, start = [], 0
    while match:
        # One character on: what is left may spell another, overlapping token.
        cut = match.start() + 1
        parts.append(text[start:cut])
        start = cut
        match = special.search(text, cut)
    return mark.join([*parts, text[start:]])


def joined_encoder(tokenizer: Any) -> Callable[[Sequence[Sequence[str]]], list[list[int]]]:
    """Make an encoder of texts that come in pieces.

    Each piece is encoded for itself, all of them in one call. Tokenizers that put a space before a
    text put none before its later pieces. Takes lists of pieces, gives the ids of each text.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)

    def encode(texts: list[str]) -> list[list[int]]:
        if not texts:
            return []
        if backend is None:
            ids: list[list[int]] = tokenizer(texts, add_special_tokens=False).input_ids
            return ids
        # A tokenizer file may ask for truncation or padding; a prompt must have neither.
        if backend.truncation is not None:
            backend.no_truncation()
        if backend.padding is not None:
            backend.no_padding()
        return [
            encoding.ids
            for some in _portions(texts)
            for encoding in backend.encode_batch_fast(some, add_special_tokens=False)
        ]

    lead = _lead_of(tokenizer, encode)
    taken_off = len(encode([lead])[0]) if lead else 0

    def encode_pieces(texts: Sequence[Sequence[str]]) -> list[list[int]]:
        flat = [lead * (at > 0) + piece for pieces in texts for at, piece in enumerate(pieces)]
        encoded, joined = iter(encode(flat)), []
        for pieces in texts:
            ids = list(next(encoded)) if pieces else []
            for _ in pieces[1:]:
                ids += next(encoded)[taken_off:]
            joined.append(ids)
        return joined

    return encode_pieces


def _portions(texts: Sequence[str]) -> Iterator[list[str]]:
    """Portion texts, so that signals are answered in between."""
    some: list[str] = []
    size = 0
    for text in texts:
        some.append(text)
        size += len(text)
        if size >= ENCODE_CHARS:
            yield some
            some, size = [], 0
    if some:
        yield some


def _lead_of(tokenizer: Any, encode: Callable[[list[str]], list[list[int]]]) -> str:
    """Find a text to encode before a piece and take off.

    With it no space comes before the piece. Empty where a piece gets none anyway.
    """

    def joins(lead: str) -> bool:
        [first, own, *later] = encode(["<", lead or "<", *(f"{lead}{p}" for p in _PIECES)])
        size = len(own) if lead else 0
        if lead and any(ids[:size] != own for ids in later):
            return False
        texts = (str(tokenizer.decode([*first, *ids[size:]])) for ids in later)
        return all(text == f"<{piece}" for text, piece in zip(texts, _PIECES, strict=True))

    return next((lead for lead in ("", "\n", "0", "|", "\u3002") if joins(lead)), "")


_PIECES = ("/think> x", "think>", "x", " x")


def end_ids_of(path_or_repo: str, *, revision: str | None = None) -> tuple[int, ...]:
    """List end tokens beside the tokenizer's own.

    A model's files name them. They are those of generation_config.json and of config.json,
    whichever is there.
    """
    from transformers import GenerationConfig, PretrainedConfig

    found: list[int] = []
    with contextlib.suppress(OSError, ValueError):
        generation = GenerationConfig.from_pretrained(path_or_repo, revision=revision)
        found += _ids(generation.eos_token_id)
    with contextlib.suppress(OSError, ValueError):
        config, _ = PretrainedConfig.get_config_dict(path_or_repo, revision=revision)
        nested = config.get("text_config")
        for part in (config, nested if isinstance(nested, dict) else {}):
            found += _ids(part.get("eos_token_id"))
    return tuple(dict.fromkeys(found))


def _ids(named: Any) -> list[int]:
    """Make a list of what may be one id, several or none."""
    ids = named if isinstance(named, list) else [named]
    return [one for one in ids if isinstance(one, int) and not isinstance(one, bool)]
