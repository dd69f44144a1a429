"""The release gate: evidence × gates → verdict (design §3).

A check passes only when its whole range clears the limit and fails only when the whole range misses it. Everything
else, first of all what was not measured, is unknown: a wrong pass is the worst thing this program could print.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import UTC, date, datetime

from edgekit.errors import ExitCode
from edgekit.gate.cases import case_for
from edgekit.gate.metrics import METRICS, Metric, check_gate
from edgekit.gate.onsite import Subject, disk_reads, on_target
from edgekit.gate.quality import cliffs, narrower
from edgekit.gate.remedies import Advice, advise
from edgekit.memory import process_budget
from edgekit.records import (
    BASES,
    Answers,
    Check,
    Device,
    Estimate,
    Evidence,
    Figure,
    Finding,
    Gate,
    Gates,
    Measurement,
    Quality,
    Settings,
    Status,
    Unknown,
    Verdict,
    Waiver,
)
from edgekit.units import format_number, format_percent

__all__ = ["METRICS", "exit_code", "faults", "judge", "judge_figure"]


def judge(
    evidence: Evidence,
    device: Device,
    gates: Gates | None = None,
    *,
    members: Sequence[Device] | None = None,
    today: date | None = None,
    remedies: bool = True,
) -> Verdict:
    """The verdict on `evidence` for `device`, by `gates` or else by the profile's own.

    A class profile with members is judged member by member, each by its own profile's gates unless `gates` is given;
    `members` are loaded by name when not passed. `today` decides which waivers still hold (default: now, UTC). Without
    `remedies` nobody searches for what would pass. Raises EdgekitError for a gate no figure could be judged by.
    """
    today = today or datetime.now(UTC).date()
    if members is None:
        members = _load_members(device)
    if not members:
        return _judge_device(evidence, device, gates or device.gates, today, remedies)
    verdicts = tuple(_judge_device(evidence, member, gates or member.gates, today, remedies) for member in members)
    status, reason = _class_outcome(verdicts)
    used = gates or device.gates
    return Verdict(
        device=device.name,
        device_title=device.title,
        status=status,
        reason=reason,
        members=verdicts,
        population=device.population,
        gates_sha256=used.sha256,
        gates_origin=used.origin,
    )


def exit_code(verdicts: Sequence[Verdict], *, broke: bool) -> ExitCode:
    """One code over several devices: 4 (the run broke) > 1 (fail) > 3 (unknown, or nothing judged) > 0."""
    if broke:
        return ExitCode.BROKE
    if any(verdict.status == "fail" for verdict in verdicts):
        return ExitCode.FAIL
    if not verdicts or any(verdict.status != "pass" for verdict in verdicts):
        return ExitCode.UNKNOWN
    return ExitCode.PASS


def faults(evidence: Evidence) -> tuple[Finding, ...]:
    """What broke the run or its evaluation: a worker died, or a figure had to be refused as a measuring fault."""
    parts: list[Measurement | Quality | Answers | None] = [evidence.measurement, evidence.quality]
    if evidence.quality is not None and evidence.quality.tasks is not None:
        parts += [evidence.quality.tasks.answers, evidence.quality.tasks.teacher]
    found = (finding for part in parts if part is not None for finding in part.findings)
    return tuple(finding for finding in found if finding.level == "fault")


def _load_members(device: Device) -> tuple[Device, ...]:
    from edgekit.devices import class_members  # it reads gates tables, which name this module's metrics

    return class_members(device)


# ---- one device ---------------------------------------------------------------------------------------------------


def _judge_device(evidence: Evidence, device: Device, gates: Gates, today: date, remedies: bool) -> Verdict:
    subject = Subject(evidence=evidence, case=case_for(evidence, device), device=device)
    checks = tuple(_check(gate, subject, gates.waivers, today, remedies) for gate in gates.gates)
    status, reason = _doubted(*_outcome(checks, today), evidence, gates)
    conditions = _conditions(subject.case.settings, device.settings)
    return Verdict(
        device=device.name,
        device_title=device.title,
        status=status,
        reason=f"{reason}; {conditions}" if conditions else reason,
        checks=checks,
        population=device.population,
        gates_sha256=gates.sha256,
        gates_origin=gates.origin,
    )


def _conditions(judged: Settings, profile: Settings) -> str:
    """What must be shipped with the artifact for the verdict to hold, where it differs from the profile's workload."""
    different = [
        f"`{field.name}` {getattr(judged, field.name)} (profile: {getattr(profile, field.name)})"
        for field in fields(Settings)
        if getattr(judged, field.name) != getattr(profile, field.name)
    ]
    return "holds only when shipped with " + ", ".join(different) if different else ""


# ---- one check ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ruling:
    status: Status
    reason: str
    settle: str = ""


def _check(gate: Gate, subject: Subject, waivers: tuple[Waiver, ...], today: date, remedies: bool) -> Check:
    metric = check_gate(gate)
    figure = metric.function(subject)
    ruling = _cautioned(judge_figure(figure, gate, metric), figure, gate, subject, metric)
    waiver = _waiver_for(gate, waivers, today)
    reason = "; ".join(part for part in (ruling.reason, _remark(metric, figure, subject)) if part)
    if waiver is not None and not holds(waiver, today):
        reason += f"; its waiver ended on `{waiver.until}` and does not count"
    settle = ruling.settle
    if metric.about == "quality" and isinstance(figure, Estimate) and ruling.status == "unknown":
        settle = narrower(subject.evidence, gate, figure)
    settle = settle.replace("NAME", subject.device.name)
    advice = advise(subject, metric, gate, figure, ruling.status) if remedies else Advice()
    return Check(
        metric=gate.metric,
        title=metric.title,
        unit=metric.unit,
        operating_point=metric.operating_point,
        level=gate.level,
        min=gate.min,
        max=gate.max,
        figure=figure,
        status=ruling.status,
        reason=reason,
        margin=_margin(figure, gate),
        physics=advice.physics,
        remedy="; ".join(part for part in (advice.remedy, settle and f"to settle: {settle}") if part),
        waiver=waiver,
    )


def _remark(metric: Metric, figure: Figure, subject: Subject) -> str:
    """What a figure of quality is of, and what it hides."""
    if metric.about != "quality" or isinstance(figure, Unknown):
        return ""
    hidden = cliffs(subject.evidence) if metric.retention else ""
    return "; ".join(part for part in (figure.note, hidden) if part)


def judge_figure(figure: Figure, gate: Gate, metric: Metric) -> _Ruling:
    """The bare rule: the whole range clears → pass, the whole range misses → fail, else unknown."""
    if isinstance(figure, Unknown):
        return _Ruling(status="unknown", reason=figure.reason, settle=figure.settle)
    limit = _limit(gate)
    sign = 1.0 if gate.min is not None else -1.0
    worst, best = sorted((sign * figure.low, sign * figure.high))
    shown = _range_text(figure, metric.unit)
    bound = f"{'at least' if gate.min is not None else 'at most'} {format_number(limit, metric.unit)}"
    if worst >= sign * limit:
        return _Ruling(status="pass", reason=f"{shown} ({figure.basis}), {bound} asked")
    if best < sign * limit:
        return _Ruling(status="fail", reason=f"{shown} ({figure.basis}), {bound} asked")
    lean = "pass" if sign * figure.value >= sign * limit else "fail"
    return _Ruling(
        status="unknown",
        reason=f"{shown} ({figure.basis}) straddles the limit, {bound} asked; leans to {lean}",
        settle=_settle(figure, metric),
    )


def _settle(figure: Estimate, metric: Metric) -> str:
    """The command that narrows a range, as its origin and its metric ask."""
    if figure.basis in ("measured", "measured-here"):
        return "measure again with more repetitions: `edgekit bench MODEL --thorough`"
    if metric.about in ("battery", "memory"):
        return _there(metric)
    return (
        f"{_there(metric)}; or anchor the profile with a run of yours: `edgekit devices anchor NAME llama-bench.json`"
    )


def _there(metric: Metric) -> str:
    command = "edgekit bench MODEL --device NAME --on-device NAME"
    if metric.about == "battery":
        return f"unplug the charger and run ten minutes on the device itself: `{command} --sustained 10m`"
    return f"measure on the device itself: `{command}`"


def _cautioned(ruling: _Ruling, figure: Figure, gate: Gate, subject: Subject, metric: Metric) -> _Ruling:
    """Take back a ruling whose figure is not strong enough to carry it."""
    if isinstance(figure, Unknown):
        return ruling
    run = on_target(subject)
    if isinstance(run, Measurement) and metric.about == "memory" and ruling.status != "fail":
        thrashing = disk_reads(run.peaks, subject.evidence.artifact.header)
        if thrashing:
            return _from_disk(ruling, thrashing, run, gate, subject)
    if gate.min_basis is not None and BASES.index(figure.basis) > BASES.index(gate.min_basis):
        return _Ruling(
            status="unknown",
            reason=f"{ruling.reason}; the gate accepts only `{gate.min_basis}` figures",
            settle=_there(metric) if gate.min_basis == "measured" else ruling.settle,
        )
    projection = subject.case.projection
    if ruling.status != "pass" or isinstance(projection, Unknown) or figure.basis not in ("projected", "estimated"):
        return ruling
    if run is not None:
        return ruling  # nothing in it was projected
    if not projection.calibrated:
        return _Ruling(
            status="unknown",
            reason=f"{ruling.reason}; uncalibrated ({projection.devices_behind} devices behind the projection), "
            "which cannot pass alone",
            settle=_settle(figure, metric),
        )
    bound = projection.bandwidth_bound
    if metric.about == "decode" and isinstance(bound, Estimate) and figure.low > bound.high:
        return _Ruling(
            status="unknown",
            reason=f"{ruling.reason}; the projection exceeds what the memory bandwidth allows",
            settle=_settle(figure, metric),
        )
    return ruling


def _limit(gate: Gate) -> float:
    limit = gate.min if gate.min is not None else gate.max
    assert limit is not None, "check_gate has seen to it"
    return limit


def _from_disk(ruling: _Ruling, thrashing: str, run: Measurement, gate: Gate, subject: Subject) -> _Ruling:
    """A model that kept reading its weights does not fit, where only the limit it was held to can be the cause."""
    held = run.memory_limit
    routed = subject.evidence.artifact.header.experts  # an expert is read when a token first comes to it
    if held is not None and held.mapped and not routed and held.limit_bytes >= _allowed_bytes(gate, subject):
        room = format_number(held.limit_bytes, "bytes")
        return _Ruling(status="fail", reason=f"held to {room}, {thrashing}: it does not fit")
    return _Ruling(
        status="unknown",
        reason=f"{ruling.reason}; {thrashing}: what it holds is not what it needs",
        settle="close other programs on the device and run again; if it reads again, the model does not fit",
    )


def _allowed_bytes(gate: Gate, subject: Subject) -> float:
    """The memory that a gate on the working set allows at most; infinite for any other gate: weights that are read
    again say nothing of what cannot be evicted.
    """
    if gate.max is None or subject.device.memory_metric != "working_set":
        return math.inf
    if gate.metric == "memory_bytes":
        return gate.max
    if gate.metric == "memory_share_of_budget":
        return gate.max * process_budget(subject.device).high
    return math.inf


def _margin(figure: Figure, gate: Gate) -> float | None:
    """How far the value clears (+) or misses (−) the limit, as a fraction of the limit."""
    limit = _limit(gate)
    if isinstance(figure, Unknown) or limit == 0:
        return None
    return (figure.value - limit if gate.min is not None else limit - figure.value) / limit


def _range_text(figure: Estimate, unit: str) -> str:
    if figure.low == figure.high:
        return format_number(figure.value, unit)
    return f"{format_number(figure.low, unit)} to {format_number(figure.high, unit)}"


# ---- from checks to a verdict -------------------------------------------------------------------------------------


def _waiver_for(gate: Gate, waivers: tuple[Waiver, ...], today: date) -> Waiver | None:
    """The waiver of this gate: one that still holds if there is one, else the last of the expired."""
    named = sorted(
        (one for one in waivers if one.metric == gate.metric), key=lambda one: (holds(one, today), one.until)
    )
    return named[-1] if named else None


def holds(waiver: Waiver, today: date) -> bool:
    """Whether a waiver still excuses: up to and with its last day."""
    try:
        return today <= date.fromisoformat(waiver.until)
    except ValueError:
        return False  # an unreadable date excuses nothing


def _outcome(checks: tuple[Check, ...], today: date) -> tuple[Status, str]:
    required = [check for check in checks if check.level == "required"]
    waived = [check for check in required if check.status != "pass" and check.waiver and holds(check.waiver, today)]
    counted = [check for check in required if check not in waived]
    failing = [check for check in counted if check.status == "fail"]
    open_ = [check for check in counted if check.status == "unknown"]
    status: Status
    if failing:
        status, reason = "fail", f"{_of(failing, required)} not met: {_names(failing)}"
    elif open_:
        status, reason = "unknown", f"{_of(open_, required)} not known: {_names(open_)}"
    elif not counted:
        status, reason = "unknown", "no required check is left to pass" if required else "no required check to pass"
    elif all(_off_device(check.metric) for check in counted):
        status, reason = "unknown", f"about the host only, nothing of the device is required: {_names(counted)}"
    else:
        which = " that counts" if len(counted) == 1 else " that count"
        met = f"the required check{which if waived else ''} is met"
        if len(counted) > 1:
            met = f"all {len(counted)} required checks{which if waived else ''} are met"
        status, reason = "pass", met
    if failing and open_:
        reason += f"; not known: {_names(open_)}"
    for check in waived:
        assert check.waiver is not None
        reason += f"; waived until {check.waiver.until}: {check.title} ({check.status}; {check.waiver.reason})"
    return status, reason


def _off_device(metric: str) -> bool:
    """Whether a metric says nothing of the device: of the host, or of the file. Loading is timed on the device."""
    return metric != "load_s" and METRICS[metric].about in ("host", "file")


def _of(some: Sequence[Check], all_: Sequence[Check]) -> str:
    return f"{len(some)} of {len(all_)} required checks"


def _names(checks: Sequence[Check]) -> str:
    return ", ".join(
        check.title + (f" ({format_percent(check.margin, signed=True)})" if check.margin is not None else "")
        for check in checks
    )


def _doubted(status: Status, reason: str, evidence: Evidence, gates: Gates) -> tuple[Status, str]:
    """A run that broke passes nothing, whatever the header promises: the artifact may not even load."""
    for waiver in gates.waivers:
        if waiver.metric not in {gate.metric for gate in gates.gates}:
            reason += f"; a waiver names `{waiver.metric}`, which no gate asks for"
    broken = faults(evidence)
    if not broken:
        return status, reason
    return ("unknown" if status == "pass" else status), f"the run broke ({broken[0].message}); {reason}"


def _class_outcome(verdicts: tuple[Verdict, ...]) -> tuple[Status, str]:
    passing = [verdict.device_title for verdict in verdicts if verdict.status == "pass"]
    failing = [verdict.device_title for verdict in verdicts if verdict.status == "fail"]
    if len(verdicts) == 1:
        return verdicts[0].status, f"the only device of the class: {verdicts[0].reason}"
    if len(passing) == len(verdicts):
        return "pass", f"all {len(verdicts)} devices of the class pass"
    if len(failing) == len(verdicts):
        return "fail", f"all {len(verdicts)} devices of the class fail"
    return "unknown", (
        f"of {len(verdicts)} devices {len(passing)} pass, {len(failing)} fail and "
        f"{len(verdicts) - len(passing) - len(failing)} are unknown; "
        + (f"passing: {', '.join(passing)}" if passing else "none passes")
    )
