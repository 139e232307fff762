"""Seeds: each sample has its own."""

from __future__ import annotations

import dataclasses
import hashlib

from batchr1.records import WorkItem


def derive_seed(seed: int | None, id: str, sample: int, attempt: int) -> int | None:
    """Derive a sample's own seed, 63 bits; None without `seed`.

    It differs between samples and attempts, and is the same in every run of the job.
    """
    if seed is None:
        return None
    text = f"{seed}\0{id}\0{sample}\0{attempt}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1


def next_attempt(item: WorkItem, seed: int | None) -> WorkItem:
    """Make the item that tries a sample again, for the job's `seed`."""
    attempt = item.attempt + 1
    own = derive_seed(item.prompt.own.seed_or(seed), item.prompt.id, item.sample, attempt)
    return dataclasses.replace(item, attempt=attempt, seed=own)


def resumed_seed(seed: int | None, offset: int) -> int | None:
    """Derive the seed for going on after `offset` saved tokens.

    The sample's own seed would start its random stream over. A row's `seed` and `resumed_at` give
    all seeds that it had.
    """
    if seed is None or offset == 0:
        return seed
    text = f"{seed}\0resumed at\0{offset}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1
