"""Measure an artifact on this host: fresh processes, raw samples, memory truth, and how quiet the machine was."""

from __future__ import annotations

from edgekit.bench.hashing import hash_artifact
from edgekit.bench.host import probe_host
from edgekit.bench.measuring import measure
from edgekit.bench.plan import PRESETS, plan_run
from edgekit.summary import summarize

__all__ = ["PRESETS", "hash_artifact", "measure", "plan_run", "probe_host", "summarize"]
