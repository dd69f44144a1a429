"""Checkpoint → ONNX for onnxruntime and onnxruntime-genai.

Names are imported when first touched: the child processes that do the work start from this package too, one of them in
an environment that has none of edgekit's dependencies.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_HOMES = {
    "PROVENANCE": "exporting",
    "export_onnx": "exporting",
    "EXPORTERS": "options",
    "PRECISIONS": "options",
    "Exporter": "options",
    "Options": "options",
    "Precision": "options",
    "check_choices": "options",
    "ExportPlan": "preflight",
    "plan_export": "preflight",
    "read_source": "source",
}

if TYPE_CHECKING:
    from edgekit.quantize.onnx.exporting import PROVENANCE, export_onnx
    from edgekit.quantize.onnx.options import EXPORTERS, PRECISIONS, Exporter, Options, Precision, check_choices
    from edgekit.quantize.onnx.preflight import ExportPlan, plan_export
    from edgekit.quantize.onnx.source import read_source

__all__ = [
    "EXPORTERS",
    "PRECISIONS",
    "PROVENANCE",
    "ExportPlan",
    "Exporter",
    "Options",
    "Precision",
    "check_choices",
    "export_onnx",
    "plan_export",
    "read_source",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'edgekit.quantize.onnx' has no attribute {name!r}")
    return getattr(import_module(f"edgekit.quantize.onnx.{home}"), name)
