"""Fit J per GB streamed from published runs into `edgekit/data/energy.json`.

    python benchmarks/fit_energy.py [benchmarks/data/published_calibration.csv]

Each published power figure has a *scope* (what the meter saw). Scopes are never pooled, nor are classes of device: a
group is one scope × class × backend, and inside it each device counts once, however many rows it has.
"""

from __future__ import annotations

import csv
import hashlib
import json
import statistics
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DEFAULT = ROOT / "benchmarks" / "data" / "published_calibration.csv"
OUT = ROOT / "edgekit" / "data" / "energy.json"

SCOPES = {
    "llm-profiler": ("device", "unplugged whole-phone battery fuel-gauge energy"),
    "geerling": ("wall", "wall power (peak or avg)"),
    "fastflowlm": ("rail", "power = HWiNFO CPU/NPU/iGPU rails only"),
    "localscore": ("package", "power_watts averaged over whole test"),
    "gentex": ("package", "powermetrics net power"),
    "llama-roofline-matrix": ("rail", ""),  # Pi 5 PMIC rails: devices.csv says so, the row's note does not
    "llamacpp-26484": ("board", "board power from Pi5 PMIC"),
}
"""What each source's meter saw, with the words of its rows that say so (checked below)."""

UNFIT = ("no vector", "no AVX", "partial offload", "no bandwidth")
"""Rows whose energy per byte is not that of streaming weights: compute-bound, or bytes not known."""


def fit(path: Path) -> dict[str, Any]:
    groups: dict[tuple[str, str, str], dict[str, list[dict[str, str]]]] = defaultdict(lambda: defaultdict(list))
    dropped = 0
    for row in csv.DictReader(path.read_text(encoding="utf-8").splitlines(keepends=True)):
        if not row["j_per_gb_streamed"]:
            continue
        if row["source_group"] not in SCOPES or any(word in row["note"] + row["stats_exclusion"] for word in UNFIT):
            dropped += 1
            continue
        scope, words = SCOPES[row["source_group"]]
        assert words in row["note"], f"{row['id']}: the note does not say {words!r}"
        groups[scope, row["class"], row["backend_class"].lower()][row["device"]].append(row)
    return {
        "kind": "energy_fit",
        "version": 1,
        "made_by": "benchmarks/fit_energy.py",
        "source": path.name,
        "source_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "rows_dropped": dropped,
        "groups": [
            {
                "scope": scope,
                "device_class": device_class,
                "backend": backend,
                "devices": [_device(name, rows) for name, rows in sorted(devices.items())],
            }
            for (scope, device_class, backend), devices in sorted(groups.items())
        ],
    }


def _device(name: str, rows: list[dict[str, str]]) -> dict[str, Any]:
    joules = sorted(float(row["j_per_gb_streamed"]) for row in rows)
    powers = [float(row["decode_tps"]) * float(row["energy_j_per_token"] or 0) for row in rows]
    if not all(powers):
        powers = [float(row["power_w"]) for row in rows]
    return {
        "device": name,
        "rows": len(rows),
        "j_per_gb": {
            "low": round(_quantile(joules, 0.05), 4),
            "median": round(statistics.median(joules), 4),
            "high": round(_quantile(joules, 0.95), 4),
        },
        "power_w": round(statistics.median(powers), 3),
        "gb_per_s": round(statistics.median(float(row["eff_bw_gbs"]) for row in rows), 3),
        "sources": sorted({row["source"].split(" (data of")[0] for row in rows})[:3],
    }


def _quantile(ordered: list[float], fraction: float) -> float:
    """Linear interpolation between order statistics (Hyndman–Fan type 7)."""
    at = fraction * (len(ordered) - 1)
    below = int(at)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (at - below)


def main() -> None:
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT
    fitted = fit(path)
    OUT.write_text(json.dumps(fitted, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{'scope':8} {'class':11} {'backend':8} {'device':40} {'rows':>4} {'J/GB':>18} {'W':>6} {'GB/s':>6}")
    for group in fitted["groups"]:
        for device in group["devices"]:
            joules = device["j_per_gb"]
            span = f"{joules['low']:.3f} {joules['median']:.3f} {joules['high']:.3f}"
            print(
                f"{group['scope']:8} {group['device_class']:11} {group['backend']:8} {device['device'][:40]:40} "
                f"{device['rows']:4} {span:>18} {device['power_w']:6.1f} {device['gb_per_s']:6.1f}"
            )


if __name__ == "__main__":
    main()
