"""Fit the projection's data file from the published runs.

    python benchmarks/fit_projection.py [--out edgekit/data/projection.json]

One linear mixed model per quantity (decode, prefill). The logarithm of a run's rate is a sum of coefficients × features
(`edgekit.projection.calibration`), where every coefficient is the sum of a common part, one of the kernel family, one
of the device and a part of the group (runtime and threads); models and cells (model × quantization) add their own. All
parts are Gaussian; their variances maximise the marginal likelihood (type-II, with a weak log-normal prior of one
e-fold on every standard deviation so that thin data cannot drive one to 0). What the package gets is the posterior of
a *new* device's coefficients in each family. No constant belongs to a single device.

The residual scale (how much wider than the model's own standard deviation the 90 % range must be) comes from leaving
out one device at a time and refitting everything without it.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import calibration_rows
import numpy as np
from calibration_rows import DATA, Row, read_rows
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import minimize
from scipy.stats import t as student_t

from edgekit.devices.anchors import is_llama_cpp
from edgekit.projection import calibration

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "edgekit" / "data" / "projection.json"
FAMILIES = ("phone", "sbc", "apple", "x86")
Array = NDArray[np.float64]

START = {
    "common_constant": 1.0, "common_size": 0.3, "common_kinds": 0.5,
    "family_constant": 0.2, "family_kinds": 0.15,
    "device_constant": 0.4, "device_size": 0.1, "device_kinds": 0.1,
    "group_constant": 0.15, "group_kinds": 0.05,
    "slow_threads": 0.7, "no_reference": 1.0,
    "model": 0.06, "model_device": 0.05, "cell": 0.03, "chance": 0.05,
}  # fmt: skip
"""Standard deviations to start from, which are also the centres of the weak prior."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """The rows of one quantity as arrays; group-like fields are integer codes."""

    features: Array
    log_rate: Array
    family: NDArray[np.intp]
    device: NDArray[np.intp]
    group: NDArray[np.intp]
    model: NDArray[np.intp]
    label: NDArray[np.intp]
    slow: Array
    no_reference: Array


REFERENCE_GBS = 40.0
"""Stands in for a theoretical bandwidth that nobody states; such devices carry a variance of their own."""

MIN_PROMPT = 64
"""Shorter prompts time the start of a batch, not prefill."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """What is fitted. `depth_factor` takes the cache off decode times; prefill ignores it."""

    name: str
    depth_factor: float = 1.0

    def usable(self, row: Row) -> bool:
        """Whether the row has this figure."""
        return row.decode > 0 if self.name == "decode" else row.prefill > 0 and not 0 < row.prompt < MIN_PROMPT

    def features(self, row: Row) -> tuple[float, ...]:
        """The row's features."""
        if self.name == "decode":
            return calibration.features_of(row.shares, row.streamed_gb)
        return calibration.features_of(row.body_shares, row.shape.body / 1e9)

    def size(self, row: Row) -> float:
        """Bytes that a decoded token streams, or weights that a prompt token meets."""
        return row.streamed_gb * 1e9 if self.name == "decode" else row.shape.body

    def has_reference(self, row: Row) -> bool:
        """Whether the device's own reference rate is known."""
        return self.name == "decode" and row.bandwidth_gbs > 0

    def log_rate(self, row: Row) -> float:
        """Decode: ln of (GB streamed per second at depth 0 ÷ theoretical GB/s). Prefill: ln of the G multiply-adds/s
        over `PREFILL_REFERENCE`.
        """
        if self.name == "prefill":
            return math.log(row.prefill * row.shape.body / 1e9 / calibration.PREFILL_REFERENCE)
        cached = self.depth_factor * row.kv_bytes_per_token * row.depth / (row.streamed_gb * 1e9)
        return math.log(row.streamed_gb * row.decode * (1 + cached) / (row.bandwidth_gbs or REFERENCE_GBS))


def table_of(rows: Sequence[Row], quantity: Quantity) -> Table:
    """The rows as arrays."""
    return Table(
        features=np.array([quantity.features(row) for row in rows]),
        log_rate=np.array([quantity.log_rate(row) for row in rows]),
        family=_codes(row.family for row in rows),
        device=_codes(row.device for row in rows),
        group=_codes(row.group for row in rows),
        model=_codes(calibration.model_key(row.model) for row in rows),
        label=_codes(row.label for row in rows),
        slow=np.array([0.0 if row.best_group else 1.0 for row in rows]),
        no_reference=np.array([0.0 if quantity.has_reference(row) else 1.0 for row in rows]),
    )


def _codes(values: Iterable[object]) -> NDArray[np.intp]:
    return np.unique([str(value) for value in values], return_inverse=True)[1]


def components(table: Table) -> dict[str, Array]:
    """Each variance component's matrix: the covariance of the rows is Σ sd² · matrix."""
    ones = np.ones((len(table.log_rate), len(table.log_rate)))
    size = np.outer(table.features[:, 1], table.features[:, 1])
    kinds = table.features[:, 2:] @ table.features[:, 2:].T
    family, device, group, model = (_same(c) for c in (table.family, table.device, table.group, table.model))
    return {
        "common_constant": ones,
        "common_size": size,
        "common_kinds": kinds,
        "family_constant": family,
        "family_kinds": family * kinds,
        "device_constant": device,
        "device_size": device * size,
        "device_kinds": device * kinds,
        "group_constant": group,
        "group_kinds": group * kinds,
        "slow_threads": group * np.outer(table.slow, table.slow),
        "no_reference": device * np.outer(table.no_reference, table.no_reference),
        "model": model,
        "model_device": model * device,
        "cell": model * device * _same(table.label),
        "chance": np.eye(len(table.log_rate)),
    }


def _same(codes: NDArray[np.intp]) -> Array:
    return (codes[:, None] == codes[None, :]).astype(float)


def fit_variances(table: Table, start: dict[str, float] = START, *, iterations: int = 60) -> dict[str, float]:
    """The standard deviations that maximise the penalised marginal likelihood."""
    if not iterations:
        return dict(start)
    parts = components(table)
    names = list(START)
    stacked = np.array([parts[name] for name in names])
    centre = np.log([START[name] for name in names])

    def loss(log_sd: Array) -> tuple[float, Array]:
        squares = np.exp(2 * log_sd)
        covariance = np.tensordot(squares, stacked, 1)
        factor = cho_factor(covariance, lower=True)
        inverse = cho_solve(factor, np.eye(len(covariance)))
        alpha = inverse @ table.log_rate
        value = 0.5 * table.log_rate @ alpha + np.log(np.diag(factor[0])).sum() + 0.5 * np.sum((log_sd - centre) ** 2)
        inner = np.tensordot(stacked, inverse - np.outer(alpha, alpha), 2)
        return float(value), squares * inner + (log_sd - centre)

    begin = np.log([start[name] for name in names])
    found = minimize(loss, begin, jac=True, method="L-BFGS-B", options={"maxiter": iterations, "ftol": 1e-7})
    return dict(zip(names, np.exp(found.x).tolist(), strict=True))


def posterior(table: Table, rows: Sequence[Row], sd: dict[str, float]) -> dict[str, dict[str, Any]]:
    """Mean and covariance of a new device's coefficients in each family, and in a family never seen (`other`)."""
    parts = components(table)
    total = np.add.reduce([sd[name] ** 2 * part for name, part in parts.items()])
    factor = cho_factor(total, lower=True)
    common = np.r_[sd["common_constant"], sd["common_size"], np.full(len(calibration.KINDS), sd["common_kinds"])] ** 2
    family = np.r_[sd["family_constant"], 0.0, np.full(len(calibration.KINDS), sd["family_kinds"])] ** 2
    device = np.r_[sd["device_constant"], sd["device_size"], np.full(len(calibration.KINDS), sd["device_kinds"])] ** 2
    families = np.array([row.family for row in rows])
    out = {}
    for name in (*FAMILIES, "other"):
        cross = table.features * common + (families == name)[:, None] * table.features * family
        weights = cho_solve(factor, cross)
        covariance = np.diag(common + family + device) - cross.T @ weights
        out[name] = {"mean": weights.T @ table.log_rate, "covariance": (covariance + covariance.T) / 2}
    return out


def fit_quantity(
    rows: Sequence[Row], quantity: Quantity, start: dict[str, float] = START, iterations: int = 60
) -> dict[str, Any]:
    """A quantity's part of the data file, and the standard deviations it rests on. Rows without the figure are left
    out.
    """
    rows = [row for row in rows if quantity.usable(row)]
    table = table_of(rows, quantity)
    sd = fit_variances(table, start, iterations=iterations)
    return {
        "families": {
            name: {key: _rounded(value) for key, value in fields.items()}
            for name, fields in posterior(table, rows, sd).items()
        },
        "variances": {
            "group_constant": sd["group_constant"] ** 2,
            "group_kinds": sd["group_kinds"] ** 2,
            "model": sd["model"] ** 2 + sd["model_device"] ** 2,
            "cell": sd["cell"] ** 2,
            "chance": sd["chance"] ** 2,
            "no_reference": sd["no_reference"] ** 2,
        },
        "standard_deviations": sd,
    }


def _rounded(values: Any) -> Any:
    return np.round(values, 5).tolist()


def prior_for(fitted: dict[str, Any], family: str, *, reference: bool) -> calibration.Prior:
    """The prior of a held-out device."""
    prior = calibration.prior_of(fitted, family)
    return prior if reference else calibration.widen_constant(prior, fitted["variances"]["no_reference"])


# ---- depth ----------------------------------------------------------------------------------------------------------


def fit_depth(raw: Sequence[dict[str, str]], *, without: str = "") -> dict[str, Any]:
    """How many times its cached bytes a token pays for: t(depth) = t(0) · (1 + factor · KV bytes ÷ weight bytes).

    A least-squares line of seconds per token over depth for every (device, runtime, threads, model, quantization) with
    at least three depths; one median per device. `factor` with its 90 % range (the t-interval of one more device, in
    logarithms) is over every runtime, as no phone has such runs of llama.cpp; `anchor_factor`, which takes the depth
    off anchors, is over llama.cpp's own.
    """
    runs: dict[tuple[str, ...], list[tuple[float, float, float]]] = defaultdict(list)
    for line in raw:
        layout = calibration_rows.architecture(line["architecture"])
        if line["backend_class"] == "CPU" and layout and line["decode_tps"] and line["bytes_per_token_gb"]:
            ratio = 4.0 * layout["layers"] * layout["kv_heads"] * layout["head_dim"] / float(line["bytes_per_token_gb"])
            key = (
                calibration_rows.device_key(line),
                *(line[name] for name in ("runtime", "threads", "model", "quant")),
            )
            runs[key].append((calibration_rows.depth_of(line), 1 / float(line["decode_tps"]), ratio / 1e9))
    factors: dict[str, list[float]] = defaultdict(list)
    own = set()
    for key, points in runs.items():
        found = _depth_factor(points) if key[0] != without else None
        if found:
            factors[key[0]].append(found)
            own |= {key[0]} if is_llama_cpp(key[1]) else set()
    by_device = {device: float(np.median(values)) for device, values in sorted(factors.items())}
    logs = np.log(list(by_device.values()))
    reach = float(student_t.ppf(0.95, len(logs) - 1) * logs.std(ddof=1) * math.sqrt(1 + 1 / len(logs)))
    factor = float(np.exp(logs.mean()))
    return {
        "factor": round(factor, 3),
        "low": round(max(factor * math.exp(-reach), 1.0), 3),
        "high": round(factor * math.exp(reach), 3),
        "anchor_factor": round(float(np.exp(np.mean([math.log(by_device[d]) for d in by_device if d in own]))), 3),
        "devices": len(by_device),
        "by_device": {device: round(value, 3) for device, value in by_device.items()},
    }


def _depth_factor(points: Sequence[tuple[float, float, float]]) -> float | None:
    depths, seconds, ratios = (np.array(column) for column in zip(*points, strict=True))
    if len(set(depths.tolist())) < 3 or np.ptp(depths) < 512:
        return None
    slope, start = np.polyfit(depths, seconds, 1)
    return float(slope / start / ratios[0]) if slope > 0 and start > 0 else None


# ---- leaving out one device -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One held-out projection: `error` = ln(projected ÷ measured), `deviation` the model's own standard deviation."""

    anchor: Row | None
    target: Row
    error: float
    deviation: float


def points_of(rows: Sequence[Row], quantity: Quantity) -> list[calibration.Point]:
    """The rows in the terms of the package's model."""
    return [
        calibration.Point(
            features=quantity.features(row),
            model=calibration.model_key(row.model),
            label=row.label,
            group=str(row.group),
            log_rate=quantity.log_rate(row),
        )
        for row in rows
    ]


def protocol_groups(rows: Sequence[Row]) -> list[list[Row]]:
    """Every (device, runtime, threads) group with at least three rows."""
    groups: dict[tuple[str, str, str], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.group].append(row)
    return [group for group in groups.values() if len(group) >= 3]


def anchored_pairs(fitted: dict[str, Any], rows: Sequence[Row], quantity: Quantity) -> list[Pair]:
    """Each row of each group once as the anchor for the group's other rows, under a fit made without this device."""
    pairs = []
    for group in protocol_groups([row for row in rows if quantity.usable(row)]):
        prior = prior_for(fitted, group[0].family, reference=quantity.has_reference(group[0]))
        points = points_of(group, quantity)
        for i, anchor in enumerate(points):
            for j, target in enumerate(points):
                if i != j:
                    mean, deviation = calibration.predict(prior, [anchor], target)
                    pairs.append(
                        Pair(anchor=group[i], target=group[j], error=mean - target.log_rate, deviation=deviation)
                    )
    return pairs


def bare_pairs(fitted: dict[str, Any], rows: Sequence[Row], quantity: Quantity) -> list[Pair]:
    """Every row of the device's best groups from its reference rate alone."""
    usable = [row for row in rows if row.best_group and quantity.usable(row) and quantity.has_reference(row)]
    pairs = []
    for row, point in zip(usable, points_of(usable, quantity), strict=True):
        mean, deviation = calibration.predict(prior_for(fitted, row.family, reference=True), [], point)
        pairs.append(Pair(anchor=None, target=row, error=mean - point.log_rate, deviation=deviation))
    return pairs


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """A device's held-out pairs with one anchor and without any, and the standard deviations fitted without it."""

    anchored: list[Pair]
    bare: list[Pair]
    standard_deviations: dict[str, float]


def without_device(
    rows: Sequence[Row], quantity: Quantity, device: str, start: dict[str, float], *, iterations: int = 25
) -> HeldOut | None:
    """The device judged by a fit that has not seen it; None where it has no pairs. `iterations=0` keeps the given
    variances and refits coefficients alone.
    """
    mine = [row for row in rows if row.device == device and quantity.usable(row)]
    if not protocol_groups(mine) and not any(row.best_group and quantity.has_reference(row) for row in mine):
        return None
    fitted = fit_quantity([row for row in rows if row.device != device], quantity, start, iterations)
    return HeldOut(
        anchored=anchored_pairs(fitted, mine, quantity),
        bare=bare_pairs(fitted, mine, quantity),
        standard_deviations=fitted["standard_deviations"],
    )


def leave_one_device_out(
    rows: Sequence[Row], quantity: Quantity, start: dict[str, float], *, iterations: int = 25
) -> tuple[list[Pair], list[Pair]]:
    """The held-out pairs of every device."""
    anchored, bare = [], []
    for device in sorted({row.device for row in rows}):
        held = without_device(rows, quantity, device, start, iterations=iterations)
        if held:
            anchored += held.anchored
            bare += held.bare
    return anchored, bare


def scale_for(pairs: Sequence[Pair], coverage: float = 0.9) -> float:
    """The multiple of the model's standard deviation that covers `coverage` of the held-out pairs, every device
    counting the same.
    """
    counts: dict[str, int] = defaultdict(int)
    for pair in pairs:
        counts[pair.target.device] += 1
    ranked = sorted((abs(pair.error) / pair.deviation, 1 / counts[pair.target.device]) for pair in pairs)
    total, reached = len(counts), 0.0
    for multiple, weight in ranked:
        reached += weight
        if reached >= coverage * total:
            return multiple
    return ranked[-1][0]


# ---- the file -------------------------------------------------------------------------------------------------------


def fit_all() -> dict[str, Any]:
    """The data file's content."""
    with DATA.open(encoding="utf-8", newline="") as stream:
        raw = list(csv.DictReader(stream))
    rows = read_rows()
    depth = fit_depth(raw)
    return {
        "kind": "projection-fit",
        "version": 1,
        "made_by": "benchmarks/fit_projection.py",
        "data": "benchmarks/data/published_calibration.csv",
        "data_sha256": hashlib.sha256(DATA.read_bytes()).hexdigest(),
        "rows": len(rows),
        "devices": len({row.device for row in rows}),
        "decode": _with_ranges(rows, Quantity(name="decode", depth_factor=depth["anchor_factor"])),
        "prefill": _with_ranges(rows, Quantity(name="prefill")),
        "depth": depth,
        "models": known_models(raw),
    }


def _with_ranges(rows: Sequence[Row], quantity: Quantity) -> dict[str, Any]:
    rows = [row for row in rows if quantity.usable(row)]
    fitted = fit_quantity(rows, quantity)
    anchored, bare = leave_one_device_out(rows, quantity, fitted["standard_deviations"])
    fitted["scale"] = {"anchored": round(scale_for(anchored), 3)}
    if bare:
        fitted["scale"]["bare"] = round(scale_for(bare), 3)
    if quantity.name == "decode":
        fitted["reference_gbs"] = REFERENCE_GBS
    fitted["smallest"] = round(min(quantity.size(row) for row in rows))
    fitted["devices_held_out"] = len({pair.target.device for pair in anchored})
    fitted["devices_by_kind"] = devices_by_kind(rows, quantity)
    fitted["devices_by_family"] = devices_by_family(rows, quantity)
    for name in ("standard_deviations", "variances"):
        fitted[name] = {key: float(f"{value:.5g}") for key, value in fitted[name].items()}
    return fitted


def devices_by_kind(rows: Sequence[Row], quantity: Quantity) -> dict[str, int]:
    """How many devices have a run with at least a tenth of its bytes or weights in each kind."""
    seen: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        for kind, share in zip(calibration.KINDS, quantity.features(row)[2:], strict=True):
            if share >= 0.1:
                seen[kind].add(row.device)
    return {kind: len(seen[kind]) for kind in calibration.KINDS}


def devices_by_family(rows: Sequence[Row], quantity: Quantity) -> dict[str, dict[str, int]]:
    """The same for the devices of each kernel family."""
    return {name: devices_by_kind([row for row in rows if row.family == name], quantity) for name in FAMILIES}


def known_models(raw: Sequence[dict[str, str]]) -> dict[str, dict[str, Any]]:
    """The layouts the data states, by model name, so that an anchor that names one of them is unfolded exactly."""
    found = {}
    for line in raw:
        layout = calibration_rows.architecture(line["architecture"])
        if layout and line["params_b"]:
            found[line["model"].lower()] = {"parameters": float(line["params_b"]) * 1e9, **layout}
    return dict(sorted(found.items()))


def compact_json(record: dict[str, Any]) -> str:
    """JSON with a line for every row of numbers instead of one for every number."""
    text = json.dumps(record, indent=1, ensure_ascii=False)
    return re.sub(r"\[[^\[\]{}]*\]", lambda found: re.sub(r"\s+", " ", found[0]), text) + "\n"


def main() -> None:
    """Write the data file."""
    arguments = argparse.ArgumentParser(description="Fit the projection's data file from the published runs.")
    arguments.add_argument("--out", type=Path, default=OUT)
    out = arguments.parse_args().out
    out.write_text(compact_json(fit_all()), encoding="utf-8")
    print(f"written: {out}")


if __name__ == "__main__":
    main()
