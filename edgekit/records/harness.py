"""What EleutherAI's lm-evaluation-harness found of an artifact."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgekit.records.measured import Finding, Host, Runtime
from edgekit.records.numbers import Figure
from edgekit.records.run import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class HarnessScore:
    """One metric of one task or group, as the harness names them. `filter` is `none` where nothing was extracted."""

    task: str
    metric: str
    filter: str
    items: int
    value: Figure
    higher_is_better: bool | None = None
    fewshot: int = 0
    version: str = ""
    """Of the task, as its file says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HarnessRun:
    """Tasks of lm-evaluation-harness, run on the artifact that ships, through its own runtime."""

    kind: Literal["harness"] = "harness"
    version: Literal[1] = 1
    edgekit_version: str
    harness_version: str
    model: str
    artifact_sha256: str
    scores: tuple[HarnessScore, ...]
    limit: int | None = None
    """Items asked of each task; `None` is all of them."""
    settings: Settings | None = None
    runtime: Runtime | None = None
    host: Host | None = None
    started_at: str = ""
    findings: tuple[Finding, ...] = ()
