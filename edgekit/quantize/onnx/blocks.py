"""Weights in blocks that share a scale, as onnxruntime's `MatMulNBits` and `GatherBlockQuantized` read them.

Symmetric only: quants are unsigned with the middle as zero (8 of 4 bits, 128 of 8), so no zero points are stored.
`rtn` equals onnxruntime's own default quantizer bit for bit (a test compares); `search` looks for the scale of the
least squared error.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

METHODS = ("search", "rtn")
_CHUNK_BYTES = 2**18
"""Small enough that the passes of the search stay in a core's own cache."""
_CANDIDATES = range(-8, 9, 2)
"""Tenths of a level around the largest value's own scale; every other one of those that ggml's `make_qx_quants` tries:
half the time for a thousandth more error.
"""


def quantize_matrix(
    weight: Any, *, bits: int, block_size: int, method: str, threads: int = 1
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Quants (columns, blocks, bytes) and scales (columns, blocks) of `weight`, a float array of (rows, columns) as
    `MatMul` has it; each block lies along a column. The last block of a column is padded with zeros.

    `weight` may be a view of a mapped file: a few columns at a time are brought into memory.
    """
    import numpy as np

    rows, columns = weight.shape
    blocks = -(-rows // block_size)
    packed = np.empty((columns, blocks, block_size * bits // 8), np.uint8)
    scales = np.empty((columns, blocks), np.float32)

    def work(span: slice) -> None:
        values = np.zeros((span.stop - span.start, blocks * block_size), np.float32)
        values[:, :rows] = weight[:, span].T
        quants, scale = _quantize(values.reshape(-1, block_size), bits, method)
        packed[span] = _pack(quants, bits).reshape(-1, *packed.shape[1:])
        scales[span] = scale.reshape(-1, blocks)

    with ThreadPoolExecutor(max(1, threads)) as pool:
        list(pool.map(work, _spans(columns, max(1, _CHUNK_BYTES // (4 * blocks * block_size)))))
    return packed, scales


def quantize_columns(weight: Any) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Signed 8-bit quants (rows, columns) and a scale for each column, as onnxruntime's `quantize_dynamic` makes them
    with `per_channel=True`.
    """
    import numpy as np

    rows, columns = weight.shape
    quants = np.empty((rows, columns), np.int8)
    scales = np.empty(columns, np.float32)
    for span in _spans(columns, max(1, _CHUNK_BYTES // (4 * rows))):
        values = np.asarray(weight[:, span], np.float32)
        largest = np.abs(values).max(axis=0)
        scale = (largest - -largest) / np.float32(254)
        scale[scale < np.finfo(np.float32).tiny] = 1
        scales[span] = scale
        quants[:, span] = np.clip(np.rint(values / scale), -127, 127)
    return quants, scales


def dequantize(packed: NDArray[np.uint8], scales: NDArray[np.float32], *, bits: int) -> NDArray[np.float32]:
    """The weights that quants and scales stand for, (columns, padded rows)."""
    import numpy as np

    quants = packed.astype(np.float32)
    if bits == 4:
        quants = np.stack([packed & 0x0F, packed >> 4], axis=-1).reshape(*packed.shape[:2], -1).astype(np.float32)
    weights: NDArray[np.float32] = (quants - np.float32(2 ** (bits - 1))) * scales[..., None]
    return weights.reshape(len(packed), -1)


def _spans(columns: int, step: int) -> Iterator[slice]:
    return (slice(start, min(start + step, columns)) for start in range(0, columns, step))


def _quantize(values: NDArray[np.float32], bits: int, method: str) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Unsigned quants and scale of each row of `values`."""
    import numpy as np

    middle = np.float32(2 ** (bits - 1))
    at = np.abs(values).argmax(axis=1)
    largest = values[np.arange(len(values)), at][:, None]
    searching = method == "search" and bits < 8  # at 8 bits there is next to nothing to find
    scale = _search(values, largest, middle) if searching else largest / -middle
    return _round(values, scale, middle), scale[:, 0]


def _round(values: NDArray[np.float32], scale: NDArray[np.float32], middle: np.float32) -> NDArray[np.uint8]:
    """Nearest quants, halves upwards, as `MlasQuantizeBlockwise` rounds."""
    import numpy as np

    with np.errstate(divide="ignore"):
        inverse = np.where(scale == 0, np.float32(0), np.float32(1) / scale)
    scaled = values * inverse
    scaled += middle
    np.clip(scaled, 0, 2 * middle - 1, out=scaled)
    scaled += np.float32(0.5)
    return scaled.astype(np.uint8)


def _search(values: NDArray[np.float32], largest: NDArray[np.float32], middle: np.float32) -> NDArray[np.float32]:
    """The scale of least squared error: each candidate gives quants, and quants give their best scale by least squares
    (ggml `make_qx_quants` with all weights one, which served the students better than the squares: LOG.md).
    """
    import numpy as np

    best = (largest / -middle)[:, 0]
    gain = np.full_like(best, -1)
    quants = np.empty_like(values)
    with np.errstate(divide="ignore", invalid="ignore"):
        unit = values * np.where(largest == 0, np.float32(0), np.float32(-1) / largest)
        for step in _CANDIDATES:
            np.multiply(unit, middle + np.float32(0.1) * step, out=quants)
            np.rint(quants, out=quants)
            np.clip(quants, -middle, middle - 1, out=quants)
            cross = np.einsum("bi,bi->b", values, quants)
            square = np.einsum("bi,bi->b", quants, quants)
            gained = cross * cross / square  # not a number in a block of zeros, and never better
            better = gained > gain
            np.copyto(best, cross / square, where=better)
            np.copyto(gain, gained, where=better)
    return best[:, None]


def _pack(quants: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    if bits == 8:
        return quants
    low, high = quants[:, 0::2], quants[:, 1::2]
    return low | (high << 4).astype(low.dtype)
