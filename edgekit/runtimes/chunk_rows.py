"""A session's logits over a chunk of text, a block of tokens at a time: fed as they are asked for, or a whole chunk
evaluated ahead, where a session can keep what their logits are made of.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from edgekit.runtimes.lean import LeanSession

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgekit.runtimes.references import ScoringSession


class ChunkRows(Protocol):
    """`begin` for each chunk, then `take` and `release` for each of its blocks, in order."""

    def begin(self, chunk: Sequence[int]) -> None:
        """A chunk, the first half of which is context."""
        ...

    def take(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """The logits after each of `tokens`, the chunk's next ones, (len(tokens), vocabulary), good until the next call
        of any method.
        """
        ...

    def release(self) -> None:
        """What was taken is no longer needed; after a chunk's last block nothing is."""
        ...


def chunk_rows(session: ScoringSession, block_rows: int) -> ChunkRows:
    """The leanest way that `session` has; no more than `block_rows` tokens are taken at once."""
    if isinstance(session, LeanSession) and session.splits:
        return RowsAhead(session, block_rows)
    return RowsFed(session)


class RowsFed:
    """Blocks are evaluated when they are taken. The context is kept, to be evaluated together with the first: that is
    one batch less.
    """

    def __init__(self, session: ScoringSession) -> None:
        self._session = session
        self._context: Sequence[int] = ()

    def begin(self, chunk: Sequence[int]) -> None:
        """Nothing is evaluated yet."""
        self._session.reset()
        self._context = chunk[: len(chunk) // 2]

    def take(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Evaluate them."""
        logits = self._session.feed([*self._context, *tokens], want=len(tokens), copy=False)
        self._context = ()
        return logits

    def release(self) -> None:
        """Nothing to do: the next block is evaluated into the same memory."""


class RowsAhead:
    """The chunk is evaluated at once but for its logits, and nothing but hidden rows is kept of it: of two models only
    one has keys and values at a time.
    """

    def __init__(self, session: LeanSession, block_rows: int) -> None:
        self._session, self._block_rows = session, block_rows
        self._rows: list[NDArray[np.float32]] = []

    def begin(self, chunk: Sequence[int]) -> None:
        """Evaluate the chunk."""
        half, size = len(chunk) // 2, self._block_rows
        begins = range(half, len(chunk) - 1, size)  # nothing follows the last token
        end = min(begins[-1] + size, len(chunk))
        self._session.reset()
        rows = self._session.hidden_rows(chunk[:end], end - half)
        self._rows = [rows[begin - half : begin - half + size] for begin in begins]
        self._session.rest()

    def take(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Multiply the next block's rows with the output matrix."""
        rows = self._rows.pop(0)
        assert len(rows) == len(tokens)
        return self._session.logits_of(rows)

    def release(self) -> None:
        """Give the memory back with the last block: another model's chunk comes next."""
        if not self._rows:
            self._session.rest()
