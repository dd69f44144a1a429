"""Batteries as vendors' drivers tell them: units, signs, counts that jump."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from edgekit.energy import Meter
from edgekit.energy.counters import Counter
from edgekit.energy.gauge import Drawn, Look, current_unit, drawn
from edgekit.records import EnergyReading, Gauge, Unknown
from edgekit.targets.state import DUMPSYS, state_of

WATTS, VOLTS, SECONDS = 4.0, 4.0, 600
JOULES = WATTS * SECONDS
MICROAMPS = 1_000_000
START = 3_000_000

PHONE = Gauge(name="battery", percent=80, status="Discharging", voltage_now=4_000_000)


def looks(of: Callable[[float], Gauge], seconds: int = SECONDS, every: float = 1.0) -> list[Look]:
    return [Look(at_s=1000 + index * every, gauge=of(index * every)) for index in range(int(seconds / every) + 1)]


def left(at_s: float, step: int = 1000) -> int:
    """µAh that a gauge counting in `step`s shows after so long at 1 A."""
    return (START - round(MICROAMPS * at_s / 3600)) // step * step


def known(found: Drawn | Unknown) -> Drawn:
    assert isinstance(found, Drawn), found
    return found


# pixel: µA below zero; several Xiaomi: µA above zero; Samsung, Huawei, OnePlus: mA of either sign; Android's own: mV
DIALECTS = {
    "µA, negative": replace(PHONE, current_now=-MICROAMPS),
    "µA, positive": replace(PHONE, current_now=MICROAMPS),
    "mA, negative": replace(PHONE, current_now=-1000),
    "mA, positive, mV": replace(PHONE, current_now=1000, voltage_now=4000),
    "power": replace(PHONE, power_now=4_000_000, voltage_now=None),
    "power, negative": replace(PHONE, power_now=-4_000_000, current_now=77),
}


@pytest.mark.parametrize("gauge", DIALECTS.values(), ids=DIALECTS.keys())
def test_every_dialect_of_a_current_gives_the_same_joules(gauge: Gauge) -> None:
    found = known(drawn(looks(lambda at_s: gauge)))
    assert found.joules == pytest.approx(JOULES)
    assert found.elapsed_s == SECONDS
    assert found.error == 0.10


def test_a_count_is_as_exact_as_its_steps() -> None:
    fine = known(drawn(looks(lambda at_s: replace(PHONE, charge_counter=left(at_s)))))
    assert fine.joules == pytest.approx(JOULES, rel=0.01)
    assert fine.error == pytest.approx(1 / 166, rel=0.05)
    coarse = known(drawn(looks(lambda at_s: replace(PHONE, charge_counter=left(at_s, step=20_000)))))
    assert abs(coarse.joules / JOULES - 1) <= coarse.error
    assert coarse.error > 0.1
    laptop = known(drawn(looks(lambda at_s: replace(PHONE, energy_now=50_000_000 - round(at_s * WATTS / 3.6e-3)))))
    assert laptop.joules == pytest.approx(JOULES, rel=0.01)
    assert laptop.how == "energy_now"


def test_count_and_current_check_each_other() -> None:
    both = known(drawn(looks(lambda at_s: replace(PHONE, charge_counter=left(at_s), current_now=-900))))
    assert both.joules == pytest.approx(JOULES, rel=0.01), "the count is the more exact"
    assert both.error == pytest.approx(1 / 0.9 - 1, rel=0.1), "what they differ by is the error"
    apart = drawn(looks(lambda at_s: replace(PHONE, charge_counter=left(at_s), current_now=-500)))
    assert isinstance(apart, Unknown)
    assert "contradicts itself: 1200 J by `current_now`, 24" in apart.reason


@pytest.mark.parametrize(
    ("of", "words"),
    [
        (lambda s: replace(PHONE, current_now=-1000, plugged=s > 300), "on the charger"),
        (lambda s: replace(PHONE, current_now=-1000, status="Charging" if s == 300 else "Discharging"), "`charging`"),
        (lambda s: replace(PHONE, current_now=-1000, status="Full"), "`full`"),
        (lambda s: replace(PHONE, current_now=-1000, status=""), "`nothing`"),
        (lambda s: replace(PHONE, current_now=-1000, status="Faked"), "made up"),
        (lambda s: replace(PHONE, current_now=-1000 if s < 300 else 1000), "changed its sign"),
        (lambda s: replace(PHONE, current_now=0), "reads zero"),
        (lambda s: replace(PHONE, current_now=40_000), "no device's draw"),
        (lambda s: replace(PHONE, current_now=1000, voltage_now=None), "no voltage"),
        (lambda s: PHONE, "neither power nor current"),
        (lambda s: replace(PHONE, charge_counter=left(s) + (50_000 if s > 300 else 0)), "went up"),
        (lambda s: replace(PHONE, charge_counter=left(s) - (500_000 if s > 300 else 0)), "at once"),
        (lambda s: replace(PHONE, charge_counter=left(s, step=50_000)), "moved 4 times"),
        (lambda s: replace(PHONE, charge_counter=START), "moved 0 times"),
        (lambda s: replace(PHONE, power_now=4000), "0.004 W by `power_now` is no device's draw"),
        (lambda s: replace(PHONE, power_now=4_000_000_000), "no device's draw"),
        (lambda s: replace(PHONE, charge_counter=left(s, step=1000) // 1000), "0.00401 W by `charge_counter`"),
        (lambda s: replace(PHONE, energy_now=50_000 - round(s * WATTS / 3.6)), "0.004 W by `energy_now`"),
    ],
)
def test_what_a_gauge_cannot_say_is_unknown(of: Callable[[float], Gauge], words: str) -> None:
    found = drawn(looks(of))
    assert isinstance(found, Unknown)
    assert words in found.reason


def test_a_count_that_was_reset_leaves_the_current() -> None:
    of = lambda s: replace(PHONE, current_now=-1000, charge_counter=left(s) + (50_000 if s > 300 else 0))  # noqa: E731
    assert known(drawn(looks(of))).how == "current_now"


@pytest.mark.parametrize(("at", "words"), [(500.0, "backwards"), (1000.0 + 299, "backwards"), (5000.0, "was read for")])
def test_a_clock_that_jumps(at: float, words: str) -> None:
    series = looks(lambda s: replace(PHONE, current_now=-1000))
    series[300:] = [replace(look, at_s=look.at_s - 1300 + at) for look in series[300:]]
    found = drawn(series)
    assert isinstance(found, Unknown)
    assert words in found.reason


@pytest.mark.parametrize("volts", [3.4, 4.4, 7.7, 11.4, 20.0])
def test_one_unit_fits_at_most(volts: float) -> None:
    least, most = (0.3, 8.0) if volts < 6 else (1.0, 25.0)
    for count in range(1, 30_000_000, 7919):
        fitting = [unit for unit in (1e-6, 1e-3) if count * unit * volts >= least and count * unit <= most]
        assert len(fitting) <= 1
        assert current_unit(count, volts) == (fitting[0] if fitting else None)


# ---- Android ------------------------------------------------------------------------------------------------------

PIXEL = """Current Battery Service state:
  AC powered: false
  USB powered: false
  Wireless powered: false
  Dock powered: false
  Max charging current: 0
  Max charging voltage: 0
  Charge counter: 3012000
  status: 3
  health: 2
  present: true
  level: 83
  scale: 100
  voltage: 4012
  temperature: 287
  technology: Li-ion
"""


def test_dumpsys_is_a_gauge() -> None:
    (gauge,) = state_of({DUMPSYS: PIXEL}).gauges
    assert (gauge.percent, gauge.status, gauge.plugged, gauge.temperature_c) == (83, "Discharging", False, 28.7)
    assert (gauge.voltage_now, gauge.charge_counter, gauge.current_now) == (4012, 3012000, None)

    def of(at_s: float) -> Gauge:
        text = PIXEL.replace("3012000", str(left(at_s))).replace("4012", "4000")
        return state_of({DUMPSYS: text}).gauges[0]

    assert known(drawn(looks(of, every=10))).joules == pytest.approx(JOULES, rel=0.02)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("USB powered: false", "USB powered: true", "on the charger"),
        ("status: 3", "status: 2", "`charging`"),
        (
            "Battery Service state:\n",
            "Battery Service state:\n  (UPDATES STOPPED -- use 'reset' to restart)\n",
            "made up",
        ),
    ],
)
def test_a_phone_on_its_cable_or_that_pretends(old: str, new: str, words: str) -> None:
    found = drawn(looks(lambda s: state_of({DUMPSYS: PIXEL.replace(old, new)}).gauges[0]))
    assert isinstance(found, Unknown)
    assert words in found.reason


def test_no_battery_is_no_gauge() -> None:
    assert state_of({DUMPSYS: PIXEL.replace("present: true", "present: false")}).gauges == ()
    assert state_of({DUMPSYS: "cannot find service: battery"}).gauges == ()


# ---- the meter here -----------------------------------------------------------------------------------------------


def metered(charge: Callable[[float], int], seconds: int = 120, pause: tuple[int, int] = (0, 0)) -> object:
    now = [0.0]
    look = lambda: replace(PHONE, current_now=-MICROAMPS, charge_counter=charge(now[0]))  # noqa: E731
    meter = Meter(Counter(name="battery BAT0", scope="device", counts="power", read=lambda: WATTS, look=look))
    for tenth in range(seconds * 10 + 1):
        now[0] = tenth / 10
        if pause[1] and now[0] == pause[0]:
            meter.pause(now[0])
        if pause[1] and now[0] == pause[1]:
            meter.resume(now[0])
        meter.poll(now[0])
    return meter.reading("sustained", 1000)


def test_a_long_step_here_is_checked_by_the_count() -> None:
    reading = metered(lambda s: left(s, step=100))
    assert isinstance(reading, EnergyReading)
    assert reading.joules == pytest.approx(WATTS * 120, rel=0.01)
    assert 0 < reading.error < 0.02
    assert reading.how == "charge_counter and current_now"
    wrong = metered(lambda s: START - round(2 * (START - left(s, step=100))))
    assert isinstance(wrong, Unknown)
    assert "contradicts itself" in wrong.reason


def test_a_count_since_a_pause_is_of_the_tokens_since() -> None:
    reading = metered(lambda s: left(s, step=100), seconds=250, pause=(100, 130))
    assert isinstance(reading, EnergyReading)
    assert reading.how == "charge_counter and current_now"
    assert reading.joules / reading.tokens == pytest.approx(WATTS * 220 / 1000, rel=0.02)
    assert reading.tokens / reading.elapsed_s == pytest.approx(1000 / 220, rel=0.02)


def test_what_is_drawn_in_a_pause_does_not_count() -> None:
    reading = metered(lambda s: left(s, step=100), seconds=100, pause=(20, 80))
    assert isinstance(reading, EnergyReading)
    assert reading.elapsed_s == pytest.approx(40)
    assert reading.joules == pytest.approx(160)
