"""Bounded reader of safetensors headers: names, types, shapes and extents, nothing of the weights.

Written for files from strangers: sizes are capped before anything is read, every extent must be inside the file, fit
its type and shape, and the extents must fill the data section without overlap, as the format demands.
Layout: `u64` length of the header, header as JSON, data (https://github.com/huggingface/safetensors#format).
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from edgekit.errors import EdgekitError

MAX_HEADER_BYTES = 100_000_000  # the format's own limit
MAX_TENSORS, MAX_DIMENSIONS, MAX_NAME, MAX_VALUES = 65_536, 8, 512, 2**50

WIDTHS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 8),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2),
    **dict.fromkeys(("I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 1),
}
"""Type → bytes per value."""

HINT = "download or save the checkpoint again (`model.save_pretrained(…)` writes safetensors)"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTensor:
    """One tensor of a checkpoint: where its bytes lie. `dtype` is safetensors' name (`BF16`), `shape` as torch says it
    (row length last), `begin` and `end` are offsets in `file`, in bytes.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    begin: int
    end: int

    @property
    def size_bytes(self) -> int:
        return self.end - self.begin


def read_safetensors_header(path: Path) -> tuple[tuple[StoredTensor, ...], bytes]:
    """The tensors of one file in the order of their data, and the header's bytes. Raises EdgekitError with one reason
    for everything that breaks the format.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            prefix = file.read(8)
            length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
            if not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
                _refuse(path, f"its header claims {length} bytes of {size}" if prefix else "it is empty")
            raw = file.read(length)
    except OSError as error:
        raise EdgekitError(f"cannot read the checkpoint ({(error.strerror or 'failed').lower()}): `{path}`") from None
    if len(raw) < length:
        _refuse(path, "it is truncated inside its header")
    entries = _entries(path, raw)
    tensors = sorted(
        (_tensor(path, name, entry, 8 + length) for name, entry in entries), key=lambda t: (t.begin, t.end)
    )
    at = 8 + length
    for tensor in tensors:
        if tensor.begin != at:
            _refuse(path, f"the data of tensor `{shown(tensor.name)}` overlaps or leaves a hole")
        at = tensor.end
    if at != size:
        _refuse(path, f"its tensors end at byte {at} of {size}" + (", truncated" if at > size else ""))
    return tuple(tensors), raw


def shown(text: object, cap: int = 120) -> str:
    """Untrusted text made fit for a terminal: printable characters only, at most `cap` of them."""
    clean = "".join(c if c.isprintable() and c != "`" else " " for c in str(text)[: cap + 1])
    return clean if len(clean) <= cap else clean[: cap - 1] + "…"


def no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """`object_pairs_hook` that refuses what two readers could read differently."""
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("a key is there twice")
    return made


def _entries(path: Path, raw: bytes) -> list[tuple[str, Any]]:
    try:
        header = json.loads(raw, object_pairs_hook=no_duplicates)
    except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError
        _refuse(path, "its header is not valid JSON")
    if not isinstance(header, dict):
        _refuse(path, "its header is not a table of tensors")
    header.pop("__metadata__", None)
    if len(header) > MAX_TENSORS:
        _refuse(path, f"it claims {len(header)} tensors, more than {MAX_TENSORS}")
    return list(header.items())


def _tensor(path: Path, name: str, entry: Any, data_begin: int) -> StoredTensor:
    label = shown(name)
    if not name or len(name) > MAX_NAME or not isinstance(entry, dict):
        _refuse(path, f"tensor `{label}` is not described as one")
    dtype, shape, extent = entry.get("dtype"), _counts(entry.get("shape")), _counts(entry.get("data_offsets"))
    if not isinstance(dtype, str) or dtype not in WIDTHS:
        _refuse(path, f"tensor `{label}` has the unknown type `{shown(dtype, 20)}`")
    if shape is None or len(shape) > MAX_DIMENSIONS:
        _refuse(path, f"tensor `{label}` has an impossible shape")
    if extent is None or len(extent) != 2:
        _refuse(path, f"tensor `{label}` has no valid `data_offsets`")
    values = 1
    for size in shape:
        values *= size
        if values > MAX_VALUES:
            _refuse(path, f"tensor `{label}` has an impossible shape")
    begin, end = extent
    if end - begin != values * WIDTHS[dtype]:
        _refuse(path, f"tensor `{label}` needs {values * WIDTHS[dtype]} bytes and has {end - begin}")
    return StoredTensor(
        name=name, dtype=dtype, shape=tuple(shape), file=path, begin=data_begin + begin, end=data_begin + end
    )


def _counts(value: Any) -> list[int] | None:
    """`value` where it is a list of whole numbers that are not negative (a bool is none)."""
    sound = isinstance(value, list) and all(type(item) is int and 0 <= item < 2**63 for item in value)
    return value if sound else None


def _refuse(path: Path, reason: str) -> NoReturn:
    raise EdgekitError(f"not a usable safetensors file ({reason}): `{path}`", hint=HINT)
