"""Gates tables: parsed strictly, and hashed so that a verdict can say what it was judged by.

[gates]
decode_tokens_per_s = { min = 50, source = "spec table" }
sustained_decode_tokens_per_s = { min = 50, level = "advisory" }

[[waivers]]
metric = "decode_tokens_per_s"
until = 2027-03-31
reason = "kernel fix lands in March"
"""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, cast

from edgekit.errors import EdgekitError
from edgekit.gate.metrics import METRICS, check_gate
from edgekit.records import BASES, Basis, Gate, Gates, Level, Waiver
from edgekit.tables import (
    choice_at,
    nearest,
    optional_number,
    parse_toml,
    read_file,
    refuse_unknown,
    table_at,
    tables_at,
    text_at,
)

MAX_GATES_BYTES = 256 * 1024
GATE_KEYS = ("min", "max", "level", "min_basis", "source")
LONGEST_WAIVER = datetime.timedelta(days=2 * 366)
WAIVER_KEYS = ("metric", "until", "reason")


def load_gates(path: Path) -> Gates:
    """The gates of a `--gates` file: a `[gates]` table and any `[[waivers]]`, nothing else.

    Raises EdgekitError that names the offending key, metric or number.
    """
    text = read_file(path, what="gates file", max_bytes=MAX_GATES_BYTES)
    table = parse_toml(text, what="gates file", origin=str(path))
    refuse_unknown(table, ("gates", "waivers"), where=f"gates file `{path.name}`")
    gates = parse_gates(table, origin=str(path))
    if not gates.gates:
        raise EdgekitError(
            f"gates file has no gates: `{path}`", hint="add `[gates]` with `decode_tokens_per_s = { min = 50 }`"
        )
    return gates


def parse_gates(table: Mapping[str, Any], *, origin: str, inherited: Gates | None = None) -> Gates:
    """The gates under `gates` and `waivers` of a parsed TOML `table`; a line replaces the inherited one of its metric.

    Raises EdgekitError on unknown metrics or keys, on a gate without exactly one limit, and on waivers that waive
    nothing or have no date.
    """
    where = f"`{origin}`"
    lines = {gate.metric: gate for gate in inherited.gates} if inherited else {}
    for metric, limits in table_at(table, "gates", where=where).items():
        lines[metric] = _gate(metric, limits, origin=origin)
    waivers = {waiver.metric: waiver for waiver in inherited.waivers} if inherited else {}
    own = [_waiver(row, gated=lines, origin=origin) for row in tables_at(table, "waivers", where=where)]
    for waiver in own:
        if sum(waiver.metric == other.metric for other in own) > 1:
            raise EdgekitError(f"a metric is waived twice in {where}: `{waiver.metric}`")
        waivers[waiver.metric] = waiver
    return make_gates(tuple(lines.values()), tuple(waivers.values()), origin=origin)


def make_gates(gates: tuple[Gate, ...], waivers: tuple[Waiver, ...], *, origin: str) -> Gates:
    """Gates with their hash."""
    return Gates(gates=gates, waivers=waivers, origin=origin, sha256=hash_gates(gates, waivers))


def hash_gates(gates: tuple[Gate, ...], waivers: tuple[Waiver, ...]) -> str:
    """SHA-256 (hex) over what judges, in canonical form: formatting, order and `source` texts do not change it."""
    canonical = {
        "gates": sorted([gate.metric, gate.min, gate.max, gate.level, gate.min_basis] for gate in gates),
        "waivers": sorted([waiver.metric, waiver.until, waiver.reason] for waiver in waivers),
    }
    return hashlib.sha256(json.dumps(canonical, separators=(",", ":"), ensure_ascii=False).encode()).hexdigest()


def _gate(metric: str, limits: object, *, origin: str) -> Gate:
    where = f"gate `{metric[:80]}` of `{origin}`"
    if metric not in METRICS:
        raise EdgekitError(f"unknown metric in the gates of `{origin}`: `{metric[:80]}`", hint=nearest(metric, METRICS))
    if not isinstance(limits, dict):
        raise EdgekitError(f"{where} must be a table, not `{limits!r:.60}`", hint=f"write `{metric} = {{ min = … }}`")
    refuse_unknown(limits, GATE_KEYS, where=where)
    low, high = (optional_number(limits, key, where=where) for key in ("min", "max"))
    if (low is None) == (high is None):
        raise EdgekitError(f"{where} needs exactly one of `min` and `max`")
    basis = choice_at(limits, "min_basis", BASES, where=where, default=BASES[-1]) if "min_basis" in limits else None
    gate = Gate(
        metric=metric,
        min=low,
        max=high,
        level=cast("Level", choice_at(limits, "level", ("required", "advisory"), where=where, default="required")),
        min_basis=cast("Basis | None", basis),
        source=text_at(limits, "source", where=where, default=""),
    )
    check_gate(gate)  # a floor under a figure that should be low would pass what should fail
    return gate


def _waiver(row: Mapping[str, Any], *, gated: Collection[str], origin: str) -> Waiver:
    where = f"a waiver of `{origin}`"
    refuse_unknown(row, WAIVER_KEYS, where=where)
    metric = text_at(row, "metric", where=where)
    if metric not in gated:
        raise EdgekitError(f"{where} names a metric without a gate: `{metric[:80]}`", hint=nearest(metric, gated))
    until = _date(row, where=where)
    if datetime.date.fromisoformat(until) > datetime.datetime.now(datetime.UTC).date() + LONGEST_WAIVER:
        raise EdgekitError(
            f"`until` in {where} is more than two years ahead: `{until}`",
            hint="a waiver is an exception with an end; change the gate if it is to stay",
        )
    return Waiver(metric=metric, until=until, reason=text_at(row, "reason", where=where))


def _date(row: Mapping[str, Any], *, where: str) -> str:
    value = row.get("until")
    if isinstance(value, datetime.date) and not isinstance(value, datetime.datetime):
        return value.isoformat()
    try:
        return datetime.date.fromisoformat(text_at(row, "until", where=where)).isoformat()
    except ValueError:
        raise EdgekitError(f"`until` in {where} must be a date such as 2027-03-31, not `{value!r:.60}`") from None
