"""Training text as windows of equal length, in an order of the seed: a resumed run needs no generator state."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from edgekit.distill.shuffling import shuffled
from edgekit.errors import EdgekitError, import_extra

if TYPE_CHECKING:
    from torch import Tensor


_HASHED_AT_ONCE = 2**20
"""Tokens."""
COUNTED = 2**24
"""Windows whose order is counted out in memory: 128 MiB."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Windows:
    """`ids` (windows, length + 1) int64 and `weights` (windows, length + 1) float32: how much it counts to foretell
    each token. The last token of a window is foretold and never read, so windows overlap by one.
    """

    ids: Tensor
    weights: Tensor
    known_sha256: str = ""
    """Of windows on the disk (`stored_windows`), whose ids may be int32."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def length(self) -> int:
        """Tokens that a model reads of a window."""
        return self.ids.shape[1] - 1

    def batch(self, step: int, size: int, seed: int) -> Tensor:
        """Numbers of the windows of step `step` (from 0), (size,) int64: all windows are seen once, in an order of the
        seed, before any is seen again. A pure function of its arguments and the number of windows; of more than
        `COUNTED` the order is `shuffling.shuffled`'s, which needs no list of them.
        """
        torch = import_extra("torch", extra="distill")
        count, begin, end = len(self), step * size, (step + 1) * size
        parts = []
        for number in range(begin // count, (end - 1) // count + 1):
            first = number * count
            low, high = max(begin - first, 0), min(end - first, count)
            if count > COUNTED:
                parts.append(shuffled(torch.arange(low, high), count, seed, number))
            else:
                parts.append(_order(count, seed, number)[low:high])
        found: Tensor = torch.cat(parts)
        return found

    def part(self, indices: Tensor, device: Any = "cpu") -> tuple[Tensor, Tensor, Tensor]:
        """Of the windows of these numbers what a model reads, what it has to foretell there, and the weight of that:
        three tensors of (indices, length) on `device`.
        """
        ids, weights = self.ids[indices].long().to(device), self.weights[indices].to(device)
        return ids[:, :-1], ids[:, 1:], weights[:, 1:]

    def weight(self, indices: Tensor) -> float:
        """Sum of the weights of all that these windows foretell."""
        return float(self.weights[indices][:, 1:].sum())

    @property
    def sha256(self) -> str:
        """Of shape, ids and weights."""
        return self.known_sha256 or hash_rows(self.ids, self.weights)


def hash_rows(ids: Tensor, weights: Tensor) -> str:
    """SHA-256 of their shape and of both as int64 and float32, some rows at a time."""
    digest = hashlib.sha256(f"{tuple(ids.shape)}".encode())
    step = max(1, _HASHED_AT_ONCE // ids.shape[1])
    for begin in range(0, len(ids), step):
        for tensor in (ids[begin : begin + step].long(), weights[begin : begin + step]):
            digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def windows_of(token_ids: Sequence[int], weights: Sequence[float] | None, length: int) -> Windows:
    """Windows of `length` tokens and one more that is foretold; a rest that does not fill one is left out. Without
    `weights` all tokens count alike.

    Raises EdgekitError where there is not one window, or the weights are not as many as the tokens.
    """
    torch = import_extra("torch", extra="distill")
    if weights is not None and len(weights) != len(token_ids):
        raise EdgekitError(f"there are {len(token_ids)} tokens, but the number of weights is `{len(weights)}`")
    if len(token_ids) < length + 1:
        raise EdgekitError(f"the text has {len(token_ids)} tokens, fewer than one window of `{length + 1}`")
    counted = torch.ones(len(token_ids)) if weights is None else torch.tensor(weights, dtype=torch.float32)
    ids = torch.tensor(token_ids, dtype=torch.long)
    return Windows(ids=ids.unfold(0, length + 1, length), weights=counted.unfold(0, length + 1, length))


_LAST: dict[tuple[int, int], tuple[int, Any]] = {}
"""The generator after the newest pass of each order, so that the next one is not counted out from the first."""


@lru_cache(maxsize=2)  # a batch may be of two; of a large text each takes a gigabyte
def _order(count: int, seed: int, number: int) -> Tensor:
    """The order of pass `number`: one generator of `seed` draws the passes one after the other."""
    torch = import_extra("torch", extra="distill")
    generator = torch.Generator().manual_seed(seed)
    done, state = _LAST.get((count, seed), (0, None))
    if state is not None and done <= number:
        generator.set_state(state)
    else:
        done = 0
    for _ in range(number - done):
        torch.randperm(count, generator=generator)
    order: Tensor = torch.randperm(count, generator=generator)
    _LAST[count, seed] = (number + 1, generator.get_state())
    return order
