"""Scores of lm-evaluation-harness with ranges: it gives standard errors for some metrics and none for others."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from edgekit.intervals import share_interval
from edgekit.records import Estimate, Figure, HarnessScore, Unknown
from edgekit.summary import student_interval, student_t_95

_Z_95 = 1.6449
_MOST_NATS = 690.0
"""e⁶⁹⁰ is about the largest float."""

_NO_METRIC = ("alias", "name", "sample_len", "sample_count")
_BROKEN = Unknown(reason="the artifact gives logits that are no numbers", settle="convert or quantize it anew")


def scores(found: Mapping[str, Any], *, broken: bool) -> Iterator[HarnessScore]:
    """One score for each task, metric and filter in the harness's results, in its order."""
    for task, metrics in found["results"].items():
        samples = (found.get("samples") or {}).get(task, [])
        for key, value in metrics.items():
            metric, _, extracted = key.partition(",")
            if key in _NO_METRIC or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            each = [row[metric] for row in samples if row.get("filter") == extracted and metric in row]
            error = metrics.get(f"{metric}_stderr,{extracted}")
            yield HarnessScore(
                task=task,
                metric=metric,
                filter=extracted,
                items=len(each) or int(metrics.get("sample_len") or 0),
                value=figure_of(float(value), each, error) if not broken else _BROKEN,
                higher_is_better=((found.get("higher_is_better") or {}).get(task) or {}).get(metric),
                fewshot=int((found.get("n-shot") or {}).get(task) or 0),
                version=_plain((found.get("versions") or {}).get(task)),
            )


def figure_of(value: float, each: Sequence[Any], error: object) -> Figure:
    """A metric's `value` with its 90 % range over the items, taken as independent.

    Where it is the mean of `each` item's own score: Wilson's for right or wrong, else Student's. Where it comes of a
    ratio of two sums, such as a byte perplexity: of the linearized ratio (Cochran, *Sampling Techniques*, §6.4). Else
    ± 1.645 of the harness's own standard `error`. `Unknown`, with the value in the reason, where there is none.
    """
    if not math.isfinite(value):
        return Unknown(reason=f"the harness found `{value}`")
    between = _over_items(value, each)
    if between is not None:
        low, high = between
        return Estimate(value=value, low=min(low, value), high=max(high, value), basis="measured-here")
    if isinstance(error, int | float) and math.isfinite(error) and error > 0:
        note = "± 1.645 of the harness's own standard error"
        half_width = _Z_95 * float(error)
        return Estimate(value=value, low=value - half_width, high=value + half_width, basis="measured-here", note=note)
    return Unknown(reason=f"the harness found `{value:.6g}` and no error of it", settle="more items, or another metric")


def _over_items(value: float, each: Sequence[Any]) -> tuple[float, float] | None:
    """The range of `value` where it can be had of the items' own scores."""
    if len(each) < 2:
        return None
    if all(isinstance(one, int | float) for one in each):
        numbers = [float(one) for one in each]
        if not _same(sum(numbers) / len(numbers), value):
            return None
        if set(numbers) <= {0.0, 1.0}:
            return share_interval(round(sum(numbers)), len(numbers))
        return student_interval(numbers) if len(set(numbers)) > 1 else None
    if all(isinstance(one, tuple | list) and len(one) == 2 for one in each):
        return _over_sums(value, [(float(part), float(weight)) for part, weight in each])
    return None


def _over_sums(value: float, each: Sequence[tuple[float, float]]) -> tuple[float, float] | None:
    """Of the harness's `weighted_perplexity` and `bits_per_byte`: exp(−Σa ÷ Σb), and −Σa ÷ Σb ÷ ln 2."""
    weight = sum(one for _, one in each)
    ratio = -sum(part for part, _ in each) / weight if weight > 0 else math.nan
    shown = next((f for f in (_exponential, _bits) if math.isfinite(ratio) and _same(f(ratio), value)), None)
    if shown is None:
        return None
    residuals = sum((part + ratio * one) ** 2 for part, one in each)
    spread = math.sqrt(residuals * len(each) / (len(each) - 1)) / weight
    half_width = student_t_95(len(each) - 1) * spread
    return (shown(ratio - half_width), shown(ratio + half_width)) if half_width > 0 else None


def _exponential(nats: float) -> float:
    return math.exp(min(nats, _MOST_NATS))


def _bits(nats: float) -> float:
    return nats / math.log(2)


def _same(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-12)


def _plain(value: object) -> str:
    return "" if value is None else json.dumps(value) if not isinstance(value, str) else value
