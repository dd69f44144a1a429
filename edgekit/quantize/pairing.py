"""A quantized artifact beside the full-precision model it was made of: which tensors it holds otherwise, and by how
much. Both files are mapped, never read whole.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.errors import EdgekitError
from edgekit.header import read_header, tensor_offsets
from edgekit.header.onnx_folder import is_onnx
from edgekit.quantize.degrading import SAMPLED_VALUES, Matrix
from edgekit.quantize.ggml_types import PLAIN, TENSOR_TYPES
from edgekit.records import Header, TensorInfo

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Bytes = NDArray[np.uint8]

ROUNDING = 1e-5
"""Relative squared error that storing a tensor as bf16 or f16 makes is below it; more is another value."""

ANOTHER_MODEL = 0.5
"""Half of an artifact's tensors with more relative squared error than that were not made of this parent: one bit a
weight makes 0.36 (1 − 2/π for normal weights), and two unrelated tensors make 2.
"""


@dataclass(frozen=True, slots=True)
class Changed:
    """A tensor that the artifact holds otherwise than its parent does: quantized, or with other values altogether."""

    ours: TensorInfo
    parent: TensorInfo
    error: float
    """Σ (w' − w)² ÷ Σ w² over evenly spaced rows."""

    @property
    def quantized(self) -> bool:
        return self.ours.type not in PLAIN


@dataclass(frozen=True, slots=True)
class Pair:
    """`changed` in the file's order; the mapped bytes of both files behind `ours` and `parents`."""

    artifact: Header
    reference: Header
    changed: tuple[Changed, ...]
    ours: Mapping[str, Bytes]
    parents: Mapping[str, Bytes]


def open_pair(artifact: Path, reference: Path, *, threads: int) -> Pair:
    """The pair of GGUF files. Raises EdgekitError for files that are no such pair: ONNX, shards, other architectures,
    tensors or shapes, a quantized reference, an artifact in which nothing is quantized, or one made of other weights.
    """
    ours, parents = (_header(path) for path in (artifact, reference))
    _check_alike(ours, parents)
    _check_types(ours, parents)
    our_bytes, parent_bytes = _mapped(artifact, ours), _mapped(reference, parents)
    by_name = {tensor.name: tensor for tensor in parents.tensors}

    def compare(tensor: TensorInfo) -> Changed:
        parent = by_name[tensor.name]
        error = _error(tensor, parent, our_bytes[tensor.name], parent_bytes[tensor.name])
        return Changed(tensor, parent, error)

    with ThreadPoolExecutor(threads) as pool:
        compared = list(pool.map(compare, ours.tensors))
    changed = tuple(one for one in compared if one.quantized or one.error > ROUNDING)
    typical = statistics.median(one.error for one in changed if one.quantized)
    if typical > ANOTHER_MODEL:
        raise EdgekitError(
            f"the artifact was not made of this reference: its tensors differ by {100 * typical**0.5:.0f} %: "
            f"`{reference.name}`",
            hint="give the full-precision GGUF that the artifact was quantized from",
        )
    return Pair(ours, parents, changed, our_bytes, parent_bytes)


def differing_settings(pair: Pair) -> list[tuple[str, str, str]]:
    """(key, the artifact's value, the reference's) of what both headers say of the architecture, where they differ."""
    prefix = f"{pair.reference.architecture}."
    ours, parents = (dict(header.metadata) for header in (pair.artifact, pair.reference))
    keys = [key for key in ours if key.startswith(prefix) and key in parents]
    return [(key, ours[key], parents[key]) for key in keys if ours[key] != parents[key]]


def _header(path: Path) -> Header:
    if is_onnx(path):
        raise EdgekitError(
            f"where KLD comes from is measured tensor by tensor in GGUF files, and this is ONNX: `{path}`",
            hint="quantize the same checkpoint with `--to gguf:q4_0`, and look there",
        )
    header = read_header(path)
    if header.shards > 1:
        raise EdgekitError(
            f"where KLD comes from is measured on models in one file, this one has shards: `{path}`",
            hint="merge the shards first, with `llama-gguf-split --merge`",
        )
    return header


def _check_alike(ours: Header, parents: Header) -> None:
    hint = "give the full-precision GGUF that the artifact was quantized from"
    if ours.architecture != parents.architecture:
        raise EdgekitError(
            f"the artifact is a {ours.architecture}, the reference another architecture: `{parents.architecture}`",
            hint=hint,
        )
    mine, theirs = ({tensor.name: tensor.shape for tensor in header.tensors} for header in (ours, parents))
    for one, other, which in ((mine, theirs, "reference"), (theirs, mine, "artifact")):
        missing = next((name for name in one if name not in other), None)
        if missing is not None:
            raise EdgekitError(f"the {which} lacks a tensor that the other has: `{missing}`", hint=hint)
    for name, shape in mine.items():
        if shape != theirs[name]:
            raise EdgekitError(
                f"a tensor has the shape {list(shape)} in the artifact and {list(theirs[name])} in the reference: "
                f"`{name}`",
                hint=hint,
            )


def _check_types(ours: Header, parents: Header) -> None:
    rough = next((tensor for tensor in parents.tensors if tensor.type not in PLAIN), None)
    if rough is not None:
        raise EdgekitError(
            f"the reference is itself not of floats: its `{rough.name}` is `{rough.type}`",
            hint="give the f16, bf16 or f32 GGUF that the artifact was quantized from",
        )
    strange = next((tensor for tensor in ours.tensors if tensor.type not in TENSOR_TYPES), None)
    if strange is not None:
        raise EdgekitError(f"the artifact's `{strange.name}` is of a type that is no weights': `{strange.type}`")
    if all(tensor.type in PLAIN for tensor in ours.tensors):
        raise EdgekitError(
            f"nothing in the artifact is quantized: `{ours.name}`", hint="give the quantized file that would ship"
        )


def _mapped(path: Path, header: Header) -> dict[str, Bytes]:
    """Each tensor's stored bytes."""
    import numpy as np

    whole = np.memmap(path, np.uint8, "r")
    starts = tensor_offsets(path)
    return {
        tensor.name: whole[start : start + tensor.size_bytes]
        for tensor, start in zip(header.tensors, starts, strict=True)
    }


def _error(ours: TensorInfo, parent: TensorInfo, our_bytes: Bytes, parent_bytes: Bytes) -> float:
    """Raises EdgekitError where the artifact's values are no numbers."""
    import numpy as np

    if ours.type == parent.type and np.array_equal(our_bytes, parent_bytes):
        return 0.0
    whole = [as_matrix(ours, our_bytes), as_matrix(parent, parent_bytes)]
    rows, columns = len(whole[0].stored), ours.shape[0]
    chosen = np.unique(np.linspace(0, rows - 1, max(64, SAMPLED_VALUES // columns)).astype(np.intp))
    found, wanted = (matrix.values(chosen).astype(np.float64) for matrix in whole)
    if not np.isfinite(found).all():
        raise EdgekitError(
            f"a tensor of the artifact holds values that are no numbers: `{ours.name}`",
            hint="quantize it anew: nothing that it feeds can be right",
        )
    signal = float(np.square(wanted).sum())
    lost = float(np.square(found - wanted).sum())
    return lost / signal if signal > 0 else float(lost > 0)


def as_matrix(tensor: TensorInfo, stored: Bytes) -> Matrix:
    """All rows of a tensor, its experts' one after another."""
    return Matrix(stored.reshape(math.prod(tensor.shape[1:]), -1), tensor.type, None)
