"""Checkpoint → ONNX for onnxruntime and onnxruntime-genai."""

from __future__ import annotations

from edgekit.quantize.onnx.exporting import PROVENANCE, export_onnx
from edgekit.quantize.onnx.options import EXPORTERS, PRECISIONS, Exporter, Options, Precision
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
    "export_onnx",
    "plan_export",
    "read_source",
]
