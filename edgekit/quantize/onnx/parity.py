"""Does the export say what the checkpoint says? Compared as distributions of the next token, not as tensors.

An exporter can end normally and have written garbage, so no export is finished before this has passed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.errors import EdgekitError, ExitCode
from edgekit.records import LogitsCheck

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FP32_BOUND = 1e-5
"""Nats, at every position; sound exports differ by 1e-9 in practice."""

QUANTIZED_BOUNDS = {"int8": 0.05, "int8-dynamic": 0.5, "int4": 0.5}
"""On the mean KLD, as a fraction of what a model blind to the context would lose (it would always answer torch's own
average prediction). They tell a damaged graph from a rounded one: what rounding costs is for `edgekit evaluate`.
Where rounding alone costs more (random weights amplify any noise from layer to layer) the graph is held against torch
with weights rounded alike, at `ALIKE_BOUND`."""
ALIKE_BOUND = 0.25
_LEAST_BOUND = 1e-3

DECODED = 4
_PROMPT = 252
_PAST_WINDOW = 64
MAX_WINDOW = 8192
_ROWS = 48


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """The tokens that both sides read, and the positions whose logits are compared."""

    tokens: tuple[int, ...]
    rows: tuple[int, ...]
    decoded: int = DECODED


def make_probe(vocabulary: int, *, context: int, window: int = 0, seed: int = 1) -> Probe:
    """Random tokens: long enough to pass a sliding window, so that a forgotten one shows."""
    import random

    # a window beyond what torch attends to in minutes is not passed: a wrong one is then not seen
    prompt = max(_PROMPT, window + _PAST_WINDOW if 0 < window <= MAX_WINDOW else 0)
    length = max(2 * DECODED, min(prompt + DECODED, context))
    draw = random.Random(seed)  # noqa: S311  (reproducible tokens, no secret)
    tokens = tuple(draw.randrange(vocabulary) for _ in range(length))
    step = max(1, (length - DECODED) // _ROWS)
    rows = sorted({*range(length - DECODED - 1, -1, -step), *range(length - DECODED, length)})
    return Probe(tokens=tokens, rows=tuple(rows))


def compare(
    reference: Path, candidate: Path, *, precision: str, probe: Probe, rounded_alike: bool = False
) -> LogitsCheck:
    """The figures of two `.npy` files of logits, (rows, vocabulary) each. Raises EdgekitError when the shapes differ or
    a logit is not finite, both signs of a broken graph.
    """
    import numpy as np

    ours, torchs = np.load(candidate, mmap_mode="r"), np.load(reference, mmap_mode="r")
    if ours.shape != torchs.shape:
        raise _garbage(f"its logits have the shape {ours.shape} and not {torchs.shape}")
    klds = np.array([divergence(there, here) for there, here in zip(torchs, ours, strict=True)])
    if not np.isfinite(klds).all():
        raise _garbage("its logits are not finite")
    bound = FP32_BOUND
    if precision != "fp32":
        part = ALIKE_BOUND if rounded_alike else QUANTIZED_BOUNDS[precision]
        bound = max(_LEAST_BOUND, part * _blind_loss(torchs))
    agreed = np.mean([there.argmax() == here.argmax() for there, here in zip(torchs, ours, strict=True)])
    return LogitsCheck(
        subject=f"{precision}, torch rounded alike" if rounded_alike else precision,
        positions=len(klds),
        decoded=probe.decoded,
        kld_mean=float(klds.mean()),
        kld_max=float(klds.max()),
        top1_agreement=float(agreed),
        kld_bound=bound,
    )


def divergence(reference: NDArray[np.float32], candidate: NDArray[np.float32]) -> float:
    """KL(softmax(reference) ‖ softmax(candidate)) in nats, in double precision."""
    import numpy as np

    p, q = _log_softmax(reference), _log_softmax(candidate)
    return float(np.sum(np.exp(p) * (p - q)))


def _blind_loss(reference: NDArray[np.float32]) -> float:
    """Mean KLD of the rows' distributions from their average: what the context tells, in nats."""
    import numpy as np

    average = np.mean([np.exp(_log_softmax(row)) for row in reference], axis=0)
    rows = map(_log_softmax, reference)
    return float(np.mean([np.sum(np.exp(row) * (row - np.log(average))) for row in rows]))


def _log_softmax(logits: NDArray[np.float32]) -> Any:
    import numpy as np

    shifted = logits.astype(np.float64) - logits.max()
    return shifted - np.log(np.exp(shifted).sum())


def within_bound(check: LogitsCheck) -> bool:
    """Float32 is held to its bound at every position, a quantized export in the mean."""
    return (check.kld_max if check.subject == "fp32" else check.kld_mean) <= check.kld_bound


def require(check: LogitsCheck) -> None:
    """Raise EdgekitError when `check` is out of its bound."""
    if within_bound(check):
        return
    figure = f"{check.kld_max:.2g} at worst" if check.subject == "fp32" else f"{check.kld_mean:.2g} in the mean"
    raise _garbage(f"KLD from torch is {figure}, the bound is {check.kld_bound:.2g} ({check.subject})")


def _garbage(reason: str) -> EdgekitError:
    return EdgekitError(
        f"the exporter ended normally but its model is wrong, {reason}",
        hint="another exporter may be right: `--exporter dynamo`; nothing was written",
        code=ExitCode.FAIL,
    )
