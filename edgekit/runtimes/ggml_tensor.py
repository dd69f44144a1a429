"""`struct ggml_tensor`, as llama.cpp shows it to who watches a graph's nodes, and one such watcher."""

from __future__ import annotations

import ctypes
import mmap
import sys
from typing import Any


class GgmlTensor(ctypes.Structure):
    """`struct ggml_tensor` of `ggml/include/ggml.h` up to its name."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("buffer", ctypes.c_void_p),
        ("ne", ctypes.c_int64 * 4),
        ("nb", ctypes.c_size_t * 4),
        ("op", ctypes.c_int),
        ("op_params", ctypes.c_int32 * 16),
        ("flags", ctypes.c_int32),
        ("src", ctypes.c_void_p * 10),
        ("view_src", ctypes.c_void_p),
        ("view_offs", ctypes.c_size_t),
        ("data", ctypes.c_void_p),
        ("name", ctypes.c_char * 64),
    )


class LogitsScratch:
    """Finds where a graph computes its logits, which llama.cpp copies out when it is done, and gives that memory back
    to the system: the last node's room is dead until the next evaluation writes it anew. At a vocabulary of 151 936
    that is 39 MB for 64 rows.

    To be called for every node, as `ggml_backend_sched_eval_callback`; it asks to see none.
    """

    def __init__(self) -> None:
        self._address = self._size = 0
        self.callback: Any = None
        """What llama.cpp holds, kept alive."""

    def __call__(self, tensor: int, ask: bool, _: int) -> bool:
        node = ctypes.cast(tensor, ctypes.POINTER(GgmlTensor)).contents
        if node.name == b"result_output":
            self._address, self._size = node.data or 0, node.nb[3] * node.ne[3]
        return False

    def give_back(self) -> None:
        """Drop the whole pages of what the last graph named; only once for each graph."""
        begin = -(-self._address // mmap.PAGESIZE) * mmap.PAGESIZE
        size = (self._address + self._size - begin) // mmap.PAGESIZE * mmap.PAGESIZE
        self._address = self._size = 0
        if sys.platform != "linux" or size <= 0:
            return
        madvise = ctypes.CDLL(None).madvise
        # huge pages come back at half the price
        for advice in (mmap.MADV_DONTNEED, mmap.MADV_HUGEPAGE):
            madvise(ctypes.c_void_p(begin), ctypes.c_size_t(size), advice)
