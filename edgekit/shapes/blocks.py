"""Random but valid quantized blocks, straight into bytes: no floating-point weights are ever made.

The quants are uniform random bits. The scales are chosen so that a row of n values has the root mean square 1/√n: a
unit-variance input gives a unit-variance output, so activations neither explode nor vanish in any layer and no
arithmetic meets denormals, infinities or NaN. Layouts: `ggml/src/ggml-common.h`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgekit.shapes.mix import BLOCKS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Bytes = NDArray[np.uint8]

_F16_SMALLEST_NORMAL = 0x0400
_JITTER = 0x80
"""Scales vary by ± 64 steps of fp16's mantissa (about 5 %), so that no two blocks need be alike."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    """Where the fp16 scales of a block lie, and the root mean square of its values at scale 1.

    `min_ratio` is dmin ÷ d of the types with minima: that which makes the mean of the values zero.
    """

    scale_at: int
    rms: float
    signed: bool
    min_at: int | None = None
    min_ratio: float = 0.0
    confine: Callable[[Bytes], None] | None = None


def _three_bit_scales(blocks: Bytes) -> None:
    """Sub-block scales and minima of 0…7: wider ones would push d below fp16's normal range on long rows.

    Bytes 4–11 hold the first four of each in their low six bits and the upper bits of the others, whose low four bits
    share bytes 12–15.
    """
    blocks[:, 4:12] &= 0x07
    blocks[:, 12:16] &= 0x77


def _small_scales(blocks: Bytes) -> None:
    """The sixteen int8 sub-block scales of q6_k, made −8…7 for the same reason."""
    scales = blocks[:, 192:208]
    scales &= 0x0F
    scales -= 8  # wraps to the two's complement that int8 reads


def _odd_quants(blocks: Bytes) -> None:
    """ggml never writes −128 in q8_0, and kernels may rely on it: odd values only, −127…127."""
    blocks |= 0x01  # the whole block in one contiguous pass; the scale is written afterwards


def _uniform_squares(levels: int) -> float:
    """Mean square of 0 … levels−1."""
    return (levels - 1) * (2 * levels - 1) / 6


def _centred_squares(levels: int) -> float:
    """Mean square of −levels/2 … levels/2−1."""
    return (levels**2 - 1) / 12 + 0.25


def _with_minima_rms(levels: int) -> float:
    """RMS of s·q − r·m at scale 1 with s, m uniform on 0…7, q on 0…levels−1 and r = mean(q)."""
    scale, square, mean = 3.5, _uniform_squares(8), (levels - 1) / 2
    return math.sqrt(square * _uniform_squares(levels) - 2 * scale * mean * mean * scale + mean**2 * square)


_LAYOUTS = {
    "q4_0": _Layout(scale_at=0, rms=math.sqrt(_centred_squares(16)), signed=True),
    "q5_0": _Layout(scale_at=0, rms=math.sqrt(_centred_squares(32)), signed=True),
    "q5_1": _Layout(scale_at=0, rms=math.sqrt((32**2 - 1) / 12), signed=False, min_at=2, min_ratio=-15.5),
    "q8_0": _Layout(scale_at=0, rms=math.sqrt((128**2 - 1) / 3), signed=True, confine=_odd_quants),
    "q4_k": _Layout(
        scale_at=0, rms=_with_minima_rms(16), signed=False, min_at=2, min_ratio=7.5, confine=_three_bit_scales
    ),
    "q5_k": _Layout(
        scale_at=0, rms=_with_minima_rms(32), signed=False, min_at=2, min_ratio=15.5, confine=_three_bit_scales
    ),
    "q6_k": _Layout(
        scale_at=208, rms=math.sqrt(_centred_squares(16) * _centred_squares(64)), signed=True, confine=_small_scales
    ),
}


def random_blocks(kind: str, count: int, row_length: int, seed: tuple[int, ...]) -> NDArray[np.uint8]:
    """`count` blocks of type `kind` as bytes, for rows of `row_length` values; the same for the same seed."""
    import numpy as np

    size = BLOCKS[kind][1]
    words = np.random.SFC64(list(seed)).random_raw((count * size + 7) // 8)
    data: NDArray[np.uint8] = words.view(np.uint8)[: count * size]
    if kind == "f16":
        _confine_f16(data.view("<u2"), row_length)
        return data
    layout = _LAYOUTS[kind]
    blocks = data.reshape(count, size)
    if layout.confine is not None:
        layout.confine(blocks)
    scale = 1 / (math.sqrt(row_length) * layout.rms)
    _write_scale(blocks, layout.scale_at, scale, signed=layout.signed)
    if layout.min_at is not None:
        _write_scale(blocks, layout.min_at, scale * layout.min_ratio, signed=False)
    return data


def constant_f32(name: str, count: int, seed: tuple[int, ...]) -> NDArray[np.uint8]:
    """A tensor of one dimension: norms are 1, biases small and random."""
    import numpy as np

    if name.endswith(".bias"):
        values = np.random.Generator(np.random.SFC64(list(seed))).normal(0, 0.02, count)
    else:
        values = np.ones(count)
    return values.astype("<f4").view(np.uint8)


def _write_scale(blocks: Bytes, at: int, value: float, *, signed: bool) -> None:
    """An fp16 of about `value` per block, in integer arithmetic: the random bits there jitter it (and its sign)."""
    fields: Any = blocks[:, at : at + 2].view("<u2")
    bits = max(_f16_bits(abs(value)), _F16_SMALLEST_NORMAL + _JITTER // 2) - _JITTER // 2
    fields &= (0x8000 if signed else 0) | (_JITTER - 1)
    fields += bits | (0x8000 if value < 0 else 0)


def _confine_f16(fields: Any, row_length: int) -> None:
    """Random signs and mantissas at one fixed exponent: |w| uniform over an octave, whose RMS is √(7/3) × its start."""
    start = _f16_bits(1 / (math.sqrt(row_length) * math.sqrt(7 / 3)))
    fields &= 0x83FF
    fields += start


def _f16_bits(value: float) -> int:
    import numpy as np

    return int(np.float16(value).view(np.uint16))
