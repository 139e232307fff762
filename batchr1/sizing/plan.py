"""The plan: what a run will ask of the machine.

It is derived from the spec, the model and the lengths, and never written back. `sizing.planning`
makes it.

What the user set in `model.engine_args` wins, and the rest is computed around it. Nothing that
changes answers (quantisation, the KV cache's type) is ever chosen here, only offered
(`alternatives`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from batchr1.errors import JobError
from batchr1.job.spec import JobSpec
from batchr1.records import CompletionLengths
from batchr1.sizing.estimate import Estimate
from batchr1.sizing.memory import GIB, Memory
from batchr1.sizing.timing.step_time import StepTime

UNKNOWN_CONTEXT = 2**31 - 1  # of a server's model, in tokens: nothing is too long here
# tokens that vLLM gathers before it hands them over: fewer messages, the same tokens
STREAM_INTERVAL = 8


@dataclass(frozen=True, slots=True)
class MemoryGib:
    """A GPU's memory in GiB, line by line.

    On a CPU machine, one engine's share of its memory.
    """

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
        """Find the kind of machine that a replica is on.

        Replicas are numbered kind by kind.
        """
        for kind, plan in enumerate(self.kinds):
            if worker < plan.replicas:
                return kind
            worker -= plan.replicas
        return 0

    def to_dict(self) -> dict[str, Any]:
        """Give the plan as plain values.

        As `plan --json` and the run record have it.
        """
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


def in_gib(memory: Memory) -> MemoryGib:
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
