"""KV-cache memory that sizing predicts, against vLLM's on a real GPU.

    # five models, eleven settings; 4 to 6 minutes on an H200
    python benchmarks/kv_memory.py --out kv.json
    # models of today, from their public configs
    python benchmarks/kv_memory.py --today --out today.json
    # without compiling
    python benchmarks/kv_memory.py --decode-only --only 3 8 --out decode-only.json

Weights are dummies of real shapes. Each setting runs in a process of its own: vLLM's worker loads
the model and measures its memory, as at the start of an engine
(`Worker.determine_available_memory`), and the figure is what it would give to the KV cache. A first
round, several processes at once, compiles and measures only its own peak: the first start with
these settings. The second round finds the compiled code, as every later start does.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

sys.path.insert(0, str(Path(__file__).parent.parent / "tests/helpers"))

from shapes import config_of
from start_time import DECODE_ONLY
from todays_models import MODELS

from batchr1.sizing.architecture import Architecture
from batchr1.sizing.memory import (
    GIB,
    OTHER_BYTES,
    activation_bytes,
    counts_graphs,
    cuda_graph_bytes,
)

HOPPER = (9, 0)

Setting = tuple[str, float, int, int, int]

# (variant, gpu_memory_utilization, max_num_batched_tokens, max_num_seqs, max_model_len). On an H200
# (139.8 GiB) 0.17, 0.29 and 0.57 imitate cards of 24, 40 and 80 GB. None of these was used to find
# a constant.
SETTINGS = [
    ("r1-distill-qwen-1.5b", 0.17, 4096, 256, 32768),
    ("r1-distill-qwen-1.5b", 0.90, 16384, 384, 4608),
    ("r1-distill-qwen-7b", 0.17, 2048, 64, 16384),
    ("r1-distill-qwen-7b", 0.29, 8192, 256, 32768),
    ("r1-distill-qwen-7b", 0.57, 16384, 512, 8192),
    ("r1-distill-llama-8b", 0.17, 4096, 128, 16384),
    ("r1-distill-llama-8b", 0.57, 16384, 256, 32768),
    ("r1-distill-qwen-14b", 0.29, 4096, 128, 16384),
    ("r1-distill-qwen-14b", 0.57, 12288, 320, 32768),
    ("r1-distill-qwen-32b", 0.57, 2048, 64, 16384),
    ("r1-distill-qwen-32b", 0.90, 10240, 200, 32768),
]
TODAY = [
    ("deepseek-ai/DeepSeek-R1-0528-Qwen3-8B", 0.57, 8192, 256, 32768),
    ("Qwen/Qwen3-30B-A3B-Thinking-2507", 0.90, 8192, 256, 32768),
    ("openai/gpt-oss-20b", 0.57, 8192, 256, 32768),
    ("openai/gpt-oss-120b", 0.90, 8192, 256, 32768),
    ("Qwen/Qwen3.5-35B-A3B", 0.90, 8192, 256, 32768),
]
# what their configs need beyond their sizes to be loaded
_TO_LOAD: dict[str, dict[str, Any]] = {
    "qwen3": {"architectures": ["Qwen3ForCausalLM"], "rope_theta": 1_000_000},
    "qwen3_moe": {
        "architectures": ["Qwen3MoeForCausalLM"],
        "rope_theta": 10_000_000,
        "norm_topk_prob": True,
    },
    "gpt_oss": {
        "architectures": ["GptOssForCausalLM"],
        "rope_theta": 150_000,
        "rope_scaling": {
            "rope_type": "yarn",
            "factor": 32.0,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "truncate": False,
            "original_max_position_embeddings": 4096,
        },
        "swiglu_limit": 7.0,
    },
    "qwen3_5_moe": {"architectures": ["Qwen3_5MoeForConditionalGeneration"]},
}


def config_for(name: str) -> dict[str, Any]:
    """Give config.json of a variant of the catalogue or a model of today."""
    if name not in MODELS:
        return config_of(name)
    config = MODELS[name]
    common = {"dtype": "bfloat16", "rms_norm_eps": 1e-6, "hidden_act": "silu"}
    return common | _TO_LOAD[config["model_type"]] | config


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("kv_memory.json"))
    parser.add_argument(
        "--at-once", type=int, default=5, help="processes that compile side by side"
    )
    parser.add_argument("--only", type=int, nargs="+", help="their numbers, from 0; all without it")
    parser.add_argument("--today", action="store_true", help="models of today, not the catalogue's")
    parser.add_argument("--decode-only", action="store_true", help="engines that compile nothing")
    options = parser.parse_args()
    settings = TODAY if options.today else SETTINGS
    if options.only:
        settings = [settings[i] for i in options.only]
    more = DECODE_ONLY if options.decode_only else {}
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    import_vllm()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        compile_all(folder, settings, options.at_once, more)
        print(f"compiled after {time.monotonic() - started:.0f} s", flush=True)
        rows = []
        for number, setting in enumerate(settings):
            os.waitpid(start(folder, number, setting, more, measure=True), 0)
            rows.append(
                row(
                    setting,
                    figures(folder / f"{number}.json"),
                    figures(folder / f"{number}.first.json"),
                )
            )
            print(rows[-1], flush=True)
            options.out.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    errors = [row.get(key) for row in rows for key in ("error_gib", "error_first_gib")]
    worst = max((abs(error) for error in errors if error is not None), default=math.inf)
    print(
        f"{len(rows)} settings, largest error {worst:.3f} GiB, {time.monotonic() - started:.0f} s"
    )


def row(
    setting: Setting, measured: dict[str, int] | None, first: dict[str, int] | None
) -> dict[str, Any]:
    """Set predicted beside measured memory, in GiB.

    The error is of the memory that is left for the KV cache, at either start.
    """
    variant, utilization, batched, seqs, length = setting
    arch = Architecture.of_config(config_for(variant))
    document: dict[str, Any] = {
        "variant": variant,
        "utilization": utilization,
        "max_num_batched_tokens": batched,
        "max_num_seqs": seqs,
        "max_model_len": length,
    }
    if measured is None or first is None:
        return document | {"error_gib": None}
    weights = arch.weight_bytes(capability=HOPPER)
    graphs = cuda_graph_bytes(seqs) if counts_graphs(arch) else 0
    left = utilization * measured["total"] - weights - OTHER_BYTES - graphs
    peaks = {
        start: activation_bytes(
            arch, num_batched_tokens=batched, num_seqs=seqs, first_start=start == "first"
        )
        for start in ("first", "later")
    }
    kv_first = measured["kv"] + measured["activation"] - first["activation"]
    predicted = {
        "weights": weights,
        "activation": peaks["later"],
        "activation_first": peaks["first"],
        "other": OTHER_BYTES,
        "kv": left - peaks["later"],
        "kv_first": left - peaks["first"],
    }
    found = measured | {"activation_first": first["activation"], "kv_first": kv_first}
    return document | {
        "predicted_gib": {k: round(v / GIB, 3) for k, v in predicted.items()},
        "measured_gib": {k: round(v / GIB, 3) for k, v in found.items()},
        "error_gib": round((predicted["kv"] - found["kv"]) / GIB, 3),
        "error_first_gib": round((predicted["kv_first"] - found["kv_first"]) / GIB, 3),
    }


def figures(path: Path) -> dict[str, int] | None:
    return json.loads(path.read_text()) if path.exists() else None


def import_vllm() -> None:
    """Import vLLM once, before the processes are forked.

    That takes half a minute on a cold machine. CUDA stays untouched.
    """
    import vllm.engine.arg_utils
    import vllm.model_executor.models.llama
    import vllm.model_executor.models.qwen2
    import vllm.v1.executor.uniproc_executor
    import vllm.v1.worker.gpu.model_runner
    import vllm.v1.worker.gpu_worker  # noqa: F401


def compile_all(folder: Path, settings: list[Setting], at_once: int, more: dict[str, Any]) -> None:
    """Fill vLLM's compile cache, the largest models first.

    As many run at a time as the GPU holds.
    """
    todo = sorted(enumerate(settings), key=lambda s: -weight(s[1][0]))
    running: dict[int, float] = {}
    while todo or running:
        room = 125 - sum(running.values())
        ready = next((entry for entry in todo if weight(entry[1][0]) + 5 < room), None)
        if ready is not None and len(running) < at_once:
            todo.remove(ready)
            running[start(folder, *ready, more, measure=False)] = weight(ready[1][0]) + 5
        else:
            pid, _ = os.wait()
            running.pop(pid, None)


def weight(variant: str) -> float:
    return Architecture.of_config(config_for(variant)).weight_bytes() / GIB


def start(
    folder: Path, number: int, setting: Setting, more: dict[str, Any], *, measure: bool
) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            child(folder, number, setting, more, measure)
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
        os._exit(0)
    return pid


def child(folder: Path, number: int, setting: Setting, more: dict[str, Any], measure: bool) -> None:
    import torch
    from vllm.engine.arg_utils import EngineArgs
    from vllm.v1.executor.uniproc_executor import UniProcExecutor

    variant, utilization, batched, seqs, length = setting
    model = folder / variant.replace("/", "-")
    model.mkdir(exist_ok=True)
    (model / "config.json").write_text(json.dumps(config_for(variant)), encoding="utf-8")
    config = EngineArgs(
        model=str(model),
        skip_tokenizer_init=True,
        load_format="dummy",
        generation_config="vllm",
        gpu_memory_utilization=utilization if measure else 0.05,
        max_num_batched_tokens=batched,
        max_num_seqs=seqs,
        max_model_len=length,
        **more,
    ).create_engine_config()
    executor = UniProcExecutor(config)
    worker: Any = executor.driver_worker.worker
    if (
        not measure
    ):  # others use the GPU at the same time: only this process' own peak means something
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        with torch.inference_mode():
            worker.model_runner.profile_run()
        (folder / f"{number}.first.json").write_text(
            json.dumps({"activation": torch.cuda.max_memory_allocated() - before}), encoding="utf-8"
        )
        return
    [kv] = executor.determine_available_memory()
    found = {
        "weights": worker.model_runner.model_memory_usage,
        "activation": worker.peak_activation_memory,
        "other": worker.non_torch_memory,
        "kv": kv,
        "total": worker.init_snapshot.total_memory,
    }
    (folder / f"{number}.json").write_text(
        json.dumps({k: int(v) for k, v in found.items()}), encoding="utf-8"
    )


if __name__ == "__main__":
    main()
