"""How llama-bench's repetitions are spread over fresh processes on a device.

It looks at nothing between its repetitions, so one that is to begin on a cool device begins with a process. That costs
a load and llama-bench's own warm-up each time: 5.5 s beside 18.4 s of `pp512` and `tg128` (0.6B, two threads of a busy
machine here), while four in each of three processes run twelve repetitions where ten were asked for: as long, all in
all. Where loading takes longer than what is timed, repetitions share processes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from edgekit.records import DeviceState, Finding, Sample, Workload
from edgekit.targets.watching import Watched
from edgekit.units import format_duration

LOADING_SHARE = 1.0
"""Time beside the timed, as a part of it, up to which each repetition has a process of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Repetitions of each process after the first, which ran one, and a word on why."""

    repetitions: tuple[int, ...]
    told: Finding


def spread(workload: Workload, samples: Sequence[Sample], watched: Watched, before: DeviceState | None) -> Spread:
    """Of the repetitions that `workload` still wants after the first process, which gave `samples`. The last process
    has several where a battery runs down: its gauge tells nothing of one.
    """
    left = max(0, workload.repetitions_min - 1)
    beside_s = _beside_s(samples, watched)
    timed_s = sum(sample.elapsed_s for sample in samples)
    if beside_s is None:
        return _shared(workload, left, "the device tells no time by which loading could be judged")
    costs = f"loading and warming up took {format_duration(beside_s)} beside {format_duration(timed_s)} of timing"
    if beside_s > LOADING_SHARE * timed_s:
        return _shared(workload, left, costs)
    metered = min(left, math.ceil(workload.repetitions_min / workload.processes)) if _runs_down(before) else 0
    found = (1,) * (left - metered) + ((metered,) if metered else ())
    words = "each repetition ran in a process of its own, begun when the device was ready"
    if metered > 1:
        words += f", but for {metered} in the last, long enough for the battery's gauge"
    return Spread(repetitions=found, told=_note(f"{words}: {costs}"))


def _shared(workload: Workload, left: int, why: str) -> Spread:
    each = math.ceil(left / max(1, workload.processes - 1))
    found = tuple(min(each, left - done) for done in range(0, left, each)) if each else ()
    words = f"repetitions shared processes, and a look at the device before each process: {why}"
    return Spread(repetitions=found, told=_note(words))


def _note(words: str) -> Finding:
    return Finding(level="note", code="repetitions", message=words)


def _beside_s(samples: Sequence[Sample], watched: Watched) -> float | None:
    if watched.begun_s is None or watched.ended_s is None or watched.ended_s < watched.begun_s:
        return None
    return max(0.0, watched.ended_s - watched.begun_s - sum(sample.elapsed_s for sample in samples))


def _runs_down(state: DeviceState | None) -> bool:
    return state is not None and any(gauge.status == "Discharging" for gauge in state.gauges)
