"""Weights from the checkpoint to the file, a few megabytes at a time and a few threads ahead of the writer.

Memory is bounded by the pieces in flight, whatever the size of a tensor or of the model.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn

from edgekit.checkpoint import float32, read_rows
from edgekit.errors import EdgekitError
from edgekit.progress import Progress
from edgekit.quantize.convert.plan import Planned, Type

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PIECE_VALUES = 2**20
_TAKEN_VALUES = 2**17  # their indices fit a core's second-level cache
ALIGNMENT_BYTES = 32  # GGUF's default
THREADS = 4


def padded(size_bytes: int) -> int:
    """The room a tensor takes in the file."""
    return size_bytes + -size_bytes % ALIGNMENT_BYTES


def write_tensors(file: BinaryIO, tensors: Sequence[Planned], progress: Progress) -> None:
    """Append the data of all tensors, each padded to the alignment. Raises EdgekitError for a value that is not
    finite, as stored or in the type asked for.
    """
    total, done = sum(tensor.size_bytes for tensor in tensors), 0
    progress("converting", 0, total)
    for tensor, last, data in _ahead(tensors):
        file.write(data.view("u1").data)
        done += data.nbytes
        if last:
            file.write(bytes(padded(tensor.size_bytes) - tensor.size_bytes))
        progress("converting", done, total, tensor.name)


def _ahead(tensors: Sequence[Planned]) -> Iterator[tuple[Planned, bool, NDArray[Any]]]:
    """Pieces in file order, converted by threads (numpy frees the GIL); at most THREADS + 2 are in memory."""
    waiting: deque[tuple[Planned, bool, Future[NDArray[Any]]]] = deque()
    pool = ThreadPoolExecutor(THREADS)
    try:
        for tensor in tensors:
            for first, count, last in _pieces(tensor):
                waiting.append((tensor, last, pool.submit(convert_rows, tensor, first, count)))
                if len(waiting) > THREADS + 1:
                    yield _finished(waiting)
        while waiting:
            yield _finished(waiting)
    finally:
        pool.shutdown(cancel_futures=True)


def _finished(waiting: deque[tuple[Planned, bool, Future[NDArray[Any]]]]) -> tuple[Planned, bool, NDArray[Any]]:
    tensor, last, future = waiting.popleft()
    return tensor, last, future.result()


def _pieces(tensor: Planned) -> Iterator[tuple[int, int, bool]]:
    """First row, number of rows, whether it is the last: whole heads where rows are reordered within heads."""
    rows = tensor.shape[0]
    values = 1
    for size in tensor.shape[1:]:
        values *= size
    step = max(PIECE_VALUES // max(values, 1), 1)
    if tensor.rotary_rows:
        step = max(step // tensor.rotary_rows, 1) * tensor.rotary_rows
    for first in range(0, rows, step):
        yield first, min(step, rows - first), first + step >= rows


def convert_rows(tensor: Planned, first: int, count: int) -> NDArray[Any]:
    """Rows of a planned tensor as they stand in the file: one-dimensional, in the type's own bytes."""
    import numpy as np

    if tensor.source is None:
        return np.asarray(tensor.values[first : first + count], np.float32)
    stored = read_rows(tensor.source, first, count)
    if tensor.rotary_rows:
        stored = _rotary_order(stored, tensor.rotary_rows)
    if tensor.source.dtype == "BF16" and tensor.type != "f32" and not tensor.added:
        return _from_bf16(tensor, stored.reshape(-1))
    values = float32(stored, tensor.source.dtype).reshape(-1)
    if not np.isfinite(values).all():
        _refuse_nonfinite(tensor)
    if tensor.added:
        values = values + np.float32(tensor.added)
    return _as_type(tensor, values)


def _rotary_order(stored: NDArray[Any], head: int) -> NDArray[Any]:
    """transformers keeps the two values of each rotated pair half a head apart, llama.cpp's graph for `llama` side by
    side (`LLAMA_ROPE_TYPE_NORM`): row i of the first half goes to 2i, of the second half to 2i + 1.
    """
    halves = stored.reshape(-1, 2, head // 2, *stored.shape[1:])
    return halves.swapaxes(1, 2).reshape(stored.shape)


def _as_type(tensor: Planned, values: NDArray[np.float32]) -> NDArray[Any]:
    import numpy as np

    if tensor.type == "f32":
        return values
    if tensor.type == "bf16":
        return round_to_bf16(values)
    with np.errstate(over="ignore"):
        return _checked_half(tensor, values.astype(np.float16).view(np.uint16))


def _from_bf16(tensor: Planned, stored: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """bf16 to itself or to f16, without the detour over float32: there are only 65536 values."""
    import numpy as np

    if int((stored & 0x7FFF).max()) >= 0x7F80:  # all ones in the exponent
        _refuse_nonfinite(tensor)
    if tensor.type == "bf16":
        return stored
    table, half = _half_of_bf16(), np.empty_like(stored)
    for first in range(0, len(stored), _TAKEN_VALUES):
        part = slice(first, first + _TAKEN_VALUES)
        np.take(table, stored[part], out=half[part], mode="clip")  # a mode other than raise: no buffer
    return _checked_half(tensor, half)


@cache
def _half_of_bf16() -> NDArray[np.uint16]:
    import numpy as np

    with np.errstate(all="ignore"):
        return float32(np.arange(2**16, dtype=np.uint16), "BF16").astype(np.float16).view(np.uint16)


def _checked_half(tensor: Planned, half: NDArray[np.uint16]) -> NDArray[np.uint16]:
    if int((half & 0x7FFF).max()) >= 0x7C00:
        raise EdgekitError(
            f"tensor `{tensor.name}` has values beyond f16's 65504: `{tensor.source and tensor.source.file}`",
            hint="convert to `bf16` or `f32`",
        )
    return half


def round_to_bf16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The upper half of each float32, rounded to nearest even as ggml does (`ggml_compute_fp32_to_bf16`)."""
    import numpy as np

    bits = values.view(np.uint32)
    return ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16)


def _refuse_nonfinite(tensor: Planned) -> NoReturn:
    assert tensor.source is not None
    raise EdgekitError(
        f"tensor `{tensor.source.name}` holds NaN or infinity: `{tensor.source.file}`",
        hint="the checkpoint is damaged, or its training diverged: take an earlier one",
    )


__all__ = ["ALIGNMENT_BYTES", "Type", "convert_rows", "padded", "round_to_bf16", "write_tensors"]
