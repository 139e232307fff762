"""Out-of-memory errors, and the engine argument to lower next.

Told from the engine's own words. log text ─ problem_in ─▶ MemoryProblem ─ next_rung ─▶ Rung
(changes of arguments), or None

The rungs, in this order: fewer batched tokens → fewer sequences → no CUDA graphs → a smaller share
of the memory. Where another process holds the memory, the last one comes at once. A rung never
raises a quantity, never shortens what a user may generate (`max_model_len`, `max_tokens`), and
never touches what the user set.

Texts are those of vLLM 0.26 and 0.32 (v1/worker/utils.py, gpu_worker.py, cpu_worker.py,
v1/core/kv_cache_utils.py), of torch's allocators (c10/cuda/CUDACachingAllocator.cpp,
c10/core/impl/alloc_cpu.cpp) and of CUDA's libraries.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from batchr1.sizing.graphs import grid_floor

Cause = Literal["busy", "kv_too_small", "oom_load", "oom_start", "oom_running", "unsteady"]

GIB = 2**30
MIN_BATCHED_TOKENS = 2048
MIN_NUM_SEQS = 8
MIN_UTILIZATION = 0.3
MIN_UTILIZATION_BUSY = 0.05  # beside another process a small share is meant
MIN_KV_BYTES = GIB // 4
LEFT_FREE_GIB = 0.5  # beside another process: its memory moves, and torch and CUDA round up

_UNITS = {"bytes": 1 / GIB, "B": 1 / GIB, "KiB": 2**-20, "MiB": 2**-10, "GiB": 1.0, "TiB": 1024.0}
_SIZE = r"([\d.]+) (bytes|KiB|MiB|GiB|TiB)"
_BUSY = re.compile(
    r"(?:Free|Available) memory on (?:device|node).*?\(([\d.]+)/([\d.]+) GiB\) on startup is less "
    r"than desired "
    r"[GC]PU memory utilization \([\d.]+, ([\d.]+) GiB\)"
)
_BUSY_CPU = re.compile(
    r"Available memory on node .*?\(([\d.]+)/([\d.]+) GiB\) on kv cache allocation is less than "
    r"requested memory for "
    r"kv \(([\d.]+)"
)
_KV = re.compile(
    r"To serve at least one request with the model's max seq len \((\d+)\), \(?([\d.]+) GiB KV "
    r"cache is needed, which "
    r"is larger than the available KV cache memory \(([\d.]+) GiB\)"
)
_KV_LEN = re.compile(r"estimated maximum model length is (\d+)")
_UNSTEADY = re.compile(
    r"Error in memory profiling\. Initial free memory ([\d.]+) GiB, current free memory ([\d.]+)"
)
_OOM = re.compile(
    r"CUDA out of memory|torch\.(?:cuda\.)?OutOfMemoryError|c10::OutOfMemoryError|CUDA (?:driver "
    r")?error: out of memory"
    r"|CUBLAS_STATUS_ALLOC_FAILED|CUDNN_STATUS_ALLOC_FAILED|CUDA_ERROR_OUT_OF_MEMORY|Cuda "
    r"failure.*'out of memory'"
    r"|Triton Error \[CUDA\]: out of memory|std::bad_alloc|DefaultCPUAllocator: (?:can't "
    r"allocate|not enough) memory"
    r"|\bMemoryError\b|\[Errno 12\] Cannot allocate memory"
)
_TRIED = re.compile(rf"[Tt]ried to allocate {_SIZE}")
_CAPACITY = re.compile(rf"total capacity of {_SIZE} of which {_SIZE} is free")
_OWN = re.compile(rf"this process has {_SIZE} memory in use")
_OTHER = re.compile(rf"Process (\d+) has {_SIZE} memory in use")
_LOADING = re.compile(r"\bin load_model\b|Failed to load model - not enough GPU memory")


@dataclass(frozen=True, slots=True)
class MemoryProblem:
    """A fault of the memory.

    `message` is a clause for people; sizes are of one GPU, None where not said.

    `available_gib`: what this engine could have had: free before it began (busy), for the KV cache
    (kv_too_small), or free plus its own at the failure (oom). `max_model_len`: the longest sequence
    that would fit, as vLLM reckons. `others`: (process id, GiB) of other processes that torch saw
    on the GPU.
    """

    cause: Cause
    message: str
    needed_gib: float | None = None
    available_gib: float | None = None
    max_model_len: int | None = None
    total_gib: float | None = None
    others: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Rung:
    """One step down: engine arguments to change.

    No changes: try the same once more.
    """

    name: str
    changes: dict[str, Any]
    reason: str


def problem_in(lines: Iterable[str], *, running: bool = False) -> MemoryProblem | None:
    """Find the first memory problem in a log or traceback.

    None when it tells of none. `running`: the engine had started before, and these lines came
    after.
    """
    text = list(lines)
    for line in text:
        if not running and (found := _at_start(line, text)):
            return found
        if _OOM.search(line):
            cause: Cause = "oom_start"
            if running:
                cause = "oom_running"
            elif any(_LOADING.search(other) for other in text):
                cause = "oom_load"
            return _out_of_memory(cause, line)
    return None


def _at_start(line: str, text: list[str]) -> MemoryProblem | None:
    if match := _BUSY.search(line) or _BUSY_CPU.search(line):
        free, total, wanted = (float(group) for group in match.groups())
        message = (
            f"other processes hold memory that the engine counted on "
            f"({free:.2f} of {total:.2f} GiB are free, {wanted:.2f} GiB wanted)"
        )
        return MemoryProblem("busy", message, wanted, free, total_gib=total)
    if match := _KV.search(line):
        longest, needed, available = int(match[1]), float(match[2]), float(match[3])
        fitting = next((int(found[1]) for other in text if (found := _KV_LEN.search(other))), None)
        message = (
            f"the KV cache is too small for one sequence of {longest:,} tokens "
            f"({available:.2f} GiB left for it, {needed:.2f} GiB needed)"
        )
        return MemoryProblem("kv_too_small", message, needed, available, fitting)
    if "No available memory for the cache blocks" in line:
        return MemoryProblem(
            "kv_too_small", "no memory is left for the KV cache", available_gib=0.0
        )
    if match := _UNSTEADY.search(line):
        before, after = float(match[1]), float(match[2])
        message = (
            f"another process freed memory of the GPU while the engine measured it "
            f"({before:.2f} GiB free before, {after:.2f} GiB after)"
        )
        return MemoryProblem("unsteady", message, available_gib=after)
    return None


def _out_of_memory(cause: Cause, line: str) -> MemoryProblem:
    tried = _gib(_TRIED.search(line))
    total = free = available = None
    others: tuple[tuple[int, float], ...] = ()
    if match := _CAPACITY.search(line):
        total, free = float(match[1]) * _UNITS[match[2]], float(match[3]) * _UNITS[match[4]]
    own = _gib(_OWN.search(line))
    # In a container the driver's process ids are the host's, and torch then lists this very process
    # as another one. Only where it found itself are the others others. Drivers that know no sizes
    # give nonsense (2**64 bytes).
    if own is not None and total is not None and free is not None and own <= total:
        available = free + own
        seen = [(int(pid), float(size) * _UNITS[unit]) for pid, size, unit in _OTHER.findall(line)]
        others = tuple((pid, gib) for pid, gib in seen if gib <= total)
    when = {"oom_load": "while the weights were loaded", "oom_start": "while the engine started"}
    message = f"memory ran out {when.get(cause, 'while it generated')}"
    if tried is not None:
        message += f" (tried to allocate {tried:.2f} GiB"
        message += ")" if free is None else f", {free:.2f} of {total:.2f} GiB were free)"
    return MemoryProblem(cause, message, tried, available, total_gib=total, others=others)


def _gib(match: re.Match[str] | None) -> float | None:
    return float(match[1]) * _UNITS[match[2]] if match else None


def next_rung(
    engine_args: Mapping[str, Any],
    problem: MemoryProblem,
    *,
    fixed: Collection[str],
    total_gib: float | None = None,
    taken: Collection[str] = (),
) -> Rung | None:
    """Choose the next step down; None at the end.

    `fixed`: arguments that the user set. `total_gib`: the GPU's memory, where the problem does not
    say it. `taken`: names of rungs taken before by this worker; only "again" looks at it, because
    it changes nothing.
    """
    total = problem.total_gib or total_gib
    changes: dict[str, Any] | None = None
    if problem.cause == "unsteady":
        return _again(problem, taken)
    if problem.cause == "kv_too_small" and engine_args.get("kv_cache_memory_bytes") is not None:
        return None  # its size was given: nothing that another part leaves over would go to it
    if problem.cause == "busy" or _squeezed(engine_args, problem, total):
        if _holds(engine_args, problem, total):
            return _again(problem, taken)
        changes = _fit_beside(engine_args, problem, total, fixed)
    elif problem.cause != "oom_load":  # weights need what they need: no batch makes them smaller
        changes = (
            _fewer_tokens(engine_args, fixed)
            or _fewer_seqs(engine_args, fixed)
            or _no_graphs(engine_args, fixed)
        )
        if (
            changes is None and problem.cause != "kv_too_small"
        ):  # a smaller share would only shrink the KV cache
            changes = _smaller_share(engine_args, fixed)
    return Rung(next(iter(changes)), changes, problem.message) if changes else None


def blocking(
    engine_args: Mapping[str, Any],
    problem: MemoryProblem,
    *,
    fixed: Collection[str],
    total_gib: float | None = None,
) -> tuple[str, ...]:
    """List arguments of the user that a rung would lower."""
    names = []
    for name in sorted(fixed):
        rung = next_rung(engine_args, problem, fixed=set(fixed) - {name}, total_gib=total_gib)
        if rung is not None and name in rung.changes:
            names.append(name)
    return tuple(names)


def _again(problem: MemoryProblem, taken: Collection[str]) -> Rung | None:
    return None if "again" in taken else Rung("again", {}, problem.message)


def _squeezed(args: Mapping[str, Any], problem: MemoryProblem, total: float | None) -> bool:
    """Tell whether the engine lacked what its share promises.

    An allocation then failed.
    """
    share = args.get("gpu_memory_utilization")
    if (
        problem.cause in ("kv_too_small", "busy")
        or problem.available_gib is None
        or total is None
        or share is None
    ):
        return False
    return problem.available_gib < float(share) * total


def _holds(args: Mapping[str, Any], problem: MemoryProblem, total: float | None) -> bool:
    """Tell whether what is free suffices by now.

    The memory of a process that had just died may be back, for instance.
    """
    share = args.get("gpu_memory_utilization")
    if problem.available_gib is None or total is None or share is None:
        return False
    return float(share) * total <= problem.available_gib


def _fit_beside(
    args: Mapping[str, Any], problem: MemoryProblem, total: float | None, fixed: Collection[str]
) -> dict[str, Any] | None:
    """The share that is free beside other processes, directly."""
    share = args.get("gpu_memory_utilization")
    if share is None:
        return _smaller_kv(args, fixed, problem.available_gib)
    if "gpu_memory_utilization" in fixed:
        return None
    lower = 0.9 * float(share)
    if problem.available_gib is not None and total is not None:
        lower = min((problem.available_gib - LEFT_FREE_GIB) / total, float(share) - 0.01)
    lower = _down_to_cents(lower)
    return (
        {"gpu_memory_utilization": lower} if MIN_UTILIZATION_BUSY <= lower < float(share) else None
    )


def _fewer_tokens(args: Mapping[str, Any], fixed: Collection[str]) -> dict[str, Any] | None:
    tokens = args.get("max_num_batched_tokens")
    if tokens is None or "max_num_batched_tokens" in fixed:
        return None
    floor = max(MIN_BATCHED_TOKENS, args.get("max_num_seqs") or 0)
    if (
        args.get("enable_chunked_prefill") is False
    ):  # then vLLM wants every prompt to fit into one step
        if not isinstance(args.get("max_model_len"), int):
            return None
        floor = max(floor, args["max_model_len"])
    lower = max(floor, tokens // 2)
    return {"max_num_batched_tokens": lower} if lower < tokens else None


def _fewer_seqs(args: Mapping[str, Any], fixed: Collection[str]) -> dict[str, Any] | None:
    seqs = args.get("max_num_seqs")
    if seqs is None or "max_num_seqs" in fixed:
        return None
    lower = max(MIN_NUM_SEQS, grid_floor(seqs // 2))  # on the grid of CUDA graphs
    return {"max_num_seqs": lower} if lower < seqs else None


def _no_graphs(args: Mapping[str, Any], fixed: Collection[str]) -> dict[str, Any] | None:
    if args.get("enforce_eager") or "enforce_eager" in fixed or "compilation_config" in fixed:
        return None
    return {"enforce_eager": True}


def _smaller_share(args: Mapping[str, Any], fixed: Collection[str]) -> dict[str, Any] | None:
    if args.get("kv_cache_memory_bytes") is not None:  # vLLM then looks at no share
        return _smaller_kv(args, fixed, None)
    share = args.get("gpu_memory_utilization")
    if share is None or "gpu_memory_utilization" in fixed:
        return None
    lower = _down_to_cents(max(MIN_UTILIZATION, 0.9 * float(share)))
    return {"gpu_memory_utilization": lower} if lower < float(share) else None


def _smaller_kv(
    args: Mapping[str, Any], fixed: Collection[str], free_gib: float | None
) -> dict[str, Any] | None:
    """Shrink a KV cache that is given in bytes.

    As on a CPU: to what is free, or to half as much.
    """
    size = args.get("kv_cache_memory_bytes")
    if size is None or "kv_cache_memory_bytes" in fixed:
        return None
    lower = size // 2 if free_gib is None else min(size // 2, int((free_gib - LEFT_FREE_GIB) * GIB))
    return {"kv_cache_memory_bytes": lower} if lower >= MIN_KV_BYTES else None


def _down_to_cents(share: float) -> float:
    return math.floor(share * 100 + 1e-6) / 100
