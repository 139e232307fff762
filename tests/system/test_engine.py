"""vLLM as batchr1 drives it: what it counts is what happened."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

COUNT_PREEMPTIONS = """
import json
from batchr1.engine.protocol import Request
from batchr1.job.spec import SamplingSpec
from batchr1.engine.vllm.engine import VllmEngine, prepare_environment
from batchr1.models.catalogue import VARIANTS

prepare_environment("cpu")
args = {"max_num_seqs": 16, "max_model_len": 512, "enforce_eager": True,
        "kv_cache_memory_bytes": 4 * 2**20}
engine = VllmEngine(str(VARIANTS["r1-tiny"].path), revision=None, trust_remote_code=False,
                    args=args | {"stream_interval": 8},
                    sampling=SamplingSpec(ignore_eos=True))
scheduler = engine._engine.engine_core.engine_core.scheduler
preempt, happened = scheduler._preempt_request, []
scheduler._preempt_request = lambda *args, **kwargs: happened.append(1) or preempt(*args, **kwargs)
for i in range(16):
    engine.submit(Request(str(i), [10 + i] * 20, 200))
tokens, left = 0, 16
while left:
    for delta in engine.step():
        tokens += len(delta.token_ids)
        left -= delta.finish_reason is not None
load = engine.load()
cache = engine.info.kv_cache_tokens
print(json.dumps([cache, len(happened), load.preempted, tokens, load.prefix_queries > 0]))
engine.close()
"""


def test_each_preemption_is_counted_once() -> None:
    run = subprocess.run(
        [sys.executable, "-c", COUNT_PREEMPTIONS], capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stderr[-2000:]
    cache, happened, counted, tokens, has_prefixes = json.loads(run.stdout.splitlines()[-1])
    assert cache < 16 * 220, "not all fit at once"
    assert happened > 0
    assert counted == happened
    assert tokens == 16 * 200
    assert has_prefixes
