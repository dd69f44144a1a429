"""Energy where no counter is: idle + marginal × rate, capped at what the device sustains (design §5).

Marginal joules per GB streamed come from published runs (`data/energy.json`, made by `benchmarks/fit_energy.py`). What
a meter saw (whole device, board, package, rail, wall) is its scope, and scopes are never pooled: a package figure
bounds a whole device from below and is nothing more. Every result is `estimated`.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from edgekit.records import Battery, Device, Estimate, Figure, Projection, Sourced, Unknown, weakest
from edgekit.units import format_rate

TRANSFER_FACTOR = 3.0
"""Power × time models carried from one device to another hold within ×/÷ 3 (trials recorded in the design)."""
SAME_DEVICE_FACTOR = 1.4
"""Calibrated on the same device they hold within 30 to 40 %; the wider end."""
DRAM_J_PER_GB = 0.064
"""8 pJ/bit, the low end for LPDDR: the bytes alone cost this much, whatever computes on them."""

WHOLE_DEVICE_SCOPE = {"smartphone": "device", "tablet": "device", "laptop": "device", "sbc": "board"}
"""The scope that means the whole device, which its battery (or its plug) has to feed."""
BORROWED_CLASS = {"tablet": "smartphone"}
"""Tablets carry phone SoCs, and no tablet's power was published with a run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Low, middle and high of a quantity; `high` may be infinite where only the cap bounds it."""

    low: float
    value: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerModel:
    """Power in W at a rate of streaming: `idle + j_per_gb × GB/s`, at most `cap`."""

    idle: Span
    j_per_gb: Span
    cap: Span | None
    origin: str

    def watts(self, gb_per_s: Span) -> Span:
        """Power while streaming; low with low and high with high, as the rate itself draws the power."""
        low, value, high = (
            idle + joules * rate
            for idle, joules, rate in zip(_parts(self.idle), _parts(self.j_per_gb), _parts(gb_per_s), strict=True)
        )
        if self.cap is None:
            return Span(low=low, value=value, high=high)
        return Span(low=min(low, self.cap.value), value=min(value, self.cap.value), high=min(high, self.cap.high))


def estimate_battery(device: Device, projection: Projection | Unknown) -> Battery:
    """Hours of continuous decoding on one charge and energy per token, with the speed and power they hold at.

    Hours = usable Wh ÷ power at the sustained speed. Each figure that cannot be known says which input is missing.
    """
    usable = usable_wh(device)
    sustained: Figure = projection.sustained if isinstance(projection, Projection) else projection
    if isinstance(sustained, Estimate) and sustained.low <= 0:
        sustained = Unknown(reason="a sustained speed of zero draws no telling power")
    if isinstance(projection, Projection) and projection.bytes_per_token <= 0:
        sustained = Unknown(reason="the projection streams no bytes per token")
    model = power_model(device)
    power = _power(model, projection, sustained)
    return Battery(
        hours=_hours(usable, power, sustained),
        at_tokens_per_s=sustained,
        power_w=power,
        joules_per_token=_per_token(model, projection, sustained),
        usable_wh=usable,
    )


def power_model(device: Device) -> PowerModel | Unknown:
    """The power of `device` as a function of bytes streamed, or which figure is missing for one."""
    if device.idle_power_w is None:
        return Unknown(
            reason="the profile has no idle power", settle="add `idle_power_w` with its source to the profile"
        )
    idle = _span(device.idle_power_w)
    cap = _span(device.sustained_power_w) if device.sustained_power_w else None
    wanted = WHOLE_DEVICE_SCOPE.get(device.device_class)
    source_class = BORROWED_CLASS.get(device.device_class, device.device_class)
    published = _published(wanted or "", source_class)
    if published:
        joules, origin = _marginal(published, idle, device)
        return PowerModel(idle=idle, j_per_gb=joules, cap=cap, origin=f"{origin} (scope: whole {wanted})")
    if cap is None:
        return Unknown(
            reason=f"no whole-device power of a {device.device_class or 'device'} is published, and the profile has "
            "no sustained power",
            settle="add `sustained_power_w` with its source to the profile",
        )
    return PowerModel(
        idle=idle,
        j_per_gb=Span(low=DRAM_J_PER_GB, value=_package_median(source_class), high=math.inf),
        cap=cap,
        origin="between the memory's own energy (8 pJ/bit) and the device's sustained power",
    )


def highest_rate_for(device: Device, bytes_per_token: float, hours: float) -> Figure:
    """The average tok/s at which one charge lasts `hours`: `low` surely does, `high` cannot be exceeded.

    Unknown where the idle draw alone empties the battery sooner, or where battery or power are not known.
    """
    usable, model = usable_wh(device), power_model(device)
    if isinstance(usable, Unknown):
        return usable
    if isinstance(model, Unknown):
        return model
    if bytes_per_token <= 0 or hours <= 0:
        return Unknown(reason="no bytes per token, or no hours, to divide by")
    gigabytes, joules = bytes_per_token / 1e9, model.j_per_gb

    def rate(energy_wh: float, idle_w: float, j_per_gb: float) -> float:
        return max(0.0, (energy_wh / hours - idle_w) / (j_per_gb * gigabytes))

    value = rate(usable.value, model.idle.value, joules.value)
    if value <= 0:
        return Unknown(
            reason=f"the idle draw of about {model.idle.value:.1f} W alone takes more than the "
            f"{usable.value / hours:.1f} W that {hours:g} h leave"
        )
    return Estimate(
        value=value,
        low=min(value, rate(usable.low, model.idle.high, joules.high)),
        high=max(value, rate(usable.high, model.idle.low, joules.low)),
        basis="estimated",
        note=model.origin,
    )


# ---- from published figures to joules per GB ----------------------------------------------------------------------


@cache
def _fitted() -> dict[str, Any]:
    text = files("edgekit").joinpath("data/energy.json").read_text(encoding="utf-8")
    fitted: dict[str, Any] = json.loads(text)
    return fitted


def _published(scope: str, device_class: str) -> list[dict[str, Any]]:
    """Devices whose CPU decode power was published at `scope`."""
    return [
        device
        for group in _fitted()["groups"]
        if (group["scope"], group["device_class"], group["backend"]) == (scope, device_class, "cpu")
        for device in group["devices"]
    ]


def _marginal(published: list[dict[str, Any]], idle: Span, device: Device) -> tuple[Span, str]:
    """J per GB above idle: published figures are gross, so this device's own idle share is taken off."""
    same = [one for one in published if _slug(one["device"]) in (device.name, _slug(device.title))]
    chosen, factor = (same, SAME_DEVICE_FACTOR) if same else (published, TRANSFER_FACTOR)
    middle = [max(one["j_per_gb"]["median"] - idle.value / one["gb_per_s"], DRAM_J_PER_GB) for one in chosen]
    value = math.exp(sum(map(math.log, middle)) / len(middle))
    low = max(min(value / factor, *middle), DRAM_J_PER_GB)
    names = ", ".join(one["device"] for one in chosen)
    return (
        Span(low=min(low, value), value=value, high=max(value * factor, *middle)),
        f"published runs on {names}, ×/÷ {factor:g}",
    )


def _package_median(device_class: str) -> float:
    """A middle value where only chips were metered; its range does not rely on it."""
    medians = [one["j_per_gb"]["median"] for one in _published("package", device_class)]
    return max(sorted(medians)[len(medians) // 2], DRAM_J_PER_GB) if medians else 2 * DRAM_J_PER_GB


def _slug(name: str) -> str:
    """The profile name a published device would have: `Raspberry Pi 5 (2GB)` → `raspberry-pi-5`."""
    name = re.sub(r"\(.*?\)", "", name)
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


# ---- the figures --------------------------------------------------------------------------------------------------


def usable_wh(device: Device) -> Figure:
    """Nominal watt-hours × the part of them that inference may use."""
    if device.battery_wh is None:
        return Unknown(
            reason="the profile has no battery capacity: it runs from the mains, or nobody published it",
            settle="add `battery_wh` with its source to the profile",
        )
    if device.battery_usable is None:
        return Unknown(
            reason="the profile does not say which part of the battery is usable", settle="add `battery_usable`"
        )
    capacity, part = _span(device.battery_wh), _span(device.battery_usable)
    if capacity.low <= 0 or part.low <= 0:
        return Unknown(reason="the profile's battery capacity is zero")
    return Estimate(
        value=capacity.value * part.value,
        low=capacity.low * part.low,
        high=capacity.high * part.high,
        basis="estimated",
        note="nominal Wh × usable part",
    )


def _power(model: PowerModel | Unknown, projection: Projection | Unknown, sustained: Figure) -> Figure:
    if isinstance(model, Unknown):
        return model
    if isinstance(sustained, Unknown):
        return sustained
    assert isinstance(projection, Projection)
    watts = model.watts(_gb_per_s(projection, sustained))
    if not math.isfinite(watts.high):
        return Unknown(reason="nothing bounds the power from above", settle="add `sustained_power_w` to the profile")
    capped = model.cap is not None and watts.value == model.cap.value
    return Estimate(
        value=watts.value,
        low=watts.low,
        high=watts.high,
        basis="estimated",
        note=("held at the device's sustained power; " if capped else "") + model.origin,
    )


def _hours(usable: Figure, power: Figure, sustained: Figure) -> Figure:
    for part in (usable, power, sustained):
        if isinstance(part, Unknown):
            return part
    assert isinstance(usable, Estimate)
    assert isinstance(power, Estimate)
    assert isinstance(sustained, Estimate)
    return Estimate(
        value=usable.value / power.value,
        low=usable.low / power.high,
        high=usable.high / power.low,
        basis=weakest((usable.basis, power.basis, sustained.basis)),
        note=f"at {format_rate(sustained.value)} and {power.value:.1f} W sustained",
    )


def _per_token(model: PowerModel | Unknown, projection: Projection | Unknown, sustained: Figure) -> Figure:
    """J per token at the sustained speed; a slow run pays idle power for longer, so its ends cross the speed's."""
    if isinstance(model, Unknown):
        return model
    if isinstance(sustained, Unknown):
        return sustained
    assert isinstance(projection, Projection)
    gigabytes, joules, idle = projection.bytes_per_token / 1e9, model.j_per_gb, model.idle
    usual_cap, high_cap = (model.cap.value, model.cap.high) if model.cap else (math.inf, math.inf)
    low = _joules(idle.low, joules.low * gigabytes, sustained.high, usual_cap)
    value = _joules(idle.value, joules.value * gigabytes, sustained.value, usual_cap)
    high = _joules(idle.high, joules.high * gigabytes, sustained.low, high_cap)
    if not math.isfinite(high):
        return Unknown(reason="nothing bounds the power from above", settle="add `sustained_power_w` to the profile")
    return Estimate(value=value, low=low, high=high, basis="estimated", note=model.origin)


def _joules(idle_w: float, streaming_j: float, tokens_per_s: float, cap_w: float) -> float:
    return min(idle_w / tokens_per_s + streaming_j, cap_w / tokens_per_s)


def _gb_per_s(projection: Projection, sustained: Estimate) -> Span:
    gigabytes = projection.bytes_per_token / 1e9
    return Span(low=sustained.low * gigabytes, value=sustained.value * gigabytes, high=sustained.high * gigabytes)


def _span(figure: Sourced) -> Span:
    low = figure.value if figure.low is None else figure.low
    high = figure.value if figure.high is None else figure.high
    return Span(low=min(low, figure.value), value=figure.value, high=max(high, figure.value))


def _parts(span: Span) -> tuple[float, float, float]:
    return span.low, span.value, span.high
