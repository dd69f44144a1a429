"""Writing stand-ins, and the cache that makes the second one free."""

from __future__ import annotations

import hashlib
import os
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import astuple
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.errors import EdgekitError
from edgekit.files import cache_folder, check_space, replacing
from edgekit.progress import Progress, silent
from edgekit.records import TensorInfo
from edgekit.shapes.gguf_header import header_bytes, padded
from edgekit.shapes.mix import BLOCKS, check_quant, plan_tensors
from edgekit.shapes.shape import Shape, load_shape

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FORMAT_VERSION = 1
"""Raised when the same shape, type and seed give other bytes, so that caches of older versions are not read."""
_CHUNK_BYTES = 4 * 2**20
_HEADER_ROOM_BYTES = 64 * 2**20
"""More than any vocabulary takes; free space is asked for before it is known."""
_THREADS = 4
_ABANDONED_S = 3600.0
"""Nobody writes a stand-in for so long without touching it."""


def write_stand_in(shape: Shape, quant: str, out: Path, *, seed: int = 1, progress: Progress = silent) -> Path:
    """Write a GGUF of `shape` with random blocks in llama-quantize's type mix for `quant`; gives `out`.

    The same shape, type and seed give the same bytes. The file appears whole or not at all. Raises EdgekitError for
    an unknown type, too little free space, or a place that cannot be written.
    """
    from edgekit.shapes.vocabulary import synthesise

    quant = check_quant(quant)
    tensors = plan_tensors(shape, quant)
    if out.is_dir():
        raise EdgekitError(f"the output is a directory: `{out}`", hint="name the file to write, e.g. `model.gguf`")
    total = sum(padded(tensor.size_bytes) for tensor in tensors)
    check_space(
        out,
        total + _HEADER_ROOM_BYTES,
        "the stand-in",
        hint="free some space, or choose another disk with `XDG_CACHE_HOME` or a smaller shape",
    )
    stage, written = f"writing stand-in {shape.name} {quant}", 0
    # not "wb": after a truncation ext4 allocates every block at close, half a second for this file
    with replacing(out) as temporary, temporary.open("r+b", buffering=0) as file:
        progress(stage, 0, total)
        _write_all(file.fileno(), memoryview(header_bytes(shape, quant, tensors, synthesise(shape.vocabulary, seed))))
        for piece in _pieces(tensors, seed):
            written += _write_all(file.fileno(), piece.data)
            progress(stage, written, total)
    return out


def cached_stand_in(shape_name: str, quant: str, *, progress: Progress = silent) -> Path:
    """The stand-in of a shape (name or SHAPE.toml) from the user's cache, written there first where it is missing."""
    shape, quant = load_shape(shape_name), check_quant(quant)
    key = hashlib.sha256(repr(astuple(shape)).encode()).hexdigest()[:10]
    path = cache_dir() / f"{shape.name}-{quant}-v{FORMAT_VERSION}-{key}.gguf"
    if path.is_file() and path.stat().st_size > planned_bytes(shape, quant):
        return path
    _prepare(path)
    return write_stand_in(shape, quant, path, progress=progress)


def cache_dir() -> Path:
    """Where stand-ins are kept: `$XDG_CACHE_HOME` or the OS's own place, then `edgekit/stand-ins`."""
    return cache_folder("stand-ins")


def planned_bytes(shape: Shape, quant: str) -> int:
    """Bytes of all tensors with their padding: the file less its header of some megabytes."""
    return sum(padded(tensor.size_bytes) for tensor in plan_tensors(shape, quant))


def _prepare(path: Path) -> None:
    """Make the cache folder, and clear what a killed writer left there: gigabytes that nothing else would free."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for partial in path.parent.glob(".*.partial"):
            if time.time() - partial.stat().st_mtime > _ABANDONED_S:
                partial.unlink(missing_ok=True)
        writable = os.access(path.parent, os.W_OK)
    except OSError as error:
        raise _unwritable(path.parent, error.strerror or "failed") from None
    if not writable:
        raise _unwritable(path.parent, "permission denied")


def _unwritable(place: Path, reason: str) -> EdgekitError:
    return EdgekitError(
        f"cannot write to the cache of stand-ins ({reason.lower()}): `{place}`",
        hint="set `XDG_CACHE_HOME` to a writable place",
    )


def _pieces(tensors: tuple[TensorInfo, ...], seed: int) -> Iterator[NDArray[np.uint8]]:
    """All tensor data in file order, made by a few threads a little ahead of the writer (numpy frees the GIL).

    Each piece has a seed of its own, so the bytes do not depend on the number of threads.
    """
    workers = min(_THREADS, os.cpu_count() or 1)
    ahead: deque[Future[NDArray[np.uint8]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for index, tensor in enumerate(tensors):
            for first, count in _chunks(tensor):
                ahead.append(pool.submit(_piece, tensor, first, count, (seed, index, first)))
                if len(ahead) > workers + 1:
                    yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def _chunks(tensor: TensorInfo) -> Iterator[tuple[int, int]]:
    """First block and number of blocks of each piece."""
    size = BLOCKS[tensor.type][1]
    blocks, step = tensor.size_bytes // size, _CHUNK_BYTES // size
    for first in range(0, blocks, step):
        yield first, min(step, blocks - first)


def _piece(tensor: TensorInfo, first: int, count: int, seed: tuple[int, ...]) -> NDArray[np.uint8]:
    import numpy as np

    from edgekit.shapes.blocks import constant_f32, random_blocks

    if tensor.type == "f32":
        data = constant_f32(tensor.name, count, seed)
    else:
        data = random_blocks(tensor.type, count, tensor.shape[0], seed)
    size = BLOCKS[tensor.type][1]
    last = (first + count) * size == tensor.size_bytes
    padding = padded(tensor.size_bytes) - tensor.size_bytes if last else 0
    return np.concatenate([data, np.zeros(padding, np.uint8)]) if padding else data


def _write_all(descriptor: int, data: memoryview) -> int:
    """`os.write` may write less than asked."""
    done = 0
    while done < len(data):
        done += os.write(descriptor, data[done:])
    return done
