"""For a check that did not pass: the physical limit with its arithmetic, and what change would pass.

Only what was computed is offered. Where nothing that was tried clears the gate, the remedy says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import chain

from edgekit.energy.model import highest_rate_for, power_model
from edgekit.gate.alternatives import Build, Found, clears, first_clearing, leaner, smaller_quants, smaller_students
from edgekit.gate.metrics import Metric
from edgekit.gate.onsite import Subject
from edgekit.gate.quality_remedies import quality_arithmetic, quality_remedy
from edgekit.records import Estimate, Figure, Gate, MemoryBreakdown, Projection, Status, Unknown
from edgekit.units import format_bytes, format_number, format_percent, format_rate


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """`physics`: the limit nobody can beat, in words with numbers and sources. `remedy`: what would pass."""

    physics: str = ""
    remedy: str = ""


def advise(subject: Subject, metric: Metric, gate: Gate, figure: Figure, status: Status) -> Advice:
    """Physics and remedy of one check; empty for a check that passes and for what no build could change."""
    if status == "pass" or metric.about not in _ADVICE:
        return Advice()
    advice = _ADVICE[metric.about](subject, metric, gate, figure)
    if isinstance(figure, Estimate) and clears(figure, gate):
        return replace(advice, remedy="")  # the figure is fine, its evidence is not: no other build would help
    return advice


# ---- memory -------------------------------------------------------------------------------------------------------


def _memory(subject: Subject, metric: Metric, gate: Gate, figure: Figure) -> Advice:
    physics = _memory_sum(subject.case.memory)
    if isinstance(figure, Unknown):
        return Advice(physics=physics)  # a predictor that is refuted or refuses has nothing to offer either
    header, settings = subject.evidence.artifact.header, subject.case.settings
    quants = list(smaller_quants(header, settings))
    found = first_clearing(subject, metric, gate, leaner(header, settings)) or first_clearing(
        subject, metric, gate, chain.from_iterable(leaner(one.header, settings, one.words) for one in quants)
    )
    if found:
        remedy = _would_clear(found, metric)
    else:
        tried = f"no quantization down to `{quants[-1].header.quant}`" if quants else "no smaller quantization"
        student = first_clearing(subject, metric, gate, _lean_students(subject))
        remedy = f"{tried} clears it, not even with the leanest settings; "
        remedy += _would_clear(student, metric) if student else "no smaller reference student does either"
    return Advice(physics=physics, remedy=remedy)


def _lean_students(subject: Subject) -> Iterator[Build]:
    settings = subject.case.settings
    for build in smaller_students(subject.evidence.artifact.header, settings):
        yield from leaner(build.header, settings, build.words)


def _memory_sum(memory: MemoryBreakdown | Unknown) -> str:
    """What the memory is made of, largest first: the floor is the weights."""
    if isinstance(memory, Unknown):
        return ""
    parts = (
        (memory.weights_bytes - memory.dormant_bytes, "weights"),
        (memory.repacked_bytes, "repacked copy"),
        (memory.kv_bytes, "KV cache"),
        (memory.compute_bytes, "compute buffer"),
        (memory.output_bytes, "output buffer"),
        (memory.runtime_bytes, "runtime"),
    )
    shown = [f"{format_bytes(size)} {name}" for size, name in sorted(parts, reverse=True) if size >= 1e6]
    context = f"context {memory.settings.context_tokens}, ubatch {memory.settings.ubatch_tokens}"
    return f"{' + '.join(shown)} (predicted for {memory.isa}, {context}, {memory.settings.kv_type} KV)"


# ---- decode -------------------------------------------------------------------------------------------------------


def _decode(subject: Subject, metric: Metric, gate: Gate, figure: Figure) -> Advice:
    projection = subject.case.projection
    if isinstance(projection, Unknown):
        return Advice()
    return Advice(
        physics=_bandwidth_limit(subject, projection, gate),
        remedy="; ".join(
            part for part in (_smaller(subject, metric, gate, figure), _speedup(subject, figure, gate)) if part
        ),
    )


def _bandwidth_limit(subject: Subject, projection: Projection, gate: Gate) -> str:
    """Bandwidth ÷ bytes per token: what no kernel can exceed, as every weight crosses the memory bus once a token."""
    bandwidth, streamed = subject.device.bandwidth_bytes_per_s, projection.bytes_per_token
    if bandwidth is None or streamed <= 0 or gate.min is None:
        return ""
    usual, fastest = bandwidth.value / streamed, (bandwidth.high or bandwidth.value) / streamed
    text = (
        f"{bandwidth.value / 1e9:.1f} GB/s ÷ {streamed / 1e9:.3g} GB per token = {format_rate(usual)} at most "
        f"(bandwidth: {bandwidth.source})"
    )
    if gate.min > fastest:
        return f"{text}; the {format_rate(gate.min)} asked are {gate.min / fastest:.2g} × that, beyond any kernel"
    text += f"; the {format_rate(gate.min)} asked are {format_percent(gate.min / usual)} of it"
    if isinstance(projection.decode, Estimate):
        text += f", burst decode there is projected at {format_percent(projection.decode.value / usual)}"
    return text


def _smaller(subject: Subject, metric: Metric, gate: Gate, figure: Figure) -> str:
    """The largest quantization that clears, or else the largest smaller student that does, or that none does."""
    header, settings = subject.evidence.artifact.header, subject.case.settings
    quants = list(smaller_quants(header, settings))
    found = first_clearing(subject, metric, gate, iter(quants))
    if found:
        return _would_clear(found, metric)
    if isinstance(figure, Unknown):
        return ""  # what keeps this figure from being known keeps theirs: none of them can be said to miss
    tried = f"no quantization down to `{quants[-1].header.quant}` clears it" if quants else "it is as small as it gets"
    student = _student_that_clears(subject, metric, gate)
    return f"{tried}; " + (_would_clear(student, metric) if student else "no smaller reference student does either")


def _student_that_clears(subject: Subject, metric: Metric, gate: Gate) -> Found | None:
    """The largest reference student that clears; none does when the smallest does not."""
    students = list(smaller_students(subject.evidence.artifact.header, subject.case.settings))
    if first_clearing(subject, metric, gate, iter(students[-1:])) is None:
        return None
    return first_clearing(subject, metric, gate, iter(students))


def _speedup(subject: Subject, figure: Figure, gate: Gate) -> str:
    """What gives the missing factor otherwise: fewer bytes, more bandwidth, or more tokens per pass."""
    projection = subject.case.projection
    if isinstance(figure, Unknown) or isinstance(projection, Unknown) or gate.min is None or figure.low <= 0:
        return ""
    factor = gate.min / figure.low
    if factor <= 1:
        return ""
    return (
        f"to clear it surely at this efficiency: {format_bytes(projection.bytes_per_token / factor)} a token streamed "
        f"at most, {factor:.2f} × the bandwidth, or a draft model with which each pass yields {factor:.2f} tokens net "
        "of its own cost"
    )


# ---- prefill ------------------------------------------------------------------------------------------------------


def _prefill(subject: Subject, metric: Metric, gate: Gate, figure: Figure) -> Advice:
    wanted = gate.min if gate.min is not None else 512 / gate.max if gate.max else None
    parameters = _parameters(subject)
    physics = ""
    if wanted and parameters:
        physics = (
            f"2 operations × {parameters / 1e9:.2f} G weights × {wanted:.0f} tok/s = "
            f"{2 * parameters * wanted / 1e12:.2f} Top/s that the cores must deliver"
        )
    remedy = "" if isinstance(figure, Unknown) else _student_only(subject, metric, gate)
    return Advice(physics=physics, remedy=remedy)


def _student_only(subject: Subject, metric: Metric, gate: Gate) -> str:
    # prefill is bound by arithmetic: a smaller quantization of the same weights does not speed it up
    found = _student_that_clears(subject, metric, gate)
    return _would_clear(found, metric) if found else "no smaller reference student clears it; a shorter prompt would"


def _parameters(subject: Subject) -> float:
    """Weights multiplied per token: all matrices but an input embedding, which is looked up."""
    header = subject.evidence.artifact.header
    total = 0.0
    for tensor in header.tensors:
        looked_up = tensor.role == "table" or (tensor.name == "token_embd.weight" and not header.tied_embedding)
        if len(tensor.shape) < 2 or looked_up or (header.format == "onnx" and not tensor.role):
            continue
        size = 1.0
        for extent in tensor.shape:
            size *= extent
        total += size
    return total


# ---- battery ------------------------------------------------------------------------------------------------------


def _battery(subject: Subject, metric: Metric, gate: Gate, figure: Figure) -> Advice:
    if isinstance(figure, Unknown) or gate.min is None:
        return Advice()
    battery = subject.case.battery
    if isinstance(battery, Unknown) or not isinstance(battery.usable_wh, Estimate):
        return Advice()
    usable, hours = battery.usable_wh, gate.min
    physics = (
        f"{usable.low:.1f} to {usable.high:.1f} usable Wh ÷ {hours:g} h = {usable.low / hours:.2f} to "
        f"{usable.high / hours:.2f} W may be drawn on average"
    )
    model = power_model(subject.device)
    if not isinstance(model, Unknown):
        physics += f"; idle alone draws {model.idle.low:.1f} to {model.idle.high:.1f} W"
    remedy = "; ".join(part for part in (_rate_cap(subject, hours), _smaller(subject, metric, gate, figure)) if part)
    return Advice(physics=physics, remedy=remedy)


def _rate_cap(subject: Subject, hours: float) -> str:
    """The decode rate an app must not exceed on average for the battery to last."""
    projection = subject.case.projection
    if isinstance(projection, Unknown):
        return ""
    rates = highest_rate_for(subject.device, projection.bytes_per_token, hours)
    if isinstance(rates, Unknown):
        return f"no cap on the rate would do: {rates.reason}"
    sure = f"surely below {format_rate(rates.low)}" if rates.low > 0 else "but not surely at any rate"
    return f"capped at about {format_rate(rates.value)} on average it lasts {hours:g} h ({sure})"


# ---- quality ------------------------------------------------------------------------------------------------------


def _quality(subject: Subject, metric: Metric, _: Gate, figure: Figure) -> Advice:
    return Advice(physics=quality_arithmetic(subject, metric), remedy=quality_remedy(subject, metric, figure))


# ---- words --------------------------------------------------------------------------------------------------------


def _would_clear(found: Found, metric: Metric) -> str:
    low, high = format_number(found.figure.low, metric.unit), format_number(found.figure.high, metric.unit)
    return f"{found.build.words or 'the same build'} would clear it with {low} to {high} ({found.figure.basis})"


_ADVICE: dict[str, Callable[[Subject, Metric, Gate, Figure], Advice]] = {
    "memory": _memory,
    "decode": _decode,
    "prefill": _prefill,
    "battery": _battery,
    "quality": _quality,
}
