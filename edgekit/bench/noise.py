"""How quiet the host was: before, during, and as the samples themselves tell (design §4).

Everything here reads `/proc` (psutil elsewhere) twice and subtracts; nothing runs while a test is timed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekit.bench.drift import trend, wander
from edgekit.records import Finding, Host, Noise, Sample
from edgekit.summary import SUSTAINED
from edgekit.units import format_percent

FAMILY_ALPHA = 0.01
EFFECT_MIN = 0.03
"""Design §4: contamination needs a family-wise α of 0.01 *and* an effect over 3 %."""

BUSY_BEFORE, OTHERS_DURING, PRESSURE_DURING = 0.05, 0.05, 0.15
"""Where a warning starts. The worker's own threads and the 100 Hz memory sampler alone make a few percent pressure."""

OTHERS_SPOIL = 0.15
"""Others' share of all CPUs from which speeds do not count: OpenMP's barriers wait for the slowest thread, so one busy
core in four costs far more than a quarter, and steadily enough that no drift shows.
"""

WATCH_S = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class HostCounters:
    """Running totals in CPU seconds over all CPUs (`pressure_s` in wall seconds, `None` without PSI)."""

    at_s: float
    total_s: float
    idle_s: float
    own_s: float
    """Of this process and of every worker that has ended."""
    pressure_s: float | None


def read_counters(root: Path = Path("/"), clock: Callable[[], float] = time.monotonic) -> HostCounters | None:
    """The totals now, or `None` where the OS does not tell. `root` serves fixture trees."""
    times = _cpu_times(root)
    if times is None:
        return None
    total_s, idle_s = times
    own = os.times()
    return HostCounters(
        at_s=clock(),
        total_s=total_s,
        idle_s=idle_s,
        own_s=own.user + own.system + own.children_user + own.children_system,
        pressure_s=_pressure_s(root),
    )


def _cpu_times(root: Path) -> tuple[float, float] | None:
    """(all, idle) CPU seconds since boot. Time stolen by a hypervisor counts as others' work."""
    try:
        fields = (root / "proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:9]
    except OSError:
        return _cpu_times_psutil() if root == Path("/") else None
    if len(fields) < 5 or not all(field.isdigit() for field in fields):
        return None
    ticks = [int(field) / os.sysconf("SC_CLK_TCK") for field in fields]
    return sum(ticks), ticks[3] + ticks[4]


def _cpu_times_psutil() -> tuple[float, float] | None:
    import psutil  # type: ignore[import-untyped]

    times = psutil.cpu_times()
    return float(sum(times)), float(times.idle)


def _pressure_s(root: Path) -> float | None:
    """Seconds in which some task waited for a CPU, since boot (PSI)."""
    try:
        line = (root / "proc/pressure/cpu").read_text(encoding="ascii").split("\n", 1)[0]
    except OSError:
        return None
    total = line.rpartition("total=")[2]
    return int(total) / 1e6 if line.startswith("some") and total.isdigit() else None


def others_share(before: HostCounters | None, after: HostCounters | None) -> float | None:
    """Fraction of all CPUs that others used between two readings, `None` where it cannot be told."""
    if before is None or after is None or after.total_s <= before.total_s:
        return None
    busy_s = (after.total_s - before.total_s) - (after.idle_s - before.idle_s)
    others_s = busy_s - (after.own_s - before.own_s)
    # the two clocks tick apart by up to 10 ms a CPU
    return min(1.0, max(0.0, others_s / (after.total_s - before.total_s)))


def pressure_share(before: HostCounters | None, after: HostCounters | None) -> float | None:
    """Share of the wall time in which some task waited for a CPU."""
    if before is None or after is None or before.pressure_s is None or after.pressure_s is None:
        return None
    wall_s = after.at_s - before.at_s
    return min(1.0, max(0.0, (after.pressure_s - before.pressure_s) / wall_s)) if wall_s > 0 else None


def watch_before(root: Path, sleep: Callable[[float], None], clock: Callable[[], float]) -> float | None:
    """Others' share of all CPUs over a quarter of a second just before the run."""
    first = read_counters(root, clock)
    if first is None:
        return None
    sleep(WATCH_S)
    return others_share(first, read_counters(root, clock))


def contaminated_tests(samples: Sequence[Sample]) -> tuple[tuple[str, ...], tuple[Finding, ...]]:
    """Tests whose repetitions, in the order they ran, drift or hang together, and a warning for each.

    Bonferroni over all tests and both checks keeps the family-wise α. A sustained run is meant to drift.
    """
    tests = dict.fromkeys(s.test for s in samples if not s.warmup and s.test != SUSTAINED)
    alpha = FAMILY_ALPHA / max(1, 2 * len(tests))
    names: list[str] = []
    findings: list[Finding] = []
    for test in tests:
        ordered = sorted((s for s in samples if s.test == test and not s.warmup), key=lambda s: s.started_s)
        rates = [sample.tokens / sample.elapsed_s for sample in ordered]
        for found, words in ((trend(rates), "drifts"), (wander(rates), "wanders")):
            if found.p_value < alpha and found.effect > EFFECT_MIN:
                names.append(test)
                findings.append(_contamination(test, words, found.effect))
                break
    return tuple(names), tuple(findings)


def _contamination(test: str, words: str, effect: float) -> Finding:
    return Finding(
        level="warning",
        code="contaminated",
        message=f"`{test}` {words} by {format_percent(effect)} over the run, so its repetitions are not independent",
        hint="let the machine cool, plug it in, close other programs, and run again",
    )


def judge_noise(
    idle_before: float | None,
    start: HostCounters | None,
    end: HostCounters | None,
    samples: Sequence[Sample],
    *,
    on_device: bool,
) -> tuple[Noise, tuple[Finding, ...]]:
    """The Noise record and the warnings it deserves.

    On the target itself a drift is the device's own throttling: it is warned of and does not contaminate.
    """
    others, pressure = others_share(start, end), pressure_share(start, end)
    contaminated, findings = contaminated_tests(samples)
    if on_device:
        contaminated = ()
    if others is not None and others > OTHERS_SPOIL:
        contaminated = tuple(dict.fromkeys(s.test for s in samples if not s.warmup))
    noise = Noise(
        others_cpu_before=idle_before,
        others_cpu_during=others,
        pressure_some_during=pressure,
        contaminated=contaminated,
    )
    return noise, _busy_findings(noise) + findings


def not_quiet(noise: Noise | None) -> str:
    """Why what was timed meanwhile settles nothing; empty where the machine was seen to be quiet."""
    if noise is None or noise.others_cpu_during is None:
        return "whether the machine was quiet cannot be told"
    return "the machine was not quiet" if noise.others_cpu_during > OTHERS_SPOIL else ""


def _busy_findings(noise: Noise) -> tuple[Finding, ...]:
    quiet = "close other programs, or wait until they are done, and run again"
    checks = (
        (noise.others_cpu_before, BUSY_BEFORE, "host-busy-before", "others used {} of the CPUs just before the run"),
        (noise.others_cpu_during, OTHERS_DURING, "host-busy", "others used {} of the CPUs during the run"),
        (noise.pressure_some_during, PRESSURE_DURING, "cpu-pressure", "tasks waited for a CPU in {} of the run"),
    )
    return tuple(
        Finding(level="warning", code=code, message=message.format(format_percent(share)), hint=quiet)
        for share, limit, code, message in checks
        if share is not None and share > limit
    )


def host_notes(host: Host) -> tuple[Finding, ...]:
    """Circumstances of the host that slow it down or hide its neighbours."""
    notes = []
    if host.power_source == "battery":
        message = "the host ran on its battery, where most systems lower the clock"
        notes.append(Finding(level="note", code="on-battery", message=message, hint="plug it in"))
    if host.governor in ("powersave", "conservative", "ondemand"):
        message = f"the CPU frequency governor is `{host.governor}`"
        hint = "`sudo cpupower frequency-set -g performance` makes runs steadier"
        notes.append(Finding(level="note", code="governor", message=message, hint=hint))
    return tuple(notes)
