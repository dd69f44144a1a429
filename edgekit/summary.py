"""Summaries of raw samples, computed when shown or judged and never stored (design §3).

On the floor, because the gate, the reports and the bench all state the same figures and must not differ.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median

from edgekit.records import Basis, Estimate, Figure, Measurement, Sample, Unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedSummary:
    """One test over all its repetitions: the median speed with its 90 % range in tok/s."""

    test: str
    repetitions: int
    processes: int
    tokens_per_s: Figure


def median_interval(values: list[float], confidence: float = 0.90) -> tuple[float, float] | None:
    """Exact binomial (order-statistic) interval of the median, `None` when too few values can give that confidence.

    Distribution-free: the k-th smallest and k-th largest bracket the median with probability
    1 − 2·P(Binomial(n, ½) < k). Source: Conover, *Practical Nonparametric Statistics*, §3.2.
    """
    ordered, n = sorted(values), len(values)
    below, rank = 0.0, 0
    for k in range(n // 2):
        below += math.comb(n, k) * 0.5**n
        if 2 * below > 1 - confidence:
            break
        rank = k + 1
    return (ordered[rank - 1], ordered[n - rank]) if rank else None


def basis_of(measurement: Measurement) -> Basis:
    """`measured` when the host is the target device, else `measured-here`."""
    return "measured" if measurement.on_device else "measured-here"


def timed(measurement: Measurement, test: str) -> tuple[Sample, ...]:
    """The samples of `test` that count: warm-up is kept apart."""
    return tuple(sample for sample in measurement.samples if sample.test == test and not sample.warmup)


def speed(measurement: Measurement, test: str) -> Figure:
    """Median tok/s of `test` with its 90 % range, or why there is none."""
    rates = [sample.tokens / sample.elapsed_s for sample in timed(measurement, test) if sample.elapsed_s > 0]
    interval = median_interval(rates)
    if interval is None:
        found = f"{len(rates)} repetitions of `{test}`" if rates else f"`{test}` was not run"
        return Unknown(reason=f"{found}: too few for a 90 % range", settle="run `edgekit bench` with more repetitions")
    return Estimate(value=median(rates), low=interval[0], high=interval[1], basis=basis_of(measurement))


def summarize(measurement: Measurement) -> tuple[SpeedSummary, ...]:
    """A summary for each test, in the order the tests first ran."""
    tests = dict.fromkeys(sample.test for sample in measurement.samples if not sample.warmup)
    return tuple(
        SpeedSummary(
            test=test,
            repetitions=len(timed(measurement, test)),
            processes=len({sample.process for sample in timed(measurement, test)}),
            tokens_per_s=speed(measurement, test),
        )
        for test in tests
    )
