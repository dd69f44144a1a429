"""Evidence, verdicts and the reports made of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgekit.records.artifact import Artifact
from edgekit.records.comparison import Change
from edgekit.records.computed import Battery, MemoryBreakdown, Projection
from edgekit.records.device import Level, Waiver
from edgekit.records.distillation import Distillation
from edgekit.records.measured import Measurement
from edgekit.records.numbers import Figure, Unknown
from edgekit.records.plan import ParetoPoint
from edgekit.records.quality import Quality
from edgekit.records.run import Settings

Status = Literal["pass", "fail", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Everything known of the artifact on one device that needs no run there."""

    device: str
    device_title: str
    device_sha256: str
    settings: Settings
    memory: MemoryBreakdown | Unknown
    projection: Projection | Unknown
    battery: Battery | Unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """How the artifact came to be: the distillation of its student, and its teacher's own full-precision build run and
    projected as the artifact is. It bears on no verdict, except that answers of another teacher tell of no retention.
    """

    distillation: Distillation
    teacher: Evidence | None = None
    """`None` where the teacher was not run: its answers were saved elsewhere."""
    changes: tuple[Change, ...] = ()
    """The artifact ÷ the teacher, of what was measured of both on one machine."""
    not_compared: str = ""
    """Why there are no changes: the runs were not alike, or one of them broke."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What a verdict is judged on. `cases` holds one entry per device judged (a class: one per anchored device)."""

    kind: Literal["evidence"] = "evidence"
    version: Literal[1] = 1
    edgekit_version: str
    created_at: str
    artifact: Artifact
    cases: tuple[Case, ...]
    measurement: Measurement | None = None
    quality: Quality | None = None
    lineage: Lineage | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One gate, judged. `margin`: how far the value clears (+) or misses (−) the limit, as a fraction of it."""

    metric: str
    title: str
    unit: str
    operating_point: str
    level: Level
    min: float | None
    max: float | None
    figure: Figure
    status: Status
    reason: str
    margin: float | None = None
    physics: str = ""
    """The physical limit with its arithmetic, e.g. bandwidth ÷ bytes per token."""
    remedy: str = ""
    """What change would pass, in words with figures; for unknown checks what would settle it."""
    waiver: Waiver | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The answer for one device. For a class, `members` holds a verdict per anchored device and `checks` is empty."""

    kind: Literal["verdict"] = "verdict"
    version: Literal[1] = 1
    device: str
    device_title: str
    status: Status
    reason: str
    checks: tuple[Check, ...] = ()
    members: tuple[Verdict, ...] = ()
    population: str = ""
    gates_sha256: str
    gates_origin: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The release gate report: what was found and how it was judged."""

    kind: Literal["report"] = "report"
    version: Literal[1] = 1
    evidence: Evidence
    verdicts: tuple[Verdict, ...]
    exit_code: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepRow:
    """One precision of a sweep: its artifact, and its report (quality among the evidence) on the sweep's device.

    `failed` says why there is none: a target that could not be made, or a run that broke.
    """

    target: str
    """As asked: `gguf:q4_k_m`, `onnx:int4`, `gguf:f16`."""
    artifact: Artifact | None = None
    report: Report | None = None
    failed: Unknown | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """One checkpoint at several precisions, each judged for one device, and which of them to ship."""

    kind: Literal["sweep"] = "sweep"
    version: Literal[1] = 1
    edgekit_version: str
    created_at: str
    source: str
    source_sha256: str
    device: str
    device_title: str
    rows: tuple[SweepRow, ...]
    front: tuple[ParetoPoint, ...] = ()
    recommended: str = ""
    """A target of `rows`; empty where none can be recommended."""
    reason: str
