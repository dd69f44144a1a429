"""The state of a machine at a moment of a run: heat, clocks, batteries, load, as far as it shows them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Zone:
    """One thermal zone by the name that its driver gives it."""

    name: str
    temperature_c: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuClock:
    """One CPU's clock: what it ran at, what it was allowed, what the hardware can; `None` where not shown."""

    cpu: str
    now_mhz: float | None
    allowed_mhz: float | None
    able_mhz: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Gauge:
    """One battery as its fuel gauge tells it, in the driver's own counts (µA or mA, either sign): see
    `edgekit.energy.gauge` for what they mean. `None` where not shown.
    """

    name: str
    percent: int | None
    status: str
    plugged: bool = False
    """A charger is connected, whatever the gauge shows."""
    temperature_c: float | None = None
    current_now: int | None = None
    voltage_now: int | None = None
    power_now: int | None = None
    charge_counter: int | None = None
    energy_now: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceState:
    """One look at a machine. `obstacles` is what spoke against timing after `waited_s` of waiting for it to pass."""

    at_s: float
    process: int
    before: str = ""
    """The test whose repetition began then."""
    zones: tuple[Zone, ...] = ()
    clocks: tuple[CpuClock, ...] = ()
    gauges: tuple[Gauge, ...] = ()
    load: float | None = None
    waited_s: float = 0.0
    obstacles: tuple[str, ...] = ()
