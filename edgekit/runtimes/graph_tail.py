"""The last stretch of llama.cpp's graph: from where rows are chosen for output to the last hidden rows.

llama.cpp makes room for the logits of every row that it is to output, whether they are computed or not, at 151 936
tokens 155 MB for half a chunk. So few rows are asked for, the rows of all the others are kept where the choice is made,
and the stretch, most of the last layer, is computed again for them, as many at a time: each of its operations looks at
one row alone. That way a chunk is one evaluation, where rows in blocks of 64 take four: a twentieth of the time.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgekit.runtimes.ggml_graph import F32, MOST_NODES, NO_OPERATION, Engine, operation, tensor_at
from edgekit.runtimes.protocol import SessionRefused

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgekit.runtimes.ggml_tensor import GgmlTensor

_CHOICE = b"out_ids"
"""What llama.cpp calls the places of the rows that it is to output."""

_INPUT_FLAG = 1  # GGML_TENSOR_FLAG_INPUT in ggml.h


class GraphTail:
    """The stretch of one evaluation, seen node by node: `see` for each, `keep` where rows are chosen."""

    def __init__(self) -> None:
        self._seen: dict[int, None] = {}
        """In the order in which they are computed."""
        self._choices: list[int] = []
        self._kept: list[NDArray[np.float32]] = []

    def see(self, address: int, node: GgmlTensor) -> bool:
        """Note a node before it is computed, in order; whether it chooses rows."""
        chooses = bool(node.src[1]) and tensor_at(node.src[1]).name == _CHOICE
        if chooses:
            self._choices.append(address)
        elif self._choices:
            self._seen[address] = None
        return chooses

    def keep(self, node: GgmlTensor, wanted: int) -> None:
        """Keep the last `wanted` rows of what `node`, just computed, chose its rows from."""
        source = tensor_at(node.src[0])
        if source.ne[1] >= wanted:  # nobody hears of errors here: `rows` misses what is not kept
            self._kept.append(values(source, wanted))

    def is_apart(self, library: object, end: int) -> bool:
        """Whether all that `end` is computed from, up to the chosen rows, is this stretch and weights."""
        return self._stretch(library, end) is not None

    def _stretch(self, library: object, end: int) -> list[int] | None:
        """All that `end` is computed from after the chosen rows, in llama.cpp's order; `None` where that is not all."""
        chosen = [tensor_at(address) for address in self._choices]
        if end not in self._seen or any(operation(library, one) != b"GET_ROWS" or not _is_plain(one) for one in chosen):
            return None
        open_ends, stretch = [end], {end}
        while open_ends:
            node = tensor_at(open_ends.pop())
            if node.view_src in self._choices:
                return None
            for source in filter(None, node.src):
                if source in stretch or source in self._choices or _is_weight(tensor_at(source)):
                    continue
                if source not in self._seen or len(stretch) == MOST_NODES // 2:
                    return None
                stretch.add(source)
                open_ends.append(source)
        return [address for address in self._seen if address in stretch]

    def rows(self, engine: Engine, end: int, wanted: int) -> NDArray[np.float32]:
        """The last `wanted` rows of `end`, (rows, width): those that were computed, and the others, computed now.
        Raises SessionRefused where the evaluation was of another graph than `is_apart` was asked of.
        """
        import numpy as np

        last, stretch = tensor_at(end), self._stretch(engine.library, end)
        if stretch is None or [len(kept) for kept in self._kept] != [wanted] * len(self._choices):
            raise SessionRefused("step", "llama.cpp evaluated another graph than before: its last rows cannot be had")
        have = min(last.ne[1], wanted)
        found = np.empty((wanted, last.ne[0]), np.float32)
        found[wanted - have :] = values(last, have)
        if wanted > have:
            self._replay(engine, stretch, found, have)
        return found

    def _replay(self, engine: Engine, stretch: Sequence[int], found: NDArray[np.float32], size: int) -> None:
        """Fill all but the last `size` rows, so many at a time.

        Tensors lie in memory that others have had before and will have after: each is whole only from when it is
        computed in llama.cpp's order to its last use there. So that order is kept, and the chosen rows, all of which
        are there before, lie in memory of their own.
        """
        chosen = [tensor_at(address) for address in self._choices]
        before = [(node.op, node.src[0], node.src[1], node.data) for node in chosen]
        with engine.room(0) as context:
            try:
                for node in chosen:  # what they chose is given now, and nothing before them asked for
                    node.op, node.src[0], node.src[1] = NO_OPERATION, None, None
                graph = engine.graph(context, stretch)
                for begin in range(0, len(found) - size, size):
                    for node, kept in zip(chosen, self._kept, strict=True):
                        node.data = kept[begin : begin + size].ctypes.data
                    engine.compute(graph)
                    found[begin : begin + size] = values(tensor_at(stretch[-1]), size)
            finally:
                for node, was in zip(chosen, before, strict=True):
                    node.op, node.src[0], node.src[1], node.data = was


def _is_weight(node: GgmlTensor) -> bool:
    return bool(node.op == NO_OPERATION and not node.flags & _INPUT_FLAG)


def _is_plain(node: GgmlTensor) -> bool:
    """Whether rows of float32 are chosen from rows of float32, to lie one after the other."""
    source = tensor_at(node.src[0])
    return bool(node.nb[1] == 4 * node.ne[0]) and all(
        tensor.type == F32 and tensor.nb[0] == 4 and tensor.ne[2] == tensor.ne[3] == 1 for tensor in (node, source)
    )


def values(node: GgmlTensor, count: int) -> NDArray[np.float32]:
    """A copy of a node's last rows."""
    import numpy as np

    rows, width = node.ne[1], node.ne[0]
    found = np.empty((count, width), np.float32)
    for row in range(count):
        ctypes.memmove(found[row].ctypes.data, node.data + (rows - count + row) * node.nb[1], 4 * width)
    return found
