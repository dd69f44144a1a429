"""What a machine can measure: on this one for real, on fixture trees for what this one does not have."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from edgekit.bench import examine
from edgekit.records import Ability, Examination
from edgekit.storage import from_json, to_json


def put(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def found(examination: Examination, name: str) -> Ability:
    return next(ability for ability in examination.abilities if ability.name == name)


@pytest.fixture
def laptop(tmp_path: Path) -> Path:
    """A laptop on its battery with RAPL for root only, a governor that saves power, a clock and a temperature."""
    put(tmp_path, "proc/cpuinfo", "model name : Laptop CPU\nflags : avx2\n")
    put(tmp_path, "proc/stat", "cpu  100 0 50 1000 0 0 0 0 0 0\n")
    put(tmp_path, "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "powersave\n")
    put(tmp_path, "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq", "2400000\n")
    put(tmp_path, "sys/class/thermal/thermal_zone0/temp", "51000\n")
    put(tmp_path, "sys/class/power_supply/BAT0/type", "Battery\n")
    put(tmp_path, "sys/class/power_supply/BAT0/status", "Discharging\n")
    put(tmp_path, "sys/class/power_supply/BAT0/power_now", "9000000\n")
    return tmp_path


def test_a_laptop_on_battery(laptop: Path) -> None:
    examination = examine(laptop)
    assert found(examination, "frequency governor").state == "partly"
    assert "cpupower" in found(examination, "frequency governor").enable
    assert found(examination, "power source").state == "no"
    assert found(examination, "clock and temperature") == Ability(
        area="cpu", name="clock and temperature", state="yes", found="2400 MHz, 51 °C"
    )
    assert found(examination, "battery BAT0").state == "yes"
    assert found(examination, "CPU pressure (PSI)").state == "no"
    assert "psi=1" in found(examination, "CPU pressure (PSI)").enable


def test_pressure_and_a_clock_without_temperature(laptop: Path) -> None:
    put(laptop, "proc/pressure/cpu", "some avg10=0.00 avg60=0.00 avg300=0.00 total=120\n")
    (laptop / "sys/class/thermal/thermal_zone0/temp").unlink()
    examination = examine(laptop)
    assert found(examination, "CPU pressure (PSI)").state == "yes"
    assert found(examination, "clock and temperature").state == "partly"


def test_a_bare_machine_lacks_everything(tmp_path: Path) -> None:
    examination = examine(tmp_path)
    lacking = {ability.name for ability in examination.abilities if ability.state == "no"}
    assert {"others' CPU time", "CPU pressure (PSI)", "energy counters", "clock and temperature"} <= lacking
    assert all(ability.without for ability in examination.abilities if ability.state != "yes")


def test_here_for_real_and_as_json() -> None:
    examination = examine()
    assert found(examination, "llama.cpp").state == "yes"
    assert "llama.cpp" in found(examination, "llama.cpp").found
    if sys.platform == "linux":
        assert found(examination, "peaks of a process").state == "yes"
        assert "rlimits" in found(examination, "worker's fence").found
    assert from_json(to_json(examination), Examination, origin="here") == examination
