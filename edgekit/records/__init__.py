"""Every record that crosses a door between rooms.

A record is a frozen dataclass of scalars, tuples, `None` and records, so that it can be hashed, compared, written as
JSON and read back years later. Units are in the names, SI inside. Records that become a file carry `kind` and
`version`; loading and validating them is `edgekit.storage`'s work.
"""

from __future__ import annotations

from edgekit.records.artifact import Artifact, Export, Header, LogitsCheck, OnnxExport, Provenance, TensorInfo
from edgekit.records.comparison import Change, Comparison, Pair
from edgekit.records.computed import Battery, DepthPoint, MemoryBreakdown, Projection
from edgekit.records.device import Anchor, Cluster, Device, Gate, Gates, Level, Sourced, Waiver
from edgekit.records.distill_plan import DistillPlan, PlannedStage, TrainingMemory
from edgekit.records.distillation import (
    STAGE_KINDS,
    Distillation,
    DistillCost,
    HeldOut,
    Link,
    ModelFacts,
    ScoredWindow,
    StageKind,
    StageResult,
    Training,
)
from edgekit.records.harness import HarnessRun, HarnessScore
from edgekit.records.layer_map import LayerMap
from edgekit.records.machine import Ability, Examination
from edgekit.records.measured import (
    Buffer,
    EnergyReading,
    Finding,
    Host,
    Measurement,
    MemoryLimit,
    MemoryPeak,
    Noise,
    Runtime,
    Sample,
    ThermalPoint,
)
from edgekit.records.numbers import BASES, Basis, Estimate, Figure, Unknown, exact, weakest
from edgekit.records.plan import Budget, ParetoPoint, PlannedOn, PlannedTensor, QuantPlan
from edgekit.records.quality import (
    Answer,
    Answers,
    ChatTemplate,
    DomainScore,
    Identity,
    IdentityClaim,
    Layers,
    LayerShare,
    Parity,
    Quality,
    ReferenceFile,
    Response,
    ScoredChunk,
    Similarity,
    Tasks,
)
from edgekit.records.run import FlashAttention, KvType, Settings, Workload
from edgekit.records.runner import Runner, RunnerTarget, RunnerVariant
from edgekit.records.state import CpuClock, DeviceState, Gauge, Zone
from edgekit.records.tuning import ToolFlags, Trial, TunedTarget, Tuning
from edgekit.records.verdict import Case, Check, Evidence, Lineage, Report, Status, Sweep, SweepRow, Verdict
from edgekit.records.walk import Walk, WalkStep

__all__ = [
    "BASES",
    "STAGE_KINDS",
    "Ability",
    "Anchor",
    "Answer",
    "Answers",
    "Artifact",
    "Basis",
    "Battery",
    "Budget",
    "Buffer",
    "Case",
    "Change",
    "ChatTemplate",
    "Check",
    "Cluster",
    "Comparison",
    "CpuClock",
    "DepthPoint",
    "Device",
    "DeviceState",
    "DistillCost",
    "DistillPlan",
    "Distillation",
    "DomainScore",
    "EnergyReading",
    "Estimate",
    "Evidence",
    "Examination",
    "Export",
    "Figure",
    "Finding",
    "FlashAttention",
    "Gate",
    "Gates",
    "Gauge",
    "HarnessRun",
    "HarnessScore",
    "Header",
    "HeldOut",
    "Host",
    "Identity",
    "IdentityClaim",
    "KvType",
    "LayerMap",
    "LayerShare",
    "Layers",
    "Level",
    "Lineage",
    "Link",
    "LogitsCheck",
    "Measurement",
    "MemoryBreakdown",
    "MemoryLimit",
    "MemoryPeak",
    "ModelFacts",
    "Noise",
    "OnnxExport",
    "Pair",
    "ParetoPoint",
    "Parity",
    "PlannedOn",
    "PlannedStage",
    "PlannedTensor",
    "Projection",
    "Provenance",
    "Quality",
    "QuantPlan",
    "ReferenceFile",
    "Report",
    "Response",
    "Runner",
    "RunnerTarget",
    "RunnerVariant",
    "Runtime",
    "Sample",
    "ScoredChunk",
    "ScoredWindow",
    "Settings",
    "Similarity",
    "Sourced",
    "StageKind",
    "StageResult",
    "Status",
    "Sweep",
    "SweepRow",
    "Tasks",
    "TensorInfo",
    "ThermalPoint",
    "ToolFlags",
    "Training",
    "TrainingMemory",
    "Trial",
    "TunedTarget",
    "Tuning",
    "Unknown",
    "Verdict",
    "Waiver",
    "Walk",
    "WalkStep",
    "Workload",
    "Zone",
    "exact",
    "weakest",
]
