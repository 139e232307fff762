"""One process with one loaded `vllm.LLM`, for the systems that call it.

They use it alone, or one after the other on one engine. `python -m systems.llm_process
WORKLOAD.json` loads and warms up, then reads commands from stdin, one JSON object a line
({"system": …, "folder": …}), and answers each with a file in that folder and a line on stdout.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from systems import (
    TEMPERATURE,
    TOP_P,
    Outcome,
    SystemFailed,
    Workload,
    environment,
    rows_of,
    timeline,
)

DONE = "@done"
LEAVE_S = 60.0


class LlmProcess:
    """Parent's side of the process, which starts with the first command."""

    def __init__(self, work: Workload, folder: Path) -> None:
        self._work = work
        self._folder = folder
        self._process: subprocess.Popen[str] | None = None

    def ask(self, system: str, folder: Path) -> Outcome:
        """Have a system measured by the process, started if need be."""
        if self._process is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._work.write(self._folder / "workload.json")
            command = [
                sys.executable,
                "-m",
                "systems.llm_process",
                str(self._folder / "workload.json"),
            ]
            env = environment(self._work, self._folder)
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
            )
        assert self._process.stdin is not None and self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # then there is nothing to read either
            self._process.stdin.write(json.dumps({"system": system, "folder": str(folder)}) + "\n")
            self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith(DONE):
                figures = json.loads((folder / f"{system}.json").read_text())
                bins = timeline(self._folder, figures["started"], figures["seconds"])
                return Outcome(**figures, timeline=bins)
            sys.stderr.write(line)
        code = self._process.wait()
        self._process = None
        raise SystemFailed(f"{system}: the process with vllm.LLM ended with {code}")

    def close(self) -> None:
        if self._process is not None:
            assert self._process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
            try:
                self._process.wait(LEAVE_S)
            except (
                subprocess.TimeoutExpired
            ):  # it is still generating: the benchmark was told to stop
                self._process.kill()
                self._process.wait()
            self._process = None


class LlmSystem:
    """System that is a function of a loaded `LLM`: `systems.<name>.measure`."""

    def __init__(self, name: str, process: LlmProcess) -> None:
        self.name = name
        self._process = process

    def run(self, folder: Path) -> Outcome:
        return self._process.ask(self.name, folder)

    def close(self) -> None:
        self._process.close()


def serve(work: Workload) -> None:
    """Serve commands: the child's side."""
    if work.device == "cpu":
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = (
            "0"  # in-process is twice as quick on a CPU; batchr1 does so too
        )
    from vllm import LLM

    started = time.perf_counter()
    llm = LLM(
        model=work.model,
        generation_config="vllm",
        disable_log_stats=not work.log_stats,
        **work.engine_args,
    )
    load_s = time.perf_counter() - started
    warm_up(llm, work)
    for line in sys.stdin:
        command = json.loads(line)
        llm.reset_prefix_cache()  # the next one has the same prompts
        time.sleep(0.6)  # so that no bin of the probe holds tokens of two
        folder = Path(command["folder"])
        figures = importlib.import_module(f"systems.{command['system']}").measure(llm, work, folder)
        figures |= {"load_s": round(load_s, 1)}
        (folder / f"{command['system']}.json").write_text(json.dumps(figures), encoding="utf-8")
        print(DONE, flush=True)


def warm_up(llm: Any, work: Workload) -> None:
    """Run a full batch of few tokens and a long prompt.

    What is compiled on first use is ready then.
    """
    seqs, prompt_len = work.warm_up
    prompts = [{"prompt_token_ids": [i % 1000] * 8} for i in range(seqs)] + [
        {"prompt_token_ids": [7] * prompt_len}
    ]
    llm.generate(prompts, [sampling(8)] * len(prompts), use_tqdm=False)


def sampling(max_tokens: int) -> Any:
    from vllm import SamplingParams

    return SamplingParams(
        temperature=TEMPERATURE, top_p=TOP_P, max_tokens=max_tokens, ignore_eos=True
    )


def render(llm: Any, rows: list[dict[str, Any]]) -> list[list[int]]:
    """Render the rows' prompts to token ids, by the model's chat template."""
    tokenizer = llm.get_tokenizer()
    turns = [[{"role": "user", "content": row["prompt"]}] for row in rows]
    texts = [
        tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
        for turn in turns
    ]
    ids: list[list[int]] = tokenizer(texts, add_special_tokens=False).input_ids
    return ids


def dataset_rows(work: Workload) -> list[dict[str, Any]]:
    return rows_of(work.dataset)


if __name__ == "__main__":
    serve(Workload.read(Path(sys.argv[1])))
