"""Reading a claims file: what is said of which model on which device, with everything derivable derived.

A claim names its model in one of four ways (`shape` and `quant`, `bytes_per_token`, `weights_bytes`, `parameters` and
`bits_per_weight`) and its device by `device` or by the figures themselves; what the claim states wins over the profile.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from edgekit.errors import EdgekitError
from edgekit.header.ggml import BLOCK
from edgekit.records import Device, Sourced
from edgekit.shapes import Shape, load_shape, plan_header
from edgekit.tables import (
    choice_at,
    optional_number,
    parse_toml,
    read_file,
    refuse_unknown,
    table_at,
    tables_at,
    text_at,
    whole_at,
)
from edgekit.units import format_bytes

MAX_CLAIMS_BYTES = 2**20
FIGURES: dict[str, tuple[float, float]] = {
    "decode_tokens_per_s": (1e-3, 1e9),
    "prefill_tokens_per_s": (1e-3, 1e9),
    "memory_bytes": (1e3, 1e15),
    "hours": (1e-3, 1e6),
    "quality_retention": (0.0, 1.5),
}
"""What may be claimed, each with the range that catches a wrong unit."""
_NUMBERS: dict[str, tuple[float, float]] = {
    "bytes_per_token": (1e3, 1e14),
    "weights_bytes": (1e3, 1e15),
    "parameters": (1e3, 1e14),
    "bits_per_weight": (0.1, 64),
    "bandwidth_bytes_per_s": (1e8, 1e14),
    "operations_per_s": (1e6, 1e18),
    "battery_wh": (0.01, 1e6),
    "kv_bytes_per_token": (1, 1e9),
    "tokens_per_pass": (1, 1e6),
}
KEYS = ("name", "source", "shape", "quant", "device", "kv_type", "context_tokens", "depth_tokens", "claimed", *_NUMBERS)
_KV_TYPES = ("f16", "q8_0", "q4_0")


class Span(NamedTuple):
    """A figure with its range; all three equal where there is none."""

    low: float
    value: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What is claimed, in SI units; `None` where the file neither states nor implies a figure.

    `bytes_per_token`: weights read per decoded token; `kv_bytes`: KV cache per token of context; `bytes_origin` says
    in words where the bytes per token come from.
    """

    name: str
    source: str
    origin: str
    claimed: tuple[tuple[str, float], ...]
    bytes_per_token: float | None = None
    bytes_origin: str = ""
    weights_bytes: float | None = None
    parameters: float | None = None
    kv_bytes: float | None = None
    logits_bytes: float = 0.0
    context_tokens: int = 0
    depth_tokens: int = 0
    tokens_per_pass: float = 1.0
    bandwidth: Span | None = None
    operations_per_s: float | None = None
    battery_wh: Span | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Model:
    bytes_per_token: float | None = None
    bytes_origin: str = ""
    weights_bytes: float | None = None
    parameters: float | None = None
    kv_bytes: float | None = None
    logits_bytes: float = 0.0


def read_claims(path: Path) -> tuple[Claim, ...]:
    """The claims of a TOML file. Raises EdgekitError that names file, claim and key."""
    origin = str(path)
    table = parse_toml(read_file(path, what="claims file", max_bytes=MAX_CLAIMS_BYTES), what="claims", origin=origin)
    refuse_unknown(table, ("claims",), where=f"claims file `{origin}`")
    rows = tables_at(table, "claims", where=f"claims file `{origin}`")
    if not rows:
        raise EdgekitError(f"claims file holds no claim: `{origin}`", hint="write each as a table `[[claims]]`")
    return tuple(_claim(row, f"claim {number} of `{origin}`", origin) for number, row in enumerate(rows, 1))


def _claim(row: Mapping[str, Any], where: str, origin: str) -> Claim:
    name = text_at(row, "name", where=where)
    where = f"claim `{name[:60]}` of `{origin}`"
    refuse_unknown(row, KEYS, where=where)
    numbers = {key: optional_number(row, key, where=where, low=low, high=high) for key, (low, high) in _NUMBERS.items()}
    device = _device(row, where)
    model = _model(row, numbers, where)
    return Claim(
        name=name,
        source=text_at(row, "source", where=where),
        origin=origin,
        claimed=_claimed(row, where),
        bytes_per_token=model.bytes_per_token,
        bytes_origin=model.bytes_origin,
        weights_bytes=model.weights_bytes,
        parameters=model.parameters,
        kv_bytes=numbers["kv_bytes_per_token"] or model.kv_bytes,
        logits_bytes=model.logits_bytes,
        context_tokens=whole_at(row, "context_tokens", where=where, default=0, high=2**27),
        depth_tokens=whole_at(row, "depth_tokens", where=where, default=0, high=2**27),
        tokens_per_pass=numbers["tokens_per_pass"] or 1.0,
        bandwidth=_figure(numbers["bandwidth_bytes_per_s"], device.bandwidth_bytes_per_s if device else None),
        operations_per_s=numbers["operations_per_s"],
        battery_wh=_figure(numbers["battery_wh"], device.battery_wh if device else None),
    )


def _claimed(row: Mapping[str, Any], where: str) -> tuple[tuple[str, float], ...]:
    table = table_at(row, "claimed", where=where)
    refuse_unknown(table, FIGURES, where=f"`claimed` of {where}")
    found = {
        key: optional_number(table, key, where=f"`claimed` of {where}", low=FIGURES[key][0], high=FIGURES[key][1])
        for key in table
    }
    if not found:
        raise EdgekitError(f"{where} claims nothing: `claimed`", hint="e.g. `claimed = { decode_tokens_per_s = 50 }`")
    return tuple((key, value) for key, value in found.items() if value is not None)


def _device(row: Mapping[str, Any], where: str) -> Device | None:
    if "device" not in row:
        return None
    from edgekit.devices import load_device

    try:
        return load_device(text_at(row, "device", where=where))
    except EdgekitError as error:
        raise EdgekitError(f"`device` in {where}: {error.message}", hint=error.hint) from None


def _figure(stated: float | None, profile: Sourced | None) -> Span | None:
    """The claim's own figure, else the profile's with its range."""
    if stated is not None:
        return Span(stated, stated, stated)
    if profile is None:
        return None
    low, high = profile.low or profile.value, profile.high or profile.value
    return Span(min(low, profile.value), profile.value, max(high, profile.value))


def _model(row: Mapping[str, Any], numbers: Mapping[str, float | None], where: str) -> _Model:
    shape, quant = (text_at(row, key, where=where, default="") for key in ("shape", "quant"))
    kv_type = choice_at(row, "kv_type", _KV_TYPES, where=where, default="f16")
    if shape or quant:
        if not (shape and quant):
            lacks = "quant" if shape else "shape"
            raise EdgekitError(f"{where} needs `shape` and `quant` together; it lacks `{lacks}`")
        clash = [key for key in ("bytes_per_token", "weights_bytes", "parameters", "bits_per_weight") if numbers[key]]
        if clash:
            raise EdgekitError(f"{where} names its model twice: `shape` and `{clash[0]}`", hint="keep one of them")
        return _from_shape(shape, quant, kv_type, where)
    return _from_numbers(numbers)


def _from_shape(name: str, quant: str, kv_type: str, where: str) -> _Model:
    try:
        shape = load_shape(name)
        header = plan_header(shape, quant)
    except EdgekitError as error:
        raise EdgekitError(f"model of {where}: {error.message}", hint=error.hint) from None
    from edgekit.memory import streamed_bytes

    streamed = float(sum(size_bytes for _, size_bytes in streamed_bytes(header)))
    return _Model(
        bytes_per_token=streamed,
        bytes_origin=f"{format_bytes(streamed)} (the weights {name} reads per token in {header.quant})",
        weights_bytes=float(header.size_bytes),
        parameters=_multiplied(shape),
        kv_bytes=2 * shape.layers * shape.kv_heads * shape.head_dim * BLOCK[kv_type][1] / BLOCK[kv_type][0],
        logits_bytes=4.0 * shape.vocabulary,
    )


def _multiplied(shape: Shape) -> float:
    """Parameters that take part in a matrix product: prefill computes logits of one row only, so not the output."""
    query, key = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    return float(shape.layers * shape.hidden * (2 * query + 2 * key + 3 * shape.ffn))


def _from_numbers(numbers: Mapping[str, float | None]) -> _Model:
    parameters, bits = numbers["parameters"], numbers["bits_per_weight"]
    weights, streamed = numbers["weights_bytes"], numbers["bytes_per_token"]
    origin = f"{format_bytes(streamed)} (as stated)" if streamed else ""
    if weights is None and parameters and bits:
        weights = parameters * bits / 8
        formula = f"{parameters:.3g} parameters × {bits:g} bits ÷ 8"
        origin = origin or f"{formula} = {format_bytes(weights)}"
    elif weights is not None:
        each = f", {weights * 8 / parameters:.2f} bits for each of {parameters:.3g} parameters" if parameters else ""
        origin = origin or f"{format_bytes(weights)} (all the weights{each})"
    return _Model(
        bytes_per_token=streamed or weights,
        bytes_origin=origin,
        weights_bytes=weights or streamed,
        parameters=parameters,
    )
