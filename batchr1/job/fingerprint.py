"""Fingerprint of a job: the keys that decide its answers.

Semantic keys change answers or the shape of the output: an output made with other values of them is
never extended. Everything else (GPUs, batch sizes, intervals, paths, storage, how many rows or
samples) may change from run to run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from typing import Any

from batchr1.errors import FingerprintError
from batchr1.job.base import Section
from batchr1.job.kinds import load_backend
from batchr1.job.spec import JobSpec

# Engine arguments that change speed and memory only. Any other is taken to change answers.
HARMLESS_ENGINE_ARGS = frozenset(
    {
        "block_size",
        "collect_detailed_traces",
        "cpu_offload_gb",
        "data_parallel_size",
        "disable_custom_all_reduce",
        "disable_log_stats",
        "distributed_executor_backend",
        "download_dir",
        "enable_chunked_prefill",
        "enable_prefix_caching",
        "enforce_eager",
        "gpu_memory_utilization",
        "kv_cache_memory_bytes",
        "max_num_batched_tokens",
        "max_num_partial_prefills",
        "max_num_seqs",
        "max_parallel_loading_workers",
        "num_gpu_blocks_override",
        "otlp_traces_endpoint",
        "pipeline_parallel_size",
        "scheduling_policy",
        "stream_interval",
        "swap_space",
        "tensor_parallel_size",
        "use_tqdm_on_load",
    }
)


_MAX_TOKENS = "sampling.max_tokens"
# Keys of `sampling` that every fingerprint names. Of any other, unset says nothing: outputs and
# checkpoints made before it was added go on.
_ALWAYS_NAMED = {"temperature", "top_p", "top_k", "min_p", "max_tokens", "seed", "ignore_eos"}
_PROMPTING_ALWAYS_NAMED = {"instruction", "think"}


def _is_larger(before: int | None, now: int | None) -> bool:
    """Whether a limit of tokens was raised; None is no limit."""
    return before is not None and (now is None or now > before)


def _named(
    section: Section, always: Collection[str], *, exclude: set[str] | None = None
) -> dict[str, Any]:
    """Dump a section without keys that came later and have their default."""
    values = section.model_dump(mode="json", exclude=exclude)
    for name, field in type(section).model_fields.items():
        if name in values and name not in always and values[name] == field.default:
            del values[name]
    return values


def fingerprint(
    spec: JobSpec,
    *,
    model_identity: str,
    kept: dict[str, str],
    verifier: str | None = None,
    template: str | None = None,
) -> dict[str, Any]:
    """Map the semantic keys of a job to plain values.

    `model_identity` covers weights, tokenizer and chat template, and of a server's model is its
    name; `kept` gives the type of each kept column; `verifier` is the digest of the module of a
    function that verifies; `template` is the digest of the job's own chat template.
    """
    engine = {
        k: v for k, v in sorted(spec.model.engine_args.items()) if k not in HARMLESS_ENGINE_ARGS
    }
    sampling = _named(spec.sampling, _ALWAYS_NAMED, exclude={"n", "preset"})
    prompting = _named(spec.prompting, _PROMPTING_ALWAYS_NAMED)
    if template is not None:
        prompting["template"] = template
    source = spec.input.model_dump(
        mode="json", include={"id", "prompt", "messages", "template", "gold", "max_tokens"}
    )
    if spec.input.types:
        source["types"] = dict(spec.input.types)
    own = {f"input.sampling.{k}": v for k, v in spec.input.sampling.columns.items()}
    return {
        "model": model_identity,
        "model.quantization": spec.model.quantization,
        **{f"model.engine_args.{k}": v for k, v in engine.items()},
        **load_backend(spec.engine.kind).fingerprint(spec),
        **{f"prompting.{k}": v for k, v in prompting.items()},
        **{f"sampling.{k}": v for k, v in sampling.items()},
        **{f"input.{k}": v for k, v in source.items()},
        **own,
        **{
            f"verify.{k}": v
            for k, v in spec.verify.model_dump(mode="json", include={"kind", "extract"}).items()
        },
        "verify.kind's module": verifier,
        **({"retry.on": sorted(spec.retry.on)} if spec.retry.on else {}),
        "output.keep": spec.output.keep,
        "output.keep types": kept,
    }


def digest(semantic: dict[str, Any]) -> str:
    """128-bit hash of a fingerprint, as hexadecimal text."""
    text = json.dumps(semantic, sort_keys=True, ensure_ascii=False)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def continued_digest(semantic: dict[str, Any]) -> str:
    """Digest the keys that decide each token of a generation.

    The limit of tokens is none of them: saved ones are good under a larger limit too.
    """
    return digest(
        {k: v for k, v in semantic.items() if k != _MAX_TOKENS and not k.startswith("verify.")}
    )


def same_lengths(before: dict[str, Any], now: dict[str, Any]) -> bool:
    """Tell whether completions under two fingerprints are equally long.

    Model, sampling and prompting decide that. A limit of tokens and a seed do not.
    """

    def deciding(semantic: dict[str, Any]) -> dict[str, Any]:
        rooms = ("model", "sampling.", "prompting.", "engine.")
        passed = (_MAX_TOKENS, "sampling.seed")
        return {k: v for k, v in semantic.items() if k.startswith(rooms) and k not in passed}

    return deciding(before) == deciding(now)


def check_same(
    before: dict[str, Any], now: dict[str, Any], *, output: str, continue_truncated: bool = False
) -> None:
    """Raise `FingerprintError` when semantic keys differ.

    It has a line for each of them, and the three ways out. With `continue_truncated` a larger
    sampling.max_tokens is no difference: whatever was not cut is as it would be.
    """
    larger = _is_larger(before.get(_MAX_TOKENS), now.get(_MAX_TOKENS)) and _MAX_TOKENS in before
    if continue_truncated and larger:
        before = {**before, _MAX_TOKENS: now.get(_MAX_TOKENS)}
    keys = [k for k in dict.fromkeys([*before, *now]) if before.get(k) != now.get(k)]
    if not keys:
        return
    lines = [f"  {k}: {json.dumps(before.get(k))} → {json.dumps(now.get(k))}" for k in keys]
    raise FingerprintError(
        f"{output}: this output was made by a job that differs in what decides the answers:\n"
        + "\n".join(lines)
        + (
            "\nWith --continue-truncated the rows that were cut go on to the larger limit."
            if keys == [_MAX_TOKENS] and larger
            else ""
        )
        + (
            "\nRun the job as it was, or give a new output.path, or start over with --fresh "
            "(deletes these results)."
        )
    )
