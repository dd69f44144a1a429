"""The last stretch of llama.cpp's graph: from where rows are chosen for output to the last hidden rows.

llama.cpp makes room for the logits of every row that it is to output, whether they are computed or not, at 151 936
tokens 155 MB for half a chunk. So few rows are asked for, the rows of all the others are kept where the choice is made,
and the stretch, most of the last layer, is computed again for them, as many at a time: each of its operations looks at
one row alone. That way a chunk is one evaluation, where rows in blocks of 64 take four: a twentieth of the time.
"""

from __future__ import annotations

import ctypes
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
        self._seen: set[int] = set()
        self._choices: list[int] = []
        self._kept: list[NDArray[np.float32]] = []

    def see(self, address: int, node: GgmlTensor) -> bool:
        """Note a node before it is computed, in order; whether it chooses rows."""
        chooses = bool(node.src[1]) and tensor_at(node.src[1]).name == _CHOICE
        if chooses:
            self._choices.append(address)
        elif self._choices:
            self._seen.add(address)
        return chooses

    def keep(self, node: GgmlTensor, wanted: int) -> None:
        """Keep the last `wanted` rows of what `node`, just computed, chose its rows from."""
        self._kept.append(values(tensor_at(node.src[0]), wanted))

    def is_apart(self, library: object, end: int) -> bool:
        """Whether all that `end` is computed from, up to the chosen rows, is this stretch and weights."""
        chosen = [tensor_at(address) for address in self._choices]
        if not chosen or any(operation(library, node) != b"GET_ROWS" or not _is_plain(node) for node in chosen):
            return False
        open_ends, stretch = [end], {end}
        while open_ends:
            for source in filter(None, tensor_at(open_ends.pop()).src):
                if source in stretch or source in self._choices:
                    continue
                node = tensor_at(source)
                if node.op == NO_OPERATION and not node.flags & _INPUT_FLAG:
                    continue  # a weight
                if source not in self._seen or len(stretch) == MOST_NODES // 2:
                    return False
                stretch.add(source)
                open_ends.append(source)
        return True

    def rows(self, engine: Engine, end: int, wanted: int) -> NDArray[np.float32]:
        """The last `wanted` rows of `end`, (rows, width): those that were computed, and the others, computed now."""
        import numpy as np

        last = tensor_at(end)
        have = min(last.ne[1], wanted)
        found = np.empty((wanted, last.ne[0]), np.float32)
        found[wanted - have :] = values(last, have)
        if wanted > have:
            self._check(engine, end, wanted)
            self._replay(engine, end, found, have)
        return found

    def _check(self, engine: Engine, end: int, wanted: int) -> None:
        counts = [len(kept) for kept in self._kept]
        if not self.is_apart(engine.library, end) or counts != [wanted] * len(self._choices):
            raise SessionRefused("step", "llama.cpp evaluated another graph than before: its last rows cannot be had")

    def _replay(self, engine: Engine, end: int, found: NDArray[np.float32], size: int) -> None:
        """Fill all but the last `size` rows, so many at a time."""
        chosen = [tensor_at(address) for address in self._choices]
        sources = [(node.op, node.src[0], node.src[1]) for node in chosen]
        with engine.room(0) as context:
            try:
                for node in chosen:  # what they chose is given now, and nothing before them asked for
                    node.op, node.src[0], node.src[1] = NO_OPERATION, None, None
                graph = engine.graph(context, end)
                for begin in range(0, len(found) - size, size):
                    for node, kept in zip(chosen, self._kept, strict=True):
                        _set_values(node, kept[begin : begin + size])
                    engine.compute(graph)
                    found[begin : begin + size] = values(tensor_at(end), size)
            finally:
                for node, before in zip(chosen, sources, strict=True):
                    node.op, node.src[0], node.src[1] = before


def _is_plain(node: GgmlTensor) -> bool:
    """Whether rows of float32 are chosen from rows of float32."""
    source = tensor_at(node.src[0])
    return all(
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


def _set_values(node: GgmlTensor, rows: NDArray[np.float32]) -> None:
    for index, row in enumerate(rows):
        ctypes.memmove(node.data + index * node.nb[1], row.ctypes.data, row.nbytes)
