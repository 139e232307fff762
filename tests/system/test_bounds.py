"""Inputs that attack meet a bound, and one line, within seconds."""

from __future__ import annotations

import hashlib
import resource
import time
from pathlib import Path
from threading import Event, Thread

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from replay_job import MODEL

from batchr1.dataset.bounds import MAX_PROMPT_CHARS, TooMuchError, bounded
from batchr1.dataset.prompts import PromptRenderer, PromptRow, RowError, load_tokenizer
from batchr1.dataset.source import Source
from batchr1.errors import JobError, ModelError
from batchr1.job import load_job
from batchr1.job.spec import InputSpec
from batchr1.sizing.architecture import Architecture
from batchr1.storage.inputs import expand_inputs


def test_a_block_that_takes_long_or_much_memory_is_broken_off() -> None:
    before = resource.getrlimit(resource.RLIMIT_AS)
    with pytest.raises(TooMuchError, match=r"it took longer than 0\.2 s"), bounded(0.2):
        while True:
            pass
    with pytest.raises(TooMuchError, match="it took more than 64 MiB"), bounded(60, 2**26):
        bytearray(2**32)
    assert resource.getrlimit(resource.RLIMIT_AS) == before


def test_a_wait_of_the_machine_breaks_no_block_off() -> None:
    """Other threads' work, and time in which nothing is done, belong to no template."""
    is_over = Event()

    def work() -> None:
        while not is_over.is_set():
            hashlib.blake2b(bytes(2**20))

    others = [Thread(target=work) for _ in range(2)]
    for other in others:
        other.start()
    try:
        with bounded(0.2):
            is_over.wait(1.5)
    finally:
        is_over.set()


def test_a_chat_template_that_fills_memory_is_the_models_fault() -> None:
    tokenizer = load_tokenizer(MODEL)
    tokenizer.chat_template = "{{ 'a' * 100000000000 }}"
    with pytest.raises(ModelError, match="its chat template does not end"):
        PromptRenderer(tokenizer)


def test_a_prompt_beyond_any_context_fails_unread() -> None:
    renderer = PromptRenderer(load_tokenizer(MODEL))
    began = time.process_time()
    [error] = renderer.render_many([PromptRow("a", "x" * 50_000_000)])
    assert isinstance(error, RowError)
    assert (error.reason, str(error)) == (
        "prompt_too_long",
        "the prompt is longer than any context (got 50,000,000 characters, need at most "
        f"{MAX_PROMPT_CHARS:,})",
    )
    assert time.process_time() - began < 10


def test_aliases_that_stand_for_billions_of_values_are_refused(tmp_path: Path) -> None:
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    path = tmp_path / "job.yaml"
    path.write_text("model:\n  engine_args:\n" + "".join(f"    {line}\n" for line in lines))
    with pytest.raises(JobError) as caught:
        load_job(path)
    assert str(caught.value) == (
        f"{path}:7: not valid YAML (aliases stand for more than 100,000 values). Correct that line."
    )


@pytest.mark.parametrize("name", ["num_hidden_layers", "hidden_size", "vocab_size"])
def test_a_config_of_absurd_size_is_refused(name: str) -> None:
    config = {
        "num_hidden_layers": 2,
        "hidden_size": 64,
        "num_attention_heads": 4,
        "vocab_size": 100,
    }
    with pytest.raises(ModelError, match=f"config.json's {name} is not a size"):
        Architecture.of_config(config | {name: 10**18})


def test_a_condition_never_holds_a_whole_row_group(tmp_path: Path) -> None:
    rows = 400_000
    text = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), ["x" * 5000])
    table = pa.table({"id": pa.array(range(rows)), "q": text})
    path = tmp_path / "in.parquet"
    pq.write_table(table, path, row_group_size=rows, store_schema=False)
    assert path.stat().st_size < 4 * 2**20  # decoded, 2 GB
    spec = InputSpec(path=str(path), id="id", prompt="q", where="length(q) = 1 OR id = 7")
    source = Source(spec, [], expand_inputs(path))
    before = pa.total_allocated_bytes()
    found, most = 0, 0
    for _, batch in source.batches(source.id_columns):
        most = max(most, pa.total_allocated_bytes() - before)
        found += batch.num_rows
    assert found == 1
    assert most < 2**29
