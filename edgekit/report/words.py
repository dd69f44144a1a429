"""The words every format shares: a figure with its range and basis, limits, circumstances, and text made safe to show.

Text from models, devices and logs is hostile until `clean` has been over it.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from datetime import datetime

from edgekit.records import Basis, Check, Estimate, Figure, Status, Unknown
from edgekit.units import format_number

STATUS_WORDS: dict[Status, str] = {"pass": "PASS", "fail": "FAIL", "unknown": "UNKNOWN"}

EXIT_MEANING: dict[int, str] = {
    0: "pass",
    1: "fail",
    2: "usage or bad input",
    3: "unknown",
    4: "the run broke",
    130: "interrupted",
}

BASIS_MEANING: dict[Basis, str] = {
    "measured": "run on the target device itself",
    "measured-here": "run on this host; says nothing of another machine's speed",
    "projected": "computed for the device from published or own runs on it and on its kin",
    "predicted": "computed from the model file's header; nothing was run",
    "estimated": "from an energy model; no counter was read",
    "claimed": "someone's datasheet or paper; not checked by a run",
}

RANGE_MEANING = (
    "Ranges are 90 %. A check passes only if its whole range clears the limit, fails if the whole range misses it, "
    "and is unknown otherwise. A figure made of several parts carries the weakest basis among them."
)

_SPACES = re.compile(r"\s+")
_UNSAFE_CATEGORIES = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
_UNIT_SCALE = {"GB": 1e9, "MB": 1e6, "kB": 1e3, "%": 0.01, "ms": 1e-3, "µs": 1e-6}


def clean(text: str, limit: int = 400) -> str:
    """`text` on one line, cut in its middle to `limit` characters; control, direction-override, invisible and
    unassigned characters show as U+FFFD.
    """
    text = text[: 20 * limit] + text[-limit:] if len(text) > 21 * limit else text
    one_line = _SPACES.sub(" ", text).strip()
    shown = visible(one_line)
    if len(shown) <= limit:
        return shown
    head = (limit - 1) * 2 // 3
    return f"{shown[:head]}…{shown[head + len(shown) - limit + 1 :]}"


def visible(text: str) -> str:
    """`text` with every character that steers instead of showing replaced by U+FFFD, line ends included."""
    return "".join("\ufffd" if unicodedata.category(c) in _UNSAFE_CATEGORIES else c for c in text)


def number_text(value: float, unit: str, against: float | None = None) -> str:
    """The value in its unit, with as many digits as it takes not to read like the different number `against`."""
    unit = clean(unit, 24)
    text = format_number(value, unit)
    if against is None or value == against or text.removeprefix("-") != format_number(against, unit):
        return text
    suffix = text.rpartition(" ")[2]
    scale = 3600.0 if (suffix, unit) == ("h", "s") else _UNIT_SCALE.get(suffix, 1.0)
    if suffix == text or " " in text.rpartition(" ")[0]:
        return text
    for digits in range(3, 17):
        finer = f"{value / scale:#.{digits}g}".rstrip(".")
        if float(finer) != float(f"{against / scale:.{digits}g}"):
            return f"{finer} {suffix}"
    return text


def range_text(low: float, high: float, unit: str, against: float | None = None) -> str:
    """`41.0–55.2 tok/s`; the unit is said once where both ends share it, and the ends never read alike unless they
    are.
    """
    first, last = number_text(low, unit, against), number_text(high, unit, against)
    if first == last and low != high:
        first, last = number_text(low, unit, high), number_text(high, unit, low)
    number, _, suffix = first.rpartition(" ")
    shared = number and " " not in number and suffix == last.rpartition(" ")[2] and " " not in last.rpartition(" ")[0]
    return f"{number if shared else first}{' to ' if low < 0 else '–'}{last}"  # a dash before a minus reads as neither


def limit_of(check: Check) -> float | None:
    """The number a check is judged against."""
    return check.min if check.min is not None else check.max


def limit_text(check: Check) -> str:
    """`≥ 50.0 tok/s` or `≤ 1.20 GB`."""
    limit = limit_of(check)
    if limit is None:
        return "no limit"
    return f"{'≥' if check.min is not None else '≤'} {number_text(limit, check.unit)}"


def value_text(figure: Figure, unit: str, against: float | None = None) -> str:
    """The central value alone, or `unknown`; never a zero for something not known."""
    return number_text(figure.value, unit, against) if isinstance(figure, Estimate) else "unknown"


def span_text(figure: Estimate, unit: str, against: float | None = None) -> str:
    """The range without the unit that the value beside it already says: `41.0–55.2`."""
    if figure.low == figure.high:  # a counted figure has no width; for any other its absence must be said
        return "exact" if figure.basis == "predicted" else "no spread" if "measured" in figure.basis else "no range"
    span = range_text(figure.low, figure.high, unit, against)
    number, _, suffix = span.rpartition(" ")
    same = suffix == value_text(figure, unit, against).rpartition(" ")[2] and " " not in number
    return number if same else span


def figure_text(figure: Figure, unit: str, against: float | None = None) -> str:
    """`48.3 tok/s (41.0–55.2), projected`: the value, its 90 % range and its basis."""
    if not isinstance(figure, Estimate):
        return "unknown"
    return f"{value_text(figure, unit, against)} ({span_text(figure, unit, against)}), {figure.basis}"


def margin_text(check: Check) -> str:
    """`clears by 12 %`, `misses by 38 %`; for a range across the limit the side its value leans to; empty where no
    margin can be said.
    """
    if check.margin is None:
        return ""
    percent = abs(check.margin) * 100
    shown = "under 0.1 %" if 0 < percent < 0.1 else f"{percent:.{1 if percent < 9.95 else 0}f} %"
    if check.status == "unknown":
        side, sign = ("pass", "+") if check.margin > 0 else ("fail", "−")
        return f"leans to {side}, {sign}{shown}" if check.margin else "on the limit"
    if check.margin == 0:
        return "exactly on the limit"
    return f"{'clears' if check.margin > 0 else 'misses'} by {shown}"


def point_text(check: Check) -> str:
    """What exactly is judged: the operating point and how binding the gate is."""
    return clean(f"{check.operating_point}, {check.level}" if check.operating_point else check.level)


def advice(check: Check) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """What would pass and what would settle the check: (`to pass` or `to settle`, its clauses); nothing empty."""
    remedy, _, settle = f"; {check.remedy}".partition("; to settle: ")
    unsaid = check.figure.settle if isinstance(check.figure, Unknown) else ""
    if unsaid and unsaid not in check.remedy:
        settle = f"{settle}; {unsaid}" if settle else unsaid
    parts = (("to pass", _clauses(remedy)), ("to settle", _clauses(settle)))
    return tuple((label, clauses) for label, clauses in parts if clauses)


def _clauses(text: str) -> tuple[str, ...]:
    return tuple(clause for part in clean(text, 2000).split("; ") if (clause := part.strip("; ")))


def waiver_text(check: Check) -> str:
    """`holds until 2026-12-31: reason`, or empty. Whether it still holds is part of the check's reason."""
    return "" if check.waiver is None else clean(f"holds until {check.waiver.until}: {check.waiver.reason}")


def sentence(text: str) -> str:
    """With a capital letter, as headings and paragraphs of a page begin; names such as `q8_0` keep theirs."""
    first = text.split(" ")[0].rstrip(",:;").replace("-", "").replace("'", "")
    return text[:1].upper() + text[1:] if first.isalpha() else text


def moment_text(iso: str) -> str:
    """`22 November 2026, 01:05 UTC` for an ISO time; anything else as it stands."""
    try:
        moment = datetime.fromisoformat(iso)
    except ValueError:
        return clean(iso, 40)
    zone = moment.tzname() or ""
    return f"{moment.day} {moment:%B %Y, %H:%M} {zone}".rstrip()


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One line of circumstances."""

    label: str
    value: str


STAND_IN_NOTE = (
    "Stand-in weights: random numbers in the exact shape of a reference student. "
    "Memory and speed are those of the real model; its quality is unknown."
)
