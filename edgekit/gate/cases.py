"""The case of one device in the evidence, as far as it can be believed: evidence is a file, and files can be edited."""

from __future__ import annotations

from dataclasses import replace

from edgekit.records import (
    BASES,
    Basis,
    Battery,
    Case,
    Device,
    Estimate,
    Evidence,
    Figure,
    MemoryBreakdown,
    Projection,
    Unknown,
)


def case_for(evidence: Evidence, device: Device) -> Case:
    """The case of `device`, or one in which everything is unknown for a stated reason."""
    found = [case for case in evidence.cases if case.device == device.name]
    if not found:
        return _empty_case(device, f"the evidence holds nothing about `{device.name}`")
    if len(found) > 1:
        return _empty_case(device, f"the evidence holds {len(found)} cases of `{device.name}`")
    case = found[0]
    if case.device_sha256 != device.sha256:
        return _empty_case(device, "the evidence was computed from another version of this profile")
    if isinstance(case.projection, Projection) and case.projection.device != device.name:
        return _empty_case(device, f"the projection in the evidence is for `{case.projection.device}`")
    if case.settings.context_tokens < device.settings.context_tokens:
        return _empty_case(
            device,
            f"the evidence is for a context of {case.settings.context_tokens} tokens and the profile asks for "
            f"{device.settings.context_tokens}",
        )
    return _believable(case)


def _believable(case: Case) -> Case:
    """The case without parts that claim more than a case can know: nothing in it was run on the device."""
    memory, projection, battery = case.memory, case.projection, case.battery
    doubt = Unknown(
        reason="the evidence claims more than a case can know", settle=f"edgekit bench MODEL --device {case.device}"
    )
    if isinstance(memory, MemoryBreakdown) and _stronger(
        "predicted", memory.working_set, memory.unevictable, memory.resident
    ):
        case = replace(case, memory=doubt)
    if isinstance(projection, Projection) and _stronger(
        "projected",
        projection.decode,
        projection.prefill,
        projection.sustained,
        projection.bandwidth_bound,
        *(point.tokens_per_s for point in projection.depths),
    ):
        case = replace(case, projection=doubt)
    if isinstance(battery, Battery) and (
        _stronger("estimated", battery.hours, battery.power_w, battery.joules_per_token, battery.usable_wh)
        or _stronger("projected", battery.at_tokens_per_s)
    ):
        case = replace(case, battery=doubt)
    return case


def _stronger(allowed: Basis, *figures: Figure) -> bool:
    return any(isinstance(one, Estimate) and BASES.index(one.basis) < BASES.index(allowed) for one in figures)


def _empty_case(device: Device, reason: str) -> Case:
    unknown = Unknown(reason=reason, settle=f"edgekit bench MODEL --device {device.name}")
    return Case(
        device=device.name,
        device_title=device.title,
        device_sha256=device.sha256,
        settings=device.settings,
        memory=unknown,
        projection=unknown,
        battery=unknown,
    )
