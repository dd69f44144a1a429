"""The end of llama.cpp's graph, the product with the output matrix, computed apart from the rest, and later.

Up to there a token is a row of the hidden size instead of one of the vocabulary's, a hundredth of the bytes. So a
chunk's rows are kept from one evaluation, its keys and values can go, and logits are made of them a block at a time, by
ggml's own operation on the model's own matrix: the very numbers that the whole graph gives for as many rows. Of fewer
than 8 rows they may differ from those of many by 1e-7 of their size, there as here: ggml leaves such products to
kernels that add up in another order (`llamafile_sgemm`).
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from edgekit.runtimes.ggml_graph import F32, NO_OPERATION, Engine, declared, offers_all, operation, tensor_at
from edgekit.runtimes.ggml_tensor import GgmlTensor
from edgekit.runtimes.graph_tail import GraphTail

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_HIDDEN, _LOGITS, _CACHE = b"result_norm", b"result_output", b"cache_"
"""What llama.cpp calls the two ends of that product, and how it begins the names of keys and values."""


class GraphEnd:
    """Watches the nodes of a session's graphs, as `ggml_backend_sched_eval_callback`. It asks to see none, but for the
    last hidden rows, and where rows are chosen for output, while `cut` has the graph end there.
    """

    def __init__(self) -> None:
        self.callback: Any = None
        """What llama.cpp holds, kept alive."""
        self._wanted: int | None = None
        self._tail: GraphTail | None = GraphTail()
        self._product = self._hidden = self._scratch = 0
        self._caches: set[int] = set()

    def __call__(self, tensor: int, ask: bool, _: int) -> bool:
        node = tensor_at(tensor)
        name = node.name
        if not ask:
            if name != _HIDDEN and self._tail is not None:
                self._tail.keep(node, self._wanted or 0)
            return bool(name != _HIDDEN)  # whatever follows those is not computed
        if name == _LOGITS:
            self._product = tensor
        elif name == _HIDDEN:
            self._hidden, self._scratch = tensor, node.buffer or 0
        elif name.startswith(_CACHE) and node.view_src:
            self._caches.add(tensor_at(node.view_src).buffer or 0)
        chooses = self._tail is not None and self._tail.see(tensor, node)
        return self._wanted is not None and (chooses or bool(name == _HIDDEN))

    @contextmanager
    def cut(self, wanted: int) -> Iterator[None]:
        """While this lasts graphs end at the hidden rows, the logits that llama.cpp gives are rubbish, and `rows` can
        give the last `wanted` of the one ubatch that is evaluated; of none, there may be more.
        """
        self._wanted, self._tail = wanted, GraphTail() if wanted else None
        try:
            yield
        finally:
            self._wanted = None

    def rows(self, engine: Engine) -> NDArray[np.float32]:
        """The hidden rows that were wanted of the last evaluation, (rows, hidden size). Raises SessionRefused."""
        assert self._tail is not None
        assert self._wanted is not None
        return self._tail.rows(engine, self._hidden, self._wanted)

    def product(self, library: Any, threads: int, vocabulary: int) -> Product | None:
        """The end of the last graph that was not cut; `None` where it is more than a product with a matrix, or hidden
        rows are not had as `GraphTail` has them.
        """
        tail, self._tail = self._tail, None
        if sys.platform != "linux" or not self._product or not self._hidden or not offers_all(library):
            return None
        node = tensor_at(self._product)
        if operation(library, node) != b"MUL_MAT" or node.type != F32 or not node.src[0] or not node.src[1]:
            return None
        matrix, hidden = tensor_at(node.src[0]), tensor_at(node.src[1])
        plain = matrix.op == NO_OPERATION and hidden.name == _HIDDEN and hidden.type == F32
        fits = matrix.ne[0] == hidden.ne[0] and matrix.ne[1] == vocabulary and matrix.ne[2] == matrix.ne[3] == 1
        apart = tail is not None and tail.is_apart(library, self._hidden)
        return Product(Engine(library, threads), node, vocabulary) if plain and fits and apart else None

    def give_back_scratch(self, library: Any) -> None:
        """Give back the memory in which the last graph was computed, once: the next one writes it anew. Of the logits
        alone, which llama.cpp copies out when they are done, that is 39 MB for 64 rows of 151 936.
        """
        _give_back_buffer(library, self._scratch)
        self._scratch = 0

    def give_back_caches(self, library: Any) -> None:
        """Give back the memory of all keys and values, which are zeros afterwards, as in a new context."""
        for buffer in self._caches:
            _give_back_buffer(library, buffer)


def _give_back_buffer(library: Any, buffer: int) -> None:
    if buffer:
        begin = declared(library, "ggml_backend_buffer_get_base", ctypes.c_void_p, ctypes.c_void_p)(buffer)
        size = declared(library, "ggml_backend_buffer_get_size", ctypes.c_size_t, ctypes.c_void_p)(buffer)
        give_back(begin or 0, size)


def give_back(address: int, size: int) -> None:
    """Give the whole pages of this memory back to the system, where it can take them: they are zeros afterwards."""
    begin = -(-address // mmap.PAGESIZE) * mmap.PAGESIZE
    size = (address + size - begin) // mmap.PAGESIZE * mmap.PAGESIZE
    if sys.platform != "linux" or size <= 0:
        return
    madvise = ctypes.CDLL(None).madvise
    # huge pages come back at half the price
    for advice in (mmap.MADV_DONTNEED, mmap.MADV_HUGEPAGE):
        madvise(ctypes.c_void_p(begin), ctypes.c_size_t(size), advice)


class Product:
    """Logits of hidden rows, by the operation that the graph would have run on them."""

    def __init__(self, engine: Engine, node: GgmlTensor, vocabulary: int) -> None:
        self.engine, self.vocabulary = engine, vocabulary
        self._matrix, self._parameters = node.src[0], bytes(node.op_params)

    def into(self, address: int, rows: NDArray[np.float32]) -> None:
        """Write the logits of `rows`, (tokens, hidden size) without gaps, to `address`, `vocabulary` for each."""
        library, pointer = self.engine.library, ctypes.c_void_p
        with self.engine.room(8) as context:
            make = declared(library, "ggml_new_tensor_2d", pointer, pointer, ctypes.c_int, *2 * (ctypes.c_int64,))
            given = make(context, F32, rows.shape[1], rows.shape[0])
            told = declared(library, "ggml_mul_mat", pointer, pointer, pointer, pointer)(context, self._matrix, given)
            tensor_at(given).data, tensor_at(told).data = rows.ctypes.data, address
            tensor_at(told).op_params[:] = memoryview(self._parameters).cast("i")
            self.engine.compute(self.engine.graph(context, [told]))

    def close(self) -> None:
        """Free what the computing took."""
        self.engine.close()
