"""A battery's fuel gauge → joules drawn, whatever its driver's units and signs.

A gauge tells a momentary current and counts the charge or the energy that is left. The current comes in µA or mA and in
either sign, as vendors like it; the count is coarse (a step is seconds to minutes of work) and is learnt anew now and
then. Where both are told they check each other: the count settles the current's unit, and what they differ by is the
reading's error. What cannot be settled is unknown. Units of sysfs: Documentation/ABI/testing/sysfs-class-power; of
Android: android.os.BatteryManager.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from edgekit.records import Gauge, Unknown

GAUGE_ERROR = 0.10
"""Assumed error of a fuel gauge's current: its makers promise a few per cent, phones are not calibrated."""

ONE_CELL_V = 6.0
PHONE_W, PHONE_A = 0.3, 8.0
LAPTOP_W, LAPTOP_A = 1.0, 25.0
"""A whole device that computes draws more than so many watts, and its battery gives no more than so many amperes: up to
`ONE_CELL_V` of battery voltage like a phone, above it like a laptop. The two lie less than the factor of 1000 between
µA and mA apart, so that at most one unit fits.
"""

MOST_V = 30.0
"""No laptop's battery has more."""

LONGEST_GAP_S = 30.0
"""Without a look for longer the device slept, or its clock jumped."""

FEWEST_STEPS = 5
"""A count that moved less often than this is too coarse to be a reading."""

AGREE = 0.25
"""As far as the count and the current may differ and still be of one battery: it becomes the error."""

_SIGN = 0.1
"""Part of the typical current from which the other sign is no jitter around zero."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """A gauge at a moment of a clock that never stops, in seconds."""

    at_s: float
    gauge: Gauge


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """Energy out of a battery, with the half-width of its range as a fraction of it, and how it was found."""

    joules: float
    elapsed_s: float
    error: float
    how: str


def drawn(looks: Sequence[Look]) -> Drawn | Unknown:
    """What left the battery between the first look and the last."""
    if len(looks) < 2:
        return Unknown(reason="the battery was looked at less than twice")
    for doubt in (_charged(looks), _clock(looks)):
        if doubt is not None:
            return doubt
    counted, flowed = _counted(looks), _flowed(looks)
    if isinstance(counted, Drawn) and isinstance(flowed, Drawn):
        return _agreed(counted, flowed)
    volts = _volts(looks)
    counted, flowed = _believable(counted, volts), _believable(flowed, volts)
    if isinstance(counted, Drawn):
        return counted
    return flowed if isinstance(flowed, Drawn) else Unknown(reason=f"{flowed.reason}; {counted.reason}")


def _believable(found: Drawn | Unknown, volts: float | None) -> Drawn | Unknown:
    """`found`, unless no device draws so little or so much: a count in mAh, a power in mW. Nothing else checks it."""
    if isinstance(found, Unknown):
        return found
    watts = found.joules / found.elapsed_s
    if may_be_drawn(watts, volts):
        return found
    return Unknown(reason=f"{watts:.3g} W by `{found.how}` is no device's draw: of its unit or its gauge nobody knows")


def may_be_drawn(watts: float, volts: float | None) -> bool:
    """Whether a device that computes may draw so much from a battery of `volts`, as far as that is known."""
    if volts is None:
        return PHONE_W <= watts <= LAPTOP_A * MOST_V
    least_w, most_a = _bounds(volts)
    return least_w <= watts <= most_a * volts


def _charged(looks: Sequence[Look]) -> Unknown | None:
    """A reading while anything charges is of the charger."""
    settle = "unplug the charger; a phone is reached without its cable by `adb connect`"
    for look in looks:
        status = look.gauge.status.lower() or "nothing"
        if status == "faked":
            reason = "the battery's state is made up (`dumpsys battery unplug`), so nobody knows whether it charges"
            return Unknown(reason=reason, settle="dumpsys battery reset")
        if look.gauge.plugged:
            return Unknown(reason="on the charger: the battery gauge shows the charge, not the draw", settle=settle)
        if status != "discharging":
            return Unknown(reason=f"the battery says `{status}`, not `discharging`", settle=settle)
    flows = [look.gauge.current_now for look in looks if look.gauge.current_now]
    typical = median(map(abs, flows)) if flows else 0.0
    if flows and min(flows) < -_SIGN * typical and max(flows) > _SIGN * typical:
        return Unknown(reason="the current changed its sign: the battery was charged in between", settle=settle)
    return None


def _clock(looks: Sequence[Look]) -> Unknown | None:
    for before, after in pairwise(looks):
        passed_s = after.at_s - before.at_s
        if passed_s <= 0:
            return Unknown(reason="the device's clock went backwards: it was started anew, or its clock jumped")
        if passed_s > LONGEST_GAP_S:
            return Unknown(reason=f"nothing was read for {passed_s:.0f} s: the device slept, or its clock jumped")
    return None


# ---- the count ----------------------------------------------------------------------------------------------------


def _counted(looks: Sequence[Look]) -> Drawn | Unknown:
    """From the energy or charge that is left."""
    name, joules_each = "energy_now", 3.6e-3  # µWh
    counts = [look.gauge.energy_now for look in looks]
    if None in counts:
        volts = _volts(looks)
        if volts is None:
            return Unknown(reason="the gauge tells no voltage")
        name, joules_each = "charge_counter", 3.6e-3 * volts  # µAh
        counts = [look.gauge.charge_counter for look in looks]
    known = [count for count in counts if count is not None]
    if len(known) < len(counts):
        return Unknown(reason="the gauge counts neither charge nor energy")
    steps = [before - after for before, after in pairwise(known) if before != after]
    if len(steps) < FEWEST_STEPS:
        return Unknown(reason=f"`{name}` moved {len(steps)} times in all: too coarse for so short a run")
    if min(steps) < 0:
        return Unknown(reason=f"`{name}` went up while the battery discharged: it was reset or learnt anew")
    if max(steps) > 0.5 * sum(steps):
        return Unknown(reason=f"`{name}` fell by most of it at once: it was reset or learnt anew")
    total = sum(steps)
    # either end may lie anywhere within a step
    return Drawn(
        joules=total * joules_each,
        elapsed_s=looks[-1].at_s - looks[0].at_s,
        error=median(steps) / total,
        how=name,
    )


# ---- the current --------------------------------------------------------------------------------------------------


def _flowed(looks: Sequence[Look]) -> Drawn | Unknown:
    """From the momentary power or current, by trapezoids."""
    powers = [look.gauge.power_now for look in looks]
    watts: list[float] | Unknown
    if all(powers):
        watts, how = [abs(power) / 1e6 for power in powers if power is not None], "power_now"
    else:
        watts, how = _from_currents(looks), "current_now"
    if isinstance(watts, Unknown):
        return watts
    pairs = zip(pairwise(looks), pairwise(watts), strict=True)
    joules = sum((first + second) / 2 * (after.at_s - before.at_s) for (before, after), (first, second) in pairs)
    return Drawn(joules=joules, elapsed_s=looks[-1].at_s - looks[0].at_s, error=GAUGE_ERROR, how=how)


def _from_currents(looks: Sequence[Look]) -> list[float] | Unknown:
    currents = [look.gauge.current_now for look in looks]
    known = [current for current in currents if current is not None]
    if len(known) < len(currents):
        return Unknown(reason="the gauge tells neither power nor current")
    typical = median(abs(current) for current in known)
    if typical == 0:
        return Unknown(reason="the battery gauge reads zero while discharging")
    volts = _volts(looks)
    if volts is None:
        return Unknown(reason="the gauge tells no voltage")
    unit = current_unit(typical, volts)
    if unit is None:
        return Unknown(reason=f"a current of `{typical:.0f}` is no device's draw, in mA or in µA")
    return [abs(current) * unit * volts for current in known]


def current_unit(count: float, volts: float) -> float | None:
    """Amperes per count of `current_now`: µA as sysfs says, mA as several vendors write, whichever gives a power that a
    device may draw.
    """
    least_w, most_a = _bounds(volts)
    return next((unit for unit in (1e-6, 1e-3) if count * unit * volts >= least_w and count * unit <= most_a), None)


def _bounds(volts: float) -> tuple[float, float]:
    """The least watts and the most amperes."""
    return (PHONE_W, PHONE_A) if volts < ONE_CELL_V else (LAPTOP_W, LAPTOP_A)


def volts_of(count: float) -> float:
    """sysfs says µV, some vendors and Android mV; no battery has 100 V."""
    return count / 1e6 if count > 1e5 else count / 1e3


def _volts(looks: Sequence[Look]) -> float | None:
    known = [volts_of(look.gauge.voltage_now) for look in looks if look.gauge.voltage_now]
    return sum(known) / len(known) if known and min(known) > 0.5 else None


# ---- both ---------------------------------------------------------------------------------------------------------


def _agreed(counted: Drawn, flowed: Drawn) -> Drawn | Unknown:
    """The more exact of the two, with what they differ by in its error; nothing where they contradict each other."""
    ratio = flowed.joules / counted.joules
    apart = max(ratio, 1 / ratio) - 1
    if apart > AGREE + counted.error:
        return Unknown(
            reason=f"the battery's gauge contradicts itself: {flowed.joules:.0f} J by `{flowed.how}`, "
            f"{counted.joules:.0f} J by `{counted.how}`"
        )
    best = min(counted, flowed, key=lambda one: one.error)
    error = max(best.error, apart)
    return Drawn(joules=best.joules, elapsed_s=best.elapsed_s, error=error, how=f"{counted.how} and {flowed.how}")
