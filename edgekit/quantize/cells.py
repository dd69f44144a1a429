"""What was measured of a model's sensitivity, and what is concluded for every tensor and type.

A *probe* is a measurement: some tensors in one type, the rest as they were, and the KL divergence that follows, chunk
by chunk. A *cell* is one tensor in one type: its error by the error table and the KLD that it adds, taken from a probe
of itself or extended from one of its like. Both stay in the record, so that it can be told which is which.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import ConfigDict

from edgekit.errors import EdgekitError
from edgekit.header.container import clean
from edgekit.header.ggml import BLOCK
from edgekit.intervals import mean_interval
from edgekit.records import Estimate, Figure, Header, Unknown

MIN_CHUNKS = 3
"""Fewer chunks of text give no range."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """`kld` holds the mean KLD of every chunk, nats per token, above that of the model before the tensors changed.

    `held_out`: no cell rests on it; it only tells how well the others extend.
    """

    tensors: tuple[str, ...]
    type: str
    kld: tuple[float, ...]
    held_out: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """`error` is the mean squared error of the tensor's outputs relative to their mean square, by the importance
    matrix; `kld` the mean KLD it adds, nats per token; `probe` the index of the probe it comes from.
    """

    tensor: str
    type: str
    error: float
    kld: float
    probe: int
    measured: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensitivities:
    """Cells of every tensor and type, with the probes behind them and what they were measured on.

    `point` is empty where single tensors were changed in the full-precision model. Otherwise it names the plan they
    were changed in: `base` is then the KLD of that plan, chunk by chunk, and a cell's `kld` is what it adds to it (less
    than nothing where it is better than the plan's own type).
    """

    kind: Literal["sensitivities"] = "sensitivities"
    version: Literal[1] = 1
    source_sha256: str
    imatrix_sha256: str
    text_sha256: str
    runtime: str
    context_tokens: int
    scored_tokens: tuple[int, ...]
    """Of each chunk."""
    seconds: float
    base: tuple[float, ...]
    point: tuple[tuple[str, str], ...] = ()
    left_out: tuple[str, ...] = ()
    """Types that were asked for and that no tensor can take."""
    probes: tuple[Probe, ...]
    cells: tuple[Cell, ...]
    extension_error: float | None = None
    """Median factor by which extended cells miss held-out probes (1.2: half of them are within 20 %)."""
    extension_correlation: float | None = None
    """Of the logarithms of extended and measured KLD over the held-out probes."""


for _record in (Probe, Cell, Sensitivities):  # as `edgekit.storage` does for the records of the floor
    _record.__pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)  # type: ignore[union-attr]


def check(found: Sensitivities, header: Header) -> None:
    """Raises EdgekitError where the record contradicts itself or is of another model than `header`'s."""
    tensors = {tensor.name: tensor for tensor in header.tensors}
    sound = found.cells and found.base and all(len(probe.kld) == len(found.base) for probe in found.probes)
    for cell in found.cells:
        if cell.tensor not in tensors:
            raise EdgekitError(
                f"the sensitivities are of another model, it has no tensor: `{clean(cell.tensor)}`",
                hint="measure again",
            )
        fits = cell.type in BLOCK and tensors[cell.tensor].shape[0] % BLOCK[cell.type][0] == 0
        sound = sound and fits and 0 <= cell.probe < len(found.probes)
    if not sound:
        raise EdgekitError("the sensitivities contradict themselves", hint="delete their file and measure again")


def total_kld(found: Sensitivities, cells: Iterable[Cell]) -> Figure:
    """KLD of a plan as the sum of its cells, with the 90 % range that the spread over chunks gives; nats per token.

    The range does not cover what the sum itself leaves out: how errors of several tensors add.
    """
    chunks = list(found.base)
    for cell in cells:
        probe = found.probes[cell.probe].kld
        mean = math.fsum(probe) / len(probe)
        if cell.measured or mean == 0:
            shift = cell.kld - mean
            chunks = [total + one + shift for total, one in zip(chunks, probe, strict=True)]
        else:
            chunks = [total + one * cell.kld / mean for total, one in zip(chunks, probe, strict=True)]
    return mean_over_chunks(chunks, "sum of the tensors' parts; the range is of the text, not of the sum")


def mean_over_chunks(chunks: Sequence[float], note: str = "") -> Figure:
    """Mean with its 90 % range over the chunks of the text; never below zero."""
    ends = mean_interval(chunks) if len(chunks) >= MIN_CHUNKS else None
    if ends is None:
        return Unknown(reason=f"too few chunks of text for a range: {len(chunks)}", settle="give a longer text")
    low, value, high = (max(one, 0.0) for one in (ends[0], math.fsum(chunks) / len(chunks), ends[1]))
    return Estimate(value=value, low=min(low, value), high=max(high, value), basis="measured-here", note=note)
