"""vLLM plugin that counts an engine's tokens every half second.

It is the same for every system. vLLM loads it in each of its processes when `benchmarks/probe` is
on PYTHONPATH (entry point `vllm.general_plugins`). It wraps the two calls that all front ends
share, a request going into the engine's core and a step's outputs coming back (read in vLLM 0.26
and 0.32), and writes to `$BATCHR1_PROBE/<pid>.jsonl`. Per step it adds up the lengths of the new
tokens: some 30 µs at 512 sequences.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import time
from pathlib import Path
from typing import Any

BIN_S = 0.5


class Counter:
    """Bins of this process.

    `at` is a bin's beginning, `first` when its first request came: seconds since 1970.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / f"{os.getpid()}.jsonl"
        self._bin: dict[str, Any] | None = None
        self._open = 0

    def added(self) -> None:
        one = self._at()
        one["added"] += 1
        one.setdefault("first", time.time())
        self._open += 1

    def stepped(self, outputs: list[Any]) -> None:
        if not outputs:
            return
        one = self._at()
        one["steps"] += 1
        one["sequences"] += len(outputs)
        one["tokens"] += sum([len(output.new_token_ids) for output in outputs])
        finished = sum([output.finish_reason is not None for output in outputs])
        if finished:
            one["finished"] += finished
            self._open -= finished
            if self._open <= 0:
                self.flush()  # whoever is killed after its last request keeps its last bin

    def flush(self) -> None:
        if self._bin is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(self._bin) + "\n")
            self._bin = None

    def _at(self) -> dict[str, Any]:
        at = time.time() // BIN_S * BIN_S
        if self._bin is None or self._bin["at"] != at:
            self.flush()
            self._bin = {
                "at": at,
                "tokens": 0,
                "steps": 0,
                "sequences": 0,
                "added": 0,
                "finished": 0,
            }
        return self._bin


class _Hidden:
    """Lengths that only the engine's core is given."""

    def __init__(self, path: str | None) -> None:
        text = Path(path).read_text(encoding="utf-8") if path else "{}"
        self._lengths: dict[str, int] = json.loads(text)
        self._shortened: set[str] = set()

    def shorten(self, request: Any) -> None:
        if not self._lengths:
            return
        key = " ".join(map(str, request.prompt_token_ids))
        length = self._lengths.get(key)
        if length is not None:
            params = request.sampling_params
            params.max_tokens, params.ignore_eos = length, True
            params.stop_token_ids = []
            params._all_stop_token_ids = set()
            params._eos_token_id = None  # what the engine compares with, whatever was asked
            self._shortened.add(request.request_id)

    def end(self, outputs: list[Any]) -> None:
        """Let a request that was shortened end as if the model had ended it."""
        if not self._shortened:
            return
        from vllm.v1.engine import FinishReason

        for output in outputs:
            if output.finish_reason is not None and output.request_id in self._shortened:
                self._shortened.discard(output.request_id)
                output.finish_reason = FinishReason.STOP


def draft_always() -> None:
    """Let the n-gram proposer draft at each step, whatever was generated before."""
    from vllm.v1.spec_decode.ngram_proposer import NgramProposer

    def propose(self: Any, count: int, wanted: Any, lengths: Any, ids: Any, k: int) -> Any:
        chosen = set(wanted)
        last = [int(ids[i, max(0, lengths[i] - 1)]) for i in range(count)]
        return [[last[i]] * k if i in chosen else [] for i in range(count)]

    NgramProposer.batch_propose = propose


def install() -> None:
    """Install the probe, if $BATCHR1_PROBE is set; vLLM calls this.

    With $BATCHR1_DRAFTS, drafts are made at each step (`speculation.py`).
    """
    if os.environ.get("BATCHR1_DRAFTS"):
        draft_always()
    folder = os.environ.get("BATCHR1_PROBE")
    if not folder:
        return
    from vllm.v1.engine import core_client

    counter = Counter(Path(folder))
    hidden = _Hidden(os.environ.get("BATCHR1_LENGTHS"))
    atexit.register(counter.flush)
    for client in (core_client.InprocClient, core_client.SyncMPClient):
        _wrap(client, counter, hidden)
    _wrap_async(core_client.AsyncMPClient, counter)


def _wrap(client: Any, counter: Counter, hidden: _Hidden) -> None:
    add, get = client.add_request, client.get_output
    if getattr(get, "counted", False):
        return

    @functools.wraps(add)
    def add_request(self: Any, request: Any) -> Any:
        counter.added()
        hidden.shorten(request)
        return add(self, request)

    @functools.wraps(get)
    def get_output(self: Any) -> Any:
        outputs = get(self)
        hidden.end(outputs.outputs)
        counter.stepped(outputs.outputs)
        return outputs

    get_output.counted = True  # type: ignore[attr-defined]
    client.add_request, client.get_output = add_request, get_output


def _wrap_async(client: Any, counter: Counter) -> None:
    add, get = client.add_request_async, client.get_output_async
    if getattr(get, "counted", False):
        return

    @functools.wraps(add)
    async def add_request_async(self: Any, request: Any) -> Any:
        counter.added()
        return await add(self, request)

    @functools.wraps(get)
    async def get_output_async(self: Any) -> Any:
        outputs = await get(self)
        counter.stepped(outputs.outputs)
        return outputs

    get_output_async.counted = True  # type: ignore[attr-defined]
    client.add_request_async, client.get_output_async = add_request_async, get_output_async
