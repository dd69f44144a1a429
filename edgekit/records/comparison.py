"""Two builds run in turn on one machine, and whether the new one is worse."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgekit.records.artifact import Artifact
from edgekit.records.measured import Finding, Host, Noise, Runtime
from edgekit.records.numbers import Figure
from edgekit.records.run import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """What both builds gave in one pair of fresh processes: tok/s, seconds or bytes, as the metric says."""

    metric: str
    pair: int
    base: float
    new: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A metric of NEW ÷ the same of BASE. `limit` is the worst ratio allowed; `better` the direction that is good."""

    metric: str
    better: Literal["higher", "lower"]
    limit: float | None
    """`None`: shown, not judged."""
    ratio: Figure
    status: Literal["pass", "fail", "unknown"]
    reason: str
    mann_whitney_p: float | None = None
    """Two-sided, of the unpaired values: for information, the paired interval judges."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """BASE and NEW run in turn. `pairs` are raw; `status` is fail if any limit is broken, unknown if any is open."""

    kind: Literal["comparison"] = "comparison"
    version: Literal[1] = 1
    edgekit_version: str
    base: Artifact
    new: Artifact
    interleaved: bool
    settings: Settings
    host: Host
    runtime: Runtime | None
    started_at: str
    changes: tuple[Change, ...]
    pairs: tuple[Pair, ...]
    status: Literal["pass", "fail", "unknown"]
    noise: Noise | None = None
    findings: tuple[Finding, ...] = ()
