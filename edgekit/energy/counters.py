"""Finding a machine's energy counters: powercap (RAPL), batteries, INA sensors, the Pi's PMIC, NVIDIA GPUs.

Readers take a `root`, so that fixture trees test them. A counter that exists and cannot be read is returned with its
reason, never left out and never read as zero. What a counter sees is its scope, and scopes are never added up.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from edgekit.energy.gauge import current_unit, may_be_drawn, volts_of
from edgekit.records import Gauge, Unknown

Scope = Literal["package", "rail", "board", "wall", "device"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Counter:
    """One meter. `read()` gives cumulative joules (`counts` is energy; it starts over after `wraps_at_j`) or momentary
    watts (power), or why it cannot just now. `unavailable` says why it never can; empty when it can.
    """

    name: str
    scope: Scope
    counts: Literal["energy", "power"]
    read: Callable[[], float | Unknown]
    wraps_at_j: float | None = None
    unavailable: str = ""
    look: Callable[[], Gauge] | None = None
    """A battery's whole gauge, whose count of what is left checks the momentary power of long runs."""


def find_counters(root: Path = Path("/")) -> tuple[Counter, ...]:
    """Every counter of the machine under `root`, readable or not, in a stable order."""
    found = [*_powercap(root), *_batteries(root), *_ina(root), *_pi(root), *_macos(root)]
    if root == Path("/"):
        found += _nvidia()
    return tuple(found)


def why_none(counters: tuple[Counter, ...]) -> str:
    """Why no energy can be measured here; empty when some counter can be read."""
    if any(not counter.unavailable for counter in counters):
        return ""
    if not counters:
        return "this machine shows no energy counter"
    return "; ".join(dict.fromkeys(counter.unavailable for counter in counters))


# ---- reading sysfs ------------------------------------------------------------------------------------------------


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def _number(path: Path) -> float | None:
    text = _text(path)
    try:
        return None if text is None else float(int(text))
    except ValueError:
        return None


def _folders(folder: Path) -> Iterator[Path]:
    try:
        yield from sorted(child for child in folder.iterdir() if child.is_dir())
    except OSError:
        return


def _broken(name: str, scope: Scope, counts: Literal["energy", "power"], reason: str) -> Counter:
    return Counter(name=name, scope=scope, counts=counts, read=lambda: Unknown(reason=reason), unavailable=reason)


# ---- powercap (RAPL) ----------------------------------------------------------------------------------------------


def _powercap(root: Path) -> Iterator[Counter]:
    for zone in _folders(root / "sys/class/powercap"):
        label = _text(zone / "name") or ""
        # core and uncore are parts of the package: reading them beside it would count twice
        scopes: dict[str, Scope] = {"package": "package", "psys": "board", "dram": "rail"}
        scope = scopes.get(label.split("-")[0])
        if scope is None or not (zone / "energy_uj").exists():
            continue
        name = f"powercap {label}" if label != "dram" else f"powercap dram {zone.name}"
        if _number(zone / "energy_uj") is None:
            reason = f"`{zone / 'energy_uj'}` is for root only since Linux 5.10; `sudo chmod a+r` opens it until reboot"
            yield _broken(name, scope, "energy", reason)
            continue
        range_uj = _number(zone / "max_energy_range_uj")
        yield Counter(
            name=name,
            scope=scope,
            counts="energy",
            read=_microjoules(zone / "energy_uj"),
            wraps_at_j=range_uj / 1e6 if range_uj else None,
        )


def _microjoules(path: Path) -> Callable[[], float | Unknown]:
    def read() -> float | Unknown:
        found = _number(path)
        return Unknown(reason=f"`{path}` could not be read") if found is None or found < 0 else found / 1e6

    return read


# ---- batteries ----------------------------------------------------------------------------------------------------


def _batteries(root: Path) -> Iterator[Counter]:
    supplies = root / "sys/class/power_supply"
    one = _text(supplies / "battery/type") == "Battery"  # Android shows it under other drivers' names as well
    for supply in _folders(supplies):
        if _text(supply / "type") != "Battery" or _text(supply / "scope") == "Device":
            continue  # scope "Device" is a mouse or a headset
        if one and supply.name != "battery":
            continue
        name = f"battery {supply.name}"
        if _battery_w(supply) is None:
            readable = any((supply / key).exists() for key in ("power_now", "current_now"))
            reason = f"`{supply}` " + (
                "may not be read by this user" if readable else "tells neither power nor current"
            )
            yield _broken(name, "device", "power", reason)
        else:
            yield Counter(
                name=name, scope="device", counts="power", read=_discharge(supply, supplies), look=_look(supply)
            )


def _discharge(supply: Path, supplies: Path) -> Callable[[], float | Unknown]:
    """Watts drawn from the battery; unknown while a charger is connected, whatever the gauge shows."""

    def read() -> float | Unknown:
        for other in _folders(supplies):
            if _text(other / "type") not in ("Battery", None) and (_number(other / "online") or 0) > 0:
                return Unknown(reason="on the charger: the battery gauge shows the charge, not the device's draw")
        status = (_text(supply / "status") or "unknown").lower()
        if status != "discharging":
            return Unknown(reason=f"the battery says `{status}`, not `discharging`", settle="unplug the charger")
        watts = _battery_w(supply)
        if not watts:
            return Unknown(reason="the battery gauge reads zero while discharging, or what no device draws")
        return watts

    return read


def _battery_w(supply: Path) -> float | None:
    """Power in W without its sign, which vendors set either way: power_now is in µW, or current_now × voltage_now; 0
    for what no device draws.
    """
    power_uw = _number(supply / "power_now")
    if power_uw:
        watts = abs(power_uw) / 1e6
        return watts if may_be_drawn(watts, None) else 0.0
    current, voltage = _number(supply / "current_now"), _number(supply / "voltage_now")
    if current is None or voltage is None:
        return None if power_uw is None else 0.0
    volts = volts_of(voltage)
    unit = current_unit(abs(current), volts)
    return 0.0 if unit is None else abs(current) * unit * volts


def _look(supply: Path) -> Callable[[], Gauge]:
    def number(name: str) -> int | None:
        found = _number(supply / name)
        return None if found is None else int(found)

    def look() -> Gauge:
        counted = number("charge_counter")
        return Gauge(
            name=supply.name,
            percent=number("capacity"),
            status=_text(supply / "status") or "",
            current_now=number("current_now"),
            voltage_now=number("voltage_now"),
            power_now=number("power_now"),
            charge_counter=number("charge_now") if counted is None else counted,
            energy_now=number("energy_now"),
        )

    return look


# ---- INA sensors, Raspberry Pi, macOS, NVIDIA ---------------------------------------------------------------------


def _ina(root: Path) -> Iterator[Counter]:
    for sensor in _folders(root / "sys/class/hwmon"):
        chip = _text(sensor / "name") or ""
        if not chip.startswith("ina"):
            continue
        for channel in sorted({match[1] for path in sensor.glob("*_input") if (match := _CHANNEL.match(path.name))}):
            label = _text(sensor / f"in{channel}_label") or f"{chip} channel {channel}"
            if "sum" in label.lower():  # ina3221's seventh channel adds up shunt voltages
                continue
            # on Jetson boards VDD_IN is everything that enters the module; other rails are parts of it
            scope: Scope = "board" if label.upper() == "VDD_IN" else "rail"
            if _ina_w(sensor, channel) is not None:
                yield Counter(
                    name=f"{sensor.name} {label}", scope=scope, counts="power", read=_ina_read(sensor, channel)
                )


_CHANNEL = re.compile(r"(?:power|curr)(\d+)_input$")


def _ina_read(sensor: Path, channel: str) -> Callable[[], float | Unknown]:
    def read() -> float | Unknown:
        watts = _ina_w(sensor, channel)
        return Unknown(reason=f"`{sensor}` could not be read") if watts is None else watts

    return read


def _ina_w(sensor: Path, channel: str) -> float | None:
    """hwmon's units: µW; mA × mV. An INA2xx has its bus voltage in in1, whichever the current's channel."""
    power_uw = _number(sensor / f"power{channel}_input")
    if power_uw is not None:
        return power_uw / 1e6
    current_ma, voltage_mv = _number(sensor / f"curr{channel}_input"), _number(sensor / f"in{channel}_input")
    return None if current_ma is None or voltage_mv is None else abs(current_ma) * voltage_mv / 1e6


def _pi(root: Path) -> Iterator[Counter]:
    """Raspberry Pi 5: its PMIC tells every rail; what hangs on 5 V directly (USB, fan) is missed."""
    program = root / "usr/bin/vcgencmd"
    if not program.exists():
        return
    found = _pi_w(program)
    if isinstance(found, Unknown):
        yield _broken("vcgencmd PMIC", "rail", "power", found.reason)
    else:
        yield Counter(name="vcgencmd PMIC", scope="rail", counts="power", read=lambda: _pi_w(program))


def _pi_w(program: Path) -> float | Unknown:
    try:
        done = subprocess.run([program, "pmic_read_adc"], capture_output=True, text=True, timeout=2, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Unknown(reason=f"`vcgencmd pmic_read_adc` failed: {type(error).__name__}")
    return pmic_watts(done.stdout)


def pmic_watts(text: str) -> float | Unknown:
    """Sum over rails of volts × amperes in the text of `vcgencmd pmic_read_adc`; each current needs its voltage."""
    amperes = dict(re.findall(r"(\w+)_A current\(\d+\)=([\d.]+)A", text))
    volts = dict(re.findall(r"(\w+)_V volt\(\d+\)=([\d.]+)V", text))
    if not amperes or set(amperes) - set(volts):
        return Unknown(reason="`vcgencmd pmic_read_adc` tells no rail power: only the Raspberry Pi 5 has this PMIC")
    return sum(float(amperes[rail]) * float(volts[rail]) for rail in amperes)


def _macos(root: Path) -> Iterator[Counter]:
    if (root / "usr/bin/powermetrics").exists():
        reason = "macOS tells power to root only: `sudo powermetrics --samplers cpu_power`"
        yield _broken("powermetrics", "package", "power", reason)


def _nvidia() -> Iterator[Counter]:
    """GPUs through zeus, where `edgekit[nvidia]` is installed and a driver answers."""
    if find_spec("zeus") is None:
        return
    try:
        from zeus.device import get_gpus

        gpus: Any = get_gpus()
        indices = range(len(gpus.gpus))
    except Exception:  # zeus raises its own errors for a missing driver, which is no fault of the run
        return
    for index in indices:
        yield Counter(name=f"nvidia gpu {index}", scope="package", counts="power", read=_gpu_power(gpus, index))


def _gpu_power(gpus: Any, index: int) -> Callable[[], float | Unknown]:
    def read() -> float | Unknown:
        try:
            return float(gpus.get_instant_power_usage(index)) / 1e3  # mW
        except Exception as error:
            return Unknown(reason=f"the GPU's power could not be read: {type(error).__name__}")

    return read
