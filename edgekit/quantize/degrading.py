"""Tensors as they come back from a quantized type: the values, and what is lost by the importance matrix."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
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

SAMPLED_VALUES = 2**18
"""The error of larger tensors is taken from evenly spaced rows of about so many values: it is a mean over rows, and a
hundred or more of them tell it within a few per cent.
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


@dataclass(frozen=True, slots=True)
class Matrix:
    """A tensor, or one of its experts: `stored` are its rows as in the file, (rows, bytes of a row)."""

    stored: Bytes
    type: str
    importance: Rows | None

    def values(self, rows: slice | NDArray[np.intp] = slice(None)) -> Rows:
        """Some of the rows as float32."""
        import numpy as np

        chosen = np.ascontiguousarray(self.stored[rows])
        columns = chosen.shape[1] // BLOCK[self.type][1] * BLOCK[self.type][0]
        return dequantize_rows(chosen.data.cast("B"), self.type, (len(chosen), columns))

    def rewritten(self, kind: str, pool: ThreadPoolExecutor) -> Iterator[tuple[int, bytes]]:
        """(first row, bytes) of part after part as it would be stored after it had been of type `kind`."""
        columns = self.stored.shape[1] // BLOCK[self.type][1] * BLOCK[self.type][0]
        step = max(1, PART_VALUES // columns)
        starts = range(0, len(self.stored), step)

        def part(start: int) -> bytes:
            rows = self.values(slice(start, start + step))
            back = dequantize_rows(quantize_rows(rows, kind, self.importance), kind, rows.shape)
            return quantize_rows(back, self.type)

        return zip(starts, pool.map(part, starts), strict=True)


def matrices_of(tensor: TensorInfo, raw: Bytes, importance: Mapping[str, Rows]) -> list[Matrix]:
    """A tensor's stored bytes as one matrix, or one for each expert, with the importance of its columns."""
    columns, rows, experts = (*tensor.shape, 1, 1)[:3]
    weighed = importance.get(tensor.name)
    if weighed is not None and weighed.size != columns * experts:
        weighed = None  # as llama-quantize does for the token table; other tensors were checked when the file was read
    stored = raw.reshape(experts, rows, -1)
    return [
        Matrix(stored[index], tensor.type, None if weighed is None else weighed.reshape(experts, columns)[index])
        for index in range(experts)
    ]


def relative_errors(matrices: Sequence[Matrix], types: Sequence[str], pool: ThreadPoolExecutor) -> dict[str, float]:
    """Σ h·(w − w')² ÷ Σ h·w² of a tensor for each type, with h the columns' importance: the mean squared error of its
    outputs relative to their mean square, for inputs whose columns are uncorrelated.
    """
    sampled = [(_sample(matrix, SAMPLED_VALUES // len(matrices)), matrix.importance) for matrix in matrices]
    signal = sum(_weighed(rows, importance) for rows, importance in sampled)
    errors = {}
    for kind in types:
        lost = sum(_weighed(rows - degraded(rows, kind, weights, pool), weights) for rows, weights in sampled)
        errors[kind] = lost / signal if signal > 0 else 0.0
    return errors


def _weighed(rows: Rows, importance: Rows | None) -> float:
    """Σ h·w²."""
    import numpy as np

    weights = np.ones(rows.shape[1], np.float32) if importance is None else importance
    return float(np.einsum("ij,ij,j->", rows, rows, weights, dtype=np.float64))


def _sample(matrix: Matrix, values: int) -> Rows:
    """Evenly spaced rows of about so many values."""
    import numpy as np

    rows, row_bytes = matrix.stored.shape
    columns = row_bytes // BLOCK[matrix.type][1] * BLOCK[matrix.type][0]
    count = max(64, values // columns)
    return matrix.values(slice(None) if rows <= count else np.linspace(0, rows - 1, count).astype(np.intp))
