"""Runtimes: what loads an artifact and runs it, and the child process it runs in.

`open_worker` is the way in for measuring: a fresh process for each, so that peaks are clean and a crash is a finding.
`open_scorer` is the way in for quality: two models in one such process, and sums per chunk of text that come out.
`open_answerer` is the way in for tasks: likelihoods of given answers, and texts that the model writes.
`RUNTIMES[name].open_session(path, settings)` opens a model in this process.
"""

from __future__ import annotations

from types import ModuleType

from edgekit.runtimes import llamacpp, null, ort
from edgekit.runtimes.answering import (
    Answerer,
    ChoiceScore,
    Generated,
    Question,
    Reply,
    Roll,
    Weigh,
    Write,
    open_answerer,
)
from edgekit.runtimes.cores import big_cores
from edgekit.runtimes.death import WorkerDied
from edgekit.runtimes.handle import Worker, open_worker
from edgekit.runtimes.limits import choose_limit
from edgekit.runtimes.protocol import RawSample, Step
from edgekit.runtimes.scoring import Scorer, open_scorer

RUNTIMES: dict[str, ModuleType] = {"llamacpp": llamacpp, "null": null, "ort": ort}

__all__ = [
    "RUNTIMES",
    "Answerer",
    "ChoiceScore",
    "Generated",
    "Question",
    "RawSample",
    "Reply",
    "Roll",
    "Scorer",
    "Step",
    "Weigh",
    "Worker",
    "WorkerDied",
    "Write",
    "big_cores",
    "choose_limit",
    "open_answerer",
    "open_scorer",
    "open_worker",
]
