"""Energy, measured where the machine has a counter (`edgekit.energy.counters`) and estimated where it has none
(`edgekit.energy.model`); the basis of a figure says which, and one never stands in for the other silently.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from edgekit.energy.counters import Counter, Scope, find_counters, why_none
from edgekit.energy.gauge import GAUGE_ERROR, Drawn, Look, drawn, may_be_drawn
from edgekit.energy.model import estimate_battery, usable_wh
from edgekit.records import Battery, Device, EnergyReading, Estimate, Measurement, Sample, Unknown, weakest
from edgekit.summary import SUSTAINED, SUSTAINED_AFTER_S
from edgekit.units import format_percent, format_rate

__all__ = [
    "EnergyMeter",
    "Meter",
    "energy_reading",
    "estimate_battery",
    "find_counters",
    "measured_battery",
    "metering",
    "why_none",
]

INTERVAL_S = 0.1
LOOK_S, LOOKS_OVER_S = 1.0, 60.0
"""A battery's count moves in steps of seconds and more: it is looked at once a second and used over a minute."""
LONGEST_S = 7 * 86_400.0
"""No run takes a week."""
LONG_ENOUGH_S = 0.98 * SUSTAINED_AFTER_S
"""A draw metered for less is not sustained: hot devices throttle only after minutes."""


@dataclass(slots=True)
class Meter:
    """Adds a counter's readings up. Nothing but `poll` reads the counter, so a test can be the clock."""

    counter: Counter
    joules_so_far: float = 0.0
    elapsed_s: float = 0.0
    """Over which it was metered, pauses left out."""
    trouble: Unknown | None = None
    paused: bool = False
    _last: tuple[float, float] | None = field(default=None, repr=False)
    _looks: list[Look] = field(default_factory=list, repr=False)
    _turn: threading.RLock = field(default_factory=threading.RLock, repr=False)
    """A thread polls while another pauses."""

    def poll(self, now_s: float) -> None:
        """Read once. Energy counters add their difference, powers their trapezoid; trouble once is trouble for good."""
        with self._turn:
            self._poll(now_s)

    def _poll(self, now_s: float) -> None:
        if self.trouble is not None or self.paused:
            return
        reading = self.counter.read()
        if isinstance(reading, Unknown):
            self.trouble = reading
            return
        if self._last is not None:
            before_s, before = self._last
            if self.counter.counts == "power":
                self.joules_so_far += (before + reading) / 2 * (now_s - before_s)
            else:
                self._add_energy(before, reading)
            self.elapsed_s += now_s - before_s
        self._last = (now_s, reading)
        if self.counter.look and (not self._looks or now_s - self._looks[-1].at_s >= LOOK_S):
            self._looks.append(Look(at_s=now_s, gauge=self.counter.look()))

    def pause(self, now_s: float) -> None:
        """Leave out what is drawn from now on, until `resume`."""
        with self._turn:
            self._poll(now_s)
            self.paused, self._last = True, None
            self._looks.clear()  # a count cannot leave anything out

    def resume(self, now_s: float) -> None:
        """Go on."""
        with self._turn:
            self.paused = False
            self._poll(now_s)

    def _add_energy(self, before: float, reading: float) -> None:
        difference = reading - before
        if difference < 0:  # polled ten times a second, so a range of minutes wraps once at most
            if self.counter.wraps_at_j is None:
                self.trouble = Unknown(reason=f"`{self.counter.name}` went backwards and does not tell its range")
                return
            difference += self.counter.wraps_at_j
        self.joules_so_far += difference

    def reading(self, test: str, tokens: int) -> EnergyReading | Unknown:
        """What was metered as a record. Nothing metered, or nothing drawn, is unknown and not zero."""
        if self.trouble is not None:
            return self.trouble
        if self.elapsed_s <= 0:
            return Unknown(reason=f"`{self.counter.name}` was read less than twice")
        if self.joules_so_far <= 0:
            return Unknown(reason=f"`{self.counter.name}` did not move in {self.elapsed_s:.1f} s")
        found = Drawn(
            joules=self.joules_so_far, elapsed_s=self.elapsed_s, error=GAUGE_ERROR if self.counter.look else 0.0, how=""
        )
        if self._looks and self._looks[-1].at_s - self._looks[0].at_s >= LOOKS_OVER_S:
            checked = drawn(self._looks)
            if isinstance(checked, Unknown):
                return checked
            found = checked
            tokens = max(1, round(tokens * min(1.0, found.elapsed_s / self.elapsed_s)))  # the looks are fewer
        return energy_reading(self.counter.scope, self.counter.name, found, test, tokens)


def energy_reading(scope: Scope, counter: str, found: Drawn, test: str, tokens: int) -> EnergyReading:
    """What left a battery, or passed a counter, while `test` made `tokens`."""
    return EnergyReading(
        scope=scope,
        counter=counter,
        test=test,
        joules=found.joules,
        elapsed_s=found.elapsed_s,
        tokens=tokens,
        error=found.error,
        how=found.how,
    )


@contextmanager
def metering(counter: Counter, interval_s: float = INTERVAL_S) -> Iterator[Meter]:
    """A meter that runs in a thread of its own until the block ends."""
    meter, done = Meter(counter), threading.Event()
    meter.poll(time.monotonic())

    def run() -> None:
        while not done.wait(interval_s):
            meter.poll(time.monotonic())

    thread = threading.Thread(target=run, name=f"meter {counter.name}", daemon=True)
    thread.start()
    try:
        yield meter
    finally:
        done.set()
        thread.join()
        meter.poll(time.monotonic())


@dataclass(slots=True)
class EnergyMeter:
    """Meters every readable counter around steps of a run; `readings` has one record a counter and step."""

    counters: tuple[Counter, ...]
    readings: list[EnergyReading] = field(default_factory=list)
    _troubles: dict[str, None] = field(default_factory=dict)
    _running: ExitStack = field(default_factory=ExitStack)
    _meters: list[Meter] = field(default_factory=list)

    @staticmethod
    def find(root: Path = Path("/")) -> EnergyMeter:
        """A meter of what the machine under `root` has."""
        return EnergyMeter(find_counters(root))

    @property
    def unknown(self) -> str:
        """Why nothing was metered; empty once something was."""
        if self.readings:
            return ""
        reasons = [*self._troubles, *(counter.unavailable for counter in self.counters if counter.unavailable)]
        return "; ".join(dict.fromkeys(reasons)) or why_none(self.counters) or "no step was metered"

    def start(self) -> None:
        """Begin a step. A step that never ended, because its worker died, is dropped."""
        self._running.close()
        self._meters = [
            self._running.enter_context(metering(counter)) for counter in self.counters if not counter.unavailable
        ]

    @contextmanager
    def pausing(self) -> Iterator[None]:
        """Nothing that is drawn within the block counts."""
        for meter in self._meters:
            meter.pause(time.monotonic())
        try:
            yield
        finally:
            for meter in self._meters:
                meter.resume(time.monotonic())

    def stop(self, test: str, samples: Sequence[Sample]) -> None:
        """End the step and keep what each counter says of it; of several batteries all or none, as one tells a part."""
        self._running.close()
        tokens = sum(sample.tokens for sample in samples)
        found = [(meter.counter.scope, meter.reading(test, tokens)) for meter in self._meters]
        self._troubles.update((reading.reason, None) for _, reading in found if isinstance(reading, Unknown))
        partial = {scope for scope, reading in found if isinstance(reading, Unknown)}
        partial |= {counter.scope for counter in self.counters if counter.unavailable}
        self.readings += [
            reading
            for scope, reading in found
            if isinstance(reading, EnergyReading) and not (scope == "device" and scope in partial)
        ]
        self._meters = []


def measured_battery(device: Device, run: Measurement) -> Battery | Unknown:
    """Battery hours from what the whole device drew in a sustained run of ten minutes; unknown without such a reading.

    Only the scope `device` counts: a package or a rail is a part of what empties the battery. The batteries of a device
    feed it together, so their powers add up.
    """
    steps = _sustained_steps(run)
    if isinstance(steps, Unknown):
        return steps
    error = max(GAUGE_ERROR, *(one.error for step in steps for one in step))
    power = _spread([sum(one.joules / one.elapsed_s for one in step) for step in steps], error)
    joules = _spread([sum(one.joules / one.tokens for one in step) for step in steps], error)
    speeds = [one.tokens / one.elapsed_s for step in steps for one in step]
    middle = sorted(speeds)[len(speeds) // 2]
    speed = Estimate(value=middle, low=min(speeds), high=max(speeds), basis="measured")
    usable = usable_wh(device)
    if isinstance(usable, Unknown):
        return Battery(hours=usable, at_tokens_per_s=speed, power_w=power, joules_per_token=joules, usable_wh=usable)
    hours = Estimate(
        value=usable.value / power.value,
        low=usable.low / power.high,
        high=usable.high / power.low,
        basis=weakest((usable.basis, power.basis)),
        note=f"at {format_rate(speed.value)} and {power.value:.1f} W sustained; the battery's Wh are the profile's",
    )
    return Battery(hours=hours, at_tokens_per_s=speed, power_w=power, joules_per_token=joules, usable_wh=usable)


def _sustained_steps(run: Measurement) -> list[tuple[EnergyReading, ...]] | Unknown:
    """What every battery gave in each sustained step, or why the device's draw is not known."""
    settle = "unplug the charger and run `edgekit bench MODEL --sustained 10m` on the device"
    by_counter: dict[str, list[EnergyReading]] = {}
    for reading in run.energy:
        if reading.scope == "device" and reading.test == SUSTAINED:
            by_counter.setdefault(reading.counter, []).append(reading)
    readings = [reading for of_one in by_counter.values() for reading in of_one]
    if not readings or any(min(one.joules, one.elapsed_s, one.tokens) <= 0 for one in readings):
        reason = "the whole device's draw was not measured"
        return Unknown(reason=reason + (f": {run.energy_unknown}" if run.energy_unknown else ""), settle=settle)
    shortest = min(reading.elapsed_s for reading in readings)
    if shortest < LONG_ENOUGH_S:
        return Unknown(
            reason=f"the device's draw was metered for {shortest:.0f} s of ten minutes: not yet its sustained power",
            settle=settle,
        )
    if len({len(of_one) for of_one in by_counter.values()}) > 1:
        return Unknown(reason="one battery of several was not metered in every sustained step", settle=settle)
    steps = list(zip(*by_counter.values(), strict=True))
    if any(map(_incredible, steps)):
        return Unknown(reason="what was metered is no device's draw, or as good as unknown", settle=settle)
    return steps


def _incredible(step: Sequence[EnergyReading]) -> bool:
    """Whether no device draws so in one step: records come from strangers."""
    watts = sum(one.joules / one.elapsed_s for one in step)
    vague = max(one.error for one in step) >= 1 or max(one.elapsed_s for one in step) > LONGEST_S
    return vague or not may_be_drawn(watts, None)


def _spread(values: list[float], error: float) -> Estimate:
    middle = sorted(values)[len(values) // 2]
    low, high = min(values) * (1 - error), max(values) * (1 + error)
    return Estimate(value=middle, low=low, high=high, basis="measured", note=f"fuel gauge, ± {format_percent(error)}")
