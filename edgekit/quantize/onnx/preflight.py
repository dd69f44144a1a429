"""What an export will take, before it is begun: memory, disk and time, from the checkpoint's header."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgekit.errors import EdgekitError
from edgekit.files import check_space
from edgekit.quantize.onnx.options import Options
from edgekit.quantize.onnx.source import Source
from edgekit.records import Estimate
from edgekit.units import format_bytes, format_duration

_BASE_BYTES = 0.55e9
"""torch, transformers and onnxruntime loaded and nothing else."""
_COST_S = {"fp32": 20.0, "int8": 30.0, "int8-dynamic": 30.0, "int4": 60.0}
"""Seconds per 10⁹ parameters on two threads of a 2024 server core, beside `_START_S` for starting the processes."""
_START_S = 25.0
_SCALE_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportPlan:
    """What an export takes. `disk_bytes` counts the float32 graph that every export passes through, too."""

    precision: str
    parameters: int
    out_bytes: int
    embedding_bytes: int
    """The part of `out_bytes` that the embedding's own table takes, 0 where the head's is shared."""
    disk_bytes: int
    memory: Estimate
    """Largest resident set of any process."""
    time_s: Estimate
    notes: tuple[str, ...] = ()


def plan_export(source: Source, precision: str, exporter: str, options: Options) -> ExportPlan:
    """What the export of `source` takes; nothing is read but its header."""
    table = source.vocabulary * source.hidden
    shared = source.tied and (precision in ("int8", "int4") and source.hidden % options.block_size == 0)
    shared = shared or (source.tied and precision == "fp32")
    body = source.parameters - table * (1 if source.tied else 2)
    head_bits, body_bits = _bits(precision, options.block_size)
    embedding = 0 if shared else int(table * _table_bits(precision, options.block_size) / 8)
    out = int(body * body_bits / 8 + table * head_bits / 8) + embedding + _angles_bytes(source, exporter)
    float_graph = 4 * (source.parameters + (table if source.tied else 0))
    disk = out + (0 if precision == "fp32" else float_graph)
    seconds = _START_S + _COST_S[precision] * source.parameters / 1e9
    return ExportPlan(
        precision=precision,
        parameters=source.parameters,
        out_bytes=out,
        embedding_bytes=embedding,
        disk_bytes=disk,
        memory=_memory(source, exporter, table, float_graph),
        time_s=Estimate(value=seconds, low=seconds / 3, high=4 * seconds, basis="predicted"),
        notes=_notes(precision, source, shared, embedding),
    )


def refuse_what_cannot_fit(plan: ExportPlan, out: Path) -> None:
    """Raise EdgekitError when disk or memory do not suffice now, before anything is written."""
    import psutil  # type: ignore[import-untyped]

    check_space(out, plan.disk_bytes, "the export")
    available = psutil.virtual_memory().available
    if available < plan.memory.low:
        raise EdgekitError(
            f"not enough memory for the export: about {format_bytes(plan.memory.value)} needed,"
            f" {format_bytes(available)} available",
            hint=f"a machine with {format_bytes(plan.memory.high)} free can do it"
            f" in about {format_duration(plan.time_s.value)}",
        )


def _memory(source: Source, exporter: str, table: int, float_graph: int) -> Estimate:
    """The larger of what building holds (weights as stored, the widest one in float32 twice; torch.onnx all of them in
    float32) and of the float32 graph that onnxruntime maps for the gate. Mapped pages can be fetched again, so the low
    end goes without them.
    """
    held = source.checkpoint.size_bytes + (0 if exporter == "genai" else float_graph)
    built = _BASE_BYTES + held + 2 * 4 * table
    most = max(built, _BASE_BYTES + float_graph)
    return Estimate(value=most, low=0.8 * built, high=1.15 * most, basis="predicted")


def _angles_bytes(source: Source, exporter: str) -> int:
    """The builder stores sine and cosine of every position of the context, once for each kind of layer."""
    kinds = 2 if source.window else 1
    return 4 * source.context * source.head_dim * kinds if exporter == "genai" else 0


def _bits(precision: str, block_size: int) -> tuple[float, float]:
    """Bits per weight of head and body, scales included."""
    scale = 8 * _SCALE_BYTES / block_size
    return {
        "fp32": (32.0, 32.0),
        "int8-dynamic": (8.0, 8.0),
        "int8": (8 + scale, 8 + scale),
        "int4": (8 + scale, 4 + scale),
    }[precision]


def _table_bits(precision: str, block_size: int) -> float:
    return 32.0 if precision == "fp32" else 8 + 8 * _SCALE_BYTES / block_size


def _notes(precision: str, source: Source, shared: bool, embedding: int) -> tuple[str, ...]:
    if precision == "fp32":
        return ()
    if shared:
        return ("the tied embedding is stored once, in 8 bits, and serves as LM head",)
    if source.tied:
        return (f"the tied embedding is stored twice: {format_bytes(embedding)} in 8 bits beside the LM head",)
    return ()
