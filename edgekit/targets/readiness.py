"""Whether a device is fit to be timed now: cool, uncapped, on a battery that lasts, with nobody else at work.

What a device does not show is no obstacle and no proof.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from edgekit.records import DeviceState, Gauge
from edgekit.targets.state import FAKED, busy_share, cores_of, files_of, state_of

MAX_C = 45.0
"""A skin or battery sensor above it is near where phones throttle."""

MAX_CPU_C = 75.0
"""A core that has just worked is this hot; one that is throttled shows in its cap, too."""
MIN_BATTERY_PERCENT = 20
"""Below it phones save power by slowing down."""

MAX_LOAD_PER_CORE = 0.25
MAX_BUSY = 0.15
"""Part of all CPUs in use while nothing of ours runs."""
MIN_CAP = 0.95
"""Largest clock allowed now ÷ the hardware's: less is a governor or a thermal cap at work."""

EVERY_S = 15.0

_SENSORS = re.compile(r"batt|skin|xo-therm|quiet|surface|chassis", re.IGNORECASE)
_CPU_SENSORS = re.compile(r"cpu|soc|x86_pkg|k10temp|tsens|cluster", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Readiness:
    """What speaks against timing now, in words; `passing` are those that waiting may mend."""

    passing: tuple[str, ...] = ()
    standing: tuple[str, ...] = ()
    seen: tuple[str, ...] = ()
    """What was read at all: an empty one has shown nothing."""
    state: DeviceState | None = None
    waited_s: float = 0.0

    @property
    def obstacles(self) -> tuple[str, ...]:
        return self.passing + self.standing


def judge_readiness(root: Path) -> Readiness:
    """What the tree under `root` says of the device's state."""
    files = files_of(root)
    return judge_state(state_of(files), load=_load(files))


Words = tuple[list[str], list[str]]
"""Obstacles, and what was seen."""


def judge_state(state: DeviceState, *, load: Words = ([], []), charging: bool = True) -> Readiness:
    """What speaks against timing in `state`. `load` is judged by who knows what of it is our own; with `charging` a
    charger is an obstacle.
    """
    hot, sensors = _temperatures(state)
    capped, clocks = _caps(state)
    batteries = [_battery(gauge, charging=charging) for gauge in state.gauges]
    low = [words for against, _ in batteries for words in against]
    obstacles = (*capped, *low, *load[0])
    seen = (*sensors, *clocks, *(words for _, words in batteries), *load[1])
    return Readiness(
        passing=tuple(hot), standing=obstacles, seen=seen, state=replace(state, obstacles=(*hot, *obstacles))
    )


def wait_until_ready(
    look: Callable[[], Readiness],
    *,
    limit_s: float,
    sleep: Callable[[float], None],
    clock: Callable[[], float],
    every_s: float = EVERY_S,
) -> Readiness:
    """Look until nothing speaks against timing, or nothing that waiting mends, or `limit_s` have passed."""
    begun = clock()
    state = look()
    while state.passing and clock() + every_s <= begun + limit_s:
        sleep(every_s)
        state = look()
    waited_s = clock() - begun
    if state.state is None or waited_s < every_s:
        return state
    return replace(state, waited_s=waited_s, state=replace(state.state, waited_s=waited_s))


def _temperatures(state: DeviceState) -> Words:
    hot, seen = [], []
    for zone in state.zones:
        limit_c = MAX_C if _SENSORS.search(zone.name) else MAX_CPU_C if _CPU_SENSORS.search(zone.name) else None
        if limit_c is None:
            continue
        seen.append(f"{zone.name} {zone.temperature_c:.0f} °C")
        if zone.temperature_c > limit_c:
            hot.append(f"`{zone.name}` is at {zone.temperature_c:.0f} °C, above {limit_c:.0f} °C")
    batteries = [gauge.temperature_c for gauge in state.gauges if gauge.temperature_c is not None]
    words = "the battery is at {:.0f} °C, above {:.0f} °C"
    return hot + [words.format(degrees, MAX_C) for degrees in batteries if MAX_C < degrees < 100], seen


def _caps(state: DeviceState) -> Words:
    shares = {one.cpu: one.allowed_mhz / one.able_mhz for one in state.clocks if one.allowed_mhz and one.able_mhz}
    capped = [name for name, share in shares.items() if share < MIN_CAP]
    words = [f"clocks are capped at {min(shares.values()):.0%} on {', '.join(capped)}"] if capped else []
    return words, [f"{len(shares)} clocks"] if shares else []


def _battery(gauge: Gauge, *, charging: bool) -> tuple[list[str], str]:
    against = []
    if gauge.percent is not None and gauge.percent < MIN_BATTERY_PERCENT and gauge.status != "Charging":
        against.append(f"the battery is at {gauge.percent} %, below {MIN_BATTERY_PERCENT} %")
    if gauge.status == "Charging" and charging:
        against.append("the battery is charging, which heats it and corrupts energy readings")
    if gauge.status == FAKED:
        against.append("the battery's state is made up: `dumpsys battery reset` ends that")
    percent = "?" if gauge.percent is None else gauge.percent
    return against, f"battery {percent} % {gauge.status.lower()}".strip()


def _load(files: Mapping[str, str]) -> Words:
    """How busy the device is with others. The average of a minute holds our own last process, so two looks at the CPU
    time go before it.
    """
    busy = busy_share(files)
    if busy is not None:
        words = [f"others keep it busy: {busy:.0%} of its CPUs while nothing was run"] if busy > MAX_BUSY else []
        return words, [f"{busy:.0%} of the CPUs in use"]
    load, cores = state_of({"proc/loadavg": files.get("proc/loadavg", "")}).load, cores_of(files)
    if load is None or not cores:
        return [], []
    words = [f"others keep it busy: a load of {load:.2f} on {cores} cores"] if load / cores > MAX_LOAD_PER_CORE else []
    return words, [f"load {load:.2f}"]
