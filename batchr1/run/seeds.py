"""A sample's own seed."""

from __future__ import annotations

import hashlib


def derive_seed(seed: int | None, id: str, sample: int, attempt: int) -> int | None:
    """A sample's own seed, 63 bits: different for each sample and attempt, the same in every run of the job."""
    if seed is None:
        return None
    text = f"{seed}\0{id}\0{sample}\0{attempt}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1


def resumed_seed(seed: int | None, offset: int) -> int | None:
    """The seed for going on after `offset` saved tokens: the sample's own would start its random stream over.

    A row's `seed` and `resumed_at` say together which seeds were used.
    """
    if seed is None or offset == 0:
        return seed
    text = f"{seed}\0resumed at\0{offset}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1
