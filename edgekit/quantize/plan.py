"""A plan as a file: `plan.toml` says what it is for, can be read and edited by people, and is replayed exactly."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgekit.errors import EdgekitError
from edgekit.files import replacing
from edgekit.header.ggml import BLOCK
from edgekit.memory.tensors import retyped
from edgekit.quantize.degrading import quantizable
from edgekit.quantize.ggml_types import PLAIN, check_tensor_type
from edgekit.quantize.llama_quantize import exactly
from edgekit.quantize.pricing import base_file_type, planned_header
from edgekit.records import Budget, Estimate, Figure, Header, PlannedTensor, QuantPlan, Unknown
from edgekit.tables import optional_number, parse_toml, read_file, refuse_unknown, table_at, text_at, whole_at
from edgekit.units import format_bytes, format_rate

MAX_PLAN_BYTES = 8 * 2**20
VERSION = 1
_KEYS = ("version", "source_sha256", "imatrix_sha256", "text_sha256", "device", "min_decode", "budget", "tensors")
_BUDGET_KEYS = ("memory_bytes", "file_bytes", "bits_per_weight")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,63}")


def write_plan(path: Path, plan: QuantPlan) -> None:
    """Write `plan` as TOML, whole or not at all. What it comes to stands in comments: it is computed anew when read."""
    lines = [
        *(f"# {line}" for line in _summary(plan)),
        f"version = {VERSION}",
        f'source_sha256 = "{plan.source_sha256}"',
        f'imatrix_sha256 = "{plan.imatrix_sha256}"',
        f'text_sha256 = "{plan.text_sha256}"',
        f'device = "{plan.device}"',
        f"min_decode = {float(plan.min_decode)!r}",
        "",
        "[budget]",
        *(f"{key} = {float(value)!r}" for key in _BUDGET_KEYS if (value := getattr(plan.budget, key)) is not None),
        "",
        "# tensor = type; edit at will, `edgekit quantize --plan` checks every line against the model",
        "[tensors]",
        *(f'"{tensor.name}" = "{tensor.type}"' for tensor in plan.tensors),
    ]
    with replacing(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def read_plan(path: Path, header: Header) -> QuantPlan:
    """The plan in `path` for the model of `header`, sizes computed from it; quality unknown, as nothing was measured.

    Raises EdgekitError for anything that is not a plan, and for tensors or types the model cannot take.
    """
    where = "plan"
    table = parse_toml(read_file(path, what="plan", max_bytes=MAX_PLAN_BYTES), what="plan", origin=str(path))
    refuse_unknown(table, _KEYS, where=where)
    version = whole_at(table, "version", where=where, default=0)
    if version != VERSION:
        raise EdgekitError(f"cannot read this version of plans: `{version}`", hint=f"edgekit reads version {VERSION}")
    kinds = _checked_types(table_at(table, "tensors", where=where), header)
    planned = planned_header(header, kinds)
    weights = sum(_count(tensor.shape) for tensor in planned.tensors)
    size_bytes = sum(tensor.size_bytes for tensor in planned.tensors)
    unknown = Unknown(reason="the plan was read from a file", settle="run `edgekit evaluate` on what comes out")
    return QuantPlan(
        source_sha256=_sha256(table, "source_sha256"),
        imatrix_sha256=_sha256(table, "imatrix_sha256"),
        text_sha256=_sha256(table, "text_sha256"),
        budget=_budget(table_at(table, "budget", where=where)),
        device=text_at(table, "device", where=where, default=""),
        min_decode=optional_number(table, "min_decode", where=where) or 0.0,
        tensors=tuple(
            PlannedTensor(name=tensor.name, type=tensor.type, size_bytes=tensor.size_bytes, kld=0.0)
            for tensor in planned.tensors
            if tensor.name in kinds
        ),
        size_bytes=size_bytes,
        bits_per_weight=size_bytes * 8 / weights,
        kld=unknown,
        kld_joint=unknown,
    )


def types_of(plan: QuantPlan) -> dict[str, str]:
    """Tensor name → type."""
    return {tensor.name: tensor.type for tensor in plan.tensors}


def file_type(plan: QuantPlan, header: Header) -> str:
    """The file type to give `quantize_gguf` beside `tensor_types`."""
    return base_file_type(planned_header(header, types_of(plan)).tensors)


def tensor_types(plan: QuantPlan) -> tuple[tuple[str, str], ...]:
    """The plan as `quantize_gguf` takes it beside `file_type`: a pattern for each tensor's whole name. Empty for a plan
    without quantized types, which llama.cpp has no patterns for and needs none.
    """
    if all(tensor.type in PLAIN for tensor in plan.tensors):
        return ()
    return tuple((exactly(tensor.name), tensor.type) for tensor in plan.tensors)


# ---- reading --------------------------------------------------------------------------------------------------------


def _checked_types(table: Mapping[str, Any], header: Header) -> dict[str, str]:
    if not table:
        raise EdgekitError("the plan names no tensor", hint='write `"blk.0.attn_q.weight" = "q4_k"` under `[tensors]`')
    tensors = {tensor.name: tensor for tensor in header.tensors}
    kinds = {}
    for name, written in table.items():
        if not isinstance(written, str):
            raise EdgekitError(f"the type of a tensor in the plan must be text: `{name[:63]}`")
        kind = check_tensor_type(written)
        tensor = tensors.get(name)
        if tensor is None or not _NAME.fullmatch(name):
            raise EdgekitError(f"the plan is of another model, this one has no tensor: `{name[:63]}`")
        if len(tensor.shape) < 2:
            raise EdgekitError(f"a tensor of one dimension is never quantized: `{name}`")
        if tensor.shape[0] % BLOCK[kind][0]:
            raise EdgekitError(
                f"rows of {tensor.shape[0]} values are no whole number of `{kind}` blocks: `{name}`",
                hint="choose a type with blocks of 32, such as `q8_0` or `q5_0`",
            )
        kinds[name] = retyped(tensor, kind).type
    left_out = next((tensor.name for tensor in quantizable(header) if tensor.name not in kinds), None)
    if left_out is not None:  # llama.cpp would choose a type for it that the plan's size does not know
        raise EdgekitError(f"the plan leaves out a tensor: `{left_out}`", hint="give every tensor a type")
    return kinds


def _sha256(table: Mapping[str, Any], key: str) -> str:
    text = text_at(table, key, where="plan", default="")
    if text and not _SHA256.fullmatch(text):
        raise EdgekitError(f"`{key}` in plan is no sha256: `{text[:80]}`")
    return text


def _budget(table: Mapping[str, Any]) -> Budget:
    refuse_unknown(table, _BUDGET_KEYS, where="plan.budget")
    return replace(
        Budget(), **{key: optional_number(table, key, where="plan.budget") for key in _BUDGET_KEYS if key in table}
    )


def _count(shape: tuple[int, ...]) -> int:
    total = 1
    for length in shape:
        total *= length
    return total


# ---- writing --------------------------------------------------------------------------------------------------------


def _summary(plan: QuantPlan) -> list[str]:
    size = f"{format_bytes(plan.size_bytes)}, {plan.bits_per_weight:.3f} bits per weight"
    lines = [f"edgekit plan: {len(plan.tensors)} tensors, {size}"]
    lines += [f"KLD, {what}: {_kld(figure)}" for what, figure in (("sum", plan.kld), ("joint", plan.kld_joint))]
    for one in plan.on:
        speed = f"{format_rate(one.decode.low)} or more" if isinstance(one.decode, Estimate) else one.decode.reason
        lines.append(
            f"{one.device}: {format_bytes(one.memory.high)} of {format_bytes(one.limit_bytes)} at most, decode {speed}"
        )
    return lines


def _kld(figure: Figure) -> str:
    if isinstance(figure, Unknown):
        return f"unknown ({figure.reason})"
    return f"{figure.value:.4g} nats per token ({figure.low:.4g} to {figure.high:.4g})"
