"""Measure an artifact on this host: fresh processes, raw samples, memory truth, and how quiet the machine was."""

from __future__ import annotations

from edgekit.bench.evaluating import compare_outputs, evaluate
from edgekit.bench.hashing import hash_artifact
from edgekit.bench.host import probe_host
from edgekit.bench.measuring import measure
from edgekit.bench.plan import PRESETS, plan_run
from edgekit.summary import summarize

__all__ = ["PRESETS", "compare_outputs", "evaluate", "hash_artifact", "measure", "plan_run", "probe_host", "summarize"]
