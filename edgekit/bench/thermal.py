"""Clock and temperature, where the machine shows them. Virtual machines and containers mostly do not."""

from __future__ import annotations

from pathlib import Path

from edgekit.records import ThermalPoint

EVERY_S = 1.0
PLAUSIBLE_C = (1.0, 150.0)
"""Sensors that are off report 0, −273 or nonsense."""


def read_thermal(at_s: float, root: Path = Path("/")) -> ThermalPoint | None:
    """The mean clock of all CPUs and the hottest thermal zone now; `None` where neither shows."""
    frequency_mhz, temperature_c = _frequency_mhz(root), _temperature_c(root)
    if frequency_mhz is None and temperature_c is None:
        return None
    return ThermalPoint(at_s=at_s, frequency_mhz=frequency_mhz, temperature_c=temperature_c)


def _frequency_mhz(root: Path) -> float | None:
    files = (root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_cur_freq")
    clocks_khz = [value for value in map(_number, files) if value is not None and value > 0]
    return sum(clocks_khz) / len(clocks_khz) / 1e3 if clocks_khz else None


def _temperature_c(root: Path) -> float | None:
    files = (root / "sys/class/thermal").glob("thermal_zone*/temp")
    degrees = [value / 1e3 for value in map(_number, files) if value is not None]
    return max((value for value in degrees if PLAUSIBLE_C[0] < value < PLAUSIBLE_C[1]), default=None)


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
