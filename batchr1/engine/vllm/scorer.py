"""vLLM as a scorer: one prefill a row, log-probabilities of its tokens.

They are taken from the engine's own tensors. As Python objects, 128 of them a token would cost more
than the prefill does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from batchr1.engine.vllm.engine import base_arguments
from batchr1.engine.vllm.imports import reason_of, start_error
from batchr1.errors import EngineError, RequestError

Found = tuple[str, np.ndarray[Any, Any], np.ndarray[Any, Any]]

# What makes log-probabilities those of the model, whatever else is asked for.
_FIXED: dict[str, Any] = {
    "logprobs_mode": "raw_logprobs",
    "enable_prefix_caching": False,
    "generation_config": "vllm",
}


class VllmScorer:
    """`vllm.LLMEngine`, asked for the log-probabilities of prompts."""

    def __init__(
        self,
        model: str,
        *,
        revision: str | None,
        trust_remote_code: bool,
        args: dict[str, Any],
        top_k: int,
    ) -> None:
        """Load the engine. Raises `EngineError` where it does not start."""
        from vllm import EngineArgs
        from vllm import __version__ as version
        from vllm.v1.engine.llm_engine import LLMEngine

        named = base_arguments(model, revision, trust_remote_code) | {"disable_log_stats": True}
        self.name = f"vllm {version}"
        self._top_k = top_k
        self._found: dict[str, list[Any]] = {}
        self._lengths: dict[str, int] = {}
        try:
            # vLLM refuses a request for more than `max_logprobs`.
            engine_args = EngineArgs(**named | args | _FIXED, max_logprobs=max(1, top_k))
            self._engine = LLMEngine.from_engine_args(engine_args)
        except Exception as exc:  # whatever vLLM raises means one thing here: there is no engine
            raise start_error(self.name, exc) from exc
        self._take_tensors()

    def _take_tensors(self) -> None:
        """Take log-probabilities on their way to vLLM's own lists."""
        processor = self._engine.output_processor
        process, found = processor.process_outputs, self._found

        def taking(outputs: list[Any], *args: Any, **kwargs: Any) -> Any:
            for output in outputs:
                tensors = output.new_prompt_logprobs_tensors
                if tensors is not None:
                    # vLLM adds a dash and a suffix of its own to the id of a request.
                    own = output.request_id.partition("-")[0]
                    found.setdefault(own, []).append(tensors)
                    output.new_prompt_logprobs_tensors = None
            return process(outputs, *args, **kwargs)

        processor.process_outputs = taking

    def submit(self, id: str, token_ids: Sequence[int]) -> None:
        """Begin a row, whose id has no dash.

        Raises `RequestError` for one that the engine refuses.
        """
        from vllm import SamplingParams
        from vllm.inputs import tokens_input
        from vllm.sampling_params import RequestOutputKind

        params = SamplingParams(
            temperature=0.0,
            max_tokens=1,
            prompt_logprobs=self._top_k,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        try:
            self._engine.add_request(id, tokens_input(list(token_ids)), params)
        except Exception as exc:
            if isinstance(exc, ValueError) or type(exc).__name__ == "VLLMValidationError":
                raise RequestError(reason_of(exc)) from exc
            raise EngineError(f"{self.name}: the engine is gone ({reason_of(exc)}).") from exc
        self._lengths[id] = len(token_ids)

    def step(self) -> list[Found]:
        """Run one step.

        Gives the rows that ended: id, token ids and log-probabilities, of all tokens but the first.
        The first column is the row's own token, the others are the top k.
        """
        try:
            outputs = self._engine.step()
        except Exception as exc:
            raise EngineError(f"{self.name}: the engine died ({reason_of(exc)}).") from exc
        return [self._ended(output.request_id) for output in outputs if output.finished]

    def close(self) -> None:
        """End the engine."""
        core = getattr(self._engine, "engine_core", None)
        if core is not None:
            core.shutdown()

    def _ended(self, id: str) -> Found:
        length = self._lengths.pop(id)
        pieces = self._found.pop(id, [])
        if sum(len(piece.logprobs) for piece in pieces) != length - 1:
            raise EngineError(
                f"{self.name}: a row came back without all of its log-probabilities. Run the same "
                "command again."
            )
        ids = [np.asarray(piece.logprob_token_ids, dtype=np.int32) for piece in pieces]
        logs = [np.asarray(piece.logprobs, dtype=np.float32) for piece in pieces]
        return id, np.concatenate(ids), np.concatenate(logs)
