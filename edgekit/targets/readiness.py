"""Whether a device is fit to be timed now: cool, uncapped, on a battery that lasts, with nobody else at work.

Read from the tree that `facts` brings. What a device does not show is no obstacle and no proof.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

MAX_C = 45.0
"""A skin or battery sensor above it is near where phones throttle."""

MAX_CPU_C = 75.0
"""A core that has just worked is this hot; one that is throttled shows in its cap, too."""
MIN_BATTERY_PERCENT = 20
"""Below it phones save power by slowing down."""

MAX_LOAD_PER_CORE = 0.25
MIN_CAP = 0.95
"""Largest clock allowed now ÷ the hardware's: less is a governor or a thermal cap at work."""

_SENSORS = re.compile(r"batt|skin|xo-therm|quiet|surface|chassis", re.IGNORECASE)
_CPU_SENSORS = re.compile(r"cpu|soc|x86_pkg|k10temp|tsens|cluster", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Readiness:
    """What speaks against timing now, in words; `passing` are those that waiting may mend."""

    passing: tuple[str, ...] = ()
    standing: tuple[str, ...] = ()
    seen: tuple[str, ...] = ()
    """What was read at all: an empty one has shown nothing."""

    @property
    def obstacles(self) -> tuple[str, ...]:
        return self.passing + self.standing


def judge_readiness(root: Path) -> Readiness:
    """What the tree under `root` says of the device's state."""
    hot, sensors = _temperatures(root)
    capped, clocks = _caps(root)
    low, batteries = _battery(root)
    busy, loads = _load(root)
    return Readiness(passing=tuple(hot), standing=(*capped, *low, *busy), seen=(*sensors, *clocks, *batteries, *loads))


def wait_until_ready(
    look: Callable[[], Readiness],
    *,
    limit_s: float,
    sleep: Callable[[float], None],
    clock: Callable[[], float],
    every_s: float = 15.0,
) -> Readiness:
    """Look until nothing speaks against timing, or nothing that waiting mends, or `limit_s` have passed."""
    end = clock() + limit_s
    state = look()
    while state.passing and clock() + every_s <= end:
        sleep(every_s)
        state = look()
    return state


def _temperatures(root: Path) -> tuple[list[str], list[str]]:
    hot, seen = [], []
    for file in sorted((root / "sys/class/thermal").glob("thermal_zone*/temp")):
        name, raw = _text(file.parent / "type") or file.parent.name, _number(file)
        if raw is None:
            continue
        degrees = raw / 1e3 if abs(raw) >= 1000 else float(raw)  # some vendors write whole degrees
        limit_c = MAX_C if _SENSORS.search(name) else MAX_CPU_C if _CPU_SENSORS.search(name) else None
        if limit_c is None or not 1 < degrees < 150:  # off, or of something else
            continue
        seen.append(f"{name} {degrees:.0f} °C")
        if degrees > limit_c:
            hot.append(f"`{name}` is at {degrees:.0f} °C, above {limit_c:.0f} °C")
    return hot, seen


def _caps(root: Path) -> tuple[list[str], list[str]]:
    shares = {}
    for file in sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_max_freq")):
        allowed, able = _number(file), _number(file.parent / "cpuinfo_max_freq")
        if allowed and able and allowed > 0 and able > 0:
            shares[file.parent.parent.name] = allowed / able
    capped = [name for name, share in shares.items() if share < MIN_CAP]
    words = [f"clocks are capped at {min(shares.values()):.0%} on {', '.join(capped)}"] if capped else []
    return words, [f"{len(shares)} clocks"] if shares else []


def _battery(root: Path) -> tuple[list[str], list[str]]:
    against, seen = [], []
    for supply in sorted((root / "sys/class/power_supply").glob("*")):
        if _text(supply / "type") != "Battery" or _text(supply / "scope") == "Device":
            continue
        percent, status = _number(supply / "capacity"), _text(supply / "status")
        seen.append(f"battery {percent if percent is not None else '?'} % {status.lower()}".strip())
        if percent is not None and percent < MIN_BATTERY_PERCENT and status != "Charging":
            against.append(f"the battery is at {percent} %, below {MIN_BATTERY_PERCENT} %")
        if status == "Charging":
            against.append("the battery is charging, which heats it and corrupts energy readings")
    return against, seen


def _load(root: Path) -> tuple[list[str], list[str]]:
    found = re.match(r"(\d+\.\d+)\s", _text(root / "proc/loadavg"))
    cores = len(re.findall(r"^processor\s*:", _text(root / "proc/cpuinfo"), re.MULTILINE))
    if not found or not cores:
        return [], []
    load = float(found[1])
    busy = load / cores > MAX_LOAD_PER_CORE
    words = [f"others keep it busy: a load of {load:.2f} on {cores} cores"] if busy else []
    return words, [f"load {load:.2f}"]


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _number(file: Path) -> int | None:
    try:
        return int(_text(file))
    except ValueError:
        return None
