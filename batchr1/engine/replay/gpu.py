"""KV cache of the replay engine: blocks that run out."""

from __future__ import annotations

from collections import OrderedDict

BLOCK_TOKENS = 16  # vLLM's block of KV cache


class KvCache:
    """Blocks of cache; freed ones keep their content until taken.

    Freed blocks are taken in the order in which they were freed, a sequence's last block first: so
    a sequence that was preempted finds its beginning again, as far as nobody took it. Prompts that
    were prefilled are remembered on their own, by their share of the cache. Sequences do not share
    blocks here, so that this cache is full sooner than vLLM's where samples share a prompt.
    """

    def __init__(self, tokens: int) -> None:
        self.num_blocks = tokens // BLOCK_TOKENS
        self.queries = self.hits = 0
        self._held: dict[str, int] = {}
        self._blank = self.num_blocks  # blocks that were never filled
        # freed blocks that hold the beginning of a sequence still, the first to be taken first
        self._freed: OrderedDict[str, int] = OrderedDict()
        self._num_freed = 0
        self._prompts: OrderedDict[bytes, int] = OrderedDict()
        self._prompt_blocks = 0

    @property
    def free(self) -> int:
        """Blocks that no running sequence holds."""
        return self._blank + self._num_freed

    def grow(self, id: str, tokens: int) -> bool:
        """Give a sequence room for so many tokens in all.

        False when there is not enough. One that starts again takes its own blocks that are left
        first (see `prefill`).
        """
        held = self._held.get(id, 0)
        more = -(-tokens // BLOCK_TOKENS) - held
        if more > self.free:
            return False
        if more > 0:
            self._held[id] = held + more
            if id not in self._freed:
                self._take(more)
        return True

    def release(self, id: str) -> None:
        """Free a sequence's blocks.

        They keep what they hold until they are taken.
        """
        held = self._held.pop(id, 0)
        if held:
            self._freed[id] = self._freed.pop(id, 0) + held
            self._num_freed += held

    def prefill(self, id: str, prompt: bytes, prompt_len: int, tokens: int) -> int:
        """Start a sequence, after `grow`; returns the tokens to compute."""
        own = self._freed.pop(id, 0)
        self._num_freed -= own
        if own:
            self._take(self._held[id] - own)
        whole = prompt_len // BLOCK_TOKENS
        hit = max(own - 1, whole if self._knows(prompt, whole) else 0) * BLOCK_TOKENS
        self.queries += tokens
        self.hits += hit
        return tokens - hit

    def _take(self, blocks: int) -> None:
        blank = min(blocks, self._blank)
        self._blank -= blank
        blocks -= blank
        while blocks > 0:
            id, count = next(iter(self._freed.items()))
            taken = min(blocks, count)
            if taken == count:
                del self._freed[id]
            else:
                self._freed[id] = count - taken
            self._num_freed -= taken
            blocks -= taken

    def _knows(self, prompt: bytes, whole: int) -> bool:
        if prompt in self._prompts:
            self._prompts.move_to_end(prompt)
            return True
        self._prompts[prompt] = whole
        self._prompt_blocks += whole
        while self._prompt_blocks > self.num_blocks:
            self._prompt_blocks -= self._prompts.popitem(last=False)[1]
        return False
