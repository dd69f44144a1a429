"""Graphs of ggml's that are put together here, of tensors that llama.cpp has, and computed on the CPU as it does."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from edgekit.runtimes.ggml_tensor import GgmlTensor
from edgekit.runtimes.protocol import SessionRefused

F32, NO_OPERATION = 0, 0
"""GGML_TYPE_F32, GGML_OP_NONE in ggml.h."""

_POINTER = ctypes.c_void_p

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

MOST_NODES = 1024
"""Of a graph that is put together here: `GGML_DEFAULT_GRAPH_SIZE` is twice that, leaves included."""


def offers_all(library: Any) -> bool:
    """Whether ggml's functions can be reached: not in builds that load their backends later."""
    return all(hasattr(library, name) for name in _FUNCTIONS)


def declared(library: Any, name: str, result: Any, *arguments: Any) -> Any:
    """A function of the library, with its types."""
    function = getattr(library, name)
    function.restype, function.argtypes = result, list(arguments)
    return function


def tensor_at(address: int) -> GgmlTensor:
    """The tensor itself, not a copy."""
    return ctypes.cast(address, ctypes.POINTER(GgmlTensor)).contents


def operation(library: Any, node: GgmlTensor) -> bytes:
    """`MUL_MAT` and the like."""
    return bytes(declared(library, "ggml_op_name", ctypes.c_char_p, ctypes.c_int)(node.op))


class _InitParams(ctypes.Structure):
    """`struct ggml_init_params` of `ggml/include/ggml.h`."""

    _fields_ = (("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool))


class Engine:
    """A CPU backend with so many threads, and what is computed on it."""

    def __init__(self, library: Any, threads: int) -> None:
        self.library = library
        self._backend = declared(library, "ggml_backend_cpu_init", _POINTER)()
        declared(library, "ggml_backend_cpu_set_n_threads", None, _POINTER, ctypes.c_int)(self._backend, threads)

    @contextmanager
    def room(self, tensors: int) -> Iterator[Any]:
        """A ggml context for so many tensors without data, and one graph."""
        overheads = (declared(self.library, f"ggml_{what}_overhead", ctypes.c_size_t)() for what in ("tensor", "graph"))
        size = tensors * next(overheads) + next(overheads)
        context = declared(self.library, "ggml_init", _POINTER, _InitParams)(_InitParams(size, None, True))
        try:
            yield context
        finally:
            declared(self.library, "ggml_free", None, _POINTER)(context)

    def graph(self, context: Any, nodes: Iterable[int]) -> Any:
        """`nodes` one after the other, each after all that it is computed from."""
        graph = declared(self.library, "ggml_new_graph", _POINTER, _POINTER)(context)
        for node in nodes:
            declared(self.library, "ggml_build_forward_expand", None, _POINTER, _POINTER)(graph, node)
        return graph

    def compute(self, graph: Any) -> None:
        """Compute it. Raises SessionRefused where ggml cannot."""
        status = declared(self.library, "ggml_backend_graph_compute", ctypes.c_int, _POINTER, _POINTER)(
            self._backend, graph
        )
        if status != 0:
            raise SessionRefused("step", f"ggml could not compute: `ggml_backend_graph_compute` gave `{status}`")

    def close(self) -> None:
        """Free what the computing took."""
        declared(self.library, "ggml_backend_free", None, _POINTER)(self._backend)
