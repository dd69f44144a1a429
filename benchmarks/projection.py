"""How far projections are off on devices that the fit has not seen.

    python benchmarks/projection.py

Protocol: every (device, runtime, threads) group with at least three CPU runs of llama.cpp or a fork of it; each run
once as the only anchor, projecting the group's other runs; variances, coefficients, depth factor and range fitted
without that silicon (all its names); devices weighted equally. The range of a held-out device is scaled by residuals
of the other devices, each of them held out in turn from the rest (nested). *Coverage* is the mean over devices of the
share of a device's projections whose 90 % range holds the measured speed: the chance that a projection on a random
device is covered.

What else was tried is in LOG.md; the choice among these variants has seen the same devices.

The peer is the plain factor fit: one factor per quantization label from least squares with a constant per group.
Results: benchmarks/results/projection.json and .md.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import platform
import random
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import calibration_rows
import fit_projection as fit
import numpy as np
from calibration_rows import DATA, Row
from fit_projection import Pair, Quantity

from edgekit.projection import calibration

RESULTS = Path(__file__).resolve().parent / "results"
LOW_BITS = ("q2", "q3", "iq1", "iq2", "iq3")
FULL_BITS = ("f16", "bf16", "f32")
MULTIPLE = (2, 3, 5)
SEED = 1

Ranged = tuple[Pair, float]
"""A held-out pair and the multiple of its deviation that makes the 90 % range."""


def mid_bits(row: Row) -> bool:
    """Whether the label is a 4- to 8-bit one."""
    return not row.label.startswith(LOW_BITS) and row.label not in FULL_BITS


def both(test: Callable[[Row], bool]) -> Callable[[Pair], bool]:
    """A filter of pairs: anchor and target pass."""
    return lambda pair: test(pair.target) and (pair.anchor is None or test(pair.anchor))


CUTS: dict[str, Callable[[Pair], bool]] = {
    "4–8-bit": both(mid_bits),
    "4–8-bit, rows fit for use": both(lambda row: mid_bits(row) and row.fit_for_use),
    "4–8-bit, other model or quantization": lambda pair: (
        both(mid_bits)(pair) and pair.anchor is not None and _cell(pair.anchor) != _cell(pair.target)
    ),
    "4–8-bit, phones": both(lambda row: mid_bits(row) and row.family == "phone"),
    "4–8-bit, without forks": both(
        lambda row: mid_bits(row) and not any(fork in row.group[1].lower() for fork in calibration_rows.FORKS)
    ),
    "4–8-bit target, any anchor": lambda pair: mid_bits(pair.target),
    "2–3-bit target, any anchor": lambda pair: pair.target.label.startswith(LOW_BITS),
    "all quantizations": lambda _: True,
    "all quantizations, rows fit for use": both(lambda row: row.fit_for_use),
}


def _cell(row: Row) -> tuple[str, str]:
    return calibration.model_key(row.model), row.label


# ---- held-out projections -------------------------------------------------------------------------------------------


def held_out(rows: Sequence[Row], quantity_without: Callable[[str], Quantity]) -> tuple[list[Ranged], list[Ranged]]:
    """Nested leave-one-device-out: projections with one anchor, and with none."""
    start = fit.fit_quantity(rows, quantity_without(""))["standard_deviations"]
    anchored: list[Ranged] = []
    bare: list[Ranged] = []
    for device in sorted({row.device for row in rows}):
        quantity = quantity_without(device)
        held = fit.without_device(rows, quantity, device, start)
        if not held:
            continue
        others = [row for row in rows if row.device != device]
        inner, inner_bare = fit.leave_one_device_out(others, quantity, held.standard_deviations, iterations=0)
        scale, scale_bare = fit.scale_for(inner), fit.scale_for(inner_bare) if inner_bare else math.nan
        anchored += [(pair, scale) for pair in held.anchored]
        bare += [(pair, scale_bare) for pair in held.bare]
        print(f"{quantity.name} without {device}: {len(held.anchored)} pairs", file=sys.stderr)
    return anchored, bare


def many_anchors(rows: Sequence[Row], quantity: Quantity, scale: float) -> dict[str, list[Ranged]]:
    """Several anchors of one device at once: seeded draws of two, three and five, and every other run of the group."""
    start = fit.fit_quantity(rows, quantity)["standard_deviations"]
    draw = random.Random(SEED)
    found: dict[str, list[Ranged]] = defaultdict(list)
    for device in sorted({row.device for row in rows}):
        groups = [
            g for g in fit.protocol_groups([row for row in rows if row.device == device]) if len(g) > max(MULTIPLE)
        ]
        if not groups:
            continue
        fitted = fit.fit_quantity([row for row in rows if row.device != device], quantity, start, 25)
        for group in groups:
            prior = fit.prior_for(fitted, group[0].family, reference=quantity.has_reference(group[0]))
            points = fit.points_of(group, quantity)
            for i, target in enumerate(points):
                rest = [j for j in range(len(points)) if j != i]
                for count in (*MULTIPLE, len(rest)):
                    chosen = sorted(draw.sample(rest, count))
                    mean, deviation = calibration.predict(prior, [points[j] for j in chosen], target)
                    pair = Pair(anchor=None, target=group[i], error=mean - target.log_rate, deviation=deviation)
                    found["all others" if count == len(rest) else f"{count}"].append((pair, scale))
    return dict(found)


def plain_factors(rows: Sequence[Row]) -> list[Pair]:
    """The peer: ln effective bandwidth = constant of the group + factor of the label, devices weighted equally."""
    pairs = []
    for device in sorted({row.device for row in rows}):
        groups = fit.protocol_groups([row for row in rows if row.device == device])
        factors = _factors([row for row in rows if row.device != device]) if groups else {}
        for group in groups:
            known = [row for row in group if row.label in factors]
            for anchor in known:
                for target in known:
                    if target is not anchor:
                        shift = factors[target.label] - factors[anchor.label]
                        error = math.log(_effective(anchor) / _effective(target)) + shift
                        pairs.append(Pair(anchor=anchor, target=target, error=error, deviation=1.0))
    return pairs


def _effective(row: Row) -> float:
    return row.streamed_gb * row.decode


def _factors(rows: Sequence[Row]) -> dict[str, float]:
    labels, groups = sorted({row.label for row in rows}), sorted({row.group for row in rows})
    counts = Counter(row.device for row in rows)
    design, right = np.zeros((len(rows), len(labels) + len(groups))), np.zeros(len(rows))
    for i, row in enumerate(rows):
        weight = 1 / math.sqrt(counts[row.device])
        design[i, labels.index(row.label)] = design[i, len(labels) + groups.index(row.group)] = weight
        right[i] = weight * math.log(_effective(row))
    ridge = 1e-3 * np.eye(design.shape[1])  # labels and groups share one free constant
    solution = np.linalg.lstsq(np.vstack([design, ridge]), np.r_[right, np.zeros(len(ridge))], rcond=None)[0]
    return dict(zip(labels, solution.tolist(), strict=False))


# ---- summaries ------------------------------------------------------------------------------------------------------


def summarize(ranged: Sequence[Ranged], *, has_range: bool = True) -> dict[str, Any] | None:
    """Errors and coverage with devices weighted equally; None without pairs."""
    by_device: dict[str, list[Ranged]] = defaultdict(list)
    for pair, scale in ranged:
        by_device[pair.target.device].append((pair, scale))
    if not by_device:
        return None
    errors, widths, weights, covered = [], [], [], {}
    for device, items in by_device.items():
        inside = [abs(pair.error) <= scale * pair.deviation for pair, scale in items]
        covered[device] = sum(inside) / len(inside)
        errors += [abs(math.expm1(pair.error)) for pair, _ in items]
        widths += [math.exp(2 * scale * pair.deviation) for pair, scale in items]
        weights += [1 / len(items)] * len(items)
    summary: dict[str, Any] = {
        "devices": len(by_device),
        "projections": len(errors),
        "median_error": _quantile(errors, weights, 0.5),
        "mean_error": float(np.average(errors, weights=weights)),
        "by_device": {
            device: {
                "projections": len(items),
                "median_error": float(np.median([abs(math.expm1(pair.error)) for pair, _ in items])),
                **({"coverage": covered[device]} if has_range else {}),
            }
            for device, items in sorted(by_device.items())
        },
    }
    if has_range:
        summary["coverage"] = float(np.mean(list(covered.values())))
        summary["devices_covered_80"] = sum(share >= 0.8 for share in covered.values())
        summary["high_over_low"] = _quantile(widths, weights, 0.5)
    return summary


def _quantile(values: Sequence[float], weights: Sequence[float], share: float) -> float:
    order = np.argsort(values)
    reached = np.cumsum(np.asarray(weights)[order])
    return float(np.asarray(values)[order][np.searchsorted(reached, share * reached[-1])])


def judge_all(raw: Sequence[dict[str, str]]) -> dict[str, Any]:
    """Every table of the result file."""
    rows = calibration_rows.read_rows()

    def decode_without(device: str) -> Quantity:
        return Quantity(name="decode", depth_factor=fit.fit_depth(raw, without=device)["anchor_factor"])

    anchored, bare = held_out(rows, decode_without)
    prefill_rows = [row for row in rows if Quantity(name="prefill").usable(row)]
    prefill, _ = held_out(prefill_rows, lambda _: Quantity(name="prefill"))
    several = many_anchors(rows, decode_without(""), fit.scale_for([pair for pair, _ in anchored]))
    plain = [(pair, 1.0) for pair in plain_factors(rows)]
    return {
        "rows": len(rows),
        "left_out": Counter(filter(None, map(calibration_rows.why_excluded, raw))),
        "decode": {name: summarize([item for item in anchored if keep(item[0])]) for name, keep in CUTS.items()},
        "decode_plain_factors": {
            name: summarize([item for item in plain if keep(item[0])], has_range=False) for name, keep in CUTS.items()
        },
        "decode_several_anchors": {
            name: summarize([item for item in items if mid_bits(item[0].target)]) for name, items in several.items()
        },
        "decode_without_anchor": {
            "4–8-bit": summarize([item for item in bare if mid_bits(item[0].target)]),
            "all quantizations": summarize(bare),
        },
        "prefill": {name: summarize([item for item in prefill if keep(item[0])]) for name, keep in CUTS.items()},
        "depth": fit.fit_depth(raw),
    }


def main() -> None:
    """Run everything and write both result files."""
    began = time.monotonic()
    with DATA.open(encoding="utf-8", newline="") as stream:
        raw = list(csv.DictReader(stream))
    result = {
        "kind": "projection-benchmark",
        "version": 1,
        "data_sha256": hashlib.sha256(DATA.read_bytes()).hexdigest(),
        "host": f"{platform.machine()}, Python {platform.python_version()}, numpy {np.__version__}",
        **judge_all(raw),
    }
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps(_rounded(result), indent=1, ensure_ascii=False, allow_nan=False)
    (RESULTS / "projection.json").write_text(text + "\n", encoding="utf-8")
    (RESULTS / "projection.md").write_text(markdown(result), encoding="utf-8")
    print(f"{markdown(result)}\n{time.monotonic() - began:.0f} s")


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return round(value, 4) if isinstance(value, float) else value


def markdown(result: dict[str, Any]) -> str:
    """The tables, errors in percent."""
    left_out = ", ".join(f"{count} × {why}" for why, count in result["left_out"].items())
    lines = [
        "# Projections on devices the fit has not seen",
        "",
        (__doc__ or "").split("\n\n", 2)[2].split("Results:")[0].strip().replace("\n", " "),
        "",
        f"Data: `benchmarks/data/published_calibration.csv` (sha256 `{result['data_sha256'][:12]}`).",
        f"{result['rows']} CPU rows; left out: {left_out}.",
    ]
    titles = {
        "decode": "Decode, one anchor",
        "decode_several_anchors": "Decode 4–8-bit, several anchors of the group",
        "decode_without_anchor": "Decode, no anchor: from bandwidth alone",
        "prefill": "Prefill, one anchor",
        "decode_plain_factors": "The peer: plain factors per label",
    }
    for key, title in titles.items():
        lines += [
            "",
            f"## {title}",
            "",
            "| | devices | projections | median error | mean error | coverage | high ÷ low |",
        ]
        lines += ["| --- | --- | --- | --- | --- | --- | --- |"]
        lines += [_line(name, row) for name, row in result[key].items() if row]
    lines += ["", "## Decode 4–8-bit, device by device", "", "| device | projections | median error | coverage |"]
    lines += ["| --- | --- | --- | --- |"]
    for device, row in result["decode"]["4–8-bit"]["by_device"].items():
        lines.append(f"| {device} | {row['projections']} | {row['median_error']:.1%} | {row['coverage']:.0%} |")
    depth = result["depth"]
    seen = ", ".join(f"{device} {factor:.1f}" for device, factor in depth["by_device"].items())
    lines += ["", "## Depth", ""]
    lines.append(f"A token pays {depth['factor']:.1f} × the bytes of its cache, 90 % range {depth['low']:.1f} to")
    lines.append(f"{depth['high']:.1f} for one more device: {seen}.")
    return "\n".join(lines) + "\n"


def _line(name: str, row: dict[str, Any]) -> str:
    figures = (
        f"| {name} | {row['devices']} | {row['projections']} | {row['median_error']:.1%} | {row['mean_error']:.1%} |"
    )
    if "coverage" not in row:
        return f"{figures} – | – |"
    covered = f"{row['coverage']:.1%} ({row['devices_covered_80']} of {row['devices']} devices ≥ 80 %)"
    return f"{figures} {covered} | {row['high_over_low']:.2f} |"


if __name__ == "__main__":
    main()
