"""The end of llama.cpp's graph, the product with the output matrix, computed apart from the rest, and later.

Up to there a token is a row of the hidden size instead of one of the vocabulary's, a hundredth of the bytes. So a
chunk's rows are kept from one evaluation, its keys and values can go, and logits are made of them a block at a time, by
ggml's own operation on the model's own matrix: the very numbers that the whole graph gives.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from edgekit.runtimes.ggml_tensor import GgmlTensor
from edgekit.runtimes.protocol import SessionRefused

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_HIDDEN, _LOGITS, _CACHE = b"result_norm", b"result_output", b"cache_"
"""What llama.cpp calls the two ends of that product, and how it begins the names of keys and values."""

_F32, _NO_OPERATION = 0, 0  # GGML_TYPE_F32, GGML_OP_NONE in ggml.h


class GraphEnd:
    """Watches the nodes of a session's graphs, as `ggml_backend_sched_eval_callback`. It asks to see none, but for the
    last hidden rows while `cut` has the graph end there.
    """

    def __init__(self) -> None:
        self.callback: Any = None
        """What llama.cpp holds, kept alive."""
        self._cutting = False
        self._rows: list[NDArray[np.float32]] = []
        self._product = self._scratch = 0
        self._caches: set[int] = set()

    def __call__(self, tensor: int, ask: bool, _: int) -> bool:
        node = _tensor(tensor)
        if not ask:
            self._rows.append(_values(node))
            return False  # whatever follows is not computed
        if node.name == _LOGITS:
            self._product = tensor
        elif node.name == _HIDDEN:
            self._scratch = node.buffer or 0
        elif node.name.startswith(_CACHE) and node.view_src:
            self._caches.add(_tensor(node.view_src).buffer or 0)
        return self._cutting and bool(node.name == _HIDDEN)

    @contextmanager
    def cut(self) -> Iterator[list[NDArray[np.float32]]]:
        """While this lasts graphs end at the hidden rows, which the list holds, (tokens with outputs, hidden size) for
        each evaluation; the logits that llama.cpp gives are rubbish.
        """
        self._rows, self._cutting = [], True
        try:
            yield self._rows
        finally:
            self._cutting = False

    def product(self, library: Any, threads: int, vocabulary: int) -> Product | None:
        """The end of the last graph that was not cut; `None` where it is more than a product with a matrix."""
        if sys.platform != "linux" or not self._product or not _offers_all(library):
            return None
        node = _tensor(self._product)
        name = ctypes.string_at(_declared(library, "ggml_op_name", ctypes.c_char_p, ctypes.c_int)(node.op))
        if name != b"MUL_MAT" or node.type != _F32 or not node.src[0] or not node.src[1]:
            return None
        matrix, hidden = _tensor(node.src[0]), _tensor(node.src[1])
        plain = matrix.op == _NO_OPERATION and hidden.name == _HIDDEN and hidden.type == _F32
        fits = matrix.ne[0] == hidden.ne[0] and matrix.ne[1] == vocabulary and matrix.ne[2] == matrix.ne[3] == 1
        return Product(library, node, threads, vocabulary) if plain and fits else None

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
        begin = _declared(library, "ggml_backend_buffer_get_base", ctypes.c_void_p, ctypes.c_void_p)(buffer)
        size = _declared(library, "ggml_backend_buffer_get_size", ctypes.c_size_t, ctypes.c_void_p)(buffer)
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

    def __init__(self, library: Any, node: GgmlTensor, threads: int, vocabulary: int) -> None:
        self._library, self.vocabulary = library, vocabulary
        self._matrix, self._parameters = node.src[0], bytes(node.op_params)
        self._backend = _declared(library, "ggml_backend_cpu_init", ctypes.c_void_p)()
        _declared(library, "ggml_backend_cpu_set_n_threads", None, ctypes.c_void_p, ctypes.c_int)(
            self._backend, threads
        )

    def into(self, address: int, rows: NDArray[np.float32]) -> None:
        """Write the logits of `rows`, (tokens, hidden size) without gaps, to `address`, `vocabulary` for each."""
        library, pointer = self._library, ctypes.c_void_p
        overheads = (_declared(library, f"ggml_{what}_overhead", ctypes.c_size_t)() for what in ("tensor", "graph"))
        size = 8 * next(overheads) + next(overheads)
        context = _declared(library, "ggml_init", pointer, _InitParams)(_InitParams(size, None, True))
        try:
            make = _declared(library, "ggml_new_tensor_2d", pointer, pointer, ctypes.c_int, *2 * (ctypes.c_int64,))
            given = make(context, _F32, rows.shape[1], rows.shape[0])
            told = _declared(library, "ggml_mul_mat", pointer, pointer, pointer, pointer)(context, self._matrix, given)
            _tensor(given).data, _tensor(told).data = rows.ctypes.data, address
            _tensor(told).op_params[:] = memoryview(self._parameters).cast("i")
            graph = _declared(library, "ggml_new_graph", pointer, pointer)(context)
            _declared(library, "ggml_build_forward_expand", None, pointer, pointer)(graph, told)
            status = _declared(library, "ggml_backend_graph_compute", ctypes.c_int, pointer, pointer)(
                self._backend, graph
            )
        finally:
            _declared(library, "ggml_free", None, pointer)(context)
        if status != 0:
            raise SessionRefused("step", f"ggml could not compute logits: `ggml_backend_graph_compute` gave `{status}`")

    def close(self) -> None:
        """Free what the computing took."""
        _declared(self._library, "ggml_backend_free", None, ctypes.c_void_p)(self._backend)


class _InitParams(ctypes.Structure):
    """`struct ggml_init_params` of `ggml/include/ggml.h`."""

    _fields_ = (("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool))


_FUNCTIONS = (
    "ggml_op_name",
    "ggml_init",
    "ggml_free",
    "ggml_tensor_overhead",
    "ggml_graph_overhead",
    "ggml_new_tensor_2d",
    "ggml_mul_mat",
    "ggml_new_graph",
    "ggml_build_forward_expand",
    "ggml_backend_cpu_init",
    "ggml_backend_cpu_set_n_threads",
    "ggml_backend_graph_compute",
    "ggml_backend_free",
    "ggml_backend_buffer_get_base",
    "ggml_backend_buffer_get_size",
)


def _offers_all(library: Any) -> bool:
    """Whether ggml's functions can be reached: not in builds that load their backends later."""
    return all(hasattr(library, name) for name in _FUNCTIONS)


def _declared(library: Any, name: str, result: Any, *arguments: Any) -> Any:
    function = getattr(library, name)
    function.restype, function.argtypes = result, list(arguments)
    return function


def _tensor(address: int) -> GgmlTensor:
    return ctypes.cast(address, ctypes.POINTER(GgmlTensor)).contents


def _values(node: GgmlTensor) -> NDArray[np.float32]:
    """A copy of a node's rows."""
    import numpy as np

    shape = (node.ne[1], node.ne[0])
    values = np.empty(shape, np.float32)
    for row in range(shape[0]):
        ctypes.memmove(values[row].ctypes.data, node.data + row * node.nb[1], 4 * shape[1])
    return values
