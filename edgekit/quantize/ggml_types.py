"""What llama.cpp's quantizer offers, and the door to ggml's own row functions.

Every file type (`q4_k_m`: a mix of tensor types) and every tensor type (`q4_k`) that llama-quantize takes, and
`quantize_rows`/`dequantize_rows`, which call `ggml_quantize_chunk` and the type's `to_float` of the installed
llama-cpp-python. ctypes frees the GIL during both and ggml guards its tables, so threads may call them at once.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.errors import EdgekitError
from edgekit.header import ggml

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_BASES = """
f32 f32; f16 f16; bf16 bf16; q1_0 q1_0; q2_0 q2_0; q4_0 q4_0; q4_1 q4_1; q5_0 q5_0; q5_1 q5_1; q8_0 q8_0;
q2_k q2_k; q2_k_s q2_k; q3_k_s q3_k; q3_k_m q3_k; q3_k_l q3_k; q4_k_s q4_k; q4_k_m q4_k; q5_k_s q5_k; q5_k_m q5_k;
q6_k q6_k; iq1_s iq1_s; iq1_m iq1_m; iq2_xxs iq2_xxs; iq2_xs iq2_xs; iq2_s iq2_xs; iq2_m iq2_s; iq3_xxs iq3_xxs;
iq3_xs iq3_s; iq3_s iq3_s; iq3_m iq3_s; iq4_nl iq4_nl; iq4_xs iq4_xs; tq1_0 tq1_0; tq2_0 tq2_0; mxfp4_moe mxfp4
"""
FILE_TYPES: dict[str, str] = {row[0]: row[1] for row in map(str.split, _BASES.split(";"))}
"""File type → the tensor type it starts from (`llama_ftype_get_default_type` of `src/llama-quant.cpp`)."""

FTYPE_NUMBERS: dict[str, int] = {name: number for number, name in ggml.FILE_TYPES.items() if name in FILE_TYPES}
"""File type → its number in `llama_ftype`, which is also `general.file_type`."""

ALIASES = {"q3_k": "q3_k_m", "q4_k": "q4_k_m", "q5_k": "q5_k_m"}
"""What llama-quantize also takes for a file type."""

TENSOR_TYPES: dict[str, int] = {
    name: number
    for number, (name, _, _) in ggml.TENSOR_TYPES.items()
    if name not in ("q8_1", "q8_k", "i8", "i16", "i32", "i64", "f64")
}
"""Tensor type → its number in `ggml_type`: those that `ggml_quantize_chunk` can write."""

PLAIN = ("f32", "f16", "bf16")
"""Types that are not quantized."""

NEED_IMATRIX = ("iq1_s", "iq2_xxs", "iq2_xs")
"""Tensor types without an own guess at what matters (`ggml_quantize_requires_imatrix`)."""


def check_file_type(name: str) -> str:
    """`name` in lower case, aliases resolved. Raises EdgekitError with the nearest known one."""
    lower = name.lower()
    return _known(ALIASES.get(lower, lower), name, FILE_TYPES, "file type")


def check_tensor_type(name: str) -> str:
    """`name` in lower case. Raises EdgekitError with the nearest known one."""
    return _known(name.lower(), name, TENSOR_TYPES, "tensor type")


def _known(lower: str, written: str, known: dict[str, Any], what: str) -> str:
    if lower in known:
        return lower
    near = get_close_matches(lower, known, n=1, cutoff=0.5)
    hint = f"did you mean `{near[0]}`? " if near else ""
    listed = ", ".join(f"`{name}`" for name in known)
    raise EdgekitError(f"unknown {what}: `{written}`", hint=f"{hint}known: {listed}")


def row_bytes(kind: str, row_length: int) -> int:
    """Bytes of one row of `row_length` values. Raises EdgekitError when they are no whole number of blocks."""
    values, size_bytes = ggml.BLOCK[kind]
    if row_length % values:
        raise EdgekitError(f"rows of {row_length} values are no whole number of `{kind}` blocks: `{values}`")
    return row_length // values * size_bytes


def fits(kind: str, row_length: int) -> bool:
    """Whether rows of `row_length` values are a whole number of blocks of that type."""
    return row_length % ggml.BLOCK[kind][0] == 0


def quantize_rows(weights: NDArray[np.float32], kind: str, imatrix_row: NDArray[np.float32] | None = None) -> bytes:
    """The bytes llama-quantize would write for `weights`, float32 of shape (rows, row length), as type `kind`.

    `imatrix_row`, float32 of the row length, weighs the columns. Raises EdgekitError for an unknown type, rows that
    are no whole number of blocks, values that are not finite, and types that need an `imatrix_row`. May be called
    from several threads. Formats: `ggml_quantize_chunk` of `ggml/src/ggml.c`.
    """
    import numpy as np

    kind = check_tensor_type(kind)
    data = np.ascontiguousarray(weights, dtype=np.float32)
    if data.ndim != 2 or not data.size:
        raise EdgekitError(f"rows to quantize need two dimensions, not the shape: `{weights.shape}`")
    rows, length = data.shape
    out = np.empty(rows * row_bytes(kind, length), np.uint8)
    importance = _checked_importance(imatrix_row, kind, length)
    # ggml aborts the process where it meets what it cannot quantize: everything is checked before
    if not np.isfinite(data).all():
        raise EdgekitError(f"weights that are not finite cannot be quantized as: `{kind}`")
    base, number = _library(), TENSOR_TYPES[kind]
    pointer = None if importance is None else importance.ctypes.data
    written = base.ggml_quantize_chunk(number, data.ctypes.data, out.ctypes.data, 0, rows, length, pointer)
    if written != out.nbytes or not base.ggml_validate_row_data(number, out.ctypes.data, out.nbytes):
        raise EdgekitError(f"weights too large for the scales of type: `{kind}`")
    return out.tobytes()


def _checked_importance(row: NDArray[np.float32] | None, kind: str, length: int) -> NDArray[np.float32] | None:
    import numpy as np

    if row is None:
        if kind in NEED_IMATRIX:
            raise EdgekitError(f"this type needs an importance matrix: `{kind}`")
        return None
    importance = np.ascontiguousarray(row, dtype=np.float32).reshape(-1)
    if importance.size != length:
        raise EdgekitError(f"importance of {importance.size} columns does not fit rows of: `{length}`")
    if not np.isfinite(importance).all() or importance.min() < 0:
        raise EdgekitError("importance of columns must be finite and not negative")
    return importance


def dequantize_rows(data: bytes | memoryview, kind: str, shape: Sequence[int]) -> NDArray[np.float32]:
    """The float32 values of `data`, quantized as `kind`, in numpy's `shape` (row length last).

    Raises EdgekitError when the bytes are not exactly that many. May be called from several threads.
    """
    import numpy as np

    kind = check_tensor_type(kind)
    raw = np.frombuffer(data, np.uint8)
    count = int(np.prod(shape, dtype=np.int64))
    needed = count // shape[-1] * row_bytes(kind, shape[-1]) if count else 0
    if raw.size != needed or not count:
        raise EdgekitError(f"{raw.size} bytes are not `{kind}` values of the shape: `{tuple(shape)}`")
    if kind == "f32":
        return raw.view(np.float32).reshape(shape).copy()
    out = np.empty(shape, np.float32)
    _to_float(kind)(raw.ctypes.data, out.ctypes.data, count)
    return out


def operation_names() -> list[str]:
    """ggml's operations by number (`ggml_op_name`)."""
    library = _library()
    library.ggml_op_name.argtypes, library.ggml_op_name.restype = [ctypes.c_int], ctypes.c_char_p
    names: list[str] = []
    while len(names) < 256 and (not names or names[-1] != "MUL_MAT_ID"):  # beyond the last one nothing is defined
        names.append(library.ggml_op_name(len(names)).decode())
    return names


class _TypeTraits(ctypes.Structure):
    """`struct ggml_type_traits` of `ggml/include/ggml.h`."""

    _fields_ = (
        ("type_name", ctypes.c_char_p),
        ("block_values", ctypes.c_int64),
        ("block_values_interleave", ctypes.c_int64),
        ("block_bytes", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)),
        ("from_float_ref", ctypes.c_void_p),
    )


def _to_float(kind: str) -> Any:
    traits = _library().ggml_get_type_traits(TENSOR_TYPES[kind]).contents
    named = (traits.type_name or b"").decode().lower()
    # a library with another layout would send us into the void
    if (named, traits.block_values, traits.block_bytes) != (kind, *ggml.BLOCK[kind]):
        raise EdgekitError(f"the installed ggml describes another type than: `{kind}`")
    return traits.to_float


def _binding_folder() -> Path:
    loaded = sys.modules.get("llama_cpp")  # in a worker it is a bare package without a spec
    if loaded is not None:
        return Path(next(iter(loaded.__path__)))
    spec = find_spec("llama_cpp")
    if spec is None or not spec.submodule_search_locations:
        raise EdgekitError("llama-cpp-python is not installed", hint="pip install llama-cpp-python")
    return Path(next(iter(spec.submodule_search_locations)))


@cache
def _library() -> Any:
    """libggml-base of the installed llama-cpp-python, without importing that package (0.25 s, 60 MB)."""
    folder = _binding_folder() / "lib"
    name = {"darwin": "libggml-base.dylib", "win32": "ggml-base.dll"}.get(sys.platform, "libggml-base.so")
    try:
        library: Any = ctypes.CDLL(str(folder / name))
    except OSError:
        raise EdgekitError(f"cannot load ggml: `{folder / name}`", hint="reinstall llama-cpp-python") from None
    integer, pointer, size = ctypes.c_int64, ctypes.c_void_p, ctypes.c_size_t
    library.ggml_quantize_chunk.argtypes = [ctypes.c_int, pointer, pointer, integer, integer, integer, pointer]
    library.ggml_quantize_chunk.restype = size
    library.ggml_validate_row_data.argtypes = [ctypes.c_int, pointer, size]
    library.ggml_validate_row_data.restype = ctypes.c_bool
    library.ggml_get_type_traits.argtypes = [ctypes.c_int]
    library.ggml_get_type_traits.restype = ctypes.POINTER(_TypeTraits)
    return library
