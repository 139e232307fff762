"""What the replay engine has of a GPU: a KV cache of blocks that runs full, and steps that take
their time.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

BLOCK_TOKENS = 16  # vLLM's block of KV cache


@dataclass(frozen=True, slots=True)
class StepTime:
    """Seconds of a step, by the arithmetic of docs/sizing.md ("Time and cost"); bytes, operations and seconds.

    max(bytes read ÷ bandwidth, operations ÷ peak) ÷ efficiency + step_s + step_s_per_seq ×
    sequences.
    """

    weight_bytes: float
    kv_bytes_per_token: float
    bandwidth: float
    operations_per_token: float
    peak: float
    efficiency: float
    step_s: float
    step_s_per_seq: float

    def seconds(self, *, sequences: int, context: int, prefilled: int, steps: int) -> float:
        """`steps` decode steps of so many sequences, `context` tokens long together; the first also
        prefills.
        """
        read = (self.weight_bytes + context * self.kv_bytes_per_token) / self.bandwidth
        decode = max(read, self.operations_per_token * sequences / self.peak)
        first = max(read, self.operations_per_token * (sequences + prefilled) / self.peak)
        return (first + (steps - 1) * decode) / self.efficiency + steps * (
            self.step_s + self.step_s_per_seq * sequences
        )


class KvCache:
    """Counts blocks; and remembers the prompts that were prefilled last, as vLLM's prefix cache would.

    Sequences do not share blocks here, so that this cache is full sooner than vLLM's where samples
    share a prompt.
    """

    def __init__(self, tokens: int) -> None:
        self.num_blocks = tokens // BLOCK_TOKENS
        self.free = self.num_blocks
        self.queries = self.hits = 0
        self._held: dict[str, int] = {}
        self._prompts: OrderedDict[bytes, int] = OrderedDict()
        self._prompt_blocks = 0

    def grow(self, id: str, tokens: int) -> bool:
        """Give a sequence room for so many tokens in all; False when there is not enough."""
        held = self._held.get(id, 0)
        more = -(-tokens // BLOCK_TOKENS) - held
        if more > self.free:
            return False
        if more > 0:
            self._held[id] = held + more
            self.free -= more
        return True

    def release(self, id: str) -> None:
        self.free += self._held.pop(id, 0)

    def prefill(self, prompt: bytes, prompt_len: int, tokens: int) -> int:
        """A sequence of so many tokens begins with this prompt: how many of them have to be
        computed.
        """
        whole = prompt_len // BLOCK_TOKENS
        hit = prompt in self._prompts
        self.queries += tokens
        if hit:
            self.hits += whole * BLOCK_TOKENS
            self._prompts.move_to_end(prompt)
            return tokens - whole * BLOCK_TOKENS
        self._prompts[prompt] = whole
        self._prompt_blocks += whole
        while self._prompt_blocks > self.num_blocks:
            self._prompt_blocks -= self._prompts.popitem(last=False)[1]
        return tokens
