"""Is a plan for a budget better than llama-quantize's q4_k_m, byte for byte?

    python benchmarks/budget.py [STUDENT…] [--probes N] [--chunks N] [--threads N] [--work DIR]
    python benchmarks/budget.py --shape nano-1.5b [--minutes 15] [--threads 4]

The first form makes the students of `make_students.py` (≥ 10 M parameters, two architectures), takes an importance
matrix and sensitivities on the calibration split, and gives a plan exactly the bytes of the stock q4_k_m, quantized
with the same importance matrix. Both are scored against the F32 model on the evaluation split, by the kernels that
would ship. Goal: KLD ≤ 0.8 × the stock mix on three of four students or more, 90 % intervals disjoint. Losers stay in
the table. `--probes` makes the result independent of the machine's speed. Writes `results/budget.json`.

The second form measures sensitivities of a reference student's shape (random weights in f16) and tells how long it
took; goal: ≤ 15 min on four cores. Adds it to `results/budget.json`.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from make_students import RECIPES, make
from peer import circumstances, write_result

from edgekit import corpus, open_artifact
from edgekit.bench import evaluate
from edgekit.checkpoint import open_checkpoint
from edgekit.header import read_header
from edgekit.quantize import sensitivity
from edgekit.quantize.cells import Sensitivities
from edgekit.quantize.convert import convert
from edgekit.quantize.degrading import quantizable
from edgekit.quantize.imatrix import compute_imatrix
from edgekit.quantize.llama_quantize import planned_types, quantize_gguf
from edgekit.quantize.plan import file_type, tensor_types, write_plan
from edgekit.quantize.pricing import planned_header
from edgekit.quantize.solver import solve
from edgekit.records import Budget, Estimate, Header, QuantPlan
from edgekit.shapes import cached_stand_in
from edgekit.storage import load_record, write_record

RESULTS = Path(__file__).parent / "results" / "budget.json"
STOCK, GOAL, WANTED = "q4_k_m", 0.8, 3
PROBES_PER_TENSOR = 7
EVALUATION_CHARACTERS = 400_000
MIN_PARAMETERS = 10_000_000


def tell(stage: str, done: float, total: float, detail: str = "") -> None:
    if total and (done == total or int(done) % 10 == 0):
        print(f"  {stage} {done:.0f}/{total:.0f} {detail}", file=sys.stderr, flush=True)


def tensor_bytes(header: Header) -> int:
    return sum(tensor.size_bytes for tensor in header.tensors)


def weights_of(header: Header) -> int:
    return sum(math.prod(tensor.shape) for tensor in header.tensors)


def sensitivities(source: Path, imatrix: Path, kept: Path, arguments: argparse.Namespace) -> Sensitivities:
    """Measured once for a source and a number of probes; later runs only solve."""
    if kept.is_file():
        return load_record(kept, Sensitivities)
    probes = arguments.probes or PROBES_PER_TENSOR * len(quantizable(read_header(source)))
    sens = sensitivity.measure(
        source,
        imatrix=imatrix,
        text=corpus.default_calibration(),
        probes=probes,
        threads=arguments.threads,
        progress=tell,
    )
    write_record(kept, sens)
    return sens


def kld_of(made: Path, source: Path, context: int, arguments: argparse.Namespace) -> dict[str, float]:
    quality = evaluate(
        open_artifact(made),
        open_artifact(source),
        corpus.text("evaluation", characters=EVALUATION_CHARACTERS),
        context_tokens=context,
        chunks=arguments.chunks,
        threads=arguments.threads,
    )
    figures = {}
    for name in ("kld_mean", "top1_agreement", "perplexity_ratio"):
        figure = getattr(quality, name)
        assert isinstance(figure, Estimate), figure
        figures |= {name: figure.value, f"{name}_low": figure.low, f"{name}_high": figure.high}
    return figures | {"chunks": len(quality.chunks), "size_bytes": made.stat().st_size}


def compare(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """One student: the stock mix and the plan of its bytes, scored on held-out text."""
    folder = arguments.work / name
    folder.mkdir(parents=True, exist_ok=True)
    source, imatrix = folder / "f32.gguf", folder / "imatrix.gguf"
    if not source.is_file():
        convert(open_checkpoint(make(name)), source, type="f32")
    if not imatrix.is_file():
        compute_imatrix(source, corpus.default_calibration(), imatrix, threads=arguments.threads)
    header = read_header(source)
    if weights_of(header) < MIN_PARAMETERS:
        raise SystemExit(f"{name} has {weights_of(header)} parameters, fewer than {MIN_PARAMETERS}")
    sens = sensitivities(source, imatrix, folder / f"sensitivities-{arguments.probes or 'default'}.json", arguments)
    stock_types = dict(planned_types(source, STOCK, imatrix=imatrix))
    stock = planned_header(header, {tensor.name: stock_types[tensor.name] for tensor in quantizable(header)})
    plan = solve(sens, header, budget=Budget(bits_per_weight=tensor_bytes(stock) * 8 / weights_of(header)))
    write_plan(folder / "plan.toml", plan)
    made = {"stock": folder / f"{STOCK}.gguf", "plan": folder / "plan.gguf"}
    quantize_gguf(source, made["stock"], STOCK, imatrix=imatrix, threads=arguments.threads, force=True)
    quantize_gguf(
        source,
        made["plan"],
        file_type(plan, header),
        imatrix=imatrix,
        tensor_types=tensor_types(plan),
        threads=arguments.threads,
        force=True,
    )
    for what, path in made.items():
        assert tensor_bytes(read_header(path)) <= tensor_bytes(stock), f"{what} is larger than the stock mix"
    scored = {what: kld_of(path, source, sens.context_tokens, arguments) for what, path in made.items()}
    return row_of(name, header, stock, sens, plan, scored) | {"circumstances": circumstances(source)}


def row_of(
    name: str, header: Header, stock: Header, sens: Sensitivities, plan: QuantPlan, scored: dict[str, dict[str, float]]
) -> dict[str, Any]:
    ratio = scored["plan"]["kld_mean"] / scored["stock"]["kld_mean"]
    disjoint = scored["plan"]["kld_mean_high"] < scored["stock"]["kld_mean_low"]
    return {
        "student": name,
        "architecture": header.architecture,
        "parameters": weights_of(header),
        "stock_bytes": tensor_bytes(stock),
        "plan_bytes": plan.size_bytes,
        "bits_per_weight": plan.bits_per_weight,
        "types": dict(Counter(tensor.type for tensor in plan.tensors)),
        "probes": len(sens.probes),
        "extension_error": sens.extension_error,
        "extension_correlation": sens.extension_correlation,
        "sensitivity_s": sens.seconds,
        "predicted_kld": plan.kld.value if isinstance(plan.kld, Estimate) else None,
        "stock": scored["stock"],
        "plan": scored["plan"],
        "ratio": ratio,
        "disjoint": disjoint,
        "won": ratio <= GOAL and disjoint,
    }


def show(row: dict[str, Any]) -> None:
    stock, plan = row["stock"], row["plan"]
    print(
        f"{row['student']:10} {row['architecture']:6} {row['parameters'] / 1e6:5.1f} M  {row['plan_bytes']:9d} of "
        f"{row['stock_bytes']:9d} B  {STOCK} {stock['kld_mean']:.3e} ({stock['kld_mean_low']:.2e}–"
        f"{stock['kld_mean_high']:.2e})  plan {plan['kld_mean']:.3e} ({plan['kld_mean_low']:.2e}–"
        f"{plan['kld_mean_high']:.2e})  {row['ratio']:.2f} ×  {'won' if row['won'] else 'lost'}",
        flush=True,
    )


def time_shape(arguments: argparse.Namespace) -> dict[str, Any]:
    source = cached_stand_in(arguments.shape, "f16")
    started = time.perf_counter()
    sens = sensitivity.measure(
        source,
        imatrix=None,
        text=corpus.default_calibration(),
        minutes=arguments.minutes,
        threads=arguments.threads,
        progress=tell,
    )
    wall_s = time.perf_counter() - started
    print(
        f"{arguments.shape}: {wall_s / 60:.1f} min for {len(sens.probes)} probes on {len(sens.base)} chunks, "
        f"{len(sens.cells)} cells; extension misses by {sens.extension_error or math.nan:.2f} ×, correlation "
        f"{sens.extension_correlation or math.nan:.3f}"
    )
    return {
        "shape": arguments.shape,
        "wall_s": wall_s,
        "probes": len(sens.probes),
        "chunks": len(sens.base),
        "extension_error": sens.extension_error,
        "extension_correlation": sens.extension_correlation,
        "met": wall_s <= 15 * 60,
        "circumstances": circumstances(source),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("students", nargs="*", metavar="STUDENT", help=f"of {', '.join(RECIPES)} (all)")
    parser.add_argument("--probes", type=int, default=0, help=f"measurements ({PROBES_PER_TENSOR} for each tensor)")
    parser.add_argument("--chunks", type=int, default=100, help="of the evaluation text, 512 tokens each (100)")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=14.0, help="for `--shape` (14)")
    parser.add_argument("--shape", help="measure sensitivities of this shape instead")
    parser.add_argument("--work", type=Path, default=Path.home() / ".cache" / "edgekit" / "budget")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    if unknown := set(arguments.students) - set(RECIPES):
        parser.error(f"unknown student (known: {', '.join(RECIPES)}): `{', '.join(sorted(unknown))}`")
    before = json.loads(arguments.out.read_text(encoding="utf-8")) if arguments.out.is_file() else {}
    result = {key: before[key] for key in ("students", "timed") if key in before}
    if arguments.shape:
        result["timed"] = time_shape(arguments)
    else:
        rows = [row for row in result.get("students", []) if row["student"] not in (arguments.students or RECIPES)]
        for name in arguments.students or RECIPES:
            rows.append(compare(name, arguments))
            show(rows[-1])
        won = sum(row["won"] for row in rows)
        print(f"KLD ≤ {GOAL} × {STOCK} at equal bytes, disjoint: {won} of {len(rows)} (goal: {WANTED} of 4)")
        result["students"] = rows
    write_result(arguments.out, result)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
