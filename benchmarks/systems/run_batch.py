"""`vllm run-batch`: files of requests in OpenAI's batch format.

It runs in an environment of its own. It submits everything at once and writes one file when all is
done; what is killed before has nothing. Its clock, from the probe: the first request that reaches
its engine, until its output file was last written. It has no warm-up. Started as the module behind
the command: the command of the CPU build asks for a package named vllm, and ends.
"""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

from systems import (
    TEMPERATURE,
    TOP_P,
    Outcome,
    SystemFailed,
    Workload,
    digest_of,
    environment,
    first_request,
    peer_python,
    prompt_hash,
    rows_of,
    timeline,
)

# requests that are asked to return their prompt's ids, which costs: of the others the number is
# checked
CHECKED = 16


class RunBatch:
    """Runs of the command, a process each: it cannot be kept."""

    name = "run_batch"

    def __init__(self, work: Workload) -> None:
        self._work = work

    def run(self, folder: Path) -> Outcome:
        work, rows = self._work, rows_of(self._work.dataset)
        requests, responses = folder / "requests.jsonl", folder / "responses.jsonl"
        lines = [json.dumps(request(work.model, row, i < CHECKED)) for i, row in enumerate(rows)]
        requests.write_text("\n".join(lines) + "\n", encoding="utf-8")
        command = [peer_python("run_batch"), "-m", "vllm.entrypoints.openai.run_batch"]
        command += ["-i", str(requests), "-o", str(responses), "--model", work.model]
        command += ["--generation-config", "vllm", *flags(work.engine_args)]
        log = folder / "run_batch.log"
        called = time.time()
        with log.open("wb") as file:
            done = subprocess.run(
                command, stdout=file, stderr=subprocess.STDOUT, env=environment(work, folder)
            )
        if done.returncode or not responses.exists():
            raise SystemFailed(f"run_batch ended with {done.returncode}: {log.read_text()[-3000:]}")
        started, ended = first_request(folder), responses.stat().st_mtime
        return outcome(
            work, responses, started, ended - started, load_s=started - called, folder=folder
        )

    def close(self) -> None:
        pass


def request(model: str, row: dict[str, Any], return_token_ids: bool) -> dict[str, Any]:
    """Write a line of the batch file."""
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": row["prompt"]}],
        "max_tokens": row["max_tokens"],
        "temperature": TEMPERATURE,
        "top_p": TOP_P,
        "ignore_eos": True,
    }
    if return_token_ids:
        body["return_token_ids"] = True
    return {"custom_id": row["id"], "method": "POST", "url": "/v1/chat/completions", "body": body}


def flags(args: dict[str, Any]) -> list[str]:
    """Write engine arguments as options of vLLM's command line."""
    words: list[str] = []
    for name, value in args.items():
        words.append(f"--{name.replace('_', '-')}")
        words += [] if value is True else [str(value)]
    return words


def outcome(
    work: Workload, responses: Path, started: float, seconds: float, *, load_s: float, folder: Path
) -> Outcome:
    """Count the output file, and compare its prompts with the other systems'."""
    wanted = {row["id"]: row for row in rows_of(work.dataset)}
    tokens, seen, checked = 0, set(), 0
    for line in responses.read_text(encoding="utf-8").splitlines():
        answer = json.loads(line)
        if answer["error"] or answer["response"]["status_code"] != 200:
            raise SystemFailed(f"run_batch: request {answer['custom_id']} failed: {line[:500]}")
        body, row = answer["response"]["body"], wanted[answer["custom_id"]]
        ids = body.get("prompt_token_ids")
        if body["usage"]["prompt_tokens"] != row["prompt_tokens"] or (
            ids and prompt_hash(ids) != row["prompt_hash"]
        ):
            raise SystemFailed(
                f"run_batch: the prompt of {row['id']} is not that of the other systems"
            )
        tokens += body["usage"]["completion_tokens"]
        seen.add(row["id"])
        checked += ids is not None
    if len(seen) != len(wanted):
        raise SystemFailed(f"run_batch: {len(seen)} responses (need {len(wanted)})")
    return Outcome(
        tokens,
        seconds,
        started,
        digest_of((id, row["prompt_hash"]) for id, row in wanted.items()),
        load_s=load_s,
        timeline=timeline(folder, started, seconds),
        extra={"prompts_whose_ids_were_compared": checked},
    )
