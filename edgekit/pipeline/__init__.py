"""The main paths, straight-line code a newcomer reads first: `gating` (bench, fit, gate; offered here), `quantizing`
(checkpoint → artifact), `evaluating` (artifact → quality) and `sweeping` (every precision, judged), which are imported
where they run.
"""

from __future__ import annotations

from edgekit.pipeline.gating import (
    Fit,
    Intent,
    Overrides,
    bench,
    broke,
    case_of,
    conclude,
    fit,
    gather,
    host_device,
    load_targets,
    memory_gated,
    open_artifact,
    overall,
    plan,
    regate,
    settings_here,
)

__all__ = [
    "Fit",
    "Intent",
    "Overrides",
    "bench",
    "broke",
    "case_of",
    "conclude",
    "fit",
    "gather",
    "host_device",
    "load_targets",
    "memory_gated",
    "open_artifact",
    "overall",
    "plan",
    "regate",
    "settings_here",
]
