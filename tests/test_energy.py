"""Counters on fixture trees, the meter with a test's clock, and the model where no counter is."""

from __future__ import annotations

import json
import math
import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

import gate_records as r
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.energy import EnergyMeter, Meter, estimate_battery, measured_battery, metering
from edgekit.energy.counters import Counter, find_counters, pmic_watts, why_none
from edgekit.energy.model import highest_rate_for, power_model
from edgekit.records import EnergyReading, Estimate, Sourced, Unknown

POWERCAP = "sys/class/powercap"
SUPPLY = "sys/class/power_supply"
HWMON = "sys/class/hwmon"


def tree(root: Path, **folders: dict[str, object]) -> Path:
    """Write `folder/file` with each value; `__` in a folder's name is a slash."""
    for folder, files in folders.items():
        for name, value in files.items():
            path = root / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{value}\n")
    return root


def battery(root: Path, **files: object) -> Counter:
    defaults = {"type": "Battery", "status": "Discharging"}
    tree(root, **{f"{SUPPLY}/BAT0": {**defaults, **files}})
    (counter,) = find_counters(root)
    return counter


# ---- powercap -----------------------------------------------------------------------------------------------------


def test_packages_are_counted_and_their_parts_are_not(tmp_path: Path) -> None:
    zone = {"energy_uj": 5_000_000, "max_energy_range_uj": 262_143_328_850}
    tree(
        tmp_path,
        **{
            f"{POWERCAP}/intel-rapl:0": {"name": "package-0", **zone},
            f"{POWERCAP}/intel-rapl:0:0": {"name": "core", **zone},
            f"{POWERCAP}/intel-rapl:0:1": {"name": "dram", **zone},
            f"{POWERCAP}/intel-rapl:1": {"name": "psys", **zone},
            f"{POWERCAP}/intel-rapl": {"enabled": 1},
        },
    )
    counters = find_counters(tmp_path)
    assert [(one.name.split()[1], one.scope) for one in counters] == [
        ("package-0", "package"),
        ("dram", "rail"),
        ("psys", "board"),
    ]
    assert counters[0].read() == 5.0
    assert counters[0].wraps_at_j == pytest.approx(262_143.32885)
    assert why_none(counters) == ""


def test_a_counter_for_root_only_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree(tmp_path, **{f"{POWERCAP}/intel-rapl:0": {"name": "package-0", "energy_uj": 5}})
    real = Path.read_text

    def denied(self: Path, *arguments: object, **options: object) -> str:
        if self.name == "energy_uj":
            raise PermissionError(13, "Permission denied")
        return real(self, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "read_text", denied)
    (counter,) = find_counters(tmp_path)
    assert "root only since Linux 5.10" in counter.unavailable
    assert isinstance(counter.read(), Unknown)
    assert "root only" in why_none((counter,))


def test_a_machine_without_counters_says_so(tmp_path: Path) -> None:
    assert find_counters(tmp_path) == ()
    assert why_none(()) == "this machine shows no energy counter"


# ---- batteries ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "watts"),
    [
        ({"power_now": 7_400_000}, 7.4),
        ({"power_now": -7_400_000}, 7.4),
        ({"current_now": 1_850_000, "voltage_now": 4_000_000}, 7.4),
        ({"current_now": -1_850_000, "voltage_now": 4_000_000}, 7.4),
        ({"current_now": 1850, "voltage_now": 4_000_000}, 7.4),  # mA
        ({"current_now": -1850, "voltage_now": 4000}, 7.4),  # mA and mV
        ({"power_now": 0, "current_now": 1_850_000, "voltage_now": 4_000_000}, 7.4),
    ],
)
def test_batteries_in_every_dialect(tmp_path: Path, files: dict[str, int], watts: float) -> None:
    counter = battery(tmp_path, **files)
    assert (counter.scope, counter.counts) == ("device", "power")
    assert counter.read() == pytest.approx(watts)


@pytest.mark.parametrize("status", ["Charging", "Full", "Not charging", "Unknown"])
def test_on_the_charger_nothing_is_called_battery(tmp_path: Path, status: str) -> None:
    reading = battery(tmp_path, power_now=7_400_000, status=status).read()
    assert isinstance(reading, Unknown)
    assert "discharging" in reading.reason


def test_a_charger_that_is_online_is_believed_over_the_gauge(tmp_path: Path) -> None:
    tree(tmp_path, **{f"{SUPPLY}/AC": {"type": "Mains", "online": 1}})
    reading = battery(tmp_path, power_now=7_400_000).read()
    assert isinstance(reading, Unknown)
    assert "charger" in reading.reason
    tree(tmp_path, **{f"{SUPPLY}/AC": {"type": "Mains", "online": 0}})
    (counter,) = find_counters(tmp_path)
    assert counter.read() == pytest.approx(7.4)


def test_a_gauge_at_zero_is_not_a_free_lunch(tmp_path: Path) -> None:
    assert isinstance(battery(tmp_path, power_now=0).read(), Unknown)
    assert isinstance(battery(tmp_path, power_now=7400).read(), Unknown), "in mW it would last a thousand times as long"


def test_a_gauge_that_tells_nothing_has_a_reason(tmp_path: Path) -> None:
    assert "neither power nor current" in battery(tmp_path, capacity=80).unavailable


def test_the_mouse_is_not_the_machine(tmp_path: Path) -> None:
    tree(tmp_path, **{f"{SUPPLY}/hid": {"type": "Battery", "scope": "Device", "power_now": 1, "status": "Discharging"}})
    assert find_counters(tmp_path) == ()


# ---- INA, Pi, macOS -----------------------------------------------------------------------------------------------


def test_ina_sensors_by_power_or_by_current_and_voltage(tmp_path: Path) -> None:
    tree(
        tmp_path,
        **{
            f"{HWMON}/hwmon0": {"name": "ina226", "power1_input": 5_200_000, "curr1_input": 1, "in1_input": 1},
            f"{HWMON}/hwmon1": {
                "name": "ina3221",
                "curr1_input": 1000,
                "in1_input": 5000,
                "in1_label": "VDD_IN",
                "curr2_input": 400,
                "in2_input": 5000,
                "in2_label": "VDD_CPU_GPU_CV",
            },
            f"{HWMON}/hwmon2": {"name": "coretemp", "temp1_input": 40000},
        },
    )
    found = [(one.name, one.scope, one.read()) for one in find_counters(tmp_path)]
    assert found == [
        ("hwmon0 ina226 channel 1", "rail", 5.2),
        ("hwmon1 VDD_IN", "board", 5.0),
        ("hwmon1 VDD_CPU_GPU_CV", "rail", 2.0),
    ]


PMIC = """
 3V3_SYS_A current(1)=0.50000000A
VDD_CORE_A current(7)=2.00000000A
  3V3_SYS_V volt(9)=3.30000000V
VDD_CORE_V volt(15)=0.80000000V
 EXT5V_V volt(24)=5.10000000V
"""


def test_the_pi_sums_its_rails(tmp_path: Path) -> None:
    assert pmic_watts(PMIC) == pytest.approx(0.5 * 3.3 + 2.0 * 0.8)
    assert isinstance(pmic_watts('error=1 error_msg="Command not registered"'), Unknown)
    assert isinstance(pmic_watts("VDD_CORE_A current(7)=2.0A"), Unknown)
    program = tmp_path / "usr/bin/vcgencmd"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!/bin/sh\ncat <<'X'\n{PMIC}\nX\n")
    program.chmod(0o755)
    (counter,) = find_counters(tmp_path)
    assert (counter.scope, counter.unavailable) == ("rail", "")
    assert counter.read() == pytest.approx(3.25)


def test_macos_has_a_reason(tmp_path: Path) -> None:
    tree(tmp_path, **{"usr/bin": {"powermetrics": ""}})
    assert "root only" in why_none(find_counters(tmp_path))


# ---- the meter ----------------------------------------------------------------------------------------------------


def scripted(readings: list[float | Unknown], counts: str = "energy", wraps_at_j: float | None = None) -> Counter:
    rest = iter(readings)
    return Counter(name="test", scope="package", counts=counts, read=lambda: next(rest), wraps_at_j=wraps_at_j)


def polled(counter: Counter, times: int) -> Meter:
    meter = Meter(counter)
    for second in range(times):
        meter.poll(float(second))
    return meter


def test_power_is_integrated() -> None:
    reading = polled(scripted([2.0, 4.0, 4.0], "power"), 3).reading("tg128", 10)
    assert reading == EnergyReading(scope="package", counter="test", test="tg128", joules=7.0, elapsed_s=2.0, tokens=10)


def test_a_counter_that_starts_over_is_unwrapped() -> None:
    assert polled(scripted([98.0, 99.5, 1.0, 2.0], wraps_at_j=100.0), 4).joules_so_far == pytest.approx(4.0)


@pytest.mark.parametrize(
    ("readings", "says"),
    [
        ([5.0, 1.0], "went backwards"),
        ([5.0, Unknown(reason="gone")], "gone"),
        ([5.0, 5.0], "did not move"),
        ([5.0], "less than twice"),
    ],
)
def test_trouble_is_unknown_and_never_zero(readings: list[float | Unknown], says: str) -> None:
    found = polled(scripted(readings), len(readings)).reading("tg128", 10)
    assert isinstance(found, Unknown)
    assert says in found.reason


def test_plugging_in_midway_spoils_the_reading(tmp_path: Path) -> None:
    meter = Meter(battery(tmp_path, power_now=7_400_000))
    meter.poll(0.0)
    tree(tmp_path, **{f"{SUPPLY}/BAT0": {"status": "Charging"}})
    meter.poll(1.0)
    tree(tmp_path, **{f"{SUPPLY}/BAT0": {"status": "Discharging"}})
    meter.poll(2.0)
    assert isinstance(meter.reading("sustained", 10), Unknown)


def test_metering_reads_at_least_at_both_ends() -> None:
    with metering(scripted([1.0, 3.0]), interval_s=60) as meter:
        pass
    assert meter.joules_so_far == 2.0


def test_steps_are_metered_by_every_counter(tmp_path: Path) -> None:
    zone = tmp_path / POWERCAP / "intel-rapl:0"
    tree(tmp_path, **{f"{POWERCAP}/intel-rapl:0": {"name": "package-0", "energy_uj": 1_000_000}})
    tree(tmp_path, **{f"{SUPPLY}/BAT0": {"type": "Battery", "status": "Charging", "power_now": 5_000_000}})
    meter = EnergyMeter.find(tmp_path)
    assert meter.unknown == "no step was metered"
    meter.start()  # a step whose worker dies
    meter.start()
    (zone / "energy_uj").write_text("4000000")
    meter.stop("tg128", r.samples("tg128", 128, 60))
    (reading,) = meter.readings
    assert (reading.scope, reading.joules, reading.tokens) == ("package", 3.0, 12 * 128)
    assert meter.unknown == ""


def test_a_run_on_the_charger_says_why_it_has_no_energy(tmp_path: Path) -> None:
    tree(tmp_path, **{f"{SUPPLY}/BAT0": {"type": "Battery", "status": "Charging", "power_now": 5_000_000}})
    meter = EnergyMeter.find(tmp_path)
    meter.start()
    meter.stop("tg128", ())
    assert meter.readings == []
    assert "charging" in meter.unknown
    assert EnergyMeter.find(tmp_path / "nothing").unknown == "this machine shows no energy counter"


# ---- the model ----------------------------------------------------------------------------------------------------

SMARTPHONE = r.phone(sustained_power_w=Sourced(value=5.2, low=4.2, high=6.2, source="test"))


def test_hours_are_usable_energy_over_power_and_name_speed_and_power() -> None:
    found = estimate_battery(SMARTPHONE, r.projection())
    assert isinstance(found.hours, Estimate)
    assert isinstance(found.power_w, Estimate)
    assert isinstance(found.usable_wh, Estimate)
    assert found.hours.value == pytest.approx(found.usable_wh.value / found.power_w.value)
    assert found.hours.low == pytest.approx(20 * 0.8 / 6.2)
    assert found.power_w.high <= 6.2
    assert found.hours.basis == "estimated"
    assert "35.0 tok/s and 5.2 W" in found.hours.note
    assert found.at_tokens_per_s == r.projection().sustained
    assert isinstance(found.joules_per_token, Estimate)
    assert 0.05 < found.joules_per_token.value < 0.5


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"battery_wh": None}, "battery capacity"),
        ({"battery_usable": None}, "usable"),
        ({"idle_power_w": None}, "idle power"),
        ({"device_class": "desktop", "sustained_power_w": None}, "whole-device power"),
    ],
)
def test_what_is_missing_is_named(changes: dict[str, object], says: str) -> None:
    hours = estimate_battery(replace(SMARTPHONE, **changes), r.projection()).hours
    assert isinstance(hours, Unknown)
    assert says in hours.reason


def test_no_speed_no_hours() -> None:
    refused = Unknown(reason="nobody has measured q2_k on this phone")
    for projection in (refused, r.projection(sustained=refused)):
        found = estimate_battery(SMARTPHONE, projection)
        assert found.hours == found.power_w == found.joules_per_token == refused
        assert isinstance(found.usable_wh, Estimate)
    stopped = r.projection(sustained=Estimate(value=1, low=0, high=2, basis="projected"))
    assert isinstance(estimate_battery(SMARTPHONE, stopped).hours, Unknown)


def test_a_phone_with_published_power_is_narrower_than_one_without() -> None:
    def width(device) -> float:
        model = power_model(device)
        return model.j_per_gb.high / model.j_per_gb.low

    assert width(r.phone("xiaomi-15-pro")) < 2.1
    assert width(SMARTPHONE) > 4


def test_a_laptop_is_bounded_by_memory_energy_and_its_sustained_power() -> None:
    laptop = replace(
        SMARTPHONE, device_class="laptop", sustained_power_w=Sourced(value=28, low=17, high=51, source="t")
    )
    found = estimate_battery(laptop, r.projection())
    assert isinstance(found.power_w, Estimate)
    assert found.power_w.high == 51
    assert found.power_w.low == pytest.approx(0.5 + 0.064 * 0.9 * 30)
    assert estimate_battery(replace(laptop, device_class="sbc"), r.projection()).power_w != found.power_w


def test_a_rate_cap_holds_the_hours_it_promises() -> None:
    rate = highest_rate_for(SMARTPHONE, 0.9e9, 4)
    assert isinstance(rate, Estimate)
    for at, end in ((rate.low, "low"), (rate.value, "value"), (rate.high, "high")):
        slow = Estimate(value=at, low=at, high=at, basis="projected")
        hours = estimate_battery(replace(SMARTPHONE, sustained_power_w=None), r.projection(sustained=slow)).hours
        assert getattr(hours, end) == pytest.approx(4)


def test_no_rate_cap_beats_the_idle_draw() -> None:
    found = highest_rate_for(SMARTPHONE, 0.9e9, 40)
    assert isinstance(found, Unknown)
    assert "idle draw" in found.reason
    assert isinstance(highest_rate_for(replace(SMARTPHONE, battery_wh=None), 0.9e9, 4), Unknown)


positive = st.floats(0.01, 1000)


@settings(deadline=None)  # a busy machine is no failure
@given(
    st.lists(positive, min_size=3, max_size=3).map(sorted),
    positive,
    positive,
    st.sampled_from(["smartphone", "laptop"]),
)
def test_every_range_is_finite_positive_and_ordered(speeds, idle, cap, device_class) -> None:
    device = r.phone(
        device_class=device_class,
        idle_power_w=Sourced(value=idle, source="test"),
        sustained_power_w=Sourced(value=cap, source="test"),
    )
    low, value, high = speeds
    found = estimate_battery(device, r.projection(sustained=r.projected(low, value, high)))
    for figure in (found.hours, found.power_w, found.joules_per_token):
        assert isinstance(figure, Estimate)
        assert 0 < figure.low <= figure.value <= figure.high < math.inf


# ---- metered on the device ----------------------------------------------------------------------------------------


def metered(scope: str, test: str = "sustained", joules: float = 2400.0, **changes: Any) -> EnergyReading:
    whole = EnergyReading(scope=scope, counter="BAT0", test=test, joules=joules, elapsed_s=600.0, tokens=12_000)
    return replace(whole, **changes)


def test_only_the_whole_device_in_the_sustained_run_makes_battery_hours() -> None:
    for energy in ((), (metered("package"),), (metered("device", "tg128"),), (metered("device", joules=0.0),)):
        assert isinstance(measured_battery(SMARTPHONE, r.on_phone(energy=energy)), Unknown)
    found = measured_battery(SMARTPHONE, r.on_phone(energy=(metered("device"),)))
    assert found.power_w.basis == "measured"
    assert found.power_w.value == pytest.approx(4.0)
    assert found.joules_per_token.value == pytest.approx(0.2)
    assert found.hours.value == pytest.approx(17 / 4)
    assert found.hours.basis == "estimated"  # the battery's Wh are not measured


def test_ten_seconds_are_no_sustained_draw() -> None:
    short = metered("device", joules=40.0, elapsed_s=10.0, tokens=200)
    found = measured_battery(SMARTPHONE, r.on_phone(energy=(short,)))
    assert isinstance(found, Unknown)
    assert "10 s of ten minutes" in found.reason
    assert "--sustained 10m" in found.settle
    assert isinstance(measured_battery(SMARTPHONE, r.on_phone(energy=(metered("device"), short))), Unknown)


@pytest.mark.parametrize(
    "changes",
    [{"joules": 2.4}, {"joules": 1e307}, {"joules": 1e307, "elapsed_s": 1e306}, {"error": 1.0}, {"error": 1e308}],
)
def test_a_record_that_cannot_be_makes_no_hours(changes: dict[str, float]) -> None:
    """4 mW would last for months, and records come from strangers."""
    found = measured_battery(SMARTPHONE, r.on_phone(energy=(metered("device", **changes),)))
    assert isinstance(found, Unknown)
    assert "no device's" in found.reason


def test_the_batteries_of_one_device_add_up() -> None:
    two = (metered("device", joules=720.0), metered("device", joules=660.0, counter="BAT1"))
    found = measured_battery(SMARTPHONE, r.on_phone(energy=two))
    assert found.power_w.value == pytest.approx(2.3)
    assert found.power_w.low == pytest.approx(2.3 * 0.9)
    assert found.joules_per_token.value == pytest.approx(1380 / 12_000)
    assert found.at_tokens_per_s.value == pytest.approx(20)
    assert isinstance(measured_battery(SMARTPHONE, r.on_phone(energy=(*two, metered("device")))), Unknown)


@pytest.mark.parametrize("unavailable", ["", "may not be read"])
def test_one_battery_in_trouble_leaves_the_whole_draw_unknown(unavailable: str) -> None:
    good = Counter(name="BAT0", scope="device", counts="power", read=lambda: 1.2)
    idle = Unknown(reason="the battery says `not charging`")
    bad = Counter(name="BAT1", scope="device", counts="power", read=lambda: idle, unavailable=unavailable)
    package = Counter(name="package", scope="package", counts="power", read=lambda: 1.0)
    meter = EnergyMeter((good, bad, package))
    meter.start()
    meter.stop("sustained", r.samples("sustained", 128, 20))
    assert [reading.counter for reading in meter.readings] == ["package"]
    alone = EnergyMeter((good, bad))
    alone.start()
    alone.stop("sustained", r.samples("sustained", 128, 20))
    assert alone.unknown == (unavailable or idle.reason)


def test_why_nothing_was_metered_reaches_the_reason() -> None:
    found = measured_battery(SMARTPHONE, r.on_phone(energy_unknown="on the charger"))
    assert "on the charger" in found.reason


# ---- the published data -------------------------------------------------------------------------------------------


def test_the_data_file_is_what_the_script_makes_of_the_published_rows() -> None:
    root = Path(__file__).resolve().parent.parent
    script = runpy.run_path(str(root / "benchmarks" / "fit_energy.py"))
    fitted = script["fit"](root / "benchmarks" / "data" / "published_calibration.csv")
    assert json.loads((root / "edgekit" / "data" / "energy.json").read_text(encoding="utf-8")) == fitted
    scopes = {(group["scope"], group["device_class"]) for group in fitted["groups"]}
    assert ("device", "smartphone") in scopes
    assert ("device", "laptop") not in scopes  # nobody published one: package power must not stand in for it
