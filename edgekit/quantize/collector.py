"""The evaluation half of the importance matrix, in the child: a callback of llama.cpp's scheduler that sums squares.

Follows `IMatrixCollector::collect_imatrix` and `compute_imatrix` of llama.cpp's tools/imatrix/imatrix.cpp: every chunk
starts with an empty cache and beginning-of-text, and outputs are asked of all tokens, or the last layer's feed-forward
would see only the last one. Matrices that read one and the same input are summed once; once every layer is collected,
the rest of the graph (the output matrix) is not computed.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.quantize.imatrix import PART_TOKENS, imatrix_bytes
from edgekit.records import Settings
from edgekit.runtimes import llamacpp
from edgekit.runtimes.ggml_tensor import GgmlTensor
from edgekit.runtimes.protocol import Advanced, SessionRefused

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_LEAST_ROWS = 16
_BLOCK_COLUMNS = 2048
"""Their running sums stay in a core's first cache: three times as fast as whole rows of a wide feed-forward."""


@dataclass(slots=True)
class _Entry:
    """Sums of squares of one weight's inputs, (experts, columns), and how many rows each expert saw."""

    sums: NDArray[np.float64]
    counts: NDArray[np.int64]


@dataclass(slots=True)
class Collector:
    """Sums squares of what the weights of each layer are multiplied by, and of the output matrix when `output` is its
    name. `product` and `routed` are ggml's numbers of MUL_MAT and MUL_MAT_ID.
    """

    product: int
    routed: int
    output: str = ""
    entries: dict[str, _Entry] = field(default_factory=dict)
    error: str = ""
    _by_input: dict[int, tuple[NDArray[np.float64], int]] = field(default_factory=dict)
    _seen: int = 0
    _in_a_graph: int = 0

    def next_graph(self) -> None:
        """A graph has been evaluated. Raises SessionRefused for what went wrong in it."""
        if self.error:
            raise SessionRefused("model", self.error)
        self._in_a_graph = max(self._in_a_graph, self._seen)
        self._by_input.clear()
        self._seen = 0

    def __call__(self, address: int, ask: bool, _: object) -> bool:
        """llama.cpp asks of each node whether it is wanted, and shows it once it is computed; False then stops."""
        try:
            node = GgmlTensor.from_address(address)
            if ask:
                return not self.error and self._wanted(node)
            self._collect(node)
        except SessionRefused as refusal:
            self.error = refusal.message
        except Exception as error:  # no exception passes through C: it is told after the graph
            self.error = f"reading activations failed: `{type(error).__name__}: {error}`"
        return not self.error and self._seen != self._in_a_graph

    def _wanted(self, node: GgmlTensor) -> bool:
        if node.op not in (self.product, self.routed):
            return False
        name = _plain_name(GgmlTensor.from_address(node.src[0]).name)
        rows = GgmlTensor.from_address(node.src[1])
        if not (name.startswith("blk.") or name == self.output) or rows.type != 0:
            return False
        if node.op == self.routed:
            return True
        if rows.ne[1] < _LEAST_ROWS:
            return False
        if node.src[1] in self._by_input:  # computed for the matrix before: queries, keys and values read one input
            self._seen += 1
            self._add(name, *self._by_input[node.src[1]])
            return False
        return True

    def _collect(self, node: GgmlTensor) -> None:
        self._seen += 1
        weight, rows = GgmlTensor.from_address(node.src[0]), GgmlTensor.from_address(node.src[1])
        name = _plain_name(weight.name)
        if node.op == self.routed:
            self._add_routed(name, weight.ne[2], rows, GgmlTensor.from_address(node.src[2]))
            return
        if weight.ne[2] * weight.ne[3] != 1:
            raise SessionRefused("model", f"edgekit cannot calibrate stacked matrices: `{name}`")
        squares, count = _sum_squares(_matrices(rows))
        self._by_input[node.src[1]] = squares, count
        self._add(name, squares, count)

    def _add(self, name: str, squares: NDArray[np.float64], count: int) -> None:
        entry = self._entry(name, 1, squares.size)
        entry.sums[0] += squares
        entry.counts[0] += count

    def _add_routed(self, name: str, experts: int, rows: GgmlTensor, chosen: GgmlTensor) -> None:
        """`rows` are (columns, experts used or 1, tokens), `chosen` the experts used by each token."""
        import numpy as np

        entry = self._entry(name, experts, rows.ne[0])
        ids = _array(chosen, "<i4")[0, 0, :, : chosen.ne[0]]
        tokens = _array(rows, "<f4")[0, :, :, : rows.ne[0]]
        if ids.min() < 0 or ids.max() >= experts:
            raise SessionRefused("model", f"the router chose an expert that is not there: `{name}`")
        for index in range(chosen.ne[0]):
            inputs = tokens[:, index % rows.ne[1]]
            for expert in np.unique(ids[:, index]):
                squares, count = _sum_squares([inputs[ids[:, index] == expert]])
                entry.sums[expert] += squares
                entry.counts[expert] += count

    def _entry(self, name: str, experts: int, columns: int) -> _Entry:
        import numpy as np

        if name not in self.entries:
            self.entries[name] = _Entry(np.zeros((experts, columns)), np.zeros(experts, np.int64))
        return self.entries[name]


def _plain_name(name: bytes) -> str:
    """`CPU#blk.0.attn_k.weight#0` → `blk.0.attn_k.weight`: the scheduler names its copies so."""
    parts = name.decode(errors="replace").split("#")
    return parts[1] if len(parts) > 1 else parts[0]


def _array(tensor: GgmlTensor, kind: str) -> NDArray[Any]:
    """The tensor's memory as (ne3, ne2, ne1, columns and what follows them in a row), without a copy."""
    import numpy as np

    item = np.dtype(kind).itemsize
    ne, nb = tensor.ne, tensor.nb
    if nb[0] != item or not tensor.data:
        raise SessionRefused("model", "llama.cpp shows activations in another layout")
    extent = sum((ne[i] - 1) * nb[i] for i in range(4)) + item
    flat = np.frombuffer((ctypes.c_char * extent).from_address(tensor.data), kind)
    return np.lib.stride_tricks.as_strided(flat, shape=tuple(ne)[::-1], strides=tuple(nb)[::-1], writeable=False)


def _matrices(tensor: GgmlTensor) -> Iterator[NDArray[np.float32]]:
    array = _array(tensor, "<f4")
    return (matrix for outer in array for matrix in outer)


def _sum_squares(matrices: Iterable[NDArray[np.float32]]) -> tuple[NDArray[np.float64], int]:
    """Sum of squares of each column over all rows of the matrices, and the number of rows."""
    import numpy as np

    total, count = np.zeros(0), 0
    for matrix in matrices:
        columns = matrix.shape[1]
        total = total if count else np.zeros(columns)
        for start in range(0, columns, _BLOCK_COLUMNS):
            part = matrix[:, start : start + _BLOCK_COLUMNS]
            total[start : start + _BLOCK_COLUMNS] += np.einsum("ij,ij->j", part, part)
        count += len(matrix)
    return total, count


# ---- the job ------------------------------------------------------------------------------------------------------


def calibrate_here(job: Mapping[str, Any], send: Callable[[Any], None]) -> None:
    """Do a calibrate job in this process, which is the fenced child. Raises SessionRefused.

    Sends an Advanced message per chunk, and writes the matrix to `job["out"]`.
    """
    context = job["context_tokens"]
    part = min(context, PART_TOKENS)
    settings = Settings(context_tokens=context, batch_tokens=part, ubatch_tokens=part, threads=job["threads"])
    product, routed = _operation_numbers()
    collector = Collector(product=product, routed=routed, output=job["output"])
    import llama_cpp.llama_cpp as c

    callback = c.ggml_backend_sched_eval_callback(collector)
    session = llamacpp.open_session(Path(job["path"]), settings, on_node=callback)
    pieces = _pieces(session, job["text"], context, job["chunks"])
    for index, tokens in enumerate(pieces):
        session.reset()
        for start in range(0, context, part):
            session.evaluate(tokens[start : start + part])
            collector.next_graph()
        send(Advanced(done=index + 1, total=len(pieces), detail=f"{context} tokens each"))
    _write(Path(job["out"]), collector, job, len(pieces))


def _operation_numbers() -> tuple[int, int]:
    """ggml's numbers of MUL_MAT and MUL_MAT_ID, by their names: the enumeration grows in its middle."""
    from edgekit.quantize.ggml_types import operation_names

    names = operation_names()
    return names.index("MUL_MAT"), names.index("MUL_MAT_ID")


def _pieces(session: llamacpp.Session, text: str, context: int, chunks: int) -> list[list[int]]:
    """The text's tokens in whole chunks; the first token of each gives way to beginning-of-text, where the model has
    one.
    """
    first = [] if session.first_token is None else [session.first_token]
    tokens = first + session.tokenize(text)
    if len(tokens) < 2 * context:
        raise SessionRefused("text", f"the text is too short: {len(tokens)} tokens, two chunks need `{2 * context}`")
    pieces = [tokens[start : start + context] for start in range(0, len(tokens) - context + 1, context)]
    return [(first or piece[:1]) + piece[1:] for piece in pieces[: chunks or None]]


def _write(out: Path, collector: Collector, job: Mapping[str, Any], chunks: int) -> None:
    import numpy as np

    broken = [name for name, entry in collector.entries.items() if not np.isfinite(entry.sums).all()]
    if broken:
        raise SessionRefused("model", f"the model gives values that are no numbers before `{sorted(broken)[0]}`")
    if not collector.entries:
        raise SessionRefused("model", "the model has no matrices that could be calibrated")
    data = imatrix_bytes(
        {
            name: (entry.sums.astype(np.float32), entry.counts.astype(np.float32))
            for name, entry in collector.entries.items()
        },
        dataset=f"sha256:{job['keys']['edgekit.calibration.sha256']}",
        chunks=chunks,
        chunk_tokens=job["context_tokens"],
        keys=job["keys"],
    )
    out.write_bytes(data)
