"""Bytes that vLLM allocates for LoRA adapters of rank 8: a model's folder in, a number out."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

from batchr1.engine.vllm.engine import prepare_environment


def tensors(value: object) -> Iterator[object]:
    import torch

    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for one in value:
            yield from tensors(one)


def allocated(model: object) -> int:
    """Sum the storage of every stack of adapters, each once."""
    found: dict[int, int] = {}
    for module in model.modules():  # type: ignore[attr-defined]
        for name, value in vars(module).items():
            if "lora_a_stacked" in name or "lora_b_stacked" in name:
                for one in tensors(value):
                    storage = one.untyped_storage()  # type: ignore[attr-defined]
                    found[storage.data_ptr()] = storage.nbytes()
    return sum(found.values())


def main() -> None:
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the model is in this process then
    prepare_environment("cpu")
    from vllm import LLM

    llm = LLM(
        sys.argv[1],
        dtype="float32",
        enable_lora=True,
        max_lora_rank=8,
        load_format="dummy",
        skip_tokenizer_init=True,
        enforce_eager=True,
        max_model_len=256,
        max_num_seqs=2,
        kv_cache_memory_bytes=2**24,
    )
    worker = llm.llm_engine.model_executor.driver_worker.worker
    print("bytes", allocated(worker.model_runner.model))


if __name__ == "__main__":
    main()
