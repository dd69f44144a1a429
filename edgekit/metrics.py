"""What a gate can ask for: one function and one line in `METRICS` each.

A metric turns evidence into a figure *for one device*. What was measured on another machine never becomes a figure of
the device; it can only confirm or refute the predictor (design §4).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from difflib import get_close_matches
from statistics import median
from typing import Literal

from edgekit.energy import estimate_battery, measured_battery
from edgekit.errors import EdgekitError
from edgekit.onsite import Subject, checked_prediction, here_trusted, on_target, peaks_of
from edgekit.records import (
    Battery,
    Estimate,
    Figure,
    Gate,
    Measurement,
    MemoryBreakdown,
    Projection,
    Unknown,
    exact,
)
from edgekit.summary import load_time, speed, sustained_speed, time_to_first_token

MetricFunction = Callable[[Subject], Figure]
PROMPT_TOKENS = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A figure a gate may limit. `about` groups metrics that share a physical limit and remedies."""

    title: str
    unit: str
    operating_point: str
    better: Literal["higher", "lower"]
    about: Literal["memory", "decode", "prefill", "battery", "quality", "file", "host"]
    function: MetricFunction


# ---- memory -------------------------------------------------------------------------------------------------------


def _memory(subject: Subject) -> Figure:
    return _peak(subject, subject.device.memory_metric)


def _unevictable(subject: Subject) -> Figure:
    return _peak(subject, "unevictable")


def _peak(subject: Subject, which: Literal["working_set", "unevictable"]) -> Figure:
    """Peak bytes on `device`: measured when it ran there, else predicted for its instruction set and checked here."""
    run = on_target(subject)
    if isinstance(run, Unknown):
        return run
    if run is not None:
        return _measured_peak(run, which)
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
    predicted = memory.working_set if which == "working_set" else memory.unevictable
    return checked_prediction(subject.evidence, predicted, which)


def _measured_peak(run: Measurement, which: Literal["working_set", "unevictable"]) -> Figure:
    peaks = peaks_of(run, which)
    if not peaks:
        return Unknown(
            reason=f"the run on the device did not record its {which.replace('_', ' ')}: its OS does not tell",
            settle="let the profile name a `memory_metric` that the OS counts",
        )
    # the judged end of the range is the worst process seen, not a typical one
    return Estimate(value=median(peaks), low=min(peaks), high=max(peaks), basis="measured")


def _budget_share(subject: Subject) -> Figure:
    """Peak bytes ÷ (RAM × the share of it one process may hold)."""
    peak = _memory(subject)
    if isinstance(peak, Unknown):
        return peak
    share = subject.device.process_share
    low, high = share.low or share.value, share.high or share.value
    if min(low, subject.device.ram_bytes.value) <= 0:
        return Unknown(reason="the profile states no memory budget")
    budget = subject.device.ram_bytes.value
    return Estimate(
        value=peak.value / (budget * share.value),
        low=peak.low / (budget * high),
        high=peak.high / (budget * low),
        basis=peak.basis,
    )


# ---- speed --------------------------------------------------------------------------------------------------------


def _speed(test: str, projected: Callable[[Projection], Figure]) -> MetricFunction:
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


def _at_depth(depth: int) -> Callable[[Projection], Figure]:
    def figure(projection: Projection) -> Figure:
        for point in projection.depths:
            if point.depth == depth:
                return point.tokens_per_s
        return Unknown(reason=f"decode at depth {depth} was not projected")

    return figure


_prefill = _speed(f"pp{PROMPT_TOKENS}", lambda projection: projection.prefill)


def _time_to_first_token(subject: Subject) -> Figure:
    """Seconds until the logits of the first answer token stand: the evaluation of a 512-token prompt."""
    run = on_target(subject)
    if isinstance(run, Unknown):
        return run
    if run is not None:
        return time_to_first_token(run, f"pp{PROMPT_TOKENS}")
    prefill = _prefill(subject)
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


def _load_s(subject: Subject) -> Figure:
    run = on_target(subject)
    if run is None:
        return Unknown(
            reason="loading was not timed on the device: another machine's storage says nothing of it",
            settle=f"edgekit bench MODEL --device {subject.device.name} --on-device {subject.device.name}",
        )
    return run if isinstance(run, Unknown) else load_time(run)


def _here(test: str) -> MetricFunction:
    """A speed of the host itself: for guarding against regressions on one's own machine, never for a subject.device."""

    def figure(subject: Subject) -> Figure:
        run = here_trusted(subject.evidence, test)
        return run if isinstance(run, Unknown) else speed(run, test)

    return figure


# ---- energy, quality, file ----------------------------------------------------------------------------------------


def _battery(subject: Subject) -> Figure:
    found = _battery_record(subject)
    return found.hours if isinstance(found, Battery) else found


def _energy_per_token(subject: Subject) -> Figure:
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


def _quality(field: Literal["kld_mean", "top1_agreement", "perplexity", "retention"]) -> MetricFunction:
    def figure(subject: Subject) -> Figure:
        if subject.evidence.artifact.header.stand_in:
            return Unknown(reason="stand-in weights: random numbers have no quality", settle="judge the real student")
        if subject.evidence.quality is None or field == "retention":
            return Unknown(reason="quality was not measured", settle="edgekit evaluate MODEL --reference TEACHER.json")
        found: Figure = getattr(subject.evidence.quality, field)
        return found

    return figure


def _size(subject: Subject) -> Figure:
    return exact(subject.evidence.artifact.header.size_bytes, "predicted", "counted from the file")


def _decode_metric(title: str, test: str, point: str, projected: Callable[[Projection], Figure]) -> Metric:
    return Metric(
        title=title,
        unit="tok/s",
        operating_point=point,
        better="higher",
        about="decode",
        function=_speed(test, projected),
    )


METRICS: dict[str, Metric] = {
    "memory_bytes": Metric(
        title="memory",
        unit="bytes",
        operating_point="peak of the profile's memory metric at its context",
        better="lower",
        about="memory",
        function=_memory,
    ),
    "unevictable_bytes": Metric(
        title="memory that cannot be evicted",
        unit="bytes",
        operating_point="peak of anonymous + swap at the profile's context",
        better="lower",
        about="memory",
        function=_unevictable,
    ),
    "memory_share_of_budget": Metric(
        title="memory of what a process may hold",
        unit="fraction",
        operating_point="peak ÷ (RAM × process share)",
        better="lower",
        about="memory",
        function=_budget_share,
    ),
    "decode_tokens_per_s": _decode_metric("decode", "tg128", "burst tg128 at depth 0", lambda p: p.decode),
    "decode_at_1k_tokens_per_s": _decode_metric(
        "decode at depth 1k", "tg16@d1024", "burst tg16 with 1024 tokens in the KV cache", _at_depth(1024)
    ),
    "decode_at_4k_tokens_per_s": _decode_metric(
        "decode at depth 4k", "tg16@d4096", "burst tg16 with 4096 tokens in the KV cache", _at_depth(4096)
    ),
    "sustained_decode_tokens_per_s": _decode_metric(
        "sustained decode", "sustained", "decode after ten minutes without a pause", lambda p: p.sustained
    ),
    "prefill_tokens_per_s": Metric(
        title="prefill",
        unit="tok/s",
        operating_point="pp512 at depth 0",
        better="higher",
        about="prefill",
        function=_prefill,
    ),
    "ttft_s": Metric(
        title="time to first token",
        unit="s",
        operating_point="512-token prompt, model loaded",
        better="lower",
        about="prefill",
        function=_time_to_first_token,
    ),
    "load_s": Metric(
        title="load time",
        unit="s",
        operating_point="fresh process",
        better="lower",
        about="file",
        function=_load_s,
    ),
    "battery_h": Metric(
        title="battery, continuous use",
        unit="h",
        operating_point="one charge, at the sustained speed and power",
        better="higher",
        about="battery",
        function=_battery,
    ),
    "energy_per_token_j": Metric(
        title="energy per token",
        unit="J",
        operating_point="whole device, at the sustained speed and power",
        better="lower",
        about="battery",
        function=_energy_per_token,
    ),
    "quality_retention": Metric(
        title="quality retained",
        unit="fraction",
        operating_point="(student − chance) ÷ (teacher − chance)",
        better="higher",
        about="quality",
        function=_quality("retention"),
    ),
    "kld_mean": Metric(
        title="mean KL divergence",
        unit="nat",
        operating_point="against the reference's own distribution",
        better="lower",
        about="quality",
        function=_quality("kld_mean"),
    ),
    "top1_agreement": Metric(
        title="top-1 agreement",
        unit="fraction",
        operating_point="same most likely token as the reference",
        better="higher",
        about="quality",
        function=_quality("top1_agreement"),
    ),
    "perplexity": Metric(
        title="perplexity",
        unit="",
        operating_point="held-out text of the corpus",
        better="lower",
        about="quality",
        function=_quality("perplexity"),
    ),
    "size_bytes": Metric(
        title="file size",
        unit="bytes",
        operating_point="all shards",
        better="lower",
        about="file",
        function=_size,
    ),
    "host_decode_tokens_per_s": Metric(
        title="decode on this host",
        unit="tok/s",
        operating_point="burst tg128 at depth 0 on the machine that ran it, not on the device",
        better="higher",
        about="host",
        function=_here("tg128"),
    ),
    "host_prefill_tokens_per_s": Metric(
        title="prefill on this host",
        unit="tok/s",
        operating_point="pp512 at depth 0 on the machine that ran it, not on the device",
        better="higher",
        about="host",
        function=_here("pp512"),
    ),
}


def find_metric(name: str) -> Metric:
    """The metric called `name`. Raises EdgekitError that suggests the nearest one."""
    if name in METRICS:
        return METRICS[name]
    near = get_close_matches(name, METRICS, n=1)
    hint = f"did you mean `{near[0]}`?" if near else "known metrics: " + ", ".join(METRICS)
    raise EdgekitError(f"unknown metric in gates: `{name}`", hint=hint)


def check_gate(gate: Gate) -> Metric:
    """The metric a gate limits. Raises EdgekitError for a gate that no figure could sensibly be judged by."""
    metric = find_metric(gate.metric)
    if (gate.min is None) == (gate.max is None):
        raise EdgekitError(f"a gate needs either `min` or `max`: `{gate.metric}`")
    side, limit = ("min", gate.min) if gate.min is not None else ("max", gate.max)
    if limit is None or not math.isfinite(limit) or limit < 0:
        raise EdgekitError(f"the limit of `{gate.metric}` must be a finite number of zero or more: `{limit}`")
    wanted = "min" if metric.better == "higher" else "max"
    if side != wanted:
        raise EdgekitError(
            f"`{gate.metric}` is better when {metric.better}, so its gate needs `{wanted}`, not `{side}`",
            hint=f"{gate.metric} = {{ {wanted} = {limit:g} }}",
        )
    return metric
