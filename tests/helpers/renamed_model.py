"""r1-tiny under other think tags: its tokens renamed, or its template ending otherwise."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from batchr1.models.catalogue import variant

SOURCE = Path(str(variant("r1-tiny").path))
OPEN, CLOSE = "<think>", "</think>"


def renamed_model(folder: Path, opening: str, closing: str) -> Path:
    """Copy r1-tiny with its two tags renamed, in vocabulary and chat template alike."""
    return _copy(folder, lambda text: text.replace(OPEN, opening).replace(CLOSE, closing))


def retold_model(folder: Path, template: str, tokens: Sequence[str] = ()) -> Path:
    """Copy r1-tiny with another template, other tokens, and without its own think tags.

    The tags become words that nobody looks for; `tokens` come behind the vocabulary, so that a
    model could not be run with them.
    """
    copy = _copy(folder, lambda text: text.replace(CLOSE, "<spare 2>").replace(OPEN, "<spare 1>"))
    config = _read(copy / "tokenizer_config.json")
    tokenizer = _read(copy / "tokenizer.json")
    first = 1 + max(token["id"] for token in tokenizer["added_tokens"])
    for number, content in enumerate(tokens, first):
        token = {"content": content, "special": True} | dict.fromkeys(
            ("lstrip", "rstrip", "normalized", "single_word"), False
        )
        tokenizer["added_tokens"].append({"id": number, **token})
        config["added_tokens_decoder"][str(number)] = token
    config["chat_template"] = template
    for name, document in (("tokenizer_config.json", config), ("tokenizer.json", tokenizer)):
        (copy / name).write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
    return copy


def _copy(folder: Path, change: Any) -> Path:
    folder.mkdir(parents=True)
    for path in SOURCE.iterdir():
        target = folder / path.name
        if path.suffix == ".json" and path.name.startswith("tokenizer"):
            target.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")
        elif path.is_file():
            os.link(path, target)
    return folder


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
