"""Plan of a score: tokens, engine arguments, throughput, bytes on disk.

The log-probabilities of a step need memory that vLLM does not count: of every token in it the whole
vocabulary, as float32, some three times over. So steps are as large as half of what is free allows.
The KV cache is small, as a row leaves it after its prefill.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from batchr1.errors import UsageError
from batchr1.job.spec import JobSpec
from batchr1.records import CompletionLengths, Failure, PromptLengths
from batchr1.scoring.columns import Row
from batchr1.scoring.folder import Key
from batchr1.scoring.rows import Rows
from batchr1.scoring.target import Target
from batchr1.sizing.architecture import Architecture
from batchr1.sizing.machine import Machine, this_machine
from batchr1.sizing.memory import GIB
from batchr1.sizing.plan import Plan
from batchr1.sizing.planning.make import make_plan

STEP_TOKENS = {"cuda": 8192, "cpu": 2048}  # of a step, at most
FEWEST_TOKENS = 256
SEQUENCES = 256
LOGIT_BYTES = 12  # of a token and a word of the vocabulary: logits, their softmax, and a copy
# Reading and writing of these, and of what is kept, in bytes at the GPU's bandwidth: fitted to the
# 1.5B shape on an H200, with the top 20 and with none (docs/benchmarks.md).
LOGIT_TRAFFIC, TOP_K_TRAFFIC = 120, 92
ROW_BYTES = 200


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes of the work, in rows and tokens.

    `tokens` are those of prompts too, `scored_tokens` those of completions. `longest` is a row's,
    in tokens.
    """

    rows: int
    done: int
    failed: int
    tokens: int
    scored_tokens: int
    longest: int


@dataclass(frozen=True, slots=True)
class ScorePlan:
    """Plan of a score.

    `tokens_per_s` is None where the device's speed is not known.
    """

    sizes: Sizes
    plan: Plan
    logits_gib: float
    tokens_per_s: float | None
    bytes_per_token: int
    disk_bytes: int

    @property
    def hours(self) -> float | None:
        """Hours of prefill, without loading."""
        if self.tokens_per_s is None:
            return None
        return self.sizes.tokens / self.tokens_per_s / 3600

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain values."""
        return {
            **asdict(self.sizes),
            "device": self.plan.device,
            "tensor_parallel": self.plan.tensor_parallel,
            "max_model_len": self.plan.max_model_len,
            "step_tokens": self.plan.max_num_batched_tokens,
            "memory": {**asdict(self.plan.memory), "logits_gib": round(self.logits_gib, 3)},
            "tokens_per_s": self.tokens_per_s,
            "hours": self.hours,
            "bytes_per_token": self.bytes_per_token,
            "disk_bytes": self.disk_bytes,
        }

    def lines(self, model: str, top_k: int) -> list[str]:
        """Format the plan for people."""
        sizes, plan = self.sizes, self.plan
        speed = "not estimated: the speed of this device is not known"
        if self.tokens_per_s is not None:
            speed = f"{self.tokens_per_s:,.0f} tokens/s of prefill, {self.hours:,.2f} h"
        return [
            f"score    {sizes.rows:,} rows, {sizes.tokens:,} tokens, {sizes.scored_tokens:,} of "
            f"them scored; {sizes.done:,} rows done, {sizes.failed:,} failed",
            f"model    {model}, {plan.device}, {plan.max_num_batched_tokens:,} tokens a step, "
            f"longest row {sizes.longest:,}",
            f"memory   {plan.memory.weights_gib:.2f} GiB weights, {self.logits_gib:.2f} logits, "
            f"{plan.memory.kv_gib:.2f} KV cache",
            f"time     {speed}",
            f"disk     {self.disk_bytes / 2**20:,.1f} MiB at most: {self.bytes_per_token} bytes a "
            f"scored token (k = {top_k}), before compression",
        ]


def wanted(
    rows: Iterator[Row | Failure], done: Mapping[Key, str], *, longest: int, where: str
) -> Iterator[Row | Failure]:
    """Leave out done rows, and fail those too long.

    Raises `UsageError` where a done row has changed since.
    """
    known = dict(done)
    for row in rows:
        if isinstance(row, Failure):
            yield row
            continue
        digest = known.setdefault((row.id, row.sample), "")
        if not digest:
            known[row.id, row.sample] = row.digest  # a part that was copied has it again
            yield _bounded(row, longest)
        elif digest != row.digest:
            raise UsageError(
                f"{where}: row {row.id!r} (sample {row.sample}) has changed since it was scored "
                "(got another prompt or completion). Score into another folder."
            )


def _bounded(row: Row, longest: int) -> Row | Failure:
    length = len(row.prompt_ids) + len(row.token_ids)
    if length <= longest:
        return row
    said = f"the row is longer than the model's context (got {length}, need at most {longest})"
    return Failure(row.id, row.sample, "too_long", said, 1)


def longest_row(target: Target) -> int:
    """Give the tokens that a row may have.

    One is left for vLLM.
    """
    given = target.spec.model.engine_args.get("max_model_len")
    return int(given or target.model.context_len) - 1


def measure(target: Target, rows: Rows, done: Mapping[Key, str]) -> Sizes:
    """Read all rows once, and count what is to do."""
    found = failed = tokens = scored = longest = 0
    bound = longest_row(target)
    for row in wanted(rows.read(), done, longest=bound, where=target.uri):
        if isinstance(row, Failure):
            failed += 1
            continue
        length = len(row.prompt_ids) + len(row.token_ids)
        found, tokens, scored = found + 1, tokens + length, scored + len(row.token_ids)
        longest = max(longest, length)
    return Sizes(found, len(done), failed, tokens, scored, longest)


def plan_score(target: Target, sizes: Sizes, machine: Machine | None = None) -> ScorePlan:
    """Size the engine. Raises `JobError` when nothing fits."""
    machine = machine or this_machine(target.devices)
    arch = Architecture.of_config(target.model.config)
    device = "cuda" if machine.devices else "cpu"
    first = _plan(target, arch, sizes, machine, FEWEST_TOKENS)
    each = LOGIT_BYTES * arch.vocab
    left = _free_bytes(first, machine) / 2 / each
    step = max(FEWEST_TOKENS, min(STEP_TOKENS[device], int(left) // 256 * 256))
    plan = _plan(target, arch, sizes, machine, step)
    step = plan.max_num_batched_tokens
    per_s = None
    if plan.step_time is not None:
        traffic = LOGIT_TRAFFIC + (TOP_K_TRAFFIC if target.wish.top_k else 0)
        step_s = plan.step_time.seconds(sequences=1, context=0, prefilled=step)
        step_s += step * arch.vocab * traffic / plan.step_time.bandwidth
        per_s = round(step / step_s, 1)
    per_token = 8 + 6 * target.wish.top_k
    prompts = 4 * (sizes.tokens - sizes.scored_tokens)
    disk = per_token * sizes.scored_tokens + prompts + ROW_BYTES * sizes.rows
    return ScorePlan(sizes, plan, step * each / GIB, per_s, per_token, disk)


def _plan(target: Target, arch: Architecture, sizes: Sizes, machine: Machine, step: int) -> Plan:
    """Plan with steps of so many tokens.

    The KV cache holds two of them.
    """
    longest = sizes.longest + 1
    per_token = arch.kv_cache(kv_dtype_bytes=_kv_bytes(target.spec)).per_token(longest)
    width = target.spec.model.engine_args.get("tensor_parallel_size") or 1
    tokens = 2 * max(step, longest) + longest + 16 * SEQUENCES + 512
    given = {k: v for k, v in target.spec.model.engine_args.items() if v is not None}
    step = given.get("max_num_batched_tokens", step)
    args = {
        "max_num_batched_tokens": step,
        "max_num_seqs": min(SEQUENCES, step),
        "max_model_len": max(longest, 16),
        "kv_cache_memory_bytes": math.ceil(tokens * per_token / width),
        "enforce_eager": True,  # graphs are for decoding, and take longer to make than they save
    }
    model = target.spec.model.model_copy(update={"engine_args": args | given})
    spec = target.spec.model_copy(update={"model": model})
    mean = sizes.tokens / max(1, sizes.rows)
    prompts = PromptLengths(max(1, sizes.rows), max(1, sizes.rows), longest - 1, mean)
    return make_plan(spec, target.model, machine, prompts, CompletionLengths(1.0, 1.0, "none"))


def _kv_bytes(spec: JobSpec) -> int:
    return 4 if spec.model.engine_args.get("dtype") in ("float32", "float") else 2


def _free_bytes(plan: Plan, machine: Machine) -> float:
    """Give the bytes that weights, cache and activations leave."""
    memory = plan.memory
    used = memory.weights_gib + memory.activation_gib + memory.other_gib + memory.kv_gib
    if not machine.devices:
        return (0.8 * machine.ram_gib - used) * GIB
    return (min(device.free_gib for device in machine.devices) - used) * GIB
