"""The plan: what a run will ask of the machine. Derived from the spec and the model, never written back to the spec."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Literal

from batchr1.errors import JobError
from batchr1.job.spec import JobSpec
from batchr1.sizing.model import ModelSource

Device = Literal["cpu", "cuda"]

_CPU_MAX_NUM_SEQS = 256
_CUDA_MAX_NUM_SEQS = 512
_STREAM_INTERVAL = 8  # tokens that vLLM gathers before it hands them over: fewer messages, the same tokens
_CPU_KV_SHARE = 0.25
_CPU_KV_BYTES_MIN = 256 * 2**20
_CPU_KV_BYTES_MAX = 2**30


@dataclass(frozen=True, slots=True)
class Plan:
    """Replicas and the engine arguments of each.

    `device_groups` holds, for each replica, the ids of its GPUs (empty on a CPU machine). Lengths are in tokens.
    """

    device: Device
    device_groups: tuple[tuple[str, ...], ...]
    max_model_len: int
    max_num_seqs: int
    engine_args: dict[str, Any]

    @property
    def replicas(self) -> int:
        return len(self.device_groups)


def make_plan(spec: JobSpec, model: ModelSource, *, devices: tuple[str, ...], cpu_replicas: int = 1) -> Plan:
    """Size the engine for this machine.

    `devices`: ids of the GPUs to use, empty for the CPU; `cpu_replicas`: how many engines share the CPU then.
    """
    asked = dict(spec.model.engine_args)
    width = _whole_number(asked, "tensor_parallel_size", 1) * _whole_number(asked, "pipeline_parallel_size", 1)
    device: Device = "cuda" if devices else "cpu"
    if devices and len(devices) < width:
        raise JobError(
            f"model.engine_args: tensor_parallel_size × pipeline_parallel_size does not fit the machine "
            f"(got {width}, need at most {len(devices)} GPUs). Lower one of them, or give the run more GPUs."
        )
    groups = tuple(tuple(devices[i : i + width]) for i in range(0, len(devices) - width + 1, width))
    groups = groups or ((),) * cpu_replicas
    max_model_len = _whole_number(asked, "max_model_len", model.context_len)
    if max_model_len > model.context_len and not os.environ.get("VLLM_ALLOW_LONG_MAX_MODEL_LEN"):
        raise JobError(
            f"model.engine_args.max_model_len: longer than the model's context "
            f"(got {max_model_len}, need at most {model.context_len}). Lower it, or leave it out."
        )
    max_num_seqs = _whole_number(asked, "max_num_seqs", _CUDA_MAX_NUM_SEQS if devices else _CPU_MAX_NUM_SEQS)
    args: dict[str, Any] = {"load_format": "safetensors", "max_model_len": max_model_len, "max_num_seqs": max_num_seqs}
    if spec.model.quantization is not None:
        args["quantization"] = _VLLM_QUANTIZATION[spec.model.quantization]
    if device == "cuda":
        args["stream_interval"] = _STREAM_INTERVAL
    else:
        args |= {"enforce_eager": True, "kv_cache_memory_bytes": _cpu_kv_bytes(len(groups))}
        if spec.sampling.seed is not None:
            # A seeded request whose prefill is cut in pieces kills vLLM's CPU sampler (no generator offset there).
            args |= {"enable_chunked_prefill": False, "max_num_batched_tokens": max(max_model_len, 2048)}
    return Plan(device, groups, max_model_len, max_num_seqs, args | asked)


_VLLM_QUANTIZATION = {"fp8": "fp8", "awq": "awq_marlin", "gptq": "gptq_marlin", "w4a16": "compressed-tensors"}


def _whole_number(args: dict[str, Any], key: str, default: int) -> int:
    value = args.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise JobError(f"model.engine_args.{key}: not a positive whole number (got {value!r}). Correct it.")
    return value


def _cpu_kv_bytes(replicas: int) -> int:
    """A quarter of the machine's memory, shared by the replicas, within 256 MiB and 1 GiB each."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    share = int(memory * _CPU_KV_SHARE) // replicas
    return max(_CPU_KV_BYTES_MIN, min(share, _CPU_KV_BYTES_MAX))
