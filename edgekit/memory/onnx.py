"""Memory of an ONNX model under onnxruntime's CPU provider, predicted from its header alone.

Only x86-64 was measured, so nothing is said of other instruction sets: what onnxruntime packs, and how, is decided by
its kernels there.
"""

from __future__ import annotations

from edgekit.errors import EdgekitError
from edgekit.records import Header, MemoryBreakdown, Settings


def predict_onnx(header: Header, settings: Settings, isa: str) -> MemoryBreakdown:
    """Bytes that `header`'s model takes under `settings`. Raises EdgekitError where nobody has measured."""
    raise EdgekitError(
        f"onnxruntime's memory was measured on x86-64 alone, and this is `{isa}`",
        hint="measure on the device",
    )
