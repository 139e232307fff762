"""A deterministic engine without a model, for tests and for measuring everything around the engine.

A request's tokens depend on its prompt and on nothing else: token k of a prompt is the same whether the prompt is fed
alone or with its first tokens after it. So a resumed generation continues as the uninterrupted one would, as a greedy
model's does. Lengths, speed and faults are scripted.
"""

from __future__ import annotations

import hashlib
import math
import os
import random
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from batchr1.engine.protocol import Delta, EngineInfo, EngineLoad, Request
from batchr1.errors import EngineError, RequestError

_FOREVER_S = 3600.0

OOM_TEXTS = {  # as vLLM and torch say it, on a GPU of 80 GiB of which another process holds some
    "busy": (
        "ValueError: Free memory on device cuda:0 (56.6/80.0 GiB) on startup is less than desired GPU memory "
        "utilization (0.9, 72.0 GiB). Decrease GPU memory utilization or reduce GPU memory used by other processes."
    ),
    "kv_too_small": (
        "ValueError: To serve at least one request with the model's max seq len (4096), (2.0 GiB KV cache is needed, "
        "which is larger than the available KV cache memory (1.5 GiB). Based on the available memory, the estimated "
        "maximum model length is 3072. Try increasing `gpu_memory_utilization` (which also controls CPU memory on the "
        "CPU backend) or decreasing `max_model_len` when initializing the engine."
    ),
    "oom_load": (
        "Failed to load model - not enough GPU memory. Try lowering --gpu-memory-utilization to free memory for "
        "weights, increasing --tensor-parallel-size, or using --quantization. (original error: CUDA out of memory. "
        "Tried to allocate 1.00 GiB. GPU 0 has a total capacity of 80.00 GiB of which 512.00 MiB is free. Including "
        "non-PyTorch memory, this process has 79.00 GiB memory in use.)"
    ),
    "oom": (
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 80.00 "
        "GiB of which 512.00 MiB is free. Including non-PyTorch memory, this process has 79.00 GiB memory in use. Of "
        "the allocated memory 70.00 GiB is allocated by PyTorch, and 43.69 MiB is reserved by PyTorch but unallocated."
    ),
    "bad_alloc": "terminate called after throwing an instance of 'std::bad_alloc'",
}


@dataclass(frozen=True, slots=True)
class Script:
    """How the engine behaves. Lengths in tokens, log-normal by the prompt's hash; times in seconds.

    `marker` is the last token of every prompt (what follows it was generated before). `refuse_every`: one prompt in so
    many is refused. `poison_every`: one prompt in so many kills the process once `poison_at` of its tokens are there.
    `die_at_step`, `error_at_step`, `hang_at_step`: the process is killed, the engine raises, the
    engine sleeps. `once`: a file that marks a fault as done, so that the restarted worker goes on.

    `fits`: engine arguments and the most that the memory allows of each (`enforce_eager: True`: only without graphs).
    Where the engine's are above, it runs out of memory, at its start or at step `oom_at_step`, with the text named by
    `oom`: raised, or only printed as a subprocess of vLLM would, or printed by a process that aborts.
    """

    open_id: int
    close_id: int
    end_id: int
    first_text_id: int
    num_text_ids: int
    marker: int
    mean_len: float = 60.0
    sigma: float = 0.8
    answer_len: int = 5
    max_model_len: int = 4096
    max_num_seqs: int = 64
    kv_cache_tokens: int = 1_000_000
    tokens_per_step: int = 1
    step_s: float = 0.0
    start_s: float = 0.0
    refuse_every: int = 0
    poison_every: int = 0
    poison_at: int = 0
    die_at_step: int | None = None
    error_at_step: int | None = None
    hang_at_step: int | None = None
    once: str | None = None
    fits: Mapping[str, Any] | None = None
    oom: str = "oom"
    oom_at_step: int | None = None
    oom_as: Literal["raised", "printed", "abort"] = "raised"


@dataclass(slots=True)
class _Running:
    plan: list[int]
    position: int
    left: int
    is_poison: bool = False


class ReplayEngine:
    """Implements `Engine` by playing a `Script`."""

    def __init__(self, script: Script, args: Mapping[str, Any]) -> None:
        self._script = script
        self._args = args
        self._waiting: list[tuple[str, _Running]] = []
        self._running: dict[str, _Running] = {}
        self._steps = 0
        time.sleep(script.start_s)
        if script.oom_at_step is None:
            self._run_out_of_memory()
        self.info = EngineInfo("replay", script.max_model_len, script.max_num_seqs, script.kv_cache_tokens)

    @classmethod
    def from_args(cls, args: dict[str, Any]) -> ReplayEngine:
        known = {f.name for f in fields(Script)}
        return cls(Script(**{k: v for k, v in args.items() if k in known}), args)

    def submit(self, request: Request) -> None:
        if len(request.token_ids) >= self._script.max_model_len:
            raise RequestError(f"prompt of {len(request.token_ids)} tokens, context {self._script.max_model_len}")
        prompt, generated = self._cut(request.token_ids)
        key = hashlib.blake2b(repr(prompt).encode(), digest_size=8).digest()
        if self._script.refuse_every and int.from_bytes(key, "little") % self._script.refuse_every == 0:
            raise RequestError("refused by script")
        poison = bool(self._script.poison_every) and int.from_bytes(key, "little") % self._script.poison_every == 0
        self._waiting.append((request.id, _Running(self._plan(key), generated, request.max_tokens, poison)))

    def step(self) -> list[Delta]:
        self._steps += 1
        self._faults()
        if self._script.step_s:
            time.sleep(self._script.step_s)
        while self._waiting and len(self._running) < self._script.max_num_seqs:
            id, run = self._waiting.pop(0)
            self._running[id] = run
        deltas = []
        for id, run in list(self._running.items()):
            take = min(self._script.tokens_per_step, run.left, len(run.plan) - run.position)
            tokens = run.plan[run.position : run.position + take]
            run.position += take
            run.left -= take
            if run.is_poison and run.position >= self._script.poison_at:
                os.kill(os.getpid(), signal.SIGKILL)
            reason = None
            if run.position >= len(run.plan):
                reason = "stop"
            elif run.left == 0:
                reason = "length"
            if reason:
                del self._running[id]
            deltas.append(Delta(id, tokens, reason))  # type: ignore[arg-type]
        return deltas

    def abort(self, ids: Sequence[str]) -> None:
        for id in ids:
            self._running.pop(id, None)
        self._waiting = [(id, run) for id, run in self._waiting if id not in set(ids)]

    def load(self) -> EngineLoad:
        return EngineLoad(running=len(self._running), waiting=len(self._waiting))

    def close(self) -> None:
        self._running.clear()

    def _cut(self, token_ids: Sequence[int]) -> tuple[list[int], int]:
        """Split what was fed into the prompt and the number of tokens that were generated before."""
        ids = list(token_ids)
        last = len(ids) - 1 - ids[::-1].index(self._script.marker)
        return ids[: last + 1], len(ids) - last - 1

    def _plan(self, key: bytes) -> list[int]:
        """All tokens of a prompt's completion: reasoning, close, answer, end."""
        script, rng = self._script, random.Random(key)
        mu = math.log(script.mean_len) - script.sigma**2 / 2
        length = max(1, round(rng.lognormvariate(mu, script.sigma)))

        def words(count: int) -> list[int]:
            low = script.first_text_id
            return [i for i in rng.choices(range(low, low + script.num_text_ids), k=count) if i != script.marker]

        return [*words(length), script.close_id, *words(script.answer_len), script.end_id]

    def _faults(self) -> None:
        script = self._script
        if self._steps == script.oom_at_step:
            self._run_out_of_memory()
        due = self._steps in (script.die_at_step, script.error_at_step, script.hang_at_step)
        if not due:
            return
        if script.once:
            try:
                os.close(os.open(script.once, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                return
        if self._steps == script.die_at_step:
            os.kill(os.getpid(), signal.SIGKILL)
        if self._steps == script.error_at_step:
            raise EngineError("replay: the engine died, as scripted")
        time.sleep(_FOREVER_S)

    def _run_out_of_memory(self) -> None:
        """Fail as vLLM would, unless the engine's arguments fit."""
        script = self._script
        if all(_fits(self._args.get(name), most) for name, most in (script.fits or {}).items()):
            return
        text = OOM_TEXTS[script.oom]
        if script.oom_as == "raised":
            raise EngineError("replay: the engine is gone") from RuntimeError(text)
        print(f"(EngineCore pid=4242) ERROR 11-25 03:12:00 [core.py:1104] {text}", file=sys.stderr, flush=True)
        if script.oom_as == "abort":
            os.abort()
        raise EngineError("replay: the engine is gone (RuntimeError: Engine core initialization failed.)")


def _fits(value: Any, most: Any) -> bool:
    if most is True:
        return bool(value)
    return value is not None and value <= most
