"""Bounded reader of one GGUF file's header: keys, array lengths and tensor infos, nothing of the weights.

Written for files from strangers: every count, string and array has a cap, offsets must be those llama.cpp would accept
(`ggml/src/gguf.cpp`), and the vocabulary is stepped over, never built. Layout: ggml's `docs/gguf.md`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import NoReturn

from edgekit.header.ggml import TENSOR_TYPES
from edgekit.records import TensorInfo

MAX_KEYS, MAX_TENSORS, MAX_ALIGNMENT = 65_536, 65_536, 65_536
MAX_KEY_BYTES, MAX_STRING_BYTES, MAX_ARRAY = 256, 2**20, 2**23
KEPT_ARRAY = 1024  # of longer ones only the length

_SCALARS = {kind: struct.Struct("<" + code) for kind, code in enumerate("BbHhIif?") if kind < 8}
_SCALARS |= {10: struct.Struct("<Q"), 11: struct.Struct("<q"), 12: struct.Struct("<d")}
_U32, _U64, _STRING, _ARRAY = _SCALARS[4], _SCALARS[10], 8, 9

Value = int | float | str | tuple[int | float, ...] | None


class Unusable(Exception):  # noqa: N818
    """The file breaks the format or contradicts itself; the text says how."""


class Short(Exception):  # noqa: N818
    """The bytes at hand end inside the header."""


@dataclass(slots=True)
class Container:
    data: bytes
    at: int = 0
    keys: dict[str, Value] = field(default_factory=dict)
    lengths: dict[str, int] = field(default_factory=dict)
    tensors: list[TensorInfo] = field(default_factory=list)
    data_end: int = 0

    def take(self, size: int) -> int:
        """Step over `size` bytes; where they began."""
        self.at += size
        if self.at > len(self.data):
            raise Short
        return self.at - size

    def number(self, kind: struct.Struct = _U64, cap: int = 2**64, what: str = "") -> int:
        value: int = kind.unpack_from(self.data, self.take(kind.size))[0]
        return value if value <= cap else refuse(f"{value} {what}, more than {cap}")

    def text(self, cap: int, what: str) -> str:
        size = self.number(cap=cap, what=f"bytes of {what}")
        return self.data[self.take(size) : self.at].decode("utf-8", "replace")

    def value(self, key: str, kind: int) -> Value:
        if kind == _STRING:
            return self.text(MAX_STRING_BYTES, f"text in `{clean(key)}`")
        if kind != _ARRAY:
            return self.number(_scalar(kind, key))
        kind, length = self.number(_U32), self.number(cap=MAX_ARRAY, what=f"entries in `{clean(key)}`")
        self.lengths[key] = length
        if kind == _STRING:
            self.skip_strings(length)
            return None
        item = _scalar(kind, key)
        start = self.take(item.size * length)
        return tuple(row[0] for row in item.iter_unpack(self.data[start : self.at])) if length <= KEPT_ARRAY else None

    def skip_strings(self, length: int) -> None:
        at, data, read = self.at, self.data, _U64.unpack_from  # 300 000 turns for a large vocabulary: locals only
        try:
            for _ in range(length):
                at += read(data, at)[0] + 8
        except (struct.error, OverflowError):
            raise Short from None
        self.take(at - self.at)

    def tensor(self, offset: int, alignment: int, shard: int) -> int:
        """Read one tensor info whose data must begin at `offset` of the data section; where the next must begin."""
        name = clean(self.text(63, "tensor name"))
        shape = tuple(self.number() for _ in range(self.number(_U32, 4, f"dimensions in tensor `{name}`")))
        kind, found = self.number(_U32), self.number()
        if kind not in TENSOR_TYPES:
            refuse(f"tensor `{name}` has the unknown ggml type {kind}")
        label, block, block_bytes = TENSOR_TYPES[kind]
        values = 1
        for length in shape:
            values *= length
        if not shape or not 0 < values < 2**50 or shape[0] % block:
            refuse(f"tensor `{name}` has an impossible {label} shape {list(shape)}")
        if found != offset:
            refuse(f"tensor `{name}` begins at {found} and not at {offset}: overlapping or misaligned data")
        size = values // block * block_bytes
        self.data_end = offset + size
        self.tensors.append(TensorInfo(name=name, type=label, shape=shape, size_bytes=size, shard=shard))
        return offset + -(-size // alignment) * alignment


def parse(container: Container, number: int) -> int:
    """Fill `container`; where its data section begins."""
    if container.data[:4] != b"GGUF"[: len(container.data)] or not container.data:
        refuse("it is empty" if not container.data else "it does not begin with `GGUF`")
    container.take(4)
    version = container.number(_U32)
    if version not in (2, 3):
        refuse("big-endian" if version and not version & 0xFFFF else f"GGUF version {version}, edgekit reads 2 and 3")
    tensors = container.number(cap=MAX_TENSORS, what="tensors")
    for _ in range(container.number(cap=MAX_KEYS, what="keys")):
        key = container.text(MAX_KEY_BYTES, "key")
        if key in container.keys or not key:
            refuse(f"key `{clean(key)}` is there twice" if key else "a key is empty")
        container.keys[key] = container.value(key, container.number(_U32))
    alignment = container.keys.get("general.alignment", 32)
    if not isinstance(alignment, int) or not 0 < alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
        refuse("its alignment is not a power of two")
    offset = 0
    for _ in range(tensors):
        offset = container.tensor(offset, alignment, number)
    return -(-container.at // alignment) * alignment


def _scalar(kind: int, key: str) -> struct.Struct:
    return _SCALARS.get(kind) or refuse(f"key `{clean(key)}` has the unknown value type {kind}")


def refuse(reason: str) -> NoReturn:
    """Give up on the file; the caller knows its path."""
    raise Unusable(reason)


def clean(text: str, cap: int = 200) -> str:
    """Untrusted text made fit for a terminal and a report: printable characters only, at most `cap` of them."""
    shown = "".join(c if c.isprintable() else " " for c in text[: cap + 1])
    return shown if len(shown) <= cap else shown[: cap - 1] + "…"
