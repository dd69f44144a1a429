"""How far is the memory predicted for an ONNX model from what a worker really takes on this host?

    python benchmarks/onnx_memory.py FOLDER… [--threads N] [--out FILE]

Every cell is a fresh worker process: load, fill the context to its end, decode, read the peaks, as `benchmarks/memory`
does for GGUF. x86-64 Linux only: nothing is predicted elsewhere. Wanted: every peak within its predicted range and the
p95 of the error ≤ 5 % over models of 100 MB and more. Writes `results/onnx_memory.json`.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from peer import write_result

from edgekit import __version__
from edgekit.bench.host import isa_that_ran, probe_host
from edgekit.header import read_header
from edgekit.memory import predict_memory
from edgekit.records import Header, Settings
from edgekit.runtimes import Step, open_worker

RESULTS = Path(__file__).parent / "results" / "onnx_memory.json"
WANTED = 0.05
COUNTED_BYTES = 100e6
"""A difference of allocators and thread stacks is a large part of a small model."""
CELLS = ((1024, 32), (2048, 128), (2048, 512), (4096, 512))
"""(context, ubatch)"""
FIGURES = ("unevictable", "working_set")


def measure_cell(folder: Path, header: Header, settings: Settings) -> dict[str, Any]:
    """Predicted and measured bytes of one configuration, and whether the range holds what was measured."""
    part, context = min(settings.ubatch_tokens, settings.context_tokens), settings.context_tokens
    with open_worker(folder, settings, timeout_s=900, seed=1) as worker:
        for step in (
            Step(test="fill", prompt=part, depth=context - part, repetitions=2),
            Step(test="decode", generate=8, depth=context - 8),
        ):
            list(worker.run(step))
        isa = isa_that_ran(probe_host(), worker.runtime)
        peak = worker.finish()
    memory = predict_memory(header, settings, isa)
    row: dict[str, Any] = {"model": folder.name, "quant": header.quant, "settings": asdict(settings)}
    for name in FIGURES:
        measured = getattr(peak, f"{name}_bytes") if peak else None
        if measured is None:
            raise SystemExit("this system does not tell a process's memory")
        figure = getattr(memory, name)
        row[name] = {
            "measured": measured,
            "predicted": figure.value,
            "error": figure.value / measured - 1,
            "held": figure.low <= measured <= figure.high,
        }
    return row


def summary(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Per figure: how many cells, how many of their ranges hold, and the p95 of the error over models that count."""
    found = {}
    for name in FIGURES:
        large = sorted(abs(row[name]["error"]) for row in rows if row[name]["measured"] >= COUNTED_BYTES)
        held = sum(row[name]["held"] for row in rows)
        p95 = large[min(len(large) - 1, int(0.95 * len(large)))] if large else 0.0
        found[name] = {"cells": len(rows), "held": held, "counted": len(large), "p95": p95}
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    rows = []
    for folder in arguments.folders:
        header = read_header(folder)
        for context, ubatch in CELLS:
            if context > header.context_train:
                continue
            settings = Settings(context_tokens=context, ubatch_tokens=ubatch, threads=arguments.threads)
            row = measure_cell(folder, header, settings)
            rows.append(row)
            shown = "  ".join(
                f"{name} {row[name]['measured'] / 1e6:6.0f} MB {row[name]['error']:+6.2%}"
                f"{'' if row[name]['held'] else ' OUT OF RANGE'}"
                for name in FIGURES
            )
            print(f"{folder.name:32.32} {header.quant:5} c{context} u{ubatch:<4} {shown}", flush=True)
    found = summary(rows)
    host = asdict(probe_host())
    write_result(
        arguments.out,
        {"benchmark": "onnx memory", "edgekit": __version__, "host": host, "summary": found, "cells": rows},
    )
    return 0 if all(one["held"] == one["cells"] and one["p95"] <= WANTED for one in found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
