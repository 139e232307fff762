"""Deterministic engine without a model.

It is for dry runs, for tests, and for measuring what is around an engine. A request's tokens depend
on its prompt and on nothing else: token k of a prompt is the same whether the prompt is fed alone
or with its first tokens after it. So a resumed generation continues as the uninterrupted one would,
as a greedy model's does. With `groups` there are several completions of a prompt; the seed chooses
one of them, and its first token says which it is, so that the same holds. Lengths, speed, memory
and faults are scripted.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import signal
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from batchr1.engine.protocol import Delta, EngineInfo, EngineLoad, Request
from batchr1.engine.replay.gpu import KvCache
from batchr1.engine.replay.vocabulary import Vocabulary
from batchr1.errors import EngineError, RequestError
from batchr1.job.replay_script import ReplayScript
from batchr1.sizing.timing.step_time import StepTime

_FOREVER_S = 3600.0
# Where neither script nor plan says it.
DEFAULTS = {"max_model_len": 4096, "max_num_seqs": 64, "max_num_batched_tokens": 16_384}

OOM_TEXTS = {  # as vLLM and torch say it, on a GPU of 80 GiB of which another process holds some
    "busy": (
        "ValueError: Free memory on device cuda:0 (56.6/80.0 GiB) on startup is less than desired "
        "GPU memory "
        "utilization (0.9, 72.0 GiB). Decrease GPU memory utilization or reduce GPU memory used "
        "by other processes."
    ),
    "kv_too_small": (
        "ValueError: To serve at least one request with the model's max seq len (4096), (2.0 GiB "
        "KV cache is needed, "
        "which is larger than the available KV cache memory (1.5 GiB). Based on the available "
        "memory, the estimated "
        "maximum model length is 3072. Try increasing `gpu_memory_utilization` (which also "
        "controls CPU memory on the "
        "CPU backend) or decreasing `max_model_len` when initializing the engine."
    ),
    "oom_load": (
        "Failed to load model - not enough GPU memory. Try lowering --gpu-memory-utilization to "
        "free memory for "
        "weights, increasing --tensor-parallel-size, or using --quantization. (original error: "
        "CUDA out of memory. "
        "Tried to allocate 1.00 GiB. GPU 0 has a total capacity of 80.00 GiB of which 512.00 MiB "
        "is free. Including "
        "non-PyTorch memory, this process has 79.00 GiB memory in use.)"
    ),
    "oom": (
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a "
        "total capacity of 80.00 "
        "GiB of which 512.00 MiB is free. Including non-PyTorch memory, this process has 79.00 "
        "GiB memory in use. Of "
        "the allocated memory 70.00 GiB is allocated by PyTorch, and 43.69 MiB is reserved by "
        "PyTorch but unallocated."
    ),
    "bad_alloc": "terminate called after throwing an instance of 'std::bad_alloc'",
}


@dataclass(slots=True)
class _Running:
    plan: list[int]
    position: int
    left: int
    prompt: bytes
    prompt_len: int
    is_poison: bool = False


class ReplayEngine:
    """Implements `Engine` by playing a script.

    `args` are its engine arguments: what the script leaves open, and what may be out of memory.
    What follows the vocabulary's marker in a prompt was generated before. Where the KV cache runs
    full, the newest sequence is preempted as vLLM's scheduler does it: it waits, first in line, and
    is prefilled again. With `step_time`, `clock_s` counts the seconds of steps.
    """

    def __init__(self, script: ReplayScript, words: Vocabulary, args: Mapping[str, Any]) -> None:
        planned = {
            name: args[name]
            for name in DEFAULTS
            if getattr(script, name) is None and args.get(name) is not None
        }
        filled = {name: value for name, value in DEFAULTS.items() if getattr(script, name) is None}
        self._script = script.model_copy(update=filled | planned)
        letters = min(script.letters or words.num_text_ids, words.num_text_ids)
        self._words = replace(words, num_text_ids=letters)
        self._args = args
        self._max_model_len: int = self._script.max_model_len or 0
        self._max_num_seqs: int = self._script.max_num_seqs or 0
        self._max_num_batched: int = self._script.max_num_batched_tokens or 0
        self._waiting: deque[tuple[str, _Running]] = deque()
        self._running: dict[str, _Running] = {}  # oldest first
        self._steps = 0
        self._cache = KvCache(script.kv_cache_tokens)
        self._preempted = 0
        self._step_time = StepTime(**script.step_time) if script.step_time else None
        self.clock_s = 0.0
        self._due = 0.0  # when the last step was over, of an engine that runs apart
        time.sleep(script.start_s)
        if script.oom_at_step is None:
            self._run_out_of_memory()
        self.info = EngineInfo(
            "replay", self._max_model_len, self._max_num_seqs, script.kv_cache_tokens
        )

    @classmethod
    def from_args(cls, args: Mapping[str, Any]) -> Self:
        """Make one of a flat mapping: vocabulary, script and engine arguments."""
        words = {name: args[name] for name in Vocabulary.__slots__ if name in args}
        words.setdefault("close_ids", (args["close_id"],))
        script = {name: args[name] for name in ReplayScript.model_fields if name in args}
        return cls(ReplayScript.model_validate(script), Vocabulary(**words), args)

    def submit(self, request: Request) -> None:
        if len(request.token_ids) >= self._max_model_len:
            raise RequestError(
                f"prompt of {len(request.token_ids)} tokens, context {self._max_model_len}"
            )
        prompt, generated = self._cut(request.token_ids)
        key = hashlib.blake2b(repr(prompt).encode(), digest_size=8).digest()
        self._note(key=key.hex(), prompt=prompt, generated=generated)
        if (
            self._script.refuse_every
            and int.from_bytes(key, "little") % self._script.refuse_every == 0
        ):
            raise RequestError("refused by script")
        poison = (
            bool(self._script.poison_every)
            and int.from_bytes(key, "little") % self._script.poison_every == 0
        )
        variant = self._variant(request, generated) if self._script.groups else None
        plan = self._plan(key, variant)
        if self._script.poison_up_to is not None:
            poison = poison and len(plan) <= self._script.poison_up_to
        self._waiting.append(
            (
                request.id,
                _Running(plan, generated, request.max_tokens, key, len(prompt), is_poison=poison),
            )
        )

    def step(self) -> list[Delta]:
        self._steps += 1
        self._faults()
        prefilled = 0 if self._make_room() else self._admit()
        self._pass_time(prefilled)
        deltas = []
        for id, run in list(self._running.items()):
            take = min(self._script.tokens_per_step, run.left, len(run.plan) - run.position)
            tokens = run.plan[run.position : run.position + take]
            self._note(key=run.prompt.hex(), first=run.position, last=run.position + take - 1)
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
                self._cache.release(id)
            deltas.append(Delta(id, tokens, reason))  # type: ignore[arg-type]
        return deltas

    def abort(self, ids: Sequence[str]) -> None:
        for id in ids:
            self._running.pop(id, None)
            self._cache.release(id)
        self._waiting = deque((id, run) for id, run in self._waiting if id not in set(ids))

    def load(self) -> EngineLoad:
        cache = self._cache
        usage = 1.0 - cache.free / cache.num_blocks if cache.num_blocks else 0.0
        return EngineLoad(
            len(self._running),
            len(self._waiting),
            usage,
            self._preempted,
            cache.queries,
            cache.hits,
        )

    def close(self) -> None:
        self._running.clear()

    def _note(self, **values: Any) -> None:
        if self._script.journal is not None:
            with Path(self._script.journal).open("a", encoding="utf-8") as file:
                file.write(json.dumps(values) + "\n")

    def _make_room(self) -> bool:
        """Make room for each running sequence's next tokens, oldest first.

        Returns whether some had to be preempted for it.
        """
        preempted = False
        for id, run in list(self._running.items()):
            while id in self._running and not self._cache.grow(id, self._after_step(run)):
                if len(self._running) == 1:
                    raise EngineError("replay: the KV cache does not hold one sequence")
                newest, victim = self._running.popitem()
                self._cache.release(newest)
                self._waiting.appendleft((newest, victim))
                self._preempted += 1
                preempted = True
        return preempted

    def _admit(self) -> int:
        """Start waiting requests, as far as slots, memory and tokens go.

        Returns the tokens that were prefilled.
        """
        prefilled = 0
        while self._waiting and len(self._running) < self._max_num_seqs:
            id, run = self._waiting[0]
            tokens = run.prompt_len + run.position
            if prefilled and prefilled + tokens > self._max_num_batched:
                break
            if not self._cache.grow(id, self._after_step(run)):
                break
            self._waiting.popleft()
            self._running[id] = run
            prefilled += self._cache.prefill(id, run.prompt, run.prompt_len, tokens)
        return prefilled

    def _after_step(self, run: _Running) -> int:
        """Tokens that a sequence holds after the next step."""
        return run.prompt_len + min(run.position + self._script.tokens_per_step, len(run.plan))

    def _pass_time(self, prefilled: int) -> None:
        seconds = self._script.step_s
        if self._step_time is not None and self._running:
            context = sum(run.prompt_len + run.position for run in self._running.values())
            step_s = self._step_time.seconds(
                sequences=len(self._running),
                context=context,
                prefilled=prefilled,
                steps=self._script.tokens_per_step,
            )
            self.clock_s += step_s
            seconds += step_s * self._script.time_scale
        if self._script.runs_apart:
            now = time.monotonic()
            self._due = max(self._due, now - seconds) + seconds
            seconds = max(0.0, self._due - now)
        if seconds:
            time.sleep(seconds)

    def _variant(self, request: Request, generated: int) -> int:
        """Choose which completion of its prompt a request continues.

        Its first token says it if there is one, else its seed.
        """
        if generated:
            return self._first_tokens().index(request.token_ids[len(request.token_ids) - generated])
        return (request.seed or 0) % len(self._first_tokens())

    def _first_tokens(self) -> list[int]:
        low = self._words.first_text_id
        return [i for i in range(low, low + self._words.num_text_ids) if i != self._words.marker]

    def _cut(self, token_ids: Sequence[int]) -> tuple[list[int], int]:
        """Split fed tokens into the prompt and the count generated before."""
        ids = list(token_ids)
        last = len(ids) - 1 - ids[::-1].index(self._words.marker) + self._words.after_marker
        return ids[: last + 1], len(ids) - last - 1

    def _plan(self, key: bytes, variant: int | None) -> list[int]:
        """All tokens of a prompt's completion: reasoning, close, answer, end."""
        script, words, rng = self._script, self._words, random.Random(key)
        if variant is not None:
            group = script.groups[int.from_bytes(key, "little") % len(script.groups)]
            text = self._first_tokens()
            reasoning = max(1, group[variant % len(group)] - script.answer_len - 2)
            chosen = rng.choices(text, k=reasoning - 1 + script.answer_len)
            return [
                text[variant],
                *chosen[: reasoning - 1],
                *words.close_ids,
                *chosen[reasoning - 1 :],
                words.end_id,
            ]
        mu = math.log(script.mean_len) - script.sigma**2 / 2
        length = max(1, round(rng.lognormvariate(mu, script.sigma)))

        def some(count: int) -> list[int]:
            low = words.first_text_id
            return [
                i
                for i in rng.choices(range(low, low + words.num_text_ids), k=count)
                if i != words.marker
            ]

        return [*some(length), *words.close_ids, *some(script.answer_len), words.end_id]

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
        print(
            f"(EngineCore pid=4242) ERROR 11-25 03:12:00 [core.py:1104] {text}",
            file=sys.stderr,
            flush=True,
        )
        if script.oom_as == "abort":
            os.abort()
        raise EngineError(
            "replay: the engine is gone (RuntimeError: Engine core initialization failed.)"
        )


def _fits(value: Any, most: Any) -> bool:
    if most is True:
        return bool(value)
    return value is not None and value <= most
