"""Tensors as they come back from a quantized type: the values, and what is lost by the importance matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from edgekit.errors import EdgekitError
from edgekit.header.ggml import BLOCK
from edgekit.quantize.ggml_types import PLAIN, dequantize_rows, quantize_rows
from edgekit.records import Header, TensorInfo

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Rows = NDArray[np.float32]
    Bytes = NDArray[np.uint8]

DEFAULT_TYPES = (
    "q2_k", "q3_k", "iq4_xs", "iq4_nl", "q4_0", "q4_k", "q5_0", "q5_1", "q5_k", "q6_k", "q8_0", "f16",
)  # fmt: skip
"""From 2.6 to 16 bits. Not iq3_s and its like: ggml enlarges their scales by 3 % (`* 1.033f` in `ggml-quants.c`), what
comes back is 2 % too large alike in every such tensor, and errors that are alike add up: a plan with five of them lost
twice the sum of its parts (`benchmarks/LOG.md`).
"""

WANT_IMATRIX = ("iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs")
"""llama-quantize makes these of no tensor without an importance matrix (`tensor_requires_imatrix`)."""

PART_VALUES = 2**16
"""Values worked on by one thread at a time."""

SAMPLED_VALUES = 2**19
"""The error of larger tensors is taken from evenly spaced rows of about so many values: it is a mean over rows, known
to a per cent from a few hundred.
"""

_NEVER = ("_norm.weight", "ffn_gate_inp.weight")


def quantizable(header: Header) -> tuple[TensorInfo, ...]:
    """The tensors that llama.cpp's quantizer touches (`tensor_allows_quantization` of `src/llama-quant.cpp`).

    Raises EdgekitError where one of them is already quantized.
    """
    matrices = tuple(
        tensor
        for tensor in header.tensors
        if len(tensor.shape) > 1 and tensor.name.endswith("weight") and not tensor.name.endswith(_NEVER)
    )
    for tensor in matrices:
        if tensor.type not in PLAIN:
            raise EdgekitError(
                f"sensitivity is measured on the full-precision model, this one has: `{tensor.type}`",
                hint="start from the checkpoint, or from its f16 or f32 GGUF",
            )
    if not matrices:
        raise EdgekitError(f"the model has no tensor that can be quantized: `{header.name}`")
    return matrices


def types_for(tensor: TensorInfo, types: Sequence[str], *, weighed: bool) -> tuple[str, ...]:
    """Those of `types` that `tensor` can take: whole blocks, no larger than it is, and with what they need to know."""
    own = BLOCK[tensor.type][1] / BLOCK[tensor.type][0]
    return tuple(
        kind
        for kind in types
        if tensor.shape[0] % BLOCK[kind][0] == 0
        and BLOCK[kind][1] / BLOCK[kind][0] <= own
        and (weighed or kind not in WANT_IMATRIX)
    )


def degraded(rows: Rows, kind: str, importance: Rows | None, pool: ThreadPoolExecutor) -> Rows:
    """`rows` of shape (rows, row length) as they come back from `kind`; `importance` weighs the columns."""
    import numpy as np

    step = max(1, PART_VALUES // rows.shape[1])
    parts = [rows[start : start + step] for start in range(0, len(rows), step)]

    def there_and_back(part: Rows) -> Rows:
        return dequantize_rows(quantize_rows(part, kind, importance), kind, part.shape)

    return np.concatenate(list(pool.map(there_and_back, parts)))


def relative_errors(
    matrices: Sequence[tuple[Rows, Rows | None]], types: Sequence[str], pool: ThreadPoolExecutor
) -> dict[str, float]:
    """Σ h·(w − w')² ÷ Σ h·w² of a tensor for each type, with h the columns' importance: the mean squared error of its
    outputs relative to their mean square, for inputs whose columns are uncorrelated.

    `matrices` are its (rows, importance): one, or one for each expert.
    """
    import numpy as np

    sampled = [(_sample(rows, SAMPLED_VALUES // len(matrices)), importance) for rows, importance in matrices]
    signal = sum(float(np.einsum("ij,ij,j->", r, r, _weights(r, h), dtype=np.float64)) for r, h in sampled)
    errors = {}
    for kind in types:
        lost = 0.0
        for rows, importance in sampled:
            gone = rows - degraded(rows, kind, importance, pool)
            lost += float(np.einsum("ij,ij,j->", gone, gone, _weights(rows, importance), dtype=np.float64))
        errors[kind] = lost / signal if signal > 0 else 0.0
    return errors


def _weights(rows: Rows, importance: Rows | None) -> Rows:
    import numpy as np

    return np.ones(rows.shape[1], np.float32) if importance is None else importance


def _sample(rows: Rows, values: int) -> Rows:
    import numpy as np

    count = max(64, values // rows.shape[1])
    if len(rows) <= count:
        return rows
    return np.ascontiguousarray(rows[np.linspace(0, len(rows) - 1, count).astype(int)])


def matrices_of(tensor: TensorInfo, raw: Bytes, importance: Mapping[str, Rows]) -> list[tuple[Rows, Rows | None]]:
    """(rows, importance of the columns) of a tensor's stored bytes: one pair, or one for each expert.

    Raises EdgekitError where the importance is of another width.
    """
    columns, rows, experts = (*tensor.shape, 1, 1)[:3]
    weighed = importance.get(tensor.name)
    if weighed is not None and weighed.size != columns * experts:
        weighed = None  # as llama-quantize does for the token table; other tensors were checked when the file was read
    values = dequantize_rows(raw.data, tensor.type, (experts, rows, columns))
    per_expert = [None] * experts if weighed is None else list(weighed.reshape(experts, columns))
    return list(zip(values, per_expert, strict=True))
