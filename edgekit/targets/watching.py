"""A device that watches itself while something runs there: batteries, clocks and heat once a second, by its own shell.

`read` is part of the shell, so that a look starts no process; Android's `dumpsys`, which does, is asked every ten
seconds. The time is /proc/uptime, which no clock setting touches and a restart sets back.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from edgekit.energy import energy_reading
from edgekit.energy.gauge import Drawn, Look, drawn
from edgekit.records import DeviceState, EnergyReading, Sample, Unknown
from edgekit.targets.readiness import judge_state
from edgekit.targets.state import DUMPSYS, state_of

WATCH = """
watched=
for f in /sys/class/power_supply/*/type /sys/class/power_supply/*/scope /sys/class/power_supply/*/online \\
  /sys/class/power_supply/*/status /sys/class/power_supply/*/capacity /sys/class/power_supply/*/temp \\
  /sys/class/power_supply/*/current_now /sys/class/power_supply/*/voltage_now /sys/class/power_supply/*/power_now \\
  /sys/class/power_supply/*/charge_counter /sys/class/power_supply/*/charge_now \\
  /sys/class/power_supply/*/energy_now /sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_max_freq \\
  /sys/devices/system/cpu/cpu[0-9]*/cpufreq/cpuinfo_max_freq
do if [ -r "$f" ]; then watched="$watched $f"; fi; done
for f in /sys/class/thermal/thermal_zone*/temp; do
  x=; read -r x < "${f%temp}type"
  case "$x" in
  *[Bb][Aa][Tt][Tt]*|*[Ss]kin*|*xo-therm*|*quiet*|*cpu*|*CPU*|*[Ss][Oo][Cc]*|*pkg*)
    watched="$watched ${f%temp}type $f";;
  esac
done 2>/dev/null
service=; if command -v dumpsys > /dev/null 2>&1; then service=1; fi
looks=0
look() {
  up=; read -r up x < /proc/uptime; echo "=up $up"
  for f in $watched; do x=; read -r x < "$f"; if [ -n "$x" ]; then echo "$f $x"; fi; done
  if [ -n "$service" ] && [ $((looks % 10)) -eq 0 ]; then dumpsys battery | while read -r x; do echo "=d $x"; done; fi
  looks=$((looks + 1))
}
"""
"""Shell: `look` writes one look to its standard output."""

MAX_LOOKS = 20_000
KEPT_STATES = 240
"""Of one process; an hour at one a quarter of a minute."""

SEEN = 0.8
"""Part of a test that must have been watched for its draw to be the test's."""

SHORTEST_S = 20.0
"""A test shorter than this is over before most gauges have moved."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """The looks of one process, in order; `begun_s` and `ended_s` are when it did, on the same clock. `None` where the
    device tells no time.
    """

    states: tuple[DeviceState, ...] = ()
    begun_s: float | None = None
    ended_s: float | None = None


NOTHING_SEEN = Watched()


def read_watch(text: str, process: int) -> Watched:
    """What `look` wrote, and a last `=up` for the end. Looks without a time are left out."""
    states, begun_s, ended_s = [], None, None
    for part in text.split("=up ")[1 : MAX_LOOKS + 2]:
        head, _, rest = part.partition("\n")
        if not re.fullmatch(r"\d{1,12}(?:\.\d{1,3})?", head.strip()):
            continue
        ended_s = float(head)
        begun_s = ended_s if begun_s is None else begun_s
        files = dict(_files(rest))
        if files:
            states.append(state_of(files, at_s=ended_s, process=process))
    return Watched(states=tuple(states), begun_s=begun_s, ended_s=ended_s)


def _files(text: str) -> Iterator[tuple[str, str]]:
    said = [line[3:] for line in text.splitlines() if line.startswith("=d ")]
    if said:
        yield DUMPSYS, "\n".join(said)
    for path, _, value in (line.partition(" ") for line in text.splitlines() if line.startswith("/sys/")):
        yield path[1:], value.strip()


def doubts_of(watched: Watched) -> tuple[str, ...]:
    """What was seen during a process and spoils its samples. Its own heat does not, the caps that follow from it do."""
    found: dict[str, None] = {}
    for state in watched.states:
        seen = judge_state(replace(state, zones=())).standing
        found.update((f"during it {words}", None) for words in seen)
    kinds = {re.sub(r"\d+", "#", words): words for words in reversed(found)}  # the first of each kind
    return tuple(reversed(kinds.values()))


def kept_states(watched: Watched, started_s: float) -> tuple[DeviceState, ...]:
    """A few of the looks, with their time since `started_s`."""
    every = max(1, -(-len(watched.states) // KEPT_STATES))
    return tuple(replace(state, at_s=max(0.0, state.at_s - started_s)) for state in watched.states[::every])


# ---- energy -------------------------------------------------------------------------------------------------------


def metered(watched: Watched, samples: Sequence[Sample], test: str) -> EnergyReading | Unknown:
    """What `samples`, the last that a process ran, drew from the battery: they end when the process does.

    Unknown while a charger is connected, and where the device shows no battery or none that can be read.
    """
    lasted_s, tokens = sum(sample.elapsed_s for sample in samples), sum(sample.tokens for sample in samples)
    if watched.ended_s is None:
        return Unknown(reason="the device tells no time since its start, so what its battery says has no time")
    if lasted_s < SHORTEST_S:
        return Unknown(reason=f"`{test}` was over after {lasted_s:.0f} s, before a battery's gauge tells anything")
    begun_s = watched.ended_s - lasted_s
    if any(state.at_s > watched.ended_s for state in watched.states) or begun_s < 0:
        return Unknown(reason="the device's clock went backwards: it was started anew, or its clock jumped")
    during = [state for state in watched.states if state.at_s >= begun_s]
    found: dict[str, list[Look]] = {}
    for state in during:
        for gauge in state.gauges:
            found.setdefault(gauge.name, []).append(Look(at_s=state.at_s, gauge=gauge))
    if not found:
        return Unknown(reason="the device shows no battery")
    chosen = _draws(found)
    if isinstance(chosen, Unknown):
        return chosen
    name, draw = chosen
    share = min(1.0, draw.elapsed_s / lasted_s)
    if share < SEEN:
        return Unknown(reason=f"the battery was seen for {draw.elapsed_s:.0f} s of `{test}`'s {lasted_s:.0f} s")
    return energy_reading("device", name, draw, test, max(1, round(tokens * share)))


def _draws(found: dict[str, list[Look]]) -> tuple[str, Drawn] | Unknown:
    """The draw of the one battery, or of all of several. What Android says of it is asked first, as it also knows of
    chargers that /sys does not show; its own figures count where those of /sys tell nothing.
    """
    android = found.pop("dumpsys battery", None)
    said = drawn(android) if android else None
    if android and isinstance(said, Unknown) and _charges(android):
        return said
    if "battery" in found:  # Android shows one battery under several drivers' names
        found = {"battery": found["battery"]}
    draws = {name: drawn(looks) for name, looks in found.items()}
    unknown = [one for one in draws.values() if isinstance(one, Unknown)]
    known = [one for one in draws.values() if isinstance(one, Drawn)]
    if known and not unknown:
        names = " + ".join(draws)
        return f"battery {names}", _sum(known)
    if isinstance(said, Drawn):
        return "dumpsys battery", said
    reasons = [*unknown, *([said] if isinstance(said, Unknown) else [])]
    return Unknown(reason="; ".join(dict.fromkeys(one.reason for one in reasons)), settle=reasons[0].settle)


def _charges(looks: Sequence[Look]) -> bool:
    return any(look.gauge.plugged or look.gauge.status != "Discharging" for look in looks)


def _sum(draws: Sequence[Drawn]) -> Drawn:
    return Drawn(
        joules=sum(one.joules for one in draws),
        elapsed_s=min(one.elapsed_s for one in draws),
        error=max(one.error for one in draws),
        how=draws[0].how,
    )
