"""A chunk of a compact reference as bytes: the text's tokens and `Rows`. All numbers are little-endian.

A chunk comes in parts of a few hundred rows, each decoded alone, so that a long context takes no more memory than a
short one; the first part has the tokens.
A token's id is written as its low 16 bits; ids ascend in a row, and how many of them lie in each block of 65 536 says
the rest. log p of a certain token has 24 bits (steps of 2⁻¹⁹ nat below 0), of a sampled one 16 (2⁻¹¹ below the cut):
of the divergence that costs about the squares of those, 1e-12 and, of the tail's share alone, 1e-8.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from edgekit.runtimes.compact.rows import CERTAIN_BYTES, LEAST_CUT, SAMPLED_BYTES, Entries, Rows

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Words = NDArray[np.uint16]

PART_ROWS = 256
"""All that llama.cpp's usual context of 512 tokens scores."""

_COUNTS = struct.Struct("<IIII")  # tokens, rows, certain tokens, sampled tokens
_COLUMN_BYTES = 4 * 8 + 4  # nll, log cut, tail, padding; top
_BLOCK_BYTES = 2 * 2  # certain and sampled tokens in a block
LEAST_PART_BYTES = _COUNTS.size + _COLUMN_BYTES + _BLOCK_BYTES
"""A part has a row or more."""

_SECTION_HEAD_BYTES = 20  # of `file`
_BLOCK_BITS = 16
_CERTAIN_STEP, _SAMPLED_STEP = 2.0**-19, 2.0**-11
_MOST_CERTAIN, _MOST_SAMPLED = 2**24 - 1, 2**16 - 1
_LEAST_LOG_CUT = -32.0  # what 24 bits reach
_WHOLE = 1e-3
"""How far from one the probabilities of a row may sum up, rounding and all."""

_ROUNDED = 1e-4
"""Nats that float32 exponentials and the file's steps may move a probability."""

_LEAST_ROW_BYTES = 100
"""No file was ever made of smaller rows."""


class Damaged(Exception):  # noqa: N818  (named for what it is)
    """What should be a chunk's bytes is not; the text says what."""


def scored_rows(context_tokens: int) -> int:
    """Rows that a chunk scores: its second half, but for the last token."""
    return context_tokens - 1 - context_tokens // 2


def parts_of(context_tokens: int) -> int:
    """Parts that a chunk comes in."""
    return -(-scored_rows(context_tokens) // PART_ROWS)


def rows_of(context_tokens: int, part: int) -> int:
    """Rows of one of them."""
    return min(PART_ROWS, scored_rows(context_tokens) - part * PART_ROWS)


def largest_chunk(context_tokens: int, vocabulary: int, row_bytes: int) -> int:
    """Bytes that a chunk takes at most: a row may have a sample more than was reckoned with."""
    fixed = _COLUMN_BYTES + _BLOCK_BYTES * _blocks(vocabulary) + SAMPLED_BYTES + CERTAIN_BYTES
    heads = parts_of(context_tokens) * (_COUNTS.size + _SECTION_HEAD_BYTES)
    return heads + 4 * context_tokens + scored_rows(context_tokens) * (fixed + row_bytes)


def encode_chunk(tokens: list[int], rows: Rows, vocabulary: int) -> bytes:
    """The bytes of a part of a chunk whose text is `tokens`; none of them but in its first."""
    import numpy as np

    certain, sampled = rows.certain, rows.sampled
    code = np.rint(-certain.log_p / _CERTAIN_STEP).clip(0, _MOST_CERTAIN).astype("<u4")
    below = np.repeat(rows.log_cut, np.diff(sampled.starts)) - sampled.log_p
    parts = [
        np.asarray(tokens, "<u4"),
        *(np.asarray(column, "<f8") for column in (rows.nll, rows.log_cut, rows.tail, rows.padding)),
        rows.top.astype("<u4"),
        _block_counts(certain, vocabulary),
        _block_counts(sampled, vocabulary),
        (certain.tokens & 0xFFFF).astype("<u2"),
        (code >> 8).astype("<u2"),
        (code & 0xFF).astype("u1"),
        (sampled.tokens & 0xFFFF).astype("<u2"),
        np.rint(below / _SAMPLED_STEP).clip(0, _MOST_SAMPLED).astype("<u2"),
    ]
    counts = _COUNTS.pack(len(tokens), len(rows.nll), len(certain.tokens), len(sampled.tokens))
    return counts + b"".join(part.tobytes() for part in parts)


def decode_chunk(data: bytes, vocabulary: int, row_bytes: int) -> tuple[list[int], Rows]:
    """(tokens, rows) of what `encode_chunk` wrote, the certain tokens' probabilities made to sum up to 1 − tail.
    `row_bytes` are what `keep_rows` had.

    Raises Damaged for anything else: a stranger may have written it.
    """
    import numpy as np

    reader = _Reader(data)
    tokens, count, certain_count, sampled_count = reader.counts()
    blocks = _blocks(vocabulary)
    text = reader.take("<u4", tokens)
    nll, log_cut, tail, padding = (reader.take("<f8", count) for _ in range(4))
    top = reader.take("<u4", count).astype(np.int64)
    certain_blocks, sampled_blocks = (reader.take("<u2", count * blocks).reshape(count, blocks) for _ in range(2))
    certain_low, high = reader.take("<u2", certain_count), reader.take("<u2", certain_count)
    code = (high.astype(np.uint32) << 8) | reader.take("u1", certain_count)
    sampled_low, below = reader.take("<u2", sampled_count), reader.take("<u2", sampled_count)
    reader.end()
    certain = _entries(certain_blocks, certain_low, code * -_CERTAIN_STEP)
    sampled = _entries(sampled_blocks, sampled_low, np.zeros(sampled_count))
    sampled = Entries(sampled.starts, sampled.tokens, log_cut[sampled.rows()] - below * _SAMPLED_STEP)
    rows = Rows(nll, top, log_cut, tail, padding, certain, sampled)
    _check(rows, text, vocabulary)
    _check_samples(rows, row_bytes)
    return text.tolist(), _made_whole(rows)


class _Reader:
    """Takes arrays off the front of bytes and never reads beyond their end."""

    def __init__(self, data: bytes) -> None:
        self._data, self._place = data, 0

    def counts(self) -> tuple[int, int, int, int]:
        if len(self._data) < _COUNTS.size:
            raise Damaged("a part is missing")
        self._place = _COUNTS.size
        return _COUNTS.unpack_from(self._data)

    def take(self, dtype: str, count: int) -> NDArray[Any]:
        import numpy as np

        size = np.dtype(dtype).itemsize * count
        if self._place + size > len(self._data):
            raise Damaged("a part is missing")
        array = np.frombuffer(self._data, dtype, count, self._place)
        self._place += size
        return array

    def end(self) -> None:
        if self._place != len(self._data):
            raise Damaged("there is too much")


def _blocks(vocabulary: int) -> int:
    return ((vocabulary - 1) >> _BLOCK_BITS) + 1


def _block_counts(entries: Entries, vocabulary: int) -> Words:
    """How many of each row's tokens lie in each block, row by row."""
    import numpy as np

    blocks = _blocks(vocabulary)
    places = entries.rows() * blocks + (entries.tokens >> _BLOCK_BITS)
    return np.bincount(places, minlength=(len(entries.starts) - 1) * blocks).astype("<u2")


def _entries(counts: Words, low: Words, log_p: NDArray[np.float64]) -> Entries:
    import numpy as np

    if int(counts.sum(dtype=np.int64)) != len(low):
        raise Damaged("the counts of tokens disagree")
    block = np.tile(np.arange(counts.shape[1], dtype=np.int64), len(counts))
    tokens = (np.repeat(block, counts.ravel()) << _BLOCK_BITS) | low
    starts = np.concatenate([[0], np.cumsum(counts.sum(axis=1, dtype=np.int64))]).astype(np.int64)
    return Entries(starts, tokens, log_p)


def _check(rows: Rows, text: NDArray[np.uint32], vocabulary: int) -> None:
    """Raise Damaged for numbers that no distribution has: what follows relies on finite ones, and on ids in range."""
    import numpy as np

    columns = (rows.nll, rows.log_cut, rows.tail, rows.padding)
    if not len(rows.nll):
        raise Damaged("nothing is there")
    if not all(np.isfinite(column).all() for column in columns) or min(map(np.min, (rows.nll, rows.tail))) < 0:
        raise Damaged("some numbers cannot be")
    if rows.log_cut.max() > 0 or rows.log_cut.min() < _LEAST_LOG_CUT or rows.padding.min() < 0:
        raise Damaged("some numbers cannot be")
    for entries in (rows.certain, rows.sampled):
        same_row = np.diff(entries.rows()) == 0
        if (np.diff(entries.tokens)[same_row] <= 0).any() or entries.tokens.max(initial=0) >= vocabulary:
            raise Damaged("the tokens are out of order")
    if max(int(rows.top.max()), int(text.max(initial=0))) >= vocabulary:
        raise Damaged("the tokens are out of range")
    mass = np.bincount(rows.certain.rows(), np.exp(rows.certain.log_p), minlength=len(rows.nll))
    whole = np.abs(mass + rows.tail - 1) <= _WHOLE
    if not whole.all() or (rows.padding > rows.tail).any() or rows.tail[rows.certain.rows()].max(initial=0) >= 1:
        raise Damaged("the probabilities do not sum up to one")


def _check_samples(rows: Rows, row_bytes: int) -> None:
    """Raise Damaged for a tail that the samples do not stand for: without them every artifact would be alike there."""
    import numpy as np

    certain, sampled = np.diff(rows.certain.starts), np.diff(rows.sampled.starts)
    if (rows.tail[sampled > 0] <= 0).any():
        raise Damaged("there are samples of nothing")
    due = rows.tail / np.exp(rows.log_cut)
    if (np.abs(sampled - due) > 1 + 1e-6 * due).any():  # systematic sampling: the next whole number below or above
        raise Damaged("the samples are not as many as the tail has")
    if (rows.certain.log_p < rows.log_cut[rows.certain.rows()] - _ROUNDED).any():
        raise Damaged("a token that should have been sampled was not")
    # tokens fill their bytes, but for one or two, unless all that are cut off are small
    fewest = max(row_bytes, _LEAST_ROW_BYTES) // max(CERTAIN_BYTES, SAMPLED_BYTES) - 2
    cut = (rows.tail > 0) & (rows.log_cut > np.log(LEAST_CUT) + _ROUNDED)
    if (cut & (certain + sampled < fewest)).any():
        raise Damaged("too few tokens were kept")


def _made_whole(rows: Rows) -> Rows:
    """Rounding taken out of the sums, and with it what it would add to a divergence in the first order."""
    import numpy as np

    which = rows.certain.rows()
    with np.errstate(divide="ignore", invalid="ignore"):  # of rows without certain tokens nothing is used
        mass = np.bincount(which, np.exp(rows.certain.log_p), minlength=len(rows.nll))
        off = np.log(mass) - np.log1p(-np.minimum(rows.tail, 1.0))
    log_p = np.minimum(0.0, rows.certain.log_p - off[which])
    certain = Entries(rows.certain.starts, rows.certain.tokens, log_p)
    return Rows(rows.nll, rows.top, rows.log_cut, rows.tail, rows.padding, certain, rows.sampled)
