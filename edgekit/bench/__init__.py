"""Measure an artifact on this host: fresh processes, raw samples, memory truth, and how quiet the machine was."""

from __future__ import annotations

from edgekit.bench.answering import answer
from edgekit.bench.comparing import compare
from edgekit.bench.comparing_records import compare_recorded
from edgekit.bench.doctor import examine
from edgekit.bench.evaluating import compare_outputs, evaluate
from edgekit.bench.harness import run_harness
from edgekit.bench.hashing import hash_artifact
from edgekit.bench.host import probe_host
from edgekit.bench.identity import probe_identity
from edgekit.bench.kinship import kin_finding
from edgekit.bench.measuring import measure
from edgekit.bench.plan import PRESETS, plan_run
from edgekit.bench.reference_file import is_reference_file, open_reference_file, read_reference_text, save_reference
from edgekit.bench.retention import check_teacher, judge_answers
from edgekit.bench.similarity import compare_responses
from edgekit.summary import summarize

__all__ = [
    "PRESETS",
    "answer",
    "check_teacher",
    "compare",
    "compare_outputs",
    "compare_recorded",
    "compare_responses",
    "evaluate",
    "examine",
    "hash_artifact",
    "is_reference_file",
    "judge_answers",
    "kin_finding",
    "measure",
    "open_reference_file",
    "plan_run",
    "probe_host",
    "probe_identity",
    "read_reference_text",
    "run_harness",
    "save_reference",
    "summarize",
]
