"""Whether the floats of an ONNX model are numbers at all. llama.cpp checks a GGUF so (`check_tensors`), onnxruntime
nothing, and some kernels round a NaN away: such a model could score well here and be dead on the device.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NoReturn

from edgekit.header.container import refuse
from edgekit.header.onnx import open_graph, weights_of
from edgekit.header.onnx_folder import folder_of, read_config
from edgekit.header.onnx_wire import DOUBLES, FLOATS, NUMBERS, RAW, Initializer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Bits = NDArray[np.uint16] | NDArray[np.uint32] | NDArray[np.uint64]

BLOCK_BYTES = 16 * 2**20

_FLOATS = {1: ("<u4", 0x7F800000), 10: ("<u2", 0x7C00), 11: ("<u8", 0x7FF0000000000000), 16: ("<u2", 0x7F80)}
"""`TensorProto.DataType` of floats: how their bits are read, and the exponent that only infinity and NaN have."""


def broken_tensor(path: Path) -> str:
    """The first tensor of the ONNX model at `path` (its folder, or its graph) that holds NaN, or is a weight that holds
    infinity; empty where there is none. A constant may be infinite: masks are. Every float is read, a block at a time.

    Raises Unusable and EdgekitError for what cannot be read.
    """
    folder, config = folder_of(path), read_config(path)
    graph = open_graph(folder, config)
    weights = weights_of(graph)
    for tensor in graph.initializers:
        if tensor.type not in _FLOATS:
            continue
        file = folder / (tensor.location or config.graph)
        with file.open("rb") as stream:
            if any(_is_broken(bits, tensor, weight=tensor.name in weights) for bits in _blocks(stream, tensor)):
                return tensor.name
    return ""


def _is_broken(bits: Bits, tensor: Initializer, *, weight: bool) -> bool:
    import numpy as np

    exponent = _FLOATS[tensor.type][1]
    magnitudes = bits & ((1 << (8 * bits.itemsize - 1)) - 1)
    return bool(np.any(magnitudes >= exponent + (not weight)))  # the exponent alone is infinity, beyond lies NaN


def _blocks(stream: BinaryIO, tensor: Initializer) -> Iterator[Bits]:
    """The bits of every value, as whole numbers."""
    import numpy as np

    dtype = np.dtype(_FLOATS[tensor.type][0])
    number, begin, end = _place(tensor)
    if (number, dtype.itemsize) == (NUMBERS, 2):
        yield _listed(stream, tensor, begin, end)
        return
    if number != RAW and (number, dtype.itemsize) not in ((FLOATS, 4), (DOUBLES, 8)):
        _refuse(tensor)
    stream.seek(begin)
    for start in range(begin, end, BLOCK_BYTES):
        data = stream.read(min(BLOCK_BYTES, end - start))
        if end - begin != tensor.size_bytes or len(data) != min(BLOCK_BYTES, end - start):
            _refuse(tensor)
        yield np.frombuffer(data, dtype)


def _place(tensor: Initializer) -> tuple[int, int, int]:
    """(field, begin, end) of the values in their file; those of an external file stand there as bytes."""
    if tensor.location:
        return RAW, tensor.offset, tensor.offset + tensor.size_bytes
    if len(tensor.inside) > 1 or any(end < 0 for _, _, end in tensor.inside):
        _refuse(tensor)
    return tensor.inside[0] if tensor.inside else (RAW, 0, 0)


def _listed(stream: BinaryIO, tensor: Initializer, begin: int, end: int) -> NDArray[np.uint16]:
    """16-bit floats that stand in a list of numbers, each in one to three bytes of seven bits."""
    import numpy as np

    stream.seek(begin)
    data = np.frombuffer(stream.read(end - begin), np.uint8)
    last = np.flatnonzero(data < 0x80)
    sizes = np.diff(last, prepend=-1)
    if len(last) * 2 != tensor.size_bytes or last[-1:].tolist() != [len(data) - 1] or sizes.max() > 3:
        _refuse(tensor)
    first = last - sizes + 1
    places = np.arange(len(data)) - np.repeat(first, sizes)
    parts = (data & 0x7F).astype(np.uint32) << (7 * places).astype(np.uint32)
    return np.add.reduceat(parts, first).astype(np.uint16)


def _refuse(tensor: Initializer) -> NoReturn:
    refuse(f"tensor `{tensor.name}` holds its values in a way that edgekit does not read")
