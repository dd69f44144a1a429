"""The fitted model of CPU speed: what published runs say about a run that nobody has made.

A run's rate is weights per second, in bytes for decode and in multiply-adds for prefill. Its logarithm is linear in a
few features (a constant, the model's size, the share of each kind of weight block) with coefficients that differ by
kernel family and by device. `benchmarks/fit_projection.py` learns from the published runs how large these differences
are and what is typical of each family; `edgekit/data/projection.json` holds the result. Here a device's own runs
update it: conditioning a Gaussian (a mixed model's best linear unbiased prediction, Henderson 1975; the same algebra
is kriging), so that the anchor nearest in type and size weighs most and none at all leaves the family's own range.

Plain Python: a device has at most some hundred anchors.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from operator import mul
from typing import Any

KINDS: tuple[str, ...] = ("f16", "q8_0", "q6_k", "q5_k", "q5_0", "q4_k", "q4_0", "iq4", "q3_k", "q2_k", "iq3", "iq2")
"""Tensor types whose kernels cost about the same per byte, named by their commonest member."""

_KIND_OF: dict[str, str] = {
    "f32": "f16", "f16": "f16", "bf16": "f16", "q8_0": "q8_0", "q6_k": "q6_k", "q5_k": "q5_k", "q5_0": "q5_0",
    "q5_1": "q5_0", "q4_k": "q4_k", "q4_0": "q4_0", "q4_1": "q4_0", "iq4_nl": "iq4", "iq4_xs": "iq4", "q3_k": "q3_k",
    "q2_k": "q2_k", "iq3_s": "iq3", "iq3_xxs": "iq3", "iq2_s": "iq2", "iq2_xs": "iq2", "iq2_xxs": "iq2",
}  # fmt: skip

FEATURES: tuple[str, ...] = ("constant", "size", *KINDS)

SIZE_SCALE = 0.1
"""Where the size feature bends, in GB streamed or G weights: per-token overheads matter for the smallest models."""

PREFILL_REFERENCE = 100.0
"""Prefill rates are stated over so many G multiply-adds/s: no profile states what its cores can do."""


def kind_of(tensor_type: str) -> str | None:
    """The kind a ggml type belongs to, None for one that no published run has."""
    return _KIND_OF.get(tensor_type)


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A run, made or asked for. `log_rate` is the natural logarithm of its rate over the device's reference rate
    (theoretical bandwidth for decode); 0 for one asked for. Runs of one `group` share runtime and threads.
    """

    features: tuple[float, ...]
    model: str
    label: str
    group: str
    log_rate: float = 0.0


def features_of(shares: Mapping[str, float], amount: float) -> tuple[float, ...]:
    """The features of a run: `amount` in GB streamed per token (decode) or G weights met per token (prefill), `shares`
    of it in each ggml type.

    Types outside `KINDS` are the caller's to refuse; here they raise KeyError.
    """
    row = dict.fromkeys(KINDS, 0.0)
    for tensor_type, share in shares.items():
        row[_KIND_OF[tensor_type]] += share
    return (1.0, -math.log1p(SIZE_SCALE / amount), *(row[kind] for kind in KINDS))


def amount_of(features: Sequence[float]) -> float:
    """The amount that `features_of` was given."""
    return SIZE_SCALE / math.expm1(-features[1])


def resized(features: Sequence[float], amount: float) -> tuple[float, ...]:
    """The features of the same mix of another amount."""
    return (features[0], -math.log1p(SIZE_SCALE / amount), *features[2:])


@dataclass(frozen=True, slots=True, kw_only=True)
class Prior:
    """What is expected of a device of one kernel family before its own runs are seen.

    `mean` and `covariance` are of the feature coefficients; the variances are of what a run adds to them: its group,
    its model, its model in that quantization, and chance.
    """

    mean: tuple[float, ...]
    covariance: tuple[tuple[float, ...], ...]
    group_constant: float
    group_kinds: float
    model: float
    cell: float
    chance: float


def predict(prior: Prior, anchors: Sequence[Point], target: Point) -> tuple[float, float]:
    """Mean and standard deviation of the target's `log_rate` as one more run would show it, given the anchors."""
    return predict_each(prior, anchors, (target,))[0]


def predict_mean(prior: Prior, anchors: Sequence[Point], targets: Sequence[Point]) -> tuple[float, float]:
    """The same for a run that is one of `targets`, each as likely: the mean and deviation of their mixture."""
    each = predict_each(prior, anchors, targets)
    mean = sum(own for own, _ in each) / len(each)
    return mean, math.sqrt(sum(deviation**2 + (own - mean) ** 2 for own, deviation in each) / len(each))


def predict_each(prior: Prior, anchors: Sequence[Point], targets: Sequence[Point]) -> list[tuple[float, float]]:
    """`predict` for every target."""
    projected = [_times(prior.covariance, anchor.features) for anchor in anchors]
    lower = _cholesky(
        [
            [_covariance(prior, projected[i], anchors[i], anchors[j], same=i == j) for j in range(i + 1)]
            for i in range(len(anchors))
        ]
    )
    surprise = [anchor.log_rate - _dot(prior.mean, anchor.features) for anchor in anchors]
    half_surprise = _forward(lower, surprise)
    found = []
    for target in targets:
        mean = _dot(prior.mean, target.features)
        variance = _covariance(prior, _times(prior.covariance, target.features), target, target, same=True)
        toward = [
            _covariance(prior, row, anchor, target, same=False) for row, anchor in zip(projected, anchors, strict=True)
        ]
        half_toward = _forward(lower, toward)
        mean += _dot(half_toward, half_surprise)
        variance -= _dot(half_toward, half_toward)
        found.append((mean, math.sqrt(max(variance, prior.chance))))
    return found


def _covariance(prior: Prior, projected: Sequence[float], one: Point, other: Point, *, same: bool) -> float:
    total = _dot(projected, other.features)
    if one.group == other.group:
        total += prior.group_constant + prior.group_kinds * _dot(one.features[2:], other.features[2:])
    if one.model == other.model:
        total += prior.model + (prior.cell if one.label == other.label else 0.0)
    return total + (prior.chance if same else 0.0)


def _dot(one: Sequence[float], other: Sequence[float]) -> float:
    return float(sum(map(mul, one, other)))


def _times(matrix: Sequence[Sequence[float]], vector: Sequence[float]) -> list[float]:
    return [_dot(row, vector) for row in matrix]


def _cholesky(lower_half: Sequence[Sequence[float]]) -> list[list[float]]:
    """The lower factor of a positive definite matrix given by its lower half."""
    factor: list[list[float]] = []
    for i, row in enumerate(lower_half):
        done: list[float] = []
        for j in range(i):
            done.append((row[j] - _dot(done, factor[j])) / factor[j][j])  # as far as `done` reaches
        done.append(math.sqrt(row[i] - _dot(done, done)))
        factor.append(done)
    return factor


def _forward(lower: Sequence[Sequence[float]], right: Sequence[float]) -> list[float]:
    """Solve lower · x = right."""
    solution: list[float] = []
    for row, value in zip(lower, right, strict=True):
        solution.append((value - _dot(row[:-1], solution)) / row[-1])
    return solution


# ---- the fitted data ------------------------------------------------------------------------------------------------


@cache
def load_fitted() -> dict[str, Any]:
    """The fitted data file as it lies in the package; see `benchmarks/fit_projection.py` for what each field is."""
    text = files("edgekit").joinpath("data", "projection.json").read_text(encoding="utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def prior_of(table: Mapping[str, Any], family: str) -> Prior:
    """The prior for a kernel family from the `decode` or `prefill` table of the data file; an unseen family gets the
    wider one of any family (`other`).
    """
    row = table["families"].get(family) or table["families"]["other"]
    return Prior(
        mean=tuple(row["mean"]),
        covariance=tuple(tuple(line) for line in row["covariance"]),
        **{name: table["variances"][name] for name in ("group_constant", "group_kinds", "model", "cell", "chance")},
    )


def widen_constant(prior: Prior, variance: float) -> Prior:
    """The prior of a device whose reference rate nobody states: its constant is less certain by `variance`."""
    first = (prior.covariance[0][0] + variance, *prior.covariance[0][1:])
    return replace(prior, covariance=(first, *prior.covariance[1:]))


def model_key(name: str) -> str:
    """One name for models of one shape under several names: a distilled copy keeps its student's layout."""
    plain = name.lower()
    return {"deepseek-r1-distill-qwen-1.5b": "qwen2.5-1.5b", "qwen2-1.5b": "qwen2.5-1.5b"}.get(plain, plain)
