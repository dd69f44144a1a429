"""The readiness gate of a run here, on trees of /sys that change while the fake clock goes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from bench_fakes import Fakes, artifact

from edgekit.bench import PRESETS, measure
from edgekit.records import Measurement

ZONE = "sys/class/thermal/thermal_zone0"
CPU = "sys/devices/system/cpu/cpu0/cpufreq"
BATTERY = "sys/class/power_supply/BAT0"


@dataclass
class Machine:
    """A tree whose files are written anew whenever anybody sleeps."""

    root: Path
    fakes: Fakes
    at: Callable[[float], dict[str, str]]

    def __post_init__(self) -> None:
        self.begun_s = self.fakes.clock.now_s
        self.write()

    def write(self) -> None:
        for name, text in self.at(self.fakes.clock.now_s - self.begun_s).items():
            file = self.root / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)

    def sleep(self, seconds: float) -> None:
        self.fakes.clock.sleep(seconds)
        self.write()

    def run(self, on_device: str = "phone") -> Measurement:
        return measure(
            artifact(), PRESETS["quick"], on_device=on_device, open_worker=self.fakes.open_worker,  # type: ignore[arg-type]
            clock=self.fakes.clock, sleep=self.sleep, root=self.root,
        )  # fmt: skip


def heat(degrees: float) -> dict[str, str]:
    return {f"{ZONE}/type": "skin-therm", f"{ZONE}/temp": str(int(degrees * 1000))}


def told(run: Measurement) -> list[str]:
    return [finding.message for finding in run.findings if finding.code == "not-ready"]


def test_a_hot_machine_is_waited_for_and_its_time_is_not_the_workers(tmp_path: Path) -> None:
    fakes = Fakes()
    machine = Machine(tmp_path, fakes, lambda s: heat(50 if s < 100 else 40))
    run = machine.run()
    first = run.states[0]
    assert first.waited_s == pytest.approx(105, abs=15)
    assert (first.obstacles, first.zones[0].temperature_c) == ((), 40.0)
    assert first.before == "pp128"
    assert told(run) == []
    assert not any(sample.doubts for sample in run.samples)
    assert fakes.opened[0].timeout_s == pytest.approx(PRESETS["quick"].timeout_s + first.waited_s)


def test_heat_that_stays_marks_every_sample_and_is_waited_for_once(tmp_path: Path) -> None:
    fakes = Fakes()
    run = Machine(tmp_path, fakes, lambda s: heat(50)).run()
    timed = [sample for sample in run.samples if not sample.warmup]
    assert {sample.doubts for sample in timed} == {("`skin-therm` is at 50 °C, above 45 °C",)}
    assert fakes.clock.slept_s <= 301
    assert told(run) == [f"{len(timed)} of {len(timed)} repetitions began while `skin-therm` is at 50 °C, above 45 °C"]
    assert run.noise is not None
    assert run.noise.contaminated == ()


def test_each_repetition_has_its_own_number_and_look(tmp_path: Path) -> None:
    """A clock capped half way through marks only what began after it."""
    fakes = Fakes(seconds=lambda step, process, repetition: 3.0)
    machine = Machine(tmp_path, fakes, lambda s: {})
    begun = fakes.clock.now_s

    def cap(khz: int) -> None:
        machine.at = lambda s: {f"{CPU}/scaling_max_freq": str(khz), f"{CPU}/cpuinfo_max_freq": "2000000"}
        machine.write()

    cap(2_000_000)
    fakes.dies = lambda step, process: cap(1_200_000) if fakes.clock.now_s - begun > 20 else None
    run = machine.run()
    timed = [sample for sample in run.samples if not sample.warmup]
    first = [sample.repetition for sample in timed if sample.process == 0 and sample.test == "pp128"]
    assert first == [0, 1, 2, 3]
    assert 0 < sum(bool(sample.doubts) for sample in timed) < len(timed)
    assert "clocks are capped at 60% on cpu0" in told(run)[0]
    assert len(run.states) >= len(timed)
    assert all(step.repetitions == 1 for opened in fakes.opened for step in opened.steps)


def test_a_charger_spoils_the_device_and_not_a_laptop_that_stands_for_nobody(tmp_path: Path) -> None:
    supply = {f"{BATTERY}/type": "Battery", f"{BATTERY}/status": "Charging", f"{BATTERY}/capacity": "60"}
    assert "charging" in told(Machine(tmp_path, Fakes(), lambda s: supply).run())[0]
    assert told(Machine(tmp_path, Fakes(), lambda s: supply).run(on_device="")) == []


def test_a_machine_that_shows_nothing_is_not_held_up(tmp_path: Path) -> None:
    fakes = Fakes()
    run = Machine(tmp_path, fakes, lambda s: {}).run()
    assert len(run.states) <= len(run.samples)
    assert fakes.steps(0)[1][1] == 4, "its repetitions run in one go"
    assert fakes.clock.slept_s < 1
