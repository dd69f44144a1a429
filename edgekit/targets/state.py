"""What a machine shows of its state: files of /sys and /proc, and Android's `dumpsys battery` → a `DeviceState`.

The files come as a mapping of their paths (without the leading slash) to their text, so that the same reader takes a
tree on disk, a device's answer and one moment of a run that a device watched itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from edgekit.records import CpuClock, DeviceState, Gauge, Zone

DUMPSYS = "dumpsys/battery"
"""Where the answer of `dumpsys battery` stands among the files."""

FAKED = "Faked"
"""The status of a battery whose owner told Android what to say of it (`dumpsys battery unplug`)."""

MAX_ZONES, MAX_CPUS, MAX_BATTERIES = 200, 256, 8

_PATTERNS = (
    "sys/class/thermal/thermal_zone*/type", "sys/class/thermal/thermal_zone*/temp",
    "sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq",
    "sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_max_freq",
    "sys/devices/system/cpu/cpu[0-9]*/cpufreq/cpuinfo_max_freq",
    "sys/class/power_supply/*/type", "sys/class/power_supply/*/scope", "sys/class/power_supply/*/online",
    "sys/class/power_supply/*/status", "sys/class/power_supply/*/capacity", "sys/class/power_supply/*/temp",
    "sys/class/power_supply/*/current_now", "sys/class/power_supply/*/voltage_now",
    "sys/class/power_supply/*/power_now", "sys/class/power_supply/*/charge_counter",
    "sys/class/power_supply/*/charge_now", "sys/class/power_supply/*/energy_now",
    "proc/loadavg", "proc/cpuinfo", "proc/stat", "proc/stat.later", DUMPSYS,
)  # fmt: skip


def files_of(root: Path) -> dict[str, str]:
    """The files under `root` that tell a state, as far as they can be read."""
    found = {}
    for pattern in _PATTERNS:
        for file in root.glob(pattern):
            try:
                found[str(file.relative_to(root))] = file.read_text(encoding="utf-8", errors="replace").strip()
            except OSError:
                continue
    return found


def state_of(files: Mapping[str, str], *, at_s: float = 0.0, process: int = 0, before: str = "") -> DeviceState:
    """Heat, clocks, batteries and load in `files`."""
    load = re.match(r"(\d+\.\d+)\s", files.get("proc/loadavg", ""))
    return DeviceState(
        at_s=at_s,
        process=process,
        before=before,
        zones=tuple(_zones(files))[:MAX_ZONES],
        clocks=tuple(_clocks(files))[:MAX_CPUS],
        gauges=tuple(_gauges(files))[:MAX_BATTERIES],
        load=float(load[1]) if load else None,
    )


def cores_of(files: Mapping[str, str]) -> int:
    """Logical CPUs that /proc/cpuinfo lists."""
    return len(re.findall(r"^processor\s*:", files.get("proc/cpuinfo", ""), re.MULTILINE))


def busy_share(files: Mapping[str, str]) -> float | None:
    """Part of all CPU time that anybody used between the two looks at /proc/stat; `None` where there were none."""
    looks = [_ticks(files.get(name, "")) for name in ("proc/stat", "proc/stat.later")]
    if None in looks:
        return None
    (total, idle), (total_later, idle_later) = (look for look in looks if look is not None)
    return 1 - (idle_later - idle) / (total_later - total) if total_later > total and idle_later >= idle else None


def _ticks(text: str) -> tuple[int, int] | None:
    fields = text.split("\n", 1)[0].split()[1:9]
    if len(fields) < 5 or not all(re.fullmatch(r"[0-9]{1,18}", field) for field in fields):
        return None
    numbers = [int(field) for field in fields]
    return sum(numbers), numbers[3] + numbers[4]


def _folders(files: Mapping[str, str], prefix: str, name: str) -> Iterator[str]:
    """The folders under `prefix` that hold a file `name`, in a stable order."""
    ends = f"/{name}"
    yield from sorted(path[: -len(ends)] for path in files if path.startswith(prefix) and path.endswith(ends))


def _number(files: Mapping[str, str], path: str) -> int | None:
    text = files.get(path, "")
    return int(text) if re.fullmatch(r"[+-]?\d{1,18}", text) else None


def _zones(files: Mapping[str, str]) -> Iterator[Zone]:
    for folder in _folders(files, "sys/class/thermal/", "temp"):
        raw = _number(files, f"{folder}/temp")
        if raw is None:
            continue
        degrees = raw / 1e3 if abs(raw) >= 1000 else float(raw)  # some vendors write whole degrees
        if 1 < degrees < 150:  # else off, or of something else
            yield Zone(name=files.get(f"{folder}/type", "")[:80] or folder.rpartition("/")[2], temperature_c=degrees)


def _clocks(files: Mapping[str, str]) -> Iterator[CpuClock]:
    prefix = "sys/devices/system/cpu/"
    seen = [path.split("/")[4] for path in files if path.startswith(prefix) and "/cpufreq/" in path]
    for cpu in sorted(set(seen), key=lambda name: (len(name), name)):
        names = ("scaling_cur_freq", "scaling_max_freq", "cpuinfo_max_freq")
        now, allowed, able = (_mhz(_number(files, f"{prefix}{cpu}/cpufreq/{name}")) for name in names)
        yield CpuClock(cpu=cpu[:20], now_mhz=now, allowed_mhz=allowed, able_mhz=able)


def _mhz(khz: int | None) -> float | None:
    return khz / 1e3 if khz is not None and khz > 0 else None


# ---- batteries ----------------------------------------------------------------------------------------------------


def _gauges(files: Mapping[str, str]) -> Iterator[Gauge]:
    supplies = "sys/class/power_supply/"
    plugged = any(
        (_number(files, f"{folder}/online") or 0) > 0 and files.get(f"{folder}/type") not in ("Battery", None)
        for folder in _folders(files, supplies, "online")
    )
    for folder in _folders(files, supplies, "type"):
        if files[f"{folder}/type"] != "Battery" or files.get(f"{folder}/scope") == "Device":
            continue  # scope `Device` is a mouse or a headset
        tenths = _number(files, f"{folder}/temp")
        counted = _number(files, f"{folder}/charge_counter")
        yield Gauge(
            name=folder.rpartition("/")[2][:60],
            percent=_number(files, f"{folder}/capacity"),
            status=files.get(f"{folder}/status", "")[:40],
            plugged=plugged,
            temperature_c=None if tenths is None else tenths / 10,
            current_now=_number(files, f"{folder}/current_now"),
            voltage_now=_number(files, f"{folder}/voltage_now"),
            power_now=_number(files, f"{folder}/power_now"),
            charge_counter=_number(files, f"{folder}/charge_now") if counted is None else counted,
            energy_now=_number(files, f"{folder}/energy_now"),
        )
    if DUMPSYS in files:
        yield from _dumpsys(files[DUMPSYS])


_STATUS = {1: "Unknown", 2: "Charging", 3: "Discharging", 4: "Not charging", 5: "Full"}
"""android.os.BatteryManager's BATTERY_STATUS_*."""


def _dumpsys(text: str) -> Iterator[Gauge]:
    """`dumpsys battery`: millivolts, tenths of a degree, µAh; some vendors add the current in mA, of either sign."""
    said = {key.strip().lower(): value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}
    numbers = {key: int(value) for key, value in said.items() if re.fullmatch(r"-?\d{1,12}", value)}
    if "level" not in numbers or said.get("present") == "false":
        return
    faked = "updates stopped" in text.lower()
    scale = numbers.get("scale", 100)
    tenths = numbers.get("temperature")
    yield Gauge(
        name="dumpsys battery",
        percent=round(100 * numbers["level"] / scale) if scale > 0 else None,
        status=FAKED if faked else _STATUS.get(numbers.get("status", 1), "Unknown"),
        plugged=any(value == "true" for key, value in said.items() if key.endswith(" powered")),
        temperature_c=None if tenths is None else tenths / 10,
        current_now=numbers.get("current now"),
        voltage_now=numbers.get("voltage"),
        charge_counter=numbers.get("charge counter") or None,
    )
