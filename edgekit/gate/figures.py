"""Evidence → the figure of one metric for one device.

What was measured on another machine never becomes a figure of the device; it can only confirm or refute the predictor
(design §4).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from statistics import median
from typing import Literal

from edgekit.energy import estimate_battery, measured_battery
from edgekit.gate.onsite import Subject, checked_prediction, here_trusted, may_be_held, on_target, peaks_of
from edgekit.gate.quality import quality_of as quality_of
from edgekit.memory import figure_of, process_budget
from edgekit.records import (
    Basis,
    Battery,
    Estimate,
    Figure,
    Header,
    Measurement,
    MemoryBreakdown,
    Projection,
    Unknown,
    exact,
    weakest,
)
from edgekit.summary import load_time, speed, sustained_speed, time_to_first_token
from edgekit.units import format_bytes

MetricFunction = Callable[[Subject], Figure]
PROMPT_TOKENS = 512


# ---- memory -------------------------------------------------------------------------------------------------------


def memory(subject: Subject) -> Figure:
    """Peak bytes by the profile's own memory metric."""
    return _peak(subject, subject.device.memory_metric)


def unevictable(subject: Subject) -> Figure:
    """Peak bytes of anonymous memory and swap."""
    return _peak(subject, "unevictable")


def _peak(subject: Subject, which: Literal["working_set", "unevictable"]) -> Figure:
    """Peak bytes on `device`: measured when it ran there, else predicted for its instruction set and checked here."""
    run = on_target(subject)
    if isinstance(run, Unknown):
        return run
    if run is not None and not run.imported_from:  # another tool's run had a context of its own
        return _measured_peak(run, which, subject.evidence.artifact.header)
    memory, isa = subject.case.memory, subject.device.isa
    if not isinstance(memory, MemoryBreakdown):
        return memory
    if memory.isa != isa:
        return Unknown(
            reason=f"memory was predicted for `{memory.isa}` and the device is `{isa}`, which repacks other tensors",
            settle="judge again with `edgekit gate`, which predicts for the device",
        )
    if memory.settings != subject.case.settings:
        return Unknown(reason="memory was predicted for other settings than the judged ones")
    return checked_prediction(subject.evidence, figure_of(memory, which), which)


def _measured_peak(run: Measurement, which: Literal["working_set", "unevictable"], header: Header) -> Figure:
    if header.experts and run.workload.settings.mmap and which == "working_set":
        return Unknown(
            reason=f"a working set is counted over a few tokens, which touch few of the {header.experts} experts",
            settle="load the model without mmap: then all its experts count",
        )
    peaks = peaks_of(run, which)
    if not peaks:
        return Unknown(
            reason=f"the run on the device did not record its {which.replace('_', ' ')}: its OS does not tell",
            settle="let the profile name a `memory_metric` that the OS counts",
        )
    # the judged end of the range is the worst process seen, not a typical one
    more = may_be_held(run, header) if which == "working_set" else 0.0
    note = f"up to {format_bytes(more)} of its range is what huge pages of the file may hold" if more else ""
    return Estimate(value=median(peaks), low=min(peaks), high=max(peaks) + more, basis="measured", note=note)


def budget_share(subject: Subject) -> Figure:
    """Peak bytes ÷ (RAM × the share of it one process may hold)."""
    peak = memory(subject)
    if isinstance(peak, Unknown):
        return peak
    budget = process_budget(subject.device)
    if budget.low <= 0:
        return Unknown(reason="the profile states no memory budget")
    return Estimate(
        value=peak.value / budget.value,
        low=peak.low / budget.high,
        high=peak.high / budget.low,
        basis=weakest((peak.basis, budget.basis)),
        note=peak.note,
    )


def disk_reads_per_token(subject: Subject) -> Figure:
    """Bytes fetched from disk per decoded token, by the worst of the processes as the upper end.

    On the device, or here where the workers were held to the device's share of memory by a group that counts mapped
    weights, and the instruction set repacks the same tensors.
    """
    settle = f"edgekit bench MODEL --device {subject.device.name} --limit-memory device"
    run = on_target(subject)
    if isinstance(run, Unknown):
        return run
    here = run is None
    run = run or subject.evidence.measurement
    if run is None or (here and run.memory_limit is None):
        return Unknown(reason="no run was held to the device's share of memory", settle=settle)
    doubt = _other_share(run, subject) if here else ""
    if doubt:
        return Unknown(reason=doubt, settle="run on the device itself: `--on-device`")
    reads = [peak.read_bytes_per_token for peak in run.peaks if peak.read_bytes_per_token is not None]
    if not reads:
        return Unknown(reason="what was read from disk per token was not recorded: the OS does not tell")
    basis: Basis = "measured-here" if here else "measured"
    return Estimate(value=median(reads), low=min(reads), high=max(reads), basis=basis)


_LEAKS = ("limit-leaves-cache", "limit-reads-uncounted")
"""Findings of `edgekit.runtimes.limits`: the limit did not count the weights, or reading them again did not show."""


def _other_share(run: Measurement, subject: Subject) -> str:
    """Why a limited run here says nothing of the device's disk reads; empty where it does."""
    limit, device = run.memory_limit, subject.device
    assert limit is not None
    if run.artifact_sha256 != subject.evidence.artifact.sha256:
        return "the measurement is of another file than the one judged"
    if not limit.mapped:
        return f"the limit here did not count mapped weights ({limit.means}), so it made none of them be read again"
    leak = next((finding.message for finding in run.findings if finding.code in _LEAKS), "")
    if leak:
        return leak
    if limit.limit_bytes > process_budget(device).value:
        return "the run here had more memory than the device gives a process"
    if run.host.isa != device.isa:
        return f"this host (`{run.host.isa}`) repacks other tensors than the device (`{device.isa}`)"
    ran = replace(run.workload.settings, threads=subject.case.settings.threads)
    return "" if ran == subject.case.settings else "the run here had other settings than the judged ones"


# ---- speed --------------------------------------------------------------------------------------------------------


def speed_of(test: str, projected: Callable[[Projection], Figure]) -> MetricFunction:
    """A speed: the median of `test` where it ran on the device, else its projection."""

    def figure(subject: Subject) -> Figure:
        run = on_target(subject)
        if isinstance(run, Unknown):
            return run
        if run is not None:
            return speed(run, test)
        return (
            projected(subject.case.projection)
            if isinstance(subject.case.projection, Projection)
            else subject.case.projection
        )

    return figure


def at_depth(depth: int) -> Callable[[Projection], Figure]:
    """The projected decode with `depth` tokens in the KV cache."""

    def figure(projection: Projection) -> Figure:
        for point in projection.depths:
            if point.depth == depth:
                return point.tokens_per_s
        return Unknown(reason=f"decode at depth {depth} was not projected")

    return figure


prefill_speed = speed_of(f"pp{PROMPT_TOKENS}", lambda projection: projection.prefill)


def first_token(subject: Subject) -> Figure:
    """Seconds until the logits of the first answer token stand: the evaluation of a 512-token prompt."""
    run = on_target(subject)
    if isinstance(run, Unknown):
        return run
    if run is not None:
        return time_to_first_token(run, f"pp{PROMPT_TOKENS}")
    prefill = prefill_speed(subject)
    if isinstance(prefill, Unknown):
        return prefill
    if prefill.low <= 0:
        return Unknown(reason="a prefill speed of zero gives no time to the first token")
    return Estimate(
        value=PROMPT_TOKENS / prefill.value,
        low=PROMPT_TOKENS / prefill.high,
        high=PROMPT_TOKENS / prefill.low,
        basis=prefill.basis,
    )


def load(subject: Subject) -> Figure:
    """Seconds to load, on the device only."""
    run = on_target(subject)
    if run is None:
        return Unknown(
            reason="loading was not timed on the device: another machine's storage says nothing of it",
            settle=f"edgekit bench MODEL --device {subject.device.name} --on-device {subject.device.name}",
        )
    return run if isinstance(run, Unknown) else load_time(run)


def here(test: str) -> MetricFunction:
    """A speed of the host itself: for guarding against regressions on one's own machine, never for a subject.device."""

    def figure(subject: Subject) -> Figure:
        run = here_trusted(subject.evidence, test)
        return run if isinstance(run, Unknown) else speed(run, test)

    return figure


# ---- energy, file -------------------------------------------------------------------------------------------------


def battery(subject: Subject) -> Figure:
    """Hours of continuous decoding on one charge."""
    found = _battery_record(subject)
    return found.hours if isinstance(found, Battery) else found


def energy_per_token(subject: Subject) -> Figure:
    """Joules per token of the whole device at its sustained speed."""
    found = _battery_record(subject)
    return found.joules_per_token if isinstance(found, Battery) else found


def _battery_record(subject: Subject) -> Battery | Unknown:
    """Metered on the device; else the energy model at the speed measured there; else at the projected speed."""
    run = on_target(subject)
    if isinstance(run, Unknown):
        return run
    if run is None:
        return subject.case.battery
    metered = measured_battery(subject.device, run)
    sustained = sustained_speed(run)
    if isinstance(metered, Battery) or isinstance(sustained, Unknown) or isinstance(subject.case.projection, Unknown):
        return metered
    return estimate_battery(subject.device, replace(subject.case.projection, sustained=sustained))


def size(subject: Subject) -> Figure:
    """Bytes of all shards."""
    return exact(subject.evidence.artifact.header.size_bytes, "predicted", "counted from the file")
