"""edgekit tells whether a language model may ship to an edge device.

The ten lines of the README use the names below; each is imported when first touched, so that `import edgekit` loads
neither numpy nor the runtime.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "Workload": "edgekit.records",
    "open_artifact": "edgekit.pipeline",
    "gather": "edgekit.pipeline",
    "conclude": "edgekit.pipeline",
    "load_device": "edgekit.devices",
    "read_header": "edgekit.header",
    "predict_memory": "edgekit.memory",
    "project_to": "edgekit.projection",
    "judge": "edgekit.gate",
    "measure": "edgekit.bench",
    "render": "edgekit.report",
    "EdgekitError": "edgekit.errors",
}

if TYPE_CHECKING:
    from edgekit.bench import measure
    from edgekit.devices import load_device
    from edgekit.errors import EdgekitError
    from edgekit.gate.judging import judge
    from edgekit.header import read_header
    from edgekit.memory import predict_memory
    from edgekit.pipeline import conclude, gather, open_artifact
    from edgekit.projection import project_to
    from edgekit.records import Workload
    from edgekit.report import render

__all__ = [
    "EdgekitError",
    "Workload",
    "__version__",
    "conclude",
    "gather",
    "judge",
    "load_device",
    "measure",
    "open_artifact",
    "predict_memory",
    "project_to",
    "read_header",
    "render",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'edgekit' has no attribute {name!r}")
    return getattr(import_module(home), name)
