"""Is the tensor named that was made too coarse, and does the suggested type mend it?

    python benchmarks/outliers.py [STUDENT…] [--draws N] [--threads N] [--work DIR]
    python benchmarks/outliers.py --shape nano-0.6b [--minutes 10] [--threads 4]

The first form takes students of `make_students.py` and makes of each, N times, a q6_k with one tensor, drawn by chance,
in q2_k or q3_k; `find_outliers` must name that tensor, and a file with the suggested type must lose at least 80 % less
by it, as the bench's own scorer finds on other text. A draw counts as silent where nothing should be said: the tensor
loses less than `quantize.parts` asks for. Then q4_0, q4_k_m and q3_k_m as they are stocked: what is named, how the sum
over tensors compares with the file, and what following every suggestion brings for how many bytes. Goal: none missed,
and every suggestion holds. Writes `results/outliers.json`.

The second form times it on a reference student's shape (random weights: only the time means something).
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from make_students import RECIPES, make
from peer import circumstances, write_result

from edgekit import corpus, open_artifact
from edgekit.bench import evaluate
from edgekit.checkpoint import open_checkpoint
from edgekit.header import read_header
from edgekit.quantize.convert import convert
from edgekit.quantize.degrading import quantizable
from edgekit.quantize.ggml_types import fits
from edgekit.quantize.llama_quantize import exactly, quantize_gguf
from edgekit.quantize.outliers import find_outliers
from edgekit.quantize.parts import LOUD, QUIET, STANDS_OUT
from edgekit.records import Estimate, Figure, Layers
from edgekit.shapes import cached_stand_in

RESULTS = Path(__file__).parent / "results" / "outliers.json"
FINE, COARSE, STOCK = "q6_k", ("q2_k", "q3_k"), ("q4_0", "q4_k_m", "q3_k_m")
MENDED = 0.2
CHUNKS = 8
EVALUATED_CHUNKS = 20


def tell(stage: str, done: float, total: float, detail: str = "") -> None:
    if total and (done == total or int(done) % 10 == 0):
        print(f"  {stage} {done:.0f}/{total:.0f} {detail}", file=sys.stderr, flush=True)


def value(figure: Figure) -> float:
    assert isinstance(figure, Estimate), figure
    return figure.value


def kld_of(made: Path, source: Path, threads: int) -> float:
    text = corpus.text("evaluation", characters=400_000)
    quality = evaluate(open_artifact(made), open_artifact(source), text, chunks=EVALUATED_CHUNKS, threads=threads)
    return value(quality.kld_mean)


def search(made: Path, source: Path, arguments: argparse.Namespace) -> tuple[Layers, float]:
    started = time.perf_counter()
    layers = find_outliers(
        made, source, corpus.default_calibration(), chunks=CHUNKS, minutes=arguments.minutes, threads=arguments.threads
    )
    return layers, time.perf_counter() - started


def requantized(source: Path, out: Path, kind: str, types: Sequence[tuple[str, str]], threads: int) -> Path:
    patterns = tuple((exactly(name), one) for name, one in types)
    return quantize_gguf(source, out, kind, tensor_types=patterns, threads=threads, force=True)


def drawn(source: Path, folder: Path, draws: int, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Tensors made too coarse one at a time: named or not, and what the suggestion takes away of the harm."""
    chance = random.Random(1)
    tensors = [tensor for tensor in quantizable(read_header(source)) if fits("q2_k", tensor.shape[0])]
    least = kld_of(requantized(source, folder / "fine.gguf", FINE, (), arguments.threads), source, arguments.threads)
    rows = []
    for _ in range(draws):
        name, kind = chance.choice(tensors).name, chance.choice(COARSE)
        made = requantized(source, folder / "coarse.gguf", FINE, [(name, kind)], arguments.threads)
        layers, seconds = search(made, source, arguments)
        typical = sorted(value(row.kld) for row in layers.rows)[len(layers.rows) // 2]
        own = next(row for row in layers.rows if name in row.tensors)
        row: dict[str, Any] = {
            "tensor": name,
            "type": kind,
            "place": [one.group for one in layers.rows].index(own.group),
            "share": own.share,
            "times_typical": value(own.kld) / typical,
            "named": [one.group for one in layers.rows if one.suggestion],
            "suggestion": own.suggestion,
            "wall_s": seconds,
        }
        faint = value(own.kld) < max(QUIET, LOUD * value(layers.sum)) or row["times_typical"] < STANDS_OUT
        row["silent"] = faint and not own.suggestion
        if own.suggestion:
            harm = kld_of(made, source, arguments.threads) - least
            mended = requantized(source, folder / "mended.gguf", FINE, [(name, own.suggestion)], arguments.threads)
            row["left"] = (kld_of(mended, source, arguments.threads) - least) / harm
        rows.append(row)
        print(f"  {row}", flush=True)
    return rows


def stocked(source: Path, folder: Path, kind: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """A stock mix: what is named, and what following every suggestion brings."""
    made = requantized(source, folder / f"{kind}.gguf", kind, (), arguments.threads)
    layers, seconds = search(made, source, arguments)
    types = {tensor.name: tensor.type for tensor in quantizable_of(made)}
    followed = [(name, row.suggestion) for row in layers.rows if row.suggestion for name in row.tensors]
    kept = [(name, one) for name, one in types.items() if name not in dict(followed)]
    mended = requantized(source, folder / f"{kind}-mended.gguf", kind, [*followed, *kept], arguments.threads)
    before, after = (kld_of(path, source, arguments.threads) for path in (made, mended))
    row = {
        "type": kind,
        "named": {one.group: one.suggestion for one in layers.rows if one.suggestion},
        "whole": value(layers.whole),
        "weights": value(layers.weights),
        "sum": value(layers.sum),
        "kld": before,
        "kld_followed": after,
        "bytes": made.stat().st_size,
        "bytes_followed": mended.stat().st_size,
        "wall_s": seconds,
    }
    print(f"  {row}", flush=True)
    return row


def quantizable_of(made: Path) -> list[Any]:
    return [t for t in read_header(made).tensors if len(t.shape) > 1 and not t.name.endswith("_norm.weight")]


def judge(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    folder = arguments.work / name
    folder.mkdir(parents=True, exist_ok=True)
    source = convert(open_checkpoint(make(name)), folder / "f16.gguf", type="f16", force=True)
    rows = drawn(source, folder, arguments.draws, arguments)
    return {
        "student": name,
        "tensors": len(quantizable(read_header(source))),
        "drawn": rows,
        "named": sum(bool(row["suggestion"]) for row in rows),
        "silent": sum(row["silent"] for row in rows),
        "missed": sum(not row["suggestion"] and not row["silent"] for row in rows),
        "mended": sum(row.get("left", 1.0) <= MENDED for row in rows),
        "stock": [stocked(source, folder, kind, arguments) for kind in STOCK],
        "circumstances": circumstances(source),
    }


def time_shape(arguments: argparse.Namespace) -> dict[str, Any]:
    source = cached_stand_in(arguments.shape, "f16")
    made = arguments.work / f"{arguments.shape}-q4_0.gguf"
    if not made.is_file():
        quantize_gguf(source, made, "q4_0", threads=arguments.threads)
    layers, seconds = search(made, source, arguments)
    sizes = [len(row.tensors) for row in layers.rows]
    print(f"{arguments.shape}: {seconds / 60:.1f} min for {len(sizes)} groups, the largest of {max(sizes)} tensors")
    return {
        "shape": arguments.shape,
        "minutes": arguments.minutes,
        "wall_s": seconds,
        "groups": len(sizes),
        "largest": max(sizes),
        "circumstances": circumstances(source),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("students", nargs="*", metavar="STUDENT", help=f"of {', '.join(RECIPES)} (all)")
    parser.add_argument("--draws", type=int, default=8, help="coarse tensors for each student (8)")
    parser.add_argument("--minutes", type=float, default=10.0, help="for each search (10)")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--shape", help="time it on this shape instead")
    parser.add_argument("--work", type=Path, default=Path.home() / ".cache" / "edgekit" / "outliers")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    if unknown := set(arguments.students) - set(RECIPES):
        parser.error(f"unknown student (known: {', '.join(RECIPES)}): `{', '.join(sorted(unknown))}`")
    arguments.work.mkdir(parents=True, exist_ok=True)
    before = json.loads(arguments.out.read_text(encoding="utf-8")) if arguments.out.is_file() else {}
    result = {key: before[key] for key in ("students", "timed") if key in before}
    if arguments.shape:
        result["timed"] = time_shape(arguments)
    else:
        chosen = arguments.students or list(RECIPES)
        rows = [row for row in result.get("students", []) if row["student"] not in chosen]
        for name in chosen:
            rows.append(judge(name, arguments))
            counts = ", ".join(f"{rows[-1][key]} {key}" for key in ("named", "silent", "missed", "mended"))
            print(f"{name}: {len(rows[-1]['drawn'])} drawn, {counts}", flush=True)
        result["students"] = rows
    write_result(arguments.out, result)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
