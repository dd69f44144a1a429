"""Does `tune` save memory without costing speed, and does it find what the whole grid holds?

    python benchmarks/tune.py [--shapes nano-1.5b mini-3b …] [--grid nano-0.6b] [--threads 4] [--out results/tune.json]

For each 150k-vocabulary shape: `tune` on this host against llama.cpp's defaults at a context of 4096, each peak taken
in fresh processes that prefill and decode. Wanted: ≥ 200 MB less peak memory at ≤ 3 % decode and ≤ 10 % prefill loss.
`tune` confirms its advice by six pairs of fresh processes, enough to notice that a search was misled; here `--pairs` of
them follow, since the whole range of a ratio must clear its limit.
Which memory is a matter of taste, so all are written down: peak resident (VmHWM, what monitors show), working set and
unevictable (what the gates judge), and what llama.cpp allocates (touched or not). The limit is held against the first.

A search takes an hour and more of a shape of 1.5B and more on four cores. For the shapes of `--also` only the peaks are
taken, and with `--also-pairs` both speeds, under the settings that were advised for the last shape before them. With
`--settings FILE` those are taken from the last row of an earlier result, and nothing is searched.

For the shapes of `--grid` every point that fits is then run against the advised one, in turn: one round, and three
more where that one is not slower by more than 3 %. Wanted: none of them decodes faster by more than 2 % in every round,
and in three more too, in ≤ 20 trials. That takes long: `--threads` leaves a quarter of the points on four cores, and
`--grid-points N` draws N of them.
Writes `results/tune.json`. Exit code 1 where a limit is missed, 3 where the machine was not quiet.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from peer import circumstances, write_result

from edgekit.bench.host import isa_that_ran, probe_host
from edgekit.bench.noise import OTHERS_SPOIL, others_share, read_counters
from edgekit.bench.trying import CONFIRMING_PAIRS, Bench, ratio, steps
from edgekit.memory import predict_memory
from edgekit.pipeline import Overrides, open_artifact
from edgekit.pipeline.tuning import Wish, prepare, tune
from edgekit.pipeline.tuning_runs import difference
from edgekit.records import Artifact, Estimate, Figure, Pair, Settings, Tuning
from edgekit.shapes import cached_stand_in

RESULTS = Path(__file__).parent / "results" / "tune.json"
SHAPES = ("nano-0.6b", "nano-1.5b", "mini-3b", "mini-4b", "base-7b")
SAVED_BYTES, DECODE_LOSS, PREFILL_LOSS, OF_GRID = 200e6, 0.03, 0.10, 0.02
SCREENED = 0.03
"""A point that is slower by more than this in its first round is not looked at again."""


def peak_of(artifact: Artifact, settings: Settings) -> dict[str, float | None]:
    """Peaks of a fresh process under `settings`, and what llama.cpp allocates by its header."""
    bench = Bench(artifact=artifact, together=True)
    with bench.load(settings) as worker:
        for step in steps(settings).values():
            list(worker.run(step))
        peak = worker.finish()
        isa = isa_that_ran(probe_host(), worker.runtime)
    predicted = predict_memory(artifact.header, settings, isa)
    return {
        "resident_bytes": peak.hwm_bytes if peak else None,
        "working_set_bytes": peak.working_set_bytes if peak else None,
        "unevictable_bytes": peak.unevictable_bytes if peak else None,
        "huge_mapped_bytes": peak.huge_mapped_bytes if peak else None,
        "allocated_bytes": predicted.unevictable.value + predicted.reserved_bytes,
    }


def peaks_of(artifact: Artifact, default: Settings, settings: Settings) -> dict[str, Any]:
    """Peaks of `artifact` under llama.cpp's defaults and under `settings`, and what those save."""
    before, after = (peak_of(artifact, one) for one in (default, settings))
    saved: dict[str, float | None] = {
        name: None if old is None or (new := after[name]) is None else old - new
        for name, old in before.items()
        if name != "huge_mapped_bytes"
    }
    return {"default": before, "tuned": after, "saved": saved}


def ratios_of(artifact: Artifact, default: Settings, settings: Settings, count: int) -> dict[str, Figure]:
    """`settings` ÷ `default` over at least `count` pairs of fresh processes in turn."""
    bench = Bench(artifact=artifact, together=True)
    pairs: list[Pair] = []
    for _ in range(math.ceil(count / CONFIRMING_PAIRS)):
        pairs += bench.confirm(default, settings, lambda _: None)
    return {metric: ratio(pairs, metric) for metric in ("decode", "prefill")}


def against_defaults(shape: str, quant: str, wish: Wish, pairs: int) -> tuple[dict[str, Any], Tuning]:
    """One shape: the record of the tuning, both peaks, and both speeds."""
    found = tune(cached_stand_in(shape, quant), wish)
    assert found.settings is not None
    peaks = peaks_of(found.artifact, found.default, found.settings)
    ratios = ratios_of(found.artifact, found.default, found.settings, pairs)
    row = {
        "shape": shape,
        "quant": quant,
        "changed": difference(found.settings, found.default),
        "settings": asdict(found.settings),
        "trials": len(found.trials),
        "points": found.points,
        "elapsed_s": found.elapsed_s,
        "status": found.status,
        "confirmed": {"decode": asdict(found.decode_ratio), "prefill": asdict(found.prefill_ratio)},
        **{f"{metric}_ratio": asdict(figure) for metric, figure in ratios.items()},
        **peaks,
    }
    return row | {"good": holds(ratios, peaks["saved"])}, found


def holds(ratios: dict[str, Figure], saved: dict[str, float | None]) -> dict[str, bool]:
    """Which limits hold: a ratio's whole range must clear its limit."""
    return {
        "memory": saves(saved),
        "decode": _at_least(ratios["decode"], 1 - DECODE_LOSS),
        "prefill": _at_least(ratios["prefill"], 1 - PREFILL_LOSS),
    }


def saves(saved: dict[str, float | None]) -> bool:
    """Whether enough of what monitors show."""
    return (saved["resident_bytes"] or 0.0) >= SAVED_BYTES


def _at_least(figure: Figure, limit: float) -> bool:
    return isinstance(figure, Estimate) and figure.low >= limit


def under_settings(shape: str, quant: str, default: Settings, settings: Settings, pairs: int) -> dict[str, Any]:
    """One shape under settings that another one's search found: peaks, and speeds where `pairs` are asked for."""
    artifact = open_artifact(cached_stand_in(shape, quant))
    peaks = peaks_of(artifact, default, settings)
    good = {"memory": saves(peaks["saved"])}
    row: dict[str, Any] = {"shape": shape, "quant": quant, "changed": difference(settings, default), **peaks}
    row |= {"settings": asdict(settings), "default_settings": asdict(default)}
    if pairs:
        ratios = ratios_of(artifact, default, settings, pairs)
        row |= {f"{metric}_ratio": asdict(figure) for metric, figure in ratios.items()}
        good = holds(ratios, peaks["saved"])
    return row | {"good": good}


def against_grid(found: Tuning, wish: Wish, points: int) -> dict[str, Any]:
    """The advised settings against the other points of the grid that fit and keep the prefill."""
    assert found.settings is not None
    quest = prepare(found.artifact.header, wish)
    others = sorted((one for one in quest.feasible if one.kv_type == found.settings.kv_type), key=str)
    if points:
        others = random.Random(1).sample(others, min(points, len(others)))
    bench, ran = Bench(artifact=found.artifact, together=True), 0
    faster: dict[str, float] = {}
    for point in others:
        if point == found.settings:
            continue
        tried = bench.run(found.settings, point, rounds=1)
        if tried.log_ratio("decode") > math.log(1 - SCREENED):
            tried = bench.run(found.settings, point)
        ran += 1
        ahead, prefill = tried.sure_log_ratio("decode"), tried.log_ratio("prefill")
        if ahead > math.log1p(OF_GRID) and prefill > math.log(1 - PREFILL_LOSS):
            again = bench.run(found.settings, point).sure_log_ratio("decode")  # the best of many is lucky once
            if again > math.log1p(OF_GRID):
                faster[difference(point, found.settings)] = math.expm1(min(ahead, again))
        print(f"{ran}/{len(others)} {difference(point, found.settings)}: {math.expm1(ahead):+.1%}", flush=True)
    best = max(faster.values(), default=0.0)
    good = len(found.trials) <= 20 and not faster
    return {
        "points": len(others),
        "points_run": ran,
        "faster": faster,
        "best_ahead": best,
        "trials": len(found.trials),
        "good": good,
    }


def main() -> int:
    """0 when every limit holds."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shapes", nargs="*", default=list(SHAPES))
    parser.add_argument("--also", nargs="*", default=[], help="shapes whose memory alone is taken")
    parser.add_argument("--also-pairs", type=int, default=0, help="of those shapes  [default: none, memory alone]")
    parser.add_argument("--settings", type=Path, help="an earlier result whose last row's settings `--also` takes")
    parser.add_argument("--quant", default="q4_0")
    parser.add_argument("--grid", nargs="*", default=["nano-0.6b"])
    parser.add_argument("--grid-points", type=int, default=0, help="draw so many points  [default: all]")
    parser.add_argument("--pairs", type=int, default=24, help="of advised and default settings  [default: 24]")
    parser.add_argument("--threads", type=int, help="pin the threads, on a machine that is shared")
    parser.add_argument("--context", type=int, default=4096)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    if arguments.settings and not arguments.also:
        parser.error("--settings is for --also")
    pinned = Overrides(context_tokens=arguments.context, threads=arguments.threads)
    wish = Wish(overrides=pinned)
    before = read_counters()
    rows: list[dict[str, Any]] = []
    grids: dict[str, dict[str, Any]] = {}
    also: dict[str, dict[str, Any]] = {}
    advised: Settings | None = None
    shapes = [] if arguments.settings else list(dict.fromkeys([*arguments.shapes, *arguments.grid]))
    for shape in shapes:
        row, found = against_defaults(shape, arguments.quant, wish, arguments.pairs)
        rows.append(row)
        advised = found.settings
        print(shape, row["changed"], row["saved"], row["decode_ratio"], row["good"], flush=True)
        if shape in arguments.grid:
            grids[shape] = against_grid(found, wish, arguments.grid_points)
    if arguments.settings:
        advised = Settings(**json.loads(arguments.settings.read_text(encoding="utf-8"))["rows"][-1]["settings"])
    for shape in arguments.also:
        assert advised is not None, "no shape was searched, and no `--settings` named"
        default = replace(Settings(), context_tokens=advised.context_tokens, threads=arguments.threads or 0)
        also[shape] = under_settings(shape, arguments.quant, default, advised, arguments.also_pairs)
        print(shape, also[shape], flush=True)
    busy = others_share(before, read_counters())
    result = {
        "kind": "tune_benchmark",
        "version": 1,
        **circumstances(cached_stand_in((*shapes, *arguments.also)[0], arguments.quant)),
        "pinned": {"context_tokens": arguments.context, "threads": arguments.threads},
        "others_cpu_share": busy,
        "rows": rows,
        "grids": grids,
        "also": also,
    }
    write_result(arguments.out, result)
    if busy is not None and busy > OTHERS_SPOIL:
        print("the machine was not quiet: speeds do not count", file=sys.stderr)
        return 3
    good = [all(row["good"].values()) for row in (*rows, *also.values())] + [one["good"] for one in grids.values()]
    return 0 if all(good) else 1


if __name__ == "__main__":
    raise SystemExit(main())
