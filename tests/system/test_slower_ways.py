"""vLLM's warnings of a slower way reach the user as one line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from replay_job import questions, replay, set_engine, write_job

from batchr1.executors.log_tail import slower_ways

# As vLLM 0.26 and 0.32 print them.
SLOWER = (
    "Using default MoE config. Performance might be sub-optimal! Config file not found at "
    "/site/vllm/configs/E=128,N=768,device_name=NVIDIA_H200.json"
)
NATIVE = (
    "FlashInfer is not available. Falling back to the PyTorch-native implementation of top-p & "
    "top-k sampling."
)
OTHER = (
    "libtcmalloc is not found in LD_PRELOAD. For best performance, please follow the section "
    "`set LD_PRELOAD`"
)
# After a tuning that had nothing to tune, as every dense model in 16 bits has it on an H200.
UNTUNED = "No FlashInfer autotune cache entries found.Falling back to default tactics."


def warned(text: str, head: str = "(EngineCore pid=18130) ") -> str:
    return f"{head}WARNING 11-30 09:22:16 [fused_moe.py:1234] {text}"


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        ([warned(SLOWER), warned(NATIVE, ""), warned(SLOWER)], (SLOWER, NATIVE)),
        ([warned(OTHER), warned(UNTUNED), "a prompt that falls back", f"INFO {NATIVE}"], ()),
    ],
)
def test_a_slower_way_is_told_from_other_warnings(lines: list[str], found: tuple[str, ...]) -> None:
    assert slower_ways(lines) == found


def test_a_run_says_it_once_whatever_the_number_of_engines(tmp_path: Path) -> None:
    questions(40).write_parquet(tmp_path / "in.parquet")
    job = set_engine(write_job(tmp_path), replay(max_num_seqs=4))
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "if 'batchr1.worker.main' in sys.orig_argv:\n"
        f"    print({warned(SLOWER)!r}, flush=True)\n",
        encoding="utf-8",
    )
    path = os.pathsep.join([str(tmp_path), *sys.path])
    done = subprocess.run(
        [sys.executable, "-m", "batchr1", "run", str(job), "--replicas", "2"],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(f"slower: {SLOWER}\n") == 1
