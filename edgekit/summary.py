"""Summaries of raw samples, computed when shown or judged and never stored (design §3).

On the floor, because the gate, the reports and the bench all state the same figures and must not differ.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import groupby
from statistics import mean, median, stdev

from edgekit.records import Basis, DepthPoint, Estimate, Figure, Measurement, Sample, Unknown

CONFIDENCE = 0.90
SUSTAINED = "sustained"
SUSTAINED_AFTER_S = 600.0
"""Sustained speed is stated after ten minutes (design §3), as the median of the minute before."""

_STUDENT_T_95 = (6.314, 2.920, 2.353, 2.132, 2.015, 1.943, 1.895, 1.860, 1.833, 1.812, 1.796, 1.782)
"""95th percentile of Student's t for 1 to 12 degrees of freedom; written down, as scipy takes half a second to load."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedSummary:
    """One test over all its repetitions: the median speed with its 90 % range in tok/s, and mean ± standard deviation
    of the repetitions as llama-bench prints them (0 for a single repetition).
    """

    test: str
    repetitions: int
    processes: int
    tokens_per_s: Figure
    mean_tokens_per_s: float
    sd_tokens_per_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class InterToken:
    """Time between two generated tokens in seconds, over all `tokens` of a decode test."""

    test: str
    tokens: int
    p50: Figure
    p90: Figure
    p99: Figure


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePoint:
    """Decode speed in one window of the sustained run, `at_s` after its start."""

    at_s: float
    tokens_per_s: float


# ---- intervals ----------------------------------------------------------------------------------------------------


def median_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> tuple[float, float] | None:
    """Exact binomial (order-statistic) interval of the median, `None` when too few values can give that confidence.

    Distribution-free: the k-th smallest and k-th largest bracket the median with probability
    1 − 2·P(Binomial(n, ½) < k). Source: Conover, *Practical Nonparametric Statistics*, §3.2.
    """
    ordered, n = sorted(values), len(values)
    # in whole numbers of 2ⁿ outcomes: as floats the binomials overflow from about a thousand values on
    allowed, below, ways, rank = int(Fraction(1 - confidence) * 2**n / 2), 0, 1, 0
    for k in range(n // 2):
        below += ways
        if below > allowed:
            break
        ways = ways * (n - k) // (k + 1)
        rank = k + 1
    return (ordered[rank - 1], ordered[n - rank]) if rank else None


def grouped_median_interval(groups: Sequence[Sequence[float]]) -> tuple[float, float] | None:
    """90 % interval of the median of positive `groups` of values, such as the repetitions of each process; `None` when
    they are too few.

    Repetitions of one process share its memory layout and its moment, so the order-statistic interval over all of them
    is too narrow when processes differ: simulated coverage 50–60 % where the difference dominates. The answer is
    therefore the wider, on either side, of it and the t-interval over the logarithms of the groups' medians
    (cluster-level analysis, Cameron & Miller 2015), which keeps 85 % or more (`benchmarks/coverage.py`).
    """
    values = [value for group in groups for value in group]
    if not values or min(values) <= 0:
        return None
    parts = [interval for interval in (median_interval(values), _between_groups(groups)) if interval is not None]
    if not parts:
        return None
    return min(low for low, _ in parts), max(high for _, high in parts)


def _between_groups(groups: Sequence[Sequence[float]]) -> tuple[float, float] | None:
    logs = [math.log(median(group)) for group in groups if group]
    if len(logs) < 2:
        return None
    half_width = student_t_95(len(logs) - 1) * stdev(logs) / math.sqrt(len(logs))
    middle = median(value for group in groups for value in group)
    return middle * math.exp(-half_width), middle * math.exp(half_width)


def student_t_95(freedom: int) -> float:
    """95th percentile of Student's t: half the width of a 90 % interval in standard errors.

    Beyond the table the Cornish–Fisher expansion (Abramowitz & Stegun 26.7.5) is right to three digits.
    """
    if freedom <= len(_STUDENT_T_95):
        return _STUDENT_T_95[freedom - 1]
    z = 1.6449
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


def student_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """90 % interval of the mean of independent `values`, after Student; `None` for fewer than two. Values that follow
    each other in a text are not independent: `edgekit.intervals.mean_interval`.
    """
    if len(values) < 2:
        return None
    half_width = student_t_95(len(values) - 1) * stdev(values) / math.sqrt(len(values))
    middle = mean(values)
    return middle - half_width, middle + half_width


def quantile_interval(groups: Sequence[Sequence[float]], share: float) -> tuple[float, float, float] | None:
    """(quantile, low, high) at `share` of all values, 90 %; `None` when they are too few to bracket it.

    The share of values below the quantile has a standard error that counts each group (repetition) as one draw, as
    tokens of a repetition are not independent; the range is where the quantile would lie at share ± t·error. Source:
    Woodruff 1952, "Confidence intervals for medians and other position measures", JASA 47.
    """
    ordered = sorted(value for group in groups for value in group)
    n = len(ordered)
    if n < 2:
        return None
    found = ordered[min(n - 1, math.ceil(share * n) - 1)]
    error = math.sqrt(share * (1 - share) / n)
    below = [sum(value <= found for value in group) / len(group) for group in groups if group]
    if len(below) > 1:
        error = max(error, stdev(below) / math.sqrt(len(below)))
    reach = student_t_95(max(1, len(below) - 1)) * error
    first, last = math.floor((share - reach) * n) - 1, math.ceil((share + reach) * n) - 1
    return (found, ordered[first], ordered[last]) if first >= 0 and last < n else None


# ---- figures of a measurement -------------------------------------------------------------------------------------


def basis_of(measurement: Measurement) -> Basis:
    """`measured` when the host is the target device, else `measured-here`."""
    return "measured" if measurement.on_device else "measured-here"


def timed(measurement: Measurement, test: str) -> tuple[Sample, ...]:
    """The samples of `test` that count: warm-up is kept apart."""
    # the floor under the time keeps speeds finite whatever a record file says
    samples = (sample for sample in measurement.samples if sample.test == test and not sample.warmup)
    return tuple(sample for sample in samples if sample.tokens > 0 and sample.elapsed_s > 1e-9)


def by_process(samples: Sequence[Sample]) -> list[list[Sample]]:
    """The samples of each process, in the order the processes ran."""
    ordered = sorted(samples, key=lambda sample: sample.process)
    return [list(group) for _, group in groupby(ordered, key=lambda sample: sample.process)]


def speed(measurement: Measurement, test: str) -> Figure:
    """Median tok/s of `test` with its 90 % range, or why there is none. `sustained` is the speed after ten minutes."""
    if test == SUSTAINED:
        return sustained_speed(measurement)
    groups = [[sample.tokens / sample.elapsed_s for sample in run] for run in by_process(timed(measurement, test))]
    return _median_figure(measurement, groups, f"repetitions of `{test}`", f"`{test}` was not run")


def time_to_first_token(measurement: Measurement, test: str = "pp512") -> Figure:
    """Seconds until the logits of the first answer token stand: the whole prompt's evaluation, the model loaded and the
    cache empty. Sampling from them takes microseconds and is left out.
    """
    groups = [[sample.elapsed_s for sample in run] for run in by_process(timed(measurement, test))]
    return _median_figure(measurement, groups, f"repetitions of `{test}`", f"`{test}` was not run")


def load_time(measurement: Measurement) -> Figure:
    """Seconds a fresh process takes to load the model, the file in the page cache. Each process counts once."""
    loads = [[seconds] for seconds in measurement.load_s if math.isfinite(seconds)]
    return _median_figure(measurement, loads, "loads", "no load was timed", beyond_seen=True)


def _median_figure(
    measurement: Measurement, groups: list[list[float]], what: str, nothing: str, *, beyond_seen: bool = False
) -> Figure:
    values = [value for group in groups for value in group]
    interval = grouped_median_interval(groups)
    if interval is None:
        reason = f"{len(values)} {what}: too few for a 90 % range" if values else nothing
        return Unknown(reason=reason, settle="run `edgekit bench` with more repetitions")
    low, high = interval
    if beyond_seen:
        low, high = min(low, *values), max(high, *values)
    note = "" if len(groups) > 1 else "one process: differences between processes are not in the range"
    if measurement.imported_from:
        note = f"timed by {measurement.imported_from}; {note}".removesuffix("; ")
    return Estimate(value=median(values), low=low, high=high, basis=basis_of(measurement), note=note)


def inter_token(measurement: Measurement, test: str = "tg128") -> InterToken | Unknown:
    """Percentiles of the time per generated token of a decode test, or why there are none."""
    groups = [sample.token_s for sample in timed(measurement, test) if sample.token_s]
    if not groups:
        return Unknown(reason=f"no token of `{test}` was timed", settle="edgekit bench MODEL")
    figures = [_quantile_figure(measurement, groups, share) for share in (0.50, 0.90, 0.99)]
    p50, p90, p99 = figures
    return InterToken(test=test, tokens=sum(map(len, groups)), p50=p50, p90=p90, p99=p99)


def _quantile_figure(measurement: Measurement, groups: Sequence[Sequence[float]], share: float) -> Figure:
    found = quantile_interval(groups, share)
    if found is None:
        return Unknown(
            reason=f"{sum(map(len, groups))} tokens are too few for a 90 % range of p{share * 100:.0f}",
            settle="run `edgekit bench` without `--quick`",
        )
    value, low, high = found
    return Estimate(value=value, low=low, high=high, basis=basis_of(measurement))


# ---- curves -------------------------------------------------------------------------------------------------------


def depth_curve(measurement: Measurement) -> tuple[DepthPoint, ...]:
    """Decode speed over the tokens already in the cache, shallowest first; depth 0 is the longest `tg` test."""
    names = dict.fromkeys(sample.test for sample in measurement.samples)
    parsed = [match for match in (re.fullmatch(r"tg(\d+)(?:@d(\d+))?", name) for name in names) if match]
    longest_first = sorted(parsed, key=lambda match: (int(match[2] or 0), -int(match[1])))
    points = {int(match[2] or 0): match[0] for match in reversed(longest_first)}
    return tuple(DepthPoint(depth=depth, tokens_per_s=speed(measurement, points[depth])) for depth in sorted(points))


def sustained_curve(measurement: Measurement) -> tuple[CurvePoint, ...]:
    """Decode speed in each window of about a second of the sustained run, in order."""
    windows = sorted(timed(measurement, SUSTAINED), key=lambda sample: sample.started_s)
    return tuple(
        CurvePoint(at_s=window.started_s - windows[0].started_s, tokens_per_s=window.tokens / window.elapsed_s)
        for window in windows
    )


def sustained_speed(measurement: Measurement) -> Figure:
    """Median decode speed of the tenth minute of the sustained run, with its 90 % range.

    Neighbouring windows resemble each other, so each six seconds count as one group.
    """
    curve = sustained_curve(measurement)
    if not curve:
        return Unknown(reason="`sustained` was not run", settle="edgekit bench MODEL --sustained 10m")
    if curve[-1].at_s < 0.98 * SUSTAINED_AFTER_S:
        ran = f"{curve[-1].at_s:.0f} s of ten minutes"
        return Unknown(reason=f"the sustained run lasted {ran}", settle="edgekit bench MODEL --sustained 10m")
    last = [point for point in curve if SUSTAINED_AFTER_S - 60 <= point.at_s <= SUSTAINED_AFTER_S]
    groups = [[p.tokens_per_s for p in part] for _, part in groupby(last, key=lambda point: point.at_s // 6)]
    return _median_figure(measurement, groups, "windows of the tenth minute", "the tenth minute has no window")


def summarize(measurement: Measurement) -> tuple[SpeedSummary, ...]:
    """A summary for each test, in the order the tests first ran."""
    tests = dict.fromkeys(sample.test for sample in measurement.samples if not sample.warmup)
    return tuple(_summarize_test(measurement, test) for test in tests if timed(measurement, test))


def _summarize_test(measurement: Measurement, test: str) -> SpeedSummary:
    samples = timed(measurement, test)
    rates = [sample.tokens / sample.elapsed_s for sample in samples]
    return SpeedSummary(
        test=test,
        repetitions=len(samples),
        processes=len({sample.process for sample in samples}),
        tokens_per_s=speed(measurement, test),
        mean_tokens_per_s=mean(rates),
        sd_tokens_per_s=stdev(rates) if len(rates) > 1 else 0.0,
    )
