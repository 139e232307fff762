"""vLLM behind the `Engine` protocol.

No other module imports vllm. Tested with 0.26 (CUDA) and 0.32 (CPU).
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import wait
from typing import Any

from batchr1.engine.lifeline import WORKER_PID, follow_when_forked
from batchr1.engine.protocol import Delta, EngineInfo, EngineLoad, MeasuredMemory, Request
from batchr1.engine.vllm.imports import reason_of, start_error
from batchr1.engine.vllm.memory_probe import PROBE_CLASS, PROBE_METHOD, measured
from batchr1.errors import EngineError, JobError, RequestError
from batchr1.job.spec import SamplingSpec

log = logging.getLogger("batchr1.engine")

IDLE_SLEEP_S = 0.005
# Free white space would let a small model go on with blanks for ever.
FORM_CONFIG = {"backend": "xgrammar", "disable_any_whitespace": True}
WARM_UP_SEQS = 16
WARM_UP_TOKENS = 24  # sequences end one after another, as in a run


def prepare_environment(device: str, *, log_level: str = "WARNING", forks: bool = True) -> None:
    """Set what vLLM reads from the environment. Call before anything imports vllm.

    Its log goes to stderr: results are printed on stdout. `forks`: its processes are forked, as
    it does by itself. Others import all of it once more, which takes 15 seconds on a GPU machine.
    """
    env = os.environ
    env[WORKER_PID] = str(os.getpid())
    env.setdefault("VLLM_LOGGING_LEVEL", log_level)
    env.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")
    env.setdefault("VLLM_NO_USAGE_STATS", "1")
    env.setdefault("VLLM_DO_NOT_TRACK", "1")
    if device == "cpu":
        # In-process is twice as quick here, and one process less to lose.
        env.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        env.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        # OpenMP threads that wait for each other burn a core at it. Where something else wants that
        # core, the one that is waited for gets none: 28 instead of 451 tokens/s beside a busy
        # neighbour. So they spin briefly, then sleep.
        env.setdefault("GOMP_SPINCOUNT", "10000")
        env.pop("VLLM_CPU_KVCACHE_SPACE", None)  # would override kv_cache_memory_bytes
    env.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "fork" if forks else "spawn")
    if env["VLLM_WORKER_MULTIPROC_METHOD"] == "fork":
        follow_when_forked()


class VllmEngine:
    """`vllm.LLMEngine`, with token ids in and out.

    No text passes through its loop.
    """

    def __init__(
        self,
        model: str,
        *,
        revision: str | None,
        trust_remote_code: bool,
        args: dict[str, Any],
        sampling: SamplingSpec,
        end_ids: Sequence[int] = (),
        adapter: str | None = None,
        seeds_by_row: bool = False,
    ) -> None:
        """Load the engine.

        `end_ids`: tokens that end a generation beside the tokenizer's own. `adapter`: a folder.
        `seeds_by_row`: rows may have a seed of their own.
        """
        from vllm import EngineArgs
        from vllm import __version__ as version
        from vllm.v1.engine.llm_engine import LLMEngine

        self._drawing, self._form = sampling.drawing, _form_of(sampling)
        if end_ids and not sampling.ignore_eos:
            self._drawing |= {"stop_token_ids": list(end_ids)}
        self._adapter = adapter
        self._stats = _Stats()
        if sampling.binds_answers:
            args = {"structured_outputs_config": dict(FORM_CONFIG)} | args
        args = base_arguments(model, revision, trust_remote_code) | args
        try:
            self._engine = LLMEngine.from_engine_args(
                EngineArgs(**args), stat_loggers=[self._stats.logger]
            )
            _drop_other_loggers(self._engine)
        except (
            Exception
        ) as exc:  # whatever vLLM raises at start means one thing here: there is no engine
            raise start_error(f"vLLM {version}", exc) from exc
        config = self._engine.vllm_config
        cache = config.cache_config
        tokens = (
            getattr(cache, "kv_cache_size_tokens", None)
            or (cache.num_gpu_blocks or 0) * cache.block_size
        )
        self.info = EngineInfo(
            engine=f"vllm {version}",
            max_model_len=int(config.model_config.max_model_len),
            max_num_seqs=int(config.scheduler_config.max_num_seqs),
            kv_cache_tokens=int(tokens),
            memory=self._measure() if args["worker_extension_cls"] == PROBE_CLASS else None,
        )

        self._count_preemptions_alone()
        self._closing = False
        self._try_form()
        self._watch_core()
        for seed in _kinds_of_seeds(sampling, seeds_by_row):
            self._warm_up(seed)

    def _watch_core(self) -> None:
        """End a `step` that waits for a dead engine process.

        vLLM itself would wait for ever.
        """
        core = self._engine.engine_core
        manager = getattr(getattr(core, "resources", None), "engine_manager", None)
        sentinels = [process.sentinel for process in getattr(manager, "processes", ())]

        def watch() -> None:
            from vllm.v1.engine.exceptions import EngineDeadError

            wait(sentinels)
            if not self._closing:
                core.outputs_queue.put(EngineDeadError())

        if sentinels and hasattr(core, "outputs_queue"):
            threading.Thread(target=watch, name="engine-core-watch", daemon=True).start()

    def _count_preemptions_alone(self) -> None:
        """Switch off vLLM's statistics of single requests.

        They cost its step loop a quarter of its time. The scheduler goes on to report; a preemption
        is an event that comes with the next token of its request.
        """
        from vllm.v1.engine import EngineCoreEventType

        processor, stats = self._engine.output_processor, self._stats
        process = processor.process_outputs

        def counting(outputs: list[Any], *args: Any, **kwargs: Any) -> Any:
            for output in outputs:
                if output.events:
                    stats.preempted += sum(
                        event.type == EngineCoreEventType.PREEMPTED for event in output.events
                    )
            return process(outputs, *args, **kwargs)

        processor.process_outputs = counting
        if not processor.tracing_enabled:  # a trace is made of those statistics
            self._engine.log_stats = False

    def _measure(self) -> MeasuredMemory | None:
        """Where the memory went.

        A figure for people: whatever goes wrong here is no reason not to run.
        """
        try:
            return measured(self._engine.collective_rpc(PROBE_METHOD))
        except Exception as exc:
            log.warning("the engine's memory could not be measured (%s)", reason_of(exc))
            return None

    def _try_form(self) -> None:
        """Begin one answer that is bound.

        A form may be beyond the engine. Raises `JobError` then.
        """
        if self._form() is None:
            return
        try:
            self.submit(Request("form", [1] * 8, 4, is_answer=True))
        except RequestError as exc:
            raise JobError(
                f"sampling.answer_schema or answer_regex: {self.info.engine} cannot bind answers "
                f"to it ({exc}). Simplify it."
            ) from exc
        while self._engine.has_unfinished_requests():
            self.step()

    def _warm_up(self, seed: int | None) -> None:
        """Generate throw-away tokens, so that kernels get compiled.

        Sixteen sequences: from eight on vLLM draws with another kernel than below. On a GPU a full
        batch, as kernels are also compiled for sizes, and a long prompt. There sequences end one
        after another, and all are preempted once and taken up again, as in a run. With a seed
        vLLM draws with yet another kernel.
        """
        is_gpu = self._engine.vllm_config.device_config.device_type == "cuda"
        seqs, prompt_len, spread = WARM_UP_SEQS, 8, 1
        if is_gpu:
            seqs, prompt_len = self.info.max_num_seqs, min(2048, self.info.max_model_len // 2)
            spread = WARM_UP_TOKENS
        for i in range(seqs):
            length = 8 if i else prompt_len
            self.submit(Request(f"warm-up-{i}", [i % 1000] * length, 4 + i % spread, seed))
        steps = 0
        while self._engine.has_unfinished_requests():
            if is_gpu and steps == WARM_UP_TOKENS // 2:
                self._engine.reset_prefix_cache(reset_running_requests=True)
            self.step()
            steps += 1
        self._stats.preempted = 0

    def submit(self, request: Request) -> None:
        from vllm import SamplingParams
        from vllm.inputs import tokens_input
        from vllm.sampling_params import RequestOutputKind

        params = SamplingParams(
            **(self._drawing | dict(request.drawing)),
            max_tokens=request.max_tokens,
            seed=request.seed,
            structured_outputs=self._form() if request.is_answer else None,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
            skip_special_tokens=False,
        )
        try:
            self._engine.add_request(
                request.id, tokens_input(list(request.token_ids)), params, **self._lora()
            )
        except ValueError as exc:
            raise RequestError(reason_of(exc)) from exc
        except Exception as exc:
            if (
                type(exc).__name__ == "VLLMValidationError"
            ):  # a ValueError in 0.26, not any more in 0.32
                raise RequestError(reason_of(exc)) from exc
            raise EngineError(
                f"{self.info.engine}: the engine is gone ({reason_of(exc)})."
            ) from exc

    def _lora(self) -> dict[str, Any]:
        """Name the adapter of a request."""
        if self._adapter is None:
            return {}
        from vllm.lora.request import LoRARequest

        return {"lora_request": LoRARequest("adapter", 1, self._adapter)}

    def step(self) -> list[Delta]:
        if not self._engine.has_unfinished_requests():
            time.sleep(IDLE_SLEEP_S)
            return []
        try:
            outputs = self._engine.step()
        except Exception as exc:
            raise EngineError(f"{self.info.engine}: the engine died ({reason_of(exc)}).") from exc
        deltas = []
        for output in outputs:
            completion = output.outputs[0]
            reason = completion.finish_reason
            if reason not in (None, "stop", "length"):
                raise EngineError(f"{self.info.engine}: a request ended with {reason!r}.")
            deltas.append(Delta(output.request_id, completion.token_ids, reason))
        return deltas

    def abort(self, ids: Sequence[str]) -> None:
        self._engine.abort_request(list(ids))

    def load(self) -> EngineLoad:
        return self._stats.load()

    def close(self) -> None:
        self._closing = True
        core = getattr(self._engine, "engine_core", None)
        if core is not None:
            core.shutdown()


def _kinds_of_seeds(sampling: SamplingSpec, by_row: bool) -> tuple[int | None, ...]:
    """List a seed of each kind of request; None is no seed."""
    if by_row:
        return (None, 0)
    return (sampling.seed,)


def base_arguments(model: str, revision: str | None, trust_remote_code: bool) -> dict[str, Any]:
    """List the arguments of every engine, which a job's own overrule."""
    return {
        "model": model,
        "revision": revision,
        "tokenizer_revision": revision,
        "trust_remote_code": trust_remote_code,
        "disable_log_stats": False,
        "generation_config": "vllm",
        "worker_extension_cls": PROBE_CLASS,
    }


class _Stats:
    """Keeps the newest of what vLLM's scheduler reports at each step."""

    def __init__(self) -> None:
        self.preempted = 0
        self._running = self._waiting = self._queries = self._hits = 0
        self._usage = 0.0

    def logger(self, vllm_config: Any, engine_index: int = 0) -> Any:
        """vLLM calls this to make its stat logger."""
        from vllm.v1.metrics.loggers import StatLoggerBase

        stats = self

        class Logger(StatLoggerBase):  # type: ignore[misc]
            def __init__(self, vllm_config: Any, engine_index: int = 0) -> None:
                pass

            def record(
                self, scheduler_stats: Any, iteration_stats: Any, *args: Any, **kwargs: Any
            ) -> None:
                stats.record(scheduler_stats)

            def log_engine_initialized(self) -> None:
                pass

        return Logger(vllm_config, engine_index)

    def record(self, scheduler: Any) -> None:
        if scheduler is not None:
            self._running, self._waiting = scheduler.num_running_reqs, scheduler.num_waiting_reqs
            self._usage = scheduler.kv_cache_usage
            prefix = getattr(scheduler, "prefix_cache_stats", None)
            if prefix is not None:
                self._queries += prefix.queries
                self._hits += prefix.hits

    def load(self) -> EngineLoad:
        return EngineLoad(
            self._running, self._waiting, self._usage, self.preempted, self._queries, self._hits
        )


def _form_of(sampling: SamplingSpec) -> Callable[[], Any]:
    """Make what makes the engine's own record of an answer's form.

    A new one each time: vLLM notes in it how it was compiled.
    """
    schema, regex = sampling.answer_schema, sampling.answer_regex
    if not sampling.binds_answers:
        return lambda: None

    def form() -> Any:
        from vllm.sampling_params import StructuredOutputsParams

        return StructuredOutputsParams(json=schema, regex=regex)

    return form


def _drop_other_loggers(engine: Any) -> None:
    """Keep our own logger alone.

    vLLM adds one for Prometheus, which observes a histogram for every single token.
    """
    loggers = getattr(getattr(engine, "logger_manager", None), "stat_loggers", None)
    if isinstance(loggers, list):
        del loggers[1:]
