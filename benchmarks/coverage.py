"""Do edgekit's 90 % ranges cover? The stopping rule and the range of `edgekit.summary`, simulated.

    python benchmarks/coverage.py [--runs 2000]

Each simulated run takes repetitions as the bench does (4 + 3 + 3 in three processes, then ten more per process until
the 95 % binomial interval of the median is within ± 2 % or sixty are done) and asks whether the stated range holds the
true median. Contaminated runs (drift, autocorrelation) are counted apart, as their checks become `unknown`. Writes
`results/coverage.json`.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from peer import write_result

from edgekit.bench.checks import is_settled
from edgekit.bench.noise import contaminated_tests
from edgekit.bench.plan import EXTRA_REPETITIONS, split
from edgekit.records import Sample, Workload
from edgekit.summary import grouped_median_interval, median_interval

RESULTS = Path(__file__).parent / "results" / "coverage.json"
WORKLOAD = Workload()

Noise = Callable[[random.Random], Callable[[int], float]]


def independent(sd: float, process_sd: float = 0.0) -> Noise:
    """Normal repetitions around a process's own level; the true median is 1."""

    def start(source: random.Random) -> Callable[[int], float]:
        levels: dict[int, float] = {}
        return lambda process: 1 + levels.setdefault(process, source.gauss(0, process_sd)) + source.gauss(0, sd)

    return start


def interrupted(sd: float, share: float, loss: float) -> Noise:
    """Normal repetitions, a `share` of which lose `loss` of their speed; shifted so that the true median is 1."""
    # the median of the mixture, by bisection on its distribution
    low, high = 1 - loss, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        below = (1 - share) * _normal((middle - 1) / sd) + share * _normal((middle - 1 + loss) / sd)
        low, high = (middle, high) if below < 0.5 else (low, middle)
    shift = 1 - low

    def start(source: random.Random) -> Callable[[int], float]:
        return lambda _process: 1 + shift + source.gauss(0, sd) - (loss if source.random() < share else 0.0)

    return start


def autocorrelated(sd: float, lag1: float) -> Noise:
    """A first-order process over all repetitions, whatever their process; its median is 1."""

    def start(source: random.Random) -> Callable[[int], float]:
        state = [source.gauss(0, sd)]

        def draw(_process: int) -> float:
            state[0] = lag1 * state[0] + math.sqrt(1 - lag1**2) * source.gauss(0, sd)
            return 1 + state[0]

        return draw

    return start


def _normal(z: float) -> float:
    return (1 + math.erf(z / math.sqrt(2))) / 2


CASES: dict[str, Noise] = {
    "quiet, sd 0.5 %": independent(0.005),
    "sd 2 %": independent(0.02),
    "sd 5 %": independent(0.05),
    "1 in 10 interrupted, −15 %": interrupted(0.01, 0.1, 0.15),
    "processes differ as much as repetitions, 1 %": independent(0.01, 0.01),
    "processes differ twice as much, 2 %": independent(0.01, 0.02),
    "processes differ four times as much, 2 %": independent(0.005, 0.02),
    "lag-1 0.7, sd 1 %": autocorrelated(0.01, 0.7),
    "lag-1 0.7, sd 4 %": autocorrelated(0.04, 0.7),
}


def simulate(noise: Noise, source: random.Random) -> list[Sample]:
    """The samples of one test, taken as the bench takes them."""
    draw = noise(source)
    samples: list[Sample] = []
    shares = split(WORKLOAD.repetitions_min, WORKLOAD.processes)
    process = 0
    while process < len(shares) or not is_settled(samples, WORKLOAD):
        count = shares[process] if process < len(shares) else EXTRA_REPETITIONS
        for repetition in range(min(count, WORKLOAD.repetitions_max - len(samples))):
            samples.append(
                Sample(
                    test="tg128",
                    process=process,
                    repetition=repetition,
                    tokens=1000,
                    elapsed_s=1000 / max(0.05, draw(process)),
                    started_s=float(len(samples)),
                )
            )
        process += 1
    return samples


def case_row(name: str, noise: Noise, runs: int) -> dict[str, Any]:
    """Coverage of the stated range and of the plain binomial one, repetitions taken, width, contamination."""
    source = random.Random(name)
    covered = plain_covered = clean = clean_covered = repetitions = 0
    widths = []
    for _ in range(runs):
        samples = simulate(noise, source)
        rates = [[s.tokens / s.elapsed_s for s in samples if s.process == p] for p in range(samples[-1].process + 1)]
        interval, plain = grouped_median_interval(rates), median_interval([rate for group in rates for rate in group])
        assert interval is not None
        assert plain is not None
        holds = interval[0] <= 1 <= interval[1]
        spoiled = bool(contaminated_tests(samples)[0])
        covered += holds
        plain_covered += plain[0] <= 1 <= plain[1]
        clean += not spoiled
        clean_covered += holds and not spoiled
        repetitions += len(samples)
        widths.append((interval[1] - interval[0]) / 2)
    return {
        "case": name,
        "runs": runs,
        "coverage": covered / runs,
        "coverage_binomial_alone": plain_covered / runs,
        "contaminated": 1 - clean / runs,
        "coverage_of_clean": clean_covered / clean if clean else None,
        "mean_repetitions": repetitions / runs,
        "mean_half_width": sum(widths) / runs,
    }


def main() -> int:
    """Always 0: the table is the answer."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    rows = []
    for name, noise in CASES.items():
        row = case_row(name, noise, arguments.runs)
        rows.append(row)
        print(
            f"{name:46} covers {row['coverage']:.3f} (binomial alone {row['coverage_binomial_alone']:.3f})  "
            f"contaminated {row['contaminated']:.3f}  n {row['mean_repetitions']:.0f}  ± {row['mean_half_width']:.4f}",
            flush=True,
        )
    write_result(arguments.out, {"kind": "coverage_simulation", "version": 1, "confidence": 0.9, "rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
