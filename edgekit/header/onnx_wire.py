"""Bounded reader of an ONNX graph: its inputs, outputs, nodes and initializers, nothing of the weights.

Written for files from strangers: protobuf's wire format is walked in place, weights are stepped over and every count,
name and dimension has a cap. Field numbers are those of onnx 1.23's `onnx.proto`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

from edgekit.header.container import clean, refuse

MAX_NODES, MAX_INITIALIZERS, MAX_PORTS, MAX_NAME_BYTES, MAX_DIMENSIONS = 200_000, 65_536, 4096, 4096, 8
MAX_VALUES = 2**50
MAX_CONSTANT_BYTES = 64 * 2**20
"""Of a tensor or subgraph inside a node: weights belong to the graph."""

BITS = {1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 16: 16, 17: 8, 18: 8,
        19: 8, 20: 8, 21: 4, 22: 4, 23: 4, 24: 8, 25: 2, 26: 2}  # fmt: skip
"""`TensorProto.DataType` → bits per value; texts and complex numbers are no weights."""

FLOATS, NUMBERS, DOUBLES, RAW = 4, 5, 10, 9
"""Fields of a `TensorProto` that hold values: as lists of one type, 16-bit floats among the numbers, or as bytes."""
LISTS = (FLOATS, NUMBERS, 7, DOUBLES, 11)

_TRUNCATED = "it is truncated, or a length in it is wrong"


@dataclass(frozen=True, slots=True, kw_only=True)
class Initializer:
    """A constant tensor. `location` names the file that holds it, empty when it is inside the graph's own."""

    name: str
    type: int
    shape: tuple[int, ...]
    size_bytes: int
    location: str = ""
    offset: int = 0
    inside: tuple[tuple[int, int, int], ...] = field(default=(), repr=False)
    """(field number, begin, end) of what the graph's own file holds of its values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """An operation; of its attributes only whole numbers are kept."""

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    numbers: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """An input or output of the graph. A dimension is a number, or a name where it varies."""

    name: str
    type: int
    shape: tuple[int | str, ...]


@dataclass(slots=True)
class Graph:
    producer: str = ""
    opset: int = 0
    initializers: list[Initializer] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    inputs: list[Port] = field(default_factory=list)
    outputs: list[Port] = field(default_factory=list)


class Wire:
    """A place in an unbuffered file, seen through a window of 64 KiB."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file, self.size, self.at = file, size, 0
        self.window, self.begin = b"", 0

    def take(self, count: int, end: int) -> bytes:
        if not 0 <= count <= end - self.at:
            refuse(_TRUNCATED)
        start = self.at - self.begin
        if not 0 <= start <= len(self.window) - count:
            self.file.seek(self.at)
            self.window, self.begin, start = self.file.read(max(count, 2**16)), self.at, 0
        data = self.window[start : start + count]
        self.at += count
        return data if len(data) == count else refuse(_TRUNCATED)

    def varint(self, end: int) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self.take(1, end)[0]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value & (2**64 - 1)
        return refuse("a number in it never ends")

    def fields(self, end: int) -> Iterator[tuple[int, int, int]]:
        """(field number, value, end) of each field up to `end`: a number has a value and ends at −1, a text or message
        has an end and stands at `at`. What the caller does not take is stepped over.
        """
        while self.at < end:
            key = self.varint(end)
            number, kind = key >> 3, key & 7
            if kind == 2:
                length = self.varint(end)
                stop = self.at + length
                if stop > end:
                    refuse(_TRUNCATED)
                yield number, 0, stop
                self.at = stop
            elif kind in (0, 1, 5):
                yield number, self.varint(end) if kind == 0 else _number(self.take(8 if kind == 1 else 4, end)), -1
            else:
                refuse("it is not an ONNX graph")

    def text(self, end: int) -> str:
        if end - self.at > MAX_NAME_BYTES:
            refuse(f"a name of more than {MAX_NAME_BYTES} bytes")
        return clean(self.take(end - self.at, end).decode("utf-8", "replace"), MAX_NAME_BYTES)


def _number(data: bytes) -> int:
    return int.from_bytes(data, "little")


def parse(wire: Wire) -> Graph:
    """The graph of the `ModelProto` that fills the file. Raises Unusable."""
    graph, graphs = Graph(), 0
    for number, _, end in wire.fields(wire.size):
        if number == 2:
            graph.producer = wire.text(end)
        elif number == 7:
            graphs += 1
            _read_graph(wire, end, graph)
        elif number == 8:
            graph.opset = max([graph.opset, *(version for key, version, _ in wire.fields(end) if key == 2)])
    if graphs != 1 or not graph.nodes:
        refuse("it is empty" if not wire.size else "it holds no single graph of operations")
    return graph


def _read_graph(wire: Wire, end: int, graph: Graph) -> None:
    caps = (
        (graph.nodes, MAX_NODES, "operations"),
        (graph.initializers, MAX_INITIALIZERS, "tensors"),
        (graph.inputs, MAX_PORTS, "inputs"),
        (graph.outputs, MAX_PORTS, "outputs"),
    )
    for number, _, stop in wire.fields(end):
        if number == 1:
            graph.nodes.append(_read_node(wire, stop))
        elif number == 5:
            graph.initializers.append(_read_tensor(wire, stop))
        elif number in (11, 12):
            (graph.inputs if number == 11 else graph.outputs).append(_read_port(wire, stop))
        elif number == 15:
            refuse("it has sparse tensors, which edgekit does not account for")
        for found, most, what in caps:
            if len(found) > most:
                refuse(f"it has more than {most} {what}")


def _read_node(wire: Wire, end: int) -> Node:
    texts: dict[int, list[str]] = {1: [], 2: [], 4: []}
    numbers: list[tuple[str, int]] = []
    for number, _, stop in wire.fields(end):
        if number in texts:
            texts[number].append(wire.text(stop))
        elif number == 5:
            numbers += _read_attribute(wire, stop)
    op = texts[4][-1] if texts[4] else refuse("an operation has no name")
    return Node(op=op, inputs=tuple(texts[1]), outputs=tuple(texts[2]), numbers=tuple(numbers))


def _read_attribute(wire: Wire, end: int) -> list[tuple[str, int]]:
    name, found = "", None
    for number, value, stop in wire.fields(end):
        if number == 1:
            name = wire.text(stop)
        elif number == 3:
            found = _signed(value)
        elif number in (5, 6) and stop - wire.at > MAX_CONSTANT_BYTES:
            refuse("an operation holds weights of its own")
    return [] if found is None else [(name, found)]


def _signed(value: int) -> int:
    return value if value < 2**63 else value - 2**64


def _read_port(wire: Wire, end: int) -> Port:
    """`ValueInfoProto`: name, and element type and dimensions where it is a tensor (else type 0)."""
    name, kind = "", 0
    shape: list[int | str] = []
    for number, _, stop in wire.fields(end):
        if number == 1:
            name = wire.text(stop)
        elif number == 2:
            for part, _, tensor_end in wire.fields(stop):
                if part == 1:
                    kind, shape = _read_tensor_type(wire, tensor_end)
    return Port(name=name, type=kind, shape=tuple(shape))


def _read_tensor_type(wire: Wire, end: int) -> tuple[int, list[int | str]]:
    kind = 0
    shape: list[int | str] = []
    for number, value, stop in wire.fields(end):
        if number == 1:
            kind = value
        elif number == 2:
            shape = [_read_dimension(wire, inner) for key, _, inner in wire.fields(stop) if key == 1]
    return kind, shape[: MAX_DIMENSIONS + 1]


def _read_dimension(wire: Wire, end: int) -> int | str:
    found: int | str = ""
    for number, value, stop in wire.fields(end):
        found = value if number == 1 else wire.text(stop) if number == 2 else found
    return found


# ---- tensors --------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Tensor:
    """A `TensorProto` as it stands in the file, before anything of it is believed."""

    name: str = ""
    type: int = 0
    shape: list[int] = field(default_factory=list)
    raw: int = -1
    """Bytes of `raw_data`, −1 without any."""
    typed: int = 0
    """Bytes in the lists of one type, at least one a value."""
    external: dict[str, str] = field(default_factory=dict)
    inside: list[tuple[int, int, int]] = field(default_factory=list)


def _read_tensor(wire: Wire, end: int) -> Initializer:
    found = _Tensor()
    for number, value, stop in wire.fields(end):
        if number == 1:  # a number each, or packed
            found.shape += [value] if stop < 0 else _read_packed(wire, stop)
        elif number == 2:
            found.type = value
        elif number == 8:
            found.name = wire.text(stop)
        elif number == RAW:
            found.raw = stop - wire.at
            found.inside.append((number, wire.at, stop))
        elif number == 13:
            found.external.update([_read_pair(wire, stop)])
        elif number in LISTS:
            found.typed += stop - wire.at if stop >= 0 else 1
            found.inside.append((number, wire.at, stop))
        if len(found.shape) > MAX_DIMENSIONS:
            refuse(f"tensor `{clean(found.name)}` has more than {MAX_DIMENSIONS} dimensions")
    return _checked(found)


def _checked(tensor: _Tensor) -> Initializer:
    size, external = _size_of(tensor), tensor.external
    if not external:
        _check_inline(tensor, size)
    elif not external.get("location"):
        refuse(f"tensor `{tensor.name}` lies outside the graph and its file is not named")
    elif _whole(external.get("length", str(size)), tensor) != size:
        refuse(f"tensor `{tensor.name}` is said to take {external['length']} bytes and its shape asks for {size}")
    return Initializer(
        name=tensor.name,
        type=tensor.type,
        shape=tuple(tensor.shape),
        size_bytes=size,
        location=external.get("location", ""),
        offset=_whole(external.get("offset", "0"), tensor),
        inside=() if external else tuple(tensor.inside[:2]),
    )


def _read_packed(wire: Wire, end: int) -> list[int]:
    found: list[int] = []
    while wire.at < end and len(found) <= MAX_DIMENSIONS:
        found.append(wire.varint(end))
    return found


def _read_pair(wire: Wire, end: int) -> tuple[str, str]:
    texts = {1: "", 2: ""}
    for number, _, stop in wire.fields(end):
        if number in texts:
            texts[number] = wire.text(stop)
    return texts[1], texts[2]


def _size_of(tensor: _Tensor) -> int:
    if tensor.type not in BITS:
        refuse(f"tensor `{tensor.name}` has the unknown ONNX type {tensor.type}")
    values = math.prod(tensor.shape)
    if any(length >= 2**40 for length in tensor.shape) or values >= MAX_VALUES:
        refuse(f"tensor `{tensor.name}` has an impossible shape {tensor.shape}")
    return (values * BITS[tensor.type] + 7) // 8


def _check_inline(tensor: _Tensor, size: int) -> None:
    """Bytes in the graph must be those the shape asks for; of lists only the least they may take is known."""
    if tensor.raw >= 0 and tensor.raw != size:
        refuse(f"tensor `{tensor.name}` holds {tensor.raw} bytes and its shape asks for {size}")
    if tensor.raw < 0 and tensor.typed < min(size, math.prod(tensor.shape)):
        refuse(f"tensor `{tensor.name}` has no data for its shape {tensor.shape}")


def _whole(text: str, tensor: _Tensor) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) >= 20:
        refuse(f"tensor `{tensor.name}` has a bad place in its file: `{text[:40]}`")
    return int(text)
