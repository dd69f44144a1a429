"""How far is the memory predicted from the header from the memory a worker really takes on this host?

    python benchmarks/memory.py [--only nano-0.6b] [--limit N] [--out FILE]

Every cell is a fresh worker process: load, fill the context to its end, decode, read the peaks. Unevictable is
RssAnon + VmSwap sampled at 100 Hz; the working set adds the mapped pages that three decoded tokens touch (counted by
the kernel, less what is dormant and counted for its page of 2 MB); both without the worker's baseline. Wanted: p95 of
the error ≤ 5 % for both. Writes `results/memory.json`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any

from peer import circumstances, write_result

from edgekit.bench.host import isa_that_ran, probe_host
from edgekit.header import read_header
from edgekit.memory import predict_memory, working_set_by_page
from edgekit.records import Settings
from edgekit.runtimes import Step, open_worker
from edgekit.shapes import cached_stand_in, load_shape, planned_bytes

RESULTS = Path(__file__).parent / "results" / "memory.json"
WANTED = 0.05
FIGURES = ("unevictable", "working_set")

DECODED = 8
SHORT, MIDDLE, LONG = 512, 2048, 4096

# context, ubatch, KV type, mmap, repack; every quant of every shape runs these
CORE = (
    (LONG, 512, "f16", True, True),
    (MIDDLE, 128, "q8_0", True, True),
    (MIDDLE, 256, "f16", False, True),
    (SHORT, 64, "f16", True, False),
    (SHORT, 512, "q8_0", False, False),
)
# and q4_0 of every shape runs these
MORE = (
    (SHORT, 64, "f16", True, True),
    (SHORT, 512, "f16", True, True),
    (MIDDLE, 64, "f16", False, False),
    (MIDDLE, 512, "q8_0", False, True),
    (MIDDLE, 256, "q8_0", True, False),
    (LONG, 256, "f16", True, False),
)
FILES = {
    "nano-0.6b": ("q4_0", "q8_0", "q4_k_m"),
    "nano-1.5b": ("q4_0", "q4_k_m", "q6_k"),
    "mini-3b": ("q4_0", "q4_k_m"),
}
LONGEST = (("nano-0.6b", 16384, 512, "f16"), ("nano-0.6b", 16384, 64, "q8_0"), ("nano-1.5b", 16384, 512, "q8_0"))
NO_FLASH = (("nano-0.6b", SHORT, 512), ("nano-1.5b", MIDDLE, 512), ("nano-0.6b", LONG, 128))


def cells() -> Iterator[tuple[str, str, Settings]]:
    """Shape, quant and settings of every cell."""
    for shape, quants in FILES.items():
        for quant in quants:
            for context, ubatch, kv, mmap, repack in CORE + (MORE if quant == "q4_0" else ()):
                yield shape, quant, settings(context, ubatch, kv_type=kv, mmap=mmap, repack=repack)
    for shape, context, ubatch, kv in LONGEST:
        yield shape, "q4_0", settings(context, ubatch, kv_type=kv)
    for shape, context, ubatch in NO_FLASH:
        yield shape, "q4_0", settings(context, ubatch, flash_attention="off")


def cell_key(shape: str, quant: str, chosen: Settings) -> tuple[str, str, Settings]:
    """A cell, whatever threads it ran on."""
    return shape, quant, replace(chosen, threads=0)


def settings(context: int, ubatch: int, **others: Any) -> Settings:
    return replace(Settings(context_tokens=context, ubatch_tokens=ubatch), **others)


def measure_cell(model: Path, chosen: Settings, timeout_s: float) -> dict[str, Any]:
    """Measured and predicted bytes of one cell, with the signed relative error of each figure."""
    with open_worker(model, chosen, timeout_s=timeout_s, seed=1) as worker:
        fill = chosen.context_tokens - DECODED
        list(worker.run(Step(test=f"tg{DECODED}@d{fill}", generate=DECODED, depth=fill)))
        runtime, buffers = worker.runtime, worker.buffers
        peak = worker.finish()
    assert peak is not None, "this OS tells no peaks"
    predicted = predict_memory(read_header(model), chosen, isa_that_ran(probe_host(), runtime))
    row: dict[str, Any] = {"settings": asdict(chosen), "isa": predicted.isa, "method": peak.working_set_method}
    row["huge_mapped_bytes"] = peak.huge_mapped_bytes
    for name in FIGURES:
        measured = getattr(peak, f"{name}_bytes")
        if name == "working_set":  # the predictor counts by the page
            measured = round(working_set_by_page(predicted, peak))
        estimate = getattr(predicted, name)
        row[name] = {
            "measured": measured,
            "predicted": round(estimate.value),
            "error": estimate.value / measured - 1,
            "inside": estimate.low <= measured <= estimate.high,
        }
    row["predicted"] = {key: value for key, value in asdict(predicted).items() if key.endswith("_bytes")}
    row["buffers"] = [asdict(buffer) for buffer in buffers]
    return row


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Per figure: median, p95 and largest absolute error, bias, and the share of cells inside the stated range."""
    found = {}
    for name in FIGURES:
        errors = sorted(abs(row[name]["error"]) for row in rows)
        found[name] = {
            "cells": len(rows),
            "median": errors[len(errors) // 2],
            "p95": errors[min(int(0.95 * len(errors)), len(errors) - 1)],
            "largest": errors[-1],
            "bias": sum(row[name]["error"] for row in rows) / len(rows),
            "inside_range": sum(row[name]["inside"] for row in rows) / len(rows),
            "wanted_p95": WANTED,
        }
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="run the cells whose file name contains this")
    parser.add_argument("--limit", type=int, help="run the first N cells")
    parser.add_argument("--minutes", type=float, help="cheapest cells first, and begin none after so long")
    parser.add_argument("--add", action="store_true", help="keep the cells that `--out` holds and run others")
    parser.add_argument("--context", type=int, help="run the cells of this context")
    parser.add_argument("--threads", type=int, default=0, help="0: the physical cores")
    parser.add_argument("--timeout", type=float, default=1800, help="seconds per cell")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    rows = json.loads(arguments.out.read_text(encoding="utf-8"))["cells"] if arguments.add else []
    done = {cell_key(row["shape"], row["quant"], Settings(**row["settings"])) for row in rows}
    chosen = [
        cell
        for cell in cells()
        if arguments.only in "-".join(cell[:2])
        and arguments.context in (None, cell[2].context_tokens)
        and cell_key(*cell) not in done
    ]
    model, started = Path(), time.monotonic()
    if arguments.minutes:
        chosen.sort(key=lambda cell: cell[2].context_tokens * planned_bytes(load_shape(cell[0]), cell[1]))
    for shape, quant, wanted in islice(chosen, arguments.limit):
        if arguments.minutes and time.monotonic() - started > arguments.minutes * 60:
            print(f"stopped after {arguments.minutes:g} minutes: {len(rows)} cells measured")
            break
        model = cached_stand_in(shape, quant)
        row = measure_cell(model, replace(wanted, threads=arguments.threads), arguments.timeout)
        rows.append({"shape": shape, "quant": quant, **row})
        shown = "  ".join(
            f"{name} {row[name]['measured'] / 1e6:6.0f} MB {row[name]['error']:+6.2%}" for name in FIGURES
        )
        kind = f"{'mmap' if wanted.mmap else 'read'} {'repack' if wanted.repack else 'stored'}"
        where = f"c{wanted.context_tokens} u{wanted.ubatch_tokens} {wanted.kv_type} {kind} fa-{wanted.flash_attention}"
        print(f"{len(rows):3}/{len(chosen)}  {shape:9} {quant:7} {where:38}  {shown}", flush=True)
    found = summary(rows)
    write_result(
        arguments.out,
        {
            "benchmark": "memory",
            **circumstances(model),
            "cells_planned": len(list(cells())),
            "summary": found,
            "cells": rows,
        },
    )
    for name, figures in found.items():
        print(name, "  ".join(f"{key} {value:.2%}" for key, value in figures.items() if key != "cells"))
    return 0 if all(figures["p95"] <= WANTED for figures in found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
