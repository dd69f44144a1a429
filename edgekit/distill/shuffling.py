"""An order of the seed over more windows than are counted out: every place is computed alone, in no memory.

A Feistel network permutes the numbers of 2k bits (Luby & Rackoff 1988), and those that fall outside of the count are
permuted again until they do not ("cycle walking", Black & Rogaway 2002): a permutation of any count. Its rounds mix by
the finalizer of MurmurHash3, which is good enough to shuffle by, and nothing for secrets.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from edgekit.errors import import_extra

if TYPE_CHECKING:
    from torch import Tensor

ROUNDS = 6
_M1, _M2 = 0x85EBCA6B, 0xC2B2AE35
_WORD = 2**32 - 1


def shuffled(places: Tensor, count: int, seed: int, number: int) -> Tensor:
    """What stands at `places` (int64, 0 ≤ place < count ≤ 2^60) in the order of pass `number`: int64 as many."""
    torch = import_extra("torch", extra="distill")
    bits = max(2, -(-(count - 1).bit_length() // 2))
    keys = [
        int.from_bytes(hashlib.sha256(f"windows {seed} {number} {one}".encode()).digest()[:4], "little")
        for one in range(ROUNDS)
    ]
    found = _network(places.to(torch.int64), bits, keys)
    while bool((outside := found >= count).any()):
        found[outside] = _network(found[outside], bits, keys)
    return found


def _network(numbers: Tensor, bits: int, keys: list[int]) -> Tensor:
    mask = (1 << bits) - 1
    left, right = numbers >> bits, numbers & mask
    for key in keys:
        left, right = right, left ^ (_mixed(right ^ key) & mask)
    found: Tensor = (left << bits) | right
    return found


def _mixed(words: Tensor) -> Tensor:
    """32 bits of each; products wrap at 64 bits and only their low half is kept."""
    words = words & _WORD
    words = ((words ^ (words >> 16)) * _M1) & _WORD
    words = ((words ^ (words >> 13)) * _M2) & _WORD
    return words ^ (words >> 16)
