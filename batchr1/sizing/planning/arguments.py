"""The engine arguments that a plan must respect."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from batchr1.errors import JobError
from batchr1.job.spec import JobSpec
from batchr1.models.adapter import read_adapter
from batchr1.models.resolve import ModelSource
from batchr1.records import CompletionLengths, PromptLengths
from batchr1.sizing.adapters import AdapterRoom
from batchr1.sizing.architecture import Architecture
from batchr1.sizing.estimate import Workload
from batchr1.sizing.fit import EngineConstraints


def workload_of(
    spec: JobSpec, model: ModelSource, prompts: PromptLengths, completions: CompletionLengths
) -> Workload:
    """Gather what a job asks of an engine."""
    return Workload(
        prompts,
        completions,
        max(1, prompts.rows * spec.sampling.n),
        spec.sampling.max_tokens,
        model.context_len,
    )


def check_batch(num_seqs: int, batched: int, max_model_len: int, *, chunked: bool) -> None:
    """Refuse a step that vLLM refuses.

    It must hold a token of each sequence or, without chunked prefill, a whole prompt.
    """
    need = num_seqs if chunked else max(num_seqs, max_model_len)
    if batched < need:
        whose = (
            "max_num_seqs" if batched < num_seqs else "the context, since prefill is not chunked"
        )
        raise JobError(
            f"model.engine_args.max_num_batched_tokens: too few for {whose} (got {batched}, need "
            f"at least {need}). "
            "Raise it, or leave it out."
        )


def check_arguments(spec: JobSpec, model: ModelSource, *, num_gpus: int) -> EngineConstraints:
    """Collect the engine arguments that a plan must respect.

    Raises `JobError` for values that cannot be.

    `num_gpus` 0: a CPU, or GPUs that are not known yet.
    """
    args = spec.model.engine_args
    wish = constraints_of(args, adapter=spec.model.adapter)
    width = (wish.tensor_parallel or 1) * (wish.pipeline_parallel or 1)
    if num_gpus and width > num_gpus:
        raise JobError(
            f"model.engine_args: tensor_parallel_size × pipeline_parallel_size does not fit the "
            f"machine "
            f"(got {width}, need at most {num_gpus} GPUs). Lower one of them, or give the run "
            f"more GPUs."
        )
    arch = Architecture.of_config(model.config)
    if wish.tensor_parallel is not None and not arch.divides_into(wish.tensor_parallel):
        evenly = arch.num_heads % wish.tensor_parallel == 0
        which = "KV heads" if evenly else "attention heads"
        need = (
            f"a divisor or multiple of {arch.num_kv_heads}"
            if evenly
            else f"a divisor of {arch.num_heads}"
        )
        raise JobError(
            f"model.engine_args.tensor_parallel_size: does not divide the model's {which} "
            f"(got {wish.tensor_parallel}, need {need}). Correct it."
        )
    if (
        wish.max_model_len is not None
        and wish.max_model_len > model.context_len
        and not _longer_allowed()
    ):
        raise JobError(
            f"model.engine_args.max_model_len: longer than the model's context "
            f"(got {wish.max_model_len}, need at most {model.context_len}). Lower it, or leave it "
            f"out."
        )
    return wish


def constraints_of(args: Mapping[str, Any], *, adapter: str | None = None) -> EngineConstraints:
    """The engine arguments that sizing knows. `adapter`: the folder of the job's."""
    utilization = args.get("gpu_memory_utilization")
    number = isinstance(utilization, int | float) and not isinstance(utilization, bool)
    if utilization is not None and not (number and 0 < utilization <= 1):
        raise JobError(
            f"model.engine_args.gpu_memory_utilization: not a share of the memory (got "
            f"{utilization!r}, "
            "need more than 0, at most 1). Correct it."
        )
    dtype_bytes = 4 if args.get("dtype") in ("float32", "float") else 2
    return EngineConstraints(
        tensor_parallel=whole_number(args, "tensor_parallel_size"),
        pipeline_parallel=whole_number(args, "pipeline_parallel_size"),
        max_model_len=whole_number(args, "max_model_len"),
        max_num_seqs=whole_number(args, "max_num_seqs"),
        max_num_batched_tokens=whole_number(args, "max_num_batched_tokens"),
        gpu_memory_utilization=utilization,
        kv_cache_memory_bytes=whole_number(args, "kv_cache_memory_bytes"),
        dtype_bytes=dtype_bytes,
        kv_dtype_bytes=1
        if str(args.get("kv_cache_dtype", "auto")).startswith("fp8")
        else dtype_bytes,
        eager=_flag(args, "enforce_eager", default=False),
        chunked_prefill=_flag(args, "enable_chunked_prefill", default=True),
        adapters=_adapters(args, adapter),
    )


def _adapters(args: Mapping[str, Any], adapter: str | None) -> AdapterRoom | None:
    """Size the slots for adapters; None: the job has none."""
    if adapter is None:
        return None
    rank = whole_number(args, "max_lora_rank") or read_adapter(adapter).rank
    return AdapterRoom(rank, whole_number(args, "max_loras") or 1)


def _flag(args: Mapping[str, Any], key: str, *, default: bool) -> bool:
    value = args.get(key)
    if value is not None and not isinstance(value, bool):
        raise JobError(f"model.engine_args.{key}: not true or false (got {value!r}). Correct it.")
    return default if value is None else value


def whole_number(args: Mapping[str, Any], key: str) -> int | None:
    """Read a positive whole number among engine arguments; None: not set."""
    value = args.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise JobError(
            f"model.engine_args.{key}: not a positive whole number (got {value!r}). Correct it."
        )
    return value


def asked_of(spec: JobSpec) -> dict[str, Any]:
    """List the engine arguments that a job sets, null ones left out."""
    return {key: value for key, value in spec.model.engine_args.items() if value is not None}


def _longer_allowed() -> bool:
    return bool(os.environ.get("VLLM_ALLOW_LONG_MAX_MODEL_LEN"))
