"""The dimensions of a model, from the package's own table or a user's SHAPE.toml."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from edgekit.errors import EdgekitError
from edgekit.tables import flag_at, number, parse_toml, read_file, refuse_unknown, text_at, whole_at

ARCHITECTURES = ("llama", "qwen2", "qwen3")
MIN_VOCABULARY = 512
"""Below this a byte-level vocabulary (256 bytes, special tokens) leaves no room for merges."""
MAX_SHAPE_BYTES = 64 * 1024
_LIMITS = {
    "layers": (1, 1024),
    "hidden": (32, 65536),
    "heads": (1, 1024),
    "kv_heads": (1, 1024),
    "head_dim": (2, 1024),
    "ffn": (32, 262144),
    "vocabulary": (MIN_VOCABULARY, 1 << 20),
    "context_train": (1, 1 << 24),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A dense decoder's dimensions: what decides its memory and speed, with none of its weights.

    `head_dim` is per head; `source` names the public configuration the figures come from.
    """

    name: str
    title: str
    architecture: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocabulary: int
    tied_embedding: bool
    context_train: int = 32768
    rope_freq_base: float = 1_000_000.0
    rms_epsilon: float = 1e-6
    source: str = ""


def load_shape(name_or_path: str | Path) -> Shape:
    """The reference student of that name, or the shape in a TOML file.

    Raises EdgekitError for an unknown name (with the nearest one), an unreadable file, or dimensions that no model
    can have.
    """
    text = str(name_or_path)
    if text in SHAPES:
        return SHAPES[text]
    path = Path(name_or_path)
    if path.suffix != ".toml" and not path.is_file():
        near = get_close_matches(text.lower(), SHAPES, n=1, cutoff=0.4)
        hint = f"did you mean `{near[0]}`? " if near else ""
        known = ", ".join(f"`{name}`" for name in SHAPES)
        raise EdgekitError(f"unknown shape: `{text}`", hint=f"{hint}known shapes: {known}; or a path to a SHAPE.toml")
    data = read_file(path, what="shape file", max_bytes=MAX_SHAPE_BYTES)
    return shape_of(
        {"name": path.stem} | parse_toml(data, what="shape file", origin=str(path)), where=f"shape file `{path}`"
    )


def shape_of(table: Mapping[str, Any], *, where: str) -> Shape:
    """The shape that a table holds. Raises EdgekitError; every refusal names the key and `where`."""
    table = dict(table)
    known = {field.name: field for field in fields(Shape)}
    refuse_unknown(table, known, where=where)
    table.setdefault("title", table.get("name"))
    if "head_dim" not in table and isinstance(table.get("hidden"), int) and isinstance(table.get("heads"), int):
        table["head_dim"] = table["hidden"] // max(table["heads"], 1)
    for key, field in known.items():
        if key in table:
            table[key] = _value(table, key, str(field.type), where)
        elif field.default is MISSING:
            raise EdgekitError(f"{where} lacks a key: `{key}`", hint="`edgekit/data/shapes.toml` shows whole shapes")
    shape = Shape(**table)
    _check_dimensions(shape, where)
    return shape


def _value(table: Mapping[str, Any], key: str, kind: str, where: str) -> object:
    if kind == "str":
        return text_at(table, key, where=where, default="")
    if kind == "bool":
        return flag_at(table, key, where=where, default=False)
    if kind == "float":
        return number(table[key], where=f"`{key}` in {where}", low=1e-12, high=1e12)
    low, high = _LIMITS[key]
    return whole_at(table, key, where=where, default=0, low=low, high=high)


def _check_dimensions(shape: Shape, where: str) -> None:
    """What llama.cpp would refuse at load time, said before gigabytes are written."""
    wrong = ""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", shape.name):
        wrong = f"`name` may hold letters, digits, `.`, `_`, `-`: `{shape.name}`"
    elif shape.architecture not in ARCHITECTURES:
        known = ", ".join(f"`{name}`" for name in ARCHITECTURES)
        wrong = f"`architecture` must be one of {known}: `{shape.architecture}`"
    elif shape.heads % shape.kv_heads:
        wrong = f"`kv_heads` must divide `heads` = {shape.heads}: `{shape.kv_heads}`"
    elif shape.head_dim % 2:
        wrong = f"`head_dim` must be even (rotary embedding pairs the values): `{shape.head_dim}`"
    elif shape.hidden % 2 or shape.ffn % 2:
        wrong = f"`hidden` and `ffn` must be even: `{shape.hidden if shape.hidden % 2 else shape.ffn}`"
    elif shape.architecture == "qwen2" and shape.heads * shape.head_dim != shape.hidden:
        wrong = f"qwen2 needs `heads` × `head_dim` = `hidden` = {shape.hidden}: `{shape.heads * shape.head_dim}`"
    if wrong:
        raise EdgekitError(f"{where} is not possible: {wrong}")


def _reference_shapes() -> dict[str, Shape]:
    path = Path(__file__).parent.parent / "data" / "shapes.toml"
    tables = tomllib.loads(path.read_text(encoding="utf-8"))
    return {
        name: shape_of({"name": name} | table, where=f"shape `{name}` of shapes.toml") for name, table in tables.items()
    }


SHAPES: Mapping[str, Shape] = _reference_shapes()
