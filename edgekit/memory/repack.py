"""Which weights llama.cpp copies into its kernels' own layout, by instruction set, and how large the copy is.

From llama.cpp 0c1e57098: `ggml/src/ggml-cpu/repack.cpp` (ggml_repack_get_optimal_repack_type) and
`ggml/src/ggml-cpu/amx/` (tried first where it is compiled in). KleidiAI is off in default builds and left out.
An ISA is the architecture and its features joined by `+`: `arm64+dotprod+i8mm`, `x86_64+avx512+vnni`.
"""

from __future__ import annotations

from edgekit.errors import EdgekitError
from edgekit.header.ggml import BLOCK
from edgekit.records import TensorInfo

FEATURES = {
    "arm64": ("neon", "dotprod", "i8mm", "sve", "sve2", "bf16", "fp16", "sme"),
    "x86_64": ("avx", "avx2", "fma", "f16c", "avx_vnni", "avx512", "vnni", "bf16", "amx"),
}
"""Known features; only `dotprod`, `i8mm`, `avx2`, `avx512` and `amx` change what is repacked."""

_ROWS_DIVISIBLE_BY: dict[str, dict[str, int]] = {
    "avx2": {"q4_0": 8, "q4_k": 8, "iq4_nl": 8, "mxfp4": 8},
    "avx512": {"q2_k": 8},
    # dotprod and i8mm repack the same tensors, into different layouts of the same size
    "dotprod": {"q4_0": 4, "q4_k": 8, "q5_k": 8, "q6_k": 8, "q8_0": 4, "iq4_nl": 4, "mxfp4": 4, "q1_0": 4},
    "i8mm": {"q4_0": 4, "q4_k": 8, "q5_k": 8, "q6_k": 8, "q8_0": 4, "q1_0": 4},
}
"""Feature → tensor type → the number of rows must be a multiple of this."""

_AMX_EXTRA_BYTES_PER_BLOCK = {"q4_0": 0, "q4_1": 0, "q8_0": 4, "q4_k": 4, "q5_k": 4, "q6_k": 0, "iq4_xs": 2}
"""What the AMX layout adds to each block (`get_row_size` in `amx/mmq.cpp`): compensation or unpacked scales."""


def features_of(isa: str) -> frozenset[str]:
    """The features of `isa` with those they imply. Raises EdgekitError on an architecture or feature nobody named."""
    architecture, *named = isa.split("+")
    known = FEATURES.get(architecture)
    if known is None:
        raise EdgekitError(f"unknown instruction set: `{isa}`", hint=f"edgekit knows {', '.join(FEATURES)}")
    for feature in named:
        if feature not in known:
            raise EdgekitError(
                f"unknown feature `{feature}` in instruction set: `{isa}`", hint=f"known: {', '.join(known)}"
            )
    features = {architecture, *named}
    for feature, implied in (("amx", "vnni"), ("vnni", "avx512"), ("avx512", "avx2"), ("i8mm", "dotprod")):
        features |= {implied} if feature in features else set()
    return frozenset(features)


def repacked_bytes(tensor: TensorInfo, features: frozenset[str], *, expert: bool = False) -> int:
    """Size of the private copy of a matrix that is multiplied with, 0 where llama.cpp uses it as stored.

    `expert` marks three-dimensional expert tensors, which AMX does not take.
    """
    if len(tensor.shape) != (3 if expert else 2):
        return 0
    columns, rows = tensor.shape[:2]
    if "amx" in features and not expert and rows % 32 == 0:
        if tensor.type == "f16" and columns % 16 == 0:
            return tensor.size_bytes
        if tensor.type in _AMX_EXTRA_BYTES_PER_BLOCK:
            blocks = columns // BLOCK[tensor.type][0] * rows
            return tensor.size_bytes + blocks * _AMX_EXTRA_BYTES_PER_BLOCK[tensor.type]
    for feature, types in _ROWS_DIVISIBLE_BY.items():
        if feature in features and tensor.type in types and rows % types[tensor.type] == 0:
            return tensor.size_bytes
    return 0
